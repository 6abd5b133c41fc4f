"""Runs of equal labels, and sums over them on a device: what all of SIMM is made of.

Structure (which entry belongs where, and in which order) is on the host, figures are on the device.
Every sum runs over its own segment, in stored order, so that what shares a batch changes no bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.portfolio import Rows

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Entries that stand together: segment i is entries offsets[i] to offsets[i + 1]."""

    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def first(self) -> Ints:
        """[segment] its first entry, where no segment is empty."""
        return self.offsets[:-1]

    @cached_property
    def owner(self) -> Ints:
        """[entry] its segment."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))

    def within(self, outer: Segments) -> Segments:
        """These as segments of segments, where `outer` has the same entries; none is empty."""
        return Segments(np.append(self.owner[outer.first], len(self)))


def runs(*labels: NDArray[Any]) -> Segments:
    """Segments of entries that are equal in all labels [entry]."""
    count = len(labels[0])
    if not count:
        return Segments(np.zeros(1, dtype=np.int64))
    new = np.zeros(count - 1, dtype=np.bool_)
    for one in labels:
        new |= one[1:] != one[:-1]
    starts = np.flatnonzero(new) + 1
    return Segments(np.concatenate([[0], starts, [count]]).astype(np.int64))


def grouped(owner: Ints, count: int) -> Segments:
    """Segments of entries by their owner, of `count`, in order of it; some may be empty."""
    sizes = np.bincount(owner, minlength=count)
    return Segments(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


@dataclass(frozen=True)
class Device:
    """Sums over segments on a backend."""

    backend: Backend

    @property
    def xp(self) -> Any:
        """Its arrays."""
        return self.backend.xp

    def put(self, array: NDArray[Any]) -> Array:
        """On the device."""
        return self.backend.to_device(np.ascontiguousarray(array))

    def get(self, array: Array) -> Floats:
        """On the host."""
        found: Floats = self.backend.to_host(array)
        return found

    def take(self, values: Array, places: Ints) -> Array:
        """[place] of values [entry]."""
        return self.xp.take(values, self.put(places), axis=0)

    def sums(self, values: Array, segments: Segments) -> Array:
        """[segment] sum of values [entry]."""
        return self.backend.segment_sum(values, self.put(segments.offsets))

    def spread(self, values: Array, segments: Segments) -> Array:
        """[entry] the value of its segment."""
        return self.take(values, segments.owner)

    def form(self, segments: Segments, column: Ints, values: Array, matrix: Array) -> Array:
        """[segment] x' matrix x of its values at their columns."""
        rows = Rows(self.put(segments.offsets), self.put(column), values)
        return self.backend.quadratic_form(rows, matrix)

    def root(self, values: Array) -> Array:
        """Square root; of what rounding made negative it is 0."""
        return self.xp.sqrt(self.xp.maximum(values, self.zeros(values)))

    def zeros(self, like: Array) -> Array:
        """As many zeros."""
        return self.xp.zeros_like(like)

    def clamped(self, values: Array, bound: Array) -> Array:
        """Values no further from 0 than the bound."""
        return self.xp.maximum(self.xp.minimum(values, bound), -bound)


def pair_sums(
    device: Device, values: Array, concentration: Floats, owner: Ints, count: int
) -> Array:
    """[segment] sum over all pairs k, l of its entries of f_kl v_k v_l, of 0 without entries.

    f_kl is the smaller concentration over the larger; `owner` [entry] is its segment, of `count`.
    Where all of a segment are equal it is the square of the sum. Elsewhere entries are taken in
    order of concentration, so that f_kl is c_k / c_l for every k before l, and one pass over the
    segment does it: each entry meets the sum of c_k v_k before it.
    """
    ordered = in_order(concentration, owner, count)
    mixed, segments = ordered.mixed, ordered.segments
    values = device.take(values, ordered.order)
    total = device.sums(values, segments)
    whole = total * total
    if not len(mixed):
        return whole
    inside, entries = some(segments, mixed)
    own, c = device.take(values, entries), device.put(ordered.concentration[entries])
    before = sums_before(device, c * own, inside)
    pairs = device.sums(own * own, inside) + 2.0 * device.sums(own / c * before, inside)
    place = np.zeros(count, dtype=np.int64)
    place[mixed] = np.arange(len(mixed))
    is_mixed = np.zeros(count, dtype=np.bool_)
    is_mixed[mixed] = True
    return device.xp.where(device.put(is_mixed), device.take(pairs, place), whole)


@dataclass(frozen=True)
class Ordered:
    """Entries in order of segment and concentration: `order` takes them there.

    `segments` and `concentration` are of the entries in that order; `mixed` are the segments in
    which concentrations differ.
    """

    order: Ints
    segments: Segments
    concentration: Floats
    mixed: Ints


def in_order(concentration: Floats, owner: Ints, count: int) -> Ordered:
    """Entries of `count` segments, `owner` [entry], as `pair_sums` takes them."""
    order = np.lexsort((concentration, owner))
    segments = grouped(owner, count)
    sorted_ = concentration[order]
    filled = np.flatnonzero(np.diff(segments.offsets) > 0)
    first, last = segments.offsets[:-1][filled], segments.offsets[1:][filled] - 1
    return Ordered(order, segments, sorted_, filled[sorted_[first] != sorted_[last]])


def some(segments: Segments, chosen: Ints) -> tuple[Segments, Ints]:
    """Some segments by themselves, and [entry] where their entries stand."""
    sizes = np.diff(segments.offsets)[chosen]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    shift = segments.offsets[:-1][chosen] - offsets[:-1]
    return Segments(offsets), np.arange(offsets[-1]) + np.repeat(shift, sizes)


def sums_before(device: Device, values: Array, segments: Segments) -> Array:
    """[entry] sum of what stands before it in its segment.

    In steps that double: which values are added in which order follows from the place in the
    segment alone.
    """
    place = np.arange(segments.offsets[-1]) - segments.first[segments.owner]
    step, longest = 1, int(place.max(initial=0)) + 1
    index = np.arange(len(place))
    none = device.zeros(values)
    found = values
    while step < longest:
        there = device.put(place >= step)
        moved = device.take(found, np.maximum(index - step, 0))
        found = found + device.xp.where(there, moved, none)
        step *= 2
    moved = device.take(found, np.maximum(index - 1, 0))
    return device.xp.where(device.put(place >= 1), moved, none)
