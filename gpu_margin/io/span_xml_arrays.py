"""Risk arrays of many contracts at once, and figures that a file has several rates of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_margin.io.span_xml_numbers import Bools, Floats, figures, scaled
from gpu_margin.io.span_xml_tree import Ints, Tree

# Instead of an element: there is none, or there are several of which none is meant.
NONE, UNCLEAR = -1, -2


def rated(tree: Tree, parents: Ints, name: str, base: Ints) -> Ints:
    """[parent] its element of a name that is of the rate `base` [parent], else its only one.

    `parents` ascend. `NONE` where there is none, `UNCLEAR` where there are several others.
    """
    found, place = tree.under(parents, name)
    count = np.bincount(place, minlength=len(parents))
    chosen = np.full(len(parents), NONE, np.int64)
    chosen[place[::-1]] = found[::-1]
    if count.max(initial=0) <= 1:
        return chosen
    chosen[count > 1] = UNCLEAR
    rate = figures(tree, tree.first(found, "r"))
    own = np.where(rate.absent, 1.0, rate.value) == base[place]
    chosen[place[own][::-1]] = found[own][::-1]
    return chosen


@dataclass(frozen=True)
class Arrays:
    """Risk arrays as whole numbers with decimals.

    `values` [contract, point] has the first point again after the last one of a contract;
    `fault` [contract] is the first element that is no number, -1 where all are; `count` [contract]
    is how many there are.
    """

    values: Floats
    decimals: Ints
    count: Ints
    fault: Ints


def arrays_of(tree: Tree, holders: Ints, points: Ints, width: int) -> Arrays:
    """The arrays that are in the elements `holders` (they ascend), of so many `points` [holder].

    All are `width` wide. An array with another number of them is left as noughts.
    """
    found, place = tree.under(holders, "a")
    count = np.bincount(place, minlength=len(holders))
    start = np.cumsum(count) - count
    numbers = figures(tree, found)
    bad = numbers.bad | numbers.absent
    fault = np.full(len(holders), -1, np.int64)
    fault[place[bad][::-1]] = found[bad][::-1]
    good = (count == points) & (fault < 0)
    if good.all() and (points == width).all():
        value = numbers.value.reshape(len(holders), width)
        decimals = numbers.decimals.reshape(len(holders), width)
    else:
        at = start[:, None] + _columns(points, width)
        at = np.where(good[:, None], at, 0)
        value = np.where(good[:, None], _taken(numbers.value, at), 0.0)
        decimals = np.where(good[:, None], _taken(numbers.decimals, at), 0)
    whole, places = scaled(value, decimals)
    return Arrays(whole, places, count, fault)


def _columns(points: Ints, width: int) -> Ints:
    """[holder, place] which of its points stands there: the first again after the last."""
    places = np.arange(width)
    return np.where(places < points[:, None], places, 0)


def _taken(values: Floats | Ints, at: Ints) -> Floats | Ints:
    return values[at] if len(values) else np.zeros(at.shape)


def any_different(one: Ints, other: Ints, owner: Ints, count: int) -> Bools:
    """[owner] whether any of its elements differ between two choices."""
    found = np.zeros(count, np.bool_)
    found[owner[one != other]] = True
    return found
