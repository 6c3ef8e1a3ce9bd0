"""The headers and stamps that a caller or a tracer adds to a message, and the names that are reserved among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.protocol import jsontypes
from fibo_client.celery.protocol.options import check_name
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NESTED

if TYPE_CHECKING:
    from collections.abc import Mapping

RESERVED_HEADERS: Final = frozenset(
    {
        # Headers of the protocol.
        "argsrepr", "compression", "eta", "expires", "group", "group_index", "groups", "id", "ignore_result",
        "kwargsrepr", "lang", "origin", "parent_id", "redelivered", "replaced_task_nesting", "retries", "root_id",
        "shadow", "stamped_headers", "stamps", "task", "timelimit",
        # Attributes and methods of the worker's request object. The worker sets all headers as its attributes.
        "_children", "_filter_x_death_headers", "_get_custom_headers", "_protected", "args", "as_execution_options",
        "called_directly", "callbacks", "chain", "children", "chord", "clear", "correlation_id", "delivery_info",
        "errbacks", "get", "hostname", "is_eager", "kwargs", "logfile", "loglevel", "properties", "reply_to",
        "soft_time_limit", "taskset", "time_limit", "update", "utc",
    }
)  # fmt: skip
"""Header names that callers may not use: the worker would overwrite such a header, or lose what it needs. Names such as
``__class__`` are reserved, too. `NESTED` is allowed."""

RESERVED_STAMPS: Final = RESERVED_HEADERS | {
    NESTED,
    # A worker with result_extended stores stamps in one dict with these.
    "date_done", "group_id", "name", "queue", "result", "status", "task_id", "traceback", "worker",
    # A worker that retries a task passes stamps on as keyword arguments, together with these.
    "add_to_parent", "connection", "countdown", "exchange", "link", "link_error", "priority", "producer", "publisher",
    "result_cls", "route_name", "router", "routing_key", "serializer", "task_type",
}  # fmt: skip
"""Names of stamps that callers may not use, for the same reason."""


def check_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Check a caller's headers.

    Args:
        headers: The headers.

    Returns:
        The headers as plain JSON values.

    Raises:
        MessageError: One has a reserved name, or a value that a worker could not read.
    """
    own = _own("headers", headers, RESERVED_HEADERS)
    where, nested = "headers", own
    while NESTED in nested:  # It ends, as the codec has bounded the depth.
        where, nested = f"{where}[{NESTED!r}]", nested[NESTED]
        _check_own(where, nested, RESERVED_HEADERS)
    return own


def check_stamps(stamps: Mapping[str, Any]) -> dict[str, Any]:
    """Check stamped headers, as `check_headers`."""
    return _own("stamps", stamps, RESERVED_STAMPS)


def join_headers(own: Mapping[str, Any], nested: dict[str, Any] | None, added: Mapping[str, Any]) -> dict[str, Any]:
    """Join a tracer's headers to the caller's.

    Args:
        own: The caller's headers without `NESTED`.
        nested: The caller's `NESTED`, or None.
        added: The tracer's headers: texts, and perhaps a `NESTED`. A header whose name is in `own` or that is not
            valid is left out. Within `NESTED`, the tracer's value wins, as the tracer has seen the caller's.

    Returns:
        The headers to send beside `own`. A `NESTED` among them holds the caller's headers, too, because the task then
        finds no others.
    """
    joined = {name: value for name, value in added.items() if name not in own and _may_be_added(name, value)}
    if NESTED in added:
        try:
            joined[NESTED] = {**own, **(nested or {}), **check_headers({NESTED: added[NESTED]})[NESTED]}
        except MessageError:
            pass  # It is the tracer's fault; the caller could not fix it.
    if nested is not None:
        joined.setdefault(NESTED, nested)
    return joined


def _may_be_added(name: object, value: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and name != NESTED
        and name.isprintable()
        and not _is_reserved(name)
    )


def _own(what: str, headers: object, reserved: frozenset[str]) -> dict[str, Any]:
    """Check the caller's headers or stamps, and make them plain JSON values."""
    _check_own(what, headers, reserved)
    own: dict[str, Any] = jsontypes.CELERY_JSON.plain(headers, what)
    return own


def _check_own(what: str, headers: object, reserved: frozenset[str]) -> None:
    if not isinstance(headers, dict):
        raise MessageError(f"{what} must be a dict, not {type(headers).__name__}")
    for name in headers:
        check_name(f"a name in {what}", name)
        if _is_reserved(name, reserved):
            raise MessageError(f"{what} holds {name!r}, which the protocol reserves; use another name")


def _is_reserved(name: str, reserved: frozenset[str] = RESERVED_HEADERS) -> bool:
    return name in reserved or (name.startswith("__") and name.endswith("__"))
