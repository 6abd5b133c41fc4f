"""Derive's first portfolio margin, PMRM: one underlying per set, its coin beside its derivatives.

A set must survive the worst of a grid of spot and volatility moves and a basis between expiries.
Added are shares of perpetuals, of naked short options and of the coin; initial margin is a multiple
of both, and asks for more where feeds are unsure or the stable coin has left its peg. Options are
marked by Black-76 without a rate; an expiry that is worth something in a scenario is discounted.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from gpu_margin import crypto_files
from gpu_margin.backend import Backend
from gpu_margin.crypto_book import COIN, INITIAL, MAINTENANCE, PERPETUAL, CryptoMarket
from gpu_margin.crypto_shocks import DAY, YEAR, tenor_factor
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

# Columns of a unit's sizes.
_SIZES = (
    *("perpetual", "perpetual_confidence"),
    *("option_confidence", "option_confidence_with_perpetual"),
    *("base", "base_value", "base_confidence", "base_confidence_with_perpetual"),
)
_MAINTENANCE = ("scenario_loss", "perpetual", "short_options", "base")
_INITIAL = (
    *(*_MAINTENANCE, "peg"),
    *("perpetual_confidence", "option_confidence", "base_confidence"),
)
_LEVELS = {INITIAL: _INITIAL, MAINTENANCE: _MAINTENANCE}


class Scenario(Numbers):
    """The spot price times `spot`, and volatilities moved."""

    spot: float = Field(ge=0)
    volatility: Literal["up", "none", "down"]

    @property
    def name(self) -> str:
        """In words."""
        return f"spot x{self.spot:g} vol {self.volatility}"


class Figures(Numbers):
    """The numbers of one market. Shares are decimals, spot moves factors; tenors per year.

    Initial margin counts a scenario's loss and what is added to it `im_factor` times; where the
    stable coin is below `peg_threshold`, that grows by `peg_factor` times what is missing. An
    expiry worth something is worth `discount` x exp(-years x (rate x `rate_multiple` + `rate_add`))
    of it. Shocks of volatility are those of 30 days, scaled by tenors of at least `dte_floor` days.
    The basis moves forwards by `basis_up` and `basis_down`; the loss counts `basis_add` +
    `basis_multiple` x years. Feeds that are less sure than `confidence_threshold` ask for
    `confidence_margin` x (1 - confidence) of the notional. `perpetual_share`, `option_share` (of
    naked shorts) and `base_share` of spot x size are added.
    """

    scenarios: tuple[Scenario, ...] = Field(min_length=1)
    im_factor: float
    discount: float = Field(ge=0)
    rate_multiple: float
    rate_add: float
    volatility_up: float
    volatility_down: float
    short_term_power: float
    long_term_power: float
    dte_floor: float = Field(ge=0)
    basis_up: float = Field(ge=0)
    basis_down: float = Field(ge=0)
    basis_add: float
    basis_multiple: float
    peg_threshold: float
    peg_factor: float
    confidence_threshold: float
    confidence_margin: float
    perpetual_share: float
    option_share: float
    base_share: float

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scenarios, each its own."""
        return distinct(one.name for one in self.scenarios)


class Parameters(MarketFiles):
    """Settings of a model of Derive's portfolio margin, PMRM."""

    @model_validator(mode="after")
    def _known(self) -> Parameters:
        figures(self)
        return self


def figures(parameters: Parameters) -> dict[str, Figures]:
    """By market: the table's figures with what the parameters replace of them."""
    return by_market("pm1", parameters, Figures)


def margin(parameters: Parameters, inputs: Inputs, rate: float, backend: Backend) -> FileMargin:
    """Margin of all accounts, at `rate` for one USD."""
    prepared = prepare(figures(parameters), inputs.market, backend)
    return prepared.of_files(parameters, inputs, rate, "Derive PMRM")


def prepare(figures: Mapping[str, Figures], market: CryptoMarket, backend: Backend) -> Prepared:
    """The rulebook in a market: options priced in every cell, numbers on the device."""
    faults, held = unusable(market), market.instruments
    good = ~np.any(list(faults.values()), axis=0)
    own = {code: figures[name] for code, name in enumerate(market.underlyings) if name in figures}
    coins = {code: (held.kind == COIN) & (held.underlying == code) for code in own}
    grids = {code: _grid(one, market, code, good, backend) for code, one in own.items()}
    required = partial(_required, own, market)
    return Prepared(market, faults, coins, coins, grids, _LEVELS, required)


