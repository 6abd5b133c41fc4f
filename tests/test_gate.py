"""The order gate: limits, given numbers, every rule by its name, and brute force."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gate_case
import numpy as np
import pytest
from gate_case import CONVEX, FRESH, INSTRUMENTS, KINDS, NOW, PNL, Book, Orders, parameters, state
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_margin import backend
from gpu_margin.backend import Rows, TailMeasure
from gpu_margin.gate import Decision, GateMarket, GateState, Order, decide, is_reducing
from gpu_margin.throttle import MarkState
from gpu_margin.worst_fill import RowMeasurer, ScenarioMeasurer

BACKEND = backend.load("numpy")


def ask(given_state: GateState, code: int, quantity: float, **more: Any) -> Decision:
    return decide(given_state, Order(code, quantity, NOW), parameters(**more))


def line(*profits: list[float]) -> GateMarket:
    """Instruments of given P&L under the worst loss, all on underlying 0."""
    measurer = ScenarioMeasurer(np.array(profits), TailMeasure((1.0,)), BACKEND)
    return GateMarket(measurer, np.zeros(len(profits), dtype=np.int64), np.ones(len(profits)))


# A future that loses 10 or 4; one that moves against it; one that never loses.
MARKET = line([-10.0, 4.0], [6.0, -3.0], [1.0, 2.0])


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantity", [1.0, -1.0])
@pytest.mark.parametrize("collateral", [0.0, -50.0])
def test_without_collateral_nothing_is_allowed(
    kind: str, quantity: float, collateral: float
) -> None:
    found = ask(state(kind, collateral=collateral), 0, quantity)
    assert (found.action, found.quantity, found.limit) == ("refuse", 0.0, collateral)
    # A limit below 0 is exceeded by an empty book.
    assert found.rule == ("worst_fill" if collateral == 0.0 else "not_worse")
    assert found.worst_fill_before == 0.0
    assert found.worst_fill_after == gate_case.requirement(kind, {0: quantity})


def test_without_collateral_what_requires_nothing_is_allowed() -> None:
    assert ask(state(market=MARKET, collateral=0.0), 2, 5.0).rule == "worst_fill_bound"
    for book in ({}, {2: 7.0}):  # (1, 2) never loses: less than nothing is not required
        found = ask(state(book=book, market=MARKET, collateral=-1.0), 2, 5.0)
        assert (found.action, found.rule) == ("accept", "not_worse")
        assert (found.worst_fill_before, found.worst_fill_after, found.bound) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_book_and_enough_collateral(kind: str) -> None:
    found = ask(state(kind, collateral=1e6), 2, -3.0)
    assert (found.action, found.quantity, found.rule) == ("accept", -3.0, "worst_fill_bound")
    assert found.bound == gate_case.requirement(kind, {2: -3.0})
    assert (found.worst_fill_before, found.worst_fill_after) == (None, None)


@pytest.mark.parametrize("kind", KINDS)
def test_all_short(kind: str) -> None:
    book = dict.fromkeys(range(INSTRUMENTS), -5.0)
    limit = gate_case.requirement(kind, book)
    for code in book:
        found = ask(state(kind, book, collateral=limit), code, -1.0)
        safe = gate_case.is_safe(kind, book, [], (code, -1.0), limit)
        assert found.action == ("accept" if safe else "refuse")
        assert ask(state(kind, book, collateral=2 * limit), code, -1.0).action == "accept"


@pytest.mark.parametrize("quantity", [0.0, -0.0, math.nan, math.inf, -math.inf, 1e31])
def test_an_order_of_no_size_is_refused(quantity: float) -> None:
    found = ask(state(), 0, quantity)
    assert (found.action, found.quantity, found.rule) == ("refuse", 0.0, "order")


@pytest.mark.parametrize("time", [math.nan, math.inf])
def test_an_order_of_no_time_is_refused(time: float) -> None:
    assert decide(state(), Order(0, 1.0, time), parameters()).rule == "order"


@pytest.mark.parametrize("code", [-1, INSTRUMENTS, 10**9])
def test_an_unknown_instrument_is_refused(code: int) -> None:
    assert ask(state(), code, 1.0).rule == "unknown_instrument"


@pytest.mark.parametrize("collateral", [math.nan, math.inf])
def test_collateral_that_is_no_number_is_refused(collateral: float) -> None:
    assert ask(state(collateral=collateral), 0, 1.0).rule == "collateral"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantity", [1e30, -1e30])
def test_a_huge_order_is_shrunk_to_what_fits(kind: str, quantity: float) -> None:
    found = ask(state(kind, collateral=100.0), 2, quantity)
    sign = math.copysign(1.0, quantity)
    assert found.action == "shrink"
    # Of an order alone the bound is the requirement: it finds the size for value-at-risk, too.
    assert found.quantity == gate_case.largest_safe(kind, {}, [], (2, sign * 1000.0), 100.0)


@pytest.mark.parametrize("held", [0.0, 1e200])
def test_what_overflows_is_refused(held: float) -> None:
    def require(rows: Rows) -> Any:
        largest = np.zeros(len(rows))
        np.maximum.at(largest, np.repeat(np.arange(len(rows)), np.diff(rows.offsets)), rows.value)
        return largest * 1e300

    market = GateMarket(RowMeasurer(require, True), gate_case.UNDERLYING, gate_case.NOTIONAL)
    book = {0: held} if held else {}
    found = ask(state(book=book, market=market), 1, 1e20)
    assert (found.action, found.rule) == (
        "refuse",
        "worst_fill" if not held else "not_worse",
    )


# ---------------------------------------------------------------- marks


def marks(**changes: MarkState | None) -> dict[int, MarkState]:
    all_marks = {**FRESH, **{int(key[1:]): mark for key, mark in changes.items()}}
    return {code: mark for code, mark in all_marks.items() if mark is not None}


OLD = MarkState(100.0, NOW - 60.5)


@pytest.mark.parametrize(("mark", "rule"), [(None, "missing_mark"), (OLD, "stale_mark")])
def test_without_a_fresh_mark_the_order_is_refused(mark: MarkState | None, rule: str) -> None:
    """That of the order's own instrument, of the book and of open orders."""
    known = marks(_1=mark)
    assert ask(state(marks=known), 2, 1.0).rule == rule
    assert ask(state(book={2: 1.0}, marks=known), 0, 1.0).rule == rule
    assert ask(state(orders=[(2, 1.0)], marks=known), 0, 1.0).rule == rule
    found = ask(state(book={3: 1.0}, orders=[(1, 1.0)], marks=known), 0, 1.0)
    assert found.action == "accept"


