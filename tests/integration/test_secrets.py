"""Passwords are in nothing that a run gives out: logs, reprs, errors with all their causes, warnings."""

from __future__ import annotations

import contextlib
import logging
import traceback
import urllib.parse
import warnings
from pathlib import Path

import pytest
from support.servers import free_port

import fibo_client
from fibo_client import FiboClient
from fibo_client.celery import CeleryClient, RedisOptions
from fibo_client.errors import ConfigError, FiboError

SECRET = "pa%ss/w:rd#hush"
SENTINELS = "sen&tinel?hush"
QUOTED = urllib.parse.quote(SECRET, safe="")
OURS = str(Path(fibo_client.__file__).parent)


def spellings(secret):
    quoted = urllib.parse.quote(secret, safe="")
    others = {urllib.parse.quote(secret), urllib.parse.quote_plus(secret), repr(secret)[1:-1]}
    return {secret, quoted, quoted.lower(), *others}


class Everything:
    """Collects all that is given out."""

    def __init__(self):
        self.texts = []

    def add(self, *values):
        for value in values:
            self.texts += [repr(value), str(value), f"{value}"]

    def add_error(self, error, seen=()):
        if error is None or error in seen:
            return
        self.add(error, error.args, vars(error), getattr(error, "__notes__", ()))
        self.texts += traceback.format_exception(error)
        self.add_locals(error)
        for other in (error.__cause__, error.__context__, *getattr(error, "exceptions", ())):
            self.add_error(other, (*seen, error))

    def add_locals(self, error):
        # Of redis-py's own frames it cannot be asked: its connections keep the password in a local or an attribute.
        for frame in traceback.TracebackException.from_exception(error, capture_locals=True).stack:
            if frame.filename.startswith(OURS):
                self.add(frame.locals)

    def leaks(self):
        needles = {"hush"} | spellings(SECRET) | spellings(SENTINELS)
        return [text for text in self.texts if any(needle in text for needle in needles)]


@pytest.fixture
async def user(server, hand):
    await hand.redis.execute_command("ACL", "SETUSER", "app", "reset", "on", f">{SECRET}", "~*", "&*", "+@all")
    yield server.url.partition("://")[2]
    await hand.redis.acl_deluser("app")


@pytest.fixture
def given_out(caplog):
    """What is given out. What was logged by whomever, and what was warned of, is part of it."""
    caplog.set_level(logging.DEBUG)
    everything = Everything()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield everything
    for record in caplog.records:
        everything.add(record.getMessage(), record.args)
        everything.texts.append(logging.Formatter().format(record))
    everything.add(*[warning.message for warning in warned])
    assert everything.leaks() == []


async def use(given_out, url, **options):
    """Do a bit of everything with a client, and take along all that can be seen of it."""
    failed = 0
    client = CeleryClient(url, io_timeout=0.5, **options)
    parts = [client, client._session.config, client._session, client._session.broker, client._session.backend]
    parts += [client._session.broker._redis, client._session.broker._redis.address]
    given_out.add(*parts)
    async with client:
        result = client.result("a")
        for call in (
            lambda: client.send_task("t.add", (1,), timeout=0.6),
            lambda: client.call("t.add", timeout=0.6),
            lambda: result.get(timeout=0.3),
            lambda: result.ready(),
            lambda: client.ping(timeout=0.2),
            lambda: client.revoke("a"),
            lambda: client.diagnose(result, timeout=0.2),
        ):
            try:
                given_out.add(await call())
            except FiboError as error:
                failed += 1
                given_out.add_error(error)
        given_out.add(*parts, result)
    given_out.add(*parts)
    return failed


async def test_a_client_that_may(given_out, user):
    assert await use(given_out, f"redis://app:{QUOTED}@{user}") == 2  # Nobody answers the two that wait.


async def test_a_client_with_a_wrong_password(given_out, user):
    assert await use(given_out, f"redis://app:{QUOTED}hush@{user}") >= 4


async def test_a_client_whose_server_wants_no_password(given_out, user):
    assert await use(given_out, f"redis://:{QUOTED}@{user}") >= 4


async def test_a_client_of_a_user_that_is_not_there(given_out, user):
    assert await use(given_out, f"redis://nobody:{QUOTED}@{user}") >= 4


async def test_a_client_whose_server_is_not_there(given_out):
    assert await use(given_out, f"redis://app:{QUOTED}@127.0.0.1:{free_port()}/0") >= 4


async def test_a_client_whose_server_speaks_no_tls(given_out, user):
    assert await use(given_out, f"rediss://app:{QUOTED}@{user}", redis=RedisOptions(ssl_cert_reqs="none")) >= 4


@pytest.mark.parametrize("there", [True, False], ids=["no sentinel", "nobody there"])
async def test_a_client_of_sentinels(given_out, user, there):
    host = user.partition("/")[0] if there else f"127.0.0.1:{free_port()}"
    options = RedisOptions(master_name="m", sentinel_username="s", sentinel_password=SENTINELS)
    assert await use(given_out, f"sentinel://app:{QUOTED}@{host}/0", redis=options) >= 4


@pytest.mark.parametrize(
    "url",
    [
        "redis://app:{}@h:port", "redis://app:{}@h:99999/0", "redis://app:{}@h/db", "redis//app:{}@h", "app:{}@h",
        "amqp://app:{}@h", "redis://app:{}@h/0?nonsense=1", "redis://app:{}@[::1", "redis://app:{}@h:6379/0/0",
        "redis://app:{}@h h/0", "redis://app:{}@/0", "sentinel://app:{}@h", "rediss://app:{}@h?ssl_cert_reqs=x",
        "redis://h/0?password={}&nonsense=1", "redis://app:{}\r\n@h", "REDIS:{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("secret", [QUOTED, SECRET], ids=["quoted", "as it is"])
@pytest.mark.parametrize("make", [CeleryClient, FiboClient])
def test_a_url_that_is_wrong(given_out, url, secret, make):
    # Whose frames have the URL as a local is left out: whoever shows the arguments of a call shows the URL.
    with contextlib.suppress(ConfigError):
        given_out.add(make(url.format(secret)))
        return
    with pytest.raises(ConfigError) as caught:
        make(url.format(secret))
    error = caught.value
    while error is not None:
        given_out.add(error, error.args, vars(error))
        given_out.texts += traceback.format_exception(error)
        error = error.__cause__ or error.__context__
