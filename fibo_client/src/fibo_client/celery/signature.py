"""References to tasks by name, calls of them, and the options that a call may carry."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypedDict, TypeGuard, TypeVar, cast, overload

from fibo_client.celery.protocol.options import check_name
from fibo_client.errors import MessageError
from fibo_client.text import listed, printable, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime
    from typing import Self, SupportsIndex, Unpack

    from fibo_client.celery.canvas import Group

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class SendOptions(TypedDict, total=False):
    """The options of a call, by Celery's names. What is not given is the client's default, or Celery's."""

    queue: str
    """The queue to send to."""
    priority: int
    """0 to 9. Over Redis, 0 is served first."""
    task_id: str
    """The task's id, where it must be known beforehand. It must be new. What is composed has the id of its result: a
    chain that of its last step, a chord that of its body, a group one of its own."""
    countdown: float
    """Seconds to wait before the task may run. Less than 0 is at once, as an ``eta`` that is past."""
    eta: datetime
    """The moment before which the task must not run, with a time zone."""
    expires: float | datetime | None
    """Seconds from now, or a moment with a time zone, after which the task must not start. None is never: it is for a
    ``call``, whose task otherwise expires shortly after the deadline."""
    time_limit: float
    """Seconds after which the worker kills the task."""
    soft_time_limit: float
    """Seconds after which the worker raises SoftTimeLimitExceeded in the task."""
    ignore_result: bool | None
    """True: store no result. False: store it, even if the task is declared with ``ignore_result=True`` (workers before
    Celery 5.6.3 do not heed that). None: as the task is declared. What waits for the answer, such as ``call``, sends
    False; what hands work out sends None, as Celery does."""
    headers: dict[str, Any]
    """Headers of your own, for ``self.request.headers``. If one is called ``headers``, it is a dict, and the task finds
    that one there alone."""
    shadow: str
    """Another name for the worker's logs."""
    root_id: str
    """The id of the first task of the workflow."""
    parent_id: str
    """The id of the task that called this one."""
    stamps: dict[str, Any]
    """Stamped headers, by name."""
    compression: str
    """``gzip`` to compress the arguments."""
    link: Flow[Any] | Sequence[Flow[Any]]
    """What runs when the task has succeeded, with its result as the first argument. It is not awaited. Give it to a
    task by ``with_options``, and the task to ``send`` or ``call``, alone or as a step."""
    link_error: Flow[Any] | Sequence[Flow[Any]]
    """What runs when the task has failed, with its id as the first argument. It is given likewise. A task with
    several parameters that the worker knows is called inside it, with the request, the exception and the traceback, as
    Celery does."""
    argsrepr: str
    """What logs and events show of the positional arguments, such as ``('anna', '***')``, in their place. Where the
    task is retried, they show the arguments: that message is the worker's own."""
    kwargsrepr: str
    """What logs and events show of the keyword arguments, likewise."""


_LONGEST_REPR: Final = 200
_NO_OPTIONS: Final[Mapping[str, Any]] = {}
_OPTIONS: Final = frozenset(SendOptions.__annotations__)
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Flow(Generic[R_co]):
    """What can be sent, and has one result: a task with its arguments, a chain, a group or a chord."""

    def __or__(self, other: Flow[R]) -> Flow[R]:
        """Let something follow this, as in Celery: a task gets the result of the one before as its first argument."""
        from fibo_client.celery.canvas import join  # It is made of signatures, and so imports this module.

        return join(self, other) if isinstance(other, Flow) else NotImplemented

    def with_options(self, **options: Unpack[SendOptions]) -> Self:
        """Make another with options for each step, unless the step says otherwise.

        ``countdown`` and ``eta`` are for the tasks that run first, ``link`` for the last task, and ``link_error`` for
        each task of a chain or a group, and for the body of a chord.

        Args:
            **options: See `SendOptions`, but for ``task_id``, which the send takes.

        Returns:
            The other one.

        Raises:
            MessageError: There is no such option, or none for what is composed.
            TypeError: A link is no task, chain, group or chord.
        """
        from fibo_client.celery.canvas import with_options

        return with_options(self, options)