def test_a_mark_of_just_the_age_or_of_later_is_fresh() -> None:
    for time in (NOW - 60.0, NOW + 5.0):
        known = dict.fromkeys(FRESH, MarkState(1.0, time))
        assert ask(state(marks=known), 0, 1.0).action == "accept"


def test_a_mark_without_a_time_is_stale() -> None:
    assert ask(state(marks=marks(_0=MarkState(1.0, math.nan))), 0, 1.0).rule == "stale_mark"


# ---------------------------------------------------------------- by hand


def test_the_bound_adds_losses_per_scenario() -> None:
    """Book 1 x (-10, 4): losses (10, -4). Orders: -1 x (6, -3) loses 6 and 0; 2 x (1, 2) nothing;
    -3 x (1, 2) loses (3, 6). W+ = max(10 + 6 + 0 + 3, -4 + 0 + 0 + 6) = 19."""
    given_state = state(book={0: 1.0}, orders=[(1, -1.0), (2, 2.0)], market=MARKET, collateral=20.0)
    found = ask(given_state, 2, -3.0)
    assert (found.rule, found.bound) == ("worst_fill_bound", 19.0)
    assert ask(given_state, 2, -3.0, utilisation_cap=0.95).rule == "worst_fill_bound"
    assert ask(given_state, 2, -3.0, utilisation_cap=0.94).rule != "worst_fill_bound"


def test_open_orders_that_hedge_each_other() -> None:
    """Open: buy 1 of (-10, 4); new: buy 1 of (6, -3). W+ = max(10 + 0, 0 + 3) = 10. Subsets lose
    (0, 0), (10, -4), (-6, 3) and (4, -1): W = 10, and the new one alone is within 3."""
    found = ask(state(orders=[(0, 1.0)], market=MARKET, collateral=10.0), 1, 1.0)
    assert (found.action, found.rule, found.bound) == ("accept", "worst_fill_bound", 10.0)
    found = ask(state(orders=[(0, 1.0)], market=MARKET, collateral=9.0), 1, 1.0)
    assert (found.action, found.rule) == ("accept", "not_worse")
    assert (found.worst_fill_before, found.worst_fill_after) == (10.0, 10.0)
    # An order is not set off against one that may never be filled: selling 1 of (6, -3) may lose 6.
    found = ask(state(orders=[(1, 1.0)], market=MARKET, collateral=5.0), 1, -1.0)
    assert (found.action, found.rule) == ("refuse", "worst_fill")
    assert (found.worst_fill_before, found.worst_fill_after) == (3.0, 6.0)


