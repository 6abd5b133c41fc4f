"""Spreads between combined commodities that match deltas with deltas: methods 01, 20 and 02."""

from __future__ import annotations

import numpy as np

from gpu_margin.models.span.inter_candidates import Batch
from gpu_margin.models.span.inter_work import Work
from gpu_margin.models.span.state import Floats, Ints
from gpu_margin.span_file import DELTA_UNITS, Inter

# As near as this to a whole number of delta units is that number.
_NEAR = 1e-3


def by_deltas(work: Work, batch: Batch) -> None:
    """Methods 01 (wholes) and 20 (of each leg the tier that it names)."""
    forming = _Forming(work, batch)
    match = forming.at_first()
    forming.form(match, match.count)
    forming.note()


def by_tiers(work: Work, batch: Batch) -> None:
    """Method 02: tier by tier with tier, as many in all as the wholes allow at the start."""
    forming = _Forming(work, batch)
    remaining = forming.at_first().count
    start, number, first, last = _ranges(work.state.file.inter, batch)
    for tier in range(int(number.max(initial=0))):
        alive = (number > tier) & (remaining > 0.0)
        legs = np.flatnonzero(alive[batch.owner])
        # Ranges stand spread by spread, tier by tier, leg by leg.
        size = np.bincount(batch.owner, minlength=len(batch))[batch.owner[legs]]
        own = start[batch.owner[legs]] + tier * size + legs - batch.first[batch.owner[legs]]
        match = forming.matched(legs, first[own], last[own])
        count = np.minimum(match.count, remaining)
        forming.form(match, count)
        remaining = remaining - count
    forming.note()


def _ranges(inter: Inter, batch: Batch) -> tuple[Ints, Ints, Ints, Ints]:
    """[candidate] where its ranges of slots start and how many tiers these are; both bounds."""
    spreads, which = np.unique(batch.spread, return_inverse=True)
    ranges = [inter.tiers[spread] for spread in spreads.tolist()]
    sizes = np.array([first.size for first, _ in ranges], dtype=np.int64)
    tiers = np.array([len(first) for first, _ in ranges], dtype=np.int64)
    first, last = (np.concatenate([one[end].ravel() for one in ranges]) for end in (0, 1))
    return (np.cumsum(sizes) - sizes)[which], tiers[which], first, last


def _whole(delta: Floats) -> Floats:
    """Deltas, whole units where they are so but for rounding: what is left is then exact."""
    units = np.rint(delta)
    return np.where(np.abs(delta - units) < _NEAR, units, delta)


class _Match:
    """What legs of candidates allow: `count` [candidate], and of `legs` their ranges and `net`."""

    def __init__(self, count: Floats, legs: Ints, first: Ints, last: Ints, net: Floats) -> None:
        self.count, self.legs, self.first, self.last, self.net = count, legs, first, last, net


class _Forming:
    """A batch while its deltas are matched and consumed; it keeps what each leg is credited."""

    def __init__(self, work: Work, batch: Batch) -> None:
        inter = work.state.file.inter
        self.work, self.batch = work, batch
        self.ratio = inter.leg_ratio[batch.leg]
        self.side = inter.leg_side[batch.leg].astype(np.float64)
        self.count, self.amount = np.zeros(len(batch)), np.zeros(len(batch.leg))
        flat = inter.flat[batch.spread]
        risk = work.price_risk(batch)
        # Without price risk of every leg there is no credit, and nothing is consumed for none.
        self.good = flat | np.logical_and.reduceat(risk > 0.0, batch.first)
        size = np.diff(inter.leg_offsets)[batch.spread]
        rate, flat = inter.leg_rate[batch.leg], flat[batch.owner]
        # Money per spread.
        self.rate = np.where(flat, rate / size[batch.owner], risk * self.ratio * rate)

    def at_first(self) -> _Match:
        """What the ranges of slots that legs name allow; nothing where there is no price risk."""
        inter, leg = self.work.state.file.inter, self.batch.leg
        every = np.arange(len(leg))
        match = self.matched(every, inter.leg_first[leg], inter.leg_last[leg])
        match.count = np.where(self.good, match.count, 0.0)
        return match

    def matched(self, legs: Ints, first: Ints, last: Ints) -> _Match:
        """Numbers of spreads from what is left; `legs` are all those of some candidates.

        The first leg says whether the A legs are long or the B legs; all others must fit.
        """
        state, owner = self.work.state, self.batch.owner[legs]
        net = state.net(self.batch.row[legs], first, last, state.left)
        count = np.zeros(len(self.batch))
        if len(legs):
            new = np.ones(len(legs), dtype=np.bool_)
            new[1:] = owner[1:] != owner[:-1]
            begin = np.flatnonzero(new)
            toward = np.sign(net) * self.side[legs]
            fits = toward == np.repeat(toward[begin], np.diff([*begin, len(legs)]))
            most = np.where(fits, self.most(legs, net), 0.0)
            count[owner[begin]] = self.work.counted(np.minimum.reduceat(most, begin))
        return _Match(count, legs, first, last, net)

    def most(self, legs: Ints, net: Floats) -> Floats:
        """[leg] how many spreads a net delta is enough for."""
        most: Floats = np.abs(net) / (self.ratio[legs] * DELTA_UNITS)
        return most

    def form(self, match: _Match, count: Floats) -> None:
        """Credits so many spreads [candidate], and takes the deltas that they need."""
        state, batch = self.work.state, self.batch
        number = count[batch.owner[match.legs]]
        taken = np.flatnonzero(number > 0.0)
        legs, net, number = match.legs[taken], match.net[taken], number[taken]
        amount = number * self.rate[legs]
        # The leg that has the fewest is used up, to the last bit.
        used = self.most(legs, net) <= number
        delta = np.where(used, np.abs(net), _whole(number * self.ratio[legs] * DELTA_UNITS))
        turn = batch.turn[legs]
        # A commodity that is a leg twice is served leg by leg.
        for place in range(int(turn.max(initial=-1)) + 1):
            now = np.flatnonzero(turn == place)
            row = batch.row[legs[now]]
            state.inter[row] += amount[now]
            own = taken[now]
            side = np.sign(net[now])
            state.consume(row, match.first[own], match.last[own], side, delta[now])
        self.count += count
        self.amount[legs] += amount

    def note(self) -> None:
        """Writes down what was formed: credits are negative amounts."""
        owner = self.batch.owner
        formed = np.flatnonzero(self.count[owner] > 0.0)
        self.work.note(self.batch, formed, self.count[owner[formed]], -self.amount[formed])
