"""Scan risk of vectors of losses, and the price risk of one delta that credits are shares of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpu_margin.models.span.ranges import changes, segment_sums
from gpu_margin.models.span.state import Bools, Floats, Ints, State
from gpu_margin.portfolio import add_up
from gpu_margin.span_file import DELTA_UNITS, SpanFile
from gpu_margin.span_tables import CAPPED, NORMAL

# A price risk this small, as a share of the figures that it is the difference of, is rounding, and
# so is one this small as a share of all that was added up to them.
_ROUNDING, _ADDED_UP = 1e-12, 1e-13


@dataclass(frozen=True)
class Scanned:
    """Of vectors [vector]: `risk`, never below 0; `active` scenario, from 0, the first of equals.

    `time` risk is what is lost where prices stand still, `volatility` risk what the active scenario
    loses by volatility alone.
    """

    risk: Floats
    active: Ints
    time: Floats
    volatility: Floats


@dataclass(frozen=True)
class Scan:
    """Of rows: scan `risk`, `active` scenario of the whole vector, `futures` price risk."""

    risk: Floats
    active: Ints
    futures: Floats


def scanned(vector: Floats, pair: Ints, still: Bools) -> Scanned:
    """Scan risk of `vector` [vector, point] and what it consists of.

    `pair` and `still` are those of `span_tables.Grid`, [point] for all vectors or [vector, point].
    """
    every = np.arange(len(vector))
    active = vector.argmax(axis=1)
    worst = vector[every, active]
    other = vector[every, pair[active] if pair.ndim == 1 else pair[every, active]]
    time, swing = _standing(vector, still)
    # A vector of gains only has no active loss: its volatility risk is that of still prices.
    volatility = np.where(worst < 0.0, swing, worst - other) / 2.0
    return Scanned(np.maximum(worst, 0.0), active, time, volatility)


def _standing(vector: Floats, still: Bools) -> tuple[Floats, Floats]:
    """Mean loss of points where prices stand still, and the first of them less the last."""
    if still.ndim == 1:
        places = np.flatnonzero(still)
        if not len(places):
            return np.zeros(len(vector)), np.zeros(len(vector))
        total = vector[:, places[0]].copy()
        for place in places[1:]:
            total += vector[:, place]
        return total / len(places), vector[:, places[0]] - vector[:, places[-1]]
    total, first, last = (np.zeros(len(vector)) for _ in range(3))
    count = np.zeros(len(vector), dtype=np.int64)
    for place in range(vector.shape[1]):
        here, value = still[:, place], vector[:, place]
        total += np.where(here, value, 0.0)
        first = np.where(here & (count == 0), value, first)
        last = np.where(here, value, last)
        count += here
    return total / np.maximum(count, 1), first - last


def grid_of(file: SpanFile, commodity: Ints) -> tuple[Ints, Bools]:
    """`pair` and `still` of commodities: [point] where the file has one grid, else of each."""
    if len(file.pair) == 1:
        return file.pair[0], file.still[0]
    grid = file.commodities.grid[commodity]
    return file.pair[grid], file.still[grid]


def scan(state: State, rows: Ints) -> Scan:
    """Scan risk of rows as a whole, tier by tier where their months are scanned apart."""
    commodity = state.commodity[rows]
    whole = scanned(_taken(state.total, rows), *grid_of(state.file, commodity))
    risk, time, volatility = whole.risk, whole.time, whole.volatility
    size = np.abs(risk) + np.abs(time) + np.abs(volatility)
    apart = np.flatnonzero(state.file.commodities.scan_tiers[commodity] & ~state.merged[rows])
    if len(apart):
        parts = _by_tiers(state, rows[apart])
        risk[apart], time[apart], volatility[apart], size[apart] = parts
    offsets, entry = state.entries(rows)
    gross = np.add.reduceat(state.gross[entry], offsets[:-1]) if len(rows) else np.zeros(0)
    return Scan(risk, whole.active, _futures(risk, time, volatility, size, gross))


def _taken(figures: Floats, rows: Ints) -> Floats:
    """Figures of rows; without a copy where these are all rows in order."""
    if len(rows) == len(figures) and bool((rows == np.arange(len(rows))).all()):
        return figures
    return figures[rows]


def _futures(risk: Floats, time: Floats, volatility: Floats, size: Floats, gross: Floats) -> Floats:
    """Futures price risk: what is left of scan risk without time and volatility risk."""
    found = risk - time - volatility
    return np.where(found > np.maximum(_ROUNDING * size, _ADDED_UP * gross), found, 0.0)


def _by_tiers(state: State, rows: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """[row] scan, time and volatility risk and their sizes, added up over the row's scan tiers."""
    offsets, entry = state.entries(rows)
    owner = np.repeat(np.arange(len(rows)), np.diff(offsets))
    tier = state.file.slots.scan[state.slot[entry]]
    # Tiers ascend with months, but where the file has them in another order.
    if (tier[1:] < tier[:-1])[owner[1:] == owner[:-1]].any():
        order = np.lexsort((entry, tier, owner))
        owner, tier, entry = owner[order], tier[order], entry[order]
    start = np.flatnonzero(changes(owner, tier))
    vector = segment_sums(state.vector[entry], start)
    mine = owner[start]
    parts = scanned(vector, *grid_of(state.file, state.commodity[rows[mine]]))
    each = (parts.risk, parts.time, parts.volatility)
    size = np.abs(parts.risk) + np.abs(parts.time) + np.abs(parts.volatility)
    risk, time, volatility, sizes = (add_up(mine, one, len(rows)) for one in (*each, size))
    return risk, time, volatility, sizes


