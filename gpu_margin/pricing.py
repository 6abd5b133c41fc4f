"""Market formulas: what an instrument is worth, how it moves with its risk factor.

Official numbers are priced here, on the host with scipy, and uploaded: exp, log and erf differ
between libraries in their last bits, so they must run in one place only. Who asks for it may have
options priced by a device (`black76_on`), within a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gpu_margin import array_ops
from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.market import Instruments

Floats = NDArray[np.float64]
# What `black76` is: terms in, values out, all on the host.
Black76 = Callable[..., Floats]

# Options x scenarios repriced at a time: bounds the memory of shocked forwards and their values, on
# the host and on a device. What stays in the processor's cache is for the backend to say.
_BLOCK_CELLS = 1 << 20


def black76(forward: Any, strike: Any, volatility: Any, time: Any, rate: Any, call: Any) -> Floats:
    """Black-76 value per unit on the host; arguments as in `array_ops.black76`."""
    host = backends.load("numpy")
    return np.asarray(host.black76(forward, strike, volatility, time, rate, call))


def black76_on(backend: Backend) -> Black76:
    """`black76` as the device computes it: within 1e-13 max(forward, strike) of the host's."""

    def priced(*terms: Any) -> Floats:
        there = (backend.to_device(np.asarray(term)) for term in terms)
        return backend.to_host(backend.black76(*there))

    return priced


def black76_delta(
    forward: Any, strike: Any, volatility: Any, time: Any, rate: Any, call: Any
) -> Floats:
    """Black-76 delta (to the forward) per unit on the host."""
    arrays = (np.asarray(a) for a in (forward, strike, volatility, time, rate, call))
    return np.asarray(array_ops.black76_delta(np, ndtr, *arrays))


def unit_exposure(instruments: Instruments) -> Floats:
    """[instrument] exposure of one contract to its factor, in margin currency.

    Multiplier x price for linear instruments, multiplier x delta x forward for options.
    """
    i = instruments
    delta = np.ones(len(i))
    chosen = i.option
    delta[chosen] = black76_delta(
        i.level[chosen],
        i.strike[chosen],
        i.volatility[chosen],
        i.time[chosen],
        i.rate[chosen],
        i.call[chosen],
    )
    return i.scale * delta * i.level


def unit_pnl(instruments: Instruments, returns: Floats, price: Black76 = black76) -> Floats:
    """[instrument, scenario] profit of one long contract, by full revaluation.

    `returns` [scenario, factor] are simple returns. Linear instruments move by price x return;
    options are worth their Black-76 value at forward x (1 + return), never below 0, with
    volatility and remaining time unchanged. `price` values the options.
    """
    moves = returns.T[instruments.factor]
    pnl = (instruments.scale * instruments.level)[:, None] * moves
    options = np.flatnonzero(instruments.option)
    step = max(1, _BLOCK_CELLS // len(returns))
    for start in range(0, len(options), step):
        block = options[start : start + step]
        pnl[block] = _option_pnl(instruments, block, moves[block], price)
    return pnl


def _option_pnl(i: Instruments, chosen: NDArray[np.int64], moves: Floats, price: Black76) -> Floats:
    """[chosen, scenario] revaluation of the chosen options under moves of their forward."""
    terms = (i.strike, i.volatility, i.time, i.rate, i.call)
    strike, volatility, time, rate, call = (term[chosen, None] for term in terms)
    forward = i.level[chosen, None]
    shocked = np.maximum(forward * (1.0 + moves), 0.0)
    now = price(forward, strike, volatility, time, rate, call)
    then = price(shocked, strike, volatility, time, rate, call)
    return i.scale[chosen, None] * (then - now)
