"""The order gate for many orders at once: the decisions of `gate.decide`, bit for bit.

Every order is judged on its own, against the same state: none sees another of the batch. What
cannot be judged is found for all of them by array operations, and so is the bound W+, in one call
of the device. Most orders are within it, and volatility leaves them alone. Those that are not go
through the same steps as a single one, side by side: each round of what they ask is one call.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.fills import Asking, Laid, answered, laid
from gpu_margin.gate import (
    LARGEST,
    Decision,
    GateMarket,
    GateParameters,
    GateState,
    Order,
    judged,
    margin_decision,
    refusal,
    throttled,
)
from gpu_margin.mark_board import MarkBoard
from gpu_margin.order_times import OrderTimes
from gpu_margin.portfolio import Rows, entry_rows, rows_at, values_at
from gpu_margin.safe_size import SafeSize
from gpu_margin.throttle import Threshold, largest_notional, longest_interval

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Orders whose scenario vectors are held at a time, so that they stay in the cache.
_SLICE = 128
# The scale of rounding is itself known up to rounding.
_WIDER = 1.0 + 1e-6


@dataclass(frozen=True, eq=False)
class OrderBatch:
    """Orders as they came, [order], each with the netting set that it would trade for.

    `instrument` codes, `quantity` contracts (negative to sell) and `time` in seconds since 1970 of
    the orders; `collateral` is the value that serves the set, NaN where it is not known;
    `last_order` the time of the last accepted order of its account in the underlying, -inf for
    none. `books` are rows of the sets' net positions, `open_orders` rows of what their open orders
    have not yet filled, in any order. `vector` is where in `vectors` [place, scenario] on the
    device the set's P&L is resident, -1 where it is not, or is not finite. `marks` are those that
    are in force.
    """

    market: GateMarket
    marks: MarkBoard
    instrument: Ints
    quantity: Floats
    time: Floats
    collateral: Floats
    last_order: Floats
    books: Rows
    open_orders: Rows
    vector: Ints
    vectors: Array | None = None

    def __len__(self) -> int:
        return len(self.instrument)

    def case(self, number: int) -> tuple[GateState, Order]:
        """One of the orders and its state, as `gate.decide` takes them."""
        time = float(self.time[number])
        order = Order(int(self.instrument[number]), float(self.quantity[number]), time)
        opened = _row(self.open_orders, number)
        pairs = zip(opened.column.tolist(), opened.value.tolist(), strict=True)
        place, last = int(self.vector[number]), {}
        if 0 <= order.instrument < len(self.market.underlying):
            last[int(self.market.underlying[order.instrument])] = float(self.last_order[number])
        resident = self.vectors is not None and place >= 0
        state = GateState(
            market=self.market,
            book=_row(self.books, number),
            orders=tuple(Order(code, quantity, time) for code, quantity in pairs),
            collateral=float(self.collateral[number]),
            marks=self.marks.states(),
            last_order=last,
            vector=self.vectors[place, ...] if self.vectors is not None and resident else None,
        )
        return state, order


def decide_many(batch: OrderBatch, parameters: GateParameters) -> list[Decision]:
    """[order] the decision of `gate.decide` on each."""
    decisions: dict[int, Decision] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = np.flatnonzero(~_fit(batch) | _stale(batch, parameters)).tolist()
        for number in suspect:
            refused = refusal(*batch.case(number), parameters)
            if refused is not None:
                decisions[number] = refused
        fit = np.array([n for n in range(len(batch)) if n not in decisions], dtype=np.int64)
        for start in range(0, len(fit), _SLICE):
            chosen = fit[start : start + _SLICE]
            decided = _Slice(batch, parameters, chosen).decided()
            decisions.update(zip(chosen.tolist(), decided, strict=True))
    return [decisions[number] for number in range(len(batch))]


class OrderDesk:
    """A gate that knows when it last accepted an order: what the rule about their pace needs.

    `since` is the time of all orders that it does not know of: see `OrderTimes`. For one thread.
    """

    def __init__(self, parameters: GateParameters, since: float = -math.inf) -> None:
        self.parameters = parameters
        self._times = OrderTimes(longest_interval(parameters), since=since)

    def decide(self, batch: OrderBatch, accounts: Sequence[Hashable]) -> list[Decision]:
        """[order] decisions on orders of these accounts; `last_order` of the batch is not read.

        No order of a batch must wait for another one of it: what is accepted counts for the next.
        """
        underlying = values_at(batch.market.underlying, batch.instrument, -1).tolist()
        last = self._times.lasts(accounts, underlying)
        found = decide_many(replace(batch, last_order=last), self.parameters)
        times = batch.time.tolist()
        for account, code, time, one in zip(accounts, underlying, times, found, strict=True):
            if one.quantity != 0.0:
                self._times.note(account, code, time)
        return found


def _fit(batch: OrderBatch) -> Bools:
    """[order] whether the order, its set's open orders and the collateral are sound."""
    known = len(batch.market.underlying)
    opened = batch.open_orders
    sound = (opened.column >= 0) & (opened.column < known) & (np.abs(opened.value) <= LARGEST)
    size = np.abs(batch.quantity)
    fit = (batch.instrument >= 0) & (batch.instrument < known) & (size > 0.0) & (size <= LARGEST)
    fit &= np.isfinite(batch.time) & np.isfinite(batch.collateral)
    fit[entry_rows(opened)[~sound]] = False
    return fit


