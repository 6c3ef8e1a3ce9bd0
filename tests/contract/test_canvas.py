"""Chains, groups and chords: what is sent and stored is what Celery's own client sends and stores, and a stock worker,
and one under the guard, gives the same value or the same failure."""

import base64
import gc
import json
import re
from datetime import UTC, datetime, timedelta
from functools import partial

import celery
import pytest
from celery.canvas import chunks, xmap, xstarmap
from kombu.compression import decompress

from fibo_client import TaskFailedError
from fibo_client.celery import RemoteTask, chain, chord, group

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
VOLATILE = {"origin", "delivery_tag", "eta", "expires"}


class Theirs:
    """Celery's own way to compose."""

    chain, group, chord = celery.chain, celery.group, celery.chord

    def __init__(self, app):
        self._app = app

    def __call__(self, name, *args, **options):
        return self._app.signature(f"stock.{name}", args=args).set(**options)

    def fixed(self, name, *args):
        return self._app.signature(f"stock.{name}", args=args, immutable=True)

    def map(self, name, calls):
        return xmap(self(name), calls, app=self._app)

    def starmap(self, name, calls):
        return xstarmap(self(name), calls, app=self._app)

    def chunks(self, name, calls, n):
        return chunks(self(name), calls, n, app=self._app).group()


class Ours:
    """This client's way."""

    chain, group, chord = staticmethod(chain), staticmethod(group), staticmethod(chord)

    def __call__(self, name, *args, **options):
        return RemoteTask(f"stock.{name}")(*args).with_options(**options)

    def fixed(self, name, *args):
        return self(name, *args).immutable()

    def map(self, name, calls):
        return RemoteTask(f"stock.{name}", chunkable=True).map(calls)

    def starmap(self, name, calls):
        return RemoteTask(f"stock.{name}", chunkable=True).starmap(calls)

    def chunks(self, name, calls, n):
        return RemoteTask(f"stock.{name}", chunkable=True).chunks(calls, n)


def pair(of):
    return [of("add", 1, 1), of("add", 2, 2)]


