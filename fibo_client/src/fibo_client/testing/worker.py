"""A scripted worker: it takes messages from memory, runs plain functions, and stores results as a real one does."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import inspect
import json
import math
import os
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fibo_client.celery.chunk import MAP, STARMAP
from fibo_client.celery.protocol import states
from fibo_client.testing.canvas import Canvas
from fibo_client.testing.messages import SentTask, open_message
from fibo_client.testing.results import encode_error, encode_meta, state_of, traceback_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fibo_client.celery.protocol.control import ControlRequest
    from fibo_client.celery.protocol.jsontypes import JSONCodec
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.testing.canvas import Failures
    from fibo_client.testing.memory import Memory

_PATIENCE: Final = 1.0
"""The most seconds that closing waits for cancelled tasks."""

ACCUMULATE: Final = "celery.accumulate"
"""A task of Celery's own: it returns what it gets, or one of these."""

_MAY_BE_REVOKED: Final = (states.PENDING, states.RECEIVED, states.RETRY)


def _accumulate(*args: Any, index: int | None = None) -> Any:
    return args if index is None else args[index]


@dataclass(frozen=True, slots=True)
class Script:
    """What a worker does for a task.

    Attributes:
        function: Called with the task's arguments. It may be a coroutine function.
        delay: Seconds before that. Infinity is for ever.
        bind: Whether the function's first argument is the running task.
        ignore_result: Whether no result is stored unless the message asks for it.
    """

    function: Callable[..., Any]
    delay: float = 0.0
    bind: bool = False
    ignore_result: bool = False


class FakeTask:
    """A running task: the first argument of a function that was registered with ``bind=True``, as in Celery.

    Attributes:
        request: The message of the task, with its ``id`` and its ``retries``.
    """

    def __init__(self, worker: Worker, request: SentTask) -> None:
        self._worker = worker
        self.request = request

    def update_state(self, *, state: str, meta: Any = None) -> None:
        """Store a state that is not final, such as ``PROGRESS``.

        Args:
            state: Its name.
            meta: What it carries.
        """
        self._worker.store(self.request, state, meta, always=True)

    def retry(self, *, exc: Exception | None = None, countdown: float = 0.0, max_retries: int | None = 3) -> NoReturn:
        """Run the task again. This call raises, which ends the present run.

        Args:
            exc: Why. It is stored with the state ``RETRY``, and raised after the last retry.
            countdown: Seconds until the next run.
            max_retries: How often the task may be retried. None is no limit.

        Raises:
            Retry: Always, unless there were too many retries.
            Exception: There were: then this is `exc`.
        """
        cause = exc or RuntimeError("Task can be retried")
        if max_retries is not None and self.request.retries >= max_retries:
            raise cause
        raise Retry(cause, countdown)


class _ChunkedTask(FakeTask):
    """A task that runs in a chunk. It has no message of its own, so it has no state, and nothing runs it again."""

    def update_state(self, *, state: str, meta: Any = None) -> None:
        """Fail, as Celery's does without an id."""
        raise ValueError(f"task_id must not be empty. Got None instead. {state} with {meta!r} is stored nowhere")

    def retry(self, *, exc: Exception | None = None, **_: Any) -> NoReturn:
        """Raise why, as Celery's does without a message. Without a reason, the chunk stays in the state ``RETRY``."""
        raise exc or Retry(RuntimeError("Task can be retried"), math.inf)


class Retry(Exception):  # noqa: N818 - Celery's name for it, which the stored traceback shows
    """The task is to be retried."""

    __module__ = "celery.exceptions"

    def __init__(self, cause: Exception, countdown: float) -> None:
        super().__init__(f"Retry in {countdown}s: {cause!r}")
        self.cause = cause
        self.countdown = countdown


class _FaultError(Exception):
    """The worker, and not the task's function, ends the task."""

    trace: str | None = None


