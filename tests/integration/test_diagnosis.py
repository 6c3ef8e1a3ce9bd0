"""Why a task has no answer: each cause brought about by real workers."""

import contextlib
from datetime import UTC, datetime

import pytest
from support.clients import celery_client
from support.servers import stock_worker
from support.waiting import eventually

from fibo_client.celery import Cause, CeleryClient, CeleryConfig, RedisOptions
from fibo_client.celery.protocol.control import ControlRequest
from fibo_client.celery.result_settings import stored_elsewhere
from fibo_client.errors import ResultTimeoutError, TaskFailedError

PATIENCE = 10


@pytest.fixture(scope="module")
def narrow(server):
    """A worker that runs one task and takes one more."""
    url = server.fresh_url()
    with stock_worker(url, name="narrow", arguments=["--prefetch-multiplier", "1"]) as process:
        yield url, process.node


@pytest.fixture
async def client(narrow):
    url, _ = narrow
    async with CeleryClient(url) as client:
        yield client


@contextlib.asynccontextmanager
async def busy(client):
    """Keep the worker busy. What was sent is gone from the worker at the end."""
    running = await client.send_task("stock.sleep", [60])

    async def runs():
        return (await client.diagnose(running, timeout=PATIENCE)).cause is Cause.RUNNING

    await eventually(runs)
    sent = [running]
    try:
        yield sent
    finally:
        # What runs takes this signal for its soft time limit. A process that is killed costs Celery seconds.
        await client.revoke(sent, terminate=True, signal="SIGUSR1")
        for result in sent:
            with contextlib.suppress(Exception):
                await result.get(timeout=PATIENCE)


async def test_a_task_that_is_over_is_finished(client):
    result = await client.send_task("stock.add", [1, 2])
    assert await result.get(timeout=PATIENCE) == 3
    assert (await client.diagnose(client.result(result.id))).cause is Cause.FINISHED


async def test_running_reserved_and_waiting_are_told_apart_with_since_when_and_behind_how_many(client, narrow):
    before = datetime.now(UTC)
    async with busy(client) as sent:
        sent += [await client.send_task("stock.add", [1, k]) for k in range(5)]

        async def taken():
            return await client.queue_depth() == 4

        await eventually(taken)
        causes = [await client.diagnose(result, timeout=PATIENCE) for result in sent]
        assert [each.cause for each in causes] == [Cause.RUNNING, Cause.RESERVED] + [Cause.WAITING] * 4
        assert causes[0].held == {narrow[1]: "active"}
        # The same machine, so the same clock.
        assert abs((causes[0].since - before).total_seconds()) < PATIENCE
        assert [each.ahead for each in causes] == [None, None, 0, 1, 2, 3]
        assert "is running, since" in str(causes[0])
        assert "waits in 'celery' behind about 3 others" in str(causes[-1])


async def test_a_message_of_a_better_priority_is_counted_ahead_and_one_that_is_mentioned_is_not_taken_for_it(server):
    async with CeleryClient(server.fresh_url()) as client:
        last = await client.send_task("stock.add", [1, 1], priority=9)
        await client.send_task("stock.echo", [last.id], root_id=last.id)
        await client.send_task("stock.add", [1, 1], priority=3)
        assert (await client.diagnose(last, timeout=0.1)).ahead == 2


async def test_in_a_long_queue_only_the_oldest_and_the_newest_are_looked_at(server, monkeypatch):
    monkeypatch.setattr("fibo_client.celery.brokers.redis.MAX_SEARCHED", 400)
    async with CeleryClient(server.fresh_url()) as client:
        results = [await client.send_task("stock.add", [1, k]) for k in range(1000)]
        locate = client._session.broker.locate
        places = [await locate("celery", results[k].id, timeout=10) for k in (0, 199, 500, 800, 999)]
        assert [place.ahead for place in places] == [0, 199, None, 800, 999]
        assert {place.complete for place in places if place.ahead is None} == {False}
        middle = await client.diagnose(results[500], timeout=0.1)
        assert (middle.cause, middle.searched) == (Cause.NO_WORKER, False)


