"""How a protected worker's channel takes and acknowledges messages on a real Redis: in one step, and losing none."""

import json
from contextlib import contextmanager
from queue import Empty

import pytest
import redis
from anyio.from_thread import start_blocking_portal
from celery import Celery
from support.proxy import Proxy
from support.waiting import until

from fibo_worker.guard import DeadLetter, protect
from fibo_worker.guard.scripts import ScriptConnection
from fibo_worker.guard.unacked import FETCH, Fetch

LATE = {"task_acks_late": True, "task_reject_on_worker_lost": True}


@pytest.fixture
def direct(server):
    with server.client(decode_responses=True) as direct:
        direct.flushall()
        direct.config_resetstat()
        yield direct


class Taking:
    """A consumer as Celery's worker has one, whose messages stay in its hands."""

    def __init__(self, app, limit):
        self.app, self.messages = app, []
        self.connection = app.connection_for_read()
        self.channel = self.connection.channel()
        self.consumer = app.amqp.TaskConsumer(self.channel)
        self.consumer.on_message = self.messages.append
        self.consumer.consume()
        self.channel.basic_qos(0, limit, False)

    def take(self, count):
        """Wait until so many messages are in its hands."""
        for _ in range(50):
            if len(self.messages) >= count:
                break
            try:
                self.connection.drain_events(timeout=1)
            except (TimeoutError, Empty):
                continue
            except self.connection.connection_errors:
                continue
        assert len(self.messages) == count
        return self.messages

    @property
    def bodies(self):
        return [json.loads(each.body)[0][0] for each in self.messages]


@contextmanager
def taking(url, limit=10, without=(), **conf):
    with protect(Celery("shop", broker=url, backend=url, set_as_current=False), without=without) as app:
        app.conf.update(conf)

        @app.task(name="shop.any", shared=False)
        def any_task(number):
            return number

        app.finalize()
        made = Taking(app, limit)
        try:
            yield made
        finally:
            made.connection.collect()


def send(direct, *numbers, queue="celery", **headers):
    """Send tasks, as any client of Celery's does."""
    for number in numbers:
        message = {
            "body": json.dumps([[number], {}, {}]),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": "shop.any", "id": f"id-{number}", "eta": None, **headers},
            "properties": {"delivery_tag": "theirs", "delivery_info": {"exchange": "", "routing_key": queue}},
        }
        direct.lpush(queue, json.dumps(message))


def calls(direct, *names):
    stats = direct.info("commandstats")
    return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names}


def test_messages_come_in_order_and_each_is_recorded_as_taken(server, direct):
    send(direct, *range(8))
    with taking(server.url) as worker:
        worker.take(8)
        assert worker.bodies == list(range(8))
        assert direct.zcard("unacked_index") == direct.hlen("unacked") == 8
        assert set(direct.hkeys("unacked")) == {each.delivery_tag for each in worker.messages}
        recorded = [json.loads(each) for each in direct.hvals("unacked")]
        assert {(exchange, queue) for _, exchange, queue in recorded} == {("", "celery")}


def test_many_are_taken_in_few_commands_and_without_transactions(server, direct):
    send(direct, *range(20))
    with taking(server.url, limit=20) as worker:
        direct.config_resetstat()
        worker.take(20)
        said = calls(direct, "evalsha", "brpop", "multi")
        assert said["multi"] == 0
        assert said["evalsha"] + said["brpop"] <= 5


def test_no_more_are_taken_than_the_prefetch_limit_allows(server, direct):
    send(direct, *range(8))
    with taking(server.url, limit=3) as worker:
        worker.take(3)
        with pytest.raises((TimeoutError, Empty)):
            worker.connection.drain_events(timeout=0.1)
        assert direct.llen("celery") == 5
        worker.messages[0].ack()
        worker.take(4)
        assert direct.llen("celery") == 4


def test_priorities_are_kept(server, direct):
    send(direct, 9, queue="celery\x06\x169")
    send(direct, 1, 2)
    send(direct, 3, queue="celery\x06\x163")
    with taking(server.url) as worker:
        worker.take(4)
        assert worker.bodies == [1, 2, 3, 9]


