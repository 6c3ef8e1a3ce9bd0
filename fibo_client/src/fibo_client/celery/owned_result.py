"""The result of a task that belongs to whoever started it: several may wait for it, and closing it ends it."""

from __future__ import annotations

import contextlib
import math
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from fibo_client.celery.budget import EACH, Budget
from fibo_client.celery.config import UNSET, Unset, expiry_of
from fibo_client.celery.gather import conclude
from fibo_client.celery.pending import is_final
from fibo_client.celery.protocol.meta import TaskMeta
from fibo_client.celery.result import AsyncResult
from fibo_client.celery.signature import check_signature
from fibo_client.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from types import TracebackType
    from typing import NoReturn, Self

    from fibo_client.celery.jobs import Job
    from fibo_client.celery.pending import Wait
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import SendOptions, Signature

T_co = TypeVar("T_co", covariant=True)


class OwnedTask(AsyncResult[T_co]):
    """A task that belongs to whoever started it, alone or as a part of a flow. Several may wait for it at once.

    Attributes:
        expiry_is_timeout: Whether it carries the deadline that it was started with.
    """

    __slots__ = ("_began", "_job", "expiry_is_timeout")

    _job: Job
    _began: float
    expiry_is_timeout: bool

    def belong_to(self, job: Job, began: float, *, expiry_is_timeout: bool) -> None:
        """Say what it was sent with, and when that began."""
        self._job, self._began, self.expiry_is_timeout = job, began, expiry_is_timeout

    @property
    def job(self) -> Job:
        """What the task was sent with."""
        return self._job

    @property
    def cached(self) -> TaskMeta | None:
        """What was last seen of the task, without asking; None if nothing was."""
        answer = self._job.arrived.get(self.id)
        return answer if isinstance(answer, TaskMeta) else self._meta

    async def get(self, timeout: float | Unset | None = UNSET) -> T_co:
        """Wait for the answer.

        Args:
            timeout: Seconds to wait. UNSET is until the deadline that the task was started with.

        Returns:
            The answer.

        Raises:
            PublishError: It was not sent.
            PublishUnknownError: It may or may not have been sent.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: No answer came in time. The task goes on until `close`, and you may ask again.
            TaskFailedError: The task raised.
            TaskRevokedError: The task was revoked.
            ResultDecodeError: What is stored is not a result, or not what the task should answer.
            ClientStateError: The client, or this result, was closed meanwhile.
        """
        if self.id in self._job.arrived:
            value: T_co = conclude(self._session, self, self._job, self._began)
            return value
        return await super().get(timeout)

    async def updates(self, timeout: float | Unset | None = UNSET) -> AsyncGenerator[TaskMeta, None]:
        """Follow the task's states until it is over. See `AsyncResult.updates`.

        Args:
            timeout: Seconds until the end. UNSET is until the deadline that the task was started with.

        Yields:
            Each new state, with what it carries; the final one last.

        Raises:
            PublishError: It was not sent.
            PublishUnknownError: It may or may not have been sent.
            TooManyPendingError: More results would be waited for than ``max_pending``.
            ResultTimeoutError: The task was not over in time.
            ResultDecodeError: What is stored is not a result.
            ClientStateError: The client, or this result, was closed meanwhile.
        """
        if (known := self.cached) is not None and known.ready:
            yield known
            return
        async with contextlib.aclosing(super().updates(timeout)) as states:
            async for meta in states:
                yield meta

    def learn(self, answer: TaskMeta | Exception) -> None:
        """Remember what was seen of the task, also for `close`."""
        super().learn(answer)
        if is_final(answer):
            self._job.learn(self.id, answer)

    def _enter(self, timeout: float | Unset | None, *, wants_changes: bool = False) -> tuple[Wait, float]:
        session, job, began = self._session, self._job, self._session.check().time()
        left = session.config.seconds(timeout)
        if timeout is UNSET:
            left = None if job.deadline == math.inf else max(0.0, job.deadline - began)
            began = self._began
        return session.enter([self.id], timeout=left, wants_changes=wants_changes, jobs=[job]), began

    def _leave(self, wait: Wait) -> None:
        self._session.leave(wait, [self._job])
        if (answer := wait.arrived.get(self.id)) is not None:  # The caller may be cancelled, and take no note of it.
            self.learn(answer)

    def __reduce__(self) -> NoReturn:
        self._session.__reduce__()


