"""What a plain Celery worker stores is what we read, state by state, as Celery's own reader does."""

import dataclasses
import datetime as dt
import uuid

import pytest
from celery import states as celery_states
from celery.backends.base import COMPRESSED_PAYLOAD_MAGIC
from celery.result import AsyncResult as CeleryResult
from support.stock import TYPES
from support.waiting import eventually

from fibo_client.celery.protocol import states
from fibo_client.celery.protocol.meta import COMPRESSED, decode_meta
from fibo_client.celery.remote_tasks import RemoteTask
from fibo_client.errors import TaskFailedError, TaskRevokedError

LIMIT = 1 << 20
VALUES = [
    None,
    True,
    -5,
    2**70,
    1.5,
    "ünï",
    {"a": [1, {"b": None}]},
    dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30))),
    dt.datetime(2026, 1, 2),
    *TYPES,
]


class Run:
    """A task that has been sent by our client, and all that was said of it."""

    def __init__(self, side, watch, task_id):
        self.side = side
        self.id = task_id
        self.watch = watch(side, task_id)

    def until(self, end=None):
        return [decode_meta(payload, self.id, max_bytes=LIMIT) for payload in self.watch.until(end)]

    def last(self):
        """The final state: as published, as stored, and as Celery's own reader sees it."""
        meta = self.until()[-1]
        stored = decode_meta(self.watch.stored(), self.id, max_bytes=LIMIT)
        # A worker may say the same twice (two of its parts see a hard time limit), a moment later.
        assert dataclasses.replace(stored, date_done=meta.date_done) == meta
        with self.side.celery() as app:
            theirs = app.AsyncResult(self.id)
            assert theirs.state == meta.state
            assert theirs.traceback == (meta.failure.traceback if meta.failure else None)
            assert abs(theirs.date_done - dt.datetime.fromisoformat(meta.date_done)) < dt.timedelta(seconds=1)
            result = theirs.result
            if meta.state == states.SUCCESS:
                assert result == meta.result
            theirs.backend.remove_pending_result(theirs)
        return meta


@pytest.fixture
def run(watch):
    async def send(side, task, *args, **options):
        task_id = options.pop("task_id", None) or str(uuid.uuid4())
        started = Run(side, watch, task_id)
        async with side.client() as client:
            await client.send_task(task, args, task_id=task_id, **options)
        return started

    return send


def test_states_are_celerys():
    assert states.READY_STATES == celery_states.READY_STATES
    assert states.EXCEPTION_STATES == celery_states.EXCEPTION_STATES
    for name in ("PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"):
        assert getattr(states, name) == getattr(celery_states, name)
    assert COMPRESSED == COMPRESSED_PAYLOAD_MAGIC


# How a task can go


async def test_success(run, side):
    meta = (await run(side, "stock.add", 2, 3)).last()
    assert (meta.state, meta.result, meta.failure, meta.children) == ("SUCCESS", 5, None, [])
    assert dt.datetime.fromisoformat(meta.date_done).utcoffset() == dt.timedelta(0)


async def test_started_and_progress_are_seen_on_the_way(run, plain):
    metas = (await run(plain, "stock.progress", 2)).until()
    assert [meta.state for meta in metas] == ["STARTED", "PROGRESS", "PROGRESS", "SUCCESS"]
    assert metas[0].result.keys() == {"pid", "hostname"}
    assert metas[0].result["hostname"] == plain.node
    assert [meta.result for meta in metas[1:]] == [{"current": 1, "total": 2}, {"current": 2, "total": 2}, 2]
    assert [meta.ready for meta in metas] == [False, False, False, True]
    assert [meta.date_done is None for meta in metas] == [True, True, True, False]


async def test_a_task_that_is_tried_again_is_not_over_until_it_succeeds(run, side):
    started = await run(side, "stock.retry_once")
    metas = [meta for meta in started.until() if meta.state != "STARTED"]
    assert [meta.state for meta in metas] == ["RETRY", "SUCCESS"]
    retried, done = metas
    assert (retried.ready, retried.result, done.result) == (False, None, 1)
    assert (retried.failure.exc_type, retried.failure.exc_module) == ("ValueError", "builtins")
    assert retried.failure.exc_args == ("once more",)
    assert "Retry in 0.1s" in retried.failure.traceback
    assert done.parent_id == started.id  # As Celery has it: the second try is the child of the first.


