"""What trades would do to accounts of a live book: all what-ifs at once, under all models.

Every what-if starts from the book as it is, and the values of collateral stay as they are; what
shares a call changes no bit of any answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.collateral import CollateralParameters, standing
from gpu_margin.living.legs import Error, LiveLegs
from gpu_margin.portfolio import Rows, add_up, entry_rows, values_at
from gpu_margin.resident import net
from gpu_margin.tracking.coverage import Coverage
from gpu_margin.tracking.state import State
from gpu_margin.whatif import Outcome

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# A final requirement is a set's own within this share of it.
_SAME = 1e-9
_UNKNOWN = -1
_NO_CALLS = CollateralParameters()


@dataclass(frozen=True)
class Asked:
    """Answered what-ifs.

    `state_seq` of the book that was asked; per model what they do, as `whatif.Outcome`. `complete`
    [what-if]: no input row of the account failed; `lost`: some did, and no good one is left: its
    figures mean nothing. Those with `errors` were not asked.
    """

    state_seq: int
    models: Mapping[str, Outcome]
    complete: Bools
    lost: Bools
    errors: Mapping[int, Error]


@dataclass(frozen=True)
class _Touched:
    """The sets of every what-if: all that its account has, then the new ones.

    [row] the what-if `owner` and the set's `code` (-1: new); net `trades`; the rows `moved`, whose
    positions become others, and what stays of each: `base` [moved] the set, -1 for nothing.
    `alone`: every what-if has one row, its own number.
    """

    owner: Ints
    code: Ints
    alone: bool
    moved: Ints
    trades: Rows
    base: Ints


def ask(state: State, coverages: list[Coverage], legs: LiveLegs, state_seq: int) -> Asked:
    """See `LiveBook.ask`."""
    touched = _touched(state, legs)
    count = len(legs.account)
    with np.errstate(over="ignore", invalid="ignore"):
        found = {
            coverage.model.name: _outcome(state, coverage, touched, count) for coverage in coverages
        }
    bad = values_at(state.lost, touched.code, 0) > 0
    good = values_at(state.good, touched.code, False)
    if not touched.alone:
        bad, good = (np.bincount(touched.owner, some, count) > 0 for some in (bad, good))
    return Asked(state_seq, found, ~bad, bad & ~good, legs.errors)


def _touched(state: State, legs: LiveLegs) -> _Touched:
    owner, code, place = _rows(state, legs)
    trades = net(place, legs.instrument, legs.quantity, len(owner))
    size = np.diff(trades.offsets)
    changed = size > 0
    base = code
    if legs.replaced.any():
        replaced = legs.replaced[owner]
        base = np.where(replaced, -1, code)
        changed |= replaced
    moved = np.flatnonzero(changed)
    offsets = np.zeros(len(moved) + 1, dtype=np.int64)
    np.cumsum(size[moved], out=offsets[1:])
    chosen = Rows(offsets, trades.column, trades.value)
    alone = len(owner) == len(legs.account) and bool((owner == np.arange(len(owner))).all())
    return _Touched(owner, code, alone, moved, chosen, base[moved])


def _rows(state: State, legs: LiveLegs) -> tuple[Ints, Ints, Ints]:
    """[row] what-if and set, and [leg] which of these it goes to."""
    known = np.flatnonzero(legs.account >= 0)
    owner, code = state.members.sets_of(legs.account[known])
    owner = known[owner]
    new = np.flatnonzero(legs.netting_set < 0)
    if not len(new) and len(owner) == len(legs.account) and len(known) == len(owner):
        return owner, code, legs.whatif
    width = len(state.members) + 1
    key = owner * width + code
    order = np.argsort(key)
    asked = legs.whatif * width + legs.netting_set
    found = np.searchsorted(key[order], asked)
    place = order[np.minimum(found, len(order) - 1)] if len(order) else np.zeros_like(asked)
    if len(new):
        keys = np.stack([legs.whatif[new], -legs.netting_set[new]])
        opened, which = np.unique(keys, axis=1, return_inverse=True)
        place[new] = len(owner) + which.reshape(-1)
        owner = np.concatenate([owner, opened[0]])
        code = np.concatenate([code, np.full(opened.shape[1], -1, dtype=np.int64)])
    return owner, code, place


def _outcome(state: State, coverage: Coverage, touched: _Touched, count: int) -> Outcome:
    code, moved = touched.code, touched.moved
    new = code < 0
    before = coverage.own[code]
    if new.any():
        before = np.where(new, 0.0, before)
    after = before.copy()
    if coverage.vectors is not None:
        found = coverage.vectors.after(touched.trades, touched.base)
    else:
        found = _recomputed(state, coverage, touched.trades, touched.base)
    unknown = np.isnan(before[moved]) & (touched.base >= 0)
    after[moved] = np.where(unknown, np.nan, found)
    status = _status(state, coverage, code, before, after)
    if touched.alone:
        return Outcome(before, after, status)
    worst = np.full(count, _UNKNOWN, dtype=np.int64)
    np.maximum.at(worst, touched.owner, status)
    worst[touched.owner[status == _UNKNOWN]] = _UNKNOWN
    owner = touched.owner
    return Outcome(add_up(owner, before, count), add_up(owner, after, count), worst)


def _status(state: State, coverage: Coverage, code: Ints, before: Floats, after: Floats) -> Ints:
    """[row] status after; unknown where it does not follow from the set's own requirement."""
    if not state.with_collateral:
        return np.full(len(code), _UNKNOWN, dtype=np.int64)
    value, initial = coverage.sets["value"][code], coverage.sets["initial"][code]
    new = code < 0
    if new.any():
        value, initial = np.where(new, 0.0, value), np.where(new, 0.0, initial)
    known = np.abs(initial - before) <= _SAME * before
    known &= np.isfinite(value) & np.isfinite(after)
    figures = standing(after, value, coverage.model.options.maintenance * after, _NO_CALLS)
    return np.where(known, figures.status, _UNKNOWN)


def _recomputed(state: State, coverage: Coverage, trades: Rows, base: Ints) -> Floats:
    """[row] requirement of sets (-1: nothing) and their trades, from all positions."""
    held = np.flatnonzero(base >= 0)
    rows = state.positions.rows(base[held])
    owner = np.concatenate([held[entry_rows(rows)], entry_rows(trades)])
    column = np.concatenate([rows.column, trades.column])
    value = np.concatenate([rows.value, trades.value])
    return coverage.prepared.require(net(owner, column, value, len(base))).amount
