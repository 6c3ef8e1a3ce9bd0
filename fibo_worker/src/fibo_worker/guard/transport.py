"""Kombu's Redis transport, with every message validated before Celery sees it.

A message that cannot be run is dead-lettered, and where it has an id, its failure is stored at once. The rest is
kombu's. An app that is made with `_ValidatingAMQP` uses it, whatever starts the app and whatever its URLs are.
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
from kombu.utils.json import loads

from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters
from fibo_worker.guard.poison_limit import LOSSES, MAX_LOSSES, losses, without_losses
from fibo_worker.guard.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

__all__ = ["add_buffers"]

_logger: Final = logging.getLogger(__name__)

_BUFFER_SIZE: Final = 100

_REPLY_SUFFIX: Final = ".reply.celery.pidbox"
"""The end of the names of queues with replies to remote control."""


class _LossCountingQoS(QoS):
    """Counts in a message how often it was lost. A requeue, or a restore at shutdown, is no loss."""

    losing: bool = False
    """Whether a message that is restored now was lost."""
    last_unacked: str | None = None
    """The delivery tag of the message that was last written to the unacked ones."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lost: set[str] = set()
        self._unsettled: dict[str, Callable[[], None]] = {}
        """By delivery tag, how to settle the messages that Redis refused to settle."""

    def append(self, message: Any, delivery_tag: str) -> None:
        super().append(message, delivery_tag)
        self.last_unacked = delivery_tag

    def ack(self, delivery_tag: str) -> None:
        self._settle(delivery_tag, partial(super().ack, delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, partial(self._reject, delivery_tag, requeue))

    def settle_late(self) -> None:
        """Acknowledge or reject what Redis refused before, until it refuses again."""
        while self._unsettled:
            delivery_tag, settle = next(iter(self._unsettled.items()))
            try:
                settle()
            except _TEMPORARY_ERRORS:
                return
            del self._unsettled[delivery_tag]

    def _settle(self, delivery_tag: str, settle: Callable[[], None]) -> None:
        try:
            settle()
        except _TEMPORARY_ERRORS as error:
            # Celery would only log this, and count the message against its prefetch limit for ever after.
            _logger.warning("a message could not be acknowledged or rejected yet: %s", error)
            self._unsettled[delivery_tag] = settle
            self._quick_ack(delivery_tag)

    def mark_lost(self, delivery_tag: str) -> None:
        """Mark a message as lost with its process. Celery is about to requeue it.

        Args:
            delivery_tag: The message's tag.
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
        # What this worker has is not lost, whether it waits for its ETA or runs long.
        if unacked := [tag for tag in list(self._delivered) if tag not in self._dirty]:
            with self.channel.conn_or_acquire() as client:
                client.zadd(self.unacked_index_key, dict.fromkeys(unacked, time()), xx=True)
        self.losing = True
        try:
            super().restore_visible(*args, **kwargs)
        finally:
            self.losing = False


class _ValidatingChannel(Channel):
    """What both of kombu's channels get. Its base is Channel for the sake of ``super``."""

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
                # A master that is demoted ends a BRPOP with UNBLOCKED. Celery would stop at any such error; a new
                # connection finds the new master.
                self.client.connection.disconnect()
                raise redis.ConnectionError(str(error)) from error
            if not reply:
                raise Empty
            key = bytes_to_str(reply[0])
            queue = key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._deliver_item(queue, key, reply[1])
            return True
        finally:
            self._in_poll = None  # type: ignore[assignment] # kombu has a connection here, or False, or None
            self._flush_brpop_reauth()

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._flush_dead_letters()
        self._requeue_popped()
        self.qos.settle_late()
        super()._brpop_start(timeout)

    def _deliver_item(self, queue: str, key: str, item: bytes | str) -> None:
        raw = item if isinstance(item, bytes) else item.encode()
        if queue.endswith(_REPLY_SUFFIX):
            try:
                self.connection._deliver(loads(bytes_to_str(raw)), queue)  # noqa: SLF001 # the channel's own transport, as kombu calls it
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                _logger.warning("a reply to remote control was not understood (%s)", type(error).__name__)
            return
        try:
            self._deliver_task(queue, key, raw)
        except (redis.RedisError, OSError):
            raise
        except Exception as error:
            # Validation has a gap here, or something else is wrong: the message must not stop the worker.
            _logger.exception("a message of the queue %.200r passed validation, but Celery failed on it", queue)
            reason = f"Celery failed on it ({type(error).__name__}; the worker's log has the traceback)"
            validation = validate(raw, max_body_bytes=self.connection.client.app.fibo_settings.max_body_bytes)
            self.dead_letter(DeadLetter.now(reason, raw, queue=queue, task=validation.task, id=validation.id))
            if self.qos.last_unacked is not None:
                self.qos.ack(self.qos.last_unacked)

    def _deliver_task(self, queue: str, key: str, raw: bytes) -> None:
        app: Celery = self.connection.client.app
        self.qos.last_unacked = None
        validation = validate(raw, max_body_bytes=app.fibo_settings.max_body_bytes)
        payload = validation.payload
        if payload is None:
            self.dead_letter(
                DeadLetter.now(validation.reason or "", raw, queue=queue, task=validation.task, id=validation.id)
            )
            return
        if losses(payload) >= MAX_LOSSES:
            reason = f"the worker that had it was lost {MAX_LOSSES} times"
            raw = without_losses(payload)
            dead_letter = DeadLetter.now(reason, raw, queue=queue, task=validation.task, id=validation.id)
            self.dead_letter(dead_letter, error=WorkerLostError(reason))
            return
        properties = payload["properties"]
        # The tag is the key under which an unacked message is restored: two messages with one tag would share it, so
        # each gets its own here. And a message must be restored to the queue that it came from.
        properties["delivery_tag"] = str(uuid4())
        info = properties.get("delivery_info")
        info = info if isinstance(info, dict) else {}
        properties["delivery_info"] = {**info, "exchange": "", "routing_key": queue}
        try:
            properties["priority"] = self._get_message_priority(payload)
        except OverflowError:  # An infinite one could not be restored.
            properties["priority"] = 0
        try:
            self.connection._deliver(payload, queue)  # noqa: SLF001 # the channel's own transport, as kombu calls it
        except (redis.RedisError, OSError) as error:
            if self.qos.last_unacked is None:
                # It was popped, and Redis did not write it to the unacked ones: full, read-only, or gone.
                app.fibo_popped.append((key, raw))
                raise redis.ConnectionError(str(error)) from error
            # Celery has settled it, and could not store its result: the result backend is full, or gone.
            _logger.warning("the result of task %.100r could not be stored: %s", validation.id, error)
            self.dead_letter(
                DeadLetter.now(
                    f"its result could not be stored: {error}", raw, queue=queue, task=validation.task, id=validation.id
                )
            )
            self.qos.ack(self.qos.last_unacked)

    def _requeue_popped(self) -> None:
        """Requeue what was popped and not written to the unacked ones, before more is popped."""
        app: Celery = self.connection.client.app
        while app.fibo_popped:
            key, raw = app.fibo_popped[0]
            try:
                redis.Redis(connection_pool=self.pool).rpush(self.global_keyprefix + key, raw)
            except redis.ResponseError as error:
                raise redis.ConnectionError(str(error)) from error  # Celery reconnects, and tries again.
            app.fibo_popped.popleft()

    def _do_restore_message(self, payload: Any, *args: Any, **kwargs: Any) -> None:
        # Any worker on the broker may have written it, also one that validates nothing.
        if self.qos.losing and isinstance(payload, dict) and isinstance(payload.get("properties"), dict):
            payload["properties"][LOSSES] = losses(payload) + 1
        super()._do_restore_message(payload, *args, **kwargs)

    def dead_letter(
        self, dead_letter: DeadLetter, *, error: Exception | None = None, store: Callable[[], object] | None = None
    ) -> None:
        """Dead-letter a message, and then store its failure, so that its caller finds the dead letter.

        Args:
            dead_letter: The message.
            error: The failure. None is an InvalidTaskError with the reason.
            store: Stores the failure in a way of its own.
        """
        app: Celery = self.connection.client.app
        if len(app.fibo_dead_letters) == _BUFFER_SIZE:
            lost = app.fibo_dead_letters.popleft()
            _logger.error(
                "too many messages wait to be dead-lettered; one is lost (task %.100r, id %.100r)", lost.task, lost.id
            )
        app.fibo_dead_letters.append(dead_letter)
        try:
            self._flush_dead_letters()
        finally:  # The broker may be gone; the result backend may be another server.
            if store is None and dead_letter.id is not None:
                failure = error or InvalidTaskError(f"the worker cannot run this message: {dead_letter.reason}")
                store = partial(app.backend.store_result, dead_letter.id, failure, FAILURE)
            if store is not None:
                try:
                    store()
                except Exception:  # The caller waits until its timeout; the worker goes on.
                    _logger.exception("the failure of task %.100r could not be stored", dead_letter.id)

    def _flush_dead_letters(self) -> None:
        """Push the buffered dead letters. While Redis refuses them, they stay, and the worker goes on."""
        app: Celery = self.connection.client.app
        while app.fibo_dead_letters:
            dead_letter = app.fibo_dead_letters[0]
            # Kombu's own client would put the prefix before some of the keys, and not before others.
            client = redis.Redis(connection_pool=self.pool)
            limit = app.fibo_settings.dead_letter_limit
            dead_letters = DeadLetters(client, dead_letter.queue, prefix=self.global_keyprefix, limit=limit)
            try:
                dead_letters.push(dead_letter)
            except redis.ResponseError as refusal:  # full, or read-only: it will take it later
                _logger.error("a message that cannot be run could not be put into %s: %s", dead_letters.key, refusal)  # noqa: TRY400 # it says why; a traceback adds nothing
                return
            app.fibo_dead_letters.popleft()
            app.fibo_metrics.message_dead_lettered(dead_letter.queue)
            _logger.warning(
                "a message of the queue %.200r cannot be run, and is kept in %.200r: %s (task %.100r, id %.100r)",
                *(dead_letter.queue, dead_letters.key, dead_letter.reason, dead_letter.task, dead_letter.id),
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


class _RedisChannel(_ValidatingChannel):
    pass


class _SentinelChannel(_ValidatingChannel, SentinelChannel):
    pass


# Celery would end at these, because kombu counts them as errors of a channel. A server raises them that will take the
# command later, or that is no longer the master: reconnecting with back-off helps.
_TEMPORARY_ERRORS: Final = (redis.exceptions.OutOfMemoryError, redis.ReadOnlyError, redis.exceptions.MasterDownError)


class _RedisTransport(Transport):
    Channel = _RedisChannel
    connection_errors = (*Transport.connection_errors, *_TEMPORARY_ERRORS)


class _SentinelTransport(SentinelTransport):
    Channel = _SentinelChannel
    connection_errors = (*SentinelTransport.connection_errors, *_TEMPORARY_ERRORS)


_VALIDATING: Final[dict[type, type]] = {Transport: _RedisTransport, SentinelTransport: _SentinelTransport}


class _ValidatingConnection(Connection):
    """A connection with a validating transport. Its URL still chooses which, also after a failover."""

    app: Celery

    def get_transport_cls(self) -> type:
        found: type = super().get_transport_cls()
        return _VALIDATING.get(found, found)


class _ValidatingAMQP(AMQP):
    """Makes a Celery app's connections validating ones."""

    @cached_property
    def Connection(self) -> type[_ValidatingConnection]:  # noqa: N802 - Celery's name
        """The class of the connections. It knows the app, so that clones do, too."""
        return type("ValidatingConnection", (_ValidatingConnection,), {"app": self.app})


def add_buffers(app: Celery) -> None:
    """Give an app the buffers for what Redis refuses at the moment: dead letters, and popped messages to requeue.

    Args:
        app: The app.
    """
    app.fibo_dead_letters = deque(maxlen=_BUFFER_SIZE)
    app.fibo_popped = deque(maxlen=_BUFFER_SIZE)