FLOWS = {
    "a chain of two": lambda of: of.chain(of("add", 1, 1), of("add", 2)),
    "a chain of five": lambda of: of.chain(of("add", 1, 1), *(of("add", n) for n in range(4))),
    "a chain by |": lambda of: of("add", 1, 1) | of("add", 2) | of("add", 3),
    "a chain with an immutable step": lambda of: of.chain(of("add", 1, 1), of.fixed("add", 2, 5), of("add", 3)),
    "a chain of chains": lambda of: of.chain(of("add", 1, 1) | of("add", 2), of("add", 3) | of("add", 4)),
    "a chain with options of its steps": lambda of: of.chain(
        of("add", 1, 1, priority=3), of("add", 2, time_limit=9, soft_time_limit=8), of("add", 3, countdown=0.1)
    ),
    "a chain whose second step fails": lambda of: of.chain(of("add", 1, 1), of("fail"), of("add", 3)),
    "a chain whose first step fails": lambda of: of.chain(of("fail", 5), of("add", 3)),
    "a group of one": lambda of: of.group([of("add", 1, 1)]),
    "a group of three": lambda of: of.group([of("add", n, n) for n in range(3)]),
    "a group of chains": lambda of: of.group([of("add", 1, 1) | of("add", 2), of("add", 3, 3) | of("add", 4)]),
    "a group in a group": lambda of: of.group([of("add", 1, 1), of.group(pair(of))]),
    "a group with a member that fails": lambda of: of.group([of("add", 1, 1), of("fail", 1)]),
    "a chord": lambda of: of.chord([of("add", n, n) for n in range(5)], of("total")),
    "a chord of one": lambda of: of.chord([of("add", 1, 1)], of("total")),
    "a chord whose header is empty": lambda of: of.chord([], of("total")),
    "a chord whose header is empty, of a chain": lambda of: of.chord([], of("total", 1) | of("add", 5)),
    "a chord in a chain whose header is empty": lambda of: of.chain(of("add", 1, 1), of.chord([], of("total", 3))),
    "a chord by |": lambda of: of.group(pair(of)) | of("total"),
    "a chord with more arguments": lambda of: of.chord(pair(of), of("total", 10)),
    "a chord with an immutable body": lambda of: of.chord(pair(of), of.fixed("add", 3, 4)),
    "a chord whose member fails": lambda of: of.chord([of("add", 1, 1), of("fail", 7)], of("total")),
    "a chord whose body fails": lambda of: of.chord(pair(of), of("fail")),
    "a chord with chains in its header": lambda of: of.chord(
        [of("add", 1, 1) | of("add", 2), of("add", 3, 3)], of("total")
    ),
    "a chord in the header of a chord": lambda of: of.chord(
        [of.chord(pair(of), of("total")), of("add", 3, 3)], of("total")
    ),
    "a chord with a chain as its body": lambda of: of.chord(pair(of), of("total") | of("add", 5)),
    "a chord with a group as its body": lambda of: of.group(pair(of)) | of.group([of("total"), of("total", 1)]),
    "a chord followed by a task": lambda of: of.chord(pair(of), of("total")) | of("add", 5),
    "a task, then a group": lambda of: of("add", 1, 1) | of.group([of("add", 2), of("add", 3)]),
    "a task, a group, a task": lambda of: of("add", 1, 1) | of.group([of("add", 2), of("add", 3)]) | of("total"),
    "a task, a group, two tasks": lambda of: (
        of("add", 1, 1) | of.group([of("add", 2), of("add", 3)]) | of("total") | of("add", 100)
    ),
    "two tasks, then a group": lambda of: of("add", 1, 1) | of("add", 1) | of.group([of("add", 2), of("add", 3)]),
    "a chord of a chord of a chord": lambda of: of.chord(
        [of.chord([of.chord(pair(of), of("total"))], of("total"))], of("total")
    ),
    "a chain of a chord in a group": lambda of: of.group([of.chord(pair(of), of("total")), of("add", 5, 5)]),
    "a map": lambda of: of.map("negated", [1, 2, 3]),
    "a map of nothing": lambda of: of.map("negated", []),
    "a map of what fails": lambda of: of.map("fail", [1, 2]),
    "a starmap": lambda of: of.starmap("add", [(1, 2), (3, 4)]),
    "chunks": lambda of: of.chunks("add", [(n, n) for n in range(7)], 3),
    "a chunk": lambda of: of.chunks("add", [(1, 2)], 3),
    "a map, then a task": lambda of: of.chain(of.map("negated", [1, 2]), of("total")),
    "a task, then a map": lambda of: of.chain(of("add", 1, 1), of.map("negated", [1, 2]), of("total")),
    "a task, then a starmap": lambda of: of.chain(of("add", 1, 1), of.starmap("add", [(1, 2), (3, 4)])),
    "maps in a group": lambda of: of.group([of.map("negated", [1, 2]), of.starmap("add", [(1, 2)])]),
    "maps in the header of a chord": lambda of: of.chord(
        [of.map("negated", [1, 2]), of.starmap("add", [(1, 2), (3, 4)])], of("echo")
    ),
    "a map as the body of a chord": lambda of: of.chord(pair(of), of.map("negated", [1, 2])),
    "chunks in the header of a chord": lambda of: of.chord(of.chunks("add", [(1, 2), (3, 4)], 1), of("echo")),
    "a task, then chunks": lambda of: of("add", 1, 1) | of.chunks("add", [(1, 2), (3, 4), (5, 6)], 2),
    "a chord whose members end in another order": lambda of: of.chord(
        [of("sleep", 0.3), of("sleep", 0.1), of("sleep", 0)], of("echo")
    ),
    "a group whose members end in another order": lambda of: of.group([of("sleep", 0.2), of("sleep", 0)]),
    "a group of a chain that ends in a group": lambda of: of.group(
        [of("add", 1, 1) | of.group([of("add", 2), of("add", 3)]), of("add", 4, 4)]
    ),
    "a chord with a group within a chain in its header": lambda of: of.chord(
        [of("add", 1, 1) | of.group([of("add", 2), of("add", 3)]) | of("total"), of("add", 4, 4)], of("echo")
    ),
    "a chord whose inner member fails": lambda of: of.chord(
        [of.chord([of("add", 1, 1), of("fail", 7)], of("total")), of("add", 3, 3)], of("total")
    ),
    "a chord whose chain fails": lambda of: of.chord(
        [of("add", 1, 1) | of("fail", 7) | of("add", 2), of("add", 3, 3)], of("total")
    ),
    "a task, a group of which one fails, a task": lambda of: (
        of("add", 1, 1) | of.group([of("add", 2), of("fail", 7)]) | of("total")
    ),
    "a chain that fails in a type": lambda of: of.chain(of("add", 1, 1), of("total"), of("add", 3)),
    "a task in another queue later": lambda of: of.chain(of("add", 1, 1), of("add", 2, queue="elsewhere")),
}
ENDLESS = {"a task in another queue later"}
"""Those of which no worker here runs all."""

