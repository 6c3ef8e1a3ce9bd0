"""Task messages, version 2 of Celery's protocol.

Source: https://docs.celeryq.dev/en/stable/internals/protocol.html and ``celery.app.amqp.AMQP.as_task_v2``.

A bad message is worse than an error. Workers drop some bad messages without an answer; others stop the worker, and some
come back and stop the next one, too. So this module checks everything before a byte is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fibo_client.celery.protocol import compression as compression_
from fibo_client.celery.protocol import jsontypes
from fibo_client.celery.protocol.headers import check_stamps
from fibo_client.celery.protocol.options import (
    check_flag,
    check_name,
    check_optional_name,
    check_priority,
    check_seconds,
)
from fibo_client.celery.protocol.signatures import embed_json
from fibo_client.errors import MessageError
from fibo_client.text import partial_repr, safe_repr, short_repr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.protocol.moments import Moments

CONTENT_TYPE: Final = "application/json"
CONTENT_ENCODING: Final = "utf-8"

_LONGEST_REPR: Final = 1024
_SMALL: Final = 8192
_NOTHING_LATER: Final = embed_json(None, None, (), None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MessageTemplate:
    """What the messages for one task with the same options have in common.

    Attributes:
        headers: The protocol's headers. Those that differ between messages are None.
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
        more_headers: The caller's headers and a tracer's, as plain JSON values; mostly none.
        group: The id of the group that the task is in, and its index there. None is no group.
        root: The id of the first task of its flow, where that is another one. None is its own, or the template's.
    """

    id: str
    template: MessageTemplate
    body: bytes
    argsrepr: str
    kwargsrepr: str
    moments: Moments
    more_headers: Mapping[str, Any]
    group: tuple[str, int] | None = None
    root: str | None = None

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
            headers["root_id"] = self.root or self.id
        if self.group is not None:
            headers["group"], headers["group_index"] = self.group
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
    own_stamps = None if stamps is None else check_stamps(stamps)
    protocol_headers: dict[str, Any] = {
        "lang": "py",
        "task": check_name("task", task),
        "id": None,
        "shadow": check_optional_name("shadow", shadow),
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [check_seconds("time_limit", time_limit), check_seconds("soft_time_limit", soft_time_limit)],
        "root_id": check_optional_name("root_id", root_id),
        "parent_id": check_optional_name("parent_id", parent_id),
        "argsrepr": None,
        "kwargsrepr": None,
        "origin": origin,
        "ignore_result": check_flag("ignore_result", ignore_result),
        "replaced_task_nesting": 0,
        "stamped_headers": None if own_stamps is None else list(own_stamps),
        "stamps": own_stamps or {},
    }
    if compression is not None:
        _, protocol_headers["compression"] = compression_.compress(b"", compression)
    return MessageTemplate(
        headers=protocol_headers,
        queue=check_name("queue", queue),
        priority=check_priority(priority),
        is_root=root_id is None,
    )


def arguments_json(
    args: Sequence[Any], kwargs: Mapping[str, Any], types: jsontypes.JSONCodec = jsontypes.CELERY_JSON
) -> tuple[str, str]:
    """Check arguments, and write them as JSON.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
        types: The codec, with the types that they may have.

    Returns:
        Both.

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
    return types.dumps(args, "args"), types.dumps(kwargs, "kwargs") if kwargs else "{}"


def encode_arguments(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    compression: str | None = None,
    argsrepr: str | None = None,
    kwargsrepr: str | None = None,
    types: jsontypes.JSONCodec = jsontypes.CELERY_JSON,
    embed: str | None = None,
) -> tuple[bytes, str, str]:
    """Check and encode a call's arguments for its message.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
        compression: ``gzip`` to compress them.
        argsrepr: The text for `args` in the worker's logs. None is the beginning of their repr.
        kwargsrepr: The text for `kwargs` in the worker's logs. None is the beginning of their repr.
        types: The codec, with the types that the arguments may have.
        embed: What the worker is to send later, from `embed_json`. None is nothing.

    Returns:
        A message's `body`, `argsrepr` and `kwargsrepr`.

    Raises:
        MessageError: A worker could not read them, or would misread them.
    """
    positional, named = arguments_json(args, kwargs, types)
    body = f"[{positional}, {named}, {_NOTHING_LATER if embed is None else embed}]".encode()
    if compression is not None:
        body, _ = compression_.compress(body, compression)
    argsrepr = _shortened(tuple(args), len(positional)) if argsrepr is None else _given("argsrepr", argsrepr)
    if kwargsrepr is not None:
        kwargsrepr = _given("kwargsrepr", kwargsrepr)
    else:
        kwargsrepr = _shortened(dict(kwargs), len(named)) if kwargs else "{}"
    return body, argsrepr, kwargsrepr


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