FAILURES = {
    "an exception": ("stock.fail", ["bad", 1, {"k": 2}], "builtins", "ValueError", ("bad", 1, {"k": 2})),
    "an exception without arguments": ("stock.fail", [], "builtins", "ValueError", ()),
    "an exception with types": ("stock.fail", TYPES, "builtins", "ValueError", tuple(TYPES)),
    "one that cannot be pickled": ("stock.unpicklable", [], "support.stock", "UnpicklableError", ("no pickle",)),
    "wrong arguments": ("stock.add", [1], "builtins", "TypeError", ...),
    "a result that is no JSON": ("stock.unserialisable", [], "kombu.exceptions", "EncodeError", ...),
    "a rejected task": ("stock.reject", [], "celery.exceptions", "Reject", ("no", False)),
}


@pytest.mark.parametrize(("task", "args", "module", "name", "exc_args"), FAILURES.values(), ids=FAILURES)
async def test_a_failure_is_data(run, side, task, args, module, name, exc_args):
    meta = (await run(side, task, *args)).last()
    failure = meta.failure
    assert (meta.state, meta.result) == ("FAILURE", None)
    assert (failure.exc_module, failure.exc_type) == (module, name)
    assert exc_args is ... or failure.exc_args == exc_args
    assert name == "Reject" or failure.traceback.startswith("Traceback (most recent call last)")


async def test_a_task_that_the_worker_does_not_know_fails_at_once(run, side):
    meta = (await run(side, "nobody.knows")).last()
    failure = meta.failure
    assert (failure.exc_module, failure.exc_type, failure.exc_args) == (
        "celery.exceptions",
        "NotRegistered",
        ("nobody.knows",),
    )
    assert failure.traceback is None


async def test_a_worker_process_that_dies_is_a_failure(run, plain):
    meta = (await run(plain, "stock.exit", 3)).last()
    assert (meta.failure.exc_module, meta.failure.exc_type) == ("billiard.exceptions", "WorkerLostError")
    assert "exitcode 3" in meta.failure.exc_args[0]
    assert meta.failure.traceback is None


async def test_time_limits_are_failures(run, plain):
    hard = await run(plain, "stock.sleep", 30, time_limit=0.5)
    soft = await run(plain, "stock.sleep", 30, soft_time_limit=0.5)
    meta = hard.last()
    assert (meta.failure.exc_module, meta.failure.exc_type) == ("billiard.exceptions", "TimeLimitExceeded")
    assert (meta.failure.exc_args, meta.failure.traceback) == ((0.5,), None)
    meta = soft.last()
    assert (meta.failure.exc_module, meta.failure.exc_type) == ("billiard.exceptions", "SoftTimeLimitExceeded")
    assert meta.failure.exc_args == ()


async def test_an_expired_task_is_revoked(run, side):
    meta = (await run(side, "stock.add", 1, 1, countdown=0.3, expires=0.1)).last()
    assert (meta.state, meta.failure.exc_type, meta.failure.exc_args) == ("REVOKED", "TaskRevokedError", ("expired",))


async def test_a_revoked_task_is_revoked_and_a_terminated_one_too(run, plain):
    held = await run(plain, "stock.add", 1, 1, countdown=600)
    running = await run(plain, "stock.sleep", 60)
    running.until("STARTED")
    async with plain.client() as client:
        await client.revoke(held.id)
        await client.revoke(running.id, terminate=True)
    for run_, reason in ((held, "revoked"), (running, "terminated")):
        meta = run_.last()
        assert (meta.state, meta.failure.exc_module) == ("REVOKED", "celery.exceptions")
        assert meta.failure.exc_args == (reason,)


@pytest.mark.parametrize("countdown", [-0.001, -1.5, -(2**31)])
async def test_a_countdown_that_is_past_runs_at_once_as_when_celery_sends_it(run, side, countdown):
    assert (await run(side, "stock.add", 2, 3, countdown=countdown)).last().result == 5
    with side.celery() as app:
        theirs = app.send_task("stock.add", (2, 3), countdown=countdown)
    assert (await run(side, "stock.add", 1, 1)).last().result == 2
    async with side.client() as client:
        assert await client.result(theirs.id) == 5


async def test_an_ignored_task_or_result_leaves_nothing(run, special):
    ignoring = await run(special, "stock.ignored")
    ignored = await run(special, "stock.add", 1, 1, ignore_result=True)
    # This worker has one process, which takes tasks in order: when the next is over, those two are.
    (await run(special, "stock.add", 1, 1)).last()
    assert ignoring.watch.stored() is None
    assert ignored.watch.stored() is None
    async with special.client() as client:
        assert await client.result(ignored.id).state() == "PENDING"


