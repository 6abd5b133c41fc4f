"""Accounts while SPAN works on them: vectors, deltas, what spreads have consumed, what is charged.

A *row* is a combined commodity that an account holds (or may come to hold through a spread by
scanning); an *entry* is a month of a row. Rows are ordered by account and commodity, entries by row
and month, so that the slots of an entry ascend within its row. Deltas are in `DELTA_UNITS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Array, Backend
from gpu_margin.portfolio import Rows, add_up, entry_rows, row_offsets
from gpu_margin.span_file import SpanFile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# What is left of a delta, as a share of it, that is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Positions:
    """Positions once combinations became their legs, ordered by account, slot and contract.

    [position]: `quantity` counts for arrays, option values and minima; `delta` is in delta units
    and may be there without a quantity.
    """

    account: Ints
    contract: Ints
    quantity: Floats
    delta: Floats


@dataclass
class State:
    """Figures of rows and entries; money in the currency of the row's commodity.

    [row]: `account`, `commodity`, `present` (False for rows that may yet come to be, and for legs
    that became another row), `merged` (became a target: it is scanned as one vector, whatever its
    tiers), `total` [row, point]; `long_value`, `short_value`, `minimum`, `intra`, `delivery`,
    `inter` (a credit), `only_long` (nothing but bought options paid up front).
    [entry]: `slot`, `delta`, `left` of it, `vector` [entry, point]. The entries of row i are
    offsets[i] to offsets[i + 1]. `entry` [position] is where each position stands.
    """

    file: SpanFile
    accounts: int
    positions: Positions
    entry: Ints
    account: Ints
    commodity: Ints
    offsets: Ints
    slot: Ints
    delta: Floats
    left: Floats
    vector: Floats
    total: Floats
    present: Bools
    merged: Bools
    long_value: Floats
    short_value: Floats
    only_long: Bools
    minimum: Floats
    intra: Floats
    delivery: Floats
    inter: Floats
    formed: list[dict[str, NDArray[np.generic]]] | None = field(default=None)

    def __len__(self) -> int:
        return len(self.account)

    def places(self, rows: Ints, first: Ints, last: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Entries of rows in ranges of slots, front month first: (place in `rows`, entry) each.

        `first` and `last` [row] are slots. The k-th answer has the k-th entry of every row that has
        so many, where it lies within the row's range.
        """
        start, size = self.offsets[rows], np.diff(self.offsets)[rows]
        alive = np.arange(len(rows))
        for place in range(int(size.max(initial=0))):
            alive = alive[size[alive] > place]
            entry = start[alive] + place
            slot = self.slot[entry]
            inside = (slot >= first[alive]) & (slot < last[alive])
            yield alive[inside], entry[inside]

    def pool(self, rows: Ints, first: Ints, last: Ints, side: Ints) -> Floats:
        """[row] delta left on one side (1 long, -1 short) in a range of slots, as a size."""
        found = np.zeros(len(rows))
        for place, entry in self.places(rows, first, last):
            found[place] += np.maximum(side[place] * self.left[entry], 0.0)
        return found

    def net(self, rows: Ints, first: Ints, last: Ints, what: Floats) -> Floats:
        """[row] sum of a figure of entries (`left` or `delta`) in a range of slots.

        What is left of long and short deltas that cancel is zero where it is no more than rounding.
        """
        found, size = np.zeros(len(rows)), np.zeros(len(rows))
        for place, entry in self.places(rows, first, last):
            found[place] += what[entry]
            size[place] += np.abs(what[entry])
        found[np.abs(found) <= _ROUNDING * size] = 0.0
        return found

    def consume(self, rows: Ints, first: Ints, last: Ints, side: Ints, amount: Floats) -> None:
        """Takes deltas of one side from rows, front month first; `rows` are distinct."""
        wanted = amount.copy()
        for place, entry in self.places(rows, first, last):
            left, sign = self.left[entry], side[place]
            taken = np.minimum(np.maximum(sign * left, 0.0), wanted[place])
            after = left - sign * taken
            after[np.abs(after) <= _ROUNDING * np.abs(self.delta[entry])] = 0.0
            self.left[entry] = after
            wanted[place] -= taken

    def find(self, account: Ints, commodity: Ints) -> Ints:
        """Rows of accounts' commodities, -1 where there is none."""
        count = len(self.file.commodities.codes)
        keys = self.account * count + self.commodity
        wanted = account * count + commodity
        found = np.searchsorted(keys, wanted)
        there = found < len(keys)
        there[there] = keys[found[there]] == wanted[there]
        return np.where(there, found, -1)


