"""Risk vectors of Deribit's portfolio margin: what one unit of an instrument gains per scenario.

Figures have the names of `model_params` in the answers of pme/get_params and pme/simulate, so that
these can be used as they are. Source: Deribit's support articles on portfolio margin, and the
answers of private/pme/simulate that are public; the venue rounds a worst case to nine decimals
before it adds, which is not done here.

Those answers hold inverse perpetuals and futures of one currency, below the delta shock's
threshold. Not confirmed by a recorded answer:

- options: shocked by Black-76 on their forward; an inverse one in coins is its value over the
  shocked forward, its net delta is delta less that value (as delta_total of account summaries is);
- linear instruments: quantity x index x move;
- the delta shock: min(max_delta_shock, m_inc x coins of net delta above the threshold), on all of
  the net delta;
- gains: first the share that offsets, then its cap, then the dampener; caps and dampeners in USD
  are coins at the scenario's price, which for the extended table is that of the range's edge;
- a move of the extended table that is smaller than the price range: all of its profit counts, as
  the venue speaks of a fraction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_validator

from gpu_margin.crypto_book import COIN, FUTURE, OPTION, PERPETUAL, CryptoMarket
from gpu_margin.crypto_shocks import YEAR, option_value, tenor_factor
from gpu_margin.pricing import black76_delta
from gpu_margin.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Volatilities of a bucket, in the order of the venue's vectors.
VOLATILITIES = ("down", "same", "up")
# Currencies whose figures are those of "usd" where they have none of their own.
DOLLARS = ("usd", "usdc", "usdt")
# The shortest tenor, in seconds, of a volatility shock: it only keeps the power finite.
_SHORTEST = 1.0

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class General(Settings):
    """Figures of the whole model."""

    mm_factor: Share = Field(description="maintenance margin as a share of the risk matrix margin")
    buckets_count: int = Field(ge=1, le=100, description="buckets of price moves on either side")
    vol_scenarios_count: Literal[3] = Field(default=3, description="volatility down, same, up")
    timestamp: float | None = Field(default=None, description="of the venue's answer; not used")


class Currency(Settings):
    """Figures of a currency."""

    pnl_offset: Share = Field(description="share of a gain that may offset losses")
    max_offsetable_pnl: Size = Field(description="cap of that share, in USD")
    extended_dampener: Size = Field(description="USD, per price range beyond the first")
    min_annualised_move: Size = Field(description="least roll shock, a share of net delta")
    annualised_move_risk: Size = Field(description="roll shock per year to expiry")
    haircut: Share = Field(default=0.0, description="of equity in it, in the initial margin")
    equity_side_impact: str = Field(
        default="both", description="whether its equity moves with the scenarios: both, none"
    )
    correlation_set: bool = Field(default=False, description="not used: its rule is not public")


class Pair(Settings):
    """Figures of a currency pair."""

    price_range: float = Field(gt=0, lt=1, description="largest move of the standard table")
    volatility_range_up: Size = Field(description="relative, at 30 days")
    volatility_range_down: Size = Field(description="relative, at 30 days")
    short_term_vega_power: Size = Field(description="power of 30 days / tenor up to 30 days")
    long_term_vega_power: Size = Field(description="the same beyond 30 days")
    min_volatility_for_shock_up: Size = Field(description="floor of a volatility shocked up")
    extended_table_factor: Size = Field(description="on the extended table's profit and loss")
    m_inc: Size = Field(description="delta shock per coin of delta above the threshold")
    delta_total_liq_shock_threshold: Size = Field(description="delta without shock, in USD")
    max_delta_shock: Size = Field(description="largest delta shock, a share of delta")


class Figures(Settings):
    """A table of Deribit's figures; currencies and pairs are in lower case, as btc and btc_usd."""

    source: str = Field(default="", description="where the figures are from")
    date: str = Field(default="", description="as of when")
    general: General
    currency: Mapping[str, Currency]
    currency_pair: Mapping[str, Pair]
    extended_moves: tuple[float, ...] = Field(description="price moves of the extended table")
    haircut: Mapping[str, Share] = Field(
        default={}, description="of further collateral, in the initial margin"
    )
    correlation_contingency: Share | None = Field(
        default=None,
        description="share of the gains that offset losses of other underlyings in the worst "
        "scenario, which is charged; its own rule is not public, and sets that need it are refused "
        "without this figure",
    )

    @field_validator("extended_moves")
    @classmethod
    def _moves(cls, moves: tuple[float, ...]) -> tuple[float, ...]:
        if not all(np.isfinite(move) and move > -1.0 and move != 0.0 for move in moves):
            raise ValueError("a move of the extended table is not finite, not above -1, or 0")
        return moves

    def of(self, name: str) -> Currency | None:
        """Figures of a currency; those of "usd" for dollar coins without any; None for none."""
        key = name.lower()
        own = self.currency.get(key)
        return self.currency.get("usd") if own is None and key in DOLLARS else own

    def pair(self, base: str) -> Pair | None:
        """Figures of an underlying against USD, whatever it settles in; None for none."""
        return self.currency_pair.get(f"{base.lower()}_usd")

    def collateral_haircut(self, name: str) -> float:
        """Haircut of equity in a coin; NaN where the figures do not know it."""
        further, own = self.haircut.get(name.lower()), self.of(name)
        if further is not None:
            return further
        return np.nan if own is None else own.haircut


