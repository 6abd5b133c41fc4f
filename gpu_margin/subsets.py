"""What many parts of rows require, in as few calls as memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models import Prepared
from gpu_margin.portfolio import Rows, entry_rows, regroup, row_offsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Whether an entry is in a subset: numbers of subsets and local numbers of parts, both [entry].
Inside = Callable[[Ints, Ints], Bools]

# Entries and rows that are held at a time.
_ENTRIES = 1 << 22


@dataclass(frozen=True)
class Parts:
    """The parts that rows consist of: row i has the parts offsets[i] to offsets[i + 1].

    `code` [part] are their codes, ascending in a row; `local` [entry] says which of its row's
    parts, counted from 0, an entry of `rows` belongs to.
    """

    rows: Rows
    offsets: Ints
    code: Ints
    local: Ints

    @property
    def count(self) -> Ints:
        """[row] number of parts."""
        return np.diff(self.offsets)


def parts_of(rows: Rows, part: Ints) -> Parts:
    """The parts of rows of net positions; `part` [entry] codes."""
    segments = regroup(rows, part)
    offsets = row_offsets(segments.owner, len(rows))
    number = np.arange(len(segments.owner)) - offsets[segments.owner]
    local = np.empty(len(part), dtype=np.int64)
    local[segments.order] = np.repeat(number, np.diff(segments.offsets))
    return Parts(rows, offsets, segments.part, local)


def require_subsets(prepared: Prepared, parts: Parts, row: Ints, inside: Inside) -> Floats:
    """[subset] what each subset of a row's entries requires; `row` [subset] says of which row.

    Subsets are cut from the rows and margined tile by tile: alone or among others, they give the
    same bits.
    """
    required = [np.zeros(0)]
    for start, stop in _tiles(np.diff(parts.rows.offsets)[row]):
        chosen = _cut(parts, row[start:stop], start, inside)
        required.append(prepared.require(chosen).amount)
    return np.concatenate(required)


def _tiles(sizes: Ints) -> Iterator[tuple[int, int]]:
    """Start and stop of runs of subsets of rows of these sizes."""
    reached = np.concatenate([[0], np.cumsum(sizes + 1)])
    start = 0
    while start < len(sizes):
        stop = int(np.searchsorted(reached, reached[start] + _ENTRIES, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _cut(parts: Parts, row: Ints, first: int, inside: Inside) -> Rows:
    """The subsets first, first + 1, ... of the rows `row`, as rows of their own."""
    begin, size = parts.rows.offsets[row], np.diff(parts.rows.offsets)[row]
    offsets = np.concatenate([[0], np.cumsum(size)])
    subset = np.repeat(np.arange(len(row)), size)
    entry = np.arange(len(subset)) - offsets[subset] + begin[subset]
    kept = inside(first + subset, parts.local[entry])
    entry = entry[kept]
    return Rows(
        row_offsets(subset[kept], len(row)), parts.rows.column[entry], parts.rows.value[entry]
    )


def taken_rows(parts: Parts, chosen: Ints) -> Parts:
    """The chosen rows (ascending numbers) alone."""
    rows = parts.rows
    entry = np.flatnonzero(np.isin(entry_rows(rows), chosen))
    part = np.flatnonzero(np.isin(np.repeat(np.arange(len(rows)), parts.count), chosen))
    return Parts(
        Rows(_offsets(np.diff(rows.offsets)[chosen]), rows.column[entry], rows.value[entry]),
        _offsets(parts.count[chosen]),
        parts.code[part],
        parts.local[entry],
    )


def _offsets(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
