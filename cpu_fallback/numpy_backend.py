"""The reference backend: NumPy and scipy on the host, written to be read.

Sums run in stored order, one entry after another, so that any other backend can be compared
with this one bit for bit. Rows are taken in blocks whose losses stay in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtr

from gpu_margin import array_ops
from gpu_margin.backend import Rows, TailMeasure, TailResult

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Rows whose losses are held at a time, and pairs of factors held at a time.
_BLOCK_ROWS = 512
_BLOCK_PAIRS = 1 << 20


class NumpyBackend:
    """See `gpu_margin.backend.Backend`."""

    name = "numpy"
    xp = np
    exact = True

    def describe(self) -> str:
        """The library's version."""
        return f"host processor, numpy {np.__version__}"

    def free_bytes(self) -> int:
        """Memory of the host that is available now."""
        try:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):  # not told on this system
            return 4 << 30

    def to_device(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return array

    def to_host(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array itself."""
        return np.asarray(array)

    def weighted_sum(self, rows: Rows, matrix: Floats) -> Floats:
        """[row, scenario] sum of value x matrix[column, scenario]."""
        result = np.empty((len(rows), matrix.shape[1]))

        def block(place: slice, chosen: Rows) -> None:
            result[place] = _product(chosen, matrix)

        _each_block(rows, block)
        return result

    def tail(self, rows: Rows, matrix: Floats, measures: Sequence[TailMeasure]) -> TailResult:
        """[row, measure] and the first scenario of the largest loss."""
        value = np.empty((len(rows), len(measures)))
        worst = np.empty(len(rows), dtype=np.int64)
        depth = max(len(measure.weights) for measure in measures)

        def block(place: slice, chosen: Rows) -> None:
            profits = _product(chosen, matrix)
            worst[place] = profits.argmin(axis=1)
            losses = -_smallest(profits, depth)
            for column, measure in enumerate(measures):
                value[place, column] = _weighted_tail(losses, measure)

        _each_block(rows, block)
        return TailResult(value, worst)

    def quadratic_form(self, rows: Rows, matrix: Floats) -> Floats:
        """[row] sum over i of x_i times (sum over j of matrix[i, j] x_j)."""
        result = np.empty(len(rows))
        for start, stop in _pair_blocks(rows.offsets):
            first, last = rows.offsets[start], rows.offsets[stop]
            sizes = np.diff(rows.offsets[start : stop + 1])
            column, value = rows.column[first:last], rows.value[first:last]
            left, right = _pairs(sizes)
            terms = matrix[column[left], column[right]] * value[right]
            slope = np.bincount(left, weights=terms, minlength=len(value))
            owner = np.repeat(np.arange(len(sizes)), sizes)
            result[start:stop] = np.bincount(owner, weights=value * slope, minlength=len(sizes))
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
        """Black-76 values."""
        return np.asarray(
            array_ops.black76(np, ndtr, forward, strike, volatility, time, rate, call)
        )


def _each_block(rows: Rows, work: Callable[[slice, Rows], None]) -> None:
    """Call `work` with every block of rows, in threads: numpy and scipy let go of the lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # list, so that an exception in a thread is raised here.
        list(pool.map(lambda start: work(*_block(rows, start)), range(0, len(rows), _BLOCK_ROWS)))


def _block(rows: Rows, start: int) -> tuple[slice, Rows]:
    """The rows from `start` on, as many as a block has, and their place among all."""
    offsets = rows.offsets[start : start + _BLOCK_ROWS + 1]
    entries = slice(offsets[0], offsets[-1])
    place = slice(start, start + len(offsets) - 1)
    return place, Rows(offsets - offsets[0], rows.column[entries], rows.value[entries])


def _product(rows: Rows, matrix: Floats) -> Floats:
    """[row, scenario] by scipy, which adds value x matrix row after row into zeros."""
    sparse = csr_array((rows.value, rows.column, rows.offsets), shape=(len(rows), len(matrix)))
    return np.asarray(sparse @ matrix)


def _smallest(profits: Floats, count: int) -> Floats:
    """[count, row] the smallest profits of each row, ascending; `profits` is reordered."""
    if count < profits.shape[1]:
        profits.partition(count - 1, axis=1)
    return np.ascontiguousarray(np.sort(profits[:, :count], axis=1).T)


def _weighted_tail(losses: Floats, measure: TailMeasure) -> Floats:
    """[row] the measure of losses [place, row], worst first; summed from the least to the worst."""
    total = np.zeros(losses.shape[1])
    for place in reversed(range(len(measure.weights))):
        total = total + measure.weights[place] * losses[place]
    return total / measure.divisor


def _pair_blocks(offsets: Ints) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose pairs of entries fit a block (at least one row each)."""
    pairs = np.concatenate([[0], np.cumsum(np.diff(offsets) ** 2)])
    start, rows = 0, len(offsets) - 1
    while start < rows:
        stop = int(np.searchsorted(pairs, pairs[start] + _BLOCK_PAIRS, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _pairs(sizes: Ints) -> tuple[Ints, Ints]:
    """All pairs (i, j) of entries of the same row, in order of i and then j."""
    per_entry = np.repeat(sizes, sizes)
    left = np.repeat(np.arange(len(per_entry)), per_entry)
    begin = np.repeat(np.cumsum(sizes) - sizes, sizes)
    restart = np.repeat(np.cumsum(per_entry) - per_entry, per_entry)
    return left, np.arange(len(left)) - restart + begin[left]


BACKEND = NumpyBackend()
