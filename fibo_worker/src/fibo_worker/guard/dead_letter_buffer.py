"""Dead letters that wait for Redis to take them.

They are bounded in number and bytes, and hold nothing up: what Redis refuses is tried again later; what makes Redis
close the connection is cut, and then given up.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters

__all__ = ["DeadLetterBuffer", "is_closing"]

_logger: Final = logging.getLogger(__name__)

_MOST: Final = 100
_TRIES: Final = 3
"""How often Redis may refuse a large dead letter before that is cut."""
_LARGE: Final = 1024 * 1024
_LONGEST_PAUSE: Final = 8.0  # seconds


def is_closing(error: BaseException | None) -> bool:
    """Tell whether an error may mean that Redis closed the connection over what it was sent."""
    # With some luck, the answer to a value above proto-max-bulk-len arrives before the connection is gone.
    return isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)) or "Protocol error" in str(error)


@dataclass
class _Waiting:
    letter: DeadLetter
    refusals: int = 0


class DeadLetterBuffer:
    """The dead letters of an app that are not in Redis yet."""

    def __init__(self, max_bytes: int) -> None:
        """Make an empty one. The messages in it have at most `max_bytes` together; further ones are cut."""
        self._max_bytes = max_bytes
        self._waiting: list[_Waiting] = []
        self._pause = 0.0
        self._resume_at = 0.0

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter([each.letter for each in self._waiting])

    def add(self, letter: DeadLetter) -> None:
        """Add a dead letter. If there are too many, give up the oldest."""
        if len(letter.raw) + sum(len(each.letter.raw) for each in self._waiting) > self._max_bytes:
            letter = letter.cut()
        if len(self._waiting) == _MOST:
            _give_up(self._waiting.pop(0).letter, f"{_MOST} others wait for Redis, too")
        self._waiting.append(_Waiting(letter))

    def flush(self, target: Callable[[str], DeadLetters], stored: Callable[[DeadLetter, str], None]) -> None:
        """Push what waits.

        Args:
            target: Gives the dead letters of a queue.
            stored: Called with each that was pushed, and with the key of its list.

        Raises:
            redis.RedisError: Redis cannot be reached. What was not pushed still waits.
        """
        if not self._waiting or time.monotonic() < self._resume_at:
            return
        refused = False
        for each in list(self._waiting):
            dead_letters = target(each.letter.queue)
            try:
                taken = _push(each.letter, dead_letters)
            except redis.ResponseError as refusal:  # Redis is full or read-only, or the key is no list.
                refused = True
                each.refusals += 1
                name = _name(each.letter)
                _logger.warning("%s could not be put into %.200r yet: %s", name, dead_letters.key, refusal)
                if each.refusals == _TRIES and len(each.letter.raw) > _LARGE:
                    each.letter = each.letter.cut()
                continue
            self._waiting.remove(each)
            if taken is not None:
                stored(taken, dead_letters.key)
        self._pause = min(2 * self._pause or 1.0, _LONGEST_PAUSE) if refused else 0.0
        self._resume_at = time.monotonic() + self._pause


def _push(letter: DeadLetter, dead_letters: DeadLetters) -> DeadLetter | None:
    """Push a dead letter, whole or cut. Return what was pushed, or None if it was given up."""
    for form in (letter, letter, letter.cut(), letter.cut()):
        try:
            return dead_letters.push(form)
        except (redis.RedisError, OSError) as error:
            if not is_closing(error):
                raise
            dead_letters.ping()  # It raises if Redis is gone. Else it may be this letter over which Redis hangs up.
            problem = error
    _give_up(letter, str(problem))
    return None


def _give_up(letter: DeadLetter, why: str) -> None:
    _logger.error("%s is lost, as it could not be put into Redis: %s", _name(letter), why)


def _name(letter: DeadLetter) -> str:
    size = len(letter.raw) if letter.size is None else letter.size
    return f"a message that cannot be run (task {letter.task!r:.100}, id {letter.id!r:.100}, {size} bytes)"
