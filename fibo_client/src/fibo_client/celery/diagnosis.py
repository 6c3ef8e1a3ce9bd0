"""Why a task gives no answer: what the queue and the workers know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fibo_client.celery.inspection import Inspect
from fibo_client.celery.protocol import states

if TYPE_CHECKING:
    from fibo_client.celery.engine import Engine
    from fibo_client.celery.result import AsyncResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is known of a task. Print it for a sentence.

    Attributes:
        task_id: The task's id.
        task: The task's name, where it is known.
        state: The stored state; ``PENDING`` where nothing is stored.
        queue: The queue that was looked at.
        depth: How many messages wait in it.
        workers: The node names of the workers that answered.
        listening: Those among them that take tasks from that queue.
        registered: Those among them that know the task by its name; None where the name is not known.
        held: What a worker says about the task: ``active``, ``reserved`` or ``scheduled``, by node name.
    """

    task_id: str
    task: str | None
    state: str
    queue: str
    depth: int
    workers: tuple[str, ...]
    listening: tuple[str, ...]
    registered: tuple[str, ...] | None
    held: dict[str, str]

    def __str__(self) -> str:
        return f"{self.task or 'task'}[{self.task_id}] is {self.state}: {self._finding()}"

    def _finding(self) -> str:
        if self.state in states.READY_STATES:
            return "it is over, and its result is stored"
        if self.held:
            worker, state = next(iter(self.held.items()))
            return f"{worker} holds it ({state})"
        if not self.workers:
            return f"no worker answers on this broker; {self._waiting()}"
        if not self.listening:
            return f"no worker takes tasks from {self.queue!r} (start one with -Q {self.queue}); {self._waiting()}"
        if self.registered is not None and not self.registered:
            return f"no worker knows a task of that name; {self._waiting()}"
        if self.depth:
            return self._waiting()
        return (
            "its queue is empty and no worker holds it: it is over and its result has expired, was deleted or is "
            "stored elsewhere, or it was never sent"
        )

    def _waiting(self) -> str:
        return f"{self.depth} messages wait in {self.queue!r}"


async def diagnose(engine: Engine, result: AsyncResult[Any], *, timeout: float) -> Diagnosis:
    """Ask the result store, the queue and all workers about a task.

    Args:
        engine: The client's running parts.
        result: The task.
        timeout: Seconds that each question to the workers may take.

    Returns:
        What is known.

    Raises:
        TransportError: Redis could not be asked.
    """
    state = await result.state()
    queue = result.queue or engine.config.queue
    inspect = Inspect(engine, None, timeout)
    queues = await inspect.active_queues()
    registered = await inspect.registered() if queues and result.task else {}
    held = await inspect.query_task([result.id]) if queues else {}
    return Diagnosis(
        task_id=result.id,
        task=result.task,
        state=state,
        queue=queue,
        depth=await engine.broker.depth(queue),
        workers=tuple(queues),
        listening=tuple(name for name, taken in queues.items() if queue in _names(taken)),
        registered=None
        if result.task is None
        else tuple(name for name, known in registered.items() if result.task in _registered_names(known)),
        held={name: what for name, answer in held.items() if (what := _held(answer, result.id)) is not None},
    )


def _names(queues: Any) -> set[str]:
    return (
        {each["name"] for each in queues if isinstance(each, dict) and isinstance(each.get("name"), str)}
        if (isinstance(queues, list))
        else set()
    )


def _registered_names(known: Any) -> set[str]:
    # A task with options of its own is listed as "name [rate_limit=...]".
    return {each.split(" ", 1)[0] for each in known if isinstance(each, str)} if isinstance(known, list) else set()


def _held(answer: Any, task_id: str) -> str | None:
    match answer.get(task_id) if isinstance(answer, dict) else None:
        case [str(state), *_]:
            return state
    return None
