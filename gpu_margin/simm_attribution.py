"""Where SIMM comes from: the contributions of risk factors and of trades to each total.

Add-ons and Schedule IM are of no sensitivity: they stand for themselves, so that the contributions
of a portfolio and side add up to its total.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.models.simm import slopes_tables
from gpu_margin.models.simm.calculation import SimmResult
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.models.simm.netting import CLASSES, Netted
from gpu_margin.models.simm.result import ADDITIONAL, ALL, FIXED_AMOUNT, NOTIONAL_FACTOR, SCHEDULE
from gpu_margin.models.simm.segments import Device
from gpu_margin.models.simm.slopes import contributions, slopes

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SIMM = "SIMM"
FACTOR_COLUMNS = (
    *("portfolio_id", "side", "product_class", "risk_class", "margin_type", "bucket"),
    *("risk_type", "qualifier", "label1", "label2", "contribution"),
)
TRADE_COLUMNS = ("portfolio_id", "side", "part", "trade_id", "contribution")


def attributed(result: SimmResult, backend: Backend) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Contributions in USD to the winning totals, by risk factor and by trade.

    `result` is traced. The first table has `FACTOR_COLUMNS`, the second `TRADE_COLUMNS`; `part` is
    SIMM, or what no trade is known to cause: AddOnNotionalFactor, AddOnFixedAmount, Schedule. In
    order of portfolio, side and what follows in the columns, by the codes of the version.
    """
    counted = result.netted.entry >= 0
    netted = Netted(result.netted.streams, result.netted.entry[counted])
    levels = [side.levels for side in result.sides]
    device, multiplier = Device(backend), result.sides[0].multiplier
    parts = slopes(device, netted, result.factors, result.rules, levels, multiplier)
    chosen = _chosen(result)
    by_factor = slopes_tables.contribution_table(
        netted,
        contributions(netted, parts),
        result.factors,
        result.crif.factors,
        chosen,
        slopes_tables.BY_FACTOR,
    )
    rows = _rows(result, counted)
    by_trade = slopes_tables.trade_table(netted, parts, rows, result.crif.trades, chosen)
    rest = _rest(result)
    factors = pl.concat([_of_portfolios(result, by_factor), rest], how="diagonal")
    others = rest.rename({"product_class": "part"})
    simm = _of_portfolios(result, by_trade).with_columns(pl.lit(SIMM).alias("part"))
    trades = pl.concat([simm, others], how="diagonal")
    return _ordered(factors, FACTOR_COLUMNS), _ordered(trades, TRADE_COLUMNS)


def _chosen(result: SimmResult) -> Bools:
    """[calculation, side] whether it is the winning one of its portfolio."""
    chosen = np.zeros((len(result.calculations), len(SIDES)), dtype=np.bool_)
    for place in result.parameters.places:
        winning = result.winners.total[:, place]
        chosen[winning[winning >= 0], place] = True
    return chosen


def _rows(result: SimmResult, counted: Bools) -> tuple[Ints, Ints, Floats]:
    """Group, trade and amount of the rows that were netted."""
    crif, groups = result.crif, result.calculations
    row = groups.rows()[counted]
    group = groups.calculation[counted].astype(np.int64) * CLASSES + crif.product_class[row]
    return group, crif.trade[row].astype(np.int64), crif.amount[row]


def _of_portfolios(result: SimmResult, table: pl.DataFrame) -> pl.DataFrame:
    """With the portfolio, and its place, for its calculation."""
    place = pl.Series("place", result.calculations.portfolio[table["calculation"].to_numpy()])
    ids = result.crif.portfolios.gather(place).alias("portfolio_id")
    return table.drop("calculation").with_columns(ids, place.cast(pl.Int64))


def _rest(result: SimmResult) -> pl.DataFrame:
    """Add-ons and Schedule IM of the winning calculations, where there are any."""
    tables = []
    for side in result.parameters.places:
        margin, winning = result.sides[side], result.winners.total[:, side].astype(np.int64)
        for name, kind, every in (
            (NOTIONAL_FACTOR, ADDITIONAL, margin.notional),
            (FIXED_AMOUNT, ADDITIONAL, margin.fixed),
            (SCHEDULE, ALL, margin.schedule),
        ):
            # A side without a calculation has place -1.
            amount = np.append(every, 0.0)[winning]
            own = np.flatnonzero(amount)
            constants = {"side": SIDES[side], "product_class": name, "risk_class": ALL}
            tables.append(
                pl.DataFrame(
                    {
                        "portfolio_id": result.crif.portfolios.gather(own),
                        "place": pl.Series(own, dtype=pl.Int64),
                        "contribution": pl.Series(amount[own], dtype=pl.Float64),
                    }
                ).with_columns(
                    *(pl.lit(value).alias(column) for column, value in constants.items()),
                    pl.lit(kind).alias("margin_type"),
                    pl.lit(ALL).alias("bucket"),
                )
            )
    return pl.concat(tables)


def _ordered(table: pl.DataFrame, columns: tuple[str, ...]) -> pl.DataFrame:
    """By portfolio and side; within, as the rows stand."""
    order = table.sort("place", pl.col("side").cast(pl.Enum(SIDES)), maintain_order=True)
    texts = [name for name in columns if name != "contribution"]
    return order.select(columns).with_columns(pl.col(texts).fill_null(""))
