"""Netting sets that trades can be tried on, at a cost proportional to the trades.

A scenario vector is a set's P&L in every scenario. Where a requirement is one measure of it, a
what-if is a sparse row of a few trades and one vector: `ResidentBook` keeps the vectors of all sets
beside the unit P&L, in one matrix on the device. Where it is not, the positions of the sets that
are touched are added up again (`RecomputedBook`).
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.books import placed
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, Rows, entry_rows, netted_rows, row_offsets, rows_at
from gpu_margin.unit_risk import ScenarioVectors

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Bytes of scenario vectors that are made at a time: few, so that they stay in the cache, and who
# makes them beside others holds nothing for long.
_TILE_BYTES = 1 << 19
# Room that vectors get beyond those that are there: a share of them, and a few.
_SHARE, _FEW = 8, 1024

RowsOf = Callable[[int, int], Rows]


@dataclass(frozen=True)
class Changed:
    """What sets require `before` and `after` their trades: [row], not finite where unknown."""

    before: Floats
    after: Floats


class Book(Protocol):
    """Netting sets that trades can be tried on."""

    def changed(self, trades: Rows, sets: Ints) -> Changed:
        """Requirements of `sets` [row] (codes, -1 for one without positions) and their trades.

        `trades` are rows of net quantities of instruments, on the host. A row without trades
        changes nothing. What shares a call changes no bit.
        """
        ...


def book_for(prepared: Prepared, portfolio: Portfolio, backend: Backend) -> Book:
    """The netting sets of the portfolio under a model that was prepared on the backend."""
    if prepared.vectors is None:
        return RecomputedBook(prepared, portfolio)
    return ResidentBook(prepared, portfolio, backend)


class Vectors:
    """The scenario vectors of netting sets, resident on a device, with room for more.

    `matrix` [instrument + room, scenario] on the device is the unit P&L and below it the vectors of
    the `count` sets; it takes 8 bytes per set and scenario, and while it is filled little more.
    `rows` (first, last) gives the net positions of a range of sets. `finite` [set] is False where a
    vector is not: it is 0 then, for backends want finite matrices. `spare` is a matrix that is no
    longer of use to anyone else; it is used again if it fits.
    """

    def __init__(
        self,
        unit: ScenarioVectors,
        backend: Backend,
        rows: RowsOf,
        count: int,
        room: int | None = None,
        spare: Array | None = None,
    ) -> None:
        self._backend, self.measure, self.count = backend, unit.measure, count
        self.instruments, scenarios = (int(size) for size in unit.matrix.shape)
        room = count + count // _SHARE + _FEW if room is None else room
        self.finite = np.ones(count, dtype=np.bool_)
        shape = (self.instruments + room, scenarios)
        # What cannot be written to on the device is filled on the host.
        fixed = hasattr(unit.matrix, "at")
        matrix = np.zeros(shape) if fixed else _empty(backend, shape, spare)
        here = backend.to_host if fixed else _as_it_is
        matrix[: self.instruments, :] = here(unit.matrix)
        step = max(1, _TILE_BYTES // (8 * max(scenarios, 1)))
        for first in range(0, count, step):
            last = min(first + step, count)
            vectors, self.finite[first:last] = self._added(rows(first, last), unit.matrix)
            matrix[self.instruments + first : self.instruments + last, :] = here(vectors)
        self.matrix = backend.to_device(matrix) if fixed else matrix

    @property
    def room(self) -> int:
        """For how many sets there is."""
        return int(self.matrix.shape[0]) - self.instruments

    @property
    def unit(self) -> Array:
        """[instrument, scenario] profit of one contract, on the device."""
        return self.matrix[: self.instruments, :]

    def grown(self, count: int) -> Vectors:
        """The same vectors with room for `count` sets: these, if they have it."""
        if count <= self.room:
            return self
        other = copy(self)
        shape = (self.instruments + count + count // _SHARE + _FEW, int(self.matrix.shape[1]))
        other.matrix = _put(_empty(self._backend, shape, None), 0, self.matrix)
        return other

    def add(self, count: int) -> None:
        """Further sets, without positions; there must be room."""
        first = self.instruments + self.count
        none = self._backend.to_device(np.zeros((count, int(self.matrix.shape[1]))))
        self.matrix = _put(self.matrix, first, none)
        self.finite = np.append(self.finite, np.ones(count, dtype=np.bool_))
        self.count += count

    def put(self, sets: Ints, rows: Rows) -> None:
        """New net positions of some sets."""
        vectors, self.finite[sets] = self._added(rows, self.unit)
        self.write(self.instruments + sets, vectors)

    def write(self, rows: Ints, values: Array) -> None:
        """Rows of the matrix."""
        self.matrix = _scattered(self.matrix, rows, values, self._backend)

    def moved(self, unit: ScenarioVectors, codes: Ints, sets: Ints, rows: Rows) -> Moved:
        """What these would be if instruments (codes) were worth what `unit` has.

        `rows` are the net positions of `sets`, all those that have any in these instruments.
        """
        after, matrix = copy(self), unit.matrix
        vectors, finite = self._added(rows, matrix)
        after.finite = self.finite.copy()
        after.finite[sets] = finite
        alone = np.arange(len(sets), dtype=np.int64)
        required = np.where(finite, self._each(alone, vectors), np.nan)
        chosen = self._backend.xp.take(matrix, self._backend.to_device(codes), axis=0)

        def write() -> None:
            after.write(codes, chosen)
            after.write(self.instruments + sets, vectors)

        return Moved(after, required, write)

    def required(self, sets: Ints) -> Floats:
        """[set] what the sets require, NaN where that is not known."""
        found = self._each(self.instruments + sets, self.matrix)
        return np.where(self.finite[sets], found, np.nan)

    def after(self, trades: Rows, sets: Ints) -> Floats:
        """[row] what sets (-1: one without positions) require with net trades; NaN: not known."""
        found = self._measured(self._beside(trades, sets), self.matrix)
        known = np.append(self.finite, True)[sets]
        return found if known.all() else np.where(known, found, np.nan)

    def _each(self, lines: Ints, matrix: Array) -> Floats:
        """[line] requirement of lines of the matrix, each by itself."""
        one = np.arange(len(lines) + 1, dtype=np.int64)
        return self._measured(Rows(one, lines, np.ones(len(lines))), matrix)

    def _measured(self, rows: Rows, matrix: Array) -> Floats:
        """[row] requirement of rows of lines of the matrix: the measure where it is positive."""
        device = placed(rows, self._backend).device
        tail = self._backend.tail(device, matrix, [self.measure])
        amount: Floats = self._backend.to_host(tail.value)[:, 0]
        return np.maximum(amount, 0.0) + 0.0  # -0.0 becomes 0.0

    def _beside(self, trades: Rows, sets: Ints) -> Rows:
        """Each row's trades in order of instrument, then the vector of its set once."""
        size, held = np.diff(trades.offsets), sets >= 0
        offsets = np.zeros(len(size) + 1, dtype=np.int64)
        np.cumsum(size + held, out=offsets[1:])
        column = np.empty(offsets[-1], dtype=np.int64)
        value = np.ones(offsets[-1])
        last = offsets[1:][held] - 1
        trade = np.ones(offsets[-1], dtype=np.bool_)
        trade[last] = False
        column[trade], value[trade] = trades.column, trades.value
        column[last] = self.instruments + sets[held]
        return Rows(offsets, column, value)

    def _added(self, rows: Rows, unit: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Vectors [row, scenario] of net positions, and whether each is finite, else 0."""
        xp, backend = self._backend.xp, self._backend
        vectors = backend.weighted_sum(placed(rows, backend).device, unit)
        fine = xp.all(xp.isfinite(vectors), axis=1)
        finite: NDArray[np.bool_] = backend.to_host(fine)
        if not finite.all():
            vectors = xp.where(fine[:, None], vectors, xp.zeros_like(vectors))
        return vectors, finite


@dataclass(frozen=True)
class Moved:
    """Vectors as they would be: `vectors` are only right once `write` has been called.

    `required` [set] is what the sets that were given require then, NaN where that is not known.
    Where the device lets a matrix be written to, it is the very one of the vectors before.
    """

    vectors: Vectors
    required: Floats
    write: Callable[[], None]


class ResidentBook:
    """The netting sets of a portfolio by their scenario vectors.

    `matrix` as in `Vectors`, with room for these sets only. `before` [set + 1] is what each set
    requires, and 0 last, for a set that is not there. Raises `ValueError` for a model without
    scenario vectors.
    """

    def __init__(self, prepared: Prepared, portfolio: Portfolio, backend: Backend) -> None:
        if prepared.vectors is None:
            raise ValueError("the model has no scenario vectors: use RecomputedBook")
        count = len(portfolio.rows)
        rows = partial(_netted, portfolio.rows)
        self._vectors = Vectors(prepared.vectors, backend, rows, count, room=count)
        every = np.arange(count, dtype=np.int64)
        self.before = np.append(self._vectors.required(every), 0.0)

    @property
    def matrix(self) -> Array:
        """Unit P&L and vectors."""
        return self._vectors.matrix

    def changed(self, trades: Rows, sets: Ints) -> Changed:
        """See `Book`: a row's trades in order of instrument, then its vector once."""
        before = self.before[sets]
        after = before.copy()
        moved = np.flatnonzero(np.diff(trades.offsets) > 0)
        size = np.diff(trades.offsets)[moved]
        offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        chosen = Rows(offsets, trades.column, trades.value)
        after[moved] = self._vectors.after(chosen, sets[moved])
        return Changed(before, after)


class RecomputedBook:
    """The net positions of all netting sets; those that are touched are measured again."""

    def __init__(self, prepared: Prepared, portfolio: Portfolio) -> None:
        self._prepared, self._rows = prepared, portfolio.netted

    def changed(self, trades: Rows, sets: Ints) -> Changed:
        """See `Book`: one call of the model for all sets, as they are and as they would be."""
        held = rows_at(self._rows, sets)
        moved = np.flatnonzero(np.diff(trades.offsets) > 0)
        becoming = _stacked(rows_at(held, moved), rows_at(trades, moved))
        row = entry_rows(becoming) % max(len(moved), 1)
        after = net(row, becoming.column, becoming.value, len(moved))
        amount = self._prepared.require(_stacked(held, after)).amount
        before = amount[: len(sets)]
        changed = before.copy()
        changed[moved] = amount[len(sets) :]
        return Changed(before, changed)


def net(row: Ints, column: Ints, value: Floats, count: int) -> Rows:
    """Entries of `count` rows, in any order, as rows of net positions.

    Equal columns of a row are summed in order of their values, as those of a portfolio are.
    """
    order = np.lexsort((value, column, row))
    return netted_rows(Rows(row_offsets(row[order], count), column[order], value[order]))


def _stacked(above: Rows, below: Rows) -> Rows:
    """The rows of both, one after another."""
    return Rows(
        np.concatenate([above.offsets, above.offsets[-1] + below.offsets[1:]]),
        np.concatenate([above.column, below.column]),
        np.concatenate([above.value, below.value]),
    )


def _netted(rows: Rows, first: int, last: int) -> Rows:
    """Some rows of a portfolio netted, so that little is held beside the vectors."""
    offsets = rows.offsets[first : last + 1]
    own = slice(offsets[0], offsets[-1])
    return netted_rows(Rows(offsets - offsets[0], rows.column[own], rows.value[own]))


def _as_it_is(array: Array) -> Array:
    return array


def _empty(backend: Backend, shape: tuple[int, int], spare: Array | None) -> Array:
    """A matrix of zeros on the device, or a spare one of its shape, whatever is in it."""
    if spare is not None and tuple(spare.shape) == shape:
        return spare
    return backend.xp.zeros(shape, dtype=backend.xp.float64)


def _put(matrix: Array, first: int, rows: Array) -> Array:
    """The matrix with these rows from `first` on: the same one, where it can be written to."""
    last = first + int(rows.shape[0])
    if hasattr(matrix, "at"):
        return matrix.at[first:last, :].set(rows)
    matrix[first:last, :] = rows
    return matrix


def _scattered(matrix: Array, places: Ints, rows: Array, backend: Backend) -> Array:
    """The matrix with rows at these places: the same one, where it can be written to."""
    if hasattr(matrix, "at"):
        return matrix.at[backend.to_device(places)].set(rows)
    if backend.xp is np or hasattr(matrix, "__cuda_array_interface__"):
        matrix[backend.to_device(places)] = rows
        return matrix
    for number, place in enumerate(places.tolist()):
        matrix[place, :] = rows[number, :]
    return matrix
