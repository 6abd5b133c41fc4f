"""The order gate beside recomputing the account for every fill and every size.

An account of 50 positions in 400 instruments and 1,000 scenarios, expected shortfall of 97.5%, with
no, three or seven open orders. The new one is accepted by the bound, accepted by the subsets, or
cut from 1,000 lots to what is safe. Compare ratios within one group; the answers are checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import compress, product
from typing import Any

import numpy as np
import pytest

from gpu_margin import backend
from gpu_margin.backend import Backend, Rows, TailMeasure
from gpu_margin.failures import BackendUnavailable
from gpu_margin.gate import GateMarket, GateParameters, GateState, Order, decide
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
