"""A worker's channels, when Redis goes away under them."""

import os
import signal

import pytest
from celery import Celery
from support.servers import RedisServer

from fibo_worker.guard import protect

CHANNELS = 3


@pytest.fixture
def channels():
    """Channels of one connection, each with a message in its hands. Then Redis is killed, and the connection closed."""
    with RedisServer() as server, protect(Celery("shop", broker=server.url, set_as_current=False)) as app:
        for _ in range(CHANNELS):
            app.send_task("any")
        connection = app.connection_for_read()
        channels = []
        for _ in range(CHANNELS):
            messages = []
            channel = connection.channel()
            consumer = app.amqp.TaskConsumer(channel)
            consumer.on_message = messages.append
            consumer.consume()
            channel.basic_qos(0, 1, False)
            while not messages:
                connection.drain_events(timeout=10)
            channels.append((channel, messages[0], consumer))
        os.kill(server.pid, signal.SIGKILL)
        connection.collect()
        yield connection, channels


def test_channels_that_a_dead_redis_kept_from_closing_can_be_closed_once_more(channels):
    # In kombu, the first has an AttributeError, which ends Celery's worker: 'NoneType' object has no attribute ...
    connection, each = channels
    for channel, _, consumer in each:
        consumer.cancel()
        connection.maybe_close_channel(channel)  # as Celery does: errors of connections and channels are no matter
    connection.close()


def test_an_acknowledgement_that_comes_late_is_no_error(channels):
    _, each = channels
    for _, message, _ in each:
        message.ack()
