"""Black-76 and unit P&L: limits first, then the independent formula, then properties."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_margin.pricing import black76, black76_delta

POSITIVE = st.floats(1e-3, 1e6)


@pytest.mark.parametrize(("volatility", "time"), [(0.0, 1.0), (0.3, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize(
    ("forward", "call", "value", "delta"),
    [
        (110.0, True, 10.0, 1.0),
        (110.0, False, 0.0, 0.0),
        (90.0, True, 0.0, 0.0),
        (90.0, False, 10.0, -1.0),
        (100.0, True, 0.0, 0.5),
        (100.0, False, 0.0, -0.5),
    ],
)
def test_without_volatility_or_time_only_exercise_counts(
    volatility: float, time: float, forward: float, call: bool, value: float, delta: float
) -> None:
    discount = math.exp(-0.03 * time)
    terms = (forward, 100.0, volatility, time, 0.03, call)
    assert black76(*terms) == pytest.approx(discount * value, abs=1e-15)
    assert black76_delta(*terms) == pytest.approx(discount * delta, abs=1e-15)


def test_a_worthless_forward() -> None:
    assert black76(0.0, 100.0, 0.5, 2.0, 0.04, True) == 0.0
    assert black76(0.0, 100.0, 0.5, 2.0, 0.04, False) == pytest.approx(100 * math.exp(-0.08))


@pytest.mark.parametrize("call", [True, False])
@pytest.mark.parametrize("volatility", [1e-30, 1e-8, 10.0, 1e6])
def test_extreme_volatility_is_finite(volatility: float, call: bool) -> None:
    value = float(black76(100.0, 101.0, volatility, 1.0, 0.0, call))
    intrinsic, most = (0.0, 100.0) if call else (1.0, 101.0)
    assert intrinsic - 1e-12 <= value <= most + 1e-12


@given(POSITIVE, POSITIVE, st.floats(0, 5), st.floats(0, 30), st.floats(-0.1, 0.3), st.booleans())
def test_against_the_independent_formula(
    forward: float, strike: float, volatility: float, time: float, rate: float, call: bool
) -> None:
    terms = (forward, strike, volatility, time, rate, call)
    scale = max(forward, strike) * math.exp(-rate * time)
    other = ("call" if call else "put", forward, strike, time, volatility, rate)
    assert float(black76(*terms)) == pytest.approx(oracle.black76(*other), abs=1e-12 * scale)
    expected = oracle.black76_delta(*other)
    # Close to expiry the delta jumps at the strike: there rounding of ln(F / K) decides it.
    tolerance = 1e-12 + 1e-15 / max(volatility * math.sqrt(time), 1e-12)
    assert float(black76_delta(*terms)) == pytest.approx(expected, abs=tolerance * 10)


@given(POSITIVE, POSITIVE, st.floats(0.01, 2), st.floats(0.01, 5))
def test_put_call_parity(forward: float, strike: float, volatility: float, time: float) -> None:
    call = black76(forward, strike, volatility, time, 0.02, True)
    put = black76(forward, strike, volatility, time, 0.02, False)
    parity = math.exp(-0.02 * time) * (forward - strike)
    assert call - put == pytest.approx(parity, abs=1e-12 * max(forward, strike))


def test_delta_is_the_slope_of_the_value() -> None:
    forward = np.array([60.0, 95.0, 100.0, 105.0, 180.0])
    step = 1e-4
    terms = (100.0, 0.4, 0.7, 0.03)
    for call in (True, False):
        up, down = black76(forward + step, *terms, call), black76(forward - step, *terms, call)
        slope = (up - down) / (2 * step)
        assert black76_delta(forward, *terms, call) == pytest.approx(slope, abs=1e-8)
