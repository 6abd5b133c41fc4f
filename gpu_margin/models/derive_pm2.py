"""Derive's second portfolio margin, PMRM 2: one underlying per set, coins as collateral.

A set must survive the worst of a grid of spot and volatility moves, dampened moves far beyond it,
two twists of the smile and a basis between expiries. Added are contingencies: shares of perpetuals,
of naked short options and of coins, and for initial margin what unsure feeds ask for. Options are
marked by Black-76 at the feed's volatilities and rates; an expiry that is worth something in a
scenario is discounted, one that is owed is marked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from gpu_margin import crypto_files
from gpu_margin.backend import Backend
from gpu_margin.crypto_book import COIN, INITIAL, MAINTENANCE, PERPETUAL, CryptoMarket
from gpu_margin.crypto_shocks import DAY, YEAR, skew_factor, tenor_factor
from gpu_margin.derive_grid import (
    Bools,
    Floats,
    Grid,
    Options,
    Shocks,
    Sums,
    distinct,
    grid_of,
    options_of,
)
from gpu_margin.derive_margin import MarketFiles, Prepared, by_market
from gpu_margin.derive_sets import Numbers, Unsure, unusable
from gpu_margin.result import FileMargin

FILES = crypto_files.FILES
CURRENCY = crypto_files.CURRENCY
Inputs = crypto_files.Inputs
load = crypto_files.load
check = crypto_files.check

SKEWS = ("linear", "abs")
# Columns of a unit's sizes.
_SIZES = (
    "perpetual",
    "perpetual_confidence",
    "option_confidence",
    "option_confidence_with_perpetual",
    "collateral_value",
    "collateral_haircut",
    "collateral_haircut_initial",
    "collateral_confidence",
)
_MAINTENANCE = ("scenario_loss", "perpetual", "short_options", "collateral_haircut")
_INITIAL = (
    *("scenario_loss", "peg", "perpetual", "perpetual_initial"),
    *("short_options", "short_options_initial"),
    *("collateral_haircut", "collateral_haircut_initial"),
    *("perpetual_confidence", "option_confidence", "collateral_confidence"),
)
_LEVELS = {INITIAL: _INITIAL, MAINTENANCE: _MAINTENANCE}


class Scenario(Numbers):
    """The spot price times `spot`, volatilities moved, and what comes of it times `dampening`.

    `linear` and `abs` twist the smile around the money, where the spot must stay.
    """

    spot: float = Field(ge=0)
    volatility: Literal["up", "none", "down", "linear", "abs"]
    dampening: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _twisted_in_place(self) -> Scenario:
        if self.volatility in SKEWS and self.spot != 1.0:
            raise ValueError(f"a skew scenario leaves the spot where it is; spot is {self.spot}")
        return self

    @property
    def name(self) -> str:
        """In words."""
        if self.volatility in SKEWS:
            return f"skew {self.volatility}"
        tail = "" if self.dampening == 1.0 else " tail"
        return f"spot x{self.spot:g} vol {self.volatility}{tail}"


class Collateral(Numbers):
    """A coin: whether it moves with the underlying; shares of its value that do not count.

    `im_haircut` is on top of `mm_haircut`.
    """

    risk_cancelling: bool = False
    mm_haircut: float
    im_haircut: float


class Figures(Numbers):
    """The numbers of one market. Shares are decimals, spot moves factors; tenors per year.

    A scenario's loss counts `im_factor` or `mm_factor` times; where the stable coin is below
    `peg_threshold`, the former grows by `peg_factor` times what is missing. An expiry worth
    something is worth `long_discount` x exp(-years x (rate x `long_rate_multiple` +
    `long_rate_add`)) of it; one that is owed `short_discount` x exp(years x ...) of it, at most its
    undiscounted value. Shocks of volatility are those of 30 days, scaled by tenors of at least
    `dte_floor` days. The basis moves forwards by `basis_up` and `basis_down`; the loss counts
    `basis_add` + `basis_multiple` x years. A twist's cap is `..._cap` + `..._cap_slope` x
    sqrt(years), reached at the log-moneyness sqrt(years) x `skew_width` x (`skew_volatility` +
    `skew_volatility_slope` x sqrt(years)), at least `skew_least_width`. Feeds that are less sure
    than `confidence_threshold` ask for `confidence_margin` x (1 - confidence) of the notional.
    Contingencies `perpetual_...` and `option_...` are shares of spot x size; those of initial
    margin come on top.
    """

    scenarios: tuple[Scenario, ...] = Field(min_length=1)
    collaterals: dict[str, Collateral] = Field(default_factory=dict)
    im_factor: float
    mm_factor: float
    long_discount: float = Field(ge=0)
    long_rate_multiple: float
    long_rate_add: float
    short_discount: float = Field(ge=0)
    short_rate_multiple: float
    short_rate_add: float
    volatility_up: float
    volatility_down: float
    short_term_power: float
    long_term_power: float
    dte_floor: float = Field(ge=0)
    least_volatility_up: float = Field(ge=0)
    linear_cap: float
    linear_cap_slope: float
    abs_cap: float
    abs_cap_slope: float
    skew_least_width: float = Field(ge=0)
    skew_width: float
    skew_volatility: float
    skew_volatility_slope: float
    basis_up: float = Field(ge=0)
    basis_down: float = Field(ge=0)
    basis_add: float
    basis_multiple: float
    peg_threshold: float
    peg_factor: float
    confidence_threshold: float
    confidence_margin: float
    perpetual_mm: float
    perpetual_im: float
    option_mm: float
    option_im: float

    @property
    def ordered(self) -> tuple[Scenario, ...]:
        """The scenarios, twists of the smile last."""
        return tuple(sorted(self.scenarios, key=lambda one: one.volatility in SKEWS))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the ordered scenarios, each its own."""
        return distinct(one.name for one in self.ordered)


