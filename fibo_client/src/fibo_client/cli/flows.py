"""``fibo call`` of several tasks, and ``fibo result`` of a group that was saved."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from fibo_client.celery import Chain, Chord, Group, Signature
from fibo_client.celery.config import expiry_of
from fibo_client.celery.flow_results import FlowResult, GroupResult
from fibo_client.celery.protocol import states
from fibo_client.cli.answers import write_error, write_value
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.queue_hint import QueueHint
from fibo_client.cli.revocation_summary import Expiry, revocation_summary
from fibo_client.cli.runner import report_timeout
from fibo_client.errors import MessageError, ReadError, ResultDecodeError, ResultTimeoutError, TaskError

if TYPE_CHECKING:
    from fibo_client.celery import Flow, SendOptions
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.cli.console import Console
    from fibo_client.client import FiboClient

__all__ = ["call", "saved_group", "send", "stored", "wait"]


async def send(client: FiboClient, console: Console, flow: Flow[Any], options: SendOptions) -> ExitCode:
    """Send what is composed, and write its id. A group is saved, so that its id is enough to ask for its results."""
    if isinstance(flow, Group) and not all(isinstance(member, Signature) for member in flow.members):
        raise MessageError(
            "the result of a group with chains or chords in it cannot be asked for by one id: let a task follow the "
            "group, or do without --no-wait"
        )
    result: Any = await client.celery.send(flow, **options)
    if isinstance(result, GroupResult):
        await result.save()
    if console.as_json:
        tasks = result.tasks if isinstance(result, FlowResult) else (result,)
        await console.write_json(id=result.id, tasks=[{"id": task.id, "task": task.task} for task in tasks])
    else:
        await console.write(f"{result.id}\n")
    return ExitCode.OK


async def call(
    client: FiboClient,
    console: Console,
    flow: Flow[Any],
    options: SendOptions,
    *,
    timeout: float | None,
    traceback: bool,
) -> ExitCode:
    """Run what is composed, and write its result. No `timeout` is no limit. An early end revokes all of it."""
    flow_id = str(uuid.uuid4())
    own_expiry = options.get("expires")
    expiry = Expiry(own_expiry if isinstance(own_expiry, float) else expiry_of(timeout))
    console.stop_message = lambda counts: revocation_summary("its tasks", counts, expiry.remaining())
    given: SendOptions = {**options, "task_id": flow_id}
    first = _first(flow)
    own = {} if first is None else first.options
    queue = own.get("queue") or options.get("queue") or client.config.queue
    async with QueueHint(client, console, task=None if first is None else first.task, queue=queue) as hint:
        hint.start()
        with console.progress_bar(_told(flow)):
            expiry.sent()
            try:
                value = await client.celery.call(flow, timeout=timeout, **given)
            except ResultTimeoutError as error:
                hint.cancel()
                return await report_timeout(client, console, error)
            except (TaskError, ResultDecodeError) as error:
                return await write_error(console, flow_id, error, traceback=traceback)
    await write_value(console, flow_id, value)
    return ExitCode.OK


async def saved_group(client: FiboClient, group_id: str) -> GroupResult[Any] | None:
    """Find a group by its id. None is no such group, or that this user of Redis may not ask."""
    try:
        return await client.celery.group(group_id)
    except (LookupError, ReadError, ResultDecodeError):
        return None


async def stored(client: FiboClient, console: Console, group: GroupResult[Any], *, traceback: bool) -> ExitCode:
    """Write the results of a group if all are stored."""
    metas = await group.metas()
    ended = sum(meta.ready for meta in metas)
    if await group.ready():
        return await wait(client, console, group, timeout=0, traceback=traceback)
    if console.as_json:
        await console.write_json(id=group.id, state=_state(metas), ended=ended, of=len(metas))
    else:
        console.info(
            f"{ended} of {len(metas)} members of this group have ended.\nWait for it: fibo result {group.id} --wait"
        )
    return ExitCode.NO_ANSWER


async def wait(
    client: FiboClient, console: Console, group: GroupResult[Any], *, timeout: float | None, traceback: bool
) -> ExitCode:
    """Wait for the results of a group, and write them as a list. No `timeout` is no limit."""
    console.stop_message = lambda _: f"the tasks go on; wait again: fibo result {group.id} --wait"
    with console.progress_bar(f"a group of {len(group)}"):
        try:
            values = await group.get(timeout)
        except ResultTimeoutError as error:
            return await report_timeout(client, console, error)
        except (TaskError, ResultDecodeError) as error:
            return await write_error(console, group.id, error, traceback=traceback)
    await write_value(console, group.id, values)
    return ExitCode.OK


def _state(metas: list[TaskMeta]) -> str:
    """Give the state of a group that is not over: that of the first member that has not ended."""
    return next((meta.state for meta in metas if not meta.ready), states.PENDING)


def _first(flow: Any) -> Signature[Any] | None:
    """Give the task that runs first."""
    while not isinstance(flow, Signature):
        parts = flow.steps if isinstance(flow, Chain) else (flow.header if isinstance(flow, Chord) else flow).members
        if not parts:
            return None
        flow = parts[0]
    return flow


def _told(flow: Flow[Any]) -> str:
    """Name what runs, in a line."""
    if isinstance(flow, Chain) and all(isinstance(step, Signature) for step in flow.steps):
        return " | ".join(step.task for step in flow.steps if isinstance(step, Signature))
    if isinstance(flow, Chord):
        return f"a chord of {len(flow.header)}"
    return f"a group of {len(flow)}" if isinstance(flow, Group) else "a chain"
