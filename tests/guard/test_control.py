"""Remote control of a worker: what comes there by mistake, or from somebody who means harm, does not stop it."""

from __future__ import annotations

import json
import os
import re
import sys
import uuid

import pytest
from support.broadcasts import LONE, command, envelope, events, garbage, publish, unreadable, useful
from support.clients import celery_client
from support.servers import TESTS, stock_worker
from support.waiting import until

from fibo_worker.child import Child
from fibo_worker.dev import WorkerProcess

TASK = "fibo.fibonacci"


class Controlled:
    """A worker, Celery's client of it, and a client of its Redis."""

    def __init__(self, process, app, redis):
        self.process, self.app, self.redis = process, app, redis

    @property
    def node(self):
        return self.process.node

    def ask(self, method, arguments=None, **options):
        """Send a command as kombu does, and give the worker's reply."""
        with self.app.connection_for_write() as connection:
            mailbox = self.app.control.mailbox(connection)
            replies = mailbox._broadcast(
                method, arguments, destination=[self.node], reply=True, limit=1, **{"timeout": 10, **options}
            )
        return replies[0][self.node] if replies else None

    def size(self):
        """Ask how many processes the pool shall have."""
        return int(re.match("the pool has ([0-9]+),", self.ask("pool_shrink", {"n": 100_000})["error"])[1])

    def serves(self, n=10):
        self.process.check()
        assert self.ask("ping") == {"ok": "pong"}
        assert self.app.send_task(TASK, (n,)).get(timeout=20) == "37"

    def log(self):
        return self.process.log.read_text()

    def forged(self):
        """What stands in the log since its first line of remote control that is no line of Celery's format."""
        lines = self.log().partition(" ready.\n")[2].splitlines()
        return [line for line in lines if not line.startswith("[20")]


@pytest.fixture(scope="module")
def worker(redis_server):
    """A worker with two processes, an own command, and the tasks of fibo-worker."""
    url = redis_server.fresh_url()
    env = {"PYTHONPATH": str(TESTS)}
    with (
        WorkerProcess(url, app="support.poisoned", env=env, concurrency=2, stop_timeout=0) as process,
        celery_client(url) as app,
        redis_server.client(url) as redis,
    ):
        yield Controlled(process, app, redis)


@pytest.mark.timeout(180)
def test_a_command_that_cannot_be_used_is_one_line_in_the_log_and_an_error_to_its_caller(worker):
    before = worker.log().count("refused the command")
    sent, accepted = 0, []
    for method, arguments in garbage(TASK):
        sent += 1
        reply = worker.ask(method, arguments)
        if reply is None or list(reply) != ["error"]:
            accepted.append((method, arguments, reply))

    assert accepted == []
    assert sent >= 150
    assert worker.log().count("refused the command") - before == sent
    assert worker.forged() == []
    assert worker.size() == 2
    worker.serves()


def test_what_is_no_command_at_all_is_ignored(worker):
    sent = 0
    for message in unreadable():
        publish(worker.redis, message)
        sent += 1

    worker.serves()
    assert sent >= 60
    assert worker.size() == 2
    assert worker.forged() == []


def test_every_command_as_celerys_own_clients_send_it_is_done(worker):
    refused = [
        (method, arguments, reply)
        for method, many in useful(TASK).items()
        for arguments in many
        if isinstance(reply := worker.ask(method, arguments), dict)
        and "error" in reply
        # They start without events.
        and method not in ("enable_events", "disable_events", "heartbeat")
    ]

    assert refused == []
    worker.serves()


def test_a_node_is_chosen_by_a_pattern(worker):
    with worker.app.connection_for_write() as connection:
        mailbox = worker.app.control.mailbox(connection)
        for pattern, matcher in (("fibo@*", "glob"), (r"^fibo@.*$", "pcre"), (None, None)):
            (reply,) = mailbox._broadcast("ping", {}, pattern=pattern, matcher=matcher, reply=True, timeout=5, limit=1)
            assert reply == {worker.node: {"ok": "pong"}}
        assert mailbox._broadcast("ping", {}, pattern="other@*", matcher="glob", reply=True, timeout=0.3) == []


def test_a_command_of_the_apps_own_is_run_with_what_is_text_and_numbers(worker):
    assert worker.ask("poison_echo", {"value": {"a": [1, None, "b"]}, "further": "x"}) == {
        "value": {"a": [1, None, "b"]},
        "more": {"further": "x"},
        "node": worker.node,
    }
    assert worker.ask("poison_echo", {"value": LONE}) == {"error": "its arguments have a text that cannot be encoded"}
    assert worker.ask("poison_echo") == {"error": "its arguments do not fit: missing a required argument: 'value'"}
    assert worker.ask("poison_break") == {"error": "RuntimeError('no\\nline of the log')"}
    worker.serves()


def test_a_pool_keeps_a_process_and_grows_within_bounds(worker):
    assert worker.ask("pool_shrink", {"n": 1_000_000}) == {"error": "the pool has 2, and one stays at least"}
    assert worker.ask("pool_shrink", {"n": 2}) == {"error": "the pool has 2, and one stays at least"}
    most = 8 * max(os.cpu_count(), 2)
    assert worker.ask("pool_grow", {"n": most}) == {"error": f"the pool has 2, and may have {most} at most"}
    assert worker.ask("pool_shrink", {"n": 1}) == {"ok": "pool will shrink"}
    assert worker.ask("pool_shrink", {"n": 1}) == {"error": "the pool has 1, and one stays at least"}
    worker.serves()
    assert worker.ask("pool_grow", {"n": 1}) == {"ok": "pool will grow"}
    assert worker.size() == 2
    worker.serves()


