"""The host's processor through Numba: one pass per row, its losses never leaving the cache.

Each row's profit is accumulated entry by entry over all scenarios at once (independent sums, so the
compiler vectorises them without changing any), then its tail is taken by one scan that keeps the
smallest profits sorted. No fastmath: multiplication and addition stay apart, and the bits are those
of the NumPy reference. Rows are shared out among threads; no sum is.

Little work is done by the thread that asks, and so is any while another thread has the others: a
parallel region waits for the slowest of its threads, and its library lets no two callers in at
once. It is the same compiled code for a chunk of rows, and gives the same bits. No call holds the
interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import (
    Backend,
    BackendUnavailable,
    Rows,
    TailMeasure,
    TailResult,
    load,
    sum_dtype,
)

try:
    import numba
    from numba import njit, prange
except ImportError as error:
    raise BackendUnavailable(
        f'numba: not installed ({error}); pip install "gpu-margin[fast]"'
    ) from error

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

# Rows that a thread takes at a time.
_CHUNK = 64
# Lanes that scenarios are dealt out to at least; numbers that are ordered by counting at most; the
# deepest tail that is kept by insertion.
_LANES = 24
_COUNTED = 512
_INSERTED = 64
# Multiplications below which threads cost more than they save; what the scan of a row's scenarios
# for its tail costs, as entries of the row.
_LITTLE = 1 << 22
_SCAN = 4
# Whoever has it may enter a parallel region.
_THREADS = Lock()


class NumbaBackend:
    """See `gpu_margin.backend.Backend`."""

    name = "numba"
    xp: Any = np
    exact = True
    lanes = 1
    dtypes: tuple[str, ...] = ("float64", "float32")

    def describe(self) -> str:
        """Threads and library version."""
        return f"host processor, {numba.get_num_threads()} threads, numba {numba.__version__}"

    def free_bytes(self) -> int:
        """Memory of the host that is available now."""
        return load("numpy").free_bytes()

    def shards(self) -> Sequence[Backend]:
        """The host alone."""
        return [self]

    def lane(self) -> AbstractContextManager[None]:
        """Nothing to enter: the operations have threads of their own."""
        return nullcontext()

    def to_device(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return np.asarray(array)

    def weighted_sum(self, rows: Rows, matrix: Floats) -> Floats:
        """[row, scenario] sum of value x matrix[column, scenario]."""
        result = np.empty((len(rows), matrix.shape[1]), dtype=sum_dtype(np, rows, matrix))
        arrays = (rows.offsets, rows.column, rows.value, np.ascontiguousarray(matrix), result)
        _run(_weighted_sum, _weighted_sum_alone, len(rows.column) * matrix.shape[1], arrays)
        return result

    def tail(
        self, rows: Rows, matrix: Floats, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        """[row, measure], the first scenario of the largest loss, those of the tail."""
        sum_dtype(np, rows, matrix)
        value = np.empty((len(rows), len(measures)))
        worst = np.empty(len(rows), dtype=np.int64)
        sizes = np.array([len(measure.weights) for measure in measures], dtype=np.int64)
        weights = np.zeros((len(measures), int(sizes.max())))
        for number, measure in enumerate(measures):
            weights[number, : sizes[number]] = measure.weights
        divisors = np.array([measure.divisor for measure in measures])
        order = np.empty((len(rows) if scenarios else 0, weights.shape[1]), dtype=np.int64)
        arrays = (rows.offsets, rows.column, rows.value, np.ascontiguousarray(matrix))
        work = (len(rows.column) + _SCAN * len(rows)) * matrix.shape[1]
        results = (weights, sizes, divisors, value, worst, order)
        _run(_tail, _tail_alone, work, (*arrays, *results))
        return TailResult(value, worst, order if scenarios else None)

    def quadratic_form(self, rows: Rows, matrix: Floats) -> Floats:
        """[row] x' matrix x."""
        result = np.empty(len(rows))
        value = rows.value.astype(np.float64, copy=False)
        arrays = (rows.offsets, rows.column, value, np.ascontiguousarray(matrix), result)
        size = np.diff(rows.offsets)
        _run(_quadratic_form, _quadratic_form_alone, int((size * size).sum()), arrays)
        return result

    def segment_sum(self, values: Floats, offsets: Ints) -> Floats:
        """[segment] sums in stored order."""
        result = np.empty(len(offsets) - 1)
        _run(_segment_sum, _segment_sum_alone, len(values), (values, offsets, result))
        return result

    def black76(
        self, forward: Any, strike: Any, volatility: Any, time: Any, rate: Any, call: Any
    ) -> Floats:
        """Black-76 values, as the reference has them: the time goes to the normal distribution."""
        return np.asarray(load("numpy").black76(forward, strike, volatility, time, rate, call))


