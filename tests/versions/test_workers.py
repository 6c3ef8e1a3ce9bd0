"""What the client promises, on a worker of each version of Celery that is supported, and where the versions differ."""

import asyncio
import contextlib
import datetime as dt
import json
import math
import time

import pytest
from support.fibo import fibo as command
from support.stock import TYPES
from support.waiting import eventually, until
from versions.conftest import PATIENCE, heard

from fibo_client import (
    FIBO_TASK,
    FIBONACCI_CHUNK,
    ChunkRetriedError,
    ResultTimeoutError,
    TaskFailedError,
    TaskRevokedError,
)
from fibo_client.celery import Cause, CeleryClient, RemoteTask, chain, chord, group

# The first test of a version may have to make the environment first.
pytestmark = pytest.mark.timeout(300)


async def test_values_come_back_as_they_were_sent(celery):
    args = [1, -2.5, True, None, "é🎈\u2028", {"a": [1, {"b": None}]}, [], 2**64]
    assert await celery.call("stock.echo", args) == [args, {}]
    assert await (await celery.send_task("stock.echo", (1,), {"word": "é"})) == [[1], {"word": "é"}]


async def test_celerys_json_types_go_there_and_come_back(celery):
    assert await celery.call("hosted.kinds", TYPES) == [type(value).__name__ for value in TYPES]
    assert await celery.call("stock.types") == TYPES
    eastern = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=30)))
    naive = dt.datetime(2026, 1, 2, 3, 4, 5)
    assert await celery.call("stock.echo", (eastern, naive)) == [[eastern, naive], {}]


async def test_an_exception_that_only_the_worker_knows_is_told_as_data(celery):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call("hosted.order", ("tea", 3, {"by": "noon"}))
    error = caught.value
    assert (error.exc_module, error.exc_type) == ("versions.hosted", "OutOfStockError")
    assert error.exc_args == ("tea", 3, {"by": "noon"})
    assert "raise OutOfStockError(*items)" in error.traceback


async def test_an_exception_that_cannot_be_pickled_is_told_as_data(celery):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call("stock.unpicklable")
    assert (caught.value.exc_type, caught.value.exc_args) == ("UnpicklableError", ("no pickle",))


async def test_a_task_that_the_worker_does_not_know_fails_at_once(celery):
    with pytest.raises(TaskFailedError, match="NotRegistered"):
        await celery.call("no.such.task")


@pytest.mark.parametrize(
    ("task", "args", "options", "exc_type"),
    [
        ("stock.unserialisable", (), {}, "EncodeError"),
        ("stock.exit", (3,), {}, "WorkerLostError"),
        ("stock.sleep", (60,), {"time_limit": 1}, "TimeLimitExceeded"),
        ("stock.sleep", (60,), {"soft_time_limit": 1}, "SoftTimeLimitExceeded"),
    ],
    ids=["no-json", "exit", "time-limit", "soft-time-limit"],
)
async def test_what_goes_wrong_around_a_task_is_told(celery, task, args, options, exc_type):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call(task, args, **options)
    assert caught.value.exc_type == exc_type


async def test_a_task_that_rejects_its_message_fails_from_5_7_on_and_says_nothing_before(celery, worker):
    handle = await celery.send_task("stock.reject")
    assert await celery.call("stock.add", (2, 3)) == 5  # The worker has one process: the first task is over.
    assert await handle.state() == ("FAILURE" if worker.version >= (5, 7) else "PENDING")


@pytest.mark.parametrize("expiry", [{}, {"expires": None}], ids=["expires", "never-expires"])
async def test_a_call_gets_the_answer_of_a_task_that_retries(celery, expiry):
    assert await celery.call("hosted.retry", (2,), **expiry) == 2


async def test_a_call_gets_the_error_of_a_task_that_gives_up(celery):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call("hosted.retry", (9,))
    assert (caught.value.exc_type, caught.value.exc_args) == ("OutOfStockError", ("tea", 2))


