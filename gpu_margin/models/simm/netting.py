"""Rows of a CRIF to net sensitivities: one entry per calculation, product class and risk factor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm.factors import Factors
from gpu_margin.models.simm.kinds import STREAMS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLASSES = len(PRODUCT_CLASSES)


@dataclass(frozen=True)
class Stream:
    """Net sensitivities of one stream, in order of group, bucket and name.

    [entry]: `group` (calculation x product class), `factor` (place in `Factors`), `amount` in USD.
    """

    group: Ints
    factor: Ints
    amount: Floats

    def __len__(self) -> int:
        return len(self.amount)


@dataclass(frozen=True)
class Netted:
    """The streams, and of every row [row] which entry of all of them it went into, -1 for none."""

    streams: tuple[Stream, ...]
    entry: Ints


def net(group: Ints, place: Ints, amount: Floats, factors: Factors, traced: bool) -> Netted:
    """Net rows [row] with a place among the factors, of `group` calculation x product class.

    Equal ones are added in order of their amounts. Only a `traced` netting knows its `entry`.
    """
    width = max(len(factors), 1)
    stream = factors.stream[place] if len(factors) else place
    groups = int(group.max(initial=-1)) + 1
    key = (stream * groups + group) * width + place
    order = _sorted(key)
    ordered = key[order]
    first = np.ones(len(key), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    order = _by_amount(order, ordered, first, amount)
    run = np.cumsum(first) - 1
    starts = np.flatnonzero(first)
    # One after another, as they stand.
    total = np.bincount(run, weights=amount[order], minlength=len(starts)).astype(np.float64)
    chosen = order[starts]
    entry = np.zeros(0, dtype=np.int64)
    if traced:
        entry = np.empty(len(key), dtype=np.int64)
        entry[order] = run
    bounds = np.searchsorted(stream[chosen], np.arange(STREAMS + 1))
    streams = tuple(
        Stream(group[chosen[own]], place[chosen[own]], total[own])
        for own in (slice(a, b) for a, b in pairwise(bounds.tolist()))
    )
    return Netted(streams, entry)


def _sorted(key: Ints) -> Ints:
    """The order of the keys, which are not negative."""
    bits = len(key).bit_length()
    if int(key.max(initial=0)).bit_length() + bits >= 63:
        return np.argsort(key, kind="stable")
    # Numbers with their places behind them sort several times faster than places by number.
    packed = (key << bits) | np.arange(len(key))
    packed.sort()
    order: Ints = packed & ((1 << bits) - 1)
    return order


def _by_amount(order: Ints, ordered: Ints, first: NDArray[np.bool_], amount: Floats) -> Ints:
    """The order with equal keys in order of amount; only these are sorted again."""
    shared = ~first
    shared[:-1] |= ~first[1:]
    where = np.flatnonzero(shared)
    if not len(where):
        return order
    own = order[where]
    again = order.copy()
    again[where] = own[np.lexsort((amount[own], ordered[where]))]
    return again
