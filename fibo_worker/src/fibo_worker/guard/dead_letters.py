"""Dead letters: messages that cannot be run, kept in a list beside their queue.

The Redis list ``<queue>.dead`` holds them as JSON objects, the newest first. The string ``<queue>.dead.count`` counts
all that ever came, and ``<queue>.dead.bytes`` has the length and the bytes of the list. The broker's key prefix
precedes these names.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from redis import Redis

__all__ = ["DeadLetter", "DeadLetters"]

_MAX_REASON: Final = 500
_KEPT_OF_CUT: Final = 4096

DAY: Final = 24 * 3600

# One step, so that the bounds hold however many workers push. It uses only commands that the page on security allows.
# The bytes that were noted are right as long as the list is as long as it was then; else somebody has changed it.
_PUSH: Final = """
local list, count, noted = KEYS[1], KEYS[2], KEYS[3]
local most, most_bytes, life = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local kept, bytes = redis.call('LLEN', list), 0
local text = redis.pcall('GET', noted)
local length, sum = string.match(type(text) == 'string' and text or '', '^(%d+) (%d+)$')
if tonumber(length) == kept then
    bytes = tonumber(sum)
else
    for start = 0, kept - 1, 100 do
        for _, each in ipairs(redis.call('LRANGE', list, start, start + 99)) do
            bytes = bytes + #each
        end
    end
end
redis.call('LPUSH', list, ARGV[1])
kept, bytes = kept + 1, bytes + #ARGV[1]
while kept > 1 and (kept > most or bytes > most_bytes) do
    bytes = bytes - #redis.call('LRANGE', list, -1, -1)[1]
    redis.call('LTRIM', list, 0, -2)
    kept = kept - 1
end
redis.call('EXPIRE', list, life)
redis.pcall('SET', noted, string.format('%d %d', kept, bytes), 'EX', life)
redis.pcall('INCRBY', count, 1)
redis.pcall('EXPIRE', count, life)
"""

# Atomic. It skips a dead letter that has left the list in the meantime, so that none is requeued twice.
_REQUEUE: Final = """
local moved = 0
for i = 1, #ARGV, 2 do
    if redis.call('LREM', KEYS[1], 1, ARGV[i]) == 1 then
        redis.call('LPUSH', KEYS[2], ARGV[i + 1])
        moved = moved + 1
    end
end
return moved
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One message that could not be run.

    Attributes:
        reason: Why it could not be run, without values from the message.
        at: When it was dead-lettered, in UTC, as ISO 8601.
        queue: The queue that it came from.
        task: The task's name, if it was readable.
        id: The task's id, if it was readable.
        raw: The exact bytes of the message, or the first of them if it was cut.
        size: The number of its bytes, if it was cut.
        sha256: The SHA-256 of its bytes, if it was cut, in hexadecimal.
    """

    reason: str
    at: str
    queue: str
    task: str | None
    id: str | None
    raw: bytes
    size: int | None = None
    sha256: str | None = None

    @classmethod
    def now(cls, reason: str, raw: bytes, *, queue: str, task: str | None = None, id: str | None = None) -> Self:
        """Make a dead letter with the current time. The reason is cut at 500 characters."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(reason=reason[:_MAX_REASON], at=at, queue=queue, task=task, id=id, raw=raw)

    @property
    def is_cut(self) -> bool:
        """Whether bytes of the message are missing, so that it cannot be requeued."""
        return self.size is not None

    def cut(self) -> Self:
        """Return it with the first 4,096 bytes of the message only, and the length and the digest of all."""
        if self.is_cut or len(self.raw) <= _KEPT_OF_CUT:
            return self
        digest = hashlib.sha256(self.raw).hexdigest()
        return replace(self, raw=self.raw[:_KEPT_OF_CUT], size=len(self.raw), sha256=digest)

    def encode(self) -> bytes:
        """Encode it as a JSON object with ``raw`` as base64."""
        return json.dumps({**asdict(self), "raw": base64.b64encode(self.raw).decode()}).encode()

    @classmethod
    def decode(cls, stored: bytes) -> Self:
        """Decode an element of the Redis list. Raise ValueError if it is not a dead letter."""
        try:
            fields: Any = json.loads(stored)
            raw = base64.b64decode(fields["raw"], validate=True)
            texts = [fields["reason"], fields["at"], fields["queue"]]
            names = [fields["task"], fields["id"], fields.get("sha256")]
            size = fields.get("size")
        except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
            raise ValueError("it is not a dead letter") from error
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("it is not a dead letter")
        if not all(each is None or isinstance(each, str) for each in names) or not (size is None or type(size) is int):
            raise ValueError("it is not a dead letter")
        return cls(
            reason=texts[0],
            at=texts[1],
            queue=texts[2],
            task=names[0],
            id=names[1],
            raw=raw,
            size=size,
            sha256=names[2],
        )


