"""Fibonacci numbers from a Celery worker, awaited."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from fibo_client.batching.chunk import BatchOptions
from fibo_client.batching.concurrent import Batcher, NumberRequests
from fibo_client.batching.many import compute_many
from fibo_client.celery.client import CeleryClient
from fibo_client.celery.config import UNSET, Unset
from fibo_client.celery.protocol.options import check_name, check_priority
from fibo_client.celery.stream import Stream
from fibo_client.config import FiboConfig
from fibo_client.contract import FIBO_TASK, FIBONACCI, SQRT_TASK, check_chunk_size, check_sqrt
from fibo_client.validation import check_index, check_indexes

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable
    from types import TracebackType
    from typing import Self, Unpack

    from fibo_client.celery.connect import Transport
    from fibo_client.celery.remote_tasks import RemoteTask
    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.signature import Signature
    from fibo_client.celery.stats import ClientStats
    from fibo_client.config import FiboOverrides
    from fibo_client.errors import FiboError

__all__ = ["FiboClient"]

R = TypeVar("R")


class FiboClient:
    """An async client of a Fibonacci worker.

    ::

        async with FiboClient("redis://localhost:6379/0") as client:
            print(await client.fibonacci_many([4, 3, 8, 6, 10], timeout=5))

    Args:
        broker_url: Where tasks are sent. None is ``CELERY_BROKER_URL``, else ``redis://localhost:6379/0``.
        result_backend: Where results are stored. None is ``CELERY_RESULT_BACKEND``, else the broker's URL.
        config: Settings, in place of the environment's. The other arguments win over it.
        transport: What to talk through. None is what the URLs name; in tests it is a `fibo_client.testing.FakeFibo`.
        **overrides: Single settings: the fields of `FiboConfig`.

    Attributes:
        celery: The general Celery client underneath.
        config: The settings.

    Raises:
        ConfigError: A URL or a setting is wrong.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        result_backend: str | None = None,
        *,
        config: FiboConfig | None = None,
        transport: Transport | None = None,
        **overrides: Unpack[FiboOverrides],
    ) -> None:
        self.config: FiboConfig = FiboConfig.resolve(config, broker_url, result_backend, overrides)
        self.celery: CeleryClient = CeleryClient(config=self.config, transport=transport)
        self._batcher = Batcher(self.celery, self.config.chunk_size)

    async def open(self) -> Self:
        """Open the client on the present event loop, where there is no `async with`. No connection is made yet.

        Returns:
            The client.

        Raises:
            ClientStateError: It was opened before.
        """
        await self.celery.open()
        return self

    async def aclose(self) -> None:
        """Close the client. Calls in flight end with ClientStateError, or with PublishError or PublishUnknownError.

        What was read is deleted, and what is unanswered is revoked. That takes at most `io_timeout` and two seconds, or
        five seconds where a server is silent; what is left expires. Closing twice does nothing more. Closing goes
        on although its caller is cancelled.

        Raises:
            ClientStateError: It runs on another event loop.
        """
        await self.celery.aclose()

    def stats(self) -> ClientStats:
        """Count what this client has done so far. It asks nobody and costs next to nothing.

        Returns:
            The numbers of `celery`, as of now.
        """
        return self.celery.stats()

    if not TYPE_CHECKING:  # A type checker refuses `with` by itself.
        __enter__ = CeleryClient.__enter__
        __exit__ = CeleryClient.__exit__

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def fibonacci(
        self,
        n: int,
        *,
        timeout: float | Unset | None = UNSET,
        queue: str | None = None,
        priority: int | None = None,
    ) -> int:
        """Compute F(n). F(0) is 0, F(1) is 1.

        Calls that run concurrently share tasks, and one that asks for a number that is under way shares its answer.
        None of them is disturbed when another one times out or is cancelled.

        Args:
            n: 0 to `max_n`.
            timeout: Seconds for all of it. UNSET is the client's default, None is no limit.
            queue: The queue to send to. None is the client's.
            priority: 0 to 9; over Redis, 0 is served first. None is 0 for a small n, and the last for a large one
                (500,000 and more), which is then begun only when no small one waits.

        Returns:
            The number, exact.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            TypeError: n is not an integer.
            ValueError: n is negative or too large. MessageError, if it is the queue or the priority that is wrong.
            TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
            ResultTimeoutError: No answer came in time.
            TaskFailedError: The worker could not compute it.
            TransportError: The broker could not be reached.
            ClientStateError: The client is not open here.
        """
        number = check_index(n, self.config.max_n)
        seconds = self.config.seconds(timeout)
        self.celery.check()  # Before the loop is asked for: in a forked process there is none.
        loop = asyncio.get_running_loop()
        deadline = math.inf if seconds is None else loop.time() + seconds
        answer: asyncio.Future[int] = loop.create_future()
        request = self._batcher.join(number, self._options(queue, priority), deadline, answer)
        try:
            return await answer
        finally:
            self._batcher.leave(request)

    @overload
    async def fibonacci_many(
        self,
        ns: Iterable[int],
        *,
        timeout: float | Unset | None = ...,
        return_exceptions: Literal[False] = ...,
        chunk_size: int | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
    ) -> list[int]: ...
    @overload
    async def fibonacci_many(
        self,
        ns: Iterable[int],
        *,
        timeout: float | Unset | None = ...,
        return_exceptions: bool,
        chunk_size: int | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
    ) -> list[int | FiboError]: ...
    async def fibonacci_many(
        self,
        ns: Iterable[int],
        *,
        timeout: float | Unset | None = UNSET,
        return_exceptions: bool = False,
        chunk_size: int | None = None,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Any:
        """Compute F(n) for many n, many of them in one task. Equal ones are computed once.

        Args:
            ns: Numbers from 0 to `max_n`, in any order, with or without duplicates.
            timeout: Seconds for all of it. UNSET is the client's default, None is no limit.
            return_exceptions: Whether to put the error of a number that failed in its place. (What cannot be asked for
                is refused all the same, before anything is sent.)
            chunk_size: The most numbers in one task; 1 is one task a number. None is the client's.
            queue: The queue to send to. None is the client's.
            priority: 0 to 9; over Redis, 0 is served first. None is 0 for small n, and the last for large ones
                (500,000 and more), which are then begun only when no small one waits.

        Returns:
            The numbers, exact, in the order of `ns`.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            TypeError: One of them, or `chunk_size`, is not an integer. Nothing was sent.
            ValueError: One of them, or `chunk_size`, is out of range. MessageError, if it is the queue or the priority
                that is wrong. Nothing was sent.
            TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
            ResultTimeoutError: Not all came in time. Its ``finished`` has what did, by index.
            TaskFailedError: The worker could not compute one of them.
            TransportError: The broker could not be reached.
            ClientStateError: The client is not open here.
        """
        return await compute_many(
            self.celery,
            ns,
            self._options(queue, priority),
            max_n=self.config.max_n,
            chunk_size=self.config.chunk_size if chunk_size is None else check_chunk_size(chunk_size),
            timeout=self.config.seconds(timeout),
            return_exceptions=return_exceptions,
        )

    @overload
    def stream(
        self,
        source: Iterable[int] | AsyncIterable[int],
        *,
        max_in_flight: int = ...,
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
        timeout: float | Unset | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
    ) -> Stream[int, int]: ...
    @overload
    def stream(
        self,
        source: Iterable[int] | AsyncIterable[int],
        *,
        max_in_flight: int = ...,
        ordered: bool = ...,
        return_exceptions: bool,
        timeout: float | Unset | None = ...,
        queue: str | None = ...,
        priority: int | None = ...,
    ) -> Stream[int, int | Exception]: ...
    def stream(
        self,
        source: Iterable[int] | AsyncIterable[int],
        *,
        max_in_flight: int = 1000,
        ordered: bool = False,
        return_exceptions: bool = False,
        timeout: float | Unset | None = UNSET,
        queue: str | None = None,
        priority: int | None = None,
    ) -> Any:
        """Compute F(n) for a source of n that may never end, in bounded memory.

        ::

            async with client.stream(range(1_000_000)) as results:
                async for n, value in results:
                    ...

        Args:
            source: Numbers from 0 to `max_n`. A plain iterable is pulled on the event loop, so it must not block.
            max_in_flight: The most numbers that have been pulled from the source and not yet been taken from the
                stream.
            ordered: Whether answers come in the order of the source, rather than as they are finished.
            return_exceptions: Whether a number that fails, or cannot be asked for, gives its error in place of an
                answer. If not, the first error is raised, with a note that names its n.
            timeout: Seconds for each number, from when it was pulled. UNSET is the client's default, None is no limit.
            queue: The queue to send to. None is the client's.
            priority: 0 to 9; over Redis, 0 is served first. None is 0 for small n, and the last for large ones
                (500,000 and more), which are then begun only when no small one waits.

        Returns:
            An async iterator of pairs ``(n, value)``, and an async context manager: leaving it withdraws or revokes
            what is unfinished.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            TypeError: The source or `max_in_flight` is of a wrong type.
            ValueError: `max_in_flight` is less than 1. MessageError, if it is the queue or the priority that is wrong.
        """
        self.celery.check_results()
        options = self._options(queue, priority)._replace(stream=True)
        return Stream(
            NumberRequests(self._batcher, options, self.config.max_n),
            source,
            seconds=self.config.seconds(timeout),
            max_in_flight=max_in_flight,
            ordered=ordered,
            return_exceptions=return_exceptions,
        )

    async def sqrt(self, value: float, *, timeout: float | Unset | None = UNSET) -> float:
        """Compute a square root.

        Args:
            value: A number, 0 or more.
            timeout: Seconds for all of it. UNSET is the client's default, None is no limit.

        Returns:
            The root.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            TypeError: It is not a number.
            ValueError: It is negative, not finite, or too large for a float.
            TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
            ResultTimeoutError: No answer came in time.
            TaskFailedError: The worker could not compute it.
            TransportError: The broker could not be reached.
            ClientStateError: The client is not open here.
        """
        return await self.celery.call(SQRT_TASK(check_sqrt(value)), timeout=timeout, retry=True)

    async def fibo_task(self, n: int, *, timeout: float | Unset | None = UNSET) -> tuple[int, str]:
        """Compute F(n) with the task ``tasks.fibo_task``, which answers a sentence.

        Args:
            n: 0 to `max_n`.
            timeout: Seconds for all of it. UNSET is the client's default, None is no limit.

        Returns:
            n, and a sentence with the task's id and F(n) in decimal digits.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            TypeError: n is not an integer.
            ValueError: n is negative or too large.
            TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
            ResultTimeoutError: No answer came in time.
            TaskFailedError: The worker could not compute it.
            TransportError: The broker could not be reached.
            ClientStateError: The client is not open here.
        """
        return await self.celery.call(FIBO_TASK(check_index(n, self.config.max_n)), timeout=timeout, retry=True)

    @overload
    async def submit(self, n: int) -> AsyncResult[int]: ...
    @overload
    async def submit(self, n: int, *, task: RemoteTask[[int], R]) -> AsyncResult[R]: ...
    async def submit(self, n: int, *, task: RemoteTask[[int], Any] = FIBONACCI) -> AsyncResult[Any]:
        """Send one number to be computed, and return its handle.

        Args:
            n: 0 to `max_n`.
            task: The task that computes it: `FIBONACCI`, or `FIBO_TASK` for a plain worker that hosts only that.

        Returns:
            The handle. Nothing that happens here revokes the task.

        Raises:
            TypeError: n is not an integer.
            ValueError: n is negative or too large.
            TransportError: It was not sent, or it is not known whether it was.
            ClientStateError: The client is not open here.
        """
        result: AsyncResult[Any] = await self.celery.send(task(check_index(n, self.config.max_n)), retry=True)
        return result

    @overload
    async def submit_many(self, ns: Iterable[int]) -> list[AsyncResult[int]]: ...
    @overload
    async def submit_many(self, ns: Iterable[int], *, task: RemoteTask[[int], R]) -> list[AsyncResult[R]]: ...
    async def submit_many(
        self, ns: Iterable[int], *, task: RemoteTask[[int], Any] = FIBONACCI
    ) -> list[AsyncResult[Any]]:
        """Send numbers to be computed, one task each, in as few commands as possible.

        Args:
            ns: Numbers from 0 to `max_n`, with or without duplicates.
            task: The task that computes them: `FIBONACCI`, or `FIBO_TASK` for a plain worker that hosts only that.

        Returns:
            The handles, in order. Nothing that happens here revokes the tasks.

        Raises:
            TypeError: One of them is not an integer. Nothing was sent.
            ValueError: One of them is negative or too large. Nothing was sent.
            TransportError: Some were not sent, or it is not known whether they were.
            ClientStateError: The client is not open here.
        """
        signatures: list[Signature[Any]] = [task(check_index(n, self.config.max_n)) for n in check_indexes(ns)]
        handles: list[AsyncResult[Any]] = await self.celery.send_many(signatures, retry=True)
        return handles

    async def ready(self, results: Iterable[AsyncResult[Any]]) -> list[bool]:
        """Ask which tasks are over, by one read for all. It does not wait for them.

        Args:
            results: The handles.

        Returns:
            For each whether it succeeded, failed or was revoked.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The results could not be read.
        """
        return await self.celery.ready(results)

    def _options(self, queue: str | None, priority: int | None) -> BatchOptions:
        if queue is not None:
            default = queue == self.config.queue and self.config.task_routes is None
            queue = None if default else check_name("queue", queue)
        return BatchOptions(queue, None if priority is None else check_priority(priority))

    def __repr__(self) -> str:
        return f"<FiboClient over {self.celery!r}>"
