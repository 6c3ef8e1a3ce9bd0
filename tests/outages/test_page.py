"""The page in the documentation and the tests are one contract."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from support.outages import PAGE, contract, section


def rows(tables: str) -> list[list[str]]:
    """The cells of the tables, without their heads and the last column: that has what was seen, and no promise."""
    lines = [line for line in tables.splitlines() if re.match(r"\| (?!Fault|---)", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")][:-1] for line in lines]


def test_the_page_has_every_line_of_the_contract_that_the_tests_hold(promises):
    assert promises, "the promises are marks of the tests beside this one: have pytest collect all of tests/outages"
    on_page = rows(section(PAGE.read_text(), "contract"))
    missing = [row for row in rows(contract(promises, {}, dt.date.min)) if row not in on_page]
    assert not missing, "run `make outages`, and look at the page"


def test_every_line_on_the_page_is_the_promise_of_a_test():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    orphans = [row[0] for row in rows(section(PAGE.read_text(), "contract")) if f'"{row[0]}"' not in sources]
    assert not orphans, "run `make outages`"