@dataclass(frozen=True)
class UnitVectors:
    """What one unit of each instrument is to the model, on the host.

    `moves` and `clamped` [underlying, scenario]: the price move, and the one at which profits in
    coins are counted; NaN for an underlying without figures. `amounts` [instrument, scenario] in
    the settlement currency, `dollars` the same in USD at the scenario's price. `delta`
    [instrument] in coins of the underlying, an inverse option's less its value; `value` in USD.
    What cannot be valued is NaN.
    """

    scenarios: tuple[str, ...]
    moves: Floats
    clamped: Floats
    amounts: Floats
    dollars: Floats
    delta: Floats
    value: Floats


def scenario_names(figures: Figures) -> tuple[str, ...]:
    """Standard table by bucket and volatility, then extended table; buckets count from 1."""
    half = figures.general.buckets_count
    sides = ("left",) * half + ("middle",) + ("right",) * half
    standard = [
        f"standard bucket {bucket} {side} vol {volatility}"
        for bucket, side in enumerate(sides, start=1)
        for volatility in VOLATILITIES
    ]
    extended = [
        f"extended bucket {bucket} {'left' if move < 0 else 'right'} {move:+.4g} vol up"
        for bucket, move in enumerate(figures.extended_moves, start=1)
    ]
    return (*standard, *extended)


def of_pairs(figures: Figures, market: CryptoMarket, name: str) -> Floats:
    """[underlying] the named figure of its pair with USD; NaN where it has none."""
    pairs = [figures.pair(underlying) for underlying in market.underlyings]
    return _picked(pairs, name)


def of_currencies(figures: Figures, market: CryptoMarket, name: str) -> Floats:
    """[underlying] the named figure of the currency; NaN where it has none."""
    return _picked([figures.of(underlying) for underlying in market.underlyings], name)


def _picked(tables: Sequence[Pair | Currency | None], name: str) -> Floats:
    values = [np.nan if table is None else getattr(table, name) for table in tables]
    return np.array(values, dtype=np.float64)


def unit_vectors(
    figures: Figures, market: CryptoMarket, settlement_price: Mapping[str, float]
) -> UnitVectors:
    """Risk vectors of all instruments of a market.

    `settlement_price` is the price in USD of settlement currencies by name.
    """
    grid = _grid(figures, market)
    i, count = market.instruments, len(market.instruments)
    amounts = np.full((count, grid.moves.shape[1]), np.nan)
    dollars, delta, value = amounts.copy(), np.full(count, np.nan), i.price.copy()
    for linear in (False, True):
        for name in i.settlement.filter(i.inverse != linear).unique().sort():
            same = (i.settlement == name).to_numpy() & (i.inverse != linear) & (i.kind != COIN)
            chosen = np.flatnonzero(same & (i.underlying >= 0))
            if not len(chosen):
                continue
            found = _Units(figures, market, grid, chosen)
            unit = np.nan if not linear else settlement_price.get(name, np.nan)
            amounts[chosen], dollars[chosen] = found.linear(unit) if linear else found.inverse()
            delta[chosen] = found.delta(inverse=not linear)
            value[chosen] = found.value(inverse=not linear)
    coins = np.flatnonzero(i.kind == COIN)
    amounts[coins], delta[coins] = 0.0, 0.0
    dollars[coins] = _equity(figures, market, grid, coins)
    return UnitVectors(
        scenario_names(figures), grid.moves, grid.clamped, amounts, dollars, delta, value
    )


@dataclass(frozen=True)
class _Grid:
    """[underlying, scenario]: price moves, those that count for coins, and shares of the profit."""

    moves: Floats
    clamped: Floats
    share: Floats