class OwnedResult(OwnedTask[T_co]):
    """A task that belongs to whoever started it with `CeleryClient.start`. Several may wait for it at once.

    Leaving ``async with``, or `close`, ends it: without an answer it is revoked, and with one its stored result is
    deleted.

    Attributes:
        expires_at: When workers will not begin it any more, by the loop's clock. Infinity is never, or not known.
    """

    __slots__ = ("expires_at",)

    def __init__(
        self, session: Session, job: Job, began: float, *, expires_at: float, expiry_is_timeout: bool, **known: Any
    ) -> None:
        super().__init__(session, job.awaits[0], ignored=False, **known)
        self.belong_to(job, began, expiry_is_timeout=expiry_is_timeout)
        self.expires_at: float = expires_at

    def link(self) -> None:
        """Link the current trace span to this task: somebody else awaits it, too."""
        self._job.span.link()

    def close(self) -> None:
        """End it: revoke it if it has no answer, else delete its stored result. Closing twice does nothing more."""
        self._session.end(self._job)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def start_owned(
    session: Session,
    signature: Signature[T_co],
    options: SendOptions,
    *,
    timeout: float | Unset | None,
    retry: bool = False,
    keep_result: bool = False,
    terminate_on_cancel: bool = False,
) -> OwnedResult[T_co]:
    """Start a task that is owned. See `CeleryClient.start`.

    Args:
        session: The client's running parts.
        signature: The task with its arguments.
        options: The options of the call, which win over those of the signature.
        timeout: Seconds until the deadline. UNSET is the client's default, None is no limit.
        retry: Whether to send the message again, until the deadline, if sending fails.
        keep_result: Whether the stored result stays until it expires.
        terminate_on_cancel: Whether to end the task even while it runs, where it is revoked.

    Returns:
        The handle of the task, which must be closed.

    Raises:
        ConfigError: Results are stored where this client cannot read them, or nowhere; nothing was sent.
        MessageError: A worker could not take the message. Nothing was sent.
        TooManyPendingError: More results would be waited for than ``max_pending``; nothing was sent.
        ClientStateError: The client is not open here.
    """
    began = session.check().time()
    seconds = session.config.seconds(timeout)
    defaults, own_expiry = prepare_owned((signature,), options, seconds)
    expires = {**defaults, **signature.options, **options}.get("expires")
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
    return OwnedResult(
        session,
        job,
        began,
        expires_at=began + expires if isinstance(expires, (int, float)) else math.inf,
        expiry_is_timeout=not own_expiry,
        task=signature.task,
        queue=message.template.queue,
        decode=signature.decode,
    )


def prepare_owned(
    signatures: Iterable[Signature[Any]], options: SendOptions, seconds: float | None
) -> tuple[dict[str, Any], bool]:
    """Prepare a call that owns its tasks.

    Args:
        signatures: The tasks.
        options: The options of the call, which gets one more: the results are wanted.
        seconds: The time of the call. None is no limit.

    Returns:
        The default options, and whether somebody says when a task expires.

    Raises:
        MessageError: The result of one is to be ignored.
    """
    says, ignored = "expires" in options, options.get("ignore_result")
    for signature in signatures:
        ignored = options.get("ignore_result", ignored or signature.options.get("ignore_result"))
        says = says or "expires" in signature.options
    if ignored:
        raise MessageError("call waits for the result, so it cannot be ignored; use send or send_many")
    options["ignore_result"] = False
    expires = expiry_of(seconds)
    return {} if expires is None else {"expires": expires}, says


async def prepare_many(
    signatures: Iterable[Signature[Any]], options: SendOptions, seconds: float | None
) -> tuple[dict[str, Any], bool]:
    """Prepare a call that owns many tasks, as `prepare_owned`. The event loop gets its turn now and then.

    Args:
        signatures: The tasks.
        options: As for `prepare_owned`.
        seconds: As for `prepare_owned`.

    Returns:
        As `prepare_owned`.

    Raises:
        TypeError: One of them is no signature.
        MessageError: The result of one is to be ignored.
    """
    defaults: dict[str, Any] = {}
    own_expiry = False
    budget, given = Budget(), options.copy()
    rest = iter(signatures)
    while some := list(islice(rest, EACH)):
        for signature in some:
            check_signature(signature)
        defaults, says = prepare_owned(some, given.copy(), seconds)
        own_expiry = own_expiry or says
        if budget.is_spent(EACH):
            await budget.pause()
    options["ignore_result"] = False
    return defaults, own_expiry
