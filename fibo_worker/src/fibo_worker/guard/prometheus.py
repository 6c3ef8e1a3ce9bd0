"""A worker's metrics for Prometheus, served by HTTP from its main process.

With any pool, the main process sees the end of each task, and counts it. At each scrape, a thread reads the lengths of
the queues from Redis; the scrape waits for it for a second at most.
"""

from __future__ import annotations

import errno
import logging
import threading
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import redis
from celery import bootsteps
from celery.exceptions import ImproperlyConfigured
from celery.signals import task_revoked, task_unknown, worker_process_init
from celery.worker import state as worker_state
from kombu.exceptions import OperationalError

from fibo_worker.guard.dead_letters import DeadLetters
from fibo_worker.guard.metrics import Metrics
from fibo_worker.guard.metrics_server import MetricsServer

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.process_collector import ProcessCollector
except ModuleNotFoundError as _error:
    raise ImproperlyConfigured(
        "FIBO_METRICS_PORT and --metrics-port need prometheus-client; get it with: pip install 'fibo-worker[metrics]'"
    ) from _error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from celery import Celery
    from prometheus_client.metrics_core import Metric

__all__ = ["PrometheusMetrics", "explain", "expose"]

_logger: Final = logging.getLogger(__name__)

REDIS_TIMEOUT: Final = 1.0
"""Seconds that a scrape waits for Redis. After that, it leaves out the metrics of the queues."""

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

UNKNOWN: Final = "(not registered)"
"""The label of every task that this worker does not know. Senders could invent any number of names."""


class PrometheusMetrics(Metrics):
    """Counts a worker's events in a registry of Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tasks = Counter(
            "fibo_worker_tasks",
            "Tasks that ended on this worker, by Celery's state; LOST if the task's process was lost.",
            ["task", "state"],
            registry=registry,
        )
        self._durations = Histogram(
            "fibo_worker_task_duration_seconds",
            "How long tasks ran, whatever their outcome.",
            ["task"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._dead_letters = Counter(
            "fibo_worker_dead_letters",
            "Messages that this worker could not run and dead-lettered.",
            ["queue"],
            registry=registry,
        )

    def initialize_labels(self, tasks: Iterable[str], queues: Iterable[str]) -> None:
        """Start the counters of these tasks and queues at zero, so that Prometheus sees their first increase."""
        for task in tasks:
            for state in ("SUCCESS", "FAILURE"):
                self._tasks.labels(task, state)
            self._durations.labels(task)
        for queue in queues:
            self._dead_letters.labels(queue)

    def task_ended(self, task: str, state: str, seconds: float | None) -> None:
        """See `Metrics.task_ended`."""
        if seconds is not None:
            self._durations.labels(task).observe(seconds)
        self._tasks.labels(task, state).inc()

    def message_dead_lettered(self, queue: str) -> None:
        """See `Metrics.message_dead_lettered`."""
        self._dead_letters.labels(queue).inc()


class _Length(NamedTuple):
    """The length of one Redis list of a queue, which has one for each priority."""

    queue: str
    priority: int
    waiting: int


class _Lengths(NamedTuple):
    """The lengths of all queues, and the number of dead letters by queue."""

    waiting: list[_Length]
    dead: dict[str, int]


class _Reading(threading.Thread):
    """One attempt to read the lengths, which concurrent scrapes share."""

    def __init__(self, app: Celery) -> None:
        super().__init__(name="fibo-metrics-lengths", daemon=True)
        self._app = app
        self.found: _Lengths | None = None

    def run(self) -> None:
        try:
            self.found = _read(self._app)
        except (OperationalError, redis.RedisError, OSError) as error:  # The worker itself logs the outage.
            _logger.debug("could not read the lengths of the queues: %s", error)


def _read(app: Celery) -> _Lengths:
    names = list(app.amqp.queues.consume_from)
    limits = {"socket_timeout": REDIS_TIMEOUT, "socket_connect_timeout": REDIS_TIMEOUT}
    with app.connection_for_read(transport_options=limits) as connection, connection.channel() as channel:
        # Not kombu's own client: that adds the prefix to the keys of some commands only.
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
    """Reads the lengths of an app's queues from Redis, once for all concurrent scrapes."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._reading: _Reading | None = None

    def describe(self) -> list[Metric]:
        """Describe no metrics, so that the registry does not call `collect` to find out."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, or none if Redis does not answer in time."""
        with self._lock:
            if self._reading is None or not self._reading.is_alive():
                self._reading = _Reading(self._app)
                self._reading.start()
            reading = self._reading
        reading.join(REDIS_TIMEOUT)
        if reading.found is None:
            return
        waiting = GaugeMetricFamily(
            "fibo_worker_queue_messages",
            "Messages that wait in a queue, by priority. Every worker of the queue reports the same.",
            labels=["queue", "priority"],
        )
        for queue, priority, count in reading.found.waiting:
            waiting.add_metric([queue, str(priority)], count)
        yield waiting
        kept = GaugeMetricFamily(
            "fibo_worker_dead_letters_kept",
            "Dead letters that are kept beside a queue. Every worker of the queue reports the same.",
            labels=["queue"],
        )
        for queue, count in reading.found.dead.items():
            kept.add_metric([queue], count)
        yield kept


