"""``fibo-worker dead`` and the list under it, on a real Redis."""

import asyncio
import hashlib
import json

import pytest
from click.testing import CliRunner
from support.fibo import fibo_worker
from support.hostile_text import ESCAPES, check
from support.servers import free_port
from support.silent import listening

from fibo_client.text import LONGEST
from fibo_worker import cli
from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters

WRONG_SIZE = b'{"reason":"","at":"","queue":"","task":null,"id":null,"raw":"","size":"1","sha256":null}'


@pytest.fixture
def client(redis_server, redis_url):
    with redis_server.client(redis_url) as client:
        yield client


@pytest.fixture
def dead_letters(client):
    return DeadLetters(client, "celery", limit=5)


@pytest.fixture
def dead(redis_url):
    def call(*arguments, answer=None):
        env = {"CELERY_BROKER_URL": redis_url, "CELERY_RESULT_BACKEND": redis_url}
        return CliRunner().invoke(cli.main, ["dead", *arguments], env=env, input=answer)

    return call


def push(dead_letters, *raws):
    for raw in raws:
        dead_letters.push(DeadLetter.now("it is no good", raw, queue="celery", task="t", id=raw[:20].decode("latin-1")))


def test_the_list_keeps_the_newest_and_counts_all(dead_letters):
    push(dead_letters, *(str(n).encode() for n in range(8)))

    assert [DeadLetter.decode(each).raw for each in dead_letters.stored()] == [b"7", b"6", b"5", b"4", b"3"]
    assert (dead_letters.kept(), dead_letters.total()) == (5, 8)


def test_a_key_prefix_is_in_front_of_every_key(client):
    dead_letters = DeadLetters(client, "celery", prefix="p:")
    push(dead_letters, b"x")

    beside = [b"p:celery.dead.bytes", b"p:celery.dead.count"]
    assert sorted(client.keys()) == [b"p:celery.dead", *beside]
    assert dead_letters.requeue(dead_letters.stored()) == 1
    assert sorted(client.keys()) == [b"p:celery", *beside]


def test_all_expires_some_time_after_the_last_one(client):
    push(DeadLetters(client, "celery", expires=1000), b"x")
    push(DeadLetters(client, "celery", expires=50), b"x")

    assert {client.ttl(f"celery.dead{end}") for end in ("", ".count", ".bytes")} <= {49, 50}


def test_the_list_keeps_the_newest_that_fit_into_its_bytes(client):
    dead_letters = DeadLetters(client, "celery", max_bytes=100_000)
    push(dead_letters, *(b"%d" % n + b"x" * 20_000 for n in range(8)))

    kept = dead_letters.stored()
    assert [DeadLetter.decode(each).raw[:1] for each in kept] == [b"7", b"6", b"5"]
    assert sum(map(len, kept)) <= 100_000


def test_the_bytes_of_the_list_are_known_also_after_others_have_changed_it(client):
    dead_letters = DeadLetters(client, "celery", max_bytes=100_000)
    push(dead_letters, *(b"x" * 20_000 for _ in range(3)))
    client.ltrim("celery.dead", 0, 0)
    push(dead_letters, b"x" * 20_000, b"x" * 20_000)
    assert dead_letters.kept() == 3

    client.rpush("celery.dead", *[b"y" * 1000] * 300)
    push(dead_letters, b"x" * 20_000)
    assert sum(map(len, dead_letters.stored())) <= 100_000
    assert DeadLetter.decode(dead_letters.stored(0, 0)[0]).raw == b"x" * 20_000


@pytest.mark.parametrize("key", ["celery.dead.bytes", "celery.dead.count"])
def test_a_key_of_a_wrong_type_beside_the_list_keeps_no_dead_letter_out(client, dead_letters, key):
    client.rpush(key, "a list")
    push(dead_letters, *(b"%d" % n for n in range(8)))

    assert dead_letters.kept() == 5


