"""Bound every operation on a connection to Redis, so that a connection that is lost in silence stops nothing.

A firewall, a load balancer or the switch of a virtual address can forget a connection and tell neither side. Whoever
waits for an answer on it then waits for ever: by default, kombu and Celery set no timeout there, or one of minutes.
"""

from __future__ import annotations

import logging
import socket
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

import redis
from celery import current_task
from celery.exceptions import ImproperlyConfigured
from kombu.connection import Connection
from kombu.transport.redis import Channel, MultiChannelPoller, Transport
from kombu.utils.encoding import bytes_to_str
from kombu.utils.eventio import READ, poll

from fibo_worker.guard.event_loop import LeanHub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from celery import Celery

    from fibo_worker.guard.guard import Guard

_logger: Final = logging.getLogger(__name__)

__all__ = [
    "TEMPORARY_ERRORS",
    "BoundedChannel",
    "BoundedConnection",
    "BoundedTransport",
    "RefusedError",
    "keepalive",
    "start_worker",
]

# Kombu counts these as channel errors, at which Celery stops. But such a server will accept the command later, or is no
# longer the master. As connection errors, they make Celery reconnect.
TEMPORARY_ERRORS: Final = (redis.exceptions.OutOfMemoryError, redis.ReadOnlyError, redis.exceptions.MasterDownError)


class RefusedError(redis.ConnectionError):
    """Redis refused a command, because a key has a wrong type, say. The worker reconnects until Redis accepts it."""


