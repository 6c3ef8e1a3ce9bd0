"""A connection to Redis, byte by byte and without any network: whose a reply is, and what is said of what has none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.clock import VirtualTimeLoop, virtual
from support.messages import Outcomes, messages
from support.wire import Commands, FakeTransport, Listener, Push, Pushes, encode, read, same

from fibo_client.celery.brokers.redis import RedisBroker
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.redis import connection as module
from fibo_client.celery.redis.connection import (
    MOST_STRINGS,
    PATIENCE,
    SLOWEST,
    SUSPECT_AFTER,
    Connection,
    pack,
)
from fibo_client.celery.redis.errors import GivenUpError, RedisFaultError, ReplyTooLargeError
from fibo_client.celery.redis.keys import BrokerKeys
from fibo_client.celery.redis.replies import IGNORED, SubscribeReply
from fibo_client.celery.redis.server import RedisServer
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import PublishError, PublishUnknownError

MAX_REPLY = 1024 * 1024
IO_TIMEOUT = 5.0
ERRORS = (
    "NOPERM this user has no permissions to run the 'lpush' command",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "LOADING Redis is loading the dataset in memory",
    "MOVED 1 127.0.0.1:1",
    "ERR no",
)


class Bench:
    """A connection, its listener and its transport."""

    def __init__(self, *, resp2: bool = False) -> None:
        self.listener = Listener()
        self.connection = Connection(self.listener, "redis://here", IO_TIMEOUT, MAX_REPLY)
        self.connection.is_resp2 = resp2
        self.pushes = self.connection.subscriber = Pushes()
        self.transport = FakeTransport(self.connection)

    def request(self, *commands):
        return self.connection.request(commands or [("PING",)])

    async def feed(self, data, *sizes):
        """Feed bytes in pieces of these sizes, and what is left at once."""
        for size in sizes:
            self.transport.feed(data[:size])
            data = data[size:]
            await settle()
        self.transport.feed(data)
        await settle()


async def settle(rounds=4):
    for _ in range(rounds):
        await asyncio.sleep(0)


def run(main):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


# Random mixes.


@dataclass
class Item:
    """What is written at once, and what Redis says to it.

    Attributes:
        kind: Whether it is a request, asks for or ends subscriptions, or is a push alone.
        replies: What Redis writes, in order. Of a subscription they are its confirmations, or one error.
        pushes: What Redis says before each of these, and after the last one.
        cancelled: Whether who asked leaves at once.
    """

    kind: str
    replies: list[Any]
    pushes: list[list[Any]]
    cancelled: bool = False
    end: list[Any] = field(default_factory=list)
    future: Any = None


BULKS = st.binary(max_size=12) | st.sampled_from([b"message", b"subscribe", b"unsubscribe", b"\r\n", b"-ERR\r\n"])


def replies_of(resp2):
    """Replies as Redis gives them. In RESP2, a list that begins like a push is one where pushes are to be expected."""
    lists = st.lists(st.none() | BULKS | st.integers(-5, 5), max_size=4)
    if resp2:
        lists = lists.filter(lambda each: not each or each[0] not in (b"message", b"subscribe", b"unsubscribe"))
    errors = st.sampled_from(ERRORS).map(hiredis.ReplyError)
    return st.one_of(st.sampled_from(["OK", "PONG", "QUEUED"]), st.integers(0, 9), st.none(), BULKS, lists, errors)


@st.composite
def mixes(draw, resp2):
    """Items in the order in which they are written."""
    shape = list if resp2 else Push
    number = 0

    def pushes():
        nonlocal number
        given = []
        for _ in range(draw(st.integers(0, 2))):
            number += 1
            given.append(shape([b"message", b"a channel", b"push %d" % number]))
        return given

    items = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["request", "request", "SUBSCRIBE", "UNSUBSCRIBE"]))
        if kind == "request":
            number += 1
            # One of its replies is its own alone.
            replies = [*draw(st.lists(replies_of(resp2), max_size=3)), b"reply %d" % number]
        elif draw(st.booleans()):
            name = kind.lower().encode()
            replies = [shape([name, b"channel %d" % each, each]) for each in range(draw(st.integers(1, 3)))]
        else:
            replies = [hiredis.ReplyError(draw(st.sampled_from(ERRORS)))]
        given = [pushes() for _ in range(len(replies) + 1)]
        items.append(Item(kind, replies, given, cancelled=kind == "request" and draw(st.integers(0, 3)) == 0))
    return items


@dataclass
class Script:
    """A mix; in how large pieces it comes; how many bytes of it come at all; and how much is asked before any."""

    resp2: bool
    items: list[Item]
    sizes: list[int]
    share: float
    ahead: int
    error: Exception | None


@st.composite
def scripts(draw):
    resp2 = draw(st.booleans())
    return Script(
        resp2,
        draw(mixes(resp2)),
        draw(st.lists(st.integers(1, 40), max_size=40)),
        draw(st.one_of(st.just(1.0), st.floats(0, 1))),
        draw(st.integers(1, 8)),
        draw(st.sampled_from([None, ConnectionResetError("reset by peer")])),
    )


def write(bench, item):
    """Ask for an item."""
    if item.kind == "request":
        item.future = bench.request(*[("ECHO", f"{n}") for n in range(len(item.replies))])
        if item.cancelled:
            item.future.cancel()
        return
    left = 1 if isinstance(item.replies[0], hiredis.ReplyError) else len(item.replies)
    owed = SubscribeReply(left, item.end.append)
    bench.connection.write(pack((item.kind, *map(str, range(left)))), [owed])


async def play(script):
    """Play a script, cut the connection, and check that everybody was told the truth."""
    bench = Bench(resp2=script.resp2)
    stream, ends, told = b"", [], []
    for item in script.items:
        for before, reply in zip(item.pushes, [*item.replies, StopIteration], strict=True):
            for push in before:
                stream += encode(push)
                told.append((len(stream), list(push)))
            if reply is not StopIteration:
                stream += encode(reply)
                if reply is item.replies[-1]:
                    ends.append(len(stream))
    starts = [0, *ends]
    arrives = round(script.share * len(stream))
    waiting, fed, sizes = list(script.items), 0, list(script.sizes)
    for item in waiting[: script.ahead]:
        write(bench, item)
    del waiting[: script.ahead]
    asked = len(script.items) - len(waiting)
    while fed < arrives:
        # Redis answers nothing that it was not asked: what is fed ends before what was not written yet.
        room = (starts[asked] if waiting else len(stream)) - fed
        if room == 0:
            write(bench, waiting.pop(0))
            asked += 1
            continue
        size = min(sizes.pop(0) if sizes else 50, room, arrives - fed)
        bench.transport.feed(stream[fed : fed + size])
        fed += size
        if len(sizes) % 3 == 0:
            await settle(1)
    assert not bench.connection.is_lost
    for item in waiting:
        write(bench, item)
    bench.transport.cut(script.error)
    await settle()
    assert bench.connection.is_lost
    assert len(bench.listener.faults) == 1
    assert bench.pushes.taken == [push for end, push in told if end <= arrives]
    for item, end in zip(script.items, ends, strict=True):
        check(item, arrived=end <= arrives)


def check(item, *, arrived):
    """Check that an item was told its own replies if they have arrived, and else that nothing is known."""
    refused = isinstance(item.replies[0], hiredis.ReplyError)
    if item.kind == "request" and item.cancelled:
        assert item.future.cancelled()
    elif item.kind == "request" and arrived:
        assert same(item.future.result(), read(item.replies))
    elif item.kind == "request":
        assert item.future.exception().outcome == "unknown"
    elif arrived:
        (end,) = item.end
        assert same(end, item.replies[0]) if refused else end is None
    else:
        assert item.end == []  # The listener was told that the connection is gone.


@given(scripts())
def test_no_reply_reaches_another_request_whatever_comes_in_whatever_pieces_and_wherever_it_is_cut(script):
    run(play(script))


@pytest.mark.parametrize("resp2", [False, True])
def test_a_mix_of_everything_is_told_rightly_wherever_it_is_split_and_wherever_it_is_cut(resp2):
    shape = list if resp2 else Push

    def mix():
        message = shape([b"message", b"c", b"-ERR \r\n+OK\r\n"])
        return [
            Item("request", ["OK", hiredis.ReplyError(ERRORS[0])], [[], [], []]),
            Item("SUBSCRIBE", [shape([b"subscribe", b"c", 1]), shape([b"subscribe", b"d", 2])], [[], [message], []]),
            Item("request", [[b"a\r\n", None, 7, b""]], [[message], [message]], cancelled=True),
            Item("UNSUBSCRIBE", [shape([b"unsubscribe", b"c", 0])], [[], []]),
            Item("SUBSCRIBE", [hiredis.ReplyError(ERRORS[0])], [[], []]),
            Item("request", [hiredis.ReplyError(each) for each in ERRORS], [[] for _ in range(len(ERRORS) + 1)]),
            Item("request", [b"last"], [[], []]),
        ]

    length = sum(len(encode(each)) for item in mix() for each in chain(item.replies, *item.pushes))
    for at in range(length + 1):
        run(play(Script(resp2, mix(), [at], 1.0, 7, None)))
        run(play(Script(resp2, mix(), [], at / length, 7, ConnectionResetError())))
    run(play(Script(resp2, mix(), [1] * length, 1.0, 1, None)))


@virtual
async def test_values_that_look_like_pushes_are_replies_where_pushes_are_marked():
    bench = Bench()
    replies = [[b"message", b"a", b"b"], [b"subscribe"], [b"unsubscribe", None]]
    asked = [bench.request() for _ in replies]
    await bench.feed(b"".join(map(encode, replies)))
    assert [each.result() for each in asked] == [[each] for each in replies]
    assert bench.pushes.taken == []


# What is no reply.


@pytest.mark.parametrize(
    "nonsense",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0", b"$x\r\n", b"$-2\r\n", b"*-5\r\n", b":1e3\r\n", b"!3\r\nERR\r\n",
        b"%1\r\n*0\r\n+a\r\n", b"%1\r\n%0\r\n+a\r\n", b">0\r\n", b">x\r\n", b"*99999999999\r\n", b"\r\n",
    ],
)  # fmt: skip
@virtual
async def test_nonsense_ends_the_connection_and_leaves_open_what_became_of_what_was_sent(nonsense):
    bench = Bench()
    answered, asked, other = bench.request(), bench.request(), bench.request()
    await bench.feed(encode("PONG") + nonsense)
    assert answered.result() == [b"PONG"]
    assert [each.exception().outcome for each in (asked, other)] == ["unknown"] * 2
    assert "Protocol error" in str(asked.exception())
    assert bench.connection.is_lost
    assert not bench.connection.is_usable
    assert len(bench.listener.faults) == 1
    await bench.feed(encode("PONG") * 3)  # What was on its way concerns nobody.
    await settle()


@pytest.mark.parametrize("reply", ["OK", None, 1, [b"message", b"a", b"b"], Push([b"subscribe", b"a", 1])])
@virtual
async def test_a_reply_that_nobody_asked_for_ends_the_connection(reply):
    bench = Bench()
    asked = bench.request()
    await bench.feed(encode("PONG"))
    await bench.feed(encode(reply))
    assert asked.result() == [b"PONG"]
    assert "nobody asked for" in str(bench.listener.faults[0])


@virtual
async def test_a_confirmation_while_another_reply_is_due_ends_the_connection():
    bench = Bench()
    asked = bench.request()
    await bench.feed(encode(Push([b"subscribe", b"a", 1])) + encode("PONG"))
    assert asked.exception().outcome == "unknown"


@virtual
async def test_what_a_server_says_before_it_closes_is_the_reason():
    bench = Bench()
    await bench.feed(encode(hiredis.ReplyError("ERR max number of clients reached")))
    assert not bench.connection.is_lost
    bench.transport.cut()
    assert "Raise its maxclients" in str(bench.listener.faults[0])


@virtual
async def test_what_a_server_says_to_one_command_is_no_reason_for_the_end_of_the_connection():
    bench = Bench()
    asked = bench.request(("CLIENT", "SETINFO", "LIB-NAME", "x"))
    await bench.feed(encode(hiredis.ReplyError("ERR Unknown subcommand")))
    assert asked.done()
    bench.transport.cut()
    assert "Unknown" not in str(bench.listener.faults[0])


@virtual
async def test_what_a_server_says_in_place_of_replies_is_the_reason():
    bench = Bench()
    asked = [bench.request(), bench.request()]
    await bench.feed(encode(hiredis.ReplyError("DENIED Redis is running in protected mode")))
    bench.transport.cut()
    assert "protected mode" in str(asked[1].exception())


# Large replies and many.


@given(
    size=st.integers(MAX_REPLY + 1, 1 << 40),
    sent=st.integers(0, 2 * MAX_REPLY),
    head=st.sampled_from([b"", b"*3\r\n$1\r\na\r\n", b">3\r\n+message\r\n+a\r\n"]),
)
def test_a_reply_that_is_too_large_ends_the_connection_before_it_is_in_memory(size, sent, head):
    async def main():
        bench = Bench()
        answered, large, after = bench.request(), bench.request(("MGET", "a", "b")), bench.request()
        most = 0
        data = encode("PONG") + head + b"$%d\r\n" % size
        data += b"x" * min(sent, size)
        for start in range(0, len(data), 65536):
            bench.transport.feed(data[start : start + 65536])
            most = max(most, bench.connection._parser.len())
        await settle()
        assert answered.result() == [b"PONG"]
        assert most <= MAX_REPLY + 65536
        if len(data) > MAX_REPLY + 100:
            assert isinstance(large.exception(), ReplyTooLargeError)
            assert isinstance(after.exception(), RedisFaultError)
            assert after.exception().outcome == "unknown"
            assert bench.connection.is_lost
        elif len(data) < MAX_REPLY:
            assert not large.done()
            assert not bench.connection.is_lost

    run(main())


@pytest.mark.parametrize("count", [1000, 1_000_000, 10_000_000])
@virtual
async def test_a_reply_of_many_small_strings_is_bounded_too(count):
    bench = Bench()
    large, after = bench.request(("MGET", "a", "b")), bench.request()
    bench.transport.feed(b"*%d\r\n" % count)
    fed = 0
    while not bench.connection.is_lost:
        bench.transport.feed(b"$20\r\n01234567890123456789\r\n" * 10)
        fed += 280
        assert fed < (MOST_STRINGS + 1) * MAX_REPLY or count == 1000
        if fed == 28 * count:
            break
    await settle()
    assert isinstance(large.exception(), RedisFaultError)
    if count > 1000:
        assert isinstance(large.exception(), ReplyTooLargeError)
        assert isinstance(after.exception(), GivenUpError)


@virtual
async def test_many_large_strings_in_one_reply_are_bounded_and_as_many_in_several_are_not():
    several = Bench()
    asked = [several.request(("GET", "a")) for _ in range(20)]
    for each in asked:
        await several.feed(encode(bytes(MAX_REPLY - 100)))
        assert each.done()
    assert not several.connection.is_lost
    together = Bench()
    large = together.request(("MGET", *"abcdef"))
    together.transport.feed(encode([bytes(MAX_REPLY - 100)] * 6))
    assert isinstance(large.exception(), ReplyTooLargeError)


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        (("LLEN", "a"), [b"ttl", 3600]),
        (("LLEN", "a"), b"1"),
        (("LLEN", "a"), None),
        (("PUBLISH", "a", "b"), "OK"),
        (("MGET", "a", "b"), [b"1"]),
        (("MGET", "a", "b"), [b"1", 2]),
        (("MGET", "a", "b"), 5),
        (("GET", "a"), 5),
        (("LRANGE", "a", 0, 1), [None]),
    ],
)
@virtual
async def test_a_reply_that_a_command_does_not_have_ends_the_connection_before_another_is_given_it(command, reply):
    bench = Bench()
    answered, asked, other = bench.request(command), bench.request(command), bench.request(("PING",))
    await bench.feed(encode(hiredis.ReplyError("ERR no")) + encode(reply) + encode("PONG") * 2)
    assert isinstance(answered.result()[0], hiredis.ReplyError)
    for each in (asked, other):
        assert each.exception().outcome == "unknown"
        assert "Protocol error" in str(each.exception())
    assert bench.connection.is_lost


@virtual
async def test_many_replies_at_once_let_others_have_their_turn_and_go_on(monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 0.0)
    bench = Bench()
    asked = [bench.request(("ECHO", f"{n}")) for n in range(1000)]
    turns = 0

    async def others():
        nonlocal turns
        while not asked[-1].done():
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    bench.transport.feed(b"".join(encode(b"%d" % n) for n in range(1000)))
    assert not asked[-1].done()
    assert await asyncio.gather(*asked) == [[b"%d" % n] for n in range(1000)]
    await other
    assert bench.transport.pauses > 10
    assert turns > 10
    assert bench.transport.is_reading()
    again = bench.request()
    await bench.feed(encode("PONG"))
    assert again.result() == [b"PONG"]


@pytest.mark.parametrize("end", ["cut", "abort", "close", "nonsense"])
@virtual
async def test_what_ends_while_many_replies_are_still_to_be_taken_ends_once(monkeypatch, end):
    monkeypatch.setattr(module, "BUDGET", 0.0)
    bench = Bench()
    asked = [bench.request(("ECHO", f"{n}")) for n in range(200)]
    bench.transport.feed(b"".join(encode(b"%d" % n) for n in range(100)) + (b"?" if end == "nonsense" else b""))
    if end == "cut":
        bench.transport.cut()
    elif end == "abort":
        bench.connection.abort(bench.connection.fault("unknown", "enough"))
    elif end == "close":
        bench.connection.close()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    taken = sum(isinstance(each, list) for each in outcomes)
    assert outcomes[:taken] == [[b"%d" % n] for n in range(taken)]
    assert {each.outcome for each in outcomes[taken:]} == {"unknown"}
    assert len(bench.listener.faults) == 1
    await settle()


# Time.


@virtual
async def test_a_silent_connection_is_suspected_after_a_second_and_given_up_after_the_io_timeout():
    bench = Bench()
    loop = asyncio.get_running_loop()
    began = loop.time()
    asked = bench.request()
    await asyncio.sleep(SUSPECT_AFTER - 0.01)
    assert bench.listener.suspicions == 0
    await asyncio.sleep(0.02)
    assert bench.listener.suspicions == 1
    with pytest.raises(RedisFaultError, match="no answer within 5 s") as caught:
        await asked
    assert loop.time() - began == pytest.approx(IO_TIMEOUT, abs=0.01)
    assert caught.value.outcome == "unknown"
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert bench.listener.suspicions == 1


@virtual
async def test_a_connection_that_is_asked_nothing_is_never_suspected():
    bench = Bench()
    asked = bench.request()
    await bench.feed(encode("PONG"))
    await asyncio.sleep(100)
    assert asked.done()
    assert bench.listener.suspicions == 0
    assert not bench.connection.is_lost


@virtual
async def test_whatever_comes_counts_as_a_sign_of_life():
    bench = Bench()
    asked = bench.request()
    for _ in range(20):
        await asyncio.sleep(0.7)
        await bench.feed(encode(Push([b"message", b"a", b"b"])))
    assert not asked.done()
    assert bench.listener.suspicions == 0
    await bench.feed(encode("PONG"))
    assert asked.done()


@virtual
async def test_a_reply_that_comes_byte_by_byte_is_not_waited_for_without_end():
    bench = Bench()
    asked, began = bench.request(), asyncio.get_running_loop().time()
    bench.transport.feed(b"$60000\r\n")
    while not bench.connection.is_lost:
        bench.transport.feed(b"x")
        await asyncio.sleep(0.1)
        assert asyncio.get_running_loop().time() < began + (PATIENCE + 1) * IO_TIMEOUT
    assert "no whole answer" in str(asked.exception())
    assert asked.exception().outcome == "unknown"


@virtual
async def test_a_large_reply_over_a_slow_line_is_waited_for():
    bench = Bench()
    asked = bench.request(("MGET", "a", "b", "c"))
    data = encode([bytes(MAX_REPLY)] * 3)
    for start in range(0, len(data), SLOWEST):
        await asyncio.sleep(0.9)
        bench.transport.feed(data[start : start + SLOWEST])
    assert asked.done()
    assert asked.exception() is None


@pytest.mark.parametrize("pause", [0.0, 0.2, 3.0, 100.0])
@virtual
async def test_one_that_was_suspected_and_has_answered_is_suspected_again(pause):
    bench = Bench()
    asked = bench.request()
    await asyncio.sleep(1.5)
    assert bench.listener.suspicions == 1
    await bench.feed(encode("PONG"))
    assert asked.done()
    await asyncio.sleep(pause)
    began = asyncio.get_running_loop().time()
    again = bench.request()
    await asyncio.sleep(2 * SUSPECT_AFTER + 0.1)
    assert bench.listener.suspicions == 2
    with pytest.raises(RedisFaultError):
        await again
    assert asyncio.get_running_loop().time() - began == pytest.approx(IO_TIMEOUT, abs=0.01)


@virtual
async def test_one_that_falls_silent_again_while_answers_are_due_is_suspected_again():
    bench = Bench()
    first, second = bench.request(), bench.request()
    await asyncio.sleep(1.5)
    await bench.feed(encode("PONG"))
    assert first.done()
    await asyncio.sleep(2 * SUSPECT_AFTER + 0.1)
    assert bench.listener.suspicions == 2
    with pytest.raises(RedisFaultError):
        await second


@given(
    steps=st.lists(st.tuples(st.sampled_from(["ask", "answer", "push", "wait"]), st.floats(0.01, 7.0)), max_size=25),
)
def test_it_is_given_up_just_when_an_answer_has_been_due_for_the_io_timeout_without_a_word(steps):
    async def main():
        bench = Bench()
        loop = asyncio.get_running_loop()
        due, since, before = 0, 0.0, 0
        for kind, seconds in steps:
            if bench.connection.is_lost:
                break
            if kind == "wait":
                await asyncio.sleep(seconds)
                silent = loop.time() - since if due else 0.0
                assert bench.connection.is_lost is (silent >= IO_TIMEOUT - 0.001)
                # It is looked at once a second.
                suspicions = bench.listener.suspicions - before
                assert suspicions <= (silent >= SUSPECT_AFTER - 0.001)
                assert suspicions >= (silent >= 2 * SUSPECT_AFTER)
                continue
            if kind == "ask" and due:
                bench.request()
                due += 1
                continue
            since, before = loop.time(), bench.listener.suspicions
            if kind == "ask":
                due = 1
                bench.request()
            elif kind == "answer" and due:
                due -= 1
                await bench.feed(encode("PONG"))
            else:
                await bench.feed(encode(Push([b"message", b"a", b"b"])))
        bench.transport.cut()

    run(main())


# The end.


@virtual
async def test_one_that_is_retired_closes_once_nobody_is_owed_a_reply():
    bench = Bench()
    asked = [bench.request(), bench.request()]
    bench.connection.retire()
    await bench.feed(encode("PONG"))
    assert not bench.connection.is_usable
    assert not bench.transport.is_closing()
    await bench.feed(encode("PONG"))
    assert [each.result() for each in asked] == [[b"PONG"]] * 2
    await asyncio.wait_for(bench.connection.wait_closed(), 1)
    idle = Bench()
    idle.connection.retire()
    await asyncio.wait_for(idle.connection.wait_closed(), 1)


@virtual
async def test_a_reply_that_nobody_wants_is_taken_and_its_loss_told_to_nobody():
    bench = Bench()
    bench.connection.write(pack(("PING",)), [IGNORED])
    asked = bench.request()
    await bench.feed(encode("PONG") + encode(b"mine"))
    assert asked.result() == [b"mine"]
    bench.connection.write(pack(("PING",)), [IGNORED])
    bench.transport.cut()
    assert len(bench.listener.faults) == 1


@virtual
async def test_a_listener_that_waits_for_recovery_is_told_once_of_an_answer_that_is_no_error():
    bench = Bench()
    bench.connection.reports_recovery = True
    bench.request(), bench.request(), bench.request()
    await bench.feed(encode(hiredis.ReplyError("READONLY no")))
    await bench.feed(encode("PONG")[:3])
    assert bench.listener.answers == 0
    await bench.feed(encode("PONG")[3:])
    await bench.feed(encode("PONG"))
    assert bench.listener.answers == 1


# Publishing.


class LikeRedis:
    """The lists of a Redis. It refuses what it is told to, and its answers may be cut, and so may what is sent."""

    def __init__(self, transport, answers, arrives):
        self.transport = transport
        self.answers = list(answers)
        self.arrives = arrives
        self.lists = []
        self.replies = b""
        self._commands = Commands()

    def sent(self, data):
        data, self.arrives = data[: self.arrives], max(0, self.arrives - len(data))
        for name, *arguments in self._commands.read(data):
            assert name == b"LPUSH"
            refusal = self.answers.pop(0) if self.answers else None
            if refusal is not None:
                self.replies += encode(hiredis.ReplyError(refusal))
            else:
                self.lists += arguments[1:]
                self.replies += encode(len(arguments) - 1)


@given(
    queues=st.lists(st.lists(st.sampled_from(["celery", "other", "third"]), min_size=1, max_size=4), max_size=5),
    answers=st.lists(
        st.sampled_from([None, None, None, *ERRORS, "READONLY no", "BUSY x", "MASTERDOWN x"]), max_size=15
    ),
    arrives=st.just(1 << 30) | st.integers(0, 6000),
    told=st.just(1.0) | st.floats(0, 1),
    sizes=st.lists(st.integers(1, 60), max_size=30),
)
def test_what_is_said_of_a_message_is_true_of_what_the_server_has(queues, answers, arrives, told, sizes):
    async def main():
        address = parse_url("redis://here/0", CeleryConfig().redis, role="broker_url")
        server = RedisServer(address, CeleryConfig())
        keys = BrokerKeys.from_options(CeleryConfig().redis, db=0, control_exchange="celery")
        broker = RedisBroker(server, keys)
        link = server.sending
        connection = Connection(link, "redis://here/0", IO_TIMEOUT, MAX_REPLY)
        link._connection = connection
        transport = FakeTransport(connection)
        redis = LikeRedis(transport, answers, arrives)
        transport._sent = redis.sent
        sender = Outcomes()
        for number, batch in enumerate(queues):
            wanted = [m for n, queue in enumerate(batch) for m in messages(f"id-{number}-{n}", queue=queue)]
            assert broker.ready
            broker.publish(wanted, sender)
        stream = redis.replies[: round(told * len(redis.replies))]
        whole = len(stream) == len(redis.replies) and arrives == 1 << 30
        for size in [*sizes, len(stream)]:
            transport.feed(stream[:size])
            stream = stream[size:]
            await settle(1)
        readonly = transport.is_closing()
        if late := broker.ready:
            broker.publish(messages("late"), sender)
        transport.cut(ConnectionResetError())
        await settle()
        there = b"".join(redis.lists)
        assert sum(len(some) for some, _ in sender.told) == sum(map(len, queues)) + late
        for some, error in sender.told:
            arrived = [f'"{message.id}"'.encode() in there for message in some]
            assert len(set(arrived)) == 1
            if error is None:
                assert arrived[0]
            elif isinstance(error, PublishError):
                assert not arrived[0]
                assert error.refused is not any(
                    sign in str(error) for sign in ("LOADING", "READONLY", "BUSY", "MASTERDOWN", "gone")
                )
            else:
                assert isinstance(error, PublishUnknownError)
                assert not whole or readonly or some[0].id == "late"
            if error is not None:
                assert error.task_ids == tuple(message.id for message in some)
        await server.aclose()

    run(main())
