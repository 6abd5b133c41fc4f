"""Spreads between the months of a combined commodity, and what its deliveries are charged.

Which spreads a row can form at all is found at once for all rows: a spread is looked up by the
months of its narrowest leg, and by bits that say which legs have something left. What may be formed
is then formed in order, the k-th of every row at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.span.prices import price_risk
from gpu_margin.models.span.ranges import Covers, changes, covers, spread_out
from gpu_margin.models.span.state import ROUNDING, Bools, Floats, Ints, State, counted
from gpu_margin.portfolio import add_up
from gpu_margin.span_book import Terms
from gpu_margin.span_file import DELTA_UNITS, SpanFile

Bits = NDArray[np.uint64]
_WORD = 64


@dataclass(frozen=True)
class Reach:
    """Which spreads months can be part of.

    `anchors`: the spreads whose narrowest leg has a slot. Different ranges of a commodity's legs
    are bits: [word, slot] `bits` of those that a slot lies in, [word, spread] `need_a` and `need_b`
    of those that a spread needs on either side. `first` [spread] is where the narrowest leg begins;
    `alone` [commodity] whether it has spreads that need one side only; `same` [spread] whether two
    legs are of one side; `ratios` [spread] the sum of its legs' ratios.
    """

    anchors: Covers
    first: Ints
    bits: Bits
    need_a: Bits
    need_b: Bits
    alone: Bools
    same: Bools
    ratios: Floats


def reach(file: SpanFile) -> Reach:
    """What of the file's spreads can be known before any account."""
    intra, slots = file.intra, len(file.slots.month)
    count, legs = len(intra.rate), len(intra.leg_first)
    owner = np.repeat(np.arange(count), np.diff(intra.leg_offsets))
    narrowest = np.lexsort((np.arange(legs), intra.leg_last - intra.leg_first, owner))
    anchor = narrowest[intra.leg_offsets[:-1]]
    first = intra.leg_first[anchor]
    a, b = intra.leg_side > 0, intra.leg_side < 0
    sides = [np.bincount(owner[side], minlength=count) for side in (a, b)]
    single = (sides[0] == 0) | (sides[1] == 0)
    alone = np.zeros(len(file.commodities.codes), dtype=np.bool_)
    alone[file.slots.commodity[first[single]]] = True
    word, bit, bits = _bits(file)
    need = [np.zeros((len(bits), count), dtype=np.uint64) for _ in range(2)]
    for side, found in zip((a, b), need, strict=True):
        np.bitwise_or.at(found, (word[side], owner[side]), bit[side])
    return Reach(
        anchors=covers(first, intra.leg_last[anchor], slots),
        first=first,
        bits=bits,
        need_a=need[0],
        need_b=need[1],
        alone=alone,
        same=np.maximum(*sides) > 1,
        ratios=add_up(owner, intra.leg_ratio, count),
    )


def _bits(file: SpanFile) -> tuple[Ints, Bits, Bits]:
    """Word and bit of each leg's range among those of its commodity; [word, slot] all of a slot."""
    intra, slots = file.intra, len(file.slots.month)
    keys, place = np.unique(intra.leg_first * (slots + 1) + intra.leg_last, return_inverse=True)
    first, last = keys // (slots + 1), keys % (slots + 1)
    commodity = file.slots.commodity[first]
    number = np.arange(len(keys)) - np.searchsorted(commodity, commodity)
    word = number // _WORD
    bit = np.left_shift(np.uint64(1), (number % _WORD).astype(np.uint64))
    found = np.zeros((int(word.max(initial=0)) + 1, slots), dtype=np.uint64)
    owner, within = spread_out(last - first)
    np.bitwise_or.at(found, (word[owner], first[owner] + within), bit[owner])
    return word[place], bit[place], found


@dataclass(frozen=True)
class _Chosen:
    """Rows that may form spreads, and their entries: `offsets` of rows into the latter."""

    rows: Ints
    offsets: Ints
    entry: Ints
    owner: Ints


@dataclass(frozen=True)
class _Candidates:
    """Spreads that rows may form, round by round: no row has two in one.

    [candidate]: `row` among the chosen; `spread`; `long`, 1 where its A legs are long, else -1.
    Those of round i are rounds[i] to rounds[i + 1].
    [leg]: `low` to `high` of chosen entries; `side` wanted, `ratio`, and `need`, the ratios of all
    legs that share its deltas. Those of candidate i are legs[i] to legs[i + 1].
    """

    rounds: Ints
    row: Ints
    spread: Ints
    legs: Ints
    low: Ints
    high: Ints
    side: Ints
    ratio: Floats
    need: Floats


