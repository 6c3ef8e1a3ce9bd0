"""Remote control questions to workers, by the names of Celery's ``app.control.inspect``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.result import ids_of
from fibo_client.text import dataclass_repr, listed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.session import Session

Replies = dict[str, Any]
"""Each worker's answer, by its node name."""


@dataclass(frozen=True, slots=True, repr=False)
class WorkerInfo:
    """A worker that answered.

    Attributes:
        name: Its node name, such as ``celery@host``.
    """

    name: str

    def __repr__(self) -> str:
        return dataclass_repr(self)


class Inspect:
    """Questions to all workers, or to some. Each is one broadcast.

    A question ends when every listening worker has answered, at the latest after its timeout. Busy workers answer, too,
    unless their pool is ``solo``.
    """

    def __init__(self, session: Session, destination: Sequence[str] | None, timeout: float) -> None:
        self._session = session
        self._destination = destination
        self._timeout = timeout

    def __repr__(self) -> str:
        asked = "all workers" if self._destination is None else listed(self._destination, printable)
        return f"<Inspect {asked}, within {self._timeout:g} s>"

    async def ping(self) -> Replies:
        """Ask for a sign of life.

        Returns:
            ``{"ok": "pong"}`` by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("ping")

    async def active(self, *, safe: bool = False) -> Replies:
        """Ask which tasks are running.

        Args:
            safe: Whether to get the arguments as logs show them (``argsrepr``), and not the arguments themselves.

        Returns:
            Lists of tasks by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("active", safe=safe)

    async def reserved(self) -> Replies:
        """Ask which tasks workers have taken but do not run yet.

        Returns:
            Lists of tasks by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("reserved")

    async def scheduled(self) -> Replies:
        """Ask which tasks workers hold for later (``eta`` and ``countdown``).

        Returns:
            Lists of tasks by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("scheduled")

    async def registered(self, *taskinfoitems: str) -> Replies:
        """Ask which tasks workers know, and how they are declared.

        Args:
            *taskinfoitems: Attributes of tasks to ask for, such as ``ignore_result``. Without any, workers report
                ``exchange``, ``routing_key`` and ``rate_limit``, which most tasks do not set.

        Returns:
            Lists of task names by node name, such as ``proj.add [ignore_result=True]`` for a task that sets an
            attribute.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("registered", taskinfoitems=taskinfoitems)

    async def stats(self) -> Replies:
        """Ask for statistics.

        Returns:
            Statistics by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("stats")

    async def active_queues(self) -> Replies:
        """Ask which queues workers take tasks from.

        Returns:
            Lists of queues by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("active_queues")

    async def query_task(self, *tasks: str | AsyncResult[Any] | Iterable[str | AsyncResult[Any]]) -> Replies:
        """Ask which workers hold tasks.

        Args:
            *tasks: Handles or ids, one by one or in a list.

        Returns:
            ``{task_id: [state, task]}`` by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("query_task", ids=[task_id for each in tasks for task_id in ids_of(each)])

    async def conf(self) -> Replies:
        """Ask for the workers' settings. Celery masks those that look like secrets.

        Returns:
            Settings by node name.

        Raises:
            TransportError: The broker could not be asked.
        """
        return await self._ask("conf", with_defaults=False)

    async def _ask(self, method: str, **arguments: Any) -> Replies:
        self._session.check()
        limit = None if self._destination is None else len(self._destination)
        request = ControlRequest(method=method, arguments=arguments, destination=self._destination)
        return await self._session.broker.ask(request, timeout=self._timeout, limit=limit)


def queue_names(queues: Any) -> set[str]:
    """Read the names of the queues in one worker's answer to `Inspect.active_queues`; none if it is malformed."""
    if not isinstance(queues, list):
        return set()
    return {each["name"] for each in queues if isinstance(each, dict) and isinstance(each.get("name"), str)}


def task_names(registered: Any) -> set[str]:
    """Read the names of the tasks in one worker's answer to `Inspect.registered`; none if it is malformed."""
    if not isinstance(registered, list):
        return set()
    # A task that sets attributes is listed as "name [rate_limit=...]".
    return {each.split(" ", 1)[0] for each in registered if isinstance(each, str)}
