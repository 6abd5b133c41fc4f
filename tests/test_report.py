"""The report as a page: what stands in it, what must not, and how large it gets."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from typing import Any

import numpy as np
import polars as pl
import pytest

from gpu_margin.failures import failure_table
from gpu_margin.report import render
from gpu_margin.result import Correlation, Run

EVIL = ["<script>alert(1)</script>", "\"quoted\" & 'single'", "%{x} $a$ <b>bold</b>", "1001"]
TITLES = [
    "Total requirement and offset",
    "Distribution of requirements",
    "Largest accounts",
    "Largest offsets",
    "Product groups",
    "Correlation of factors",
    "Models side by side",
    "What failed",
]
OFFSET = ["7,000,000,000", "50.0%"]
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Tags, attributes, scripts and text of a page; an end tag without its start fails."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.heads: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "td":
            self.cells.append(data)
        if inside == "h2":
            self.heads.append(data)
        if inside not in ("script", "style"):
            self.text.append(data)

    def ids(self) -> list[str]:
        return [attrs["id"] or "" for _, attrs in self.tags if "id" in attrs]


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of all table rows of one section, heads left out."""
    section = page[page.index(f"<h2>{title}") :]
    section = section[: section.index("</section>")]
    found = [re.findall("<td.*?>(.*?)</td>", row) for row in section.split("<tr>")]
    return [[unescape(cell) for cell in row] for row in found if row]


def margins(
    accounts: list[str], model: str, requirement: list[float | None], complete: list[bool]
) -> pl.DataFrame:
    amount = pl.Series("requirement", requirement, dtype=pl.Float64)
    frame = pl.DataFrame({"account_id": accounts, "complete": complete}).with_columns(amount)
    return frame.with_columns(
        model=pl.lit(model),
        level=pl.lit("initial"),
        standalone=pl.col("requirement") * 2,
        offset=pl.col("requirement"),
        offset_ratio=pl.when(pl.col("requirement") > 0).then(0.5).otherwise(0.0),
        worst_scenario=pl.lit(None, pl.String) if model == "normal" else pl.lit("2008-10-15"),
    )


def build(tables: list[pl.DataFrame], failures: pl.DataFrame | None = None, **other: Any) -> Run:
    """A run around these margins, whose groups and factors carry evil names too."""
    accounts = pl.concat(tables)
    groups = accounts.filter("complete").group_by("model", maintain_order=True)
    totals = groups.agg(
        pl.lit(EVIL[0]).alias("product_group"),
        pl.col("standalone").sum(),
        pl.col("requirement").sum() * 1.5,
        pl.col("offset").sum() * 0.5,
        pl.len().alias("accounts"),
    )
    empty = pl.DataFrame()
    parts: dict[str, Any] = {
        "margins": accounts,
        "components": empty,
        "sets": empty,
        "groups": empty,
        "failures": failure_table() if failures is None else failures,
        "group_totals": totals,
        "correlation": Correlation((EVIL[0], "oil"), np.array([[1.0, -0.25], [-0.25, 1.0]])),
        "manifest": {
            "gpu_margin": "9.8.7",
            "created": "2026-01-02T03:04:05+00:00",
            "backend": {"name": "numpy", "device": "<i>processor</i>"},
            "config": {"valuation_date": "2018-12-31", "currency": "USD", "models": {"normal": {}}},
            "counts": {"accounts": 6, "failures": 0},
            "seconds": {"load": 1.5, "tables": 0.25},
        },
    }
    return Run(**{**parts, **other})


@pytest.fixture(scope="module")
def messy() -> Run:
    """Two models, evil ids, an incomplete account with a figure and one without."""
    accounts = [*EVIL, "incomplete", "nothing"]
    complete = [True] * 4 + [False] * 2
    bad = pl.DataFrame(
        {"reason": EVIL[0], "source": "positions", "row": [7], "field": "quantity", "value": "<b>"},
        schema=failure_table().schema,
    )
    return build(
        [
            margins(accounts, "normal", [10_000.0, 20_000.0, 0.0, 4.0, 7e9, None], complete),
            margins(accounts, "<u>past</u>", [11_000.0, 1.0, 2.0, 0.0, 8e9, None], complete),
        ],
        bad,
    )


def test_the_page_is_whole_and_asks_nobody(messy: Run) -> None:
    text = render(messy)
    page = Page(text)
    assert page.heads == TITLES
    assert len(set(page.ids())) == len(page.ids())
    assert text.count("* plotly.js v") == 1
    links = [attrs[name] for _, attrs in page.tags for name in ("src", "href") if name in attrs]
    assert links == ["data:,"]
    policy = [attrs["content"] or "" for _, attrs in page.tags if "http-equiv" in attrs]
    assert "default-src 'none'" in policy[0]
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)


