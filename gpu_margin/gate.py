"""The order gate: whether an order may stand, how much of it, and when.

`decide` is a pure function of (state, order, parameters); `gate_batch` has it for many orders at
once. In this order: an order that cannot be
judged, or whose marks are missing or stale, is refused; then margin decides; then volatility
throttles what margin let pass. An order that only reduces a position skips the last.

Margin: the requirement at the worst fill of all open orders and the new one, against collateral
times the utilisation cap. First the bound W+ (`worst_fill`), accepted if W+ <= limit; else W, the
maximum over subsets of at most 8 orders, accepted if W after <= max(limit, W before). So however
accepted orders are filled at the mark, a convex requirement never exceeds max(limit, W at the
start). For value-at-risk, which is not convex, whole fills are covered and partial ones are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gpu_margin.backend import Backend
from gpu_margin.fills import Asking, Fills, answered, laid
from gpu_margin.market import Market
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Rows
from gpu_margin.safe_size import MOST_ORDERS, MarginRule, SafeSize, lots_size, safe_size, whole_lots
from gpu_margin.throttle import MarkState, ThrottleParameters, active, largest_notional
from gpu_margin.worst_fill import Measurer, ScenarioMeasurer, measurer_of

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Action = Literal["accept", "shrink", "slow", "refuse"]
Rule = (
    Literal["unknown_instrument", "order", "collateral", "missing_mark", "stale_mark"]
    | MarginRule
    | Literal["volatility_size", "volatility_pace"]
)

# As in the input tables: what is larger is no number of contracts.
LARGEST = 1e30


# What margin found, by its rule.
_PASSED = {
    "worst_fill_bound": "the bound on margin at the worst fill is within",
    "worst_fill": "margin at the worst fill is within",
    "not_worse": "margin does not rise at the worst fill, which exceeds",
}
_REFUSED = {
    "worst_fill": "margin at the worst fill would exceed",
    "not_worse": "margin would rise at the worst fill, which already exceeds",
    "open_orders": f"of more than {MOST_ORDERS} orders only a bound is known, and it exceeds",
}


class GateParameters(ThrottleParameters):
    """`[gate]` of a configuration."""

    model: str = Field(min_length=1, description="name of the model whose initial margin counts")
    utilisation_cap: float = Field(
        default=1.0,
        gt=0,
        strict=True,
        allow_inf_nan=False,
        description="share of collateral that initial margin may use",
    )
    stale_seconds: float = Field(
        gt=0, strict=True, allow_inf_nan=False, description="a mark that is older is none"
    )
    lot: float = Field(
        default=1.0,
        ge=1e-12,
        le=1e12,
        strict=True,
        description="contracts: the size of a shrunk order is a multiple of it",
    )


@dataclass(frozen=True)
class Order:
    """`quantity` contracts of an instrument (its code), negative to sell; `time` in seconds.

    Of an open order the quantity is what is not yet filled.
    """

    instrument: int
    quantity: float
    time: float


# Compared by identity, as is the state: they hold arrays.
@dataclass(frozen=True, eq=False)
class GateMarket:
    """What all accounts share: how positions are measured, and what an instrument rests on.

    `underlying` [instrument] codes of marks; `notional` [instrument] what one contract is worth in
    margin currency, >= 0.
    """

    measurer: Measurer
    underlying: Ints
    notional: Floats


@dataclass(frozen=True, eq=False)
class GateState:
    """A netting set, and what is known of its market, when an order comes.

    `book` is one row of net positions; `orders` are open; `collateral` is the value that serves the
    set, in margin currency; `marks` by underlying; `last_order` times of the last accepted order by
    underlying. `vector` [scenario] on the device is the book's P&L, where it is resident.
    """

    market: GateMarket
    book: Rows
    orders: tuple[Order, ...]
    collateral: float
    marks: Mapping[int, MarkState]
    last_order: Mapping[int, float] = field(default_factory=dict)
    vector: Array | None = None


@dataclass(frozen=True)
class Decision:
    """What becomes of an order, and why.

    `quantity` (signed) may stand in the book now: 0 where the order is slowed or refused. `rule` is
    the one that decided. `limit` is collateral times the utilisation cap; `bound` is W+;
    `worst_fill_before` and `worst_fill_after` are W without and with the order. Bound and W after
    are those of what margin let pass or, if nothing, of the whole order; None is a figure that did
    not matter. `wait_seconds` is how long a slowed order must wait.
    """

    action: Action
    quantity: float
    rule: Rule
    message: str
    limit: float | None = None
    bound: float | None = None
    worst_fill_before: float | None = None
    worst_fill_after: float | None = None
    wait_seconds: float = 0.0


def gate_market(prepared: Prepared, market: Market, backend: Backend) -> GateMarket:
    """The gate's view of a model that was prepared for the market, on the backend.

    Underlyings are codes of history factors; an option is worth its forward.
    """
    instruments = market.instruments
    notional = np.abs(instruments.scale * instruments.level)
    measurer = measurer_of(prepared, backend)
    if isinstance(measurer, ScenarioMeasurer):
        _ = measurer.largest  # now, not when the first order comes
    return GateMarket(measurer, instruments.factor, notional)


def decide(state: GateState, order: Order, parameters: GateParameters) -> Decision:
    """Accept the order, shrink it, slow it or refuse it."""
    refused = refusal(state, order, parameters)
    if refused is not None:
        return refused
    opened = state.orders
    open_orders = _rows([one.instrument for one in opened], [one.quantity for one in opened])
    vectors = None if state.vector is None else state.vector[None, :]
    # What overflows is not within any limit.
    with np.errstate(over="ignore", invalid="ignore"):
        new = _rows([order.instrument], [order.quantity])
        place = np.zeros(1, dtype=np.int64)
        together = laid(state.market.measurer, state.book, open_orders, new, place, vectors)
        judgement = judged(state, order, parameters, together.fills(0))
        return answered(together.sums, [judgement])[0]


def refusal(state: GateState, order: Order, parameters: GateParameters) -> Decision | None:
    """Why the order cannot be judged; None where it can."""
    return _unfit(state, order) or _without_marks(state, order, parameters)


def judged(
    state: GateState,
    order: Order,
    parameters: GateParameters,
    fills: Fills,
    bound: float | None = None,
) -> Asking[Decision]:
    """Margin's decision, then that of volatility; `bound` is W+ where it is known already."""
    limit = parameters.utilisation_cap * state.collateral
    passed = yield from _by_margin(order, fills, limit, parameters.lot, bound)
    return (yield from throttled(state, order, parameters, fills, passed))


