"""Books without a direction: what risk is left when the deltas cancel."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import pricing
from gpu_margin.market import Market
from gpu_margin.portfolio import add_up

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A book is delta-neutral where no factor's net exposure is more than this share of its gross one.
NEUTRAL = 0.01
# A move of the factor, and of the volatility per year, that greeks are stated for.
_MOVE, _POINT = 0.01, 0.01


@dataclass(frozen=True)
class Neutral:
    """The residual risk of a delta-neutral book, money in margin currency.

    `greeks` (factor, net_exposure, gross_exposure, gamma, vega): gamma is what the net exposure
    gains when the factor rises by 1% (from options), vega what the book gains when volatility rises
    by one point. `basis` (factor, kind, expiry, net_exposure): what offsets what. `requirement` is
    that of the book, `uncorrelated` the root of the sum of squares of its factors' own: the
    difference is what correlation between factors does.
    """

    greeks: pl.DataFrame
    basis: pl.DataFrame
    requirement: float
    uncorrelated: float


def neutral(
    market: Market,
    listing: pl.DataFrame,
    columns: Ints,
    quantity: Floats,
    required: Callable[[Floats], float],
) -> Neutral | None:
    """The residual risk of positions [column], or None where they are not delta-neutral.

    `listing` (kind, expiry) is by code of instrument; `required` says what positions require.
    """
    factor = market.instruments.factor[columns]
    exposure = quantity * pricing.unit_exposure(market.instruments)[columns]
    count = len(market.history.factors)
    net, gross = add_up(factor, exposure, count), add_up(factor, np.abs(exposure), count)
    if not gross.any() or np.any(np.abs(net) > NEUTRAL * gross):
        return None
    gamma, vega = _greeks(market, columns)
    held = np.unique(factor)
    names = pl.Series(market.history.factors)
    alone = [required(np.where(factor == one, quantity, 0.0)) for one in held]
    return Neutral(
        greeks=pl.DataFrame(
            {
                "factor": names.gather(held),
                "net_exposure": net[held],
                "gross_exposure": gross[held],
                "gamma": add_up(factor, quantity * gamma, count)[held],
                "vega": add_up(factor, quantity * vega, count)[held],
            }
        ),
        basis=_basis(names.gather(factor), listing[columns], exposure),
        requirement=required(quantity),
        uncorrelated=math.sqrt(math.fsum(amount * amount for amount in alone)),
    )


def _greeks(market: Market, columns: Ints) -> tuple[Floats, Floats]:
    """[column] gamma and vega of one contract, by central differences; 0 for linear ones."""
    i = market.instruments
    gamma, vega = np.zeros((2, len(columns)))
    places = np.flatnonzero(i.option[columns])
    codes = columns[places]
    terms = (i.level, i.strike, i.volatility, i.time, i.rate, i.call)
    forward, strike, volatility, *rest = (term[codes] for term in terms)

    def delta(move: float) -> Floats:
        return pricing.black76_delta(forward * (1.0 + move), strike, volatility, *rest)

    low, high = np.maximum(volatility - _POINT / 2.0, 0.0), volatility + _POINT / 2.0
    gain = pricing.black76(forward, strike, high, *rest) - pricing.black76(
        forward, strike, low, *rest
    )
    gamma[places] = i.scale[codes] * forward * (delta(_MOVE) - delta(-_MOVE)) / 2.0
    vega[places] = i.scale[codes] * gain * (_POINT / (high - low))
    return gamma, vega


def _basis(factor: pl.Series, listing: pl.DataFrame, exposure: Floats) -> pl.DataFrame:
    """Net exposures by factor, kind and expiry."""
    keys = ["factor", "kind", "expiry"]
    frame = listing.select("kind", "expiry").with_columns(
        factor.alias("factor"), pl.Series("net_exposure", exposure)
    )
    return (
        frame.group_by(keys, maintain_order=True)
        .agg(pl.col("net_exposure").sum())
        .select(*keys, "net_exposure")
        .sort(keys, nulls_last=True)
    )
