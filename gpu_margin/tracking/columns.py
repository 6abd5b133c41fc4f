"""Columns of numbers that grow together."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def merged(parts: Sequence[Ints]) -> Ints:
    """Codes that are in any of the parts, each of which is in order and without copies."""
    some = [part for part in parts if len(part)]
    # A mark of the whole book has all accounts in every part: sorting them is not free.
    if all(np.array_equal(one, some[0]) for one in some[1:]):
        return some[0] if some else np.zeros(0, dtype=np.int64)
    return np.unique(np.concatenate(some))


class Columns:
    """Columns by name, [entry] float64; further entries are 0. `columns[name]` can be written to.

    What `columns[name]` gave is of no use any more once the columns have grown.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._places = {name: place for place, name in enumerate(names)}
        self._table = np.zeros((len(names), 0))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, name: str) -> Floats:
        column: Floats = self._table[self._places[name], : self._count]
        return column

    def grow(self, count: int) -> None:
        """Have so many entries, if there are fewer."""
        if count > self._table.shape[1]:
            wider = np.zeros((len(self._table), count + count // 4))
            wider[:, : self._count] = self._table[:, : self._count]
            self._table = wider
        self._count = max(self._count, count)

    def copied(self) -> Columns:
        """Columns of their own with the same numbers."""
        other = copy(self)
        other._table = self._table.copy()
        return other

    def numbers(self, entry: int) -> dict[str, float]:
        """An entry of all columns."""
        return dict(zip(self._places, self._table[:, entry].tolist(), strict=True))
