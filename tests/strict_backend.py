"""array-api-strict as CuPy's stand-in: the very operations that CuPy runs, on a strict library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_strict as strict
import numpy as np
from scipy.special import ndtr

from gpu_margin import array_ops
from gpu_margin.backend import Rows, TailMeasure, TailResult

Array = Any


class StrictBackend:
    """A backend of `array_ops` alone, on a library that refuses whatever is not in the standard."""

    name = "strict"
    xp = strict
    exact = True

    def describe(self) -> str:
        return "array-api-strict"

    def free_bytes(self) -> int:
        return 1 << 30

    def to_device(self, array: np.ndarray[Any, Any]) -> Array:
        return strict.asarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def weighted_sum(self, rows: Rows, matrix: Array) -> Array:
        return array_ops.weighted_sum(strict, rows, matrix, np.asarray(rows.offsets))

    def tail(self, rows: Rows, matrix: Array, measures: Sequence[TailMeasure]) -> TailResult:
        return array_ops.tail(strict, rows, matrix, measures, np.asarray(rows.offsets))

    def quadratic_form(self, rows: Rows, matrix: Array) -> Array:
        return array_ops.quadratic_form(strict, rows, matrix, np.asarray(rows.offsets))

    def segment_sum(self, values: Array, offsets: Array) -> Array:
        return array_ops.segment_sum(strict, values, np.asarray(offsets))

    def black76(
        self,
        forward: Array,
        strike: Array,
        volatility: Array,
        time: Array,
        rate: Array,
        call: Array,
    ) -> Array:
        def distribution(x: Array) -> Array:
            return strict.asarray(ndtr(np.asarray(x)))

        terms = (forward, strike, volatility, time, rate, call)
        return array_ops.black76(strict, distribution, *terms)


BACKEND = StrictBackend()