def is_reducing(state: GateState, instrument: int, quantity: float) -> bool:
    """Whether the position shrinks and keeps its side, even if open orders fill at their worst."""
    held = math.fsum(state.book.value[state.book.column == instrument].tolist())
    if held * quantity >= 0.0:
        return False
    sizes = [one.quantity for one in state.orders if one.instrument == instrument]
    closing = math.fsum(abs(size) for size in sizes if size * quantity > 0.0)
    return abs(quantity) + closing <= abs(held)


# ---------------------------------------------------------------- what cannot be judged


def _unfit(state: GateState, order: Order) -> Decision | None:
    """What is wrong with the order or the collateral."""
    for one in (order, *state.orders):
        if not 0 <= one.instrument < len(state.market.underlying):
            return _refusal("unknown_instrument", f"there is no instrument {one.instrument}")
    if not (0.0 < abs(order.quantity) <= LARGEST and math.isfinite(order.time)):
        return _refusal("order", "an order needs a quantity that is not 0, and a time")
    if not all(abs(one.quantity) <= LARGEST for one in state.orders):
        return _refusal("order", "an open order needs a quantity")
    if not math.isfinite(state.collateral):
        return _refusal("collateral", "the value of the collateral is not known")
    return None


def _without_marks(state: GateState, order: Order, parameters: GateParameters) -> Decision | None:
    """Every underlying that the requirement rests on must have a fresh mark."""
    instruments = [*state.book.column.tolist(), *(one.instrument for one in state.orders)]
    codes = state.market.underlying[[*instruments, order.instrument]]
    for underlying in np.unique(codes).tolist():
        mark = state.marks.get(underlying)
        if mark is None:
            return _refusal("missing_mark", f"underlying {underlying} has no mark")
        age = order.time - mark.time
        if not age <= parameters.stale_seconds:
            message = f"the mark of underlying {underlying} is {age:g} seconds old"
            return _refusal("stale_mark", f"{message}, the limit is {parameters.stale_seconds:g}")
    return None