async def test_a_retry_is_followed_and_found(celery, worker):
    handle = await celery.send_task("hosted.retry", (1,), {"countdown": 60})
    async with contextlib.aclosing(handle.updates()) as updates:
        first = await anext(updates)
    assert (first.state, first.failure.exc_type, first.failure.exc_args) == ("RETRY", "OutOfStockError", ("tea", 0))

    async def found():
        return (await celery.diagnose(handle)).held == {worker.node: "scheduled"}

    await eventually(found)
    await handle.revoke()


async def test_progress_is_followed(hold):
    async with contextlib.aclosing(hold.task.updates()) as updates:
        first = await anext(updates)
        assert (first.state, first.result) == ("PROGRESS", {"until": str(hold.path)})
        hold.release()
        assert [(meta.state, meta.result) async for meta in updates] == [("SUCCESS", str(hold.path))]


async def test_an_ignored_result_is_none_and_is_not_stored(celery):
    handle = await celery.send_task("stock.add", (1, 2), ignore_result=True)
    assert await handle.get() is None
    assert await celery.call("stock.add", (2, 3)) == 5  # The worker has one process: the first task is over.
    assert await celery.result(handle.id).state() == "PENDING"


async def test_a_call_of_a_task_that_is_declared_to_have_no_result_gets_its_answer_from_5_6_3_on(celery, worker):
    if worker.version >= (5, 6):
        assert await celery.call("stock.forgetful", (5,)) == 5
        return
    with pytest.raises(ResultTimeoutError, match=r"before Celery 5\.6\.3, a task that is declared"):
        await celery.call("stock.forgetful", (5,), timeout=0.5)


async def test_a_task_that_is_declared_to_have_no_result_is_diagnosed_so(celery, worker):
    handle = await celery.send_task("stock.forgetful", (5,))

    async def found_out():
        diagnosis = await celery.diagnose(handle, timeout=PATIENCE)
        declared = f"{worker.node}: it declares the task with ignore_result=True"
        return diagnosis.cause is Cause.STORED_ELSEWHERE and declared in str(diagnosis)

    await eventually(found_out)


async def test_headers_stamps_and_compression_are_taken(celery):
    headers = {"traceparent": "00-ab", "baggage": "a=1"}
    assert await celery.call("stock.request", list(headers), headers=headers) == headers
    assert await celery.call("stock.echo", ("x" * 10_000,), compression="gzip") == [["x" * 10_000], {}]
    assert await celery.call("stock.add", (1, 2), stamps={"tenant": "a"}, shadow="other") == 3


async def test_a_task_with_a_countdown_or_an_eta_waits_for_it(celery):
    began = time.time()
    later = dt.datetime.fromtimestamp(began + 0.5, dt.timezone(dt.timedelta(hours=-3)))
    handles = [await celery.send_task("hosted.begun", countdown=0.5), await celery.send_task("hosted.begun", eta=later)]
    assert all(began + 0.4 < ran < began + PATIENCE for ran in await celery.gather(handles))


async def test_a_task_that_is_not_begun_in_time_expires(celery, hold):
    moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=0.5)
    handles = [await celery.send_task("stock.add", (1, 2), expires=expires) for expires in (moment, 0.5)]
    with pytest.raises(ResultTimeoutError):
        await celery.gather(handles, timeout=0.6)
    hold.release()
    for handle in handles:
        with pytest.raises(TaskRevokedError, match="expired"):
            await handle.get()


async def test_a_call_that_never_expires_is_run_although_nobody_waits_any_more(celery, hold):
    with pytest.raises(ResultTimeoutError) as caught:
        await celery.call("stock.add", (1, 2), timeout=0.1, expires=None)
    hold.release()
    assert await celery.result(*caught.value.task_ids).get() == 3


async def test_a_task_that_is_revoked_before_it_begins_never_runs(celery, hold):
    handle = await celery.send_task("stock.add", (1, 2))
    assert await handle.revoke() == 1
    await heard(celery)
    hold.release()
    with pytest.raises(TaskRevokedError, match="revoked"):
        await handle.get()


