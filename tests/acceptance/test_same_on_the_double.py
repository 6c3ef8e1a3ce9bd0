"""What a user's tests see on the double is what the program sees of a worker: each test runs on both."""

from __future__ import annotations

import asyncio
import math
import uuid

import pytest
from support import stock as stock_app
from support.clock import VirtualTimeLoop
from support.waiting import eventually

from fibo_client import (
    FIBO_TASK,
    FIBONACCI,
    FIBONACCI_CHUNK,
    ClientStateError,
    FiboClient,
    MessageError,
    ResultTimeoutError,
    TaskFailedError,
    TaskRevokedError,
)
from fibo_client.celery import Cause, CeleryClient, RemoteTask
from fibo_client.testing import FakeCelery, FakeFibo

PATIENCE = 20.0


def doing_the_same():
    """A double that is told to do what `support.stock` does, two tasks at a time as its worker.

    Where a task does not block, it does so by the task's very function.
    """

    async def sleep(seconds):
        await asyncio.sleep(seconds)  # Stands for work.
        return seconds

    async def progress(task, steps):
        for step in range(1, steps + 1):
            task.update_state(state="PROGRESS", meta={"current": step, "total": steps})
            await asyncio.sleep(0.05)  # Stands for work, as those of `support.stock` do.
        return steps

    fake = FakeCelery(queues=["celery"], concurrency=2, nodes=["stock@fake"])
    for task in (stock_app.add, stock_app.echo, stock_app.fail, stock_app.unserialisable, stock_app.types):
        fake.task(task.name, task.run)
    fake.task("stock.retry_once", stock_app.retry_once.run.__func__, bind=True)
    fake.task("stock.forgetful", stock_app.forgetful.run, ignore_result=True)
    fake.task("stock.sleep", sleep)
    fake.task("stock.progress", progress, bind=True)
    return fake


TYPES = stock_app.types.run()


def celery_on_the_double(_, **settings):
    return VirtualTimeLoop, CeleryClient(transport=doing_the_same(), timeout=PATIENCE, **settings)


def celery_on_the_double_by_polling(_):
    return celery_on_the_double(_, push=False)


def celery_on_a_worker(request):
    return None, CeleryClient(request.getfixturevalue("stock").url, timeout=PATIENCE)


def fibo_on_the_double(_):
    return VirtualTimeLoop, FiboClient(transport=FakeFibo(), timeout=PATIENCE)


def fibo_on_a_worker(request):
    return None, FiboClient(request.getfixturevalue("worker").url, timeout=PATIENCE)


CELERY = [celery_on_the_double, celery_on_the_double_by_polling, celery_on_a_worker]
FIBO = [fibo_on_the_double, fibo_on_a_worker]


def on(sides):
    """Run a test on each side, on an event loop and with a client of its own. Waiting for a double takes no time."""

    def made(test):
        @pytest.mark.parametrize("side", sides)
        def run(side, request):
            loop_factory, client = side(request)

            async def with_client():
                async with client:
                    await test(client)

            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(with_client())

        return run

    return made


def fresh() -> str:
    return f"{uuid.uuid4()}"


async def occupy(celery, seconds=1.0):
    """Keep both processes of the worker busy. One that takes the place of another is not there at once."""
    async with asyncio.timeout(30):
        while True:
            blockers = [await celery.send_task("stock.sleep", (seconds,)) for _ in range(2)]
            while not all(await celery.ready(blockers)):
                active = await celery.inspect().active()
                if {each.id for each in blockers} <= {task["id"] for tasks in active.values() for task in tasks}:
                    return blockers


# Values.


@on(CELERY)
async def test_a_value_comes_back(celery):
    assert await celery.call("stock.add", (2, 3)) == 5


@on(CELERY)
async def test_arguments_arrive_as_json_brings_them(celery):
    args, kwargs = await (await celery.send_task("stock.echo", ((1, 2), {"k": None}, "ü"), {"x": 1.5}))
    assert args == [[1, 2], {"k": None}, "ü"]
    assert kwargs == {"x": 1.5}


@on(CELERY)
async def test_the_types_of_celerys_json_go_both_ways(celery):
    assert await celery.call("stock.echo", TYPES) == [TYPES, {}]
    assert await celery.call("stock.types") == TYPES


@on(CELERY)
async def test_a_compressed_message_is_read(celery):
    handle = await celery.send_task("stock.echo", ["x" * 1000], compression="gzip")
    assert await handle == [["x" * 1000], {}]