async def test_a_task_for_later_is_scheduled(client):
    result = await client.send_task("stock.add", [1, 2], countdown=600)

    async def scheduled():
        return (await client.diagnose(result, timeout=PATIENCE)).cause is Cause.SCHEDULED

    await eventually(scheduled)
    await result.revoke()


async def test_a_queue_that_no_worker_takes_from_is_told_from_no_worker_at_all(client, server):
    lost = await client.send_task("stock.add", [1, 2], queue="nobody-listens")
    diagnosis = await client.diagnose(lost, timeout=PATIENCE)
    assert (diagnosis.cause, diagnosis.ahead) == (Cause.NOT_LISTENING, 0)
    async with CeleryClient(server.fresh_url()) as alone:
        handle = await alone.send_task("stock.add", [1, 2])
        assert (await alone.diagnose(handle, timeout=0.1)).cause is Cause.NO_WORKER


async def test_a_task_that_workers_do_not_know_is_told_before_and_after_they_have_refused_it(client):
    async with busy(client) as sent:
        sent.append(await client.send_task("stock.add", [1, 2]))
        sent.append(unknown := await client.send_task("stock.no_such_task"))
        assert (await client.diagnose(unknown, timeout=PATIENCE)).cause is Cause.UNKNOWN_TASK
    refused = await client.send_task("stock.no_such_task")
    with pytest.raises(TaskFailedError, match="NotRegistered"):
        await refused.get(timeout=PATIENCE)
    assert (await client.diagnose(client.result(refused.id), timeout=PATIENCE)).cause is Cause.UNKNOWN_TASK


async def test_what_was_sent_and_is_gone_is_told_from_what_was_never_sent(client):
    gone = await client.send_task("stock.add", [1, 2])
    await gone.get(timeout=PATIENCE)
    await gone.forget()
    handle = client.result(gone.id, "stock.add")

    async def let_go():
        # The pool's process stores the result; a moment later the worker hears of it, and holds the task no more.
        return (await client.diagnose(handle, timeout=PATIENCE)).cause is not Cause.RUNNING

    await eventually(let_go)
    diagnosis = await client.diagnose(handle, timeout=PATIENCE)
    assert (diagnosis.cause, diagnosis.sent) == (Cause.GONE, True)
    assert "expired" in str(diagnosis)
    never = await client.diagnose(client.result("never-sent", "stock.add"), timeout=PATIENCE)
    assert (never.cause, never.sent) == (Cause.NEVER_PUBLISHED, False)


async def test_of_a_bare_id_the_queue_that_was_looked_into_is_said_to_be_a_guess_unless_it_is_remembered_or_given(
    client,
):
    async with CeleryClient(client.config.broker_url) as other:
        sent = await client.send_task("stock.add", [1, 2], queue="nobodys")
        remembered = await client.diagnose(client.result(sent.id), timeout=PATIENCE)
        assert (remembered.cause, remembered.queue, remembered.guessed) == (Cause.NOT_LISTENING, "nobodys", False)
        guessed = await other.diagnose(other.result(sent.id), timeout=PATIENCE)
        assert (guessed.cause, guessed.queue, guessed.guessed) == (Cause.NEVER_PUBLISHED, other.config.queue, True)
        assert "(a guess: this client's own; that of the task is not known)" in str(guessed)
        given = await other.diagnose(other.result(sent.id, queue="nobodys"), timeout=PATIENCE)
        assert (given.cause, given.guessed, given.ahead) == (Cause.NOT_LISTENING, False, 0)


async def test_a_result_that_has_expired_is_gone(client, server, narrow):
    result = await client.send_task("stock.add", [1, 2])
    await eventually(client.result(result.id).ready)
    with server.client(narrow[0]) as direct:
        assert direct.pexpire(f"celery-task-meta-{result.id}", 1)

    async def gone():
        return (await client.diagnose(result, timeout=PATIENCE)).cause is Cause.GONE

    await eventually(gone)


