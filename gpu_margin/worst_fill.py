"""Worst fill: the most that a book may require, whichever of its open orders are filled.

An order may be filled in any part. A measure that is convex in the positions (expected shortfall,
worst loss, covariance, and these with bounded offsets) is largest at a corner of what may be filled
(Rockafellar, Convex Analysis (1970), theorem 32.2): the maximum W over subsets of orders, each
filled in whole or not at all, covers every partial fill. Value-at-risk is not convex: W is then the
maximum over whole fills and no more than that. The bound W+ >= W needs no subsets.

Books are measured side by side, each with legs of its own; what shares a call changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_margin import unit_risk
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import placed
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Rows, add_up, entry_rows, rows_at
from gpu_margin.resident import net
from gpu_margin.tails import is_smoothed

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# How far a sum of scenario vectors may be from the canonical sum, relative to the gross loss.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Legs:
    """What is mixed: books, and one contract of each of their orders.

    `rows` [leg] of net positions: those of the books first, then one contract of each order in its
    direction. `place` [book] is where in `vectors` [place, scenario] on the device the P&L of a
    book is resident, -1 where it is not.
    """

    rows: Rows
    place: Ints
    vectors: Array | None

    @cached_property
    def resident(self) -> Bools:
        """[book] whether its vector is there already."""
        there: Bools = (self.place >= 0) & (self.vectors is not None)
        return there


# "sum" is the measure of the sum of a mixture of legs and "worst" the bound W+; both may be off by
# rounding. "exact" is what the net positions require, canonically, and "exact_worst" the bound of
# the book's canonical vector.
Way = Literal["sum", "worst", "exact", "exact_worst"]


class Sums(Protocol):
    """Legs that are measured in any mixture.

    Mixtures are rows of legs: one book (1) first, then contracts of its orders. `gross` [leg] is
    the scale of what one unit of a leg may be off by, 0 where figures are canonical (`ROUNDING`).
    """

    @property
    def gross(self) -> Floats:
        """See above, in margin currency."""
        ...

    def answer(self, way: Way, mixtures: Rows) -> Floats:
        """[mixture] figures of a kind: see `Way`."""
        ...


class Measurer(Protocol):
    """What positions require, in one market."""

    @property
    def convex(self) -> bool:
        """Whether the requirement is convex, and no more than the sum of that of any parts."""
        ...

    @property
    def bounded(self) -> bool:
        """Whether there is a bound W+: it may only be asked for where there is."""
        ...

    def require(self, rows: Rows) -> Floats:
        """[row] what net positions require, canonically: the same bits as in a run."""
        ...

    def sums(self, legs: Legs) -> Sums:
        """The legs to be mixed."""
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
    bounded: bool = True

    @cached_property
    def convex(self) -> bool:
        """Whether no smaller loss weighs more than a larger one."""
        return not is_smoothed(self.tail)

    @cached_property
    def largest(self) -> Floats:
        """[instrument] largest absolute P&L of one contract."""
        xp = self.backend.xp
        largest: Floats = self.backend.to_host(xp.max(xp.abs(self.matrix), axis=1))
        return largest

    def require(self, rows: Rows) -> Floats:
        """[row] the measure, at least 0."""
        return self.measured(rows, self.matrix)

    def sums(self, legs: Legs) -> Sums:
        """Scenario vectors of the legs: those of books are added up once, or resident."""
        return _Vectors(self, legs)

    def measured(self, rows: Rows, matrix: Array) -> Floats:
        """[row] the measure of rows of a matrix [column, scenario] on the device, at least 0."""
        found = self.backend.tail(placed(rows, self.backend).device, matrix, [self.tail])
        amount: Floats = self.backend.to_host(found.value)[:, 0]
        return np.maximum(amount, 0.0) + 0.0  # -0.0 becomes 0.0


@dataclass(frozen=True, eq=False)
class _Vectors:
    """Legs as scenario vectors; what overflows is measured as infinite."""

    measurer: ScenarioMeasurer
    legs: Legs

    @cached_property
    def gross(self) -> Floats:
        rows = self.legs.rows
        size = np.abs(rows.value) * self.measurer.largest[rows.column]
        return add_up(entry_rows(rows), size, len(rows))

    def answer(self, way: Way, mixtures: Rows) -> Floats:
        if way == "exact":
            return self.measurer.require(mixed(self.legs.rows, mixtures))
        matrix = {"sum": "_whole", "worst": "_losing", "exact_worst": "_exactly_losing"}[way]
        found = self.measurer.measured(mixtures, getattr(self, matrix))
        # Of every mixture the book is the first leg.
        found[~self._finite[mixtures.column[mixtures.offsets[:-1]]]] = math.inf
        return found

    @cached_property
    def _finite(self) -> Bools:
        """[book] whether it is in range: what is not would spoil the figures of others."""
        finite: Bools = np.isfinite(self.gross[: len(self.legs.place)])
        return finite

    @cached_property
    def _orders(self) -> Array:
        """[leg of an order, scenario] P&L of one contract in its direction."""
        count = len(self.legs.place)
        return self._added_up(np.arange(count, len(self.legs.rows)))

    @cached_property
    def _losses(self) -> Array:
        """The same without profits."""
        xp, orders = self.measurer.backend.xp, self._orders
        return xp.minimum(orders, xp.zeros_like(orders))

    @cached_property
    def _books(self) -> Array:
        """[book, scenario] P&L, added up where it is not resident."""
        legs, backend = self.legs, self.measurer.backend
        there = legs.resident
        if not there.any():
            return self._canonical_books
        held = backend.xp.take(legs.vectors, backend.to_device(legs.place[there]), axis=0)
        if there.all():
            return held
        others = np.flatnonzero(~there)
        added = self._added_up(np.where(self._finite[others], others, -1))
        order = np.argsort(np.concatenate([np.flatnonzero(there), others]))
        both = backend.xp.concat([held, added], axis=0)
        return backend.xp.take(both, backend.to_device(order), axis=0)

    @cached_property
    def _canonical_books(self) -> Array:
        return self._added_up(np.where(self._finite, np.arange(len(self._finite)), -1))

    @cached_property
    def _whole(self) -> Array:
        return self._below(self._books, self._orders)

    @cached_property
    def _losing(self) -> Array:
        return self._below(self._books, self._losses)

    @cached_property
    def _exactly_losing(self) -> Array:
        return self._below(self._canonical_books, self._losses)

    def _below(self, books: Array, orders: Array) -> Array:
        """[leg, scenario]"""
        return self.measurer.backend.xp.concat([books, orders], axis=0)

    def _added_up(self, chosen: Ints) -> Array:
        """[chosen leg, scenario] of positions; nothing for -1."""
        backend = self.measurer.backend
        rows = placed(rows_at(self.legs.rows, chosen), backend).device
        return backend.weighted_sum(rows, self.measurer.matrix)


@dataclass(frozen=True, eq=False)
class RowMeasurer:
    """Any requirement of rows of net positions: recomputed for every mixture, all in one call."""

    rows_require: Callable[[Rows], Floats]
    convex: bool

    @property
    def bounded(self) -> bool:
        """Parts may require less than their sum where it is not convex."""
        return self.convex

    def require(self, rows: Rows) -> Floats:
        """[row] the requirement."""
        return self.rows_require(rows)

    def sums(self, legs: Legs) -> Sums:
        """The legs themselves."""
        return _Positions(self, legs)


@dataclass(frozen=True, eq=False)
class _Positions:
    """Legs as positions."""

    measurer: RowMeasurer
    legs: Legs

    @cached_property
    def gross(self) -> Floats:
        return np.zeros(len(self.legs.rows))

    def answer(self, way: Way, mixtures: Rows) -> Floats:
        if way in ("sum", "exact"):
            return self.measurer.require(mixed(self.legs.rows, mixtures))
        # A book's requirement plus that of every order alone.
        count = np.arange(len(mixtures.column) + 1, dtype=np.int64)
        alone = Rows(count, mixtures.column, mixtures.value)
        amount = self.measurer.require(mixed(self.legs.rows, alone))
        parts = np.split(amount, mixtures.offsets[1:-1])
        return np.array([math.fsum(part.tolist()) for part in parts])


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


def mixed(legs: Rows, mixtures: Rows) -> Rows:
    """Net positions of mixtures of legs, in canonical order: as a portfolio of them is netted."""
    parts = rows_at(legs, mixtures.column)
    part = entry_rows(parts)
    value = mixtures.value[part] * parts.value
    return net(entry_rows(mixtures)[part], parts.column, value, len(mixtures))