def test_subsets_allow_what_the_bound_does_not() -> None:
    """Two worst of three losses, halved. Open: 1 x (-10, 4, 0), (10 + 0) / 2 = 5. New: 1 x
    (6, -8, 0), (8 + 0) / 2 = 4. Both lose (4, 4, 0): 4. So W = 5, but W+ = (10 + 8) / 2 = 9."""
    profits = np.array([[-10.0, 4.0, 0.0], [6.0, -8.0, 0.0]])
    measurer = ScenarioMeasurer(profits, TailMeasure((1.0, 1.0), 2.0), BACKEND)
    market = GateMarket(measurer, np.zeros(2, dtype=np.int64), np.ones(2))
    found = ask(state(orders=[(0, 1.0)], market=market, collateral=8.0), 1, 1.0)
    assert (found.action, found.rule, found.bound) == ("accept", "worst_fill", 9.0)
    assert (found.worst_fill_before, found.worst_fill_after) == (5.0, 5.0)
    found = ask(state(orders=[(0, 1.0)], market=market, collateral=9.0), 1, 1.0)
    assert (found.action, found.rule, found.bound) == ("accept", "worst_fill_bound", 9.0)


def test_an_order_is_shrunk_to_the_limit_and_not_below() -> None:
    """10 per contract: of 7, five fit into 59 and six into 60; lots of 0.25 fit 23 times."""
    for limit, lot, fits in ((59.0, 1.0, 5.0), (60.0, 1.0, 6.0), (59.0, 0.25, 5.75)):
        found = ask(state(market=MARKET, collateral=limit), 0, 7.0, lot=lot)
        assert (found.action, found.quantity, found.rule) == ("shrink", fits, "worst_fill")
        assert (found.worst_fill_after, found.bound) == (10 * fits, 10 * fits)
    assert ask(state(market=MARKET, collateral=9.0), 0, 7.0).action == "refuse"


def test_lots_that_no_number_has() -> None:
    """0.1 + 0.1 + 0.1 is not 0.3, and 0.3 / 0.1 is less than 3: three lots fit all the same."""
    for size in (0.3, 0.35):
        cut: dict[str, Any] = {"max_order_notional": size, "lot": 0.1}
        assert ask(state(market=MARKET, collateral=3.0), 0, 0.4, **cut).quantity == 0.3
    assert ask(state(market=MARKET, collateral=3.0), 0, 0.35, lot=0.1).quantity == 0.3


def test_beyond_the_limit_an_order_may_hedge_until_it_turns() -> None:
    """-3 of (-10, 4) loses (-30, 12) and exceeds 1. Bought back, 4 (or 5 in whole) leave (10, -4);
    12 is not exceeded up to 4 contracts: -3 + 4 = 1 loses 10, -3 + 5 = 2 loses 20."""
    over = state(book={0: -3.0}, market=MARKET, collateral=1.0)
    found = ask(over, 0, 10.0)
    assert (found.action, found.quantity, found.rule) == ("shrink", 4.0, "not_worse")
    assert (found.worst_fill_before, found.worst_fill_after) == (12.0, 12.0)
    assert ask(over, 0, 3.0).action == "accept"
    found = ask(over, 0, -1.0)
    assert (found.action, found.rule) == ("refuse", "not_worse")


