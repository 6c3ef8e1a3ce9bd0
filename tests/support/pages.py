"""The pages that users read, the READMEs and the documentation, and the code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("fibo_*/*.md")), *sorted(DOCS.glob("**/*.md"))]


@dataclass(frozen=True)
class Block:
    """A block of code in a page.

    Attributes:
        page: The page.
        line: The number of its first line.
        language: What stands behind the fence; `sh` where it is indented and has no fence.
        text: What is in it.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        """The page and the line, for a test's id."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Give all blocks of code of a page, in order, those in directives (tabs, notes) included."""
    return list(_blocks(page, page.read_text(), 0))


def _blocks(page: Path, text: str, above: int) -> Iterator[Block]:
    for token in MarkdownIt().parse(text):
        if token.type == "code_block":
            yield Block(page, above + token.map[0] + 1, "sh", token.content)
        elif token.type == "fence":
            first = above + token.map[0] + 1
            if not token.info.startswith("{"):
                yield Block(page, first + 1, token.info.strip(), token.content)
            elif not token.info.startswith("{eval-rst}"):
                yield from _blocks(page, token.content, first)


def all_blocks(*languages: str) -> list[Block]:
    """Give the blocks of all pages in some languages, or in any."""
    return [block for page in PAGES for block in blocks(page) if not languages or block.language in languages]


def shown_files(page: Path) -> list[Path]:
    """The files that a page shows by ``{literalinclude}``, in order."""
    names = re.findall(r"^ *[`:]{3,}\{literalinclude\} *(\S+)$", page.read_text(), re.MULTILINE)
    return [(page.parent / name).resolve() for name in names]
