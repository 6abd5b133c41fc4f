"""SIMM in a terminal: totals, the levels of one portfolio, and what was asked beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
from rich.markup import escape

from gpu_margin import console
from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm.result import ADDITIONAL, ALL
from gpu_margin.simm_comparison import largest_first
from gpu_margin.simm_run import Comparison, SimmRun

_SHOWN = 20
_FEW = 10
_ALL_PORTFOLIOS = "all portfolios"
_NAMES = {"change_percent": "change %"}
_FORMATS = {"change": "+,.2f", "incremental_margin": "+,.2f", "change_percent": "+.2f"}
_SIDES = ("Call", "Post")
_FIGURES = (*_SIDES, "before", "after", "change", "incremental_margin")

_Level = tuple[str, str, str]


def show(run: SimmRun) -> None:
    """Totals or, of one portfolio, its levels; then what was asked for; then what failed."""
    if run.totals.is_empty():
        console.show_failure_kinds(run.failures)
        return
    title = f"SIMM {run.version}, {run.horizon}, {run.currency}"
    if run.totals["portfolio_id"].n_unique() == 1:
        _show_portfolio(run, title)
    else:
        _show_totals(run, title)
    if run.changes is not None and run.trades is not None:
        _show_trades(run.changes, run.trades)
    if run.comparison is not None:
        _show_comparison(run.comparison)
    if run.contributions is not None and run.trade_contributions is not None:
        _show_contributions(run.contributions, run.trade_contributions)
    console.show_failure_kinds(run.failures)


def _show_totals(run: SimmRun, title: str) -> None:
    """A line per portfolio, the largest margins first, and their sum."""
    wide = _by_side(run.totals, ["portfolio_id"], "initial_margin").join(
        _notes(run.totals), on="portfolio_id"
    )
    sides = [name for name in _SIDES if name in wide.columns]
    wide = wide.sort(pl.max_horizontal(sides), descending=True, nulls_last=True)
    rest = len(wide) - _SHOWN
    total = wide.select(
        pl.lit(_ALL_PORTFOLIOS).alias("portfolio_id"),
        *(pl.col(name).sum() for name in sides),
        pl.lit("").alias("regulation"),
        pl.lit("").alias("note"),
    )
    rows = pl.concat([wide.head(_SHOWN), total]).rename({"portfolio_id": "portfolio"})
    _print(title, rows.select(name for name in rows.columns if _says(rows, name)))
    if rest > 0:
        console.say(f"{rest:,} more portfolios with smaller margins; --out or --json has all")


def _notes(totals: pl.DataFrame) -> pl.DataFrame:
    """Of each portfolio the regulations that count, and whether rows of it failed."""
    note = pl.when(~pl.col("complete").all()).then(pl.lit("incomplete")).otherwise(pl.lit(""))
    names = pl.col("regulation").unique(maintain_order=True).str.join(" / ")
    grouped = totals.group_by("portfolio_id", maintain_order=True)
    return grouped.agg(names.alias("regulation"), note.alias("note"))


def _says(rows: pl.DataFrame, name: str) -> bool:
    return name not in ("regulation", "note") or bool((rows[name] != "").any())


def _show_portfolio(run: SimmRun, title: str) -> None:
    """A portfolio's levels as a tree: product class, risk class, margin type."""
    figures: dict[_Level, dict[str, float | None]] = {}
    for row in run.levels.iter_rows(named=True):
        level = (row["product_class"], row["risk_class"], row["margin_type"])
        figures.setdefault(level, {})[row["side"]] = row["initial_margin"]
    sides = run.totals["side"].to_list()
    lines = [
        (name, *(figures[level].get(side, 0.0) for side in sides)) for name, level in _tree(figures)
    ]
    table = pl.DataFrame(lines, schema=["level", *sides], orient="row")
    _print(f"{title}: portfolio {run.totals['portfolio_id'][0]}", table)
    notes = _notes(run.totals).row(0, named=True)
    if notes["regulation"].strip(" /"):
        console.say(f"Regulation: {notes['regulation']}")
    if notes["note"]:
        console.say("Incomplete: some of its rows failed")