@pytest.mark.parametrize("kind", ["es", "covariance", "var"])  # the worst loss is its own bound
def test_eight_orders_have_subsets_and_nine_have_a_bound(kind: str) -> None:
    """Offsetting orders: the bound counts all of them, subsets only what can happen."""
    orders: Orders = [(0, 2.0), (0, -2.0), (1, 3.0), (1, -3.0), (2, 1.0), (2, -1.0), (3, 5.0)]
    after = gate_case.worst_fill(kind, {}, [*orders, (0, 1.0)])
    plus = gate_case.bound(kind, {}, [*orders, (0, 1.0)])
    assert after < plus
    found = ask(state(kind, {}, orders, after), 0, 1.0)
    assert (found.action, found.rule) == ("accept", "worst_fill")
    found = ask(state(kind, {}, [*orders, (3, -5.0)], after), 0, 1.0)
    assert (found.action, found.rule) == ("refuse", "open_orders")
    plus = gate_case.bound(kind, {}, [*orders, (3, -5.0), (0, 4.0)])
    found = ask(state(kind, {}, [*orders, (3, -5.0)], plus), 0, 4.0)
    assert (found.action, found.rule, found.bound) == ("accept", "worst_fill_bound", plus)
    found = ask(state(kind, {}, [*orders, (3, -5.0)], plus), 0, 9.0)
    assert (found.action, found.rule) == ("shrink", "worst_fill_bound")
    assert found.quantity == gate_case.largest_safe(kind, {}, [*orders, (3, -5.0)], (0, 9.0), plus)


# ---------------------------------------------------------------- brute force

QUANTITIES = st.integers(-6, 6).filter(bool).map(float)
CODES = st.integers(0, INSTRUMENTS - 1)
BOOKS = st.dictionaries(CODES, QUANTITIES)
ORDERS = st.lists(st.tuples(CODES, QUANTITIES), max_size=5)
ORDER = st.tuples(CODES, st.integers(-40, 40).filter(bool).map(float))
SHARES = st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0, 1.1, 1.5, 3.0])
MANY = settings(max_examples=120, deadline=None)


@pytest.mark.parametrize("kind", KINDS)
@given(BOOKS, ORDERS, ORDER, SHARES)
@MANY
def test_decisions_are_those_of_brute_force(
    kind: str, book: Book, orders: Orders, order: tuple[int, float], share: float
) -> None:
    """Limits are shares of W before: decisions at the very limit are among them."""
    before = gate_case.worst_fill(kind, book, orders)
    limit = share * (before or 20.0)
    found = ask(state(kind, book, orders, limit), *order)
    safe = gate_case.is_safe(kind, book, orders, order, limit)
    assert (found.action == "accept") == safe
    if found.action != "refuse":
        passed = (order[0], found.quantity)
        assert gate_case.is_safe(kind, book, orders, passed, limit)
        after = gate_case.worst_fill(kind, book, [*orders, passed])
        assert found.worst_fill_after in (None, pytest.approx(after, rel=1e-12))
        plus = gate_case.bound(kind, book, [*orders, passed])
        assert found.bound == pytest.approx(plus, rel=1e-12)
    assert found.worst_fill_before in (None, pytest.approx(before, rel=1e-12))
    if kind in CONVEX:
        assert found.quantity == gate_case.largest_safe(kind, book, orders, order, limit)


@given(BOOKS, ORDERS, ORDER, st.sampled_from([0.25, 0.5, 2.0, 3.0]))
@settings(max_examples=40, deadline=None)
def test_lots_of_any_size(book: Book, orders: Orders, order: Any, lot: float) -> None:
    limit = 1.2 * gate_case.worst_fill("es", book, orders) + 5.0
    found = ask(state("es", book, orders, limit), *order, lot=lot)
    assert found.quantity == gate_case.largest_safe("es", book, orders, order, limit, lot)


# ---------------------------------------------------------------- the resident vector


def exact(book: Book) -> Any:
    total = np.zeros(gate_case.SCENARIOS)
    for code, quantity in sorted(book.items()):
        total = total + quantity * PNL[code]
    return total


@pytest.mark.parametrize("kind", ["es", "worst", "var"])
@given(BOOKS, ORDERS, ORDER, SHARES, st.floats(-1e-11, 1e-11))
@MANY
def test_a_resident_vector_that_is_off_by_rounding_changes_no_decision(
    kind: str, book: Book, orders: Orders, order: tuple[int, float], share: float, off: float
) -> None:
    limit = share * gate_case.worst_fill(kind, book, orders)
    gross = sum(abs(quantity) for quantity in book.values())
    vector = exact(book) + off * gross
    one = ask(state(kind, book, orders, limit), *order)
    other = ask(state(kind, book, orders, limit, vector=vector), *order)
    assert (one.action, one.quantity, one.rule) == (other.action, other.quantity, other.rule)


