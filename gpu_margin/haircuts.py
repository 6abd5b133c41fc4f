"""The haircut of one price from its history.

A haircut covers, with the asked confidence, what an asset may lose while it is being sold: the
quantile of its losses over that time, or what its exponentially weighted volatility makes of it;
never less than its worst loss of the stress days that are named.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin import covariance
from gpu_margin.failures import ConfigError
from gpu_margin.settings import Settings

Floats = NDArray[np.float64]

STRESS = "stress"


class Calibration(Settings):
    """How haircuts are measured.

    `fx_factors` maps a currency to the factor that is its price in margin currency, or to
    "1/FACTOR" where the factor is the price of the margin currency in it.
    """

    method: Literal["quantile", "ewma"] = "quantile"
    confidence: float = Field(default=0.99, gt=0.5, lt=1, description="share of losses covered")
    horizon_days: int = Field(default=2, ge=1, description="days that selling the asset takes")
    lookback: int | None = Field(default=None, ge=1, description="last losses; None: all there are")
    decay: float = Field(default=0.97, gt=0, lt=1, description="ewma: weight of a day to the next")
    stress_dates: tuple[date, ...] = Field(default=(), description="losses up to these are a floor")
    stress_history: bool = Field(default=False, description="the worst loss of all is a floor")
    step: float = Field(default=0.005, ge=1e-6, le=1, description="haircuts are multiples of it")
    fx_factors: dict[str, str] = Field(default={}, description="factor of a currency's price")

    @property
    def summary(self) -> str:
        """All of it in one line."""
        decay = f", decay {self.decay:g}" if self.method == "ewma" else ""
        days = [*map(str, self.stress_dates), *(["all history"] if self.stress_history else [])]
        stress = f", stress {' '.join(days)}" if days else ""
        fx = "".join(f", {name} = {factor}" for name, factor in self.fx_factors.items())
        return (
            f"{self.method} {self.confidence:g}{decay}, {self.horizon_days} days, "
            f"lookback {self.lookback or 'all'}{stress}{fx}, step {self.step:g}"
        )


@dataclass(frozen=True)
class PriceHistory:
    """Valid prices of one factor, oldest first; `prices` [date] > 0."""

    dates: tuple[date, ...]
    prices: Floats

    def inverse(self) -> PriceHistory:
        """The same seen from the other currency."""
        return PriceHistory(self.dates, 1.0 / self.prices)

    def place(self, day: date) -> int | None:
        """Where the price of that day stands, None without one."""
        at = bisect_left(self.dates, day)
        return at if self.dates[at : at + 1] == (day,) else None


@dataclass(frozen=True)
class Measured:
    """A haircut, which rule gave it, the number of returns behind it and what to know of it."""

    haircut: float
    rule: str
    returns: int
    notes: tuple[str, ...] = ()


def losses(prices: Floats, horizon_days: int) -> Floats:
    """[date] of the prices from `horizon_days` on: the share lost since that many dates before."""
    return 1.0 - prices[horizon_days:] / prices[:-horizon_days]


def quantile_haircut(
    prices: Floats, confidence: float, horizon_days: int, lookback: int | None = None
) -> float:
    """The k-th worst of the last `lookback` overlapping losses, k = max(1, ceil((1 - c) n)).

    The rank is that of the simulation model's discrete value-at-risk, and no loss is below 0:
    the result lies in [0, 1]. `prices` [date] > 0, oldest first. Raises `ConfigError` where
    there are fewer losses than asked for, or none.
    """
    count = _returns(prices, horizon_days, lookback)
    worst_first = np.sort(losses(prices, horizon_days)[-count:])[::-1]
    return max(0.0, float(worst_first[_rank(confidence, count) - 1]))


def ewma_haircut(
    prices: Floats, confidence: float, horizon_days: int, decay: float, lookback: int | None = None
) -> float:
    """1 - exp(-z sigma sqrt(h)), in [0, 1], z the normal quantile.

    sigma^2 is the mean of the squares of the last `lookback` daily log returns with weights
    decay^age; the mean is not removed. `prices` and errors as for `quantile_haircut`.
    """
    count = _returns(prices, 1, lookback)
    daily = np.diff(np.log(prices[-count - 1 :]))
    variance = float(covariance.ewma(daily[:, None], decay)[0, 0])
    spread = NormalDist().inv_cdf(confidence) * math.sqrt(variance) * math.sqrt(horizon_days)
    return -math.expm1(-spread)


def stress_floor(prices: Floats, horizon_days: int, ends: Sequence[int] | None = None) -> float:
    """The largest loss over the horizon that ends at one of these places of `prices`, at least 0.

    None is everywhere. A place that has no price `horizon_days` before it has no loss.
    """
    if len(prices) <= horizon_days:
        return 0.0
    found = losses(prices, horizon_days)
    if ends is not None:
        found = found[[end - horizon_days for end in ends if end >= horizon_days]]
    return max(0.0, float(found.max(initial=0.0)))


def round_up(haircut: float, step: float) -> float:
    """The next multiple of `step`, no more than 1; a multiple stays itself despite its rounding."""
    steps = math.ceil(round(min(max(haircut, 0.0), 1.0) / step, 9))
    return min(1.0, round(steps * step, 12))


def measure(history: PriceHistory, settings: Calibration) -> Measured:
    """The haircut of a price: the larger of method and stress floor, rounded up.

    Raises `ConfigError` with the counts where the history is too short.
    """
    step = settings.horizon_days if settings.method == "quantile" else 1
    count = _returns(history.prices, step, settings.lookback)
    asked = (history.prices, settings.confidence, settings.horizon_days)
    if settings.method == "quantile":
        value = quantile_haircut(*asked, settings.lookback)
    else:
        value = ewma_haircut(*asked, settings.decay, settings.lookback)
    floor, without = _floor(history, settings)
    notes = _remarks(value, floor, count, settings)
    if without:
        notes.append(f"no loss known up to stress day {', '.join(map(str, without))}")
    rule = STRESS if floor > value else settings.method
    return Measured(round_up(max(value, floor), settings.step), rule, count, tuple(notes))


def _floor(history: PriceHistory, settings: Calibration) -> tuple[float, list[date]]:
    """The stress floor, and the stress days that this history cannot speak of."""
    horizon = settings.horizon_days
    if settings.stress_history:
        return stress_floor(history.prices, horizon), []
    places = {day: history.place(day) for day in settings.stress_dates}
    ends = {day: at for day, at in places.items() if at is not None and at >= horizon}
    without = [day for day in settings.stress_dates if day not in ends]
    return stress_floor(history.prices, horizon, list(ends.values())), without


def _remarks(value: float, floor: float, count: int, settings: Calibration) -> list[str]:
    """What makes a haircut doubtful."""
    few = settings.method == "quantile" and count * (1.0 - settings.confidence) < 1.0 - 1e-9
    return [
        *([f"few losses: the quantile is the worst of {count}"] if few else []),
        *(["no loss in its history"] if max(value, floor) == 0 else []),
    ]


def _rank(confidence: float, count: int) -> int:
    # Rounded, so that 0.994 of 1000 losses leaves 6 and not 7.
    return max(1, math.ceil(round((1.0 - confidence) * count, 9)))


def _returns(prices: Floats, step: int, lookback: int | None) -> int:
    """How many returns over `step` dates are used; `ConfigError` where there are too few."""
    available = max(len(prices) - step, 0)
    if available < (lookback or 1):
        raise ConfigError(
            f"{lookback or 1} return(s) over {step} day(s) are needed, but there are only "
            f"{available}: the history has {len(prices)} valid price(s) up to the valuation date; "
            "lower lookback, give more history, or leave its factor empty to keep the haircut"
        )
    return lookback or available
