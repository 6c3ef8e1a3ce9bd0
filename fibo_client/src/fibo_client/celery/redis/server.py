"""A Redis server as one client sees it: at most three connections a database, each made when it is first needed.

What is sent goes by one, what is pushed comes by another, and everything else is asked on the third: a subscribed
connection falls under ``client-output-buffer-limit pubsub``, and Redis cuts it with all that is under way on it. Of two
databases, one for tasks and one for results, there are four in all: of each, what it is for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import anyio
import hiredis

from fibo_client.celery.backoff import pause
from fibo_client.celery.config import DEFAULT_BROKER_URL
from fibo_client.celery.redis.connection import Connection
from fibo_client.celery.redis.connector import Connector
from fibo_client.celery.redis.credentials import Renewal
from fibo_client.celery.redis.errors import (
    CLOSED,
    IS_IT_REDIS,
    IS_IT_REDIS_AT_ALL,
    IS_IT_RUNNING,
    IS_IT_TLS,
    IS_IT_WELL,
    SAY_WHERE,
    GivenUpError,
    RedisFaultError,
    explain,
    explain_connect,
    outcome_of,
    without_traceback,
)
from fibo_client.celery.redis.link import Limit, Link
from fibo_client.celery.server_health import ServerHealth
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import RedisAddress
    from fibo_client.celery.redis.commands import Command
    from fibo_client.celery.redis.credentials import Credentials
    from fibo_client.celery.redis.errors import Outcome

logger: Final = logging.getLogger("fibo_client")

CLOSE_TIMEOUT: Final = 1.0
"""The most seconds that closing waits for the other side, which TLS does. Then connections are cut."""

_PAUSES: Final = (0.05, 0.5)
"""The longest pause after the first attempt to connect that failed, and after any, in seconds."""

MOST_ATTEMPTS: Final = 10
"""The most attempts to connect in a second, whatever becomes of them."""

STEADY_AFTER: Final = 1.0
"""Seconds after which a connection that ends was of use, if the server has answered on it."""

_MARGIN: Final = 64 * 1024
"""Bytes that a reply may have beyond the largest result: what Redis writes around it."""


class RedisServer:
    """The connections to one database of a Redis server.

    Args:
        address: The database.
        config: The client's settings.
        same_server: The same server's other database, with which this one shares what is known of the server.

    Attributes:
        address: See above.
        health: How the server is doing.
        attempts: What is known of the attempts to reach it.
        sending: What is sent goes here.
        subscribed: What is pushed comes here.
        reading: What is asked goes here.
    """

    def __init__(self, address: RedisAddress, config: CeleryConfig, same_server: RedisServer | None = None) -> None:
        self.address = address
        self.health: ServerHealth = (
            same_server.health if same_server else ServerHealth(str(address), IS_IT_REDIS_AT_ALL)
        )
        self.attempts: Attempts = same_server.attempts if same_server else Attempts()
        self._io_timeout = config.io_timeout
        self._max_reply = config.max_result_bytes + _MARGIN
        self._connector = Connector(address, config.redis, config.io_timeout)
        self._closed = False
        self._renewal: Renewal | None = None
        self._renewed: Credentials | None = None
        """The credentials that a provider told of last."""
        self._refused_link: Link | None = None
        """Where the server, a replica, refused what was sent: only an answer there is a recovery."""
        self.sending: Link = Link(self)
        self.subscribed: Link = Link(self)
        self.reading: Link = Link(self)

    @property
    def _links(self) -> tuple[Link, ...]:
        return (self.sending, self.subscribed, self.reading)

    def limit(self, deadline: float = math.inf, seconds: float = math.inf) -> Limit:
        """Say by when a command that begins now must be over.

        Args:
            deadline: When at the latest, by the loop's clock.
            seconds: How long after its beginning that is.

        Returns:
            The limit: the deadline, or that of every command if that is sooner.
        """
        usual = asyncio.get_running_loop().time() + self._io_timeout
        return Limit(usual, self._io_timeout) if usual <= deadline else Limit(deadline, min(self._io_timeout, seconds))

    async def connect(self, link: Link) -> Connection:
        """Try once to make a connection, after a pause where the server could not be reached before.

        While it cannot, one attempt is made for all, however many connections are wanted and whoever waits.

        Args:
            link: Whose connection it is.

        Returns:
            The connection.

        Raises:
            RedisFaultError: It could not be made.
        """
        attempts, loop = self.attempts, asyncio.get_running_loop()
        while attempts.under_way is not None:
            fault = await asyncio.shield(attempts.under_way)
            if fault is not None:
                raise fault.again()
        if not attempts.failures and attempts.next_at <= loop.time():
            return await self._connect(link)
        fault, attempts.under_way = None, loop.create_future()
        try:
            await attempts.pause(loop)
            return await self._connect(link)
        except RedisFaultError as error:
            fault = error
            raise
        finally:
            attempts.under_way.set_result(fault)
            attempts.under_way = None

    async def _connect(self, link: Link) -> Connection:
        self._check_open()
        self.attempts.begin(asyncio.get_running_loop().time())
        if self._renewal is None and self.address.credential_provider is not None:
            self._renewal = Renewal(self._authenticate)
            self._renewal.begin(self.address.credential_provider)
        renewed = self._renewed
        try:
            async with asyncio.timeout(self._io_timeout):
                connection, version = await self._connector.connect(
                    lambda: Connection(link, str(self.address), self._io_timeout, self._max_reply)
                )
        except TimeoutError:
            fault = self.fault("unsent", f"no connection within {self._io_timeout:g} s. {self._advice}")
            cause: Exception | None = None
        except RedisFaultError as error:
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else ConnectionError(CLOSED)
            outcome = outcome_of(str(cause)) if isinstance(cause, hiredis.ReplyError) else "unsent"
            fault = self.fault(outcome, explain_connect(cause, tls=self.address.ssl is not None))
        except hiredis.ReplyError as error:
            fault, cause = self.fault(outcome_of(str(error)), explain(error)), error
        except ConfigError as error:  # A setting of TLS or of credentials: to try again does not help.
            fault, cause = self.fault("refused", str(error)), None
        except OSError as error:
            reason = explain_connect(error, tls=self.address.ssl is not None)
            # Most likely nobody has said where Redis is.
            unsaid = reason.endswith(IS_IT_RUNNING) and str(self.address) == DEFAULT_BROKER_URL
            fault, cause = self.fault("unsent", f"{reason} {SAY_WHERE}" if unsaid else reason), error
        else:
            if self._closed:  # Meanwhile; and nobody would close this one.
                connection.close()
                self._check_open()
            connection.reports_recovery = True
            self.health.connected()
            if self._renewed is not None and self._renewed is not renewed:  # Meanwhile.
                link.authenticate(connection, self._renewed)
            # On the others, a list that begins like a push is a reply: of values that somebody else has stored.
            connection.is_resp2 = version < 3 and link is self.subscribed
            return connection
        self.attempts.failed(asyncio.get_running_loop().time(), fault)
        self._note(fault, certain=True)
        raise fault from (None if cause is None else without_traceback(cause))

    @property
    def _advice(self) -> str:
        if self.health.reached:
            return IS_IT_WELL
        return IS_IT_REDIS if self.address.ssl is None else IS_IT_TLS

    def too_late(self, limit: Limit) -> RedisFaultError:
        """Make the error for no connection within a limit."""
        last = self.attempts.last_fault
        if last is not None and self.attempts.failures:
            return last.again()
        return self.fault("unsent", f"no connection within {limit.seconds:g} s. {self._advice}")

    def _check_open(self) -> None:
        if self._closed:
            raise self.fault("unsent", "the client was closed")

    def lost(self, connection: Connection, fault: RedisFaultError) -> None:
        """Take note that a connection is gone, and why."""
        if self._closed:
            return
        self._note_early_end(connection, fault)
        self._refused_link = None
        self.health.broke()
        self._note(fault, certain=isinstance(fault.__cause__, TimeoutError))
        for link in self._links:
            link.require_ping()

    def is_replica(self, link: Link, connection: Connection, fault: RedisFaultError) -> None:
        """Take note that the server of a connection takes no commands that write."""
        self._refused_link = link
        is_early = self._note_early_end(connection, fault)
        self._tell(self.health.failed(time.monotonic(), str(fault), certain=is_early))

    def _note_early_end(self, connection: Connection, fault: RedisFaultError) -> bool:
        """Tell whether the server took a connection in vain. That counts as a failed attempt."""
        now = asyncio.get_running_loop().time()
        is_early = not connection.is_proven or now < connection.made + STEADY_AFTER
        if isinstance(fault, GivenUpError):  # That is no fault of the server.
            self.attempts.forgive()
        elif is_early and not fault.refused:
            unsent = self.fault("unsent", str(fault).removeprefix(f"{self.address}: "))
            unsent.__cause__ = fault.__cause__
            self.attempts.failed(now, unsent)
        return is_early

    def suspected(self) -> None:
        """Take note that a connection is silent: the others must show that they are well, too."""
        for link in self._links:
            link.require_ping()

    def answered(self, link: Link, *, is_first: bool) -> None:
        """Take note that the server answers, perhaps for the first time on a connection."""
        if self._refused_link not in (None, link):  # A replica can be read.
            return
        self._refused_link = None
        if is_first:
            self.attempts.failures = 0
        if self.health.failures:
            self._tell(self.health.worked(time.monotonic()))

    def keep_alive(self) -> None:
        """Ask connections that have been silent for a sign of life. Somebody waits."""
        for link in self._links:
            link.keep_alive()

    def _authenticate(self, credentials: Credentials) -> None:
        """Have the open connections use new credentials. Those that are being made do later."""
        self._renewed = credentials
        for link in self._links:
            if link.connection is not None:
                link.authenticate(link.connection, credentials)

    def fault(self, outcome: Outcome, reason: str) -> RedisFaultError:
        """Make an error of this server."""
        return RedisFaultError(outcome, f"{self.address}: {reason}")

    def refusal(self, error: hiredis.ReplyError, command: Command) -> RedisFaultError:
        """Make the error for a command that the server refused."""
        reason = explain(error)
        if str(error).startswith("NOPERM"):  # Of a key, Redis does not say which command it was.
            reason = f"{command[0]!s}: {reason}"
        fault = self.fault(outcome_of(str(error)), reason)
        fault.__cause__ = without_traceback(error)
        return fault

    def _note(self, fault: RedisFaultError, *, certain: bool) -> None:
        if fault.refused:  # It is there, and says so.
            return
        self._tell(self.health.failed(time.monotonic(), str(fault), certain=certain))
        for link in self._links:
            link.watch_recovery()

    def _tell(self, line: str | None) -> None:
        if line is not None:
            logger.warning("%s", line)

    async def aclose(self) -> None:
        """Close all connections, and make no more."""
        self._closed = True
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await asyncio.gather(*(link.aclose() for link in self._links))
        for link in self._links:
            link.abort()

    def __repr__(self) -> str:
        return f"<RedisServer {self.address}>"


class Attempts:
    """The attempts to reach a server. After one that failed, they are made one at a time, after pauses that grow.

    Attributes:
        failures: How many failed since a new connection was last of use. Those of a moment count as one.
        last_fault: Why the last one failed. Nothing was sent then.
        under_way: Ends with why the present one failed, or with None. None is that nobody need wait for one.
    """

    def __init__(self) -> None:
        self.failures: int = 0
        self.last_fault: RedisFaultError | None = None
        self.under_way: asyncio.Future[RedisFaultError | None] | None = None
        self._paused_until = -math.inf
        self._begun: deque[float] = deque([-math.inf] * MOST_ATTEMPTS, MOST_ATTEMPTS)

    @property
    def next_at(self) -> float:
        """When the next may begin, by the loop's clock."""
        return max(self._paused_until, self._begun[0] + 1.0)

    async def pause(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the next may begin. Meanwhile, that may have become later."""
        seconds = self.next_at - loop.time()
        while seconds > 0:
            await asyncio.sleep(seconds)
            seconds = self.next_at - loop.time()

    def begin(self, now: float) -> None:
        """Take note of an attempt that begins."""
        self._begun.append(now)

    def forgive(self) -> None:
        """Forget when the last one began: another may begin instead."""
        self._begun.pop()
        self._begun.appendleft(-math.inf)

    def failed(self, now: float, fault: RedisFaultError) -> None:
        """Take note of an attempt that failed, or whose connection was of no use."""
        self.last_fault = fault
        if now >= self._paused_until or not self.failures:
            self.failures += 1
            self._paused_until = now + pause(self.failures, *_PAUSES)