async def test_workers_that_store_results_elsewhere_are_found_out_by_their_settings(server):
    url, other = server.fresh_url(), server.fresh_url()
    conf = {
        "broker_url": url,
        "result_backend": other,
        "result_backend_transport_options": {"global_keyprefix": "not-ours"},
    }
    told = {
        other.rpartition(":")[2]: {"redis": RedisOptions(result_prefix="not-ours")},
        "result_prefix": {"result_backend": other},
    }
    with stock_worker(url, name="elsewhere", pool="solo", conf=conf, result_backend=other) as process:
        for where, half_right in told.items():
            # Pushed results know no databases: with push, whoever waits in time has the answer all the same.
            async with CeleryClient(url, **half_right, push=False) as client:
                result = await client.send_task("stock.add", [1, 2])

                async def taken(client=client):
                    return not await client.queue_depth()

                await eventually(taken)
                with pytest.raises(ResultTimeoutError):
                    await result.get(timeout=0.5)
                diagnosis = await client.diagnose(result, timeout=PATIENCE)
            assert diagnosis.cause is Cause.STORED_ELSEWHERE
            assert where in diagnosis.elsewhere[process.node]
            assert where in str(diagnosis)


async def test_workers_that_store_no_results_by_their_settings_are_found_out(server):
    url = server.fresh_url()
    conf = {"broker_url": url, "task_ignore_result": True}
    with stock_worker(url, name="silent", pool="solo", conf=conf) as process:
        async with CeleryClient(url) as client:
            result = await client.send_task("stock.add", [1, 2])

            async def taken():
                return not await client.queue_depth()

            await eventually(taken)
            diagnosis = await client.diagnose(result, timeout=PATIENCE)
    assert diagnosis.cause is Cause.STORED_ELSEWHERE
    assert "task_ignore_result" in diagnosis.elsewhere[process.node]
    assert "task_ignore_result" in str(diagnosis)


async def test_a_task_that_its_worker_declares_to_have_no_result_is_told_from_one_that_is_gone(client, narrow):
    url, node = narrow
    with celery_client(url) as app:  # Celery's own client is told the same of the task.
        told = app.control.inspect(timeout=PATIENCE, limit=1).registered("ignore_result")
    assert "stock.forgetful [ignore_result=True]" in told[node]
    result = await client.send_task("stock.forgetful", [5])

    async def found_out():
        diagnosis = await client.diagnose(result, timeout=PATIENCE)
        return diagnosis.cause is Cause.STORED_ELSEWHERE and diagnosis

    await eventually(found_out)
    assert f"{node}: it declares the task with ignore_result=True" in str(await found_out())
    # Without its name, nobody can say how it is declared.
    unnamed = await client.diagnose(client.result(result.id), timeout=PATIENCE)
    assert (unnamed.cause, unnamed.elsewhere) == (Cause.GONE, {})
    # The message wins.
    assert await client.call("stock.forgetful", (5,)) == 5
    asked = await client.send_task("stock.forgetful", [5], ignore_result=False)
    assert await asked.get(timeout=PATIENCE) == 5
    assert (await client.diagnose(client.result(asked.id, "stock.forgetful"))).cause is Cause.FINISHED


async def test_a_task_that_asks_for_no_result_has_none(client):
    result = await client.send_task("stock.add", [1, 2], ignore_result=True)

    async def gone():
        diagnosis = await client.diagnose(result, timeout=PATIENCE)
        return diagnosis.cause is Cause.STORED_ELSEWHERE and "ignore_result=True" in str(diagnosis)

    await eventually(gone)


# Workers that give no answer


async def send_taken(client, heard, task, *args):
    """Send a task once so many hear questions, and wait until it has left the queue."""

    async def listening():
        return await client._session.broker.broadcast(ControlRequest(method="ping")) == heard

    async def taken():
        return not await client.queue_depth()

    await eventually(listening)
    sent = await client.send_task(task, args)
    await eventually(taken)
    return sent