@on(CELERY)
async def test_many_calls_give_their_answers_in_order(celery):
    add = RemoteTask[[int, int], int]("stock.add")
    assert await celery.call_many([add(n, 1) for n in range(20)]) == list(range(1, 21))
    handles = await celery.send_many([add(n, 2) for n in range(20)])
    assert await celery.gather(handles) == list(range(2, 22))
    assert await celery.ready(handles) == [True] * 20


@on(CELERY)
async def test_tasks_of_several_kinds_go_together_each_with_arguments_and_options_of_its_own(celery):
    add, echo = RemoteTask[[int, int], int]("stock.add"), RemoteTask[..., list]("stock.echo")
    chosen = fresh()
    mixed = [add(1, 2), echo("a", queue="mine"), echo(k=1).with_options(compression="gzip", task_id=chosen), add(3, 4)]
    assert await celery.call_many(mixed) == [3, [["a"], {"queue": "mine"}], [[], {"k": 1}], 7]
    handles = await celery.send_many([*mixed[:2], mixed[2].with_options(task_id=fresh(), queue="nobodys")])
    assert [handle.queue for handle in handles] == ["celery", "celery", "nobodys"]
    assert await celery.gather(handles[:2]) == [3, [["a"], {"queue": "mine"}]]
    with pytest.raises(ResultTimeoutError):
        await handles[2].get(timeout=0.1)


@on(CELERY)
async def test_the_options_of_a_task_hold_unless_its_signature_or_its_call_say_otherwise(celery):
    elsewhere = RemoteTask[[int, int], int]("stock.add", queue="nobodys")
    sent = [
        await celery.send(elsewhere(1, 2)),
        await celery.send_task(elsewhere, (1, 2)),
        await celery.send(elsewhere(1, 2).with_options(queue="nobody's")),
        await celery.send(elsewhere(1, 2).with_options(queue="nobody's"), queue="celery"),
    ]
    assert [handle.queue for handle in sent] == ["nobodys", "nobodys", "nobody's", "celery"]
    assert await sent[3].get() == 3


@on(CELERY)
async def test_a_call_deletes_its_result_unless_it_is_told_to_keep_it_whoever_chose_the_id(celery):
    kept, gone = fresh(), fresh()
    assert await celery.call("stock.add", (1, 2), task_id=kept, keep_result=True) == 3
    assert await celery.call("stock.add", (1, 2), task_id=gone) == 3

    async def deleted():
        return await celery.result(gone).state() == "PENDING"

    await eventually(deleted)
    assert await celery.result(kept).get(timeout=0) == 3


@on(CELERY)
async def test_a_handle_can_be_asked_again_and_by_its_id_alone(celery):
    handle = await celery.send_task("stock.add", (2, 3), task_id=fresh())
    assert [await handle.get(), await handle.get()] == [5, 5]
    assert await celery.result(handle.id).get(timeout=0) == 5
    assert await handle.state() == "SUCCESS"


@on(CELERY)
async def test_a_success_is_not_followed_by_anything(celery):
    handle = await celery.send_task("stock.add", (2, 3))
    await handle
    await celery.send_task("stock.add", (9, 9), task_id=handle.id)
    await celery.send_task("stock.fail", ("bad",), task_id=handle.id)
    assert await celery.call("stock.add", (1, 1)) == 2
    assert await celery.result(handle.id).get() == 5


@on(CELERY)
async def test_what_was_forgotten_is_pending(celery):
    handle = await celery.send_task("stock.add", (2, 3))
    await handle
    await handle.forget()
    assert await handle.state() == "PENDING"
    assert await handle.ready() is False


@on(CELERY)
async def test_an_ignored_result_is_none_at_once_and_never_stored(celery):
    handle = await celery.send_task("stock.add", (2, 3), ignore_result=True)
    assert await handle.get() is None
    assert await celery.call("stock.add", (1, 1)) == 2
    assert await celery.result(handle.id).ready() is False


@on(CELERY)
async def test_a_task_declared_to_ignore_its_result_answers_only_who_asks_for_it(celery):
    handles = [await celery.send_task("stock.forgetful", (5,)), await celery.send_task("stock.forgetful")]
    assert await celery.call("stock.forgetful", (6,)) == 6
    assert await (await celery.send_task("stock.forgetful", (7,), ignore_result=False)) == 7
    assert [handle.ignored for handle in handles] == [None, None]
    assert await celery.ready(handles) == [False, False]
    with pytest.raises(ResultTimeoutError, match="declared with ignore_result=True"):
        await handles[0].get(timeout=0)

    async def diagnosed():
        return (await celery.diagnose(handles[0])).cause is Cause.STORED_ELSEWHERE

    await eventually(diagnosed)


