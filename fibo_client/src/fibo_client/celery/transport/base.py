"""The two contracts that a transport fulfils: a broker that takes messages, and a store that holds results.

A transport raises the errors of `fibo_client.errors` only, and never waits longer than its own limit a command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.celery.protocol.message import Arguments, Moments, TaskMessage
    from fibo_client.celery.transport.weather import Weather
    from fibo_client.telemetry.recorder import Server


class Parcel(NamedTuple):
    """A message, ready to leave.

    Attributes:
        task_id: The id of the task.
        route: Where it goes, in the broker's own terms. Parcels of one route can leave together.
        payload: The bytes.
    """

    task_id: str
    route: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Confirmed:
    """From now on, what is stored under these ids is pushed."""

    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pushed:
    """A result was stored under this id; these are its bytes."""

    task_id: str
    payload: bytes


class Place(NamedTuple):
    """Where a message is in a queue.

    Attributes:
        depth: How many messages wait in the queue, over all priorities.
        ahead: How many of them come before it, as far as that stands still. None if it was not found.
        complete: Whether all of them were looked at.
    """

    depth: int
    ahead: int | None
    complete: bool


class Template(Protocol):
    """Messages for one task with the same options, which are the same up to a few places."""

    def dated(self, moments: Moments) -> Form:
        """Fill in when the tasks may run.

        Args:
            moments: When.

        Returns:
            What is left to be filled in.
        """
        ...


class Form(Protocol):
    """Messages of one call, which are the same up to the task's id, its arguments and what is added for telemetry."""

    def fill(self, task_id: str, nonce: str, arguments: Arguments, more_headers: Mapping[str, Any]) -> Parcel:
        """Turn what differs into bytes. No I/O.

        Args:
            task_id: The task's id.
            nonce: A text that no other message has, for the broker's own use.
            arguments: The task's arguments.
            more_headers: Headers beside those that the messages have in common, with other names; mostly none.

        Returns:
            The parcel, the same however often it is sent.

        Raises:
            MessageError: The message is too large to be sent.
        """
        ...


class Broker(Protocol):
    """Takes task messages to workers, and remote control to and from them."""

    @property
    def server(self) -> Server:
        """Where its server is, for telemetry."""
        ...

    @property
    def weather(self) -> Weather:
        """How its server is doing."""
        ...

    def prepare(self, example: TaskMessage, queue: str) -> Template:
        """Make a template of a message. No I/O.

        Args:
            example: A message with all that does not differ. Nobody could guess its id: it stands for those of the
                messages to come, wherever it is.
            queue: The queue that they go to.

        Returns:
            The template.

        Raises:
            MessageError: The queue's name cannot be one, or the message is too large to be sent.
        """
        ...

    async def publish(self, route: str, parcels: Sequence[Parcel]) -> None:
        """Send parcels of one route, in order, in one command.

        Args:
            route: Where they go.
            parcels: The parcels.

        Raises:
            PublishError: Nothing was sent.
            PublishUnknownError: It may have been sent, or not.
        """
        ...

    async def depth(self, queue: str) -> int:
        """Count the messages that wait in a queue, over all priorities.

        Args:
            queue: The queue's name.

        Returns:
            The number. Messages that workers hold already are not in it.

        Raises:
            TransportError: The broker could not be asked.
        """
        ...

    async def locate(self, queue: str, task_id: str, *, timeout: float) -> Place:
        """Look for a message in a queue, at a bounded cost: in a long one only among the oldest and the newest.

        Args:
            queue: The queue's name.
            task_id: The id of its task.
            timeout: Seconds to look. What was not looked at by then is left.

        Returns:
            Where it is. Messages that workers hold already are in no queue.

        Raises:
            TransportError: The broker could not be asked.
        """
        ...

    async def broadcast(self, request: ControlRequest) -> int:
        """Send a remote control command that asks for no answer.

        Args:
            request: The command.

        Returns:
            How many workers listened.

        Raises:
            TransportError: It could not be sent.
        """
        ...

    async def ask(self, request: ControlRequest, *, timeout: float, limit: int | None = None) -> dict[str, Any]:
        """Send a remote control command and collect the answers.

        Args:
            request: The command.
            timeout: Seconds for all of it. It ends sooner once every worker that listened has answered.
            limit: End after so many answers.

        Returns:
            The answers by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Subscription(Protocol):
    """One connection on which results are pushed. One task reads; any task may add and remove."""

    async def update(self, add: Sequence[str], remove: Sequence[str]) -> None:
        """Change what is subscribed to. The confirmation comes through `receive`.

        Args:
            add: Ids to subscribe to.
            remove: Ids to drop.

        Raises:
            TransportError: The connection is gone. Make a new subscription.
        """
        ...

    async def receive(self) -> Confirmed | Pushed | None:
        """Wait for the next event. A reader that is cancelled meanwhile leaves the connection broken.

        Returns:
            The event, or None for one that says nothing about a result, such as the answer to `ping`.

        Raises:
            TransportError: The connection is gone. Make a new subscription.
        """
        ...

    async def ping(self) -> None:
        """Ask for a sign of life; it comes through `receive`.

        Raises:
            TransportError: The connection is gone.
        """
        ...

    async def abort(self) -> None:
        """Break the connection, so that the task that waits in `receive` learns that it is gone."""
        ...

    async def aclose(self) -> None:
        """Close the connection. Only the task that reads may do so."""
        ...


class ResultStore(Protocol):
    """Holds results until they expire."""

    @property
    def unreadable(self) -> str | None:
        """Why no result can be read here at all, and what to do. None where they can."""
        ...

    @property
    def weather(self) -> Weather:
        """How its server is doing. The broker's own where both are on one server."""
        ...

    async def read_many(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """Read results in one command.

        Args:
            task_ids: The ids.

        Returns:
            For each id its bytes, or None where nothing is stored.

        Raises:
            ReadError: They could not be read.
        """
        ...

    async def delete(self, task_ids: Sequence[str]) -> None:
        """Delete results in one command.

        Args:
            task_ids: The ids.

        Raises:
            TransportError: They may not have been deleted.
        """
        ...

    async def subscribe(self) -> Subscription:
        """Open a connection for pushed results.

        Returns:
            The subscription. Its owner closes it.

        Raises:
            TransportError: No connection could be had.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class Transport(Protocol):
    """Makes the two of what a client is told: `open_redis` does so where nothing else is asked for."""

    def connect(self, config: CeleryConfig) -> tuple[Broker, ResultStore]:
        """Make a broker and a result store for one client, which closes them. No I/O yet.

        Args:
            config: The client's settings.

        Returns:
            The two.

        Raises:
            ConfigError: A setting is wrong.
        """
        ...
