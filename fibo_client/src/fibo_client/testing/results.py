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
    """Encode a result as it is stored and published. Raises TypeError or ValueError for what JSON has not."""
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
    """Encode an exception: its class by name and its arguments, those that JSON has not as text."""
    return {
        "exc_type": type(error).__name__,
        "exc_message": [each if _can_be_encoded(each, types) else repr(each) for each in error.args],
        "exc_module": type(error).__module__,
    }


def state_of(payload: bytes | None) -> str:
    """Give the state in a stored result; ``PENDING`` if nothing is stored."""
    return states.PENDING if payload is None else str(json.loads(payload)["status"])


def traceback_of(error: BaseException, task: str) -> str:
    """Write the traceback that a worker would store, without the frames of this package."""
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
