"""What crypto venues do to prices and volatilities in a scenario: formulas alone, on the host.

Volatilities are per year as decimals, times in years of 365 days unless said otherwise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.pricing import black76

Floats = NDArray[np.float64]

DAY = 86_400.0
YEAR = 365.0 * DAY
# The tenor, in seconds, at which the powers of volatility shocks change over.
_MONTH = 30.0 * DAY
# The settlement price is an average over so many seconds before expiry.
_AVERAGING = 1_800.0
# Of volatility x sqrt(time): from here on a call is worth its forward to the last bit. It is also
# how far from the money, in units of itself, a fitted smile is read.
_LARGEST_DEVIATION = 24.0
_SMILE_WIDTH, _SMILE_VARIANCE = 4.0, 144.0


def averaged(forward: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    """What of forwards still moves, and what is fixed: of half an hour's average, part is known."""
    open_share = np.minimum(seconds, _AVERAGING) / _AVERAGING
    return forward * open_share, forward * (
        _AVERAGING - np.minimum(seconds, _AVERAGING)
    ) / _AVERAGING


def svi_volatility(
    strike: Any, a: Any, b: Any, rho: Any, m: Any, sigma: Any, forward: Any, years: Any
) -> Floats:
    """Volatility of a smile given as total variance over log-moneyness, raw SVI.

    `forward` and `years` are those that the smile was fitted with. Strikes further from the money
    than four at-the-money deviations have the volatility there. Source: J. Gatheral and A.
    Jacquier, Quantitative Finance 14 (2014) 59.
    """
    width = _SMILE_WIDTH * np.sqrt(np.maximum(a + b * sigma, 0.0))
    k = np.clip(np.log(strike / forward), -width, width) - m
    variance = np.minimum(a + b * (rho * k + np.sqrt(k * k + sigma * sigma)), _SMILE_VARIANCE)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0) / years))


def tenor_factor(seconds: Floats, floor: float, short_power: float, long_power: float) -> Floats:
    """[expiry] how much more than a month's volatility one of this tenor moves.

    A power of 30 days over the tenor: `short_power` up to 30 days, `long_power` beyond. `floor`, in
    seconds, is the shortest tenor that counts; it is one second at least, as venues count in them.
    """
    power = np.where(seconds <= _MONTH, short_power, long_power)
    longest = np.maximum(np.maximum(seconds, floor), 1.0)
    return np.asarray((_MONTH / longest) ** power)


def skew_factor(moneyness: Floats, cap: Floats, width: Floats) -> Floats:
    """Factor on volatility: 1 at the money, 1 +- cap from `width` on, straight lines between.

    A negative cap turns the lines over; it then bounds from below what it bounded from above.
    """
    # Without any width the lines are steps; the least divisor leaves 0 at the money.
    step = moneyness * cap / np.maximum(width, 1e-300)
    return np.asarray(1.0 + np.where(moneyness >= 0, np.minimum(step, cap), np.maximum(step, -cap)))


def option_value(
    forward: Any, strike: Any, volatility: Any, years: Any, call: Any, discount: Any = 1.0
) -> Floats:
    """Value of one option by Black-76 at a discount factor; the arguments broadcast.

    Without volatility, time or forward it is the discounted intrinsic value.
    """
    most = _LARGEST_DEVIATION / np.sqrt(np.maximum(years, np.finfo(np.float64).tiny))
    safe = np.minimum(volatility, most)
    return np.asarray(black76(forward, strike, safe, years, 0.0, call) * discount)
