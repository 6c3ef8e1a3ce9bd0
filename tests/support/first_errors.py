"""Errors as a stranger meets them: what is wrong and what to do, soon, and without the password."""

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
"""Seconds within which an error that waits for nothing must be there: ten times what a busy machine takes."""


@contextlib.contextmanager
def raises_soon(error: type[Exception], *words: str) -> Iterator[None]:
    """Check that a block raises this very error, soon, with all words in it and no password in its traceback."""
    began = time.monotonic()
    with pytest.raises(error) as caught:
        yield
    seconds = time.monotonic() - began
    kind, message, shown = caught.type, str(caught.value), "".join(traceback.format_exception(caught.value))
    del caught  # With its traceback it would keep alive what the block did not await.
    assert seconds < QUICK
    assert kind is error, shown
    for word in words:
        assert word in message, message
    assert PASSWORD not in shown, shown
