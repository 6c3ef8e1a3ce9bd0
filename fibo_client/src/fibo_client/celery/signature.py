"""Tasks with their arguments, and the options that a call may carry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypedDict, TypeGuard, TypeVar

from fibo_client.errors import MessageError
from fibo_client.text import Verbatim, listed, printable, short_repr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Self, Unpack

    # For the types of handles: `send` and `start` give these.
    from fibo_client.celery.flow_results import FlowResult
    from fibo_client.celery.owned_flow import OwnedFlow
    from fibo_client.celery.owned_result import OwnedResult
    from fibo_client.celery.remote_tasks import RemoteTask
    from fibo_client.celery.result import AsyncResult

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
H_co = TypeVar("H_co", covariant=True)


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


NO_OPTIONS: Final[Mapping[str, Any]] = {}
_OPTIONS: Final = frozenset(SendOptions.__annotations__)


class Sendable(Protocol[H_co]):
    """What `CeleryClient.send` takes, by the type of the handle that it gives: a `Flow`, for type checkers."""

    # Overloads would not do: for a task that returns Any several fit, and mypy then gives Any.
    def _sent(self) -> H_co: ...


class Startable(Protocol[H_co]):
    """What `CeleryClient.start` takes, by the type of the handle that it gives: a `Flow`, for type checkers."""

    def _started(self) -> H_co: ...


class Flow(Generic[R_co]):
    """What can be sent, and has one result: a task with its arguments, a chain, a group or a chord."""

    if TYPE_CHECKING:

        def _sent(self) -> AsyncResult[R_co] | FlowResult[R_co]: ...
        def _started(self) -> OwnedResult[R_co] | OwnedFlow[R_co]: ...

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

    if TYPE_CHECKING:

        def _sent(self) -> AsyncResult[R_co]: ...
        def _started(self) -> OwnedResult[R_co]: ...

    def __init__(
        self,
        task: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        decode: Callable[[Any], R_co] | None = None,
        options: Mapping[str, Any] = NO_OPTIONS,
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
        said = [("", each) for each in self.args] if argsrepr is None else [("*", Verbatim(argsrepr))]
        if kwargsrepr is None:
            said += [(f"{name}=", each) for name, each in (self.kwargs or {}).items()]
        else:
            said.append(("**", Verbatim(kwargsrepr)))
        return f"<Signature {printable(self.task)}({listed(said, lambda each: f'{each[0]}{short_repr(each[1])}')})>"


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
    """Return the links of a task. The option is one flow, or a list of them."""
    given = options.get(name)
    if given is None:
        return ()
    return tuple(given) if isinstance(given, (list, tuple)) else (given,)


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
