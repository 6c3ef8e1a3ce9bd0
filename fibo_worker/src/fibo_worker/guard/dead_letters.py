"""Dead letters: messages that cannot be run, kept in a list beside their queue.

The Redis list ``<queue>.dead`` holds them as JSON objects, the newest first. The string ``<queue>.dead.count`` counts
all that ever came. The broker's key prefix precedes both names.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from redis import Redis

__all__ = ["DeadLetter", "DeadLetters"]

_MAX_REASON: Final = 500

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
        raw: The exact bytes of the message.
    """

    reason: str
    at: str
    queue: str
    task: str | None
    id: str | None
    raw: bytes

    @classmethod
    def now(cls, reason: str, raw: bytes, *, queue: str, task: str | None = None, id: str | None = None) -> Self:
        """Make a dead letter with the current time. The reason is cut at 500 characters."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(reason=reason[:_MAX_REASON], at=at, queue=queue, task=task, id=id, raw=raw)

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
            names = [fields["task"], fields["id"]]
        except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as error:
            raise ValueError("it is not a dead letter") from error
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("it is not a dead letter")
        if not all(each is None or isinstance(each, str) for each in names):
            raise ValueError("it is not a dead letter")
        return cls(reason=texts[0], at=texts[1], queue=texts[2], task=names[0], id=names[1], raw=raw)


class DeadLetters:
    """The dead letters of one queue."""

    def __init__(self, client: Redis, queue: str, *, prefix: str = "", limit: int = 10_000) -> None:
        """Name the queue.

        Args:
            client: A client of the broker's Redis that decodes no replies and adds no prefix.
            queue: The queue's name.
            prefix: The broker's ``global_keyprefix``.
            limit: The most dead letters to keep. Beyond it, the oldest are dropped.
        """
        self._client = client
        self._limit = limit
        self._queue = prefix + queue
        self.key: Final = f"{self._queue}.dead"
        self.count_key: Final = f"{self.key}.count"

    def push(self, dead_letter: DeadLetter) -> None:
        """Add a dead letter, and count it. Raise redis.RedisError if Redis cannot be reached, or refuses it."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.lpush(self.key, dead_letter.encode())
            pipeline.ltrim(self.key, 0, self._limit - 1)
            pipeline.execute()
        # Outside the transaction: a failure to count must not cause a second push.
        with contextlib.suppress(ResponseError):
            self._client.incr(self.count_key)

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
            ValueError: One of them is not a dead letter. Nothing changed.
            redis.RedisError: Redis cannot be reached. The messages may or may not have been requeued.
        """
        arguments = [part for each in stored for part in (each, DeadLetter.decode(each).raw)]
        # By EVALSHA, as Celery runs its own script, so that a worker's Redis user needs no further permission.
        return int(self._client.register_script(_REQUEUE)(keys=[self.key, self._queue], args=arguments))

    def purge(self) -> int:
        """Remove all dead letters and return their number. Raise redis.RedisError if Redis cannot be reached."""
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.llen(self.key)
            pipeline.delete(self.key)
            return int(pipeline.execute()[0])
