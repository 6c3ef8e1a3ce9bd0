"""The least that any asyncio client does for one call: the same writes as `celery.call`, and no checks.

Two RESP3 connections. One takes the subscription and, in the same write, a look at the result that may be there by
then; the other one takes the message. Nobody waits for what Redis says to either. The answer is pushed, and what is
left of calls is cleaned up for many of them together. There are no deadlines, no errors, no reconnecting, and one task
only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import itertools
import json
import os
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import hiredis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

AT_ONCE = 64 * 1024
"""The most bytes that are taken from a socket at once."""

CLEANED = 0.05
"""Seconds for which calls that are over are collected, before they are cleaned up together."""

EXPIRES = 3600
PREFIX = b"celery-task-meta-"
ID, TAG = "<the id>", "<the tag>"


class Connection(asyncio.BufferedProtocol):
    """One connection, which hands over what is pushed, and what else comes.

    Args:
        pushed: Takes the channel and the payload of a message.
        replied: Takes every reply that is no push.
    """

    transport: asyncio.Transport

    def __init__(self, pushed: Callable[[bytes, bytes], None], replied: Callable[[Any], None]) -> None:
        self._pushed = pushed
        self._replied = replied
        self._buffer = bytearray(AT_ONCE)
        self._view = memoryview(self._buffer)
        self._parser = hiredis.Reader(notEnoughData=self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Give the same buffer each time."""
        return self._view

    def buffer_updated(self, count: int) -> None:
        """Hand over all that is complete."""
        self._parser.feed(self._buffer, 0, count)
        while (said := self._parser.gets()) is not self:
            if type(said) is hiredis.PushNotification:
                if said[0] == b"message":
                    self._pushed(said[1], said[2])
            else:
                self._replied(said)


class Prototype:
    """Calls one task with the same arguments, again and again.

    Args:
        task: Its name.
        args: Its arguments.
    """

    def __init__(self, task: str, args: Sequence[Any]) -> None:
        self._message = template(task, args)
        self._tags = itertools.count()
        self._waiting: dict[bytes, asyncio.Future[Any]] = {}
        self._looked: deque[bytes] = deque()
        self._over: list[bytes] = []

    @contextlib.asynccontextmanager
    async def connected(self, url: str) -> AsyncIterator[Prototype]:
        """Connect to the database of a URL, until the block ends."""
        self._loop = asyncio.get_running_loop()
        self._results = await self._connect(url, self._looked_up)
        self._sending = await self._connect(url, lambda _: None)
        try:
            yield self
        finally:
            self._results.transport.close()
            self._sending.transport.close()

    async def _connect(self, url: str, replied: Callable[[Any], None]) -> Connection:
        where = urlsplit(url)
        greeted = self._loop.create_future()
        greetings = 2

        def reply(said: Any) -> None:
            nonlocal greetings
            if greetings == 0:
                replied(said)
                return
            greetings -= 1
            if greetings == 0:
                greeted.set_result(said)

        _, connection = await self._loop.create_connection(
            lambda: Connection(self._pushed, reply), where.hostname, where.port
        )
        connection.transport.write(pack("HELLO", "3") + pack("SELECT", where.path.strip("/") or "0"))
        if isinstance(said := await greeted, Exception):
            raise said
        return connection

    async def call(self) -> Any:
        """Send the task, and give its answer."""
        task_id = str(uuid.uuid4()).encode()
        channel = PREFIX + task_id
        future = self._waiting[channel] = self._loop.create_future()
        self._looked.append(channel)
        one, two, three, four, five = self._message
        message = b"".join((one, task_id, two, task_id, three, task_id, four, b"%d" % next(self._tags), five))
        self._results.transport.write(pack("SUBSCRIBE", channel) + pack("MGET", channel))
        self._sending.transport.write(pack("LPUSH", "celery", message))
        return json.loads(await future)["result"]

    def _pushed(self, channel: bytes, payload: bytes) -> None:
        future = self._waiting.pop(channel, None)
        if future is None:
            return
        future.set_result(payload)
        if not self._over:
            self._loop.call_later(CLEANED, self._clean)
        self._over.append(channel)

    def _looked_up(self, said: Any) -> None:
        if type(said) is list:  # UNLINK gives a number.
            channel = self._looked.popleft()
            if said[0] is not None:
                self._pushed(channel, said[0])

    def _clean(self) -> None:
        over, self._over = self._over, []
        self._results.transport.write(pack("UNSUBSCRIBE", *over) + pack("UNLINK", *over))


def template(task: str, args: Sequence[Any]) -> list[bytes]:
    """Write a message, and cut it where the id and the tag belong.

    Args:
        task: The task's name.
        args: Its arguments.

    Returns:
        What stands before, between and after the three ids and the tag.
    """
    body = json.dumps([args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=EXPIRES)
    message = {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": ID,
            "shadow": None,
            "eta": None,
            "expires": expires.isoformat(),
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": ID,
            "parent_id": None,
            "argsrepr": repr(tuple(args)),
            "kwargsrepr": "{}",
            "origin": f"gen{os.getpid()}@prototype",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        "properties": {
            "correlation_id": ID,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": TAG,
        },
    }
    return [part.encode() for part in json.dumps(message).replace(TAG, ID).split(ID)]


def pack(*command: str | bytes) -> bytes:
    """Write a command as Redis reads it."""
    packed: bytes = hiredis.pack_command(command)
    return packed
