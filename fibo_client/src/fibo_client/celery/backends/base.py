"""The contract of a result backend.

It raises errors of `fibo_client.errors` only, and has a time limit for each command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.server_health import ServerHealth
    from fibo_client.errors import ResultTooLargeError, TransportError


Stored: TypeAlias = Union[bytes, "ResultTooLargeError", None]
"""What is stored under an id: the bytes, None, or an error in the place of what is too large."""


class Subscriber(Protocol):
    """Whoever subscribes. It is told at once, from within the event loop."""

    def pushed(self, task_id: str, payload: bytes) -> None:
        """Take what was stored under an id just now."""
        ...

    def subscribed(self, task_ids: Sequence[str], stored: Sequence[Stored] | None) -> None:
        """Learn that ids are subscribed to.

        Args:
            task_ids: The ids.
            stored: What was stored under them then, so that nothing falls between. None is that nobody could look: read
                them now.
        """
        ...

    def lost(self, error: TransportError) -> None:
        """Learn that nothing is pushed any more, or that the server refuses to. Make a new subscription."""
        ...


class Subscription(Protocol):
    """Has results pushed, over one connection."""

    def update(self, add: Sequence[str], remove: Sequence[str], *, look: bool) -> None:
        """Change what is subscribed to. Nothing is waited for: the subscriber is told.

        Args:
            add: Ids to subscribe to.
            remove: Ids to drop.
            look: Whether to read as well what is stored of those that are added, once they are subscribed to. Of tasks
                that were not sent just now, that may be more than a server takes on a subscribed connection.

        Raises:
            TransportError: The connection is gone.
        """
        ...

    def abort(self) -> None:
        """Break the connection."""
        ...


class Backend(Protocol):
    """Holds results until they expire."""

    @property
    def unreadable(self) -> str | None:
        """Why no result can be read here, and what to do. None if results can be read."""
        ...

    @property
    def health(self) -> ServerHealth:
        """How its server is doing. The broker's own where both are on one server."""
        ...

    async def get_many(self, task_ids: Sequence[str]) -> list[Stored]:
        """Read results in one command.

        Args:
            task_ids: The ids.

        Returns:
            For each id its bytes, None where nothing is stored, or an error in the place of what is too large.

        Raises:
            ReadError: They could not be read.
        """
        ...

    async def delete_many(self, task_ids: Sequence[str]) -> None:
        """Delete results in one command.

        Args:
            task_ids: The ids.

        Raises:
            TransportError: They may not have been deleted.
        """
        ...

    async def put_many(self, values: Mapping[str, bytes], *, expires: float) -> None:
        """Store what workers read beside results, such as how many tasks a chord has, all of it in one go.

        Args:
            values: What to store, by Celery's names without a prefix: ``celery-taskset-meta-<id>.s``.
            expires: Seconds that it is kept.

        Raises:
            TransportError: It may not have been stored.
        """
        ...

    async def get(self, name: str) -> bytes | None:
        """Read what workers or `put_many` stored beside results.

        Args:
            name: Celery's name for it, as for `put_many`.

        Returns:
            What is stored; None if nothing is.

        Raises:
            ReadError: It could not be read.
        """
        ...

    async def discard(self, names: Sequence[str]) -> None:
        """Delete what workers or `put_many` stored beside results.

        Args:
            names: Celery's names, as for `put_many`.

        Raises:
            TransportError: It may not have been deleted.
        """
        ...

    async def subscribe(self, subscriber: Subscriber) -> Subscription:
        """Open a connection for pushed results.

        Args:
            subscriber: Who is told.

        Returns:
            The subscription. Its owner aborts it.

        Raises:
            TransportError: No connection could be had.
        """
        ...

    def keep_alive(self) -> None:
        """See that idle connections are well, or find out that they are not. Somebody waits. No I/O is waited for."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
