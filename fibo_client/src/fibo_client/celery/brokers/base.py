"""The contract of a broker.

It raises the errors of `fibo_client.errors` only, and never waits longer than its own limit a command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.celery.protocol.message import Arguments, Moments, TaskMessage
    from fibo_client.celery.server_health import ServerHealth
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
    def health(self) -> ServerHealth:
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
