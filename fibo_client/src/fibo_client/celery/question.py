"""A coroutine for what is asked in an ``if``, where a forgotten ``await`` would be taken for yes."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

T = TypeVar("T")


class Question(Coroutine[Any, Any, T], Generic[T]):
    """A coroutine that says so when it is taken for its answer: ``if result.ready():`` forgets the await.

    Args:
        coroutine: What asks.
        spelling: How it is to be written.
    """

    __slots__ = ("_coroutine", "_spelling")

    def __init__(self, coroutine: Coroutine[Any, Any, T], spelling: str) -> None:
        self._coroutine = coroutine
        self._spelling = spelling

    def _refuse(self) -> NoReturn:
        if not self._begun:
            self._coroutine.close()  # The error says it all; no "never awaited" warning is needed on top.
        raise TypeError(f"this is a coroutine, not its answer; write: {self._spelling}")

    @property
    def _begun(self) -> bool:
        return inspect.getcoroutinestate(self._coroutine) != inspect.CORO_CREATED

    def __bool__(self) -> bool:
        # From 3.12 on, asyncio asks whether a task has a coroutine before it shows the task. Of a task that has not yet
        # begun, nothing but who asks tells it from `if result.ready():`.
        frame = inspect.currentframe()
        asker = None if frame is None else frame.f_back
        if not self._begun and (asker is None or asker.f_globals.get("__name__") != "asyncio.base_tasks"):
            self._refuse()
        return True

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (bool, str)):
            self._refuse()
        return self is other

    def __hash__(self) -> int:
        return id(self)

    if not TYPE_CHECKING:  # A type checker refuses what has no such method, and is right.

        def __getattr__(self, name: str) -> Any:
            if name in {"__name__", "__qualname__"} or name.startswith("cr_"):  # For who shows or inspects tasks.
                return getattr(self._coroutine, name)
            raise AttributeError(f"a coroutine has no {name!r}; write: {self._spelling}")

        def __iter__(self) -> NoReturn:
            self._refuse()

        def __getitem__(self, index: object) -> NoReturn:
            self._refuse()

    def __repr__(self) -> str:
        return f"<coroutine, write: {self._spelling}>"

    def __await__(self) -> Generator[Any, Any, T]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        """See `Coroutine.send`."""
        return self._coroutine.send(value)

    def throw(self, *exception: Any) -> Any:
        """See `Coroutine.throw`."""
        return self._coroutine.throw(*exception)

    def close(self) -> None:
        """See `Coroutine.close`."""
        self._coroutine.close()
