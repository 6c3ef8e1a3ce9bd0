"""Check the built site: every internal link leads somewhere, and nothing is loaded from another host.

python docs/check_links.py site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

# What a browser fetches by itself to show a page. A link (<a href>) to another host is fine.
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
HARMLESS_LINKS = {"canonical", "next", "prev", "index", "search", "author"}


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = {"", "top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADED and LOADED[tag] in found and found.get("rel") not in HARMLESS_LINKS:
            self.loads.append(found[LOADED[tag]])


def problems(site: Path) -> list[str]:
    """Say what is wrong with the site in a folder."""
    paths = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}
    # What can be downloaded is not shown here.
    pages = {name: Page(path) for name, path in paths.items() if not name.startswith("_downloads/")}
    found = [] if pages else [f"{site} has no pages"]
    for name, page in pages.items():
        for link in page.links + page.loads:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if link in page.loads and address.scheme != "data":
                    found.append(f"{name}: loads {link} from elsewhere")
                continue
            target = unquote(urlsplit(urljoin(f"/{name}", link)).path).removeprefix("/") or "index.html"
            if not (site / target).is_file():
                found.append(f"{name}: {link} leads nowhere")
            elif target in pages and unquote(address.fragment) not in pages[target].ids:
                found.append(f"{name}: {link} has no such place")
    return found


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]))
    sys.exit("\n".join(wrong) or 0)
