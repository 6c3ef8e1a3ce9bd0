"""The page of the service in docs/examples, used as a person would."""

from __future__ import annotations

import re

import gmpy2
import pytest
from support.browser import DESKTOP, NARROW, PHONE, overflowing, violations
from support.service import queued, serving
from support.waiting import eventually

from fibo_worker.dev import WorkerProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

F_100 = "354224848179261915075"

TOO_LONG = "20000 " * 100_000
"""Its address has 800 KB. Of a shorter one, a busy server may find all in the one read of 256 KiB that asyncio makes,
and then it counts the numbers instead of refusing the address."""


@pytest.fixture(scope="module")
def own_worker(redis_server):
    """A worker with one process for this page alone, so that it takes its time and its log is of nobody else."""
    url = redis_server.fresh_url()
    with WorkerProcess(url, stop_timeout=0) as process:
        yield url, process


@pytest.fixture(scope="module")
def address(own_worker):
    with serving(own_worker[0], max_n=5_000_000, timeout=30) as address:
        yield address


@pytest.fixture(scope="module")
def unserved(redis_server):
    with serving(redis_server.fresh_url(), timeout=0.5) as address:
        yield address


async def ask(page, numbers):
    await page.get_by_label("Which ones?").fill(numbers)
    await page.get_by_role("button", name="Compute").click()


async def test_numbers_that_are_typed_are_computed_listed_and_plotted(address, open_page):
    page = await open_page(address)
    await ask(page, "4, 3 8\t0-100/20; 1000")
    await page.get_by_role("status").filter(has_text="Done: 10 of 10.").wait_for()
    rows = await page.locator("#results tr").all_inner_texts()
    assert {row.split("\t")[0]: [cell.strip() for cell in row.split("\t")[1:]] for row in rows} == {
        "4": ["1", "3"], "3": ["1", "2"], "8": ["2", "21"], "0": ["1", "0"], "20": ["4", "6765"],
        "40": ["9", "102334155"], "60": ["13", "1548008755920"], "80": ["17", "23416728348467685"],
        "100": ["21", F_100], "1,000": ["209", "≈\xa04.34666 \N{MULTIPLICATION SIGN}\xa010^208"],
    }  # fmt: skip
    assert await page.locator("#plot circle").count() == 10
    assert await page.get_by_role("img", name="Decimal digits of F(n), by n").is_visible()
    bar = page.get_by_role("progressbar", name="Progress")
    assert (await bar.get_attribute("max"), await bar.evaluate("bar => bar.value")) == ("10", 10)


async def test_a_long_number_is_shown_whole_when_it_is_opened(address, open_page):
    page = await open_page(address, PHONE)
    await ask(page, "20000")
    await page.locator("summary").click()
    shown = page.locator("details span")
    await shown.filter(has_text=re.compile(r"^\d+$")).wait_for()
    assert await shown.inner_text() == str(gmpy2.fib(20000))
    assert await overflowing(page) == []


async def test_digits_are_counted_without_writing_them(address, open_page):
    page = await open_page(address)
    wrong = await page.evaluate("""async () => {
        const { countDigits } = await import("/static/digits.js");
        const wrong = [];
        for (let [n, a, b] = [0, 0n, 1n]; n <= 20_000; [n, a, b] = [n + 1, b, a + b]) {
            if (countDigits("0x" + a.toString(16)) !== a.toString().length) wrong.push(n);
        }
        return wrong;
    }""")
    assert wrong == []


async def test_the_bar_moves_and_cancel_stops_the_work(address, own_worker, open_page):
    url, process = own_worker
    before = len(process.log.read_text())
    page = await open_page(address)
    await ask(page, "1-20 3000000-3000299")  # Seconds of work for the one process of the worker.
    bar = page.get_by_role("progressbar")

    async def moved():
        return 20 < await bar.evaluate("bar => bar.value") < int(await bar.get_attribute("max")) == 320

    await eventually(moved)
    await page.get_by_role("button", name="Cancel").click()
    said = page.get_by_role("status").filter(has_text="Cancelled after ")
    await said.wait_for()
    done, total = re.findall(r"\d+", await said.inner_text())
    assert 20 < int(done) < 320 == int(total)
    assert await page.get_by_role("button", name="Cancel").is_disabled()
    assert await page.locator("#results tr").count() == int(done)

    async def nothing_left():
        return "Discarding revoked task" in process.log.read_text()[before:] and await queued(url) == 0

    await eventually(nothing_left)
    computed = process.log.read_text()[before:].count(" succeeded in ")
    assert computed < 150  # Those that came, and at most those of the stream's window that were begun meanwhile.


