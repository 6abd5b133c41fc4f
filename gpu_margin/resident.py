"""Netting sets that trades can be tried on, at a cost proportional to the trades.

A scenario vector is a set's P&L in every scenario. Where a requirement is one measure of it, a
what-if is a sparse row of a few trades and one vector: `ResidentBook` keeps the vectors of all sets
beside the unit P&L, in one matrix on the device. Where it is not, the positions of the sets that
are touched are added up again (`RecomputedBook`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.books import placed
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, Rows, entry_rows, netted_rows, row_offsets, rows_at

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Bytes of scenario vectors that are made at a time.
_TILE_BYTES = 1 << 24


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


class ResidentBook:
    """The scenario vectors of all netting sets, resident on a device.

    `matrix` [instrument + set, scenario] on the device is the unit P&L and below it the vectors;
    it takes 8 bytes per set and scenario, and while it is filled little more. `before` [set + 1] is
    what each set requires, and 0 last, for a set that is not there. Raises `ValueError` for a model
    without scenario vectors.
    """

    def __init__(self, prepared: Prepared, portfolio: Portfolio, backend: Backend) -> None:
        if prepared.vectors is None:
            raise ValueError("the model has no scenario vectors: use RecomputedBook")
        self._backend, self._measure = backend, prepared.vectors.measure
        unit = prepared.vectors.matrix
        self._instruments, scenarios = (int(size) for size in unit.shape)
        count = len(portfolio.rows)
        # Filled on the host: not every library lets a part of an array be written.
        matrix = np.empty((self._instruments + count, scenarios))
        matrix[: self._instruments] = backend.to_host(unit)
        vectors = matrix[self._instruments :]
        finite = np.ones(count, dtype=np.bool_)
        for place, rows in _netted_tiles(portfolio.rows, scenarios):
            vectors[place] = backend.to_host(
                backend.weighted_sum(placed(rows, backend).device, unit)
            )
            finite[place] = np.isfinite(vectors[place]).all(axis=1)
        vectors[~finite] = 0.0  # backends want finite matrices
        self.matrix = backend.to_device(matrix)
        alone = np.arange(count + 1, dtype=np.int64)
        self.before = np.zeros(count + 1)
        vector = Rows(alone, self._instruments + alone[:-1], np.ones(count))
        self.before[:-1] = np.where(finite, self._measured(vector), np.nan)

    def changed(self, trades: Rows, sets: Ints) -> Changed:
        """See `Book`: a row's trades in order of instrument, then its vector once."""
        before = self.before[sets]
        after = before.copy()
        moved = np.flatnonzero(np.diff(trades.offsets) > 0)
        measured = self._measured(self._with_vectors(trades, moved, sets[moved]))
        after[moved] = np.where(np.isnan(before[moved]), np.nan, measured)
        return Changed(before, after)

    def _with_vectors(self, trades: Rows, moved: Ints, sets: Ints) -> Rows:
        """The rows `moved`, which are all that have trades, each with its set's vector last."""
        size, held = np.diff(trades.offsets)[moved], sets >= 0
        offsets = np.concatenate([[0], np.cumsum(size + held)]).astype(np.int64)
        column = np.empty(offsets[-1], dtype=np.int64)
        value = np.ones(offsets[-1])
        last = offsets[1:][held] - 1
        trade = np.ones(offsets[-1], dtype=np.bool_)
        trade[last] = False
        column[trade], value[trade] = trades.column, trades.value
        column[last] = self._instruments + sets[held]
        return Rows(offsets, column, value)

    def _measured(self, rows: Rows) -> Floats:
        """[row] requirement: the measure where it is positive."""
        device = placed(rows, self._backend).device
        tail = self._backend.tail(device, self.matrix, [self._measure])
        amount: Floats = self._backend.to_host(tail.value)[:, 0]
        return np.maximum(amount, 0.0) + 0.0  # -0.0 becomes 0.0


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


def _netted_tiles(rows: Rows, scenarios: int) -> Iterator[tuple[slice, Rows]]:
    """A portfolio's rows netted, some at a time, so that little is held beside the vectors."""
    step = max(1, _TILE_BYTES // (8 * max(scenarios, 1)))
    for start in range(0, len(rows), step):
        offsets = rows.offsets[start : start + step + 1]
        own = slice(offsets[0], offsets[-1])
        part = Rows(offsets - offsets[0], rows.column[own], rows.value[own])
        yield slice(start, start + len(part)), netted_rows(part)
