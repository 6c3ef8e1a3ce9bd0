"""A client and a worker under the Redis users of docs/explanation/security.md: what they need, and no more.

With each of the client's lines that the server takes; with --every-server on every server program of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import celery
import kombu
import pytest
import redis as redis_py
import redis.asyncio
from celery.backends.redis import CHORD_CLAIM_EXTEND_LUA
from redis.exceptions import AuthenticationError, ExecAbortError, NoPermissionError, ResponseError
from support.acl import CLIENT, FLOWER, PAGE, WORKER, lines, make_user, make_users, refusals, takes, version
from support.hand import Hand
from support.servers import RedisServer, chosen_binaries, stock_worker
from support.waiting import eventually

from fibo_client import SQRT_TASK, FiboClient
from fibo_client.celery import CeleryClient, RemoteTask, chain, chord, group, reader, session
from fibo_client.celery.redis import link
from fibo_client.errors import FiboError, PublishError, ResultTimeoutError, ResultTooLargeError, TaskFailedError
from fibo_worker.dev import WorkerProcess
from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters

if TYPE_CHECKING:
    from pathlib import Path

BRACKETS, PLAIN = lines(CLIENT)
"""The client's two lines."""

QUEUE, RESULT = "celery", "celery-task-meta-x"
REPLIES = "a-b.reply.celery.pidbox"
KEYS = {
    "celery": QUEUE,
    "celery??[369]": "celery\x06\x163",
    "celery-task-meta-*": RESULT,
    "*-*.reply.celery.pidbox": REPLIES,
}
"""A key for each pattern of the client's lines, which no other of them has."""


ACCUMULATE = RemoteTask[..., list[float]]("celery.accumulate")
"""A task that every worker knows, and that gives what it gets."""


@dataclass(frozen=True)
class Side:
    """A server program, and a line of the client that it takes."""

    program: Path
    has_brackets: bool

    @property
    def line(self) -> list[str]:
        return BRACKETS if self.has_brackets else PLAIN


def pytest_generate_tests(metafunc):
    """Run each test with each line. Mischief is for the one without brackets."""
    if "side" in metafunc.fixturenames:
        sides = [
            pytest.param(Side(program, line is BRACKETS), id=f"{name}-{'brackets' if line is BRACKETS else 'plain'}")
            for name, program in chosen_binaries(metafunc.config).items()
            for line in (BRACKETS, PLAIN)
            if takes(line, version(program)[0]) and not (line is BRACKETS and "mischief" in metafunc.fixturenames)
        ]
        metafunc.parametrize("side", sides, indirect=True, scope="module")


@pytest.fixture(scope="module")
def side(request):
    return request.param


@pytest.fixture(scope="module")
def servers():
    """Start one server for each program."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda program: stack.enter_context(RedisServer(program)))


@pytest.fixture
def server(servers, side):
    server = servers(side.program)
    with server.client() as direct:
        direct.flushall()
        direct.acl_log_reset()
    return server


@pytest.fixture
def url(server, side):
    """The client's URL. The user is made anew, for a test may take something from it."""
    return make_user(server, side.line)


class TalkingWorker(WorkerProcess):
    """A worker that also talks to other workers, as one does unless told not to."""

    def __init__(self, url: str) -> None:
        super().__init__(url, arguments=["-E"], stop_timeout=0)
        self._arguments = [argument for argument in self._arguments if not argument.startswith("--without-")]