async def test_of_a_task_that_runs_in_the_pool_solo_it_is_said_that_a_silent_worker_may_have_it(server):
    url = server.fresh_url()
    with stock_worker(url, name="alone", pool="solo") as process:
        async with CeleryClient(url) as client:
            running = await send_taken(client, 1, "stock.sleep", 60)

            async def begun():
                return f"[{running.id}] received" in process.log.read_text()

            await eventually(begun)
            waiting = await client.send_task("stock.add", [1, 2])
            for handle in (running, client.result(running.id), client.result(running.id, "stock.sleep")):
                diagnosis = await client.diagnose(handle, timeout=0.5)
                assert (diagnosis.cause, diagnosis.workers, diagnosis.silent) == (Cause.NO_REPLY, (), 1)
                assert (
                    "1 worker that heard the questions gave no answer and may have it: one with the pool solo"
                    in str(diagnosis)
                )
            diagnosis = await client.diagnose(waiting, timeout=0.5)
            assert (diagnosis.cause, diagnosis.ahead) == (Cause.NO_REPLY, 0)
            assert "it waits in 'celery' behind about 0 others" in str(diagnosis)
            assert "solo" in str(diagnosis)
            assert "start" not in str(diagnosis)
    with celery_client(url) as app:  # Celery's own question gets no answer either.
        assert app.control.inspect(timeout=0.5).query_task(running.id) is None


async def test_of_a_task_that_runs_without_remote_control_it_is_said_that_such_a_worker_may_have_it(server):
    url = server.fresh_url()
    conf = {"worker_enable_remote_control": False, "worker_prefetch_multiplier": 1}
    with stock_worker(url, name="mute", conf=conf):
        async with CeleryClient(url) as client:
            running = await send_taken(client, 0, "stock.sleep", 60)
            await send_taken(client, 0, "stock.sleep", 60)
            waiting = await client.send_task("stock.add", [1, 2])
            diagnosis = await client.diagnose(running, timeout=0.5)
            assert (diagnosis.cause, diagnosis.workers, diagnosis.silent) == (Cause.NO_REPLY, (), 0)
            assert "no worker answered: one without remote control" in str(diagnosis)
            assert "may have it" in str(diagnosis)
            diagnosis = await client.diagnose(waiting, timeout=0.5)
            assert diagnosis.cause is Cause.NO_WORKER
            assert "one without remote control is not seen" in str(diagnosis)


@pytest.mark.parametrize(
    ("conf", "task"),
    [
        ({"accept_content": ["pickle"]}, "stock.add"),  # It drops the message, and the questions too.
        ({"accept_content": ["pickle", "json"], "task_serializer": "pickle"}, "stock.sleep"),
        ({"accept_content": ["yaml", "json"], "task_serializer": "yaml"}, "stock.sleep"),
    ],
    ids=["takes pickle only", "answers in pickle", "answers in YAML"],
)
async def test_of_workers_without_json_it_is_said_that_they_may_have_dropped_it(server, monkeypatch, conf, task):
    monkeypatch.setenv("C_FORCE_ROOT", "1")  # Or Celery would not accept pickle as root. Nobody sends it any.
    url = server.fresh_url()
    with stock_worker(url, name="pickler", conf=conf):
        async with CeleryClient(url) as client:
            sent = await send_taken(client, 1, task, *([60] if task == "stock.sleep" else [1, 2]))
            diagnosis = await client.diagnose(sent, timeout=0.5)
    assert (diagnosis.cause, diagnosis.silent) == (Cause.NO_REPLY, 1)
    assert "accept_content" in str(diagnosis)


# Several apps on one Redis


@pytest.fixture(scope="module")
def apps(server):
    """A worker that knows the tasks, and two of another app, which take from a queue of the first, too.

    One of these stores its results elsewhere.
    """
    url, other = server.fresh_url(), server.fresh_url()
    elsewhere = {"result_backend": other, "broker_url": url}
    prefetch = ["--prefetch-multiplier", "1"]
    with (
        stock_worker(url, name="knows", queues=("own", "shared", "mixed"), arguments=prefetch) as knows,
        stock_worker(url, app="support.other_app", name="near", pool="solo", queues=("shared",)) as near,
        stock_worker(
            url,
            app="support.other_app",
            name="far",
            pool="solo",
            queues=("mixed", "others"),
            conf=elsewhere,
            result_backend=other,
        ) as far,
    ):
        yield url, knows.node, near.node, far.node