@pytest.mark.parametrize("answer", [1, None], ids=["an answer", "one that json cannot hold"])
async def test_a_task_declared_to_ignore_its_result_stores_none_as_when_celery_sends_it(special, answer):
    ids = {}
    with special.celery() as app:
        ids["celery"] = app.send_task("stock.forgetful", (answer,)).id
    async with special.client() as client:
        ids["ours"] = (await client.send_task("stock.forgetful", (answer,))).id
        ids["many"] = (await client.send_many([RemoteTask("stock.forgetful")(answer)]))[0].id
        ids["None"] = (await client.send_task("stock.forgetful", (answer,), ignore_result=None)).id
        # This worker has one process, which takes tasks in order: when the next is over, those are.
        assert await client.call("stock.add", (1, 1)) == 2
    with special.redis() as redis:
        assert [redis.exists(f"{special.result_prefix}celery-task-meta-{each}") for each in ids.values()] == [0] * 4


async def test_a_task_declared_to_ignore_its_result_answers_who_asks_for_it(run, special):
    assert (await run(special, "stock.forgetful", 1, ignore_result=False)).last().result == 1
    forgetful = RemoteTask("stock.forgetful")
    async with special.client() as client:
        assert await client.call(forgetful, (2,)) == 2
        assert await client.call(forgetful, (3,), task_id=str(uuid.uuid4())) == 3
        assert await client.call_many([forgetful(4), forgetful(5)]) == [4, 5]
        with pytest.raises(TaskFailedError, match="EncodeError"):
            await client.call(forgetful)


async def test_an_ignored_task_stays_in_the_state_that_was_last_stored(run, plain):
    ignoring = await run(plain, "stock.ignored")
    ignoring.until("STARTED")
    async with plain.client() as client:

        async def is_over():
            return not (await client.inspect(timeout=10).query_task([ignoring.id]))[plain.node]

        await eventually(is_over, "the worker has not done with it")
    left = decode_meta(ignoring.watch.stored(), ignoring.id, max_bytes=LIMIT)
    assert (left.state, left.ready) == ("STARTED", False)


# States that a task sets itself

