"""Remote control that checks every command before it runs, and in which no command stops the worker but ``shutdown``.

A command that is refused is one line in the log; a caller who wants a reply gets ``{"error": ...}``. The rest is
Celery's.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections import deque
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import redis
from celery import states
from celery.concurrency.base import BasePool
from celery.platforms import signals
from celery.worker import control
from celery.worker import state as worker_state
from kombu.exceptions import EncodeError, OperationalError
from kombu.matcher import MatcherNotInstalled
from kombu.pidbox import Mailbox, Node

from fibo_worker.guard.control import CommandError, check_address, check_arguments, check_method, check_reply_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from celery.app.control import Control

__all__ = ["guarded_control"]

_logger: Final = logging.getLogger(__name__)

_FIELDS: Final = ("method", "arguments", "destination", "pattern", "matcher", "reply_to", "ticket")
_FEW: Final = 50
"""So many tasks are revoked as Celery does, at once, which takes some 2 ms for each."""
_SLICE: Final = 50
_SPARE: Final = 0.05
"""Seconds of work on many revoked tasks, before the worker looks after everything else for as long."""
_GROWTH: Final = 8
"""A pool grows to so many times its concurrency or the machine's CPUs, whichever is more."""
_MAX_QUEUES: Final = 1000
_MAX_ELECTIONS: Final = 1000
_MAX_STAMPS: Final = 1000
"""How many headers of stamps are remembered as revoked."""
_UNFINISHED: Final = (states.PENDING, states.RECEIVED, states.RETRY, states.REJECTED)


class _GuardedNode(Node):
    """A worker's mailbox."""

    handlers: Any
    mailbox: Any
    state: Any

    def handle_message(self, body: Any, message: Any = None) -> Any:
        """Run a command, if it is for this worker. Raise nothing but SystemExit: Celery would listen no more."""
        try:
            check_address(body)
            return super().handle_message({field: body.get(field) for field in _FIELDS}, message)
        except CommandError as error:
            _logger.warning("refused a command of remote control: %s", error)
        except (MatcherNotInstalled, re.error) as error:
            _logger.warning("refused a command of remote control (%s)", type(error).__name__)
        except Exception:
            _logger.exception("a command of remote control failed")
        return None

    def dispatch(self, method: Any, arguments: Any = None, reply_to: Any = None, ticket: Any = None, **_: Any) -> Any:
        """Check a command, run it, and send its reply."""
        check_reply_to(reply_to, ticket, self.mailbox.reply_exchange.name)
        try:
            reply = self.handle(method, arguments)
        except CommandError as error:
            _logger.warning("refused the command %.100r of remote control: %s", method, error)
            reply = {"error": str(error)}
        except Exception as error:
            _logger.exception("the command %.100r of remote control failed", method)
            reply = {"error": repr(error)}
        if reply_to:
            self._answer(reply, reply_to, ticket)
        return reply

    def handle(self, method: Any, arguments: Any = None) -> Any:
        """Run a command, in the way of this module if it has one. Raise CommandError if it is refused."""
        command = self.handlers[check_method(method, self.handlers)]
        own = command.__name__ if getattr(command, "__module__", None) == control.__name__ else None
        arguments = check_arguments(arguments, inspect.signature(command), own)
        return _COMMANDS.get(own or "", command)(self.state, **arguments)

    def _answer(self, reply: Any, reply_to: Any, ticket: Any) -> None:
        try:
            self.reply({self.hostname: reply}, reply_to["exchange"], reply_to["routing_key"], ticket)
        except (redis.RedisError, OSError, OperationalError, EncodeError) as error:
            # It goes by a connection of its own. If the other one is lost, too, Celery finds out there.
            _logger.warning("a reply to remote control could not be sent: %s", type(error).__name__)


class _GuardedMailbox(Mailbox):
    node_cls = _GuardedNode


@cache
def guarded_control(found: type[Control]) -> type[Control]:
    """Guard a class for an app's remote control, be it Celery's or the app's own."""
    own = found.Mailbox
    mailbox = _GuardedMailbox if own is Mailbox else type(own.__name__, (_GuardedMailbox, own), {})
    return type(found.__name__, (found,), {"Mailbox": mailbox})


def _revoke(state: Any, task_id: Any, terminate: Any = False, signal: Any = None, **_: Any) -> Any:
    """Revoke tasks. Celery stores each one's state before it does anything else; this, of many, by and by."""
    ids = list(dict.fromkeys([task_id] if isinstance(task_id, str) else task_id or []))
    _remember(ids)
    pool = state.consumer.pool
    if terminate and getattr(pool.terminate_job, "__func__", None) is BasePool.terminate_job:
        _store_later(state, ids)
        raise CommandError("they are revoked, but this worker's pool cannot terminate those that run")
    if len(ids) <= _FEW:
        return control.revoke(state, ids, terminate=terminate, signal=signal)
    if terminate:
        number = signals.signum(signal or "TERM")
        for request in [worker_state.requests[id] for id in ids if id in worker_state.requests]:
            request.terminate(pool, signal=number)
    _logger.info("Tasks flagged as revoked: %d, such as %s", len(ids), ids[0])
    _store_later(state, ids)
    return {"ok": f"{len(ids)} tasks flagged as revoked"}


