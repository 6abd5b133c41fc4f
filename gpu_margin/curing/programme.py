"""What may be traded, and the one programme that says what to trade at least cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from gpu_margin.curing.risk import Block, Known, Part, Term, required

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A share of a lot that is rounding: of a position that is whole lots, or of one closed.
_ROUNDING = 1e-9
# What is left of a position that was closed is below this share of it.
_NOISE = 8 * np.finfo(np.float64).eps
# The solver's tolerances are absolute: the requirement and the dearest lot are brought to these.
_MONEY, _COST = 1e3, 1e4
# So many lots are counted one by one, and a bundle of more is that share of the requirement.
_COUNTED, _BUNDLE = 1e6, 1e-3
# Trades that cost nothing are not made for nothing: each counts this share of the dearest.
_TOKEN_COST = 1e-9


@dataclass(frozen=True)
class Book:
    """Positions, what may become of them and what that costs; arrays are [instrument].

    `quantity` is held; trades are whole numbers of `lot` that leave the position within `lower`
    and `upper` (which may be infinite; a position beyond them may stay, but not grow). A contract
    traded costs `cost`. One bought takes `cash` from `value`, the collateral, and one sold out of
    what is held brings it; what is sold beyond that is owed, so its proceeds count for nothing. The
    requirement may be at most `target` x value. Money is in margin currency. Raises `ValueError`
    for what is not finite, of another length, or out of range.
    """

    quantity: Floats
    cost: Floats
    cash: Floats
    lot: Floats
    lower: Floats
    upper: Floats
    value: float
    target: float = 1.0

    def __post_init__(self) -> None:
        for name in ("quantity", "cost", "cash", "lot", "lower", "upper"):
            array = getattr(self, name)
            bound = name in ("lower", "upper")
            if array.shape != self.quantity.shape or np.isnan(array).any():
                raise ValueError(f"{name}: one number per instrument is needed, without NaN")
            if not bound and not np.isfinite(array).all():
                raise ValueError(f"{name}: numbers must be finite")
        if (self.cost < 0).any() or (self.lot <= 0).any() or (self.lower > self.upper).any():
            raise ValueError("needed: cost >= 0, lot > 0 and lower <= upper")
        if not (np.isfinite(self.value) and np.isfinite(self.target) and self.target > 0):
            raise ValueError("value must be finite, target finite and positive")

    def most(self, side: int) -> Floats:
        """[instrument] how many lots may be bought (side 1) or sold (-1)."""
        room = self.upper - self.quantity if side > 0 else self.quantity - self.lower
        return np.maximum(np.floor(room / self.lot + _ROUNDING), 0.0)

    def position(self, lots: Floats) -> Floats:
        """[instrument] what is held after `lots` bought (or, below 0, sold)."""
        after = self.quantity + lots * self.lot
        noise = np.maximum(_ROUNDING * self.lot, _NOISE * np.abs(self.quantity))
        return np.where(np.abs(after) <= noise, 0.0, after)

    def owned(self) -> Floats:
        """[instrument] how many whole lots of what is held can be sold for cash."""
        return np.maximum(np.floor(self.quantity / self.lot + _ROUNDING), 0.0)

    def proceeds(self, lots: Floats) -> Floats:
        """[instrument] what trading `lots` at the mark brings (or, below 0, takes)."""
        return -self.cash * self.lot * np.maximum(lots, -self.owned())

    def value_after(self, lots: Floats) -> float:
        """Collateral after trading `lots`."""
        return self.value + math.fsum(self.proceeds(lots).tolist())

    def cost_of(self, lots: Floats) -> float:
        """What trading `lots` costs."""
        return float(self.cost @ np.abs(lots * self.lot))


@dataclass(frozen=True)
class Answer:
    """What a programme answers: `lots` [instrument] or None where it cannot be met.

    `bound` is below the objective of any answer (-inf where nothing is proved); `objective` is
    that of the lots: cost, or the missing money where that is what was asked for. `proved` says
    that None means none.
    """

    lots: Floats | None
    objective: float
    bound: float
    proved: bool


@dataclass(frozen=True)
class Ask:
    """One question: `whole` lots or fractions, at least cost or least missing money.

    `margin` is money to keep beyond the target; `gap` is how far, relative, from the best the
    answer may be; `seconds` how long it may take.
    """

    whole: bool = False
    least: Literal["cost", "missing"] = "cost"
    margin: float = 0.0
    gap: float = 0.0
    seconds: float = 60.0


class Programme:
    """The trades of a book under a requirement (a sum of parts), as far as its terms are known."""

    def __init__(self, book: Book, parts: Sequence[Part], money: float) -> None:
        self.book, self.parts = book, tuple(parts)
        self.terms: list[Term] = [term for part in self.parts for term in part.terms]
        self.known: list[Known] = [None] * len(self.terms)
        self._unit = money / _MONEY if money > 0 else 1.0
        self._instrument, self._side, self._most, self._cash = _trades(book)
        self._bundle = self._bundles(money)
        self._most = self._most / self._bundle
        self._lot = self._side * self._bundle * book.lot[self._instrument]
        price = book.cost[self._instrument] * np.abs(self._lot)
        dearest = float(price.max(initial=0.0)) or 1.0
        self._price = np.maximum(price, _TOKEN_COST * dearest)
        self._price_unit = dearest / _COST

    def learn(self, position: Floats) -> bool:
        """Whether the position [instrument] taught any term something new."""
        learnt = [
            term.learn(known, position[term.columns])
            for term, known in zip(self.terms, self.known, strict=True)
        ]
        new = any(a is not b for a, b in zip(learnt, self.known, strict=True))
        self.known = learnt
        return new

    def solve(self, ask: Ask) -> Answer:
        """The best trades, each term being no more than it is known to be."""
        blocks = [term.block(known) for term, known in zip(self.terms, self.known, strict=True)]
        rows, variables = self._system(blocks, ask.margin), self._variables(blocks, ask)
        found = milp(
            variables.objective,
            integrality=variables.whole,
            bounds=Bounds(variables.lower, variables.upper),
            constraints=LinearConstraint(rows.matrix, rows.least, np.inf),
            options={"time_limit": max(ask.seconds, 0.1), "mip_rel_gap": ask.gap},
        )
        unit = self._unit if ask.least == "missing" else self._price_unit
        if found.x is None:
            # 2 is infeasible, 3 unbounded (which the presolver may say for either).
            return Answer(None, np.inf, -np.inf, found.status == 2)
        fraction = found.fun if found.status == 0 else None
        bound = found.mip_dual_bound if ask.whole else fraction
        lots = np.zeros(len(self.book.quantity))
        traded = found.x[: len(self._instrument)] * self._side * self._bundle
        np.add.at(lots, self._instrument, traded)
        return Answer(lots, found.fun * unit, _number(bound) * unit, found.status == 0)

    def cost_of(self, lots: Floats) -> float:
        """The objective of lots: their cost, with the token cost of what is free."""
        floor = np.zeros(len(lots))
        np.maximum.at(floor, self._instrument, self._price / self._bundle)
        return float(floor @ np.abs(lots))

    def _bundles(self, money: float) -> Floats:
        """[trade] lots that are one unit of the programme: 1, or many where one hardly matters.

        The solver takes coefficients that are too small for none, and whole numbers that are too
        large for fractions; the rounding of such a lot is below what any requirement is known to.
        """
        bundle = np.ones(len(self._most))
        for trade in np.flatnonzero(self._most > _COUNTED).tolist():
            one = np.zeros(len(self.book.quantity))
            instrument = self._instrument[trade]
            lot = one[instrument] = self.book.lot[instrument]
            size = max(required(self.parts, one), required(self.parts, -one))
            size = max(size, self.book.target * float(self._cash[trade]) * lot)
            if 0.0 < size < money / _COUNTED:
                bundle[trade] = min(self._most[trade], _BUNDLE * money / size)
        return bundle

    def _variables(self, blocks: Sequence[Block], ask: Ask) -> _Variables:
        """Trades, then parts, terms, missing money and the terms' own variables."""
        trades, free = len(self._instrument), len(self.parts) + len(self.terms)
        own = [block.own_lower for block in blocks]
        lower = np.concatenate([np.zeros(trades + free + 1), *own])
        upper = np.full(len(lower), np.inf)
        upper[:trades] = self._most
        objective = np.zeros(len(lower))
        if ask.least == "cost":
            objective[:trades] = self._price / self._price_unit
            upper[trades + free] = 0.0
        else:
            objective[trades + free] = 1.0
        whole = np.zeros(len(lower))
        whole[:trades] = (self._bundle == 1.0) if ask.whole else 0.0
        return _Variables(objective, lower, upper, whole)

    def _system(self, blocks: Sequence[Block], margin: float) -> _System:
        """All rows over the variables, each at least `least`."""
        trades, parts, terms = len(self._instrument), len(self.parts), len(self.terms)
        rows: list[list[Any]] = []
        least: list[Floats] = []
        for number, (term, block) in enumerate(zip(self.terms, blocks, strict=True)):
            held = block.position / self._unit
            top = sparse.csr_array(
                (block.top, (np.arange(len(block.top)), np.full(len(block.top), number))),
                shape=(len(block.top), terms),
            )
            own: list[Any] = [None] * terms
            own[number] = block.own
            none = sparse.csr_array((len(block.top), parts))
            rows.append([self._per_trade(held, term.columns), none, top, None, *own])
            least.append(-(held @ self.book.quantity[term.columns]))
        own = [sparse.csr_array((0, block.own.shape[1])) for block in blocks]
        rows.append([*self._part_rows(trades), None, *[None] * terms])
        least.append(np.zeros(rows[-1][1].shape[0]))
        rows.append([*self._budget_row(), sparse.csr_array([[1.0]]), *[None] * terms])
        least.append(np.array([(margin - self.book.target * self.book.value) / self._unit]))
        widths = [sparse.csr_array((0, width)) for width in (trades, parts, terms, 1)]
        matrix = sparse.block_array([[*widths, *own], *rows], format="csr")
        return _System(matrix, np.concatenate(least))

    def _per_trade(self, held: Floats, columns: Ints) -> sparse.csr_array:
        """[row, trade] what a lot adds to rows that are known per contract of `columns`."""
        place = np.full(len(self.book.quantity), -1, dtype=np.int64)
        place[columns] = np.arange(len(columns))
        own = place[self._instrument]
        wide = np.where(own >= 0, held[:, own] * self._lot, 0.0)
        return sparse.csr_array(wide)

    def _part_rows(self, trades: int) -> list[Any]:
        """Each part is above its whole and above the mixture with its groups."""
        of_part, of_term, first = [], [], 0
        for number, part in enumerate(self.parts):
            alone, mixed = np.zeros((2, len(self.terms)))
            alone[first] = -1.0
            mixed[first] = -part.share
            mixed[first + 1 : first + len(part.terms)] = part.share - 1.0
            for row in (alone, mixed) if part.groups else (alone,):
                of_term.append(row)
                of_part.append(np.eye(1, len(self.parts), number)[0])
            first += len(part.terms)
        nothing = sparse.csr_array((len(of_part), trades))
        return [nothing, sparse.csr_array(np.array(of_part)), sparse.csr_array(np.array(of_term))]

    def _budget_row(self) -> list[Any]:
        """target x value + missing - sum of the parts >= margin."""
        cash = -self.book.target * self._cash * self._lot / self._unit
        parts = np.full((1, len(self.parts)), -1.0)
        nothing = sparse.csr_array((1, len(self.terms)))
        return [sparse.csr_array(cash[None, :]), sparse.csr_array(parts), nothing]


