"""The report of a run with collateral: its sections, who is called, and the steps to a call."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from solvent_run import components, solvent_run, standing, steps
from test_report import EVIL, TITLES, Page, rows

from gpu_margin import console
from gpu_margin.report import render
from gpu_margin.report_solvency import standings
from gpu_margin.result import Run

CALLS, STEPS = "Calls and deficits", "From positions to a call"
CONTRIBUTORS, PAIRS, VENUES = (
    "Largest contributors",
    "Offset by pair of groups",
    "Netting between venues",
)


@pytest.fixture(scope="module")
def solvent() -> Run:
    return solvent_run()


# ---------------------------------------------------------------- what stands in it


def test_sections_are_there_where_the_run_has_the_data(solvent: Run) -> None:
    new = [CALLS, STEPS, CONTRIBUTORS, PAIRS, VENUES]
    page = Page(render(solvent))
    assert [head for head in page.heads if head in new] == new
    assert [head for head in page.heads if head not in new] == TITLES
    assert len(set(page.ids())) == len(page.ids())
    gone = {"accounts": [CALLS, STEPS], "contributions": [CONTRIBUTORS], "owners": [VENUES]}
    for table, titles in {**gone, "group_pairs": [PAIRS]}.items():
        values: Any = {table: None}
        heads = Page(render(replace(solvent, **values))).heads
        assert [head for head in page.heads if head not in heads] == titles


def test_empty_tables_are_sections_that_say_so(solvent: Run) -> None:
    empty: Any = {
        name: getattr(solvent, name).clear()
        for name in ("accounts", "contributions", "owners", "group_pairs")
    }
    text = render(replace(solvent, **empty))
    for said in (
        "No account is called.",
        "No complete account has a requirement.",
        "No complete account has collateral to speak of.",
        "No contributions.",
        "No account has two product groups that offset each other.",
        "No owner&#x27;s venues are netted.",
    ):
        assert said in text


def test_user_text_is_only_text(solvent: Run) -> None:
    text = render(solvent)
    assert not {"b", "i", "u"} & {tag for tag, _ in Page(text).tags}
    for title in (CALLS, CONTRIBUTORS, PAIRS, VENUES):
        section = text[text.index(f"<h2>{title}") :]
        assert EVIL[0] in Page(section[: section.index("</section>")]).cells, title
    assert f"{EVIL[0]}: status liquidation, utilisation 400.0%." in Page(text).text
    charts = text.split("Plotly.newPlot(")[1:]
    assert any("&lt;script&gt;alert" in chart for chart in charts)
    assert not any(r"\u003cscript" in chart or "<script>alert" in chart for chart in charts)


# ---------------------------------------------------------------- calls


def test_calls_count_and_add_up_complete_accounts(solvent: Run) -> None:
    text = render(solvent)
    listed = rows(text, CALLS)
    # model, accounts, complete, ok, call, liquidation, unknown, call, deficit, excess
    counts = ["normal", "4", "yes", "2", "1", "1", "0"]
    assert listed[0] == [*counts, "9,500", "9,500", "501.00"]
    lost = "7,000,000,000"
    assert listed[1] == ["normal", "1", "incomplete", "0", "0", "1", "0", lost, lost, "0.00"]
    assert [row[0] for row in listed[:4]] == ["normal", "normal", "past", "past"]
    # rank, account, initial, collateral, excess, utilisation, call, status, complete
    assert listed[4][1:] == [
        *("incomplete", "7,000,000,000", "0", "-7,000,000,000", "-"),
        *("7,000,000,000", "liquidation", "incomplete"),
    ]
    assert listed[5][1:] == [
        EVIL[0],
        "10,000",
        "2,500",
        "-7,500",
        "400.0%",
        "7,500",
        "liquidation",
        "yes",
    ]
    assert [row[1] for row in listed[4:7]] == ["incomplete", EVIL[0], EVIL[1]]
    assert "rounded up to 0.5, and none is made below 1,000." in text
    (card, *_) = re.findall(r"<dt>Total call</dt><dd>(.*?)</dd>", text)
    assert card == "9,500.00"


def test_what_one_set_has_too_much_serves_no_other() -> None:
    """An account lacks 30 in one set and has 70 too much in the other; another has 5 too much."""
    account = standing("m").head(1).with_columns(
        account_id=pl.lit("a"), initial=pl.lit(100.0), collateral_value=pl.lit(140.0),
        excess=pl.lit(40.0), call=pl.lit(30.0), status=pl.lit("call"),
    )  # fmt: skip
    sets = [
        account.with_columns(netting_set=pl.lit(name), excess=pl.lit(excess), complete=pl.lit(True))
        for name, excess in (("s", -30.0), ("t", 70.0))
    ]
    other = account.with_columns(
        account_id=pl.lit("b"), excess=pl.lit(5.0), call=pl.lit(0.0), status=pl.lit(None, pl.String)
    )
    (row,) = standings(pl.concat([account, *sets, other]), ["m"]).to_dicts()
    assert (row["accounts"], row["call"], row["unknown"]) == (2, 1, 1)
    assert (row["total_call"], row["total_deficit"], row["total_excess"]) == (30.0, 30.0, 75.0)


# ---------------------------------------------------------------- step by step


def test_the_steps_from_standalone_to_the_largest_call(solvent: Run) -> None:
    assert steps(render(solvent), "account-0") == {
        "standalone": "20,000",
        "offset within groups": "-8,000",
        "offset between groups": "-2,000",
        "requirement": "10,000",
        "collateral": "-2,500",
        "call": "7,500",
    }


def test_steps_of_a_cap_of_netting_and_of_other_sets(solvent: Run) -> None:
    """The cap takes 1,500 back; netting leaves 9,000 of 10,000; another set has 100 too much."""
    assert solvent.accounts is not None
    mine = (pl.col("account_id") == EVIL[0]) & (pl.col("model") == "normal")
    netted = solvent.accounts.with_columns(
        pl.when(mine).then(9_000.0).otherwise("initial").alias("initial"),
        pl.when(mine).then(6_600.0).otherwise("call").alias("call"),
    )
    one = netted.filter(mine).with_columns(netting_set=pl.lit("iso"))
    run = replace(solvent, accounts=pl.concat([netted, one]), components=components(1_500.0))
    assert steps(render(run), "account-0") == {
        "standalone": "20,000",
        "offset within groups": "-8,000",
        "offset between groups": "-3,500",
        "offset above the cap": "1,500",
        "requirement": "10,000",
        "netting between venues": "-1,000",
        "final requirement": "9,000",
        "collateral": "-2,500",
        "surplus of other sets": "100",
        "call": "6,600",
    }


def test_without_a_call_the_largest_requirement_ends_in_its_excess(solvent: Run) -> None:
    rich = standing("normal", call=pl.lit(0.0), collateral_value=pl.lit(25_000.0))
    found = steps(render(replace(solvent, accounts=rich)), "account-0")
    assert found["requirement"] == "20,000"
    assert found["excess"] == "5,000"
    small = standing("normal", call=pl.lit(0.0), collateral_value=pl.lit(19_990.0))
    found = steps(render(replace(solvent, accounts=small)), "account-0")
    assert found["deficit below the least call"] == "10"


def test_steps_in_the_scenarios_and_rounding(solvent: Run) -> None:
    """Collateral inside the scenarios leaves 8,000 of 10,000; a call of 5,500 becomes 6,000."""
    mine = (pl.col("account_id") == EVIL[0]) & (pl.col("model") == "normal")
    inside = standing("normal").with_columns(
        pl.when(mine).then(8_000.0).otherwise("initial").alias("initial"),
        pl.when(mine).then(6_000.0).otherwise("call").alias("call"),
    )
    config = {**solvent.manifest["config"], "collateral": {"mode": "in_scenarios"}}
    manifest = {**solvent.manifest, "config": config}
    found = steps(render(replace(solvent, accounts=inside, manifest=manifest)), "account-0")
    assert found["collateral in the scenarios"] == "-2,000"
    assert found["final requirement"] == "8,000"
    assert found["rounding up"] == "500"


def test_an_account_without_collateral_and_one_without_groups(solvent: Run) -> None:
    bare = standing("normal", collateral_value=pl.lit(0.0))
    run = replace(solvent, accounts=bare, groups=solvent.groups.clear())
    text = render(run)
    assert f"{EVIL[3]}: status" not in text
    assert "status liquidation, no collateral." in text
    assert "offset within groups" not in steps(text, "account-0")
    assert steps(text, "account-0")["offset"] == "-10,000"


# ---------------------------------------------------------------- the terminal


def test_the_terminal_says_how_accounts_stand(
    solvent: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = replace(solvent, manifest={**solvent.manifest, "totals": []})
    console.show_totals(silent)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["normal", "4", "2", "1", "1", "0", "9,500.00", "9,500.00", "501.00"] in lines
    lost = ["normal", "(incomplete", "accounts)", "1", "0", "0", "1", "0"]
    assert lost in [line[:8] for line in lines]
    console.show_totals(replace(silent, accounts=None))
    assert "liquidation" not in capsys.readouterr().out
