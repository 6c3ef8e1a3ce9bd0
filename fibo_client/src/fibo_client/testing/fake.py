"""The double: a Redis and a worker in memory, which a test scripts, and which records what was sent."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from fibo_client import contract
from fibo_client.celery.backends.unsupported import UnsupportedBackend
from fibo_client.celery.brokers.disabled import DisabledBroker
from fibo_client.celery.chunk import MAP, STARMAP
from fibo_client.celery.connect import check_urls, is_disabled
from fibo_client.celery.protocol.jsontypes import JSONCodec, JSONType
from fibo_client.celery.remote_tasks import RemoteTask, bind
from fibo_client.celery.signature import Signature
from fibo_client.testing.declared import check_answer, check_function
from fibo_client.testing.fibonacci import answer_chunk, answer_one, answer_sentence, answer_sqrt, fibonacci
from fibo_client.testing.memory import Memory, MemoryBackend, MemoryBroker
from fibo_client.testing.messages import SentTask, call_repr, calls_in, has_options
from fibo_client.testing.worker import Script, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.testing.worker import FakeTask

__all__ = ["FakeCelery", "FakeFibo"]

_MOST_SHOWN: Final = 20
_DOWN: Final = "Error 111 connecting to localhost:6379. Connection refused. (a FakeCelery says so)"


class FakeCelery:
    """A Redis and a Celery worker in memory, for tests. There is no network, and nothing to start or stop.

    ::

        fake = FakeCelery()
        fake.task("proj.tasks.add", lambda x, y: x + y)
        async with CeleryClient(transport=fake) as celery:
            assert await celery.call("proj.tasks.add", (2, 3)) == 5
        fake.assert_sent("proj.tasks.add", 2, 3)

    The client is the real one, and so are the bytes of messages and results. Several clients may share one double.
    Results do not expire. Closing the last client of an event loop ends what still runs there.

    Args:
        queues: The queues that the worker serves. Tasks for other queues wait there. None is all.
        concurrency: How many tasks it runs at a time. None is no limit.
        nodes: The names of the workers that answer remote control.

    Attributes:
        sent: All tasks that were sent, in order. A chunk of calls is one, ``celery.starmap`` or ``celery.map``.
        revoked: The ids of all tasks that workers were told to revoke, in order.
    """

    def __init__(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        nodes: Sequence[str] = ("celery@fake",),
    ) -> None:
        if isinstance(queues, str) or isinstance(nodes, str):
            raise TypeError("queues and nodes must be lists of names")
        self._memory = Memory()
        self._json_types: dict[type, JSONType[Any]] = {}
        self._worker = Worker(self._memory, queues, nodes, concurrency)
        self._memory.workers = self._worker
        self.sent: list[SentTask] = self._worker.sent
        self.revoked: list[str] = self._worker.revoked

    def connect(self, config: CeleryConfig) -> tuple[Broker, Backend]:
        """Make a broker and a result backend for a client; a client calls this on its ``transport=``.

        Args:
            config: The client's settings. Its URLs are checked and not used. The worker
                knows the `json_types` of all clients.

        Returns:
            The two.

        Raises:
            ConfigError: A URL is wrong, or two clients have a JSON type with the same marker.
        """
        unreadable = check_urls(config)
        if is_disabled(config.broker_url):
            return DisabledBroker(self._memory.health), MemoryBackend(self._memory)
        broker = MemoryBroker(self._memory, config.redis.priority_steps)
        if unreadable is not None:
            return broker, UnsupportedBackend(broker, unreadable)
        self._json_types |= {each.type: each for each in config.json_types}
        self._worker.types = JSONCodec(self._json_types.values())
        return broker, MemoryBackend(self._memory)

    # What the worker does.

    def task(
        self,
        task: str | RemoteTask[..., Any],
        function: Callable[..., Any] | None = None,
        *,
        returns: Any = None,
        raises: Exception | None = None,
        delay: float = 0.0,
        bind: bool = False,
        ignore_result: bool = False,
    ) -> None:
        """Script what the worker does for a task. A later call replaces the script.

        Args:
            task: The task's name, or a `RemoteTask`. Tasks without a script fail with ``NotRegistered``. Of a task that
                a stub declares, the function must take the parameters, and the fixed answer must be of the type.
            function: What to call with the task's arguments, on the event loop; it may be a coroutine function. What it
                returns is the answer, what it raises the failure.
            returns: The answer, without a function.
            raises: The failure, without a function.
            delay: Seconds that the task takes, by the event loop's clock. ``math.inf`` is for ever.
            bind: Whether the function's first argument is the running task, a `FakeTask`.
            ignore_result: Whether the task is declared so: its result is stored only if the message asks for it.

        Raises:
            TypeError: `function` cannot be called, `raises` is no exception, more than one of the three is given, or
                they do not fit the declared task.
            ValueError: The delay is negative or no number.
        """
        if function is not None and not callable(function):
            raise TypeError(f"function must be callable, not {type(function).__name__}; a fixed answer is returns=")
        if raises is not None and not isinstance(raises, Exception):
            raise TypeError(f"raises must be an exception, such as ValueError('bad'), not {raises!r:.80}")
        if sum((function is not None, returns is not None, raises is not None)) > 1:
            raise TypeError("give one of function, returns and raises")
        if not delay >= 0:
            raise ValueError(f"delay={delay} must be 0 or more seconds; math.inf is for ever")
        if function is None:
            if bind:
                raise TypeError("bind=True is for a function")
            if returns is not None and isinstance(task, RemoteTask):
                check_answer(task, _as_read(returns))
            function = _outcome(returns, raises)
        elif isinstance(task, RemoteTask):
            check_function(task, function, bind=bind)
        self._worker.scripts[_name(task)] = Script(function, delay, bind, ignore_result)

    @contextlib.contextmanager
    def no_worker(self) -> Iterator[None]:
        """Have no worker in the block: tasks wait in their queues, and nobody answers a ping.

        Yields:
            None. Afterwards the worker takes the tasks that wait.
        """
        self._worker.up = False
        try:
            yield
        finally:
            self._worker.come_back()

    # Outages.

    @contextlib.contextmanager
    def redis_down(self, reason: str = _DOWN) -> Iterator[None]:
        """Have no Redis in the block: sending raises PublishError, asking ReadError or another TransportError.

        Args:
            reason: The text of the errors.

        Yields:
            None. Afterwards all that was stored is there again.
        """
        self._memory.break_subscriptions(reason)
        self._memory.down = reason
        try:
            yield
        finally:
            self._memory.down = None

    @contextlib.contextmanager
    def no_answer(self, *, arrives: bool) -> Iterator[None]:
        """Lose Redis's answers to sending in the block: it raises PublishUnknownError.

        Args:
            arrives: Whether the tasks arrive.

        Yields:
            None.
        """
        self._memory.unanswered = arrives
        try:
            yield
        finally:
            self._memory.unanswered = None

    @contextlib.contextmanager
    def lost_pushes(self) -> Iterator[None]:
        """Lose all pushed results in the block: only polling finds them.

        Yields:
            None.
        """
        self._memory.mute = True
        try:
            yield
        finally:
            self._memory.mute = False

    # What was sent.

    @property
    def calls(self) -> list[SentTask]:
        """All calls that were sent, in order: of a chunk each of its calls, else as in `sent`."""
        return [call for sent in self.sent for call in calls_in(sent)]

    def assert_sent(self, task: str | RemoteTask[..., Any] | Signature[Any], /, *args: Any, **kwargs: Any) -> SentTask:
        """Assert that a task was sent with these arguments, at least once, alone or in a chunk.

        Args:
            task: Its name, or a `RemoteTask`. Arguments of one that a stub declares are compared by their parameters:
                by position or by keyword is the same, and so is a default that is left out. Or a signature, such as
                ``resize("dog").with_options(queue="media")``: then its options are compared, too, except for those that
                a message has not as they were given, such as ``countdown``.
            *args: Its positional arguments; a single ``...`` is any arguments. ``unittest.mock.ANY`` is any one.
            **kwargs: Its keyword arguments.

        Returns:
            The last such task, with its queue, priority and other options.

        Raises:
            AssertionError: It was not sent. The message lists what was.
            TypeError: The arguments do not fit the declared task.
        """
        __tracebackhide__ = True  # Has pytest show the test's line.
        wanted = _Wanted(task, args, kwargs)
        found = self._found(wanted)
        if not found:
            raise AssertionError(f"{wanted} was not sent. {self._told(wanted.name)}")
        return found[-1]

    def assert_sent_once(
        self, task: str | RemoteTask[..., Any] | Signature[Any], /, *args: Any, **kwargs: Any
    ) -> SentTask:
        """Assert that a task was sent with these arguments exactly once.

        Args:
            task: As for `assert_sent`.
            *args: Its positional arguments, as for `assert_sent`.
            **kwargs: Its keyword arguments.

        Returns:
            The task.

        Raises:
            AssertionError: It was not sent, or more than once. The message lists what was.
            TypeError: The arguments do not fit the declared task.
        """
        __tracebackhide__ = True  # Has pytest show the test's line.
        wanted = _Wanted(task, args, kwargs)
        found = self._found(wanted)
        if len(found) != 1:
            raise AssertionError(f"{wanted} was sent {len(found)} times, not once. {self._told(wanted.name)}")
        return found[0]

    def assert_not_sent(self, task: str | RemoteTask[..., Any] | Signature[Any], /, *args: Any, **kwargs: Any) -> None:
        """Assert that a task was not sent with these arguments.

        Args:
            task: As for `assert_sent`.
            *args: Its positional arguments, as for `assert_sent`.
            **kwargs: Its keyword arguments.

        Raises:
            AssertionError: It was sent. The message lists what was.
            TypeError: The arguments do not fit the declared task.
        """
        __tracebackhide__ = True  # Has pytest show the test's line.
        wanted = _Wanted(task, args, kwargs)
        found = self._found(wanted)
        if found:
            raise AssertionError(f"{wanted} was sent {len(found)} times. {self._told(wanted.name)}")

    def assert_nothing_sent(self) -> None:
        """Assert that no task was sent.

        Raises:
            AssertionError: One was sent. The message lists what was.
        """
        __tracebackhide__ = True  # Has pytest show the test's line.
        if self.sent:
            raise AssertionError(self._told())

    def _found(self, wanted: _Wanted) -> list[SentTask]:
        sent = self.sent if wanted.name in (MAP, STARMAP) else self.calls
        return [each for each in sent if wanted.matches(each)]

    def _told(self, task: str = "") -> str:
        calls = self.calls
        if not calls:
            return "Nothing was sent."
        nearest_first = sorted(calls, key=lambda each: each.task != task)
        lines = [f"    {each}" for each in nearest_first[:_MOST_SHOWN]]
        if len(calls) > _MOST_SHOWN:
            lines.append(f"    and {len(calls) - _MOST_SHOWN} more")
        return f"What was sent ({len(calls)}):\n" + "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, {len(self.sent)} sent>"


class FakeFibo(FakeCelery):
    """A `FakeCelery` whose worker has the tasks of fibo-worker, and answers exact numbers.

    ::

        fake = FakeFibo()
        fake.numbers[13] = ValueError("unlucky")
        async with FiboClient(transport=fake) as client:
            assert await client.fibonacci(10) == 55
        assert fake.asked == [10]

    Args:
        queues: See `FakeCelery`.
        concurrency: See `FakeCelery`.
        nodes: See `FakeCelery`.

    Attributes:
        asked: All numbers n that the worker was asked for, in order, from all tasks.
        numbers: By n, what the worker answers instead of F(n): another number, or an exception to raise.
    """

    def __init__(
        self,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        nodes: Sequence[str] = ("celery@fake",),
    ) -> None:
        super().__init__(queues=queues, concurrency=concurrency, nodes=nodes)
        self.asked: list[int] = []
        self.numbers: dict[int, int | Exception] = {}
        self._delay = 0.0
        self.delay = 0.0

    @property
    def delay(self) -> float:
        """Seconds that each task of fibo-worker takes, by the event loop's clock. ``math.inf`` is for ever."""
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        def sentence(running: FakeTask, n: Any) -> tuple[int, str]:
            return answer_sentence(self._number, running.request.task_id, n)

        self.task(contract.FIBONACCI, lambda n: answer_one(self._number, n), delay=seconds)
        self.task(contract.FIBONACCI_CHUNK, lambda ns: answer_chunk(self._answer, ns), delay=seconds)
        self.task(contract.FIBO_TASK, sentence, delay=seconds, bind=True)
        self.task(contract.SQRT_TASK, answer_sqrt, delay=seconds)
        self._delay = seconds

    def _answer(self, n: Any) -> int | Exception:
        try:
            n = contract.check_n(n, whose="the worker's FIBO_MAX_N")
        except (TypeError, ValueError) as error:
            return error
        self.asked.append(n)
        answer = self.numbers.get(n)
        return fibonacci(n) if answer is None else answer

    def _number(self, n: Any) -> int:
        answer = self._answer(n)
        if isinstance(answer, Exception):
            raise answer
        return answer


