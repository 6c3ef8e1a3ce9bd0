"""The worker's channel on a real Redis: it dead-letters first, then stores the failure, and settles when it can."""

import pytest
import redis
from kombu.transport.virtual import Message
from support.servers import RedisServer

from fibo_worker.app import create_app
from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters
from fibo_worker.settings import WorkerSettings

DEAD_LETTER = DeadLetter.now("it is no good", b"{}", queue="celery", task="t", id="an id")


@pytest.fixture
def app(redis_url):
    with create_app(WorkerSettings(broker_url=redis_url)) as app:
        yield app


@pytest.fixture
def channel(app):
    with app.connection_for_read() as connection, connection.channel() as channel:
        yield channel


def test_the_dead_letter_is_there_before_the_failure_is_stored(channel, redis_server, redis_url):
    with redis_server.client(redis_url) as client:
        dead_letters = DeadLetters(client, "celery")
        found = []
        channel.dead_letter(DEAD_LETTER, store=lambda: found.extend(dead_letters.stored()))

    assert found == [DEAD_LETTER.encode()]


def test_the_failure_is_stored_also_when_redis_is_gone_and_the_dead_letter_is_buffered(app, channel, monkeypatch):
    def gone(*_):
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(DeadLetters, "push", gone)
    monkeypatch.setattr(DeadLetters, "ping", gone)
    buffered = []
    with pytest.raises(redis.ConnectionError):
        channel.dead_letter(DEAD_LETTER, store=lambda: buffered.append(list(app.fibo_guard.dead_letters)))

    assert buffered == [[DEAD_LETTER]]


SETTLING = {
    "acknowledged": (lambda channel: channel.basic_ack("tag"), 0, {"round-trips"}),
    "rejected": (lambda channel: channel.basic_reject("tag"), 0, {"round-trips"}),
    "given back": (lambda channel: channel.basic_reject("tag", requeue=True), 1, set()),
}


@pytest.mark.parametrize(("settle", "waiting", "without"), SETTLING.values(), ids=SETTLING)
def test_what_is_settled_while_redis_is_full_holds_nothing_up_and_is_settled_later(settle, waiting, without):
    """A script may acknowledge on a full Redis, but not give back."""
    with (
        RedisServer() as server,
        server.client() as direct,
        create_app(WorkerSettings(broker_url=server.url, without=frozenset(without))) as app,
        app.connection_for_read() as connection,
        connection.channel() as channel,
    ):
        channel.basic_qos(0, 1, False)
        info = {"exchange": "", "routing_key": "celery"}
        message = {"body": "", "properties": {"delivery_tag": "tag", "delivery_info": info}}
        channel.qos.append(Message(message, channel=channel), "tag")
        assert not channel.qos.can_consume()
        direct.config_set("maxmemory-policy", "noeviction")
        direct.config_set("maxmemory", "1")

        settle(channel)

        assert channel.qos.can_consume()
        channel.qos.settle_late()
        assert direct.hlen("unacked") == 1
        direct.config_set("maxmemory", "0")
        channel.qos.settle_late()
        assert not direct.exists("unacked", "unacked_index")
        assert direct.llen("celery") == waiting
        assert channel.qos.can_consume()
