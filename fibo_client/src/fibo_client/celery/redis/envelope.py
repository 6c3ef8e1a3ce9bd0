"""Kombu's envelope: the form of one element of a Redis list, or of one published message.

Source: ``kombu.transport.virtual`` and ``kombu.transport.redis``. A worker needs ``delivery_tag``, ``delivery_info``,
``content-type`` and a body in the encoding that ``body_encoding`` names. Without them it drops the message or stops.
"""

from __future__ import annotations

import base64
import json
from binascii import b2a_base64
from itertools import chain
from json.encoder import encode_basestring_ascii as quote
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fibo_client.celery.protocol import jsontypes
from fibo_client.celery.protocol.message import CONTENT_ENCODING, CONTENT_TYPE, TaskMessage
from fibo_client.celery.protocol.moments import Moments
from fibo_client.errors import MessageError, ResultDecodeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fibo_client.celery.protocol.message import MessageTemplate

MAX_BYTES: Final = 512 * 1024 * 1024
"""The longest element that Redis accepts (``proto-max-bulk-len``). For a longer one, it closes the connection."""


def encode_task(message: TaskMessage, delivery_tag: str) -> bytes:
    """Put a task message into its envelope.

    Args:
        message: The message.
        delivery_tag: Unique among all messages: it is the key by which workers keep unacknowledged messages.

    Returns:
        The envelope.

    Raises:
        MessageError: It is larger than Redis accepts.
    """
    properties: dict[str, Any] = {
        "correlation_id": message.id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": message.queue},
        "priority": message.priority,
        "body_encoding": "base64",
        "delivery_tag": delivery_tag,
    }
    if message.expiration is not None:
        properties["expiration"] = message.expiration
    return _bounded(_encode(message.body, message.headers, properties))


class TaskTemplate:
    """The envelope of messages that differ in a few values only.

    It is made by the same encoder as every envelope, with placeholders for those values, and split at these. So it
    gives the same bytes as `encode_task`.

    Args:
        template: What the messages have in common.
        placeholders: `PLACEHOLDERS` random texts, which nobody can guess.
        in_flow: Whether the messages are of a flow of several: each has a root, and may have a group.
    """

    __slots__ = ("_arrange", "_fixed")

    def __init__(self, template: MessageTemplate, placeholders: Sequence[str], *, in_flow: bool = False) -> None:
        task_id, tag, body, argsrepr, kwargsrepr, eta, expires, expiration, more, root, group, index = placeholders
        moments = Moments(eta, expires, expiration)
        message = TaskMessage(task_id, template, body.encode(), argsrepr, kwargsrepr, moments, {more: more})
        if in_flow:
            placed: dict[str, Any] = {"group": (group, index), "root": root}
            message = message._replace(**placed)
        text = encode_task(message, tag).decode()
        encoded = [
            quote(task_id),
            quote(tag),
            base64.b64encode(body.encode()).decode(),
            *map(quote, (argsrepr, kwargsrepr, eta, expires)),
            _member("expiration", expiration),
            _member(more, more),
            *map(quote, (root, group, index)),
        ]
        for number, placeholder in enumerate(encoded):
            text = text.replace(placeholder, f"\0{number}\0")  # JSON escapes control characters: there is no other NUL.
        # Fixed texts and the numbers of values alternate.
        *parts, end = text.split("\0")
        self._fixed = (*parts[::2], end)
        places = [len(self._fixed) + int(number) for number in parts[1::2]]
        self._arrange = itemgetter(*chain.from_iterable(enumerate(places)), len(places))

    def fill(
        self, message: TaskMessage, delivery_tag: str, moments: MomentTexts, more: str, places: Sequence[str] = ()
    ) -> bytes:
        """Make the envelope of one message of the template.

        Args:
            message: The message.
            delivery_tag: Unique among all messages: a UUID, which JSON need not escape.
            moments: The message's moments, from `moment_texts`.
            more: Its further headers, from `headers_text`.
            places: Its root and its group, from `flow_texts`, where the template is of messages of a flow.

        Returns:
            The envelope.

        Raises:
            MessageError: It is larger than Redis accepts.
        """
        task_id, _, body, argsrepr, kwargsrepr, *_ = message
        texts = self._arrange(
            (
                *self._fixed,
                quote(task_id),
                f'"{delivery_tag}"',
                b2a_base64(body, newline=False).decode(),
                quote(argsrepr),
                quote(kwargsrepr),
                *moments,
                more,
                *places,
            )
        )
        envelope = "".join(texts).encode()
        return envelope if len(envelope) <= MAX_BYTES else _bounded(envelope)


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


def headers_text(more_headers: Mapping[str, Any]) -> str:
    """Write a message's further headers, for `TaskTemplate.fill`."""
    return "".join([_member(name, value) for name, value in more_headers.items()])


def flow_texts(message: TaskMessage) -> tuple[str, str, str]:
    """Write the root of a message and its place in a group, for `TaskTemplate.fill`."""
    root = quote(message.root or message.id)
    return (root, "null", "null") if message.group is None else (root, quote(message.group[0]), str(message.group[1]))


PLACEHOLDERS: Final = 12
"""How many placeholders a template needs."""


def _member(name: str, value: Any) -> str:
    """Write a further member of a JSON object as `encode_task` does."""
    return f", {quote(name)}: {quote(value) if isinstance(value, str) else json.dumps(value)}"


def _bounded(envelope: bytes) -> bytes:
    if len(envelope) > MAX_BYTES:
        raise MessageError(
            f"the message has {len(envelope)} bytes, more than the {MAX_BYTES} that Redis takes; "
            "store the data elsewhere and send its address"
        )
    return envelope


def encode_control(body: bytes, *, exchange: str, expires: float | None, delivery_tag: str) -> bytes:
    """Put a remote control command into its envelope.

    Args:
        body: The command, from `encode_request`.
        exchange: The exchange of remote control commands.
        expires: When workers start to ignore it, in seconds since the epoch. None is never.
        delivery_tag: Unique among all messages.

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
    """Tell whether an element of a queue is the message of a task. Anybody may have written it."""
    if task_id.encode() not in envelope:
        return False
    # A message may also mention the id as that of its parent.
    try:
        message = jsontypes.loads_plain(envelope)
    except ResultDecodeError:
        return False
    headers = message.get("headers") if isinstance(message, dict) else None
    return isinstance(headers, dict) and headers.get("id") == task_id


def decode_reply(envelope: bytes) -> tuple[str | None, bytes]:
    """Decode the envelope of a reply to remote control.

    Args:
        envelope: The bytes, as received.

    Returns:
        The ticket of the request, and the body.

    Raises:
        ResultDecodeError: It is not such an envelope.
    """
    match jsontypes.loads_plain(envelope):
        case {
            "body": str(body),
            "headers": {"ticket": str(ticket)},
            "properties": {"body_encoding": "base64"},
        }:
            try:
                return ticket, base64.b64decode(body, validate=True)
            except ValueError as error:  # binascii.Error is a subclass
                raise ResultDecodeError(f"the body of a reply is broken: {error}") from error
    raise ResultDecodeError("it is not a reply to remote control")


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
