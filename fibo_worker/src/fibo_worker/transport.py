"""Kombu's Redis transport, with every message looked at before Celery sees it.

What cannot be run goes to the dead letters of its queue, and a caller that can be told is told at once. The rest is
kombu's. An app that is made with `_ScreeningAMQP` uses it, whatever starts the app and whatever its URLs are.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import cached_property, partial
from queue import Empty
from time import time
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import redis
from billiard.exceptions import WorkerLostError
from celery.app.amqp import AMQP
from celery.exceptions import InvalidTaskError
from celery.states import FAILURE
from kombu.connection import Connection
from kombu.transport.redis import Channel, QoS, SentinelChannel, SentinelTransport, Transport
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters
from fibo_worker.guard.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

__all__ = ["MAX_LOSSES", "hold", "losses", "without_losses"]

_logger: Final = logging.getLogger(__name__)

LOSSES: Final = "fibo_losses"
"""The property of a message that says how often the process, or the worker, that ran it was lost."""

MAX_LOSSES: Final = 2
"""A message that was lost so often is not run again."""

_MAX_HELD: Final = 100

_REPLIES: Final = ".reply.celery.pidbox"
"""How the lists end that hold answers to remote control."""


class _LossCountingQoS(QoS):
    """Counts in a message how often it was lost. Giving it back, or putting it back at shutdown, is no loss."""

    losing: bool = False
    noted: str | None = None
    """The tag of the message that was last written down as taken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lost: set[str] = set()
        self._unsettled: dict[str, Callable[[], None]] = {}
        """By delivery tag, what is left to do for messages that were settled while Redis did not take it."""

    def append(self, message: Any, delivery_tag: str) -> None:
        super().append(message, delivery_tag)
        self.noted = delivery_tag

    def ack(self, delivery_tag: str) -> None:
        self._settle(delivery_tag, partial(super().ack, delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, partial(self._reject, delivery_tag, requeue))

    def settle_late(self) -> None:
        """Acknowledge or reject what was settled while Redis did not take it. While it does not, it stays."""
        while self._unsettled:
            delivery_tag, settle = next(iter(self._unsettled.items()))
            try:
                settle()
            except _NOT_NOW:
                return
            del self._unsettled[delivery_tag]

    def _settle(self, delivery_tag: str, settle: Callable[[], None]) -> None:
        try:
            settle()
        except _NOT_NOW as error:
            # Celery would only log this, and count the message among those that it holds for ever after.
            _logger.warning("a message could not be acknowledged or rejected yet: %s", error)
            self._unsettled[delivery_tag] = settle
            self._quick_ack(delivery_tag)

    def note_loss(self, delivery_tag: str) -> None:
        """Take note that the process of a message was lost. Celery gives the message back soon.

        Args:
            delivery_tag: The message's.
        """
        self._lost.add(delivery_tag)

    def _reject(self, delivery_tag: str, requeue: bool) -> None:
        self.losing = delivery_tag in self._lost
        try:
            super().reject(delivery_tag, requeue=requeue)
            self._lost.discard(delivery_tag)
        finally:
            self.losing = False

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        # What this worker holds is not lost, be it that it waits for its time or takes long.
        if held := [tag for tag in list(self._delivered) if tag not in self._dirty]:
            with self.channel.conn_or_acquire() as client:
                client.zadd(self.unacked_index_key, dict.fromkeys(held, time()), xx=True)
        self.losing = True
        try:
            super().restore_visible(*args, **kwargs)
        finally:
            self.losing = False


class _Screening(Channel):
    """What is added to both of kombu's channels. Its base is Channel for the sake of ``super``."""

    QoS = _LossCountingQoS

    def _brpop_read(self, **options: Any) -> bool:
        # As in the base class, but for what becomes of the item.
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            except redis.ResponseError as error:
                # A master that is demoted says UNBLOCKED to who waits. Celery would take any such word for the end of
                # all things; a new connection finds the new master.
                self.client.connection.disconnect()
                raise redis.ConnectionError(str(error)) from error
            if not reply:
                raise Empty
            key = bytes_to_str(reply[0])
            queue = key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._take(queue, key, reply[1])
            return True
        finally:
            self._in_poll = None  # type: ignore[assignment] # kombu has a connection here, or False, or None
            self._flush_brpop_reauth()

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._bury_held()
        self._give_back_taken()
        self.qos.settle_late()
        super()._brpop_start(timeout)

    def _take(self, queue: str, key: str, item: bytes | str) -> None:
        raw = item if isinstance(item, bytes) else item.encode()
        if queue.endswith(_REPLIES):
            try:
                self.connection._deliver(loads(bytes_to_str(raw)), queue)  # noqa: SLF001 # the channel's own transport, as kombu calls it
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                _logger.warning("an answer to remote control was not understood (%s)", type(error).__name__)
            return
        try:
            self._take_task(queue, key, raw)
        except (redis.RedisError, OSError):
            raise
        except Exception as error:
            # The screening has a gap here, or something else is wrong: the message must not stop the worker.
            _logger.exception("a message of the queue %.200r was taken for sound, but was not", queue)
            reason = f"Celery failed on it ({type(error).__name__}; the worker's log has the traceback)"
            found = validate(raw, max_body_bytes=self.connection.client.app.fibo_settings.max_body_bytes)
            self.bury(DeadLetter.now(reason, raw, queue=queue, task=found.task, id=found.id))
            if self.qos.noted is not None:
                self.qos.ack(self.qos.noted)

    def _take_task(self, queue: str, key: str, raw: bytes) -> None:
        app: Celery = self.connection.client.app
        self.qos.noted = None
        found = validate(raw, max_body_bytes=app.fibo_settings.max_body_bytes)
        payload = found.payload
        if payload is None:
            self.bury(DeadLetter.now(found.reason or "", raw, queue=queue, task=found.task, id=found.id))
            return
        if losses(payload) >= MAX_LOSSES:
            reason = f"the worker that had it was lost {MAX_LOSSES} times"
            letter = DeadLetter.now(reason, without_losses(payload), queue=queue, task=found.task, id=found.id)
            self.bury(letter, error=WorkerLostError(reason))
            return
        properties = payload["properties"]
        # The tag is the key of the record from which a lost message is restored: two messages with one tag would
        # share a record, so each gets its own here. And it must be restored to where it came from.
        properties["delivery_tag"] = str(uuid4())
        info = properties.get("delivery_info")
        info = info if isinstance(info, dict) else {}
        properties["delivery_info"] = {**info, "exchange": "", "routing_key": queue}
        try:
            properties["priority"] = self._get_message_priority(payload)
        except OverflowError:  # An infinite one could not be put back.
            properties["priority"] = 0
        try:
            self.connection._deliver(payload, queue)  # noqa: SLF001 # the channel's own transport, as kombu calls it
        except (redis.RedisError, OSError) as error:
            if self.qos.noted is None:
                # It is out of the queue, and Redis took no note of who has it: full, read-only, or gone.
                app.fibo_taken.append((key, raw))
                raise redis.ConnectionError(str(error)) from error
            # Celery has decided what becomes of it, and could not store it: the results are full, or gone.
            _logger.warning("the result of task %.100r could not be stored: %s", found.id, error)
            self.bury(
                DeadLetter.now(
                    f"its result could not be stored: {error}", raw, queue=queue, task=found.task, id=found.id
                )
            )
            self.qos.ack(self.qos.noted)

    def _give_back_taken(self) -> None:
        """Put back where it was taken from what could not be noted as taken, before more is taken."""
        app: Celery = self.connection.client.app
        while app.fibo_taken:
            key, raw = app.fibo_taken[0]
            try:
                redis.Redis(connection_pool=self.pool).rpush(self.global_keyprefix + key, raw)
            except redis.ResponseError as error:
                raise redis.ConnectionError(str(error)) from error  # Celery connects anew, and tries again.
            app.fibo_taken.popleft()

    def _do_restore_message(self, payload: Any, *args: Any, **kwargs: Any) -> None:
        # The records are of all workers on the broker, also of some that look at nothing.
        if self.qos.losing and isinstance(payload, dict) and isinstance(payload.get("properties"), dict):
            payload["properties"][LOSSES] = losses(payload) + 1
        super()._do_restore_message(payload, *args, **kwargs)

    def bury(
        self, letter: DeadLetter, *, error: Exception | None = None, tell: Callable[[], object] | None = None
    ) -> None:
        """Put a message aside, and then tell its caller, who may look for it.

        Args:
            letter: The message.
            error: What the caller gets. None is an InvalidTaskError with the reason.
            tell: Tells the caller, in place of that.
        """
        app: Celery = self.connection.client.app
        if len(app.fibo_held) == _MAX_HELD:
            lost = app.fibo_held.popleft()
            _logger.error(
                "too many messages wait to be put aside; one is lost (task %.100r, id %.100r)", lost.task, lost.id
            )
        app.fibo_held.append(letter)
        try:
            self._bury_held()
        finally:  # Redis may be gone, but for the results there may be another one.
            if tell is None and letter.id is not None:
                failure = error or InvalidTaskError(f"the worker cannot run this message: {letter.reason}")
                tell = partial(app.backend.store_result, letter.id, failure, FAILURE)
            if tell is not None:
                try:
                    tell()
                except Exception:  # the caller is left to its timeout, the worker goes on
                    _logger.exception("the failure of task %.100r could not be stored", letter.id)

    def _bury_held(self) -> None:
        """Put aside what is held. While Redis refuses it, it stays held, and the worker goes on."""
        app: Celery = self.connection.client.app
        while app.fibo_held:
            letter = app.fibo_held[0]
            # Kombu's own client would put the prefix before some of the keys, and not before others.
            client = redis.Redis(connection_pool=self.pool)
            limit = app.fibo_settings.dead_letter_limit
            letters = DeadLetters(client, letter.queue, prefix=self.global_keyprefix, limit=limit)
            try:
                letters.push(letter)
            except redis.ResponseError as refusal:  # full, or read-only: it will take it later
                _logger.error("a message that cannot be run could not be put into %s: %s", letters.key, refusal)  # noqa: TRY400 # it says why; a traceback adds nothing
                return
            app.fibo_held.popleft()
            app.fibo_metrics.message_dead_lettered(letter.queue)
            _logger.warning(
                "a message of the queue %.200r cannot be run, and is kept in %.200r: %s (task %.100r, id %.100r)",
                *(letter.queue, letters.key, letter.reason, letter.task, letter.id),
            )

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except RecursionError:
            _logger.warning("a message of remote control was nested too deeply, and was ignored")
            return None

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        try:
            return super()._deliver_fanout_message(message, exchange)
        except (redis.RedisError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - anyone can publish anything there
            _logger.warning(
                "a message of remote control on %.200r was not understood, and was ignored (%s)",
                *(exchange, type(error).__name__),
            )
            return False


class _RedisChannel(_Screening):
    pass


class _SentinelChannel(_Screening, SentinelChannel):
    pass


# Of these Celery ends, because kombu counts them as errors of a channel. They are those of a server that will take the
# command later, or that is no longer the master: to connect anew, with pauses, is what helps.
_NOT_NOW: Final = (redis.exceptions.OutOfMemoryError, redis.ReadOnlyError, redis.exceptions.MasterDownError)


class _RedisTransport(Transport):
    Channel = _RedisChannel
    connection_errors = (*Transport.connection_errors, *_NOT_NOW)


class _SentinelTransport(SentinelTransport):
    Channel = _SentinelChannel
    connection_errors = (*SentinelTransport.connection_errors, *_NOT_NOW)


_SCREENING: Final[dict[type, type]] = {Transport: _RedisTransport, SentinelTransport: _SentinelTransport}


class _ScreeningConnection(Connection):
    """A connection whose transport screens. The URL still chooses the transport, also after a failover."""

    app: Celery

    def get_transport_cls(self) -> type:
        found: type = super().get_transport_cls()
        return _SCREENING.get(found, found)


class _ScreeningAMQP(AMQP):
    """What makes a Celery app's connections: ours."""

    @cached_property
    def Connection(self) -> type[_ScreeningConnection]:  # noqa: N802 - Celery's name
        """The class of the connections, which knows its app, also when a connection is cloned."""
        return type("ScreeningConnection", (_ScreeningConnection,), {"app": self.app})


def hold(app: Celery) -> None:
    """Make room in an app for what Redis does not take at the moment: letters for the dead, and messages to put back.

    Args:
        app: The app.
    """
    app.fibo_held = deque(maxlen=_MAX_HELD)
    app.fibo_taken = deque(maxlen=_MAX_HELD)


def losses(payload: Any) -> int:
    """Tell how often the process, or the worker, that ran a message was lost.

    Args:
        payload: The message, an object with properties.

    Returns:
        The count, by what the message says.
    """
    count = payload["properties"].get(LOSSES)
    return max(count, 0) if type(count) is int else 0


def without_losses(payload: Any) -> bytes:
    """Write a message that was lost as it was sent: whoever puts it back wants it run again.

    Args:
        payload: The message, as kombu has read it.

    Returns:
        Its bytes.
    """
    properties = {name: value for name, value in payload["properties"].items() if name != LOSSES}
    return bytes(dumps({**payload, "properties": properties}).encode())  # Kombu's: it may hold kombu's types.
