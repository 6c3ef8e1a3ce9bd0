"""What the client makes of what Sentinels say, which may be anything."""

import contextlib
import traceback

import pytest
from support.hostile_text import ESCAPES, check
from support.servers import RedisServer, free_port
from support.silent import listening

from fibo_client.celery import CeleryClient, RedisOptions
from fibo_client.errors import PublishError, TransportError
from fibo_client.text import LONGEST


def told(*masters):
    """What a Sentinel answers that watches these masters, each of which is names and values."""
    text = f"*{len(masters)}\r\n"
    for master in masters:
        words = [word for pair in master.items() for word in pair]
        text += f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    return text.encode()


def master(port, name="m", **others):
    return {"name": name, "ip": "127.0.0.1", "port": str(port), "flags": "master", **others}


@contextlib.asynccontextmanager
async def saying(answer, **credentials):
    """A client of one Sentinel that answers every question so."""
    async with listening(lambda _: answer) as (url, _), client_of(url, **credentials) as client:
        yield client


def client_of(*urls, io_timeout=5.0, **credentials):
    return CeleryClient(
        ";".join(url.replace("redis:", "sentinel:") for url in urls),
        redis=RedisOptions(master_name="m", **credentials),
        push=False,
        io_timeout=io_timeout,
    )


async def refusal(client):
    with pytest.raises(TransportError) as caught:
        await client.queue_depth()
    return caught.value


async def test_the_master_is_the_one_of_that_name(server):
    answer = told(master(free_port(), "another"), master(server.port), master(free_port(), "m2"))
    async with saying(answer) as client:
        assert await client.queue_depth("nothing-here") == 0


@pytest.mark.parametrize(
    "answer",
    [
        told(),
        told(master(1, "another")),
        told(master(1, flags="s_down,master")),
        told(master(1, flags="o_down,s_down,master,disconnected")),
        told(master(1, flags="slave")),
        told(master("x")),
        told({"name": "m", "ip": "127.0.0.1", "port": "1"}),
        told({"other": "m"}),
        b"*1\r\n*1\r\n$4\r\nname\r\n",
        b"*1\r\n:1\r\n",
        b"$-1\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
)
async def test_a_sentinel_that_knows_no_such_master_is_told_as_that(answer):
    async with saying(answer) as client:
        error = await refusal(client)
    assert str(error).endswith("No master found for 'm'. Check master_name and the Sentinels' addresses.")


@pytest.mark.parametrize(
    "said",
    [
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "ERR AUTH <password> called without any password configured for the default user. Are you sure?",
    ],
)
async def test_a_sentinel_that_wants_other_credentials_is_told_without_them(said):
    async with saying(f"-{said}\r\n".encode(), sentinel_username="guard", sentinel_password="hush") as client:
        error = await refusal(client)
    assert "No master found for 'm': a Sentinel wants another sentinel_username or sentinel_password. " in str(error)
    assert "hush" not in "".join(traceback.format_exception(error))


async def test_a_sentinel_is_given_its_own_credentials():
    # A Redis lets in as a Sentinel does, and says no sooner that it is none.
    with RedisServer(password="hush") as guarded:
        url = f"sentinel://127.0.0.1:{guarded.port}/0"
        for username in (None, "default"):
            async with client_of(url, sentinel_username=username, sentinel_password="hush") as client:
                assert "no Sentinel, whose port is 26379" in str(await refusal(client))
        async with client_of(url, sentinel_password="wrong") as client:
            assert "sentinel_password" in str(await refusal(client))


async def test_what_a_sentinel_refuses_does_not_act_on_a_terminal():
    async with saying(f"-ERR {ESCAPES}{'x' * 100_000}\r\n".encode()) as client:
        error = await refusal(client)
    check("".join(traceback.format_exception(error, limit=0)), 3 * LONGEST, "\n")


async def test_a_sentinel_that_is_silent_or_a_redis_leaves_time_to_ask_the_next(server):
    async with (
        listening() as (silent, _),
        listening(lambda _: told(master(server.port))) as (well, _),
        client_of(silent, server.url, well, io_timeout=1.5) as client,
    ):
        assert await client.queue_depth("nothing-here") == 0


async def test_sentinels_that_are_all_silent_are_told_as_that():
    async with listening() as (one, _), listening() as (other, _), client_of(one, other, io_timeout=0.2) as client:
        with pytest.raises(PublishError, match=r"no connection within 0\.2 s"):
            await client.send_task("nobody.knows")
