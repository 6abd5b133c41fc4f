"""The largest safe size of an order: how much of it margin lets stand in the book."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gpu_margin.fills import Asking, Fills

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MarginRule = Literal["worst_fill_bound", "worst_fill", "not_worse", "open_orders"]

# Open orders, the new one among them, whose subsets are gone through: 256.
MOST_ORDERS = 8
# Sizes that are tried where the safe ones need not be an interval.
_SIZES = 16
# Fills that a step of a search may ask for, and sizes: more at a time are fewer steps.
_FILLS, _WIDTH = 16, 7


@dataclass(frozen=True)
class SafeSize:
    """`size` contracts of an order are safe, 0 for none, and `rule` decided that.

    `bound` is W+; `before` and `after` are W without and with the order; both after and bound are
    those of `size`, or of the whole order where nothing is safe. None is a figure that did not
    matter.
    """

    size: float
    rule: MarginRule
    bound: float | None = None
    before: float | None = None
    after: float | None = None


def safe_size(
    fills: Fills, limit: float, lot: float, bound: float | None = None
) -> Asking[SafeSize]:
    """The whole order where it is safe, else the largest multiple of `lot` that is.

    A size is safe if W+ <= limit or, of at most 8 orders, if W after <= max(limit, W before). W is
    convex in the size where the measure is convex, and size 0 is safe: the safe sizes are an
    interval, and its end is found exactly. Where the measure is not convex, as value-at-risk, 16
    sizes evenly apart are tried downwards, and the largest one that W+ allows: the answer is safe,
    but a larger one may be, too. `bound` is W+ of the whole order where it is known already.
    """
    if bound is None:
        bound = yield from _bound(fills, fills.most, limit)
    if bound is not None and bound <= limit:
        return SafeSize(fills.most, "worst_fill_bound", bound)
    if len(fills.amount) >= MOST_ORDERS:
        return (yield from _by_bound(fills, limit, lot, bound))
    return (yield from _by_subsets(fills, limit, lot, bound))


def whole_lots(size: float, lot: float) -> int:
    """How many lots fit into a size; of 0.1, as it is written, three fit into 0.3."""
    return math.floor(Fraction(repr(size)) / _written(lot))


def lots_size(lots: int, lot: float) -> float:
    """Contracts of a number of lots: 0.3 is three of 0.1."""
    written = _written(lot)
    return lots * written.numerator / written.denominator


@lru_cache(maxsize=64)
def _written(lot: float) -> Fraction:
    """The number as it is written."""
    return Fraction(repr(lot))


def _bound(fills: Fills, size: float, limit: float) -> Asking[float | None]:
    """W+ with `size` contracts of the new order; None where none is known."""
    if not fills.measurer.bounded:
        return None
    return float((yield from fills.bounds(np.array([size]), limit))[0])


def _by_bound(fills: Fills, limit: float, lot: float, bound: float | None) -> Asking[SafeSize]:
    """Too many orders for their subsets: as much as W+ allows."""
    size = lots_size((yield from _lots_by_bound(fills, limit, lot)), lot)
    if size == 0.0:
        return SafeSize(0.0, "open_orders", bound)
    return SafeSize(size, "worst_fill_bound", (yield from _bound(fills, size, limit)))


def _by_subsets(fills: Fills, limit: float, lot: float, bound: float | None) -> Asking[SafeSize]:
    before = yield from fills.before(limit)
    rule: MarginRule = "worst_fill" if before <= limit else "not_worse"
    # Figures out of range decide nothing: then nothing is safe.
    threshold = max(limit, before) if math.isfinite(before) else limit

    def answer(size: float, least: float | None, found: Floats) -> SafeSize:
        return SafeSize(size, rule, least, before, max(before, float(found.max())))

    whole = yield from fills.after(fills.subsets, np.array([fills.most]), threshold)
    if np.all(whole <= threshold):
        return answer(fills.most, bound, whole)
    search = _interval if fills.measurer.convex else _downwards
    size = lots_size((yield from search(fills, limit, threshold, lot)), lot)
    if size == 0.0:
        return answer(0.0, bound, whole)
    found = yield from fills.after(fills.subsets, np.array([size]), threshold)
    return answer(size, (yield from _bound(fills, size, limit)), found)


def _interval(fills: Fills, limit: float, threshold: float, lot: float) -> Asking[int]:
    """The largest safe number of lots, the safe ones being 0, 1, ... up to it."""
    # By convexity a subset that is safe at some size is safe below it: it is asked no more.
    left = fills.subsets

    def are_safe(sizes: Floats) -> Asking[Bools]:
        nonlocal left
        fine = (yield from fills.after(left, sizes, threshold)) <= threshold
        safe: Bools = np.asarray(fine.all(axis=1))
        if not safe.all():
            left = left[~fine[safe.argmin()]]
        return safe

    return (yield from _last(are_safe, fills.most, lot, lambda: _FILLS // len(left)))


def _downwards(fills: Fills, limit: float, threshold: float, lot: float) -> Asking[int]:
    """A safe number of lots, looked for from the whole order downwards."""
    lots = whole_lots(fills.most, lot)
    tried = {lots * step // _SIZES for step in range(1, _SIZES + 1)}
    tried.add((yield from _lots_by_bound(fills, limit, lot)))
    numbers = sorted(tried - {0}, reverse=True)
    step = max(1, _FILLS // len(fills.subsets))
    for start in range(0, len(numbers), step):
        some = numbers[start : start + step]
        sizes = np.array([lots_size(number, lot) for number in some])
        found = yield from fills.after(fills.subsets, sizes, threshold)
        safe = np.all(found <= threshold, axis=1)
        if safe.any():
            return some[int(safe.argmax())]
    return 0


def _lots_by_bound(fills: Fills, limit: float, lot: float) -> Asking[int]:
    """The largest number of lots at which W+, which grows with them, is within the limit."""
    if not fills.measurer.bounded:
        return 0

    def are_safe(sizes: Floats) -> Asking[Bools]:
        safe: Bools = (yield from fills.bounds(sizes, limit)) <= limit
        return safe

    return (yield from _last(are_safe, fills.most, lot, lambda: _WIDTH))


def _last(
    are_safe: Callable[[Floats], Asking[Bools]], most: float, lot: float, width: Callable[[], int]
) -> Asking[int]:
    """The largest number of lots within `most` that is safe, no lots being safe.

    `width` is how many sizes may be tried at a time.
    """
    low, high = 0, whole_lots(most, lot) + 1
    while high - low > 1:
        count = min(max(1, width()), _WIDTH, high - low - 1)
        tried = [low + (high - low) * step // (count + 1) for step in range(1, count + 1)]
        safe = yield from are_safe(np.array([lots_size(number, lot) for number in tried]))
        passed = count if safe.all() else int(safe.argmin())
        low, high = [low, *tried, high][passed : passed + 2]
    return low
