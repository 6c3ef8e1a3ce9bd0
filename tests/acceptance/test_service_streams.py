"""Streams of the service of docs/examples whose reader is slow, or has gone, or waits for long."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import fastapi.sse
import httpx
import pytest
from service.app import app
from support.programs import resident
from support.service import held_worker, queued, running
from support.waiting import eventually

LARGE = 900_000
"""The index of a number of 160 kB in a response, and of half as much in memory."""
MANY = 3_000
"""So many of those are 470 MB in a response."""
WINDOW = 100
BUFFERED = 60
"""More of those than fit between the service and a caller who does not read, and less than a stream's window."""
MB = 1_000_000


@pytest.fixture(scope="module")
def held(redis_server):
    with held_worker(redis_server.fresh_url()) as worker:
        yield worker


@pytest.fixture(scope="module")
def service(held):
    """The service for long streams of large numbers, as its address and its program."""
    with running(held.url, max_n=LARGE + MANY, max_numbers=MANY, timeout=50) as (address, program):
        yield httpx.URL(address), program


@pytest.fixture
async def caller(service):
    """A connection that takes in little at a time, and has asked for a stream."""
    address, _ = service
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (address.host, address.port))
        query = f"n={LARGE}-{LARGE + MANY - 1}"
        await loop.sock_sendall(connection, f"GET /fibonacci/stream?{query} HTTP/1.1\r\nHost: service\r\n\r\n".encode())
        yield connection


def computed(held):
    return held.process.log.read_text().count(" succeeded in ")


async def test_a_slow_reader_takes_no_memory_and_nothing_from_the_others(held, service, caller):
    address, program = service
    async with httpx.AsyncClient(base_url=address, timeout=50) as others:
        assert (await others.get(f"/fibonacci/{LARGE}")).status_code == 200
        before, computed_before = resident(program.process.pid), computed(held)
        taken = b""
        most = 0
        for n in range(20):
            # As large as those of the stream: in the queue, it is behind all that the stream has asked for.
            assert (await others.get(f"/fibonacci/{LARGE + MANY - n}")).status_code == 200
            assert (await others.get("/healthz")).status_code == 200
            taken += await asyncio.get_running_loop().sock_recv(caller, 4096)
            most = max(most, resident(program.process.pid))
    assert b"event: start" in taken
    assert most - before < 100 * MB
    # The window, the callers' own, and what is between the service and who reads.
    assert computed(held) - computed_before < WINDOW + 20 + BUFFERED


async def test_one_who_has_stopped_reading_has_the_work_revoked_when_it_leaves(held, service, caller):
    before = computed(held)

    async def stuck():
        return computed(held) - before >= BUFFERED

    await eventually(stuck)
    async with held.stopped():
        assert await queued(held.url) > 0
        told = len(held.process.log.read_text())
        caller.close()

        async def revoked():
            return "Tasks flagged as revoked" in held.process.log.read_text()[told:]

        await eventually(revoked)

    async def discarded():
        return await queued(held.url) == 0 and "Discarding revoked task: fibo." in held.process.log.read_text()[told:]

    await eventually(discarded)


class Exchange:
    """A request and its response, as a server has them that speaks a version of ASGI's protocol for HTTP.

    Attributes:
        body: What the service has sent so far.
        gone: Set when the caller leaves.
    """

    def __init__(self, spec_version: str) -> None:
        self.asgi = {"version": "3.0", "spec_version": spec_version}
        self.body = b""
        self.gone = asyncio.Event()
        self._received = 0

    async def receive(self):
        self._received += 1
        if self._received == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message) -> None:
        if self.gone.is_set() and self.asgi["spec_version"] >= "2.4":
            raise BrokenPipeError
        self.body += message.get("body", b"")

    async def has(self, text: bytes):
        return text in self.body

    @asynccontextmanager
    async def of(self, path: str, query: str, state):
        """Let the service handle a request. It has to have done so, without an error, soon after the block."""
        scope = {
            "type": "http", "asgi": self.asgi, "http_version": "1.1", "method": "GET", "scheme": "http", "headers": [],
            "path": path, "root_path": "", "query_string": query.encode(), "state": {**state},
        }  # fmt: skip
        handling = asyncio.create_task(app(scope, self.receive, self.send))
        try:
            yield
            await asyncio.wait_for(handling, 10)
        finally:
            handling.cancel()


@pytest.fixture
async def state(redis_url, monkeypatch):
    """The state of the service, in this process. It has a Redis, but no worker."""
    monkeypatch.setenv("CELERY_BROKER_URL", redis_url)
    async with app.router.lifespan_context(app) as state:
        yield state


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_who_leaves_a_stream_that_waits_is_noticed_on_every_server(state, redis_url, spec_version):
    # 2.3 is what uvicorn speaks. From 2.4 on, a server tells of it when something is sent.
    exchange = Exchange(spec_version)

    async def sent():
        return await queued(redis_url) == 1

    async with exchange.of("/fibonacci/stream", "n=7", state):
        await eventually(lambda: exchange.has(b"event: start"))
        await eventually(sent)
        assert state["client"].stats().in_flight == 1
        exchange.gone.set()
    assert state["client"].stats().in_flight == 0
    assert exchange.body.count(b"event: ") == 1


async def test_a_stream_that_waits_sends_comments_so_that_no_proxy_takes_it_for_dead(state, monkeypatch):
    assert fastapi.sse._PING_INTERVAL == 15  # as the docstring says; nginx waits for 60 seconds
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    exchange = Exchange("2.3")
    async with exchange.of("/fibonacci/stream", "n=7", state):
        await eventually(lambda: exchange.has(b"\n\n: ping\n\n: ping\n\n"))
        exchange.gone.set()