class DeadLetters:
    """The dead letters of one queue."""

    def __init__(
        self,
        client: Redis,
        queue: str,
        *,
        prefix: str = "",
        limit: int = 10_000,
        max_bytes: int = 64 * 1024 * 1024,
        expires: int = 30 * DAY,
    ) -> None:
        """Name the queue.

        Args:
            client: A client of the broker's Redis that decodes no replies and adds no prefix.
            queue: The queue's name.
            prefix: The broker's ``global_keyprefix``.
            limit: The most dead letters to keep. Beyond it, the oldest are dropped.
            max_bytes: The most bytes that they may have together, as Redis stores them. Beyond it, the oldest are
                dropped. One that has more than half of that is cut.
            expires: Seconds after the last one, at which all expire.
        """
        self._client = client
        self._limit = limit
        self._max_bytes = max_bytes
        self._expires = expires
        self._queue = prefix + queue
        self.key: Final = f"{self._queue}.dead"
        self.count_key: Final = f"{self.key}.count"
        self.bytes_key: Final = f"{self.key}.bytes"

    def push(self, dead_letter: DeadLetter) -> DeadLetter:
        """Add a dead letter, and count it.

        Args:
            dead_letter: The dead letter.

        Returns:
            The dead letter as it was added, which is cut if it is too large.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses it.
        """
        # Base64 makes four bytes of three.
        if len(dead_letter.raw) * 4 // 3 > self._max_bytes // 2:
            dead_letter = dead_letter.cut()
        keys = [self.key, self.count_key, self.bytes_key]
        bounds = (self._limit, self._max_bytes, self._expires)
        # By EVALSHA, as Celery runs its own scripts, so that a worker's Redis user needs no further permission.
        self._client.register_script(_PUSH)(keys=keys, args=[dead_letter.encode(), *bounds])
        return dead_letter

    def stored(self, start: int = 0, stop: int = -1) -> list[bytes]:
        """Read dead letters as Redis stores them, the newest first.

        Args:
            start: The index of the first.
            stop: The index of the last; -1 is the oldest.

        Returns:
            The elements; `DeadLetter.decode` decodes one.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        found: list[bytes] = self._client.lrange(self.key, start, stop)  # type: ignore[assignment] # redis-py types it for both of its clients
        return found

    def ping(self) -> None:
        """Check that Redis answers. Raise redis.RedisError if it does not."""
        self._client.ping()

    def kept(self) -> int:
        """Count the dead letters in the list. Raise redis.RedisError if Redis cannot be reached."""
        return int(self._client.llen(self.key))

    def total(self) -> int:
        """Count all dead letters that ever came. Raise redis.RedisError if Redis cannot be reached."""
        return int(self._client.get(self.count_key) or 0)

    def requeue(self, stored: Sequence[bytes]) -> int:
        """Requeue messages at the end of their queue, in one atomic step, so that none is lost and none comes twice.

        Args:
            stored: The elements as `stored` returned them.

        Returns:
            How many were requeued. Elements that have left the list in the meantime are not.

        Raises:
            ValueError: One of them is not a dead letter, or is cut. Nothing changed.
            redis.RedisError: Redis cannot be reached. The messages may or may not have been requeued.
        """
        decoded = [DeadLetter.decode(each) for each in stored]
        if any(each.is_cut for each in decoded):
            raise ValueError("bytes of the message are missing")
        arguments = [
            part for each, dead_letter in zip(stored, decoded, strict=True) for part in (each, dead_letter.raw)
        ]
        return int(self._client.register_script(_REQUEUE)(keys=[self.key, self._queue], args=arguments))

    def purge(self) -> int:
        """Remove all dead letters and return their number. Raise redis.RedisError if Redis cannot be reached."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.llen(self.key)
            pipeline.delete(self.key, self.bytes_key)
            return int(pipeline.execute()[0])
