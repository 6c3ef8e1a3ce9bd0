"""Compare where a worker stores results, by its settings, with where this client reads them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.backends.unsupported import unsupported_reason
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import ConfigError
from fibo_client.text import printable

if TYPE_CHECKING:
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import RedisAddress

_HERE: Final = {"localhost", "127.0.0.1", "::1"}

_IGNORED: Final = (
    "it declares the task with ignore_result=True, and stores a result only if the message asks for one "
    "(ignore_result=False), and only from Celery 5.6.3 on"
)


def stored_elsewhere(conf: Any, config: CeleryConfig, declared: bool | None = None) -> str | None:
    """Say why a worker may not store a result where this client reads it.

    Args:
        conf: The worker's answer to `Inspect.conf`: masked, and without its environment.
        config: The client's settings.
        declared: Whether the worker declares the task with ``ignore_result=True``. None if that is not known.

    Returns:
        A clause, or None if the settings agree.
    """
    if not isinstance(conf, dict):
        return _IGNORED if declared else None
    # For a task without a declaration, `declared` is this setting of the worker's app.
    if conf.get("task_ignore_result") and declared is not False:
        return (
            "it stores only the results of tasks that are declared with ignore_result=False, or, from Celery 5.6.3 on, "
            "sent with it (task_ignore_result is set)"
        )
    if declared:
        return _IGNORED
    options = conf.get("result_backend_transport_options")
    prefix = options.get("global_keyprefix") if isinstance(options, dict) else None
    if bool(prefix) != bool(config.redis.result_prefix):
        # Celery masks what it is, because of the "key" in its name.
        return (
            "its keys have a prefix (global_keyprefix), those that this client reads have none: "
            "say redis=RedisOptions(result_prefix=...)"
            if prefix
            else "its keys have no prefix (global_keyprefix), those that this client reads have one: "
            "result_prefix in RedisOptions"
        )
    backend = conf.get("result_backend")
    if not _is_shown(conf.get("broker_url"), config):
        return None
    if backend is None:
        return "its settings name no result_backend, so it stores none, unless its environment says otherwise"
    if not isinstance(backend, str):
        return None
    if backend.startswith("disabled"):
        return "it stores none (result_backend is disabled)"
    return _difference(backend, config)


def _is_shown(broker: Any, config: CeleryConfig) -> bool:
    """Tell whether the settings are those that a worker goes by: its environment wins over them, and is not shown."""
    # It answers on our broker, so settings that name another one are not in force. Its host may have several names.
    theirs, ours = _address(broker, config), _address(config.broker_url, config)
    return theirs is not None and ours is not None and _without_host(theirs) == _without_host(ours)


def _without_host(address: RedisAddress) -> RedisAddress:
    return dataclasses.replace(address, host="", username=None, password=None, ssl=None)


def _difference(backend: str, config: CeleryConfig) -> str | None:
    theirs, ours = _address(backend, config), _address(config.result_backend or config.broker_url, config)
    if ours is None or (theirs is None and unsupported_reason(backend) is None):
        return None
    if theirs is None or theirs.kind != ours.kind:
        kind = printable(backend.partition("://")[0], 40)
        return f"its result_backend is of another kind ({kind}), unless its environment says otherwise"
    if ours.kind != "tcp" or (theirs.host, theirs.port, theirs.db) == (ours.host, ours.port, ours.db):
        return None
    if (theirs.port, theirs.db) == (ours.port, ours.db):
        if {theirs.host, ours.host} <= _HERE:
            return None
        return f"its result_backend is at {theirs.host}, ours at {ours.host}: perhaps two names of one server"
    return (
        f"its result_backend is {theirs.host}:{theirs.port}/{theirs.db}, ours {ours.host}:{ours.port}/{ours.db}, "
        "unless its environment says otherwise (CELERY_RESULT_BACKEND)"
    )


def _address(url: Any, config: CeleryConfig) -> RedisAddress | None:
    """Read a URL, if it is one of Redis."""
    options = RedisOptions(master_name=config.redis.master_name or "unknown")  # A worker does not say its own.
    try:
        return parse_url(url, options, role="result_backend")
    except ConfigError:
        return None
