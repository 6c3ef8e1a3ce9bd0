"""A timer that can be moved."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """Calls somebody at one moment at a time.

    It keeps the moment itself. For one that has passed, uvloop's ``call_at`` gives a handle that cannot tell it.

    Args:
        callback: Called when the moment has come. From then on none is set.
    """

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.Handle | None = None
        self._moment = math.inf

    def set(self, moment: float) -> None:
        """Go off at a moment, and not at the one before.

        Args:
            moment: When, by the loop's clock.
        """
        if self._handle is not None:
            self._handle.cancel()
        self._moment = moment
        self._handle = asyncio.get_running_loop().call_at(moment, self._go_off)

    def set_by(self, moment: float | None) -> None:
        """Go off at a moment at the latest.

        Args:
            moment: When, by the loop's clock. None changes nothing.
        """
        if moment is not None and moment < self._moment:
            if self._handle is not None:
                self._handle.cancel()
            self._moment = moment
            self._handle = asyncio.get_running_loop().call_at(moment, self._go_off)

    def cancel(self) -> None:
        """Do not go off."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._moment = math.inf

    def _go_off(self) -> None:
        self._handle = None
        self._moment = math.inf
        self._callback()
