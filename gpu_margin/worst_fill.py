"""Worst fill: the most that a book may require, whichever of its open orders are filled.

An order may be filled in any part. A measure that is convex in the positions (expected shortfall,
worst loss, covariance, and these with bounded offsets) is largest at a corner of what may be filled
(Rockafellar, Convex Analysis (1970), theorem 32.2): the maximum W over subsets of orders, each
filled in whole or not at all, covers every partial fill. Value-at-risk is not convex: W is then the
maximum over whole fills and no more than that. The bound W+ >= W needs no subsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_margin import unit_risk
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import placed
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Rows, add_up, entry_rows, row_offsets, rows_at
from gpu_margin.resident import net
from gpu_margin.tails import is_smoothed

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# How far a sum of scenario vectors may be from the canonical sum, relative to the gross loss.
_ROUNDING = 1e-9


class Sums(Protocol):
    """Legs that are measured in any mixture: the book, and one contract of each order.

    Mixtures are rows of legs: how much of the book (1) and how many contracts of each order.
    `rounding` is how far `measure` and `bound` may be from the canonical figures, in margin
    currency.
    """

    @property
    def rounding(self) -> float:
        """See above; 0 where the figures are canonical."""
        ...

    def measure(self, mixtures: Rows) -> Floats:
        """[mixture] what it requires."""
        ...

    def bound(self, mixture: Rows) -> float | None:
        """W+ of one mixture: no partial fill of it requires more. None where none is known."""
        ...


class Measurer(Protocol):
    """What positions require, in one market."""

    @property
    def convex(self) -> bool:
        """Whether the requirement is convex, and no more than the sum of that of any parts."""
        ...

    def require(self, rows: Rows) -> Floats:
        """[row] what net positions require, canonically: the same bits as in a run."""
        ...

    def sums(self, legs: Rows, mixture: Rows, vector: Array | None) -> Sums:
        """The legs to be mixed, `mixture` being the largest; `vector` is the book's, if resident.

        `legs` are rows of positions: the book's, then one of each order.
        """
        ...


# Compared by identity: they hold a market's arrays.
@dataclass(frozen=True, eq=False)
class ScenarioMeasurer:
    """A measure of the tail of scenario vectors that add up.

    `matrix` [instrument, scenario] unit P&L on the device, float64.
    """

    matrix: Array
    tail: TailMeasure
    backend: Backend

    @cached_property
    def convex(self) -> bool:
        """Whether no smaller loss weighs more than a larger one."""
        return not is_smoothed(self.tail)

    @cached_property
    def _largest(self) -> Floats:
        """[instrument] largest absolute P&L of one contract."""
        xp = self.backend.xp
        largest: Floats = self.backend.to_host(xp.max(xp.abs(self.matrix), axis=1))
        return largest

    def require(self, rows: Rows) -> Floats:
        """[row] the measure, at least 0."""
        return self._measured(rows, self.matrix)

    def sums(self, legs: Rows, mixture: Rows, vector: Array | None) -> Sums:
        """Scenario vectors of the legs: that of the book is added up once, or resident."""
        xp, backend = self.backend.xp, self.backend
        first = 0 if vector is None else 1
        vectors = backend.weighted_sum(_from(legs, first, backend), self.matrix)
        if vector is not None:
            vectors = xp.concat([vector[None, :], vectors], axis=0)
        orders = vectors[1:, :]
        losses = xp.concat([vectors[:1, :], xp.minimum(orders, xp.zeros_like(orders))], axis=0)
        size = np.abs(legs.value) * self._largest[legs.column]
        of_leg = add_up(entry_rows(legs), size, len(legs))
        gross = math.fsum((mixture.value * of_leg[mixture.column]).tolist())
        return _Vectors(vectors, losses, self._measured, _ROUNDING * gross)

    def _measured(self, rows: Rows, matrix: Array) -> Floats:
        found = self.backend.tail(placed(rows, self.backend).device, matrix, [self.tail])
        amount: Floats = self.backend.to_host(found.value)[:, 0]
        return np.maximum(amount, 0.0) + 0.0  # -0.0 becomes 0.0


@dataclass(frozen=True, eq=False)
class _Vectors:
    """`vectors` and `losses` [leg, scenario]: `losses` without the profits of orders."""

    vectors: Array
    losses: Array
    measured: Callable[[Rows, Array], Floats]
    rounding: float

    def measure(self, mixtures: Rows) -> Floats:
        return self.measured(mixtures, self.vectors)

    def bound(self, mixture: Rows) -> float | None:
        return float(self.measured(mixture, self.losses)[0])


@dataclass(frozen=True, eq=False)
class RowMeasurer:
    """Any requirement of rows of net positions: recomputed for every mixture, all in one call."""

    rows_require: Callable[[Rows], Floats]
    convex: bool

    def require(self, rows: Rows) -> Floats:
        """[row] the requirement."""
        return self.rows_require(rows)

    def sums(self, legs: Rows, mixture: Rows, vector: Array | None) -> Sums:
        """The legs themselves."""
        return _Positions(self, legs)


@dataclass(frozen=True, eq=False)
class _Positions:
    """Legs as positions."""

    measurer: RowMeasurer
    legs: Rows
    rounding: float = 0.0

    def measure(self, mixtures: Rows) -> Floats:
        return self.measurer.require(mixed(self.legs, mixtures))

    def bound(self, mixture: Rows) -> float | None:
        """The book's requirement plus that of every order alone."""
        if not self.measurer.convex:
            return None
        count = np.arange(len(mixture.column) + 1, dtype=np.int64)
        alone = Rows(count, mixture.column, mixture.value)
        return math.fsum(self.measure(alone).tolist())


