"""Decode a result as a worker stores it: bytes to one `TaskMeta`.

Source: ``celery.backends.base``. Nothing here trusts its input: any bytes give a `TaskMeta` or a `ResultDecodeError`,
and no class is imported or built by a name from the wire.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.protocol import jsontypes, states
from fibo_client.celery.protocol.compression import decompress
from fibo_client.errors import ResultDecodeError, ResultTooLargeError
from fibo_client.text import dataclass_repr, short_repr

if TYPE_CHECKING:
    from collections.abc import Generator

COMPRESSED: Final = b"\x00celery-compressed\x00"
"""The prefix of a compressed result; its content type follows. Source: Celery 5.7's ``result_compression``."""

_LONGEST_STATE: Final = 100
_TEXTS: Final = ("date_done", "parent_id", "name", "worker", "queue")
_OF_AN_EXCEPTION: Final = {"exc_type", "exc_message", "exc_module"}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TaskFailure:
    """A remote exception, as data.

    Attributes:
        exc_type: The name of its class, such as ``ValueError``.
        exc_module: The module of that class, where the worker stored it.
        exc_args: Its arguments.
        traceback: The remote traceback as text, where the worker stored one.
    """

    exc_type: str
    exc_module: str | None
    exc_args: tuple[Any, ...]
    traceback: str | None = field(repr=False)

    def __repr__(self) -> str:
        return dataclass_repr(self)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TaskMeta:
    """The stored result of a task, decoded.

    Attributes:
        task_id: The task's id.
        state: Celery's name for the state, or a custom state of the task, such as ``PROGRESS``.
        result: The value of a ``SUCCESS``, or the data of a state that is not final (progress, the worker's pid). In an
            exception state, what the task itself stored, unchanged (``update_state("FAILURE", meta={...})``); None
            where Celery stored an exception, which is in `failure`.
        failure: The exception of ``FAILURE``, ``RETRY`` and ``REVOKED``, else None.
        date_done: When the task ended, in ISO 8601, where the worker stored it.
        parent_id: The id of the task that called this one.
        children: The ids of the tasks that this one called, and theirs, nested as Celery nests them.
        name: The task's name. Workers store it and all that follow only with ``result_extended``.
        args: Its positional arguments. A value of a type that this client does not know stays a dict with ``__type__``
            and ``__value__``.
        kwargs: Its keyword arguments, likewise.
        worker: The node name of the worker that ran it.
        retries: How often the worker had retried it.
        queue: The queue that it came from.
    """

    task_id: str
    state: str
    result: Any = None
    failure: TaskFailure | None = None
    date_done: str | None = None
    parent_id: str | None = None
    children: Any = None
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None

    def __repr__(self) -> str:
        return dataclass_repr(self)

    @property
    def ready(self) -> bool:
        """Whether the task is over."""
        return self.state in states.READY_STATES


def pending(task_id: str) -> TaskMeta:
    """Make the meta of a task without a stored result: Celery's ``PENDING``, be it queued, running or unknown."""
    return TaskMeta(task_id=task_id, state=states.PENDING)


def decode_meta(
    payload: bytes,
    task_id: str,
    *,
    max_bytes: int,
    max_decompressed: int | None = None,
    max_depth: int = jsontypes.MAX_READ_DEPTH,
    types: jsontypes.JSONCodec = jsontypes.CELERY_JSON,
) -> TaskMeta:
    """Decode a stored or published result.

    Args:
        payload: The bytes, as received.
        task_id: The id of the task that the result should belong to.
        max_bytes: The most bytes that the payload may have.
        max_decompressed: The most bytes that it may have when decompressed. None is `max_bytes`.
        max_depth: How deeply lists and dicts may be nested.
        types: The codec, with the types that values may have. An unknown type is an error only in the result itself.

    Returns:
        The result.

    Raises:
        ResultTooLargeError: It has too many bytes.
        ResultInflatesError: It has too many bytes when decompressed.
        ResultTooDeepError: It is nested too deeply.
        ResultDecodeError: The bytes are not a result, or belong to another task.
    """
    try:
        if len(payload) > max_bytes:
            raise ResultTooLargeError(f"it has {len(payload)} bytes, more than {max_bytes} (max_result_bytes)")
        if payload.startswith(COMPRESSED):
            payload = _decompressed(payload, max_bytes if max_decompressed is None else max_decompressed)
        if payload[:1] != b"{" and payload.lstrip()[:1] != b"{":
            pickled = payload[:1] == b"\x80"
            hint = "; it looks like pickle, which is never loaded: set result_serializer='json' in the worker"
            raise ResultDecodeError(f"it is not JSON{hint if pickled else ''}")
        try:
            stored = types.loads(payload, max_depth)
        except jsontypes.UnreadableTypeError:
            stored = _in_parts(payload, max_depth, types)
        if not isinstance(stored, dict):
            raise ResultDecodeError("it is not a JSON object")
        return _meta(stored, task_id)
    except ResultDecodeError as error:
        raise type(error)(str(error), task_id) from error