def test_user_text_is_only_text(messy: Run) -> None:
    page = Page(render(messy))
    assert not {"b", "i", "u"} & {tag for tag, _ in page.tags}
    assert set(EVIL) <= set(page.cells)
    charts = render(messy).split("Plotly.newPlot(")[1:]
    assert any("&lt;script&gt;alert" in chart for chart in charts)
    assert not any(r"\u003cscript" in chart or "<script>alert" in chart for chart in charts)


def test_header_shows_what_was_computed_with_what(messy: Run) -> None:
    text = " ".join(Page(render(messy)).text)
    for fact in ("2018-12-31", "USD", "2026-01-02 03:04:05", "1.8 s", "9.8.7", "<i>processor</i>"):
        assert fact in text


def test_incomplete_accounts_are_in_no_total(messy: Run) -> None:
    text = render(messy)
    assert '<p class="big">30,004 <small>USD</small></p>' in text
    assert '<p class="big">11,003 <small>USD</small></p>' in text
    # model, accounts, complete, without figure, requirement, standalone, offset, ratio
    assert rows(text, TITLES[0])[:2] == [
        ["normal", "4", "yes", "0", "30,004", "60,008", "30,004", "50.0%"],
        ["normal", "2", "incomplete", "1", "7,000,000,000", "14,000,000,000", *OFFSET],
    ]
    assert "incomplete: normal" in text
    assert "7,000,030,004" not in text
    assert "Failures: 1. Incomplete accounts: 2." in text


def test_zero_requirements_are_counted_beside_the_histogram(messy: Run) -> None:
    # model, accounts, zero requirement, median
    assert [row[:4] for row in rows(render(messy), TITLES[1])] == [
        ["normal", "4", "1", "5,002.00"],
        ["<u>past</u>", "4", "1", "1.50"],
    ]


def test_rankings_are_by_size_and_hold_no_zero(messy: Run) -> None:
    ranked = rows(render(messy), TITLES[2])
    # rank, account, requirement, standalone, offset, ratio, worst scenario, complete
    assert [row[1] for row in ranked[:4]] == ["incomplete", EVIL[1], EVIL[0], EVIL[3]]
    assert ranked[0][6:] == ["-", "incomplete"]
    assert [row[1] for row in ranked[4:]] == ["incomplete", EVIL[0], EVIL[2], EVIL[1]]
    assert ranked[5][2:] == ["11,000", "22,000", "11,000", "50.0%", "2008-10-15", "yes"]


def test_one_model_no_failures() -> None:
    run = build([margins(["a", "b"], "normal", [1.0, 2.0], [True, True])])
    text = render(run)
    assert Page(text).heads == TITLES
    assert "Nothing failed" in text
    assert "One model only" in text
    assert "incomplete: normal" not in text


def test_no_requirement_and_no_account_at_all() -> None:
    zero = margins(["a", "b"], "normal", [0.0, 0.0], [True, True])
    text = render(build([zero]))
    assert "No complete account has a requirement above zero." in text
    assert "No account has more than zero requirement." in text
    lost = margins(["a", "b"], "normal", [None, None], [False, False])
    bare = build([lost], correlation=Correlation((), np.zeros((0, 0))), manifest={})
    assert "No factor has returns to correlate." in render(bare)
    nobody = build([zero.clear()], group_totals=bare.group_totals.clear())
    assert "No account has been computed." in render(nobody)


def test_other_levels_stay_out(messy: Run) -> None:
    call = messy.margins.with_columns(level=pl.lit("call"))
    assert render(replace(messy, margins=pl.concat([messy.margins, call]))) == render(messy)


def test_many_accounts_groups_and_factors_stay_a_page() -> None:
    count, factors = 100_000, [f"factor-{i}" for i in range(70)]
    random = np.random.default_rng(7)
    ids = [f"account-{i:06d}-with-a-long-name" for i in range(count)]
    tables = [
        margins(ids, model, random.lognormal(9, 3, count).tolist(), [True] * count)
        for model in ("normal", "past")
    ]
    groups = pl.concat(
        pl.DataFrame(
            {
                "model": model,
                "product_group": [f"group-{i}" for i in range(40)],
                "standalone": 2.0,
                "requirement": 1.5,
                "offset": 0.5,
                "accounts": 9,
            }
        )
        for model in ("normal", "past")
    )
    failures = failure_table().clear(5_000).with_columns(reason=pl.lit("no such instrument"))
    correlation = Correlation(tuple(factors), np.eye(70))
    text = render(build(tables, failures, correlation=correlation, group_totals=groups))
    assert len(text.encode()) < 8_000_000
    assert "the largest 20,000 of 100,000 accounts" in text
    assert "The first 60 of 70 factors" in text
    assert "25 other groups" in text
    assert "The first 100 of 5,000 failures" in text


def test_importing_the_report_does_not_import_plotly() -> None:
    code = "import sys, gpu_margin.report; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