def measurer_of(prepared: Prepared, backend: Backend) -> Measurer:
    """The measurer of a model that was prepared on the backend."""
    if prepared.vectors is not None:
        return ScenarioMeasurer(prepared.vectors.matrix, prepared.vectors.measure, backend)
    return RowMeasurer(lambda rows: prepared.require(rows).amount, _is_convex(prepared))


def _is_convex(prepared: Prepared) -> bool:
    """Whether it is known to be: a quantile of scenarios is not, that of a normal one is."""
    if not isinstance(prepared, unit_risk.Prepared):
        return False
    unit = prepared.unit
    return unit.unit_pnl is None or unit.component != "value_at_risk"


@dataclass(frozen=True, eq=False)
class Fills:
    """A book, its open orders and one more order, in every fill.

    `legs` are rows of positions: the book's net ones, one contract of each open order in its
    direction, one of the new order; `amount` [open order] contracts, `most` those of the new order.
    """

    measurer: Measurer
    legs: Rows
    amount: Floats
    most: float
    vector: Array | None

    @cached_property
    def _sums(self) -> Sums:
        return self.measurer.sums(self.legs, self._whole(self.most), self.vector)

    def bound(self, size: float, limit: float) -> float | None:
        """W+ with `size` contracts of the new order; canonical within rounding of the limit."""
        found, sums = self._sums.bound(self._whole(size)), self._sums
        if found is None or self.vector is None or abs(found - limit) > sums.rounding:
            return found
        exact = self.measurer.sums(self.legs, self._whole(self.most), None)
        return exact.bound(self._whole(size))

    def before(self, limit: float) -> float:
        """W without the new order; canonical unless it is well below the limit."""
        mixtures = self._mixtures(self.subsets, 0.0)
        found = self._sums.measure(mixtures)
        top = float(found.max())
        if top + self._sums.rounding < limit:
            return top
        return float(self._canonical(mixtures, found, found < top - 2 * self._sums.rounding).max())

    def after(self, subsets: Bools, size: float, threshold: float) -> Floats:
        """[subset] requirement of the book, the subset of open orders and `size` of the new one.

        `subsets` [subset, open order]; figures within rounding of the threshold are canonical.
        """
        mixtures = self._mixtures(subsets, size)
        found = self._sums.measure(mixtures)
        return self._canonical(mixtures, found, np.abs(found - threshold) > self._sums.rounding)

    @cached_property
    def subsets(self) -> Bools:
        """[subset, open order] all subsets."""
        count = len(self.amount)
        number = np.arange(1 << count)[:, None]
        inside: Bools = (number >> np.arange(count)) & 1 == 1
        return inside

    def _whole(self, size: float) -> Rows:
        return self._mixtures(np.ones((1, len(self.amount)), dtype=np.bool_), size)

    def _mixtures(self, subsets: Bools, size: float) -> Rows:
        """Rows of legs: the book, a subset of open orders, `size` of the new order."""
        amounts = np.concatenate([[1.0], self.amount, [size]])
        ends = np.ones((len(subsets), 1), dtype=np.bool_)
        row, leg = np.nonzero(np.concatenate([ends, subsets, ends], axis=1))
        return Rows(row_offsets(row, len(subsets)), leg.astype(np.int64), amounts[leg])

    def _canonical(self, mixtures: Rows, found: Floats, sure: Bools) -> Floats:
        """`found` [mixture], recomputed from positions where it is not sure."""
        unsure = np.flatnonzero(~sure)
        if len(unsure) and self._sums.rounding > 0.0:
            found[unsure] = self.measurer.require(mixed(self.legs, rows_at(mixtures, unsure)))
        return found


def fills(
    measurer: Measurer,
    book: Rows,
    orders: Sequence[tuple[int, float]],
    order: tuple[int, float],
    vector: Array | None = None,
) -> Fills:
    """`book` is one row of net positions; orders are (instrument code, signed quantity)."""
    # In order of instrument and quantity: the state's own order changes no bit.
    every = [*sorted(orders), order]
    column = np.array([instrument for instrument, _ in every], dtype=np.int64)
    quantity = np.array([contracts for _, contracts in every], dtype=np.float64)
    held = len(book.column)
    legs = Rows(
        np.concatenate([[0], np.arange(held, held + len(every) + 1)]).astype(np.int64),
        np.concatenate([book.column, column]),
        np.concatenate([book.value, np.sign(quantity)]),
    )
    amount = np.abs(quantity)
    return Fills(measurer, legs, amount[:-1], float(amount[-1]), vector)


def mixed(legs: Rows, mixtures: Rows) -> Rows:
    """Net positions of mixtures of legs, in canonical order: as a portfolio of them is netted."""
    parts = rows_at(legs, mixtures.column)
    part = entry_rows(parts)
    value = mixtures.value[part] * parts.value
    return net(entry_rows(mixtures)[part], parts.column, value, len(mixtures))


def _from(rows: Rows, first: int, backend: Backend) -> Rows:
    """The rows from `first` on, on the device."""
    return placed(rows_at(rows, np.arange(first, len(rows))), backend).device
