"""``fibo call`` of several tasks, and ``fibo result`` of a group that was saved."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from fibo_client.celery import Chain, Chord, Group, Signature
from fibo_client.celery.canvas import signatures_of
from fibo_client.celery.config import UNSET, expiry_of
from fibo_client.celery.flow_results import FlowResult, GroupResult
from fibo_client.celery.protocol import states
from fibo_client.cli.answers import write_error, write_value
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.progress import progress
from fibo_client.cli.queue_hint import QueueHint
from fibo_client.cli.revocation_summary import Expiry, revocation_summary
from fibo_client.cli.runner import report_timeout
from fibo_client.errors import ConfigError, MessageError, ReadError, ResultDecodeError, ResultTimeoutError, TaskError

if TYPE_CHECKING:
    from fibo_client.celery import Flow, SendOptions
    from fibo_client.celery.config import Unset
    from fibo_client.celery.protocol.meta import TaskMeta
    from fibo_client.cli.console import Console
    from fibo_client.client import FiboClient

__all__ = ["call", "saved_group", "send", "stored", "wait"]


async def send(client: FiboClient, console: Console, flow: Flow[Any], options: SendOptions) -> ExitCode:
    """Send a flow, and write its id. A group is saved, so that its id is enough to ask for its results."""
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
    """Run a flow, and write its result. No `timeout` is no limit. An early end revokes all of it."""
    if next(signatures_of(flow), None) is None:  # It has no task to follow.
        await write_value(console, str(uuid.uuid4()), await client.celery.call(flow, timeout=timeout, **options))
        return ExitCode.OK
    own_expiry = options.get("expires")
    expiry = Expiry(own_expiry if isinstance(own_expiry, float) else expiry_of(timeout))
    console.stop_message = lambda counts: revocation_summary("its tasks", counts, expiry.remaining())
    expiry.sent()
    started: Any = client.celery.start(flow, timeout=timeout, **options)
    async with started:
        return await _follow(client, console, started, _label(flow), UNSET, traceback=traceback)


async def saved_group(client: FiboClient, group_id: str, *, timeout: float | None = None) -> GroupResult[Any] | None:
    """Find a saved group by its id. None: there is none, this user may not read it, or Redis did not answer."""
    try:
        async with asyncio.timeout(timeout):
            return await client.celery.group(group_id)
    except (LookupError, ConfigError, MessageError, ReadError, ResultDecodeError, TimeoutError):
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
    return await _follow(client, console, group, f"a group of {len(group)}", timeout, traceback=traceback)


async def _follow(
    client: FiboClient,
    console: Console,
    result: FlowResult[Any],
    label: str,
    timeout: float | Unset | None,
    *,
    traceback: bool,
) -> ExitCode:
    """Show how many tasks have ended, and the progress of those that run. Then write the result."""
    clock = asyncio.get_running_loop().time
    began, ended, total = clock(), 0, len(result.tasks)
    first = result.tasks[0] if total else client.celery.result(result.id)
    async with QueueHint(client, console, task=first.task, queue=first.queue) as hint:
        hint.start()
        with console.progress_bar(label, total) as bar:
            try:
                async for task, meta in result.updates(timeout):
                    if meta.state == states.PENDING:
                        continue
                    hint.cancel()
                    ended += meta.ready
                    bar.update(ended, total, label if meta.ready else f"{task.task or task.id}: {_progress(meta)}")
                value = await result.get(0)
            except ResultTimeoutError as error:
                hint.cancel()
                return await report_timeout(client, console, error, waited=clock() - began)
            except (TaskError, ResultDecodeError) as error:
                return await write_error(console, result.id, error, traceback=traceback)
    await write_value(console, result.id, value)
    return ExitCode.OK


def _progress(meta: TaskMeta) -> str:
    """Write how far a task is, or else its state."""
    found = progress(meta.result)
    if found is None:
        return meta.state
    done, total = found
    return f"{done:,}" if total is None else f"{done:,}/{total:,}"


def _state(metas: list[TaskMeta]) -> str:
    """Return the state of a group that is not over: that of the first member that has not ended."""
    return next((meta.state for meta in metas if not meta.ready), states.PENDING)


def _label(flow: Flow[Any]) -> str:
    """Name a flow in a line."""
    if isinstance(flow, Chain) and all(isinstance(step, Signature) for step in flow.steps):
        return " | ".join(step.task for step in flow.steps if isinstance(step, Signature))
    if isinstance(flow, Chord):
        return f"a chord of {len(flow.header)}"
    return f"a group of {len(flow)}" if isinstance(flow, Group) else "a chain"
