"""Slopes of SIMM's roots, backwards from a root to what it is the root of, without any pair listed.

A root joins buckets, each a quadratic form of its weighted sensitivities: root of sum Q_b + sum
gamma_bc S_b S_c, with S_b the sum of the bucket held within +-root Q_b. Half the slope of Q_b in
its sensitivities, C w, is what the rooms of names and rates hand over; Q_b = w' C w follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm.segments import Device, Segments, in_order, some, sums_before
from gpu_margin.portfolio import Rows

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def root_slopes(
    device: Device,
    weighted: Array,
    halves: Array,
    buckets: Segments,
    pools: Segments,
    across: Callable[[Array], Array] | None,
) -> tuple[Array, Array]:
    """[pool] the root, and [entry] its slope in the weighted sensitivities; 0 where the root is 0.

    `weighted` and `halves` (C w) are [entry]; `buckets` are of entries and `pools`, of one root
    each, of buckets. `across` makes of S [bucket] the sums over other buckets gamma_bc S_c.
    """
    xp = device.xp
    squares = device.sums(weighted * halves, buckets)
    size, total = device.root(squares), device.sums(weighted, buckets)
    held = xp.abs(total) > size
    total = device.clamped(total, size)
    beside = across(total) if across else device.zeros(total)
    root = device.root(device.sums(squares + total * beside, pools))
    inverse = device.spread(reciprocal(device, root), pools)
    of_sum = beside * inverse
    none = device.zeros(of_sum)
    # Where the sum is held it is its bucket's root, and moves as that does.
    of_root = xp.where(held, of_sum * total * reciprocal(device, size * size), none)
    free = xp.where(held, none, of_sum)
    slope = device.spread(inverse + of_root, buckets) * halves + device.spread(free, buckets)
    return root, slope


def reciprocal(device: Device, values: Array) -> Array:
    """1 / value where it is positive, else 0."""
    xp, none = device.xp, device.zeros(values)
    positive = values > 0.0
    return xp.where(positive, 1.0 / xp.where(positive, values, none + 1.0), none)


def table_sums(
    device: Device, segments: Segments, column: Ints, values: Array, matrix: Floats
) -> Array:
    """[segment, column] sum over the segment of matrix[its column, column] x value."""
    rows = Rows(device.put(segments.offsets), device.put(column), values)
    return device.backend.weighted_sum(rows, device.put(matrix))


def looked_up(device: Device, table: Array, line: Ints, column: Ints) -> Array:
    """[entry] of a table [line, column]."""
    width = int(table.shape[1])
    return device.take(device.xp.reshape(table, (-1,)), line * width + column)


def pair_slopes(
    device: Device, values: Array, concentration: Floats, owner: Ints, count: int
) -> Array:
    """[entry] sum over l of f_kl v_l: half the slope of `pair_sums`, whose arguments these are.

    In order of concentration f_kl is c_l / c_k for what stands before the entry and c_k / c_l for
    what stands after it: two passes.
    """
    ordered = in_order(concentration, owner, count)
    order, segments, mixed = ordered.order, ordered.segments, ordered.mixed
    values = device.take(values, order)
    found = device.spread(device.sums(values, segments), segments)
    if len(mixed):
        inside, entries = some(segments, mixed)
        own, c = device.take(values, entries), device.put(ordered.concentration[entries])
        pairs = _passes(device, own, c, inside)
        place = np.zeros(len(order), dtype=np.int64)
        place[entries] = np.arange(len(entries))
        is_mixed = np.zeros(len(order), dtype=np.bool_)
        is_mixed[entries] = True
        found = device.xp.where(device.put(is_mixed), device.take(pairs, place), found)
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return device.take(found, back)


def _passes(device: Device, values: Array, concentration: Array, segments: Segments) -> Array:
    before = sums_before(device, concentration * values, segments)
    turned = np.arange(segments.offsets[-1])[::-1]
    backwards = Segments(segments.offsets[-1] - segments.offsets[::-1])
    after = sums_before(device, device.take(values / concentration, turned), backwards)
    return values + before / concentration + concentration * device.take(after, turned)