async def test_what_is_cancelled_before_it_began_is_said_so(address, open_page):
    page = await open_page(address)
    await page.evaluate("""() => {
        document.getElementById("form").requestSubmit();
        document.getElementById("cancel").click();
    }""")
    await page.get_by_role("status").filter(has_text=re.compile(r"^Cancelled\.$")).wait_for()


async def test_who_comes_back_finds_what_was_typed(address, open_page):
    page = await open_page(address)
    await ask(page, "5-9")
    await page.get_by_role("status").filter(has_text="Done: 5 of 5.").wait_for()
    await page.goto("about:blank")
    await page.go_back()
    assert await page.get_by_label("Which ones?").input_value() == "5-9"


async def test_comments_that_keep_a_stream_open_change_nothing(address, open_page):
    page = await open_page(address)
    events = ['event: start\ndata: {"total": 1}', 'event: result\ndata: {"n":7,"value":"0xd"}', "event: done\ndata: {}"]
    body = "".join(f": ping\n\n{event}\n\n" for event in events)
    await page.route("**/fibonacci/stream*", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    await ask(page, "7")
    await page.get_by_role("status").filter(has_text="Done: 1 of 1.").wait_for()
    assert await page.locator("#results tr").all_inner_texts() == ["7\t2\t13"]


async def test_a_second_request_takes_the_place_of_the_first(address, open_page):
    page = await open_page(address)
    await ask(page, "1-5 3000000-3000299")
    await page.get_by_text(" of 305").wait_for()
    await ask(page, "100")
    await page.get_by_role("status").filter(has_text="Done: 1 of 1.").wait_for()
    assert await page.locator("#results tr").all_inner_texts() == [f"100\t21\t{F_100}"]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("4 x", "“x” is neither a number nor a range such as 0-100 or 0-20000/500."),
        ("  ", "Enter a number, such as 10."),
        ("6000000", "6000000 is too large. The largest n is 5,000,000."),
        ("0-9999", "At most 1,000 numbers at a time, not 10,000."),
        (TOO_LONG, "That is too much for one request. Ask for fewer numbers, or for ranges."),
        ("<img/src=x/onerror=alert(1)>", "“<img/src=x/onerror=alert(1)>” is neither a number"),
    ],
)
async def test_what_is_wrong_is_said_in_words_and_the_field_is_at_hand(address, open_page, typed, said):
    # A server that has read enough may close before the browser has sent all of it, which then sees no answer.
    page = await open_page(address, tolerate="status of 400|ERR_CONNECTION_RESET")
    await ask(page, typed)
    await page.get_by_role("alert").filter(has_text=said).wait_for()
    field = page.get_by_label("Which ones?")
    assert await field.evaluate("field => field === document.activeElement")
    assert await field.get_attribute("aria-invalid") == "true"
    assert await page.locator("img").count() == 0
    await ask(page, "10")
    await page.get_by_role("status").filter(has_text="Done").wait_for()
    assert await page.get_by_role("alert").inner_text() == ""
    assert await field.get_attribute("aria-invalid") is None


async def test_numbers_that_fail_are_listed_and_said_once(unserved, open_page):
    page = await open_page(unserved)
    await ask(page, "7-9")
    await page.get_by_role("status").filter(has_text="0 of 3 computed, 3 failed.").wait_for()
    assert await page.get_by_role("alert").inner_text() == "No worker answered in time."
    rows = await page.locator("#results tr").all_inner_texts()
    assert sorted(rows) == [f"{n}\t\tNo worker answered in time." for n in (7, 8, 9)]


async def test_an_address_that_a_server_does_not_read_to_its_end_is_too_much(address, open_page):
    page = await open_page(address, tolerate="ERR_CONNECTION_RESET")
    await page.route("**/fibonacci/stream*", lambda route: route.abort("connectionreset"))
    await ask(page, TOO_LONG)
    await page.get_by_role("alert").filter(has_text="That is too much for one request.").wait_for()


