"""Haircuts of one price: limits, numbers worked out by hand, plain loops over random prices."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpu_margin.failures import ConfigError
from gpu_margin.haircuts import (
    Calibration,
    PriceHistory,
    ewma_haircut,
    losses,
    measure,
    quantile_haircut,
    round_up,
    stress_floor,
)

Z99 = 2.3263478740408408  # 99% quantile of the normal distribution
FIRST = date(2024, 1, 1)
CRASH = [100.0, 90.0, 99.0, 80.0, 88.0, 88.0]


def days(count: int) -> tuple[date, ...]:
    return tuple(FIRST + timedelta(days=day) for day in range(count))


def history(*prices: float) -> PriceHistory:
    return PriceHistory(days(len(prices)), np.array(prices))


def calibration(**settings: Any) -> Calibration:
    return Calibration.model_validate({"horizon_days": 1, **settings})


# ---------------------------------------------------------------- limits


def test_a_price_that_does_not_move_needs_no_haircut() -> None:
    still = np.full(300, 7.3)
    assert quantile_haircut(still, 0.99, 2) == 0.0
    assert ewma_haircut(still, 0.99, 2, 0.97) == 0.0
    assert stress_floor(still, 2) == 0.0
    for method in ("quantile", "ewma"):
        found = measure(history(*still), calibration(method=method, stress_history=True))
        assert (found.haircut, found.rule, found.returns) == (0.0, method, 299)
        assert found.notes == ("no loss in its history",)


def test_a_price_that_only_rises_has_no_quantile_but_a_volatility() -> None:
    rising = 100.0 * 1.01 ** np.arange(200)
    assert quantile_haircut(rising, 0.99, 5) == 0.0
    assert stress_floor(rising, 5) == 0.0
    daily = math.log(1.01)
    expected = 1.0 - math.exp(-Z99 * daily * math.sqrt(5))
    assert ewma_haircut(rising, 0.99, 5, 0.97) == pytest.approx(expected, rel=1e-12)


def test_one_return() -> None:
    """The only loss is the quantile at any confidence, and its log return the volatility."""
    fall = np.array([100.0, 90.0])
    assert quantile_haircut(fall, 0.99, 1) == pytest.approx(0.1, rel=1e-15)
    assert quantile_haircut(fall, 0.99, 1, 1) == pytest.approx(0.1, rel=1e-15)
    expected = 1.0 - 0.9**Z99
    assert ewma_haircut(fall, 0.99, 1, 0.97) == pytest.approx(expected, rel=1e-12)
    assert ewma_haircut(fall[::-1], 0.99, 1, 0.5) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_history_that_is_too_short_says_how_short(count: int) -> None:
    short = np.full(count, 5.0)
    with pytest.raises(ConfigError, match=rf"1 return\(s\) over 3 day.* only 0: .* {count} valid"):
        quantile_haircut(short, 0.99, 3)
    assert stress_floor(short, 3) == 0.0


def test_a_lookback_beyond_the_history() -> None:
    prices = np.linspace(1.0, 2.0, 10)
    quantile_haircut(prices, 0.99, 2, 8)
    with pytest.raises(ConfigError, match=r"9 return\(s\) over 2 day.* only 8: .* 10 valid"):
        quantile_haircut(prices, 0.99, 2, 9)
    # Volatility is daily whatever the horizon.
    ewma_haircut(prices, 0.99, 20, 0.9, 9)
    with pytest.raises(ConfigError, match=r"10 return\(s\) over 1 day.* only 9"):
        ewma_haircut(prices, 0.99, 20, 0.9, 10)


def test_a_price_that_is_lost() -> None:
    gone = np.array([1e30, 1e-30])
    assert quantile_haircut(gone, 0.99, 1) == 1.0
    assert ewma_haircut(gone, 0.99, 1, 0.97) == 1.0
    assert measure(history(*gone), calibration()).haircut == 1.0


# ---------------------------------------------------------------- by hand


def test_losses_over_the_horizon_overlap() -> None:
    expected = [0.01, 1 - 80 / 90, 1 - 88 / 99, -0.1]
    assert losses(np.array(CRASH), 2) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("confidence", "lookback", "expected"),
    [
        # One-day losses: 0.1, -0.1, 19/99, -0.1, 0.
        (0.99, None, 19 / 99),
        (0.81, None, 19 / 99),
        (0.8, None, 19 / 99),  # 1 of 5
        (0.79, None, 0.1),  # 1.05 of 5: the 2nd
        (0.6, None, 0.1),  # 2 of 5
        (0.55, None, 0.0),  # the 3rd
        (0.99, 3, 19 / 99),
        (0.99, 2, 0.0),  # the crash is older than that
    ],
)
def test_the_rank_of_the_quantile(confidence: float, lookback: Any, expected: float) -> None:
    found = quantile_haircut(np.array(CRASH), confidence, 1, lookback)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_rank_is_that_of_the_model() -> None:
    """0.994 of 1000 losses leaves 6 and not 7, though 1 - 0.994 is a little more than 0.006."""
    fall = np.cumprod([1.0, *(1.0 - 1e-5 * loss for loss in range(1, 1001))])
    assert quantile_haircut(fall, 0.994, 1) == pytest.approx(995e-5, rel=1e-9)


def test_recent_days_weigh_more() -> None:
    prices = np.exp([0.0, 0.1, 0.1, 0.3])
    variance = (0.25 * 0.01 + 0.0 + 1.0 * 0.04) / 1.75
    expected = 1.0 - math.exp(-Z99 * math.sqrt(variance * 2))
    assert ewma_haircut(prices, 0.99, 2, 0.5) == pytest.approx(expected, rel=1e-12)
    variance = (0.0 + 0.04) / 1.5
    expected = 1.0 - math.exp(-Z99 * math.sqrt(variance * 2))
    assert ewma_haircut(prices, 0.99, 2, 0.5, lookback=2) == pytest.approx(expected, rel=1e-12)


def test_a_stress_day_is_where_the_loss_ends() -> None:
    prices = np.array(CRASH)
    assert stress_floor(prices, 1) == pytest.approx(19 / 99, rel=1e-12)
    assert stress_floor(prices, 1, [1, 2]) == pytest.approx(0.1, rel=1e-12)
    assert stress_floor(prices, 1, [2, 4]) == 0.0
    assert stress_floor(prices, 3, [2]) == 0.0  # no price three days before
    assert stress_floor(prices, 3, [3]) == pytest.approx(0.2, rel=1e-12)
    assert stress_floor(prices, 1, []) == 0.0


@pytest.mark.parametrize(
    ("haircut", "step", "expected"),
    [
        (0.0, 0.005, 0.0),
        (-0.2, 0.005, 0.0),
        (1e-6, 0.005, 0.005),
        (0.05, 0.005, 0.05),
        (0.05 + 1e-13, 0.005, 0.05),  # rounding, not risk
        (0.0500001, 0.005, 0.055),
        (0.1 + 0.2, 0.1, 0.3),
        (0.07, 0.07, 0.07),
        (0.98, 0.3, 1.0),
        (1.0, 0.005, 1.0),
        (7.0, 0.005, 1.0),
        (0.0123456, 1e-6, 0.012346),
    ],
)
def test_rounding_up(haircut: float, step: float, expected: float) -> None:
    assert round_up(haircut, step) == expected


# ---------------------------------------------------------------- the larger of method and floor


def test_the_floor_binds_where_it_is_larger() -> None:
    calm = history(*CRASH, *(88.0 + day % 2 for day in range(20)))
    settings = calibration(lookback=15)
    plain = measure(calm, settings)
    assert (plain.haircut, plain.rule, plain.returns) == (0.015, "quantile", 15)
    assert plain.notes == ("few losses: the quantile is the worst of 15",)
    asked = calibration(lookback=15, stress_dates=["2024-01-02", "2024-01-04"])
    assert (measure(calm, asked).haircut, measure(calm, asked).rule) == (0.195, "stress")
    everything = calibration(lookback=15, stress_history=True)
    assert (measure(calm, everything).haircut, measure(calm, everything).rule) == (0.195, "stress")
    lower = calibration(lookback=15, stress_dates=["2024-01-03"])
    assert (measure(calm, lower).haircut, measure(calm, lower).rule) == (0.015, "quantile")
    ewma = calibration(method="ewma", decay=0.5, stress_dates=["2024-01-04"])
    assert measure(calm, ewma).rule == "stress"
    # A floor that is no larger than the method's own does not bind.
    whole = calibration(stress_history=True)
    assert measure(calm, whole).rule == "quantile"


def test_a_stress_day_that_the_history_lacks_is_said() -> None:
    stressed = calibration(
        horizon_days=3,
        confidence=0.6,
        stress_dates=["2023-10-10", "2024-01-02", "2024-01-04", "2025-01-01"],
    )
    found = measure(history(*CRASH), stressed)
    assert found.rule == "stress"
    assert found.notes == ("no loss known up to stress day 2023-10-10, 2024-01-02, 2025-01-01",)


def test_enough_losses_are_not_remarked_upon() -> None:
    wave = [100.0 + math.sin(day) for day in range(101)]
    assert measure(history(*wave), calibration()).notes == ()
    assert measure(history(*wave[1:]), calibration()).notes != ()
    assert measure(history(*wave[1:]), calibration(method="ewma")).notes == ()


def test_the_returns_behind_a_haircut() -> None:
    """Losses over the horizon, but daily returns of a volatility."""
    wave = history(*(100.0 + math.sin(day) for day in range(101)))
    assert measure(wave, calibration(horizon_days=10)).returns == 91
    assert measure(wave, calibration(horizon_days=10, lookback=7)).returns == 7
    assert measure(wave, calibration(horizon_days=10, method="ewma")).returns == 100
    assert measure(history(1.0, 2.0), calibration(horizon_days=10, method="ewma")).haircut > 0


def test_the_other_way_round() -> None:
    found = measure(history(100.0, 125.0).inverse(), calibration())
    assert found.haircut == 0.2


@pytest.mark.parametrize(
    "wrong",
    [
        {"confidence": 0.5},
        {"confidence": 1.0},
        {"horizon_days": 0},
        {"lookback": 0},
        {"decay": 1.0},
        {"decay": 0.0},
        {"step": 0.0},
        {"step": 1.1},
        {"method": "guess"},
        {"confidense": 0.9},
        {"stress_dates": ["soon"]},
        {"confidence": math.nan},
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        calibration(**wrong)


# ---------------------------------------------------------------- plain loops


def slow_quantile(prices: list[float], confidence: float, h: int, lookback: int | None) -> float:
    found = [1 - prices[t] / prices[t - h] for t in range(h, len(prices))]
    if lookback is not None:
        found = found[len(found) - lookback :]
    found.sort(reverse=True)
    k = 1
    while k < (1 - confidence) * len(found) - 1e-9:
        k += 1
    return max(0.0, found[k - 1])


def slow_ewma(prices: list[float], z: float, h: int, decay: float, lookback: int | None) -> float:
    returns = [math.log(prices[t] / prices[t - 1]) for t in range(1, len(prices))]
    returns.reverse()
    weight, total, square = 1.0, 0.0, 0.0
    for number, value in enumerate(returns):
        if lookback is not None and number >= lookback:
            break
        total += weight
        square += weight * value**2
        weight *= decay
    return 1 - math.exp(-z * math.sqrt(square / total * h))


walks = st.lists(st.floats(0.5, 2.0), min_size=6, max_size=60)


@given(walks, st.floats(0.51, 0.999), st.integers(1, 5), st.booleans())
def test_quantiles_against_loops(prices: list[float], c: float, h: int, some: bool) -> None:
    lookback = max(1, (len(prices) - h) // 2) if some else None
    found = quantile_haircut(np.array(prices), c, h, lookback)
    assert found == pytest.approx(slow_quantile(prices, c, h, lookback), abs=1e-15)


@given(walks, st.integers(1, 5), st.floats(0.5, 0.999), st.booleans())
def test_volatilities_against_loops(prices: list[float], h: int, decay: float, some: bool) -> None:
    lookback = max(1, len(prices) // 2) if some else None
    found = ewma_haircut(np.array(prices), 0.99, h, decay, lookback)
    assert found == pytest.approx(slow_ewma(prices, Z99, h, decay, lookback), rel=1e-10, abs=1e-12)


@given(walks, st.integers(1, 5), st.sampled_from(["quantile", "ewma"]), st.floats(0.001, 0.5))
def test_what_holds_of_every_haircut(prices: list[float], h: int, method: str, step: float) -> None:
    """In [0, 1]; no less than the method, the floor, or with more confidence; scale is nothing."""
    asked = {"method": method, "horizon_days": h}
    fine = measure(history(*prices), calibration(**asked, step=1e-6)).haircut
    coarse = measure(history(*prices), calibration(**asked, step=step)).haircut
    assert 0.0 <= fine - 1e-6 <= coarse <= 1.0 or fine == 0.0 == coarse
    assert coarse < fine + step
    safer = measure(history(*prices), calibration(**asked, step=1e-6, confidence=0.999)).haircut
    assert safer >= fine
    stressed = calibration(**asked, step=1e-6, stress_history=True)
    assert measure(history(*prices), stressed).haircut >= fine
    assert measure(
        history(*(8.0 * price for price in prices)), calibration(**asked, step=1e-6)
    ) == (measure(history(*prices), calibration(**asked, step=1e-6)))