@dataclass(frozen=True, repr=False, init=False)
class Signature(Flow[R_co]):
    """A task with its arguments: what a call of a `RemoteTask` gives. Nothing is sent by making one.

    Attributes:
        task: The task's registered name.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        decode: Turns the stored result into the value that the caller gets, or None to leave it as it is.
        options: The options that it is sent with, where the call that sends it does not say otherwise.
        remote_task: The `RemoteTask` that it was made by. None is by its name.
        is_immutable: Whether it takes no result of the step before. See `immutable`.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None
    decode: Callable[[Any], R_co] | None
    options: Mapping[str, Any]
    remote_task: RemoteTask[..., R_co] | None = field(compare=False)
    is_immutable: bool

    def __init__(
        self,
        task: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        decode: Callable[[Any], R_co] | None = None,
        options: Mapping[str, Any] = _NO_OPTIONS,
        remote_task: RemoteTask[..., R_co] | None = None,
        is_immutable: bool = False,
    ) -> None:
        # A frozen dataclass sets each field by a call of its own. A program may make many of these.
        self.__dict__.update(
            task=task,
            args=args,
            kwargs=kwargs,
            decode=decode,
            options=options,
            remote_task=remote_task,
            is_immutable=is_immutable,
        )

    def with_options(self, **options: Unpack[SendOptions]) -> Self:
        """Make another with options.

        Args:
            **options: See `SendOptions`. They win over those that it has.

        Returns:
            The other one.

        Raises:
            MessageError: There is no such option.
            TypeError: A link is no task, chain, group or chord.
        """
        check_option_names(options)
        check_links(options)
        return dataclasses.replace(self, options={**self.options, **options})

    def immutable(self) -> Signature[R_co]:
        """Make another that does not get the result of the step before it in a chain or a chord, as Celery's ``si``.

        Returns:
            The other one.
        """
        return dataclasses.replace(self, is_immutable=True)

    def __repr__(self) -> str:
        argsrepr, kwargsrepr = self.options.get("argsrepr"), self.options.get("kwargsrepr")
        said = [("", each) for each in self.args] if argsrepr is None else [("*", _Text(argsrepr))]
        if kwargsrepr is None:
            said += [(f"{name}=", each) for name, each in (self.kwargs or {}).items()]
        else:
            said.append(("**", _Text(kwargsrepr)))
        return f"<Signature {printable(self.task)}({listed(said, lambda each: f'{each[0]}{short_repr(each[1])}')})>"


class _Text(str):
    """A text that is its own repr."""

    __slots__ = ()
    __repr__ = str.__str__


class RemoteTask(Generic[P, R]):
    """A typed reference to a task by its name. The worker's code is not imported.

    ``RemoteTask[[int, int], int]("proj.tasks.add")`` is a task that takes two integers and gives one. Calling it
    binds arguments, so that a type checker can compare them: ``add(2, 3)`` is a `Signature`. `remote_task` declares
    one by a stub, whose defaults and keywords a type checker knows, too, and which arguments are compared with.

    Args:
        name: The name under which the worker registered it.
        decode: Turns the stored result into the value that the caller gets. None leaves it as JSON gave it. Raise
            ValueError or TypeError in it for a result that is not what it should be.
        parameters: What the task's arguments are compared with when it is called. None compares nothing.
        chunkable: Whether many calls of it may share one message, with the ``chunk_size`` of `CeleryClient.stream` and
            `CeleryClient.call_many`. That is for a task that may run twice and uses nothing of its own request: no
            ``bind=True``, no retry, no ``Ignore``, no progress and no limits of its own.
        **options: Options that each call of it is sent with, unless the call says otherwise. See `SendOptions`.

    Attributes:
        name: See above.
        decode: See above.
        parameters: See above.
        chunkable: See above.
        options: See above.

    Raises:
        MessageError: It is no name of a task, or there is no such option, or none for all calls of a task.
        TypeError: `decode` cannot be called, `parameters` is no signature, or a link is no task, chain, group or chord.
    """

    def __init__(
        self,
        name: str,
        decode: Callable[[Any], R] | None = None,
        *,
        parameters: inspect.Signature | None = None,
        chunkable: bool = False,
        **options: Unpack[SendOptions],
    ) -> None:
        if decode is not None and not callable(decode):
            raise TypeError(f"decode must be a function, not {type(decode).__name__}")
        if parameters is not None and not isinstance(parameters, inspect.Signature):
            raise TypeError(f"parameters must be an inspect.Signature, not {type(parameters).__name__}")
        check_option_names(options)
        check_links(options)
        if "task_id" in options:
            raise MessageError("task_id is not for all calls of a task; give it to one: with_options(task_id=...)")
        self.name: str = check_name("task", name)
        self.decode: Callable[[Any], R] | None = decode
        self.parameters: inspect.Signature | None = parameters
        self.chunkable: bool = chunkable
        self.options: Mapping[str, Any] = options or _NO_OPTIONS
        self._counts = range(0) if parameters is None else _positional_counts(parameters)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Bind arguments.

        Args:
            *args: The task's positional arguments.
            **kwargs: The task's keyword arguments.

        Returns:
            What ``call`` and ``send`` take. Nothing is sent yet.

        Raises:
            TypeError: They do not fit the task's parameters, where these are known.
        """
        if self.parameters is not None:
            self.check_arguments(args, kwargs)
        return Signature(self.name, args, kwargs, self.decode, self.options, self)

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Bind arguments for a step of a chain, or for the body of a chord, as Celery's ``s``.

        The step gets the result of the one before in front of these.

        Args:
            *args: The task's positional arguments, without that result.
            **kwargs: The task's keyword arguments.

        Returns:
            The step.

        Raises:
            TypeError: They do not fit the task's parameters, where these are known.
        """
        try:
            self.check_arguments((None, *args), kwargs)
        except TypeError:
            self.check_arguments(args, kwargs)  # As the first step it gets no result.
        return Signature(self.name, args, kwargs, self.decode, self.options, self)

    def map(self, iterable: Iterable[Any]) -> Signature[list[R]]:
        """Call the task with each of many values, one after the other in one message, as Celery's ``map``.

        It is for tasks that are declared as ``chunkable``. All calls fail when one of them raises.

        Args:
            iterable: The values: each is the only argument of a call.

        Returns:
            A task, Celery's own ``celery.map``, which gives the list of the results.

        Raises:
            MessageError: The task is not declared as ``chunkable``.
            TypeError: A value does not fit the task's parameters, where these are known.
        """
        from fibo_client.celery.chunk import map_of  # It is made of signatures, and so imports this module.

        return map_of(self, iterable)

    def starmap(self, iterable: Iterable[Sequence[Any]]) -> Signature[list[R]]:
        """Call the task with each of many lists of arguments, one after the other in one message, as Celery's.

        Args:
            iterable: The positional arguments of each call: lists or tuples.

        Returns:
            A task, Celery's own ``celery.starmap``, which gives the list of the results.

        Raises:
            MessageError: The task is not declared as ``chunkable``.
            TypeError: Arguments are no list, or do not fit the task's parameters, where these are known.
        """
        from fibo_client.celery.chunk import starmap_of

        return starmap_of(self, iterable)

    def chunks(self, iterable: Iterable[Sequence[Any]], n: int) -> Group[list[R]]:
        """Share many calls of the task among messages, as Celery's ``chunks``: a group of `starmap`.

        `CeleryClient.call_many` and `CeleryClient.stream` do so with a ``chunk_size``, and give a flat list.

        Args:
            iterable: The positional arguments of each call: lists or tuples.
            n: The most calls in one message.

        Returns:
            A group, which gives a list of results for each chunk.

        Raises:
            MessageError: The task is not declared as ``chunkable``.
            TypeError: `n` is no integer; or arguments are no list, or do not fit the task's parameters.
            ValueError: `n` is less than 1.
        """
        from fibo_client.celery.chunk import chunks_of

        return chunks_of(self, iterable, n)

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Compare arguments with the task's parameters, where these are known.

        Args:
            args: The positional arguments.
            kwargs: The keyword arguments.

        Raises:
            TypeError: They do not fit.
        """
        if self.parameters is None or (not kwargs and len(args) in self._counts):
            return
        try:
            self.parameters.bind(*args, **kwargs)
        except TypeError as error:
            takes = self.parameters.replace(return_annotation=inspect.Signature.empty)
            raise TypeError(f"{self.name}{_written(takes)}: {error}") from None

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> str | tuple[Any, ...]:
        # One that a stub declares is pickled as functions are: by where it is found.
        where = self.__dict__.get("__qualname__")
        return super().__reduce_ex__(protocol) if where is None else str(where)

    def __repr__(self) -> str:
        if self.parameters is None:
            return f"RemoteTask({short_repr(self.name)})"
        return f"<RemoteTask {printable(f'{self.name}{_written(self.parameters)}', _LONGEST_REPR)}>"