def form(state: State, terms: Terms, reached: Reach) -> None:
    """Forms all spreads within commodities, in order, A legs long and then B legs long."""
    chosen = _chosen(state, reached)
    if not len(chosen.rows):
        return
    found = _candidates(state, chosen, reached)
    if not len(found.row):
        return
    intra = state.file.intra
    rate = intra.rate[found.spread]
    weighted = intra.weighted[found.spread]
    if weighted.any():
        some = np.unique(found.row[weighted])
        weight = np.zeros(len(chosen.rows))
        weight[some] = price_risk(state, chosen.rows[some])
        share = -weight[found.row] * reached.ratios[found.spread] * rate
        rate = np.where(weighted, share, rate)
    pools = _Pools(state.left[chosen.entry], state.delta[chosen.entry])
    charged = np.zeros(len(chosen.rows))
    for start, stop in zip(found.rounds[:-1].tolist(), found.rounds[1:].tolist(), strict=True):
        at, number = _form_round(found, start, stop, pools, terms)
        amount = number * rate[at]
        charged[found.row[at]] += amount
        if state.formed is not None and len(at):
            rows = chosen.rows[found.row[at]]
            state.formed.append(
                {
                    "account": state.account[rows],
                    "spread": found.spread[at],
                    "within": np.ones(len(at), dtype=np.bool_),
                    "commodity": state.commodity[rows],
                    "count": number,
                    "amount": amount,
                }
            )
    state.intra[chosen.rows] += charged
    state.left[chosen.entry] = pools.left


def _chosen(state: State, reached: Reach) -> _Chosen:
    """Rows with deltas of both signs (or with spreads of one side) whose commodity has spreads."""
    none = np.zeros(0, dtype=np.int64)
    if not len(state) or not len(state.file.intra.rate):
        return _Chosen(none, np.zeros(1, dtype=np.int64), none, none)
    some = np.diff(state.file.intra.start) > 0
    rows = np.flatnonzero(state.present & some[state.commodity])
    offsets, entry = state.entries(rows)
    if len(rows):
        left = state.left[entry]
        longs = np.maximum.reduceat(left, offsets[:-1]) > 0.0
        shorts = np.minimum.reduceat(left, offsets[:-1]) < 0.0
        single = reached.alone[state.commodity[rows]]
        rows = rows[np.where(single, longs | shorts, longs & shorts)]
        offsets, entry = state.entries(rows)
    return _Chosen(rows, offsets, entry, np.repeat(np.arange(len(rows)), np.diff(offsets)))


def _candidates(state: State, chosen: _Chosen, reached: Reach) -> _Candidates:
    """What the chosen rows may form, by round."""
    key = _possible(state, chosen, reached)
    spreads = len(state.file.intra.rate)
    row, spread, long = key // (2 * spreads), key // 2 % spreads, 1 - 2 * (key % 2)
    # The k-th of every row is formed in round k.
    rank = spread_out(np.diff(np.flatnonzero(np.append(changes(row), True))))[1]
    most = int(rank.max(initial=-1)) + 1
    # Small numbers are sorted faster.
    order = np.argsort(rank.astype(np.uint16) if most < 1 << 16 else rank, kind="stable")
    row, spread, long = row[order], spread[order], long[order]
    rounds = np.concatenate([[0], np.cumsum(np.bincount(rank, minlength=most))])
    intra = state.file.intra
    size = (intra.leg_offsets[1:] - intra.leg_offsets[:-1])[spread]
    owner, within = spread_out(size)
    leg = intra.leg_offsets[spread[owner]] + within
    slots = len(state.file.slots.month) + 1
    keys = chosen.owner * slots + state.slot[chosen.entry]
    start = row[owner] * slots
    low = np.searchsorted(keys, start + intra.leg_first[leg])
    high = np.searchsorted(keys, start + intra.leg_last[leg])
    side = intra.leg_side[leg] * long[owner]
    ratio = intra.leg_ratio[leg]
    need = ratio.copy()
    shared = np.flatnonzero(reached.same[spread][owner])
    if len(shared):
        # Legs share their deltas where they have the same months in position.
        held = np.concatenate([[0], np.cumsum(state.held[chosen.entry])])
        need[shared] = _shared(
            (held[high[shared]], held[low[shared]], side[shared], owner[shared]), ratio[shared]
        )
    legs = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return _Candidates(rounds, row, spread, legs, low, high, side, ratio, need)


def _shared(keys: tuple[Ints, ...], ratio: Floats) -> Floats:
    """[leg] the ratios of all legs with the same keys."""
    order = np.lexsort(keys)
    group = np.cumsum(changes(*(key[order] for key in keys))) - 1
    found = np.empty(len(order))
    found[order] = add_up(group, ratio[order], int(group[-1]) + 1)[group]
    return found


