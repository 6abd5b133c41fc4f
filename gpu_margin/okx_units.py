"""What one unit of an instrument gains in the stress tests of OKX's portfolio margin: on the host.

A risk unit is a coin with all contracts on it, whatever they settle in. Its price moves in steps,
each with volatility up, same and down; then further, by its extreme move, with volatility the same.
Contracts without an option gain by the index, in USD also where they settle in the coin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_margin.crypto_book import COIN, FUTURE, OPTION, PERPETUAL, CryptoMarket, Floats, Ints
from gpu_margin.crypto_shocks import DAY, YEAR, option_value
from gpu_margin.pricing import black76_delta

VOLATILITIES = ("up", "same", "down")
# Cells of the stress test: 7 prices x 3 volatilities, and two extreme moves.
PRICES, EXTREMES = 7, 2
STRESS = PRICES * len(VOLATILITIES)
CELLS = STRESS + EXTREMES
# Further columns of a unit: what a day's passing gains, delta in coins, and coins themselves.
THETA, DELTA, SPOT = range(CELLS, CELLS + 3)


@dataclass(frozen=True)
class Steps:
    """Of a risk unit: `moves` of its price upwards, smallest first, and its `extreme` move."""

    moves: tuple[float, float, float]
    extreme: float

    @property
    def prices(self) -> Floats:
        """[cell] by what share the price moves."""
        up = np.array(self.moves)
        stress = np.repeat(np.concatenate([-up[::-1], [0.0], up]), len(VOLATILITIES))
        return np.concatenate([stress, [self.extreme, -self.extreme]])

    def names(self, unit: str) -> list[str]:
        """Of the cells."""
        moved = [f"{unit} spot {100 * move:+g}%" for move in self.prices]
        stress = [
            f"{name} vol {VOLATILITIES[place % len(VOLATILITIES)]}"
            for place, name in enumerate(moved[:STRESS])
        ]
        return stress + [f"{name} extreme" for name in moved[STRESS:]]


@dataclass(frozen=True)
class Shock:
    """How far volatilities move up to a tenor: by points or a share of them, whichever is more."""

    days: float
    points: float
    share: float


def spot_gains(market: CryptoMarket, steps: Sequence[Steps]) -> Floats:
    """[underlying, cell] what one coin gains."""
    prices = np.array([one.prices for one in steps]).reshape(-1, CELLS)
    return np.asarray(market.spot[:, None] * prices)


def unit_gains(market: CryptoMarket, steps: Sequence[Steps], shocks: Sequence[Shock]) -> Floats:
    """[instrument, cell and then THETA, DELTA and SPOT] of one unit.

    A coin has nothing in the cells: how much of it hedges its contracts is for the set to say.
    """
    i, found = market.instruments, np.zeros((len(market.instruments), CELLS + 3))
    found[:, SPOT] = i.kind == COIN
    linear = (i.kind == PERPETUAL) | (i.kind == FUTURE)
    found[linear, :CELLS] = spot_gains(market, steps)[i.underlying[linear]]
    found[linear, DELTA] = 1.0
    option = np.flatnonzero(i.kind == OPTION)
    if len(option) and shocks:
        found[option, :SPOT] = _options(market, steps, shocks, option)
    return found


def _options(
    market: CryptoMarket, steps: Sequence[Steps], shocks: Sequence[Shock], chosen: Ints
) -> Floats:
    i, expiries = market.instruments, market.expiries
    at = i.expiry[chosen]
    forward, seconds = (expiries.forward + expiries.fixed)[at], expiries.seconds[at]
    strike, volatility, call = i.strike[chosen], i.volatility[chosen], i.call[chosen]
    prices = np.array([one.prices for one in steps])[i.underlying[chosen]]
    shift = np.zeros_like(prices)
    moved = _moved(volatility, seconds, shocks)
    for place, sign in enumerate((1.0, 0.0, -1.0)):
        shift[:, place : STRESS : len(VOLATILITIES)] = sign * moved[:, None]

    def value(shocked: Floats, sigma: Floats, left: Floats) -> Floats:
        return option_value(shocked, strike[:, None], sigma, left[:, None] / YEAR, call[:, None])

    now = value(forward[:, None], volatility[:, None], seconds)
    shocked = np.maximum(volatility[:, None] + shift, 0.0)
    then = value(forward[:, None] * np.maximum(1.0 + prices, 0.0), shocked, seconds)
    later = value(forward[:, None], volatility[:, None], np.maximum(seconds - DAY, 0.0))
    delta = black76_delta(forward, strike, volatility, seconds / YEAR, 0.0, call)
    return np.concatenate([then - now, later - now, delta[:, None]], axis=1)


def _moved(volatility: Floats, seconds: Floats, shocks: Sequence[Shock]) -> Floats:
    """[option] by how much its volatility moves; longer tenors than the last move like it."""
    ordered = sorted(shocks, key=lambda one: one.days)
    days = np.array([one.days for one in ordered])
    row = np.minimum(np.searchsorted(days, seconds / DAY), len(ordered) - 1)
    points = np.array([one.points for one in ordered])[row]
    share = np.array([one.share for one in ordered])[row]
    return np.asarray(np.maximum(points, share * volatility))


def marks(market: CryptoMarket) -> Floats:
    """[instrument] mark of one unit; of an option without one, what Black-76 says."""
    i, expiries = market.instruments, market.expiries
    option = np.flatnonzero((i.kind == OPTION) & ~np.isfinite(i.price))
    at, price = i.expiry[option], i.price.copy()
    price[option] = option_value(
        (expiries.forward + expiries.fixed)[at],
        i.strike[option],
        i.volatility[option],
        expiries.seconds[at] / YEAR,
        i.call[option],
    )
    return price


def dollars(market: CryptoMarket) -> Floats:
    """[instrument] what turns a delta in coins into USD: a contract's mark, an option's forward."""
    i, expiries = market.instruments, market.expiries
    forward = np.append(expiries.forward + expiries.fixed, 0.0)[i.expiry]
    return np.where(i.kind == OPTION, forward, i.price)