def _required(
    of_markets: Mapping[int, Figures], market: CryptoMarket, code: int, sums: Sums
) -> tuple[dict[str, dict[str, Floats]], Floats]:
    """Components of both levels in the order in which they add up; the value of the coin [set]."""
    figures, spot = of_markets[code], float(market.spot[code])
    sizes = dict(zip(_SIZES, sums.sizes.T, strict=True))
    held = sizes["perpetual"] > 0.0
    peg = figures.peg_factor * max(0.0, figures.peg_threshold - market.stable)
    maintenance = {
        "scenario_loss": 0.0 - sums.worst,
        "perpetual": sizes["perpetual"] * figures.perpetual_share,
        "short_options": sums.short_options * spot * figures.option_share,
        "base": sizes["base"] * figures.base_share,
    }
    whole = sum(maintenance.values(), np.zeros(len(held)))

    def unsure(name: str) -> Floats:
        found: Floats = np.where(held, sizes[f"{name}_with_perpetual"], sizes[name])
        return found

    initial = {
        **{name: amount * figures.im_factor for name, amount in maintenance.items()},
        "peg": whole * peg,
        "perpetual_confidence": sizes["perpetual_confidence"],
        "option_confidence": unsure("option_confidence"),
        "base_confidence": unsure("base_confidence"),
    }
    levels = {INITIAL: {name: initial[name] for name in _INITIAL}, MAINTENANCE: maintenance}
    return levels, sizes["base_value"]


# ---------------------------------------------------------------- a market under the figures


def _grid(figures: Figures, market: CryptoMarket, code: int, good: Bools, backend: Backend) -> Grid:
    """One underlying under its figures."""
    held, expiries = market.instruments, market.expiries
    own = good & (held.underlying == code)
    with np.errstate(all="ignore"):
        years = expiries.seconds / YEAR
        rate = np.maximum(expiries.rate, 0.0)
        down = years * (rate * figures.rate_multiple + figures.rate_add)
        options = options_of(market, own, np.ones(len(expiries)))
        shocks = Shocks(
            names=figures.names,
            spot=np.array([one.spot for one in figures.scenarios]),
            dampening=np.ones(len(figures.scenarios)),
            volatility=_volatilities(figures, options),
            skews=0,
            positive=figures.discount * np.exp(-down),
            negative=np.ones(len(expiries)),
            basis=figures.basis_add + figures.basis_multiple * years,
            basis_moves=(figures.basis_up, figures.basis_down),
        )
    spot = market.spot[code]
    value = np.where(own & (held.kind == COIN), spot, 0.0)
    value[value > 0.0] /= market.stable
    exposure = np.where(own & (held.kind == PERPETUAL), held.price, value)
    sizes = _sizes(figures, market, code, own, value)
    return grid_of(options, shocks, exposure, sizes, backend)


def _volatilities(figures: Figures, options: Options) -> Floats:
    """[column, scenario] as the scenarios have them."""
    powers = (figures.short_term_power, figures.long_term_power)
    factor = tenor_factor(options.years * YEAR, figures.dte_floor * DAY, *powers)
    moved = {
        "up": options.volatility * (1.0 + figures.volatility_up * factor),
        "none": options.volatility,
        "down": options.volatility * np.maximum(1.0 - figures.volatility_down * factor, 0.0),
    }
    return np.stack([moved[one.volatility] for one in figures.scenarios], axis=1)


def _sizes(figures: Figures, market: CryptoMarket, code: int, own: Bools, value: Floats) -> Floats:
    """[instrument, column of _SIZES] what a unit adds; the coin is as sure as the spot."""
    unsure = Unsure(market, code, figures.confidence_threshold, figures.confidence_margin)
    base = np.where(value > 0.0, market.spot[code], 0.0)
    columns = {
        **unsure.columns(own),
        "base": base,
        "base_value": value,
        "base_confidence": base * unsure.of(np.ones(len(base))),
        "base_confidence_with_perpetual": base * unsure.of(np.full(len(base), unsure.perpetual)),
    }
    return np.stack([columns[name] for name in _SIZES], axis=1)
