"""References to tasks by name, and the options that a call may carry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypedDict, TypeVar, cast

from fibo_client.errors import MessageError
from fibo_client.text import listed, printable, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Unpack

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class SendOptions(TypedDict, total=False):
    """The options of a call, by Celery's names. What is not given is the client's default, or Celery's."""

    queue: str
    """The queue to send to."""
    priority: int
    """0 to 9. Over Redis, 0 is served first."""
    task_id: str
    """The task's id, where it must be known beforehand. It must be new."""
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
    argsrepr: str
    """What logs and events show of the positional arguments, such as ``('anna', '***')``, in their place. Where the
    task is retried, they show the arguments: that message is the worker's own."""
    kwargsrepr: str
    """What logs and events show of the keyword arguments, likewise."""


_NO_OPTIONS: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, repr=False, init=False)
class Signature(Generic[R_co]):
    """A task with its arguments: what a call of a `RemoteTask` gives. Nothing is sent by making one.

    Attributes:
        task: The task's registered name.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        decode: Turns the stored result into the value that the caller gets, or None to leave it as it is.
        options: The options that it is sent with, where the call that sends it does not say otherwise.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None
    decode: Callable[[Any], R_co] | None
    options: Mapping[str, Any]

    def __init__(
        self,
        task: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        decode: Callable[[Any], R_co] | None = None,
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> None:
        # A frozen dataclass sets each field by a call of its own. A program may make many of these.
        self.__dict__.update(task=task, args=args, kwargs=kwargs, decode=decode, options=options)

    def with_options(self, **options: Unpack[SendOptions]) -> Signature[R_co]:
        """Make another with options.

        Args:
            **options: See `SendOptions`. They win over those that it has.

        Returns:
            The other one.
        """
        return dataclasses.replace(self, options={**self.options, **options})

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
    binds arguments, so that a type checker can compare them: ``add(2, 3)`` is a `Signature`. Of arguments by keyword
    nothing is known, so for ``add(2, y=3)`` it is ``RemoteTask[..., int]``.

    Args:
        name: The name under which the worker registered it.
        decode: Turns the stored result into the value that the caller gets. None leaves it as JSON gave it. Raise
            ValueError or TypeError in it for a result that is not what it should be.
        **options: Options that each call of it is sent with, unless the call says otherwise. See `SendOptions`.

    Attributes:
        name: See above.
        decode: See above.
        options: See above.
    """

    __slots__ = ("decode", "name", "options")

    def __init__(self, name: str, decode: Callable[[Any], R] | None = None, **options: Unpack[SendOptions]) -> None:
        self.name: str = name
        self.decode: Callable[[Any], R] | None = decode
        self.options: Mapping[str, Any] = options or _NO_OPTIONS

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Bind arguments.

        Args:
            *args: The task's positional arguments.
            **kwargs: The task's keyword arguments.

        Returns:
            What ``call`` and ``send`` take. Nothing is sent yet.
        """
        return Signature(self.name, args, kwargs, self.decode, self.options)

    def __repr__(self) -> str:
        return f"RemoteTask({short_repr(self.name)})"


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
    """
    if isinstance(task, Signature):
        if args or kwargs:
            raise MessageError(f"the signature of {task.task} has its arguments already; make another one")
        return task
    arguments = cast("tuple[Any, ...]", args)  # Checked when they are encoded.
    if isinstance(task, RemoteTask):
        return Signature(task.name, arguments, kwargs, task.decode, task.options)
    if not isinstance(task, str):
        raise MessageError(f"task must be a task's name, a RemoteTask or a Signature, not {type(task).__name__}")
    return Signature(task, arguments, kwargs)


def check_signature(signature: object) -> None:
    """Check what should be a signature.

    Args:
        signature: What was given.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(signature, Signature):
        raise TypeError(f"a signature is wanted, such as RemoteTask('proj.add')(2, 3), not {type(signature).__name__}")
