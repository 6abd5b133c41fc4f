"""Segments of arrays: ranges of slots seen from the slots, counts spread out, sums of rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gpu_margin.portfolio import row_offsets
from gpu_margin.span_file import Bools, Floats, Ints


class Covers(NamedTuple):
    """The ranges that slot i lies in are number[offsets[i] : offsets[i + 1]], ascending."""

    offsets: Ints
    number: Ints


def covers(first: Ints, last: Ints, slots: int) -> Covers:
    """Of ranges first <= slot < last."""
    owner, within = spread_out(np.maximum(last - first, 0))
    slot = first[owner] + within
    order = np.argsort(slot, kind="stable")
    return Covers(row_offsets(slot[order], slots), owner[order])


def spread_out(count: Ints) -> tuple[Ints, Ints]:
    """An entry for each that is counted: whose it is, and its number from 0 within its owner's."""
    owner = np.repeat(np.arange(len(count)), count)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)


def changes(*keys: Ints) -> Bools:
    """Where any of some sorted keys differs from the one before: where segments begin."""
    first = np.zeros(len(keys[0]), dtype=np.bool_)
    first[:1] = True
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return first


def segment_sums(figures: Floats, start: Ints) -> Floats:
    """[segment, point] sums of `figures` [entry, point] from each start to the next, one by one."""
    found = figures[start]
    size = np.diff(np.append(start, len(figures)))
    alive, place = np.flatnonzero(size > 1), 1
    while len(alive):
        found[alive] += figures[start[alive] + place]
        place += 1
        alive = alive[size[alive] > place]
    return found