async def test_settings_of_a_worker_that_has_nothing_to_do_with_the_task_are_not_blamed(apps):
    url, knows, near, far = apps
    async with CeleryClient(url, queue="own") as client:
        gone = await client.send_task("stock.add", [1, 2])
        assert await gone.get(timeout=PATIENCE) == 3
        await gone.forget()

        async def let_go():
            return (await client.diagnose(gone, timeout=PATIENCE)).cause is not Cause.RUNNING

        for handle in (gone, client.result(gone.id, "stock.add")):
            await eventually(let_go)
            diagnosis = await client.diagnose(handle, timeout=PATIENCE)
            assert (diagnosis.cause, diagnosis.elsewhere) == (Cause.GONE, {})
            assert set(diagnosis.workers) == {knows, near, far}
        async with busy(client) as (running,):
            diagnosis = await client.diagnose(running, timeout=PATIENCE)
            assert (diagnosis.cause, diagnosis.elsewhere) == (Cause.RUNNING, {})
            assert "Its result may not come here" not in str(diagnosis)


async def test_of_a_worker_that_took_a_task_which_it_does_not_know_the_name_is_told_and_who_knows_it(apps):
    url, knows, near, far = apps
    async with CeleryClient(url, queue="own") as client, busy(client) as sent:
        depth = client.queue_depth

        async def reserved():
            return not await depth("own")

        async def taken():
            return not await depth("mixed")

        sent.append(await client.send_task("stock.add", [1, 2]))
        await eventually(reserved)  # Now the worker that knows it takes no more.
        refused = await client.send_task("stock.add", [1, 2], queue="shared")
        with pytest.raises(TaskFailedError, match="NotRegistered"):
            await refused.get(timeout=PATIENCE)
        diagnosis = await client.diagnose(refused, timeout=PATIENCE)
        assert (diagnosis.cause, diagnosis.registered, diagnosis.unregistered) == (
            Cause.UNKNOWN_TASK,
            (knows,),
            (near,),
        )
        assert f"{near} takes tasks from 'shared', too, and knows none of that name, {knows} does" in str(diagnosis)
        lost = await client.send_task("stock.add", [1, 2], queue="mixed")
        await eventually(taken)
        diagnosis = await client.diagnose(lost, timeout=PATIENCE)
        assert (diagnosis.cause, diagnosis.elsewhere.keys()) == (Cause.STORED_ELSEWHERE, {far})
        assert f"{far}: it does not know the task, and its refusal is not here" in str(diagnosis)


def test_settings_of_results_are_compared_as_far_as_they_are_shown():
    ours = CeleryConfig(broker_url="redis://:secret@localhost:6379/0")

    def found(backend, broker="redis://:********@redis.internal:6379/0"):
        return stored_elsewhere({"result_backend": backend, "broker_url": broker}, ours)

    assert found("redis://:********@127.0.0.1/0") is None
    assert "perhaps two names" in found("redis://cache.internal/0")
    assert "disabled" in found("disabled://")
    assert "rpc" in found("rpc://")
    assert "another kind (sentinel)" in found("sentinel://localhost:6379/0")
    assert "another kind (db+postgresql)" in found("db+postgresql://:********@localhost:6379/0")
    assert found("rediss://localhost:6379/0?ssl_cert_reqs=required") is None
    assert "localhost:6379/7, ours localhost:6379/0" in found("redis://localhost/7")
    assert "secret" not in found("redis://elsewhere:1/0")
    # It answers on our broker and names another: its environment has won, and its result_backend says nothing.
    assert found("redis://localhost/7", broker="redis://localhost/7") is None
    for bad in (5, [], "redis://[/", "redis://a:b"):
        assert found(bad) is None
        assert stored_elsewhere(bad, ours) is None
    assert stored_elsewhere(None, ours) is None
    assert "name no result_backend" in found(None)