@pytest.fixture(scope="module")
def servings():
    """Start one more server for each program, and a worker on it."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def serve(program):
            server = stack.enter_context(RedisServer(program))
            return server, stack.enter_context(TalkingWorker(make_users(server)[WORKER]))

        yield serve


@pytest.fixture
def served(servings, side):
    """A server, the URL of its client, and its worker."""
    server, worker = servings(side.program)
    return server, make_user(server, side.line), worker


def test_the_page_has_two_lines_for_the_client_and_one_for_each_of_the_others():
    assert [words[2] for words in lines()] == [CLIENT, CLIENT, WORKER, FLOWER]
    assert takes(BRACKETS, 7)
    assert not takes(BRACKETS, 6)
    assert takes(PLAIN, 6)


@pytest.mark.parametrize("push", [True, False])
async def test_all_that_a_client_and_a_worker_do_is_allowed(served, push):
    server, url, worker = served
    with server.client() as direct:
        direct.acl_log_reset()
    async with FiboClient(url, push=push) as client:
        assert await client.fibonacci(10, timeout=20) == 55
        assert await client.fibonacci_many([4, 3, 8], timeout=20) == [3, 2, 21]
        assert await client.fibonacci_many([100_000, 5], timeout=20)  # two priorities
        handles = await client.submit_many([6, 7])
        assert [await handle.get(timeout=20) for handle in handles] == [8, 13]
        assert await client.ready(handles) == [True, True]
        await handles[0].revoke()
        await handles[0].forget()
        assert len(await client.celery.ping()) == 1
        await client.celery.diagnose(handles[1])
    assert refusals(server) == []
    assert "NoPermission" not in worker.log.read_text()


@pytest.mark.parametrize(
    "command",
    [
        "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG GET *", "ACL LIST", "MONITOR", "INFO", "SHUTDOWN",
        "CLIENT LIST", "GET other", "GET celery-task-meta-x", "MGET other", "SET celery-task-meta-x 1", "DEL celery",
        "LRANGE other 0 -1", "BRPOP celery 1", "LPUSH other x", "SUBSCRIBE other", "PSUBSCRIBE *",
        "PSUBSCRIBE celery-task-meta-*", "PUBLISH other x", "EVAL return 0", "SADD _kombu.binding.celery x",
        "UNLINK unacked", "WATCH celery", "SCRIPT FLUSH",
    ],
)  # fmt: skip
def test_a_client_may_do_nothing_else(url, command):
    with redis_py.Redis.from_url(url) as limited, pytest.raises(NoPermissionError):
        limited.execute_command(*command.split())


@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "KEYS *", "CONFIG GET *", "ACL LIST", "GET other", "LPUSH other x", "PSUBSCRIBE *", "SHUTDOWN"],
)
def test_a_worker_may_not_touch_what_is_not_its_own(server, command):
    with redis_py.Redis.from_url(make_users(server)[WORKER]) as limited, pytest.raises(NoPermissionError):
        limited.execute_command(*command.split())


def test_a_worker_s_user_may_look_at_dead_letters_and_put_them_back(server):
    with server.client(make_users(server)[WORKER]) as limited:
        dead_letters = DeadLetters(limited, "celery", limit=2)
        for number in range(3):
            dead_letters.push(DeadLetter.now("it is no good", b"%d" % number, queue="celery"))
        assert dead_letters.requeue(dead_letters.stored(0, 0)) == 1
        assert (dead_letters.kept(), dead_letters.total(), dead_letters.purge()) == (1, 3, 1)
    assert refusals(server) == []


def test_a_worker_s_user_may_put_back_what_a_lost_one_had(server):
    url = make_users(server)[WORKER]
    with kombu.Connection(url, transport_options={"visibility_timeout": 0}) as connection, server.client() as direct:
        queue = connection.SimpleQueue("celery")
        queue.put("a task")
        queue.get(timeout=20)
        assert direct.hlen("unacked") == 1
        queue.channel.qos.restore_visible(interval=1)
        assert direct.llen(QUEUE) == 1
        assert not direct.exists("unacked")
        queue.get(timeout=20).reject(requeue=True)
        assert direct.llen(QUEUE) == 1
        queue.close()
    assert refusals(server) == []


# Chains, groups and chords.


def taskset_keys(server):
    """What is left of chords, but for the workers' own marks, which expire after minutes."""
    with server.client(decode_responses=True) as direct:
        return [key for key in direct.scan_iter("celery-taskset-meta-*") if not key.endswith(".c")]


def words_for_chords(has_brackets):
    bracket = re.search(r"also needs `(\(.*?\))`", PAGE.read_text())[1]
    return [bracket] if has_brackets else ["+set", "~celery-taskset-meta-*"]


async def test_chords_need_what_the_page_says_and_leave_nothing(served, side):
    server, url, worker = served
    flow = chord([SQRT_TASK(4), SQRT_TASK(9)], ACCUMULATE.s(index=0))
    async with CeleryClient(url) as client:
        with pytest.raises(PublishError, match=r"size of a chord could not be stored.*SET: NOPERM"):
            await client.call(flow, timeout=20)
        assert await client.call(chain(SQRT_TASK(16), SQRT_TASK.s()), timeout=20) == 2
        with server.client() as direct:
            direct.execute_command("ACL", "SETUSER", CLIENT, *words_for_chords(side.has_brackets))
            direct.acl_log_reset()
        assert await client.call(flow, timeout=20) == [2, 3]
        with pytest.raises(TaskFailedError):
            await client.call(chord([SQRT_TASK(-1)], ACCUMULATE.s(index=0)), timeout=1)
        await eventually(lambda: not taskset_keys(server))
    assert refusals(server) == []
    assert "NoPermission" not in worker.log.read_text()


