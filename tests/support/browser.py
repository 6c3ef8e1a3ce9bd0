"""A real browser for the tests of pages: the system's Chromium, driven by Playwright.

It runs on the event loop of the session, and so must the tests that use it:

    pytestmark = pytest.mark.asyncio(loop_scope="session")

    async def test_it_fits_a_phone(open_page):
        page = await open_page(url, PHONE, scheme="dark")
        assert await overflowing(page) == []

(Playwright's synchronous API would leave an event loop running under every test that follows.)
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, ConsoleMessage, Page, Request

DESKTOP = (1280, 800)
PHONE = (390, 844)
NARROW = (320, 568)
"""Widths and heights in CSS pixels. The last is the narrowest that pages are asked to fit."""

TIMEOUT = 40_000
"""Milliseconds that a test waits for anything by default."""

HOW_TO_GET_ONE = "there is no Chromium here to open pages with; `apt install chromium` brings one"

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    # It contacts only the pages' own server.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
]
_OURS = {"127.0.0.1", "localhost", "::1"}
_LOCAL_SCHEMES = {"about", "blob", "data", "file"}


class OpenPage(Protocol):
    """Opens an address in a page of its own, as the fixture `open_page` does."""

    async def __call__(
        self,
        url: str,
        size: tuple[int, int] = DESKTOP,
        *,
        scheme: Literal["light", "dark"] = "light",
        tolerate: str | None = None,
        **context: Any,
    ) -> Page:
        """Open an address.

        Args:
            url: The address.
            size: Width and height in CSS pixels.
            scheme: The colour scheme that the reader prefers.
            tolerate: A regular expression for console errors that belong to the test, such as that of a response 503.
            **context: More for Playwright's `Browser.new_context`, such as ``reduced_motion="reduce"``.

        Returns:
            The page, loaded.
        """
        ...


def find_chromium() -> str | None:
    """Find the browser's program; None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@asynccontextmanager
async def running_browser(program: str) -> AsyncIterator[Browser]:
    """Run a browser without a window."""
    # As root, as in a container, Chromium refuses to start in its sandbox.
    sandbox = os.geteuid() != 0
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, args=_ARGUMENTS, chromium_sandbox=sandbox, timeout=30_000
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def pages(browser: Browser) -> AsyncIterator[OpenPage]:
    """Open pages for one test. Errors in them fail the test at its end."""
    problems: list[str] = []
    contexts = []

    async def open_page(
        url: str,
        size: tuple[int, int] = DESKTOP,
        *,
        scheme: Literal["light", "dark"] = "light",
        tolerate: str | None = None,
        **context: Any,
    ) -> Page:
        width, height = size
        contexts.append(
            made := await browser.new_context(
                viewport={"width": width, "height": height}, color_scheme=scheme, **context
            )
        )
        made.set_default_timeout(TIMEOUT)
        page = await made.new_page()
        _watch(page, problems, tolerate)
        await page.goto(url)
        return page

    try:
        yield open_page
    finally:
        for context in contexts:
            await context.close()
    assert not problems, "\n".join(problems)


async def overflowing(page: Page) -> list[str]:
    """Name what makes a page scroll sideways: each element that is wider than the window and may not scroll itself."""
    return await page.evaluate(_OVERFLOWING)


async def violations(page: Page) -> str:
    """Check a page for accessibility with axe. Gives the findings as text; empty if there are none."""
    found = await Axe().run(page, options={"resultTypes": ["violations"]})  # Half the time without the rest.
    return found.generate_report() if found.violations_count else ""


def _watch(page: Page, problems: list[str], tolerate: str | None) -> None:
    def on_console(message: ConsoleMessage) -> None:
        expected = tolerate is not None and re.search(tolerate, message.text)
        if message.type in ("error", "warning") and not expected:
            problems.append(f"console {message.type}: {message.text} ({message.location.get('url', '')})")

    def on_request(request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in _LOCAL_SCHEMES and address.hostname not in _OURS:
            problems.append(f"request to another host: {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"uncaught in the page: {error}"))
    page.on("request", on_request)


_OVERFLOWING = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const scrolls = (element) => {
    for (let each = element.parentElement; each && each !== document.documentElement; each = each.parentElement) {
      if (getComputedStyle(each).overflowX !== "visible") return true;
    }
    return false;
  };
  const wide = [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.right > width + 0.5 && !scrolls(element);
  });
  const names = wide.map((element) => element.outerHTML.slice(0, 120));
  return names.length ? names : ["the page itself"];
}"""
