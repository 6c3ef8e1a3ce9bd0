"""Kombu's Redis transport, which validates every message before Celery sees it.

It dead-letters a message that cannot be run, and stores its failure at once if the message has an id. The rest is
kombu's. Every app with `_ValidatingAMQP` uses this transport, whatever starts the app and whatever its URLs are.
"""

from __future__ import annotations

import logging
from functools import cache, cached_property, partial
from queue import Empty
from time import time
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import redis
from billiard.exceptions import WorkerLostError
from celery.app.amqp import AMQP
from celery.exceptions import InvalidTaskError
from celery.states import FAILURE
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport.redis import Channel, QoS, Transport
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from fibo_worker.guard.connections import (
    TEMPORARY_ERRORS,
    BoundedChannel,
    BoundedConnection,
    BoundedTransport,
    RefusedError,
)
from fibo_worker.guard.dead_letter_buffer import is_closing
from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters
from fibo_worker.guard.poison_limit import LOSSES, MAX_LOSSES, losses, without_losses
from fibo_worker.guard.server_clock import ServerClock
from fibo_worker.guard.started import mark_key
from fibo_worker.guard.validation import Validation, validate, validate_broadcast

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["guarded_amqp"]

_logger: Final = logging.getLogger(__name__)

_REPLY_SUFFIX: Final = ".reply.celery.pidbox"
"""The suffix of the queues for replies to remote control."""

_REPLY_TTL: Final = 300_000
"""Milliseconds for which a reply to remote control is kept: as long as Celery keeps the question, by default."""

_LARGE: Final = 1024 * 1024  # A message of so many bytes may be the reason why Redis closes the connection.
_TRIES: Final = 3


class _UnrecordableError(Exception):
    """Redis cannot record a message as taken, since it closes the connection over it."""


