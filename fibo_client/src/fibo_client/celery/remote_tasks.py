"""References to tasks of workers by their names, and the stubs that declare them."""

from __future__ import annotations

import inspect
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.signature import NO_OPTIONS, Signature, check_links, check_option_names
from fibo_client.errors import MessageError
from fibo_client.text import Verbatim, printable, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import SupportsIndex, Unpack

    from fibo_client.celery.canvas import Group
    from fibo_client.celery.signature import SendOptions

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

_LONGEST_REPR: Final = 200
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
        self.options: Mapping[str, Any] = options or NO_OPTIONS
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
        return Verbatim(annotation) if isinstance(annotation, str) else annotation

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
