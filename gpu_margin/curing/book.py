"""What may be traded for an account, and on which terms: reductions, and hedges where wanted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import pricing
from gpu_margin.curing.programme import Book
from gpu_margin.io.cost_tables import LoadedCosts
from gpu_margin.market import Instruments

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# The finest lot that is guessed from what is held, as a power of ten.
_FINEST = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Prices:
    """Per instrument, one contract at its mark in margin currency: `value`, and what it costs.

    `cash` is what a buyer pays: the value of spot and options, 0 for futures and perpetuals.
    """

    value: Floats
    cash: Floats


def prices(instruments: Instruments, spot: Bools) -> Prices:
    """Prices of all instruments; `spot` [instrument] are those that are paid in full."""
    i = instruments
    value = i.scale * i.level
    chosen = i.option
    terms = (i.level, i.strike, i.volatility, i.time, i.rate, i.call)
    value[chosen] = i.scale[chosen] * pricing.black76(*(term[chosen] for term in terms))
    return Prices(value, np.where(spot | chosen, value, 0.0))


@dataclass(frozen=True)
class Terms:
    """Terms of trading [instrument]; `tradable` may go beyond what is held, `refused` not move."""

    cost: Floats
    lot: Floats
    limit: Floats
    listed: Bools
    tradable: Bools
    refused: Bools


def terms_of(market: Prices, costs: LoadedCosts | None) -> Terms:
    """The terms of the cost table over the defaults.

    By default a contract costs its value, a lot is not said (NaN), there is no limit, and only
    positions that are held may be reduced. Listed instruments may be traded unless the table says
    that they are not tradable; those whose rows failed may not.
    """
    count = len(market.value)
    cost, lot, limit = np.abs(market.value), np.full(count, np.nan), np.full(count, np.inf)
    listed, tradable, refused = (np.zeros(count, dtype=np.bool_) for _ in range(3))
    if costs is not None:
        table = costs.terms
        code = table["code"].to_numpy()
        cost[code] = table["cost"].to_numpy()
        lot[code] = table["lot"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        limit[code] = table["limit"].cast(pl.Float64).fill_null(np.inf).to_numpy()
        listed[code] = True
        tradable[code] = table["tradable"].fill_null(False).to_numpy()
        refused[code] = (~table["tradable"].fill_null(True)).to_numpy()
        refused[costs.refused.to_numpy()] = True
    return Terms(cost, lot, limit, listed, tradable, refused)


def book_of(
    columns: Ints,
    quantity: Floats,
    market: Prices,
    terms: Terms,
    hedges: Bools,
    value: float,
    target: float,
) -> Book:
    """The book of positions `quantity` [column] in `columns`, with collateral `value`.

    A held position may be reduced to 0; instruments in `hedges` [instrument] and tradable ones may
    go either way, up to their limits. What is not held and listed is a hedge.
    """
    free = (hedges | terms.tradable)[columns] | (terms.listed[columns] & (quantity == 0.0))
    limit = terms.limit[columns]
    lower = np.where(free, -limit, np.minimum(quantity, 0.0))
    upper = np.where(free, limit, np.maximum(quantity, 0.0))
    fixed = terms.refused[columns]
    given = terms.lot[columns]
    return Book(
        quantity=quantity,
        cost=terms.cost[columns],
        cash=market.cash[columns],
        lot=np.where(np.isnan(given), default_lot(quantity), given),
        lower=np.where(fixed, quantity, lower),
        upper=np.where(fixed, quantity, upper),
        value=value,
        target=target,
    )


def default_lot(quantity: Floats) -> Floats:
    """1 where whole contracts are held, else the largest of 0.1, 0.01, ... that divides them."""
    lot = np.ones(len(quantity))
    for power in range(_FINEST):
        lots = quantity * 10.0**power
        odd = np.abs(lots - np.rint(lots)) > _ROUNDING * np.maximum(1.0, np.abs(lots))
        lot = np.where(odd, 10.0 ** -(power + 1), lot)
    return lot
