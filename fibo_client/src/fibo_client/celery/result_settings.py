"""Compare where a worker stores results, by its settings, with where this client reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fibo_client.celery.config import CeleryConfig

_HERE: Final = {"localhost", "127.0.0.1", "::1", None}

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
    if bool(prefix) != bool(config.result_prefix):
        # Celery masks what it is, because of the "key" in its name.
        return (
            "its keys have a prefix (global_keyprefix), those that this client reads have none: set result_prefix"
            if prefix
            else "its keys have no prefix (global_keyprefix), those that this client reads have one: result_prefix"
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
    # It answers on our broker, so settings that name another one are not in force.
    try:
        return isinstance(broker, str) and _server(broker)[2:] == _server(config.broker_url)[2:]
    except ValueError:
        return False


def _difference(backend: str, config: CeleryConfig) -> str | None:
    ours = config.result_backend or config.broker_url
    try:
        (theirs_kind, *theirs), (ours_kind, *mine) = _server(backend), _server(ours)
    except ValueError:
        return None
    if theirs_kind == ours_kind and theirs == mine:
        return None
    if theirs_kind not in ("redis", "rediss", ours_kind):
        return f"its result_backend is of another kind ({theirs_kind}), unless its environment says otherwise"
    if ours_kind not in ("redis", "rediss") or theirs == mine:
        return None
    (their_host, their_port, their_db), (our_host, our_port, our_db) = theirs, mine
    if (their_port, their_db) == (our_port, our_db):
        if {their_host, our_host} <= _HERE:
            return None
        return f"its result_backend is at {their_host}, ours at {our_host}: perhaps two names of one server"
    return (
        f"its result_backend is {their_host}:{their_port}/{their_db}, ours {our_host}:{our_port}/{our_db}, "
        "unless its environment says otherwise (CELERY_RESULT_BACKEND)"
    )


def _server(url: str) -> tuple[str, str | None, int, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or 6379, parts.path.strip("/") or "0"