_UNTOLD: Final = "The double was not told of this task. Its task() does that; FakeFibo knows those of fibo-worker."
"""The traceback of a task without a script."""


def _fault(module: str, name: str, *arguments: Any) -> _FaultError:
    """Make an exception that looks like the worker's, whose class is not here."""
    kind: type[_FaultError] = type(name, (_FaultError,), {"__module__": module})
    return kind(*arguments)


def _revocation(reason: str) -> _FaultError:
    return _fault("celery.exceptions", "TaskRevokedError", reason)


@dataclass(slots=True, eq=False)
class _Delivery:
    """A message on its way.

    Attributes:
        sent: The task.
        message: Its message.
        due: When it may run, by the event loop's clock.
        expires: When it may no longer start, by the event loop's clock.
        job: The asyncio task that runs it.
        since: When it began to run, in seconds since the epoch.
        timer: The timer until it is due.
        loop: The event loop of the job, or of the timer.
    """

    sent: SentTask
    message: TaskMessage
    due: float
    expires: float
    job: asyncio.Task[None] | None = None
    since: float | None = None
    timer: asyncio.TimerHandle | None = None
    loop: asyncio.AbstractEventLoop | None = None

    @property
    def state(self) -> str:
        """Its state in the worker, by Celery's names."""
        if self.since is not None:
            return "active"
        return "reserved" if self.timer is None else "scheduled"


