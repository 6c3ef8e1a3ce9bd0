"""Remote control: the commands that go to all workers, and their replies.

Source: ``kombu.pidbox`` and ``celery.app.control``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fibo_client.celery.protocol import jsontypes
from fibo_client.errors import MessageError, ResultDecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRequest:
    """A remote control command.

    Attributes:
        method: The command's name: ``ping``, ``revoke``, ``active``, ...
        arguments: Its arguments.
        destination: The node names of the workers that it is for. None is all workers.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    destination: Sequence[str] | None = None


def encode_request(request: ControlRequest, *, ticket: str | None = None, reply_key: str = "") -> bytes:
    """Encode a command as the body of a broadcast.

    Args:
        request: The command.
        ticket: The id that each reply repeats, so that the caller can match it. None asks for no reply.
        reply_key: The routing key of the replies. They go to the exchange without a name, so this names a queue.

    Returns:
        The body, as JSON.

    Raises:
        MessageError: The arguments are not JSON, or the destination is a str instead of a list.
    """
    if isinstance(request.destination, str):
        raise MessageError("destination must be a list of node names, such as ['celery@host']")
    body: dict[str, Any] = {
        "method": request.method,
        "arguments": dict(request.arguments),
        "destination": None if request.destination is None else list(request.destination),
        "pattern": None,
        "matcher": None,
    }
    if ticket is not None:
        body["ticket"] = ticket
        body["reply_to"] = {"exchange": "", "routing_key": reply_key}
    return jsontypes.CELERY_JSON.dumps(body, "arguments").encode()


def decode_reply(body: bytes) -> dict[str, Any]:
    """Decode the body of a reply.

    Args:
        body: The body, as received.

    Returns:
        A dict with one item: the worker's node name and its answer.

    Raises:
        ResultDecodeError: It is not such a reply.
    """
    # Not strictly: replies hold arguments of tasks, and an unknown type among them must not lose the whole reply.
    reply = jsontypes.CELERY_JSON.loads(body, strict=False)
    if not isinstance(reply, dict):
        raise ResultDecodeError("the answer of a worker is not a JSON object")
    return reply
