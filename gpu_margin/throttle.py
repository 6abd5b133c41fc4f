"""Volatility-based throttling: realised volatility of marks, and what it leaves of size and pace.

The variance of an underlying is an exponentially weighted sum of its squared log returns per
second, so that marks may come at any pace. Thresholds then say how large an order may be, and how
long it must be after the one before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from pydantic import Field, model_validator

from gpu_margin.settings import Settings

# Marks come around the clock: a year has 365 days of 24 hours.
SECONDS_PER_YEAR = 365.0 * 86400.0


class Threshold(Settings):
    """What holds from a realised volatility on."""

    volatility: float = Field(
        gt=0, strict=True, allow_inf_nan=False, description="per year, as a decimal"
    )
    size_factor: float = Field(
        default=1.0, ge=0, le=1, strict=True, description="share of max_order_notional; 0 halts"
    )
    min_interval_seconds: float = Field(
        default=0.0,
        ge=0,
        strict=True,
        allow_inf_nan=False,
        description="between orders in one underlying",
    )


class ThrottleParameters(Settings):
    """How volatility slows orders; nothing is throttled unless it is asked for."""

    throttle: tuple[Threshold, ...] = Field(
        default=(), description="by ascending volatility; the last one that is reached holds"
    )
    max_order_notional: float | None = Field(
        default=None,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="largest order of a calm market, in margin currency; None for any",
    )
    half_life_seconds: float = Field(
        default=3600.0,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="after which a return counts half in the realised volatility",
    )

    @model_validator(mode="after")
    def _stricter_upwards(self) -> Self:
        for calm, wild in pairwise(self.throttle):
            if wild.volatility <= calm.volatility:
                raise ValueError("throttle: volatility must ascend from threshold to threshold")
            slower = wild.min_interval_seconds >= calm.min_interval_seconds
            if wild.size_factor > calm.size_factor or not slower:
                raise ValueError("throttle: a higher volatility must not allow more")
        if self.max_order_notional is None:
            for threshold in self.throttle:
                if 0.0 < threshold.size_factor < 1.0:
                    raise ValueError("throttle: size_factor is a share of max_order_notional")
        return self


@dataclass(frozen=True)
class MarkState:
    """The last mark of an underlying: price, time in seconds, variance of its log per second."""

    price: float
    time: float
    variance: float = 0.0

    @property
    def volatility(self) -> float:
        """Realised volatility per year, as a decimal."""
        return math.sqrt(self.variance * SECONDS_PER_YEAR)


def update_volatility(
    state: MarkState | None, price: float, time: float, half_life: float
) -> MarkState | None:
    """The state after one more mark; `time` and `half_life` in seconds.

    The first mark has no return: to start from history, begin with a `MarkState` of that variance.
    A mark that is no positive finite number, or older than the last, is not a mark: the state stays
    as it is, and grows stale. With r the log return over dt seconds and w = 2^(-dt / half_life),
    the variance becomes w v + (1 - w) r^2 / dt; marks at one time count with the limit of that.
    """
    if not (0.0 < price < math.inf and math.isfinite(time)):
        return state
    if state is None:
        return MarkState(price, time)
    passed = time - state.time
    if passed < 0.0:
        return state
    rate = math.log(2.0) / half_life
    gained = -math.expm1(-rate * passed) / passed if passed > 0.0 else rate
    # The difference of logs, for the ratio of two valid prices may leave the range of numbers.
    change = math.log(price) - math.log(state.price)
    return MarkState(
        price, time, math.exp(-rate * passed) * state.variance + gained * change * change
    )


def active(parameters: ThrottleParameters, volatility: float) -> Threshold | None:
    """The threshold that holds at a realised volatility; None below the first."""
    reached = [one for one in parameters.throttle if volatility >= one.volatility]
    return reached[-1] if reached else None


def largest_notional(parameters: ThrottleParameters, threshold: Threshold | None) -> float:
    """The largest order in margin currency under a threshold; inf where there is no bound."""
    factor = 1.0 if threshold is None else threshold.size_factor
    if parameters.max_order_notional is None:
        return math.inf if factor > 0.0 else 0.0
    return factor * parameters.max_order_notional


def longest_interval(parameters: ThrottleParameters) -> float:
    """The longest time in seconds that any threshold wants between orders."""
    return max((one.min_interval_seconds for one in parameters.throttle), default=0.0)