ADD, TOTAL = RemoteTask[..., int]("stock.add"), RemoteTask[..., int]("stock.total")
CHORDS = {
    "a chord": (lambda: chord([ADD(1, 1), ADD(2, 2)], TOTAL()), 6),
    "a chord that a worker sends": (lambda: ADD(1, 1) | group(ADD.s(1), ADD.s(2)) | TOTAL(), 7),
    "a task that puts a group in its place": (lambda: RemoteTask("stock.replaced")(1), [1, 2]),
    "a task that adds to its chord": (lambda: chord([RemoteTask("stock.added")(1), ADD(1, 1)], TOTAL()), 104),
}
OF_CHORDS = ["sismember", "zcount", "zrange", "sadd", "expire", "set", "evalsha", "incrby"]
"""The words of the worker's line without which a chord does not end, and other tasks do."""


@pytest.fixture(scope="module")
def chording():
    """A server, and a stock worker on it with the worker's line."""
    with RedisServer() as server, stock_worker(make_users(server)[WORKER]) as worker:
        yield server, worker


@pytest.mark.parametrize("name", CHORDS)
async def test_chords_and_groups_in_the_place_of_tasks_need_no_more_than_the_worker_s_line(chording, name):
    server, worker = chording
    flow, answer = CHORDS[name]
    async with CeleryClient(server.url) as client:
        assert await client.call(flow(), timeout=20) == answer
    assert refusals(server, WORKER) == []
    assert "NoPermission" not in worker.log.read_text()


@pytest.mark.parametrize("word", OF_CHORDS)
async def test_each_word_of_the_worker_s_line_for_chords_is_needed(chording, word):
    server, _ = chording
    assert f"+{word}" in lines(WORKER)[0]
    flow, answer = CHORDS["a task that adds to its chord"]
    async with CeleryClient(server.url) as client:
        with server.client() as direct:
            try:
                direct.execute_command("ACL", "SETUSER", WORKER, f"-{word}")
                with pytest.raises((ResultTimeoutError, TaskFailedError)):
                    await client.call(flow(), timeout=1)
            finally:
                direct.execute_command("ACL", "SETUSER", WORKER, f"+{word}")
                found = {entry[2] for entry in refusals(server, WORKER)}
                direct.acl_log_reset()
        assert found == {word}
        assert await client.call(flow(), timeout=20) == answer


def test_a_worker_s_user_may_claim_a_chord_once_more_whose_claim_has_expired(server):
    def claim(words):
        with server.client(make_user(server, words)) as limited:
            script = limited.register_script(CHORD_CLAIM_EXTEND_LUA)
            return script(["celery-taskset-meta-g.c", "celery-taskset-meta-g.s"], ["token", 5])

    words = lines(WORKER)[0]
    with server.client() as direct:
        direct.set("celery-taskset-meta-g.s", 2, ex=60)
    with pytest.raises(ResponseError, match=r"can't run this command|no permissions"):
        claim([word for word in words if word != "+exists"])
    assert claim(words) == 1


async def test_each_word_for_chords_of_the_client_s_line_is_needed(server, side):
    """To store sizes and groups, to read groups, and to delete what a chord counts."""
    words = [*words_for_chords(side.has_brackets)[0].strip("()").split()] if side.has_brackets else ["+set"]
    assert set(words) - {"~celery-taskset-meta-*"} == ({"+set", "+unlink"} if side.has_brackets else {"+set"})
    bracket = ["+set", "+unlink", "+mget", "~celery-taskset-meta-*"]

    async def refused(without=None):
        left = [word for word in bracket if word != without]
        more = [f"({' '.join(left)})"] if side.has_brackets else left
        plain = [word for word in side.line if side.has_brackets or word != without]
        with server.client() as direct:
            direct.acl_log_reset()
        async with CeleryClient(make_user(server, [*plain, *more])) as client:
            with contextlib.suppress(FiboError):
                result = await client.send(group(ADD(1, 1), ADD(2, 2)))
                await result.save()
                assert len(await client.group(result.id)) == 2
            with contextlib.suppress(FiboError):
                await client.call(chord([ADD(1, 1)], TOTAL()), timeout=0.1)
        return {each[2] for each in refusals(server, CLIENT)}

    assert await refused() == set()
    assert [word for word in bracket if not await refused(word)] == []


