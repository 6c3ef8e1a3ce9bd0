"""Signatures of tasks, each with that of its stub, and a double of the app that has such tasks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FunctionType

SIGNATURES = [
    # Kinds of parameters.
    ("()", "() -> Any"),
    ("(x, y=5)", "(x: Any, y: Any = 5) -> Any"),
    (
        "(a: int, /, b: int, *args: str, c: int, d: int = 1, **kwargs: float) -> str",
        "(a: int, /, b: int, *args: str, c: int, d: int = 1, **kwargs: float) -> str",
    ),
    ("(a: int, b: int = 2, /) -> int", "(a: int, b: int = 2, /) -> int"),
    ("(*, a: int, b: str = 'x') -> int", '(*, a: int, b: str = "x") -> int'),
    ("(a: int, /, *, b: int) -> int", "(a: int, /, *, b: int) -> int"),
    ("(self_, list: list[int], Any: int) -> str", "(self_: Any, list: list[int], Any: int) -> str"),
    # Types that travel.
    ("(a: bool, b: int, c: float, d: str, e: bytes) -> None", "(a: bool, b: int, c: float, d: str, e: bytes) -> None"),
    ("(a: datetime, b: date, c: time) -> datetime", "(a: datetime, b: date, c: time) -> datetime"),
    ("(a: Decimal, b: UUID) -> UUID", "(a: Decimal, b: UUID) -> UUID"),
    ("(a: list[int], b: dict[str, list[str]]) -> list[int]", "(a: list[int], b: dict[str, list[str]]) -> list[int]"),
    ("(a: list, b: dict, c: tuple) -> list", "(a: list[Any], b: dict[str, Any], c: tuple[Any, ...]) -> list[Any]"),
    ("(a: List[int], b: Dict[str, int], c: Tuple[int])", "(a: list[int], b: dict[str, int], c: tuple[int]) -> Any"),
    ("(a: Optional[int], b: Union[int, str], c: None | int)", "(a: int | None, b: int | str, c: None | int) -> Any"),
    ("(a: Sequence[int], b: Iterable[int]) -> Sequence[int]", "(a: Sequence[int], b: Sequence[int]) -> list[int]"),
    ("(a: Mapping[str, int]) -> Mapping[str, int]", "(a: Mapping[str, int]) -> dict[str, int]"),
    ("(a: Literal['a', 1, None, True]) -> Literal['x']", '(a: Literal["a", 1, None, True]) -> Literal["x"]'),
    ("(a: Annotated[int, 'positive'], b: UserId) -> list[UserId]", "(a: int, b: int) -> list[int]"),
    ("(a: LiteralString) -> str", "(a: str) -> str"),
    ("(a: Ids, b: list[Ids]) -> Ids", "(a: list[int], b: list[list[int]]) -> list[int]"),
    ("(a: Json, b: list[Json]) -> Json", "(a: Any, b: Any) -> Any"),
    # What arrives is not what was sent: a tuple is a list then, and each key is text.
    ("(a: tuple[int, str]) -> tuple[int, str]", "(a: tuple[int, str]) -> list[int | str]"),
    ("(a: tuple[int, ...]) -> tuple[int, ...]", "(a: tuple[int, ...]) -> list[int]"),
    ("() -> list[tuple[int, int]] | list[int]", "() -> list[list[int]] | list[int]"),
    ("() -> tuple", "() -> list[Any]"),
    ("(a: dict[int, str]) -> dict[int, str]", "(a: dict[str, str]) -> dict[str, str]"),
    # Types that do not.
    ("(a: timedelta, b: set[int], c: complex) -> frozenset[int]", "(a: Any, b: Any, c: Any) -> Any"),
    ("(a: Order, b: Colour, c: T, d: object) -> Order | None", "(a: Any, b: Any, c: Any, d: Any) -> Any"),
    ("(a: list[Order], b: dict[UUID, str]) -> list[Order]", "(a: list[Any], b: Any) -> list[Any]"),
    ("(a: Literal[Colour.RED], b: Callable[[int], str]) -> type", "(a: Any, b: Any) -> Any"),
    ("(a: 'Unknown', b: 'list[Unknown]', c: 'int') -> 'Unknown'", "(a: Any, b: Any, c: int) -> Any"),
    ("(a: 'unknown.at_all', b: 'list[', c: '1 / 0', d: 'int()') -> 'str'", "(a: Any, b: Any, c: Any, d: Any) -> str"),
    ("(a: 5, b: [int], c: {}) -> str", "(a: Any, b: Any, c: Any) -> str"),
    # Defaults.
    (
        "(a=None, b=True, c=-1, d=1.5, e='x')",
        '(a: Any = None, b: Any = True, c: Any = -1, d: Any = 1.5, e: Any = "x") -> Any',
    ),
    (
        "(a=(), b=(1,), c=[1, [2]], d={'a': {}})",
        '(a: Any = (), b: Any = (1,), c: Any = [1, [2]], d: Any = {"a": {}}) -> Any',
    ),
    ("(a=1e16, b=1e-7, c=-0.0, d=10**79)", f"(a: Any = 1e16, b: Any = 1e-07, c: Any = -0.0, d: Any = {10**79}) -> Any"),
    (
        "(a=float('inf'), b=float('nan'), c=10**5000, d=1j)",
        "(a: Any = ..., b: Any = ..., c: Any = ..., d: Any = ...) -> Any",
    ),
    (
        r"""(a='"', b="'", c='\'"', d='""\'')""",
        r"""(a: Any = '"', b: Any = "'", c: Any = "'\"", d: Any = '""\'') -> Any""",
    ),
    (
        r"(a='\\', b='\n', c='é\u202e', d=b'\xff\'')",
        r"""(a: Any = "\\", b: Any = "\n", c: Any = "é\u202e", d: Any = b"\xff'") -> Any""",
    ),
    (
        "(a=object(), b=Colour.RED, c={1}, d=len, e=[len])",
        "(a: Any = ..., b: Any = ..., c: Any = ..., d: Any = ..., e: Any = ...) -> Any",
    ),
    (
        "(a=Size.SMALL, b=Word('x'), c={len: 1}, d='x' * 79)",
        "(a: Any = ..., b: Any = ..., c: Any = ..., d: Any = ...) -> Any",
    ),
    ("(a=[[[[1]]]], b=ENDLESS)", "(a: Any = ..., b: Any = ...) -> Any"),
    # A default that is of another type than the parameter would be refused by a type checker.
    ("(a: int = None, b: list[str] = None)", "(a: int | None = None, b: list[str] | None = None) -> Any"),
    ("(a: str = 5, b: int = 1.5, c: bool = 0)", "(a: str = ..., b: int = ..., c: bool = ...) -> Any"),
    ("(a: float = 1, b: int = True, c: float = False)", "(a: float = 1, b: int = True, c: float = False) -> Any"),
    (
        "(a: list[int] = [1], b: list[int] = (), c: list[int] = ['x'])",
        "(a: list[int] = [1], b: list[int] = ..., c: list[int] = ...) -> Any",
    ),
    (
        "(a: Sequence[int] = (1, 2), b: dict[str, int] = {'a': 1})",
        '(a: Sequence[int] = (1, 2), b: dict[str, int] = {"a": 1}) -> Any',
    ),
    (
        "(a: tuple[int, str] = (1, 'x'), b: tuple[int] = (1, 2))",
        '(a: tuple[int, str] = (1, "x"), b: tuple[int] = ...) -> Any',
    ),
    (
        "(a: tuple[int, ...] = (1, 2), b: dict = {1: 2})",
        "(a: tuple[int, ...] = (1, 2), b: dict[str, Any] = ...) -> Any",
    ),
    ("(a: Literal['a', 'b'] = 'a', b: Literal[1] = True)", '(a: Literal["a", "b"] = "a", b: Literal[1] = ...) -> Any'),
    ("(a: int | str = 'x', b: Order = None)", '(a: int | str = "x", b: Any = None) -> Any'),
    ("(a: UUID = 'x', b: Decimal = 1)", "(a: UUID = ..., b: Decimal = ...) -> Any"),
]
"""What stands in a ``def``, with what stands in that of the stub."""

_NAMES = """
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Dict, List, Literal, LiteralString, NewType, Optional, Tuple, TypeVar, Union
from uuid import UUID

