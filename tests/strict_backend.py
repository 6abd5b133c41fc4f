"""array-api-strict as CuPy's stand-in: the very operations that CuPy runs, on a strict library."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import array_api_strict as strict
import numpy as np
from scipy.special import ndtr

from gpu_margin import array_ops
from gpu_margin.backend import Backend, Rows, TailMeasure, TailResult

Array = Any


class StrictBackend:
    """A backend of `array_ops` alone, on a library that refuses whatever is not in the standard."""

    name = "strict"
    xp = strict
    exact = True
    lanes = 1
    dtypes = ("float64", "float32")

    def describe(self) -> str:
        return "array-api-strict"

    def free_bytes(self) -> int:
        return 1 << 30

    def shards(self) -> Sequence[Backend]:
        return [self]

    def lane(self) -> AbstractContextManager[None]:
        return nullcontext()

    def to_device(self, array: np.ndarray[Any, Any]) -> Array:
        return strict.asarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def weighted_sum(self, rows: Rows, matrix: Array) -> Array:
        return array_ops.weighted_sum(strict, rows, matrix, np.asarray(rows.offsets))

    def tail(
        self, rows: Rows, matrix: Array, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        return array_ops.tail(strict, rows, matrix, measures, np.asarray(rows.offsets), scenarios)

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
