"""The contract of a result backend.

It raises errors of `fibo_client.errors` only, and has a time limit for each command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.server_health import ServerHealth


@dataclass(frozen=True, slots=True)
class Confirmed:
    """From now on, what is stored under these ids is pushed."""

    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pushed:
    """A result was stored under this id; these are its bytes."""

    task_id: str
    payload: bytes


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
        """Wait for the next event. Cancelling this breaks the connection.

        Returns:
            The event, or None for one that says nothing about a result, such as the answer to `ping`.

        Raises:
            TransportError: The connection is gone. Make a new subscription.
        """
        ...

    async def ping(self) -> None:
        """Ask the server to answer. The answer comes through `receive`.

        Raises:
            TransportError: The connection is gone.
        """
        ...

    async def abort(self) -> None:
        """Break the connection, so that `receive` raises."""
        ...

    async def aclose(self) -> None:
        """Close the connection. Only the task that reads may do so."""
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

    async def get_many(self, task_ids: Sequence[str]) -> list[bytes | None]:
        """Read results in one command.

        Args:
            task_ids: The ids.

        Returns:
            For each id its bytes, or None where nothing is stored.

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

    async def put(self, name: str, value: bytes, *, expires: float) -> None:
        """Store something that workers read beside results, such as how many tasks a chord has.

        Args:
            name: Celery's name for it, without a prefix: ``celery-taskset-meta-<id>.s``.
            value: What to store.
            expires: Seconds that it is kept.

        Raises:
            TransportError: It may not have been stored.
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