def test_one_that_would_take_more_than_half_of_the_bytes_is_cut(client):
    dead_letters = DeadLetters(client, "celery", max_bytes=100_000)
    raw = bytes(range(256)) * 200
    push(dead_letters, raw)

    dead_letter = DeadLetter.decode(dead_letters.stored()[0])
    assert dead_letter.raw == raw[:4096]
    assert (dead_letter.size, dead_letter.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())


def push_cut(dead_letters):
    """Push one whose message is cut, and give the digest of that."""
    raw = b"x" * 10_000
    dead_letters.push(DeadLetter.now("it is no good", raw, queue="celery", task="t", id="large").cut())
    return hashlib.sha256(raw).hexdigest()


def test_one_that_was_cut_is_shown_as_such(dead, dead_letters):
    digest = push_cut(dead_letters)

    assert dead("list").output.splitlines()[0].endswith("t large  it is no good  (cut: 4096 of 10000 bytes)")
    shown = dead("show", "0").output
    assert "cut:    of the message's 10000 bytes, only the first 4096 were kept\n" in shown
    assert f"sha256: {digest}\n" in shown


def test_one_that_was_cut_is_not_put_back(dead, dead_letters, client):
    push_cut(dead_letters)
    push(dead_letters, b"whole")

    result = dead("requeue", "--yes", "0", "1")
    assert result.exit_code == 1
    assert result.output == (
        "Error: the message of t large cannot be put back: of its 10000 bytes, only the first 4096 were kept\n"
    )
    assert not client.exists("celery")
    with pytest.raises(ValueError, match="bytes of the message are missing"):
        dead_letters.requeue(dead_letters.stored())
    assert not client.exists("celery")

    assert dead("requeue", "--yes", "--all").output.endswith("1 put back. 1 stay: they were cut.\n")
    assert client.lrange("celery", 0, -1) == [b"whole"]
    assert dead_letters.kept() == 1


def test_a_dead_letter_reads_back_as_it_was_written():
    dead_letter = DeadLetter.now("why", b"\xff\x00", queue="q")

    assert DeadLetter.decode(dead_letter.encode()) == dead_letter
    large = DeadLetter.now("why", b"x" * 10_000, queue="q").cut()
    assert DeadLetter.decode(large.encode()) == large


@pytest.mark.parametrize("stored", [b"", b"\xff", b"[]", b"{}", b"null", b'{"raw":5}', WRONG_SIZE, b"[" * 100_000])
def test_what_is_no_dead_letter_is_refused(stored):
    with pytest.raises(ValueError, match="not a dead letter"):
        DeadLetter.decode(stored)


def test_list_shows_reasons_and_ids_newest_first(dead, dead_letters):
    push(dead_letters, b"old", b"new")

    result = dead("list")

    assert result.exit_code == 0, result.output
    first, second, last = result.output.splitlines()
    assert first.startswith("0 ")
    assert first.endswith("t new  it is no good")
    assert second.endswith("t old  it is no good")
    assert last == "2 of 2 dead letters of the queue celery; 2 came since counting began."


def test_nothing_that_commands_a_terminal_is_shown(dead, dead_letters):
    raw = b"\x1b[2J\x07\xe2\x80\xae"
    dead_letters.push(DeadLetter.now("\x1b]0;x\x07", raw, queue="celery", task="\x9b1m", id="\x1b[31m\n"))

    shown = dead("list").output + dead("show", "0").output + dead("requeue", "0", answer="n\n").output

    assert "\\x1b[2J" in shown
    assert all(each == "\n" or " " <= each <= "~" for each in shown)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\u202e" * 1_000_000])
def test_nothing_endless_is_shown_of_what_is_beside_the_message(dead, dead_letters, text):
    dead_letters.push(DeadLetter(reason=text, at=text, raw=b"raw", queue=text, task=text, id=text))

    for command in (["list"], ["show", "0"], ["requeue", "0"]):
        shown = dead(*command, answer="n\n").output
        assert "..." in shown
        assert len(shown) < 6 * LONGEST


