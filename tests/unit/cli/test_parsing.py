import asyncio
import os

import pytest

from fibo_client.cli import parsing
from fibo_client.cli.parsing import StandardInput, parse_integer, parse_number, parse_range


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("10", 10), ("+7", 7), ("-3", -3), ("007", 7)])
def test_a_whole_number_is_decimal_digits(text, value):
    assert parse_integer(text) == value


@pytest.mark.parametrize("text", ["", "x", "1.5", "1_000", "0x10", " 4", "४", "--", "9" * 5000])
def test_what_is_no_whole_number_is_said_in_a_few_words(text):
    with pytest.raises(ValueError, match="is not a whole number") as caught:
        parse_integer(text)
    assert len(str(caught.value)) < 80


def test_a_control_character_does_not_reach_the_terminal():
    with pytest.raises(ValueError, match=r"^'\\x1b\[2J' is not"):
        parse_integer("\x1b[2J")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:3", [0, 1, 2]), ("0:10:4", [0, 4, 8]), ("3:0:-1", [3, 2, 1])],
)
def test_a_range_is_pythons(text, expected):
    assert list(parse_range(text)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("5", "'5' is not a range; write START:STOP"),
        ("1:2:3:4", "is not a range"),
        (":5", "'' is not a whole number; write START:STOP"),
        ("0:x", "'x' is not a whole number"),
        ("0:5:0", "STEP must not be 0; write START:STOP"),
        ("5:5", "has no number in it; STOP is not part"),
        ("5:0", "has no number in it"),
    ],
)
def test_what_is_no_range_is_said_with_an_example(text, message):
    with pytest.raises(ValueError, match=message):
        parse_range(text)


def test_a_number_need_not_be_whole_for_a_root():
    assert [parse_number("2"), parse_number("2.5"), parse_number("1e3")] == [2, 2.5, 1000.0]
    assert isinstance(parse_number("2"), int)
    with pytest.raises(ValueError, match="'x' is not a number"):
        parse_number("x")


class Pipe:
    """An input that a test writes to while it is read."""

    def __init__(self):
        self.reader, self.writer = os.pipe()

    def fileno(self):
        return self.reader

    def write(self, data):
        os.write(self.writer, data)

    def close(self):
        os.close(self.writer)


@pytest.fixture
def pipe(monkeypatch):
    pipe = Pipe()
    monkeypatch.setattr("sys.stdin", pipe)
    yield pipe
    os.close(pipe.reader)


async def read(check=lambda n: n):
    errors = []
    return [n async for n in StandardInput(check, errors.append)], errors


async def test_numbers_may_stand_on_lines_of_any_kind_and_the_last_one_needs_no_end(pipe):
    pipe.write(b"1 2\t3\r\n\n  4  \n5")
    pipe.close()

    assert await read() == ([1, 2, 3, 4, 5], [])


async def test_numbers_come_while_the_input_is_still_open(pipe):
    source = aiter(StandardInput(lambda n: n, lambda text: None))
    pipe.write(b"1\n2")

    async with asyncio.timeout(10):
        assert await anext(source) == 1
        pipe.write(b"3\n")
        assert await anext(source) == 23
        pipe.close()
        with pytest.raises(StopAsyncIteration):
            await anext(source)


async def test_a_line_that_is_wrong_is_named_and_the_others_go_on(pipe):
    def check(n):
        if n > 100:
            raise ValueError("too large")
        return n

    pipe.write(b"1\nx 2\n\n\xff\n101\n3\n")
    pipe.close()

    found, errors = await read(check)

    assert found == [1, 3]
    assert errors == [
        "line 2: 'x' is not a whole number",
        "line 4: '\\xff' is not a whole number",
        "line 5: too large",
    ]


async def test_a_line_without_an_end_takes_no_memory(pipe, monkeypatch):
    monkeypatch.setattr(parsing, "LONGEST_LINE", 100)
    monkeypatch.setattr(parsing, "_CHUNK", 64)
    pipe.write(b"1\n" + b"7" * 1000 + b"\n2\n" + b"8" * 500)
    pipe.close()

    assert await read() == ([1, 2], ["line 2 has more than 100 bytes", "line 4 has more than 100 bytes"])


async def test_waiting_for_input_blocks_nobody_and_can_be_cancelled(pipe):
    waiting = asyncio.create_task(anext(aiter(StandardInput(lambda n: n, lambda text: None))))
    for _ in range(3):
        await asyncio.sleep(0)  # It begins to read.
    assert not waiting.done()

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    pipe.close()  # lets its thread go
