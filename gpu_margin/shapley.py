"""Shapley values: what each part of a row adds to the others, on average over all orders.

With v(S) what the parts S require together, part j has the mean of v(S with j) - v(S) over all
orders in which the parts may come, S being those before it. Up to `EXACT_PARTS` parts that is a sum
over all subsets; beyond, the mean over sampled orders, with its standard error. Source: L. S.
Shapley, A value for n-person games (1953); sampled as in Castro, Gomez and Tejada, Computers &
Operations Research 36 (2009) 1726.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gpu_margin.allocation import Allocation, allocated
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Rows, add_up
from gpu_margin.subsets import Parts, parts_of, require_subsets, taken_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Up to so many parts all subsets are margined: 4,096.
EXACT_PARTS = 12
# Subsets whose requirements are held at a time.
_SUBSETS = 1 << 20

# Amounts [row, part] and their standard errors of rows that have equally many parts.
_Shares = Callable[[Parts], tuple[Floats, Floats]]


def shapley(
    prepared: Prepared, rows: Rows, part: Ints, samples: int = 1000, seed: int = 0
) -> Allocation:
    """Shapley values of the parts of each row of net positions (on the host), in margin currency.

    `part` [entry] are codes of parts: any, such as instruments or product groups. Rows of more than
    `EXACT_PARTS` parts have `samples` orders drawn, at least 2, by `seed` and their number of parts
    alone: the amounts of a row do not depend on which rows share the call. Raises `ValueError` for
    fewer samples.
    """
    if samples < 2:
        raise ValueError(f"samples is {samples}: a standard error needs at least 2")
    parts = parts_of(rows, part)
    amount, error = np.zeros(len(parts.code)), np.zeros(len(parts.code))
    for count, chosen in _tiles(parts.count, samples):
        shares: _Shares
        if count <= EXACT_PARTS:
            shares = partial(_exact, prepared, count)
        else:
            shares = partial(_sampled, prepared, _places(count, samples, seed))
        place = parts.offsets[chosen][:, None] + np.arange(count)
        amount[place], error[place] = shares(taken_rows(parts, chosen))
    return allocated(
        "shapley",
        prepared.require(rows).amount,
        np.repeat(np.arange(len(rows)), parts.count),
        parts.code,
        amount,
        error=error,
    )


def _tiles(counts: Ints, samples: int) -> Iterator[tuple[int, Ints]]:
    """Rows with equally many parts, as many as may be held at a time."""
    for count in np.unique(counts[counts > 0]).tolist():
        members = np.flatnonzero(counts == count)
        subsets = 1 << count if count <= EXACT_PARTS else samples * count
        step = max(1, _SUBSETS // subsets)
        for start in range(0, len(members), step):
            yield count, members[start : start + step]


def _exact(prepared: Prepared, count: int, parts: Parts) -> tuple[Floats, Floats]:
    """By all subsets; bit j of a subset's number says whether part j is in it."""
    rows, subsets = len(parts.rows), np.arange(1 << count)
    required = require_subsets(
        prepared,
        parts,
        np.repeat(np.arange(rows), len(subsets)),
        lambda subset, local: (subset >> local & 1).astype(np.bool_),
    ).reshape(rows, len(subsets))
    amount = np.empty((rows, count))
    chance = np.array([1.0 / (count * math.comb(count - 1, size)) for size in range(count)])
    for j in range(count):
        before = subsets[subsets >> j & 1 == 0]
        gain = required[:, before | 1 << j] - required[:, before]
        amount[:, j] = _in_order(gain * chance[np.bitwise_count(before)])
    return amount, np.zeros_like(amount)


def _sampled(prepared: Prepared, place: Ints, parts: Parts) -> tuple[Floats, Floats]:
    """By orders, `place` [sample, part] in each: what a part adds when it comes."""
    samples, count = place.shape
    rows = len(parts.rows)
    # Subset number: row, sample, and how many parts have come less one.
    steps = samples * count
    required = require_subsets(
        prepared,
        parts,
        np.repeat(np.arange(rows), steps),
        lambda subset, local: place[subset % steps // count, local] <= subset % count,
    ).reshape(rows, samples, count)
    gain = np.diff(required, axis=2, prepend=0.0)
    of_part = np.take_along_axis(gain, np.broadcast_to(place, gain.shape), axis=2)
    mean = _mean(of_part)
    square = _mean((of_part - mean[:, None]) ** 2)
    return mean, np.sqrt(square / (samples - 1))


def _places(count: int, samples: int, seed: int) -> Ints:
    """[sample, part] places of the parts in random orders."""
    ordered = np.broadcast_to(np.arange(count), (samples, count))
    return np.random.default_rng([seed, count]).permuted(ordered, axis=1)


def _mean(values: Floats) -> Floats:
    """[row, part] means of values [row, sample, part]."""
    rows, samples, count = values.shape
    total = _in_order(np.moveaxis(values, 1, 2).reshape(-1, samples))
    return np.asarray(total.reshape(rows, count) / samples)


def _in_order(values: Floats) -> Floats:
    """[row] sums of values [row, place], one after another."""
    return add_up(np.repeat(np.arange(len(values)), values.shape[1]), values.ravel(), len(values))
