"""Crypto venues in a terminal: margins, one account's components, what-ifs, liquidation prices."""

from __future__ import annotations

import textwrap
from typing import Any

import polars as pl
from rich.markup import escape

from gpu_margin import console
from gpu_margin.crypto_liquidation import Liquidation
from gpu_margin.crypto_run import CryptoRun
from gpu_margin.crypto_whatif import WhatIfs

_SHOWN = 20
_NAMES = {"change_percent": "change %"}
_FORMATS = {
    "change": "+,.2f",
    "margin_value_change": "+,.2f",
    "change_percent": "+.2f",
    "utilisation": ".1%",
    "auction_share": ".1%",
    "within": ".1e",
}
_LEVELS = ("initial", "maintenance")


def show_margins(run: CryptoRun, account: bool) -> None:
    """A line per netting set, those nearest to liquidation first; an account's with components."""
    if len(run.margins):
        title = f"Margin, {run.rulebook}, {run.currency}, {_when(run.manifest)}"
        _top(title, _wide(run.margins))
    if account:
        _show_components(run)
    console.show_failure_kinds(run.failures)


def _wide(margins: pl.DataFrame) -> pl.DataFrame:
    """A row per set: what it owns, both requirements, then both margin values."""
    keys = ["account_id", "netting_set"]
    named = {"requirement": "{}", "margin_value": "value, {}"}
    first = margins.unique(keys, keep="first", maintain_order=True)
    equity = (pl.col("mark_to_market") + pl.col("cash")).alias("equity")
    table = first.select(*keys, "market", equity)
    last = first.select(*keys, "worst_scenario", _note(pl.col("complete")))
    for figure, name in named.items():
        for level in _LEVELS:
            own = margins.filter(pl.col("level") == level)
            column = own.select(*keys, pl.col(figure).alias(name.format(level)))
            table = table.join(column, on=keys, how="left", maintain_order="left")
    table = table.join(last, on=keys, how="left", maintain_order="left")
    return table.sort("value, maintenance", nulls_last=True, maintain_order=True)


def _note(complete: pl.Expr) -> pl.Expr:
    return pl.when(complete).then(pl.lit("")).otherwise(pl.lit("incomplete")).alias("note")


def _show_components(run: CryptoRun) -> None:
    """What the requirements are made of, the levels beside each other; then further figures."""
    if len(run.components):
        index = ["netting_set", "component"]
        wide = run.components.pivot("level", index=index, values="amount").fill_null(0.0)
        levels = [name for name in _LEVELS if name in wide.columns]
        some = pl.any_horizontal(pl.col(name) != 0.0 for name in levels)
        total = wide.group_by("netting_set", maintain_order=True).agg(pl.col(levels).sum())
        total = total.with_columns(pl.lit("requirement").alias("component")).select(wide.columns)
        rows = pl.concat([wide.filter(some), total])
        order = rows["netting_set"].unique(maintain_order=True).to_list()
        place = pl.col("netting_set").replace_strict(
            order, list(range(len(order))), return_dtype=pl.Int64
        )
        _print("Components", rows.sort(place, maintain_order=True))
    if len(run.figures):
        told = run.figures.filter(pl.col("amount").is_not_null() & (pl.col("amount") != 0.0))
        _print("Further figures", told.drop("account_id"))
    if run.scenarios is not None and len(run.scenarios):
        wide = run.scenarios.pivot("netting_set", index="scenario", values="pnl")
        _print("Profit in each scenario, by netting set", wide)


def show_whatifs(found: WhatIfs) -> None:
    """A line per what-if and level, in the order in which they were asked."""
    rulebook, currency = (found.manifest.get(key, "") for key in ("rulebook", "currency"))
    columns = [
        *("whatif_id", "account_id", "netting_set", "level", "before", "after", "change"),
        *("margin_value_before", "margin_value", "worst_scenario", "complete"),
    ]
    table = found.whatifs.select(columns).with_columns(_note(pl.col("complete"))).drop("complete")
    rows = table.with_columns(
        pl.when(pl.col("after").is_null()).then(pl.lit("failed")).otherwise("note").alias("note")
    )
    title = f"What if, {rulebook}, {currency}, {_when(found.manifest)}"
    _top(title, _short(rows), 2 * _SHOWN)
    console.show_failure_kinds(found.failures)


def _short(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.rename({"whatif_id": "what-if", "margin_value_before": "value before"}).rename(
        {"margin_value": "value after"}
    )


def show_liquidation(found: Liquidation, account: bool) -> None:
    """How far sets are from liquidation, then the nearest prices; of one account all prices."""
    rulebook, currency = (found.manifest.get(key, "") for key in ("rulebook", "currency"))
    distance = found.distance.sort("utilisation", descending=True, nulls_last=True)
    late = distance.sort(pl.col("status") == "ok", maintain_order=True)
    rows = late.with_columns(_note(pl.col("complete"))).drop("complete")
    if rows["auction_share"].fill_null(0.0).eq(0.0).all():
        rows = rows.drop("auction_share")
    title = f"Distance to liquidation, {rulebook}, {currency}, {_when(found.manifest)}"
    if len(rows):
        _top(title, rows)
    if len(found.nearest):
        away = pl.min_horizontal(
            1.0 - pl.col("below") / pl.col("spot"), pl.col("above") / pl.col("spot") - 1.0
        )
        near = found.nearest.sort(away, nulls_last=True, maintain_order=True)
        _top(f"Nearest liquidation prices, {currency}", near)
    if account and len(found.prices):
        _top(f"All liquidation prices, {currency}", found.prices)
    console.show_failure_kinds(found.failures)


def show_rulebooks(rows: list[dict[str, Any]]) -> None:
    """Rulebooks and the tables that they can take their numbers from."""
    names = ("rulebook", "table", "date")
    _print("Rulebooks of crypto venues", pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String)))
    sources = dict.fromkeys(row["source"] for row in rows)
    for source in sources:
        own = [f"{row['rulebook']} {row['table']}" for row in rows if row["source"] == source]
        console.say(f"{', '.join(own)}:")
        console.say(textwrap.fill(source, 98, initial_indent="  ", subsequent_indent="  "))


def _when(manifest: dict[str, Any]) -> str:
    return str(manifest.get("time", "")).replace("T", " ").replace("+00:00", " UTC")


def _top(title: str, table: pl.DataFrame, most: int = _SHOWN) -> None:
    """The first rows without columns that say nothing, and how many more there are."""
    shown = table.head(most)
    if "netting_set" in shown.columns and (shown["netting_set"] == shown["account_id"]).all():
        shown = shown.drop("netting_set")
    blank = [
        name
        for name, kind in shown.schema.items()
        if kind == pl.String and shown[name].fill_null("").eq("").all()
    ]
    _print(title, shown.drop(blank))
    if len(table) > most:
        console.say(f"{len(table) - most:,} more; --out or --json has all")


def _print(title: str, frame: pl.DataFrame) -> None:
    console.show_frame(title, frame, _heading, _cell)


def _heading(name: str) -> str:
    return _NAMES.get(name) or name.removesuffix("_id").replace("_", " ").lower()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:{_FORMATS.get(name, ',.2f')}}"
    return escape(str(value))
