"""Names that would be commands, other keys or other JSON: refused before anything is sent, or data to the letter."""

from __future__ import annotations

import base64
import json

import pytest
import redis.asyncio

from fibo_client.celery import CeleryClient
from fibo_client.errors import FiboError, ResultTimeoutError

HOSTILE = {
    "newline": "a\nb",
    "RESP": "a\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "RESP at its start": "\r\n$3\r\nabc\r\n",
    "NUL": "a\0b",
    "separator": "a\x06\x163",
    "quotes": '"}, "id": "other", {"',
    "backslash": "a\\",
    "escape": "\\u0000\\",
    "lone surrogate": "a\ud800b",
    "both surrogates": "\ud83d\ude00",
    "emoji": "\U0001f600",
    "right to left": "\u202eabc",
    "very long": "x" * 100_000,
    "result key": "celery-task-meta-victim",
    "binding": "_kombu.binding.celery.pidbox",
    "unacked": "unacked",
    "glob": "*?[a-z]\\*",
    "hash tag": "{a}b",
    "empty": "",
    "space": " ",
    "dots": "../../etc",
    "format": "%s{0}{}${x}%(a)s",
    "markup": "<script>",
    "only a NUL": "\0",
}


def meant(text):
    """JSON knows no difference between the two halves of a character and the character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


@pytest.fixture(params=HOSTILE)
def name(request):
    return HOSTILE[request.param]


@pytest.fixture
async def left(server, hand):
    """What stands in Redis afterwards, by key."""
    await hand.redis.set("victim", "untouched")

    async def read():
        assert await hand.redis.get("victim") == b"untouched"
        keys = [key for key in await hand.redis.keys("*") if key != b"victim"]
        return {key: await hand.redis.lrange(key, 0, -1) for key in keys}

    return read


async def sent(server, left, **options):
    """Send a task; give the one key that came to be, and the message. Nothing, where it was refused."""
    config = {key: options.pop(key) for key in [*options] if key.endswith("prefix") or key == "priority_separator"}
    task = options.pop("task", "t.add")
    try:
        async with CeleryClient(server.url, **config) as client:
            await client.send_task(task, (1,), **options)
    except (FiboError, ValueError):
        assert await left() == {}
        return None
    ((key, elements),) = (await left()).items()
    (element,) = elements
    message = json.loads(element)
    assert json.loads(base64.b64decode(message["body"]))[0] == [1]
    return key, message


async def test_the_name_of_a_task_is_refused_or_data(server, left, name):
    if what := await sent(server, left, task=name):
        key, message = what
        assert key == b"celery"
        assert message["headers"]["task"] == name


async def test_the_name_of_a_queue_is_refused_or_the_key(server, left, name):
    if what := await sent(server, left, queue=name):
        key, message = what
        assert key == name.encode()
        assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": name}


async def test_the_id_of_a_task_is_refused_or_data(server, left, name):
    if what := await sent(server, left, task_id=name):
        key, message = what
        assert key == b"celery"
        assert message["headers"]["id"] == message["properties"]["correlation_id"] == name


async def test_a_header_is_refused_or_data(server, left, name):
    if what := await sent(server, left, headers={"x-mine": name}):
        assert what[1]["headers"]["x-mine"] == meant(name)
        assert what[1]["headers"]["task"] == "t.add"


async def test_the_name_of_a_header_is_refused_or_data(server, left, name):
    if what := await sent(server, left, headers={name: "mine"}):
        assert what[1]["headers"][name] == "mine"
        assert what[1]["headers"]["task"] == "t.add"


async def test_a_shadow_is_refused_or_data(server, left, name):
    if what := await sent(server, left, shadow=name):
        assert what[1]["headers"]["shadow"] == name


async def test_an_argument_is_data(server, hand, left, name):
    async with CeleryClient(server.url) as client:
        await client.send_task("t.add", (name,), {"k": {name: name}})
    ((_, (element,)),) = (await left()).items()
    args, kwargs, _ = json.loads(base64.b64decode(json.loads(element)["body"]))
    assert (args, kwargs) == ([meant(name)], {"k": {meant(name): meant(name)}})


async def test_a_prefix_is_refused_or_stands_before_the_key(server, left, name):
    if what := await sent(server, left, broker_prefix=name):
        assert what[0] == f"{name}celery".encode()


async def test_a_separator_of_priorities_is_refused_or_in_the_key(server, left, name):
    if what := await sent(server, left, priority_separator=name, priority=9):
        assert what[0] == f"celery{name}9".encode()


@pytest.mark.parametrize("push", [True, False], ids=["push", "poll"])
async def test_an_id_that_is_waited_for_is_refused_or_names_its_own_key_only(server, hand, left, name, push):
    async with CeleryClient(server.url, push=push) as client:
        await hand.put("good", result=1)
        try:
            result = client.result(name)
            with pytest.raises(ResultTimeoutError):
                await result.get(timeout=0.2)
            await hand.put(name, result=5)
            assert await client.result(name).get(timeout=5) == 5
            await result.forget()
        except (FiboError, ValueError):
            pass
        assert await client.result("good").get(timeout=5) == 1
    async with redis.asyncio.Redis.from_url(server.url) as other:
        await other.delete("celery-task-meta-good")
    assert await left() == {}


async def test_a_prefix_of_results_is_refused_or_stands_before_the_key(server, hand, name):
    try:
        async with CeleryClient(server.url, result_prefix=name) as client:
            with pytest.raises(ResultTimeoutError):
                await client.result("a").get(timeout=0.1)
    except (FiboError, ValueError):
        pass
    assert await hand.redis.keys("*") == []
