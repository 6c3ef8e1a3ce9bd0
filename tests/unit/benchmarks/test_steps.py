"""What counts as a step of the event loop."""

import asyncio
import gc
import time
from asyncio import events

from benchmarks.steps import Steps


def work(seconds):
    began = time.thread_time()
    while time.thread_time() - began < seconds:
        pass


async def worker(seconds):
    await asyncio.sleep(0)
    work(seconds)


async def test_the_longest_step_is_that_of_the_task_that_worked():
    steps = Steps()
    with steps.watched():
        await asyncio.gather(worker(0.002), worker(0.02))
    assert steps.longest >= 0.02
    assert steps.longest == max(steps.took)
    assert steps.name() == "worker"


async def test_what_a_step_waits_does_not_count():
    steps = Steps()
    with steps.watched():
        await asyncio.gather(asyncio.to_thread(work, 0.05))
    assert steps.longest < 0.05


async def test_garbage_collection_does_not_count():
    steps = Steps()

    async def collect():
        gc.collect()

    with steps.watched():
        await asyncio.create_task(collect())
    began = time.thread_time()
    gc.collect()
    assert steps.longest < time.thread_time() - began


async def test_the_steps_of_one_task_may_be_left_out():
    steps = Steps(asyncio.current_task())
    with steps.watched():
        await asyncio.sleep(0)
        work(0.02)
        await asyncio.sleep(0)
    assert steps.longest < 0.02


async def test_the_event_loop_is_left_as_it_was():
    run, callbacks = events.Handle._run, list(gc.callbacks)
    with Steps().watched():
        await asyncio.sleep(0)
    assert events.Handle._run is run
    assert gc.callbacks == callbacks
