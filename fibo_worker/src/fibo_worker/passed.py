"""Celery's own settings, passed through from the environment: ``CELERY_WORKER_ETA_TASK_LIMIT`` and the like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from celery.app.defaults import NAMESPACES, flatten

from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["passed_settings"]

_PREFIXES: Final = ("worker_", "task_", "broker_", "result_", "redis_", "event_", "control_")
_JSON_ONLY: Final = "cannot be set: this worker takes and gives nothing but JSON"
_INSTEAD: Final = {
    "task_time_limit": "is FIBO_TIME_LIMIT here",
    "task_soft_time_limit": "is FIBO_SOFT_TIME_LIMIT here",
    "result_expires": "is FIBO_RESULT_EXPIRES here",
    "worker_max_memory_per_child": "is a quarter of FIBO_MAX_MEMORY here",
    **dict.fromkeys(("task_serializer", "result_serializer", "result_accept_content"), _JSON_ONLY),
}
_URLS: Final = frozenset({"broker_url", "broker_read_url", "broker_write_url", "result_backend"})
"""Celery and `WorkerSettings` read these themselves."""
_TRUTH: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


def _any(text: str) -> Any:
    """Read JSON, and take what is none as text: some settings are a number or a name."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(text)
    return value


def _list(text: str) -> list[Any]:
    return [each.strip() for each in text.split(",")]


# By Celery's names of the types. Everything else is read as any.
_READERS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (lambda text: _TRUTH[text.lower()], "true or false"),
    "string": (str, "a text"),
    "dict": (_object, "a JSON object"),
    "list": (_list, "a list with commas between"),
    "tuple": (_list, "a list with commas between"),
}


def passed_settings(env: Mapping[str, str]) -> dict[str, Any]:
    """Read Celery's settings from an environment. An empty variable counts as not set.

    A variable of no setting is no error: Kubernetes, for one, makes variables such as ``CELERY_WORKER_PORT``.

    Args:
        env: The environment, such as ``os.environ``.

    Returns:
        The settings by Celery's names.

    Raises:
        ConfigError: A variable is wrong. The message names it, without its value.
    """
    found = {}
    for name, option in flatten(NAMESPACES):
        variable = f"CELERY_{name.upper()}"
        text = env.get(variable)
        if not text or name in _URLS or not name.startswith(_PREFIXES):
            continue
        if name in _INSTEAD:
            raise ConfigError(f"{variable} {_INSTEAD[name]}")
        read, what = _READERS.get(option.type, (_any, "JSON"))
        try:
            found[name] = read(text)
        except (ValueError, KeyError):
            raise ConfigError(f"{variable} must be {what}") from None
    return found