def _grid(figures: Figures, market: CryptoMarket) -> _Grid:
    half, wide = figures.general.buckets_count, of_pairs(figures, market, "price_range")[:, None]
    factor = of_pairs(figures, market, "extended_table_factor")[:, None]
    steps = np.arange(-half, half + 1) / half
    standard = np.repeat(wide * steps, len(VOLATILITIES), axis=1)
    extended = np.array(figures.extended_moves) + 0.0 * wide
    # A fraction of a profit counts: what is linear gains as much as at the edge of the range.
    fraction = np.minimum(wide / np.abs(extended), 1.0)
    return _Grid(
        moves=np.concatenate([standard, extended], axis=1),
        clamped=np.concatenate([standard, np.clip(extended, -wide, wide)], axis=1),
        share=np.concatenate([np.ones_like(standard), fraction * factor], axis=1),
    )


class _Units:
    """Instruments of one settlement currency, all inverse or all linear."""

    def __init__(self, figures: Figures, market: CryptoMarket, grid: _Grid, chosen: Ints) -> None:
        self.market, self.chosen = market, chosen
        underlying = market.instruments.underlying[chosen]
        self.spot, self.share = market.spot[underlying], grid.share[underlying]
        self.moves, self.clamped = grid.moves[underlying], grid.clamped[underlying]
        self.impact = _impacts(figures, market.underlyings)[underlying]
        self.option = np.flatnonzero(market.instruments.kind[chosen] == OPTION)
        self.forward, self.moving, self.seconds = _forwards(
            market, market.instruments.expiry[chosen]
        )
        self.volatility = _volatilities(
            figures, market, chosen[self.option], self.seconds[self.option]
        )

    def _option(self, forward: Floats, volatility: Floats) -> Floats:
        """[option, ...] values in USD at these forwards."""
        i, held = self.market.instruments, self.chosen[self.option]
        shape = (-1,) + (1,) * (forward.ndim - 1)
        strike, call = i.strike[held].reshape(shape), i.call[held].reshape(shape)
        years = (self.seconds[self.option] / YEAR).reshape(shape)
        return option_value(forward, strike, volatility, years, call)

    def _shocked(self) -> tuple[Floats, Floats, Floats, Floats]:
        """[option, scenario] forwards and values in USD, then both [option, 1] before the shock."""
        forward = self.forward[self.option][:, None]
        moved = forward * (1.0 + self.moving[self.option][:, None] * self.moves[self.option])
        own = self.market.instruments.volatility[self.chosen[self.option]][:, None]
        return moved, self._option(moved, self.volatility), forward, self._option(forward, own)

    def inverse(self) -> tuple[Floats, Floats]:
        """[chosen, scenario] profit in coins, and in USD at the scenario's price.

        An option's value is equity in the coin: in USD it moves with the price where equity does.
        """
        step = self.moving[:, None] * self.moves
        coins = step / (1.0 + step)
        premium = np.zeros((len(self.chosen), 1))
        if len(self.option):
            moved, value, forward, before = self._shocked()
            coins[self.option] = value / moved - before / forward
            premium[self.option] = before / forward * self.impact[self.option][:, None]
        amounts = coins * ((1.0 + self.moves) / (1.0 + self.clamped)) * self.share
        dollars = amounts * (1.0 + self.clamped) + premium * self.moves * self.share
        return amounts, self.spot[:, None] * dollars

    def linear(self, unit: float) -> tuple[Floats, Floats]:
        """[chosen, scenario] profit in the settlement currency, worth `unit` USD, and in USD."""
        dollars = self.spot[:, None] * (self.moving[:, None] * self.moves)
        if len(self.option):
            _, value, _, before = self._shocked()
            dollars[self.option] = value - before
        dollars = dollars * self.share
        return dollars / unit, dollars

    def delta(self, *, inverse: bool) -> Floats:
        """[chosen] coins of the underlying that one unit moves like."""
        found = self.moving.copy()
        i, held = self.market.instruments, self.chosen[self.option]
        if len(held):
            forward, years = self.forward[self.option], self.seconds[self.option] / YEAR
            own = i.volatility[held]
            slope = black76_delta(forward, i.strike[held], own, years, 0.0, i.call[held])
            premium = self._option(forward, own) / forward if inverse else 0.0
            found[self.option] = slope * self.moving[self.option] - premium
        return found

    def value(self, *, inverse: bool) -> Floats:
        """[chosen] USD: an option's mark, or what the model says; perpetuals and futures none."""
        found = np.zeros(len(self.chosen))
        held = self.chosen[self.option]
        if len(held):
            i, forward = self.market.instruments, self.forward[self.option]
            model = self._option(forward, i.volatility[held])
            if inverse:
                model = model / forward * self.spot[self.option]
            found[self.option] = np.where(np.isnan(i.price[held]), model, i.price[held])
        return found