ANOTHER_FORM = {
    "a group in a group": "Celery numbers the members of the inner group first",
    "a task, a group, two tasks": "here what follows the body of a chord is part of the body",
    "a chord whose header is empty": "Celery's body names the group, which has no members",
    "a chain of a chord in a group": "here the chord's members are sent in their order",
    "a chord with a group within a chain in its header": "here the inner chord says, too, where its body stands",
    "a group of a chain that ends in a group": "Celery's inner group has an index, which no worker reads",
}
"""Those whose messages differ on purpose, but not their values."""

OPTIONS = {
    "queue": "elsewhere",
    "priority": 3,
    "countdown": 5,
    "time_limit": 9,
    "soft_time_limit": 8,
    "ignore_result": True,
    "headers": {"tenant": "a"},
    "shadow": "short",
    "compression": "gzip",
}


def everywhere(of, **options):
    """A flow whose first task, later step, member of a chord and body have options."""
    members = [of("add", 3, **options), of("add", 4)]
    return of.chain(of("add", 1, 1, **options), of("add", 2, **options), of.chord(members, of("total", **options)))


ENDS_IN_A_GROUP = {
    *("a chord with a group as its body", "a task, then a group", "two tasks, then a group", "a task, then chunks"),
}
"""Those whose id Celery forgets when it is given one. Here the group has it."""


def stored(side):
    """All messages and all keys of a database, with ids by the order of their appearance."""
    found = []
    with side.redis() as redis:
        for key in sorted(key.decode() for key in redis.scan_iter()):
            if "_kombu" in key:
                continue
            if redis.type(key) == b"list":
                found += [[key, opened(raw)] for raw in reversed(redis.lrange(key, 0, -1))]
            else:
                found.append([key, redis.get(key).decode(), redis.ttl(key) > 86_000])
    ids: dict[str, str] = {}
    found = json.loads(UUID.sub(lambda match: ids.setdefault(match[0], f"id {len(ids)}"), json.dumps(found)))
    return sorted(found, key=lambda each: (each[0], json.dumps(each[1])) if "taskset" in each[0] else ("", ""))


def opened(raw):
    message = json.loads(raw)
    headers, properties = message["headers"], message["properties"]
    body = base64.b64decode(message["body"])
    if headers.get("compression"):
        body = decompress(body, headers["compression"])
    kept = {name: value for name, value in headers.items() if name not in VOLATILE}
    # Celery has a root for each message of a group. Here all of one flow have the same.
    kept["root_id"] = None
    if kept["task"] in ("celery.map", "celery.starmap"):
        # Here the first says how many calls there are, and that all want the result is left to the worker.
        kept["kwargsrepr"] = kept["ignore_result"] = None
    return {"headers": kept, "body": told(json.loads(body)), "priority": properties["priority"]}