def _run(parallel: Callable[..., None], alone: Callable[..., None], work: int, arrays: Any) -> None:
    """Call the one or the other: threads for much `work`, where no one else has them."""
    if work >= _LITTLE and _THREADS.acquire(blocking=False):
        try:
            parallel(*arrays)
        finally:
            _THREADS.release()
    else:
        alone(*arrays)


@njit(cache=True, nogil=True)
def _accumulate(
    first: int, last: int, column: Ints, value: Floats, matrix: Floats, profit: Floats
) -> None:
    """profit[scenario] = sum of value x matrix[column, scenario], entry after entry.

    Eight entries go through together, still added one after another: the running sums are then
    read and written once for eight.
    """
    profit[:] = 0.0
    entry = first
    while entry + 8 <= last:
        v0, v1, v2, v3 = value[entry], value[entry + 1], value[entry + 2], value[entry + 3]
        v4, v5, v6, v7 = value[entry + 4], value[entry + 5], value[entry + 6], value[entry + 7]
        m0, m1 = matrix[column[entry]], matrix[column[entry + 1]]
        m2, m3 = matrix[column[entry + 2]], matrix[column[entry + 3]]
        m4, m5 = matrix[column[entry + 4]], matrix[column[entry + 5]]
        m6, m7 = matrix[column[entry + 6]], matrix[column[entry + 7]]
        for s in range(len(profit)):
            x = (((profit[s] + v0 * m0[s]) + v1 * m1[s]) + v2 * m2[s]) + v3 * m3[s]
            profit[s] = (((x + v4 * m4[s]) + v5 * m5[s]) + v6 * m6[s]) + v7 * m7[s]
        entry += 8
    while entry < last:
        a, row_a = value[entry], matrix[column[entry]]
        for s in range(len(profit)):
            profit[s] += a * row_a[s]
        entry += 1


@njit(cache=True, nogil=True)
def _smallest(
    profit: Floats, kept: Floats, space: Floats, lanes: Floats, near: Floats, code: Ints
) -> int:
    """Fill `kept` with the smallest profits, ascending; returns the first of the least.

    Scenarios are dealt out to lanes, and the least profit of each is taken: the smallest profits
    are within the largest of the as many smallest of these. Few others are. Where no branch depends
    on a profit the processor guesses none of them wrongly, which is what takes the time otherwise.

    `space` is `kept` and a place for what is too large; `lanes`, `near` and `code` [scenario + 1]
    are workspaces.
    """
    depth = len(kept)
    if depth == 1 or len(profit) < 2 * len(lanes):
        place = 0
        for s in range(1, len(profit)):
            if profit[s] < profit[place]:
                place = s
        if depth == 1:
            kept[0] = profit[place]
        else:
            _ordered(profit, kept, space)
        return place
    lanes[:] = np.inf
    for start in range(0, len(profit), len(lanes)):
        line = profit[start : start + len(lanes)]
        for lane in range(len(line)):
            lanes[lane] = line[lane] if line[lane] < lanes[lane] else lanes[lane]
    _ordered(lanes, kept, space)
    least, bound = kept[0], kept[depth - 1]
    count = 0
    for s in range(len(profit)):
        code[count] = s
        count += profit[s] <= bound
    for place in range(count):
        near[place] = profit[code[place]]
    if count > 4 * depth + _LANES:  # many are equal
        _inserted(near[:count], kept)
    else:
        _ordered(near[:count], kept, space)
    for place in range(count):
        if near[place] == least:
            return int(code[place])
    return 0