HAND_SET = {
    "a dict of its own": ({"step": 3, "why": "no disk"}, "Exception", ({"step": 3, "why": "no disk"},)),
    "an exception with more beside it": (
        {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": ["bad", 1], "step": 3},
        "ValueError",
        ("bad", 1),
    ),
    "a dict with a date": ({"since": dt.date(2026, 1, 2)}, "Exception", ({"since": dt.date(2026, 1, 2)},)),
    "text": ("no disk", "Exception", ("no disk",)),
}


@pytest.mark.parametrize("state", ["FAILURE", "RETRY", "REVOKED"])
@pytest.mark.parametrize(("content", "exc_type", "exc_args"), HAND_SET.values(), ids=HAND_SET)
async def test_what_a_task_stores_for_a_state_that_it_sets_itself_is_kept(
    run, side, state, content, exc_type, exc_args
):
    started = await run(side, "stock.hand_set", state, content)
    started.until(state)
    meta = decode_meta(started.watch.stored(), started.id, max_bytes=LIMIT)
    assert (meta.state, meta.result) == (state, content)
    assert (meta.failure.exc_type, meta.failure.exc_args) == (exc_type, exc_args)
    with side.celery() as app:
        theirs = app.AsyncResult(started.id)
        if exc_type == "ValueError":  # Celery gives what would be raised, and nothing of the rest.
            assert (type(theirs.info), theirs.info.args) == (ValueError, exc_args)
        else:  # Celery's reader gives up. The bytes are as it would have them, all the same.
            with pytest.raises(ValueError, match=r"exception type|dictionary update sequence"):
                _ = theirs.info
    if state != "RETRY":
        async with side.client() as client:
            with pytest.raises((TaskFailedError, TaskRevokedError)) as caught:
                await client.result(started.id, "stock.hand_set").get()
        assert type(caught.value) is (TaskFailedError if state == "FAILURE" else TaskRevokedError)
        assert caught.value.info == content
        if state == "FAILURE":
            assert (caught.value.exc_type, caught.value.exc_args) == (exc_type, exc_args)


async def test_a_state_that_is_tried_again_shows_on_the_way_what_the_task_stored_for_it(side):
    async with side.client() as client:
        handle = await client.send_task("stock.hand_set", ["RETRY", {"step": 3}])
        async for meta in handle.updates():
            if meta.state == "RETRY":
                break
        assert meta.result == {"step": 3}


# Values


async def test_every_type_goes_there_and_back(run, side):
    meta = (await run(side, "stock.echo", *VALUES)).last()
    assert meta.result == [VALUES, {}]
    assert [type(value) for value in meta.result[0]] == [type(value) for value in VALUES]


async def test_types_of_the_workers_own_are_read(run, side):
    meta = (await run(side, "stock.types")).last()
    assert meta.result == TYPES


async def test_a_result_is_compressed_if_the_worker_says_so(run, plain, special):
    small = await run(special, "stock.big", 100_000)
    assert small.last().result == "x" * 100_000
    assert small.watch.stored().startswith(COMPRESSED + b"application/x-gzip\x00")
    assert len(small.watch.stored()) < 2000
    big = await run(plain, "stock.big", 100_000)
    assert big.last().result == "x" * 100_000
    assert len(big.watch.stored()) > 100_000


async def test_an_extended_result_tells_of_the_call(run, special):
    started = await run(special, "stock.echo", 1, b"x", queue="celery", stamps={"on": "y"}, parent_id="p")
    meta = started.last()
    assert (meta.name, meta.args, meta.kwargs) == ("stock.echo", [1, b"x"], {})
    assert (meta.worker, meta.retries, meta.queue, meta.parent_id) == (special.node, 0, "celery", "p")
    unknown = (await run(special, "nobody.knows")).last()
    assert (unknown.state, unknown.args) == ("FAILURE", None)


async def test_a_plain_result_tells_nothing_of_the_call(run, plain):
    meta = (await run(plain, "stock.echo", 1)).last()
    assert (meta.name, meta.args, meta.kwargs, meta.worker, meta.retries, meta.queue) == (None,) * 6


async def test_headers_and_priority_and_compression_reach_the_task(run, side):
    options = {"headers": {"h": dt.date(2026, 1, 2)}, "priority": 9, "compression": "gzip"}
    assert (await run(side, "stock.echo", 1, **options)).last().result == [[1], {}]


async def test_what_was_published_is_what_is_stored_under_the_same_name(run, side):
    started = await run(side, "stock.add", 1, 2)
    assert started.watch.until()[-1] == started.watch.stored()
    with side.redis() as redis:
        assert 0 < redis.ttl(started.watch.key) <= 86400


# The two clients, crossed


async def test_celerys_result_reads_what_our_client_asked_for(side):
    async with side.client() as client:
        sent = [await client.send_task("stock.add", [1, 2]), await client.send_task("stock.fail", ["bad", 1])]
    with side.celery() as app:
        added, failed = (CeleryResult(result.id, app=app) for result in sent)
        assert added.get(timeout=20) == 3
        with pytest.raises(ValueError) as caught:
            failed.get(timeout=20)
        assert caught.value.args == ("bad", 1)


async def test_our_client_reads_what_celerys_client_asked_for(side):
    with side.celery() as app:
        ids = [app.send_task(name, args).id for name, args in (("stock.add", [1, 2]), ("stock.fail", ["bad", 1]))]
    async with side.client() as client:
        assert await client.result(ids[0]).get() == 3
        with pytest.raises(TaskFailedError) as caught:
            await client.result(ids[1]).get()
        assert (caught.value.exc_type, caught.value.exc_args) == ("ValueError", ("bad", 1))


async def test_our_client_reads_parts_of_a_workflow_that_celery_started(plain):
    with plain.celery() as app:
        chain = app.signature("stock.add", (1, 2)) | app.signature("stock.add", (10,))
        last = chain.apply_async()
        ids = [last.parent.id, last.id]
    async with plain.client() as client:
        first, second = client.result(ids[0]), client.result(ids[1])
        assert await client.gather([first, second]) == [3, 13]
        assert first.cached.children == [[[ids[1], None], None]]
        assert second.cached.parent_id == ids[0]


async def test_either_client_says_that_a_task_was_revoked(side):
    async with side.client() as client:
        result = await client.send_task("stock.add", [1, 2], countdown=600)
        await result.revoke()
        with pytest.raises(TaskRevokedError):
            await result.get()
    with side.celery() as app:
        assert CeleryResult(result.id, app=app).state == "REVOKED"
