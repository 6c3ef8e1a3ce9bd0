"""Waiting over Redis' connections, with a small Redis in memory: ids come and go in any order, connections too."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual
from support.like_redis import LikeRedis

from fibo_client.celery.backends.redis import RedisBackend
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.pending import Wait
from fibo_client.celery.reader import MAX_ADDED, MAX_STALE, STALE_FOR, Reader
from fibo_client.errors import ClientStateError
from fibo_client.testing.results import encode_meta

PREFIX = "celery-task-meta-"
SOON = 0.1
"""The most seconds until a pushed one is there, and until what is awaited is subscribed to."""
NET = 1.3
"""The most seconds until a result is read that was stored and not pushed: a second, rounded up to a grid."""
RECOVERY = 4.0
"""The most seconds until connections that are gone, or silent, are replaced, and everything is read that was missed."""


class Bench:
    """A reader over connections to a small Redis."""

    def __init__(self, version, **options) -> None:
        config = CeleryConfig(broker_url="redis://here/0", **options)
        self.redis = LikeRedis(version)
        self.backend = RedisBackend.connect(config, {})
        self.redis.serve(self.backend._server)
        self.reader = Reader(self.backend, config, lambda: None)
        self.waits = []

    def enter(self, task_ids):
        wait = Wait(asyncio.get_running_loop().create_future(), self.now(), None)
        self.reader.enter(wait, task_ids)
        self.waits.append((wait, list(dict.fromkeys(task_ids))))
        return wait

    def leave(self, wait):
        self.reader.leave(wait)
        self.waits = [each for each in self.waits if each[0] is not wait]

    def store(self, task_id, *, publish):
        self.redis.store(PREFIX + task_id, encode_meta(task_id, result=task_id), publish=publish)

    def stored(self, task_id):
        return f"{PREFIX}{task_id}".encode() in self.redis.values

    @property
    def channels(self):
        return {channel.removeprefix(PREFIX) for channel in self.redis.channels}

    @property
    def awaited(self):
        return {task_id for wait, task_ids in self.waits for task_id in task_ids if task_id not in wait.arrived}

    def settle(self):
        """Check that who should have its answers has them, and let whoever has them leave."""
        for wait, task_ids in list(self.waits):
            for task_id in filter(self.stored, task_ids):
                assert wait.arrived[task_id].result == task_id
            if all(map(self.stored, task_ids)):
                assert wait.over
                self.leave(wait)

    @staticmethod
    def now():
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def running(version=3, **options):
    bench = Bench(version, **options)
    bench.reader.start()
    alive = asyncio.create_task(keep_alive(bench))
    try:
        yield bench
    finally:
        alive.cancel()
        await bench.reader.aclose(ClientStateError("closed"))
        await bench.backend.aclose()


async def keep_alive(bench):
    """Ask for signs of life, as a session does while somebody waits."""
    while True:
        await asyncio.sleep(1.0)
        if bench.waits:
            bench.backend.keep_alive()


def run(main):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


BATCHES = {
    "a": ["a"],
    "b": ["b"],
    "ab": ["a", "b"],
    "cda": ["c", "d", "a"],
    "more than may be stale": [f"m{n}" for n in range(MAX_STALE + 3)],
    "more than are added at once": [f"m{n}" for n in range(30, 30 + MAX_ADDED + 5)],
    "some of those": [f"m{n}" for n in range(10)],
}
"""Ids that are awaited together, by a name."""
IDS = st.sampled_from(["a", "b", "ab", "cda"] * 3 + list(BATCHES))
MOMENTS = st.sampled_from(
    [0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.01, 0.05, 0.3, STALE_FOR - 0.001, STALE_FOR, 2.5]
)
CALM = st.one_of(
    st.tuples(st.just("enter"), IDS),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("again"), st.integers(0, 9)),
    st.tuples(st.just("store"), IDS, st.booleans()),
    st.tuples(st.just("sleep"), MOMENTS),
    st.tuples(st.just("sleep"), MOMENTS),
)
ROUGH = CALM | st.tuples(st.sampled_from(["cut", "cut subscribed", "cut others", "forget", "down", "up"]))


async def play(bench, steps):
    for name, *arguments in steps:
        if name == "enter":
            bench.enter(BATCHES[arguments[0]])
        elif name in ("leave", "again") and bench.waits:
            wait, task_ids = bench.waits[arguments[0] % len(bench.waits)]
            bench.leave(wait)
            if name == "again":
                bench.enter(task_ids)
        elif name == "store":
            for task_id in BATCHES[arguments[0]]:
                bench.store(task_id, publish=arguments[1])
        elif name == "sleep":
            await asyncio.sleep(arguments[0])
        elif name.startswith("cut"):
            bench.redis.cut(subscribed={"cut": None, "cut subscribed": True, "cut others": False}[name])
        elif name == "forget":
            bench.redis.forget()
        elif name in ("down", "up"):
            bench.redis.down = name == "down"


async def finish(bench, patience, *, publish):
    """Check what must be so after any steps: nobody misses an answer, and nothing stays subscribed to for nobody."""
    bench.redis.down = False
    await asyncio.sleep(patience)
    bench.settle()
    await asyncio.sleep(STALE_FOR + SOON)
    assert bench.channels <= bench.awaited
    for task_id in bench.awaited:
        bench.store(task_id, publish=publish)
    await asyncio.sleep(patience)
    bench.settle()
    assert bench.waits == []
    await asyncio.sleep(STALE_FOR + SOON)
    assert bench.channels == set()
    assert (len(bench.reader.awaited), len(bench.reader._subscribed), len(bench.reader._stale)) == (0, 0, 0)


@pytest.mark.parametrize("version", [3, 2])
@given(st.lists(ROUGH, max_size=25), st.sampled_from([2, 256, 1000]), st.booleans())
def test_nobody_misses_an_answer_whoever_comes_and_goes_and_whatever_breaks(version, steps, push_limit, publish):
    async def main():
        async with running(version, push_limit=push_limit) as bench:
            await play(bench, steps)
            silent = any(step[0] == "forget" for step in steps)
            await finish(bench, RECOVERY + (2 * RECOVERY if silent else 0), publish=publish)

    run(main())


@pytest.mark.parametrize("version", [3, 2])
@given(st.lists(CALM, max_size=30))
@example([("enter", "a"), ("sleep", 0.0015), ("again", 0), *[("sleep", 0.3)] * 3])  # A timer may go off a moment early.
@example([("enter", "a"), ("sleep", 0.0015), ("leave", 0), *[("sleep", 0.3)] * 3])
def test_whoever_waits_is_subscribed_and_told_at_once_where_nothing_breaks(version, steps):
    async def main():
        async with running(version, push_limit=10_000) as bench:
            await play(bench, steps)
            await asyncio.sleep(SOON)
            # What was stored without a push after somebody began to wait is seen by the safety net.
            assert {each for each in bench.awaited if not bench.stored(each)} <= bench.channels
            for task_id in bench.awaited:
                bench.store(task_id, publish=True)
            await asyncio.sleep(SOON)
            bench.settle()
            assert bench.waits == []
            await asyncio.sleep(STALE_FOR + SOON)
            assert bench.channels == set()

    run(main())


@pytest.mark.parametrize("version", [3, 2])
@given(st.lists(CALM, max_size=15), st.sampled_from(["cut", "cut subscribed", "forget"]), st.lists(CALM, max_size=15))
def test_whatever_is_awaited_is_subscribed_to_again_after_a_break(version, before, how, after):
    async def main():
        async with running(version, push_limit=10_000) as bench:
            await play(bench, [*before, (how,), *after])
            await asyncio.sleep(10.0)  # Until a subscription that is silent has been asked for a sign of life.
            bench.settle()
            assert bench.awaited <= bench.channels

    run(main())


@pytest.mark.parametrize("version", [3, 2])
@virtual
async def test_an_id_that_is_released_and_awaited_again_is_not_cut_off_at_whatever_moment(version):
    for early in range(-4, 12):
        for pause in (0.0, 0.0005, 0.001, 0.002, 0.003):
            async with running(version) as bench:
                keep = bench.enter(["other"])
                wait = bench.enter(["a"])
                await asyncio.sleep(0.05)
                bench.leave(wait)
                # Its UNSUBSCRIBE is about to leave, on its way, or just confirmed.
                await asyncio.sleep(STALE_FOR + early * 0.0005)
                again = bench.enter(["a"])
                await asyncio.sleep(pause)
                bench.leave(again)
                last = bench.enter(["a"])
                await asyncio.sleep(SOON)
                assert "a" in bench.channels
                bench.store("a", publish=True)
                await asyncio.sleep(0.01)
                assert last.over
                bench.leave(last)
                bench.leave(keep)


@pytest.mark.parametrize("version", [3, 2])
@virtual
async def test_an_answer_that_is_stored_while_the_subscription_is_on_its_way_is_found(version):
    for step in range(20):
        for publish in (True, False):
            async with running(version) as bench:
                if step % 2:
                    bench.enter(["other"])
                    await asyncio.sleep(0.1)
                wait = bench.enter(["a"])
                await asyncio.sleep(step * 0.00025)
                bench.store("a", publish=publish)
                # What is stored without a push once it is subscribed to is seen by the safety net.
                await asyncio.sleep(SOON if publish else NET)
                assert wait.over


@pytest.mark.parametrize("version", [3, 2])
@virtual
async def test_what_is_released_shortly_after_many_others_were_dropped_is_dropped_too(version):
    async with running(version, push_limit=1000) as bench:
        one = bench.enter(["a"])
        many = [bench.enter([f"m{n}"]) for n in range(MAX_STALE)]
        await asyncio.sleep(SOON)
        for each in many:
            bench.leave(each)
        await asyncio.sleep(SOON)
        assert bench.channels == {"a"}
        bench.leave(one)
        await asyncio.sleep(STALE_FOR + SOON)
        assert bench.channels == set()


@virtual
async def test_an_id_that_is_awaited_anew_before_its_subscription_is_confirmed_is_not_read_again_and_again():
    async with running() as bench:
        bench.leave(bench.enter(["a"]))
        await asyncio.sleep(SOON)
        bench.leave(bench.enter(["b"]))  # There is a subscription now.
        await asyncio.sleep(STALE_FOR + SOON)
        first = bench.enter(["a"])
        await asyncio.sleep(0.0005)
        bench.leave(first)
        bench.enter(["a"])
        await asyncio.sleep(SOON)
        assert "a" in bench.channels
        before = bench.reader.polls
        await asyncio.sleep(10.0)
        assert bench.reader.polls - before <= 11  # The safety net's.
