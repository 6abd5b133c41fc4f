"""Sparse rows that entries are added to all the time: CSR with room at the end of every row.

A row's entries stand together, in ascending order of column, so that rows come out in canonical
order without being sorted. A row that runs out of room moves to the end of the pool; the holes that
it leaves are closed when there are too many.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gpu_margin.portfolio import Rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
_Kind = TypeVar("_Kind", bound=np.generic)

# Columns and rows are below this, so that both fit one key.
_WIDTH = np.int64(1) << 31
# Room that a row gets beyond its entries: a share of them, and a few.
_SHARE, _FEW = 4, 4
# Entries that are looked through at a time, and the share of columns above which none are.
_PART, _MOST = 1 << 17, 0.5


class Ledger:
    """Rows of (column, value, size), [row], that only ever grow.

    `value` and `size` [place] may be written to at places that `places` gave; the next call that
    adds entries or rows moves places. `size` is for the owner of the ledger: what a value was added
    up from.
    """

    _start: Ints
    _count: Ints
    _room: Ints
    _end: int
    column: Ints
    value: Floats
    size: Floats

    def __init__(self, rows: Rows, size: Floats | None = None) -> None:
        self._lay_out(rows, np.abs(rows.value) if size is None else size)

    def __len__(self) -> int:
        return len(self._start)

    @property
    def entries(self) -> int:
        """How many there are, those of value 0 included."""
        return int(self._count.sum())

    def copied(self) -> Ledger:
        """One of its own, with the same entries."""
        other = copy(self)
        other._start, other._count = self._start.copy(), self._count.copy()
        other._room, other.column = self._room.copy(), self.column.copy()
        other.value, other.size = self.value.copy(), self.size.copy()
        return other

    def add_rows(self, count: int) -> None:
        """Further rows, without entries."""
        none = np.zeros(count, dtype=np.int64)
        self._start = np.append(self._start, none)
        self._count, self._room = np.append(self._count, none), np.append(self._room, none)

    def places(self, row: Ints, column: Ints) -> Ints:
        """[asked] where (row, column) stands in `value` and `size`; a new one has value 0."""
        place, found = self._find(row, column)
        if found.all():
            return place
        self._insert(row[~found], column[~found])
        return self._find(row, column)[0]

    def rows(self, chosen: Ints, keep_zeros: bool = False) -> Rows:
        """The chosen rows, in that order; by default without entries of value 0."""
        offsets, place = self._places_of(chosen)
        column, value = self.column[place], self.value[place]
        if keep_zeros:
            return Rows(offsets, column, value)
        some = value != 0.0
        if some.all():
            return Rows(offsets, column, value)
        before = np.concatenate([[0], np.cumsum(some)])
        return Rows(before[offsets].astype(np.int64), column[some], value[some])

    def counts(self, chosen: Ints) -> Ints:
        """[chosen] how many entries the rows have, those of value 0 included."""
        return self._count[chosen]

    def all_places(self) -> tuple[Ints, Ints]:
        """[entry] the row and the place of every entry, row after row."""
        every = np.arange(len(self), dtype=np.int64)
        offsets, place = self._places_of(every)
        return np.repeat(every, np.diff(offsets)), place

    def entries_in(self, columns: Bools) -> Iterator[tuple[Ints, Ints]]:
        """Rows and places of the entries other than 0 in any of the columns, [column] flags.

        Some rows at a time, in order of row and column: no one else waits for long.
        """
        before = np.concatenate([[0], np.cumsum(self._count)])
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(before, before[start] + _PART, side="right")) - 1
            stop = min(max(stop, start + 1), len(self))
            part = np.arange(start, stop, dtype=np.int64)
            offsets, place = self._places_of(part)
            own = columns[self.column[place]] & (self.value[place] != 0.0)
            yield np.repeat(part, np.diff(offsets))[own], place[own]
            start = stop

    def rows_in(self, columns: Bools) -> Ints:
        """The rows that have an entry other than 0 in any of the columns, [column] flags.

        Where these are most of the columns it is all rows that have an entry.
        """
        if columns.mean() > _MOST:
            return np.flatnonzero(self._count > 0)
        found = np.zeros(len(self), dtype=np.bool_)
        for rows, _ in self.entries_in(columns):
            found[rows] = True
        return np.flatnonzero(found)

    def tidy(self) -> None:
        """Close the holes, where they take more than half of the pool."""
        used = int(self._room.sum())
        if self._end > 2 * used + 1024:
            every = np.arange(len(self), dtype=np.int64)
            _, place = self._places_of(every)
            self._lay_out(self.rows(every, keep_zeros=True), self.size[place])

    def roomier(self, entries: int) -> Ledger | None:
        """One to take its place, where `entries` more would make it move everything it has.

        It has the same entries, without holes, and shares what need not move: this one must not be
        changed any more.
        """
        longest = int(self._count.max(initial=0)) + 1
        need = entries * (longest + longest // _SHARE + _FEW)
        other = copy(self)
        other.tidy()
        if other._end + need < len(other.column):
            return None if other._end == self._end else other
        length = other._end + other._end // _SHARE + need + 1
        other.column = _extended(other.column, length)
        other.value, other.size = _extended(other.value, length), _extended(other.size, length)
        return other

    # ------------------------------------------------------------ how it is stored

    def _lay_out(self, rows: Rows, size: Floats) -> None:
        self._count = np.diff(rows.offsets)
        self._room = self._count + self._count // _SHARE + _FEW
        self._start = np.cumsum(self._room) - self._room
        self._end = int(self._room.sum())
        self.column = np.zeros(self._end + 1, dtype=np.int64)
        self.value, self.size = np.zeros(self._end + 1), np.zeros(self._end + 1)
        _, place = self._places_of(np.arange(len(rows), dtype=np.int64))
        self.column[place], self.value[place], self.size[place] = rows.column, rows.value, size

    def _places_of(self, chosen: Ints) -> tuple[Ints, Ints]:
        """CSR offsets of the chosen rows, and the place of each of their entries."""
        count = self._count[chosen]
        offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        shift = np.repeat(self._start[chosen] - offsets[:-1], count)
        return offsets, np.arange(offsets[-1]) + shift

    def _find(self, row: Ints, column: Ints) -> tuple[Ints, Bools]:
        """[asked] the first place in the row whose column is not smaller, and if it is the one.

        All are searched at once: each steps forward by powers of two as long as it stays below.
        """
        place, count = self._start[row], self._count[row]
        end = place + count
        step = 1 << int(count.max(initial=0)).bit_length()
        while step := step >> 1:
            ahead = place + step
            below = (ahead <= end) & (self.column[np.minimum(ahead, end) - 1] < column)
            place = np.where(below, ahead, place)
        # The pool has one place more than its rows, so that the end of the last one is in it.
        return place, (place < end) & (self.column[place] == column)

    def _insert(self, row: Ints, column: Ints) -> None:
        """New entries of value 0: the rows that get any are written anew."""
        new = np.unique(row * _WIDTH + column)
        owner, column = new // _WIDTH, new % _WIDTH
        touched, added = np.unique(owner, return_counts=True)
        offsets, place = self._places_of(touched)
        old = np.repeat(np.arange(len(touched)), np.diff(offsets)) * _WIDTH + self.column[place]
        key = np.concatenate([old, np.searchsorted(touched, owner) * _WIDTH + column])
        order = np.argsort(key, kind="stable")
        none = np.zeros(len(column))
        value = np.concatenate([self.value[place], none])[order]
        size = np.concatenate([self.size[place], none])[order]
        self._make_room(touched, added)
        self._count[touched] += added
        _, place = self._places_of(touched)
        self.column[place] = key[order] % _WIDTH
        self.value[place], self.size[place] = value, size

    def _make_room(self, rows: Ints, added: Ints) -> None:
        """Rows that have no room for what is added get a place at the end of the pool."""
        need = self._count[rows] + added
        full = need > self._room[rows]
        rows, need = rows[full], need[full]
        room = need + need // _SHARE + _FEW
        self._room[rows] = room
        self._start[rows] = self._end + np.cumsum(room) - room
        self._end += int(room.sum())
        if self._end >= len(self.column):
            longer = 2 * self._end + 1
            self.column = _extended(self.column, longer)
            self.value, self.size = _extended(self.value, longer), _extended(self.size, longer)


def _extended(array: NDArray[_Kind], length: int) -> NDArray[_Kind]:
    """The array, with zeros up to the length."""
    more: NDArray[_Kind] = np.zeros(length - len(array), dtype=array.dtype)
    return np.concatenate([array, more])