# What each word of the client's lines is for.


BEHIND = dict.fromkeys(("LPUSH", "PUBLISH", "RPUSH"), "x")
BEHIND |= {"LRANGE": "0 -1", "LTRIM": "0 -1", "PEXPIRE": "1000"}
"""What a command needs behind its key."""


SILENT = {"driver_info": None} if hasattr(redis_py, "DriverInfo") else {"lib_name": None, "lib_version": None}
"""Has redis-py not say who it is. The latter before 7.2."""


def is_refused(url, *command):
    """Whether Redis does not let a user say something, or not even in. What it then makes of it is no matter."""
    connection = redis_py.Connection(**redis_py.connection.parse_url(url), protocol=2, **SILENT)
    try:
        connection.connect()
        connection.send_command(*command, *BEHIND.get(command[0], "").split())
        connection.read_response()
    except (NoPermissionError, AuthenticationError, ExecAbortError):
        return True
    except ResponseError as error:
        if not str(error).startswith(("WRONGTYPE", "EXEC without MULTI")):
            raise
    finally:
        connection.disconnect()
    return False


def shortened(line):
    """Give a line without each of its words in turn, those in brackets too, and each of these words."""
    for place, word in enumerate(line[3:], 3):
        before, after = line[:place], line[place + 1 :]
        yield word, [*before, *after]
        inner = word[1:-1].split() if word.startswith("(") else []
        for each in inner:
            yield each, [*before, f"({' '.join(one for one in inner if one != each)})", *after]


