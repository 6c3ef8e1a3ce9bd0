"""What tests of outages share: the promise that each keeps, the page that they are on, and proxies."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from support.outages import PAGE, Promise, Witness, contract, replaced
from support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.servers import RedisServer

_TIMES = pytest.StashKey[dict[Promise, list[float]]]()
_PROMISES = pytest.StashKey[list[Promise]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take a word on whether to write down what was seen."""
    parser.addoption("--write-outages", action="store_true", help="write the page of outages anew with what was seen")


def pytest_configure(config: pytest.Config) -> None:
    """Say what the mark is."""
    config.addinivalue_line("markers", "outage(promise): a line of the outage contract")
    config.stash[_TIMES] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Collect the contract: the marks of all tests, in order."""
    marks = [mark for item in items if (mark := item.get_closest_marker("outage")) is not None]
    config.stash[_PROMISES] = list(dict.fromkeys(mark.args[0] for mark in marks))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page, if that was asked for and everything went well."""
    config = session.config
    if config.getoption("--write-outages") and exitstatus == 0:
        table = contract(config.stash[_PROMISES], config.stash[_TIMES], dt.datetime.now(dt.UTC).date())
        PAGE.write_text(replaced(PAGE.read_text(), "contract", table))


@pytest.fixture
def promises(request: pytest.FixtureRequest) -> list[Promise]:
    """The whole contract."""
    return request.config.stash[_PROMISES]


@pytest.fixture
def witness(request: pytest.FixtureRequest) -> Iterator[Witness]:
    """Sees how the calls of this test end, and holds them to its promise."""
    promise = request.node.get_closest_marker("outage").args[0]
    witness = Witness(promise)
    yield witness
    assert witness.times, "this test has seen nothing"
    request.config.stash[_TIMES].setdefault(promise, []).extend(witness.times)


@pytest.fixture
async def proxy(redis_server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy before the session's Redis."""
    async with Proxy(redis_server.port).running() as proxy:
        yield proxy
