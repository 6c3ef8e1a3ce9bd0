import logging
import sys
from decimal import Decimal

import pytest
from celery.app.log import TaskFormatter
from celery.utils.log import ColorFormatter
from support.hostile_text import ACTS, acts

from fibo_worker.guard import logs
from fibo_worker.guard.logs import escape_controls

FORGED = "no\r\n[2026-01-01 00:00:00,000: INFO/MainProcess] all is well\u2028\x1b[2J"


def written(message, *args, formatter=None, **options):
    record = logging.LogRecord("celery", logging.INFO, "a.py", 1, message, args, options.pop("exc_info", None))
    vars(record).update(options)
    return logs._EscapingFormatter(formatter or logging.Formatter("[%(levelname)s] %(message)s")).format(record)


@pytest.mark.parametrize("text", [text for text in ACTS.values() if len(text) < 1_000_000] + [FORGED])
def test_what_a_value_has_in_it_stays_on_its_line_and_does_nothing(text):
    class Value:
        __str__ = __repr__ = lambda self: text

    for args in ((text,), (Value(),), (ValueError(text),), ([text],)):
        for message in ("got %s", "got %r", "got %.50s"):
            assert acts(written(message, *args)) == []
    assert acts(written("Task %(name)s[%(id)s]", {"name": text, "id": text})) == []


def test_the_lines_of_a_traceback_cannot_be_taken_for_records():
    try:
        raise ValueError(FORGED)
    except ValueError:
        text = written("it failed", exc_info=sys.exc_info())

    first, *rest = text.split("\n")
    assert first == "[INFO] it failed"
    assert len(rest) > 3
    assert all(line.startswith("    ") for line in rest)
    assert acts(text, "\n") == []


def test_the_lines_of_a_message_are_kept_and_indented():
    assert written("one\ntwo\r\nthree %s", FORGED[:3]) == "[INFO] one\n    two\\r\n    three no\\r"


def test_numbers_and_what_formats_as_one_are_as_before():
    assert written("%d %5.2f %s %i %x", 5, 2.5, None, True, 255) == "[INFO] 5  2.50 None 1 ff"
    assert written("%d %.1f %s", Decimal(5), Decimal("2.5"), "plain text, even ä and 漢") == (
        "[INFO] 5 2.5 plain text, even ä and 漢"
    )


def test_the_record_itself_stays_as_it_was():
    record = logging.LogRecord("celery", logging.INFO, "a.py", 1, "got %s", (FORGED,), None)
    logs._EscapingFormatter(logging.Formatter()).format(record)

    assert record.getMessage() == f"got {FORGED}"
    assert record.exc_text is None


def test_a_formatter_of_somebodys_own_is_left_alone_and_colours_stay():
    class Json(logging.Formatter):
        pass

    logger = logging.getLogger("celery.redirected")
    before, handlers = logger.handlers, [logging.NullHandler() for _ in range(4)]
    own = Json()
    for handler, formatter in zip(handlers, (own, None, ColorFormatter("%(message)s"), TaskFormatter()), strict=True):
        handler.setFormatter(formatter)
    logger.handlers = handlers
    try:
        escape_controls()
        escape_controls()
    finally:
        logger.handlers = before

    assert handlers[0].formatter is own
    record = logging.LogRecord("celery", logging.ERROR, "a.py", 1, "got %s", (FORGED,), None)
    assert handlers[1].format(record).count("\n") == 0
    assert handlers[2].format(record).startswith("\x1b[")
    assert "[2J" in handlers[2].format(record)
    assert "\n" not in handlers[3].format(record)