# Failures.


@on(CELERY)
async def test_a_failure_tells_the_exception_and_its_traceback(celery):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call("stock.fail", ("bad", 1, {"k": [2]}))
    error = caught.value
    assert (error.exc_type, error.exc_module, error.exc_args) == ("ValueError", "builtins", ("bad", 1, {"k": [2]}))
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert "in fail\n" in error.traceback
    assert error.traceback.rstrip().endswith("ValueError: ('bad', 1, {'k': [2]})")
    assert "Remote traceback" in error.__notes__[0]


@on(CELERY)
async def test_wrong_arguments_fail_as_a_call_of_the_function_does(celery):
    with pytest.raises(TaskFailedError, match=r"missing 1 required positional argument: 'y'") as caught:
        await celery.call("stock.add", (1,))
    assert caught.value.exc_type == "TypeError"


@on(CELERY)
async def test_a_task_that_nobody_knows_fails_at_once_even_if_its_result_is_ignored(celery):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call("no.such.task")
    error = caught.value
    assert (error.exc_type, error.exc_module, error.exc_args) == (
        "NotRegistered",
        "celery.exceptions",
        ("no.such.task",),
    )
    handle = await celery.send_task("no.such.task", ignore_result=True)
    with pytest.raises(TaskFailedError, match="NotRegistered"):
        await celery.result(handle.id)


@on(CELERY)
async def test_a_result_that_json_cannot_carry_is_a_failure(celery):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call("stock.unserialisable")
    error = caught.value
    assert (error.exc_type, error.exc_module) == ("EncodeError", "kombu.exceptions")
    assert "set is not JSON serializable" in error.exc_args[0]


@on(CELERY)
async def test_what_an_exception_was_made_of_comes_back(celery):
    with pytest.raises(TaskFailedError) as caught:
        await celery.call("stock.fail", (TYPES[0], [1, None], "text"))
    assert caught.value.exc_args == (TYPES[0], [1, None], "text")


@on(CELERY)
async def test_one_failure_of_many_is_raised_or_put_in_its_place(celery):
    handles = [await celery.send_task("stock.add", (1, 2)), await celery.send_task("stock.fail", ("bad",))]
    value, error = await celery.gather(handles, return_exceptions=True)
    assert (value, error.exc_args) == (3, ("bad",))
    with pytest.raises(TaskFailedError, match="bad"):
        await celery.gather(handles)


@on(CELERY)
async def test_of_many_that_are_gathered_with_their_errors_one_that_is_late_has_its_timeout_in_its_place(celery):
    handles = [await celery.send_task("stock.sleep", (2,)), await celery.send_task("stock.add", (1, 2))]
    assert await handles[1].get() == 3
    late, value = await celery.gather(handles, timeout=0.2, return_exceptions=True)
    assert (type(late), late.task_ids, value) == (ResultTimeoutError, (handles[0].id,), 3)
    with pytest.raises(ResultTimeoutError) as caught:
        await celery.gather(handles, timeout=0.2)
    assert caught.value.finished == {1: 3}
    assert await handles[0].get() == 2  # Nobody after this finds the worker busy.


@on(CELERY)
async def test_one_look_shows_the_state_of_a_task_with_what_it_carries(celery):
    waiting = await celery.send_task("stock.add", (1, 2), countdown=600)
    failed = await celery.send_task("stock.fail", ("bad",))
    with pytest.raises(TaskFailedError):
        await failed.get()
    metas = await celery.metas([waiting, celery.result(failed.id), waiting])
    assert [meta.state for meta in metas] == ["PENDING", "FAILURE", "PENDING"]
    assert (metas[1].failure.exc_type, metas[1].failure.exc_args) == ("ValueError", ("bad",))
    assert await failed.meta() == metas[1]
    assert await celery.metas([]) == []
    await waiting.revoke()


# States on the way.


@on(CELERY)
async def test_progress_is_followed_to_the_end(celery):
    handle = await celery.send_task("stock.progress", (4,))
    seen = [meta async for meta in handle.updates()]
    assert (seen[-1].state, seen[-1].result) == ("SUCCESS", 4)
    assert {meta.state for meta in seen[:-1]} == {"PROGRESS"}
    steps = [meta.result["current"] for meta in seen[:-1]]
    assert steps == sorted(set(steps))
    assert seen[0].result["total"] == 4


