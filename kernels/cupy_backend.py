"""NVIDIA devices through CuPy, complete and plain: elementwise kernels in the fixed order.

Multiplication and addition are kernels of their own, so that no fused multiply-add can change
the bits that the NumPy reference gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpu_margin import array_ops
from gpu_margin.backend import BackendUnavailable, Rows, TailMeasure, TailResult

try:
    import cupy
    from cupyx.scipy.special import ndtr
except ImportError as error:
    raise BackendUnavailable(
        f'cupy: not installed ({error}); pip install "gpu-margin[cuda]"'
    ) from error
if not cupy.is_available():
    raise BackendUnavailable(
        "cupy: installed, but no CUDA device answers; check the NVIDIA driver with nvidia-smi"
    )

Array = Any


class CupyBackend:
    """See `gpu_margin.backend.Backend`."""

    name = "cupy"
    xp = cupy
    exact = True

    def describe(self) -> str:
        """Device name, memory and library version."""
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        memory = properties["totalGlobalMem"] / 2**30
        return f"{properties['name'].decode()}, {memory:.0f} GiB, cupy {cupy.__version__}"

    def free_bytes(self) -> int:
        """Memory of the device that is free now."""
        return int(cupy.cuda.runtime.memGetInfo()[0])

    def to_device(self, array: np.ndarray[Any, Any]) -> Array:
        """A copy on the device."""
        return cupy.asarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return np.asarray(cupy.asnumpy(array))

    def weighted_sum(self, rows: Rows, matrix: Array) -> Array:
        """[row, scenario] sum of value x matrix[column, scenario]."""
        return array_ops.weighted_sum(cupy, rows, matrix, self.to_host(rows.offsets))

    def tail(self, rows: Rows, matrix: Array, measures: Sequence[TailMeasure]) -> TailResult:
        """[row, measure] and the first scenario of the largest loss."""
        return array_ops.tail(cupy, rows, matrix, measures, self.to_host(rows.offsets))

    def quadratic_form(self, rows: Rows, matrix: Array) -> Array:
        """[row] x' matrix x."""
        return array_ops.quadratic_form(cupy, rows, matrix, self.to_host(rows.offsets))

    def segment_sum(self, values: Array, offsets: Array) -> Array:
        """[segment] sums in stored order."""
        return array_ops.segment_sum(cupy, values, self.to_host(offsets))

    def black76(
        self,
        forward: Array,
        strike: Array,
        volatility: Array,
        time: Array,
        rate: Array,
        call: Array,
    ) -> Array:
        """Black-76 values."""
        return array_ops.black76(cupy, ndtr, forward, strike, volatility, time, rate, call)


BACKEND = CupyBackend()
