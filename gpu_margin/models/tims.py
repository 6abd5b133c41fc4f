"""TIMS: portfolio margin of US options, as in FINRA Rule 4210(g), OCC's CPM and SEC Rule 15c3-1a.

Every instrument is revalued in full at ten prices of its underlying, five below and five above,
evenly apart on each side up to the range of its class type; volatility and time stay. At each point
positions on one underlying net in full (a class), of classes in a product group a share of the
gains offsets the losses, and so do product groups in a portfolio group. Portfolio groups are
independent: their largest losses add up. The requirement of a netting set is that sum, or the
minimum of its contracts where it is more: 0.375 (haircuts: 0.25) x multiplier for each option and
future on either side, of longs up to their market value.

Which class, product group and portfolio group an underlying is in is for the settings to say: by
default each is a class of its own, an equity that offsets no other. The figures are those of a
versioned table that says of each whether it is confirmed; `unverified` names those in use that are
not. See `tims_settings` and, for the sums, `tims_risk`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu_margin import pricing, tims_slopes, unit_risk
from gpu_margin.backend import Backend
from gpu_margin.failures import ConfigError
from gpu_margin.market import Instruments, Market
from gpu_margin.portfolio import Portfolio, Rows
from gpu_margin.result import Margin, PositionFigures
from gpu_margin.tims_groups import groups_of
from gpu_margin.tims_risk import Tables, TimsRisk
from gpu_margin.tims_settings import TimsParameters
from gpu_margin.unit_risk import Requirement

Parameters = TimsParameters
Inputs = Market
Floats = NDArray[np.float64]

# Kinds of instruments that are contracts beside options: they have a minimum.
_FUTURES = ("future", "perpetual")


def check(parameters: Parameters, market: Market) -> None:
    """The market must say which instruments are futures."""
    if parameters.offset_column not in market.labels:
        raise ConfigError("the market does not say of what kind its instruments are")


def unverified(parameters: Parameters) -> list[str]:
    """Figures in use that no public text was found for, as "name = value (source)"."""
    return [
        f"{figure.name} = {figure.value} ({figure.source})"
        for figure in parameters.figures()
        if figure.status == "unverified"
    ]


def prepare(parameters: Parameters, market: Market, backend: Backend) -> Prepared:
    """Reprice every instrument at every point."""
    groups = groups_of(parameters, market.history.factors)
    instruments = market.instruments
    long, short = _minima(parameters, market)
    tables = Tables(
        groups=groups,
        pnl=pricing.unit_pnl(instruments, np.ascontiguousarray(groups.moves.T)),
        factor=instruments.factor,
        long=long,
        short=short,
    )
    risk = TimsRisk(tables, backend)
    unit = unit_risk.unit_of(risk, tims_slopes, market, "tims", groups.points)
    return Prepared(unit, risk)


@dataclass(frozen=True)
class Prepared(unit_risk.Prepared):
    """The rulebook in one market; see `models.Prepared`.

    Components are the term that is in force, "valuation_points" or "contract_minimum".
    """

    risk: TimsRisk

    def margin(self, portfolio: Portfolio) -> list[Margin]:
        """Initial margin of every netting set, group and account."""
        return unit_risk.margin_of_terms(self.risk, self.unit, portfolio)

    def require(self, rows: Rows) -> Requirement:
        """What rows of net positions (on the host) require; the same bits as in `margin`."""
        return unit_risk.require_of_terms(self.risk, rows)

    def positions(self, portfolio: Portfolio) -> PositionFigures:
        """Figures of net positions, with their profit at the account's worst point."""
        unit = replace(self.unit, unit_pnl=self.risk.tables.pnl)
        return unit_risk.Prepared(unit).positions(portfolio)


def _minima(parameters: Parameters, market: Market) -> tuple[Floats, Floats]:
    """[instrument] the minimum of one contract held long and short, in margin currency."""
    instruments = market.instruments
    future = market.labels[parameters.offset_column].is_in(_FUTURES).to_numpy()
    rate = float(parameters.minimum().value)
    short = np.where(instruments.option | future, rate * instruments.scale, 0.0)
    return np.minimum(short, _market_value(instruments)), short


def _market_value(instruments: Instruments) -> Floats:
    """[instrument] what one contract is worth, of a future what it is on: at least 0."""
    i = instruments
    price = np.abs(i.level)
    own = i.option
    terms = (i.level, i.strike, i.volatility, i.time, i.rate, i.call)
    price[own] = np.maximum(pricing.black76(*(term[own] for term in terms)), 0.0)
    value: Floats = i.scale * price
    return value
