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
    from collections.abc import Callable, Mapping, Sequence

    from fibo_client.celery.protocol.message import Arguments, MessageTemplate, Moments, TaskMessage

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
    out. What is put in between makes the very bytes that `encode_task` would make.

    Args:
        template: What the messages have in common.
        holes: `HOLES` texts that nobody could guess, to mark the places.
    """

    __slots__ = ("_parts",)

    def __init__(self, template: MessageTemplate, holes: Sequence[str]) -> None:
        task_id, tag, body, argsrepr, kwargsrepr, eta, expires, expiration, more = holes
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
            *map(quote, (argsrepr, kwargsrepr)),
            _member(more, more),
            *map(quote, (eta, expires)),
            _expiration(expiration),
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
        self._parts = text.split("\0")

    def dated(self, moments: Moments) -> TaskForm:
        """Fill in when the tasks may run.

        Args:
            moments: When.

        Returns:
            What is left to be filled in.
        """
        return TaskForm(
            self._parts,
            {
                "6": "null" if moments.eta is None else quote(moments.eta),
                "7": "null" if moments.expires is None else quote(moments.expires),
                "8": "" if moments.expiration is None else _expiration(moments.expiration),
            },
        )


class TaskForm:
    """The envelope of the messages of one call. It is made by `TaskTemplate.dated`.

    Args:
        parts: In turns, a text that is the same in all of them, and the number of what is filled in after it.
        known: What is filled in already, by its number.
    """

    __slots__ = ("_full", "_known", "_parts", "_plain")

    def __init__(self, parts: Sequence[str], known: Mapping[str, str]) -> None:
        self._parts = parts
        self._known = known
        # Most have no more headers: what is not there costs nothing.
        self._plain = _arranged(parts, {**known, "5": ""})
        self._full: _Arrangement | None = None

    def fill(self, task_id: str, delivery_tag: str, arguments: Arguments, more_headers: Mapping[str, Any]) -> bytes:
        """Make the envelope of one message.

        Args:
            task_id: The task's id.
            delivery_tag: Must differ from that of every other message.
            arguments: The task's arguments.
            more_headers: Headers beside those of the template, with other names, in plain JSON.

        Returns:
            The envelope.

        Raises:
            MessageError: It is larger than Redis takes.
        """
        fixed, arrange = self._plain
        more: tuple[str, ...] = ()
        if more_headers:
            if self._full is None:
                self._full = _arranged(self._parts, self._known)
            fixed, arrange = self._full
            more = ("".join([_member(name, value) for name, value in more_headers.items()]),)
        parts = arrange(
            (
                *fixed,
                quote(task_id),
                quote(delivery_tag),
                b2a_base64(arguments.body, newline=False).decode(),
                quote(arguments.argsrepr),
                quote(arguments.kwargsrepr),
                *more,
            )
        )
        return _bounded("".join(parts).encode())


_Arrangement: TypeAlias = "tuple[tuple[str, ...], Callable[[tuple[str, ...]], tuple[str, ...]]]"
"""Texts that are the same in all envelopes, and what puts them and what differs into order."""


def _arranged(parts: Sequence[str], known: Mapping[str, str]) -> _Arrangement:
    """Prepare to put envelopes together.

    Args:
        parts: In turns, a text that is the same in all of them, and the number of what comes after it.
        known: What is the same in all of them after all, by its number.

    Returns:
        The arrangement.
    """
    fixed, places = [parts[0]], []
    for place, text in zip(parts[1::2], parts[2::2], strict=True):
        if place in known:
            fixed[-1] += known[place] + text
        else:
            places.append(int(place))
            fixed.append(text)
    count = len(fixed)
    order = [each for index, place in enumerate(places) for each in (index, count + place)]
    return tuple(fixed), itemgetter(*order, count - 1)


HOLES: Final = 9
"""How many texts a template takes to mark its places."""


def _expiration(expiration: str) -> str:
    """Give the last of the properties as `encode_task` writes it, if it is there at all."""
    return _member("expiration", expiration)


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
