"""Rows of positions on a device: moved there, summed there, some at a time; sets left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Array, Backend
from gpu_margin.crypto_book import Bools, CryptoMargin, Level
from gpu_margin.crypto_sets import Refusals
from gpu_margin.portfolio import Rows, entry_rows, row_offsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def on_device(backend: Backend, rows: Rows) -> Rows:
    """The rows where the backend works."""
    return Rows(*(backend.to_device(part) for part in (rows.offsets, rows.column, rows.value)))


def weighted(backend: Backend, rows: Rows, matrix: Array) -> Floats:
    """[row, column] sums of value x matrix, on the host; `matrix` is on the device."""
    return backend.to_host(backend.weighted_sum(on_device(backend, rows), matrix))


def added(backend: Backend, values: Floats, owner: Ints, count: int) -> Floats:
    """[owner, column] sums of `values` [row, column] in the order of their rows.

    `owner` [row] ascends; `count` is how many owners there are.
    """
    offsets = backend.to_device(row_offsets(owner, count))
    columns = (backend.to_device(np.ascontiguousarray(column)) for column in values.T)
    sums = [backend.to_host(backend.segment_sum(column, offsets)) for column in columns]
    return np.stack(sums, axis=1)


def only(rows: Rows, chosen: Bools) -> Rows:
    """The chosen entries: [entry]."""
    entry = np.flatnonzero(chosen)
    owner = entry_rows(rows)[entry]
    return Rows(row_offsets(owner, len(rows)), rows.column[entry], rows.value[entry])


def short(rows: Rows) -> Rows:
    """The entries that are held short, as positive quantities."""
    sold = only(rows, rows.value < 0)
    return Rows(sold.offsets, sold.column, -sold.value)


def blocks(rows: Rows, count: int) -> Iterator[tuple[int, Rows]]:
    """`count` rows at a time, each time with the number of the first of them."""
    for start in range(0, len(rows), count):
        offsets = rows.offsets[start : start + count + 1]
        begin, end = offsets[0], offsets[-1]
        yield start, Rows(offsets - begin, rows.column[begin:end], rows.value[begin:end])


def refuse_charges(refusals: Refusals, known: Collection[str]) -> None:
    """Refuse the sets with a charge that the rulebook does not know: it would go unnoticed."""
    for name, amount in refusals.book.charges.items():
        if name not in known:
            refusals.add(amount != 0, "the rulebook has no such charge", name)


def without(found: CryptoMargin, failed: Bools) -> CryptoMargin:
    """The same margins with nothing known of the `failed` sets: [set]."""

    def known(amount: Floats) -> Floats:
        return np.asarray(np.where(failed, np.nan, amount))

    levels = {
        name: Level(
            known(level.requirement),
            {part: known(amount) for part, amount in level.components.items()},
        )
        for name, level in found.levels.items()
    }
    return replace(
        found,
        levels=levels,
        mark_to_market=known(found.mark_to_market),
        cash=known(found.cash),
        worst=np.where(failed, -1, found.worst),
        figures={name: known(amount) for name, amount in found.figures.items()},
        pnl=None if found.pnl is None else np.where(failed[:, None], np.nan, found.pnl),
    )
