"""The documentation as its readers see it: built, served on loopback, and looked at in a real browser."""

import functools
import http.server
import sys
import threading

import pytest
from support.browser import DESKTOP, NARROW, PHONE, overflowing, violations
from support.pages import DOCS, ROOT
from support.programs import run

# To build all pages takes a while, and so does axe on some, which have ten thousand elements.
pytestmark = pytest.mark.timeout(180)

# The browser lives on the session's event loop.
in_browser = pytest.mark.asyncio(loop_scope="session")

PAGES = sorted(
    str(page.relative_to(DOCS).with_suffix(".html")) for page in DOCS.glob("**/*.md") if "examples" not in page.parts
)
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. Warnings are errors, as in `make docs`."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", DOCS, folder)
    done = run(*command, cwd=ROOT, timeout=170)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def address(site):
    """Where the site is shown."""
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(10)


@in_browser
@SIZES
@SCHEMES
async def test_pages_load_without_an_error_and_do_not_scroll_sideways(open_page, address, size, scheme):
    page = await open_page(f"{address}/index.html", size, scheme=scheme)
    wide = {}
    for name in PAGES:
        await page.goto(f"{address}/{name}")
        if found := await overflowing(page):
            wide[name] = found[:3]
    assert wide == {}


@in_browser
async def test_the_landing_page_fits_the_narrowest_screen(open_page, address):
    page = await open_page(f"{address}/index.html", NARROW)
    assert await overflowing(page) == []


@in_browser
@SIZES
async def test_search_finds_fibonacci_many(open_page, address, size):
    page = await open_page(f"{address}/index.html", size)
    if size == PHONE:
        await page.click("label[for='__navigation']:visible")
    await page.fill("input.sidebar-search", "fibonacci_many")
    await page.press("input.sidebar-search", "Enter")
    first = page.locator("#search-results ul.search li a").first
    await first.wait_for()
    hits = await page.locator("#search-results ul.search li a").evaluate_all("all => all.map(each => each.href)")
    assert any("reference/fibo_client.html" in hit for hit in hits)
    await first.click()
    await page.wait_for_load_state()
    assert "fibonacci_many" in await page.inner_text("article")


@in_browser
@SCHEMES
async def test_plots_show_and_say_what_they_are_to_those_who_cannot_see_them(open_page, address, scheme):
    page = await open_page(f"{address}/explanation/benchmarks.html", scheme=scheme)
    plots = page.locator("article img")
    assert await plots.count() == len(list((DOCS / "explanation" / "benchmarks").glob("*.svg")))
    for plot in await plots.all():
        await plot.scroll_into_view_if_needed()
        assert await plot.evaluate("each => each.decode().then(() => each.naturalWidth)") > 0
        assert len(await plot.get_attribute("alt")) > 20


@in_browser
async def test_every_picture_has_a_text_in_its_place(open_page, address):
    page = await open_page(f"{address}/index.html")
    silent = []
    for name in PAGES:
        await page.goto(f"{address}/{name}")
        count = await page.locator("img:not([alt]), svg[role=img]:not([aria-labelledby])").count()
        silent += [name] * count
    assert silent == []


@in_browser
async def test_what_is_copied_are_commands_without_prompts_and_answers(open_page, address):
    page = await open_page(f"{address}/tutorial.html", permissions=["clipboard-read", "clipboard-write"])
    block = page.locator("div.highlight-console", has_text="python first.py")
    await block.hover()
    await block.locator("button.copybtn").click()
    await page.wait_for_function("() => document.querySelector('.copybtn.success')")
    assert await page.evaluate("() => navigator.clipboard.readText()") == "python first.py"


@in_browser
async def test_tabs_show_what_was_before_and_what_is_after(open_page, address):
    page = await open_page(f"{address}/how-to/move.html", PHONE)
    after = page.locator(".sd-tab-content", has_text="With fibo-client: every get awaits")
    assert not await after.is_visible()
    await page.locator("label.sd-tab-label", has_text="After").first.click()
    assert await after.is_visible()


@in_browser
@SIZES
async def test_figures_can_be_told_apart_when_their_table_is_scrolled(open_page, address, size):
    page = await open_page(f"{address}/explanation/benchmarks.html", size)
    table = page.locator(".figures .table-wrapper").first
    await table.evaluate("each => each.scrollLeft = 10_000")
    assert await table.evaluate("each => each.scrollLeft") > 0
    left = (await table.bounding_box())["x"]
    for place in ("th", "tbody td"):
        assert (await table.locator(place).first.bounding_box())["x"] == pytest.approx(left, abs=1)


@in_browser
async def test_an_option_is_not_broken_at_its_hyphens(open_page, address):
    page = await open_page(f"{address}/reference/fibo.html", PHONE)
    lines = (
        await page.locator("article code", has_text="--")
        .locator(".pre")
        .evaluate_all(
            "all => all.filter(each => each.textContent.startsWith('--')).map(each => each.getClientRects().length)"
        )
    )
    assert set(lines) == {1}


@in_browser
@SCHEMES
@pytest.mark.parametrize("name", ["explanation/waiting", "how-to/canvas"])
async def test_a_drawing_can_be_read(open_page, address, name, scheme):
    page = await open_page(f"{address}/{name}.html", scheme=scheme)
    drawing = page.locator("figure.drawing svg")
    assert (await drawing.bounding_box())["width"] > 300
    ink = await drawing.locator("text").first.evaluate("each => getComputedStyle(each).fill")
    ground = await page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert ink != ground


@in_browser
@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"])
@pytest.mark.parametrize("name", PAGES)
async def test_pages_can_be_used_by_those_who_cannot_see_them(open_page, address, name, size, scheme):
    page = await open_page(f"{address}/{name}", size, scheme=scheme)
    assert await violations(page) == ""
