"""The largest safe size of an order: how much of it margin lets stand in the book."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from gpu_margin.worst_fill import Fills

MarginRule = Literal["worst_fill_bound", "worst_fill", "not_worse", "open_orders"]

# Open orders, the new one among them, whose subsets are gone through: 256.
MOST_ORDERS = 8
# Sizes that are tried where the safe ones need not be an interval.
_SIZES = 16


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


def safe_size(fills: Fills, limit: float, lot: float) -> SafeSize:
    """The whole order where it is safe, else the largest multiple of `lot` that is.

    A size is safe if W+ <= limit or, of at most 8 orders, if W after <= max(limit, W before). W is
    convex in the size where the measure is convex, and size 0 is safe: the safe sizes are an
    interval, and its end is found exactly. Where the measure is not convex, as value-at-risk, 16
    sizes evenly apart are tried downwards, and the largest one that W+ allows: the answer is safe,
    but a larger one may be, too.
    """
    bound = fills.bound(fills.most, limit)
    if bound is not None and bound <= limit:
        return SafeSize(fills.most, "worst_fill_bound", bound)
    if len(fills.amount) >= MOST_ORDERS:
        return _by_bound(fills, limit, lot, bound)
    return _by_subsets(fills, limit, lot, bound)


def whole_lots(size: float, lot: float) -> int:
    """How many lots fit into a size; of 0.1, as it is written, three fit into 0.3."""
    return math.floor(Fraction(repr(size)) / Fraction(repr(lot)))


def lots_size(lots: int, lot: float) -> float:
    """Contracts of a number of lots: 0.3 is three of 0.1."""
    return float(lots * Fraction(repr(lot)))


def _by_bound(fills: Fills, limit: float, lot: float, bound: float | None) -> SafeSize:
    """Too many orders for their subsets: as much as W+ allows."""
    size = lots_size(_lots_by_bound(fills, limit, lot), lot)
    if size == 0.0:
        return SafeSize(0.0, "open_orders", bound)
    return SafeSize(size, "worst_fill_bound", fills.bound(size, limit))


def _by_subsets(fills: Fills, limit: float, lot: float, bound: float | None) -> SafeSize:
    before = fills.before(limit)
    rule: MarginRule = "worst_fill" if before <= limit else "not_worse"
    # Figures out of range decide nothing: then nothing is safe.
    threshold = max(limit, before) if math.isfinite(before) else limit

    def answer(size: float, least: float | None, judged: float) -> SafeSize:
        after = float(fills.after(fills.subsets, judged, threshold).max())
        return SafeSize(size, rule, least, before, max(before, after))

    found = fills.after(fills.subsets, fills.most, threshold)
    if np.all(found <= threshold):
        return SafeSize(fills.most, rule, bound, before, max(before, float(found.max())))
    search = _interval if fills.measurer.convex else _downwards
    size = lots_size(search(fills, limit, threshold, lot), lot)
    if size == 0.0:
        return answer(0.0, bound, fills.most)
    return answer(size, fills.bound(size, limit), size)


def _interval(fills: Fills, limit: float, threshold: float, lot: float) -> int:
    """The largest safe number of lots, the safe ones being 0, 1, ... up to it."""
    # By convexity a subset that is safe at some size is safe below it: it is asked no more.
    left = fills.subsets

    def is_safe(size: float) -> bool:
        nonlocal left
        unsafe = ~(fills.after(left, size, threshold) <= threshold)
        if unsafe.any():
            left = left[unsafe]
        return not unsafe.any()

    return _last(is_safe, fills.most, lot)


def _downwards(fills: Fills, limit: float, threshold: float, lot: float) -> int:
    """A safe number of lots, looked for from the whole order downwards."""
    lots = whole_lots(fills.most, lot)
    tried = {lots * step // _SIZES for step in range(1, _SIZES + 1)}
    tried.add(_lots_by_bound(fills, limit, lot))
    for number in sorted(tried - {0}, reverse=True):
        size = lots_size(number, lot)
        if np.all(fills.after(fills.subsets, size, threshold) <= threshold):
            return number
    return 0


def _lots_by_bound(fills: Fills, limit: float, lot: float) -> int:
    """The largest number of lots at which W+, which grows with them, is within the limit."""

    def is_safe(size: float) -> bool:
        bound = fills.bound(size, limit)
        return bound is not None and bound <= limit

    return _last(is_safe, fills.most, lot)


def _last(is_safe: Callable[[float], bool], most: float, lot: float) -> int:
    """The largest number of lots within `most` that is safe, no lots being safe."""
    low, high = 0, whole_lots(most, lot) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_safe(lots_size(middle, lot)):
            low = middle
        else:
            high = middle
    return low
