"""The page of the shop in docs/examples, used as a person would."""

from __future__ import annotations

import re

import pytest
from support.browser import DESKTOP, NARROW, PHONE, overflowing, violations
from support.servers import EXAMPLES
from support.service import launched

from fibo_worker.dev import WorkerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def worker(redis_server):
    url = redis_server.fresh_url()
    env = {"PYTHONPATH": str(EXAMPLES), "SHOP_STEP": "0.1", "SHOP_REPORT": "300"}
    with WorkerProcess(url, app="shop.orders", concurrency=2, queues=("shop", "mail"), env=env, stop_timeout=0) as each:
        yield url, each


@pytest.fixture(scope="module")
def address(worker):
    with launched(worker[0], "shop.service:app") as (address, _):
        yield address


@pytest.fixture(scope="module")
def unserved(redis_server):
    with launched(redis_server.fresh_url(), "shop.service:app", env={"SHOP_TIMEOUT": "0.5"}) as (address, _):
        yield address


def status(page, text):
    return page.get_by_role("status").filter(has_text=text)


async def test_the_bar_of_a_picture_moves_and_its_name_is_shown_when_it_is_done(address, open_page):
    page = await open_page(address)
    await page.evaluate("""() => {
        window.seen = [];
        new MutationObserver(() => seen.push(document.getElementById("progress").value))
            .observe(document.getElementById("progress"), {attributes: true, attributeFilter: ["value"]});
    }""")
    await page.get_by_label("Make a picture smaller").fill("cat")
    await page.get_by_role("button", name="Resize").click()
    await status(page, "Done: cat-small.png.").wait_for()
    seen = await page.evaluate("seen")
    assert seen == sorted(seen)
    assert len(set(seen)) > 2


async def test_who_leaves_a_report_is_told_that_the_worker_has_stopped_and_it_has(address, worker, open_page):
    _, process = worker
    page = await open_page(address)
    await page.get_by_role("button", name="Report").click()
    await status(page, "It takes a while.").wait_for()
    await page.get_by_role("button", name="Leave").click()
    await status(page, "Left. The worker has stopped, too.").wait_for()
    assert await page.get_by_role("button", name="Leave").is_disabled()
    await page.get_by_role("button", name="500 prices").click()
    await status(page, "500 of 500 prices").wait_for()
    process.check()


async def test_what_is_wrong_is_said_in_words(address, unserved, open_page):
    page = await open_page(address, tolerate="status of 422")
    await page.get_by_label("Make a picture smaller").fill("a cat?")
    await page.get_by_role("button", name="Resize").click()
    await status(page, "String should match pattern").wait_for()
    page = await open_page(unserved)
    await page.get_by_role("button", name="500 prices").click()
    await status(page, re.compile(r"^500 of 500 prices$")).wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
async def test_it_fits_and_can_be_read_by_everybody(address, open_page, size, scheme):
    page = await open_page(address, size, scheme=scheme)
    assert await overflowing(page) == []
    assert await violations(page) == ""
