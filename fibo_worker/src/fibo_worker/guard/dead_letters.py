"""Dead letters: messages that cannot be run, kept in a list beside their queue.

The Redis list ``<queue>.dead`` has the newest first, each a JSON object; the string ``<queue>.dead.count`` counts all
that ever came. The broker's key prefix precedes both names.
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

# All or nothing. A dead letter that has left the list in the meantime is skipped, so that none is requeued twice.
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
        reason: Why, in a sentence without values from the message.
        at: When it was dead-lettered, in UTC, as ISO 8601.
        queue: The queue that it came from.
        task: The task's name, where that could be read.
        id: The task's id, where that could be read.
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
        """Make a dead letter of this moment.

        Args:
            reason: Why the message cannot be run. It is cut at 500 characters.
            raw: The message.
            queue: Where it came from.
            task: The task's name, where known.
            id: The task's id, where known.

        Returns:
            The dead letter.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        return cls(reason=reason[:_MAX_REASON], at=at, queue=queue, task=task, id=id, raw=raw)

    def encode(self) -> bytes:
        """Encode it as Redis stores it.

        Returns:
            A JSON object, whose ``raw`` is base64.
        """
        return json.dumps({**asdict(self), "raw": base64.b64encode(self.raw).decode()}).encode()

    @classmethod
    def decode(cls, stored: bytes) -> Self:
        """Decode what Redis stores.

        Args:
            stored: An element of the list.

        Returns:
            The dead letter.

        Raises:
            ValueError: It is no dead letter.
        """
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
            client: A plain client of the broker's Redis that decodes no replies and adds no prefix.
            queue: The queue's name.
            prefix: The broker's ``global_keyprefix``.
            limit: How many are kept. The oldest go first.
        """
        self._client = client
        self._limit = limit
        self._queue = prefix + queue
        self.key: Final = f"{self._queue}.dead"
        self.count_key: Final = f"{self.key}.count"

    def push(self, dead_letter: DeadLetter) -> None:
        """Add a dead letter, and count it.

        Args:
            dead_letter: The dead letter.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses it.
        """
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.lpush(self.key, dead_letter.encode())
            pipeline.ltrim(self.key, 0, self._limit - 1)
            pipeline.execute()
        # Not in the transaction: what is in the list must not be pushed again because it could not be counted.
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
        """Count the dead letters that are kept.

        Returns:
            The count.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return int(self._client.llen(self.key))

    def total(self) -> int:
        """Count the dead letters that ever came, those no longer kept included.

        Returns:
            The count.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return int(self._client.get(self.count_key) or 0)

    def requeue(self, stored: Sequence[bytes]) -> int:
        """Requeue messages at the end of their queue, in one step: none is lost, none comes twice.

        Args:
            stored: The elements as `stored` returned them.

        Returns:
            How many were requeued. One that has left the list in the meantime is not.

        Raises:
            ValueError: One of them is not a dead letter. Nothing was changed.
            redis.RedisError: Redis cannot be reached, and it is unknown whether the step was taken.
        """
        arguments = [part for each in stored for part in (each, DeadLetter.decode(each).raw)]
        # By its hash, as Celery calls its own: a worker's Redis user needs no more for it.
        return int(self._client.register_script(_REQUEUE)(keys=[self.key, self._queue], args=arguments))

    def purge(self) -> int:
        """Remove all dead letters.

        Returns:
            How many there were.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.llen(self.key)
            pipeline.delete(self.key)
            return int(pipeline.execute()[0])
