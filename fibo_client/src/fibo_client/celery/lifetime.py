"""When and where a client may be used: it is opened once, on one event loop, and in one process."""

from __future__ import annotations

import asyncio
import enum
import os
from typing import Final, NoReturn

from fibo_client.errors import ClientStateError

_LOOP_CLOSED: Final = (
    "the event loop that this client was opened on has been closed; open another client, and close it before its loop "
    "(each asyncio.run() has a loop of its own: do everything in one, or let a LoopLocal have a client for each)"
)


class _State(enum.Enum):
    UNOPENED = "not opened yet"
    OPENED = "open already"
    CLOSED = "closed"


class Lifetime:
    """Knows whether a client is open, on which event loop, and in which process."""

    def __init__(self) -> None:
        self._state = _State.UNOPENED
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def open(self) -> None:
        """Begin on the present event loop.

        Raises:
            ClientStateError: It began before, or there is no event loop.
        """
        if self._state is not _State.UNOPENED:
            if self._state is _State.OPENED:
                self.check()  # It may be open elsewhere.
            advice = "use it as it is" if self._state is _State.OPENED else "make a new one"
            raise ClientStateError(f"this client is {self._state.value}, and can be opened once only; {advice}")
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ClientStateError(
                "no asyncio event loop runs here, and the client needs one; trio will not do"
            ) from None
        self._pid = os.getpid()
        self._state = _State.OPENED

    def close(self) -> bool:
        """End.

        Returns:
            Whether something runs here that is to be stopped. In a forked process, it is the parent's.

        Raises:
            ClientStateError: It is open on another event loop.
        """
        runs = self._state is _State.OPENED and not self.is_forked
        if runs and self._loop is not None:
            if self._loop.is_closed():
                raise ClientStateError(_LOOP_CLOSED)
            if asyncio.get_running_loop() is not self._loop:
                raise ClientStateError("this client was opened on another event loop; close it there")
        self._state = _State.CLOSED
        return runs

    @property
    def is_forked(self) -> bool:
        """Whether this process is a copy of the one in which it was opened."""
        return self._state is not _State.UNOPENED and self._pid != os.getpid()

    @property
    def was_left_open(self) -> bool:
        """Whether it was opened here, and not closed."""
        return self._state is _State.OPENED and not self.is_forked

    def check(self) -> asyncio.AbstractEventLoop:
        """Check that the client can be used here and now.

        Returns:
            The event loop that it runs on.

        Raises:
            ClientStateError: It is not open, runs on another event loop, or is a forked copy of the parent's.
        """
        loop = self._loop
        try:
            is_here = asyncio.get_running_loop() is loop
        except RuntimeError:
            is_here = False
        if loop is None or not is_here or self._state is not _State.OPENED or self._pid != os.getpid():
            self._refuse()
        return loop

    def _refuse(self) -> NoReturn:
        """Say why the client cannot be used here and now."""
        if self.is_forked:
            # Before the loop is looked at: the copy of a loop that was running is not running in the child.
            raise ClientStateError(
                "this client was opened before this process was forked, and is the parent's; open one in each process"
            )
        if self._state is not _State.OPENED or self._loop is None:
            advice = (
                "use it inside `async with`, or await its open() first"
                if self._state is _State.UNOPENED
                else "make a new one: it cannot reopen"
            )
            raise ClientStateError(f"this client is {self._state.value}; {advice}")
        if self._loop.is_closed():
            raise ClientStateError(_LOOP_CLOSED)
        raise ClientStateError(
            "this client was opened on another event loop; open one client on each loop that uses it, as LoopLocal does"
        )