def _trades(book: Book) -> tuple[Ints, Floats, Floats, Floats]:
    """[trade] instrument, side, most lots, and cash of a contract.

    Bought, sold out of what is held, and sold beyond that.
    """
    sold = book.most(-1)
    # Where no cash changes hands there is nothing to tell the two kinds of sale apart.
    own = np.where(book.cash > 0, np.minimum(sold, book.owned()), sold)
    rest = np.where(book.cash > 0, sold - np.minimum(sold, book.owned()), 0.0)
    every = np.arange(len(sold))
    kinds = [(1.0, book.most(1), book.cash), (-1.0, own, book.cash), (-1.0, rest, np.zeros(1))]
    rows = [
        (every, np.full(len(sold), side), most, np.broadcast_to(cash, len(sold)))
        for side, most, cash in kinds
    ]
    instrument, side, most, cash = (np.concatenate(part) for part in zip(*rows, strict=True))
    some = most > 0
    return instrument[some], side[some], most[some], cash[some]


@dataclass(frozen=True)
class _Variables:
    """Objective, bounds and integrality [variable]."""

    objective: Floats
    lower: Floats
    upper: Floats
    whole: Floats


@dataclass(frozen=True)
class _System:
    """matrix [row, variable] times the variables is at least `least` [row]."""

    matrix: sparse.csr_array
    least: Floats


def _number(value: float | None) -> float:
    return -np.inf if value is None or not np.isfinite(value) else float(value)
