"""Zeros of many functions of one factor that are dear to evaluate at a factor, cheap in numbers.

A scan brackets the zeros; then brackets shrink. Whatever brackets want the same factor share one
evaluation. Where more factors are wanted than `MOST`, brackets are halved first, which keeps them
shared; then each goes its own way while the budget lasts. What is left of a bracket is how well its
zero is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpu_margin.crypto_book import Bools, Floats, Ints

# Values at a factor of the chosen functions.
Ask = Callable[[float, Ints], Floats]
# (rounds done, of at most).
Tell = Callable[[int, int], None]

# Zeros, or factors in one round, that are many: then brackets are halved at first, so often.
MOST = 256
_HALVINGS = 4
# How narrow a bracket is narrow enough, of few and of many; factors in all; rounds.
_NARROW, _NARROW_OF_MANY = 1e-10, 1e-6
_BUDGET = 4096
_ROUNDS = 60


@dataclass(frozen=True)
class Roots:
    """Zeros [root], ordered by function and factor: its function, its factor, and how far off the
    ends of the bracket are in which it is known to lie.
    """

    function: Ints
    factor: Floats
    within: Floats


def grid() -> Floats:
    """The factors of a scan: 0.2 to 3, 1 among them, in steps of 1% around it."""
    parts = (np.geomspace(0.2, 0.8, 25), np.arange(81, 126) / 100.0, np.geomspace(1.26, 3.0, 25))
    return np.concatenate(parts)


@dataclass
class _Brackets:
    """[bracket] where a function turns, and its values at both ends.

    `lean_low`, `lean_high` are those values as the next step sees them: the end that has stayed
    twice counts half, so that the other side is reached and brackets close from both (Illinois).
    `before` is their width when lines were last tried.
    """

    function: Ints
    low: Floats
    high: Floats
    at_low: Floats
    at_high: Floats
    lean_low: Floats
    lean_high: Floats
    last: Ints
    before: Floats

    @property
    def exact(self) -> Bools:
        """Those that end at a zero."""
        found: Bools = (self.at_low == 0.0) | (self.at_high == 0.0)
        return found

    @property
    def open(self) -> Bools:
        """Those that are not narrow yet."""
        found: Bools = (self.high - self.low > self.narrow * self.high) & ~self.exact
        return found

    @property
    def narrow(self) -> float:
        """How wide of its upper end a bracket may be in the end."""
        return _NARROW if len(self.function) <= MOST else _NARROW_OF_MANY

    def middle(self) -> Floats:
        """Half way."""
        return 0.5 * (self.low + self.high)

    def leaning(self) -> Floats:
        """Where the line between the ends, as they lean, is zero; a step inside the bracket.

        An end that is at a zero but for rounding is stepped over, which closes the bracket.
        """
        found = _zero(self.low, self.high, self.lean_low, self.lean_high)
        step = 0.4 * self.narrow * self.high
        return np.clip(found, self.low + step, self.high - step)

    def wanted(self, turn: int) -> Floats:
        """Where to look next: half way where lines have not halved a bracket, as with kinks."""
        if turn % 2 == 0:
            self.before = self.high - self.low
            return self.leaning()
        slow = self.high - self.low > 0.5 * self.before
        return np.where(slow, self.middle(), self.leaning())

    def raise_low(self, own: Ints, factor: float, value: Floats) -> None:
        """The zeros of some lie above `factor`."""
        self.lean_high[own] *= np.where(self.last[own] == 1, 0.5, 1.0)
        self.low[own], self.at_low[own], self.lean_low[own], self.last[own] = (
            factor,
            value,
            value,
            1,
        )

    def cut_high(self, own: Ints, factor: float, value: Floats) -> None:
        """The zeros of some lie below `factor`."""
        self.lean_low[own] *= np.where(self.last[own] == 2, 0.5, 1.0)
        self.high[own], self.at_high[own] = factor, value
        self.lean_high[own], self.last[own] = value, 2


def _zero(low: Floats, high: Floats, at_low: Floats, at_high: Floats) -> Floats:
    """Where straight lines are zero."""
    span = at_high - at_low
    flat = span == 0.0
    share = np.where(flat, 0.5, -at_low / np.where(flat, 1.0, span))
    return low + np.clip(share, 0.0, 1.0) * (high - low)


def roots(factors: Floats, values: Floats, ask: Ask, tell: Tell) -> Roots:
    """Zeros of functions whose `values` [factor, function] a scan has; NaN is no value.

    A zero is where a function turns from negative to not negative, or back.
    """
    found, halvings, spent = _bracketed(factors, values), 0, 0
    for turn in range(_ROUNDS):
        todo = np.flatnonzero(found.open)
        if not len(todo):
            break
        tell(turn, _ROUNDS)
        wanted = found.wanted(turn)[todo]
        if len(np.unique(wanted)) > MOST and halvings < _HALVINGS:
            halvings += 1
            wanted = found.middle()[todo]
        spent += len(np.unique(wanted))
        if spent > _BUDGET:
            break
        _shrink(found, todo, wanted, ask)
    tell(_ROUNDS, _ROUNDS)
    factor = _zero(found.low, found.high, found.at_low, found.at_high)
    within = np.maximum(factor - found.low, found.high - factor)
    return Roots(found.function, factor, np.where(found.exact, 0.0, within))


def _bracketed(factors: Floats, values: Floats) -> _Brackets:
    known = np.isfinite(values)
    good = values >= 0.0
    turns = (good[1:] != good[:-1]) & known[1:] & known[:-1]
    function, place = np.nonzero(turns.T)
    low, high = values[place, function], values[place + 1, function]
    return _Brackets(
        function.astype(np.int64),
        factors[place],
        factors[place + 1],
        low,
        high,
        low.copy(),
        high.copy(),
        np.zeros(len(function), dtype=np.int64),
        np.zeros(len(function)),
    )


def _shrink(found: _Brackets, todo: Ints, wanted: Floats, ask: Ask) -> None:
    """Ask at the wanted factors, all brackets of a factor at once, and keep the half that turns."""
    order = np.argsort(wanted, kind="stable")
    factors, start = np.unique(wanted[order], return_index=True)
    for factor, group in zip(factors, np.split(order, start[1:]), strict=True):
        own = todo[group]
        functions, place = np.unique(found.function[own], return_inverse=True)
        # A function without a value in here counts as negative.
        value = np.nan_to_num(ask(float(factor), functions), nan=-1.0)[place]
        same = (value >= 0.0) == (found.at_low[own] >= 0.0)
        found.raise_low(own[same], float(factor), value[same])
        found.cut_high(own[~same], float(factor), value[~same])