def test_a_resident_vector_is_what_is_measured() -> None:
    """Away from the limit nothing else of the book is looked at."""
    given_state = state(book={0: 1.0}, market=MARKET, collateral=60.0, vector=np.array([-50.0, 0]))
    found = ask(given_state, 0, 2.0)
    assert (found.action, found.quantity, found.worst_fill_before) == ("shrink", 1.0, 50.0)


@pytest.mark.parametrize("off", [-1e-12, 0.0, 1e-12])
def test_the_bound_at_the_limit_is_canonical(off: float) -> None:
    """Nine orders that lose 10 each, and a book that loses 5, at a limit of 95: the bound decides,
    and what a resident vector is off does not."""
    orders: Orders = [(0, 1.0)] * 8
    book = state(book={0: 0.5}, orders=orders, market=MARKET, vector=np.array([-5.0 + off, 2.0]))
    for limit, action in ((95.0, "accept"), (95.0 - 1e-13, "refuse")):
        found = ask(replace(book, collateral=limit), 0, 1.0)
        assert (found.action, found.bound) == (action, 95.0)


# ---------------------------------------------------------------- precedence

CALM = {"volatility": 0.1, "size_factor": 0.5, "min_interval_seconds": 10.0}
WILD = {"volatility": 0.5, "size_factor": 0.0, "min_interval_seconds": 60.0}
THROTTLE = {"throttle": (CALM, WILD), "max_order_notional": 1000.0}


def at(volatility: float) -> dict[int, MarkState]:
    variance = volatility**2 / (365 * 86400)
    return dict.fromkeys(FRESH, MarkState(100.0, NOW, variance))


def test_marks_come_before_margin_before_volatility() -> None:
    wild = at(0.6)
    stale = {code: MarkState(100.0, 0.0, mark.variance) for code, mark in wild.items()}
    poor: dict[str, Any] = {"collateral": 0.0, "last_order": {0: NOW}}
    assert ask(state(**poor, marks={}), 0, 50.0, **THROTTLE).rule == "missing_mark"
    assert ask(state(**poor, marks=stale), 0, 50.0, **THROTTLE).rule == "stale_mark"
    assert ask(state(**poor, marks=wild), 0, 50.0, **THROTTLE).rule == "worst_fill"
    rich: dict[str, Any] = {"collateral": 1e6, "last_order": {0: NOW}}
    assert ask(state(**rich, marks=wild), 0, 50.0, **THROTTLE).rule == "volatility_size"
    assert ask(state(**rich, marks=at(0.2)), 0, 5.0, **THROTTLE).rule == "volatility_pace"
    assert ask(state(**rich, marks=at(0.0)), 0, 5.0, **THROTTLE).rule == "worst_fill_bound"


def test_without_thresholds_nothing_is_throttled() -> None:
    given_state = state(collateral=1e6, marks=at(50.0), last_order={0: NOW})
    assert ask(given_state, 0, 1000.0).action == "accept"


@pytest.mark.parametrize(
    ("volatility", "passed", "action"),
    [(0.0, 10.0, "shrink"), (0.0999, 10.0, "shrink"), (0.1, 5.0, "shrink"), (0.5, 0.0, "refuse")],
)
def test_volatility_limits_the_size(volatility: float, passed: float, action: str) -> None:
    """Of 100 per contract, 10 are worth 1000 and 5 half of that."""
    found = ask(state(collateral=1e6, marks=at(volatility * 1.000001)), 0, -12.0, **THROTTLE)
    assert (found.action, found.rule) == (action, "volatility_size")
    assert found.quantity == (-passed if passed else 0.0)
    assert found.limit == 1e6


def test_an_order_that_margin_has_shrunk_is_shrunk_further() -> None:
    given_state = state(market=MARKET, collateral=79.0, marks=at(0.2))
    small = {**THROTTLE, "max_order_notional": 10.0}
    found = ask(given_state, 0, 12.0, **small)
    assert (found.action, found.quantity, found.rule) == ("shrink", 5.0, "volatility_size")
    assert found.bound == 50.0
    found = ask(state(market=MARKET, collateral=39.0, marks=at(0.2)), 0, 12.0, **small)
    assert (found.action, found.quantity, found.rule) == ("shrink", 3.0, "worst_fill")


