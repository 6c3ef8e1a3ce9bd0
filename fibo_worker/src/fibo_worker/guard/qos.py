"""Which messages this worker has taken, in its memory and in Redis, and how often each was lost."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from functools import cached_property, partial
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import redis
from kombu.transport.redis import QoS
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from fibo_worker.guard.connections import RefusedError
from fibo_worker.guard.dead_letters import DeadLetter
from fibo_worker.guard.poison_limit import MARKED
from fibo_worker.guard.scripts import ScriptConnection, are_scripts_refused, of_its_kind
from fibo_worker.guard.server_clock import ServerClock
from fibo_worker.guard.started import mark_key
from fibo_worker.guard.unacked import FETCH, TAKE, Fetch, Tags, Unacked, unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fibo_worker.guard.scripts import Script

__all__ = ["LossCountingQoS"]

_logger: Final = logging.getLogger(__name__)

_LATE_ERRORS: Final = (redis.ResponseError, redis.ConnectionError, redis.TimeoutError)
"""Redis refuses what it may accept later, or that connection was lost in silence, and others may be had."""

_PAUSE: Final = 1.0
"""Seconds between two tries to acknowledge."""

_LARGE: Final = 1024 * 1024
"""A message of so many characters may be the reason why Redis closes the connection."""

_AT_ONCE: Final = 500
"""The most acknowledgements in one command."""


@dataclass(frozen=True, slots=True)
class _Take:
    """A message to record as taken."""

    tag: str
    recorded: str
    keys: Sequence[Any]
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A script that was called: when, and what it acknowledges or records."""

    at: float
    acks: Sequence[str] = ()
    take: _Take | None = None


