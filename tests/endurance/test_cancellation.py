"""Every public call, interrupted at every step of the event loop that it takes, on a real Redis with a real worker."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import math
from contextlib import aclosing, asynccontextmanager
from functools import partial

import pytest
import redis.asyncio
from support.hand import NAME, Hand
from support.steps import WAYS, SteppedLoop, by_cancel
from support.waiting import eventually

from fibo_client import FiboClient
from fibo_client.celery import RemoteTask
from fibo_client.celery.publisher import MAX_IN_FLIGHT
from fibo_client.contract import FIBO_TASK, FIBONACCI, SQRT_TASK

MOST_STEPS = 400
"""More than any of the calls takes, also on a busy machine."""

FINISHED_IN_A_ROW = 2
"""How often a call must have been over before it could be interrupted: one run may be quicker than most."""

NUMBER, ANSWER = 8, 21
ROOT = RemoteTask[[float], float](SQRT_TASK.name, chunkable=True)


@dataclasses.dataclass
class Stage:
    """One client for all calls, and what they need."""

    runner: asyncio.Runner
    client: FiboClient
    admin: redis.asyncio.Redis
    done: str = ""

    @property
    def celery(self):
        return self.client.celery

    def handle(self):
        """The handle of a task that is over. It has not seen the result yet."""
        return self.celery.result(self.done, FIBONACCI)

    async def connections(self, name="fibo-client") -> int:
        return sum(each["user"] == name for each in await self.admin.client_list())

    async def is_unsubscribed(self) -> bool:
        return not await self.admin.pubsub_channels("celery-task-meta-*")


@pytest.fixture(scope="module")
def stage(worker):
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=SteppedLoop) as runner:
        # What nobody waits for any more is dropped sooner than after a second: each test looks for it.
        patch.setattr("fibo_client.celery.reader.STALE_FOR", 0.05)

        async def enter():
            client = await FiboClient(worker.url, timeout=20).open()
            admin = redis.asyncio.Redis.from_url(worker.admin_url)
            stage = Stage(runner, client, admin)
            handle = await client.submit(NUMBER)
            assert await handle.get() == ANSWER
            return dataclasses.replace(stage, done=handle.id)

        async def leave():
            await stage.client.aclose()
            await eventually(lambda: none_of(stage.connections()))
            await stage.admin.connection_pool.disconnect()
            assert len(asyncio.all_tasks()) == 1

        stage = runner.run(enter())
        yield stage
        runner.run(leave())


async def none_of(count) -> bool:
    return await count == 0


# The calls. Each checks its answer, if it comes to that.


async def fibonacci(stage):
    assert await stage.client.fibonacci(NUMBER) == ANSWER


async def fibonacci_many(stage):
    assert await stage.client.fibonacci_many([4, 3, 8, 6, 10, 4], chunk_size=2) == [3, 2, 21, 8, 55, 3]


async def stream(stage):
    async with stage.client.stream([4, 3, 8, 6], max_in_flight=2) as results:
        assert sorted([pair async for pair in results]) == [(3, 2), (4, 3), (6, 8), (8, 21)]


async def stream_of_an_async_generator(stage):
    closed = asyncio.Event()

    async def source():
        try:
            for n in (4, 3, 8, 6):
                await asyncio.sleep(0)  # A step at which it can be interrupted.
                yield n
        finally:
            await asyncio.sleep(0)  # Another.
            closed.set()

    async with stage.client.stream(source(), max_in_flight=2, ordered=True) as results:
        assert await anext(results) == (4, 3)
    assert closed.is_set()


async def sqrt(stage):
    assert await stage.client.sqrt(2) == math.sqrt(2)


async def fibo_task(stage):
    n, sentence = await stage.client.fibo_task(10)
    assert n == 10
    assert sentence.endswith("55")


async def submit(stage):
    assert (await stage.client.submit(5)).id


async def submit_many(stage):
    assert len(await stage.client.submit_many([1, 2, 3], task=FIBO_TASK)) == 3


async def ready(stage):
    assert await stage.client.ready([stage.handle(), stage.celery.result("unknown")]) == [True, False]


async def send_task(stage):
    assert (await stage.celery.send_task(SQRT_TASK, (4.0,))).id


async def send_many(stage):
    assert len(await stage.celery.send_many([SQRT_TASK(1.0), SQRT_TASK(4.0)], retry=True)) == 2


async def call(stage):
    assert await stage.celery.call(SQRT_TASK, (4.0,)) == 2.0


async def call_many(stage):
    assert await stage.celery.call_many([SQRT_TASK(4.0), SQRT_TASK(9.0)]) == [2.0, 3.0]


async def call_in_chunks(stage):
    assert await stage.celery.call_many([ROOT(4.0), ROOT(9.0), ROOT(16.0)], chunk_size=2) == [2.0, 3.0, 4.0]


async def stream_of_calls(stage):
    async with stage.celery.stream(ROOT, [4.0, 9.0, 16.0], chunk_size=2, ordered=True) as answers:
        assert [answer async for _, answer in answers] == [2.0, 3.0, 4.0]


async def as_completed(stage):
    handles = [stage.handle(), await stage.client.submit(NUMBER)]
    async with aclosing(stage.celery.as_completed(handles)) as completed:
        assert [await result.get(0) async for result in completed] == [ANSWER, ANSWER]


async def get(stage):
    assert await stage.handle().get() == ANSWER


async def get_at_once(stage):
    assert await stage.handle().get(timeout=0) == ANSWER


async def get_what_was_just_sent(stage):
    handle = await stage.client.submit(NUMBER)
    assert await handle == ANSWER


async def result_ready(stage):
    assert await stage.handle().ready()


async def state(stage):
    assert await stage.handle().state() == "SUCCESS"


async def updates(stage):
    handle = await stage.client.submit(NUMBER)
    async with aclosing(handle.updates()) as states:
        assert [meta.state async for meta in states][-1] == "SUCCESS"


async def result_revoke(stage):
    assert await stage.celery.result("nothing-of-anybody").revoke() == 1


async def forget(stage):
    await stage.celery.result("nothing-of-anybody").forget()


async def gather(stage):
    assert await stage.celery.gather([stage.handle(), stage.handle()]) == [ANSWER, ANSWER]


async def revoke(stage):
    assert await stage.celery.revoke(["nothing-of-anybody", stage.handle()]) == 1


async def much_at_once(stage):
    handle = stage.celery.result("nothing-of-anybody")
    await asyncio.gather(*(handle.forget() for _ in range(20)))


async def ping(stage):
    assert len(await stage.celery.ping(timeout=5)) == 1


async def inspect(stage):
    assert len(await stage.celery.inspect(timeout=5).active_queues()) == 1


async def diagnose(stage):
    assert (await stage.celery.diagnose(stage.handle(), timeout=5)).state == "SUCCESS"


CALLS = [
    fibonacci,
    fibonacci_many,
    stream,
    stream_of_an_async_generator,
    sqrt,
    fibo_task,
    submit,
    submit_many,
    ready,
    send_task,
    send_many,
    call,
    call_many,
    call_in_chunks,
    stream_of_calls,
    as_completed,
    get,
    get_at_once,
    get_what_was_just_sent,
    result_ready,
    state,
    updates,
    result_revoke,
    forget,
    gather,
    revoke,
    much_at_once,
    ping,
    inspect,
    diagnose,
]


async def walk(interrupted):
    """Interrupt a call after none, one, two, ... steps, until it is over before. Gives how often it was interrupted.

    `interrupted` does so after the steps that it is given, and tells whether the call was not over yet.
    """
    count = finished = 0
    for steps in range(MOST_STEPS):
        if await interrupted(steps):
            count += 1
            finished = 0
        else:
            finished += 1
        if finished == FINISHED_IN_A_ROW:
            return count
    raise AssertionError(f"it is not over after {MOST_STEPS} steps")


async def check_usable(stage):
    """Every command gets its own answer, and so does the next call, for a number that may just have been given up."""
    assert await stage.client.fibonacci(NUMBER) == ANSWER
    known, unknown = await stage.celery._session.backend.get_many([stage.done, "unknown"])
    assert json.loads(known)["task_id"] == stage.done
    assert unknown is None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", CALLS, ids=lambda each: each.__name__)
def test_a_call_that_is_interrupted_at_any_step_leaves_nothing_behind(stage, operation, way):
    async def check():
        others = asyncio.all_tasks()

        async def nothing_runs():
            return asyncio.all_tasks() <= others

        async def interrupted(steps):
            unfinished = await WAYS[way](partial(operation, stage), steps)
            assert stage.client.stats().pending == 0, f"somebody waits who was interrupted after {steps} steps"
            await check_usable(stage)
            await eventually(nothing_runs)
            return unfinished

        assert await walk(interrupted) >= 1
        await eventually(stage.is_unsubscribed)
        assert await stage.connections() <= 3

    stage.runner.run(check())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", [fibonacci, ping, forget], ids=lambda each: each.__name__)
def test_a_client_that_is_interrupted_at_any_step_from_opening_to_closing_is_gone(stage, worker, operation, way):
    """Each has no connection yet: making one takes steps, too, some of them in the task of the caller."""

    async def check():
        others = asyncio.all_tasks()
        before = await stage.connections()

        async def all_of_it():
            async with FiboClient(worker.url) as client:
                await operation(dataclasses.replace(stage, client=client))

        async def nothing_is_left():
            return asyncio.all_tasks() <= others and await stage.connections() <= before

        async def interrupted(steps):
            unfinished = await WAYS[way](all_of_it, steps)
            await eventually(nothing_is_left)
            return unfinished

        assert await walk(interrupted) > 1

    stage.runner.run(check())


@pytest.mark.parametrize("operation", [ping, forget], ids=lambda each: each.__name__)
def test_a_connection_whose_first_user_gives_up_while_it_is_made_serves_the_others(stage, worker, operation):
    async def check():
        async def interrupted(steps):
            async with FiboClient(worker.url) as client:
                cold = dataclasses.replace(stage, client=client)
                unfinished = await by_cancel(partial(operation, cold), steps)
                await asyncio.wait_for(much_at_once(cold), timeout=10)
                await check_usable(cold)
            return unfinished

        assert await walk(interrupted) > 1

    stage.runner.run(check())


# Owned work. It waits in queues that no worker takes from, so that it is there to be looked at.


async def own_fibonacci(client):
    await client.fibonacci(NUMBER, queue="celery")


async def own_fibonacci_many(client):
    await client.fibonacci_many([4, 3, 8], chunk_size=1)


async def own_stream(client):
    async with client.stream([4, 3, 8]) as results:
        await anext(results)


async def own_sqrt(client):
    await client.sqrt(2)


async def own_fibo_task(client):
    await client.fibo_task(4)


async def own_call(client):
    await client.celery.call("nobody.knows")


async def own_call_many(client):
    await client.celery.call_many([SQRT_TASK(1.0), SQRT_TASK(4.0)])


async def own_calls_in_chunks(client):
    await client.celery.call_many([ROOT(1.0), ROOT(4.0), ROOT(9.0)], chunk_size=2)


async def own_stream_of_calls(client):
    async with client.celery.stream(ROOT, [1.0, 4.0]) as answers:
        await anext(answers)


async def own_stream_in_chunks(client):
    async with client.celery.stream(ROOT, [1.0, 4.0, 9.0], chunk_size=2) as answers:
        await anext(answers)


async def handed_out_submit(client):
    await (await client.submit(4)).get()


async def handed_out_send_many(client):
    await client.celery.gather(await client.celery.send_many([RemoteTask("nobody.knows")()] * 2))


OWNED = [
    own_fibonacci,
    own_fibonacci_many,
    own_stream,
    own_sqrt,
    own_fibo_task,
    own_call,
    own_call_many,
    own_calls_in_chunks,
    own_stream_of_calls,
    own_stream_in_chunks,
]
HANDED_OUT = [handed_out_submit, handed_out_send_many]

UNTIL_IT_WAITS = 15
"""Steps after which each of these was sent, and waits."""


async def sent_and_revoked(server, hand, operation, interrupt, **settings):
    """Interrupt a call that nobody answers after each number of steps. Gives the ids in the queue, and the revoked."""
    revoked = set()
    async with hand.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("/0.celery.pidbox")
        async with FiboClient(server.url, **settings) as client, ticking():
            for steps in range(UNTIL_IT_WAITS):
                assert await interrupt(partial(operation, client), steps)

                async def is_still(client=client):
                    stats = client.stats()
                    return (stats.unsent, stats.pending, stats.in_flight) == (0, 0, 0)

                await eventually(is_still)
        await hand.redis.publish("/0.celery.pidbox", b"the end")
        async for message in pubsub.listen():
            if message["data"] == b"the end":
                break
            envelope = json.loads(message["data"])
            method, arguments = (body := json.loads(base64.b64decode(envelope["body"])))["method"], body["arguments"]
            assert method == "revoke"
            revoked |= set(arguments["task_id"])
    return {json.loads(each)["headers"]["id"] for each in await hand.redis.lrange("celery", 0, -1)}, revoked


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", OWNED, ids=lambda each: each.__name__)
def test_owned_work_is_revoked_if_it_was_sent_at_whatever_step_its_caller_was_interrupted(server, operation, way):
    async def check():
        async with hand_of(server) as hand:
            sent, revoked = await sent_and_revoked(server, hand, operation, WAYS[way])
            assert revoked == sent
            assert len(sent) >= UNTIL_IT_WAITS // 3

    run(check())


def test_work_is_withdrawn_if_its_caller_was_cancelled_before_it_was_sent(server):
    async def check():
        async with hand_of(server) as hand, FiboClient(server.url) as client:
            await client.celery.send_task("the first")
            await hand.redis.client_pause(20_000, all=False)  # Until these are answered, nothing else is sent.
            others = [asyncio.create_task(client.celery.send_task("another")) for _ in range(MAX_IN_FLIGHT)]

            async def held_up() -> bool:
                return any("b" in each["flags"] for each in await hand.redis.client_list())

            await eventually(held_up)
            for operation in OWNED + HANDED_OUT:
                assert await by_cancel(partial(operation, client), 1)
            assert not any(each.done() for each in others)
            await hand.redis.client_unpause()
            await asyncio.gather(*others)
            assert await hand.redis.llen("celery") == 1 + MAX_IN_FLIGHT
            assert client.stats().published == 1 + MAX_IN_FLIGHT

    run(check())


@pytest.mark.parametrize("operation", OWNED, ids=lambda each: each.__name__)
def test_owned_work_goes_on_if_it_shall_not_be_revoked(server, operation):
    async def check():
        async with hand_of(server) as hand:
            sent, revoked = await sent_and_revoked(server, hand, operation, by_cancel, revoke_on_cancel=False)
            assert sent
            assert revoked == set()

    run(check())


@pytest.mark.parametrize("operation", HANDED_OUT, ids=lambda each: each.__name__)
def test_what_was_handed_out_is_never_revoked(server, operation):
    async def check():
        async with hand_of(server) as hand:
            sent, revoked = await sent_and_revoked(server, hand, operation, by_cancel)
            assert sent
            assert revoked == set()

    run(check())


@asynccontextmanager
async def ticking():
    """Let the loop take steps although nothing happens."""

    loop = asyncio.get_running_loop()

    def tick():
        nonlocal timer
        timer = loop.call_later(0.002, tick)

    timer = loop.call_soon(tick)
    try:
        yield
    finally:
        timer.cancel()


def run(coroutine):
    with asyncio.Runner(loop_factory=SteppedLoop) as runner:
        runner.run(coroutine)


@asynccontextmanager
async def hand_of(server):
    async with redis.asyncio.Redis.from_url(server.url, client_name=NAME) as client:
        await client.flushall()
        yield Hand(client)
