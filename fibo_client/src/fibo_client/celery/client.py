"""The general async Celery client: send tasks by name, await their results, ask the workers."""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, cast, overload

from fibo_client.celery.as_completed import as_completed
from fibo_client.celery.budget import free
from fibo_client.celery.bulk import call_many, send_many
from fibo_client.celery.calls import Calls
from fibo_client.celery.chunk import check_chunk_size, check_chunkable
from fibo_client.celery.collecting import as_completed as flows_as_completed
from fibo_client.celery.collecting import check_results
from fibo_client.celery.collecting import gather as gather_flows
from fibo_client.celery.config import UNSET, CeleryConfig, Unset
from fibo_client.celery.connect import check_transport, connect
from fibo_client.celery.diagnose import diagnose, diagnose_flow
from fibo_client.celery.flow_results import FlowResult, from_tuple
from fibo_client.celery.flows import call_flow, read_group, send_flow
from fibo_client.celery.gather import conclude, gather, look, look_at_metas
from fibo_client.celery.inspect import Inspect, WorkerInfo
from fibo_client.celery.outcome import has_expired, value_of
from fibo_client.celery.owned_flow import start_flow
from fibo_client.celery.owned_result import OwnedResult, prepare_owned, start_owned
from fibo_client.celery.pending import is_final
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.remote_tasks import RemoteTask, bind
from fibo_client.celery.result import AsyncResult, check_handle, check_handles, handle_of, ids_of, revoke
from fibo_client.celery.session import Session
from fibo_client.celery.signature import Flow, Signature, check_signature, is_flow
from fibo_client.celery.stream import Stream
from fibo_client.errors import MessageError, ResultTimeoutError, TaskRevokedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self, Unpack

    from fibo_client.celery.config import ConfigOverrides
    from fibo_client.celery.connect import Transport
    from fibo_client.celery.diagnosis import Diagnosis
    from fibo_client.celery.flow_results import GroupResult
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.celery.signature import Sendable, SendOptions, Startable
    from fibo_client.celery.stats import ClientStats
    from fibo_client.errors import FiboError

R = TypeVar("R")
T = TypeVar("T")
H = TypeVar("H", bound="AsyncResult[Any] | FlowResult[Any]")