def _written(parameters: inspect.Signature) -> str:
    """Write parameters as their stub does, where annotations are kept as text."""

    def plain(annotation: Any) -> Any:
        return _Text(annotation) if isinstance(annotation, str) else annotation

    listed = [each.replace(annotation=plain(each.annotation)) for each in parameters.parameters.values()]
    return str(parameters.replace(parameters=listed, return_annotation=plain(parameters.return_annotation)))


def _positional_counts(parameters: inspect.Signature) -> range:
    """Tell how many positional arguments fit where there are no others."""
    listed = parameters.parameters.values()
    if any(each.kind is each.KEYWORD_ONLY and each.default is each.empty for each in listed):
        return range(0)
    positional = [each for each in listed if each.kind in _POSITIONAL]
    fewest = sum(each.default is each.empty for each in positional)
    endless = any(each.kind is each.VAR_POSITIONAL for each in listed)
    return range(fewest, 2**31 if endless else len(positional) + 1)


@overload
def remote_task(
    name: str, decode: None = ..., *, chunkable: bool = ..., **options: Unpack[SendOptions]
) -> Callable[[Callable[P, R]], RemoteTask[P, R]]: ...
@overload
def remote_task(
    name: str, decode: Callable[[Any], S], *, chunkable: bool = ..., **options: Unpack[SendOptions]
) -> Callable[[Callable[P, Any]], RemoteTask[P, S]]: ...
def remote_task(
    name: str, decode: Any = None, *, chunkable: bool = False, **options: Unpack[SendOptions]
) -> Callable[[Callable[..., Any]], RemoteTask[..., Any]]:
    """Declare a task by a stub: a function with its parameters and its result, whose body is ``...``.

    ::

        @remote_task("shop.tasks.resize", queue="media")
        def resize(name: str, steps: int = 5) -> str: ...

        await client.call(resize("dog", steps=3))

    ``fibo stubs`` writes such stubs from a Celery app. A default that only the worker knows is ``...``. mypy takes an
    empty body for a mistake, unless its module says ``# mypy: disable-error-code="empty-body"``.

    Args:
        name: The name under which the worker registered the task.
        decode: As for `RemoteTask`. The task's value is then what this returns.
        chunkable: As for `RemoteTask`.
        **options: Options that each call of it is sent with, unless the call says otherwise. See `SendOptions`.

    Returns:
        The decorator, which makes the `RemoteTask`. It raises TypeError for what is no stub: a coroutine function, a
        generator, a class, or a method with ``self``.

    Raises:
        TypeError: The name is missing.
        MessageError: As for `RemoteTask`.
    """
    if not isinstance(name, str):
        raise TypeError('remote_task needs the name of the task: write @remote_task("proj.tasks.add")')

    def declare(stub: Callable[..., Any]) -> RemoteTask[..., Any]:
        parameters = inspect.signature(_check_stub(name, stub))
        task = RemoteTask[..., Any](name, decode, parameters=parameters, chunkable=chunkable, **options)
        update_wrapper(task, stub)
        task.__doc__ = stub.__doc__ or f"The task {name} of a Celery worker."  # For help().
        return task

    return declare