@njit(cache=True, nogil=True)
def _ordered(values: Floats, kept: Floats, space: Floats) -> None:
    """Fill `kept`, all of `space` but its last place, with the smallest values, ascending.

    A value's place is how many are smaller. Of equal ones all have the first's, and the places of
    the others are filled from it.
    """
    if len(values) > _COUNTED:
        found = np.sort(values)[: len(kept)]
        kept[:] = np.inf
        kept[: len(found)] = found
        return
    kept[:] = np.nan
    for value in values:
        place = 0
        for other in values:
            place += other < value
        space[min(place, len(kept))] = value
    before = np.inf
    for place in range(len(kept)):
        if place >= len(values):
            kept[place] = np.inf
        elif np.isnan(kept[place]):
            kept[place] = before
        before = kept[place]


@njit(cache=True, nogil=True)
def _inserted(values: Floats, kept: Floats) -> None:
    """Fill `kept` with the smallest values, ascending, by insertion: fast where few go in."""
    depth = len(kept)
    if depth > _INSERTED:
        kept[:] = np.sort(values)[:depth]
        return
    kept[:] = np.inf
    bound = np.inf
    for x in values:
        if x < bound:
            hole = depth - 1
            while hole > 0 and kept[hole - 1] > x:
                kept[hole] = kept[hole - 1]
                hole -= 1
            kept[hole] = x
            bound = kept[depth - 1]


@njit(cache=True, nogil=True)
def _scenarios(profit: Floats, kept: Floats, taken: Ints, order: Ints) -> None:
    """Fill `order` with the scenarios of the kept profits, the earlier of equal ones first.

    `taken` [depth] is a workspace: how many scenarios the profit that is first kept there has.
    """
    taken[:] = 0
    order[:] = 0  # where sums are not finite some are never found
    for s in range(len(profit)):
        if profit[s] <= kept[-1]:
            first = np.searchsorted(kept, profit[s])
            place = first + taken[first]
            if place < len(kept):
                order[place] = s
                taken[first] += 1


@njit(cache=True, nogil=True)
def _measured(kept: Floats, weights: Floats, divisor: float) -> float:
    """The measure of the smallest profits (ascending): from the k-th worst loss to the worst."""
    total = 0.0
    for place in range(len(weights) - 1, -1, -1):
        total += weights[place] * -kept[place]
    return total / divisor