def decode_meta_in_slices(
    payload: bytes,
    task_id: str,
    *,
    max_bytes: int,
    max_decompressed: int | None,
    max_depth: int,
    types: jsontypes.JSONCodec = jsontypes.CELERY_JSON,
) -> Generator[None, None, TaskMeta]:
    """Decode a large result as `decode_meta`, with its errors, in slices.

    Args:
        payload: As for `decode_meta`.
        task_id: As for `decode_meta`.
        max_bytes: As for `decode_meta`.
        max_decompressed: As for `decode_meta`.
        max_depth: As for `decode_meta`.
        types: As for `decode_meta`.

    Yields:
        None, after each small part.

    Returns:
        What `decode_meta` returns.
    """
    if len(payload) <= max_bytes and payload[:1] == b"{":
        try:
            stored = yield from types.loads_in_slices(payload, max_depth)
            return _meta(stored, task_id)
        except (ValueError, RecursionError, MemoryError):
            pass  # It is wrong in some way, and told below in which.
    return decode_meta(
        payload, task_id, max_bytes=max_bytes, max_decompressed=max_decompressed, max_depth=max_depth, types=types
    )


def _decompressed(payload: bytes, max_decompressed: int) -> bytes:
    content_type, separator, data = payload[len(COMPRESSED) :].partition(b"\x00")
    if not separator:
        raise ResultDecodeError("its compression has no name")
    return decompress(data, content_type.decode("ascii", "replace"), max_decompressed)


def _in_parts(payload: bytes, max_depth: int, types: jsontypes.JSONCodec) -> Any:
    """Decode a meta that holds an unreadable value. It raises only if the value is in the result of a SUCCESS."""
    # Elsewhere it does no harm. With result_extended, the task's arguments are in the meta. An argument of an exception
    # must not hide the exception, and a progress report must not end the wait for the result.
    stored = jsontypes.loads_plain(payload, max_depth)
    if not isinstance(stored, dict):
        return stored
    succeeded = stored.get("status") == states.SUCCESS
    try:
        return {name: types.revive(part, strict=succeeded and name == "result") for name, part in stored.items()}
    except jsontypes.UnreadableTypeError as error:
        raise ResultDecodeError(str(error)) from error.__cause__


def _meta(stored: dict[str, Any], task_id: str) -> TaskMeta:
    state = stored.get("status")
    if not isinstance(state, str) or not 0 < len(state) <= _LONGEST_STATE:
        raise ResultDecodeError("it has no status")
    owner = stored.get("task_id")
    if owner != task_id:
        # Anything but text may be slow to repr, or nested too deeply for it.
        raise ResultDecodeError(
            f"it belongs to {f'the task {short_repr(owner)}' if isinstance(owner, str) else 'no task'}"
        )
    if "result" not in stored:
        raise ResultDecodeError("it has no result")
    failed = state in states.EXCEPTION_STATES
    result = stored["result"]
    texts = {}
    for name in _TEXTS:
        if isinstance(text := stored.get(name), str):
            texts[name] = text
    return TaskMeta(
        task_id=task_id,
        state=state,
        result=None if failed and _is_exception(result) else result,
        failure=_failure(result, _text(stored, "traceback")) if failed else None,
        children=stored.get("children"),
        args=stored.get("args"),
        kwargs=stored.get("kwargs"),
        retries=stored["retries"] if type(stored.get("retries")) is int else None,
        **texts,
    )


def _is_exception(result: Any) -> bool:
    """Tell whether a stored value is an exception as Celery writes it, without other keys."""
    return isinstance(result, dict) and "exc_type" in result and result.keys() <= _OF_AN_EXCEPTION


def _failure(result: Any, traceback: str | None) -> TaskFailure:
    """Decode an exception leniently: tasks that set their own state may store anything, or nothing."""
    if not isinstance(result, dict) or result.keys().isdisjoint(_OF_AN_EXCEPTION):
        custom = () if result is None or result == {} else (result,)
        return TaskFailure(exc_type="Exception", exc_module=None, exc_args=custom, traceback=traceback)
    exc_type = _text(result, "exc_type") or "Exception"
    exc_module = _text(result, "exc_module")
    match exc_type, result.get("exc_message"):
        case _, None:
            args: tuple[Any, ...] = ()
        case "UnpickleableExceptionWrapper", [str() | None as module, str(name), [*wrapped], _]:
            # Celery's form for an exception that cannot be pickled: [module, class, arguments, repr].
            exc_module, exc_type, args = module, name, tuple(wrapped)
        case _, [*message]:
            args = tuple(message)
        case _, message:
            args = (message,)
    return TaskFailure(exc_type=exc_type, exc_module=exc_module, exc_args=args, traceback=traceback)


def _text(stored: dict[str, Any], key: str) -> str | None:
    value = stored.get(key)
    return value if isinstance(value, str) else None