class LossCountingQoS(QoS):
    """Counts in each message how often it was lost after its task had started, by the clock of the Redis server.

    A requeue, or a restore at shutdown, does not count.

    Where Redis lets it call scripts, acknowledgements do not wait for replies. The app's guard keeps them until Redis
    has confirmed them, for they may be repeated: no message has the tag of another one.
    """

    losing: bool = False
    """Whether the message that is being restored was lost."""
    last_unacked: str | None = None
    """The delivery tag that was last written to Redis's unacked messages."""
    recorded: str | None = None
    """The delivery tag of the message that is being delivered, if it is recorded in Redis already."""
    starts: bool = False
    """Whether the message that is being delivered is marked as started, or is to be."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tags: Tags = Tags()
        self._clock = ServerClock()
        self._lost: set[str] = set()
        self._sweeping = False
        """Whether messages are being restored whose worker has not renewed them."""
        self._unsettled: dict[str, Callable[[], None]] = {}
        """By delivery tag, the acknowledgements and rejections that Redis refused."""
        self._lock = threading.RLock()
        """Some pools acknowledge in other threads."""
        self._scripts: ScriptConnection | None = None
        self._sent: deque[_Sent] = deque()
        """What was sent and has no reply yet."""
        self._unrecorded: deque[_Take] = deque()
        """The messages that Redis has yet to record as taken, after it refused it or the connection was lost."""
        self._retry_at = 0.0
        self._complains = False
        """Whether the log has it already that Redis refuses something, or cannot be reached."""

    @property
    def has_scripts(self) -> bool:
        """Whether Redis lets this worker call scripts, as far as it was tried."""
        guard = self.channel.guard
        return guard.has("round-trips") and not guard.scripts_refused

    @cached_property
    def keys(self) -> Unacked:
        """The keys in Redis."""
        channel = self.channel
        return Unacked(channel.global_keyprefix, self.unacked_index_key, self.unacked_key, channel.sep)

    @property
    def scripts(self) -> ScriptConnection:
        """The connection of this channel for scripts."""
        if self._scripts is None:
            self._scripts = ScriptConnection(self.channel.pool)
        return self._scripts

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as taken, in Redis, too, unless it is recorded there."""
        if delivery_tag != self.recorded:
            info = message.delivery_info
            # Workers restore what is in here, so it is what kombu's own `append` writes.
            recorded = dumps([_payload(message), info["exchange"], info["routing_key"]])
            if not self.has_scripts or not self._take(delivery_tag, recorded):
                self._record(delivery_tag, recorded)
                self.starts = False
        if self.starts:
            message.properties[MARKED] = True
        super(QoS, self).append(message, delivery_tag)
        self.last_unacked = delivery_tag

    def _take(self, delivery_tag: str, recorded: str) -> bool:
        """Record a message as taken. Return whether that was possible by a script."""
        keys, arguments = self.keys.take(delivery_tag, recorded, self.channel.lists(), starts=self.starts)
        take = _Take(delivery_tag, recorded, keys, arguments)
        if self.channel.defers and len(recorded) < _LARGE:
            # No process of the pool has the task before this leaves, and no acknowledgement overtakes it.
            self._send(_Sent(monotonic(), take=take), TAKE, take.keys, take.arguments)
            return True
        try:
            with self._lock, self.channel.conn_or_acquire(self.scripts) as scripts:
                self._see(wait=True)
                self.channel.has_more = bool(scripts.call(TAKE, keys, arguments))
        except redis.RedisError as error:
            cause = error.__cause__ if isinstance(error, RefusedError) else error
            if not self.refuses_scripts(cause):
                raise
            return False
        return True

    def idle(self) -> int:
        """Return how many processes of the pool have nothing to do, at least."""
        taken = len(self._delivered) - len(self._dirty)
        return max(0, int(self.channel.guard.processes()) - taken)

    def unmark(self, delivery_tag: str) -> None:
        """Remove the mark of a message that does not start yet."""
        with self.channel.conn_or_acquire() as client:
            client.delete(mark_key(self.unacked_key, delivery_tag))

    def refuses_scripts(self, error: BaseException | None) -> bool:
        """Tell whether an error says that Redis refuses scripts. If so, this worker goes on without."""
        if not isinstance(error, redis.ResponseError) or not are_scripts_refused(error):
            return False
        if not self.channel.guard.scripts_refused:
            _logger.warning("tasks take more round trips, because Redis refuses a script: %s", error)
        self.channel.guard.scripts_refused = True
        return True

    def _record(self, delivery_tag: str, recorded: str) -> None:
        # As kombu does, but for the time: by this machine's clock, other workers could take the message for lost.
        with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: self._clock.now(client)})
            pipe.hset(self.unacked_key, delivery_tag, recorded)
            pipe.execute()

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        if self.has_scripts:
            self._acknowledge(delivery_tag)
        else:
            self._settle(delivery_tag, partial(super().ack, delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject a message. Requeue it if that is wanted."""
        if self.has_scripts and not requeue:
            self._acknowledge(delivery_tag)
        else:
            self._settle(delivery_tag, partial(super().reject, delivery_tag, requeue=requeue))

    def _acknowledge(self, delivery_tag: str) -> None:
        self.forget(delivery_tag)
        super(QoS, self).ack(delivery_tag)
        if not self.channel.defers:
            self.flush()

    def forget(self, delivery_tag: str) -> None:
        """Acknowledge a message at the next `flush`, and leave the prefetch limit alone."""
        self.channel.guard.acks.append(delivery_tag)

    def flush(self, *, wait: bool = False) -> None:
        """Send the acknowledgements that wait, and see what came of those before.

        Args:
            wait: Whether to wait for the replies.
        """
        acks = self.channel.guard.acks
        if not acks and not self._sent and not self._unrecorded:
            return
        with self._lock:
            self._see(wait=False)
            while self._unrecorded and monotonic() >= self._retry_at:
                take = self._unrecorded.popleft()
                if self._has(take.tag):
                    self._send(_Sent(monotonic(), take=take), TAKE, take.keys, take.arguments)
            while acks and monotonic() >= self._retry_at and self._are_others_recorded():
                tags = self.waiting()
                self._send(_Sent(monotonic(), acks=tags), FETCH, *self.keys.fetch(Fetch(tags)))
            if wait:
                self._see(wait=True)

    def _send(self, sent: _Sent, script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> None:
        with self._lock:
            self._sent.append(sent)
            try:
                self.scripts.send(script, keys, arguments)
            except (redis.RedisError, OSError) as error:
                self._keep(error)

    def _has(self, delivery_tag: str) -> bool:
        return delivery_tag in self._delivered and delivery_tag not in self._dirty

    @property
    def all_recorded(self) -> bool:
        """Whether Redis has recorded all that was taken, so that an acknowledgement cannot overtake that."""
        return not self._unrecorded and not any(each.take for each in self._sent)

    def _are_others_recorded(self) -> bool:
        """Tell whether the other channels wait for no record, which an acknowledgement here could overtake."""
        transport = self.channel.connection
        return all(each.all_recorded for each in (transport.channels if transport else ()) if each is not self.channel)

    def give_back_unrecorded(self) -> None:
        """Leave it to the next channel to requeue the messages that are in this worker's hands alone."""
        while self._unrecorded:
            take = self._unrecorded.popleft()
            if self._has(take.tag):
                message = self._delivered.pop(take.tag)
                self.channel.give_back(_payload(message))

    def waiting(self) -> list[str]:
        """Take the delivery tags of messages that are to be acknowledged, as many as fit in a command."""
        acks = self.channel.guard.acks
        return [acks.popleft() for _ in range(min(len(acks), _AT_ONCE))]

    def _see(self, *, wait: bool) -> None:
        """Read the replies to acknowledgements: those that have come, or all."""
        if not self._sent:
            return
        try:
            if not wait and monotonic() - self._sent[0].at > self.channel.guard.settings.socket_timeout:
                raise redis.TimeoutError("Redis does not confirm what the worker has told it")
            replies = self.scripts.replies(wait=wait)
        except (redis.RedisError, OSError) as error:
            self._keep(error)
            return
        for reply in replies:
            sent = self._sent.popleft()
            if isinstance(reply, redis.exceptions.NoScriptError):  # The next call loads it.
                self._again(sent)
            elif isinstance(reply, redis.ResponseError):
                self._refused(sent, reply)
            elif sent.acks and reply[0]:
                self._refused(sent, of_its_kind(redis.ResponseError(bytes_to_str(reply[0]))))
            else:
                self._complains = False
                if sent.take:
                    self.channel.has_more = bool(reply)

    def _refused(self, sent: _Sent, error: redis.ResponseError) -> None:
        """Handle that Redis refused something."""
        if self.refuses_scripts(error):
            if sent.take and self._has(sent.take.tag):
                self._record(sent.take.tag, sent.take.recorded)
            for tag in sent.acks:
                self._settle(tag, partial(super().ack, tag))
            return
        self._later(sent, error)
        if not self.channel.guard.has("refusals"):
            raise error
        if sent.take:
            # Celery reconnects, says what is wrong, and goes on when Redis records what the worker has.
            raise RefusedError(str(error)) from error

    def drop_connection(self) -> None:
        """Drop the connection for scripts, after another one to this Redis was lost in silence."""
        with self._lock:
            if self._scripts is not None:
                self._keep(redis.ConnectionError("other connections were lost in silence"))

    def _keep(self, error: Exception) -> None:
        """Keep what nobody has confirmed, after a lost connection."""
        self.scripts.drop()
        while self._sent:
            self._later(self._sent.popleft(), error)

    def _later(self, sent: _Sent, error: Exception) -> None:
        what = "acknowledged" if sent.acks else "recorded as taken"
        if not self._complains:
            _logger.warning("messages could not be %s yet: %s", what, error)
        self._complains = True
        self._again(sent)
        self._retry_at = monotonic() + _PAUSE

    def _again(self, sent: _Sent) -> None:
        self.channel.guard.acks.extend(sent.acks)
        if sent.take:
            self._unrecorded.append(sent.take)

    def settle_late(self) -> None:
        """Retry the acknowledgements and rejections that Redis refused, until it refuses again."""
        if self.has_scripts:
            self.flush()
        while self._unsettled:
            delivery_tag, settle = next(iter(self._unsettled.items()))
            try:
                settle()
            except _LATE_ERRORS:
                return
            del self._unsettled[delivery_tag]

    def _settle(self, delivery_tag: str, settle: Callable[[], None]) -> None:
        try:
            settle()
        except _LATE_ERRORS as error:
            refused = isinstance(error, (redis.ResponseError, RefusedError))
            if not self.channel.guard.has("refusals" if refused else "lost-connections"):
                raise
            # Celery would only log this, and count the message against its prefetch limit forever.
            _logger.warning("a message could not be acknowledged or rejected yet: %s", error)
            self._unsettled[delivery_tag] = settle
            self._dirty.add(delivery_tag)

    def mark_lost(self, delivery_tag: str) -> None:
        """Mark a message as lost with its process, before Celery requeues it."""
        self._lost.add(delivery_tag)

    def restore_visible(self, start: int = 0, num: int | None = 10, interval: int = 1) -> None:
        """Renew this worker's messages, and requeue those of lost workers."""
        now = self.renew()
        # Kombu subtracts this from this machine's time.
        self.visibility_timeout: float = self.channel.visibility_timeout + time() - now
        self._sweeping = True
        try:
            # Kombu 5.5 and 5.6 pass no interval. Their own default restores at every tenth call only.
            super().restore_visible(start, num, interval)
        finally:
            self._sweeping = False

    def renew(self) -> float:
        """Renew this worker's own messages, which are not lost, however long they wait or run. Return Redis's time."""
        with self.channel.conn_or_acquire() as client:
            now = self._clock.ask(client)
            unacked = [tag for tag in list(self._delivered) if tag not in self._dirty]
            if unacked and self.channel.guard.has("renewal"):
                client.zadd(self.unacked_index_key, dict.fromkeys(unacked, now), xx=True)
        return now

    def restore_by_tag(self, tag: bytes | str, client: Any = None, leftmost: bool = False) -> None:
        """Requeue a message."""
        delivery_tag = bytes_to_str(tag)
        with self._lock:
            self._see(wait=True)  # It may not be recorded yet.
        with self.channel.conn_or_acquire(client) as client:
            self.losing = delivery_tag in self._lost or (self._sweeping and self._has_started(delivery_tag, client))
            try:
                super().restore_by_tag(delivery_tag, client, leftmost)
            except (ValueError, TypeError):
                # It was taken by a script, and its worker died before it looked at it.
                self._bury(delivery_tag, client)
            finally:
                self.losing = False
        self._lost.discard(delivery_tag)

    def _bury(self, delivery_tag: str, client: Any) -> None:
        """Dead-letter a message that nobody can read, so that it does not keep those behind it from being restored."""
        raw, queue = unwrapped(client.hget(self.unacked_key, delivery_tag) or b"")
        self.channel.dead_letter(DeadLetter.now("it cannot be read", raw, queue=queue))
        self._remove_from_indices(delivery_tag).execute()

    def _has_started(self, delivery_tag: str, client: Any) -> bool:
        # Kombu's client adds the prefix to the keys of some commands; GET is not among them.
        return client.get(self.channel.global_keyprefix + mark_key(self.unacked_key, delivery_tag)) is not None

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        return super()._remove_from_indices(delivery_tag, pipe).delete(mark_key(self.unacked_key, delivery_tag))


def _payload(message: Any) -> dict[str, Any]:
    """Give a message as it came, which kombu keeps for its own `append` alone."""
    payload: dict[str, Any] = message._raw  # noqa: SLF001 # its public parts lack what kombu does not know
    return payload