_KEEPALIVE: Final = (("TCP_KEEPIDLE", 10), ("TCP_KEEPALIVE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""A dead peer is noticed after 25 seconds. TCP_KEEPALIVE is what macOS calls TCP_KEEPIDLE."""

_CHECK_INTERVAL: Final = 1.0
"""Seconds between two looks for overdue answers."""

_SILENCE: Final = 30.0
"""Seconds for which a worker that has to end does not ask a Redis again that did not answer."""

_SCHEMES: Final = ("redis", "rediss", "redis+socket", "sentinel")
_TRUE: Final = ("1", "true", "t", "yes", "y", "on")
_FALSE: Final = ("0", "false", "f", "no", "n", "off")


def _truth(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(text)
    return text.lower() in _TRUE


_URL_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "socket_keepalive": _truth,
    "health_check_interval": float,
    "retry_on_timeout": _truth,
    "max_connections": int,
    "client_name": str,
}
"""What redis-py, and so Celery's result backend, reads from a URL, and kombu from its transport options alone."""

_KOMBUS_URL_OPTIONS: Final = ("connect_timeout", "heartbeat", "insist", "login_method")
"""What kombu itself reads from a URL. For other options than these and TLS's, it raises a TypeError."""


def keepalive() -> dict[int, int]:
    """Return the socket options of a tight keepalive, as far as this platform has them."""
    return {getattr(socket, name): seconds for name, seconds in _KEEPALIVE if hasattr(socket, name)}


def _without_options(url: Any, options: dict[str, Any]) -> Any:
    """Take what kombu does not read out of a Redis URL, or out of each of several. The first of a kind wins.

    Args:
        url: A URL, several with semicolons between, a list of them, or a host's name.
        options: Receives what was taken out.

    Returns:
        The same without these options.

    Raises:
        ImproperlyConfigured: An option is unknown, or its value is wrong. The message does not contain the value.
    """
    if isinstance(url, (list, tuple)):
        return [_without_options(each, options) for each in url]
    if not isinstance(url, str):
        return url
    if ";" in url:
        return ";".join(_without_options(each, options) for each in url.split(";"))
    scheme = url.partition("://")[0]
    address, question_mark, query = url.partition("?")
    if scheme not in _SCHEMES or not question_mark:
        return url
    left = []
    for piece in query.split("&"):
        name, _, text = piece.partition("=")
        if name in _URL_OPTIONS:
            try:
                options.setdefault(name, _URL_OPTIONS[name](unquote_plus(text)))
            except ValueError:
                raise ImproperlyConfigured(f"the option {name} in the URL of the broker has a wrong value") from None
        elif scheme == "redis+socket" or name.startswith("ssl_") or name in _KOMBUS_URL_OPTIONS or not name:
            left.append(piece)
        else:
            known = ", ".join((*_URL_OPTIONS, "ssl_*"))
            raise ImproperlyConfigured(f"the URL of the broker has an unknown option; known are: {known}")
    return f"{address}?{'&'.join(left)}" if left else address


class BoundedConnection(Connection):
    """A connection whose every operation on Redis is bounded, unless its URL or its transport options say otherwise."""

    app: Celery

    def __init__(
        self,
        hostname: Any = "localhost",
        *args: Any,
        alternates: Any = None,
        transport_options: Any = None,
        **params: Any,
    ) -> None:
        of_url: dict[str, Any] = {}
        params |= {"alternates": _without_options(alternates, of_url), "transport_options": transport_options}
        super().__init__(_without_options(hostname, of_url), *args, **params)
        if self.app.fibo_guard.has("lost-connections") and issubclass(self.get_transport_cls(), Transport):
            seconds = self.app.fibo_guard.settings.socket_timeout
            self.transport_options: dict[str, Any] = {
                "socket_timeout": seconds,
                "socket_connect_timeout": seconds,
                "socket_keepalive": True,
                "socket_keepalive_options": keepalive(),
                # An idle connection is probed before its next use, and kombu probes those on which it waits.
                "health_check_interval": seconds,
                **of_url,
                **(transport_options or {}),
            }

    def ensure(self, *args: Any, **options: Any) -> Any:
        """Retry as kombu does, but not in the event loop of a worker, which it would hold up until Redis is back."""
        guard = self.app.fibo_guard
        if guard.serving and guard.has("lost-connections") and not current_task:
            # Heartbeats, for one, are sent with retries without end. Celery keeps those that fail, and reconnects.
            options["max_retries"] = 0
        return super().ensure(*args, **options)


_DROPS_SINGLE_ONES: Final = hasattr(MultiChannelPoller, "maybe_check_brpop_health")
"""Whether kombu can replace a single connection that it waits on: from 5.7 on. Before, its event loop stopped polling,
so there the whole consumer reconnects."""

_UNANSWERED: Final = 2
"""How many probes of a subscription may be unanswered, so that an event loop that was busy drops nothing."""


class BoundedPoller(MultiChannelPoller):
    """Notices when an answer is overdue on a connection on which the worker waits, and drops the connection."""

    in_event_loop = False
    has_new_sockets: bool = True
    """Whether this turn of the event loop begins with sockets that the one before had not."""
    _sockets: frozenset[socket.socket] = frozenset()
    _checked_at = 0.0

    def on_poll_start(self) -> None:
        """Ask for messages, as kombu does at each turn of the event loop, and send what waited for that."""
        super().on_poll_start()
        sockets = [sock for channel in self._channels for sock in channel.sockets()]
        self.has_new_sockets = not self._sockets.issuperset(sockets)
        if self.has_new_sockets:
            self._sockets = frozenset((*sockets, *(each for each in self._sockets if each.fileno() >= 0)))
        for channel in self._channels:
            channel.end_turn()

    def check_answers(self) -> None:
        """Look for overdue answers.

        Raises:
            redis.ConnectionError: There is one, and kombu cannot replace single connections. Celery reconnects.
        """
        for channel in list(self._channels):
            if lost := channel.overdue():
                _logger.warning("a connection to Redis was lost in silence: %s", lost)
                for each in self._channels:
                    each.drop_connections()
                if not _DROPS_SINGLE_ONES:
                    raise redis.ConnectionError(f"a connection to Redis was lost in silence: {lost}")

    def maybe_check_brpop_health(self) -> None:
        """Do nothing: `check_answers` does it, sooner, and with every version of kombu."""

    def get(self, callback: Any, timeout: Any = None) -> Any:
        """Wait for a message where there is no event loop. Check first, as the event loop would have done."""
        if monotonic() - self._checked_at >= _CHECK_INTERVAL:
            self._checked_at = monotonic()
            self.check_answers()
            self.maybe_check_subclient_health()
        return super().get(callback, timeout)


class _LeanHub(LeanHub):
    """An event loop that is told again of all sockets when there is a new one, which may have an old one's number."""

    def __init__(self, hub: Any, poller: BoundedPoller) -> None:
        super().__init__(hub)
        self._poller = poller

    def add_reader(self, fd: int, callback: Callable[..., Any], *args: Any) -> None:
        """Wait until a socket can be read."""
        if self._poller.has_new_sockets:
            self._hub.add_reader(fd, callback, *args)
        else:
            super().add_reader(fd, callback, *args)


class BoundedTransport(Transport):
    """A transport that notices overdue answers."""

    cycle: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        connection: Any = self.client
        if connection.app.fibo_guard.has("lost-connections"):
            self.cycle = BoundedPoller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the event loop check for overdue answers, too. The check of a transport that is closed finds nothing."""
        bounded = isinstance(self.cycle, BoundedPoller)
        super().register_with_event_loop(connection, _LeanHub(loop, self.cycle) if bounded else loop)
        if bounded:
            self.cycle.in_event_loop = True
            loop.call_repeatedly(_CHECK_INTERVAL, self.cycle.check_answers)


class BoundedChannel(Channel):
    """A channel that can tell whether an answer is overdue."""

    _sent_at: float | None = None
    _brpop_sent_at: Any  # kombu's own, since 5.7
    _in_poll: Any
    """The connection on which a reply to BRPOP is awaited; else False or None. Kombu has all three."""

    def __init__(self, connection: Any, **options: Any) -> None:
        self.guard: Guard = connection.client.app.fibo_guard
        super().__init__(connection, **options)
        self.guard.channels[id(self)] = self

    def _get_pool(self, asynchronous: bool = False) -> Any:
        if self.connection is None or self.connection.client is None:
            # kombu would raise an AttributeError, which ends the worker: when an error keeps a connection from closing
            # one of its channels, Celery closes the channel once more.
            raise redis.ConnectionError("the connection was closed before")
        return super()._get_pool(asynchronous)

    def _brpop_start(self, *args: Any, **kwargs: Any) -> None:
        self._sent_at = monotonic()
        super()._brpop_start(*args, **kwargs)

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """Give a client. If an answer to it is overdue, the idle connections of this process count as lost, too."""
        if self.guard.stopping and monotonic() - self.guard.lost_at < _SILENCE:
            raise redis.ConnectionError("Redis did not answer just now, and the worker has to end")
        try:
            with super().conn_or_acquire(client) as acquired:
                yield acquired
        except redis.ResponseError as error:
            if isinstance(error, TEMPORARY_ERRORS) or not self.guard.has("refusals"):
                raise
            raise RefusedError(str(error)) from error
        except redis.TimeoutError:
            self.guard.lost_at = monotonic()
            for channel in self.guard.open_channels():
                channel.drop_idle_connections()
            raise

    def end_turn(self) -> None:
        """Do what was left to do until the event loop has called all that it had to call."""

    def wrong_keys(self, queues: Iterable[str]) -> list[str]:
        """Say which keys of these queues, and of all queues together, have a wrong type."""
        exchanges = ("celery.pidbox", "reply.celery.pidbox", "celeryev", *queues)
        types = {self._q_for_pri(queue, step): "list" for queue in queues for step in self.priority_steps}
        types |= {self.unacked_key: "hash", self.unacked_index_key: "zset"}
        types |= {self.keyprefix_queue % exchange: "set" for exchange in exchanges}
        # Not kombu's own client: that adds the prefix to the keys of some commands only.
        with redis.Redis(connection_pool=self.pool).pipeline(transaction=False) as pipeline:
            for key in types:
                pipeline.type(self.global_keyprefix + key)
            found = [bytes_to_str(each) for each in pipeline.execute()]
        return [
            f"the key {self.global_keyprefix + key!r} is a {has}, and must be a {wanted} or not exist"
            for (key, wanted), has in zip(types.items(), found, strict=True)
            if has not in (wanted, "none")
        ]

    @property
    def _brpop_limit(self) -> float:
        """The most seconds that the answer to a BRPOP may take. Before 5.6, kombu has one second as its timeout."""
        return float(getattr(self, "brpop_timeout", 1) + self.health_check_interval)

    def _end_poll(self) -> None:
        """Note that the reply has come, as kombu does at the end of its own `_brpop_read`."""
        self._in_poll = None
        if hasattr(self, "_flush_brpop_reauth"):  # since kombu 5.7
            self._flush_brpop_reauth()

    def overdue(self) -> str | None:
        """Say which answer is overdue: that to BRPOP, or to a probe of the subscription. None is that none is."""
        if not self.health_check_interval:
            return None
        if self._in_poll and self._sent_at is not None:
            # BRPOP has a timeout of its own. By then, an answer comes, even if it is that there is nothing.
            waited = monotonic() - self._sent_at
            if waited > self._brpop_limit and not _is_readable(self._in_poll):
                return f"Redis has not answered a BRPOP for {waited:.0f} seconds"
        subclient = self.__dict__.get("subclient")  # kombu makes it at its first use
        if self._in_listen and subclient is not None and subclient.health_check_response_counter >= _UNANSWERED:
            return f"Redis has not answered {_UNANSWERED} probes of a subscription"
        return None

    def sockets(self) -> list[socket.socket]:
        """Return the sockets on which the event loop waits for answers."""
        waiting: tuple[Any, ...] = (self._in_poll, self._in_listen)
        # redis-py gives no public access to the socket.
        return [sock for each in waiting if each and (sock := each._sock) is not None]  # noqa: SLF001

    def drop_connections(self) -> None:
        """Drop all connections of this channel. They are made anew at their next use."""
        subclient = self.__dict__.get("subclient")
        if subclient is not None:
            subclient.health_check_response_counter = 0
        waiting: tuple[Any, ...] = (self._in_poll, self._in_listen)
        for connection in filter(None, waiting):
            connection.disconnect()
        self._in_poll = self._in_listen = False
        self.drop_idle_connections()

    def drop_idle_connections(self) -> None:
        """Drop those connections of this channel that nobody uses at the moment."""
        if self._pool is not None:
            self._pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close the channel. Do not wait for the answer to a BRPOP for longer than it may take."""
        if self._in_poll and self._sent_at is not None and self.health_check_interval:
            left = self._sent_at + self._brpop_limit - monotonic()
            if not _is_readable(self._in_poll, max(left, 0.0)):
                self.drop_connections()
        super().close()


def _is_readable(connection: Any, timeout: float = 0) -> bool:
    """Tell whether something arrives in some seconds, and leave it where the event loop sees it."""
    poller = poll()
    try:
        # redis-py's `can_read` takes what is there, and the event loop, which kombu registers this with, never sees it.
        poller.register(connection._sock, READ)  # noqa: SLF001 # redis-py gives no public access to the socket
        return bool(poller.poll(timeout))
    except (AttributeError, OSError, TypeError, ValueError):  # It is closed.
        return True
    finally:
        poller.close()


def start_worker(app: Celery) -> None:
    """Note that this process is a worker, which retries to store results. A client wants an error soon."""
    app.fibo_guard.serving = True
    app.conf.maps[-1]["result_backend_always_retry"] = True  # the map of defaults