class Worker:
    """Implements `fibo_client.testing.memory.Workers`.

    Args:
        memory: Where messages and results are.
        queues: The queues that it serves. None is all.
        nodes: The names that it answers remote control by. The first is that of the one that runs the tasks.
        concurrency: How many tasks it runs at a time. None is no limit.

    Attributes:
        scripts: What it does, by task name.
        sent: All tasks that were sent, to any queue.
        revoked: The ids of the revoked tasks.
        up: Whether it is there.
    """

    def __init__(
        self, memory: Memory, queues: Sequence[str] | None, nodes: Sequence[str], concurrency: int | None
    ) -> None:
        self._memory = memory
        self._queues = None if queues is None else tuple(queues)
        self._nodes = tuple(nodes)
        self._concurrency = math.inf if concurrency is None else concurrency
        self.scripts: dict[str, Script] = {
            MAP: Script(self._map, bind=True),
            STARMAP: Script(self._starmap, bind=True),
            ACCUMULATE: Script(_accumulate),
        }
        self.sent: list[SentTask] = []
        self.revoked: list[str] = []
        self.up: bool = True
        self._canvas = Canvas(self._send_on, memory.others)
        self._messages: dict[str, deque[_Delivery]] = {}
        self._held: dict[_Delivery, None] = {}
        self._due: deque[_Delivery] = deque()
        self._refused: set[str] = set()
        self._running = 0
        self._clients: dict[asyncio.AbstractEventLoop, set[object]] = {}

    @property
    def types(self) -> JSONCodec:
        """The types that it reads and writes."""
        return self._canvas.types

    @types.setter
    def types(self, types: JSONCodec) -> None:
        self._canvas.types = types

    # Called by the broker and the backend.

    def admit(self, messages: Sequence[TaskMessage]) -> None:
        """See `Workers.admit`."""
        opened = [open_message(message, self.types) for message in messages]
        now, today = asyncio.get_running_loop().time(), datetime.now(UTC)
        for sent, message in zip(opened, messages, strict=True):
            # From here on, times are the event loop's: its clock may be virtual.
            due = 0.0 if sent.eta is None else now + (sent.eta - today).total_seconds()
            expires = math.inf if sent.expires is None else now + (sent.expires - today).total_seconds()
            self._messages.setdefault(sent.task_id, deque()).append(_Delivery(sent, message, due, expires))
        self.sent += opened

    def arrived(self, client: object) -> None:
        """See `Workers.arrived`."""
        loop = asyncio.get_running_loop()
        self._clients.setdefault(loop, set()).add(client)
        loop.call_soon(self._serve)

    async def left(self, client: object) -> None:
        """See `Workers.left`. The last client of an event loop ends what runs there."""
        loop = asyncio.get_running_loop()
        clients = self._clients.get(loop, set())
        clients.discard(client)
        if clients:
            return
        self._clients.pop(loop, None)
        jobs = []
        for delivery in [each for each in self._held if each.loop is loop]:
            if delivery.timer is not None:
                delivery.timer.cancel()
                del self._held[delivery]
            if delivery.job is not None:
                delivery.job.cancel()
                jobs.append(delivery.job)
        if jobs:
            await asyncio.wait(jobs, timeout=_PATIENCE)

    def come_back(self) -> None:
        """Take the tasks that wait."""
        self.up = True
        try:
            asyncio.get_running_loop().call_soon(self._serve)
        except RuntimeError:
            for loop in list(self._clients):  # The test is no coroutine: its clients run in another thread.
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._serve)

    # Taking and running.

    def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        if not self.up or loop not in self._clients:
            return
        while self._running < self._concurrency and (delivery := self._next()) is not None:
            self._running += 1
            self._held[delivery] = None
            delivery.since = time.time()
            delivery.loop = loop
            # An empty context: a real worker is another process.
            delivery.job = loop.create_task(
                self._run(delivery), name="fibo_client.testing.worker", context=contextvars.Context()
            )

    def _next(self) -> _Delivery | None:
        """Give the task that runs next, and settle those before it that must not run."""
        now = asyncio.get_running_loop().time()
        while (delivery := self._take()) is not None:
            sent = delivery.sent
            if sent.task not in self.scripts:
                fault = _fault("celery.exceptions", "NotRegistered", sent.task)
                self.store(sent, states.FAILURE, encode_error(fault), _UNTOLD, always=True)
            elif sent.task_id in self._refused:
                self._store_revoked(sent, "revoked", always=True)
                self._follow_failure(delivery, states.REVOKED, encode_error(_revocation("revoked")))
            elif delivery.due > now:
                self._schedule(delivery)
            else:
                return delivery
        return None

    def _take(self) -> _Delivery | None:
        if self._due:
            delivery = self._due.popleft()
            self._held.pop(delivery, None)
            return delivery
        message = self._memory.take(self._queues)
        if message is None:
            return None
        same_id = self._messages[message.id]
        delivery = same_id.popleft()
        if not same_id:
            del self._messages[message.id]
        return delivery

    def _schedule(self, delivery: _Delivery) -> None:
        def comes_due() -> None:
            delivery.timer = None
            delivery.due = 0.0
            self._due.append(delivery)
            self._serve()

        self._held[delivery] = None
        delivery.loop = asyncio.get_running_loop()
        delivery.timer = delivery.loop.call_at(delivery.due, comes_due)

    async def _run(self, delivery: _Delivery) -> None:
        try:
            await self._work(delivery)
        finally:
            self._running -= 1
            delivery.job = delivery.since = None
            if delivery.timer is None:
                self._held.pop(delivery, None)
            asyncio.get_running_loop().call_soon(self._serve)

    async def _work(self, delivery: _Delivery) -> None:
        sent, loop = delivery.sent, asyncio.get_running_loop()
        if loop.time() >= delivery.expires:
            self._store_revoked(sent, "expired")
            self._follow_failure(delivery, states.REVOKED, encode_error(_revocation("expired")))
            return
        try:
            value = await self._call(delivery)
        except Retry as retry:
            self.store(sent, states.RETRY, encode_error(retry.cause, self.types), traceback_of(retry, sent.task))
            if retry.countdown < math.inf:
                delivery.sent = dataclasses.replace(sent, retries=sent.retries + 1)
                delivery.due = loop.time() + retry.countdown
                self._schedule(delivery)
        except _FaultError as fault:
            self._fail(delivery, fault, fault.trace)
        except Exception as error:  # noqa: BLE001 - whatever a task raises is its answer, as in Celery
            self._fail(delivery, error, traceback_of(error, sent.task))
        else:
            self._succeed(delivery, value)

    async def _call(self, delivery: _Delivery) -> Any:
        sent = delivery.sent
        script = self.scripts[sent.task]
        own = [FakeTask(self, sent)] if script.bind else []
        hard, soft = sent.options.get("time_limit"), sent.options.get("soft_time_limit")
        try:
            async with asyncio.timeout(hard) as hard_limit, asyncio.timeout(soft) as soft_limit:
                if script.delay == math.inf:
                    await asyncio.get_running_loop().create_future()
                await asyncio.sleep(script.delay)
                value = script.function(*own, *sent.args, **sent.kwargs)
                return await value if inspect.isawaitable(value) else value
        except TimeoutError as error:
            if hard_limit.expired():
                raise _fault("billiard.exceptions", "TimeLimitExceeded", hard) from None
            if soft_limit.expired():
                fault = _fault("billiard.exceptions", "SoftTimeLimitExceeded")
                if error.__cause__ is not None:  # It has the function's traceback.
                    fault.__traceback__ = error.__cause__.__traceback__
                fault.trace = traceback_of(fault, sent.task)
                raise fault from None
            raise

    async def _map(self, own: FakeTask, /, task: dict[str, Any], it: list[Any]) -> list[Any]:
        """Call a task with each of many values, likewise."""
        return await self._starmap(own, task, [[value] for value in it])

    async def _starmap(self, own: FakeTask, /, task: dict[str, Any], it: list[list[Any]]) -> list[Any]:
        """Call a task with each of many lists of arguments, in the name of one, as Celery's own task does."""
        name = task["task"]
        if name not in self.scripts:
            raise _fault("celery.exceptions", "NotRegistered", name)
        script = self.scripts[name]
        bound = [_ChunkedTask(self, own.request)] if script.bind else []
        values = []
        for args in it:
            await asyncio.sleep(script.delay)
            value = script.function(*bound, *args)
            values.append(await value if inspect.isawaitable(value) else value)
        return values

    def _succeed(self, delivery: _Delivery, value: Any) -> None:
        sent = delivery.sent
        try:
            plain = json.loads(encode_meta(sent.task_id, states.SUCCESS, value, None, self.types))["result"]
        except (TypeError, ValueError, RecursionError) as error:
            fault = _fault("kombu.exceptions", "EncodeError", repr(error))
            self._fail(delivery, fault, traceback_of(fault, sent.task))
            return
        failures = self._canvas.succeeded(delivery.message, plain)  # Before the result is stored, as in Celery.
        self.store(sent, states.SUCCESS, value)
        self._store_failures(failures)

    def _fail(self, delivery: _Delivery, error: BaseException, trace: str | None) -> None:
        encoded = encode_error(error, self.types)
        self.store(delivery.sent, states.FAILURE, encoded, trace)
        self._follow_failure(delivery, states.FAILURE, encoded)

    def _follow_failure(self, delivery: _Delivery, state: str, error: dict[str, Any]) -> None:
        self._store_failures(self._canvas.failed(delivery.message, state, error))

    def _store_failures(self, failures: Failures) -> None:
        for task_id, error in failures:
            self._memory.store(task_id, encode_meta(task_id, states.FAILURE, error, None, self.types))

    def _send_on(self, message: TaskMessage) -> None:
        """Send a task that follows another one."""
        self.admit([message])
        self._memory.put(message.queue, message.priority, [message])
        asyncio.get_running_loop().call_soon(self._serve)

    # Storing.

    def store(
        self, sent: SentTask, state: str, result: Any = None, trace: str | None = None, *, always: bool = False
    ) -> None:
        """Store a task's state, unless its result is ignored. Raises TypeError or ValueError for what JSON has not."""
        if not always and self._is_ignored(sent):
            return
        payload = encode_meta(sent.task_id, state, result, trace, self.types)
        if self._state(sent.task_id) != states.SUCCESS:  # As in Celery, nothing follows a success.
            self._memory.store(sent.task_id, payload)

    def _is_ignored(self, sent: SentTask) -> bool:
        said = sent.options.get("ignore_result")
        return self.scripts[sent.task].ignore_result if said is None else said

    def _state(self, task_id: str) -> str:
        return state_of(self._memory.results.get(task_id))

    def _store_revoked(self, sent: SentTask, reason: str, *, always: bool = False) -> None:
        self.store(sent, states.REVOKED, encode_error(_revocation(reason)), always=always)

    # Remote control.

    @property
    def listening(self) -> int:
        """See `Workers.listening`."""
        return len(self._nodes) if self.up else 0

    def hear(self, request: ControlRequest) -> dict[str, Any]:
        """See `Workers.hear`."""
        arguments = request.arguments
        meant = [each for each in self._nodes if request.destination is None or each in request.destination]
        if request.method == "revoke":
            task_ids = arguments["task_id"]
            self.revoked += task_ids
            for task_id in task_ids if self.up and meant else ():
                self._revoke(task_id, terminate=arguments.get("terminate", False))
        if not self.up:
            return {}
        return {node: self._answer(request.method, arguments, runs=node == self._nodes[0]) for node in meant}

    def _revoke(self, task_id: str, *, terminate: bool) -> None:
        self._refused.add(task_id)
        runs = False
        for delivery in [each for each in self._held if each.sent.task_id == task_id]:
            if delivery.timer is not None:
                delivery.timer.cancel()
                del self._held[delivery]
            elif delivery.job is not None:
                runs = True
                if terminate:
                    delivery.job.cancel()
                    self._store_revoked(delivery.sent, "terminated")
        if not runs and self._state(task_id) in _MAY_BE_REVOKED:
            # Even for an unknown id, as Celery's workers do from 5.7 on.
            self._memory.store(task_id, encode_meta(task_id, states.REVOKED, encode_error(_revocation("revoked"))))

    def _answer(self, method: str, arguments: Any, *, runs: bool) -> Any:
        held = list(self._held) if runs else []
        match method:
            case "ping":
                return {"ok": "pong"}
            case "active" | "reserved":
                return [self._told(each) for each in held if each.state == method]
            case "scheduled":
                return [
                    {"eta": datetime.now(UTC).isoformat(), "priority": 6, "request": self._told(each)}
                    for each in held
                    if each.state == method
                ]
            case "query_task":
                return {
                    each.sent.task_id: [each.state, self._told(each)]
                    for each in held
                    if each.sent.task_id in arguments["ids"]
                }
            case "registered":
                told = "ignore_result" in arguments.get("taskinfoitems", ())
                return [
                    f"{task} [ignore_result={script.ignore_result}]" if told else task
                    for task, script in sorted(self.scripts.items())
                    if not task.startswith("celery.")  # Of its own tasks Celery does not tell.
                ]
            case "active_queues":
                queues = self._memory.queues if self._queues is None else self._queues
                return [{"name": name, "routing_key": name} for name in queues]
            case "stats":
                return {"pid": os.getpid(), "total": dict(Counter(each.task for each in self.sent))}
            case "conf":
                return {}
            case "revoke":
                return {"ok": f"tasks {', '.join(arguments['task_id'])} flagged as revoked"}
        return {"error": f"KeyError({method!r})"}

    def _told(self, delivery: _Delivery) -> dict[str, Any]:
        sent = delivery.sent
        return {
            "id": sent.task_id,
            "name": sent.task,
            "args": list(sent.args),
            "kwargs": dict(sent.kwargs),
            "hostname": self._nodes[0],
            "time_start": delivery.since,
            "delivery_info": {"exchange": "", "routing_key": sent.queue, "priority": sent.priority},
            "worker_pid": os.getpid(),
        }