def test_queues_take_turns_as_with_kombu(server, direct):
    send(direct, 1, 2, 3, queue="one")
    send(direct, 11, 12, 13, queue="two")
    with taking(server.url, task_queues=None) as worker:
        worker.consumer.cancel()
        for name in ("one", "two"):
            worker.app.amqp.queues.select_add(name)
        worker.consumer = worker.app.amqp.TaskConsumer(worker.channel)
        worker.consumer.on_message = worker.messages.append
        worker.consumer.consume()
        worker.take(6)
        assert [each < 10 for each in worker.bodies] in ([True, False] * 3, [False, True] * 3)


def test_an_acknowledgement_leaves_nothing(server, direct):
    send(direct, *range(5))
    with taking(server.url) as worker:
        for message in worker.take(5):
            message.ack()
        until(lambda: not direct.exists("unacked", "unacked_index"))
        assert direct.keys("unacked*") == []


def test_a_rejection_requeues_or_drops(server, direct):
    send(direct, 1, 2)
    with taking(server.url, limit=2) as worker:
        first, second = worker.take(2)
        first.reject()
        second.requeue()
        until(lambda: not direct.exists("unacked", "unacked_index"))
        until(lambda: direct.llen("celery") == 1)


def test_what_was_taken_by_a_worker_that_died_before_it_read_it_is_there_for_the_next(server, direct):
    """Kombu pops and records in two steps. A worker that dies in between loses the message."""
    send(direct, 1, 2)
    with taking(server.url, limit=2, broker_transport_options={"visibility_timeout": 0}) as worker:
        fetch = Fetch((), ("celery",), worker.channel.qos.tags.make(2))
        ScriptConnection(worker.channel.pool).send(FETCH, *worker.channel.qos.keys.fetch(fetch))
        until(lambda: direct.hlen("unacked") == 2)
        assert direct.llen("celery") == 0
        worker.channel.qos.restore_visible(num=None)
        worker.take(2)
        assert sorted(worker.bodies) == [1, 2]
        assert all(each.headers["redelivered"] for each in worker.messages)


def test_what_was_taken_and_got_lost_on_the_way_is_put_back_and_taken_again(server, direct):
    proxy = Proxy(server.port)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxy.running()),
        taking(proxy.url(server.url), limit=3) as worker,
    ):
        send(direct, 1)
        worker.take(1)
        send(direct, 2, 3)
        worker.channel.has_more = True
        proxy.truncate = 40  # in the middle of the reply
        worker.take(3)
        assert worker.bodies == [1, 2, 3]
        assert direct.hlen("unacked") == 3


def test_acknowledgements_on_a_connection_that_was_lost_are_sent_again(server, direct):
    send(direct, *range(3))
    with taking(server.url) as worker:
        first, *others = worker.take(3)
        first.ack()
        direct.client_kill_filter(_type="normal", skipme=True)
        for message in others:
            message.ack()
        worker.channel.qos.flush(wait=True)
        until(lambda: worker.channel.qos.flush(wait=True) or not direct.exists("unacked"), timeout=10)


def test_no_other_channel_acknowledges_what_is_not_recorded_yet(server, direct):
    """They share the acknowledgements, and have connections of their own, on which one could overtake the record."""
    with taking(server.url) as worker:
        worker.app.fibo_guard.pool = "prefork"
        worker.connection.transport.cycle.in_event_loop = True
        other = worker.connection.channel()
        with pytest.raises((TimeoutError, Empty)):
            worker.connection.drain_events(timeout=0.1)  # It waits by BRPOP.
        send(direct, 1)
        (message,) = worker.take(1)
        message.ack()
        assert not worker.channel.all_recorded  # as far as its channel has seen
        other.qos.flush()
        assert list(worker.app.fibo_guard.acks) == [message.delivery_tag]
        worker.channel.qos.flush(wait=True)
        assert not direct.exists("unacked", "unacked_index")
        worker.app.fibo_guard.acks.append("another")
        other.qos.flush()
        assert not worker.app.fibo_guard.acks