def told(value):
    """Leave out of what is embedded what differs on purpose."""
    if isinstance(value, list):
        return [told(each) for each in value]
    if not isinstance(value, dict):
        return value
    if "subtask_type" in value:
        options = dict(value["options"])
        # The rpc backend alone reads the first; Celery leaves the queue to the worker's own routes; the others are None
        # and a false that no worker asks for.
        for name in ("reply_to", "root_id", "parent_id", "add_to_parent", "kwargsrepr"):
            options.pop(name, None)
        if options.get("queue") == "celery":
            del options["queue"]
        # The group of a body or of its tasks is only told in headers.
        options.pop("group_id", None)
        value = {**value, "options": options}
    return {name: told(each) for name, each in sorted(value.items())}


@pytest.mark.parametrize("name", sorted(FLOWS.keys() - ANOTHER_FORM.keys()))
async def test_what_is_sent_and_stored_is_what_celerys_own_client_sends_and_stores(unserved, name):
    theirs, ours, _ = await both(unserved, FLOWS[name])

    assert ours == theirs


@pytest.mark.parametrize("name", sorted(FLOWS.keys() - ANOTHER_FORM.keys() - ENDS_IN_A_GROUP))
async def test_the_id_of_a_send_is_that_of_the_last_step_of_the_body_or_of_the_group(unserved, name):
    theirs, ours, ids = await both(unserved, FLOWS[name], task_id="the-id-of-all")

    assert ours == theirs
    assert ids == ("the-id-of-all", "the-id-of-all")


@pytest.mark.parametrize("name", OPTIONS)
async def test_an_option_of_a_step_is_written_as_celery_writes_it(unserved, name):
    theirs, ours, _ = await both(unserved, partial(everywhere, **{name: OPTIONS[name]}))

    assert ours == theirs


@pytest.mark.parametrize("name", ["link", "link_error"])
async def test_a_link_of_a_step_is_written_as_celery_writes_it(unserved, name):
    def make(of):
        # Celery gives one an id only where it is told to.
        linked = of("echo", queue="links", task_id="after"), of("total", 1, task_id="after, too")
        return everywhere(of, **{name: list(linked)})

    theirs, ours, _ = await both(unserved, make)

    assert ours == theirs


async def test_a_step_expires_at_a_moment_that_the_client_has_counted(unserved):
    # Celery writes the seconds, which its worker counts from when it sends the step.
    async with unserved.client() as client:
        await client.send(chain(RemoteTask("stock.add")(1, 1), RemoteTask("stock.add").s(2).with_options(expires=60)))
    ((_, message),) = stored(unserved)
    (step,) = message["body"][2]["chain"]
    left = datetime.fromisoformat(step["options"]["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)


async def both(side, make, **options):
    """What Celery's own client and this one make of a flow, and the ids of the results."""
    with side.celery() as app:
        # Its results subscribe, and connect once more when they are collected.
        app.backend.add_pending_result = app.backend.remove_pending_result = lambda *_, **__: None
        their_id = make(Theirs(app)).apply_async(**options).id
    theirs = stored(side)
    with side.redis() as redis:
        redis.flushdb()
    async with side.client() as client:
        our_id = (await client.send(make(Ours()), **options)).id
    return theirs, stored(side), (their_id, our_id)


@pytest.fixture(scope="module")
def their_client(either):
    """Celery's own client of the worker."""
    with either.celery() as app:
        yield app
    gc.collect()  # Its results may leave a connection open, for a warning that no other test should have.


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", sorted(FLOWS.keys() - ENDLESS))
async def test_a_worker_gives_the_same_value_or_failure(either, their_client, name):
    try:
        theirs = FLOWS[name](Theirs(their_client)).apply_async().get(timeout=20, interval=0.01)
    except (TypeError, ValueError) as error:
        theirs = f"{type(error).__name__}{error.args}"
    except celery.exceptions.ChordError as error:
        theirs = str(error)
    async with either.client() as client:
        for get in (client.call, sent(client)):
            try:
                ours = await get(FLOWS[name](Ours()), timeout=20)
            except TaskFailedError as error:
                ours = error.exc_type
            assert ours == theirs or (isinstance(theirs, str) and ours in theirs)


def sent(client):
    async def get(flow, timeout):
        return await (await client.send(flow)).get(timeout=timeout)

    return get
