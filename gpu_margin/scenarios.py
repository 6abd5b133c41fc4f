"""Scenarios of factor returns, and the returns that covariances are estimated from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpu_margin.failures import ConfigError
from gpu_margin.market import History

Floats = NDArray[np.float64]
Horizon = Literal["overlapping", "sqrt_time"]


@dataclass(frozen=True)
class ScenarioSet:
    """Named scenarios: `returns` [scenario, factor] are simple returns, oldest first.

    `source` says where they came from.
    """

    names: tuple[str, ...]
    returns: Floats
    source: str


def historical(
    history: History, lookback: int, horizon_days: int = 1, horizon: Horizon = "overlapping"
) -> ScenarioSet:
    """The last `lookback` returns of all factors, named by the last day of each.

    "overlapping" takes returns over `horizon_days` dates of the history; "sqrt_time" multiplies
    one-day returns by the root of `horizon_days`. Raises `ConfigError` where the history is too
    short.
    """
    step = horizon_days if horizon == "overlapping" else 1
    scale = 1.0 if horizon == "overlapping" else math.sqrt(horizon_days)
    returns = simple_returns(history, lookback, step) * scale
    names = tuple(day.isoformat() for day in history.dates[len(history.dates) - lookback :])
    return ScenarioSet(names, returns, f"historical, {horizon} {horizon_days}-day returns")


def simple_returns(history: History, lookback: int, step: int = 1) -> Floats:
    """[return, factor] the last `lookback` simple returns over `step` dates, oldest first.

    Raises `ConfigError` where the history is too short.
    """
    require_history(history, lookback, step)
    prices = history.prices[len(history.dates) - lookback - step :]
    return prices[step:] / prices[:-step] - 1.0


def require_history(history: History, lookback: int, step: int = 1) -> None:
    """Raise `ConfigError` unless there are `lookback` returns over `step` dates."""
    available = max(len(history.dates) - step, 0)
    if lookback > available:
        raise ConfigError(
            f"lookback asks for {lookback} returns over {step} day(s), but there are only "
            f"{available}: the history has {len(history.dates)} dates, up to the valuation date, "
            "on which every factor in use has a valid price; lower lookback or give more history"
        )
