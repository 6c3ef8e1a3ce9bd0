"""Kombu's Redis transport, which validates every message before Celery sees it.

It dead-letters a message that cannot be run, and stores its failure at once if the message has an id. The rest is
kombu's. Every app with `_ValidatingAMQP` uses this transport, whatever starts the app and whatever its URLs are.
"""

from __future__ import annotations

import logging
from functools import cache, cached_property, partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

import redis
from billiard.exceptions import WorkerLostError
from celery.app.amqp import AMQP
from celery.exceptions import InvalidTaskError
from celery.states import FAILURE
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.transport.redis import Channel, Transport
from kombu.transport.virtual import Message
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from fibo_worker.guard.connections import (
    TEMPORARY_ERRORS,
    BoundedConnection,
    BoundedTransport,
    RefusedError,
)
from fibo_worker.guard.dead_letter_buffer import is_closing
from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters
from fibo_worker.guard.fetching import FetchingChannel
from fibo_worker.guard.poison_limit import LOSSES, MARKED, MAX_LOSSES, losses, without_losses
from fibo_worker.guard.qos import LossCountingQoS
from fibo_worker.guard.validation import Validation, validate, validate_broadcast

if TYPE_CHECKING:
    from collections.abc import Callable

    from fibo_worker.guard.unacked import Taken


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


class _Message(Message):
    """A message whose body may be decoded already."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel=channel, **options)
        self._decoded_cache = channel.decoded  # what kombu keeps there after the first use of the payload


class _ValidatingChannel(FetchingChannel):
    """The changes to both of kombu's Redis channels. The base class Channel is there for ``super()``."""

    QoS = LossCountingQoS
    Message = _Message
    decoded: Any = None
    """The body of the message that is being delivered, if it is decoded already."""

    def _brpop_read(self, **options: Any) -> bool:
        if self._fetch is not None:
            return self._read_fetch(self._fetch)
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
            self._end_poll()

    def _brpop_start(self, *args: Any, **kwargs: Any) -> None:
        self._forget_fetch()
        self._flush_dead_letters()
        self._requeue_popped()
        self._restore_unread()
        if self.has_more and self._takes and self.qos.has_scripts:
            self._start_fetch()
            return
        self.qos.settle_late()
        super()._brpop_start(*args, **kwargs)

    def _deliver_item(self, queue: str, key: str, item: bytes | str, taken: Taken | None = None) -> None:
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
            self._deliver_task(queue, key, raw, taken)
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

    def _deliver_task(self, queue: str, key: str, raw: bytes, taken: Taken | None) -> None:
        """Deliver a message, which may be recorded in Redis as taken already."""
        tag = taken.tag if taken else None
        self.qos.last_unacked = self.qos.recorded = tag
        if self.guard.has("validation"):
            validation = validate(raw, max_body_bytes=self.guard.settings.max_body_bytes)
        else:
            validation = Validation(loads(raw))
        payload = validation.payload
        if payload is None:
            self.dead_letter(
                DeadLetter.now(validation.reason or "", raw, queue=queue, task=validation.task, id=validation.id)
            )
            if tag is not None:
                self.qos.forget(tag)
            return
        if self.guard.has("loss-limit") and losses(payload["properties"]) >= MAX_LOSSES:
            reason = f"the worker that had it was lost {MAX_LOSSES} times"
            raw = without_losses(payload)
            dead_letter = DeadLetter.now(reason, raw, queue=queue, task=validation.task, id=validation.id)
            self.dead_letter(dead_letter, error=WorkerLostError(reason))
            if tag is not None:
                self.qos.forget(tag)
            return
        # Kombu restores an unacked message by its tag. A sender could give two messages the same one.
        (properties := payload["properties"])["delivery_tag"] = tag or self.qos.tags.make(1)[0]
        self._normalize(payload, queue)
        self.qos.starts = (taken.marked if taken else self._starting(1) > 0) and self._starts(payload)
        if taken and taken.marked and not self.qos.starts:
            self.qos.unmark(taken.tag)
        self.decoded = validation.body
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
        finally:
            self.decoded = None

    def _normalize(self, payload: dict[str, Any], queue: str) -> None:
        """Let kombu restore a message, and to the queue that it came from: the sender may have named another."""
        properties = payload["properties"]
        properties.pop(MARKED, None)
        info = properties.get("delivery_info")
        info = info if isinstance(info, dict) else {}
        properties["delivery_info"] = {**info, "exchange": "", "routing_key": queue}
        try:
            properties["priority"] = self._get_message_priority(payload)
        except OverflowError:  # It is infinite.
            properties["priority"] = 0

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
                self._restore_unread()
                self.qos.settle_late()
                if isinstance(self.qos, LossCountingQoS):
                    self.qos.flush(wait=True)
            except (redis.RedisError, OSError) as error:
                _logger.warning("messages that were taken could not be returned yet: %s", error)
            if isinstance(self.qos, LossCountingQoS):
                self.qos.give_back_unrecorded()
        super().close()

    def _do_restore_message(self, payload: Any, exchange: Any, routing_key: Any, *args: Any, **kwargs: Any) -> None:
        # Check the payload: a worker that does not validate may have written it, or one that had not done so yet.
        if isinstance(payload, dict) and isinstance(payload.get("properties"), dict):
            if exchange == "" and isinstance(routing_key, str):
                self._normalize(payload, routing_key)
            if self.qos.losing and self.guard.has("loss-limit"):
                payload["properties"][LOSSES] = losses(payload["properties"]) + 1
        super()._do_restore_message(payload, exchange, routing_key, *args, **kwargs)

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
                {"QoS": type(channel.QoS.__name__, (LossCountingQoS, channel.QoS), {})},
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
