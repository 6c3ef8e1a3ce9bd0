"""How chains, groups and chords are sent and awaited whole, and how groups that were saved are found."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from fibo_client.celery.budget import EACH, in_turns
from fibo_client.celery.canvas import Chain, Chord, Group
from fibo_client.celery.flow_encoder import FlowEncoder
from fibo_client.celery.flow_results import (
    EXPIRES,
    GROUP,
    RESULT,
    FlowResult,
    GroupResult,
    from_tuple,
    handle_of,
    make_in_steps,
    value_of,
    wanted_of,
)
from fibo_client.celery.gather import call_job
from fibo_client.celery.owned_result import prepare_owned
from fibo_client.celery.plan import groups_of
from fibo_client.celery.protocol.jsontypes import loads_plain
from fibo_client.celery.protocol.options import check_name
from fibo_client.celery.signature import Flow, Signature
from fibo_client.errors import ConfigError, PublishError, ResultDecodeError, ResultTimeoutError, TransportError
from fibo_client.telemetry.tracer import NOOP_SPAN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fibo_client.celery.plan import Plan
    from fibo_client.celery.session import Session
    from fibo_client.celery.signature import SendOptions
    from fibo_client.telemetry.tracer import SendSpan


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
    if _is_empty(flow):
        return GroupResult[Any](session, (), options.get("task_id") or str(uuid.uuid4()))
    encoder, span = _encoder(session, flow, options, {})
    planned = await in_turns(encoder.plan(flow), EACH)
    session.check()
    if planned.messages:
        await _store_sizes(session, planned)
        counters = _counters(planned)
        await session.publish(planned.messages, span, timeout=timeout, retry=retry, counters=counters, began=began)
    return await in_turns(make_in_steps(session, planned.result, partial(handle_of, session)))


async def call_flow(
    session: Session,
    flow: Flow[Any],
    options: SendOptions,
    *,
    timeout: float | None,
    retry: bool,
    keep_result: bool,
    terminate_on_cancel: bool,
    began: float,
) -> Any:
    """Send a chain, a group, a chord, or a task with links, and wait for its result. See `CeleryClient.call`."""
    if _is_empty(flow):
        return []
    defaults, own_expiry = prepare_owned(_signatures(flow), options, timeout)
    encoder, span = _encoder(session, flow, options, defaults)
    planned = await in_turns(encoder.plan(flow), EACH)
    session.check()
    result = await in_turns(make_in_steps(session, planned.result, partial(handle_of, session)))
    tasks = result.tasks if isinstance(result, FlowResult) else (result,)
    if not tasks:
        return value_of(result, {})
    session.check_room(len(tasks))
    await _store_sizes(session, planned)
    try:
        values = await call_job(
            session,
            planned.messages,
            tasks,
            span,
            timeout=timeout,
            began=began,
            expiry_is_timeout=not own_expiry,
            retry=retry,
            wanted=wanted_of(result),
            counters=_counters(planned),
            keep_results=keep_result,
            terminate_on_cancel=terminate_on_cancel,
        )
    except ResultTimeoutError as error:
        named = result.named(error) if isinstance(result, FlowResult) else error
        raise named from None
    return value_of(result, {task.id: value for task, value in zip(tasks, values, strict=True)})


def _is_empty(flow: Flow[Any]) -> bool:
    """Tell whether there is nothing to send: of all that is composed, a group alone may be empty."""
    return isinstance(flow, Group) and not flow.members


def _encoder(
    session: Session, first: Flow[Any], options: SendOptions, defaults: Mapping[str, Any]
) -> tuple[FlowEncoder, SendSpan]:
    """Begin to send flows: give what encodes them, and the span of their messages."""
    routes = session.routes
    route = None if routes is None else lambda each: routes.apply(each, options)
    task = next(_signatures(first), None)
    span: SendSpan = NOOP_SPAN
    if task is not None:
        batch = not isinstance(first, Signature)
        span = session.start_send(task if route is None else route(task), options, batch=batch)
    return FlowEncoder(session.encoder, options, span, defaults, route), span


def _signatures(flow: Any) -> Iterator[Signature[Any]]:
    if isinstance(flow, Signature):
        yield flow
    elif isinstance(flow, Chord):
        yield from _signatures(flow.header)
        yield from _signatures(flow.body)
    else:
        for part in flow.steps if isinstance(flow, Chain) else flow.members:
            yield from _signatures(part)


async def _store_sizes(session: Session, planned: Plan) -> None:
    """Store how many results each chord waits for, before any of them can come.

    Raises:
        ConfigError: There is no broker, or no result can be counted where they are stored; nothing was sent.
        PublishError: It could not be stored, so nothing was sent.
    """
    if planned.sizes and session.broker.unusable is not None:
        raise ConfigError(session.broker.unusable)
    if planned.sizes and session.backend.unreadable is not None:
        raise ConfigError(f"a chord counts results where they are stored. {session.backend.unreadable}")
    try:
        for group_id, size in planned.sizes.items():
            await session.backend.put(f"{GROUP}{group_id}.s", str(size).encode(), expires=EXPIRES)
    except TransportError as error:
        reason = f"the size of a chord could not be stored: {error}"
        raise PublishError(reason, [message.id for message in planned.messages], refused=error.refused) from error
    except BaseException:
        session.cleaner.delete([f"{GROUP}{group_id}.s" for group_id in planned.sizes], named=True)
        raise


def _counters(planned: Plan) -> list[str]:
    # What chords count; and the error of a step before a group or a chord, which workers store under the group's id.
    names = []
    for group in groups_of(planned.result):
        names.append(f"{RESULT}{group.id}")
        if isinstance(group.flow, Chord):
            names += [f"{GROUP}{group.id}.{kind}" for kind in ("s", "j", "d", "t")]
    return names


async def read_group(session: Session, group_id: str) -> GroupResult[Any]:
    """Read a group that was saved. See `CeleryClient.group`."""
    session.check()
    session.check_readable()
    stored = await session.backend.get(f"{GROUP}{check_name('group_id', group_id)}")
    if stored is None:
        raise LookupError(f"no group {group_id} is stored: it was not saved, or has expired")
    try:
        meta = loads_plain(stored)
        result = from_tuple(session, meta["result"] if isinstance(meta, dict) else None)
        if not isinstance(result, GroupResult):
            raise TypeError("it is a task")
    except (ResultDecodeError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ResultDecodeError(f"what is stored of the group is something else: {error}", group_id) from error
    return result
