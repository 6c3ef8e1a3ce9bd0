"""Links to a small Redis in memory: what becomes of what is under way when a connection is used no more."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual
from support.like_redis import LikeRedis

from fibo_client.celery import CeleryClient, RedisOptions
from fibo_client.celery.redis.connection import SUSPECT_AFTER
from fibo_client.celery.redis.errors import GivenUpError, ReplyTooLargeError
from fibo_client.celery.redis.server import MOST_ATTEMPTS
from fibo_client.errors import PublishError, PublishUnknownError, ResultTooLargeError, TransportError

READONLY = "READONLY You can't write against a read only replica."
WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled."
QUEUE = b"celery"


class Token:
    """What a streaming provider tells."""

    def try_get(self, key):
        return None

    def get_value(self):
        return "a token"


class Streaming:
    """A credential provider that streams."""

    def tell(self):
        """Tell of a token. Nobody listens yet."""

    def get_credentials(self):
        return ("a token",)

    def on_next(self, listener):
        self.tell = lambda: listener(Token())


class Bench:
    """A client of a small Redis, and what it has sent."""

    def __init__(self, client, redis, provider) -> None:
        self.client = client
        self.redis = redis
        self.provider = provider
        self.sends = []

    @property
    def server(self):
        return self.client._session.broker._redis

    def send(self):
        task_id = f"id-{len(self.sends)}"
        self.sends.append(asyncio.create_task(self.client.send_task("a.task", task_id=task_id)))

    async def ends(self):
        """What each was told: None if its task was sent, or the error."""
        ends = await asyncio.gather(*self.sends, return_exceptions=True)
        return [each if isinstance(each, BaseException) else None for each in ends]

    def is_there(self, n):
        return any(f'"id-{n}"'.encode() in each for each in self.redis.lists.get(QUEUE, ()))

    async def check(self):
        """Check that what everybody was told is true. Give what it was."""
        ends = await self.ends()
        for n, end in enumerate(ends):
            if end is None:
                assert self.is_there(n)
            elif isinstance(end, PublishError):
                assert not self.is_there(n)
            else:
                assert isinstance(end, PublishUnknownError), end
        return ends


@asynccontextmanager
async def running(latency=0.02, **options):
    redis, provider = LikeRedis(latency=latency), Streaming()
    async with CeleryClient("redis://here/0", redis=RedisOptions(credential_provider=provider), **options) as client:
        bench = Bench(client, redis, provider)
        redis.serve(bench.server)
        yield bench


def run(main):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


STEPS = st.one_of(
    st.tuples(st.just("send"), st.integers(1, 5)),
    st.tuples(st.just("sleep"), st.sampled_from([0.0, 0.001, 0.01, 0.02, 0.03, 0.05, 0.3, 0.9, 1.2, 2.5])),
    st.tuples(st.sampled_from(["readonly", "writable", "token", "refused token", "ask", "stop", "go on"])),
)
ROUGH = STEPS | st.tuples(st.sampled_from(["cut", "forget"]))


async def play(bench, steps):
    asked = []
    for name, *arguments in steps:
        if name == "send":
            for _ in range(arguments[0]):
                bench.send()
        elif name == "sleep":
            await asyncio.sleep(arguments[0])
        elif name in ("readonly", "writable"):
            bench.redis.refuse(b"LPUSH", READONLY if name == "readonly" else None)
        elif name in ("token", "refused token"):
            bench.redis.refuse(b"AUTH", WRONGPASS if name == "refused token" else None)
            bench.provider.tell()
        elif name == "ask":  # Another connection may be the first to fall silent.
            asked.append(asyncio.create_task(bench.client.queue_depth()))
        elif name in ("stop", "go on"):
            bench.redis.stopped = name == "stop"
        else:
            getattr(bench.redis, name)()
    bench.redis.stopped = False
    bench.redis.refusals.clear()
    await asyncio.gather(*asked, return_exceptions=True)


@given(st.lists(ROUGH, max_size=25))
def test_what_is_said_of_a_task_is_true_whatever_becomes_of_the_connections(steps):
    async def main():
        async with running() as bench:
            await play(bench, steps)
            await bench.check()
            await asyncio.sleep(20)  # Until a connection that is silent has to show that it is well.
            await bench.client.send_task("a.task", timeout=5)

    run(main())


@given(st.lists(STEPS, max_size=25))
@example([("send", 1), ("sleep", 0.3), ("readonly",), ("send", 1), ("sleep", 0.01), ("send", 1)])
@example([("send", 1), ("sleep", 0.3), ("refused token",), ("sleep", 0.01), ("send", 1)])
def test_nobody_is_left_without_knowledge_where_the_server_answers_within_the_time_of_a_command(steps):
    async def main():
        async with running(io_timeout=1000.0) as bench:
            await play(bench, steps)
            ends = await bench.check()
            assert {type(each) for each in ends} <= {type(None), PublishError}

    run(main())


@virtual
async def test_of_many_that_a_replica_refuses_each_is_told_so():
    async with running() as bench:
        await bench.client.send_task("a.task")
        bench.redis.refuse(b"LPUSH", READONLY)
        for _ in range(20):
            bench.send()
            await asyncio.sleep(0.005)
        ends = await bench.check()
        assert {type(each) for each in ends} == {PublishError}
        assert not any(each.refused for each in ends)
        bench.redis.refusals.clear()
        await bench.client.send_task("a.task", timeout=5)


@virtual
async def test_a_refused_token_costs_nobody_what_is_under_way():
    async with running() as bench:
        await bench.client.send_task("a.task")
        bench.redis.refuse(b"AUTH", WRONGPASS)
        for n in range(20):
            bench.send()
            if n == 8:
                bench.provider.tell()
            await asyncio.sleep(0.005)
        assert set(await bench.check()) == {None}
        assert bench.redis.connections == 2


@virtual
async def test_what_a_retired_connection_is_told_late_concerns_no_other_one():
    async with running() as bench:
        await bench.client.send_task("a.task")
        (old,) = bench.redis.peers
        old.is_open = False
        bench.send()  # It is silent from now on, and is replaced.
        await asyncio.sleep(SUSPECT_AFTER + 0.5)
        assert bench.redis.connections == 2
        for n in range(12):
            bench.send()
            if n == 6:  # The old master is back as a replica.
                old.transport.feed(f"-{READONLY}\r\n".encode())
            await asyncio.sleep(0.005)
        first, *others = await bench.check()
        assert isinstance(first, PublishError)
        assert set(others) == {None}
        assert bench.redis.connections == 2
        assert bench.server.sending._retired == set()


@virtual
async def test_a_stop_that_is_shorter_than_the_time_of_a_command_leaves_nobody_without_knowledge():
    async with running(latency=0.001) as bench:
        await bench.client.send_task("a.task")
        await bench.client.queue_depth()
        bench.redis.stopped = True
        depth = asyncio.create_task(bench.client.queue_depth())  # This one is found silent after a second,
        await asyncio.sleep(0.9)
        bench.send()
        await asyncio.sleep(0.2)
        bench.send()  # so that this one has to show that it is well, and does not in another.
        await asyncio.sleep(1.4)
        bench.redis.stopped = False
        assert await bench.check() == [None, None]
        assert await depth in (1, 2, 3)


@pytest.mark.parametrize("how", ["readonly", "token", "silence"])
@virtual
async def test_what_is_retired_is_given_up_at_last_and_when_the_client_is_closed(how):
    async with running() as bench:
        await bench.client.send_task("a.task")
        (old,) = bench.redis.peers
        old.is_open = False
        bench.send()
        if how == "silence":
            await asyncio.sleep(SUSPECT_AFTER + 0.1)
        else:
            bench.send()
            await asyncio.sleep(0)
            old.transport.feed(f"-{READONLY}\r\n".encode() if how == "readonly" else b":1\r\n")
            if how == "token":
                bench.provider.tell()
                await asyncio.sleep(0)
                old.transport.feed(f":1\r\n-{WRONGPASS}\r\n".encode())
        await bench.ends()
    assert old.transport.is_closing()
    with pytest.raises(TransportError):
        await bench.server.sending.execute(("LLEN", "a"))


# Attempts to connect.

CROWD = 1000
USELESS = {
    "is closed at once": {"lasts": 0.0},
    "is closed a moment later": {"lasts": 0.01},
    "is closed at the first command": {"most_answers": 0},
    "is closed after one answer": {"most_answers": 1},
    "is closed after three answers": {"most_answers": 3},
    "is that of a replica": {"refusals": {b"LPUSH": READONLY, b"UNLINK": READONLY}},
}


def most_in_a_second(moments):
    return max(sum(begin <= each < begin + 1.0 for each in moments) for begin in moments)


@pytest.mark.parametrize("kind", USELESS)
@virtual
async def test_a_crowd_makes_ten_attempts_a_second_at_most_where_each_connection(kind, caplog):
    async with running(latency=0.0005) as bench:
        await bench.client.send_task("a.task")
        for name, value in USELESS[kind].items():
            setattr(bench.redis, name, value)
        if "refusals" not in USELESS[kind]:
            bench.redis.cut()
        calls = [asyncio.create_task(bench.client.call("a.task", timeout=3, retry=True)) for _ in range(CROWD)]
        asking = [
            asyncio.create_task(again_and_again(each)) for each in (bench.client.queue_depth, bench.client.send_task)
        ]
        await asyncio.gather(*calls, return_exceptions=True)
        assert most_in_a_second(bench.redis.attempts) <= MOST_ATTEMPTS
        assert len(bench.redis.attempts) > 5
        bench.redis.lasts = bench.redis.most_answers = None
        bench.redis.refusals = {}
        await asyncio.sleep(1.5)
        await bench.client.send_task("a.task", timeout=5)
        for each in asking:
            each.cancel()
    if kind == "is that of a replica":  # It is not gone, and it is no master.
        assert caplog.text.count(" is gone, trying again: READONLY") == caplog.text.count(" is back after ") == 1


async def again_and_again(ask):
    while True:
        with suppress(PublishError, PublishUnknownError, TransportError):
            await (ask() if ask.__name__ == "queue_depth" else ask("a.task"))
        await asyncio.sleep(0.001)


# Replies that are too large.

BOUND = 100_000


@virtual
async def test_a_reply_that_is_too_large_fails_nobody_but_who_asked_for_it():
    async with running(latency=0.0005, push=False, max_result_bytes=BOUND) as bench:
        bench.redis.values[b"celery-task-meta-large"] = bytes(20 * BOUND)
        bench.redis.lists[QUEUE] = [b""] * 7
        await bench.client.queue_depth()
        for n in range(5):
            large = asyncio.create_task(bench.client.result("large").get(timeout=5))
            others = [asyncio.create_task(bench.client.queue_depth()) for _ in range(5)]
            others += [asyncio.create_task(bench.client.result(f"other {n}").forget()) for _ in range(5)]
            await asyncio.sleep(0.001 * n)
            others += [asyncio.create_task(bench.client.queue_depth()) for _ in range(5)]
            with pytest.raises(ResultTooLargeError):
                await large
            assert await asyncio.gather(*others) == [7] * 5 + [None] * 5 + [7] * 5
    assert bench.redis.connections > 1


@virtual
async def test_what_must_not_be_sent_twice_is_not_sent_again_when_a_connection_is_given_up():
    async with running(latency=0.0005, max_result_bytes=BOUND) as bench:
        bench.redis.values[b"large"] = bytes(20 * BOUND)
        link = bench.server.reading
        large = asyncio.create_task(link.execute(("MGET", "large")))
        other = asyncio.create_task(link.execute(("LPUSH", "a", "b")))
        with pytest.raises(ReplyTooLargeError):
            await large
        with pytest.raises(GivenUpError) as caught:
            await other
        assert caught.value.outcome == "unknown"
        assert bench.redis.lists[b"a"] == [b"b"]


@virtual
async def test_results_that_are_too_large_only_together_are_read_in_several_replies():
    async with running(latency=0.0005, max_result_bytes=BOUND) as bench:
        sizes = {f"{n}": BOUND - n if n % 7 else BOUND + 1 for n in range(30)} | {"none": 0}
        for task_id, size in sizes.items():
            if size:
                bench.redis.values[f"celery-task-meta-{task_id}".encode()] = bytes(size)
        stored = await bench.client._session.backend.get_many(list(sizes))
        for each, size in zip(stored, sizes.values(), strict=True):
            if size > BOUND:
                assert isinstance(each, ResultTooLargeError)
            else:
                assert each == (bytes(size) or None)
        assert bench.redis.connections == 2