def _remember(ids: list[str]) -> None:
    worker_state.revoked.update(ids)
    if len(ids) > worker_state.REVOKES_MAX:
        _logger.warning(
            "%d tasks are revoked in one command, but only the last %d revoked tasks are remembered",
            *(len(ids), worker_state.REVOKES_MAX),
        )


def _store_later(state: Any, ids: list[str]) -> None:
    """Store that tasks were revoked, beside everything else that the worker does."""
    waiting = state.setdefault("revoked_to_store", deque(maxlen=worker_state.REVOKES_MAX))
    running = bool(waiting)
    waiting.extend(ids)
    if not running:
        _store_revoked(state, waiting)


def _store_revoked(state: Any, waiting: deque[str]) -> None:
    """Store for a moment that tasks were revoked, and later go on with the rest."""
    end = monotonic() + _SPARE
    try:
        while waiting and monotonic() < end:
            _store_slice(state.app, [waiting.popleft() for _ in range(min(_SLICE, len(waiting)))])
    except Exception:
        _logger.exception("%d tasks or more are revoked, but the results could not be stored", len(waiting) + 1)
        waiting.clear()
    if waiting:
        state.consumer.timer.call_after(_SPARE, _store_revoked, (state, waiting))


def _store_slice(app: Any, ids: list[str]) -> None:
    """Store that tasks were revoked, but for those that run or that have a result, as Celery 5.7 does."""
    requests = {id: request for id in ids if (request := worker_state.requests.get(id)) is not None}
    backend = app.backend
    for id, stored in zip(ids, _stored_states(backend, ids), strict=True):
        request = requests.get(id)
        if stored in _UNFINISHED and (request is None or request not in worker_state.active_requests):
            (request.task.backend if request else backend).mark_as_revoked(id, reason="revoked", store_result=True)


def _stored_states(backend: Any, ids: list[str]) -> Iterable[str]:
    try:
        stored = backend.mget([backend.get_key_for_task(id) for id in ids])
    except (AttributeError, NotImplementedError, redis.ResponseError):  # It has no keys, or may not read many at once.
        return [backend.get_state(id) for id in ids]
    return [states.PENDING if each is None else backend.decode_result(each)["status"] for each in stored]


def _terminate(state: Any, signal: Any, task_id: Any, **_: Any) -> Any:
    return _revoke(state, task_id, terminate=True, signal=signal)


def _revoke_by_stamped_headers(state: Any, headers: Any, terminate: Any = False, signal: Any = None, **_: Any) -> Any:
    if terminate and getattr(state.consumer.pool.terminate_job, "__func__", None) is BasePool.terminate_job:
        control.revoke_by_stamped_headers(state, headers)
        raise CommandError("they are revoked, but this worker's pool cannot terminate those that run")
    try:
        return control.revoke_by_stamped_headers(state, headers, terminate=terminate, signal=signal)
    finally:
        # Celery keeps all of them for ever, and looks through them at each task that has stamps.
        revoked = worker_state.revoked_stamps
        for header in [each.partition("=")[0] for each in headers] if isinstance(headers, list) else headers:
            revoked[header] = list(dict.fromkeys(revoked[header]))[-worker_state.REVOKES_MAX :]
        for header in list(revoked)[:-_MAX_STAMPS]:
            del revoked[header]


def _pool_grow(state: Any, n: int = 1, **_: Any) -> Any:
    pool = state.consumer.pool
    if not state.consumer.controller.autoscaler:
        if not hasattr(pool, "grow"):
            raise CommandError("this worker's pool cannot grow")
        if pool.num_processes + n > _largest_pool(state):
            raise CommandError(f"the pool has {pool.num_processes}, and may have {_largest_pool(state)} at most")
    return control.pool_grow(state, n)


def _pool_shrink(state: Any, n: int = 1, **_: Any) -> Any:
    pool = state.consumer.pool
    if state.consumer.controller.autoscaler:
        return control.pool_shrink(state, n)
    if not hasattr(pool, "shrink"):
        raise CommandError("this worker's pool cannot shrink")
    size = pool.num_processes
    if n >= size:
        raise CommandError(f"the pool has {size}, and one stays at least")
    try:
        return control.pool_shrink(state, n)
    except ValueError:  # from billiard, after it has ended those that it could
        gone = size - pool.num_processes
        if gone:
            # Celery's command calls this, too, but not when billiard raises.
            state.consumer._update_prefetch_count(-gone)  # noqa: SLF001 # there is no public way
        raise CommandError(f"{gone} of {size} end; the others are busy") from None


