"""A driver is a class and a line: its scheme says that its URLs are its own, and whether it stores results."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from support.memory import MemoryBackend, MemoryBroker

from fibo_client import ConfigError
from fibo_client.celery import CeleryClient
from fibo_client.celery.connect import BACKENDS, BROKERS


class Broker(MemoryBroker):
    @classmethod
    def connect(cls, config, shared):
        if not config.broker_url.endswith("//"):
            raise ConfigError("broker_url: a virtual host is needed")
        return cls()


class Backend(MemoryBackend):
    @classmethod
    def connect(cls, config, shared):
        return cls()


@pytest.fixture(autouse=True)
def drivers(monkeypatch):
    """Have drivers of another kind, as a later version of this package may."""
    module = ModuleType("drivers_of_this_test")
    module.Broker, module.Backend = Broker, Backend
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(BROKERS, "amqp", f"{module.__name__}:Broker")
    monkeypatch.setitem(BACKENDS, "mongodb", f"{module.__name__}:Backend")


async def test_broker_and_result_backend_are_chosen_each_by_its_url():
    async with CeleryClient("amqp://host//", "mongodb://host/results") as client:
        handle = await client.send_task("proj.add", (1, 2))
        client._session.backend.put(handle.id, result=3)
        assert await handle.get(timeout=5) == 3


async def test_a_broker_that_stores_no_results_sends_without_a_result_backend():
    async with CeleryClient("amqp://host//") as client:
        handle = await client.send_task("proj.add", (1, 2))
        with pytest.raises(ConfigError, match="is not given, and a broker of the kind amqp stores no results"):
            await handle.get()


def test_results_in_redis_beside_another_broker_are_checked_as_redis():
    with pytest.raises(ConfigError, match="must be the number of a database"):
        CeleryClient("amqp://host//", "redis://host/x")


def test_a_driver_checks_its_own_urls():
    with pytest.raises(ConfigError, match="a virtual host is needed"):
        CeleryClient("amqp://host")


def test_a_scheme_without_a_driver_is_an_error_that_names_those_that_have_one():
    with pytest.raises(ConfigError, match="use redis://"):
        CeleryClient("sqs://")