def price_risk(state: State, rows: Ints) -> Floats:
    """[row] futures price risk per delta of 1 (money), of the whole combined commodity.

    It is that of the deltas before any spread; 0 where the row has no net delta or no price risk.
    """
    slots = state.file.commodities.slots
    commodity = state.commodity[rows]
    first, last = slots[commodity], slots[commodity + 1]
    return _per_delta(state, rows, first, last, scan(state, rows).futures)


def tier_price_risk(state: State, rows: Ints, first: Ints, last: Ints) -> Floats:
    """The same of the months in a range of slots, which are scanned together."""
    vector = np.zeros((len(rows), state.vector.shape[1]))
    gross = np.zeros(len(rows))
    for place, entry in state.places(rows, first, last):
        vector[place] += state.vector[entry]
        gross[place] += state.gross[entry]
    found = scanned(vector, *grid_of(state.file, state.commodity[rows]))
    each = (found.risk, found.time, found.volatility)
    size = np.abs(found.risk) + np.abs(found.time) + np.abs(found.volatility)
    return _per_delta(state, rows, first, last, _futures(*each, size, gross))


def _per_delta(state: State, rows: Ints, first: Ints, last: Ints, futures: Floats) -> Floats:
    """Futures price risk per delta, or the price scan range where the method says so."""
    delta = state.net(rows, first, last, state.delta)
    some = (futures > 0.0) & (delta != 0.0)
    found = np.zeros(len(rows))
    np.divide(futures, np.abs(delta) / DELTA_UNITS, out=found, where=some)
    method = state.file.commodities.wfpr[state.commodity[rows]]
    ranged = np.flatnonzero(some & (method != NORMAL))
    if len(ranged):
        most = _front_range(state, rows[ranged], first[ranged], last[ranged], delta[ranged] > 0.0)
        own = found[ranged]
        cap = np.where(method[ranged] == CAPPED, np.minimum(own, most), most)
        found[ranged] = np.where(np.isnan(most), own, cap)
    return found


def _front_range(state: State, rows: Ints, first: Ints, last: Ints, long: Bools) -> Floats:
    """[row] price scan range per delta of its front-most month held that has one, else NaN."""
    slots = state.file.slots
    found = np.full(len(rows), np.nan)
    for place, entry in state.places(rows, first, last):
        slot = state.slot[entry]
        own = np.where(long[place], slots.down[slot], slots.up[slot])
        found[place] = np.where(np.isnan(found[place]) & state.held[entry], own, found[place])
    return found
