"""The reference backend: NumPy and scipy on the host, written to be read.

Sums run in stored order, one entry after another, so that any other backend can be compared
with this one bit for bit. Rows are taken in blocks, and a block is gone through column by column:
what a unit of an instrument makes is then fetched once for all rows of the block that hold it. A
row's entries stand in ascending order of column, so that its sum is the same, bit for bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
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

# Rows of a block, and the sums of it that are held; those of one that is gone through row by row;
# how many rows a thread takes at least.
_BLOCK_ROWS = 1 << 12
_BLOCK_CELLS = 1 << 22
_FEW_ROWS, _FEW_CELLS = 1 << 9, 1 << 18
_LEAST_ROWS = 1 << 8
# Scenarios that are summed at a time; sums whose tails are taken at a time; profits of tails that
# are kept from one tile of scenarios to the next.
_TILE_SCENARIOS = 1 << 8
_TAIL_CELLS = 1 << 18
_KEPT_CELLS = 1 << 25
# Entries per column of the matrix from which copying it into tiles is worth it; those and scenarios
# from which going through a block by column is; scenarios up to which a row is sorted as a whole.
_TILED_ENTRIES = 16
_COLUMN_ENTRIES = 4
_COLUMN_SCENARIOS = 128
_SORTED = 256
# Entries of rows in a quadratic form; options.
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
        dtype = sum_dtype(np, rows, matrix)
        result = np.empty((len(rows), matrix.shape[1]), dtype=dtype)
        for scenarios, tile in _tiles(matrix, dtype, len(rows.column)):

            def block(
                place: slice, chosen: Rows, tile: Floats = tile, scenarios: slice = scenarios
            ) -> None:
                result[place, scenarios] = _product(chosen, tile)

            _each_block(rows, tile, block)
        return result

    def tail(
        self, rows: Rows, matrix: Floats, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        """[row, measure], the first scenario of the largest loss, those of the tail."""
        sum_dtype(np, rows, matrix)
        value = np.empty((len(rows), len(measures)))
        worst = np.empty(len(rows), dtype=np.int64)
        depth = max(len(measure.weights) for measure in measures)
        order = np.empty((len(rows), depth), dtype=np.int64) if scenarios else None
        step = max(1, _KEPT_CELLS // depth)
        for start in range(0, len(rows), step):
            place, chosen = _block(rows, start, step)
            kept = _kept_of(chosen, matrix, depth, scenarios)
            for begin in range(0, len(chosen), _BLOCK_ROWS):
                losses = np.ascontiguousarray(
                    -_widened(kept.profits[begin : begin + _BLOCK_ROWS]).T
                )
                first = start + begin
                for column, measure in enumerate(measures):
                    value[first : first + losses.shape[1], column] = _weighted_tail(losses, measure)
            worst[place] = kept.worst
            if order is not None:
                order[place] = kept.scenarios
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


def _each_block(rows: Rows, matrix: Floats, work: Callable[[slice, Rows], None]) -> None:
    """Call `work` with every block of rows, with as many blocks for each thread.

    Blocks are large where they are gone through by column, else small, so that they are in the
    cache when their tails are taken.
    """
    scenarios = max(1, matrix.shape[1])
    entries = _BLOCK_ROWS * len(rows.column) // max(1, len(rows))
    few = max(_FEW_ROWS, _FEW_CELLS // scenarios)
    most = max(1, _BLOCK_CELLS // scenarios) if _shared(entries, matrix) else few
    most = min(_BLOCK_ROWS, most)
    threads = os.cpu_count() or 1
    blocks = threads * -(-len(rows) // (threads * most))
    step = max(min(_LEAST_ROWS, most), -(-len(rows) // max(1, blocks)))
    _in_threads(lambda start: work(*_block(rows, start, step)), range(0, len(rows), step))


def _block(rows: Rows, start: int, step: int) -> tuple[slice, Rows]:
    """`step` rows from `start` on, or as many as are left, and their place among all."""
    offsets = rows.offsets[start : start + step + 1]
    entries = slice(offsets[0], offsets[-1])
    place = slice(start, start + len(offsets) - 1)
    return place, Rows(offsets - offsets[0], rows.column[entries], rows.value[entries])


def _widened(array: Floats, dtype: Any = np.float64) -> Floats:
    """The array in a dtype that holds its numbers exactly; itself where that is its own."""
    return array.astype(dtype, copy=False)


def _tiles(matrix: Floats, dtype: Any, entries: int) -> Iterator[tuple[slice, Floats]]:
    """A matrix [column, scenario] in tiles of scenarios, one after another in the same memory.

    In the dtype in which it is summed: another is what scipy would convert at every call. `entries`
    is how many are to be multiplied: few are not worth the copies.
    """
    columns, scenarios = matrix.shape
    if scenarios <= _TILE_SCENARIOS or entries <= _TILED_ENTRIES * columns:
        yield slice(0, scenarios), np.ascontiguousarray(_widened(matrix, dtype))
        return
    step = -(-scenarios // -(-scenarios // _TILE_SCENARIOS))
    memory = np.empty(columns * step, dtype=dtype)
    for start in range(0, scenarios, step):
        place = slice(start, min(start + step, scenarios))
        width = place.stop - start
        tile = memory[: columns * width].reshape(columns, width)

        def copy(first: int, tile: Floats = tile, place: slice = place) -> None:
            lines = slice(first, first + _BLOCK_ROWS)
            tile[lines] = matrix[lines, place]

        _in_threads(copy, range(0, columns, _BLOCK_ROWS))
        yield place, tile


def _product(rows: Rows, matrix: Floats) -> Floats:
    """[row, scenario] by scipy, which adds value x matrix one after another into zeros.

    By column, where the rows are ordered so and enough of them have a column in common.
    """
    shape = (len(rows), len(matrix))
    sparse: Any = csr_array((rows.value, rows.column, rows.offsets), shape=shape)
    if _shared(len(rows.column), matrix) and sparse.has_sorted_indices:
        sparse = sparse.tocsc()
    return np.asarray(sparse @ matrix)


def _shared(entries: int, matrix: Floats) -> bool:
    """Whether so many entries have so much of the matrix in common that columns come first."""
    columns, scenarios = matrix.shape
    return bool(entries > _COLUMN_ENTRIES * columns and scenarios >= _COLUMN_SCENARIOS)


def _kept_of(rows: Rows, matrix: Floats, depth: int, scenarios: bool) -> _Kept:
    """The smallest profits of all rows."""
    kept = _Kept(len(rows), depth, scenarios, rows.value.dtype)
    for place, tile in _tiles(matrix, rows.value.dtype, len(rows.column)):
        step = max(1, _TAIL_CELLS // max(1, tile.shape[1]))

        def block(
            own: slice, chosen: Rows, place: slice = place, tile: Floats = tile, step: int = step
        ) -> None:
            profits = _product(chosen, tile)
            for start in range(0, len(chosen), step):
                part = profits[start : start + step]
                first = own.start + start
                kept.add(slice(first, first + len(part)), place.start, part)

        _each_block(rows, tile, block)
    return kept


class _Kept:
    """The smallest profits of rows in the scenarios that were added so far.

    `profits` [row, place] ascending, `depth` of them in the end; `scenarios` [row, place] their
    codes, where asked for, of equal profits the earlier first; `worst` [row] the first scenario of
    the smallest.
    """

    def __init__(self, rows: int, depth: int, scenarios: bool, dtype: Any) -> None:
        self._depth, self._asked = depth, scenarios
        self.profits = np.empty((rows, depth), dtype=dtype)
        self.scenarios = np.empty((rows, depth if scenarios else 0), dtype=np.int64)
        self.worst = np.zeros(rows, dtype=np.int64)

    def add(self, rows: slice, start: int, profits: Floats) -> None:
        """Take in profits [row, scenario] of the scenarios from `start` on; they are reordered."""
        before = min(start, self._depth)
        least, kept = profits.argmin(axis=1), self.profits[rows, :before]
        if before:
            found = np.take_along_axis(profits, least[:, None], axis=1)[:, 0] < kept[:, 0]
            self.worst[rows][found] = start + least[found]
            profits = np.concatenate([kept, profits], axis=1)
        else:
            self.worst[rows] = least
        count = min(self._depth, profits.shape[1])
        if not self._asked:
            self.profits[rows, :count] = _smallest(profits, count)
            return
        # What was kept stands first, so that of equal profits the earlier scenario stays so.
        place = _least(profits, count)
        self.profits[rows, :count] = np.take_along_axis(profits, place, axis=1)
        code = place - before + start
        if before:
            known = np.take_along_axis(self.scenarios[rows], np.minimum(place, before - 1), axis=1)
            code = np.where(place < before, known, code)
        self.scenarios[rows, :count] = code


def _smallest(profits: Floats, count: int) -> Floats:
    """[row, count] the smallest profits of each row, ascending; `profits` is reordered."""
    if profits.shape[1] > _SORTED and count < profits.shape[1]:
        profits.partition(count - 1, axis=1)
        profits = profits[:, :count]
    return np.sort(profits, axis=1)[:, :count]


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