def _tree(figures: dict[_Level, Any]) -> Iterator[tuple[str, _Level]]:
    """The levels from the total down, with their names, indented."""
    yield "total", (ALL, ALL, ALL)
    for product in dict.fromkeys(level[0] for level in figures if level[0] != ALL):
        own = [level for level in figures if level[0] == product]
        yield f"  {product}", (product, ALL, ALL)
        for risk in dict.fromkeys(level[1] for level in own if level[1] != ALL):
            yield f"    {risk}", (product, risk, ALL)
            for level in own:
                if level[1] == risk and level[2] != ALL:
                    yield f"      {level[2]}", level
        if (product, ALL, ADDITIONAL) in own and product in PRODUCT_CLASSES:
            yield f"    {ADDITIONAL}", (product, ALL, ADDITIONAL)


def _show_trades(changes: pl.DataFrame, trades: pl.DataFrame) -> None:
    """What the trades change together, then each by itself; the largest changes first."""
    moved = largest_first(changes.filter(pl.col("change") != 0.0))
    _top("What if: all trades together", moved.drop("complete"), _SHOWN)
    ranked = largest_first(trades, "incremental_margin")
    _top("What if: each trade by itself", ranked.drop("complete"), _SHOWN)


def _show_comparison(compared: Comparison) -> None:
    """Totals, then margin types; the largest changes first."""
    title = f"From {compared.before} to {compared.after}, {compared.currency}"
    columns = ("portfolio_id", "side", "before", "after", "change", "change_percent")
    _top(title, compared.totals.select(columns), _SHOWN)
    single = pl.all_horizontal(pl.col(name) != ALL for name in ("product_class", "risk_class"))
    types = compared.levels.filter(single & (pl.col("margin_type") != ALL))
    moved = largest_first(types.filter(pl.col("change") != 0.0))
    _top(f"{title}: by margin type", moved, _FEW)


def _show_contributions(factors: pl.DataFrame, trades: pl.DataFrame) -> None:
    """The largest of either kind, the sides beside each other."""
    parts = trades.with_columns(pl.col("part").replace("SIMM", ""))
    if factors.is_empty():
        return
    for title, table in (("risk factors", factors.drop("risk_class")), ("trades", parts)):
        keys = [name for name in table.columns if name not in ("side", "contribution")]
        wide = _by_side(table, keys, "contribution").fill_null(0.0)
        size = pl.max_horizontal(pl.col(name).abs() for name in _SIDES if name in wide.columns)
        ranked = wide.sort(size, descending=True, maintain_order=True)
        _top(f"Contributions of {title}", ranked, _FEW)


def _top(title: str, table: pl.DataFrame, most: int) -> None:
    """The first rows, and how many more there are."""
    blank = [n for n, kind in table.schema.items() if kind == pl.String and (table[n] == "").all()]
    shown = table.head(most).drop(blank if len(table) else [])
    _print(title, shown.rename({"portfolio_id": "portfolio"}))
    if len(table) > most:
        console.say(f"{len(table) - most:,} more with smaller figures; --out or --json has all")


def _by_side(table: pl.DataFrame, keys: list[str], figure: str) -> pl.DataFrame:
    """A row per key, a column per side."""
    return table.pivot("side", index=keys, values=figure)


def _print(title: str, frame: pl.DataFrame) -> None:
    console.show_frame(title, frame, _heading, _cell)


def _heading(name: str) -> str:
    return _NAMES.get(name) or name.removesuffix("_id").replace("_", " ").lower()


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "unknown" if name in _FIGURES else ""
    if isinstance(value, float):
        return f"{value:{_FORMATS.get(name, ',.2f')}}"
    return escape(str(value))
