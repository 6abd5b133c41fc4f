"""SPAN margin in a terminal: contracts, totals, one account by commodity, spreads, what-ifs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
from rich.markup import escape

from gpu_margin import console
from gpu_margin.span_run import Contracts, SpanRun
from gpu_margin.span_whatif import WhatIfs

_SHOWN = 20
_NAMES = {
    "combined_commodity": "commodity",
    "active_scenario": "active",
    "intra_spread_charge": "intra charge",
    "delivery_charge": "delivery",
    "inter_spread_credit": "inter credit",
    "short_option_minimum": "short options",
    "net_option_value": "option value",
    "sum_alone": "sum of positions alone",
    "requirement": "required",
}
_FORMATS = {"change": "+,.2f", "times": ".2f", "delta": ".4f"}
# Shown as they are written, whatever their size.
_PLAIN = ("strike", "price", "multiplier", "quantity", "count")


def show_contracts(found: Contracts) -> None:
    """The first contracts, how many more there are, and what cannot be margined."""
    _top(f"Contracts, {_told(found.facts)}", found.contracts)
    console.show_failure_kinds(found.failures)


def show_margins(run: SpanRun, account: bool) -> None:
    """A line per account, the largest requirement first; of one account its commodities."""
    facts = run.manifest["facts"]
    title = f"SPAN {run.level} margin, {_told(facts)}"
    note = pl.when("complete").then(pl.lit("")).otherwise(pl.lit("incomplete")).alias("note")
    rows = run.totals.with_columns(note).drop("complete")
    if run.alone is not None:
        more = run.alone.select("account_id", "currency", "sum_alone", "times")
        rows = rows.join(
            more, on=["account_id", "currency"], how="left", nulls_equal=True, maintain_order="left"
        ).select(pl.exclude("note"), "note")
    _top(title, rows.sort("requirement", descending=True, nulls_last=True, maintain_order=True))
    if account or run.totals["account_id"].n_unique() == 1:
        _all("By combined commodity", run.margins.drop("account_id"))
    if run.formed is not None:
        _some("Spreads formed: charges, and credits below zero", run.formed, account)
    if run.positions is not None:
        _some("Position by position", run.positions, account)
    console.show_failure_kinds(run.failures)


def show_whatifs(found: WhatIfs) -> None:
    """A line per what-if and account, in the order in which they were asked."""
    after = pl.col("after").is_null()
    note = pl.when(after).then(pl.lit("failed")).when(~pl.col("complete"))
    rows = found.whatifs.with_columns(
        note.then(pl.lit("incomplete")).otherwise(pl.lit("")).alias("note")
    ).drop("complete")
    level, facts = found.manifest["level"], found.manifest["facts"]
    _top(f"What if, SPAN {level} margin, {_told(facts)}", rows.rename({"whatif_id": "what-if"}))
    console.show_failure_kinds(found.failures)


def _told(facts: Mapping[str, str]) -> str:
    """Whose file of which day it is."""
    return " ".join(facts[key] for key in ("clearing", "date") if facts.get(key)) or "file"


def _some(title: str, table: pl.DataFrame, account: bool) -> None:
    (_all if account else _top)(title, table)


def _all(title: str, table: pl.DataFrame) -> None:
    _top(title, table, len(table))


def _top(title: str, table: pl.DataFrame, most: int = _SHOWN) -> None:
    """The first rows without columns that say nothing, and how many more there are."""
    shown = table.head(most)
    blank = [
        name
        for name, kind in shown.schema.items()
        if (kind == pl.String and shown[name].fill_null("").eq("").all())
        or (len(shown) and shown[name].is_null().all())
    ]
    console.show_frame(title, shown.drop(blank), _heading, _cell)
    if len(table) > most:
        console.say(f"{len(table) - most:,} more; --out or --json has all")


def _heading(name: str) -> str:
    return _NAMES.get(name) or name.removesuffix("_id").replace("_", " ")


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.10g}" if name in _PLAIN else f"{value:{_FORMATS.get(name, ',.2f')}}"
    return escape(str(value))
