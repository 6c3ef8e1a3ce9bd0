"""``fibo call``, ``result`` and ``revoke``: jobs with tasks of any kind."""

from __future__ import annotations

import asyncio
import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.config import UNSET
from fibo_client.celery.protocol import states
from fibo_client.cli import flows
from fibo_client.cli.answers import write_error, write_value
from fibo_client.cli.exit_codes import ExitCode
from fibo_client.cli.progress import progress
from fibo_client.cli.queue_hint import QueueHint
from fibo_client.cli.revocation_summary import revocation_summary
from fibo_client.cli.runner import INSPECT_TIMEOUT, report_timeout
from fibo_client.errors import ResultDecodeError, ResultTimeoutError, TaskError, TaskRevokedError, TransportError
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.config import Unset
    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.signature import SendOptions, Signature
    from fibo_client.celery.stats import RevocationCounts
    from fibo_client.cli.console import Console
    from fibo_client.client import FiboClient

_REVOCABLE_STATES: Final = (states.PENDING, "RECEIVED", "RETRY")
"""States before a run: a worker that receives the revocation does not begin the task."""

_TERMINATE_HINT: Final = "To end it: fibo revoke --terminate"

_MAX_LISTED: Final = 10
"""The most tasks that a message names."""

__all__ = ["call", "revoke", "send", "stored", "wait"]


async def send(client: FiboClient, console: Console, task: Signature[Any], options: SendOptions) -> ExitCode:
    """Send a task, and write its id."""
    handle = await client.celery.send(task, **options)
    if console.as_json:
        await console.write_json(id=handle.id, task=task.task)
    else:
        await console.write(f"{handle.id}\n")
    return ExitCode.OK


async def call(
    client: FiboClient,
    console: Console,
    task: Signature[Any],
    options: SendOptions,
    *,
    timeout: float | None,
    traceback: bool,
) -> ExitCode:
    """Send a task, wait for its answer and write it. No `timeout` is no limit. An early end revokes the task."""
    result = client.celery.start(task, timeout=timeout, **options)
    label = f"{task.task}[{result.id}]"
    clock = asyncio.get_running_loop().time

    def stop_message(counts: RevocationCounts) -> str:
        seen = states.PENDING if result.cached is None else result.cached.state
        if seen in states.READY_STATES:
            return f"{label} is over ({seen})."
        if seen not in _REVOCABLE_STATES:
            return f"a worker runs {label} ({printable(seen)}), and goes on with it. {_TERMINATE_HINT} {result.id}"
        expires = None if result.expires_at == math.inf else result.expires_at - clock()
        left = revocation_summary(label, counts, expires) or f"{label} was not sent."
        return f"{left} {_TERMINATE_HINT} {result.id}" if counts.delivered else left

    console.stop_message = stop_message
    async with result:
        return await _follow(client, console, result, timeout=UNSET, traceback=traceback)


async def wait(
    client: FiboClient, console: Console, task_id: str, *, timeout: float | None, traceback: bool
) -> ExitCode:
    """Wait for the answer of a task that was sent before, and write it. No `timeout` is no limit."""
    console.stop_message = lambda _: f"the task goes on; wait again: fibo result {task_id} --wait"
    handle = client.celery.result(task_id)
    if await handle.state() == states.PENDING and (group := await flows.saved_group(client, task_id)) is not None:
        return await flows.wait(client, console, group, timeout=timeout, traceback=traceback)
    return await _follow(client, console, handle, timeout=timeout, traceback=traceback)


async def stored(client: FiboClient, console: Console, task_id: str, *, traceback: bool) -> ExitCode:
    """Write the answer of a task if it is stored."""
    handle = client.celery.result(task_id)
    state = await handle.state()
    if state == states.PENDING and (group := await flows.saved_group(client, task_id)) is not None:
        return await flows.stored(client, console, group, traceback=traceback)
    if state in states.READY_STATES:
        return await _write_result(client, console, handle, traceback=traceback)
    if console.as_json:
        await console.write_json(id=task_id, state=state)
    elif state == states.PENDING:
        console.info(
            "PENDING: nothing is stored under this id. The task waits, runs, is unknown, or was over long ago.\n"
            f"Wait for it: fibo result {task_id} --wait\nFind out more: fibo diagnose {task_id}"
        )
    else:
        console.info(f"{printable(state)}: there is no result yet.\nWait for it: fibo result {task_id} --wait")
    return ExitCode.NO_ANSWER