@on(CELERY)
async def test_a_task_that_is_tried_again_says_so_meanwhile_and_answers_in_the_end(celery):
    handle = await celery.send_task("stock.retry_once")
    seen = [meta async for meta in handle.updates()]
    assert seen[-1].result == 1
    retries = [meta for meta in seen if meta.state == "RETRY"]
    assert [(meta.failure.exc_type, meta.failure.exc_args) for meta in retries] == [("ValueError", ("once more",))]
    assert retries[0].failure.traceback.rstrip().endswith("Retry in 0.1s: ValueError('once more')")


@on(CELERY)
async def test_a_task_for_later_runs_later(celery):
    loop = asyncio.get_running_loop()
    began = loop.time()
    later = await celery.send_task("stock.add", (1, 2), countdown=0.4)
    assert await celery.call("stock.add", (1, 1)) == 2
    assert await celery.result(later.id).ready() is False
    assert await later == 3
    assert loop.time() - began > 0.3  # A message holds a date, which the double brings to the clock of the loop.


# Time limits.


@on(CELERY)
async def test_no_answer_in_time_names_the_task_and_can_be_waited_for_again(celery):
    handle = await celery.send_task("stock.sleep", (0.5,))
    with pytest.raises(ResultTimeoutError, match=r"stock\.sleep") as caught:
        await handle.get(timeout=0.1)
    assert (caught.value.task_ids, caught.value.state) == ((handle.id,), "PENDING")
    assert await handle.get() == 0.5


@on(CELERY)
async def test_many_answers_that_are_late_tell_those_that_came(celery):
    handles = [await celery.send_task("stock.add", (1, 2)), await celery.send_task("stock.sleep", (1.0,))]
    await handles[0]
    with pytest.raises(ResultTimeoutError) as caught:
        await celery.gather(handles, timeout=0.2)
    assert caught.value.finished == {0: 3}
    assert caught.value.task_ids == (handles[1].id,)
    await handles[1]


@on(CELERY)
async def test_nobody_serves_another_queue(celery):
    handle = await celery.send_task("stock.add", (1, 2), queue=f"nobody-{fresh()}")
    with pytest.raises(ResultTimeoutError) as caught:
        await handle.get(timeout=0.2)
    assert caught.value.state == "PENDING"
    assert await celery.queue_depth(handle.queue) == 1


@on(CELERY)
async def test_a_task_that_could_not_begin_in_time_has_expired(celery):
    blockers = await occupy(celery)
    handle = await celery.send_task("stock.add", (1, 2), expires=0.2)
    with pytest.raises(ResultTimeoutError):
        await celery.call("stock.add", (1, 2), timeout=0.2)
    with pytest.raises(TaskRevokedError, match="expired"):
        await handle
    await celery.gather(blockers)


@on(CELERY)
async def test_a_task_that_runs_too_long_is_ended_by_its_time_limit(celery):
    with pytest.raises(TaskFailedError) as caught:
        await (await celery.send_task("stock.sleep", (PATIENCE,), time_limit=1))
    error = caught.value
    assert (error.exc_type, error.exc_module, error.exc_args) == ("TimeLimitExceeded", "billiard.exceptions", (1,))
    assert error.traceback is None


@on(CELERY)
async def test_a_soft_time_limit_is_raised_in_the_task(celery):
    with pytest.raises(TaskFailedError) as caught:
        await (await celery.send_task("stock.sleep", (PATIENCE,), soft_time_limit=1))
    error = caught.value
    assert (error.exc_type, error.exc_module) == ("SoftTimeLimitExceeded", "billiard.exceptions")
    assert "in sleep\n" in error.traceback
    assert "SoftTimeLimitExceeded" in error.traceback


# Revoking.


@on(CELERY)
async def test_a_task_that_waits_is_revoked_at_once(celery):
    blockers = await occupy(celery)
    handle = await celery.send_task("stock.add", (1, 2))
    assert await handle.revoke() == 1
    with pytest.raises(TaskRevokedError, match="revoked"):
        await handle
    await celery.gather(blockers)
    assert await celery.result(handle.id).state() == "REVOKED"


