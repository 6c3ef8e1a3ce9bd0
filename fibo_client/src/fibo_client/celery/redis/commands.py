"""What is known of the commands whose replies are read: what Redis says to them, and which may be asked again."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import hiredis

if TYPE_CHECKING:
    from collections.abc import Sequence

Command = tuple[bytes | str | int | float, ...]

VALUES: Final[frozenset[type]] = frozenset({bytes, NoneType})
"""What is stored under a key, or nothing."""

_COUNT: Final[frozenset[type]] = frozenset({int, hiredis.ReplyError})
_LIST: Final[frozenset[type]] = frozenset({list, hiredis.ReplyError})

KINDS: Final[dict[Any, frozenset[type]]] = {
    "LLEN": _COUNT,
    "STRLEN": _COUNT,
    "UNLINK": _COUNT,
    "PUBLISH": _COUNT,
    "GET": frozenset({*VALUES, hiredis.ReplyError}),
    "MGET": _LIST,
    "LRANGE": _LIST,
}
"""The types of the replies to a command."""

ITEMS: Final[dict[Any, frozenset[type]]] = {"MGET": VALUES, "LRANGE": frozenset({bytes})}
"""The types of what is in a reply that is a list."""

_REPEATABLE: Final = frozenset({"LLEN", "LRANGE", "GET", "MGET", "STRLEN", "UNLINK", "SET"})
"""Of those that write, UNLINK deletes what nobody writes again, and SET writes before anybody reads."""


def can_be_repeated(commands: Sequence[Command]) -> bool:
    """Tell whether commands have the same effect when they are run again."""
    return all(command[0] in _REPEATABLE for command in commands)