async def revoke(
    client: FiboClient, console: Console, task_ids: Sequence[str], *, terminate: bool, signal: str
) -> ExitCode:
    """Tell all workers not to run tasks, or with `terminate` to kill them by a signal. A saved group is its tasks."""
    groups = await asyncio.gather(
        *(flows.saved_group(client, task_id, timeout=INSPECT_TIMEOUT) for task_id in task_ids)
    )
    task_ids = [
        each
        for task_id, group in zip(task_ids, groups, strict=True)
        for each in ([task_id] if group is None else [task.id for task in group.tasks])
    ]
    heard = await client.celery.revoke(task_ids, terminate=terminate, signal=signal)
    # Workers handle messages in order: these answers come after the revocation.
    running = await _active_nodes(client, task_ids) if heard and not terminate else {}
    others = [task_id for task_id in task_ids if task_id not in running]
    finished = await _finished_states(client, others) if heard and not terminate else {}
    if console.as_json:
        await console.write_json(ids=list(task_ids), workers=heard, running=running, finished=finished)
    elif heard:
        await console.write(f"{heard} {'worker' if heard == 1 else 'workers'} heard it.\n")
        for task_id, node in islice(running.items(), _MAX_LISTED):
            console.info(f"{task_id} runs on {printable(node)}, and goes on. {_TERMINATE_HINT} {task_id}")
        over = {task_id: state for task_id, state in finished.items() if state != states.REVOKED}
        for task_id, state in islice(over.items(), _MAX_LISTED):
            console.info(f"{task_id} is over ({state}): there was nothing to revoke.")
    if not heard:
        console.error("no worker heard it. Start one, such as: fibo-worker start")
        return ExitCode.NO_WORKER
    return ExitCode.OK


async def _active_nodes(client: FiboClient, task_ids: Sequence[str]) -> dict[str, str]:
    """Tell which of these tasks run, and on which workers, as far as workers answer in time."""
    try:
        answers = await client.celery.inspect(timeout=INSPECT_TIMEOUT).query_task(task_ids)
    except TransportError:
        return {}
    return {
        task_id: node
        for node, held in answers.items()
        if isinstance(held, dict)
        for task_id, what in held.items()
        if task_id in task_ids and isinstance(what, list) and what[:1] == ["active"]
    }


async def _finished_states(client: FiboClient, task_ids: Sequence[str]) -> dict[str, str]:
    """Tell which of these tasks are over, and their states, as far as these can be read."""
    reads = (client.celery.result(task_id).state() for task_id in task_ids)
    found = await asyncio.gather(*reads, return_exceptions=True)
    return {
        task_id: state
        for task_id, state in zip(task_ids, found, strict=True)
        if isinstance(state, str) and state in states.READY_STATES
    }


async def _follow(
    client: FiboClient,
    console: Console,
    handle: AsyncResult[Any],
    *,
    timeout: float | Unset | None,
    traceback: bool,
) -> ExitCode:
    label = handle.task or handle.id
    async with QueueHint(client, console, task=handle.task, queue=handle.queue) as hint:
        hint.start()
        with console.progress_bar(label) as bar:
            try:
                async for meta in handle.updates(timeout):
                    if meta.state == states.PENDING:
                        continue
                    hint.cancel()
                    if meta.ready:
                        continue
                    if (found := progress(meta.result)) is not None:
                        bar.update(*found, label)
                    else:
                        bar.update(0, None, f"{label}: {meta.state}")
            except ResultTimeoutError as error:
                hint.cancel()
                return await report_timeout(client, console, error)
        return await _write_result(client, console, handle, traceback=traceback)


async def _write_result(client: FiboClient, console: Console, handle: AsyncResult[Any], *, traceback: bool) -> ExitCode:
    try:
        value = await handle.get(timeout=0)
    except (TaskError, ResultDecodeError) as error:
        # Workers of Celery 5.6 store REVOKED at once, even of a task that goes on.
        revoked = isinstance(error, TaskRevokedError) and error.reason == "revoked"
        running = await _active_nodes(client, [handle.id]) if revoked else {}
        if running and not console.as_json:
            console.error(
                f"{printable(handle.task or 'task')}[{handle.id}] is REVOKED, and still runs on "
                f"{printable(running[handle.id])}, which goes on with it and may yet store its answer. "
                f"{_TERMINATE_HINT} {handle.id}"
            )
            return ExitCode.FAILED
        more = {"running": running[handle.id]} if running else {}
        return await write_error(console, handle.id, error, traceback=traceback, **more)
    await write_value(console, handle.id, value)
    return ExitCode.OK
