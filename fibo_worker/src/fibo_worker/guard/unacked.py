"""One script for the messages that a worker has taken: acknowledge some, take others, and record those in one step.

Kombu pops a message, and records it as unacknowledged in a second trip: a worker that dies in between loses it. It
acknowledges in a third. Here, what is popped is recorded in the same step, so that no worker can lose it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from fibo_worker.guard.scripts import Script
from fibo_worker.guard.started import LIFE, mark_key

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FETCH", "TAKE", "Fetch", "Tags", "Taken", "Unacked", "unwrapped"]

_START: Final = """
local function left(first, last)
    for at = first, last do
        local length = redis.pcall('LLEN', KEYS[at])
        if type(length) == 'number' and length > 0 then
            return 1
        end
    end
    return 0
end
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
"""

# A part that fails undoes itself and is told. What was done before it stays, and is told, too.
FETCH: Final = Script(
    """
local index, unacked = KEYS[1], KEYS[2]
local acks, most, starting, life = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local last = #KEYS - starting
local found = {'', 0, 0}
local function fails(reply)
    if type(reply) == 'table' and reply.err then
        found[1] = reply.err
        return true
    end
end
if acks > 0 and (fails(redis.pcall('ZREM', index, unpack(ARGV, 5, 4 + acks)))
        or fails(redis.pcall('HDEL', unacked, unpack(ARGV, 5, 4 + acks)))
        or fails(redis.pcall('DEL', unpack(KEYS, 3, 2 + acks)))) then
    return found
end
found[2] = 1
if most == 0 then
    return found
end
"""
    + _START
    + """
local before = 2 + acks
for n = 1, most do
    local raw, place
    for at = before + 1, last do
        raw = redis.pcall('RPOP', KEYS[at])
        if fails(raw) then
            return found
        end
        if raw then
            place = at - before
            break
        end
    end
    if not raw then
        return found
    end
    local tag, recorded = ARGV[4 + acks + n], 0
    -- Who restores it must be able to read it, which the worker has not tried yet.
    if raw:byte(1) == 123 and raw:byte(-1) == 125 then
        local value = '[' .. raw .. ', "", ' .. ARGV[4 + acks + most + place] .. ']'
        if fails(redis.pcall('ZADD', index, now, tag)) or fails(redis.pcall('HSET', unacked, tag, value)) then
            redis.pcall('ZREM', index, tag)
            redis.call('RPUSH', KEYS[before + place], raw)
            return found
        end
        recorded = 1
        if n <= starting then
            redis.pcall('SET', KEYS[last + n], now, 'EX', life)
            recorded = 2
        end
    end
    for _, each in ipairs({tag, place - 1, recorded, raw}) do
        found[#found + 1] = each
    end
end
found[3] = left(before + 1, last)
return found
"""
)

# For a message that BRPOP gave. It returns whether there are more.
TAKE: Final = Script(
    _START
    + """
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if ARGV[3] then
    redis.call('SET', KEYS[3], now, 'EX', ARGV[3])
end
return left(4, #KEYS)
"""
)


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that was taken.

    Attributes:
        tag: Its delivery tag.
        list: The key of its list, without the prefix.
        recorded: Whether it is recorded as unacknowledged.
        marked: Whether it is marked as started.
        raw: The message.
    """

    tag: str
    list: str
    recorded: bool
    marked: bool
    raw: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """What was asked of `FETCH`.

    Attributes:
        acks: The delivery tags of messages to acknowledge.
        lists: The keys of the lists to take messages from, without the prefix, in order.
        tags: A delivery tag for each message that is taken at most.
        starting: How many of these messages are to be marked as started.
    """

    acks: Sequence[str]
    lists: Sequence[str] = ()
    tags: Sequence[str] = ()
    starting: int = 0

    def taken(self, reply: Sequence[Any]) -> list[Taken]:
        """Read the messages out of a reply."""
        return [
            Taken(bytes_to_str(tag), self.lists[place], recorded > 0, recorded > 1, raw)
            for tag, place, recorded, raw in zip(*(reply[at::4] for at in range(3, 7)), strict=True)
        ]


def unwrapped(recorded: bytes) -> tuple[bytes, str]:
    """Return a message and its queue, as `FETCH` has recorded it, of which the message may be no JSON."""
    raw, _, queue = recorded[1:-1].rpartition(b', "", ')
    try:
        return raw, str(loads(queue))
    except ValueError:
        return recorded, "unacked"


class Tags:
    """Makes delivery tags, which nobody else has."""

    def __init__(self) -> None:
        self._prefix = uuid4()
        self._numbers = itertools.count()

    def make(self, count: int) -> list[str]:
        """Make so many."""
        return [f"{self._prefix}.{next(self._numbers)}" for _ in range(count)]


@cache
def _queue_as_json(key: str, sep: str) -> str:
    """Return the name of the queue that a list belongs to, as JSON."""
    return str(dumps(key.rsplit(sep, 1)[0]))


@dataclass(frozen=True)
class Unacked:
    """The keys that have the unacknowledged messages, and the arguments of the scripts for these.

    Attributes:
        prefix: The key prefix of the broker.
        index: The key of the sorted set of delivery tags, by when they were taken.
        unacked: The key of the hash with the messages.
        sep: What separates a queue from a priority.
    """

    prefix: str
    index: str
    unacked: str
    sep: str

    def fetch(self, fetch: Fetch) -> tuple[list[str], list[Any]]:
        """Return the keys and the other arguments of `FETCH`."""
        marks = [mark_key(self.unacked, tag) for tag in fetch.acks]
        queues = [_queue_as_json(each, self.sep) for each in fetch.lists]
        starting = [mark_key(self.unacked, tag) for tag in fetch.tags[: fetch.starting]]
        return (
            self._keys(*marks, *fetch.lists, *starting),
            [len(fetch.acks), len(fetch.tags), len(starting), LIFE, *fetch.acks, *fetch.tags, *queues],
        )

    def take(self, tag: str, recorded: str, lists: Sequence[str], *, starts: bool) -> tuple[list[str], list[Any]]:
        """Return the keys and the other arguments of `TAKE`."""
        return self._keys(mark_key(self.unacked, tag), *lists), [tag, recorded, *([LIFE] if starts else [])]

    def _keys(self, *names: str) -> list[str]:
        return [self.prefix + name for name in (self.index, self.unacked, *names)]
