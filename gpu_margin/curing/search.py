"""The cheapest trades in whole lots that meet a target, with what is proved of their cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpu_margin.curing.programme import Answer, Ask, Book, Programme
from gpu_margin.curing.risk import Part, required

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Status = Literal["fine", "cured", "infeasible", "unfinished"]

# Of the requirement: what a programme in fractions may be off, and the margins that lots are tried
# with where the solver's tolerance lets a little too much through.
_OFF = 1e-6
_MARGINS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
# Margins under which fractions, rounded to lots, may hold: for a first plan.
_ROUNDED = (0.0, 0.01, 0.1)
# Moves of single instruments that may mend lots which miss the target by little.
_MENDING = 40
# Of the time left for one programme in lots: what it leaves is for another, should it not hold.
_SLICE = 0.7
_UNFINISHED = "no plan found in {:g} s, and none ruled out: give it more time or a larger gap"


@dataclass(frozen=True)
class Effort:
    """How far, relative, from the least cost a plan may be, and how many seconds it may take."""

    gap: float = 1e-6
    seconds: float = 60.0


@dataclass(frozen=True)
class Plan:
    """What to trade. `trades`, `position` (what is held then) and `proceeds` are [instrument].

    `status` is fine (nothing to do), cured, infeasible or unfinished (no plan in the time given),
    and `reason` says why. `cost` is within the relative `gap` of the least of any plan, None where
    there is none. `verified` says that the requirement recomputed for `position` meets
    the target. `utilisation_after` is None where the collateral is not positive. `binding` are
    codes of instruments whose limits stand in the way of an infeasible plan.
    """

    status: Status
    reason: str
    trades: Floats
    position: Floats
    proceeds: Floats
    cost: float
    requirement_before: float
    requirement_after: float
    value_before: float
    value_after: float
    gap: float | None
    verified: bool
    binding: Ints

    @property
    def utilisation_after(self) -> float | None:
        """Requirement over collateral after the trades."""
        if self.requirement_after == 0.0:
            return 0.0
        return self.requirement_after / self.value_after if self.value_after > 0 else None


def cure(
    book: Book,
    parts: Sequence[Part],
    requirement: Callable[[Floats], float] | None = None,
    effort: Effort | None = None,
    bound: bool = False,
) -> Plan:
    """The cheapest trades that bring the requirement to target x value at most.

    `parts` are what the programme makes of the requirement; `requirement` recomputes it for a
    position [instrument], and is what a plan is verified with (default: the parts). Where the
    parts are a `bound` above it, they have to meet the target too.
    """
    exact = requirement or (lambda position: required(parts, position))
    before = exact(book.quantity)
    if before <= book.target * book.value:
        return untouched(book, before)
    search = _Search(book, parts, exact, effort or Effort(), bound)
    relaxed = search.fractions(Ask())
    if relaxed.lots is None:
        return _infeasible(book, before, search, relaxed)
    search.bound = relaxed.bound
    search.round_off(relaxed)
    ended = search.whole_lots()
    if search.best is None:
        return _nothing(book, before, *ended)
    return _plan(book, before, search, search.best)


def untouched(book: Book, requirement: float) -> Plan:
    """The plan of a book that meets its target: no trades."""
    return _nothing(book, requirement, "fine", "the target is met as it is")


class _Search:
    """The state of one search: the programme, the best lots so far, and the bound on their cost."""

    def __init__(
        self,
        book: Book,
        parts: Sequence[Part],
        exact: Callable[[Floats], float],
        effort: Effort,
        bound: bool,
    ) -> None:
        self.book, self.parts, self.exact, self.effort = book, parts, exact, effort
        self._bounded = bound
        self.money = max(required(parts, book.quantity), book.target * abs(book.value))
        self.programme = Programme(book, parts, self.money)
        self.programme.learn(book.quantity)
        self.best: Floats | None = None
        self.bound = -np.inf
        self._end = monotonic() + effort.seconds

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._end - monotonic()

    @property
    def gap(self) -> float:
        """How far, relative, the best lots may be from the least cost."""
        if self.best is None:
            return np.inf
        cost = self.programme.cost_of(self.best)
        return max(0.0, (cost - self.bound) / cost) if cost > 0 else 0.0

    def fractions(self, ask: Ask) -> Answer:
        """The answer in fractions of lots: asked again until the terms have nothing to add."""
        while True:
            answer = self.programme.solve(replace(ask, seconds=self.left))
            if answer.lots is None or self.left <= 0:
                return answer
            position = self.book.quantity + answer.lots * self.book.lot
            allowed = self.book.target * self.book.value_after(answer.lots) - ask.margin
            allowed += answer.objective if ask.least == "missing" else 0.0
            over = required(self.parts, position) - allowed
            if over <= _OFF * self.money or not self.programme.learn(position):
                return answer

    def round_off(self, relaxed: Answer) -> None:
        """A first plan: fractions with something to spare, rounded to lots."""
        for margin in _ROUNDED:
            answer = self.fractions(Ask(margin=margin * self.money)) if margin else relaxed
            if answer.lots is None or self.left <= 0:
                return
            if self._try(answer.lots):
                return
            self._mend(answer.lots)

    def whole_lots(self) -> tuple[Status, str]:
        """Solve in whole lots until they hold; says what there is to say where none were found."""
        margins = iter(_MARGINS)
        ask = Ask(whole=True, gap=self.effort.gap / 2)
        while self.gap > self.effort.gap and self.left > 0:
            answer = self.programme.solve(replace(ask, seconds=_SLICE * self.left))
            if ask.margin == 0.0:
                self.bound = max(self.bound, answer.bound)
            if answer.lots is None:
                if answer.proved and ask.margin == 0.0:
                    return "infeasible", "no whole number of lots meets the target, fractions would"
                break
            if self._try(answer.lots):
                break
            self._mend(answer.lots)
            if not self.programme.learn(self.book.position(np.rint(answer.lots))):
                margin = next(margins, None)
                if margin is None:
                    break
                ask = replace(ask, margin=margin * self.money)
        return "unfinished", _UNFINISHED.format(self.effort.seconds)

    def _mend(self, lots: Floats) -> None:
        """Move one instrument after the other by what helps most for its cost, then try."""
        whole = np.rint(lots)
        for _ in range(_MENDING):
            over = self._over(whole)
            if over <= 0.0 or self.left <= 0:
                self._try(whole)
                return
            moves = list(self._moves(whole, over))
            if not moves:
                return
            whole = max(moves, key=lambda move: move[0])[1]

    def _moves(self, whole: Floats, over: float) -> Iterator[tuple[float, Floats]]:
        """Per instrument and side: gain for its cost, and the lots as they are after it."""
        cost = self.programme.cost_of(whole)
        for side in (1, -1):
            room = self.book.most(side) - side * whole
            for instrument in np.flatnonzero(room > 0).tolist():
                step = np.zeros(len(whole))
                step[instrument] = side
                gain = over - self._over(whole + step)
                if gain <= 0.0:
                    continue
                size = min(max(1.0, np.floor(over / gain)), room[instrument])
                dearer = self.programme.cost_of(whole + size * step) - cost
                score = min(gain * size, over) / dearer if dearer > 0 else np.inf
                yield score, whole + size * step

    def _over(self, whole: Floats) -> float:
        """How much the parts require beyond the target."""
        allowed = self.book.target * self.book.value_after(whole)
        return required(self.parts, self.book.position(whole)) - allowed

    def _try(self, lots: Floats) -> bool:
        """Whether the lots, rounded, meet the target; kept where they are the best so far."""
        whole = np.clip(np.rint(lots), -self.book.most(-1), self.book.most(1))
        if not self._holds(whole):
            return False
        cost = self.programme.cost_of(whole)
        if self.best is None or cost < self.programme.cost_of(self.best):
            self.best = whole
        return True

    def _holds(self, whole: Floats) -> bool:
        """Whether what is required after trading whole lots meets the target, to the bit."""
        position = self.book.position(whole)
        allowed = self.book.target * self.book.value_after(whole)
        bound = not self._bounded or required(self.parts, position) <= allowed
        return bound and self.exact(position) <= allowed


def _plan(book: Book, before: float, search: _Search, lots: Floats) -> Plan:
    position = book.position(lots)
    after, value = search.exact(position), book.value_after(lots)
    return Plan(
        status="cured",
        reason="",
        trades=position - book.quantity,
        position=position,
        proceeds=book.proceeds(lots),
        cost=book.cost_of(lots),
        requirement_before=before,
        requirement_after=after,
        value_before=book.value,
        value_after=value,
        gap=search.gap,
        verified=after <= book.target * value,
        binding=np.zeros(0, dtype=np.int64),
    )


def _nothing(
    book: Book, before: float, status: Status, reason: str, binding: Ints | None = None
) -> Plan:
    """No trades: nothing is to be done, or nothing can be."""
    return Plan(
        status=status,
        reason=reason,
        trades=np.zeros(len(book.quantity)),
        position=book.quantity,
        proceeds=np.zeros(len(book.quantity)),
        cost=0.0,
        requirement_before=before,
        requirement_after=before,
        value_before=book.value,
        value_after=book.value,
        gap=0.0 if status == "fine" else None,
        verified=status == "fine",
        binding=np.zeros(0, dtype=np.int64) if binding is None else binding,
    )


def _infeasible(book: Book, before: float, search: _Search, relaxed: Answer) -> Plan:
    """Say how much is missing after the best of allowed trades, and which limits bind."""
    if not relaxed.proved:
        return _nothing(book, before, "unfinished", _UNFINISHED.format(search.effort.seconds))
    nearest = search.fractions(Ask(least="missing"))
    if nearest.lots is None:
        return _nothing(book, before, "infeasible", "no allowed trades meet the target")
    position = book.position(nearest.lots)
    value, required_there = book.value_after(nearest.lots), required(search.parts, position)
    lots = nearest.lots
    bound = ((lots > 0) & (lots >= book.most(1))) | ((lots < 0) & (-lots >= book.most(-1)))
    stuck = (book.most(1) == 0) & (book.most(-1) == 0) & (book.quantity != 0)
    binding = np.flatnonzero((bound | stuck) & (position != 0.0))
    reason = (
        f"the best of allowed trades leave initial margin {required_there:,.2f} on collateral "
        f"{value:,.2f}: {nearest.objective:,.2f} too much for the target {book.target:g}"
    )
    if value <= 0.0:
        reason = f"collateral {book.value:,.2f} is not positive, nor after any trades: " + reason
    return _nothing(book, before, "infeasible", reason, binding)