def _check_stub(name: str, stub: object) -> Callable[..., Any]:
    """Check what should be the stub of a task. Raise TypeError for what is none."""
    function = stub.__func__ if isinstance(stub, staticmethod) else stub
    if not inspect.isfunction(function):
        raise TypeError(f"the stub of {name} must be a function, not {short_repr(stub)}")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"the stub of {name} must be a plain function: write `def`, not `async def`")
    if inspect.isgeneratorfunction(function):
        raise TypeError(f"the stub of {name} must be a plain function, whose body is `...`: it has a `yield`")
    if next(iter(inspect.signature(function).parameters), None) == "self":
        raise TypeError(
            f"the stub of {name} must not have `self`: a call does not send the task itself (bind=True), nor an object"
        )
    return function


def is_flow(value: object) -> TypeGuard[Flow[Any]]:
    """Tell whether something is more than one task: composed, or with tasks that its worker sends after it."""
    if isinstance(value, Signature):
        return "link" in value.options or "link_error" in value.options
    return isinstance(value, Flow)


def check_option_names(options: Mapping[str, Any]) -> None:
    """Check that options are among those that a call may carry.

    Args:
        options: The options.

    Raises:
        MessageError: One is not. The message lists those that are.
    """
    for name in options:
        if name not in _OPTIONS:
            raise MessageError(
                f"{name!r} is not an option; the options are: {', '.join(sorted(_OPTIONS))}. "
                "What a task takes by keyword goes into kwargs: call(name, args, kwargs), or RemoteTask(name)(...)"
            )


