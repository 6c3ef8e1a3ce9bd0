"""Log lines that nobody else writes: control characters in the values of a record are escaped.

A sender chooses a task's arguments, and with them the text of its errors. With a newline in one, it would write lines
of its own into the worker's log; with an escape sequence, it would act on the terminal of who reads it.
"""

from __future__ import annotations

import copy
import logging
import re
from typing import TYPE_CHECKING, Any, Final

from celery.app.log import TaskFormatter
from celery.utils.log import ColorFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["escape_controls"]

# All but tab: C0 and C1 controls, line separators, marks that turn the direction of writing, halves of characters.
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_INDENT: Final = "    "
_TEXT_FORMATTERS: Final = (logging.Formatter, ColorFormatter, TaskFormatter)
_LOGGERS: Final = (None, "celery", "celery.task", "celery.redirected", "multiprocessing")


def escape_controls() -> None:
    """Escape control characters in what the handlers of this process's loggers write as text.

    A handler with another formatter, such as one for JSON, stays as it is.
    """
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if handler.formatter is None or type(handler.formatter) in _TEXT_FORMATTERS:
                handler.setFormatter(_EscapingFormatter(handler.formatter or logging.Formatter()))


class _EscapingFormatter(logging.Formatter):
    """Escapes the values of a record before another formatter formats it. A traceback keeps its lines, indented."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        if not record.exc_info and not record.exc_text and not record.stack_info:
            text = self._inner.format(record)
            if not _CONTROLS.search(text):
                return text
        # A copy: other handlers get the record as it was.
        escaped = copy.copy(record)
        if isinstance(record.args, dict):
            escaped.args = {name: _escaped(value) for name, value in record.args.items()}
        elif record.args:
            escaped.args = tuple(map(_escaped, record.args))
        escaped.msg = _indented(str(record.msg))
        if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
            escaped.exc_text = _indented(self._inner.formatException(record.exc_info), first=_INDENT)
        elif record.exc_text:
            escaped.exc_text = _indented(record.exc_text, first=_INDENT)
        if record.stack_info:
            escaped.stack_info = _indented(record.stack_info, first=_INDENT)
        return self._inner.format(escaped)


class _Escaped:
    """A value whose texts are escaped when the record's message asks for them."""

    def __init__(self, value: object) -> None:
        self._value: Any = value

    def __str__(self) -> str:
        return _on_one_line(str(self._value))

    def __repr__(self) -> str:
        return _on_one_line(repr(self._value))

    def __int__(self) -> int:
        return int(self._value)  # as %d asks

    def __float__(self) -> float:
        return float(self._value)  # as %f asks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)

    def __getitem__(self, key: Any) -> Any:
        return _escaped(self._value[key])


def _escaped(value: object) -> object:
    if isinstance(value, str):
        return _on_one_line(value)
    return value if value is None or isinstance(value, int | float) else _Escaped(value)


def _on_one_line(text: str) -> str:
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _indented(text: str, first: str = "") -> str:
    """Escape all but the newlines of a text, after which a line begins with spaces, as no line of a record does."""
    return first + f"\n{_INDENT}".join(_lines(text))


def _lines(text: str) -> Iterator[str]:
    return map(_on_one_line, text.split("\n"))