async def test_a_cancelled_call_revokes_its_task(celery, worker, hold):
    async def waiting():
        return (await celery.inspect().reserved()).get(worker.node)

    async with CeleryClient(worker.url) as leaving:
        call = asyncio.create_task(leaving.call("stock.add", (1, 2)))
        await eventually(waiting)
        (task,) = await waiting()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await heard(celery)
    hold.release()
    with pytest.raises(TaskRevokedError, match="revoked"):
        await celery.result(task["id"]).get()


async def test_a_task_that_runs_is_terminated(celery, worker, hold):
    assert await hold.task.revoke(terminate=True) == 1
    # From 5.6.2 on, 5.6 says that it was revoked before it ends it. Which of the two a wait meets is a matter of luck.
    with pytest.raises(TaskRevokedError, match="revoked|terminated" if worker.version == (5, 6) else "terminated"):
        await hold.task.get()
    assert await celery.call("stock.add", (1, 2)) == 3


async def test_a_task_that_runs_goes_on_if_it_is_revoked_without_terminate(celery, worker, hold):
    async def progressed():  # What is active may not have said so yet.
        return await hold.task.state() == "PROGRESS"

    await eventually(progressed)
    await hold.task.revoke()
    await heard(celery)
    # From 5.6.2 on, 5.6 says that it was revoked all the same, until the answer is there.
    state, error, said = (
        ("REVOKED", TaskRevokedError, r"\] has no answer: it was revoked$")
        if worker.version == (5, 6)
        else ("PROGRESS", ResultTimeoutError, "last known state is PROGRESS")
    )
    assert await hold.task.state() == state
    with pytest.raises(error, match=said):
        await hold.task.get(timeout=0)
    hold.release()

    async def succeeded():
        return await celery.result(hold.task.id).state() == "SUCCESS"

    await eventually(succeeded)


async def test_a_failure_outlives_a_late_revocation_but_on_5_6(celery, worker):
    handle = await celery.send_task("hosted.order")
    with pytest.raises(TaskFailedError):
        await handle.get()
    await handle.revoke()
    await heard(celery)
    assert await celery.result(handle.id).state() == ("REVOKED" if worker.version == (5, 6) else "FAILURE")


async def test_a_task_that_no_worker_has_taken_is_revoked_at_once_from_5_6_on(celery, worker):
    handle = await celery.send_task("stock.add", (1, 2), queue="nobody-listens")
    await handle.revoke()
    await heard(celery)
    assert await handle.state() == ("REVOKED" if worker.version >= (5, 6) else "PENDING")


async def test_workers_are_asked_what_they_do(celery, worker, hold):
    inspect, node = celery.inspect(timeout=PATIENCE), worker.node
    waiting = await celery.send_task("stock.add", (1, 2))
    later = await celery.send_task("stock.add", (1, 2), countdown=600)

    async def for_later():
        return later.id in [each["request"]["id"] for each in (await inspect.scheduled())[node]]

    await eventually(for_later)
    assert [each.name for each in await celery.ping(timeout=PATIENCE)] == [node]
    assert [each.name for each in await celery.ping(destination=[node], timeout=PATIENCE)] == [node]
    assert await celery.ping(destination=["nobody@nowhere"], timeout=0.1) == []
    assert [each["id"] for each in (await inspect.active())[node]] == [hold.task.id]
    assert [each["id"] for each in (await inspect.reserved())[node]] == [waiting.id]
    assert {"stock.add", "hosted.begun"} <= set((await inspect.registered())[node])
    assert [each["name"] for each in (await inspect.active_queues())[node]] == ["celery"]
    assert (await inspect.stats())[node]["pool"]["max-concurrency"] == 1
    assert (await inspect.conf())[node]["broker_connection_retry_on_startup"] is True
    told = (await inspect.query_task([hold.task.id, waiting.id, later.id, "unknown"]))[node]
    assert {task_id: state for task_id, (state, _) in told.items()} == {
        hold.task.id: "active",
        waiting.id: "reserved",
        **({later.id: "scheduled"} if worker.version >= (5, 7) else {}),
    }
    await later.revoke()