def _largest_pool(state: Any) -> int:
    return int(_GROWTH * max(os.cpu_count() or 1, state.consumer.controller.concurrency))


def _autoscale(state: Any, **limits: int | None) -> Any:
    scaler = state.consumer.controller.autoscaler
    if not scaler:
        raise CommandError("this worker does not scale its pool")
    most, least = limits.get("max"), limits.get("min")
    most = scaler.max_concurrency if most is None else most
    least = scaler.min_concurrency if least is None else least
    if least > most:
        raise CommandError(f"min would be {least}, and max {most}")
    if most > _largest_pool(state):
        raise CommandError(f"max may be {_largest_pool(state)} at most")
    return control.autoscale(state, **limits)


def _pool_restart(state: Any, **arguments: Any) -> Any:
    if not state.app.conf.worker_pool_restarts:
        raise CommandError("this worker does not restart its pool: worker_pool_restarts is off")
    return control.pool_restart(state, **arguments)


def _rate_limit(state: Any, task_name: str, rate_limit: Any, **_: Any) -> Any:
    _check_task(state, task_name)
    return control.rate_limit(state, task_name, rate_limit)


def _time_limit(state: Any, task_name: str = "", hard: Any = None, soft: Any = None, **_: Any) -> Any:
    """Change the limits of a task, up to those that its author or the worker's operator has set."""
    _check_task(state, task_name)
    task, options = state.app.tasks[task_name], state.consumer.pool.options
    first = state.setdefault("first_time_limits", {}).setdefault(task_name, (task.time_limit, task.soft_time_limit))
    for name, wanted, own, general in (
        ("hard", hard, first[0], options.get("timeout")),
        ("soft", soft, first[1], options.get("soft_timeout")),
    ):
        most = own or general
        if most and (wanted or general or most + 1) > most:
            raise CommandError(f"its argument {name!r} may be {most:g} at most, as the worker's settings say")
    return control.time_limit(state, task_name, hard=hard, soft=soft)


def _check_task(state: Any, name: str) -> None:
    if name not in state.app.tasks:
        raise CommandError("this worker has no such task")


def _election(state: Any, id: str, topic: str, action: Any = None, **_: Any) -> Any:
    gossip = state.consumer.gossip
    if not getattr(gossip, "enabled", False) or state.consumer.event_dispatcher is None:
        raise CommandError("this worker does not gossip with others")
    for elections in (gossip.consensus_replies, gossip.consensus_requests):
        for old in list(elections)[: 1 - _MAX_ELECTIONS]:  # whose voters are gone
            del elections[old]
    return control.election(state, id, topic, action)


def _with_events(command: Callable[[Any], Any]) -> Callable[..., Any]:
    def checked(state: Any, **_: Any) -> Any:
        if state.consumer.event_dispatcher is None:
            raise CommandError("this worker sends no events")
        return command(state)

    return checked


def _add_consumer(state: Any, queue: str, *arguments: Any, **options: Any) -> Any:
    consumer = state.consumer
    if len(consumer.app.amqp.queues.consume_from) >= _MAX_QUEUES:
        raise CommandError(f"the worker consumes from {_MAX_QUEUES} queues already")
    options = {"exchange_type": "direct", **{name: value for name, value in options.items() if value is not None}}
    consumer.call_soon(_contained, consumer, queue, partial(consumer.add_task_queue, queue, *arguments, **options))
    return {"ok": f"add consumer {queue}"}


def _cancel_consumer(state: Any, queue: str, **_: Any) -> Any:
    consumer = state.consumer
    consumer.call_soon(_contained, consumer, queue, partial(consumer.cancel_task_queue, queue))
    return {"ok": f"no longer consuming from {queue}"}


def _contained(consumer: Any, queue: str, change: Callable[[], object]) -> None:
    """Change the queues that the worker consumes from. If that fails, the worker goes on without this one."""
    queues = consumer.app.amqp.queues
    known = queue in queues
    try:
        change()
    except Exception as error:
        # At a lost connection Celery reconnects, as it would for ever at a key that is no list.
        if isinstance(error, consumer.connection_errors) and "WRONGTYPE" not in str(error):
            raise
        _logger.warning("cannot consume from the queue %.200r: %s", queue, error)
        queues.deselect(queue)
        if not known:
            queues.pop(queue, None)


_COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "add_consumer": _add_consumer,
    "autoscale": _autoscale,
    "cancel_consumer": _cancel_consumer,
    "disable_events": _with_events(control.disable_events),
    "election": _election,
    "enable_events": _with_events(control.enable_events),
    "heartbeat": _with_events(control.heartbeat),
    "pool_grow": _pool_grow,
    "pool_restart": _pool_restart,
    "pool_shrink": _pool_shrink,
    "rate_limit": _rate_limit,
    "revoke": _revoke,
    "revoke_by_stamped_headers": _revoke_by_stamped_headers,
    "terminate": _terminate,
    "time_limit": _time_limit,
}
"""What runs in place of a command of ``celery.worker.control``."""
