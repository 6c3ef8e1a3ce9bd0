"""How chains, groups and chords are sent and awaited whole, and how groups that were saved are found."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fibo_client.celery.budget import EACH, in_turns
from fibo_client.celery.canvas import signatures_of
from fibo_client.celery.flow_encoder import FlowEncoder
from fibo_client.celery.flow_results import FlowResult, GroupResult, from_tuple, value_of, value_of_all, wanted_in_turns
from fibo_client.celery.flow_steps import NAMED, named
from fibo_client.celery.gather import call_pieces
from fibo_client.celery.jobs import Sizes
from fibo_client.celery.owned_result import prepare_many
from fibo_client.celery.plan import Plan
from fibo_client.celery.protocol.groups import group_name
from fibo_client.celery.protocol.jsontypes import loads_plain
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.result import AsyncResult
from fibo_client.celery.signature import Flow, Signature
from fibo_client.errors import ResultDecodeError
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fibo_client.celery.flow_encoder import Routed
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import SendOptions
    from fibo_client.telemetry.tracer import SendSpan

T = TypeVar("T")

_NOTHING: Final[Mapping[str, Any]] = {}


async def send_flow(
    session: Session,
    flow: Flow[Any],
    options: SendOptions,
    *,
    timeout: float | None,
    retry: bool,
    began: float,
) -> Any:
    """Send a chain, a group, a chord, or a task with links. See `CeleryClient.send`."""
    flow = override_options(flow, options)
    encoder, span = start_flows(session, flow, options)
    plan = Plan(encoder)
    await in_turns(plan.add(flow), EACH)
    session.check()
    if plan.messages:
        await session.publish(
            plan.messages,
            span,
            timeout=timeout,
            retry=retry,
            sizes=Sizes(plan.sizes),
            counters=plan.counters,
            began=began,
        )
    return plan.result


async def call_flow(
    session: Session, flow: Flow[Any], options: SendOptions, *, timeout: float | None, began: float, **own: Any
) -> Any:
    """Send a chain, a group, a chord, or a task with links, and wait for its result. See `CeleryClient.call`."""
    defaults, own_expiry = await prepare_many(signatures_of(flow), options, timeout)
    flow = override_options(flow, options)
    encoder, span = start_flows(session, flow, options, defaults)
    plan = Plan(encoder)
    await in_turns(plan.add(flow), EACH)
    session.check()
    return await call_plan(session, plan, span, timeout=timeout, began=began, expiry_is_timeout=not own_expiry, **own)


async def call_plan(session: Session, plan: Plan, span: SendSpan, **options: Any) -> Any:
    """Send what was planned, and wait for its result.

    Args:
        session: The client's running parts.
        plan: What was planned.
        span: From `start_flows`.
        **options: As for `call_pieces`.

    Returns:
        The result.

    Raises:
        FiboError: As for `call_pieces`.
    """
    if not plan.tasks:
        return value_of(plan.result, {})  # It is an empty group, or ends with one.
    wanted = await wanted_in_turns(plan.result, len(plan.tasks))
    try:
        values = await call_pieces(
            session,
            plan.messages,
            plan.tasks,
            plan.pieces,
            span,
            wanted=wanted,
            sizes=Sizes(plan.sizes),
            counters=plan.counters,
            **options,
        )
    except NAMED as error:
        told = await named(plan.result, error) if isinstance(plan.result, FlowResult) else error
        raise told from None
    return await value_of_all(plan.result, plan.tasks, values)


def start_flows(
    session: Session,
    first: Flow[Any],
    options: SendOptions,
    defaults: Mapping[str, Any] = _NOTHING,
    *,
    batch: bool = False,
    handle: type[AsyncResult[Any]] = AsyncResult,
) -> tuple[FlowEncoder, SendSpan]:
    """Begin to send flows.

    Args:
        session: The client's running parts.
        first: The first of them, of whose first task the span tells the options.
        options: The options of the call.
        defaults: Options of which nothing says anything.
        batch: Whether there may be several.
        handle: Makes the handle of a task.

    Returns:
        What encodes them, and the span of their messages.
    """
    span: SendSpan = NOOP_SPAN
    told: Routed | None = None
    for task in islice(signatures_of(first), 1):  # It may have none.
        routed = task if session.routes is None else session.routes.apply(task, options)
        span = session.start_send(routed, options, batch=batch or not isinstance(first, Signature))
        told = task, routed
    return FlowEncoder(session, options, span, defaults, handle, told), span


def override_options(flow: Flow[T], options: SendOptions) -> Flow[T]:
    """Let the options of a call win over those of a single task with links. In other flows, a task's own win."""
    if not isinstance(flow, Signature):
        return flow
    given = {name: value for name, value in options.items() if name != "task_id"}
    return replace(flow, options={**flow.options, **given})


async def read_group(session: Session, group_id: str) -> GroupResult[Any]:
    """Read a group that was saved. See `CeleryClient.group`."""
    session.check()
    session.check_readable()
    stored = await session.backend.get(group_name(check_name("group_id", group_id)))
    if stored is None:
        raise LookupError(
            f"no group {group_id} is stored: it was not saved, or has expired. Its tasks are found by their own ids"
        )
    try:
        meta = loads_plain(stored)
        result = from_tuple(session, meta["result"] if isinstance(meta, dict) else None)
        if not isinstance(result, GroupResult):
            raise TypeError("it is a task")
    except (ResultDecodeError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ResultDecodeError(f"what is stored of the group is something else: {error}", group_id) from error
    return result
