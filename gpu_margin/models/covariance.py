"""Parametric value-at-risk: z sqrt(x'Cx) of an account's exposures by risk factor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin import covariance, pricing, scenarios
from gpu_margin.backend import Backend
from gpu_margin.market import Market
from gpu_margin.portfolio import Portfolio, Rows, regroup, row_offsets
from gpu_margin.result import Margin, PositionFigures
from gpu_margin.settings import Settings
from gpu_margin.unit_risk import Requirement, UnitRisk, margin_of, position_figures

Inputs = Market


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


class Parameters(Settings):
    """Settings of a covariance model."""

    confidence: float = Field(gt=0.5, lt=1, strict=True, description="of the normal quantile")
    estimator: Annotated[Sample | Ewma | LedoitWolf, Field(discriminator="kind")]
    lookback: int = Field(ge=1, strict=True, description="daily returns, up to the valuation date")
    horizon_days: int = Field(default=1, ge=1, strict=True, description="margin period of risk")


@dataclass(frozen=True)
class Prepared:
    """The model in one market: `matrix` [factor, factor] is the covariance over the horizon."""

    z: float
    market: Market
    matrix: NDArray[np.float64]
    unit: UnitRisk

    def margin(self, portfolio: Portfolio) -> list[Margin]:
        """Initial margin of every netting set."""
        group = self.market.instruments.group
        return [margin_of(portfolio, group, self.unit, "value_at_risk")]

    def positions(self, portfolio: Portfolio) -> PositionFigures:
        """Contributions z e_i (Cx)_f / sqrt(x'Cx), e_i the position's exposure to factor f."""
        rows = portfolio.netted
        exposure = rows.value * pricing.unit_exposure(self.market.instruments)[rows.column]
        factor = self.market.instruments.factor[rows.column]
        contribution = np.zeros(len(exposure))
        for row in range(len(rows)):
            own = slice(rows.offsets[row], rows.offsets[row + 1])
            x = np.bincount(factor[own], exposure[own], minlength=len(self.matrix))
            slope = self.matrix @ x
            variance = float(x @ slope)
            if variance > 0:
                share = exposure[own] * slope[factor[own]] / math.sqrt(variance)
                contribution[own] = self.z * share
        return position_figures(portfolio, self.unit, contribution)


def check(parameters: Parameters, market: Market) -> None:
    """The history must have `lookback` daily returns."""
    scenarios.require_history(market.history, parameters.lookback)


def prepare(parameters: Parameters, market: Market, backend: Backend) -> Prepared:
    """Estimate the covariance and price the instruments' exposures."""
    returns = scenarios.simple_returns(market.history, parameters.lookback)
    matrix = parameters.horizon_days * _estimate(parameters.estimator, returns)
    z = NormalDist().inv_cdf(parameters.confidence)
    exposure = pricing.unit_exposure(market.instruments)
    factor = market.instruments.factor
    own = z * np.abs(exposure) * np.sqrt(np.diag(matrix)[factor])
    resident = backend.to_device(matrix)
    unit_exposure = backend.to_device(exposure)

    def require(rows: Rows, on_device: Rows) -> Requirement:
        xp = backend.xp
        position_exposure = on_device.value * xp.take(unit_exposure, on_device.column, axis=0)
        by_factor = _by_factor(rows, factor[rows.column], position_exposure, backend)
        variance = backend.quadratic_form(by_factor, resident)
        amount = z * xp.sqrt(xp.maximum(variance, xp.zeros_like(variance)))
        return Requirement(amount, np.full(len(rows), -1, dtype=np.int64))

    device_own = backend.to_device(own)
    unit = UnitRisk(unit_exposure, device_own, device_own, require, backend)
    return Prepared(z, market, matrix, unit)


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