@njit(cache=True, nogil=True)
def _tail_chunk(
    chunk: int,
    offsets: Ints,
    column: Ints,
    value: Floats,
    matrix: Floats,
    weights: Floats,
    sizes: Ints,
    divisors: Floats,
    result: Floats,
    worst: Ints,
    order: Ints,
) -> None:
    """Measures and worst scenario of a chunk of rows, their tail's where `order` has a row each.

    Profits have the dtype of the values; weights are float64, and so is what they are added up to.
    """
    profit = np.empty(matrix.shape[1], dtype=value.dtype)
    depth = weights.shape[1]
    space = np.empty(depth + 1, dtype=value.dtype)
    kept = space[:depth]
    lanes = np.empty(max(_LANES, (2 * depth + 7) // 8 * 8), dtype=value.dtype)
    near = np.empty(matrix.shape[1] + 1, dtype=value.dtype)
    code = np.empty(matrix.shape[1] + 1, dtype=np.int64)
    taken = np.empty(weights.shape[1], dtype=np.int64)
    for row in range(chunk * _CHUNK, min(len(offsets) - 1, (chunk + 1) * _CHUNK)):
        _accumulate(offsets[row], offsets[row + 1], column, value, matrix, profit)
        worst[row] = _smallest(profit, kept, space, lanes, near, code)
        if len(order):
            _scenarios(profit, kept, taken, order[row])
        for m in range(len(sizes)):
            result[row, m] = _measured(kept, weights[m, : sizes[m]], divisors[m])


@njit(parallel=True, cache=True, nogil=True)
def _tail(
    offsets: Ints,
    column: Ints,
    value: Floats,
    matrix: Floats,
    weights: Floats,
    sizes: Ints,
    divisors: Floats,
    result: Floats,
    worst: Ints,
    order: Ints,
) -> None:
    for chunk in prange((len(offsets) - 2 + _CHUNK) // _CHUNK):
        _tail_chunk(
            chunk, offsets, column, value, matrix, weights, sizes, divisors, result, worst, order
        )


@njit(cache=True, nogil=True)
def _tail_alone(
    offsets: Ints,
    column: Ints,
    value: Floats,
    matrix: Floats,
    weights: Floats,
    sizes: Ints,
    divisors: Floats,
    result: Floats,
    worst: Ints,
    order: Ints,
) -> None:
    for chunk in range((len(offsets) - 2 + _CHUNK) // _CHUNK):
        _tail_chunk(
            chunk, offsets, column, value, matrix, weights, sizes, divisors, result, worst, order
        )


@njit(parallel=True, cache=True, nogil=True)
def _weighted_sum(
    offsets: Ints, column: Ints, value: Floats, matrix: Floats, result: Floats
) -> None:
    for row in prange(len(offsets) - 1):
        _accumulate(offsets[row], offsets[row + 1], column, value, matrix, result[row])


@njit(cache=True, nogil=True)
def _weighted_sum_alone(
    offsets: Ints, column: Ints, value: Floats, matrix: Floats, result: Floats
) -> None:
    for row in range(len(offsets) - 1):
        _accumulate(offsets[row], offsets[row + 1], column, value, matrix, result[row])


@njit(cache=True, nogil=True)
def _form(first: int, last: int, column: Ints, value: Floats, matrix: Floats) -> float:
    """x' matrix x of the entries first to last."""
    total = 0.0
    for i in range(first, last):
        line = matrix[column[i]]
        slope = 0.0
        for j in range(first, last):
            slope += line[column[j]] * value[j]
        total += value[i] * slope
    return total


@njit(parallel=True, cache=True, nogil=True)
def _quadratic_form(
    offsets: Ints, column: Ints, value: Floats, matrix: Floats, result: Floats
) -> None:
    for row in prange(len(offsets) - 1):
        result[row] = _form(offsets[row], offsets[row + 1], column, value, matrix)


@njit(cache=True, nogil=True)
def _quadratic_form_alone(
    offsets: Ints, column: Ints, value: Floats, matrix: Floats, result: Floats
) -> None:
    for row in range(len(offsets) - 1):
        result[row] = _form(offsets[row], offsets[row + 1], column, value, matrix)


@njit(cache=True, nogil=True)
def _sum(first: int, last: int, values: Floats) -> float:
    """Of the values first to last, one after another."""
    total = 0.0
    for entry in range(first, last):
        total += values[entry]
    return total


@njit(parallel=True, cache=True, nogil=True)
def _segment_sum(values: Floats, offsets: Ints, result: Floats) -> None:
    for segment in prange(len(offsets) - 1):
        result[segment] = _sum(offsets[segment], offsets[segment + 1], values)


@njit(cache=True, nogil=True)
def _segment_sum_alone(values: Floats, offsets: Ints, result: Floats) -> None:
    for segment in range(len(offsets) - 1):
        result[segment] = _sum(offsets[segment], offsets[segment + 1], values)


BACKEND = NumbaBackend()
