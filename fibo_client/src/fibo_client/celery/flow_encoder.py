"""From chains, groups and chords to messages: each of their tasks is checked, and written, before anything is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.budget import PIECE
from fibo_client.celery.canvas import OF_THE_FIRST
from fibo_client.celery.encoder import MAX_TEMPLATES, NOT_SENT
from fibo_client.celery.plan import Task, plan_in_steps
from fibo_client.celery.protocol.message import arguments_json
from fibo_client.celery.protocol.options import check_name
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from fibo_client.celery.encoder import Call, Encoder, Later
    from fibo_client.celery.plan import Plan, Where
    from fibo_client.celery.protocol.message import TaskMessage
    from fibo_client.celery.signature import Flow, SendOptions, Signature
    from fibo_client.telemetry.tracer import SendSpan

_NOTHING: Final[Mapping[str, Any]] = {}


class FlowEncoder:
    """Plans and encodes the flows of one call. It implements `fibo_client.celery.plan.Steps`.

    Args:
        encoder: Encodes tasks.
        options: The options of the call. Each task has them, unless it says otherwise.
        span: Is told of each task, and may add headers.
        defaults: Options of which neither says anything.
        route: Gives a task the options of its route. None is no routes.

    Raises:
        MessageError: The id of the whole cannot be one.
    """

    def __init__(
        self,
        encoder: Encoder,
        options: SendOptions,
        span: SendSpan,
        defaults: Mapping[str, Any] = _NOTHING,
        route: Callable[[Signature[Any]], Signature[Any]] | None = None,
    ) -> None:
        self._encoder = encoder
        self._given: dict[str, Any] = {**defaults, **options}
        self._flow_id = check_name("task_id", self._given.pop("task_id")) if "task_id" in options else None
        self._given_later = {name: value for name, value in self._given.items() if name not in OF_THE_FIRST}
        self._span = span
        self._route = route
        self._own_ids: set[str] = set()
        # By the identity of a task's options, which are kept: many tasks have the same.
        self._calls: dict[int, tuple[Mapping[str, Any], Call]] = {}
        self._laters: dict[tuple[str, int], tuple[Mapping[str, Any], Later]] = {}
        self.new_id: Callable[[], str] = encoder.new_id

    def plan(self, flow: Flow[Any]) -> Generator[None, None, Plan]:
        """Encode what runs at once of a flow, with all that its workers are to send later.

        Args:
            flow: A task, a chain, a group or a chord.

        Returns:
            The steps, which end with the plan. They raise MessageError for what a worker could not take.
        """
        return plan_in_steps(flow, self, PIECE, self._flow_id)

    def id_of(self, signature: Signature[Any], flow_id: str | None, *, may_repeat: bool) -> str:
        """See `Steps.id_of`."""
        own_id = signature.options.get("task_id") if flow_id is None else flow_id
        if own_id is None:
            return self.new_id()
        own_id = check_name("task_id", own_id)
        if may_repeat:
            return own_id
        if own_id in self._own_ids:
            raise MessageError(f"two of the tasks have the same task_id, {own_id}; nothing was sent")
        self._own_ids.add(own_id)
        return own_id

    def first(self, signature: Signature[Any], task_id: str, where: Where) -> TaskMessage:
        """See `Steps.first`."""
        if self._route is not None:
            signature = self._route(signature)
        options = signature.options
        known = self._calls.get(id(options))
        if known is None:
            own = {name: value for name, value in options.items() if name not in NOT_SENT}
            known = options, self._encoder.call({**self._given, **own}, self._span)
            if len(self._calls) == MAX_TEMPLATES:
                self._calls.clear()
            self._calls[id(options)] = known
        message = known[1].message(signature, task_id, *where)
        self._encoder.check(message)
        return message

    def later(self, signature: Signature[Any], task_id: str, more: str) -> tuple[str, Task]:
        """See `Steps.later`."""
        if self._route is not None:
            signature = self._route(signature)
        options, task = signature.options, signature.task
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
            arguments_json(signature.args, signature.kwargs or {}, self._encoder.types),
            task_id,
            more,
            immutable=signature.is_immutable,
            headers=headers,
        )
        return written, Task(task_id, signature, later.queue, later.ignored, is_first=False)
