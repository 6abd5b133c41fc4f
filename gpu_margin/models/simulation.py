"""Value-at-risk, expected shortfall or worst loss over scenarios, by full revaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin import pricing
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.market import Market
from gpu_margin.portfolio import Portfolio, Rows, entry_rows
from gpu_margin.result import Margin, PositionFigures
from gpu_margin.scenarios import Horizon, ScenarioSet, historical, require_history
from gpu_margin.settings import Settings
from gpu_margin.unit_risk import (
    Array,
    Require,
    Requirement,
    UnitRisk,
    margin_of,
    position_figures,
    upload,
)

Inputs = Market
Floats = NDArray[np.float64]

_Confidence = Field(gt=0, lt=1, strict=True, description="share of scenarios to be covered")


class HistoricalScenarios(Settings):
    """The last `lookback` returns of the factors' history."""

    kind: Literal["historical"]
    lookback: int = Field(ge=1, strict=True, description="returns, up to the valuation date")


class ValueAtRisk(Settings):
    """The k-th worst loss, or with tail "hazen" the interpolated quantile."""

    kind: Literal["var"]
    confidence: float = _Confidence
    tail: Literal["discrete", "fractional", "hazen"] = "discrete"


class ExpectedShortfall(Settings):
    """The mean of the k worst losses; "fractional" counts the k-th in part."""

    kind: Literal["es"]
    confidence: float = _Confidence
    tail: Literal["discrete", "fractional"] = "discrete"


class WorstLoss(Settings):
    """The largest loss."""

    kind: Literal["worst"]


Measure = ValueAtRisk | ExpectedShortfall | WorstLoss


class Parameters(Settings):
    """Settings of a simulation model."""

    scenarios: HistoricalScenarios
    measure: Annotated[Measure, Field(discriminator="kind")]
    horizon_days: int = Field(default=1, ge=1, strict=True, description="margin period of risk")
    horizon: Horizon = Field(
        default="overlapping", description="h-day returns, or 1-day returns times sqrt(h)"
    )


_COMPONENT = {"var": "value_at_risk", "es": "expected_shortfall", "worst": "worst_loss"}


@dataclass(frozen=True)
class Prepared:
    """The model in one market: `unit_pnl` [instrument, scenario] of one long contract."""

    market: Market
    scenarios: ScenarioSet
    measure: TailMeasure
    component: str
    unit_pnl: Floats
    unit: UnitRisk

    def margin(self, portfolio: Portfolio) -> list[Margin]:
        """Initial margin of every netting set."""
        group, names = self.market.instruments.group, self.scenarios.names
        return [margin_of(portfolio, group, self.unit, self.component, names)]

    def positions(self, portfolio: Portfolio) -> PositionFigures:
        """Contributions: a position's losses in the scenarios of its set's tail, weighted alike.

        Of equal losses the earliest scenario counts as the worse. A requirement that is floored
        at 0 does not depend on its positions: their contributions are 0.
        """
        rows = portfolio.netted
        losses = -rows.value[:, None] * self.unit_pnl[rows.column]
        owner = portfolio.set_account[entry_rows(rows)]
        worst_pnl = np.zeros(len(losses))
        for account in range(len(portfolio.accounts)):
            own = owner == account
            worst_pnl[own] = -losses[own][:, losses[own].sum(axis=0).argmax()]
        return position_figures(portfolio, self.unit, self._contribution(rows, losses), worst_pnl)

    def _contribution(self, rows: Rows, losses: Floats) -> Floats:
        weights = np.array(self.measure.weights) / self.measure.divisor
        contribution = np.zeros(len(losses))
        for row in range(len(rows)):
            own = slice(rows.offsets[row], rows.offsets[row + 1])
            worst_first = np.argsort(-losses[own].sum(axis=0), kind="stable")
            shares = losses[own][:, worst_first[: len(weights)]] @ weights
            contribution[own] = shares if shares.sum() > 0 else 0.0
        return contribution


def check(parameters: Parameters, market: Market) -> None:
    """The history must have `lookback` returns over the horizon."""
    step = parameters.horizon_days if parameters.horizon == "overlapping" else 1
    require_history(market.history, parameters.scenarios.lookback, step)


def prepare(parameters: Parameters, market: Market, backend: Backend) -> Prepared:
    """Reprice every instrument in every scenario."""
    scenarios = historical(
        market.history,
        parameters.scenarios.lookback,
        parameters.horizon_days,
        parameters.horizon,
    )
    measure = tail_measure(parameters.measure, len(scenarios.names))
    unit_pnl = pricing.unit_pnl(market.instruments, scenarios.returns)
    resident = backend.to_device(unit_pnl)
    xp = backend.xp

    def require(rows: Rows, on_device: Rows) -> Requirement:
        tail = backend.tail(on_device, resident, [measure])
        amount = tail.value[:, 0]
        worst = backend.to_host(tail.worst)
        return Requirement(xp.maximum(amount, xp.zeros_like(amount)), worst)

    unit = UnitRisk(
        exposure=backend.to_device(pricing.unit_exposure(market.instruments)),
        long=_own(1.0, len(unit_pnl), require, backend),
        short=_own(-1.0, len(unit_pnl), require, backend),
        require=require,
        backend=backend,
    )
    component = _COMPONENT[parameters.measure.kind]
    return Prepared(market, scenarios, measure, component, unit_pnl, unit)


def tail_measure(measure: Measure, scenarios: int) -> TailMeasure:
    """The measure as weights of the worst losses among `scenarios` of them."""
    if isinstance(measure, WorstLoss):
        return TailMeasure((1.0,))
    if measure.tail == "hazen":
        return _hazen(measure.confidence, scenarios)
    # Rounded, so that 0.994 of 1000 scenarios leaves 6 and not 7.
    mass = round((1.0 - measure.confidence) * scenarios, 9)
    k = max(1, math.ceil(mass))
    if isinstance(measure, ValueAtRisk):
        return TailMeasure((0.0,) * (k - 1) + (1.0,))
    if measure.tail == "fractional" and k > 1:
        return TailMeasure((1.0,) * (k - 1) + (mass - k + 1,), mass)
    return TailMeasure((1.0,) * k, float(k))


def _hazen(confidence: float, scenarios: int) -> TailMeasure:
    """Interpolate at rank n x confidence + 1/2 of the losses in ascending order."""
    place = min(max(scenarios * confidence - 0.5, 0.0), scenarios - 1.0)
    below = math.floor(place)
    weight = place - below
    if weight == 0.0:
        return TailMeasure((0.0,) * (scenarios - 1 - below) + (1.0,))
    return TailMeasure((0.0,) * (scenarios - 2 - below) + (weight, 1.0 - weight))


def _own(side: float, instruments: int, require: Require, backend: Backend) -> Array:
    """[instrument] requirement of one contract alone, long (1) or short (-1)."""
    count = np.arange(instruments + 1, dtype=np.int64)
    rows = Rows(count, count[:-1], np.full(instruments, side))
    return require(rows, upload(rows, backend)).amount