@on(CELERY)
async def test_an_id_that_was_revoked_before_it_was_sent_is_not_run(celery):
    task_id = fresh()
    assert await celery.revoke(task_id) == 1

    async def revoked():
        return await celery.result(task_id).state() == "REVOKED"

    await eventually(revoked)
    await celery.result(task_id).forget()
    handle = await celery.send_task("stock.add", (1, 2), task_id=task_id)
    with pytest.raises(TaskRevokedError, match="revoked"):
        await handle


@on(CELERY)
async def test_a_task_for_later_is_revoked_at_once(celery):
    handle = await celery.send_task("stock.add", (1, 2), countdown=0.5)

    async def scheduled():
        held = await celery.inspect().scheduled()
        return any(handle.id == each["request"]["id"] for tasks in held.values() for each in tasks)

    await eventually(scheduled)
    await handle.revoke()
    with pytest.raises(TaskRevokedError, match="revoked"):
        await handle.get()


@on(CELERY)
async def test_a_task_that_runs_goes_on_unless_it_is_to_be_terminated(celery):
    (first, second) = await occupy(celery)
    await first.revoke()
    await second.revoke(terminate=True)
    with pytest.raises(TaskRevokedError, match="terminated"):
        await second
    assert await first == 1.0


@on(CELERY)
async def test_a_call_that_is_cancelled_revokes_its_task(celery):
    blockers = await occupy(celery, 5.0)  # Or its task might run before it is revoked.
    owned = fresh()
    call = asyncio.create_task(celery.call("stock.add", (1, 2), task_id=owned))

    async def sent():
        return await celery.queue_depth() or any((await celery.inspect().reserved()).values())

    await eventually(sent)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    async def revoked():
        return await celery.result(owned).state() == "REVOKED"

    await eventually(revoked)
    await celery.gather(blockers)


# Owned tasks that several await.


@on(CELERY)
async def test_a_task_that_was_started_is_followed_and_its_result_deleted_when_it_is_closed(celery):
    async with celery.start("stock.progress", (3,), timeout=PATIENCE) as result:
        seen = [meta.state async for meta in result.updates()]
        assert seen[-1] == "SUCCESS"
        assert await result.get() == 3

    async def deleted():
        return await celery.result(result.id).state() == "PENDING"

    await eventually(deleted)


@on(CELERY)
async def test_several_await_one_task_each_until_a_deadline_of_its_own(celery):
    async with celery.start("stock.sleep", (0.8,), timeout=PATIENCE) as result:
        waits = [result.get(timeout=0.1), result.get(timeout=PATIENCE), result.get()]
        late, *values = await asyncio.gather(*waits, return_exceptions=True)
        assert isinstance(late, ResultTimeoutError)
        assert values == [0.8, 0.8]


@on(CELERY)
async def test_a_task_that_is_closed_before_its_answer_is_revoked_and_whoever_waits_is_told(celery):
    blockers = await occupy(celery, 5.0)
    result = celery.start("stock.add", (1, 2), timeout=PATIENCE)
    waiting = asyncio.create_task(result.get())

    async def sent():
        return await celery.queue_depth() or any((await celery.inspect().reserved()).values())

    await eventually(sent)
    result.close()
    result.close()
    with pytest.raises(ClientStateError, match="was closed while"):
        await waiting

    async def revoked():
        return await celery.result(result.id).state() == "REVOKED"

    await eventually(revoked)
    await celery.gather(blockers)


@on(CELERY)
async def test_what_is_wrong_with_a_task_that_is_started_is_said_before_anything_is_sent(celery):
    with pytest.raises(MessageError, match="cannot be ignored"):
        celery.start("stock.add", (1, 2), ignore_result=True)
    with pytest.raises(MessageError, match="has its arguments already"):
        celery.start(RemoteTask("stock.add")(1, 2), (3,))
    assert celery.stats().published == 0


# Asking workers.


@on(CELERY)
async def test_workers_answer_and_name_what_they_know_and_serve(celery):
    (worker,) = await celery.ping()
    assert worker.name.startswith("stock@")
    assert await celery.worker_count() == 1
    inspect = celery.inspect([worker.name])
    assert {"stock.add", "stock.forgetful"} <= set((await inspect.registered())[worker.name])
    declared = {"stock.add [ignore_result=False]", "stock.forgetful [ignore_result=True]"}
    assert declared <= set((await inspect.registered("ignore_result"))[worker.name])
    assert [each["name"] for each in (await inspect.active_queues())[worker.name]] == ["celery"]
    assert await celery.ping(destination=["nobody@nowhere"], timeout=0.2) == []


