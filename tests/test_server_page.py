"""The page in a real browser: Chromium without a window, against a small server of ours."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from page_case import CALLED, COLLAR, EVIL, KEY, SUMMARY, TWO_SETS, FakeService, Raw, event, running

STATIC = Path(__file__).resolve().parents[1] / "gpu_margin" / "server" / "static"
CHROMIUM = os.environ.get("GPU_MARGIN_CHROMIUM", "/usr/bin/chromium")
# Seconds: a browser beside other work is slow, and only a failure waits this long.
PATIENCE = 30
WIDE, NARROW = {"width": 1360, "height": 900}, {"width": 390, "height": 800}


def missing() -> str | None:
    """Why there is no browser here."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the page needs playwright"
    return None if shutil.which(CHROMIUM) else f"the page needs a browser at {CHROMIUM}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = missing()
    if reason is not None:
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@dataclass
class Seen:
    """A page, the server behind it, and what must not happen."""

    page: Any
    raw: Raw
    url: str
    faults: list[str] = field(default_factory=list)

    @property
    def service(self) -> FakeService:
        return self.raw.service

    def watch(self) -> None:
        """Console errors, exceptions, and requests to anybody else are faults."""
        self.page.on("console", lambda said: self._said(said))
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("request", lambda one: self._asked(one.url))

    def _said(self, said: Any) -> None:
        # A browser itself notes each refusal; the page need not be silent about those.
        if said.type in ("error", "warning") and "Failed to load resource" not in said.text:
            self.faults.append(f"console: {said.text}")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "data:")):
            self.faults.append(f"request: {url}")

    def open(self, account: str) -> None:
        """Search an account and choose it by keyboard."""
        self.page.get_by_role("combobox", name=re.compile("Search")).fill(account[:9])
        self.page.locator("#found").get_by_text(account, exact=True).wait_for()
        names = self.page.locator("#found li").all_text_contents()
        for _ in range(names.index(account) + 1):
            self.page.keyboard.press("ArrowDown")
        self.page.keyboard.press("Enter")
        self.page.get_by_role("heading", name=account, exact=True).wait_for()
        self.page.get_by_text("Contributions add up").wait_for()


@pytest.fixture
def seen(browser: Any) -> Iterator[Seen]:
    """The page of a server that wants no key; nothing may have gone wrong in it."""
    history = [event(9, "call", CALLED), event(9, "liquidation", CALLED, "covariance")]
    raw = Raw(FakeService(history=[*history, event(11, "cured", COLLAR)]), needs_key=False)
    with running(raw) as url:
        context = browser.new_context(viewport=WIDE, locale="en-US")
        found = Seen(context.new_page(), raw, url)
        found.page.set_default_timeout(1000 * PATIENCE)
        found.watch()
        found.page.goto(url)
        found.page.locator("#live tr").nth(2).wait_for()
        yield found
        context.close()
    assert found.faults == []


def text_of(seen: Seen, selector: str) -> str:
    return str(seen.page.locator(selector).inner_text())


