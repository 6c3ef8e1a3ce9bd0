"""The browser that other tests look at pages with sees what is wrong with one."""

import re

import pytest
from support.browser import NARROW, overflowing, pages, violations

pytestmark = pytest.mark.asyncio(loop_scope="session")

GOOD = "<!doctype html><html lang='en'><title>Fine</title><main><h1>Fine</h1></main></html>"


@pytest.fixture
def address(tmp_path):
    """The address of a page with some content."""

    def write(html):
        page = tmp_path / "page.html"
        page.write_text(html)
        return page.as_uri()

    return write


async def test_a_good_page_has_nothing_to_say(address, open_page):
    page = await open_page(address(GOOD), NARROW, scheme="dark")
    assert await page.title() == "Fine"
    assert await overflowing(page) == []
    assert await violations(page) == ""


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("console.error('no good')", "console error: no good"),
        ("throw new Error('no better')", "uncaught in the page: no better"),
        ("new Image().src = 'http://example.org/pixel.gif'", "request to another host: http://example.org/pixel.gif"),
    ],
)
async def test_what_goes_wrong_in_a_page_fails_its_test(address, browser, script, problem):
    async def look():
        async with pages(browser) as open_page:
            page = await open_page(address(f"{GOOD}<script>{script}</script>"))
            await page.wait_for_timeout(0)

    with pytest.raises(AssertionError, match=re.escape(problem)):
        await look()


async def test_an_error_that_belongs_to_the_test_is_let_through(address, open_page):
    await open_page(address(f"{GOOD}<script>console.error('as asked')</script>"), tolerate="^as asked$")


async def test_what_sticks_out_of_the_window_is_named(address, open_page):
    page = await open_page(address(f"{GOOD}<div id=wide style='width:400px'>wide</div>"), NARROW)
    (found,) = await overflowing(page)
    assert 'id="wide"' in found


async def test_what_some_readers_cannot_use_is_reported(address, open_page):
    page = await open_page(address(f"{GOOD}<main><input></main>"))
    assert "label" in await violations(page)
