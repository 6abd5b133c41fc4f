"""Accounts while SPAN works on them: vectors, deltas, what spreads have consumed, what is charged.

A *row* is a combined commodity that an account holds (or may come to hold through a spread by
scanning); an *entry* is a month of a row. Rows are ordered by account and commodity, entries by row
and month, so that the slots of an entry ascend within its row. Deltas are in `DELTA_UNITS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Array, Backend
from gpu_margin.models.span.ranges import changes, segment_sums
from gpu_margin.portfolio import Rows, add_up, entry_rows
from gpu_margin.span_file import DELTA_UNITS, SpanFile

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# From the months (account, slot) that accounts hold to those that they may come to hold.
Room = Callable[[SpanFile, Ints, Ints], tuple[Ints, Ints] | None]

# What is left of a delta, as a share of it, that is rounding.
ROUNDING = 1e-12
# A number of spreads may be what is left of a delta ten thousand times as large.
_LITTLE = 1e-9


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
    [entry]: `slot`, `delta`, `left` of it, `vector` [entry, point]; `held` says that the month is
    in position (False for months that may yet come to be); `gross` is the largest figure that the
    vector was added up from could have been: what is far below it is rounding. The entries of row i
    are offsets[i] to offsets[i + 1]. `entry` [position] is where each position stands.

    What a spread by scanning moves into a target moves all figures of entries: `held` becomes that
    of either, `gross` adds up like the vector.
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
    held: Bools
    gross: Floats
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

    def entries(self, rows: Ints) -> tuple[Ints, Ints]:
        """Offsets [row + 1] into, and the entries of rows one after the other."""
        size = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        return offsets, np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], size)

    def places(self, rows: Ints, first: Ints, last: Ints) -> Iterator[tuple[Ints, Ints]]:
        """Entries of rows in ranges of slots, front month first: (place in `rows`, entry) each.

        `first` and `last` [row] are slots. The k-th answer has the k-th entry of every row that has
        so many, where it lies within the row's range.
        """
        start = self.offsets[rows]
        size = self.offsets[rows + 1] - start
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
        found[np.abs(found) <= ROUNDING * size] = 0.0
        return found

    def consume(self, rows: Ints, first: Ints, last: Ints, side: Ints, amount: Floats) -> None:
        """Takes deltas of one side from rows, front month first; `rows` are distinct."""
        wanted = amount.copy()
        for place, entry in self.places(rows, first, last):
            left, sign = self.left[entry], side[place]
            taken = np.minimum(np.maximum(sign * left, 0.0), wanted[place])
            after = left - sign * taken
            after[np.abs(after) <= ROUNDING * np.abs(self.delta[entry])] = 0.0
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


def counted(number: Floats, places: int | None) -> Floats:
    """Numbers of spreads, rounded down to so many decimals where it is asked for.

    A number that rounding of decimals made a little less than such a decimal is that decimal.
    """
    if places is None:
        return number
    units = 10.0**places
    return np.floor(number * units * (1.0 + _LITTLE)) / units


def positions_of(file: SpanFile, rows: Rows) -> Positions:
    """Positions of accounts (a row each, columns contracts) with combinations split."""
    contracts = file.contracts
    account, contract, quantity = entry_rows(rows), rows.column, rows.value
    first = contracts.part_offsets[contract]
    count = contracts.part_offsets[contract + 1] - first
    split = bool((count != 1).any())
    part = first
    if split:
        owner = np.repeat(np.arange(len(contract)), count)
        part = np.arange(len(owner)) + np.repeat(first - np.cumsum(count) + count, count)
        account, quantity = account[owner], quantity[owner]
    key = account * len(contracts.ids) + contracts.rank[contracts.part_contract[part]]
    # No contract is there twice in an account unless it came of splitting.
    order = np.argsort(key, kind="stable" if split else None)
    part, quantity = part[order], quantity[order]
    return Positions(
        account[order],
        contracts.part_contract[part],
        quantity * contracts.part_quantity[part],
        quantity * contracts.part_delta[part],
    )


def opened(
    file: SpanFile,
    rows: Rows,
    matrix: Array,
    backend: Backend,
    more: Room | tuple[Ints, Ints] | None = None,
    formed: bool = False,
    delta_places: int | None = None,
) -> State:
    """The state of accounts before any spread; `rows` of net positions, a row per account.

    `matrix` is the file's array on the device. `more` are entries (account, slot) that spreads by
    scanning may need beside those of positions, or says which these are; `formed` asks that spreads
    write down what they formed; `delta_places` are the decimals that net deltas of months are
    rounded to.
    """
    positions = positions_of(file, rows)
    keys, entry, held = _entries(file, positions, more)
    slots = max(len(file.slots.month), 1)
    entry_account = keys // slots
    slot = keys - entry_account * slots
    commodity = file.slots.commodity[slot]
    first = changes(commodity, entry_account)
    start = np.flatnonzero(first)
    count = len(start)
    sums = _sums(positions, entry, len(keys), matrix, backend)
    # Months are added up as whole numbers too: equal losses then are equal to the last bit.
    total = _money(file, commodity[start], segment_sums(sums, start))
    vector = _money(file, commodity, sums)
    delta = _deltas(positions, entry, len(keys), delta_places)
    owner = (np.cumsum(first) - 1)[entry]
    present = np.zeros(count, dtype=np.bool_)
    present[owner] = True
    values, other = _option_values(file, positions)
    only_long = present.copy()
    only_long[owner[other]] = False
    gross = np.abs(positions.quantity) * file.contracts.peak[positions.contract]
    units = 10.0 ** file.commodities.decimals[commodity].astype(np.float64)
    return State(
        file=file,
        accounts=len(rows),
        positions=positions,
        entry=entry,
        account=entry_account[start],
        commodity=commodity[start],
        offsets=np.append(start, len(keys)).astype(np.int64),
        slot=slot,
        delta=delta,
        left=delta.copy(),
        vector=vector,
        held=held,
        gross=add_up(entry, gross, len(keys)) / units,
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


def _entries(
    file: SpanFile, positions: Positions, more: Room | tuple[Ints, Ints] | None
) -> tuple[Ints, Ints, Bools]:
    """Keys of entries (account x slots + slot, ascending), those of positions, which are held."""
    slots = len(file.slots.month)
    own = positions.account * slots + file.contracts.slot[positions.contract]
    first = changes(own)
    keys, entry = own[first], np.cumsum(first) - 1
    if callable(more):
        slot = file.contracts.slot[positions.contract[first]]
        more = more(file, positions.account[first], slot)
    if more is None:
        return keys, entry, np.ones(len(keys), dtype=np.bool_)
    extra = np.sort(more[0] * slots + more[1])
    extra = extra[changes(extra)]
    before = np.searchsorted(keys, extra)
    known = before < len(keys)
    known[known] = keys[before[known]] == extra[known]
    extra, before = extra[~known], before[~known]
    # Entries of positions move back by the new ones that come before them.
    place = np.arange(len(keys)) + np.searchsorted(before, np.arange(len(keys)), "right")
    held = np.zeros(len(keys) + len(extra), dtype=np.bool_)
    held[place] = True
    every = np.empty(len(held), dtype=np.int64)
    every[held], every[~held] = keys, extra
    return every, place[entry], held


def _deltas(positions: Positions, entry: Ints, count: int, places: int | None) -> Floats:
    """[entry] net deltas: nothing where they cancel but for rounding; rounded where asked."""
    delta = add_up(entry, positions.delta, count)
    size = add_up(entry, np.abs(positions.delta), count)
    delta[np.abs(delta) <= ROUNDING * size] = 0.0
    if places is None:
        return delta
    unit = DELTA_UNITS / 10.0**places
    # Halves go away from zero; a half that rounding of decimals made a little less is one, too.
    return np.sign(delta) * np.floor(np.abs(delta) / unit * (1.0 + ROUNDING) + 0.5) * unit


def _sums(positions: Positions, entry: Ints, count: int, matrix: Array, backend: Backend) -> Floats:
    """[entry, point] losses as the file's whole numbers, whose sums are exact."""
    held = np.bincount(entry, minlength=count)
    offsets = np.concatenate([[0], np.cumsum(held)]).astype(np.int64)
    to_device = backend.to_device
    rows = Rows(to_device(offsets), to_device(positions.contract), to_device(positions.quantity))
    sums: Floats = backend.to_host(backend.weighted_sum(rows, matrix))
    return sums if sums.flags.writeable else sums.copy()


def _money(file: SpanFile, commodity: Ints, sums: Floats) -> Floats:
    """Whole numbers of commodities as money; the array is changed."""
    decimals = file.commodities.decimals[commodity]
    some = np.flatnonzero(decimals)
    size = 10.0 ** np.abs(decimals[some]).astype(np.float64)[:, None]
    # A power of ten is divided by, not multiplied with: then the money is the nearest there is.
    sums[some] = np.where(decimals[some, None] > 0, sums[some] / size, sums[some] * size)
    return sums


def _option_values(file: SpanFile, positions: Positions) -> tuple[Floats, Bools]:
    """[position] value of options paid up front, and whether it is anything but such a long one."""
    contracts, contract = file.contracts, positions.contract
    values = positions.quantity * contracts.value[contract]
    return values, ~contracts.premium[contract] | (positions.quantity <= 0.0)
