"""A client without a broker reads results, and says of everything else what it would need."""

from __future__ import annotations

import pytest

from fibo_client import ConfigError, FiboClient
from fibo_client.celery import CeleryClient, RemoteTask
from fibo_client.testing import FakeCelery

ADD = RemoteTask[[int, int], int]("proj.add")

NEEDS_A_BROKER = {
    "send": lambda reader: reader.send(ADD(1, 2)),
    "send_many": lambda reader: reader.send_many([ADD(1, 2)]),
    "call": lambda reader: reader.call(ADD(1, 2)),
    "call_many": lambda reader: reader.call_many([ADD(1, 2)]),
    "ping": lambda reader: reader.ping(),
    "inspect": lambda reader: reader.inspect().active(),
    "revoke": lambda reader: reader.revoke("an-id"),
    "queue_depth": lambda reader: reader.queue_depth(),
    "worker_count": lambda reader: reader.worker_count(),
    "diagnose": lambda reader: reader.diagnose(reader.result("an-id")),
}


@pytest.fixture
async def clients():
    fake = FakeCelery()
    fake.task(ADD, lambda x, y: x + y)
    async with (
        CeleryClient("redis://h/0", transport=fake) as sender,
        CeleryClient("disabled://", "redis://h/0", transport=fake) as reader,
    ):
        yield sender, reader


async def test_results_of_other_clients_are_read(clients):
    sender, reader = clients
    sent = await sender.send(ADD(2, 3))
    assert await reader.result(sent.id, ADD).get(timeout=5) == 5
    assert await reader.ready([reader.result(sent.id), reader.result("another")]) == [True, False]


@pytest.mark.parametrize("ask", NEEDS_A_BROKER.values(), ids=NEEDS_A_BROKER)
async def test_whoever_needs_a_broker_is_told_so(clients, ask):
    with pytest.raises(ConfigError, match=r"is disabled://, so this client only reads results.*give the broker's URL"):
        await ask(clients[1])
    assert clients[1].stats().unsent == 0


async def test_a_wait_in_vain_says_nothing_of_workers(clients):
    with pytest.raises(TimeoutError) as caught:
        await clients[1].result("nobodys").get(timeout=0.05)
    assert not caught.value.no_worker


@pytest.mark.parametrize("result_backend", [None, "disabled://", "db+sqlite:///results"])
@pytest.mark.parametrize("kind", [CeleryClient, FiboClient])
def test_without_a_broker_there_must_be_results_to_read(kind, result_backend):
    with pytest.raises(ConfigError, match="broker_url is disabled://, so a result_backend is needed"):
        kind("disabled://", result_backend)


def test_a_real_client_without_a_broker_connects_to_its_results_only():
    client = CeleryClient("Disabled://", "redis://h/3")
    assert repr(client) == "<CeleryClient <DisabledBroker> <RedisBackend at redis://h:6379/3>>"
