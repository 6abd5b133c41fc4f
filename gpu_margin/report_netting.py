"""Sections of the report about netting: between pairs of product groups, and between venues.

A section is the HTML of its content, None where the run has nothing for it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import polars as pl

from gpu_margin.report_page import amounts, label, note, panels, table
from gpu_margin.report_view import OFFSET, REQUIREMENT, View, bar_chart, heat_map, waterfall

_TOP, _PAIRS, _GROUPS = 20, 15, 15


def pairs_of_groups(view: View) -> str | None:
    """How much of what two groups require apart they save as one, per model."""
    pairs = getattr(view.run, "group_pairs", None)
    return None if pairs is None else panels(view.models, partial(_pairs, pairs))


def _pairs(pairs: pl.DataFrame, model: str, name: str) -> str:
    """The pairs that save most, and a map of all those of the groups that require most."""
    mine = pairs.filter((pl.col("model") == model) & (pl.col("separate") > 0.0)).with_columns(
        offset_ratio=pl.col("offset") / pl.col("separate")
    )
    if mine.is_empty():
        return note("No account has two product groups that offset each other.")
    ranked = mine.sort(["offset", "first", "second"], descending=[True, False, False])
    shown = ("first", "second", "accounts", "separate", "together", "offset", "offset_ratio")
    columns = ranked.select(shown).head(_PAIRS)
    return f'<div class="halves">{table(columns)}{_map(mine, name)}</div>'


def _map(pairs: pl.DataFrame, name: str) -> str:
    """A field per pair; fields of pairs that no account has are empty."""
    both = pl.concat(
        [pairs, pairs.rename({"first": "second", "second": "first"}).select(pairs.columns)]
    )
    weight = both.group_by("first").agg(pl.col("separate").sum())
    groups = weight.sort(["separate", "first"], descending=[True, False])["first"].head(_GROUPS)
    found = {(row["first"], row["second"]): row for row in both.iter_rows(named=True)}
    cells = [[found.get((row, column)) for column in groups] for row in groups]
    ratios = [[_ratio(cell) for cell in line] for line in cells]
    words = [[_said(cell) for cell in line] for line in cells]
    return heat_map(groups.to_list(), ratios, words, f"pairs-{name}", ".0%")


def _ratio(pair: dict[str, Any] | None) -> float | None:
    return None if pair is None else round(float(pair["offset_ratio"]), 4)


def _said(pair: dict[str, Any] | None) -> str:
    if pair is None:
        return ""
    apart, together = amounts([pair["separate"], pair["together"]])
    return (
        f"{label(pair['first'])} and {label(pair['second'])}: apart {apart}, as one {together}, "
        f"{pair['accounts']:,} accounts"
    )


def venues(view: View) -> str | None:
    """What owners save between venues: in total, step by step, and who saves most."""
    owners = view.run.owners
    if owners is None:
        return None
    initial = owners.filter(pl.col("level") == "initial")
    return table(_totals(view, initial)) + panels(view.models, partial(_venues, view, initial))


def _totals(view: View, owners: pl.DataFrame) -> pl.DataFrame:
    """A row per model: the sums over its owners."""
    order = pl.col("model").replace_strict(view.models, range(len(view.models)), default=None)
    totals = owners.group_by("model").agg(
        pl.col("owner").n_unique().alias("owners"),
        pl.col("venue_sum").sum().alias("apart"),
        pl.col("joint").sum().alias("as_one"),
        pl.col("capped").sum().alias("required"),
        pl.col("saving").sum(),
    )
    share = (pl.col("saving") / pl.col("apart")).fill_nan(None)
    return totals.sort(order, "model").with_columns(share=share)


def _venues(view: View, owners: pl.DataFrame, model: str, name: str) -> str:
    mine = owners.filter(pl.col("model") == model)
    if mine.is_empty():
        return note("No owner's venues are netted.")
    apart, joint, capped = (float(mine[name].sum()) for name in ("venue_sum", "joint", "capped"))
    steps = [
        ("venues apart", apart, True),
        ("netting", joint - apart, False),
        ("share that does<br>not count", capped - joint, False),
        ("owners", capped, True),
    ]
    drawn = _whole(view, model, apart - capped, name) + waterfall(view, steps, f"venues-{name}")
    # Less than nothing by more than rounding.
    more = len(mine.filter(pl.col("saving") < -1e-9 * pl.col("venue_sum")))
    said = note(
        f"Owners who require more as one than apart, as a value-at-risk may: {more:,}."
        if more
        else ""
    )
    return f'<div class="pair">{drawn}</div>{said}{_owners(view, mine, name)}'


def _whole(view: View, model: str, saving: float, name: str) -> str:
    """From standalone to group to set to venue to owner, over all accounts with a figure.

    Incomplete accounts are in it, for they are in what their owners require.
    """
    accounts, groups = view.of(model), view.run.groups
    of_model = groups.filter(pl.col("model") == model) if "model" in groups.columns else groups
    standalone, required = (float(accounts[name].sum()) for name in ("standalone", "requirement"))
    steps = [("standalone", standalone, True)]
    within, rest = standalone, "offset"
    if len(of_model):
        within, rest = float(of_model["requirement"].sum()), "offset between<br>groups"
        steps.append(("offset within<br>groups", within - standalone, False))
    steps += [
        (rest, required - within, False),
        ("netting sets<br>of all venues", required, True),
        ("netting between<br>venues", -saving, False),
        ("owners and<br>all others", required - saving, True),
    ]
    return waterfall(view, steps, f"owners-steps-{name}")


def _owners(view: View, mine: pl.DataFrame, name: str) -> str:
    """Who saves most, as a table and as bars; ties by owner."""
    above = mine.filter(pl.col("saving") > 0.0)
    if above.is_empty():
        return note("No owner saves anything.")
    top = above.sort(["saving", "owner"], descending=[True, False]).head(_TOP)
    ranked = top.with_row_index("#", 1).with_columns(
        label="owner",
        complete=True,
        apart="venue_sum",
        as_one="joint",
        required="capped",
        share=pl.col("saving") / pl.col("venue_sum"),
    )
    shown = ("#", "owner", "venues", "apart", "as_one", "required", "saving", "share")
    parts = (("required", REQUIREMENT), ("saving", OFFSET))
    drawn = bar_chart(view, ranked, f"owners-{name}", parts)
    return f'<div class="halves">{table(ranked.select(shown))}{drawn}</div>'
