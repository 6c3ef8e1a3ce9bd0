"""Task messages, version 2 of Celery's protocol.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html and ``celery.app.amqp.AMQP.as_task_v2``.

A bad message is worse than an error. Workers drop some bad messages without an answer; others stop the worker, and some
come back and stop the next one, too. So this module checks everything before a byte is sent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fibo_client.celery.protocol import compression as compression_
from fibo_client.celery.protocol import jsontypes
from fibo_client.errors import MessageError
from fibo_client.telemetry.tracer import NESTED
from fibo_client.text import partial_repr, safe_repr, short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CONTENT_TYPE: Final = "application/json"
CONTENT_ENCODING: Final = "utf-8"

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

_LONGEST_NAME: Final = 1024
_LONGEST_REPR: Final = 1024
_SMALL: Final = 8192
_LONGEST_TIME: Final = timedelta.max.total_seconds()
_EARLIEST: Final = -(2**31)  # the smallest countdown that Celery's own client accepts
_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


class Moments(NamedTuple):
    """When a task may run, as text. Each is None where it is not limited.

    Attributes:
        eta: The time before which the task must not run, in ISO 8601.
        expires: The time after which the task must not start, in ISO 8601.
        expiration: Milliseconds until `expires`.
    """

    eta: str | None
    expires: str | None
    expiration: str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MessageTemplate:
    """What the messages for one task with the same options have in common.

    Attributes:
        headers: The protocol's headers and the caller's in one dict. Those that differ between messages are None.
        queue: The queue that the messages go to.
        priority: 0 to 9.
        is_root: Whether each message starts a workflow, so that its ``root_id`` is its own id.
        prepared: The cache of the brokers' encoders, by encoder.
    """

    headers: Mapping[str, Any]
    queue: str
    priority: int
    is_root: bool
    prepared: dict[object, Any] = field(default_factory=dict, repr=False)


class TaskMessage(NamedTuple):
    """A task message as a value. Any broker can encode it in its own envelope.

    Attributes:
        id: The task's id.
        template: What the message has in common with others.
        body: ``[args, kwargs, embed]`` as JSON, compressed if the headers say so.
        argsrepr: The positional arguments for the worker's logs, cut short.
        kwargsrepr: The keyword arguments for the worker's logs, cut short.
        moments: When the task may run.
        more_headers: Headers that the template does not have, as plain JSON values; mostly none.
    """

    id: str
    template: MessageTemplate
    body: bytes
    argsrepr: str
    kwargsrepr: str
    moments: Moments
    more_headers: Mapping[str, Any]

    @property
    def headers(self) -> dict[str, Any]:
        """All headers, in Celery's order."""
        headers = {
            **self.template.headers,
            "id": self.id,
            "argsrepr": self.argsrepr,
            "kwargsrepr": self.kwargsrepr,
            "eta": self.moments.eta,
            "expires": self.moments.expires,
            **self.more_headers,
        }
        if self.template.is_root:
            headers["root_id"] = self.id
        return headers

    @property
    def queue(self) -> str:
        """The queue that the message goes to."""
        return self.template.queue

    @property
    def priority(self) -> int:
        """0 to 9. The broker decides whether 0 is served first or last."""
        return self.template.priority

    @property
    def expiration(self) -> str | None:
        """Milliseconds until the task expires, as text; None if it does not expire."""
        return self.moments.expiration


