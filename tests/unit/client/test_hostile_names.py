"""Names that would be commands, other keys or other JSON are refused before anything is sent, or data to the letter."""

from __future__ import annotations

import base64
import json

import pytest
from support.hostile import HOSTILE, NAMES, meant

from fibo_client.celery import CeleryClient
from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.connect import connect
from fibo_client.celery.encoder import Encoder
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.signature import Signature
from fibo_client.errors import ConfigError, MessageError
from fibo_client.telemetry.tracer import NOOP_SPAN


@pytest.fixture(params=HOSTILE)
def kind(request):
    return request.param


@pytest.fixture
def name(kind):
    return HOSTILE[kind]


def composed(task="t.add", args=(1,), kwargs=None, options_of_redis=None, **options):
    """The key to which a message goes, and the message."""
    broker, _ = connect(CeleryConfig(redis=RedisOptions(**(options_of_redis or {}))))
    message = Encoder(broker, "celery").one(Signature(task, tuple(args), kwargs or {}), options, NOOP_SPAN)
    ((key, payload),) = broker._encoder.encode_many([message])
    return key, json.loads(payload)


def refused(kind, names=NAMES, **sending):
    """Whether a message with a name of this kind is refused, as it must be if it is none of the names."""
    if kind in names:
        return False
    with pytest.raises(MessageError):
        composed(**sending)
    return True


def test_the_name_of_a_task_is_refused_or_data(kind, name):
    if not refused(kind, task=name):
        route, message = composed(task=name)
        assert (route, message["headers"]["task"]) == ("celery", name)


def test_the_name_of_a_queue_is_refused_or_the_key(kind, name):
    if not refused(kind, queue=name):
        route, message = composed(queue=name)
        assert route == name
        assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": name}


def test_the_id_of_a_task_is_refused_or_data(kind, name):
    if not refused(kind, task_id=name):
        route, message = composed(task_id=name)
        assert route == "celery"
        assert message["headers"]["id"] == message["properties"]["correlation_id"] == name


def test_the_name_of_a_header_is_refused_or_data(kind, name):
    if not refused(kind, headers={name: "mine"}):
        headers = composed(headers={name: "mine"})[1]["headers"]
        assert (headers[name], headers["task"]) == ("mine", "t.add")


def test_a_shadow_is_refused_or_data(kind, name):
    if not refused(kind, shadow=name):
        assert composed(shadow=name)[1]["headers"]["shadow"] == name


def test_a_header_is_data(name):
    headers = composed(headers={"x-mine": name})[1]["headers"]
    assert (headers["x-mine"], headers["task"]) == (meant(name), "t.add")


def test_an_argument_is_data(name):
    route, message = composed(args=(name,), kwargs={"k": {name: name}})
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    assert (route, args, kwargs) == ("celery", [meant(name)], {"k": {meant(name): meant(name)}})


def test_a_prefix_stands_before_the_key_if_it_can_be_encoded(kind, name):
    prefix = {"broker_prefix": name}
    if "surrogate" in kind:
        with pytest.raises(ConfigError, match="broker_prefix"):
            composed(options_of_redis=prefix)
    else:
        assert composed(options_of_redis=prefix)[0] == f"{name}celery"


def test_a_separator_of_priorities_is_in_the_key_if_it_can_be_encoded_and_is_not_empty(kind, name):
    separator = {"priority_separator": name}
    if kind == "empty" or "surrogate" in kind:
        with pytest.raises(ConfigError, match="priority_separator"):
            composed(options_of_redis=separator)
    else:
        assert composed(options_of_redis=separator, priority=9)[0] == f"celery{name}9"


async def test_an_id_to_wait_for_is_refused_or_kept_as_it_is(kind, name):
    client = CeleryClient()
    if kind in NAMES:
        assert client.result(name).id == name
    else:
        with pytest.raises(MessageError):
            client.result(name)