UserId = NewType("UserId", int)
T = TypeVar("T")
Colour = enum.Enum("Colour", "RED")
Size = enum.IntEnum("Size", "SMALL")
ENDLESS = []
ENDLESS.append(ENDLESS)

class Alias:  # What is asked of an alias that `type Ids = list[int]` makes.
    def __init__(self, value=None): self.__value__ = value
    def __call__(self): ...

Ids = Alias(list[int])
Json = Alias()
Json.__value__ = list[Json]

class Order: pass
class Word(str): pass
"""


def function(signature: str, *, postponed: bool = False) -> FunctionType:
    """Make a function with a signature. `postponed` leaves its annotations text."""
    names: dict[str, Any] = {}
    future = "from __future__ import annotations\n" if postponed else ""
    exec(f"{future}{_NAMES}\ndef task{signature}: ...", names)
    return names["task"]


class Task:
    """What is asked of a Celery task."""

    def __init__(self, run: Any, doc: str | None = None, **attributes: Any) -> None:
        self.run = run
        self.__doc__ = doc
        vars(self).update(attributes)


class App:
    """What is asked of a Celery app. `route` says where each task goes."""

    def __init__(
        self, tasks: dict[str, Task] | None = None, route: Any = None, default_queue: str = "celery", **more: Task
    ) -> None:
        self.tasks = {**(tasks or {}), **more}
        self.conf = SimpleNamespace(task_default_queue=default_queue)
        self.amqp = SimpleNamespace(router=SimpleNamespace(route=route or (lambda given, name, task_type: given)))
