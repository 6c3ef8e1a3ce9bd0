"""Results as a worker stores them. Source: ``celery.backends.base`` and ``kombu.utils.json``."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.protocol import jsontypes, states
from fibo_client.errors import MessageError

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE: Final = Path(__file__).parent


def encode_meta(
    task_id: str,
    state: str = states.SUCCESS,
    result: Any = None,
    trace: str | None = None,
    types: jsontypes.JSONCodec = jsontypes.CELERY_JSON,
) -> bytes:
    """Encode a result.

    Args:
        task_id: The task's id.
        state: Its state.
        result: What goes with the state: a value, an exception from `encode_error`, progress.
        trace: The traceback of an exception, as text.
        types: The types that the result may have.

    Returns:
        The bytes, as they are stored and published.

    Raises:
        TypeError: JSON cannot carry the result.
        ValueError: It cannot carry a number in it, or the result contains itself.
    """
    done = datetime.now(UTC).isoformat() if state in states.READY_STATES else None
    meta = {
        "status": state,
        "result": result,
        "traceback": trace,
        "children": [],
        "date_done": done,
        "task_id": task_id,
    }
    return json.dumps(meta, default=_encoder(types)).encode()


def encode_error(error: BaseException, types: jsontypes.JSONCodec = jsontypes.CELERY_JSON) -> dict[str, Any]:
    """Encode an exception.

    Args:
        error: The exception.
        types: The types that its arguments may have.

    Returns:
        What is stored of it: its class by name and its arguments, those that JSON cannot carry as text.
    """
    return {
        "exc_type": type(error).__name__,
        "exc_message": [each if _can_be_encoded(each, types) else repr(each) for each in error.args],
        "exc_module": type(error).__module__,
    }


def state_of(payload: bytes | None) -> str:
    """Tell the state in a result.

    Args:
        payload: What is stored, if anything.

    Returns:
        The state; ``PENDING`` if nothing is stored.
    """
    return states.PENDING if payload is None else str(json.loads(payload)["status"])


def traceback_of(error: BaseException, task: str) -> str:
    """Write the traceback that a worker would store.

    Args:
        error: The exception.
        task: The task's name.

    Returns:
        The text, without the frames of this package. An exception that was never raised gets a line for the task.
    """
    own = error.__traceback__
    while own is not None and Path(own.tb_frame.f_code.co_filename).parent == _HERE:
        own = own.tb_next
    if own is not None:
        return "".join(traceback.format_exception(type(error), error, own))
    said = "".join(traceback.format_exception_only(error))
    return f'Traceback (most recent call last):\n  File "<{task}>", line 1, in {task.rpartition(".")[2]}\n{said}'


def _encoder(types: jsontypes.JSONCodec) -> Callable[[Any], Any]:
    def encode(value: Any) -> Any:
        try:
            return types.plain(value, "the result")
        except MessageError:
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable") from None

    return encode


def _can_be_encoded(value: Any, types: jsontypes.JSONCodec) -> bool:
    try:
        json.dumps(value, default=_encoder(types))
    except (TypeError, ValueError, RecursionError):
        return False
    return True
