"""Which spreads between combined commodities accounts may form, and which of them at once.

Most accounts hold few commodities and most spreads need two of thousands: candidates are found by a
sparse join of rows with the legs of spreads, never by trying all spreads on all accounts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gpu_margin.models.span.ranges import spread_out
from gpu_margin.models.span.state import Ints, State
from gpu_margin.portfolio import row_offsets
from gpu_margin.span_file import Inter
from gpu_margin.span_tables import BY_DELTA, BY_SCANNING, BY_TIERS


@dataclass(frozen=True)
class Candidates:
    """Spreads that accounts may form, in the order in which they are.

    [candidate]: `account`, `spread`; `step` when it is formed and `method` how: BY_TIERS,
    BY_SCANNING, or BY_DELTA for both methods that match one range of months per leg. Its legs are
    offsets[i] to offsets[i + 1]. [leg]: `leg` is its place among those of the file, `turn` how many
    legs of its spread before it are of its commodity, and `row` where the account has that
    commodity, -1 where it has not (legs of spreads by scanning only).
    """

    account: Ints
    spread: Ints
    step: Ints
    method: Ints
    offsets: Ints
    leg: Ints
    turn: Ints
    row: Ints

    def __len__(self) -> int:
        return len(self.account)


@dataclass(frozen=True)
class Batch:
    """Candidates of one method that are formed at once: no row occurs in two of them.

    [candidate]: `account`, `spread`; `first` its first leg. [leg]: `owner` the candidate that it is
    of, the others as in `Candidates`; `place` [leg] its place among the legs of all candidates.
    """

    method: int
    account: Ints
    spread: Ints
    first: Ints
    owner: Ints
    leg: Ints
    turn: Ints
    row: Ints
    place: slice

    def __len__(self) -> int:
        return len(self.account)


def candidates(state: State, above: bool) -> Candidates:
    """All that accounts may form."""
    inter = state.file.inter
    own = np.flatnonzero(inter.above == above)
    scanning = inter.method[own] == BY_SCANNING
    merging = enough(inter, state.account, state.commodity, own[scanning])
    aim = inter.leg_commodity[inter.leg_offsets[merging[1]] + inter.target[merging[1]]]
    matching = _complete(state, own[~scanning], _sides(state, state.find(merging[0], aim)))
    account, spread = (np.concatenate(each) for each in zip(matching, merging, strict=True))
    method, step = inter.method[spread], _steps(inter, account, spread)
    method = np.where((method == BY_TIERS) | (method == BY_SCANNING), method, BY_DELTA)
    turn = step * (int(method.max(initial=0)) + 1) + method
    # Small numbers are sorted faster.
    small = turn.astype(np.uint16) if turn.max(initial=0) < 1 << 16 else turn
    order = np.argsort(small, kind="stable")
    account, spread = account[order], spread[order]
    offsets, leg = legs_of(inter, spread)
    row = state.find(np.repeat(account, np.diff(offsets)), inter.leg_commodity[leg])
    turn = _turns(inter)[leg]
    return Candidates(account, spread, step[order], method[order], offsets, leg, turn, row)


def batches(every: Candidates) -> Iterator[Batch]:
    """Candidates cut into batches, in the order of forming."""
    if not len(every):
        return
    changes = (np.diff(every.step) != 0) | (np.diff(every.method) != 0)
    bounds = [0, *(np.flatnonzero(changes) + 1).tolist(), len(every)]
    for start, stop in pairwise(bounds):
        offsets = every.offsets[start : stop + 1]
        legs = slice(int(offsets[0]), int(offsets[-1]))
        yield Batch(
            method=int(every.method[start]),
            account=every.account[start:stop],
            spread=every.spread[start:stop],
            first=offsets[:-1] - offsets[0],
            owner=np.repeat(np.arange(stop - start), np.diff(offsets)),
            leg=every.leg[legs],
            turn=every.turn[legs],
            row=every.row[legs],
            place=legs,
        )


def _sides(state: State, targets: Ints) -> Ints:
    """[row] whether something long (1), short (2) or both (3) is left, or may come to be.

    Spreads only take deltas away, unless they are by scanning and move them to `targets` (rows, -1
    for none): a leg that has nothing on a side never will.
    """
    some = np.zeros(len(state), dtype=np.int64)
    if len(state):
        first = state.offsets[:-1]
        some += np.maximum.reduceat(state.left, first) > 0.0
        some += 2 * (np.minimum.reduceat(state.left, first) < 0.0)
    some[targets[targets >= 0]] = 3
    return some


# The same with long and short exchanged.
_SWAPPED = np.array([0, 2, 1, 3])


def _complete(state: State, spreads: Ints, sides: Ints) -> tuple[Ints, Ints]:
    """Accounts and spreads of which the account has every leg, on sides that fit (`_sides`).

    A spread is looked for where its rarest leg is: what everybody holds is a leg of many spreads.
    """
    inter = state.file.inter
    offsets, leg = legs_of(inter, spreads)
    held = np.bincount(state.commodity, minlength=len(state.file.commodities.codes))
    owner = np.repeat(np.arange(len(spreads)), np.diff(offsets))
    leg = leg[np.lexsort((held[inter.leg_commodity[leg]], owner))]
    commodity, first = inter.leg_commodity[leg], inter.leg_side[leg] > 0
    some = np.flatnonzero(sides)
    row, place = _joined(state.commodity[some], commodity[offsets[:-1]], len(held))
    account, side = state.account[some][row], sides[some][row]
    # Whether the A legs (1), the B legs (2), or either can be the long ones.
    long = np.where(first[offsets[place]], side, _SWAPPED[side])
    for number in range(1, int(np.diff(offsets).max(initial=0))):
        # A spread with fewer legs is asked for its last one again.
        wanted = np.minimum(offsets[place] + number, offsets[place + 1] - 1)
        found = state.find(account, commodity[wanted])
        keep = np.flatnonzero(found >= 0)
        account, place, long = account[keep], place[keep], long[keep]
        side = sides[found[keep]]
        long &= np.where(first[wanted[keep]], side, _SWAPPED[side])
        keep = np.flatnonzero(long)
        account, place, long = account[keep], place[keep], long[keep]
    return account, spreads[place]


def enough(inter: Inter, account: Ints, commodity: Ints, spreads: Ints) -> tuple[Ints, Ints]:
    """Accounts and spreads by scanning of which the account has as many legs as they need.

    `account` and `commodity` are distinct pairs of what accounts have.
    """
    _, leg = legs_of(inter, spreads)
    leg = leg[_turns(inter)[leg] == 0]
    of = _owners(inter)
    codes = max(int(commodity.max(initial=-1)), int(inter.leg_commodity.max(initial=-1))) + 1
    pair, place = _joined(commodity, inter.leg_commodity[leg], codes)
    required = inter.leg_required[leg]
    needed = np.bincount(of[leg[required]], minlength=len(inter))
    keys = account[pair] * len(inter) + of[leg[place]]
    keys, which = np.unique(keys, return_inverse=True)
    count = np.bincount(which, minlength=len(keys))
    there = np.bincount(which[required[place]], minlength=len(keys))
    spread = keys % max(len(inter), 1)
    good = (count >= inter.least[spread]) & (there >= needed[spread])
    return keys[good] // max(len(inter), 1), spread[good]


def legs_of(inter: Inter, spreads: Ints) -> tuple[Ints, Ints]:
    """Offsets [spread + 1] into, and the legs of spreads one after the other."""
    size = inter.leg_offsets[spreads + 1] - inter.leg_offsets[spreads]
    owner, within = spread_out(size)
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return offsets, inter.leg_offsets[spreads][owner] + within


def _owners(inter: Inter) -> Ints:
    """[leg] the spread that it is of."""
    return np.repeat(np.arange(len(inter)), np.diff(inter.leg_offsets))


def _turns(inter: Inter) -> Ints:
    """[leg] how many legs of its spread before it are of its commodity."""
    owner = _owners(inter)
    order = np.lexsort((inter.leg_commodity, owner))
    key = owner[order] * (int(inter.leg_commodity.max(initial=0)) + 1) + inter.leg_commodity[order]
    turn = np.empty(len(order), dtype=np.int64)
    turn[order] = np.arange(len(order)) - np.searchsorted(key, key)
    return turn


def _joined(left: Ints, right: Ints, codes: int) -> tuple[Ints, Ints]:
    """Places (in `left`, in `right`) of all pairs of equal codes, in the order of `left`."""
    order = np.argsort(right, kind="stable")
    start = row_offsets(right[order], codes)
    owner, within = spread_out(np.diff(start)[left])
    return owner, order[start[left[owner]] + within]


def _steps(inter: Inter, account: Ints, spread: Ints) -> Ints:
    """[candidate] when it is formed: after those of its account before it that share a leg with it.

    Spreads that have no commodity in common do not know of each other: an account with thousands
    of them needs few steps, and one with few needs no more steps than it has spreads.
    """
    level = np.zeros(len(inter), dtype=np.int64)
    there = np.bincount(spread, minlength=len(inter)) > 0
    codes, bounds = inter.leg_commodity.tolist(), inter.leg_offsets.tolist()
    free = [0] * (max(codes, default=0) + 1)
    for each in np.flatnonzero(there).tolist():
        own = codes[bounds[each] : bounds[each + 1]]
        found = max([free[code] for code in own])
        level[each] = found
        for code in own:
            free[code] = found + 1
    key = account * (max(free) + 1) + level[spread]
    order = np.argsort(key, kind="stable")
    key, owner = key[order], account[order]
    new = np.ones(len(order), dtype=np.int64)
    new[1:] = key[1:] != key[:-1]
    number = np.cumsum(new)
    steps = np.empty(len(order), dtype=np.int64)
    steps[order] = number - number[np.searchsorted(owner, owner)]
    return steps
