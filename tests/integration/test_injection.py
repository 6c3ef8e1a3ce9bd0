"""Names that would be commands, other keys or other JSON, sent through a real Redis: it has what was meant, no more.

`tests/unit/client/test_hostile_names.py` has each of them in each place.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import defaultdict

import pytest
from support.hostile import HOSTILE, NAMES, meant

from fibo_client.celery import CeleryClient, RedisOptions, RemoteTask
from fibo_client.errors import FiboError, ResultTimeoutError

PREFIXES = [HOSTILE[kind] for kind in ("RESP", "RESP at its start", "NUL", "separator", "emoji", "glob", "quotes")]
"""What may be written before a key, and is no name."""


@pytest.fixture
async def left(server, hand):
    """What stands in Redis, by key, beside a key that nobody may touch. It is taken away."""
    await hand.redis.set("victim", "untouched")

    async def read():
        assert await hand.redis.get("victim") == b"untouched"
        found = {}
        for key in await hand.redis.keys("*"):
            if key != b"victim":
                found[key] = [json.loads(each) for each in await hand.redis.lrange(key, 0, -1)]
                await hand.redis.delete(key)
        return found

    return read


def ids(messages):
    return [message["headers"]["id"] for message in messages[::-1]]


async def test_names_and_arguments_are_in_the_lists_to_the_letter(server, left):
    expected = defaultdict(list)
    async with CeleryClient(server.url) as client:
        for kind in sorted(NAMES):
            name = HOSTILE[kind]
            await client.send_task(name, (1,), task_id=f"{kind}: task")
            await client.send_task("t.add", (1,), task_id=name)
            await client.send_task("t.add", (1,), task_id=f"{kind}: queue", queue=name)
            expected[b"celery"] += [f"{kind}: task", name]
            expected[name.encode()] += [f"{kind}: queue"]
    found = await left()
    assert {key: ids(messages) for key, messages in found.items()} == expected
    tasks = [message["headers"]["task"] for message in found[b"celery"][::-1]]
    assert tasks[::2] == [HOSTILE[kind] for kind in sorted(NAMES)]


async def test_any_text_is_an_argument(server, left):
    texts = [*HOSTILE.values()]
    async with CeleryClient(server.url) as client:
        await client.send_many([RemoteTask("t.add")(text, {text: text}) for text in texts])
    ((_, messages),) = (await left()).items()
    bodies = [json.loads(base64.b64decode(message["body"])) for message in messages[::-1]]
    assert [args for args, _, _ in bodies] == [[meant(text), {meant(text): meant(text)}] for text in texts]


async def test_what_is_no_name_leaves_nothing(server, left):
    async with CeleryClient(server.url) as client:
        for kind in HOSTILE.keys() - NAMES:
            for option in ("task_id", "queue"):
                with pytest.raises(FiboError):
                    await client.send_task("t.add", (1,), **{option: HOSTILE[kind]})
    assert await left() == {}


@pytest.mark.parametrize("push", [True, False], ids=["push", "poll"])
async def test_an_id_that_is_waited_for_names_its_own_key_only(server, hand, left, push):
    async with CeleryClient(server.url, push=push) as client:
        results = [client.result(HOSTILE[kind]) for kind in sorted(NAMES)]
        with pytest.raises(ResultTimeoutError):
            await client.gather(results, timeout=0.2)
        for number, result in enumerate(results):
            await hand.put(result.id, result=number)
        again = [client.result(result.id) for result in results]
        assert await client.gather(again, timeout=20) == [*range(len(results))]
        for result in again:
            await result.forget()
    assert await left() == {}


async def test_a_prefix_and_a_separator_stand_in_the_key(server, left):
    for text in PREFIXES:
        async with CeleryClient(server.url, redis=RedisOptions(broker_prefix=text, priority_separator=text)) as client:
            await client.send_task("t.add", (1,), task_id="a")
            await client.send_task("t.add", (1,), task_id="b", priority=9)
        found = await left()
        assert {key: ids(messages) for key, messages in found.items()} == {
            f"{text}celery".encode(): ["a"],
            f"{text}celery{text}9".encode(): ["b"],
        }


async def test_a_prefix_of_results_stands_before_the_key(server, left):
    async def wait(text):
        async with CeleryClient(server.url, redis=RedisOptions(result_prefix=text)) as client:
            with pytest.raises(ResultTimeoutError):
                await client.result("a").get(timeout=0.2)

    await asyncio.gather(*map(wait, PREFIXES))
    assert await left() == {}
