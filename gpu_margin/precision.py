"""Unit P&L as a device has it: the dtypes that it is stored and summed in, and their range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend, TailMeasure, TailResult
from gpu_margin.portfolio import Rows

Array = Any
Precision = Literal["float64", "mixed", "float32"]

# What unit P&L is stored in, and what quantities have and are summed in.
_DTYPES = {
    "float64": ("float64", "float64"),
    "mixed": ("float32", "float64"),
    "float32": ("float32", "float32"),
}


@dataclass(frozen=True)
class StoredPnl:
    """Profit of one unit of each instrument in each scenario, on a device.

    `pnl` [instrument, scenario] is what the device has, on the host, and `resident` the same on
    the device; `summed` is the dtype in which quantity x profit is added up. `largest` [instrument]
    on the device is the largest absolute profit in float64, inf where it is too large to be stored
    (`pnl` is 0 there); in float64 it is None, for no valid input leaves that range.
    """

    pnl: NDArray[Any]
    resident: Array
    summed: str
    largest: Array | None
    backend: Backend

    def tail(
        self, rows: Rows, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        """`Backend.tail` of rows of float64 quantities on the device.

        Measures of a row are inf where its profits could leave the range of the dtypes.
        """
        xp = self.backend.xp
        quantity = xp.asarray(rows.value, dtype=getattr(xp, self.summed))
        chosen = Rows(rows.offsets, rows.column, quantity)
        result = self.backend.tail(chosen, self.resident, measures, scenarios)
        if self.largest is None:
            return result
        # Not left to the sums: inf - inf is no number, and how one sorts is a library's own.
        profit = xp.abs(rows.value) * xp.take(self.largest, rows.column, axis=0)
        gross = self.backend.segment_sum(profit, rows.offsets)
        fits = gross < float(np.finfo(self.summed).max) / 2
        value = xp.where(fits[:, None], result.value, xp.full_like(result.value, math.inf))
        return TailResult(value, result.worst, result.scenarios)


def store(pnl: NDArray[np.float64], precision: Precision, backend: Backend) -> StoredPnl:
    """Unit P&L [instrument, scenario], rounded to the precision and brought to the device."""
    stored, summed = _DTYPES[precision]
    if stored == "float64":
        return StoredPnl(pnl, backend.to_device(pnl), summed, None, backend)
    largest = np.maximum(pnl.max(axis=1), -pnl.min(axis=1))
    largest[largest > np.finfo(stored).max] = np.inf
    with np.errstate(over="ignore"):
        rounded = pnl.astype(stored)
    rounded[np.isinf(largest)] = 0.0
    device = backend.to_device
    return StoredPnl(rounded, device(rounded), summed, device(largest), backend)
