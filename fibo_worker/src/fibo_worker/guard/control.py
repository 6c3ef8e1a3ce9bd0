"""Check a command of remote control before it runs.

Celery hands a command's arguments to its function as they came. At an unexpected type, the worker ends, or serves no
more. So this module checks what each command of Celery relies on. Sources: ``celery.worker.control`` of versions 5.5 to
5.7 for the commands, ``kombu.pidbox`` for what surrounds them, ``kombu.entity`` for the options of a queue.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from signal import Signals
from typing import TYPE_CHECKING, Any, Final

from fibo_worker.guard.validation import is_name, is_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from inspect import Signature

__all__ = ["CommandError", "check_address", "check_arguments", "check_method", "check_reply_to"]

_MAX_PATTERN: Final = 256
_MAX_REPETITIONS: Final = 3
_MAX_IDS: Final = 1_000_000
_LARGEST: Final = 1e9
_SLOWEST_RATE: Final = 1e-6  # a task in twelve days
# Keys of kombu and of this worker. A worker that takes tasks from what is no list reconnects without end.
_KEYS: Final = re.compile(r"^unacked(_index|_mutex)?$|^_kombu\.binding\.|\.pidbox$|\.dead(\.count)?$")
_PER_SECOND: Final = {"": 1, "s": 1, "m": 60, "h": 3600}
# A process that one of these stops would neither run on nor end.
_STOPPING: Final = {"SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
_SIGNALS: Final = {each.name: each.value for each in Signals if each.name not in _STOPPING}


class CommandError(Exception):
    """A command is refused; the text says why, without values of the message."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an argument must be, in words, and the test for it."""

    words: str
    fits: Callable[[Any], bool]


def _or_null(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.words} or null", lambda value: value is None or kind.fits(value))


