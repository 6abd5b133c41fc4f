"""Orders in batches: the decisions that the gate gives one by one, to the last bit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import cupy_on_cpu
import gate_case
import numpy as np
import pytest
import strict_backend
from gate_case import FRESH, INSTRUMENTS, KINDS, NOW, PNL, Book, Orders, parameters, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gate_sequences import MODELS, prepared

from gpu_margin import backend
from gpu_margin.backend import Rows, TailMeasure
from gpu_margin.cpu_fallback.numpy_backend import NumpyBackend
from gpu_margin.gate import Decision, GateMarket, GateParameters, decide
from gpu_margin.gate_batch import OrderBatch, OrderDesk, decide_many
from gpu_margin.throttle import MarkState
from gpu_margin.worst_fill import RowMeasurer, ScenarioMeasurer

QUANTITIES = st.integers(-6, 6).filter(bool).map(float)
CODES = st.integers(0, INSTRUMENTS - 1)
ANY_CODES = st.one_of(CODES, CODES, CODES, st.sampled_from([-1, INSTRUMENTS]))
SIZES = st.integers(-40, 40).map(float)
BOOKS = st.dictionaries(CODES, QUANTITIES)
ORDERS = st.lists(st.tuples(CODES, QUANTITIES), max_size=4)
MORE = st.lists(st.tuples(ANY_CODES, st.sampled_from([0.0, 1.0, -2.5, math.nan])), max_size=9)
LIMITS = st.sampled_from([-5.0, 0.0, 20.0, 60.0, 100.0, 150.0, 1e9, 1e9, math.nan, math.inf])
TIMES = st.sampled_from([NOW, NOW, NOW, NOW - 5.0, NOW + 55.0, NOW + 90.0, math.nan])
LAST = st.sampled_from([-math.inf, NOW, NOW - 5.0, NOW - 30.0])
ASKED = st.tuples(ANY_CODES, st.one_of(SIZES, st.sampled_from([math.nan, 0.3, 1e30])))
ANY = st.tuples(BOOKS, st.one_of(ORDERS, MORE), ASKED, LIMITS, TIMES, LAST, st.booleans())
SOUND = st.tuples(
    BOOKS,
    ORDERS,
    st.tuples(CODES, QUANTITIES),
    st.sampled_from([-5.0, 0.0, 20.0, 60.0, 100.0, 1e9]),
    st.just(NOW),
    LAST,
    st.booleans(),
)
ONE = st.one_of(SOUND, SOUND, SOUND, ANY)
CALM = {"volatility": 0.1, "size_factor": 0.5, "min_interval_seconds": 10.0}
WILD = {"volatility": 0.5, "size_factor": 0.0, "min_interval_seconds": 60.0}
RULES = st.sampled_from(
    [{}, {"utilisation_cap": 0.8}, {"throttle": (CALM, WILD), "max_order_notional": 1000.0}]
)
VOLATILITY = st.sampled_from([0.0, 0.2, 0.9])
MARKS = st.dictionaries(
    st.integers(0, 2),
    st.tuples(st.sampled_from([NOW, NOW, NOW, NOW - 30.0, NOW - 61.0]), VOLATILITY),
)


def joined(rows: list[Rows]) -> Rows:
    sizes = [len(row.column) for row in rows]
    return Rows(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.concatenate([np.zeros(0, dtype=np.int64), *(row.column for row in rows)]),
        np.concatenate([np.zeros(0), *(row.value for row in rows)]),
    )


def in_order(orders: Orders) -> Rows:
    return Rows(
        np.array([0, len(orders)], dtype=np.int64),
        np.array([code for code, _ in orders], dtype=np.int64),
        np.array([quantity for _, quantity in orders], dtype=np.float64),
    )


def batch_of(
    market: GateMarket, cases: list[Any], marks: dict[int, MarkState] | None = None, off: float = 0
) -> OrderBatch:
    """Every case is (book, open orders, order, collateral, time, last order, is it resident)."""
    books, opened, asked, collateral, times, last, there = (
        (list(column) for column in zip(*cases, strict=True)) if cases else ([] for _ in range(7))
    )
    rows = joined([rows_of(book) for book in books])
    vectors, place = None, np.full(len(cases), -1, dtype=np.int64)
    if isinstance(market.measurer, ScenarioMeasurer) and any(there):
        device = market.measurer.backend
        # Every vector lies after one that must not be looked at.
        held = [np.full(PNL.shape[1], 77.0)]
        for number, book in enumerate(books):
            if there[number]:
                place[number] = len(held)
                gross = sum(abs(quantity) for quantity in book.values())
                held.append(exact(book) + off * gross)
        vectors = device.to_device(np.array(held))
    return OrderBatch(
        market=market,
        marks=gate_case.board(FRESH if marks is None else marks),
        instrument=np.array([code for code, _ in asked], dtype=np.int64),
        quantity=np.array([quantity for _, quantity in asked], dtype=np.float64),
        time=np.array(times, dtype=np.float64),
        collateral=np.array(collateral, dtype=np.float64),
        last_order=np.array(last, dtype=np.float64),
        books=rows,
        open_orders=joined([in_order(orders) for orders in opened]),
        vector=place,
        vectors=vectors,
    )


def exact(book: Book) -> Any:
    total = np.zeros(PNL.shape[1])
    for code, quantity in sorted(book.items()):
        total = total + quantity * PNL[code]
    return total


def same(batch: OrderBatch, settings: GateParameters) -> list[Decision]:
    """Decisions of the batch, which are those of every order alone: `repr` tells all bits."""
    found = decide_many(batch, settings)
    alone = [decide(*batch.case(number), settings) for number in range(len(batch))]
    assert [repr(one) for one in found] == [repr(one) for one in alone]
    return found


def fine(
    book: Book, asked: tuple[int, float], collateral: float, orders: Orders | None = None
) -> Any:
    """Resident, at the time of the marks."""
    return book, orders or [], asked, collateral, NOW, -math.inf, True


# ---------------------------------------------------------------- limits


def test_no_orders() -> None:
    assert decide_many(batch_of(gate_case.MARKETS["es"], []), parameters()) == []


def test_a_market_without_instruments() -> None:
    measurer = ScenarioMeasurer(np.zeros((0, 3)), TailMeasure((1.0,)), backend.load("numpy"))
    nothing = GateMarket(measurer, np.zeros(0, dtype=np.int64), np.zeros(0))
    found = same(batch_of(nothing, [({}, [], (0, 1.0), 5.0, NOW, 0.0, False)]), parameters())
    assert found[0].rule == "unknown_instrument"


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_every_rule(kind: str) -> None:
    """Neighbours that cannot be judged change nothing for those that can."""
    marks = {0: MarkState(100.0, NOW, 0.2**2 / (365 * 86400)), 1: MarkState(5.0, NOW - 61.0)}
    nine: Orders = [(0, 3.0)] * 9
    cases = [
        fine({}, (7, 1.0), 100.0),
        fine({}, (0, math.nan), 100.0),
        fine({}, (0, 1.0), math.nan),
        fine({}, (2, 1.0), 100.0),
        fine({3: 1.0}, (0, 1.0), 100.0),
        fine({}, (0, 1.0), 1e6),
        fine({}, (0, 1000.0), 1e6),
        ({}, [], (0, 1.0), 1e6, NOW, NOW - 1.0, True),
        fine({}, (0, 1.0), 0.0),
        fine({0: 5.0}, (0, 1.0), 0.0),
        fine({0: 5.0}, (0, -1.0), 0.0),
        fine({}, (0, 1.0), 0.0, nine),
        fine({}, (0, 1.0), 100.0, [(9, 1.0)]),
        fine({}, (0, 1.0), 100.0, [(0, math.nan)]),
    ]
    rules = [
        "unknown_instrument",
        "order",
        "collateral",
        "stale_mark",
        "missing_mark",
        "worst_fill_bound",
        "volatility_size",
        "volatility_pace",
        "worst_fill",
        "not_worse",
        "not_worse",
        "open_orders",
        "unknown_instrument",
        "order",
    ]
    settings = parameters(throttle=(CALM,), max_order_notional=10_000.0)
    batch = batch_of(gate_case.MARKETS[kind], cases, marks)
    assert [one.rule for one in same(batch, settings)] == rules


# ---------------------------------------------------------------- as one by one


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(ONE, max_size=12), MARKS, RULES)
@settings(max_examples=150, deadline=None)
def test_a_batch_decides_as_one_by_one(
    kind: str, cases: list[Any], marks: Any, rules: dict[str, Any]
) -> None:
    known = {
        code: MarkState(100.0, time, volatility**2 / (365 * 86400))
        for code, (time, volatility) in marks.items()
    }
    same(batch_of(gate_case.MARKETS[kind], cases, {**FRESH, **known}), parameters(**rules))


@pytest.mark.parametrize("kind", ["es", "worst", "var"])
@given(
    st.lists(st.tuples(BOOKS, ORDERS, st.tuples(CODES, QUANTITIES)), min_size=1, max_size=6),
    st.sampled_from([0.9, 1.0, 1.0, 1.1]),
    st.sampled_from([0.0, 1e-13, -1e-12, 1e-11]),
)
@settings(max_examples=80, deadline=None)
def test_at_the_very_limit_vectors_that_are_off_decide_alike(
    kind: str, states: list[Any], share: float, off: float
) -> None:
    """The limit of each is a share of its bound: next to it the bound must be the canonical one."""
    cases = []
    for book, orders, order in states:
        limit = share * gate_case.bound(kind, book, [*orders, order])
        cases.append(fine(book, order, limit, orders))
    same(batch_of(gate_case.MARKETS[kind], cases, off=off), parameters())


@given(st.lists(ONE, min_size=2, max_size=8))
@settings(max_examples=40, deadline=None)
def test_what_shares_a_batch_changes_nothing(cases: list[Any]) -> None:
    market = gate_case.MARKETS["es"]
    together = decide_many(batch_of(market, cases), parameters())
    apart = [decide_many(batch_of(market, [case]), parameters())[0] for case in cases]
    backwards = decide_many(batch_of(market, cases[::-1]), parameters())[::-1]
    assert repr(together) == repr(apart) == repr(backwards)


def test_more_orders_than_are_held_at_a_time() -> None:
    random = np.random.default_rng(3)
    cases = [
        fine({0: float(n % 7 - 3)}, (n % INSTRUMENTS, float(n % 9 - 4)), float(limit))
        for n, limit in enumerate(random.integers(0, 120, 300))
    ]
    found = same(batch_of(gate_case.MARKETS["es"], cases), parameters())
    assert {one.action for one in found} == {"accept", "shrink", "refuse"}


def test_a_book_out_of_range_does_not_spoil_its_neighbours() -> None:
    """Its own figures are infinite; a device may multiply it by 0 for others."""
    market = gate_case.market("es", strict_backend.BACKEND)
    cases = [
        not_resident(fine({0: 1e308, 2: 1e308}, (1, 1.0), 50.0)),
        not_resident(fine({0: 1.0}, (1, 1.0), 50.0, [(2, 1.0)])),
    ]
    found = same(batch_of(market, cases), parameters())
    assert found[0].action == "refuse"
    assert found[1] == same(batch_of(market, cases[1:]), parameters())[0]
    assert found[1].action != "refuse"


def not_resident(case: Any) -> Any:
    return (*case[:-1], False)


DEVICES = {
    "strict": lambda: strict_backend.BACKEND,  # refuses whatever is not in the standard
    "cupy on the CPU": cupy_on_cpu.load,
    "numba": lambda: backend.load("numba"),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["es", "var"])
@given(cases=st.lists(ONE, max_size=5))
@settings(max_examples=10, deadline=None)
def test_any_library_decides_alike(kind: str, device: str, cases: list[Any]) -> None:
    """Sums of whole numbers are exact on all of them."""
    there = batch_of(gate_case.market(kind, DEVICES[device]()), cases)
    found = same(there, parameters())
    expected = decide_many(batch_of(gate_case.MARKETS[kind], cases), parameters())
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("name", MODELS)
@given(cases=st.lists(SOUND, max_size=4))
@settings(max_examples=10, deadline=None)
def test_models_decide_as_one_by_one(name: str, cases: list[Any]) -> None:
    _, market = prepared(name, backend.load("numpy"))
    same(batch_of(market, [not_resident(case) for case in cases]), parameters(lot=0.25))


# ---------------------------------------------------------------- the pace of orders


def test_a_desk_knows_when_it_accepted_orders() -> None:
    """In an underlying that moves, ten seconds apart; 0 and 1 are on the same, 2 is calm."""
    moving = MarkState(100.0, NOW, 0.2**2 / (365 * 86400))
    desk = OrderDesk(parameters(throttle=(CALM,), max_order_notional=1e6))

    def actions(time: float, *orders: tuple[str, int, float, float]) -> list[str]:
        cases = [fine({}, (code, quantity), limit) for _, code, quantity, limit in orders]
        batch = batch_of(gate_case.MARKETS["es"], cases, {**FRESH, 0: moving})
        batch = replace(batch, time=np.full(len(cases), time))
        return [one.action for one in desk.decide(batch, [account for account, *_ in orders])]

    rich = 1e6
    first = [("a", 0, 1.0, rich), ("a", 1, 1.0, rich), ("b", 0, 1.0, 0.0), ("c", 9, 1.0, rich)]
    # None sees another of the batch; what is refused is not counted.
    assert actions(NOW, *first) == ["accept", "accept", "refuse", "refuse"]
    second = [("a", 1, 1.0, rich), ("a", 2, 1.0, rich), ("b", 1, 1.0, rich), ("c", 0, 9.0, 40.0)]
    assert actions(NOW + 9.0, *second) == ["slow", "accept", "accept", "shrink"]
    third = [("a", 0, 1.0, rich), ("b", 0, 1.0, rich), ("c", 0, 1.0, rich)]
    assert actions(NOW + 10.0, *third) == ["accept", "slow", "slow"]


def test_a_desk_that_starts_anew_lets_orders_wait() -> None:
    moving = dict.fromkeys(FRESH, MarkState(100.0, NOW, 0.2**2 / (365 * 86400)))
    desk = OrderDesk(parameters(throttle=(CALM,), max_order_notional=1e6), since=NOW - 4.0)
    batch = batch_of(gate_case.MARKETS["es"], [fine({}, (0, 1.0), 1e6)], moving)
    assert desk.decide(batch, ["a"])[0].wait_seconds == 6.0


# ---------------------------------------------------------------- what a batch costs


def test_orders_within_the_bound_are_one_call_of_the_device() -> None:
    """And those that are not share their calls: as many as the one that asks the most."""
    device = Counting()
    market = gate_case.market("es", device)
    easy = [fine({0: 1.0}, (1, 1.0), 1e6, [(2, 1.0)])] * 50
    batch = batch_of(market, easy)
    device.tails = 0
    decide_many(batch, parameters())
    assert device.tails == 1
    hard = [fine({0: 1.0}, (1, 9.0), 60.0 + n, [(2, 1.0)]) for n in range(20)]
    most = 0
    for case in hard:
        batch = batch_of(market, [case])
        device.tails = 0
        decide_many(batch, parameters())
        most = max(most, device.tails)
    batch = batch_of(market, easy + hard)
    device.tails = 0
    decide_many(batch, parameters())
    assert 1 < device.tails <= 2 * most


def test_a_model_without_vectors_is_asked_once_a_round() -> None:
    calls = []

    def require(rows: Rows) -> Any:
        calls.append(len(rows))
        return gate_case.covariance_rows(rows)

    market = replace(gate_case.MARKETS["covariance"], measurer=RowMeasurer(require, True))
    easy = [fine({0: 1.0}, (1, 1.0), 1e6, [(2, 1.0)])] * 30
    decide_many(batch_of(market, easy), parameters())
    assert calls == [90]  # the book and two orders of each
    calls.clear()
    hedging = fine({}, (0, -1.0), 50.0, [(0, 4.0)])
    found = decide_many(batch_of(market, [hedging] * 10), parameters())
    assert {one.rule for one in found} == {"worst_fill"}
    assert calls == [30, 20, 20]


class Counting(NumpyBackend):
    """The reference, counting."""

    tails = 0

    def tail(self, *given: Any, **more: Any) -> Any:
        self.tails += 1
        return super().tail(*given, **more)


def test_a_case_is_what_decide_takes() -> None:
    batch = batch_of(gate_case.MARKETS["es"], [fine({0: 2.0, 2: 1.0}, (1, -3.0), 9.0, [(0, 1.0)])])
    state, order = replace(batch, last_order=np.array([5.0])).case(0)
    assert (order.instrument, order.quantity, order.time) == (1, -3.0, NOW)
    assert [(one.instrument, one.quantity) for one in state.orders] == [(0, 1.0)]
    assert (state.collateral, dict(state.last_order), dict(state.marks)) == (9.0, {0: 5.0}, FRESH)
    assert state.book.column.tolist() == [0, 2] and state.book.value.tolist() == [2.0, 1.0]
    assert state.vector is not None and np.array_equal(state.vector, exact({0: 2.0, 2: 1.0}))