def _forwards(market: CryptoMarket, expiry: Ints) -> tuple[Floats, Floats, Floats]:
    """[expiry code] forward, the share of it that still moves, seconds; of perpetuals 1, 1, 0."""
    e, dated = market.expiries, expiry >= 0
    forward, moving, seconds = np.ones(len(expiry)), np.ones(len(expiry)), np.zeros(len(expiry))
    at = expiry[dated]
    forward[dated] = e.forward[at] + e.fixed[at]
    moving[dated] = e.forward[at] / forward[dated]
    seconds[dated] = e.seconds[at]
    return forward, moving, seconds


def _volatilities(figures: Figures, market: CryptoMarket, options: Ints, seconds: Floats) -> Floats:
    """[option, scenario] shocked volatilities, in the order of the scenarios."""
    underlying = market.instruments.underlying[options]
    own = market.instruments.volatility[options]

    def figure(name: str) -> Floats:
        return of_pairs(figures, market, name)[underlying]

    powers = figure("short_term_vega_power"), figure("long_term_vega_power")
    growth = tenor_factor(seconds, _SHORTEST, *powers)  # type: ignore[arg-type]
    up = own * (1.0 + figure("volatility_range_up") * growth)
    up = np.maximum(up, figure("min_volatility_for_shock_up"))
    down = np.maximum(own * (1.0 - figure("volatility_range_down") * growth), 0.0)
    buckets = 2 * figures.general.buckets_count + 1
    standard = np.tile(np.stack([down, own, up], axis=1), (1, buckets))
    extended = np.repeat(up[:, None], len(figures.extended_moves), axis=1)
    return np.concatenate([standard, extended], axis=1)


def _equity(figures: Figures, market: CryptoMarket, grid: _Grid, coins: Ints) -> Floats:
    """[coin, scenario] USD that one coin gains where equity moves with the scenarios.

    Coins that are no underlying do not move. NaN where the figures say neither "both" nor "none".
    """
    underlying, price = market.instruments.underlying[coins], market.instruments.price[coins]
    impact = _impacts(figures, market.instruments.ids.gather(coins))
    moved = np.zeros((len(coins), grid.moves.shape[1]))
    held = np.flatnonzero((underlying >= 0) & (impact != 0.0))
    own = underlying[held]
    moved[held] = (price[held] * impact[held])[:, None] * grid.moves[own] * grid.share[own]
    return moved


def _impacts(figures: Figures, names: pl.Series) -> Floats:
    """[name] whether equity in a currency moves with the scenarios, 1 or 0; NaN if not known."""
    known = {"both": 1.0, "none": 0.0}
    tables = [figures.of(name) for name in names]
    told = [np.nan if t is None else known.get(t.equity_side_impact, np.nan) for t in tables]
    return np.array(told, dtype=np.float64)


def roll_moves(figures: Figures, market: CryptoMarket) -> tuple[Ints, Floats, Ints]:
    """[instrument] the group of expiries it rolls with, [group] its move and its underlying.

    Perpetuals of an underlying are a group, and so is each of its expiry times; coins are in none,
    -1. A group's move is a share of its net delta.
    """
    i, e = market.instruments, market.expiries
    rolls = ((i.kind == PERPETUAL) | (i.kind == FUTURE) | (i.kind == OPTION)) & (i.underlying >= 0)
    seconds = np.where(i.expiry >= 0, e.seconds[i.expiry] if len(e) else 0.0, -1.0)
    pairs = np.stack([i.underlying.astype(np.float64), seconds], axis=1)[rolls]
    groups, of = np.unique(pairs, axis=0, return_inverse=True)
    key = np.full(len(i), -1, dtype=np.int64)
    key[rolls] = of.reshape(-1)
    underlying = groups[:, 0].astype(np.int64)
    least = of_currencies(figures, market, "min_annualised_move")
    risk = of_currencies(figures, market, "annualised_move_risk")
    years = np.maximum(groups[:, 1], 0.0) / YEAR
    return key, np.maximum(least[underlying], np.expm1(risk[underlying] * years)), underlying
