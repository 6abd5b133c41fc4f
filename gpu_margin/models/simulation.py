"""Value-at-risk, expected shortfall or worst loss over scenarios, by full revaluation."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin import pricing
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import Placed
from gpu_margin.market import Market
from gpu_margin.offsets import OffsetParameters, check_offsets, offsets_of
from gpu_margin.portfolio import Rows, entry_rows
from gpu_margin.precision import Precision, StoredPnl, store
from gpu_margin.scenarios import Horizon, historical, require_history
from gpu_margin.settings import Settings
from gpu_margin.tails import euler_measure
from gpu_margin.unit_risk import (
    Amount,
    Of,
    Prepared,
    ScenarioVectors,
    UnitRisk,
    own_requirement,
)

Array = Any
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


class Parameters(OffsetParameters):
    """Settings of a simulation model."""

    scenarios: HistoricalScenarios
    measure: Annotated[Measure, Field(discriminator="kind")]
    horizon_days: int = Field(default=1, ge=1, strict=True, description="margin period of risk")
    horizon: Horizon = Field(
        default="overlapping", description="h-day returns, or 1-day returns times sqrt(h)"
    )
    precision: Precision = Field(
        default="float64",
        description="unit P&L stored and summed in float64; mixed: stored in float32, half the "
        "memory traffic, at most 6e-8 of gross P&L off; float32: summed in it too, at most 6e-8 "
        "of it per position and two more",
    )
    repricing: Literal["host", "device"] = Field(
        default="host",
        description="options by scipy on the host, the same bits everywhere; or by the device, "
        "within 1e-13 max(forward, strike) of it",
    )


_COMPONENT = {"var": "value_at_risk", "es": "expected_shortfall", "worst": "worst_loss"}


def check(parameters: Parameters, market: Market) -> None:
    """The history must have `lookback` returns over the horizon."""
    step = parameters.horizon_days if parameters.horizon == "overlapping" else 1
    require_history(market.history, parameters.scenarios.lookback, step)
    check_offsets(parameters, market)


def prepare(parameters: Parameters, market: Market, backend: Backend) -> Prepared:
    """Reprice every instrument in every scenario."""
    scenarios = historical(
        market.history,
        parameters.scenarios.lookback,
        parameters.horizon_days,
        parameters.horizon,
    )
    measure = tail_measure(parameters.measure, len(scenarios.names))
    black76 = pricing.black76_on(backend) if parameters.repricing == "device" else pricing.black76
    unit_pnl = pricing.unit_pnl(market.instruments, scenarios.returns, black76)
    stored = store(unit_pnl, parameters.precision, backend)
    risk = _Simulation(stored, measure, backend.to_device(scenarios.returns.T.copy()), backend)
    # What is added to a book's own scenarios must be as exact as they are.
    exact = parameters.precision == "float64"
    unit = UnitRisk(
        market=market,
        backend=backend,
        component=_COMPONENT[parameters.measure.kind],
        exposure=backend.to_device(pricing.unit_exposure(market.instruments)),
        long=own_requirement(1.0, len(unit_pnl), risk.measure, backend),
        short=own_requirement(-1.0, len(unit_pnl), risk.measure, backend),
        measure=risk.measure,
        rates=risk.rates,
        offsets=offsets_of(parameters, market),
        scenarios=scenarios.names,
        unit_pnl=stored.pnl,
        vectors=ScenarioVectors(stored.resident, measure) if exact else None,
    )
    return Prepared(unit)


class _Simulation:
    """A measure of the tail of rows, and its slopes; `returns` [factor, scenario] on the device."""

    def __init__(
        self, stored: StoredPnl, measure: TailMeasure, returns: Array, backend: Backend
    ) -> None:
        self._stored, self._measure, self._backend = stored, measure, backend
        self._returns = returns

    def measure(self, rows: Placed) -> Amount:
        """[row] the measure, at least 0, and the worst scenario."""
        xp = self._backend.xp
        tail = self._stored.tail(rows.device, [self._measure])
        value = tail.value[:, 0]
        return Amount(xp.maximum(value, xp.zeros_like(value)), self._backend.to_host(tail.worst))

    def rates(self, rows: Placed, probes: Rows, of: Of, smooth: bool) -> Floats:
        """[probe entry] mean loss of one unit in the scenarios of its row's tail."""
        backend, xp = self._backend, self._backend.xp
        matrix = self._stored.resident if of == "instrument" else self._returns
        count = int(matrix.shape[1])
        measure = euler_measure(self._measure, count) if smooth else self._measure
        scenarios: Array = self._stored.tail(rows.device, [measure], True).scenarios
        flat = xp.reshape(matrix, (-1,))
        owner = backend.to_device(entry_rows(probes))
        line = backend.to_device(probes.column * count)
        total = backend.to_device(np.zeros(len(probes.column)))
        # From the least loss to the worst, as the measure itself adds up.
        for place in reversed(range(len(measure.weights))):
            if measure.weights[place] != 0.0:
                chosen = line + xp.take(scenarios[:, place], owner, axis=0)
                profit = xp.asarray(xp.take(flat, chosen, axis=0), dtype=xp.float64)
                total = total - measure.weights[place] * profit
        return backend.to_host(total / measure.divisor)


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
