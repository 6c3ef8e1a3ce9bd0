"""Text that is harmful where it is shown raw: to a terminal, a log, or a reader."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

ESCAPES = "\x1b[2J\x1b]0;title\x07\x9b1m"

ACTS = {
    "clears a screen": ESCAPES,
    "forges a line": "no\r\nERROR all is lost\x0b\x0c\x85\u2028\u2029",
    "turns writing round": "\u202e\u2066\u2069\u200f\u061c",
    "is half a character": "\ud800",
    "is long": "x" * 5_000_000,
    "is long once escaped": "\u202e" * 5_000_000,
    "is many lines": "\n" * 100_000,
}

TEXTS = st.text(st.integers(0, 0x10FFFF).map(chr) | st.sampled_from(ESCAPES + "\r\n\x85\u2028\u202e\u2066\u200f\ud800"))
"""Any text, with more harmful characters than chance would give."""

_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_MARKS = "\u200e\u200f\u061c"


def acts(text: str, allowed: str = "") -> list[str]:
    """Find harmful characters: controls, line separators, surrogates, changes of direction."""
    return [
        each
        for each in set(text) - set(allowed)
        if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(each) in _DIRECTIONS
        or each in _MARKS
    ]


def check(text: str, longest: int, allowed: str = "") -> None:
    """Check that a text is harmless and bounded."""
    assert acts(text, allowed) == []
    assert len(text) <= longest