async def test_a_service_that_is_gone_is_an_error_in_words(worker, open_page):
    with serving(worker.url) as address:
        page = await open_page(address, tolerate="ERR_CONNECTION_REFUSED")
    await ask(page, "7")
    await page.get_by_role("alert").filter(has_text="The connection to the service failed.").wait_for()


async def test_everything_can_be_done_with_the_keyboard(address, open_page):
    page = await open_page(address)

    async def focused():
        return await page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")

    await page.keyboard.press("Tab")
    assert await focused() == "numbers"
    await page.keyboard.press("Control+A")
    await page.keyboard.type("1-5 3000000-3000299")
    await page.keyboard.press("Enter")
    await page.get_by_text(" of 305").wait_for()
    await page.keyboard.press("Tab")
    assert await focused() == "Compute"
    outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # The focus is seen.
    await page.keyboard.press("Tab")
    assert await focused() == "Cancel"
    await page.keyboard.press("Enter")
    await page.get_by_role("status").filter(has_text="Cancelled").wait_for()
    assert await focused() == "numbers"  # Not lost with the button that is disabled now.
    await page.keyboard.press("Control+A")
    await page.keyboard.type("1000")
    await page.keyboard.press("Enter")
    await page.get_by_role("status").filter(has_text="Done").wait_for()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "results-label"
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.locator("details span").filter(has_text=str(gmpy2.fib(1000))).wait_for()


async def test_a_screen_reader_is_told_the_beginning_and_the_end_not_every_number(address, open_page):
    page = await open_page(address)
    await page.evaluate("""() => {
        window.told = [];
        new MutationObserver(() => told.push(document.getElementById("status").textContent))
            .observe(document.getElementById("status"), {childList: true, characterData: true, subtree: true});
    }""")
    await ask(page, "0-999")
    await page.get_by_role("status").filter(has_text="Done").wait_for()
    told = [text for text in await page.evaluate("told") if text]
    assert told == ["Computing 1,000 numbers.", "Done: 1,000 of 1,000."]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE, NARROW], ids=["desktop", "phone", "narrow"])
async def test_it_fits_and_can_be_read_by_everybody(address, open_page, size, scheme):
    page = await open_page(address, size, scheme=scheme, tolerate="status of 400")
    for numbers, said in (("x", "neither"), ("0-30 5000 20000", "Done")):
        await ask(page, numbers)
        await page.locator("#problem, #status").filter(has_text=said).wait_for()
        assert await overflowing(page) == []
        assert await violations(page) == ""


async def test_an_event_source_reads_a_stream_and_stops_at_its_end(address, open_page):
    page = await open_page(address)
    seen = await page.evaluate("""() => new Promise((resolve) => {
        const seen = [];
        const source = new EventSource("fibonacci/stream?n=1-3");
        for (const name of ["start", "result", "problem", "done"]) source.addEventListener(name, () => seen.push(name));
        source.onerror = () => source.readyState === EventSource.CLOSED && resolve(seen);
    })""")
    assert seen == ["start", "result", "result", "result", "done"]


@pytest.mark.parametrize(("motion", "moving"), [("no-preference", 1), ("reduce", 0)])
async def test_nothing_moves_for_who_wants_no_motion(address, open_page, motion, moving):
    page = await open_page(address, reduced_motion=motion)
    rules = await page.evaluate("""() => {
        const inForce = (rules) => [...rules].flatMap((rule) =>
            !rule.media ? [rule] : matchMedia(rule.media.mediaText).matches ? inForce(rule.cssRules) : []);
        const moves = (rule) => rule.style?.transitionDuration || rule.style?.animationName;
        return inForce(document.styleSheets[0].cssRules).filter(moves).length;
    }""")
    assert rules == moving


async def test_the_page_may_load_nothing_from_elsewhere_and_nothing_inline(address, open_page):
    page = await open_page(address, tolerate="Content Security Policy|Trusted(HTML|Script)")
    policy = (await page.request.get(address)).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    refused = await page.evaluate("""async () => {
        const script = document.createElement("script");
        script.append("window.inline = true");
        document.head.append(script);
        try { document.body.innerHTML = "<p>markup"; } catch (error) { return [error.name, window.inline ?? null]; }
    }""")
    assert refused == ["TypeError", None]
