"""``fibo call``, ``result`` and ``revoke``: jobs with tasks of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from fibo_client.celery.protocol import states
from fibo_client.celery.work import EXPIRY_MARGIN
from fibo_client.cli.desk import answer, plain
from fibo_client.cli.exits import Exit
from fibo_client.cli.parting import fate
from fibo_client.cli.running import explain, no_answer
from fibo_client.errors import ResultDecodeError, ResultTimeoutError, TaskError, TaskFailedError, TransportError
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fibo_client.celery.result import AsyncResult
    from fibo_client.celery.task import SendOptions
    from fibo_client.cli.desk import Desk
    from fibo_client.client import FiboClient

__all__ = ["call", "revoke", "send", "stored", "wait"]


async def send(
    client: FiboClient, desk: Desk, task: str, args: list[Any], kwargs: dict[str, Any], options: SendOptions
) -> Exit:
    """Send a task, and write its id.

    Args:
        client: An open client.
        desk: Where to write.
        task: The task's name.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        options: How to send it.

    Returns:
        The exit status.
    """
    handle = await client.celery.send_task(task, args, kwargs, **options)
    if desk.as_json:
        await desk.record(id=handle.id, task=task)
    else:
        await desk.write(f"{handle.id}\n")
    return Exit.OK


async def call(
    client: FiboClient,
    desk: Desk,
    task: str,
    args: list[Any],
    kwargs: dict[str, Any],
    options: SendOptions,
    *,
    timeout: float | None,
    traceback: bool,
) -> Exit:
    """Send a task, wait for its answer and write that. A task that is not waited for to the end is revoked.

    Args:
        client: An open client.
        desk: Where to write.
        task: The task's name.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        options: How to send it.
        timeout: Seconds for all of it. None is no limit.
        traceback: Whether to show the traceback of a task that failed.

    Returns:
        The exit status.
    """  # noqa: DOC501 - a cancellation passes through
    # `CeleryClient.call` would do the same, but for the progress.
    client.celery.engine.check_readable()  # Or it would be sent, and its answer asked for in vain.
    if timeout is not None:
        options.setdefault("expires", timeout + EXPIRY_MARGIN)
    task_id = options["task_id"] = str(uuid.uuid4())
    label = f"{task}[{task_id}]"
    expires = options.get("expires")
    seconds = expires if isinstance(expires, (int, float)) else None
    desk.parting = lambda told: fate(label, told, seconds)
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        handle = await client.celery.send_task(task, args, kwargs, timeout=timeout, **options)
        spent = clock() - began
        left = None if timeout is None else max(0.0, timeout - spent)
        status = await _follow(client, desk, handle, timeout=left, spent=spent, traceback=traceback)
    except asyncio.CancelledError:
        engine = client.celery.engine
        if engine.broker.weather.reached:
            engine.tidier.revoke([task_id])  # As the client does for what it owns: while it closes, and not for long.
        else:
            desk.parting = lambda _: f"{label} was not sent."
        raise
    if handle.cached is not None and handle.cached.ready:
        with contextlib.suppress(TransportError):  # The answer is written, and what is stored expires.
            await handle.forget()
    return status


async def wait(client: FiboClient, desk: Desk, task_id: str, *, timeout: float | None, traceback: bool) -> Exit:
    """Wait for the answer of a task that was sent before, and write it.

    Args:
        client: An open client.
        desk: Where to write.
        task_id: The task's id.
        timeout: Seconds to wait. None is no limit.
        traceback: Whether to show the traceback of a task that failed.

    Returns:
        The exit status.
    """
    desk.parting = lambda _: f"the task goes on; wait again: fibo result {task_id} --wait"
    handle = client.celery.result(task_id)
    return await _follow(client, desk, handle, timeout=timeout, traceback=traceback)


async def stored(client: FiboClient, desk: Desk, task_id: str, *, traceback: bool) -> Exit:
    """Write the answer of a task if it is there.

    Args:
        client: An open client.
        desk: Where to write.
        task_id: The task's id.
        traceback: Whether to show the traceback of a task that failed.

    Returns:
        The exit status.
    """
    handle = client.celery.result(task_id)
    state = await handle.state()
    if state in states.READY_STATES:
        return await _answer(desk, handle, traceback=traceback)
    if desk.as_json:
        await desk.record(id=task_id, state=state)
    elif state == states.PENDING:
        desk.say(
            "PENDING: nothing is stored under this id. The task waits, runs, is unknown, or was over long ago.\n"
            f"Wait for it: fibo result {task_id} --wait\nFind out more: fibo diagnose {task_id}"
        )
    else:
        desk.say(f"{printable(state)}: there is no result yet.\nWait for it: fibo result {task_id} --wait")
    return Exit.NO_ANSWER


async def revoke(client: FiboClient, desk: Desk, task_ids: Sequence[str], *, terminate: bool, signal: str) -> Exit:
    """Tell all workers not to run tasks.

    Args:
        client: An open client.
        desk: Where to write.
        task_ids: Their ids.
        terminate: Whether to end those that run.
        signal: How.

    Returns:
        The exit status.
    """
    heard = await client.celery.revoke(task_ids, terminate=terminate, signal=signal)
    if desk.as_json:
        await desk.record(revoked=list(task_ids), workers=heard)
    elif heard:
        await desk.write(f"{heard} {'worker' if heard == 1 else 'workers'} heard it.\n")
    if not heard:
        desk.error("no worker heard it. Start one, such as: fibo-worker start")
        return Exit.NO_WORKER
    return Exit.OK


async def _follow(
    client: FiboClient,
    desk: Desk,
    handle: AsyncResult[Any],
    *,
    timeout: float | None,
    traceback: bool,
    spent: float = 0.0,
) -> Exit:
    with desk.progress(handle.task or handle.id) as bar:
        try:
            async for meta in handle.updates(timeout):
                match meta.result:
                    case {"current": int(done), "total": int(total)} if not meta.ready:
                        bar.update(done, total)
        except ResultTimeoutError as error:
            return await no_answer(client, desk, error, handle.queue, waited=spent + error.waited)
    return await _answer(desk, handle, traceback=traceback)


async def _answer(desk: Desk, handle: AsyncResult[Any], *, traceback: bool) -> Exit:
    try:
        value = await handle.get(timeout=0)
    except (TaskError, ResultDecodeError) as error:
        if not desk.as_json:
            return explain(desk, error, traceback=traceback)
        told: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
        if isinstance(error, TaskError):
            told["info"] = error.info
        if isinstance(error, TaskFailedError):
            told |= {"exc_type": error.exc_type, "exc_args": error.exc_args, "traceback": error.traceback}
        await desk.record(id=handle.id, **told)
        return Exit.FAILED
    if desk.as_json:
        await desk.record(id=handle.id, value=value)
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=plain, ensure_ascii=False)
        await desk.write(f"{answer(text) if desk.terminal else text}\n")
    return Exit.OK