async def test_a_diagnosis_tells_where_a_task_is(celery, hold):
    async def cause(handle):
        return (await celery.diagnose(handle, timeout=PATIENCE)).cause

    waiting = await celery.send_task("stock.add", (1, 2))
    later = await celery.send_task("stock.add", (1, 2), countdown=600)
    unserved = await celery.send_task("stock.add", (1, 2), queue="nobody-listens")

    async def taken():
        return await cause(later) is Cause.SCHEDULED

    await eventually(taken)
    assert await cause(hold.task) is Cause.RUNNING
    assert await cause(waiting) is Cause.RESERVED
    assert await cause(unserved) is Cause.NOT_LISTENING
    hold.release()
    await waiting
    assert await cause(waiting) is Cause.FINISHED
    await later.revoke()


async def test_the_smallest_priority_is_served_first(celery, worker, hold):
    # It takes four for each of its processes before it has to choose.
    taken = await celery.send_many([RemoteTask("stock.add")(1, 2)] * 4)

    async def full():
        return len((await celery.inspect().reserved()).get(worker.node, ())) == 4

    await eventually(full)
    handles = [await celery.send_task("hosted.begun", priority=priority) for priority in (9, 6, 3, 0)]
    hold.release()
    began = await celery.gather(handles)
    assert began == sorted(began, reverse=True)
    assert await celery.gather(taken) == [3] * 4


ADD, TOTAL, FAIL = RemoteTask[..., int]("stock.add"), RemoteTask[..., int]("stock.total"), RemoteTask("stock.fail")
FLOWS = {
    "chain": (chain(ADD(1, 1), ADD.s(2), ADD(3, 4).immutable()), 7),
    "group": (group(ADD(n, n) for n in range(3)), [0, 2, 4]),
    "chord": (chord([ADD(1, 1), ADD(2, 2)], TOTAL.s(10)), 16),
    "task, group, tasks": (ADD(1, 1) | group(ADD.s(1), ADD.s(2)) | TOTAL.s() | ADD.s(100), 107),
    "chains and chords in a header": (chord([ADD(1, 1) | ADD.s(2), chord([ADD(3, 3)], TOTAL.s())], TOTAL.s()), 10),
    "group, group": (group(ADD(1, 1), ADD(2, 2)) | group(TOTAL.s(), TOTAL.s(1)), [6, 7]),
}


@pytest.mark.parametrize("name", FLOWS)
async def test_what_is_composed_gives_its_result(celery, name):
    flow, expected = FLOWS[name]
    assert await celery.call(flow) == expected


async def test_the_results_of_a_header_are_in_its_order(celery):
    numbers = [0.2, 0.1, 0]
    header = [RemoteTask("stock.sleep")(n) for n in numbers]
    assert await celery.call(chord(header, RemoteTask("stock.echo").s())) == [[numbers], {}]
    assert await celery.call(group(header)) == numbers