def _stale(batch: OrderBatch, parameters: GateParameters) -> Bools:
    """[order] whether it rests on a mark that is missing or stale; of those that are sound."""
    owner = [np.arange(len(batch)), entry_rows(batch.books), entry_rows(batch.open_orders)]
    column = [batch.instrument, batch.books.column, batch.open_orders.column]
    rests = values_at(batch.market.underlying, np.concatenate(column), -1)
    order = np.concatenate(owner)
    marked = values_at(batch.marks.time, rests, math.nan)
    fresh = batch.time[order] - marked <= parameters.stale_seconds
    stale = np.zeros(len(batch), dtype=np.bool_)
    stale[order[~fresh]] = True
    return stale


@dataclass(frozen=True, eq=False)
class _Slice:
    """Some sound orders of a batch: `chosen` are their numbers."""

    batch: OrderBatch
    parameters: GateParameters
    chosen: Ints

    def decided(self) -> list[Decision]:
        """[chosen order] decisions."""
        passed, touched = self._passed(), self._touched()
        rest = [n for n, one in enumerate(passed) if one is None or touched[n]]
        judgements = [self._judgement(number, passed[number]) for number in rest]
        late = dict(zip(rest, answered(self._laid.sums, judgements), strict=True))
        return [late[n] if n in late or one is None else one for n, one in enumerate(passed)]

    def _passed(self) -> list[Decision | None]:
        """[chosen order] margin's decision where the bound allows the whole order, else None."""
        within = (self._bound <= self._limit) & self._sure
        figures = (within, self.batch.quantity[self.chosen], self._bound, self._limit)
        columns = zip(*(column.tolist() for column in figures), strict=True)
        return [_within(*rest) if fine else None for fine, *rest in columns]

    def _judgement(self, number: int, passed: Decision | None) -> Asking[Decision]:
        """What is left to be said of an order."""
        state, order = self.batch.case(int(self.chosen[number]))
        fills = self._laid.fills(number)
        if passed is not None:
            return throttled(state, order, self.parameters, fills, passed)
        known = self.batch.market.measurer.bounded and self._sure[number]
        bound = float(self._bound[number]) if known else None
        return judged(state, order, self.parameters, fills, bound)

    @cached_property
    def _laid(self) -> Laid:
        batch, count = self.batch, np.arange(len(self.chosen) + 1)
        order = Rows(count, batch.instrument[self.chosen], batch.quantity[self.chosen])
        place = batch.vector[self.chosen]
        books, opened = (rows_at(rows, self.chosen) for rows in (batch.books, batch.open_orders))
        return laid(batch.market.measurer, books, opened, order, place, batch.vectors)

    @cached_property
    def _limit(self) -> Floats:
        """[chosen order]"""
        return self.parameters.utilisation_cap * self.batch.collateral[self.chosen]

    @cached_property
    def _bound(self) -> Floats:
        """[chosen order] W+; NaN where none is known."""
        return self._laid.bounds()

    @cached_property
    def _sure(self) -> Bools:
        """[chosen order] whether the bound is the one to report: see `Fills.bounds`."""
        away: Bools = np.abs(self._bound - self._limit) > self._laid.rounding * _WIDER
        return away | ~self._laid.legs.resident

    def _touched(self) -> Bools:
        """[chosen order] whether volatility may have something to say of the whole order."""
        batch, parameters = self.batch, self.parameters
        instrument, market = batch.instrument[self.chosen], batch.market
        volatility = batch.marks.volatility[market.underlying[instrument]]
        reached = np.searchsorted(
            [one.volatility for one in parameters.throttle], volatility, side="right"
        )
        steps: list[Threshold | None] = [None, *parameters.throttle]
        largest = np.array([largest_notional(parameters, one) for one in steps])[reached]
        pace = [-math.inf if one is None else one.min_interval_seconds for one in steps]
        passed = batch.time[self.chosen] - batch.last_order[self.chosen]
        worth = np.abs(batch.quantity[self.chosen]) * market.notional[instrument]
        touched: Bools = (largest == 0.0) | (worth > largest)
        return touched | (np.array(pace)[reached] - passed > 0.0)


def _row(rows: Rows, number: int) -> Rows:
    """One of the rows."""
    own = slice(rows.offsets[number], rows.offsets[number + 1])
    column = rows.column[own]
    return Rows(np.array([0, len(column)], dtype=np.int64), column, rows.value[own])


def _within(quantity: float, bound: float, limit: float) -> Decision:
    """The decision on an order that the bound allows as a whole."""
    safe = SafeSize(abs(quantity), "worst_fill_bound", bound)
    return margin_decision(quantity, safe.size, safe, limit)