def build_template(
    task: str,
    *,
    queue: str,
    origin: str,
    priority: int | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    ignore_result: bool | None = None,
    headers: Mapping[str, Any] | None = None,
    shadow: str | None = None,
    root_id: str | None = None,
    parent_id: str | None = None,
    stamps: Mapping[str, Any] | None = None,
    compression: str | None = None,
) -> MessageTemplate:
    """Check the options that the messages of a call share.

    Args:
        task: The task's registered name, such as ``proj.tasks.add``.
        queue: The queue that the messages go to.
        origin: The sender, for the worker's logs: ``gen<pid>@<host>``.
        priority: 0 to 9; over Redis 0 is served first. None is 0.
        time_limit: Seconds after which the worker kills the task.
        soft_time_limit: Seconds after which the worker raises SoftTimeLimitExceeded in the task.
        ignore_result: Whether the worker stores no result. None leaves it to the task's declaration.
        headers: The caller's headers, which the task finds in ``self.request.headers``. One called ``headers`` must be
            a dict; the task then finds only that dict there.
        shadow: Another name for the worker's logs.
        root_id: The id of the first task of the workflow. None is this task's own id.
        parent_id: The id of the task that called this one.
        stamps: Stamped headers, by name.
        compression: The compression of the arguments: ``gzip``, or None.

    Returns:
        The template.

    Raises:
        MessageError: A worker could not read such messages, or would misread them.
    """
    own_stamps = None if stamps is None else _own("stamps", stamps, RESERVED_STAMPS)
    protocol_headers: dict[str, Any] = {
        "lang": "py",
        "task": check_name("task", task),
        "id": None,
        "shadow": _optional_name("shadow", shadow),
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [_seconds("time_limit", time_limit), _seconds("soft_time_limit", soft_time_limit)],
        "root_id": _optional_name("root_id", root_id),
        "parent_id": _optional_name("parent_id", parent_id),
        "argsrepr": None,
        "kwargsrepr": None,
        "origin": origin,
        "ignore_result": _flag("ignore_result", ignore_result),
        "replaced_task_nesting": 0,
        "stamped_headers": None if own_stamps is None else list(own_stamps),
        "stamps": own_stamps or {},
    }
    if compression is not None:
        _, protocol_headers["compression"] = compression_.compress(b"", compression)
    if headers is not None:
        protocol_headers.update(check_headers(headers))
    return MessageTemplate(
        headers=protocol_headers,
        queue=check_name("queue", queue),
        priority=check_priority(priority),
        is_root=root_id is None,
    )


def encode_arguments(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    compression: str | None = None,
    argsrepr: str | None = None,
    kwargsrepr: str | None = None,
    types: jsontypes.JSONCodec = jsontypes.CELERY_JSON,
) -> tuple[bytes, str, str]:
    """Check and encode a call's arguments.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
        compression: ``gzip`` to compress them.
        argsrepr: The text for `args` in the worker's logs. None is the beginning of their repr.
        kwargsrepr: The text for `kwargs` in the worker's logs. None is the beginning of their repr.
        types: The codec, with the types that the arguments may have.

    Returns:
        A message's `body`, `argsrepr` and `kwargsrepr`.

    Raises:
        MessageError: A worker could not read them, or would misread them.
    """
    if not isinstance(args, (list, tuple)):
        raise MessageError(f"args must be a list or a tuple of arguments, not {type(args).__name__}; one is (value,)")
    if not isinstance(kwargs, dict):
        raise MessageError(f"kwargs must be a dict of keyword arguments, not {type(kwargs).__name__}")
    for name in kwargs:
        if not isinstance(name, str):
            raise MessageError(f"kwargs holds the name {short_repr(name)}; names of arguments are text")
    positional, named = types.dumps(args, "args"), types.dumps(kwargs, "kwargs") if kwargs else "{}"
    body = f"[{positional}, {named}, {_EMBED_JSON}]".encode()
    if compression is not None:
        body, _ = compression_.compress(body, compression)
    argsrepr = _shortened(tuple(args), len(positional)) if argsrepr is None else _given("argsrepr", argsrepr)
    if kwargsrepr is not None:
        kwargsrepr = _given("kwargsrepr", kwargsrepr)
    else:
        kwargsrepr = _shortened(dict(kwargs), len(named)) if kwargs else "{}"
    return body, argsrepr, kwargsrepr


def encode_moments(
    now: datetime,
    *,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: float | datetime | None = None,
) -> Moments:
    """Check and encode when a task may run.

    Args:
        now: The current time, with a time zone; `countdown` and a number of seconds in `expires` count from it.
        countdown: Seconds before the task may run. A negative number means at once, like an `eta` in the past.
        eta: The time before which the task must not run, with a time zone.
        expires: Seconds from `now`, or a time with a time zone, after which the task must not start.

    Returns:
        The encoded times.

    Raises:
        MessageError: A time is out of the calendar's range or has no time zone, or `expires` is in the past.
    """
    if now.tzinfo is None:
        raise MessageError("now has no time zone")
    starts = None if eta is None and countdown is None else _eta(eta, countdown, now)
    return Moments(starts, *_expires(expires, now))


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