async def what_a_client_says(url, db, admin_url, monkeypatch):
    """Have a client do all that it can, a hand answering. Gives its commands, each with the first key or channel."""
    said = []

    async def listen(monitor):
        async for entry in monitor.listen():
            if int(entry["client_port"]) not in others:
                name, *arguments = entry["command"].split(" ")
                said.append((name.upper(), *[each.encode().decode("unicode_escape") for each in arguments[:1]]))

    async def has_said(name):
        return any(each[0] == name for each in said)

    monkeypatch.setattr(session, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(link, "IDLE", 0.05)
    monkeypatch.setattr(reader, "STALE_FOR", 0.05)
    async with (
        redis.asyncio.Redis.from_url(admin_url) as direct,
        direct.pubsub() as ear,
        direct.monitor() as monitor,
        CeleryClient(url, max_result_bytes=100_000) as client,
    ):
        await ear.subscribe(f"/{db}.celery.pidbox")  # Who asks waits for as many answers as there are ears.
        others = {int(each["addr"].rpartition(":")[2]) for each in await direct.client_list()}
        listening = asyncio.create_task(listen(monitor))
        result = await client.send_task("nobody.knows")
        waiting = asyncio.create_task(result.get(timeout=20))
        await eventually(lambda: has_said("PING"))
        await Hand(direct).put(result.id, result=1)
        assert await waiting == 1
        await eventually(lambda: has_said("UNSUBSCRIBE"))
        await result.forget()
        large = client.result("large")
        await Hand(direct).put("large", result="x" * 300_000, publish=False)
        with pytest.raises(ResultTooLargeError):
            await large.get(timeout=20)
        await large.forget()
        await client.send_task("nobody.knows", priority=9)
        await client.ping(timeout=0.05)
        assert (await client.diagnose(result, timeout=0.5)).depth == 2
        await eventually(lambda: has_said("LTRIM"))
        listening.cancel()
    return {each for each in said if each[0] not in ("CLIENT", "HELLO", "AUTH")}


async def test_each_word_of_the_client_s_line_is_needed(server, side, monkeypatch):
    db = server.fresh_db()
    said = await what_a_client_says(make_user(server, side.line, db), db, server.database(db), monkeypatch)
    foreign = ("GET", "other")

    def refused(words):
        """What is refused to one who could do everything, but not come in, before this line was said."""
        with server.client() as direct:
            direct.execute_command("ACL", "SETUSER", CLIENT, "reset", "+@all", "~*", "&*")
        try:
            url = make_user(server, words, db)
        except ResponseError:
            return None
        return {each for each in (*said, foreign) if is_refused(url, *each)}

    # Where the client may not look into the queue, a diagnosis does without.
    right = {foreign}
    if side.has_brackets:
        right |= {each for each in said if each[0] == "LRANGE" and not each[1].endswith("pidbox")}
    with server.client() as direct:
        usual = direct.config_get("acl-pubsub-default")
        direct.config_set("acl-pubsub-default", "allchannels")  # as Redis 6.2 has it
        try:
            assert refused(side.line) == right
            assert [word for word, words in shortened(side.line) if refused(words) == right] == []
        finally:
            direct.config_set(*usual.popitem())


# What the line without brackets lets through.


def pairs(line):
    """The commands of a line of the client that take a key, each with each pattern that it may have."""
    groups = [word[1:-1].split() for word in line if word.startswith("(")] or [line]
    keyless = {"ping", "select", "multi", "exec", "subscribe", "unsubscribe", "publish"}
    return {
        (word[1:], pattern[1:])
        for group in groups
        for word in group
        for pattern in group
        if word.startswith("+") and pattern.startswith("~") and word[1:] not in keyless
    }


def listed():
    """What the page's table has, a row each: the patterns and the commands."""
    rows = re.findall(r"^\| (`(?:celery|_kombu|\*).*?) \| (.*?) \| .* \|$", PAGE.read_text(), re.MULTILINE)
    return [[re.findall("`(.*?)`", cell) for cell in row] for row in rows]


LISTED = [(command, pattern) for patterns, commands in listed() for command in commands for pattern in patterns]


def test_the_table_has_all_that_the_line_without_brackets_adds_and_nothing_else():
    assert len(LISTED) == len(set(LISTED))
    assert set(LISTED) == pairs(PLAIN) - pairs(BRACKETS)
    assert pairs(BRACKETS) <= pairs(PLAIN)


def test_what_the_table_has_is_refused_by_the_line_with_brackets_alone(url, side):
    refused = [pair for pair in LISTED if is_refused(url, pair[0].upper(), KEYS[pair[1]])]
    assert refused == (LISTED if side.has_brackets else [])
    assert not any(is_refused(url, command.upper(), KEYS[pattern]) for command, pattern in pairs(BRACKETS))


@pytest.fixture
def mischief(server):
    """A client with the line without brackets, who may be up to mischief, and one who may do everything."""
    with server.client(make_user(server, PLAIN)) as client, server.client() as everybody:
        yield client, everybody


def test_without_brackets_tasks_can_be_read_dropped_overtaken_and_deleted(mischief):
    client, everybody = mischief
    everybody.lpush(QUEUE, "another's", "one more")
    client.rpush(QUEUE, "first")
    assert client.lrange(QUEUE, 0, -1) == [b"one more", b"another's", b"first"]
    assert client.ltrim(QUEUE, 0, 0)
    assert everybody.lrange(QUEUE, 0, -1) == [b"one more"]
    assert client.mget(QUEUE) == [None]  # It reads no list.
    assert client.unlink(QUEUE) == 1
    everybody.lpush(QUEUE, "another's")
    assert client.pexpire(QUEUE, 0)
    assert not everybody.exists(QUEUE)


@pytest.mark.parametrize("put", ["lpush", "rpush"])
def test_without_brackets_a_result_can_be_kept_from_being_stored(server, mischief, put):
    client, _ = mischief
    getattr(client, put)(RESULT, "anything")
    url = make_users(server)[WORKER]
    with celery.Celery("a worker's", broker=url, backend=url, set_as_current=False) as app:
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            app.backend.store_result("x", 1, "SUCCESS")
        app.backend.result_consumer.stop()
        app.backend.client.connection_pool.disconnect()


def test_without_brackets_an_answer_of_another_can_be_deleted_in_another_way(mischief):
    client, everybody = mischief
    everybody.rpush(REPLIES, "an answer")
    assert client.unlink(REPLIES) == 1


def test_an_answer_of_another_can_be_deleted_with_either_line(url, server):
    with server.client(url) as client, server.client() as everybody:
        everybody.rpush(REPLIES, "an answer")
        assert client.pexpire(REPLIES, 0)
        assert not everybody.exists(REPLIES)


# Less.


def reduced(line):
    """Take remote control from a line of the client, as the page says it."""
    asking = {"+publish", "&/0.celery.pidbox", "+multi", "+exec", "+rpush", "+pexpire", "+lrange", "+ltrim"}
    return [word for word in line if word not in asking and "reply" not in word]


async def test_without_remote_control_a_client_sends_and_awaits(server, side):
    async with CeleryClient(make_user(server, reduced(side.line))) as client:
        async with redis.asyncio.Redis.from_url(server.url) as direct:
            result = await client.send_task("nobody.knows")
            waiting = asyncio.create_task(result.get(timeout=20))
            await eventually(Hand(direct).channels)
            await Hand(direct).put(result.id, result=1)
            assert await waiting == 1
            assert await client.queue_depth() == 1
        with pytest.raises(FiboError, match=r"PUBLISH: .*must allow"):
            await client.revoke(result.id)


def test_without_remote_control_the_page_says_what_is_left_of_the_table():
    (left,) = re.findall(r"of the table there remain (.*?)\)\.\n", PAGE.read_text().replace("\n  ", " "))
    of_queue, of_results = (set(re.findall("`(.*?)`", each)) for each in left.split("queue"))
    pairs_left = pairs(reduced(PLAIN)) - pairs(reduced(BRACKETS))
    assert pairs_left == {
        *[(command, pattern) for command in of_queue for pattern in ("celery", "celery??[369]")],
        *[(command, "celery-task-meta-*") for command in of_results],
    }


# What a client is told that may not do something.


async def test_a_refused_publish_names_the_command_and_says_what_to_do(server, url):
    async with CeleryClient(url) as client:
        with pytest.raises(
            PublishError, match=r"LPUSH: .*permissions.*The ACL of the Redis user must allow.*ACL LOG"
        ) as caught:
            await client.send_task("nobody.knows", queue="private")
    assert "change-me" not in repr(caught.value)
    assert refusals(server) == [(CLIENT, "key", "private")]


@pytest.mark.parametrize(
    ("command", "use"),
    [
        ("MGET", lambda client: client.result("0" * 8).ready()),
        ("PUBLISH", lambda client: client.revoke("0" * 8)),
        ("RPUSH|PUBLISH", lambda client: client.ping(timeout=1)),
    ],
    ids=["read", "revoke", "ping"],
)
async def test_another_refusal_names_its_command_too(server, side, command, use):
    missing = {"+mget", "+publish", "+rpush"}
    words = [word for word in side.line if word not in missing and not word.startswith("(")]
    async with CeleryClient(make_user(server, words)) as client:
        with pytest.raises(FiboError, match=rf"({command}): .*permissions.*must allow"):
            await use(client)


async def test_without_subscribe_results_are_polled_and_one_line_says_so(served, caplog):
    server, url, _ = served
    with server.client() as direct:
        direct.execute_command("ACL", "SETUSER", CLIENT, "-subscribe")
    with caplog.at_level(logging.INFO, "fibo_client"):
        async with FiboClient(url) as client:
            assert await client.fibonacci(12, timeout=20) == 144
            waiting = asyncio.create_task(client.celery.result("never").get(timeout=20))
            await eventually(lambda: said(caplog))
            assert await client.fibonacci(13, timeout=20) == 233
            waiting.cancel()
    assert len(said(caplog)) == 1
    assert re.search(r"polling meanwhile: .*permissions.*must allow", said(caplog)[0])


def said(caplog):
    return [record.getMessage() for record in caplog.records if "permissions" in record.getMessage()]


async def test_the_name_of_the_library_is_refused_without_harm_and_allowed_by_a_word_of_redis_7_2(server, side):
    async def logged(words):
        with server.client(decode_responses=True) as direct:
            direct.acl_log_reset()
            async with CeleryClient(make_user(server, words)) as client:
                assert await client.queue_depth() == 0
            return {entry["object"] for entry in direct.acl_log()}

    found = version(side.program)
    refused = {"client"} if found < (7, 0) else set() if found < (7, 2) else {"client|setinfo"}
    assert await logged(side.line) == refused
    if found >= (7, 2):
        assert await logged([*side.line, "+client|setinfo"]) == set()
