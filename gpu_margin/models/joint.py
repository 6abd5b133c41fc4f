"""Offsets between underlyings that no correlation alone decides: a grid each, joined, and floored.

Every underlying's options are revalued over a grid of its own price and volatilities; the worst
losses m_u are joined by correlations, M = sqrt(m' R m); and the requirement is never below what the
whole row would lose in joint historical scenarios, E, nor below a share of the sum of all losses:

    max(E, max_R M(R), (1 - c) sum |m_u| + c max(E, max_R M(R)))

R runs over the correlations `base` of the underlyings' returns, (1 - theta) base + theta I, in
which an offset is worth less, and (1 - theta) base + theta s s', s = sign(m), in which a share
theta of all losses comes at once. As no correlation is above 1 the last is never the smallest; the
others are there to be seen. The bound by c has the form of Commission Delegated Regulation (EU)
153/2013, Article 27(4).

m_u has the sign of the price move that causes it: what is long loses when its price falls, and its
m_u is negative. A worst loss without a move of the price, or as large both ways, has no direction
and is given the one that adds to the rest. That rule can be made wider: with `two_sided` = 0.8 a
loss has no direction where the other one loses 80% of it. By default only an exact tie counts,
and two short straddles whose worst cells happen to lie on opposite sides offset each other in the
grid, though one move of both prices would lose on both. There E and the bound by c have to hold.

E is over the last `lookback` returns, and those that end on `stress_days`, which are scenarios as
the others are, so that a crash counts in the tail however long it is ago.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from gpu_margin import covariance, joint_slopes, pricing, unit_risk
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import placed
from gpu_margin.failures import ConfigError
from gpu_margin.joint_grid import GridParameters, cells_of, grid_pnl
from gpu_margin.joint_risk import GridLosses, JointRisk, Rule, Tables
from gpu_margin.market import History, Market
from gpu_margin.portfolio import Portfolio, Rows
from gpu_margin.result import Margin, PositionFigures
from gpu_margin.scenarios import (
    Horizon,
    ScenarioSet,
    historical,
    require_history,
    simple_returns,
)
from gpu_margin.settings import Settings
from gpu_margin.unit_risk import Of, Requirement, UnitRisk

Inputs = Market
Floats = NDArray[np.float64]

_Share = Annotated[float, Field(ge=0, le=1)]


def _a_day(value: Any) -> Any:
    """A date or its ISO text; pydantic would take numbers for seconds since 1970."""
    if isinstance(value, date) or (
        isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)
    ):
        return value
    raise ValueError("must be a date, as 2020-03-12")


class Sample(Settings):
    """All returns of the lookback alike."""

    kind: Literal["sample"]


class Ewma(Settings):
    """Exponentially weighted: weights decay^age that sum to 1 over the lookback."""

    kind: Literal["ewma"]
    decay: float = Field(gt=0, lt=1, strict=True, description="weight of each day to the next")


class Parameters(GridParameters):
    """Settings of a joint model."""

    lookback: int = Field(ge=1, strict=True, description="returns, up to the valuation date")
    estimator: Annotated[Sample | Ewma, Field(discriminator="kind")] = Field(
        default=Ewma(kind="ewma", decay=0.97), description="of the correlations of daily returns"
    )
    theta: _Share = Field(default=0.25, description="share of a correlation that is not relied on")
    offset_cap: _Share = Field(default=0.8, description="share c of the offset that counts")
    two_sided: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="a grid loss has no direction where the other one loses this share of it",
    )
    confidence: float = Field(
        default=0.975, gt=0, lt=1, strict=True, description="of the expected shortfall"
    )
    stress_days: tuple[Annotated[date, BeforeValidator(_a_day)], ...] = Field(
        default=(), description="days whose returns are always among the scenarios"
    )
    horizon_days: int = Field(default=1, ge=1, strict=True, description="margin period of risk")
    horizon: Horizon = Field(
        default="overlapping", description="h-day returns, or 1-day returns times sqrt(h)"
    )


def check(parameters: Parameters, market: Market) -> None:
    """The history must have `lookback` returns over the horizon, and every stress day."""
    step = _step(parameters)
    require_history(market.history, parameters.lookback)
    require_history(market.history, parameters.lookback, step)
    _stress_places(parameters, market.history)


def prepare(parameters: Parameters, market: Market, backend: Backend) -> Prepared:
    """Reprice every instrument in every scenario and every cell, and estimate the correlations."""
    scenarios = scenarios_of(parameters, market.history)
    returns = simple_returns(market.history, parameters.lookback)
    cells = cells_of(parameters, market.history.factors)
    tables = Tables(
        cells=cells,
        grid=grid_pnl(market.instruments, cells),
        pnl=pricing.unit_pnl(market.instruments, scenarios.returns),
        returns=scenarios.returns,
        factor=market.instruments.factor,
        base=_correlations(parameters, returns),
        measure=_shortfall(parameters.confidence, len(scenarios.names)),
    )
    rule = Rule(parameters.theta, parameters.offset_cap, parameters.two_sided)
    risk = JointRisk(tables, rule, backend)
    names, pnl = scenarios.names, tables.pnl
    unit = unit_risk.unit_of(risk, joint_slopes, market, "joint_risk", names, pnl)
    return Prepared(unit, risk)


@dataclass(frozen=True)
class Prepared:
    """The rulebook in one market; see `models.Prepared`.

    Components are the term that is in force, "expected_shortfall" or "correlated_grid", and
    "offset_floor", what the bound by c adds: they add up to the requirement. `figures` has every
    term by name, `grid_losses` the m_u.
    """

    unit: UnitRisk
    risk: JointRisk

    @property
    def offsets(self) -> None:
        """Product groups offset as the rule says, which is not a cap on top of it."""
        return None

    @property
    def vectors(self) -> None:
        """A requirement is not one measure of a sum of vectors."""
        return None

    def margin(self, portfolio: Portfolio) -> list[Margin]:
        """Initial margin of every netting set, group and account."""
        return unit_risk.margin_of_terms(self.risk, self.unit, portfolio)

    def positions(self, portfolio: Portfolio) -> PositionFigures:
        """Figures of net positions; the worst scenario is that of the expected shortfall."""
        return unit_risk.Prepared(self.unit).positions(portfolio)

    def require(self, rows: Rows) -> Requirement:
        """What rows of net positions (on the host) require; the same bits as in `margin`."""
        return unit_risk.require_of_terms(self.risk, rows)

    def loss_rates(self, rows: Rows, probes: Rows, of: Of, smooth: bool = True) -> Floats:
        """[probe entry] what one more unit of each column adds to what its row requires.

        Nothing is smoothed. See `joint_slopes`.
        """
        return self.unit.rates(placed(rows, self.unit.backend), probes, of, smooth)

    def figures(self, rows: Rows) -> Mapping[str, Floats]:
        """[row] of net positions (on the host) every term by name, in margin currency.

        "expected_shortfall" E; "grid_base", "grid_less" and "grid_more" M with base, with theta I
        and with theta s s'; "gross_grid" sum |m_u|; "offset_bound" (1 - c) sum |m_u| + c max(E, M);
        "requirement", the largest of them all but the sum.
        """
        return self.risk.terms(placed(rows, self.unit.backend)).figures

    def grid_losses(self, rows: Rows) -> GridLosses:
        """The m_u of rows of net positions (on the host), by row and underlying."""
        return self.risk.grid_losses(rows)


def scenarios_of(parameters: Parameters, history: History) -> ScenarioSet:
    """Returns of the stress days that the lookback does not have, then those that it has."""
    window = historical(history, parameters.lookback, parameters.horizon_days, parameters.horizon)
    first = len(history.dates) - parameters.lookback
    places = [place for place in _stress_places(parameters, history) if place < first]
    if not places:
        return window
    step, days = _step(parameters), np.array(places)
    scale = 1.0 if parameters.horizon == "overlapping" else math.sqrt(parameters.horizon_days)
    returns = (history.prices[days] / history.prices[days - step] - 1.0) * scale
    names = tuple(history.dates[place].isoformat() for place in places)
    return ScenarioSet(
        names + window.names,
        np.concatenate([returns, window.returns]),
        f"{window.source}, and {len(names)} stress days",
    )


def _stress_places(parameters: Parameters, history: History) -> list[int]:
    """Places of the stress days among the dates; `ConfigError` names one that has no return."""
    place_of = {day: place for place, day in enumerate(history.dates)}
    step, places = _step(parameters), set()
    for day in parameters.stress_days:
        place = place_of.get(day, -1)
        if place < step:
            missing = "is not in the history" if place < 0 else f"has no price {step} day(s) before"
            raise ConfigError(
                f"stress_days: {day.isoformat()} {missing}: dates count up to the valuation date "
                "on which every factor in use has a valid price; give more history or leave the "
                "day out"
            )
        places.add(place)
    return sorted(places)


def _step(parameters: Parameters) -> int:
    """Dates from the first price of a return to its last."""
    return parameters.horizon_days if parameters.horizon == "overlapping" else 1


def _correlations(parameters: Parameters, returns: Floats) -> Floats:
    """[factor, factor] correlations of daily returns, none beyond 1."""
    if isinstance(parameters.estimator, Ewma):
        matrix = covariance.ewma(returns, parameters.estimator.decay)
    else:
        matrix = covariance.sample(returns)
    bounded: Floats = np.clip(covariance.correlation(matrix), -1.0, 1.0)
    return bounded


def _shortfall(confidence: float, scenarios: int) -> TailMeasure:
    """The mean of the worst losses, as many as are beyond the confidence and one at least."""
    # Rounded, so that 0.994 of 1000 scenarios leaves 6 and not 7.
    worst = max(1, math.ceil(round((1.0 - confidence) * scenarios, 9)))
    return TailMeasure((1.0,) * worst, float(worst))