def check_name(what: str, name: object) -> str:
    """Check a name that goes into a message or a key.

    Args:
        what: The option's name, for the error.
        name: The value.

    Returns:
        The name.

    Raises:
        MessageError: It is not text, is empty or too long, or holds a control character or a lone surrogate. Kombu
            separates the parts of its Redis keys with control characters.
    """
    if not isinstance(name, str):
        raise MessageError(f"{what} must be text, not {type(name).__name__}")
    if not name or len(name) > _LONGEST_NAME:
        raise MessageError(f"{what} must have 1 to {_LONGEST_NAME} characters, not {len(name)}")
    if not name.isprintable():
        raise MessageError(f"{what}={short_repr(name)} holds a character that cannot be printed; remove it")
    return str.__str__(name)  # The value of an enum member; str(name) may be its name.


def check_priority(priority: int | None) -> int:
    """Check a priority, 0 to 9; None is 0. Raise MessageError for others, where Celery silently takes another one."""
    if priority is None:
        return 0
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority <= 9:
        raise MessageError(f"priority={short_repr(priority)} must be an integer from 0 to 9")
    return int(priority)


_EMBED_JSON: Final = jsontypes.CELERY_JSON.dumps(_EMBED)


def _eta(eta: datetime | None, countdown: float | None, now: datetime) -> str | None:
    if countdown is not None:
        if eta is not None:
            raise MessageError("give countdown or eta, not both")
        return _moment("countdown", now, _seconds("countdown", countdown, _EARLIEST)) if countdown else None
    return None if eta is None else _iso(_aware("eta", eta))


def _expires(expires: float | datetime | None, now: datetime) -> tuple[str | None, str | None]:
    if expires is None:
        return None, None
    if isinstance(expires, datetime):
        moment = _aware("expires", expires)
        seconds = (moment - now).total_seconds()
        text = _iso(moment)
    else:
        seconds = _seconds("expires", expires) or 0.0
        text = _moment("expires", now, seconds)
    if seconds <= 0:
        raise MessageError("expires is in the past: the worker would only revoke the task")
    return text, str(int(seconds * 1000))


def _moment(what: str, now: datetime, seconds: float | None) -> str:
    try:
        return _iso(now.astimezone(UTC) + timedelta(seconds=seconds or 0.0))
    except OverflowError:
        raise MessageError(
            f"{what}={short_repr(seconds)} seconds is beyond the last possible date; give a smaller number"
        ) from None


def _aware(what: str, moment: object) -> datetime:
    if not isinstance(moment, datetime):
        raise MessageError(f"{what} must be a datetime with a time zone, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise MessageError(
            f"{what}={moment.isoformat()} has no time zone, and the worker would read it as UTC; "
            "use datetime.now(timezone.utc), or .astimezone() for local time"
        )
    try:
        # Celery, too, writes countdowns in UTC. Some time zones have offsets with seconds, which workers refuse.
        return moment.astimezone(UTC)
    except OverflowError:
        raise MessageError(f"{what}={moment.isoformat()} is out of range in UTC; give a year from 2 to 9998") from None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def _seconds(what: str, seconds: float | None, least: int = 0) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise MessageError(f"{what} must be a number of seconds, not {type(seconds).__name__}")
    if not least <= seconds < math.inf:
        raise MessageError(f"{what}={short_repr(seconds)} must be a finite number of seconds, {least} or more")
    if seconds > _LONGEST_TIME:
        raise MessageError(f"{what}={short_repr(seconds)} seconds are too many; give a smaller number, or None")
    return seconds


def _flag(what: str, value: object) -> bool | None:
    if not isinstance(value, bool) and value is not None:
        raise MessageError(f"{what} must be True, False or None, not {short_repr(value)}")
    return value


def _optional_name(what: str, name: str | None) -> str | None:
    return None if name is None else check_name(what, name)


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


def _shortened(value: object, size: int) -> str:
    """Make the beginning of a value's repr. `size`, the length of its JSON, says whether the whole repr is cheap."""
    text = safe_repr(value, _LONGEST_REPR) if size <= _SMALL else partial_repr(value, _LONGEST_REPR)
    return text if len(text) <= _LONGEST_REPR else _cut(text)


def _given(what: str, text: object) -> str:
    """Check a caller's own argsrepr or kwargsrepr."""
    if not isinstance(text, str):
        raise MessageError(f"{what} must be text, not {type(text).__name__}")
    if not text:
        raise MessageError(
            f"{what} must not be empty, or workers log the arguments themselves; give a text such as ***"
        )
    return _cut(str.__str__(text))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_REPR else f"{text[: _LONGEST_REPR - 3]}..."
