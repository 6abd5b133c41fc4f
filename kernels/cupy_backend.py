"""NVIDIA devices through CuPy: the kernels of this folder, compiled at first use and cached.

The kernels add and multiply in the order of the NumPy reference, never fused, and so give its bits.
A matrix of float32 is read as such. Kernels take quantities as float64: those of float32 are
widened for a call, and a kernel that sums in float32 makes of each what it was. Rows may be
anywhere on the device; what is made for a call (results, workspaces) is taken from CuPy's pool, and
where the device has too little the `MemoryError` goes to the engine, which halves its tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from gpu_margin.backend import (
    Backend,
    BackendUnavailable,
    Rows,
    TailMeasure,
    TailResult,
    sum_dtype,
)

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
    dtypes: tuple[str, ...] = ("float64", "float32")
    # While the kernels of one tile run, another's positions are netted and copied.
    lanes = 2

    def __init__(self, device: int) -> None:
        self._device = device

    def describe(self) -> str:
        """Device name, memory and library version."""
        properties = cupy.cuda.runtime.getDeviceProperties(self._device)
        memory = properties["totalGlobalMem"] / 2**30
        return f"{properties['name'].decode()}, {memory:.0f} GiB, cupy {cupy.__version__}"

    def free_bytes(self) -> int:
        """Memory of the device that is free now."""
        with cupy.cuda.Device(self._device):
            return _free_bytes()

    def shards(self) -> Sequence[Backend]:
        """All CUDA devices that are visible; `CUDA_VISIBLE_DEVICES` chooses them."""
        return _all_devices()

    @contextmanager
    def lane(self) -> Iterator[None]:
        """The device, and a stream of the thread's own: streams overlap, and each keeps its order.

        What the thread allocates is given back to the stream, so that no other stream writes over
        what its kernels still read.
        """
        with cupy.cuda.Device(self._device), cupy.cuda.Stream(non_blocking=True) as stream:
            try:
                yield
            finally:
                stream.synchronize()
                cupy.get_default_memory_pool().free_all_blocks(stream)

    def to_device(self, array: Any) -> Array:
        """A copy on the device, by way of CuPy's pinned buffers and without waiting for it.

        What another library holds on a device stays there.
        """
        if hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray):
            return cupy.from_dlpack(array)
        return cupy.asarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return np.asarray(cupy.asnumpy(array))

    def weighted_sum(self, rows: Rows, matrix: Array) -> Array:
        """[row, scenario] sum of value x matrix[column, scenario]."""
        matrix, scenarios = cupy.ascontiguousarray(matrix), matrix.shape[1]
        summed = sum_dtype(cupy, rows, matrix)
        result = cupy.empty((len(rows), scenarios), dtype=summed)
        plan = launch.weighted_sum(_precision(matrix, summed))
        work = len(rows) * math.ceil(scenarios / launch.SCENARIOS_OF_A_WARP)
        _run(plan, work, *_arrays(rows), matrix, np.int64(len(rows)), np.int64(scenarios), result)
        return result

    def tail(
        self, rows: Rows, matrix: Array, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        """[row, measure], the first scenario of the largest loss, those of the tail."""
        matrix, table = cupy.ascontiguousarray(matrix), _measure_table(measures)
        precision = _precision(matrix, sum_dtype(cupy, rows, matrix))
        result = TailResult(
            cupy.empty((len(rows), len(measures)), dtype=cupy.float64),
            cupy.empty(len(rows), dtype=cupy.int64),
            cupy.empty((len(rows), int(table[-1])), dtype=cupy.int64) if scenarios else None,
        )
        if matrix.shape[1] <= launch.MOST_IN_REGISTERS:
            _tail_in_one_pass(rows, matrix, precision, table, result)
        else:
            _tail_by_tiles(rows, matrix, precision, table, result)
        return result

    def quadratic_form(self, rows: Rows, matrix: Array) -> Array:
        """[row] x' matrix x."""
        matrix = cupy.ascontiguousarray(matrix)
        result = cupy.empty(len(rows), dtype=cupy.float64)
        plan = launch.quadratic_form(_precision(matrix, cupy.float64))
        sizes = (np.int64(len(rows)), np.int64(matrix.shape[0]))
        _run(plan, len(rows), *_arrays(rows), matrix, *sizes, result)
        return result

    def segment_sum(self, values: Array, offsets: Array) -> Array:
        """[segment] sums in stored order."""
        segments = int(offsets.shape[0]) - 1
        result = cupy.empty(segments, dtype=cupy.float64)
        values, offsets = cupy.ascontiguousarray(values), cupy.ascontiguousarray(offsets)
        plan = launch.segment_sum(_precision(values, cupy.float64))
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