class _LossCountingQoS(QoS):
    """Counts in each message how often it was lost after its task had started, by the clock of the Redis server.

    A requeue, or a restore at shutdown, does not count.
    """

    losing: bool = False
    """Whether the message that is being restored was lost."""
    last_unacked: str | None = None
    """The delivery tag that was last written to Redis's unacked messages."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clock = ServerClock()
        self._lost: set[str] = set()
        self._sweeping = False
        """Whether messages are being restored whose worker has not renewed them."""
        self._unsettled: dict[str, Callable[[], None]] = {}
        """By delivery tag, the acknowledgements and rejections that Redis refused."""

    def append(self, message: Any, delivery_tag: str) -> None:
        # Kombu's own, but for the time: by this machine's clock, other workers could take the message for lost.
        info = message.delivery_info
        with self.channel.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: self._clock.now(client)})
            pipe.hset(
                self.unacked_key,
                delivery_tag,
                # Workers restore what is in here, so it is what kombu's own `append` writes.
                dumps([message._raw, info["exchange"], info["routing_key"]]),  # noqa: SLF001 # it has no public name
            )
            pipe.execute()
        super(QoS, self).append(message, delivery_tag)
        self.last_unacked = delivery_tag

    def ack(self, delivery_tag: str) -> None:
        self._settle(delivery_tag, partial(super().ack, delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        self._settle(delivery_tag, partial(super().reject, delivery_tag, requeue=requeue))

    def settle_late(self) -> None:
        """Retry the acknowledgements and rejections that Redis refused, until it refuses again."""
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
        now = self.renew()
        # Kombu subtracts this from this machine's time.
        self.visibility_timeout = self.channel.visibility_timeout + time() - now
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
        delivery_tag = bytes_to_str(tag)
        with self.channel.conn_or_acquire(client) as client:
            self.losing = delivery_tag in self._lost or (self._sweeping and self._has_started(delivery_tag, client))
            try:
                super().restore_by_tag(delivery_tag, client, leftmost)
            finally:
                self.losing = False
        self._lost.discard(delivery_tag)

    def _has_started(self, delivery_tag: str, client: Any) -> bool:
        # Kombu's client adds the prefix to the keys of some commands; GET is not among them.
        return client.get(self.channel.global_keyprefix + mark_key(self.unacked_key, delivery_tag)) is not None

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        return super()._remove_from_indices(delivery_tag, pipe).delete(mark_key(self.unacked_key, delivery_tag))


class _ValidatingChannel(BoundedChannel):
    """The changes to both of kombu's Redis channels. The base class Channel is there for ``super()``."""

    QoS = _LossCountingQoS

    def _brpop_read(self, **options: Any) -> bool:
        # A copy of the base class's method, which differs in how it delivers the item.
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            except redis.ResponseError as error:
                # A demoted master ends a BRPOP with UNBLOCKED. Celery would stop at this error. A ConnectionError makes
                # it reconnect, to the new master.
                if not self.guard.has("refusals"):
                    raise
                self.client.connection.disconnect()
                raise RefusedError(str(error)) from error
            if not reply:
                raise Empty
            key = bytes_to_str(reply[0])
            queue = key.rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self._deliver_item(queue, key, reply[1])
            return True
        finally:
            self._in_poll = None  # type: ignore[assignment] # kombu has a connection here, or False, or None
            if hasattr(self, "_flush_brpop_reauth"):  # since kombu 5.7
                self._flush_brpop_reauth()

    def _brpop_start(self, *args: Any, **kwargs: Any) -> None:
        self._flush_dead_letters()
        self._requeue_popped()
        self.qos.settle_late()
        super()._brpop_start(*args, **kwargs)

    def _deliver_item(self, queue: str, key: str, item: bytes | str) -> None:
        raw = item if isinstance(item, bytes) else item.encode()
        if queue.endswith(_REPLY_SUFFIX):
            try:
                self._hand_on(loads(bytes_to_str(raw)), queue)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                if not self.guard.has("remote-control"):
                    raise
                _logger.warning("ignored a malformed reply to remote control (%s)", type(error).__name__)
            return
        try:
            self._deliver_task(queue, key, raw)
        except (redis.RedisError, OSError):
            raise
        except Exception as error:
            if not self.guard.has("validation"):
                raise
            # Validation has a gap, or Celery has a bug. In any case, the message must not stop the worker.
            _logger.exception("a message of the queue %.200r passed validation, but Celery failed on it", queue)
            reason = f"Celery failed on it ({type(error).__name__}; the worker's log has the traceback)"
            validation = validate(raw, max_body_bytes=self.guard.settings.max_body_bytes)
            self.dead_letter(DeadLetter.now(reason, raw, queue=queue, task=validation.task, id=validation.id))
            if self.qos.last_unacked is not None:
                self.qos.ack(self.qos.last_unacked)

    def _deliver_task(self, queue: str, key: str, raw: bytes) -> None:
        self.qos.last_unacked = None
        if self.guard.has("validation"):
            validation = validate(raw, max_body_bytes=self.guard.settings.max_body_bytes)
        else:
            validation = Validation(loads(raw))
        payload = validation.payload
        if payload is None:
            self.dead_letter(
                DeadLetter.now(validation.reason or "", raw, queue=queue, task=validation.task, id=validation.id)
            )
            return
        if self.guard.has("loss-limit") and losses(payload["properties"]) >= MAX_LOSSES:
            reason = f"the worker that had it was lost {MAX_LOSSES} times"
            raw = without_losses(payload)
            dead_letter = DeadLetter.now(reason, raw, queue=queue, task=validation.task, id=validation.id)
            self.dead_letter(dead_letter, error=WorkerLostError(reason))
            return
        properties = payload["properties"]
        # Kombu restores an unacked message by its tag, to the queue in its delivery_info. A sender could give two
        # messages the same tag, or name another queue, so set both here.
        properties["delivery_tag"] = str(uuid4())
        info = properties.get("delivery_info")
        info = info if isinstance(info, dict) else {}
        properties["delivery_info"] = {**info, "exchange": "", "routing_key": queue}
        try:
            properties["priority"] = self._get_message_priority(payload)
        except OverflowError:  # It is infinite. Kombu could not restore such a message.
            properties["priority"] = 0
        try:
            self._record_and_deliver(payload, queue, raw)
        except _UnrecordableError as error:
            self.qos.ack(properties["delivery_tag"])  # It may have been recorded all the same.
            self.dead_letter(DeadLetter.now(str(error), raw, queue=queue, task=validation.task, id=validation.id))
        except (redis.RedisError, OSError) as error:
            if not self.guard.has("refusals"):
                raise
            if self.qos.last_unacked is None:
                # The message was popped, but Redis did not record it as unacked: it is full, read-only or gone.
                self.guard.popped.append((key, raw))
                kind = RefusedError if isinstance(error, (redis.ResponseError, RefusedError)) else redis.ConnectionError
                raise kind(str(error)) from error
            # Celery settled the message, but could not store its result: the result backend is full or gone.
            _logger.warning("the result of task %.100r could not be stored: %s", validation.id, error)
            self.dead_letter(
                DeadLetter.now(
                    f"its result could not be stored: {error}", raw, queue=queue, task=validation.task, id=validation.id
                )
            )
            self.qos.ack(self.qos.last_unacked)

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        if not queue.endswith(_REPLY_SUFFIX):
            super()._put(queue, message, **kwargs)
            return
        # Whoever asked may have been killed, and would never read it.
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        with self.conn_or_acquire() as client, client.pipeline() as pipeline:
            pipeline.lpush(key, dumps(message))
            pipeline.pexpire(key, _REPLY_TTL)
            pipeline.execute()

    def _hand_on(self, payload: Any, queue: str) -> None:
        # What kombu's own `_brpop_read` does with a message. There is no public way to its consumers.
        self.connection._deliver(payload, queue)  # noqa: SLF001 # the transport's, for its channels

    def _record_and_deliver(self, payload: Any, queue: str, raw: bytes) -> None:
        """Let kombu record a message as taken, and deliver it. Raise _UnrecordableError if it is too large for that."""
        for _ in range(_TRIES):
            try:
                self._hand_on(payload, queue)
            except (redis.RedisError, OSError) as error:
                # What is recorded is a little longer than the message. Near its limit, Redis hangs up over it.
                cause = error.__cause__ if isinstance(error, RefusedError) else error
                if self.qos.last_unacked is not None or len(raw) < _LARGE or not is_closing(cause):
                    raise
                redis.Redis(connection_pool=self.pool).ping()  # It raises if Redis is gone.
            else:
                return
        raise _UnrecordableError(f"Redis closes the connection when its {len(raw)} bytes are to be recorded as taken")

    def _requeue_popped(self) -> None:
        """Requeue the messages that were popped but not recorded as unacked, before popping more."""
        popped = self.guard.popped
        while popped:
            key, raw = popped[0]
            try:
                redis.Redis(connection_pool=self.pool).rpush(self.global_keyprefix + key, raw)
            except redis.ResponseError as error:
                raise RefusedError(str(error)) from error  # Celery reconnects, and tries again.
            popped.popleft()

    def close(self) -> None:
        if not self.closed:
            try:
                self._requeue_popped()
                self.qos.settle_late()
            except (redis.RedisError, OSError) as error:
                _logger.warning("messages that were taken could not be returned yet: %s", error)
        super().close()

    def _do_restore_message(self, payload: Any, *args: Any, **kwargs: Any) -> None:
        # Check the payload: a worker that does not validate may have written it.
        counts = self.qos.losing and self.guard.has("loss-limit")
        if counts and isinstance(payload, dict) and isinstance(payload.get("properties"), dict):
            payload["properties"][LOSSES] = losses(payload["properties"]) + 1
        super()._do_restore_message(payload, *args, **kwargs)

    def dead_letter(
        self, dead_letter: DeadLetter, *, error: Exception | None = None, store: Callable[[], object] | None = None
    ) -> None:
        """Dead-letter a message, and then store its failure, so that a caller who sees the failure finds the message.

        Args:
            dead_letter: The message.
            error: The failure. None is an InvalidTaskError with the reason.
            store: Stores the failure in place of the backend's ``store_result``.
        """
        self.guard.dead_letters.add(dead_letter)
        try:
            self._flush_dead_letters()
        finally:  # Even if the broker is gone: the result backend may be another server.
            if store is None and dead_letter.id is not None:
                failure = error or InvalidTaskError(f"the worker cannot run this message: {dead_letter.reason}")
                store = partial(self.connection.client.app.backend.store_result, dead_letter.id, failure, FAILURE)
            if store is not None:
                try:
                    store()
                except Exception:  # The worker goes on; the caller runs into its timeout.
                    _logger.exception("the failure of task %.100r could not be stored", dead_letter.id)

    def _flush_dead_letters(self) -> None:
        """Push the dead letters that wait. Those that Redis refuses go on waiting, and the worker goes on."""
        self.guard.dead_letters.flush(self._dead_letters, self._report_dead_letter)

    def _dead_letters(self, queue: str) -> DeadLetters:
        settings = self.guard.settings
        return DeadLetters(
            # Not kombu's own client: that adds the prefix to the keys of some commands only.
            redis.Redis(connection_pool=self.pool),
            queue,
            prefix=self.global_keyprefix,
            limit=settings.dead_letter_limit,
            max_bytes=settings.dead_letter_bytes,
            expires=settings.dead_letter_expires,
        )

    def _report_dead_letter(self, dead_letter: DeadLetter, key: str) -> None:
        self.guard.metrics.message_dead_lettered(dead_letter.queue)
        _logger.warning(
            "a message of the queue %.200r cannot be run, and is kept in %.200r: %s (task %.100r, id %.100r)%s",
            *(dead_letter.queue, key, dead_letter.reason, dead_letter.task, dead_letter.id),
            f"; of its {dead_letter.size} bytes, only the first are kept" if dead_letter.is_cut else "",
        )

    def _handle_message(self, client: Any, r: Any) -> Any:
        """Validate what comes by publish/subscribe. Kombu ignores a message without data."""
        message = super()._handle_message(client, r)
        if not self.guard.has("remote-control"):
            return message
        if not message or not message["data"] or not bytes_to_str(message["type"]).endswith("message"):
            return message
        data = message["data"] if isinstance(message["data"], bytes) else message["data"].encode()
        topic = bytes_to_str(message["channel"])
        exchange = (topic.partition(".")[2] if topic.startswith("/") else topic).split("/", 1)[0]
        is_event = exchange == self.connection.client.app.conf.event_exchange
        reason = validate_broadcast(data, max_body_bytes=self.guard.settings.max_body_bytes, event=is_event)
        if reason is not None:
            _logger.warning("ignored a message of remote control or an event on %.200r: %s", exchange, reason)
            message["data"] = b""
        return message

    def _receive_one(self, c: Any) -> Any:
        try:
            return super()._receive_one(c)
        except (redis.RedisError, OSError, Empty):
            raise
        except Exception as error:
            if not self.guard.has("remote-control"):
                raise
            # Anyone can publish anything there.
            _logger.warning("ignored a message of remote control or an event (%s)", type(error).__name__)
            return None


