"""What forming spreads between combined commodities keeps beside the state of accounts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.span.inter_candidates import Batch, Candidates
from gpu_margin.models.span.inter_room import month_codes
from gpu_margin.models.span.prices import price_risk, tier_price_risk
from gpu_margin.models.span.state import Bools, Floats, Ints, State, counted
from gpu_margin.span_tables import BY_SCANNING


@dataclass
class Work:
    """Accounts and the spreads that they may form, while they are formed.

    `risk` [leg of candidates] is the price risk per delta of a leg that is a tier, `whole` [row]
    that of rows; both are there for what is credited by them. They do not change as deltas are
    consumed; `merged` [row] are the rows that a spread by scanning has changed.
    """

    state: State
    places: int | None
    risk: Floats
    whole: Floats
    merged: Bools
    notes: list[dict[str, NDArray[np.generic]]] = field(default_factory=list)

    @cached_property
    def months(self) -> Ints:
        """[slot] numbers of months."""
        return month_codes(self.state.file)

    def price_risk(self, batch: Batch) -> Floats:
        """[leg] price risk per delta: of the tier that it is, else of the whole."""
        leg = self.state.file.inter.leg_whole[batch.leg]
        found = np.where(leg, self.whole[batch.row], self.risk[batch.place])
        again = np.flatnonzero(~leg & self.merged[batch.row])
        if len(again):
            found[again] = _tiers(self.state, batch.row[again], batch.leg[again])
        return found

    def changed(self, rows: Ints) -> None:
        """Rows that became something else: their price risk is another."""
        self.merged[rows] = True
        self.whole[rows] = price_risk(self.state, rows)

    def counted(self, number: Floats) -> Floats:
        """Numbers of spreads, rounded down where that is asked for."""
        return counted(number, self.places)

    def note(self, batch: Batch, chosen: Ints, count: Floats, amount: Floats) -> None:
        """Writes down the legs of a batch that were formed; `count` and `amount` [chosen]."""
        if self.state.formed is None or not len(chosen):
            return
        self.notes.append(
            {
                "account": batch.account[batch.owner[chosen]],
                "spread": batch.spread[batch.owner[chosen]],
                "within": np.zeros(len(chosen), dtype=np.bool_),
                "commodity": self.state.file.inter.leg_commodity[batch.leg[chosen]],
                "count": count,
                "amount": amount,
                "leg": batch.leg[chosen],
            }
        )

    def finish(self) -> None:
        """Hands what was written down to the state, by account, spread and leg."""
        if self.state.formed is None or not self.notes:
            return
        every = {name: np.concatenate([one[name] for one in self.notes]) for name in self.notes[0]}
        order = np.lexsort((every.pop("leg"), every["account"]))
        self.state.formed.append({name: figures[order] for name, figures in every.items()})


def work_on(state: State, every: Candidates, places: int | None) -> Work:
    """With the price risk of all that is credited by it."""
    inter = state.file.inter
    owner = np.repeat(np.arange(len(every)), np.diff(every.offsets))
    credited = (~inter.flat[every.spread] & (every.method != BY_SCANNING))[owner]
    wholes = credited & inter.leg_whole[every.leg]
    tiers = np.flatnonzero(credited & ~inter.leg_whole[every.leg])
    whole = np.zeros(len(state))
    needed = np.zeros(len(state), dtype=np.bool_)
    needed[every.row[wholes]] = True
    rows = np.flatnonzero(needed)
    whole[rows] = price_risk(state, rows)
    risk = np.zeros(len(every.leg))
    risk[tiers] = _each_once(state, every.row[tiers], every.leg[tiers])
    return Work(state, places, risk, whole, np.zeros(len(state), dtype=np.bool_))


def _each_once(state: State, rows: Ints, legs: Ints) -> Floats:
    """[leg] price risk of tiers; many spreads may have one tier of a row."""
    inter = state.file.inter
    ranges = inter.leg_first * (len(state.file.slots.month) + 1) + inter.leg_last
    number = np.unique(ranges, return_inverse=True)[1]
    _, place, which = np.unique(
        rows * (len(inter.leg_first) + 1) + number[legs], return_index=True, return_inverse=True
    )
    return _tiers(state, rows[place], legs[place])[which]


def _tiers(state: State, rows: Ints, legs: Ints) -> Floats:
    inter = state.file.inter
    return tier_price_risk(state, rows, inter.leg_first[legs], inter.leg_last[legs])