def check_links(options: Mapping[str, Any]) -> None:
    """Check that what runs after a task can be sent.

    Args:
        options: The options of the task.

    Raises:
        TypeError: A link is something else.
    """
    for name in ("link", "link_error"):
        for each in links(options, name):
            if not isinstance(each, Flow):
                raise TypeError(f"{name} must be a signature, a chain, a group or a chord, not {type(each).__name__}")


def links(options: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """Give what runs after a task: one is given alone, or several in a list."""
    given = options.get(name)
    if given is None:
        return ()
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)


def bind(
    task: str | RemoteTask[..., R] | Signature[R], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Signature[R]:
    """Make a signature of what a call was given.

    Args:
        task: The task's name, a `RemoteTask`, or a signature, which has its arguments.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        The signature.

    Raises:
        MessageError: It is none of these, or a signature was given arguments beside its own.
        TypeError: The arguments do not fit the task's parameters, where these are known.
    """
    if isinstance(task, Signature):
        if args or kwargs:
            raise MessageError(f"the signature of {task.task} has its arguments already; make another one")
        return task
    arguments = cast("tuple[Any, ...]", args)  # Their types are checked when they are encoded.
    if isinstance(task, RemoteTask):
        if task.parameters is not None and isinstance(args, (list, tuple)) and isinstance(kwargs, dict | None):
            task.check_arguments(args, kwargs or {})
        return Signature(task.name, arguments, kwargs, task.decode, task.options, task)
    if not isinstance(task, str):
        raise MessageError(f"task must be a task's name, a RemoteTask or a Signature, not {type(task).__name__}")
    return Signature(task, arguments, kwargs)


def check_flow(flow: object) -> None:
    """Check what should be a task with its arguments, a chain, a group or a chord.

    Args:
        flow: What was given.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(flow, Flow):
        raise TypeError(
            "a signature is wanted, such as RemoteTask('proj.add')(2, 3), or a chain, a group or a chord, "
            f"not {type(flow).__name__}"
        )


def check_signature(signature: object) -> None:
    """Check what should be a signature.

    Args:
        signature: What was given.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(signature, Signature):
        raise TypeError(f"a signature is wanted, such as RemoteTask('proj.add')(2, 3), not {type(signature).__name__}")
