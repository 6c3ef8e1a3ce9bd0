"""References to tasks by name, and the options that a call may carry."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypedDict, TypeVar

from fibo_client.text import listed, printable, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

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


@dataclass(frozen=True, repr=False)
class Signature(Generic[R_co]):
    """A task with its arguments: what a call of a `RemoteTask` gives. Nothing is sent by making one.

    Attributes:
        task: The task's registered name.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        decode: Turns the stored result into the value that the caller gets, or None to leave it as it is.
        argsrepr: What logs show of `args` in their place. None is the beginning of them.
        kwargsrepr: What logs show of `kwargs` in their place. None is the beginning of them.
    """

    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    decode: Callable[[Any], R_co] | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None

    def __repr__(self) -> str:
        said = [("", each) for each in self.args] if self.argsrepr is None else [("*", _Text(self.argsrepr))]
        if self.kwargsrepr is None:
            said += [(f"{name}=", each) for name, each in (self.kwargs or {}).items()]
        else:
            said.append(("**", _Text(self.kwargsrepr)))
        return f"<Signature {printable(self.task)}({listed(said, lambda each: f'{each[0]}{shown(each[1])}')})>"


class _Text(str):
    """A text that is its own repr."""

    __slots__ = ()
    __repr__ = str.__str__


@dataclass(frozen=True)
class RemoteTask(Generic[P, R]):
    """A typed reference to a task by its name. The worker's code is not imported.

    ``RemoteTask[[int, int], int]("proj.tasks.add")`` is a task that takes two integers and gives one. Calling it
    binds arguments, so that a type checker can compare them: ``add(2, 3)`` is a `Signature`. Of arguments by keyword
    nothing is known, so for ``add(2, y=3)`` it is ``RemoteTask[..., int]``.

    Attributes:
        name: The name under which the worker registered it.
        decode: Turns the stored result into the value that the caller gets. None leaves it as JSON gave it. Raise
            ValueError or TypeError in it for a result that is not what it should be.
        argsrepr: What logs and events show of the positional arguments of every call, in their place.
        kwargsrepr: What logs and events show of the keyword arguments of every call, in their place.
    """

    name: str
    decode: Callable[[Any], R] | None = field(default=None, repr=False)
    argsrepr: str | None = field(default=None, repr=False)
    kwargsrepr: str | None = field(default=None, repr=False)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """Bind arguments.

        Args:
            *args: The task's positional arguments.
            **kwargs: The task's keyword arguments.

        Returns:
            What ``call`` and ``send`` take. Nothing is sent yet.
        """
        return Signature(self.name, args, kwargs, self.decode, self.argsrepr, self.kwargsrepr)
