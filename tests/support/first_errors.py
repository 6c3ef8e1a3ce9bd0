"""First errors: they say what is wrong and what to do, soon, and without the password."""

from __future__ import annotations

import contextlib
import time
import traceback
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "s3cr3t"
"""The password in the URLs of those tests."""

QUICK = 20.0
"""Seconds for an error that waits for nothing: ten times what a busy machine takes."""


@contextlib.contextmanager
def raises_soon(error: type[Exception], *words: str) -> Iterator[None]:
    """Check that a block raises exactly this error, soon, with all words and without the password."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        yield
    seconds = time.monotonic() - began
    kind, message, shown = caught.type, str(caught.value), "".join(traceback.format_exception(caught.value))
    del caught  # Its traceback would keep coroutines alive that the block did not await.
    assert seconds < QUICK
    assert kind is error, shown
    for word in words:
        assert word in message, message
    assert PASSWORD not in shown, shown
