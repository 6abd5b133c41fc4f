"""NVIDIA devices through CuPy: the kernels of this folder, compiled at first use and cached.

The kernels add and multiply in the order of the NumPy reference, never fused, and so give its bits.
A matrix of float32 is read as such and summed in float64. Rows may be anywhere on the device; what
is made for a call (results, workspaces) is taken from CuPy's pool, and where the device has too
little the `MemoryError` goes to the engine, which halves its tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from gpu_margin.backend import BackendUnavailable, Rows, TailMeasure, TailResult

from . import launch
from .launch import Launch

try:
    import cupy
except ImportError as error:
    raise BackendUnavailable(
        f'cupy: not installed ({error}); pip install "gpu-margin[cuda]"'
    ) from error
if not cupy.is_available():
    raise BackendUnavailable(
        "cupy: installed, but no CUDA device answers; check the NVIDIA driver with nvidia-smi"
    )

Array = Any

# Of the free memory, what a workspace of the tiled tail may take.
_WORKSPACE_SHARE = 4
_NULL = np.uint64(0)


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

    def to_device(self, array: Any) -> Array:
        """A copy on the device; what another library holds on a device stays there."""
        if hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray):
            return cupy.from_dlpack(array)
        return cupy.asarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return np.asarray(cupy.asnumpy(array))

    def weighted_sum(self, rows: Rows, matrix: Array) -> Array:
        """[row, scenario] sum of value x matrix[column, scenario]."""
        matrix, scenarios = cupy.ascontiguousarray(matrix), matrix.shape[1]
        result = cupy.empty((len(rows), scenarios), dtype=cupy.float64)
        plan = launch.weighted_sum(_precision(matrix))
        work = len(rows) * math.ceil(scenarios / launch.SCENARIOS_OF_A_WARP)
        _run(plan, work, *_arrays(rows), matrix, np.int64(len(rows)), np.int64(scenarios), result)
        return result

    def tail(self, rows: Rows, matrix: Array, measures: Sequence[TailMeasure]) -> TailResult:
        """[row, measure] and the first scenario of the largest loss."""
        matrix = cupy.ascontiguousarray(matrix)
        value = cupy.empty((len(rows), len(measures)), dtype=cupy.float64)
        worst = cupy.empty(len(rows), dtype=cupy.int64)
        table = _measure_table(measures)
        if matrix.shape[1] <= launch.MOST_IN_REGISTERS:
            _tail_in_one_pass(rows, matrix, table, value, worst)
        else:
            _tail_by_tiles(rows, matrix, table, value, worst)
        return TailResult(value, worst)

    def quadratic_form(self, rows: Rows, matrix: Array) -> Array:
        """[row] x' matrix x."""
        matrix = cupy.ascontiguousarray(matrix)
        result = cupy.empty(len(rows), dtype=cupy.float64)
        plan = launch.quadratic_form(_precision(matrix))
        sizes = (np.int64(len(rows)), np.int64(matrix.shape[0]))
        _run(plan, len(rows), *_arrays(rows), matrix, *sizes, result)
        return result

    def segment_sum(self, values: Array, offsets: Array) -> Array:
        """[segment] sums in stored order."""
        segments = int(offsets.shape[0]) - 1
        result = cupy.empty(segments, dtype=cupy.float64)
        values, offsets = cupy.ascontiguousarray(values), cupy.ascontiguousarray(offsets)
        plan = launch.segment_sum(_precision(values))
        _run(plan, segments, values, offsets, np.int64(segments), result)
        return result

    def black76(
        self,
        forward: Array,
        strike: Array,
        volatility: Array,
        time: Array,
        rate: Array,
        call: Array,
    ) -> Array:
        """Black-76 values; terms that do not vary along an axis are read in place."""
        floats = [
            cupy.asarray(term, dtype=cupy.float64)
            for term in (forward, strike, volatility, time, rate)
        ]
        terms = cupy.broadcast_arrays(*floats, cupy.asarray(call, dtype=cupy.bool_))
        shape = terms[0].shape
        last = shape[-1] if shape else 1
        flat = [term.reshape(-1, last) for term in terms]
        strides = [[step // term.itemsize for step in term.strides] for term in flat]
        result = cupy.empty((flat[0].shape[0], last), dtype=cupy.float64)
        sizes = (np.int64(result.shape[0]), np.int64(last))
        table = cupy.asarray(np.array(strides, dtype=np.int64))
        _run(launch.black76(), result.size, *flat, table, *sizes, result)
        return result.reshape(shape)


def _precision(array: Array) -> str:
    """Sums are float64, whatever is stored."""
    return launch.precision_of(str(array.dtype), "float64")


def _arrays(rows: Rows) -> tuple[Array, Array, Array]:
    return tuple(cupy.ascontiguousarray(a) for a in (rows.offsets, rows.column, rows.value))


def _measure_table(measures: Sequence[TailMeasure]) -> tuple[Any, ...]:
    """What the tail kernels take: weights, sizes, divisors, how many measures, the depth."""
    depth = max(len(measure.weights) for measure in measures)
    weights = np.zeros((len(measures), depth))
    for number, measure in enumerate(measures):
        weights[number, : len(measure.weights)] = measure.weights
    sizes = np.array([len(measure.weights) for measure in measures], dtype=np.int64)
    divisors = np.array([measure.divisor for measure in measures])
    arrays = (cupy.asarray(weights), cupy.asarray(sizes), cupy.asarray(divisors))
    return (*arrays, np.int64(len(measures)), np.int64(depth))


def _tail_in_one_pass(
    rows: Rows, matrix: Array, table: tuple[Any, ...], value: Array, worst: Array
) -> None:
    """All scenarios of a row in the registers of its warp."""
    plan = launch.tail(matrix.shape[1], int(table[-1]), _precision(matrix))
    sizes = (np.int64(len(rows)), np.int64(matrix.shape[1]))
    _run(plan, len(rows), *_arrays(rows), matrix, *sizes, *table, value, worst, _NULL)


def _tail_by_tiles(
    rows: Rows, matrix: Array, table: tuple[Any, ...], value: Array, worst: Array
) -> None:
    """One tile of scenarios after another, the worst of all so far in a workspace."""
    precision, depth = _precision(matrix), int(table[-1])
    cache_bytes = int(cupy.cuda.Device().attributes["L2CacheSize"])
    tiles = launch.scenario_tiles(matrix.shape[1], matrix.shape[0], precision, cache_bytes)
    offsets, column, entry_value = _arrays(rows)
    per_row = sum(launch.workspace_bytes(1, depth, precision))
    most = max(1, BACKEND.free_bytes() // _WORKSPACE_SHARE // per_row)
    for start in range(0, len(rows), most):
        count = min(most, len(rows) - start)
        keys = cupy.empty((count, depth), dtype=cupy.uint64)
        indices = cupy.empty((count, depth), dtype=cupy.uint32)
        place = slice(start, start + count)
        sizes = (np.int64(count), np.int64(matrix.shape[1]))
        for tile in tiles:
            plan = launch.tail_tile(tile.width, depth, precision)
            _run(
                plan,
                count,
                *(offsets[start : start + count + 1], column, entry_value, matrix),
                *sizes,
                *table,
                *(value[place], worst[place], _NULL),
                *(keys, indices, np.int64(tile.first), np.int64(tile.width)),
            )


def _run(plan: Launch, work: int, *arguments: Any) -> None:
    """Launch a kernel for so many rows; nothing where there are none."""
    if work:
        kernel = _module(plan.source).get_function(plan.entry)
        kernel((plan.blocks(work),), (plan.block,), arguments, shared_mem=plan.shared)


@cache
def _module(source: str) -> Any:
    """A compiled source; an error of the compiler names the line of the `.cu` file."""
    return cupy.RawModule(code=launch.source(source), options=launch.OPTIONS, backend="nvrtc")


BACKEND = CupyBackend()
