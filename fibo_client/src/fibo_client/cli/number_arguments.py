"""The arguments of ``fibo compute`` and ``fibo sqrt``: numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from fibo_client.cli.usage_errors import usage_error

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["indexes", "square_root_arguments"]


def indexes(words: Sequence[str] | None, between: str | None) -> Sequence[int] | None:
    """Read which numbers to compute; None means the standard input. Usage errors end the command."""
    if words and between is not None:
        usage_error("say the numbers or --range, not both")
    if not words and between is None:
        usage_error("say which numbers: fibo compute 4 3 8, or --range 0:100, or - for those of the input")
    if words and "-" in words:
        if words != ["-"]:
            usage_error("- reads numbers from the input, and stands alone")
        return None

    from fibo_client.cli.parsing import parse_integer, parse_range

    try:
        return parse_range(between) if between is not None else [parse_integer(word) for word in words or ()]
    except ValueError as error:
        _not_numbers(words, error)


def square_root_arguments(words: Sequence[str]) -> list[float]:
    """Read the numbers whose roots to compute. Usage errors end the command."""
    from fibo_client.cli.parsing import parse_number
    from fibo_client.contract import check_sqrt

    try:
        return [check_sqrt(parse_number(word)) for word in words]
    except ValueError as error:
        _not_numbers(words, error)


def _not_numbers(words: Sequence[str] | None, error: ValueError) -> NoReturn:
    """Report words that are no numbers. An unknown option is among them."""
    for word in words or ():
        if word.startswith("--"):
            usage_error(f"there is no option {word}; see --help")
    usage_error(str(error))
