"""Kombu's envelope: what one element of a Redis list, or one published message, looks like.

Source: ``kombu.transport.virtual`` and ``kombu.transport.redis``. A worker needs ``delivery_tag``,
``delivery_info``, ``content-type`` and a body that ``body_encoding`` really fits; without them it drops the message
or stops.
"""

from __future__ import annotations

import base64
import json
from binascii import b2a_base64
from json.encoder import encode_basestring_ascii as quote
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fibo_client.celery.protocol import jsontypes
from fibo_client.celery.protocol.message import CONTENT_ENCODING, CONTENT_TYPE
from fibo_client.errors import MessageError, ResultDecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.protocol.message import MessageTemplate, Moments, TaskMessage

MAX_BYTES: Final = 512 * 1024 * 1024
"""Redis takes no longer element (``proto-max-bulk-len``); it would close the connection."""


def encode_task(message: TaskMessage, delivery_tag: str) -> bytes:
    """Put a task message into its envelope.

    Args:
        message: The message.
        delivery_tag: Must differ from that of every other message: workers keep unacknowledged messages by it.

    Returns:
        The envelope.

    Raises:
        MessageError: It is larger than Redis takes.
    """
    return _encode_task(
        message.id,
        message.headers,
        message.body,
        queue=message.queue,
        priority=message.priority,
        expiration=message.expiration,
        delivery_tag=delivery_tag,
    )


def _encode_task(
    task_id: str,
    headers: Mapping[str, Any],
    body: bytes,
    *,
    queue: str,
    priority: int,
    expiration: str | None,
    delivery_tag: str,
) -> bytes:
    properties: dict[str, Any] = {
        "correlation_id": task_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue},
        "priority": priority,
        "body_encoding": "base64",
        "delivery_tag": delivery_tag,
    }
    if expiration is not None:
        properties["expiration"] = expiration
    return _bounded(_encode(body, headers, properties))


class TaskTemplate:
    """The envelope of messages that are the same up to a few places.

    It is an envelope like any other that is cut where an example's own values are, so that there is one way for data
    out. What is filled in makes the very bytes that `encode_task` would make.

    Args:
        template: What the messages have in common.
        marks: `MARKS` texts that nobody could guess, to mark the places.
    """

    __slots__ = ("_arrange", "_format")

    def __init__(self, template: MessageTemplate, marks: Sequence[str]) -> None:
        task_id, tag, body, argsrepr, kwargsrepr, eta, expires, expiration, more = marks
        headers = {
            **template.headers, "id": task_id, "argsrepr": argsrepr, "kwargsrepr": kwargsrepr, "eta": eta,
            "expires": expires, more: more,
        }  # fmt: skip
        if template.is_root:
            headers["root_id"] = task_id
        places = [
            quote(task_id),
            quote(tag),
            base64.b64encode(body.encode()).decode(),
            *map(quote, (argsrepr, kwargsrepr, eta, expires)),
            _member("expiration", expiration),
            _member(more, more),
        ]
        text = _encode_task(
            task_id,
            headers,
            body.encode(),
            queue=template.queue,
            priority=template.priority,
            expiration=expiration,
            delivery_tag=tag,
        ).decode()
        for number, place in enumerate(places):
            text = text.replace(place, f"\0{number}\0")  # In JSON, control characters are escaped: there is no other.
        parts = text.split("\0")
        self._format = "%s".join(part.replace("%", "%%") for part in parts[::2])
        self._arrange = itemgetter(*map(int, parts[1::2]))

    def fill(self, message: TaskMessage, delivery_tag: str, moments: MomentTexts) -> bytes:
        """Make the envelope of one message of the template.

        Args:
            message: The message.
            delivery_tag: Must differ from that of every other message.
            moments: The message's moments, from `moment_texts`.

        Returns:
            The envelope.

        Raises:
            MessageError: It is larger than Redis takes.
        """
        task_id, _, (body, argsrepr, kwargsrepr, _), _, more_headers = message
        more = ""  # Most have no more headers.
        if more_headers:
            more = "".join([_member(name, value) for name, value in more_headers.items()])
        values = self._arrange(
            (
                quote(task_id),
                quote(delivery_tag),
                b2a_base64(body, newline=False).decode(),
                quote(argsrepr),
                quote(kwargsrepr),
                *moments,
                more,
            )
        )
        return _bounded((self._format % values).encode())


MomentTexts: TypeAlias = tuple[str, str, str]
"""When a task may run, as an envelope says it: its ``eta``, its ``expires``, and its ``expiration`` after a comma."""


def moment_texts(moments: Moments) -> MomentTexts:
    """Write when a task may run, for `TaskTemplate.fill`."""
    eta, expires, expiration = moments
    return (
        "null" if eta is None else quote(eta),
        "null" if expires is None else quote(expires),
        "" if expiration is None else _member("expiration", expiration),
    )


MARKS: Final = 9
"""How many texts a template takes to mark its places."""


def _member(name: str, value: Any) -> str:
    """Give a member of a JSON object that is not its first, as `encode_task` writes it."""
    return f", {quote(name)}: {quote(value) if isinstance(value, str) else json.dumps(value)}"


def _bounded(envelope: bytes) -> bytes:
    if len(envelope) > MAX_BYTES:
        raise MessageError(
            f"the message has {len(envelope)} bytes, more than the {MAX_BYTES} that Redis takes; "
            "store the data elsewhere and send where it is"
        )
    return envelope


def encode_control(body: bytes, *, exchange: str, expires: float | None, delivery_tag: str) -> bytes:
    """Put a remote control command into its envelope.

    Args:
        body: The command, from `encode_request`.
        exchange: The exchange of remote control commands.
        expires: When workers shall ignore it, in seconds since the epoch; None is never.
        delivery_tag: Must differ from that of every other message.

    Returns:
        The envelope.
    """
    headers: dict[str, Any] = {"clock": 1}
    if expires is not None:
        headers["expires"] = expires
    properties = {
        "delivery_mode": 2,
        "delivery_info": {"exchange": exchange, "routing_key": ""},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": delivery_tag,
    }
    return _encode(body, headers, properties)


def is_task(envelope: bytes, task_id: str) -> bool:
    """Tell whether an element of a queue is the message of a task.

    Args:
        envelope: The bytes, whoever wrote them.
        task_id: The task's id.

    Returns:
        Whether it is. Other messages may mention the id, as that of their parent.
    """
    if task_id.encode() not in envelope:
        return False
    try:
        message = jsontypes.loads_plain(envelope)
    except ResultDecodeError:
        return False
    headers = message.get("headers") if isinstance(message, dict) else None
    return isinstance(headers, dict) and headers.get("id") == task_id


def decode_reply(envelope: bytes) -> tuple[str | None, bytes]:
    """Open the envelope of an answer to remote control.

    Args:
        envelope: The bytes, as they came.

    Returns:
        The ticket of the request that it answers, and the body.

    Raises:
        ResultDecodeError: It is no such envelope.
    """
    match jsontypes.loads_plain(envelope):
        case {
            "body": str(body),
            "headers": {"ticket": str(ticket)},
            "properties": {"body_encoding": "base64"},
        }:
            try:
                return ticket, base64.b64decode(body, validate=True)
            except ValueError as error:  # binascii's own is one
                raise ResultDecodeError(f"the body of an answer is broken: {error}") from error
    raise ResultDecodeError("what came is not an answer to remote control")


def _encode(body: bytes, headers: Any, properties: dict[str, Any]) -> bytes:
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": CONTENT_ENCODING,
            "content-type": CONTENT_TYPE,
            "headers": headers,
            "properties": properties,
        }
    ).encode()
