"""What is asked of a book and its orders, and how many books are asked about at once.

A book is judged by a generator, written as if the book were alone: it yields what it must know next
(`Ask`) and is sent the figures. `answered` puts what all of them ask at a time into one call.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_margin.portfolio import Rows, add_up, entry_rows, rows_at
from gpu_margin.worst_fill import ROUNDING, Legs, Measurer, Sums, Way

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Ask:
    """What `mixtures`, rows of legs, require: [mixture] figures of a kind."""

    way: Way
    mixtures: Rows


Asking = Generator[Ask, Floats, T]


def answered(sums: Sums, judgements: Sequence[Asking[T]]) -> list[T]:
    """What the judgements return; what they ask of their legs is answered round by round."""
    results: dict[int, T] = {}
    replies: dict[int, Any] = dict.fromkeys(range(len(judgements)))
    while replies:
        asked: dict[int, Ask] = {}
        for number, reply in replies.items():
            try:
                asked[number] = judgements[number].send(reply)
            except StopIteration as done:
                results[number] = done.value
        replies = _replies(sums, asked)
    return [results[number] for number in range(len(judgements))]


def _replies(sums: Sums, asked: dict[int, Ask]) -> dict[int, Floats]:
    """By judgement, one call for each way of asking."""
    replies: dict[int, Floats] = {}
    for way in dict.fromkeys(ask.way for ask in asked.values()):
        own = [number for number, ask in asked.items() if ask.way == way]
        parts = [asked[number].mixtures for number in own]
        ends = np.cumsum([len(part) for part in parts])
        found = sums.answer(way, _stacked(parts))
        replies.update(zip(own, np.split(found, ends[:-1]), strict=True))
    return replies


def _stacked(parts: Sequence[Rows]) -> Rows:
    """The rows of all, one after another."""
    if len(parts) == 1:
        return parts[0]
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    return Rows(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([part.column for part in parts]),
        np.concatenate([part.value for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class Fills:
    """A book, its open orders and one more order, in every fill.

    `leg` are the numbers of their legs, in that order; `amount` [open order] contracts and `most`
    those of the new order. `gross` is that of the legs, `resident` whether the book has a vector.
    """

    measurer: Measurer
    leg: Ints
    amount: Floats
    most: float
    gross: Floats
    resident: bool

    @cached_property
    def rounding(self) -> float:
        """How far figures may be from the canonical ones, in margin currency."""
        amounts = np.concatenate([[1.0], self.amount, [self.most]])
        return ROUNDING * math.fsum((amounts * self.gross).tolist())

    def bounds(self, sizes: Floats, limit: float) -> Asking[Floats]:
        """[size] W+ with that many of the new order; canonical within rounding of the limit."""
        mixtures = self._mixtures(np.ones((1, len(self.amount)), dtype=np.bool_), sizes)
        found = yield Ask("worst", mixtures)
        if self.resident:
            found = yield from self._sure(
                "exact_worst", mixtures, found, np.abs(found - limit) > self.rounding
            )
        return found

    def before(self, limit: float) -> Asking[float]:
        """W without the new order; canonical unless it is well below the limit."""
        mixtures = self._mixtures(self.subsets, np.zeros(1))
        found = yield Ask("sum", mixtures)
        top = float(found.max())
        if top + self.rounding < limit:
            return top
        near = found < top - 2 * self.rounding
        found = yield from self._sure("exact", mixtures, found, near)
        return float(found.max())

    def after(self, subsets: Bools, sizes: Floats, threshold: float) -> Asking[Floats]:
        """[size, subset] requirement of the book, the open orders of the subset and the new one.

        `subsets` [subset, open order]; figures within rounding of the threshold are canonical.
        """
        mixtures = self._mixtures(subsets, sizes)
        found = yield Ask("sum", mixtures)
        clear = np.abs(found - threshold) > self.rounding
        found = yield from self._sure("exact", mixtures, found, clear)
        return found.reshape(len(sizes), len(subsets))

    @cached_property
    def subsets(self) -> Bools:
        """[subset, open order] all subsets."""
        count = len(self.amount)
        number = np.arange(1 << count)[:, None]
        inside: Bools = (number >> np.arange(count)) & 1 == 1
        return inside

    def _mixtures(self, subsets: Bools, sizes: Floats) -> Rows:
        """Rows of legs: the book, a subset of open orders, a size of the new order."""
        # A leg that is not filled stands there with 0, which changes no sum.
        value = np.ones((len(sizes), len(subsets), len(self.leg)))
        value[:, :, 1:-1] = subsets * self.amount
        value[:, :, -1] = sizes[:, None]
        count = len(sizes) * len(subsets)
        offsets = np.arange(count + 1, dtype=np.int64) * len(self.leg)
        return Rows(offsets, np.tile(self.leg, count), value.reshape(-1))

    def _sure(self, way: Way, mixtures: Rows, found: Floats, sure: Bools) -> Asking[Floats]:
        """`found` [mixture], asked once more where it is not sure and may be off."""
        unsure = np.flatnonzero(~sure)
        if len(unsure) and self.rounding != 0.0:
            found = found.copy()
            found[unsure] = yield Ask(way, rows_at(mixtures, unsure))
        return found


@dataclass(frozen=True, eq=False)
class Laid:
    """Books with their orders, side by side.

    `whole` has a row for each book: everything filled. Its first leg is the book, its last the new
    order, and between them are the open ones.
    """

    measurer: Measurer
    legs: Legs
    whole: Rows
    sums: Sums

    def __len__(self) -> int:
        return len(self.whole)

    @cached_property
    def rounding(self) -> Floats:
        """[book] as `Fills.rounding` of everything, but for rounding of its own."""
        size = self.whole.value * self.sums.gross[self.whole.column]
        return ROUNDING * add_up(entry_rows(self.whole), size, len(self))

    def bounds(self) -> Floats:
        """[book] W+, as `Fills.bounds` has it before it is made sure; NaN where none is known."""
        if not self.measurer.bounded:
            return np.full(len(self), math.nan)
        return self.sums.answer("worst", self.whole)

    def fills(self, number: int) -> Fills:
        """The fills of one of the books."""
        own = slice(self.whole.offsets[number], self.whole.offsets[number + 1])
        leg, amount = self.whole.column[own], self.whole.value[own]
        return Fills(
            measurer=self.measurer,
            leg=leg,
            amount=amount[1:-1],
            most=float(amount[-1]),
            gross=self.sums.gross[leg],
            resident=bool(self.legs.resident[number]),
        )


def laid(
    measurer: Measurer,
    books: Rows,
    open_orders: Rows,
    order: Rows,
    place: Ints,
    vectors: Array | None,
) -> Laid:
    """Rows of net positions, of open orders (in any order) and of one order each, on the host.

    `place` and `vectors` are as in `Legs`.
    """
    count = len(books)
    owner = np.concatenate([entry_rows(open_orders), np.arange(count)])
    column = np.concatenate([open_orders.column, order.column])
    quantity = np.concatenate([open_orders.value, order.value])
    new = np.arange(len(owner)) >= len(open_orders.column)
    # In order of instrument and quantity: the state's own order changes no bit.
    sorted_legs = np.lexsort((quantity, column, new, owner))
    column, quantity = column[sorted_legs], quantity[sorted_legs]
    ends = len(books.column) + np.arange(1, len(column) + 1)
    legs = Rows(
        np.concatenate([books.offsets, ends]).astype(np.int64),
        np.concatenate([books.column, column]),
        np.concatenate([books.value, np.sign(quantity)]),
    )
    # Every book comes before its orders.
    offsets = open_orders.offsets + 2 * np.arange(count + 1)
    first = offsets[:-1]
    leg, amount = np.empty(offsets[-1], dtype=np.int64), np.ones(offsets[-1])
    others = np.ones(len(leg), dtype=np.bool_)
    others[first] = False
    leg[first], leg[others] = np.arange(count), count + np.arange(len(column))
    amount[others] = np.abs(quantity)
    both = Legs(legs, place, vectors)
    return Laid(measurer, both, Rows(offsets, leg, amount), measurer.sums(both))