_LATE_ERRORS: Final = (redis.ResponseError, redis.ConnectionError, redis.TimeoutError)
"""Redis refuses what it may accept later, or that connection was lost in silence, and others may be had."""


class _ValidatingTransport(BoundedTransport):
    """The changes to kombu's Redis transports, beside their channels."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        interval = connection.client.transport_options["unacked_restore_interval"]
        if not hasattr(Channel, "unacked_restore_interval") and interval < 10:
            # Kombu 5.5 and 5.6 do not know the option, and look every ten seconds.
            poller: Any = self.cycle
            loop.call_repeatedly(interval, poller.maybe_restore_messages)


@cache
def _validating(found: type, *, refusals: bool) -> type:
    """Make a transport validate, if it is kombu's for Redis, that for its Sentinels, or derives from one of these."""
    if not issubclass(found, Transport):
        return found
    channel = found.Channel
    return type(
        found.__name__,
        (_ValidatingTransport, found),
        {
            "Channel": type(
                channel.__name__,
                (_ValidatingChannel, channel),
                {"QoS": type(channel.QoS.__name__, (_LossCountingQoS, channel.QoS), {})},
            ),
            "connection_errors": (*found.connection_errors, *(TEMPORARY_ERRORS if refusals else ())),
        },
    )


class _ValidatingConnection(BoundedConnection):
    """A connection that replaces the transport of its URL with the validating one, also after a failover."""

    def __init__(self, *args: Any, **params: Any) -> None:
        super().__init__(*args, **params)
        if issubclass(self.get_transport_cls(), Transport):
            given = self.transport_options or {}
            timeout = given.get("visibility_timeout", Channel.visibility_timeout)
            interval = min(10.0, timeout / 10)
            self.transport_options = {
                # By default, kombu looks for lost tasks only every tenth time, that is every 100 seconds.
                "unacked_restore_interval": interval,
                "unacked_restore_throttle": 1,
                # A worker that is killed while it looks keeps the others from looking for so long: by default, 300 s.
                "unacked_mutex_expire": interval,
                **given,
            }

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:  # noqa: N802 - kombu's name
        return _ValidatingPool(self, limit, **kwargs)

    def get_transport_cls(self) -> type:
        return _validating(super().get_transport_cls(), refusals=self.app.fibo_guard.has("refusals"))


@cache
def _pooled(found: type) -> type:
    return type(found.__name__, (PooledConnection, found), {})


class _ValidatingPool(ConnectionPool):
    """A pool of validating connections, from which the replies to remote control, say, are sent."""

    def new(self) -> Any:
        # Kombu makes a connection of its own class here, whatever that of the pool's first connection is.
        found: Any = type(self.connection)
        return _pooled(found)(self, **self.connection.info())


class _ValidatingAMQP(AMQP):
    """Gives a Celery app validating connections."""

    @cached_property
    def Connection(self) -> type[_ValidatingConnection]:  # noqa: N802 - Celery's name
        """The class of the connections. The app is a class attribute, so that clones have it, too."""
        found = super().Connection
        bases = (_ValidatingConnection,) if found is Connection else (_ValidatingConnection, found)
        return type(found.__name__, bases, {"app": self.app})


def guarded_amqp(found: type) -> type:
    """Let the AMQP class of an app, Celery's or one of its own, give it validating connections."""
    return _ValidatingAMQP if found is AMQP else type(found.__name__, (_ValidatingAMQP, found), {})
