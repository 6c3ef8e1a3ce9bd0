"""How long to wait before the next attempt after a failure."""

from __future__ import annotations

import random


def pause(failures: int, first: float, longest: float) -> float:
    """Draw the pause after a failure: exponential, with jitter.

    The jitter keeps clients that lost the same server from coming back all at once.

    Args:
        failures: How many failures there were in a row, 1 or more.
        first: The longest pause after the first failure, in seconds. It doubles with each further one.
        longest: The longest pause after any failure, in seconds.

    Returns:
        Seconds: at least half of the longest pause after this failure.
    """
    return min(first * 2.0 ** min(failures - 1, 30), longest) * random.uniform(0.5, 1.0)