class Parameters(MarketFiles):
    """Settings of a model of Derive's portfolio margin, PMRM 2."""

    @model_validator(mode="after")
    def _known(self) -> Parameters:
        figures(self)
        return self


def figures(parameters: Parameters) -> dict[str, Figures]:
    """By market: the table's figures with what the parameters replace of them."""
    return by_market("pm2", parameters, Figures)


def margin(parameters: Parameters, inputs: Inputs, rate: float, backend: Backend) -> FileMargin:
    """Margin of all accounts, at `rate` for one USD."""
    prepared = prepare(figures(parameters), inputs.market, backend)
    return prepared.of_files(parameters, inputs, rate, "Derive PMRM 2")


def prepare(figures: Mapping[str, Figures], market: CryptoMarket, backend: Backend) -> Prepared:
    """The rulebook in a market: options priced in every cell, numbers on the device."""
    faults = unusable(market)
    good = ~np.any(list(faults.values()), axis=0)
    own = {code: figures[name] for code, name in enumerate(market.underlyings) if name in figures}
    coins = {code: _Coins.of(one, market, good) for code, one in own.items()}
    grids = {
        code: _grid(one, coins[code], market, code, good, backend) for code, one in own.items()
    }
    return Prepared(
        market=market,
        faults=faults,
        accepted={code: one.accepted for code, one in coins.items()},
        cancelling={code: one.cancelling for code, one in coins.items()},
        grids=grids,
        components=_LEVELS,
        requirement=partial(_required, own, market),
    )


@dataclass(frozen=True)
class _Coins:
    """[instrument] what a market takes as collateral and what of it moves with the underlying.

    In the stable coin, for one: `value`, and what of it does not count at either level.
    """

    accepted: Bools
    cancelling: Bools
    value: Floats
    haircut: Floats
    haircut_initial: Floats

    @classmethod
    def of(cls, figures: Figures, market: CryptoMarket, good: Bools) -> _Coins:
        """The coins of the table, whose names are the same in small letters."""
        held = market.instruments
        known = {name.casefold(): coin for name, coin in figures.collaterals.items()}
        coins = np.flatnonzero(held.kind == COIN)
        table, value = np.zeros((4, len(held))), np.zeros(len(held))
        for place, name in zip(coins.tolist(), held.ids.gather(coins), strict=True):
            if coin := known.get(name.casefold()):
                table[:, place] = (1.0, coin.risk_cancelling, coin.mm_haircut, coin.im_haircut)
        taken = good & (table[0] > 0.0)
        value[taken] = held.price[taken] / market.stable
        return cls(table[0] > 0.0, table[1] > 0.0, value, value * table[2], value * table[3])