def _precision(stored: Array, summed: Any) -> str:
    """The kernels' name for how an array is stored, and in which dtype it is summed."""
    return launch.precision_of(str(stored.dtype), str(np.dtype(summed)))


def _arrays(rows: Rows) -> tuple[Array, Array, Array]:
    value = cupy.ascontiguousarray(rows.value, dtype=cupy.float64)
    return cupy.ascontiguousarray(rows.offsets), cupy.ascontiguousarray(rows.column), value


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


def _written(result: TailResult, place: slice = slice(None)) -> tuple[Any, ...]:
    """What a tail kernel writes of those rows; no scenarios where they were not asked for."""
    order = _NULL if result.scenarios is None else result.scenarios[place]
    return result.value[place], result.worst[place], order


def _tail_in_one_pass(
    rows: Rows, matrix: Array, precision: str, table: tuple[Any, ...], result: TailResult
) -> None:
    """All scenarios of a row in the registers of its warp."""
    plan = launch.tail(matrix.shape[1], int(table[-1]), precision)
    sizes = (np.int64(len(rows)), np.int64(matrix.shape[1]))
    _run(plan, len(rows), *_arrays(rows), matrix, *sizes, *table, *_written(result))


def _tail_by_tiles(
    rows: Rows, matrix: Array, precision: str, table: tuple[Any, ...], result: TailResult
) -> None:
    """One tile of scenarios after another, the worst of all so far in a workspace."""
    depth, key = int(table[-1]), f"uint{8 * launch.PRECISIONS[precision].summed}"
    cache_bytes = int(cupy.cuda.Device().attributes["L2CacheSize"])
    tiles = launch.scenario_tiles(matrix.shape[1], matrix.shape[0], precision, cache_bytes)
    offsets, column, entry_value = _arrays(rows)
    per_row = sum(launch.workspace_bytes(1, depth, precision))
    most = max(1, _free_bytes() // _WORKSPACE_SHARE // per_row)
    for start in range(0, len(rows), most):
        count = min(most, len(rows) - start)
        keys = cupy.empty((count, depth), dtype=key)
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
                *_written(result, place),
                *(keys, indices, np.int64(tile.first), np.int64(tile.width)),
            )


def _run(plan: Launch, work: int, *arguments: Any) -> None:
    """Launch a kernel for so many rows; nothing where there are none."""
    if work:
        device = cupy.cuda.runtime.getDevice()
        kernel = _module(plan.source, device).get_function(plan.entry)
        kernel((plan.blocks(work),), (plan.block,), arguments, shared_mem=plan.shared)


def _free_bytes() -> int:
    """Memory of the current device that is free, or that CuPy keeps to use again."""
    kept = cupy.get_default_memory_pool().free_bytes()
    return int(cupy.cuda.runtime.memGetInfo()[0]) + int(kept)


@cache
def _module(source: str, device: int) -> Any:
    """A source compiled for the current device; a compiler's error names the line of the `.cu`."""
    return cupy.RawModule(code=launch.source(source), options=launch.OPTIONS, backend="nvrtc")


BACKEND = CupyBackend(0)


@cache
def _all_devices() -> list[Backend]:
    """All devices, the first of them `BACKEND` itself."""
    others = range(1, cupy.cuda.runtime.getDeviceCount())
    return [BACKEND, *(CupyBackend(device) for device in others)]
