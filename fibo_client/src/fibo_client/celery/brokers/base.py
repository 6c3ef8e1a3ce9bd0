"""The contract of a broker.

It raises errors of `fibo_client.errors` only, and has a time limit for each command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.server_health import ServerHealth
    from fibo_client.errors import PublishError, PublishUnknownError
    from fibo_client.telemetry.tracer import Server


ALWAYS_FITS: Final = 64 * 1024
"""Every broker takes a message whose body has so many bytes."""


class Sender(Protocol):
    """Whoever publishes. It is told from within the event loop, and not before `Broker.publish` has returned."""

    def sent(self, messages: Sequence[TaskMessage]) -> None:
        """Learn that the broker has taken messages."""
        ...

    def failed(self, messages: Sequence[TaskMessage], error: PublishError | PublishUnknownError) -> None:
        """Learn that it has not, or that this is not known.

        Args:
            messages: The messages.
            error: PublishError if they were certainly not sent, or were refused or returned; PublishUnknownError if
                that is not known.
        """
        ...


class Place(NamedTuple):
    """Where a message is in a queue.

    Attributes:
        depth: How many messages wait in the queue, over all priorities.
        ahead: How many of them come before it, at the moment of the look. None if it was not found.
        complete: Whether the search looked at all of them.
    """

    depth: int
    ahead: int | None
    complete: bool


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

    @property
    def unusable(self) -> str | None:
        """Why nothing can be sent or asked here at all, and what to do. None where it can."""
        ...

    @property
    def last_priority(self) -> int:
        """The priority that is served last."""
        ...

    def check(self, message: TaskMessage) -> None:
        """Check that a message can be published at all, where its body has more than `ALWAYS_FITS`. No I/O.

        Args:
            message: The message.

        Raises:
            MessageError: It cannot, for example because it is too large.
        """
        ...

    @property
    def ready(self) -> bool:
        """Whether `publish` can send at once."""
        ...

    async def prepare(self) -> None:
        """Become ready: connect, or find the connection well.

        Raises:
            TransportError: The broker cannot be reached; nothing was sent.
        """
        ...

    def publish(self, messages: Sequence[TaskMessage], sender: Sender) -> None:
        """Publish messages. The broker must be `ready`. Nothing is waited for.

        Args:
            messages: The messages; at least one.
            sender: Is told what becomes of each, in any order.
        """
        ...

    def keep_alive(self) -> None:
        """See that idle connections are well, or find out that they are not. Somebody waits. No I/O is waited for."""
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
        """Find a message in a queue. In a long queue, only the oldest and the newest messages are looked at.

        Args:
            queue: The queue's name.
            task_id: The id of its task.
            timeout: Seconds to look. The search ends then, complete or not.

        Returns:
            Where it is. Messages that workers hold already are in no queue.

        Raises:
            TransportError: The broker could not be asked.
        """
        ...

    async def broadcast(self, request: ControlRequest) -> int | None:
        """Send a remote control command that asks for no answer.

        Args:
            request: The command.

        Returns:
            How many workers listened. None where the broker does not count them.

        Raises:
            TransportError: It could not be sent, or the broker has no remote control.
        """
        ...

    async def ask(self, request: ControlRequest, *, timeout: float, limit: int | None = None) -> dict[str, Any]:
        """Send a remote control command and collect the answers.

        Args:
            request: The command.
            timeout: Seconds for all of it. It ends sooner once every worker that listened has answered, where the
                broker counts them.
            limit: End after this many answers.

        Returns:
            The answers by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