def test_acknowledgements_that_redis_refuses_are_kept_until_it_does_not(server, direct, caplog):
    send(direct, 1)
    with taking(server.url) as worker:
        (message,) = worker.take(1)
        direct.rename("unacked", "kept")
        direct.set("unacked", "no hash")
        message.ack()
        worker.channel.qos.flush(wait=True)
        assert worker.app.fibo_guard.acks
        assert "could not be acknowledged yet" in caplog.text
        direct.rename("kept", "unacked")
        until(lambda: worker.channel.qos.flush(wait=True) or not direct.exists("unacked"), timeout=10)
        assert not worker.app.fibo_guard.acks


def test_scripts_that_the_server_has_forgotten_are_loaded_again(server, direct):
    send(direct, *range(4))
    with taking(server.url, limit=2) as worker:
        worker.take(2)
        direct.script_flush()
        for message in list(worker.messages):
            message.ack()
        worker.take(4)
        direct.script_flush()
        for message in worker.messages[2:]:
            message.ack()
        until(lambda: worker.channel.qos.flush(wait=True) or not direct.exists("unacked"))


@pytest.mark.parametrize("words", [["-evalsha"], ["-script"], ["-rpop"]], ids=" ".join)
def test_where_scripts_are_refused_all_is_done_as_kombu_does_it(server, direct, caplog, words):
    direct.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">pw", "+@all", *words, "~*", "&*")
    direct.script_flush()
    send(direct, *range(6))
    with taking(server.url.replace("://", "://limited:pw@"), limit=3) as worker:
        worker.take(3)
        for message in list(worker.messages):
            message.ack()
        worker.take(6)
        for message in worker.messages[3:]:
            message.ack()
        assert worker.bodies == list(range(6))
        assert not direct.exists("unacked", "unacked_index")
    assert sum("refuses a script" in each.getMessage() for each in caplog.records) == 1


def test_a_full_redis_gives_its_messages_and_takes_acknowledgements(server, direct):
    send(direct, *range(4))
    with taking(server.url, limit=4) as worker:
        worker.channel.has_more = True
        direct.config_set("maxmemory", "1")
        try:
            for message in worker.take(4):
                message.ack()
            worker.channel.qos.flush(wait=True)
            assert not direct.exists("unacked", "celery")
        finally:
            direct.config_set("maxmemory", "0")


@pytest.mark.parametrize("raw", ["[1]", "no JSON", '{"no": "task"}', "{no JSON}", ' {"spaces": 1} ', "1, 2"])
def test_a_message_that_cannot_be_run_becomes_a_dead_letter_and_leaves_nothing_else(server, direct, raw):
    send(direct, 1)
    direct.lpush("celery", raw)
    send(direct, 2)
    with taking(server.url) as worker:
        worker.take(2)
        assert [DeadLetter.decode(each.encode()).raw.decode() for each in direct.lrange("celery.dead", 0, -1)] == [raw]
        for message in worker.messages:
            message.ack()
        until(lambda: worker.channel.qos.flush(wait=True) or not direct.exists("unacked", "unacked_index"))


def test_what_is_recorded_and_cannot_be_read_is_a_dead_letter_and_keeps_nothing_from_being_restored(server, direct):
    send(direct, 1)
    with taking(server.url, broker_transport_options={"visibility_timeout": 0}) as worker:
        for tag, recorded in {"bad": '[{no JSON}, "", "celery"]', "good": json.dumps([{}, "", "celery"])}.items():
            direct.zadd("unacked_index", {tag: 1})
            direct.hset("unacked", tag, recorded)
        worker.channel.qos.restore_visible(num=None)
        assert not direct.exists("unacked")
        assert [DeadLetter.decode(each.encode()).raw for each in direct.lrange("celery.dead", 0, -1)] == [b"{no JSON}"]


@pytest.mark.parametrize(("options", "marked"), [({}, True), ({"eta": "2099-01-01T00:00:00"}, False)])
@pytest.mark.parametrize("has_more", [False, True], ids=["taken alone", "taken with others"])
def test_what_starts_at_once_is_marked_in_the_same_step(server, direct, options, marked, has_more):
    send(direct, 1, **options)
    with taking(server.url, **LATE) as worker:
        worker.app.fibo_guard.processes = lambda: 1
        worker.channel.has_more = has_more
        (message,) = worker.take(1)
        assert bool(direct.exists(f"unacked_started.{message.delivery_tag}")) == marked
        assert ("fibo_marked" in message.properties) == marked
        message.ack()
        until(lambda: worker.channel.qos.flush(wait=True) or direct.keys("unacked*") == [])