@pytest.mark.parametrize(("ago", "wait"), [(0.0, 10.0), (9.5, 0.5), (10.0, 0.0), (-2.0, 12.0)])
def test_volatility_limits_the_pace(ago: float, wait: float) -> None:
    """Per underlying: 0 is that of instruments 0 and 1."""
    given_state = state(collateral=1e6, marks=at(0.2), last_order={0: NOW - ago})
    for code in (0, 1):
        found = ask(given_state, code, 5.0, **THROTTLE)
        assert found.wait_seconds == wait
        assert (found.action, found.quantity) == (("slow", 0.0) if wait else ("accept", 5.0))
    assert ask(given_state, 2, 5.0, **THROTTLE).action == "accept"


def test_the_first_order_need_not_wait() -> None:
    assert ask(state(collateral=1e6, marks=at(0.2)), 0, 5.0, **THROTTLE).action == "accept"


def test_an_order_that_reduces_skips_the_throttle_only() -> None:
    held: dict[str, Any] = {"book": {0: 50.0}, "last_order": {0: NOW}}
    assert ask(state(**held, collateral=1e6, marks=at(0.9)), 0, -50.0, **THROTTLE).quantity == -50
    found = ask(state(**held, collateral=1e6, marks=at(0.9)), 0, -51.0, **THROTTLE)
    assert (found.action, found.rule) == ("refuse", "volatility_size")
    assert ask(state(**held, collateral=1e6, marks={}), 0, -50.0).rule == "missing_mark"
    # It is half of a hedge: without it the other half stands alone.
    hedged = state(book={0: 10.0, 1: 10.0}, market=MARKET, collateral=0.0)
    found = ask(hedged, 1, -5.0)
    assert is_reducing(hedged, 1, -5.0)
    assert (found.action, found.rule) == ("refuse", "not_worse")


def test_what_is_cut_to_a_reducing_order_need_not_wait() -> None:
    """8 contracts would turn a position of 6, the 5 that volatility leaves do not."""
    held = state(book={0: 6.0}, collateral=1e6, marks=at(0.2), last_order={0: NOW})
    found = ask(held, 0, -8.0, **THROTTLE)
    assert (found.action, found.quantity, found.rule) == ("shrink", -5.0, "volatility_size")


@pytest.mark.parametrize(
    ("held", "orders", "quantity", "reduces"),
    [
        (0.0, [], 1.0, False),
        (5.0, [], 1.0, False),
        (5.0, [], -5.0, True),
        (5.0, [], -5.5, False),
        (-5.0, [], 5.0, True),
        (5.0, [(0, -2.0)], -3.0, True),
        (5.0, [(0, -2.0), (0, -1.0)], -3.0, False),
        (5.0, [(0, 4.0)], -5.0, True),  # if it is filled, there is more to reduce
        (5.0, [(0, 4.0)], -6.0, False),  # it need not be
        (5.0, [(1, -2.0)], -5.0, True),
    ],
)
def test_what_reduces(held: float, orders: Orders, quantity: float, reduces: bool) -> None:
    book = {0: held} if held else {}
    assert is_reducing(state(book=book, orders=orders), 0, quantity) is reduces


def test_what_volatility_leaves_of_an_order_is_judged_again() -> None:
    """The requirement rises and falls with the position: 6 of it are safe, and 3 are not."""

    def require(rows: Rows) -> Any:
        held = np.zeros(len(rows))
        np.add.at(held, np.repeat(np.arange(len(rows)), np.diff(rows.offsets)), rows.value)
        return np.select([held == 3.0, held == 6.0], [9.0, 1.0], 2.0)

    measurer = RowMeasurer(require, False)
    market = GateMarket(measurer, np.zeros(1, dtype=np.int64), np.ones(1))
    cut = {"throttle": (CALM,), "max_order_notional": 6.0}
    found = ask(state(market=market, collateral=5.0, marks=at(0.2)), 0, 6.0, **cut)
    assert (found.action, found.quantity, found.rule) == ("shrink", 2.0, "worst_fill")
    found = ask(state(market=market, collateral=9.0, marks=at(0.2)), 0, 6.0, **cut)
    assert (found.action, found.quantity, found.rule) == ("shrink", 3.0, "volatility_size")
    found = ask(state(market=market, collateral=1.5, marks=at(0.2)), 0, 6.0, **cut)
    assert (found.action, found.quantity, found.rule) == ("shrink", 2.0, "not_worse")