def test_a_limit_can_be_lowered_and_raised_again_but_not_above_the_workers(worker):
    def limit(hard, soft):
        return worker.ask("time_limit", {"task_name": "poison.spin", "hard": hard, "soft": soft})

    assert limit(121, 5) == {"error": "its argument 'hard' may be 120 at most, as the worker's settings say"}
    assert limit(5, 111) == {"error": "its argument 'soft' may be 110 at most, as the worker's settings say"}
    assert limit(20, 0.5) == {"ok": "time limits set successfully"}
    assert limit(121, 0.5) == {"error": "its argument 'hard' may be 120 at most, as the worker's settings say"}
    assert limit(120, 110) == {"ok": "time limits set successfully"}


def test_a_queue_whose_key_is_no_list_is_not_consumed_from(worker):
    worker.redis.set("a text", "x")

    assert worker.ask("add_consumer", {"queue": "a text"}) == {"ok": "add consumer a text"}
    until(lambda: "cannot consume from the queue 'a text'" in worker.log())

    assert [queue["name"] for queue in worker.ask("active_queues")].count("a text") == 0
    worker.serves()


def test_a_reply_that_redis_refuses_stops_nothing(worker):
    worker.redis.set("no-queue", "x")
    publish(worker.redis, envelope(command("ping", reply_to={"exchange": "", "routing_key": "no-queue"}, ticket="t")))

    until(lambda: "a reply to remote control could not be sent" in worker.log())
    worker.serves()


@pytest.mark.timeout(180)
def test_a_worker_that_revokes_fifty_thousand_tasks_answers_and_works_meanwhile(worker):
    ids = [str(uuid.uuid4()) for _ in range(49_999)]
    running = worker.app.send_task("poison.deaf")
    until(lambda: worker.ask("active"))

    for _ in range(3):  # what is told twice costs no more
        worker.app.control.revoke([*ids, running.id], terminate=True, signal="KILL")
    assert running.get(timeout=20, propagate=False).__class__.__name__ == "TaskRevokedError"
    for _ in range(20):
        worker.serves()  # each time within ten seconds; Celery alone takes a minute or more
    sent = worker.app.send_task(TASK, (10,), task_id=ids[-1])

    assert sent.get(timeout=20, propagate=False).__class__.__name__ == "TaskRevokedError"
    first = f"celery-task-meta-{ids[0]}"
    assert json.loads(until(lambda: worker.redis.get(first)))["status"] == "REVOKED"
    finished = worker.app.send_task(TASK, (10,))
    assert finished.get(timeout=20) == "37"
    worker.app.control.revoke([finished.id, *ids[:100]])
    worker.serves()
    assert finished.state == "SUCCESS"


@pytest.fixture
def gossiping(redis_server):
    """A worker as `fibo-worker start` starts it, which listens to the events of others."""
    url = redis_server.fresh_url()
    env = {**os.environ, "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
    arguments = ["-m", "celery", "--no-color", "-A", "fibo_worker.app", "worker", "-c", "1", "-n", "fibo@%h"]
    process = Child([sys.executable, *arguments, "--loglevel", "INFO"], name="gossip", env=env)
    try:
        process.wait_until(lambda: " ready." in process.log.read_text(), 60)
        process.node = next(word for word in process.log.read_text().split() if word.startswith("fibo@"))
        with celery_client(url) as app, redis_server.client(url) as redis:
            yield Controlled(process, app, redis)
    finally:
        process.stop(timeout=0)


def test_events_of_others_that_cannot_be_followed_are_ignored(gossiping):
    sent = 0
    for event in events():
        publish(gossiping.redis, event, exchange=f"celeryev/{event['properties']['delivery_info']['routing_key']}")
        sent += 1

    gossiping.serves()
    assert sent >= 100
    until(lambda: gossiping.log().count("ignored a message of remote control or an event") == sent)
    for arguments in useful(TASK)["enable_events"]:
        assert "ok" in gossiping.ask("enable_events", arguments)
        assert "ok" in gossiping.ask("disable_events", arguments)
    assert gossiping.ask("election", {"id": "x", "topic": "task", "action": None}) is None
    gossiping.serves()
    assert gossiping.forged() == []


@pytest.mark.parametrize("arguments", [{}, {"msg": 5}, {"msg": "a\nb", "more": [1]}, 5, None])
def test_no_shutdown_is_prevented(redis_server, arguments):
    url = redis_server.fresh_url()
    with WorkerProcess(url, stop_timeout=0) as process, redis_server.client(url) as redis:
        assert publish(redis, envelope(command("shutdown", arguments))) == 1
        until(lambda: not process._started.running)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("add_consumer", {"queue": 5}), ("add_consumer", {"queue": LONE}), ("cancel_consumer", {"queue": ["x"]})],
)
def test_celery_alone_ends_at_a_queue_that_is_no_name(redis_server, method, arguments):
    url = redis_server.fresh_url()
    with stock_worker(url) as process, redis_server.client(url) as redis:
        publish(redis, envelope(command(method, arguments)))
        until(lambda: not process._started.running)
