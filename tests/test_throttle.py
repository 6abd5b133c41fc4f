"""Realised volatility of marks, and the thresholds that it meets."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gpu_margin.gate import GateParameters
from gpu_margin.throttle import (
    MarkState,
    Threshold,
    active,
    largest_notional,
    update_volatility,
)

YEAR = 365 * 86400
HOUR = 3600.0


def after(marks: list[tuple[float, float]], half_life: float = HOUR) -> MarkState:
    """The state after (price, time) marks."""
    state = None
    for price, time in marks:
        state = update_volatility(state, price, time, half_life)
    assert state is not None
    return state


# ---------------------------------------------------------------- limits


def test_the_first_mark_has_no_return() -> None:
    assert update_volatility(None, 5.0, 7.0, HOUR) == MarkState(5.0, 7.0, 0.0)


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_price_is_no_mark(price: float) -> None:
    state = MarkState(5.0, 7.0, 1e-9)
    assert update_volatility(state, price, 8.0, HOUR) == state
    assert update_volatility(None, price, 8.0, HOUR) is None


@pytest.mark.parametrize("time", [math.nan, math.inf, -math.inf, 6.999])
def test_a_mark_of_no_time_or_of_the_past_is_no_mark(time: float) -> None:
    state = MarkState(5.0, 7.0, 1e-9)
    assert update_volatility(state, 6.0, time, HOUR) == state


def test_prices_that_do_not_move_have_no_volatility() -> None:
    assert after([(3.0, float(time)) for time in range(50)]).volatility == 0.0


def test_prices_at_the_ends_of_the_range() -> None:
    state = after([(1e-300, 0.0), (1e300, 1.0)])
    assert math.isfinite(state.volatility)


# ---------------------------------------------------------------- given numbers


def test_one_return_after_a_half_life_counts_half() -> None:
    """r = log 1.01 in an hour: half of r^2 / 3600 per second."""
    state = after([(100.0, 0.0), (101.0, HOUR)])
    assert state.variance == pytest.approx(0.5 * math.log(1.01) ** 2 / HOUR, rel=1e-12)
    assert state.volatility == pytest.approx(math.sqrt(state.variance * YEAR), rel=1e-15)


def test_history_is_forgotten_by_half() -> None:
    state = update_volatility(MarkState(100.0, 0.0, 8e-9), 100.0, 3 * HOUR, HOUR)
    assert state is not None
    assert state.variance == pytest.approx(1e-9, rel=1e-12)


def test_marks_at_one_time_count_as_those_that_nearly_are() -> None:
    at_once, nearly = (after([(100.0, 0.0), (101.0, gap)]) for gap in (0.0, 1e-6))
    assert at_once.variance == pytest.approx(nearly.variance, rel=1e-9)
    assert at_once.variance == pytest.approx(math.log(2) / HOUR * math.log(1.01) ** 2)


def test_a_steady_market_has_its_volatility() -> None:
    """Returns of one size each minute, 80% a year: within a percent after ten half-lives."""
    size = 0.8 / math.sqrt(YEAR / 60.0)
    marks = [(100.0 * math.exp(size * (minute % 2)), 60.0 * minute) for minute in range(600)]
    assert after(marks).volatility == pytest.approx(0.8, rel=0.01)


# ---------------------------------------------------------------- in general

PRICES = st.floats(1.0, 200.0)
GAPS = st.floats(0.5, 7200.0)


@given(st.lists(st.tuples(PRICES, GAPS), min_size=1, max_size=20))
def test_it_is_a_weighted_sum_of_squared_returns(steps: list[tuple[float, float]]) -> None:
    """Term by term: what a return over dt gained, decayed since."""
    marks, time = [], 0.0
    for price, gap in steps:
        time += gap
        marks.append((price, time))
    total = 0.0
    for (old, begin), (new, end) in pairwise(marks):
        weight = 2.0 ** (-(time - end) / HOUR) - 2.0 ** (-(time - begin) / HOUR)
        total += weight * math.log(new / old) ** 2 / (end - begin)
    assert after(marks).variance == pytest.approx(total, rel=1e-9, abs=1e-20)


@given(PRICES, PRICES, GAPS, st.floats(0.01, 100.0))
def test_only_ratios_of_prices_count(old: float, new: float, gap: float, scale: float) -> None:
    one = after([(old, 0.0), (new, gap)])
    other = after([(scale * old, 0.0), (scale * new, gap)])
    assert one.variance == pytest.approx(other.variance, rel=1e-6, abs=1e-20)


# ---------------------------------------------------------------- thresholds

CALM = {"volatility": 0.5, "size_factor": 0.5, "min_interval_seconds": 1.0}
WILD = {"volatility": 1.5, "size_factor": 0.0, "min_interval_seconds": 9.0}


def parameters(**more: object) -> GateParameters:
    return GateParameters.model_validate({"model": "m", "stale_seconds": 5.0, **more})


@pytest.mark.parametrize(
    ("volatility", "reached", "largest"),
    [(0.0, None, 80.0), (0.49, None, 80.0), (0.5, 0, 40.0), (1.49, 0, 40.0), (1.5, 1, 0.0)],
)
def test_the_last_threshold_that_is_reached_holds(
    volatility: float, reached: int | None, largest: float
) -> None:
    settings = parameters(throttle=[CALM, WILD], max_order_notional=80.0)
    found = active(settings, volatility)
    assert found == (None if reached is None else settings.throttle[reached])
    assert largest_notional(settings, found) == largest


def test_by_default_nothing_is_throttled() -> None:
    settings = parameters()
    assert (settings.utilisation_cap, settings.lot, settings.throttle) == (1.0, 1.0, ())
    assert active(settings, 1e9) is None
    assert largest_notional(settings, None) == math.inf


def test_a_pace_and_a_halt_need_no_size() -> None:
    pace, halt = Threshold(volatility=0.5, min_interval_seconds=2.0), Threshold(**WILD)
    settings = parameters(throttle=[pace.model_dump(), halt.model_dump()])
    assert largest_notional(settings, settings.throttle[0]) == math.inf
    assert largest_notional(settings, settings.throttle[1]) == 0.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"utilisation_cap": 0.0}, "utilisation_cap"),
        ({"utilisation_cap": math.inf}, "utilisation_cap"),
        ({"utilisation_cap": "1"}, "utilisation_cap"),
        ({"stale_seconds": 0.0}, "stale_seconds"),
        ({"stale_seconds": math.nan}, "stale_seconds"),
        ({"model": ""}, "model"),
        ({"lot": 0.0}, "lot"),
        ({"half_life_seconds": 0.0}, "half_life_seconds"),
        ({"max_order_notional": 0.0}, "max_order_notional"),
        ({"utilization_cap": 1.0}, "did you mean 'utilisation_cap'"),
        ({"throttle": [{"volatility": 0.0}]}, "throttle.0.volatility"),
        ({"throttle": [{"volatility": 1.0, "size": 1.0}]}, "did you mean 'size_factor'"),
        ({"throttle": [WILD, CALM]}, "must ascend"),
        ({"throttle": [{**CALM, "size_factor": 0.0}, {**WILD, "size_factor": 0.5}]}, "allow more"),
        ({"throttle": [CALM, {**WILD, "min_interval_seconds": 0.5}]}, "allow more"),
        ({"throttle": [CALM]}, "share of max_order_notional"),
    ],
)
def test_wrong_settings_are_said(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parameters(**wrong)
    text = str(caught.value)
    assert said in text


@pytest.mark.parametrize("name", ["model", "stale_seconds"])
def test_what_must_be_said(name: str) -> None:
    given_settings = {"model": "m", "stale_seconds": 5.0}
    del given_settings[name]
    with pytest.raises(ValidationError, match=name):
        GateParameters.model_validate(given_settings)
