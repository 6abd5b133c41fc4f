"""Workload (c) repricing by Black-76, beside NumPy, QuantLib and the standard library."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from gpu_margin.backend import Backend
from gpu_margin.bench.cases import (
    INSTRUMENTS,
    REFERENCE_CELLS,
    SLACK,
    Answer,
    Contender,
    Reference,
    Size,
    Work,
    column,
    sampled,
    short,
    variants,
)
from gpu_margin.bench.joins import Skipped
from gpu_margin.bench.precision import FLOAT64, Precision

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LOOP_OPTIONS = 20_000


@dataclass(frozen=True)
class Repricing:
    """Black-76 of independent options, or of instruments under scenarios of their forwards."""

    grid: bool
    key: str = "c"
    practitioners: tuple[str, ...] = ("numpy textbook", "QuantLib loop", "Python loop")
    partial: tuple[str, ...] = ("QuantLib loop", "Python loop")
    precisions: tuple[str, ...] = (FLOAT64.name,)

    @property
    def title(self) -> str:
        """Which of the two."""
        return "repricing, grid" if self.grid else "repricing, independent"

    def work(self, size: Size, precision: Precision = FLOAT64) -> Work:
        """Independent: an option per position; grid: every instrument in every scenario."""
        options = (INSTRUMENTS if self.grid else size.accounts * size.positions) * (
            size.scenarios if self.grid else 1
        )
        moved = (16.0 if self.grid else 49.0) * options
        label = f"{short(INSTRUMENTS)} x {short(size.scenarios)}" if self.grid else ""
        return Work(
            label=label or f"{short(options)} options",
            unit="options",
            units=options,
            gathered_bytes=moved,
            compulsory_bytes=moved,
            flops=0.0,
            input_bytes=moved + 10.0 * 8.0 * min(options, REFERENCE_CELLS // 8),
            # results and a copy of them; the formula runs in blocks or is fused
            backend_bytes=8.0 * 2 * options + SLACK,
            baseline_bytes=8.0 * 9 * options,
            steps=float(options),
            together=size.scenarios if self.grid else 1,
        )

    def build(self, size: Size) -> RepricingCase:
        """Draw the options."""
        return RepricingCase(self.work(size), size.scenarios if self.grid else None)


class RepricingCase:
    """See `Repricing`; `terms` are forward, strike, volatility, time, rate and call."""

    def __init__(self, work: Work, scenarios: int | None) -> None:
        rng = np.random.default_rng(3)
        self.work = work
        count = work.units if scenarios is None else work.units // scenarios
        shape = count if scenarios is None else (count, 1)
        forward = rng.uniform(50.0, 150.0, shape)
        strike = forward * rng.uniform(0.7, 1.4, shape)
        if scenarios is not None:
            moves = rng.standard_normal((count, scenarios))
            moves *= 0.05
            moves += 1.0
            moves *= forward
            forward = moves
        volatility, time = rng.uniform(0.1, 0.6, shape), rng.uniform(0.02, 2.0, shape)
        rate, call = rng.uniform(0.0, 0.05, shape), rng.random(shape) < 0.5
        self.terms: tuple[NDArray[Any], ...] = (forward, strike, volatility, time, rate, call)
        sample = sampled(work.units, 8)
        terms = self._terms(sample)
        gross = np.maximum(terms[0], terms[1])
        self.reference = Reference(sample, Answer(textbook(*terms)[:, None]), gross)

    def close(self) -> None:
        """Nothing is on disk."""

    def practitioner(self, name: str, units: int | None = None) -> Contender:
        """The textbook formula on whole arrays, or option by option on the first of them."""
        if name == "numpy textbook":
            units = units or self.work.units
            rows = units // self.work.together
            whole = [term[:rows] for term in self.terms]
            return Contender(name, units, lambda: textbook(*whole), column)
        units = min(LOOP_OPTIONS, self.work.units)
        terms = [term.tolist() for term in self._terms(np.arange(units))]
        one = _quantlib() if name == "QuantLib loop" else python_black76
        return Contender(name, units, lambda: np.array(list(map(one, *terms))), column)

    def backend(self, device: Backend, precision: Precision = FLOAT64) -> list[Contender]:
        """`Backend.black76`; the options are the portfolio."""

        def call(*terms: Any) -> tuple[Any, ...]:
            return (device.black76(*terms),)

        return variants(device, self.work.units, self.terms, call, resident=6)

    def _terms(self, chosen: Ints) -> list[NDArray[Any]]:
        """Each term [chosen option], of the options numbered row by row."""
        shape = self.terms[0].shape
        places = np.unravel_index(chosen, shape)
        return [np.broadcast_to(term, shape)[places] for term in self.terms]


def textbook(forward: Any, strike: Any, volatility: Any, time: Any, rate: Any, call: Any) -> Floats:
    """Black-76 as it stands in the books, for whole arrays (no limits are treated)."""
    deviation = volatility * np.sqrt(time)
    d1 = np.log(forward / strike) / deviation + deviation / 2
    d2 = d1 - deviation
    discount = np.exp(-rate * time)
    calls = discount * (forward * ndtr(d1) - strike * ndtr(d2))
    puts = discount * (strike * ndtr(-d2) - forward * ndtr(-d1))
    return np.asarray(np.where(call, calls, puts))


def python_black76(
    forward: float, strike: float, volatility: float, time: float, rate: float, call: bool
) -> float:
    """One option with the standard library."""
    sign = 1.0 if call else -1.0
    deviation = volatility * math.sqrt(time)
    d1 = math.log(forward / strike) / deviation + deviation / 2
    first = math.erfc(-sign * d1 / math.sqrt(2.0)) / 2
    second = math.erfc(-sign * (d1 - deviation) / math.sqrt(2.0)) / 2
    return math.exp(-rate * time) * sign * (forward * first - strike * second)


def _quantlib() -> Callable[..., float]:
    try:
        import QuantLib  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise Skipped("QuantLib is not installed") from error
    formula, call_type, put_type = QuantLib.blackFormula, QuantLib.Option.Call, QuantLib.Option.Put

    def one(
        forward: float, strike: float, volatility: float, time: float, rate: float, call: bool
    ) -> float:
        side = call_type if call else put_type
        deviation, discount = volatility * math.sqrt(time), math.exp(-rate * time)
        return float(formula(side, strike, forward, deviation, discount))

    return one
