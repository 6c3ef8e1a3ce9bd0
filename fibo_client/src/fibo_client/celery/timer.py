"""A timer that can be moved."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """Calls a function at one time, which can be moved.

    It keeps the time itself: for a time in the past, uvloop's ``call_at`` returns a handle that does not know it.

    Args:
        callback: The function. Once it is called, no time is set.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.Handle | None = None
        self._moment = math.inf

    def set(self, moment: float) -> None:
        """Call the function at this time, by the loop's clock, instead of the time set before."""
        if self._handle is not None:
            self._handle.cancel()
        self._moment = moment
        self._handle = asyncio.get_running_loop().call_at(moment, self._go_off)

    def set_by(self, moment: float | None) -> None:
        """Call the function at this time at the latest, by the loop's clock. None changes nothing."""
        if moment is not None and moment < self._moment:
            if self._handle is not None:
                self._handle.cancel()
            self._moment = moment
            self._handle = asyncio.get_running_loop().call_at(moment, self._go_off)

    def cancel(self) -> None:
        """Unset the time."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._moment = math.inf

    def _go_off(self) -> None:
        self._handle = None
        self._moment = math.inf
        self._callback()
