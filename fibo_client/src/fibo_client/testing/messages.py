"""Task messages as a worker reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.chunk import MAP, STARMAP
from fibo_client.celery.protocol import jsontypes
from fibo_client.celery.protocol.compression import decompress
from fibo_client.celery.protocol.headers import RESERVED_HEADERS
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fibo_client.celery.protocol.message import TaskMessage

_COMPARED: Final = ("ignore_result", "time_limit", "soft_time_limit", "shadow", "parent_id", "root_id", "stamps")
"""The options that are in `SentTask.options` as they were given."""

_MOST_BYTES: Final = 512 * 1024 * 1024
"""Redis's limit for a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentTask:
    """A task that was sent, as a worker reads it from its message.

    Attributes:
        task: The task's name.
        args: Its positional arguments. Tuples inside them are lists, as in JSON.
        kwargs: Its keyword arguments.
        task_id: Its id.
        queue: The queue that it was sent to.
        priority: 0 to 9; over Redis, 0 is served first.
        eta: The time before which it must not run, from ``eta`` or ``countdown``.
        expires: The time after which it must not start.
        retries: How often it was retried.
        headers: The headers beside those of the protocol.
        options: The other options that were given: ``ignore_result``, ``time_limit``, ``soft_time_limit``, ``shadow``,
            ``parent_id``, ``root_id``, ``stamps`` and ``compression``.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    task_id: str
    queue: str
    priority: int
    eta: datetime | None = None
    expires: datetime | None = None
    retries: int = 0
    headers: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its id, by Celery's name in a task's request."""
        return self.task_id

    def __str__(self) -> str:
        said = [f"queue={self.queue!r}", *([f"priority={self.priority}"] if self.priority else [])]
        said += [f"{name}={value.isoformat()}" for name in ("eta", "expires") if (value := getattr(self, name))]
        said += [f"headers={dict(self.headers)!r}"] if self.headers else []
        # Every call has ignore_result=False, as it waits for the result.
        said += [f"{name}={value!r}" for name, value in self.options.items() if value is not False]
        return f"{call_repr(self.task, self.args, self.kwargs)}  {' '.join(said)}"


def calls_in(sent: SentTask) -> Iterator[SentTask]:
    """Give the calls in a message: those in a chunk, else the one that it is."""
    match sent.kwargs:
        case {"task": {"task": str(task)}, "it": list(it)} if sent.task == STARMAP:
            for args in it:
                yield replace(sent, task=task, args=tuple(args), kwargs={})
        case {"task": {"task": str(task)}, "it": list(it)} if sent.task == MAP:
            for value in it:
                yield replace(sent, task=task, args=(value,), kwargs={})
        case _:
            yield sent


def has_options(sent: SentTask, options: Mapping[str, Any]) -> bool:
    """Tell whether a task was sent with options, as far as its message has them as they were given."""
    for name, value in options.items():
        if name == "headers":
            found: Any = {key: sent.headers.get(key) for key in value}
        elif name in ("queue", "priority", "task_id", "eta"):
            found = getattr(sent, name)
        elif name in _COMPARED:
            found = sent.options.get(name)
        else:
            continue
        if found != value:
            return False
    return True


def call_repr(task: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """Write a call as Python would, with long arguments cut short."""
    said = [short_repr(each) for each in args]
    said += [f"{name}={short_repr(value)}" for name, value in kwargs.items()]
    return f"{task}({', '.join(said)})"


def open_message(message: TaskMessage, types: jsontypes.JSONCodec = jsontypes.CELERY_JSON) -> SentTask:
    """Open a message as a worker that trusts nothing. Raises ValueError with what is wrong with it."""
    headers = json.loads(json.dumps(message.headers, allow_nan=False))  # As they arrive.
    args, kwargs = _arguments(message.body, headers.get("compression"), types)
    return SentTask(
        task=headers["task"],
        args=tuple(args),
        kwargs=kwargs,
        task_id=message.id,
        queue=message.queue,
        priority=message.priority,
        eta=_moment(headers.get("eta")),
        expires=_moment(headers.get("expires")),
        retries=headers.get("retries", 0),
        headers={name: value for name, value in headers.items() if name not in RESERVED_HEADERS},
        options=_options(headers),
    )


def _arguments(body: bytes, compression: str | None, types: jsontypes.JSONCodec) -> tuple[list[Any], dict[str, Any]]:
    if compression is not None:
        body = decompress(body, compression, _MOST_BYTES)
    match types.loads(body):
        case [list(args), dict(kwargs), dict()]:
            return args, kwargs
    raise ValueError("its body is not [args, kwargs, embed]")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _options(headers: Mapping[str, Any]) -> dict[str, Any]:
    hard, soft = headers.get("timelimit") or (None, None)
    root_id = headers.get("root_id")
    said = {
        "ignore_result": headers.get("ignore_result"),
        "time_limit": hard,
        "soft_time_limit": soft,
        "shadow": headers.get("shadow"),
        "parent_id": headers.get("parent_id"),
        "root_id": None if root_id == headers["id"] else root_id,
        "stamps": headers.get("stamps") or None,
        "compression": headers.get("compression"),
    }
    return {name: value for name, value in said.items() if value is not None}