def _refusal(rule: Rule, message: str) -> Decision:
    return Decision("refuse", 0.0, rule, message)


# ---------------------------------------------------------------- margin


def _by_margin(
    order: Order, fills: Fills, limit: float, lot: float, bound: float | None = None
) -> Asking[Decision]:
    """What margin alone lets pass."""
    safe = yield from safe_size(fills, limit, lot, bound)
    return margin_decision(order.quantity, fills.most, safe, limit)


def margin_decision(quantity: float, most: float, safe: SafeSize, limit: float) -> Decision:
    """Margin's decision on an order of `quantity`, of which it judged `most` contracts."""
    action: Action = "accept" if safe.size == most else "shrink" if safe.size else "refuse"
    passed = math.copysign(safe.size, quantity) if safe.size else 0.0
    figures = (limit, safe.bound, safe.before, safe.after)
    return Decision(action, passed, safe.rule, _why(safe, action, limit), *figures)


def _why(safe: SafeSize, action: Action, limit: float) -> str:
    """What a person reads of margin's decision."""
    reason = (_REFUSED if action == "refuse" else _PASSED)[safe.rule]
    size = f"at {safe.size:g} contracts " if action == "shrink" else ""
    return f"{size}{reason} the limit of {limit:.2f}"


# ---------------------------------------------------------------- volatility


def throttled(
    state: GateState, order: Order, parameters: GateParameters, fills: Fills, passed: Decision
) -> Asking[Decision]:
    """What volatility leaves of what margin let pass: first the size, then the pace."""
    if passed.action == "refuse" or is_reducing(state, order.instrument, passed.quantity):
        return passed
    underlying = int(state.market.underlying[order.instrument])
    volatility = state.marks[underlying].volatility
    threshold = active(parameters, volatility)
    seen = f"realised volatility is {volatility:.4g}"
    notional = float(state.market.notional[order.instrument])
    largest = largest_notional(parameters, threshold)
    if largest == 0.0 or abs(passed.quantity) * notional > largest:
        lots = whole_lots(largest / notional, parameters.lot) if largest else 0
        message = f"{seen}: an order may be worth {largest:.2f} at most"
        size = lots_size(lots, parameters.lot)
        limit = parameters.utilisation_cap * state.collateral
        smaller = replace(fills, most=size)
        passed = yield from _cut(order, smaller, limit, parameters.lot, passed, message)
    if threshold is None or is_reducing(state, order.instrument, passed.quantity):
        return passed
    wait = threshold.min_interval_seconds - (
        order.time - state.last_order.get(underlying, -math.inf)
    )
    if passed.action == "refuse" or wait <= 0.0:
        return passed
    message = f"{seen}: orders must be {threshold.min_interval_seconds:g} seconds apart"
    slowed: Rule = "volatility_pace"
    return replace(
        passed, action="slow", quantity=0.0, rule=slowed, message=message, wait_seconds=wait
    )


def _cut(
    order: Order, fills: Fills, limit: float, lot: float, passed: Decision, message: str
) -> Asking[Decision]:
    """The order cut to the size that the fills have."""
    rule: Rule = "volatility_size"
    if fills.most == 0.0:
        return replace(passed, action="refuse", quantity=0.0, rule=rule, message=message)
    # Judged again: where the measure is not convex, less is not always safe.
    judged_again = yield from _by_margin(order, fills, limit, lot)
    if judged_again.action != "accept":
        return judged_again
    return replace(judged_again, action="shrink", rule=rule, message=message)


def _rows(column: list[int], value: list[float]) -> Rows:
    """One row."""
    return Rows(
        np.array([0, len(column)], dtype=np.int64),
        np.array(column, dtype=np.int64),
        np.array(value, dtype=np.float64),
    )