def _whole(least: int, most: int) -> _Kind:
    return _Kind(
        f"a whole number from {least} to {most}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _is_queue(value: Any) -> bool:
    return is_name(value) and value.isprintable() and not _KEYS.search(value)


def _is_ids(value: Any) -> bool:
    return is_name(value) or (isinstance(value, list) and len(value) <= _MAX_IDS and all(map(is_name, value)))


def _is_signal(value: Any) -> bool:
    if isinstance(value, str):
        return value in _SIGNALS or f"SIG{value}" in _SIGNALS
    return isinstance(value, int) and not isinstance(value, bool) and value in _SIGNALS.values()


def _is_rate(value: Any) -> bool:
    if isinstance(value, str):
        number, _, per = value.partition("/")
        if value == "":
            return True
        if per not in _PER_SECOND:
            return False
        try:
            value = float(number) / _PER_SECOND[per]
        except ValueError:
            return False
    return value is None or (_is_number(value) and (value == 0 or value >= _SLOWEST_RATE))


def _is_limit(value: Any) -> bool:
    return value is None or (_is_number(value) and value >= 0)


def _is_stamp(value: Any) -> bool:
    return is_text(value) or _is_number(value)


def _is_stamps(value: Any) -> bool:
    if isinstance(value, dict):
        return all(
            is_name(name) and (_is_stamp(stamps) or (isinstance(stamps, list) and all(map(_is_stamp, stamps))))
            for name, stamps in value.items()
        )
    return isinstance(value, list) and all(is_text(each) and "=" in each for each in value)


def _is_revoked(value: Any) -> bool:
    """Tell whether these are the ids that another worker has revoked: up to Celery 5.6, with the times of that."""
    if isinstance(value, dict):
        return all(is_name(id) and _is_moment(moment) for id, moment in value.items())
    return value is None or _is_ids(value)


def _is_moment(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and _is_moment(value[0]) and is_name(value[1])
    return isinstance(value, float) and 0 <= value < 1e12


_ID: Final = _Kind("a text", is_name)
_IDS: Final = _Kind("an id or a list of ids", _is_ids)
_NAME: Final = _Kind("a text", is_name)
_QUEUE: Final = _Kind("the name of a queue", _is_queue)
_FLAG: Final = _Kind("true, false or null", lambda value: value is None or isinstance(value, bool))
_SIGNAL: Final = _or_null(_Kind("the name of a signal that does not stop a process", _is_signal))
_OBJECT: Final = _Kind("an object", lambda value: isinstance(value, dict))
_SECONDS: Final = _Kind("seconds, 0 or more, or null", _is_limit)
_PROCESSES: Final = _whole(1, 1_000_000)
_POSITIVE: Final = _or_null(_Kind("a number above 0", lambda value: _is_number(value) and value > 0))
_ATTRIBUTES: Final = _or_null(
    _Kind(
        "a list of names of attributes",
        lambda value: isinstance(value, list) and all(is_text(each) and not each.startswith("_") for each in value),
    )
)
_MODULES: Final = _or_null(
    _Kind("a list of names of modules", lambda value: isinstance(value, list) and all(map(is_name, value)))
)

_OF_A_QUEUE: Final[dict[str, _Kind]] = {
    **dict.fromkeys(
        ("durable", "auto_delete", "exclusive", "queue_durable", "queue_auto_delete", "exchange_durable"), _FLAG
    ),
    **dict.fromkeys(("exchange_auto_delete", "no_declare"), _FLAG),
    **dict.fromkeys(("expires", "message_ttl", "max_length", "max_length_bytes"), _POSITIVE),
    "max_priority": _or_null(_whole(0, 255)),
    "delivery_mode": _or_null(
        _Kind("1, 2, transient or persistent", lambda value: value in (1, 2, "transient", "persistent"))
    ),
    **dict.fromkeys(("alias", "binding_key"), _or_null(_NAME)),
    **dict.fromkeys(
        ("queue_arguments", "binding_arguments", "consumer_arguments", "exchange_arguments"), _or_null(_OBJECT)
    ),
}
"""The options of a queue. Not ``no_ack`` nor ``bindings``: what came by them could not be acknowledged or restored."""

_ARGUMENTS: Final[dict[str, dict[str, _Kind]]] = {
    "active": {"safe": _FLAG},
    "active_queues": {},
    "add_consumer": {
        "queue": _QUEUE,
        "exchange": _or_null(_NAME),
        # Not fanout: nothing would validate, keep or redeliver what came by it.
        "exchange_type": _or_null(_Kind("direct or topic", lambda value: value in ("direct", "topic"))),
        "routing_key": _or_null(_NAME),
        **_OF_A_QUEUE,
    },
    "autoscale": {"max": _or_null(_PROCESSES), "min": _or_null(_whole(0, 1_000_000))},
    "cancel_consumer": {"queue": _NAME},
    "clock": {},
    "conf": {"with_defaults": _FLAG},
    "disable_events": {},
    "election": {
        "id": _ID,
        "topic": _NAME,
        "action": _Kind("an object, a text or null", lambda value: value is None or isinstance(value, dict | str)),
    },
    "enable_events": {},
    "heartbeat": {},
    "hello": {"from_node": _NAME, "revoked": _Kind("ids", _is_revoked)},
    "memdump": {"samples": _whole(1, 1000)},
    "memsample": {},
    "objgraph": {"num": _whole(0, 1000), "max_depth": _whole(1, 20), "type": _NAME},
    "ping": {},
    "pool_grow": {"n": _PROCESSES},
    "pool_restart": {
        "modules": _MODULES,
        "reload": _FLAG,
        "reloader": _Kind("null", lambda value: value is None),
    },
    "pool_shrink": {"n": _PROCESSES},
    "query_task": {"ids": _IDS},
    "rate_limit": {"task_name": _NAME, "rate_limit": _Kind("a rate such as 10/m, 0 or null", _is_rate)},
    "registered": {"taskinfoitems": _ATTRIBUTES, "builtins": _FLAG},
    "report": {},
    "reserved": {},
    "revoke": {"task_id": _or_null(_IDS), "terminate": _FLAG, "signal": _SIGNAL},
    "revoke_by_stamped_headers": {
        "headers": _Kind("an object of stamps by header, or a list of texts such as header=stamp", _is_stamps),
        "terminate": _FLAG,
        "signal": _SIGNAL,
    },
    "revoked": {},
    "scheduled": {},
    "stats": {},
    "terminate": {"signal": _SIGNAL, "task_id": _or_null(_IDS)},
    "time_limit": {"task_name": _NAME, "hard": _SECONDS, "soft": _SECONDS},
}
"""By the name of the function of ``celery.worker.control``, its arguments. Without ``shutdown``, which nothing
prevents."""

_WITHOUT_MORE: Final = {"add_consumer"}
"""The commands that pass every other argument on, to where a wrong one does harm."""


def check_address(body: Any) -> None:
    """Check what says for which nodes a command is. Raise CommandError if it cannot be understood."""
    if not isinstance(body, dict):
        raise CommandError("it is not an object")
    destination = body.get("destination")
    if destination and not (isinstance(destination, list) and all(map(is_text, destination))):
        raise CommandError("its destination is not a list of names of nodes")
    pattern, matcher = body.get("pattern"), body.get("matcher")
    for field, value in (("pattern", pattern), ("matcher", matcher)):
        if value and not is_text(value, _MAX_PATTERN):
            raise CommandError(f"its {field} is not a text of at most {_MAX_PATTERN} characters")
    # Of `kombu.matcher`. A regular expression with many repetitions can take longer than anybody lives.
    if pattern and matcher == "pcre" and _repetitions(pattern) > _MAX_REPETITIONS:
        raise CommandError(f"its pattern repeats a group, or repeats more than {_MAX_REPETITIONS} times")


def _repetitions(pattern: str) -> float:
    plain = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    return math.inf if re.search(r"\)[*+{?]", plain) else len(re.findall(r"[*+{?]", plain))


def check_reply_to(reply_to: Any, ticket: Any, exchange: str) -> None:
    """Check where the reply goes.

    Args:
        reply_to: The field of the command, or None.
        ticket: The field of the command that the reply repeats.
        exchange: The exchange for replies.

    Raises:
        CommandError: No reply can go there.
    """
    if not reply_to:
        return
    if not isinstance(reply_to, dict) or reply_to.get("exchange") not in ("", exchange):
        raise CommandError("its reply_to does not name the exchange for replies")
    if not is_name(reply_to.get("routing_key")):
        raise CommandError("its reply_to has no routing_key")
    if ticket is not None and not is_name(ticket):
        raise CommandError("its ticket is not a text")


def check_method(method: Any, commands: Any) -> str:
    """Check that a command is known.

    Args:
        method: The field of the command.
        commands: The names of the commands.

    Returns:
        Its name.

    Raises:
        CommandError: It is not known.
    """
    if not is_name(method):
        raise CommandError("its method is not a text")
    if method not in commands:
        raise CommandError("no such command")
    return str(method)


def check_arguments(arguments: Any, signature: Signature, command: str | None) -> dict[str, Any]:
    """Check a command's arguments.

    Args:
        arguments: The field of the command.
        signature: The signature of the function that it calls.
        command: The name of that function if it is Celery's, or None.

    Returns:
        The arguments to call it with.

    Raises:
        CommandError: It cannot run with them.
    """
    if not arguments:
        arguments = {}
    if command == "shutdown":
        message = arguments.get("msg") if isinstance(arguments, dict) else None
        return {"msg": message} if is_text(message) else {}
    if not isinstance(arguments, dict) or not all(map(is_name, arguments)):
        raise CommandError("its arguments are not an object")
    try:
        signature.bind(None, **arguments)
    except TypeError as error:
        raise CommandError(f"its arguments do not fit: {error}") from None
    kinds = {} if command is None else _ARGUMENTS.get(command, {})
    for name, value in arguments.items():
        kind = kinds.get(name)
        if kind is None and command in _WITHOUT_MORE:
            raise CommandError(f"it has no argument {name[:100]!r}")
        if kind is not None and not kind.fits(value):
            raise CommandError(f"its argument {name!r} is not {kind.words}")
    _check_texts(arguments)
    return arguments


def _check_texts(value: Any) -> None:
    """Check that all texts inside encode, and all numbers are finite, so that a log or a reply can have them."""
    level = [value]
    while level:
        each = level.pop()
        if isinstance(each, dict):
            level += each.keys()
            level += each.values()
        elif isinstance(each, list):
            level += each
        elif isinstance(each, float):
            if not math.isfinite(each):
                raise CommandError("its arguments have a number that is not finite")
        elif isinstance(each, str) and not is_text(each, len(each)):
            raise CommandError("its arguments have a text that cannot be encoded")