BAD = {
    "raises": (FAIL().immutable(), "ValueError"),
    "is not known": (RemoteTask("stock.no_such_task").s(), "NotRegistered"),
    "has expired": (ADD(1, 1).with_options(expires=0.001).immutable(), "expired"),
    "is over its limit": (RemoteTask("stock.sleep")(60).with_options(time_limit=1).immutable(), "TimeLimitExceeded"),
    "ends its process": (RemoteTask("stock.exit")(3).immutable(), "WorkerLostError"),
}
PLACES = {
    "a step": lambda bad: chain(ADD(1, 1), bad, ADD.s(3)),
    "a member": lambda bad: chord([ADD(1, 1), bad], TOTAL.s()),
    "a later member": lambda bad: ADD(1, 1) | group(ADD.s(1), bad) | TOTAL.s(),
    "a body": lambda bad: chord([ADD(1, 1), ADD(2, 2)], bad),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", BAD)
async def test_what_is_composed_ends_with_the_task_that_ends_badly(celery, what, place):
    bad, reason = BAD[what]
    with pytest.raises((TaskFailedError, TaskRevokedError)) as caught:
        await (await celery.send(PLACES[place](bad))).get()
    assert (getattr(caught.value, "exc_type", None) or caught.value.reason, caught.value.task) == (reason, bad.task)


async def test_calls_of_a_task_travel_in_chunks(celery):
    negated = RemoteTask[[int], int]("stock.negated", chunkable=True)
    async with celery.stream(negated, range(1000), chunk_size=100, ordered=True) as answers:
        assert [answer async for _, answer in answers] == [-n for n in range(1000)]


async def test_in_a_chunk_a_task_that_is_declared_to_have_no_result_gives_its_answer(celery):
    forgetful = RemoteTask[[int], int]("stock.forgetful", chunkable=True)
    assert await celery.call_many([forgetful(1), forgetful(2)], chunk_size=2) == [1, 2]


async def test_a_chunk_of_a_task_that_retries_ends_soon(celery):
    retried = RemoteTask[[str], None]("stock.retry_in", chunkable=True)
    with pytest.raises(ChunkRetriedError):
        await celery.call_many([retried("celery"), retried("celery")], chunk_size=2, timeout=PATIENCE)


@pytest.mark.parametrize("task", ["stock.ignored", "stock.reject"])
async def test_a_chunk_of_a_task_that_ignores_or_rejects_gives_no_answer_but_for_rejects_from_5_7_on(
    celery, worker, task
):
    called = RemoteTask[[], None](task, chunkable=True)
    told = task == "stock.reject" and worker.version >= (5, 7)
    with pytest.raises(TaskFailedError if told else ResultTimeoutError):
        await celery.call_many([called(), called()], chunk_size=2, timeout=PATIENCE if told else 1.0)


async def test_numbers_travel_in_chunks(fibo):
    assert await fibo.fibonacci_many([4, 3, 8, 6, 10, 3]) == [3, 2, 21, 8, 55, 2]
    first, refused = await fibo.fibonacci_many([90, 2000], return_exceptions=True)
    assert first == 2880067194370816120
    assert (refused.exc_type, refused.exc_args) == ("ValueError", ("2000 is too large",))
    assert await asyncio.gather(*map(fibo.fibonacci, [1, 2, 90])) == [1, 1, first]
    assert await fibo.celery.call(FIBONACCI_CHUNK, ([5, 6],)) == [5, 8]


async def test_numbers_are_handed_out_one_by_one(fibo):
    handles = await fibo.submit_many([4, 3, 8], task=FIBO_TASK)
    assert await fibo.celery.gather(handles) == [
        (n, f"The Fibonacci calculated with task id {handle.id} was {value}")
        for n, value, handle in zip([4, 3, 8], [3, 2, 21], handles, strict=True)
    ]
    assert await fibo.ready(handles) == [True] * 3
    assert await fibo.sqrt(2) == math.sqrt(2)


def test_the_command_revokes_and_tells_of_what_runs_all_the_same(worker, tmp_path):
    def sent(task, *args):
        return command(worker.url, "call", task, "--args", json.dumps(args), "--no-wait").stdout.strip()

    def wait_for(text, *words):
        until(lambda: text in command(worker.url, *words).stdout, f"fibo {words} does not say {text!r}")

    over = sent("stock.add", 1, 2)
    wait_for("3", "result", over)
    running = sent("hosted.hold", str(tmp_path / "release"))
    wait_for("it is running", "diagnose", running)
    waiting = sent("stock.add", 1, 2)
    wait_for("(reserved)", "diagnose", waiting)

    done = command(worker.url, "revoke", over, running, waiting)
    assert (done.returncode, done.stdout) == (0, "1 worker heard it.\n")
    assert done.stderr == (
        f"{running} runs on {worker.node}, and goes on. To end it: fibo revoke --terminate {running}\n"
        f"{over} is over (SUCCESS): there was nothing to revoke.\n"
    )
    done = command(worker.url, "result", running)
    if worker.version == (5, 6):
        assert done.returncode == 1
        assert f"is REVOKED, and still runs on {worker.node}, which goes on with it" in done.stderr
    else:
        assert (done.returncode, done.stderr.split(":")[0]) == (3, "PROGRESS")

    (tmp_path / "release").touch()
    wait_for(str(tmp_path), "result", running)
    done = command(worker.url, "result", waiting, "--wait")
    assert done.returncode == 1
    assert "was revoked" in done.stderr
