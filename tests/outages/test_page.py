"""The page in the documentation and the tests are one contract."""

from __future__ import annotations

from pathlib import Path

from support.outages import PAGE, contract, section


def rows(table: str) -> list[str]:
    """The lines of a table below its head."""
    return [line for line in table.splitlines() if line.startswith("| ")][2:]


def faults(table: str) -> list[str]:
    return [row.split(" | ")[0].removeprefix("| ") for row in rows(table)]


def test_the_page_has_every_line_of_the_contract_that_the_tests_hold(promises):
    on_page = rows(section(PAGE.read_text(), "contract"))
    missing = [row for row in rows(contract(promises)) if row not in on_page]
    assert not missing, "run `make outages`, and look at the page"


def test_every_line_on_the_page_is_the_promise_of_a_test():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    orphans = [fault for fault in faults(section(PAGE.read_text(), "contract")) if f'"{fault}"' not in sources]
    assert not orphans, "run `make outages`"