class _Exposition(bootsteps.StartStopStep):
    """The bootstep that serves the metrics while the worker runs."""

    name = "fibo-metrics"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._server: MetricsServer | None = None

    def start(self, worker: Any) -> None:
        """Serve the metrics. Raise SystemExit, after a line in the log, if the address cannot be used."""
        app = worker.app
        settings = app.fibo_guard.settings
        registry = CollectorRegistry()
        metrics = PrometheusMetrics(registry)
        metrics.initialize_labels(
            [name for name in app.tasks if not name.startswith("celery.")], app.amqp.queues.consume_from
        )
        running = Gauge("fibo_worker_tasks_running", "Tasks that this worker runs at present.", registry=registry)
        running.set_function(lambda: len(worker_state.active_requests))
        registry.register(_LengthCollector(app))
        ProcessCollector(registry=registry)
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        try:
            self._server = MetricsServer(settings.metrics_host, settings.metrics_port, make_wsgi_app(registry))
        except OSError as error:
            _logger.critical("the metrics cannot be served on %s: %s", where, explain(error))
            raise SystemExit(1) from error
        app.fibo_guard.metrics = metrics
        task_revoked.connect(self._revoked, weak=False, dispatch_uid=self.name)
        task_unknown.connect(self._unknown, weak=False, dispatch_uid=self.name)
        worker_process_init.connect(self._forked, weak=False, dispatch_uid=self.name)
        self._metrics = metrics
        _logger.info("metrics are served on http://%s/metrics", where)

    def stop(self, worker: Any) -> None:
        """Stop serving. A second call does nothing."""
        if self._server is None:
            return
        worker.app.fibo_guard.metrics = Metrics()
        for signal in (task_revoked, task_unknown, worker_process_init):
            signal.disconnect(dispatch_uid=self.name)
        self._server.close()
        self._server = None

    def terminate(self, worker: Any) -> None:
        """Stop serving, when the worker ends without waiting for its tasks."""
        self.stop(worker)

    def _revoked(self, sender: Any = None, **_: Any) -> None:
        self._metrics.task_ended(sender.name, "REVOKED", None)

    def _unknown(self, **_: Any) -> None:
        self._metrics.task_ended(UNKNOWN, "FAILURE", None)

    def _forked(self, **_: Any) -> None:
        if self._server is not None:
            self._server.abandon()


def expose(app: Celery) -> None:
    """Let an app's worker serve its metrics on the address in the app's settings."""
    app.steps["worker"].add(_Exposition)


def explain(error: OSError) -> str:
    """Explain why a worker cannot listen on its port, with a hint."""
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; each worker needs one of its own (--metrics-port, FIBO_METRICS_PORT)"
    if error.errno == errno.EADDRNOTAVAIL or not isinstance(error.errno, int) or error.errno < 0:
        return f"this machine has no such address ({error.strerror}); --metrics-host and FIBO_METRICS_HOST name it"
    return error.strerror or str(error)