def test_what_waits_for_a_process_is_not_marked(server, direct):
    send(direct, 1, 2, 3)
    with taking(server.url, **LATE) as worker:
        worker.app.fibo_guard.processes = lambda: 2
        worker.take(3)
        assert ["fibo_marked" in each.properties for each in worker.messages] == [True, True, False]
        assert len(direct.keys("unacked_started.*")) == 2


def test_without_it_all_is_done_as_kombu_does_it(server, direct):
    send(direct, *range(3))
    with taking(server.url, without={"round-trips"}) as worker:
        direct.config_resetstat()
        for message in worker.take(3):
            message.ack()
        assert calls(direct, "multi")["multi"] == 6
        assert not direct.exists("unacked")


def test_a_prefix_is_kept(server, direct):
    send(direct, *range(3), queue="p:celery")
    with taking(server.url, broker_transport_options={"global_keyprefix": "p:"}) as worker:
        for message in worker.take(3):
            message.ack()
        until(lambda: worker.channel.qos.flush(wait=True) or not direct.keys("*unacked*"))


def test_a_queue_of_a_wrong_type_is_a_refusal_that_loses_nothing(server, direct):
    with taking(server.url) as worker:
        send(direct, 1)
        direct.set("celery\x06\x163", "no list")
        worker.channel.has_more = True
        with pytest.raises(redis.ConnectionError, match="WRONGTYPE"):
            drain(worker)
        assert worker.bodies == [1]
        assert direct.hlen("unacked") == 1


def drain(worker):
    """Wait for what comes, until there is an error."""
    for _ in range(20):
        try:
            worker.connection.drain_events(timeout=1)
        except (TimeoutError, Empty):
            continue


@contextmanager
def deferring(url, **conf):
    """Take as a worker of the pool `prefork` does, which records without waiting for the reply."""
    with taking(url, **conf) as worker:
        worker.app.fibo_guard.pool = "prefork"
        worker.connection.transport.cycle.in_event_loop = True
        assert worker.channel.defers
        yield worker


def test_a_message_is_recorded_without_a_wait_and_acknowledged_after_that(server, direct):
    with deferring(server.url) as worker:
        for number in range(5):
            send(direct, number)
            message = worker.take(number + 1)[-1]
            message.ack()
            worker.channel.end_turn()
        worker.channel.qos.flush(wait=True)
        assert direct.keys("unacked*") == []
        assert worker.bodies == list(range(5))


def refused(worker):
    """Turn the event loop until Redis refuses something."""
    for _ in range(1000):
        worker.channel.end_turn()
        worker.channel.qos.flush(wait=True)


def test_what_redis_refuses_to_record_makes_the_worker_reconnect_and_is_put_back_by_the_next_channel(server, direct):
    with deferring(server.url) as worker:
        direct.set("unacked", "no hash")
        send(direct, 1)
        worker.take(1)
        with pytest.raises(redis.ConnectionError, match="WRONGTYPE"):
            refused(worker)
        assert not worker.channel.qos.all_recorded
        worker.connection.collect()
        direct.delete("unacked", "unacked_index")
        again = Taking(worker.app, 10)
        assert [each.headers["id"] for each in again.take(1)] == ["id-1"]
        again.connection.collect()


def test_a_message_whose_recording_got_lost_is_recorded_over_a_new_connection(server, direct):
    with deferring(server.url) as worker:
        send(direct, 1)
        worker.take(1)
        worker.channel.qos.flush(wait=True)
        send(direct, 2)
        worker.channel.qos.scripts._connection._sock.shutdown(2)
        message = worker.take(2)[-1]
        until(lambda: worker.channel.end_turn() or direct.hexists("unacked", message.delivery_tag), timeout=10)


def test_a_message_is_requeued_after_it_was_recorded(server, direct):
    with deferring(server.url) as worker:
        send(direct, 1)
        (message,) = worker.take(1)
        message.requeue()
        assert direct.llen("celery") == 1
        assert not direct.exists("unacked")