@on(CELERY)
async def test_what_runs_is_told_with_its_arguments(celery):
    handle = await celery.send_task("stock.sleep", (1.0,))

    async def runs():
        (tasks,) = (await celery.inspect().active()).values()
        return next((each for each in tasks if each["id"] == handle.id), None)

    await eventually(runs)
    told = await runs()
    assert (told["name"], told["args"], told["kwargs"]) == ("stock.sleep", [1.0], {})
    ((state, _),) = [held[handle.id] for held in (await celery.inspect().query_task([handle.id])).values()]
    assert state == "active"
    diagnosis = await celery.diagnose(handle)
    assert diagnosis.cause is Cause.RUNNING
    assert diagnosis.since is not None
    await handle


@on(CELERY)
async def test_a_diagnosis_tells_what_is_wrong(celery):
    done = await celery.send_task("stock.add", (1, 2))
    await done
    unserved = await celery.send_task("stock.add", (1, 2), queue=f"nobody-{fresh()}")
    unknown = await celery.send_task("no.such.task")
    await eventually(unknown.ready)
    never_sent = celery.result(fresh(), "stock.add")
    causes = [(await celery.diagnose(each)).cause for each in (done, unserved, unknown, never_sent)]
    assert causes == [Cause.FINISHED, Cause.NOT_LISTENING, Cause.UNKNOWN_TASK, Cause.NEVER_PUBLISHED]


@on(CELERY)
async def test_a_busy_worker_takes_the_most_urgent_task_first(celery):
    blockers = await occupy(celery)
    # A stock worker takes four a process in advance, whatever comes after them.
    blockers += await celery.send_many([RemoteTask("stock.add")(1, 1)] * 8)
    handles = [await celery.send_task("stock.sleep", (0.2,), priority=priority) for priority in (9, 9, 0, 0)]
    await handles[2]
    assert await celery.ready(handles[:2]) == [False, False]
    await celery.gather([*blockers, *handles])


# Fibonacci numbers.


@on(FIBO)
async def test_fibonacci_numbers_are_exact(fibo):
    assert [await fibo.fibonacci(n) for n in (0, 1, 2, 3, 10, 90)] == [0, 1, 1, 2, 55, 2880067194370816120]
    assert await fibo.fibonacci(100_000) % 10**20 == 49895374653428746875
    assert await fibo.sqrt(2) == math.sqrt(2)


@on(FIBO)
async def test_many_numbers_share_tasks_and_keep_their_order(fibo):
    assert await fibo.fibonacci_many([4, 3, 8, 6, 10, 3]) == [3, 2, 21, 8, 55, 2]
    assert await asyncio.gather(*map(fibo.fibonacci, [7, 8, 7])) == [13, 21, 13]


@on(FIBO)
async def test_a_stream_gives_every_number_once(fibo):
    async with fibo.stream(range(2000), max_in_flight=300) as results:
        found = {n: value async for n, value in results}
    assert len(found) == 2000
    assert all(found[n] == found[n - 1] + found[n - 2] for n in range(2, 2000))


@on(FIBO)
async def test_the_task_that_answers_a_sentence_says_all_digits(fibo):
    handle = await fibo.submit(50_000, task=FIBO_TASK)
    n, message = await handle
    assert (n, message.partition(" was ")[0]) == (50_000, f"The Fibonacci calculated with task id {handle.id}")
    assert len(message.partition(" was ")[2]) == 10_450


@on(FIBO)
async def test_what_a_worker_refuses_fails_alone(fibo):
    values = await fibo.celery.call(FIBONACCI_CHUNK, ([5, -1, 7, True, "8"],))
    assert [values[0], values[2]] == [5, 13]
    assert [(each.exc_type, each.exc_args) for each in (values[1], values[3], values[4])] == [
        ("ValueError", ("n must be 0 or more, not -1",)),
        ("TypeError", ("n must be an integer, not bool",)),
        ("TypeError", ("n must be an integer, not str",)),
    ]
    for wrong, error in ((5, "TypeError"), ([1] * 1001, "ValueError")):
        with pytest.raises(TaskFailedError, match=error):
            await fibo.celery.call(FIBONACCI_CHUNK, (wrong,))
    with pytest.raises(TaskFailedError, match="n must be at most 10000000"):
        await fibo.celery.call(FIBONACCI, (10_000_001,))