def _outcome(returns: Any, raises: Exception | None) -> Callable[..., Any]:
    def outcome(*_args: Any, **_kwargs: Any) -> Any:
        if raises is not None:
            raise raises.with_traceback(None)
        return returns

    return outcome


def _name(task: str | RemoteTask[..., Any] | Signature[Any]) -> str:
    if isinstance(task, Signature):
        return task.task
    return task.name if isinstance(task, RemoteTask) else task


class _Wanted:
    """What an assertion asks for.

    Attributes:
        name: The task's name.
    """

    def __init__(
        self, task: str | RemoteTask[..., Any] | Signature[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        any_arguments = len(args) == 1 and args[0] is ... and not kwargs
        signature = bind(_name(task), args) if any_arguments else bind(task, args, kwargs)
        self.name: str = signature.task
        self._parameters = None if signature.remote_task is None else signature.remote_task.parameters
        self._call = (self.name, signature.args, signature.kwargs or {})
        self._options: Mapping[str, Any] = signature.options if isinstance(task, Signature) else {}
        self._arguments = ... if any_arguments else self._bound(*self._call[1:])

    def matches(self, sent: SentTask) -> bool:
        """Tell whether a task that was sent is it."""
        if sent.task != self.name or not has_options(sent, self._options):
            return False
        return self._arguments is ... or self._arguments == self._bound(sent.args, sent.kwargs)

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Give arguments as they are compared: by parameters, where these are known. None, where they do not fit."""
        if self._parameters is None:
            return _as_read([args, kwargs])
        try:
            bound = self._parameters.bind(*args, **kwargs)
        except TypeError:
            return None
        bound.apply_defaults()
        return _as_read(bound.arguments)

    def __str__(self) -> str:
        text = call_repr(*self._call).replace("(Ellipsis)", "(...)")
        said = " ".join(f"{name}={value!r}" for name, value in self._options.items())
        return f"{text} with {said}" if said else text


def _as_read(value: Any) -> Any:
    """Give what a worker reads: JSON has no tuples."""
    if isinstance(value, (list, tuple)):
        return [_as_read(each) for each in value]
    if isinstance(value, dict):
        return {name: _as_read(each) for name, each in value.items()}
    return value