def positions_of(file: SpanFile, rows: Rows) -> Positions:
    """Positions of accounts (a row each, columns contracts) with combinations split."""
    contracts = file.contracts
    account, contract, quantity = entry_rows(rows), rows.column, rows.value
    count = np.diff(contracts.part_offsets)[contract]
    if (count == 1).all():
        part = contracts.part_offsets[contract]
    else:
        owner = np.repeat(np.arange(len(contract)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        part = contracts.part_offsets[contract][owner] + within
        account, quantity = account[owner], quantity[owner]
    delta = quantity * contracts.part_delta[part]
    contract, quantity = contracts.part_contract[part], quantity * contracts.part_quantity[part]
    order = np.lexsort((contract, account * len(file.slots.month) + contracts.slot[contract]))
    return Positions(account[order], contract[order], quantity[order], delta[order])


def opened(
    file: SpanFile,
    rows: Rows,
    matrix: Array,
    backend: Backend,
    more: tuple[Ints, Ints] | None = None,
    formed: bool = False,
) -> State:
    """The state of accounts before any spread; `rows` of net positions, a row per account.

    `matrix` is the file's array on the device. `more` (account, slot) are entries that spreads by
    scanning may need; `formed` asks that spreads write down what they formed.
    """
    positions = positions_of(file, rows)
    slots = len(file.slots.month)
    own = positions.account * slots + file.contracts.slot[positions.contract]
    keys = own if more is None else np.concatenate([own, more[0] * slots + more[1]])
    keys = np.unique(keys)
    entry = np.searchsorted(keys, own)
    entry_account, slot = keys // max(slots, 1), keys % max(slots, 1)
    commodity = file.slots.commodity[slot]
    row = entry_account * len(file.commodities.codes) + commodity
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = row[1:] != row[:-1]
    start = np.flatnonzero(first)
    offsets = np.append(start, len(keys)).astype(np.int64)
    vector = _vectors(file, positions, entry, commodity, matrix, backend)
    delta = add_up(entry, positions.delta, len(keys))
    size = add_up(entry, np.abs(positions.delta), len(keys))
    delta[np.abs(delta) <= _ROUNDING * size] = 0.0
    count = len(start)
    owner = (np.cumsum(first) - 1)[entry]
    present = np.zeros(count, dtype=np.bool_)
    present[owner] = True
    values, other = _option_values(file, positions)
    only_long = present.copy()
    only_long[owner[other]] = False
    total = np.add.reduceat(vector, start, axis=0) if count else vector[:0]
    return State(
        file=file,
        accounts=len(rows),
        positions=positions,
        entry=entry,
        account=entry_account[start],
        commodity=commodity[start],
        offsets=offsets,
        slot=slot,
        delta=delta,
        left=delta.copy(),
        vector=vector,
        total=total,
        present=present,
        merged=np.zeros(count, dtype=np.bool_),
        long_value=add_up(owner, np.maximum(values, 0.0), count),
        short_value=add_up(owner, np.minimum(values, 0.0), count),
        only_long=only_long,
        minimum=np.zeros(count),
        intra=np.zeros(count),
        delivery=np.zeros(count),
        inter=np.zeros(count),
        formed=[] if formed else None,
    )


def _vectors(
    file: SpanFile,
    positions: Positions,
    entry: Ints,
    commodity: Ints,
    matrix: Array,
    backend: Backend,
) -> Floats:
    """[entry, point] losses: sums of whole numbers, which are exact, and then money."""
    offsets = row_offsets(entry, len(commodity))
    to_device = backend.to_device
    held = Rows(to_device(offsets), to_device(positions.contract), to_device(positions.quantity))
    sums = backend.to_host(backend.weighted_sum(held, matrix))
    decimals = file.commodities.decimals[commodity]
    if not decimals.any():
        return sums
    # A power of ten is divided by, not multiplied with: then the money is the nearest there is.
    size = 10.0 ** np.abs(decimals).astype(np.float64)[:, None]
    return np.where(decimals[:, None] >= 0, sums / size, sums * size)


def _option_values(file: SpanFile, positions: Positions) -> tuple[Floats, Bools]:
    """[position] value of options paid up front, and whether it is anything but such a long one."""
    contracts, contract = file.contracts, positions.contract
    values = positions.quantity * contracts.value[contract]
    return values, ~contracts.premium[contract] | (positions.quantity <= 0.0)
