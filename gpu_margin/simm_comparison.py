"""Two versions of SIMM side by side: what a change of version does to every level of margin."""

from __future__ import annotations

import polars as pl

from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm.kinds import MARGIN_TYPES, RISK_CLASSES, SIDES
from gpu_margin.models.simm.result import ADDITIONAL, ALL, FIXED_AMOUNT, NOTIONAL_FACTOR, SCHEDULE

LEVEL = ("portfolio_id", "side", "product_class", "risk_class", "margin_type")
# The order of the levels is that of the long table.
_ORDERS = {
    "side": SIDES,
    "product_class": (*PRODUCT_CLASSES, NOTIONAL_FACTOR, FIXED_AMOUNT, SCHEDULE, ALL),
    "risk_class": (*RISK_CLASSES, ALL),
    "margin_type": (*MARGIN_TYPES, ADDITIONAL, ALL),
}
# Portfolios that are compared at a time.
_PORTFOLIOS = 1000


def compared_levels(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Two long tables of the same portfolios as one.

    Columns are those of `LEVEL`, before, after, change, change_percent. A level that
    one of them lacks is 0 there; portfolios whose margin is unknown have none. Rows are in order of
    portfolio (by bytes), side and level.
    """
    ids = before["portfolio_id"].unique(maintain_order=True)
    parts = [
        _compared(*(_of(table, ids[start : start + _PORTFOLIOS]) for table in (before, after)))
        for start in range(0, max(len(ids), 1), _PORTFOLIOS)
    ]
    return pl.concat(parts)


def _of(table: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """The rows of portfolios that stand together in byte order."""
    if ids.is_empty():
        return table.clear()
    own = table["portfolio_id"]
    first = own.search_sorted(ids[0], side="left")
    return table.slice(first, own.search_sorted(ids[-1], side="right") - first)


def _compared(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    both = _side_by_side(before, after).with_columns(pl.col("before", "after").fill_null(0.0))
    order = [pl.col(name).cast(pl.Enum(names)) for name, names in _ORDERS.items()]
    return _with_change(both.sort(pl.col("portfolio_id"), *order))


def compared_totals(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """Two tables of totals as one (portfolio_id, side, regulation_before, regulation_after,
    before, after, change, change_percent, complete), the largest changes first.

    Of equal changes the first in order of portfolio and side; unknown ones come last.
    """
    keys = ("portfolio_id", "side")
    names = {"regulation": "regulation_before", "complete": "complete_before"}
    others = {"regulation": "regulation_after", "complete": "complete_after"}
    both = before.rename({**names, "initial_margin": "before"}).join(
        after.rename({**others, "initial_margin": "after"}),
        on=keys,
        how="left",
        maintain_order="left",
    )
    table = _with_change(both).with_columns(
        complete=pl.col("complete_before") & pl.col("complete_after")
    )
    columns = (*keys, "regulation_before", "regulation_after")
    figures = ("before", "after", "change", "change_percent", "complete")
    return largest_first(table.select(*columns, *figures))


def largest_first(table: pl.DataFrame, column: str = "change") -> pl.DataFrame:
    """Rows by the size of a figure; of equal ones in the order that they have."""
    size = pl.col(column).abs()
    return table.sort(size, descending=True, nulls_last=True, maintain_order=True)


def _side_by_side(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    left, right = (
        table.drop_nulls("initial_margin").select(*LEVEL, pl.col("initial_margin").alias(name))
        for table, name in ((before, "before"), (after, "after"))
    )
    return left.join(right, on=LEVEL, how="full", coalesce=True)


def _with_change(table: pl.DataFrame) -> pl.DataFrame:
    change = pl.col("after") - pl.col("before")
    share = pl.when(pl.col("before") != 0.0).then(100.0 * change / pl.col("before"))
    return table.with_columns(change=change, change_percent=share)