def _possible(state: State, chosen: _Chosen, reached: Reach) -> Ints:
    """Ascending keys (row x spreads + spread) x 2 + (0 where A is long, 1 where B is)."""
    slot, left = state.slot[chosen.entry], state.left[chosen.entry]
    some = np.flatnonzero(left)
    owner, slot, left = chosen.owner[some], slot[some], left[some]
    new = changes(owner)
    before = np.where(new, -1, np.roll(slot, 1))
    anchors = reached.anchors
    place, within = spread_out((anchors.offsets[1:] - anchors.offsets[:-1])[slot])
    spread = anchors.number[anchors.offsets[slot[place]] + within]
    # A spread is found at the first of its anchor's months only.
    once = before[place] < reached.first[spread]
    row, spread = owner[place[once]], spread[once]
    starts = np.flatnonzero(new)
    number = np.cumsum(new) - 1
    at = np.zeros(len(chosen.rows), dtype=np.int64)
    at[owner] = number
    at = at[row]
    ways = [np.ones(len(row), dtype=np.bool_) for _ in range(2)]
    for bits, need_a, need_b in zip(reached.bits, reached.need_a, reached.need_b, strict=True):
        own = bits[slot]
        nothing = np.uint64(0)
        lacks = [
            ~np.bitwise_or.reduceat(np.where(side, own, nothing), starts)[at]
            for side in (left > 0.0, left < 0.0)
        ]
        needs = need_a[spread], need_b[spread]
        for way, (long, short) in zip(ways, (lacks, lacks[::-1]), strict=True):
            way &= ((needs[0] & long) | (needs[1] & short)) == 0
    key = (row * len(reached.first) + spread) * 2
    return np.sort(np.concatenate([key[ways[0]], key[ways[1]] + 1]))


@dataclass
class _Pools:
    """What is `left` of chosen entries, and their `delta` before."""

    left: Floats
    delta: Floats

    def size(self, low: Ints, high: Ints, side: Ints) -> Floats:
        """[leg] deltas of one side that are left in a range of entries."""
        found = np.maximum(side * self.left[np.minimum(low, len(self.left) - 1)], 0.0)
        found[high <= low] = 0.0
        width = high - low
        alive = np.flatnonzero(width > 1)
        place = 1
        while len(alive):
            found[alive] += np.maximum(side[alive] * self.left[low[alive] + place], 0.0)
            place += 1
            alive = alive[width[alive] > place]
        return found

    def take(self, low: Ints, high: Ints, side: Ints, amount: Floats) -> None:
        """Takes deltas of one side, front month first, from ranges that do not overlap."""
        width, wanted = high - low, amount.copy()
        alive = np.flatnonzero(width > 0)
        place = 0
        while len(alive):
            entry = low[alive] + place
            sign, left = side[alive], self.left[entry]
            taken = np.minimum(np.maximum(sign * left, 0.0), wanted[alive])
            after = left - sign * taken
            after[np.abs(after) <= ROUNDING * np.abs(self.delta[entry])] = 0.0
            self.left[entry] = after
            wanted[alive] -= taken
            place += 1
            alive = alive[(width[alive] > place) & (wanted[alive] > 0.0)]


def _form_round(
    found: _Candidates, start: int, stop: int, pools: _Pools, terms: Terms
) -> tuple[Ints, Floats]:
    """Candidates of a round that are formed, and how many spreads of each."""
    first, last = int(found.legs[start]), int(found.legs[stop])
    own = slice(first, last)
    each = pools.size(found.low[own], found.high[own], found.side[own]) / found.need[own]
    number = np.minimum.reduceat(each, found.legs[start:stop] - first) / DELTA_UNITS
    number = counted(number, terms.spread_places)
    formed = np.flatnonzero(number > 0.0)
    at, number = formed + start, number[formed]
    size = found.legs[at + 1] - found.legs[at]
    for leg in range(int(size.max(initial=0))):
        having = np.flatnonzero(size > leg)
        place = found.legs[at[having]] + leg
        amount = number[having] * (found.ratio[place] * DELTA_UNITS)
        pools.take(found.low[place], found.high[place], found.side[place], amount)
    return at, number


def charge_delivery(state: State) -> None:
    """Adds to each row what its delivery months are charged: for deltas consumed and for others."""
    slots = state.file.slots
    some = (slots.consumed != 0.0) | (slots.outright != 0.0)
    if not some.any():
        return
    entry = np.flatnonzero(some[state.slot])
    slot, left = state.slot[entry], state.left[entry]
    consumed = np.abs(state.delta[entry] - left) * slots.consumed[slot]
    charge = (consumed + np.abs(left) * slots.outright[slot]) / DELTA_UNITS
    row = np.searchsorted(state.offsets, entry, "right") - 1
    state.delivery += add_up(row, charge, len(state))