def shown(seen: Seen, selector: str, *texts: str) -> None:
    """All of these texts stand there, or come to: a page is painted answer by answer."""
    end = time.monotonic() + PATIENCE
    while missed := [text for text in texts if text not in text_of(seen, selector)]:
        assert time.monotonic() < end, (missed, text_of(seen, selector))
        seen.page.wait_for_timeout(50)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept."""
    named = os.environ.get("GPU_MARGIN_ARTIFACTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_no_text_is_ever_parsed_as_markup() -> None:
    for path in STATIC.glob("*.js"):
        sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
        assert not re.search(sinks, path.read_text()), path


def test_the_book_and_the_servers_state_are_shown(seen: Seen) -> None:
    shown(seen, "#book", "812,345,679", "611 call")
    shown(seen, "#state", "ready", "numba", "state 12")
    assert seen.page.locator("#stale").is_hidden()


def test_an_account_is_searched_and_its_waterfall_drawn(seen: Seen) -> None:
    seen.open(COLLAR)
    assert "#account=collar-000005" in seen.page.url
    shown(seen, "#account", "20,003", "22,885", "2,882", "87.4%")
    chart = seen.page.get_by_role("img", name=re.compile("^From requirement to call"))
    assert chart.get_attribute("aria-label") == (
        "From requirement to call: Value at risk 20,003, Requirement 20,003, "
        "Collateral \N{MINUS SIGN}22,885, Excess 2,882"
    )
    assert chart.locator("rect").count() == 4


def test_the_bars_of_a_waterfall_meet(seen: Seen) -> None:
    seen.open(CALLED)
    chart = seen.page.get_by_role("img", name=re.compile("^From requirement to call"))
    bars = chart.locator("rect").evaluate_all(
        "all => all.map(one => [Number(one.getAttribute('x')), Number(one.getAttribute('width'))])"
    )
    (_, _), (zero, requirement), (left, collateral), (start, call) = bars
    assert left + collateral == pytest.approx(zero + requirement)
    # The call is rounded up to 1: less than a pixel.
    assert start == pytest.approx(zero) and start + call == pytest.approx(left, abs=1)
    assert requirement / collateral == pytest.approx(44_947.222534 / 27_732.534769, rel=1e-6)


def test_what_is_netted_beyond_the_account_is_a_step(seen: Seen) -> None:
    seen.open(TWO_SETS)
    chart = seen.page.get_by_role("img", name=re.compile("^From requirement to call"))
    said = chart.get_attribute("aria-label")
    steps = (
        "Value at risk 90,211, Netting beyond the account \N{MINUS SIGN}10,000, Requirement 80,211"
    )
    assert steps in said
    shown(seen, "#account", f"{TWO_SETS}-b")


def test_the_other_model_is_chosen_by_keyboard(seen: Seen) -> None:
    seen.open(COLLAR)
    seen.page.get_by_role("tab", name="covariance").focus()
    seen.page.keyboard.press("ArrowRight")
    chosen = seen.page.get_by_role("tab", name="historical")
    chosen.wait_for()
    assert chosen.get_attribute("aria-selected") == "true"
    shown(seen, "#account", "17,770", "crude oil", "WTI-P-2019-03-43")


def test_a_what_if_shows_before_and_after(seen: Seen) -> None:
    seen.open(COLLAR)
    form = seen.page.get_by_role("region", name="What if")
    form.get_by_label("Instrument").fill("WTI-F-2019-03")
    form.get_by_label("Contracts").fill("-12")
    form.get_by_role("button", name="Add a row").click()
    form.get_by_label("Instrument").nth(1).fill("WTI-C-2019-03-47")
    form.get_by_label("Contracts").nth(1).fill("1,000.5")
    form.get_by_role("button", name="Try it").click()
    row = form.get_by_role("row", name=re.compile("covariance"))
    row.wait_for()
    assert row.get_by_role("cell").all_inner_texts() == [
        "covariance",
        "20,003",
        "9,001",
        "\N{MINUS SIGN}11,001",
        "ok",
    ]
    assert form.get_by_role("img", name="covariance: before 20,003, after 9,001").is_visible()
    positions = {"WTI-F-2019-03": -12, "WTI-C-2019-03-47": 1000.5}
    asked = {"account_id": COLLAR, "positions": positions, "add_positions": True}
    assert seen.raw.whatifs == [asked]


def test_only_these_positions_are_asked_for_by_the_switch(seen: Seen) -> None:
    seen.open(TWO_SETS)
    form = seen.page.get_by_role("region", name="What if")
    form.get_by_role("button", name="Fill in its positions").click()
    assert not form.get_by_role("switch").is_checked()
    form.get_by_label("Netting set").select_option(f"{TWO_SETS}-b")
    form.get_by_role("button", name="Try it").click()
    form.get_by_text("Nothing was booked").wait_for()
    (asked,) = seen.raw.whatifs
    assert asked["add_positions"] is False and asked["netting_set"] == f"{TWO_SETS}-b"
    assert asked["positions"]["WTI-C-2019-03-47"] == -25 and len(asked["positions"]) == 3


def test_a_problem_is_shown_with_its_way_out(seen: Seen) -> None:
    seen.open(COLLAR)
    form = seen.page.get_by_role("region", name="What if")
    form.get_by_label("Instrument").fill("NONE")
    form.get_by_label("Contracts").fill("five")
    form.get_by_role("button", name="Try it").click()
    assert form.get_by_label("Contracts").get_attribute("aria-invalid") == "true"
    assert seen.raw.whatifs == []
    form.get_by_label("Contracts").fill("5")
    form.get_by_role("button", name="Try it").click()
    said = form.get_by_role("alert").filter(has_text="there is no instrument")
    said.wait_for()
    assert "positions.NONE" in said.inner_text()
    assert "name an instrument of the book" in said.inner_text() and "r-422" in said.inner_text()


def test_an_account_that_is_not_there_is_a_problem(seen: Seen) -> None:
    seen.page.get_by_role("combobox", name=re.compile("Search")).fill("nobody")
    seen.page.get_by_text("No account starts like this.").wait_for()
    seen.page.keyboard.press("Enter")
    seen.page.locator("#account").get_by_text("no account 'nobody'").wait_for()
    assert seen.page.get_by_role("region", name="What if").is_hidden()


def test_an_event_appears_live_and_leads_to_its_account(seen: Seen) -> None:
    seen.service.history.append(event(13, "call", "collar-000011"))
    row = seen.page.locator("#live tr").filter(has_text="collar-000011")
    row.wait_for()
    assert row.get_attribute("data-kind") == "call"
    assert seen.page.locator("#live tr").first.inner_text() == row.inner_text()
    seen.page.get_by_label("Show", exact=True).select_option("cured")
    assert row.is_hidden() and seen.page.locator('#live tr[data-kind="cured"]').is_visible()
    seen.page.get_by_label("Show", exact=True).select_option("all")
    row.get_by_role("button").click()
    seen.page.get_by_role("heading", name="collar-000011").wait_for()


def test_stale_marks_are_flagged(seen: Seen) -> None:
    seen.service.summary_is = {**SUMMARY, "stale_marks": True, "mark_age_seconds": 130.0}
    seen.page.get_by_role("alert").filter(has_text="Stale marks").wait_for()
    shown(seen, "#stale", "2 min")
    shown(seen, "#state", "stale marks")


def test_a_failed_backend_is_flagged(seen: Seen) -> None:
    fault = {"time": "2026-01-05T08:00:00Z", "backend": "cupy", "error": "lost", "next": "numpy"}
    seen.service.summary_is = {**SUMMARY, "faults": [fault]}
    seen.page.get_by_text("Backend cupy failed (lost); numpy goes on.").wait_for()


def test_loading_is_shown_with_its_progress(seen: Seen) -> None:
    seen.service.is_ready = False
    seen.page.get_by_text("loading: inputs 40%").wait_for()


def test_an_id_with_markup_in_it_does_nothing(seen: Seen) -> None:
    seen.service.history.append(event(13, "call", EVIL))
    seen.page.locator("#live").get_by_text(EVIL).wait_for()
    seen.open(EVIL)
    seen.page.get_by_text("Incomplete: a row of this account").wait_for()
    assert seen.page.title() == "Risk server"
    assert seen.page.locator("img, #account script").count() == 0


def test_the_address_keeps_the_account(seen: Seen) -> None:
    seen.open(COLLAR)
    seen.page.reload()
    seen.page.get_by_role("heading", name=COLLAR).wait_for()


def test_a_narrow_screen_needs_no_scrolling_sideways(seen: Seen, kept: Path) -> None:
    seen.open(COLLAR)
    seen.page.set_viewport_size(NARROW)
    seen.page.wait_for_timeout(200)
    assert seen.page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    seen.page.screenshot(path=kept / "page-narrow.png", full_page=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots_are_kept(seen: Seen, kept: Path, scheme: str) -> None:
    seen.page.emulate_media(color_scheme=scheme)
    seen.open(CALLED)
    form = seen.page.get_by_role("region", name="What if")
    form.get_by_label("Instrument").fill("WTI-F-2019-03")
    form.get_by_label("Contracts").fill("-12")
    form.get_by_role("button", name="Try it").click()
    form.get_by_text("Nothing was booked").wait_for()
    path = kept / f"page-{scheme}.png"
    seen.page.screenshot(path=path, full_page=True)
    assert path.stat().st_size > 20_000


def test_a_key_is_asked_for_and_kept_in_the_tab_only(browser: Any) -> None:
    raw = Raw(FakeService(), needs_key=True)
    with running(raw) as url:
        context = browser.new_context(viewport=WIDE)
        seen = Seen(context.new_page(), raw, url)
        seen.page.set_default_timeout(1000 * PATIENCE)
        seen.watch()
        seen.page.goto(url)
        for text, said in (("wrong", "no longer valid"), (KEY, "")):
            dialog = seen.page.get_by_role("dialog", name="API key")
            dialog.wait_for()
            dialog.get_by_label("Key or token").fill(text)
            seen.page.keyboard.press("Enter")
            if said:
                dialog.get_by_text(said).wait_for()
        seen.page.get_by_text("812,345,679").wait_for()
        seen.page.locator("#live-state").get_by_text("connected", exact=True).wait_for()
        stored = "[sessionStorage.length, localStorage.length, document.cookie.length]"
        assert seen.page.evaluate(stored) == [1, 0, 0]
        assert KEY not in seen.page.url
        context.close()
    assert seen.faults == []


def test_the_docs_show_every_route_and_try_one(browser: Any, kept: Path) -> None:
    raw = Raw(FakeService(), needs_key=True)
    with running(raw) as url:
        headers = {"Authorization": f"Bearer {KEY}"}
        context = browser.new_context(viewport=WIDE, extra_http_headers=headers)
        seen = Seen(context.new_page(), raw, url)
        seen.page.set_default_timeout(1000 * PATIENCE)
        seen.watch()
        seen.page.goto(f"{url}/docs")
        seen.page.locator(".opblock").nth(16).wait_for()
        summary = seen.page.locator("#operations-questions-whatIf .opblock-summary-control")
        summary.click()
        operation = seen.page.locator("#operations-questions-whatIf")
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        operation.get_by_text("status_after").first.wait_for()
        assert raw.whatifs == [{"account_id": COLLAR, "positions": {"WTI-F-2019-03": -12}}]
        seen.page.screenshot(path=kept / "docs.png")
        context.close()
    assert seen.faults == []
