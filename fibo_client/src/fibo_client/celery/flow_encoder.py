"""From chains, groups and chords to messages: each of their tasks is checked, and written, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fibo_client.celery.canvas import OF_THE_FIRST
from fibo_client.celery.encoder import MAX_TEMPLATES, NOT_SENT
from fibo_client.celery.flow_results import result_of
from fibo_client.celery.protocol.message import arguments_json
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.result import AsyncResult
from fibo_client.celery.signature import Signature
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fibo_client.celery.encoder import Call, Later
    from fibo_client.celery.flow_results import FlowResult
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import Flow, SendOptions
    from fibo_client.telemetry.tracer import SendSpan

_NOTHING: Final[Mapping[str, Any]] = {}
_NO_KWARGS: Final[dict[str, Any]] = {}

Routed: TypeAlias = tuple[Signature[Any], Signature[Any]]
"""A task without, and with, the options of its route."""


class FlowEncoder:
    """Encodes the tasks of the flows of one call, and makes the handles. `Plan` says what stands where.

    Args:
        session: The client's running parts.
        options: The options of the call. Each task has them, unless it says otherwise.
        span: Is told of each task, and may add headers.
        defaults: Options of which neither says anything.
        handle: Makes the handle of a task.
        first: The task whose route the span tells. A routing function is asked for it once.

    Attributes:
        own_ids: The ids that the caller gave to tasks.
        flow_id: The id that the caller gave to the whole: to a chain's last step, a chord's body, a group.
        new_id: Makes the id of a group.

    Raises:
        MessageError: The id of the whole cannot be one.
    """

    def __init__(
        self,
        session: Session,
        options: SendOptions,
        span: SendSpan,
        defaults: Mapping[str, Any] = _NOTHING,
        handle: type[AsyncResult[Any]] = AsyncResult,
        first: Routed | None = None,
    ) -> None:
        self._session = session
        self._first = first
        self._routes = session.routes
        self._encoder = session.encoder
        self._types = session.encoder.types
        self._options = options
        self._given: dict[str, Any] = {**defaults, **options}
        self._given.pop("task_id", None)
        self.flow_id: str | None = check_name("task_id", options["task_id"]) if "task_id" in options else None
        self._given_later = {name: value for name, value in self._given.items() if name not in OF_THE_FIRST}
        self._span = span
        self._handle = handle
        self.own_ids: set[str] = set()
        # By the identity of a task's options, which many tasks share. Keeping them keeps their identity.
        self._calls: dict[int, tuple[Mapping[str, Any], Call]] = {}
        self._laters: dict[tuple[str, int], tuple[Mapping[str, Any], Later]] = {}
        self.new_id: Callable[[], str] = self._encoder.new_id

    def routed(self, signature: Signature[Any]) -> Signature[Any]:
        """Give a task the options of its route, where there is any."""
        if self._first is not None and signature is self._first[0]:
            routed, self._first = self._first[1], None
            return routed
        return signature if self._routes is None else self._routes.apply(signature, self._options)

    def _own_id(self, own_id: object, *, may_repeat: bool = False) -> str:
        """Check the id that the caller gave to a task."""
        own_id = check_name("task_id", own_id)
        if may_repeat:
            return own_id
        if own_id in self.own_ids:
            raise MessageError(f"two of the tasks have the same task_id, {own_id}; nothing was sent")
        self.own_ids.add(own_id)
        return own_id

    def first(
        self,
        signature: Signature[Any],
        flow_id: str | None,
        group: tuple[str, int] | None,
        root: str | None,
        embed: str | None,
    ) -> tuple[TaskMessage, AsyncResult[Any]]:
        """Make the message of a task that runs at once, and its handle.

        Args:
            signature: The task.
            flow_id: Its id, where that was given.
            group: The id of its group, and its index there. None is no group.
            root: The id of the first task of the flow. None is itself.
            embed: What its worker is to send later, from `embed_json`. None is nothing.

        Returns:
            The message, and the handle.

        Raises:
            MessageError: A worker could not take the message, or two tasks have the same id.
        """
        if self._routes is not None:
            signature = self.routed(signature)
        options = signature.options
        own_id = options.get("task_id") if flow_id is None else flow_id
        task_id = self.new_id() if own_id is None else self._own_id(own_id)
        known = self._calls.get(id(options))
        if known is None:
            own = {name: value for name, value in options.items() if name not in NOT_SENT}
            known = options, self._encoder.call({**self._given, **own}, self._span)
            if len(self._calls) == MAX_TEMPLATES:
                self._calls.clear()
            self._calls[id(options)] = known
        message = known[1].message(signature, task_id, group, root, embed)
        self._encoder.check(message)
        template = message.template
        return message, self._handle(
            self._session,
            task_id,
            task=signature.task,
            queue=template.queue,
            decode=signature.decode,
            ignored=template.headers["ignore_result"],
            handed_out=True,
        )

    def later(
        self, signature: Signature[Any], flow_id: str | None, more: str, may_repeat: bool
    ) -> tuple[str, AsyncResult[Any]]:
        """Write a task that a worker sends later, as a signature in JSON.

        Args:
            signature: The task.
            flow_id: Its id, where that was given.
            more: More options, as JSON has them.
            may_repeat: Whether its id may repeat: several tasks may have the same link, of which one alone runs.

        Returns:
            The signature, and the handle.

        Raises:
            MessageError: A worker could not take the message, or two tasks have the same id.
        """
        if self._routes is not None:
            signature = self.routed(signature)
        options, task = signature.options, signature.task
        own_id = options.get("task_id") if flow_id is None else flow_id
        task_id = self.new_id() if own_id is None else self._own_id(own_id, may_repeat=may_repeat)
        if type(task) is not str:
            task = check_name("task", task)
        known = self._laters.get((task, id(options)))
        if known is None:
            known = options, self._encoder.later(signature, self._given_later)
            if len(self._laters) == MAX_TEMPLATES:
                self._laters.clear()
            self._laters[task, id(options)] = known
        later = known[1]
        headers = None
        if self._span is not NOOP_SPAN and (added := self._span.inject(task, task_id)):
            headers = later.joined(added)
        written = later.signature.fill(
            arguments_json(signature.args, signature.kwargs or _NO_KWARGS, self._types),
            task_id,
            more,
            signature.is_immutable,
            headers,
        )
        return written, self._handle(
            self._session, task_id, task=task, queue=later.queue, decode=signature.decode, ignored=later.ignored
        )

    def result(self, flow: Flow[Any], group_id: str | None, parts: list[Any]) -> FlowResult[Any]:
        """Make the result of a chain, a group or a chord from those of its parts. See `result_of`."""
        return result_of(self._session, flow, group_id, parts)
