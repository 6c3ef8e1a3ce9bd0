"""The answers of many calls that are wanted together, each of which may come by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fibo_client.celery.budget import Budget
from fibo_client.errors import ResultTimeoutError

if TYPE_CHECKING:
    import asyncio


class Answers:
    """The answers of many calls, as they come.

    Attributes:
        values: The answers in order, or the errors in their places.
        late: The errors of those that did not come in time, by index.
        failure: The first other error, unless errors stand in the places of answers.
        over: Done when no more is awaited.
    """

    def __init__(self, count: int, over: asyncio.Future[None], *, return_exceptions: bool) -> None:
        self.values: list[Any] = [None] * count
        self.late: dict[int, ResultTimeoutError] = {}
        self.failure: Exception | None = None
        self.over: asyncio.Future[None] = over
        self._missing = count
        self._return_exceptions = return_exceptions

    def receive(self, index: int, answer: Any) -> None:
        """Take an answer."""
        self.values[index] = answer
        self._missing -= 1
        if isinstance(answer, ResultTimeoutError):
            self.late[index] = answer
        elif isinstance(answer, Exception) and not self._return_exceptions:
            self.failure = self.failure or answer
        if (self.failure is not None or not self._missing) and not self.over.done():
            self.over.set_result(None)

    def end(self, index: int, calling: asyncio.Task[Any]) -> None:
        """Take the answer of a call that an asyncio task of its own made."""
        if not calling.cancelled():
            error = calling.exception()
            self.receive(index, calling.result() if error is None else error)

    async def conclude(self, waited: float) -> list[Any]:
        """Give the answers, in order, or raise what ended the wait.

        Args:
            waited: Seconds that it took.

        Returns:
            The answers.

        Raises:
            ResultTimeoutError: Not all came in time, and errors do not stand in the places of answers.
        """
        if self.failure is not None:
            raise self.failure
        if self.late and not self._return_exceptions:
            timed_out = await self._timeout_error(waited)
            raise timed_out
        return self.values

    async def _timeout_error(self, waited: float) -> ResultTimeoutError:
        """Say that time was up for some, and what did come."""
        finished: dict[int, Any] = {}
        task_ids: dict[str, None] = {}
        budget = Budget()
        for index, answer in enumerate(self.values):
            if index in self.late:
                task_ids.update(dict.fromkeys(self.late[index].task_ids))
            else:
                finished[index] = answer
            if budget.is_spent():
                await budget.pause()
        first = self.late[min(self.late)]
        return first.replace(task_ids=list(task_ids), total=len(self.values), finished=finished, waited=waited)