def _required(
    of_markets: Mapping[int, Figures], market: CryptoMarket, code: int, sums: Sums
) -> tuple[dict[str, dict[str, Floats]], Floats]:
    """Components of both levels in the order in which they add up; the value of coins [set]."""
    figures, spot = of_markets[code], float(market.spot[code])
    sizes = dict(zip(_SIZES, sums.sizes.T, strict=True))
    loss, naked, perpetual = 0.0 - sums.worst, sums.short_options * spot, sizes["perpetual"]
    peg = figures.peg_factor * max(0.0, figures.peg_threshold - market.stable)
    without, both = sizes["option_confidence"], sizes["option_confidence_with_perpetual"]
    maintenance = {
        "scenario_loss": loss * figures.mm_factor,
        "perpetual": perpetual * figures.perpetual_mm,
        "short_options": naked * figures.option_mm,
        "collateral_haircut": sizes["collateral_haircut"],
    }
    initial = {
        **maintenance,
        "scenario_loss": loss * figures.im_factor,
        "peg": loss * peg,
        "perpetual_initial": perpetual * figures.perpetual_im,
        "short_options_initial": naked * figures.option_im,
        "collateral_haircut_initial": sizes["collateral_haircut_initial"],
        "perpetual_confidence": sizes["perpetual_confidence"],
        "option_confidence": np.where(perpetual > 0.0, both, without),
        "collateral_confidence": sizes["collateral_confidence"],
    }
    levels = {INITIAL: {name: initial[name] for name in _INITIAL}, MAINTENANCE: maintenance}
    return levels, sizes["collateral_value"]


# ---------------------------------------------------------------- a market under the figures


def _grid(
    figures: Figures, coins: _Coins, market: CryptoMarket, code: int, good: Bools, backend: Backend
) -> Grid:
    """One underlying under its figures."""
    held, expiries = market.instruments, market.expiries
    own = good & (held.underlying == code)
    rate = np.maximum(expiries.rate, 0.0)
    with np.errstate(all="ignore"):
        years = expiries.seconds / YEAR
        discount = np.exp(-rate * years)
        options = options_of(market, own, discount)
        up = years * (rate * figures.short_rate_multiple + figures.short_rate_add)
        down = years * (rate * figures.long_rate_multiple + figures.long_rate_add)
        shocks = Shocks(
            names=figures.names,
            spot=np.array([one.spot for one in figures.ordered]),
            dampening=np.array([one.dampening for one in figures.ordered]),
            volatility=_volatilities(figures, options),
            skews=sum(one.volatility in SKEWS for one in figures.scenarios),
            positive=figures.long_discount * np.exp(-down),
            negative=np.minimum(figures.short_discount * np.exp(up), 1.0 / discount),
            basis=figures.basis_add + figures.basis_multiple * years,
            basis_moves=(figures.basis_up, figures.basis_down),
        )
    moving = np.where(coins.cancelling, coins.value, 0.0)
    exposure = np.where(own & (held.kind == PERPETUAL), held.price, moving)
    sizes = _sizes(figures, coins, market, code, own)
    return grid_of(options, shocks, exposure, sizes, backend)


def _volatilities(figures: Figures, options: Options) -> Floats:
    """[column, scenario] as the scenarios have them."""
    seconds, root = options.years * YEAR, np.sqrt(options.years)
    powers = (figures.short_term_power, figures.long_term_power)
    factor = tenor_factor(seconds, figures.dte_floor * DAY, *powers)
    forward = np.maximum(options.moving + options.fixed, np.finfo(np.float64).tiny)
    moneyness = np.log(options.strike / forward)
    slope = figures.skew_volatility + root * figures.skew_volatility_slope
    width = np.maximum(figures.skew_least_width, root * figures.skew_width * slope)
    linear = skew_factor(moneyness, figures.linear_cap + figures.linear_cap_slope * root, width)
    bent = skew_factor(np.abs(moneyness), figures.abs_cap + figures.abs_cap_slope * root, width)
    base = options.volatility
    moved = {
        "up": np.maximum(
            base * (1.0 + figures.volatility_up * factor), figures.least_volatility_up
        ),
        "none": base,
        "down": base * np.maximum(1.0 - figures.volatility_down * factor, 0.0),
        "linear": base * np.maximum(linear, 0.0),
        "abs": base * np.maximum(bent, 0.0),
    }
    return np.stack([moved[one.volatility] for one in figures.ordered], axis=1)


def _sizes(figures: Figures, coins: _Coins, market: CryptoMarket, code: int, own: Bools) -> Floats:
    """[instrument, column of _SIZES] what a unit adds."""
    unsure = Unsure(market, code, figures.confidence_threshold, figures.confidence_margin)
    columns = {
        **unsure.columns(own),
        "collateral_value": coins.value,
        "collateral_haircut": coins.haircut,
        "collateral_haircut_initial": coins.haircut_initial,
        "collateral_confidence": coins.value * unsure.of(market.instruments.confidence),
    }
    return np.stack([columns[name] for name in _SIZES], axis=1)
