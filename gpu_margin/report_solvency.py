"""Sections of the report about solvency: calls and deficits, an account's way to its call.

A section is the HTML of its content, None where the run has nothing for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.collateral import STATUSES
from gpu_margin.report_page import amounts, chart, note, panels, table
from gpu_margin.report_view import (
    REQUIREMENT,
    WARNING,
    View,
    bar_chart,
    outline,
    part_of,
    waterfall,
)

_TOP = 20
# Of utilisation: as far as the histogram goes, and the width of its bins.
_MOST, _BIN = 2.0, 0.05
# A step of less than this share of what it changes is none.
_ROUNDING = 1e-9

_KEY = ["account_id", "model"]
Step = tuple[str, float, bool]


def calls(view: View) -> str | None:
    """How many accounts have which status, what they lack, and the largest calls."""
    accounts = view.run.accounts
    if accounts is None:
        return None
    whole = accounts.filter(pl.col("netting_set").is_null())
    largest = panels(view.models, partial(_largest_calls, view, whole))
    return (
        table(standings(accounts, view.models)) + _terms(view) + _utilisation(view, whole) + largest
    )


def called(view: View, model: str) -> dict[str, str]:
    """Headline facts of complete accounts under a model; none where there is no collateral."""
    accounts = view.run.accounts
    if accounts is None:
        return {}
    chosen = (pl.col("model") == model) & pl.col("netting_set").is_null() & pl.col("complete")
    whole = accounts.filter(chosen)
    (total,) = amounts([float(whole["call"].sum())])
    found = {f"accounts in {name}": (whole["status"] == name).sum() for name in STATUSES[1:]}
    return {"total call": total, **{name: f"{count:,}" for name, count in found.items()}}


def standings(accounts: pl.DataFrame, models: Sequence[str]) -> pl.DataFrame:
    """A row per model: how many accounts have each status, and sums of `Run.accounts`.

    Incomplete accounts have a row of their own. Deficits and excesses are added up set by set.
    """
    status, excess = pl.col("status"), pl.col("excess")
    counts = {name: (status == name).sum() for name in STATUSES}
    order = pl.col("model").replace_strict(models, range(len(models)), default=None)
    keys = ["model", "complete"]
    whole = accounts.filter(pl.col("netting_set").is_null())
    numbers = whole.group_by(keys).agg(
        accounts=pl.len(), **counts, unknown=status.null_count(), total_call=pl.col("call").sum()
    )
    lacking = (
        _serving(accounts)
        .group_by(keys)
        .agg(
            total_deficit=(-excess).clip(lower_bound=0.0).sum(),
            total_excess=excess.clip(lower_bound=0.0).sum(),
        )
    )
    joined = numbers.join(lacking, on=keys, how="left").sort(order, "model", ~pl.col("complete"))
    first = ("model", "accounts", "complete")
    return joined.select(*first, pl.exclude(*first))


def _serving(accounts: pl.DataFrame) -> pl.DataFrame:
    """Rows whose collateral serves themselves alone: sets, or accounts that are one set.

    `complete` is that of the account.
    """
    whole = accounts.filter(pl.col("netting_set").is_null())
    sets = accounts.filter(pl.col("netting_set").is_not_null()).drop("complete")
    owned = sets.join(whole.select(*_KEY, "complete"), on=_KEY, how="left")
    single = whole.join(sets, on=_KEY, how="anti")
    return pl.concat([single, owned.select(single.columns)])


def _terms(view: View) -> str:
    """How calls are made, where the manifest says it."""
    terms = part_of(part_of(view.run.manifest, "config"), "collateral")
    if not terms:
        return ""
    step, least = (f"{terms.get(name, 0):,g}" for name in ("call_rounding", "call_minimum"))
    return note(
        "Deficits and excesses are added up set by set: what one has too much serves no other. A "
        f"call is the deficit rounded up to {step}, and none is made below {least}."
    )


def _utilisation(view: View, whole: pl.DataFrame) -> str:
    """How close complete accounts are to a call: one stepped outline per model."""
    seen = whole.filter(pl.col("complete") & pl.col("utilisation").is_not_null())
    if seen.is_empty():
        return note("No complete account has collateral to speak of.")
    edges = np.arange(0.0, _MOST + 1.5 * _BIN, _BIN).round(9)
    spans = [f"{left:.0%} to {left + _BIN:.0%}" for left in edges[:-1]]
    spans[-1] = f"{_MOST:.0%} and more"
    traces = []
    for number, model in enumerate(view.models):
        values = seen.filter(pl.col("model") == model)["utilisation"].clip(upper_bound=edges[-2])
        counts, _ = np.histogram(values, edges)
        traces.append(outline(model, number, edges.tolist(), counts.tolist(), spans))
    line = {"type": "line", "x0": 1, "x1": 1, "y0": 0, "y1": 1, "yref": "paper"}
    word = {"x": 1, "y": 1, "yref": "paper", "text": "call", "showarrow": False, "xanchor": "left"}
    return chart(
        "utilisation",
        traces,
        height=320,
        shapes=[{**line, "line": {"color": WARNING, "width": 2}}],
        annotations=[word],
        xaxis={"title": {"text": "utilisation"}, "tickformat": ".0%"},
        yaxis={"title": {"text": "accounts"}},
    )


def _largest_calls(view: View, whole: pl.DataFrame, model: str, name: str) -> str:
    """The accounts with the largest calls, as a table and as bars; ties by id."""
    called = whole.filter((pl.col("model") == model) & (pl.col("call") > 0))
    if called.is_empty():
        return note("No account is called.")
    top = called.sort(["call", "account_id"], descending=[True, False]).head(_TOP)
    ranked = top.with_row_index("#", 1).with_columns(label="account_id")
    shown = ("initial", "collateral_value", "excess", "utilisation", "call", "status", "complete")
    parts = (("collateral_value", REQUIREMENT), ("call", WARNING))
    drawn = bar_chart(view, ranked, f"calls-{name}", parts)
    return f'<div class="pair">{table(ranked.select("#", "account_id", *shown))}{drawn}</div>'


def account_steps(view: View) -> str | None:
    """From standalone to call: one account per model, step by step."""
    accounts = view.run.accounts
    if accounts is None:
        return None
    return panels(view.models, partial(_account_steps, view, accounts))


def _account_steps(view: View, accounts: pl.DataFrame, model: str, name: str) -> str:
    """The complete account with the largest call, else the largest requirement; ties by id."""
    complete = view.complete(model).select("account_id", "standalone", "requirement")
    whole = accounts.filter((pl.col("model") == model) & pl.col("netting_set").is_null())
    known = whole.filter("complete", pl.col("call").is_not_null()).join(complete, on="account_id")
    if known.is_empty():
        return note("No complete account has a requirement.")
    order = known.sort(["call", "initial", "account_id"], descending=[True, True, False])
    chosen = order.row(0, named=True)
    said = f"{chosen['account_id']}: {_word(chosen)}."
    steps = [*_to_requirement(view, model, chosen), *_to_call(view, accounts, chosen)]
    return note(said) + waterfall(view, steps, f"account-{name}")


def _word(account: dict[str, Any]) -> str:
    used = account["utilisation"]
    share = "no collateral" if used is None else f"utilisation {used:,.1%}"
    return f"status {account['status']}, {share}"


def _to_requirement(view: View, model: str, account: dict[str, Any]) -> list[Step]:
    """Standalone, what groups save within them and between them, and what a cap takes back."""
    mine = (pl.col("account_id") == account["account_id"]) & (pl.col("model") == model)
    groups = view.run.groups.filter(mine)["requirement"]
    capped = mine & (pl.col("level") == "initial") & (pl.col("component") == "offset_cap")
    taken_back = float(view.run.components.filter(capped)["amount"].sum())
    alone, required = account["standalone"], account["requirement"]
    steps = [("standalone", alone, True)]
    apart, rest = alone, "offset"
    if len(groups):
        apart, rest = float(groups.sum()), "offset between<br>groups"
        steps.append(("offset within<br>groups", apart - alone, False))
    steps.append((rest, required - taken_back - apart, False))
    if taken_back > _ROUNDING * required:
        steps.append(("offset above<br>the cap", taken_back, False))
    return [*steps, ("requirement", required, True)]


def _to_call(view: View, accounts: pl.DataFrame, account: dict[str, Any]) -> list[Step]:
    """What netting between venues leaves of the requirement, collateral, and what is lacking."""
    initial, value, call = (account[name] for name in ("initial", "collateral_value", "call"))
    steps = []
    required = account["requirement"]
    if abs(initial - required) > _ROUNDING * required:
        inside = part_of(part_of(view.run.manifest, "config"), "collateral").get("mode")
        words = (
            "collateral in<br>the scenarios"
            if inside == "in_scenarios"
            else "netting<br>between venues"
        )
        steps.append((words, initial - required, False))
        steps.append(("final<br>requirement", initial, True))
    steps.append(("collateral", -value, False))
    lacking = initial - value
    if call == 0.0:
        words = "excess" if lacking <= 0.0 else "deficit below<br>the least call"
        return [*steps, (words, abs(lacking), True)]
    sets = accounts.filter(
        pl.col("account_id") == account["account_id"], pl.col("netting_set").is_not_null()
    )
    if call - lacking > 0.001 * call:
        words = "rounding up" if sets.is_empty() else "surplus of<br>other sets"
        steps.append((words, call - lacking, False))
    return [*steps, ("call", call, True)]