@pytest.mark.parametrize("code", ["ERR", "LOADING"])
async def test_what_a_broker_says_that_refuses_is_shown_in_the_same_way(code):
    refusal = f"-{code} {ESCAPES}{'x' * 100_000}\r\n".encode()
    async with listening(lambda _: refusal) as (url, _):
        result = await asyncio.to_thread(fibo_worker, "dead", "list", CELERY_BROKER_URL=url)

    assert result.exit_code == 1
    assert "\\x1b[2J" in result.output
    check(result.output, 2 * LONGEST, "\n")


def test_show_of_one_that_is_not_there_fails_plainly(dead):
    result = dead("show", "3")

    assert result.exit_code == 1
    assert result.output == "Error: the queue celery has no dead letter 3\n"


def test_requeue_puts_the_very_bytes_back_in_the_order_they_came(dead, dead_letters, client):
    push(dead_letters, b"first", b"\xff second")

    result = dead("requeue", "--all", answer="y\n")

    assert result.exit_code == 0, result.output
    assert client.lrange("celery", 0, -1) == [b"\xff second", b"first"]
    assert dead_letters.kept() == 0


def test_requeue_of_some_leaves_the_others(dead, dead_letters, client):
    push(dead_letters, b"a", b"b", b"c")

    assert dead("requeue", "--yes", "1").exit_code == 0

    assert client.lrange("celery", 0, -1) == [b"b"]
    assert [DeadLetter.decode(each).raw for each in dead_letters.stored()] == [b"c", b"a"]


def test_requeue_changes_nothing_unless_it_is_confirmed(dead, dead_letters, client):
    push(dead_letters, b"a")

    assert dead("requeue", "--all", answer="n\n").exit_code == 1

    assert (client.llen("celery"), dead_letters.kept()) == (0, 1)


def test_a_dead_letter_that_somebody_else_put_back_is_not_put_back_twice(dead_letters, client):
    push(dead_letters, b"a", b"b")
    stored = dead_letters.stored()

    assert dead_letters.requeue(stored[:1]) == 1
    assert dead_letters.requeue(stored) == 1

    assert sorted(client.lrange("celery", 0, -1)) == [b"a", b"b"]


def test_purge_asks_and_then_removes(dead, dead_letters):
    push(dead_letters, b"a", b"b")

    assert dead("purge", answer="n\n").exit_code == 1
    assert dead_letters.kept() == 2
    assert dead("purge", "--yes").output == "2 removed.\n"
    assert dead_letters.kept() == 0


def test_something_else_in_the_list_harms_no_command(dead, dead_letters, client):
    push(dead_letters, b"a")
    client.lpush("celery.dead", b"\x1bnope")

    assert "not a dead letter" in dead("list").output
    assert dead("show", "0").exit_code == 1
    assert dead("requeue", "--all", "--yes").output.endswith("1 put back.\n")


def test_a_broker_that_is_not_there_is_said_plainly(dead):
    port = free_port()
    for password, shown in ((":secret@", ":**@"), ("", "")):
        url = f"redis://{password}127.0.0.1:{port}/0"
        result = fibo_worker("dead", "list", CELERY_BROKER_URL=url)

        assert result.exit_code == 1
        assert result.output.startswith(f"Error: the broker redis://{shown}127.0.0.1:{port}/0 cannot be reached: ")
        assert "CELERY_BROKER_URL says where Redis is; `fibo-worker dev` starts one" in result.output
        assert "secret" not in result.output


def test_a_dead_letter_is_json_that_other_programs_can_read(dead_letters):
    push(dead_letters, b"a")

    assert json.loads(dead_letters.stored()[0]).keys() == {
        *("reason", "at", "queue", "task", "id", "raw", "size", "sha256")
    }
