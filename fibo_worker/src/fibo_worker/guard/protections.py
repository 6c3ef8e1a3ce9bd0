"""The protections by their names: what each is against, and what it needs to work."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from celery.exceptions import ImproperlyConfigured, SecurityError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from celery import Celery

__all__ = ["PROTECTIONS", "Protection", "check_hooks", "check_names", "check_start"]

PREFORK: Final = frozenset({"prefork"})
ALL_POOLS: Final = frozenset({"prefork", "threads", "solo"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Protection:
    """A protection.

    Attributes:
        name: What `without` calls it.
        against: What happens to a worker without it.
        hooks: What it overrides or calls in Celery and kombu, as ``module:Class.attribute``.
        settings: The values that it needs of Celery's settings.
        pools: The pools with which it works.
        redis: Whether it works with Redis as the broker only.
    """

    name: str
    against: str
    hooks: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    pools: frozenset[str] = ALL_POOLS
    redis: bool = False


def _redis(*names: str) -> tuple[str, ...]:
    return tuple(f"kombu.transport.redis:{name}" for name in names)


_CONNECTING: Final = ("celery.app.amqp:AMQP.Connection", "kombu.connection:Connection.get_transport_cls")

_RECEIVING: Final = _CONNECTING + _redis(
    "Transport._deliver",
    "Channel._brpop_read",
    "Channel._brpop_start",
    "Channel._in_poll",
    "Channel._get_message_priority",
    "Channel.QoS",
    "QoS.append",
    "QoS.ack",
)

_POOL: Final = ("AsynPool._create_write_handlers", "AsynPool.ResultHandler", "ResultHandler._make_process_result")

_ALL: Final = (
    Protection(
        name="validation",
        against="a message that Celery cannot read stops the worker, or makes it reconnect without end",
        hooks=_RECEIVING,
        settings={"accept_content": ["json"]},
        redis=True,
    ),
    Protection(
        name="redelivery",
        against="a task is lost with its process or its worker",
        settings={"task_acks_late": True, "task_reject_on_worker_lost": True},
    ),
    Protection(
        name="cancellation",
        against="a task goes on after a lost connection, while another worker runs it, too",
        hooks=("celery.worker.request:Request.cancel", "celery.worker.consumer:Consumer.update_strategies"),
        settings={"worker_cancel_long_running_tasks_on_connection_loss": True},
        pools=PREFORK,
    ),
    Protection(
        name="loss-limit",
        against="a task that kills its process, or its worker, runs again without end",
        hooks=(
            *_RECEIVING,
            *_redis(
                "Channel._do_restore_message",
                "QoS.reject",
                "QoS.restore_visible",
                "QoS.restore_by_tag",
                "QoS._remove_from_indices",
                "QoS.visibility_timeout",
            ),
            "celery.loaders.base:BaseLoader.on_task_init",
            "celery.worker.request:Request.on_failure",
            "celery.worker.consumer:Consumer.update_strategies",
        ),
        redis=True,
    ),
    Protection(
        name="renewal",
        against="a task that takes or waits longer than the visibility timeout runs twice",
        hooks=_redis("QoS.restore_visible", "QoS._delivered", "QoS._dirty", "Transport.register_with_event_loop"),
        redis=True,
    ),
    Protection(
        name="refusals",
        against="a Redis that is full, read-only, no longer the master, or has a key of a wrong type stops the worker, "
        "or costs messages",
        hooks=(
            *_RECEIVING,
            *_redis("QoS.reject", "QoS._dirty", "Transport.connection_errors", "Channel.conn_or_acquire"),
            "celery.worker.consumer:Consumer.on_connection_error_after_connected",
            "celery.worker.consumer:Consumer.on_connection_error_before_connected",
        ),
        redis=True,
    ),
    Protection(
        name="remote-control",
        against="a command that is malformed, or asks for too much, stops the worker",
        hooks=(
            *_RECEIVING,
            *_redis("Channel._receive_one", "Channel._handle_message", "Channel._put"),
            *(f"kombu.pidbox:Node.{name}" for name in ("handle_message", "dispatch", "handle", "reply")),
            "kombu.pidbox:Mailbox.node_cls",
            "celery.app.control:Control.Mailbox",
            "celery.worker.consumer:Consumer._update_prefetch_count",
            *(f"celery.worker.state:{name}" for name in ("revoked", "revoked_stamps", "requests", "active_requests")),
        ),
        redis=True,
    ),
    Protection(
        name="task-errors",
        against="a MemoryError of a task stops the worker, and one that exits its process is not run again",
        hooks=("celery.worker.request:Request.on_failure", "celery.worker.consumer:Consumer.update_strategies"),
        pools=PREFORK,
    ),
    Protection(
        name="memory-limit",
        against="a task that wants all the memory of the machine gets it",
        hooks=("resource:setrlimit", "celery.signals:worker_process_init"),
        pools=PREFORK,
    ),
    Protection(
        name="lost-connections",
        against="a connection that is lost in silence stops the worker, or costs a result",
        hooks=(
            *_CONNECTING,
            *_redis(
                "Channel._brpop_start",
                "Channel._get_pool",
                "Channel._in_poll",
                "Channel._in_listen",
                "Channel.conn_or_acquire",
                "Channel.close",
                "MultiChannelPoller.get",
                "MultiChannelPoller.maybe_check_subclient_health",
                "Transport.register_with_event_loop",
            ),
            "kombu.connection:Connection.Pool",
            "kombu.connection:Connection.ensure",
            "kombu.connection:ConnectionPool.new",
            "celery.backends.redis:RedisBackend.ensure",
            "celery.concurrency.asynpool:AsynPool._track_child_process",
            "celery.concurrency.prefork:TaskPool.Pool",
            "celery.backends.redis:SentinelBackend._transport_options",
        ),
        redis=True,
    ),
    Protection(
        name="time-limits",
        against="a sender gives its task more time than the settings do",
        hooks=("celery.worker.request:Request.time_limits", "celery.worker.consumer:Consumer.update_strategies"),
        pools=PREFORK,
    ),
    Protection(
        name="chord-polling",
        against="one message has the worker ask without pause or end whether a chord is complete",
        hooks=("celery.app.builtins:add_unlock_chord_task", "celery.app.task:Task.run"),
    ),
    Protection(
        name="log-lines",
        against="a sender writes lines of its own into the worker's log",
        hooks=("celery.utils.log:ColorFormatter", "celery.app.log:TaskFormatter"),
    ),
    Protection(
        name="round-trips",
        against="each task costs the worker five round trips to Redis, most of its time",
        hooks=(
            *_RECEIVING,
            *_redis(
                "Channel.Message",
                "Channel.basic_consume",
                "MultiChannelPoller.on_poll_start",
                "QoS.can_consume_max_estimate",
                "QoS.reject",
                "QoS.restore_by_tag",
                "Transport.register_with_event_loop",
            ),
            "kombu.asynchronous.hub:Hub.add_reader",
            "kombu.asynchronous.hub:Hub.remove_writer",
            *(f"celery.concurrency.asynpool:{name}" for name in _POOL),
            "celery.worker.consumer:Consumer.update_strategies",
            "celery.backends.redis:RedisBackend._store_result",
            "celery.backends.redis:RedisBackend._get_task_meta_for",
            "celery.backends.redis:RedisBackend._set",
        ),
    ),
)

PROTECTIONS: Final[Mapping[str, Protection]] = {each.name: each for each in _ALL}


def check_names(without: Collection[str]) -> frozenset[str]:
    """Return the names of protections to do without. Raise ImproperlyConfigured if one is unknown."""
    names = frozenset({without} if isinstance(without, str) else without)
    if unknown := sorted(map(str, names - PROTECTIONS.keys())):
        raise ImproperlyConfigured(f"no such protection: {', '.join(unknown)}. There are: {', '.join(PROTECTIONS)}")
    return names


def check_hooks(without: Collection[str]) -> None:
    """Raise ImproperlyConfigured if the installed Celery and kombu lack what a protection needs."""
    installed = ", ".join(f"{package} {version(package)}" for package in ("celery", "kombu"))
    _check(
        (each, f"{', '.join(missing)} is missing in {installed}")
        for each in _wanted(without)
        if (missing := [hook for hook in each.hooks if not _exists(hook)])
    )


def check_start(app: Celery, without: Collection[str], pool: str) -> None:
    """Raise ImproperlyConfigured if a worker's broker, its pool or a setting of its app takes a protection away.

    Args:
        app: The worker's app.
        without: The names of the protections to do without.
        pool: The name of the worker's pool.
    """
    _check(_lost_at_start(app, without, pool))


def _lost_at_start(app: Celery, without: Collection[str], pool: str) -> Iterator[tuple[Protection, str]]:
    """Yield what takes each protection away."""
    driver = app.connection_for_read().get_transport_cls().driver_type
    for each in _wanted(without):
        if each.redis and driver != "redis":
            yield each, f"it needs Redis as the broker, not {driver}"
        if pool not in each.pools:
            yield each, f"it needs the pool {' or '.join(sorted(each.pools))}, not {pool}"
        for setting, wanted in each.settings.items():
            if (found := app.conf[setting]) != wanted:
                yield each, f"it needs the setting {setting} = {wanted!r}, which is {found!r}"


class _UnprotectedError(ImproperlyConfigured, SecurityError):
    """Both, as Celery's command prints a SecurityError alone without a traceback."""


def _check(problems: Iterable[tuple[Protection, str]]) -> None:
    """Raise an error that tells each problem in a line, and how to do without these protections."""
    found = list(problems)
    if not found:
        return
    lines = [f"The protection {each.name!r} cannot be had: {why}. Without it, {each.against}." for each, why in found]
    names = list(dict.fromkeys(each.name for each, _ in found))
    lines.append(
        f"If that must be: protect(app, without={{{', '.join(map(repr, names))}}}); "
        f"with the app of fibo-worker, FIBO_WITHOUT={','.join(names)}"
    )
    raise _UnprotectedError("\n".join(lines))


def _wanted(without: Collection[str]) -> Iterator[Protection]:
    return (each for each in PROTECTIONS.values() if each.name not in without)


def _exists(hook: str) -> bool:
    module, _, path = hook.partition(":")
    try:
        functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return False
    return True
