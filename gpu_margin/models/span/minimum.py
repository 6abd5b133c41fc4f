"""The short option minimum: so much for each option sold, by tiers of months."""

from __future__ import annotations

import numpy as np

from gpu_margin.models.span.ranges import Covers, changes, covers, spread_out
from gpu_margin.models.span.state import State
from gpu_margin.portfolio import add_up
from gpu_margin.span_file import CALL, NO_RIGHT, SpanFile


def charged_tiers(file: SpanFile) -> Covers:
    """The tiers of short option minima, those with a rate, that each slot lies in."""
    tiers = file.commodities.minimum
    charged = np.flatnonzero(tiers.rate != 0.0)
    found = covers(tiers.first[charged], tiers.last[charged], len(file.slots.month))
    return Covers(found.offsets, charged[found.number])


def charge_minimum(state: State, tiers: Covers) -> None:
    """Adds to each row the minimum of its short options; `tiers` are those of `charged_tiers`.

    Options count as their scaling says; a month in two tiers counts in both.
    """
    file, held = state.file, state.positions
    sold = held.quantity < 0.0
    sold &= file.contracts.right[held.contract] != NO_RIGHT
    short = np.flatnonzero(sold)
    slot = file.contracts.slot[held.contract[short]]
    owner, within = spread_out((tiers.offsets[1:] - tiers.offsets[:-1])[slot])
    if not len(owner):
        return
    tier = tiers.number[tiers.offsets[slot[owner]] + within]
    position = short[owner]
    row = np.searchsorted(state.offsets, state.entry[position], "right") - 1
    order = np.lexsort((tier, row))
    row, tier, contract = row[order], tier[order], held.contract[position[order]]
    size = -held.quantity[position[order]] * file.contracts.scaling[contract]
    new = changes(row, tier)
    group = np.cumsum(new) - 1
    call = file.contracts.right[contract] == CALL
    calls = add_up(group, np.where(call, size, 0.0), int(group[-1]) + 1)
    puts = add_up(group, np.where(call, 0.0, size), len(calls))
    row, tier = row[new], tier[new]
    greater = file.commodities.minimum_greater[state.commodity[row]]
    counts = np.where(greater, np.maximum(calls, puts), calls + puts)
    state.minimum += add_up(row, counts * file.commodities.minimum.rate[tier], len(state))