class CeleryClient:
    """An async client of Celery workers.

    Args:
        broker_url: Where tasks are sent. None is ``CELERY_BROKER_URL``, else ``redis://localhost:6379/0``.
        result_backend: Where results are stored. None is ``CELERY_RESULT_BACKEND``, else the broker's URL.
        config: Settings, in place of the environment's. The other arguments win over it.
        transport: What to talk through. None is what the URLs name; in tests it is a `fibo_client.testing.FakeCelery`.
        **overrides: Single settings: the fields of `CeleryConfig`.

    Attributes:
        config: The settings.
        last_priority: The priority that the broker serves last: 9 over Redis, unless its priority steps say otherwise.

    Raises:
        ConfigError: A URL or a setting is wrong.
    """

    def __init__(
        self,
        broker_url: str | None = None,
        result_backend: str | None = None,
        *,
        config: CeleryConfig | None = None,
        transport: Transport | None = None,
        **overrides: Unpack[ConfigOverrides],
    ) -> None:
        self.config: CeleryConfig = CeleryConfig.resolve(config, broker_url, result_backend, overrides)
        if transport is not None:
            check_transport(transport)
        drivers = connect(self.config) if transport is None else transport.connect(self.config)
        self._session: Session = Session(self.config, *drivers)
        self.last_priority: int = self._session.broker.last_priority

    async def open(self) -> Self:
        """Open the client on the present event loop, where there is no `async with`. No connection is made yet.

        Returns:
            The client.

        Raises:
            ClientStateError: It was opened before.
        """
        await self._session.open()
        return self

    async def aclose(self) -> None:
        """Close the client. Calls in flight end with ClientStateError, or with PublishError or PublishUnknownError.

        What was read is deleted, and what is unanswered is revoked. That takes at most `io_timeout` and two seconds, or
        five seconds where a server is silent; what is left expires. Closing twice does nothing more. Closing goes
        on although its caller is cancelled.

        Raises:
            ClientStateError: It runs on another event loop.
        """
        await self._session.aclose()

    if not TYPE_CHECKING:  # A type checker refuses `with` by itself.

        def __enter__(self) -> NoReturn:
            raise TypeError("use `async with`, in a coroutine: a plain `with` cannot close the client")

        def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def check(self) -> None:
        """Check that the client can be used here and now. No I/O.

        Raises:
            ClientStateError: It is not open, runs on another event loop, or is a forked copy of the parent's.
        """
        self._session.check()

    def check_results(self) -> None:
        """Check that results can be asked for at all. No I/O.

        Raises:
            ConfigError: They are stored where this client cannot read them, or nowhere.
        """
        self._session.check_readable()

    # Handing work out.

    async def send(
        self,
        flow: Sendable[T],
        *,
        retry: bool = False,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[SendOptions],
    ) -> T:
        """Send a task, a chain, a group or a chord, and return its handle.

        The tasks are handed out: nothing that happens here revokes them.

        Args:
            flow: The task with its arguments, such as ``add(2, 3)`` of a `RemoteTask`; or what `chain`, `group`,
                `chord` or ``|`` made of such.
            retry: Whether to send the message again, until the timeout, if sending fails. The task may then run twice.
            timeout: Seconds that sending may take. UNSET is the client's default, None is no limit.
            **options: See `SendOptions`. They win over those of a task alone. Of a chain, a group or a chord each step
                has them, unless it says otherwise.

        Returns:
            An `AsyncResult` of a task, or a `ChainResult`, a `GroupResult` or a `ChordResult`.

        Raises:
            TypeError: It is none of these.
            MessageError: A worker could not take the message. Nothing was sent.
            PublishError: It was not sent.
            PublishUnknownError: It may or may not have been sent. The error carries the task's id.
            ClientStateError: The client is not open here.
        """
        began = self._session.check().time()
        seconds = self._session.config.seconds(timeout)
        signature: Any = flow
        if is_flow(flow):
            handle: T = await send_flow(self._session, flow, options, timeout=seconds, retry=retry, began=began)
            return handle
        check_signature(signature)
        if self._session.routes is not None:
            signature = self._session.routes.apply(signature, options)
        span = self._session.start_send(signature, options, batch=False)
        message = self._session.encoder.one(signature, options, span)
        await self._session.publish([message], span, timeout=seconds, retry=retry, began=began)
        return cast("T", handle_of(self._session, message, signature, handed_out=True))

    @overload
    async def send_task(
        self,
        task: RemoteTask[..., R],
        args: Sequence[Any] = ...,
        kwargs: dict[str, Any] | None = ...,
        *,
        retry: bool = ...,
        timeout: float | Unset | None = ...,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R]: ...
    @overload
    async def send_task(
        self,
        task: str,
        args: Sequence[Any] = ...,
        kwargs: dict[str, Any] | None = ...,
        *,
        retry: bool = ...,
        timeout: float | Unset | None = ...,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]: ...
    async def send_task(
        self,
        task: str | RemoteTask[..., Any],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        retry: bool = False,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[Any]:
        """Send a task by its name, as Celery's ``send_task`` does, and return its handle. See `send`.

        Args:
            task: The task's name, or a `RemoteTask`.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            retry: As for `send`.
            timeout: As for `send`.
            **options: As for `send`.

        Returns:
            The handle of the task.

        Raises:
            TypeError: The arguments do not fit the task's parameters, where these are known. Nothing was sent.
            MessageError: A worker could not take the message. Nothing was sent.
            PublishError: It was not sent.
            PublishUnknownError: It may or may not have been sent. The error carries the task's id.
            ClientStateError: The client is not open here.
        """
        if isinstance(task, Signature):
            raise MessageError(f"a signature has its arguments already; write: send({task.task}(...), ...)")
        result: AsyncResult[Any] = await self.send(bind(task, args, kwargs), retry=retry, timeout=timeout, **options)
        return result

    async def send_many(
        self,
        flows: Iterable[Sendable[T]],
        *,
        retry: bool = False,
        timeout: float | Unset | None = UNSET,
        **options: Unpack[SendOptions],
    ) -> list[T]:
        """Send many tasks, chains, groups and chords in as few commands as possible: of one kind or several.

        Args:
            flows: The tasks with their arguments, each with options of its own, such as ``[add(1, 2), ship("anna")]``;
                and what `chain`, `group`, `chord` or ``|`` made of such.
            retry: Whether to send messages again, until the timeout, if sending fails. Tasks may then run twice.
            timeout: Seconds that sending may take. UNSET is the client's default, None is no limit.
            **options: See `SendOptions`; they go for all, and win over those of a task alone. Each step of a flow has
                them, unless it says otherwise. ``task_id`` cannot be among them.

        Returns:
            The handles in order, as `send` gives them.

        Raises:
            TypeError: One of them cannot be sent. Nothing was sent.
            MessageError: A worker could not take one of the messages. Nothing was sent.
            PublishError: Those that the error names were not sent.
            PublishUnknownError: Those that the error names may or may not have been sent.
            ClientStateError: The client is not open here.
        """
        began = self._session.check().time()
        _check_no_id("send_many", options)
        seconds = self._session.config.seconds(timeout)
        given: Any = flows
        return await send_many(self._session, given, options, timeout=seconds, retry=retry, began=began)

    @overload
    def result(self, task_id: str, task: RemoteTask[..., R], *, queue: str | None = ...) -> AsyncResult[R]: ...
    @overload
    def result(self, task_id: str, task: str | None = ..., *, queue: str | None = ...) -> AsyncResult[Any]: ...
    def result(
        self, task_id: str, task: str | RemoteTask[..., Any] | None = None, *, queue: str | None = None
    ) -> AsyncResult[Any]:
        """Make the handle of a task that was sent before, by this client or another. No I/O.

        Args:
            task_id: The task's id.
            task: Its name, for messages, or the `RemoteTask`, whose `decode` then applies.
            queue: The queue that it was sent to, for `diagnose`. None is not known.

        Returns:
            The handle.

        Raises:
            MessageError: The id, or the queue, cannot be one.
        """
        task_id = check_name("task_id", task_id)
        queue = None if queue is None else check_name("queue", queue)
        if isinstance(task, RemoteTask):
            return AsyncResult(self._session, task_id, task=task.name, queue=queue, decode=task.decode)
        return AsyncResult(self._session, task_id, task=task, queue=queue)

    async def group(self, group_id: str) -> GroupResult[Any]:
        """Read which tasks a group has that was saved, by `GroupResult.save` or by Celery's own.

        Args:
            group_id: The group's id.

        Returns:
            The group.

        Raises:
            LookupError: It was not saved, or has expired.
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            MessageError: The id cannot be one.
            ReadError: It could not be read.
            ResultDecodeError: What is stored is no group.
            ClientStateError: The client is not open here.
        """
        return await read_group(self._session, group_id)

    def from_tuple(self, value: object) -> AsyncResult[Any] | GroupResult[Any]:
        """Make the handle of what a task returned that returns an ``AsyncResult`` or a ``GroupResult``. No I/O.

        Args:
            value: What it returned: ``[[id, parent], members or None]``, as Celery's ``as_tuple()`` gives it.

        Returns:
            The handle of the task, or of the group.

        Raises:
            ValueError: It is something else.
        """
        return from_tuple(self._session, value)

    # Collecting.

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
        handles = await check_handles(results)
        answers = await look(self._session, handles)
        return [is_final(answers[handle.id]) for handle in handles]

    async def metas(self, results: Iterable[AsyncResult[Any]]) -> list[TaskMeta]:
        """Look at many tasks, by one read for all: at their states, and at what these carry. It waits for none of them.

        Args:
            results: The handles.

        Returns:
            For each what is stored, in order; where nothing is, its state is ``PENDING``.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            ReadError: The results could not be read.
            ResultDecodeError: What is stored of one of them is not a result.
        """
        return await look_at_metas(self._session, await check_handles(results))

    @overload
    async def gather(
        self,
        results: Iterable[AsyncResult[T] | FlowResult[T]],
        *,
        timeout: float | Unset | None = ...,
        return_exceptions: Literal[False] = ...,
    ) -> list[T]: ...
    @overload
    async def gather(
        self,
        results: Iterable[AsyncResult[T] | FlowResult[T]],
        *,
        timeout: float | Unset | None = ...,
        return_exceptions: bool,
    ) -> list[T | FiboError]: ...
    async def gather(
        self,
        results: Iterable[AsyncResult[T] | FlowResult[T]],
        *,
        timeout: float | Unset | None = UNSET,
        return_exceptions: bool = False,
    ) -> Any:
        """Wait for many tasks, chains, groups and chords together.

        Args:
            results: What `send`, `send_many` or `start` gave.
            timeout: Seconds for all of them. UNSET is the client's default, None is no limit, 0 is one read.
            return_exceptions: Whether to put the error of a task that failed, or gave no answer in time, in the place
                of its answer.

        Returns:
            The answers, in order.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: Not all came in time. The error carries what did; you may ask again.
            TaskFailedError: A task raised. It is raised as soon as it is known.
            TaskRevokedError: A task was revoked or had expired.
            ResultDecodeError: What is stored is not a result.
            ReadError: With ``timeout=0``: the results could not be read.
            PublishError: One that `start` gave was not sent.
            PublishUnknownError: One that `start` gave may or may not have been sent.
            ClientStateError: One that `start` gave, or the client, was closed.
        """
        handles, has_flows = await check_results(results)
        collect = gather_flows if has_flows else gather
        seconds = self._session.config.seconds(timeout)
        return await collect(self._session, handles, timeout=seconds, return_exceptions=return_exceptions)

    async def as_completed(
        self, results: Iterable[H], *, timeout: float | Unset | None = UNSET
    ) -> AsyncGenerator[H, None]:
        """Give tasks, chains, groups and chords that were sent before, as they end.

        ::

            async for result in client.as_completed(results):
                print(await result)

        Args:
            results: What `send`, `send_many` or `start` gave.
            timeout: Seconds for all of them. UNSET is the client's default, None is no limit, 0 is one read.

        Yields:
            Each once it is over; a flow is, too, once one of its tasks has ended badly. Its `get` then answers, or
            raises its error, without asking.

        Raises:
            TypeError: One of them is no handle.
            ConfigError: Results are stored where this client cannot read them, or nowhere.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: Not all ended in time. Those that did were given before.
            ReadError: The results could not be read (with ``timeout=0``; else it is tried until the deadline).
            ClientStateError: The client is not open here, or was closed meanwhile.
        """
        seconds = self._session.config.seconds(timeout)
        handles, has_flows = await check_results(results)
        give = flows_as_completed if has_flows else as_completed
        async with aclosing(give(self._session, handles, timeout=seconds)) as completed:
            async for result in completed:
                yield result
        await free(handles)

    # Owning work.

    @overload
    async def call(
        self,
        task: Flow[R] | RemoteTask[..., R],
        args: Sequence[Any] = ...,
        kwargs: dict[str, Any] | None = ...,
        *,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        keep_result: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> R: ...
    @overload
    async def call(
        self,
        task: str,
        args: Sequence[Any] = ...,
        kwargs: dict[str, Any] | None = ...,
        *,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        keep_result: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> Any: ...
    async def call(
        self,
        task: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        timeout: float | Unset | None = UNSET,
        retry: bool = False,
        keep_result: bool = False,
        terminate_on_cancel: bool = False,
        **options: Unpack[SendOptions],
    ) -> Any:
        """Send a task and wait for its answer. The task is owned by this call.

        It expires shortly after the deadline unless ``expires`` says otherwise, is revoked if the caller is cancelled,
        and its stored result is deleted once it has been read.

        Args:
            task: A `Signature`, which has its arguments; or a chain, a group or a chord, all of which is owned; or the
                task's name, or a `RemoteTask`.
            args: Its positional arguments, with a name or a `RemoteTask`.
            kwargs: Its keyword arguments, likewise.
            timeout: Seconds for all of it. UNSET is the client's default, None is no limit.
            retry: Whether to send the message again, until the timeout, if sending fails. The task may then run twice.
            keep_result: Whether the stored result stays until it expires, for who asks for it by the task's id.
            terminate_on_cancel: Whether to end the task even while it runs, if the caller is cancelled or the client
                closed. Its worker kills the process that runs it, and starts another. Only the prefork pool can; in
                others, the task goes on. Where a task ends in that instant, its process may have begun another one,
                which is killed instead: Celery's guide to workers warns of that. All workers are told, of at most
                100 tasks at once, ten times a second. A timeout ends nothing; the option ``time_limit`` does.
            **options: See `SendOptions`. They win over those of a signature.

        Returns:
            The answer.

        Raises:
            TypeError: The arguments do not fit the task's parameters, where these are known. Nothing was sent.
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            MessageError: A worker could not take the message. Nothing was sent.
            PublishError: It was not sent.
            PublishUnknownError: It may or may not have been sent.
            TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
            ResultTimeoutError: No answer came in time.
            TaskFailedError: The task raised.
            TaskRevokedError: The task was revoked.
            ResultDecodeError: What is stored is not a result, or not what the task should answer.
            ClientStateError: The client is not open here, or was closed meanwhile.
        """
        session = self._session
        began = session.check().time()
        seconds = session.config.seconds(timeout)
        if is_flow(task):
            if args or kwargs:
                raise MessageError("what was composed has its arguments already")
            return await call_flow(
                session,
                task,
                options,
                timeout=seconds,
                retry=retry,
                keep_results=keep_result,
                terminate_on_cancel=terminate_on_cancel,
                began=began,
            )
        signature = bind(task, args, kwargs)
        if session.routes is not None:
            signature = session.routes.apply(signature, options)
        defaults, own_expiry = prepare_owned((signature,), options, seconds)
        span = session.start_send(signature, options, batch=False)
        message = session.encoder.one(signature, options, span, defaults)
        job = session.submit(
            (message,),
            span,
            awaits=(message.id,),
            timeout=seconds,
            retry=retry,
            keep_results=keep_result,
            terminate_on_cancel=terminate_on_cancel,
            began=began,
        )
        try:
            await job.future
        finally:
            session.end(job)
        answer = job.arrived.get(message.id)
        if answer is not None:
            try:
                return value_of(answer, signature.task, signature.decode, message.template.queue)
            except TaskRevokedError as error:
                if own_expiry or not has_expired(error):
                    raise
        handle = handle_of(session, message, signature)
        return conclude(session, handle, job, began, job=job, expiry_is_timeout=not own_expiry)

    @overload
    def start(
        self,
        task: Startable[T],
        *,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        keep_result: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> T: ...
    @overload
    def start(
        self,
        task: RemoteTask[..., R],
        args: Sequence[Any] = ...,
        kwargs: dict[str, Any] | None = ...,
        *,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        keep_result: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> OwnedResult[R]: ...
    @overload
    def start(
        self,
        task: str,
        args: Sequence[Any] = ...,
        kwargs: dict[str, Any] | None = ...,
        *,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        keep_result: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> OwnedResult[Any]: ...
    def start(
        self,
        task: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        timeout: float | Unset | None = UNSET,
        retry: bool = False,
        keep_result: bool = False,
        terminate_on_cancel: bool = False,
        **options: Unpack[SendOptions],
    ) -> Any:
        """Start a task, a chain, a group or a chord that is owned, as by `call`, and that several may await, or follow.

        ::

            async with client.start(resize("dog"), timeout=30) as result:
                async for meta in result.updates():
                    print(meta.state, meta.result)

        What is sent is encoded at once, and leaves in the background. If that fails, the result's ``get`` raises the
        error. Of a flow with thousands of tasks, `call` gives the event loop its turn meanwhile.

        Args:
            task: As for `call`.
            args: As for `call`.
            kwargs: As for `call`.
            timeout: Seconds until the task expires, but for a small margin, and the longest time that is waited by
                default. UNSET is the client's default, None is no limit.
            retry: As for `call`.
            keep_result: As for `call`.
            terminate_on_cancel: As for `call`: when the result is closed without an answer.
            **options: As for `call`.

        Returns:
            An `OwnedResult` of a task, or an `OwnedFlow`, for ``async with``, which closes it.

        Raises:
            TypeError: The arguments do not fit the task's parameters, where these are known. Nothing was sent.
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            MessageError: A worker could not take the message. Nothing was sent.
            TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
            ClientStateError: The client is not open here.
        """
        if isinstance(task, Flow) and not isinstance(task, Signature):
            if args or kwargs:
                raise MessageError("what was composed has its arguments already")
            return start_flow(
                self._session,
                task,
                options,
                timeout=timeout,
                retry=retry,
                keep_results=keep_result,
                terminate_on_cancel=terminate_on_cancel,
            )
        signature: Signature[Any] = bind(task, args, kwargs)
        if self._session.routes is not None:
            signature = self._session.routes.apply(signature, options)
        return start_owned(
            self._session,
            signature,
            options,
            timeout=timeout,
            retry=retry,
            keep_result=keep_result,
            terminate_on_cancel=terminate_on_cancel,
        )

    @overload
    async def call_many(
        self,
        flows: Iterable[Flow[R]],
        *,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        return_exceptions: Literal[False] = ...,
        chunk_size: int = ...,
        keep_results: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> list[R]: ...
    @overload
    async def call_many(
        self,
        flows: Iterable[Flow[R]],
        *,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        return_exceptions: bool,
        chunk_size: int = ...,
        keep_results: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> list[R | FiboError]: ...
    async def call_many(
        self,
        flows: Iterable[Flow[R]],
        *,
        timeout: float | Unset | None = UNSET,
        retry: bool = False,
        return_exceptions: bool = False,
        chunk_size: int = 1,
        keep_results: bool = False,
        terminate_on_cancel: bool = False,
        **options: Unpack[SendOptions],
    ) -> Any:
        """Send tasks, chains, groups and chords, and wait for all their answers. They are owned, as by `call`.

        Args:
            flows: The tasks with their arguments, of one kind or several, each with options of its own; and what
                `chain`, `group`, `chord` or ``|`` made of such.
            timeout: Seconds for all of it. UNSET is the client's default, None is no limit.
            retry: Whether to send messages again, until the timeout, if sending fails. Tasks may then run twice.
            return_exceptions: Whether to put the error of a task that failed, or gave no answer in time, in the place
                of its answer. A flow fails with the first of its tasks that does; the rest of it is revoked.
            chunk_size: The most calls in one message, for tasks that are declared as ``chunkable``: see `stream`. Not
                with flows, which have messages of their own.
            keep_results: Whether the stored results stay until they expire. Not with chunks.
            terminate_on_cancel: As for `call`. It goes for those, too, that are revoked because another one failed.
            **options: See `SendOptions`; they go for all, as with `send_many`. ``task_id`` cannot be among them.

        Returns:
            The answers, in order.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            TypeError: One of them cannot be called. Nothing was sent.
            MessageError: A worker could not take one of the messages. Nothing was sent.
            PublishError: Not all were sent.
            PublishUnknownError: Some may or may not have been sent.
            TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
            ResultTimeoutError: Not all answers came in time. The error carries what did, by index.
            TaskFailedError: A task raised. The others are revoked.
            TaskRevokedError: A task was revoked. The others are revoked too.
            ResultDecodeError: What is stored is not a result, or not what the task should answer.
            ClientStateError: The client is not open here, or was closed meanwhile.
        """
        session = self._session
        began = session.check().time()
        seconds = session.config.seconds(timeout)
        _check_no_id("call_many", options)
        return await call_many(
            session,
            list(flows),
            options,
            timeout=seconds,
            began=began,
            return_exceptions=return_exceptions,
            chunk_size=chunk_size,
            retry=retry,
            keep_results=keep_results,
            terminate_on_cancel=terminate_on_cancel,
        )

    @overload
    def stream(
        self,
        task: RemoteTask[[T], R] | Callable[[T], Flow[R]],
        source: Iterable[T] | AsyncIterable[T],
        *,
        max_in_flight: int | None = ...,
        ordered: bool = ...,
        return_exceptions: Literal[False] = ...,
        chunk_size: int = ...,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> Stream[T, R]: ...
    @overload
    def stream(
        self,
        task: RemoteTask[[T], R] | Callable[[T], Flow[R]],
        source: Iterable[T] | AsyncIterable[T],
        *,
        max_in_flight: int | None = ...,
        ordered: bool = ...,
        return_exceptions: bool,
        chunk_size: int = ...,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> Stream[T, R | Exception]: ...
    @overload
    def stream(
        self,
        task: str,
        source: Iterable[T] | AsyncIterable[T],
        *,
        max_in_flight: int | None = ...,
        ordered: bool = ...,
        return_exceptions: bool = ...,
        chunk_size: int = ...,
        timeout: float | Unset | None = ...,
        retry: bool = ...,
        terminate_on_cancel: bool = ...,
        **options: Unpack[SendOptions],
    ) -> Stream[T, Any]: ...
    def stream(
        self,
        task: Any,
        source: Iterable[Any] | AsyncIterable[Any],
        *,
        max_in_flight: int | None = None,
        ordered: bool = False,
        return_exceptions: bool = False,
        chunk_size: int = 1,
        timeout: float | Unset | None = UNSET,
        retry: bool = False,
        terminate_on_cancel: bool = False,
        **options: Unpack[SendOptions],
    ) -> Any:
        """Call a task for each input of a source that may never end, in bounded memory.

        ::

            async with client.stream(resize, names) as answers:
                async for name, path in answers:
                    ...

        The tasks are owned, as with `call`. With a `chunk_size`, many calls share a message, as Celery's own
        ``celery.starmap``, which makes small tasks many times faster on workers that nobody changed. Only a task that
        is declared as ``chunkable`` is called so. All calls of a chunk fail when one of them raises, and share its time
        limit; the chunk is not sent again.

        Args:
            task: A `RemoteTask`, or a task's name: it gets each input as its only argument. For a task with several
                arguments, a function that makes the call of an input: ``lambda pair: add(*pair)``. It may make a chain,
                a group or a chord of it: ``lambda n: add(n, 1) | add.s(2)``.
            source: The inputs. A plain iterable is pulled on the event loop, so it must not block.
            max_in_flight: The most inputs that have been pulled from the source and not yet been taken from the stream.
                None is 1,000, or eight chunks if these are more. A chain, a group or a chord counts as many as it has
                tasks. One that has more than this waits until no other is in flight, and goes alone.
            ordered: Whether answers come in the order of the source, rather than as they are finished.
            return_exceptions: Whether an input that fails, or cannot be sent, gives its error in place of an answer. If
                not, the first error is raised, with a note that names the input.
            chunk_size: The most calls in one message. 1 is a message for each. Not with flows.
            timeout: Seconds for each input, from when it was pulled and there was room for it. UNSET is the client's
                default, None is no limit.
            retry: Whether to send messages again, until the timeout, if sending fails. Tasks may then run twice.
            terminate_on_cancel: As for `call`, when the stream is closed. A chunk ends with all its calls.
            **options: See `SendOptions`; they go for all, and win over those of the task. ``task_id`` cannot be among
                them.

        Returns:
            An async iterator of pairs of an input and its answer, and an async context manager. Leaving it revokes what
            is unfinished.

        Raises:
            ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
            TypeError: The task, the source, `max_in_flight` or `chunk_size` is of a wrong type, or the task cannot be
                called with one argument.
            ValueError: `max_in_flight` or `chunk_size` is less than 1. MessageError, if an option cannot be sent, or
                the task cannot be called in chunks.
        """
        self.check_results()
        _check_no_id("stream", options)
        check_chunk_size(chunk_size)
        if isinstance(task, Flow):
            raise TypeError("stream takes a function that makes the call of each input: lambda n: add(n, 1) | add.s(2)")
        call = task if callable(task) else partial(_call_of_one, check_name("task", task))
        if isinstance(task, RemoteTask):
            task.check_arguments((None,), {})
        if chunk_size > 1 and isinstance(task, (str, RemoteTask)):
            check_chunkable(task)
        prepare_owned((), options, None)
        calls: Calls[Any] = Calls(
            self._session,
            call,
            options,
            chunk_size=chunk_size,
            retry=retry,
            terminate_on_cancel=terminate_on_cancel,
        )
        return Stream(
            calls,
            source,
            seconds=self.config.seconds(timeout),
            max_in_flight=max(1000, 8 * chunk_size) if max_in_flight is None else max_in_flight,
            ordered=ordered,
            return_exceptions=return_exceptions,
            weigh=calls.make,
        )

    # Asking workers.

    async def revoke(
        self,
        tasks: str | AsyncResult[Any] | Iterable[str | AsyncResult[Any]],
        *,
        terminate: bool = False,
        signal: str = "SIGTERM",
    ) -> int:
        """Tell all workers not to run tasks, or to stop them.

        Args:
            tasks: Handles or ids: one, or many.
            terminate: Whether to end them even while they run, by killing the worker's process.
            signal: The signal for that.

        Returns:
            How many workers heard it, where the broker counts them; else 0. It does not say that they obeyed; the
            states will.

        Raises:
            TransportError: It could not be sent.
        """
        return await revoke(self._session, ids_of(tasks), terminate=terminate, signal=signal)

    async def ping(self, *, destination: Sequence[str] | None = None, timeout: float = 1.0) -> list[WorkerInfo]:
        """Ask which workers are there.

        Args:
            destination: The node names to ask. None is all.
            timeout: Seconds for all of it. It ends sooner once every worker that listens has answered.

        Returns:
            The workers that answered, by name; none where there is no worker.

        Raises:
            TransportError: The broker could not be asked, or fell silent. At the latest a second after the time.
        """
        replies = await self.inspect(destination, timeout=timeout).ping()
        return [WorkerInfo(name) for name in sorted(replies)]

    def inspect(self, destination: Sequence[str] | None = None, *, timeout: float = 1.0) -> Inspect:
        """Ask workers what they do, as Celery's ``app.control.inspect``: ``await client.inspect().active()``.

        Args:
            destination: The node names to ask. None is all.
            timeout: Seconds that all of a question may take.

        Returns:
            The questions, as methods.
        """
        return Inspect(self._session, destination, timeout)

    async def worker_count(self) -> int | None:
        """Count the workers that listen to remote control, by one command: those too busy to answer are among them.

        Returns:
            The number. None where the broker does not count them.

        Raises:
            TransportError: The broker could not be asked.
            ClientStateError: The client is not open here.
        """
        self._session.check()
        return await self._session.broker.broadcast(ControlRequest(method="ping"))

    async def queue_depth(self, queue: str | RemoteTask[..., Any] | None = None) -> int:
        """Count the messages that wait in a queue, over all priorities: for backpressure, or to scale workers by.

        Args:
            queue: The queue's name. None is the client's. A `RemoteTask` is the queue that it goes to, by its own
                options and by ``task_routes``; a function among these is not asked.

        Returns:
            The number. Tasks that workers hold already, and those they run, are not in it.

        Raises:
            MessageError: The queue cannot be one.
            TransportError: The broker could not be asked.
            ClientStateError: The client is not open here.
        """
        self._session.check()
        if queue is None or isinstance(queue, RemoteTask):
            queue = self._session.queue_for(queue)
        return await self._session.broker.depth(check_name("queue", queue))

    def stats(self) -> ClientStats:
        """Count what this client has done so far. It asks nobody and costs next to nothing.

        Returns:
            The numbers, as of now. A closed client still tells them.
        """
        return self._session.stats()

    async def diagnose(
        self, result: AsyncResult[Any] | FlowResult[Any] | ResultTimeoutError, *, timeout: float = 1.0
    ) -> Diagnosis:
        """Find out why a task gives no answer. Print what comes back.

        Args:
            result: The task; or a chain, a group or a chord, of which that task is meant that is waited for, or that
                ended badly; or the error that says that there was no answer, of whose tasks the first is meant.
            timeout: Seconds for each step: a look at the queue, two rounds of questions to the workers, and a look at
                the result; then, if the task was nowhere, two more rounds and another look. The first step that gets
                no answer from the broker is the last.

        Returns:
            What is known of the task, its queue and the workers; its `cause` is one of `Cause`.

        Raises:
            TransportError: The broker could not be asked.
            ResultDecodeError: What is stored is not a result.
        """
        if isinstance(result, FlowResult):
            return await diagnose_flow(self._session, result.whole, timeout=timeout)
        sent, step = False, None
        if isinstance(result, ResultTimeoutError):
            sent, step = bool(result.published), result.step
            result = AsyncResult[Any](
                self._session, result.task_ids[0], task=result.task, queue=result.queue, ignored=result.ignored
            )
        check_handle(result)
        return await diagnose(self._session, result, timeout=timeout, sent=sent, step=step)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._session.broker!r} {self._session.backend!r}>"


def _check_no_id(verb: str, options: SendOptions) -> None:
    if "task_id" in options:
        raise MessageError(f"{verb} makes an id for each task; choose one by with_options(task_id=...)")


def _call_of_one(task: str, value: Any) -> Signature[Any]:
    """Make the call of a task that is known by its name alone."""
    return Signature(task, (value,))
