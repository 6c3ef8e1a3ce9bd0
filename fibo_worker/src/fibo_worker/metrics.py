"""A worker's metrics for Prometheus, served by HTTP from its main process.

The main process sees the end of each task, whatever the pool. What it tells is counted where it is told; how long the
queues are is asked of Redis when somebody scrapes, by a thread that a scrape waits for a second at most.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis
from celery import bootsteps
from celery.signals import task_revoked, task_unknown, worker_process_init
from celery.worker import state as worker_state

from fibo_client.errors import ConfigError
from fibo_worker.dead_letters import DeadLetters
from fibo_worker.meter import Meter

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.process_collector import ProcessCollector
except ModuleNotFoundError as _error:
    raise ConfigError(
        "FIBO_METRICS_PORT and --metrics-port need prometheus-client; get it with: pip install 'fibo-worker[metrics]'"
    ) from _error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery
    from prometheus_client.metrics_core import Metric

__all__ = ["PrometheusMeter", "explain", "expose"]

_logger: Final = logging.getLogger(__name__)

PATIENCE: Final = 1.0
"""Seconds that a scrape waits for Redis. Metrics that Redis has not given by then are left out of it."""

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

UNKNOWN: Final = "(not registered)"
"""In place of the name of a task that this worker does not know: anybody can make up any number of those."""


class PrometheusMeter(Meter):
    """Counts for Prometheus.

    Args:
        registry: Where the metrics are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tasks = Counter(
            "fibo_worker_tasks",
            "Tasks that ended on this worker, by Celery's state; LOST if the process that ran one was lost.",
            ["task", "state"],
            registry=registry,
        )
        self._durations = Histogram(
            "fibo_worker_task_duration_seconds",
            "How long tasks ran, whatever became of them.",
            ["task"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._letters = Counter(
            "fibo_worker_dead_letters",
            "Messages that this worker put aside because they cannot be run.",
            ["queue"],
            registry=registry,
        )

    def expect(self, tasks: Iterable[str], queues: Iterable[str]) -> None:
        """Begin at zero, so that the first one already shows as a rise.

        Args:
            tasks: The names of tasks.
            queues: The names of queues.
        """
        for task in tasks:
            for state in ("SUCCESS", "FAILURE"):
                self._tasks.labels(task, state)
            self._durations.labels(task)
        for queue in queues:
            self._letters.labels(queue)

    def task_ended(self, task: str, state: str, seconds: float | None) -> None:
        """See `Meter.task_ended`."""
        if seconds is not None:
            self._durations.labels(task).observe(seconds)
        self._tasks.labels(task, state).inc()

    def letter_buried(self, queue: str) -> None:
        """See `Meter.letter_buried`."""
        self._letters.labels(queue).inc()


class _Length(NamedTuple):
    """What a queue holds.

    Attributes:
        queue: The queue's name.
        priority: The priority of the list.
        waiting: The messages in it.
    """

    queue: str
    priority: int
    waiting: int


class _Lengths(NamedTuple):
    """What Redis says: how many messages wait, and how many are kept as dead letters."""

    waiting: list[_Length]
    dead: dict[str, int]


class _Reading(threading.Thread):
    """One attempt to ask Redis. Those who scrape meanwhile share it."""

    def __init__(self, app: Celery) -> None:
        super().__init__(name="fibo-metrics-lengths", daemon=True)
        self._app = app
        self.found: _Lengths | None = None

    def run(self) -> None:
        try:
            self.found = _read(self._app)
        except Exception as error:  # noqa: BLE001 - the metrics are left out; the worker itself says what is wrong
            _logger.debug("the length of the queues could not be read: %s", error)


def _read(app: Celery) -> _Lengths:
    names = list(app.amqp.queues.consume_from)
    limits = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE}
    with app.connection_for_read(transport_options=limits) as connection, connection.channel() as channel:
        # Kombu's own client would put the prefix before some of the keys, and not before others.
        client = redis.Redis(connection_pool=channel.pool)
        prefix, steps = channel.global_keyprefix, channel.priority_steps
        dead = [DeadLetters(client, name, prefix=prefix).key for name in names]
        with client.pipeline(transaction=False) as pipeline:
            for name in names:
                for step in steps:
                    pipeline.llen(prefix + channel._q_for_pri(name, step))  # noqa: SLF001 # kombu's spelling of it
            for key in dead:
                pipeline.llen(key)
            counts = iter(pipeline.execute())
    waiting = [_Length(name, step, next(counts)) for name in names for step in steps]
    return _Lengths(waiting, dict(zip(names, counts, strict=True)))


class _LengthCollector:
    """Asks Redis how long the queues are, once for all who want to know at the same time.

    Args:
        app: The app, whose broker and queues they are.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._reading: _Reading | None = None

    def describe(self) -> list[Metric]:
        """Say beforehand which metrics there are: none is asked for when this is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the metrics, or none where Redis does not answer in time."""
        with self._lock:
            if self._reading is None or not self._reading.is_alive():
                self._reading = _Reading(self._app)
                self._reading.start()
            reading = self._reading
        reading.join(PATIENCE)
        if reading.found is None:
            return
        waiting = GaugeMetricFamily(
            "fibo_worker_queue_messages",
            "Messages that wait in a queue, by priority. Every worker of the queue says the same.",
            labels=["queue", "priority"],
        )
        for queue, priority, count in reading.found.waiting:
            waiting.add_metric([queue, str(priority)], count)
        yield waiting
        kept = GaugeMetricFamily(
            "fibo_worker_dead_letters_kept",
            "Dead letters that are kept beside a queue. Every worker of the queue says the same.",
            labels=["queue"],
        )
        for queue, count in reading.found.dead.items():
            kept.add_metric([queue], count)
        yield kept


class _Exposition(bootsteps.StartStopStep):
    """The part of a worker that serves its metrics, from its start to its end."""

    name = "fibo-metrics"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._server: Any = None
        self._thread: threading.Thread | None = None

    def start(self, worker: Any) -> None:
        """Begin to serve.

        Args:
            worker: The worker.

        Raises:
            SystemExit: It cannot listen there. The log says why.
        """
        app = worker.app
        settings = app.fibo_settings
        registry = CollectorRegistry()
        meter = PrometheusMeter(registry)
        meter.expect([name for name in app.tasks if not name.startswith("celery.")], app.amqp.queues.consume_from)
        running = Gauge("fibo_worker_tasks_running", "Tasks that this worker runs at present.", registry=registry)
        running.set_function(lambda: len(worker_state.active_requests))
        registry.register(_LengthCollector(app))
        ProcessCollector(registry=registry)
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        try:
            self._server, self._thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
        except OSError as error:
            _logger.critical("the metrics cannot be served on %s: %s", where, explain(error))
            raise SystemExit(1) from error
        app.fibo_meter = meter
        task_revoked.connect(self._revoked, weak=False, dispatch_uid=self.name)
        task_unknown.connect(self._unknown, weak=False, dispatch_uid=self.name)
        worker_process_init.connect(self._forked, weak=False, dispatch_uid=self.name)
        self._meter = meter
        _logger.info("metrics are served on http://%s/metrics", where)

    def stop(self, worker: Any) -> None:
        """Stop to serve. Twice is harmless.

        Args:
            worker: The worker.
        """
        if self._server is None:
            return
        worker.app.fibo_meter = Meter()
        for signal in (task_revoked, task_unknown, worker_process_init):
            signal.disconnect(dispatch_uid=self.name)
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()
        self._server = None

    def terminate(self, worker: Any) -> None:
        """Stop to serve, as `stop`: the worker ends without waiting for its tasks.

        Args:
            worker: The worker.
        """
        self.stop(worker)

    def _revoked(self, sender: Any = None, **_: Any) -> None:
        self._meter.task_ended(sender.name, "REVOKED", None)

    def _unknown(self, **_: Any) -> None:
        self._meter.task_ended(UNKNOWN, "FAILURE", None)

    def _forked(self, **_: Any) -> None:
        # In a process of the pool: it has a copy of the socket, on which nobody would answer.
        self._server.socket.close()


def expose(app: Celery) -> None:
    """Have the workers of an app serve their metrics, where its settings say.

    Args:
        app: The app.
    """
    app.steps["worker"].add(_Exposition)


def explain(error: OSError) -> str:
    """Say why a port cannot be listened on, and what to do.

    Args:
        error: The system's error.

    Returns:
        The reason.
    """
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; each worker needs one of its own (--metrics-port, FIBO_METRICS_PORT)"
    if error.errno == errno.EADDRNOTAVAIL or not isinstance(error.errno, int) or error.errno < 0:
        return f"this machine has no such address ({error.strerror}); --metrics-host and FIBO_METRICS_HOST name it"
    return error.strerror or str(error)
