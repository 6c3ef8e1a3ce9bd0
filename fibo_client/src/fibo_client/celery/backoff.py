"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random


def pause(failures: int, first: float, longest: float) -> float:
    """Draw the pause after a failure: twice as long each time, and shortened at random by up to half.

    Clients that lost the same server at the same moment would otherwise come back at the same moment, too.

    Args:
        failures: How many there were in a row, 1 or more.
        first: Seconds after the first one, at most.
        longest: Seconds after any, at most.

    Returns:
        Seconds.
    """
    return min(first * 2.0 ** min(failures - 1, 30), longest) * random.uniform(0.5, 1.0)
