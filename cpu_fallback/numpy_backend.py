"""The reference backend: NumPy and scipy on the host, written to be read.

Sums run in stored order, one entry after another, so that any other backend can be compared
with this one bit for bit. Rows are taken in blocks whose losses stay in the cache.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtr

from gpu_margin import array_ops
from gpu_margin.backend import Backend, Rows, TailMeasure, TailResult, sum_dtype

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

# Rows whose losses are held at a time; entries of rows in a quadratic form; options.
_BLOCK_ROWS = 512
_BLOCK_ENTRIES = 1 << 13
_BLOCK_OPTIONS = 1 << 14


class NumpyBackend:
    """See `gpu_margin.backend.Backend`."""

    name = "numpy"
    xp: Any = np
    exact = True
    lanes = 1
    dtypes: tuple[str, ...] = ("float64", "float32")

    def describe(self) -> str:
        """The library's version."""
        return f"host processor, numpy {np.__version__}"

    def free_bytes(self) -> int:
        """Memory of the host that is available now."""
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):  # not told on this system
            return 4 << 30

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
        wide = _widened(matrix, sum_dtype(np, rows, matrix))
        result = np.empty((len(rows), matrix.shape[1]), dtype=wide.dtype)

        def block(place: slice, chosen: Rows) -> None:
            result[place] = _product(chosen, wide)

        _each_block(rows, block)
        return result

    def tail(
        self, rows: Rows, matrix: Floats, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        """[row, measure], the first scenario of the largest loss, those of the tail."""
        wide = _widened(matrix, sum_dtype(np, rows, matrix))
        value = np.empty((len(rows), len(measures)))
        worst = np.empty(len(rows), dtype=np.int64)
        depth = max(len(measure.weights) for measure in measures)
        order = np.empty((len(rows), depth), dtype=np.int64) if scenarios else None

        def block(place: slice, chosen: Rows) -> None:
            profits = _product(chosen, wide)
            worst[place] = profits.argmin(axis=1)
            if order is None:
                losses = -_widened(_smallest(profits, depth))
            else:
                order[place] = _least(profits, depth)
                found = np.take_along_axis(profits, order[place], axis=1)
                losses = -_widened(np.ascontiguousarray(found.T))
            for column, measure in enumerate(measures):
                value[place, column] = _weighted_tail(losses, measure)

        _each_block(rows, block)
        return TailResult(value, worst, order)

    def quadratic_form(self, rows: Rows, matrix: Floats) -> Floats:
        """[row] sum over i of x_i times (sum over j of matrix[i, j] x_j)."""
        result = np.empty(len(rows))
        sizes = np.diff(rows.offsets)
        flat, values = matrix.ravel(), _widened(rows.value)
        for size in np.unique(sizes).tolist():
            members = np.flatnonzero(sizes == size)
            step = max(1, _BLOCK_ENTRIES // max(1, size))

            def block(
                start: int, size: int = size, members: Ints = members, step: int = step
            ) -> None:
                chosen = members[start : start + step]
                entry = rows.offsets[chosen][:, None] + np.arange(size)
                column, value = rows.column[entry], values[entry]
                result[chosen] = _form(flat, column * matrix.shape[1], column, value)

            _in_threads(block, range(0, len(members), step))
        return result

    def segment_sum(self, values: Floats, offsets: Ints) -> Floats:
        """[segment] sums in stored order (`bincount` adds one after another)."""
        segments = len(offsets) - 1
        owner = np.repeat(np.arange(segments), np.diff(offsets))
        inside = values[offsets[0] : offsets[-1]]
        return np.bincount(owner, weights=inside, minlength=segments).astype(np.float64)

    def black76(
        self, forward: Any, strike: Any, volatility: Any, time: Any, rate: Any, call: Any
    ) -> Floats:
        """Black-76 values, in blocks that stay in the cache."""
        terms = [np.asarray(term) for term in (forward, strike, volatility, time, rate, call)]
        shape = np.broadcast_shapes(*(term.shape for term in terms))
        if not shape:
            return np.asarray(_black76(*terms))
        result = np.empty(shape)
        step = max(1, _BLOCK_OPTIONS // max(1, math.prod(shape[1:])))
        if not result.size:
            return result

        def block(start: int) -> None:
            place = slice(start, start + step)
            # A term that does not vary along the first axis has one entry there, or no such axis.
            own = [t[place] if t.ndim == len(shape) and len(t) > 1 else t for t in terms]
            result[place] = _black76(*own)

        _in_threads(block, range(0, shape[0], step))
        return result


def _black76(
    forward: Any, strike: Any, volatility: Any, time: Any, rate: Any, call: Any
) -> NDArray[Any]:
    """Values of a block: `array_ops.black76`, and where no option is at a limit the same formula
    without what handles the limits, which costs as much as the rest."""
    numbers = (forward, strike, volatility, time, rate)
    forward, strike, volatility, time, rate = (np.asarray(n, dtype=np.float64) for n in numbers)
    deviation = volatility * np.sqrt(time)
    if np.min(deviation) <= array_ops.NO_DEVIATION or np.min(forward) <= 0.0:
        terms = (forward, strike, volatility, time, rate, call)
        return np.asarray(array_ops.black76(np, ndtr, *terms))
    sign = 2.0 * call - 1.0
    d1 = np.log(forward / strike) / deviation + deviation / 2.0
    d2 = d1 - deviation
    value = sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * d2))
    return np.asarray(np.exp(-rate * time) * value)


def _in_threads(work: Callable[[int], None], starts: range) -> None:
    """Call `work` with every start, in threads: numpy and scipy let go of the lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Each in a copy of the context, for how floating-point errors are treated is part of it.
        tasks = [pool.submit(copy_context().run, work, start) for start in starts]
        for task in tasks:
            task.result()


def _each_block(rows: Rows, work: Callable[[slice, Rows], None]) -> None:
    """Call `work` with every block of rows."""
    _in_threads(lambda start: work(*_block(rows, start)), range(0, len(rows), _BLOCK_ROWS))


def _block(rows: Rows, start: int) -> tuple[slice, Rows]:
    """The rows from `start` on, as many as a block has, and their place among all."""
    offsets = rows.offsets[start : start + _BLOCK_ROWS + 1]
    entries = slice(offsets[0], offsets[-1])
    place = slice(start, start + len(offsets) - 1)
    return place, Rows(offsets - offsets[0], rows.column[entries], rows.value[entries])


def _widened(array: Floats, dtype: Any = np.float64) -> Floats:
    """The array in a dtype that holds its numbers exactly; itself where that is its own."""
    return array.astype(dtype, copy=False)


def _product(rows: Rows, matrix: Floats) -> Floats:
    """[row, scenario] by scipy, which adds value x matrix row after row into zeros.

    In the dtype that both have: another is what scipy would convert at every call.
    """
    sparse = csr_array((rows.value, rows.column, rows.offsets), shape=(len(rows), len(matrix)))
    return np.asarray(sparse @ matrix)


def _smallest(profits: Floats, count: int) -> Floats:
    """[count, row] the smallest profits of each row, ascending; `profits` is reordered."""
    if count < profits.shape[1]:
        profits.partition(count - 1, axis=1)
    return np.ascontiguousarray(np.sort(profits[:, :count], axis=1).T)


def _least(profits: Floats, count: int) -> Ints:
    """[row, count] scenarios of the smallest profits of each row, of equal ones the earlier first.

    Only those that are no larger than the last of them are sorted. Where more are, for several are
    as large as it, or where sums are not finite, the row is sorted as a whole.
    """
    if count < profits.shape[1]:
        last = np.partition(profits, count - 1, axis=1)[:, count - 1, None]
        inside = profits <= last
        clear = np.count_nonzero(inside, axis=1) == count
    else:
        clear = np.zeros(len(profits), dtype=np.bool_)
    least = np.empty((len(profits), count), dtype=np.int64)
    least[~clear] = profits[~clear].argsort(axis=1, kind="stable")[:, :count]
    if clear.any():
        code = np.nonzero(inside[clear])[1].reshape(-1, count)
        order = np.take_along_axis(profits[clear], code, axis=1).argsort(axis=1, kind="stable")
        least[clear] = np.take_along_axis(code, order, axis=1)
    return least


def _weighted_tail(losses: Floats, measure: TailMeasure) -> Floats:
    """[row] the measure of losses [place, row], worst first; summed from the least to the worst."""
    total = np.zeros(losses.shape[1])
    for place in reversed(range(len(measure.weights))):
        total = total + measure.weights[place] * losses[place]
    return total / measure.divisor


def _form(matrix: Floats, line: Ints, column: Ints, value: Floats) -> Floats:
    """[row] x' C x of rows of one length; `matrix` is flat, `line` where each column's row starts.

    All rows go through together, place after place: the sums are sequential all the same.
    """
    slope = np.zeros_like(value)
    for place in range(value.shape[1]):
        slope += matrix.take(line + column[:, place, None]) * value[:, place, None]
    total = np.zeros(len(value))
    for place in range(value.shape[1]):
        total += value[:, place] * slope[:, place]
    return total


BACKEND = NumpyBackend()
