"""The order gate beside recomputing the account for every fill and every size.

An account of 50 positions in 400 instruments and 1,000 scenarios, expected shortfall of 97.5%, with
no, three or seven open orders. The new one is accepted by the bound, accepted by the subsets, or
cut from 1,000 lots to what is safe. Compare ratios within one group; the answers are checked.

Batches are orders of accounts of 50 positions in 250 scenarios with resident vectors and up to
three open orders, nine in ten of them within the bound; one by one they are the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import compress, product
from typing import Any

import numpy as np
import polars as pl
import pytest

from gpu_margin import backend
from gpu_margin.backend import Backend, Rows, TailMeasure
from gpu_margin.failures import BackendUnavailable
from gpu_margin.gate import GateMarket, GateParameters, GateState, Order, decide
from gpu_margin.gate_batch import OrderBatch, decide_many
from gpu_margin.mark_board import mark_board
from gpu_margin.market import History, Instruments, Market
from gpu_margin.throttle import MarkState
from gpu_margin.worst_fill import RowMeasurer, ScenarioMeasurer

INSTRUMENTS, SCENARIOS, POSITIONS = 400, 1000, 50
MEASURE = TailMeasure((1.0,) * 25, 25.0)
PARAMETERS = GateParameters(model="es", stale_seconds=60.0)
CASES = ["bound", "subsets", "shrink"]
OPEN = [0, 3, 7]
WAYS = ["recomputed", "gate on rows", "gate", "gate with a resident vector"]

Held = dict[int, float]


@dataclass(frozen=True)
class Account:
    """A book, its open orders and a new one, on a device."""

    device: Backend
    pnl: np.ndarray[Any, Any]
    book: Held
    orders: list[tuple[int, float]]
    order: tuple[int, float]

    def rows(self, *trades: tuple[int, float]) -> Rows:
        held = dict(self.book)
        for code, quantity in trades:
            held[code] = held.get(code, 0.0) + quantity
        codes = sorted(held)
        value = np.array([held[code] for code in codes])
        column = np.array(codes, dtype=np.int64)
        return Rows(np.array([0, len(codes)], dtype=np.int64), column, value)

    def margin(self, *trades: tuple[int, float]) -> float:
        """Of the account with these trades, recomputed."""
        rows = self.rows(*trades)
        return max(0.0, float(self.device.tail(rows, self.pnl, [MEASURE]).value[0, 0]))

    def worst(self, orders: list[tuple[int, float]]) -> float:
        chosen = product([False, True], repeat=len(orders))
        return max(self.margin(*compress(orders, filled)) for filled in chosen)


@cache
def account(name: str, count: int) -> Account:
    try:
        device = backend.load(name)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    random = np.random.default_rng(11)
    pnl = random.standard_t(4, (INSTRUMENTS, SCENARIOS)) + random.normal(size=SCENARIOS)
    codes = random.choice(INSTRUMENTS, POSITIONS, replace=False).tolist()
    book = {code: float(random.integers(-40, 41)) for code in codes}
    others = random.choice(INSTRUMENTS, count).tolist()
    orders = [(code, float(random.integers(5, 40) * random.choice([-1, 1]))) for code in others]
    return Account(device, pnl, book, orders, (int(random.integers(INSTRUMENTS)), 20.0))


def problem(name: str, count: int, case: str) -> tuple[Account, tuple[int, float], float]:
    """The account, the order and the limit that make the case."""
    held = account(name, count)
    if case == "shrink":
        limit = 1.2 * held.worst([*held.orders, held.order])
        return held, (held.order[0], 1000.0), limit
    limit = held.worst([*held.orders, held.order])
    return held, held.order, 10.0 * limit if case == "bound" else 1.000001 * limit


def recomputed(held: Account, order: tuple[int, float], limit: float) -> float:
    """What a practitioner would write: every fill of every size that is tried, from positions."""
    threshold = max(limit, held.worst(held.orders))

    def is_safe(lots: int) -> bool:
        return held.worst([*held.orders, (order[0], float(lots))]) <= threshold

    low, high = 0, int(order[1])
    if is_safe(high):
        return order[1]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_safe(middle) else (low, middle)
    return float(low)


def gate(way: str, held: Account, order: tuple[int, float], limit: float) -> Callable[[], float]:
    """One decision of the gate; on rows, it adds up positions for every fill, all in one call."""

    def require(rows: Rows) -> Any:
        return np.maximum(held.device.tail(rows, held.pnl, [MEASURE]).value[:, 0], 0.0)

    vectors = ScenarioMeasurer(held.pnl, MEASURE, held.device)
    measurer = RowMeasurer(require, True) if way == "gate on rows" else vectors
    market = GateMarket(measurer, np.zeros(INSTRUMENTS, dtype=np.int64), np.ones(INSTRUMENTS))
    orders = tuple(Order(code, quantity, 0.0) for code, quantity in held.orders)
    book, marks = held.rows(), {0: MarkState(1.0, 0.0)}
    resident = held.device.weighted_sum(book, held.pnl)[0] if "vector" in way else None
    state = GateState(market, book, orders, limit, marks, vector=resident)
    return lambda: decide(state, Order(*order, 0.0), PARAMETERS).quantity


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("count", OPEN)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_decision(benchmark: Any, way: str, case: str, count: int, name: str) -> None:
    benchmark.group = f"{case}, {count} open orders, {name}"
    held, order, limit = problem(name, count, case)
    if way == "recomputed":
        answer = benchmark.pedantic(recomputed, (held, order, limit), rounds=3, warmup_rounds=1)
    else:
        run = gate(way, held, order, limit)
        answer = benchmark.pedantic(run, rounds=20, warmup_rounds=2)
    assert answer == recomputed(held, order, limit)


# ---------------------------------------------------------------- batches

BATCHES = [64, 1024]
FACTORS = 40
MEASURE_250 = TailMeasure((1.0,) * 6 + (0.25,), 6.25)


def listed() -> Market:
    """Futures on forty factors."""
    codes, ones = np.arange(INSTRUMENTS), np.ones(INSTRUMENTS)
    no, factors = codes < 0, tuple(f"F{code:02}" for code in range(FACTORS))
    ids = pl.Series([f"I{code:03}" for code in codes.tolist()])
    on = codes % FACTORS
    instruments = Instruments(ids, no, no, on, 0 * on, *[ones] * 6)
    history = History((date(2026, 1, 2),), factors, np.ones((1, FACTORS)))
    return Market(date(2026, 1, 2), "USD", instruments, pl.Series(["G"]), history)


def sparse(random: np.random.Generator, sizes: list[int], most: int) -> Rows:
    """Rows of so many instruments each, of up to `most` contracts."""
    codes = [np.sort(random.choice(INSTRUMENTS, size, replace=False)) for size in sizes]
    column = np.concatenate(codes)
    value = random.integers(1, most, len(column)) * random.choice([-1.0, 1.0], len(column))
    return Rows(np.concatenate([[0], np.cumsum(sizes)]), column, value)


@cache
def orders(name: str, count: int) -> OrderBatch:
    try:
        device = backend.load(name)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))
    random = np.random.default_rng(7)
    pnl = random.standard_t(4, (INSTRUMENTS, 250)) + random.normal(size=250)
    measurer, market = ScenarioMeasurer(pnl, MEASURE_250, device), listed()
    books = sparse(random, [POSITIONS] * count, 40)
    required = measurer.require(books)
    marks = [(None, factor, "last", 100.0, 0.0) for factor in market.history.factors]
    return OrderBatch(
        market=GateMarket(measurer, market.instruments.factor, np.ones(INSTRUMENTS)),
        marks=mark_board(market, 3600.0, 60.0).after(marks),
        instrument=random.integers(0, INSTRUMENTS, count),
        quantity=random.integers(1, 60, count) * random.choice([-1.0, 1.0], count),
        time=np.zeros(count),
        collateral=np.where(np.arange(count) % 10 == 9, 1.02 * required, 10.0 * required + 1000.0),
        last_order=np.full(count, -np.inf),
        books=books,
        open_orders=sparse(random, random.integers(0, 4, count).tolist(), 20),
        vector=np.arange(count),
        vectors=device.weighted_sum(books, pnl),
    )


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("count", BATCHES)
@pytest.mark.parametrize("way", ["one by one", "batch"])
def test_batch(benchmark: Any, way: str, count: int, name: str) -> None:
    benchmark.group = f"{count} orders, {name}"
    batch = orders(name, count)
    alone = [batch.case(number) for number in range(count)]

    def one_by_one() -> Any:
        return [decide(*case, PARAMETERS) for case in alone]

    def together() -> Any:
        return decide_many(batch, PARAMETERS)

    run, rounds = (one_by_one, 5) if way == "one by one" else (together, 30)
    found = benchmark.pedantic(run, rounds=rounds, warmup_rounds=1)
    within = sum(one.rule == "worst_fill_bound" and one.action == "accept" for one in found)
    assert 0.88 * count <= within <= 0.96 * count
    assert found == (together() if way == "one by one" else one_by_one())
