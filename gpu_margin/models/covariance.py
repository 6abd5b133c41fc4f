"""Parametric value-at-risk: z sqrt(x'Cx) of an account's exposures by risk factor."""

from __future__ import annotations

from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin import covariance, pricing, scenarios
from gpu_margin.backend import Backend
from gpu_margin.books import Placed
from gpu_margin.market import Market
from gpu_margin.offsets import OffsetParameters, check_offsets, offsets_of
from gpu_margin.portfolio import Rows, entry_rows, regroup, row_offsets
from gpu_margin.settings import Settings
from gpu_margin.unit_risk import Amount, Of, Prepared, UnitRisk

Inputs = Market
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Slopes [row, factor] that are held at a time.
_SLOPES = 1 << 22


class Sample(Settings):
    """R'R / n, the mean not removed."""

    kind: Literal["sample"]


class Ewma(Settings):
    """Exponentially weighted: weights decay^age that sum to 1 over the lookback."""

    kind: Literal["ewma"]
    decay: float = Field(gt=0, lt=1, strict=True, description="weight of each day to the next")


class LedoitWolf(Settings):
    """Shrunk towards the identity, intensity after Ledoit and Wolf (2004)."""

    kind: Literal["ledoit_wolf"]


class Parameters(OffsetParameters):
    """Settings of a covariance model."""

    confidence: float = Field(gt=0.5, lt=1, strict=True, description="of the normal quantile")
    estimator: Annotated[Sample | Ewma | LedoitWolf, Field(discriminator="kind")]
    lookback: int = Field(ge=1, strict=True, description="daily returns, up to the valuation date")
    horizon_days: int = Field(default=1, ge=1, strict=True, description="margin period of risk")


def check(parameters: Parameters, market: Market) -> None:
    """The history must have `lookback` daily returns."""
    scenarios.require_history(market.history, parameters.lookback)
    check_offsets(parameters, market)


def prepare(parameters: Parameters, market: Market, backend: Backend) -> Prepared:
    """Estimate the covariance and price the instruments' exposures."""
    returns = scenarios.simple_returns(market.history, parameters.lookback)
    matrix = parameters.horizon_days * _estimate(parameters.estimator, returns)
    exposure = pricing.unit_exposure(market.instruments)
    factor = market.instruments.factor
    z = NormalDist().inv_cdf(parameters.confidence)
    risk = _Covariance(z, factor, exposure, matrix, backend)
    own = backend.to_device(z * np.abs(exposure) * np.sqrt(np.diag(matrix)[factor]))
    unit = UnitRisk(
        market=market,
        backend=backend,
        component="value_at_risk",
        exposure=risk.exposure,
        long=own,
        short=own,
        measure=risk.measure,
        rates=risk.rates,
        offsets=offsets_of(parameters, market),
    )
    return Prepared(unit)


class _Covariance:
    """z sqrt(x'Cx) of rows, and its slopes; `matrix` [factor, factor] is over the horizon."""

    def __init__(
        self, z: float, factor: Ints, exposure: Floats, matrix: Floats, backend: Backend
    ) -> None:
        self._z, self._factor, self._unit, self._backend = z, factor, exposure, backend
        self.exposure, self._matrix = backend.to_device(exposure), backend.to_device(matrix)

    def measure(self, rows: Placed) -> Amount:
        """[row] z sqrt(x'Cx)."""
        xp = self._backend.xp
        variance = self._backend.quadratic_form(self._by_factor(rows), self._matrix)
        value = self._z * xp.sqrt(xp.maximum(variance, xp.zeros_like(variance)))
        return Amount(value, np.full(len(rows.host), -1, dtype=np.int64))

    def rates(self, rows: Placed, probes: Rows, of: Of, smooth: bool) -> Floats:
        """[probe entry] z (Cx)_f / sqrt(x'Cx) per unit of exposure; 0 where there is no risk."""
        backend, count = self._backend, len(rows.host)
        by_factor, width = self._by_factor(rows), int(self._matrix.shape[0])
        variance = backend.to_host(backend.quadratic_form(by_factor, self._matrix))
        deviation = np.sqrt(np.maximum(variance, 0.0))
        factor = self._factor[probes.column] if of == "instrument" else probes.column
        owner, slope = entry_rows(probes), np.zeros(len(probes.column))
        offsets = backend.to_host(by_factor.offsets)
        step = max(1, _SLOPES // max(width, 1))
        for start in range(0, count, step):
            stop = min(start + step, count)
            own = slice(*np.searchsorted(owner, (start, stop)))
            part = _rows_between(by_factor, offsets, start, stop, backend)
            block = backend.to_host(backend.weighted_sum(part, self._matrix))
            slope[own] = block[owner[own] - start, factor[own]]
        risky = deviation[owner] > 0.0
        rate = self._z * slope / np.where(risky, deviation[owner], 1.0)
        unit = self._unit[probes.column] if of == "instrument" else 1.0
        return np.where(risky, rate, 0.0) * unit

    def _by_factor(self, rows: Placed) -> Rows:
        """Rows of factors on the device: the positions' exposures summed by factor."""
        backend, xp = self._backend, self._backend.xp
        exposure = rows.device.value * xp.take(self.exposure, rows.device.column, axis=0)
        return _by_factor(rows.host, self._factor[rows.host.column], exposure, backend)


def _rows_between(rows: Rows, offsets: Ints, start: int, stop: int, backend: Backend) -> Rows:
    """Rows start to stop of rows on the device, `offsets` being theirs on the host."""
    first, last = int(offsets[start]), int(offsets[stop])
    own = backend.to_device(offsets[start : stop + 1] - first)
    return Rows(own, rows.column[first:last], rows.value[first:last])


def _by_factor(rows: Rows, factor: NDArray[np.int64], exposure: Any, backend: Backend) -> Rows:
    """Rows of factors on the device: `exposure` [entry, on the device] summed by `factor`."""
    parts = regroup(rows, factor)
    device = backend.to_device
    ordered = backend.xp.take(exposure, device(parts.order), axis=0)
    value = backend.segment_sum(ordered, device(parts.offsets))
    return Rows(device(row_offsets(parts.owner, len(rows))), device(parts.part), value)


def _estimate(estimator: Sample | Ewma | LedoitWolf, returns: NDArray[np.float64]) -> Any:
    if isinstance(estimator, Ewma):
        return covariance.ewma(returns, estimator.decay)
    if isinstance(estimator, LedoitWolf):
        return covariance.ledoit_wolf(returns)
    return covariance.sample(returns)
