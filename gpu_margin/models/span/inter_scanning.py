"""Spreads by scanning (method 04): the legs' gains count in part, and all become the target's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_margin.models.span.inter_candidates import Batch
from gpu_margin.models.span.inter_room import same_month
from gpu_margin.models.span.inter_work import Work
from gpu_margin.models.span.state import ROUNDING, Floats, Ints, State

_NO_ROOM = "accounts were opened without the room that spreads by scanning need"
# Money of rows that adds up in the target.
_SUMS = ("long_value", "short_value", "minimum", "intra", "delivery", "inter")


@dataclass(frozen=True)
class _Merge:
    """Legs of spreads that become one row each.

    [spread]: `target` row. [leg], spread by spread in the order of the file: `owner` the spread,
    `row`, `share` of gains that counts, `times` what deltas are multiplied by, `money` of the
    target's currency for one of the leg's. Every row is there once.
    """

    target: Ints
    owner: Ints
    row: Ints
    share: Floats
    times: Floats
    money: Floats


def by_scanning(work: Work, batch: Batch) -> None:
    """Forms the spreads of which enough legs, and all that are required, are present."""
    state, inter = work.state, work.state.file.inter
    # A leg that is there twice is one leg.
    usable = (batch.row >= 0) & (batch.turn == 0)
    present = usable & state.present[np.where(usable, batch.row, 0)]
    count = np.add.reduceat(present.astype(np.int64), batch.first)
    lacking = inter.leg_required[batch.leg] & (batch.turn == 0) & ~present
    good = (count >= np.maximum(inter.least[batch.spread], 1)) & ~np.logical_or.reduceat(
        lacking, batch.first
    )
    formed = np.flatnonzero(good)
    if not len(formed):
        return
    legs = np.flatnonzero(present & good[batch.owner])
    aim = batch.first + inter.target[batch.spread]
    owner, leg, row = batch.owner[legs], batch.leg[legs], batch.row[legs]
    target = batch.row[aim]
    if (target[formed] < 0).any():
        raise ValueError(_NO_ROOM)
    merge = _Merge(
        target=target[formed],
        owner=np.searchsorted(formed, owner),
        row=row,
        share=inter.leg_rate[leg],
        times=inter.leg_ratio[batch.leg[aim]][owner] / inter.leg_ratio[leg],
        money=_rates(state, state.commodity[row], state.commodity[target[owner]]),
    )
    _merge(work, merge)
    work.changed(merge.target)
    work.note(batch, legs, np.ones(len(legs)), np.zeros(len(legs)))


def _rates(state: State, source: Ints, target: Ints) -> Floats:
    """[leg] money of the target's currency for one of the leg's; `ConfigError` without a rate."""
    file, names = state.file, state.file.currencies
    pairs = file.commodities.currency[source] * len(names) + file.commodities.currency[target]
    pairs, which = np.unique(pairs, return_inverse=True)
    found = [file.rate(names[pair // len(names)], names[pair % len(names)]) for pair in pairs]
    return np.array(found, dtype=np.float64)[which]


def _merge(work: Work, merge: _Merge) -> None:
    """Moves everything that legs have into targets; the rows that are none are left empty."""
    state = work.state
    order = _turns(merge.owner)
    total = np.zeros((len(merge.target), state.total.shape[1]))
    only_long = np.ones(len(merge.target), dtype=np.bool_)
    sums = {name: np.zeros(len(merge.target)) for name in _SUMS}
    for now in order:
        owner, row, money = merge.owner[now], merge.row[now], merge.money[now]
        total[owner] += money[:, None] * _damped(state.total[row], merge.share[now])
        only_long[owner] &= state.only_long[row]
        for name, found in sums.items():
            found[owner] += money * getattr(state, name)[row]
    _merge_entries(work, merge, order)
    gone = merge.row
    state.total[gone] = 0.0
    state.present[gone] = state.only_long[gone] = state.merged[gone] = False
    for name, found in sums.items():
        getattr(state, name)[gone] = 0.0
        getattr(state, name)[merge.target] = found
    state.total[merge.target] = total
    state.only_long[merge.target] = only_long
    state.present[merge.target] = state.merged[merge.target] = True


def _turns(owner: Ints) -> list[Ints]:
    """Places of the first legs of all spreads, of the second ones and so on."""
    number = np.arange(len(owner)) - np.searchsorted(owner, owner)
    return [np.flatnonzero(number == turn) for turn in range(int(number.max(initial=-1)) + 1)]


def _damped(vector: Floats, share: Floats) -> Floats:
    """Losses, and of gains a share; `share` [vector]."""
    return np.where(vector >= 0.0, vector, vector * share[:, None])


def _merge_entries(work: Work, merge: _Merge, order: list[Ints]) -> None:
    """Moves months into the same months of the target: they add up one leg after another."""
    state, entries = work.state, _Entries(work, merge.target)
    count = len(entries.entry)
    vector = np.zeros((count, state.vector.shape[1]))
    delta, left, size, gross = (np.zeros(count) for _ in range(4))
    held = np.zeros(count, dtype=np.bool_)
    gone = []
    for now in order:
        offsets, entry = state.entries(merge.row[now])
        leg = np.repeat(now, np.diff(offsets))
        leg, entry = leg[state.held[entry]], entry[state.held[entry]]
        to = entries.same_month(entry, merge.target[merge.owner[leg]])
        times, money = merge.times[leg], merge.money[leg]
        vector[to] += money[:, None] * _damped(state.vector[entry], merge.share[leg])
        delta[to] += times * state.delta[entry]
        left[to] += times * state.left[entry]
        size[to] += np.abs(times * state.delta[entry])
        gross[to] += money * state.gross[entry]
        held[to] = True
        gone.append(entry)
    for figures in (delta, left):
        figures[np.abs(figures) <= ROUNDING * size] = 0.0
    every, own = np.concatenate(gone), entries.entry
    state.held[every], state.vector[every], state.gross[every] = False, 0.0, 0.0
    state.delta[every] = state.left[every] = 0.0
    state.held[own], state.vector[own], state.gross[own] = held, vector, gross
    state.delta[own], state.left[own] = delta, left


class _Entries:
    """All entries of target rows, and where among them months of other rows belong."""

    def __init__(self, work: Work, target: Ints) -> None:
        self._work, self._slots = work, max(len(work.state.file.slots.month), 1)
        offsets, self.entry = work.state.entries(target)
        keys = np.repeat(target, np.diff(offsets)) * self._slots + work.state.slot[self.entry]
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def same_month(self, entry: Ints, target: Ints) -> Ints:
        """Places in `entry` of target rows' entries for the months of others."""
        state = self._work.state
        slot = same_month(state.file, self._work.months, state.slot[entry], state.commodity[target])
        wanted = target * self._slots + slot
        found = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        if not ((slot >= 0) & (self._keys[found] == wanted)).all():
            raise ValueError(_NO_ROOM)
        place: Ints = self._order[found]
        return place
