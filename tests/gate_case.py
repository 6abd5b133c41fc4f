"""Small markets for the order gate, and its definitions once more by plain loops.

Unit P&L, exposures and covariances are whole numbers, so that sums are exact and decisions at the
very limit can be compared. Nothing here is imported from the gate but the nouns it is called with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import backend
from gpu_margin.backend import Rows, TailMeasure
from gpu_margin.gate import GateMarket, GateParameters, GateState, Order
from gpu_margin.mark_board import MarkBoard, mark_board
from gpu_margin.market import History, Instruments, Market
from gpu_margin.throttle import MarkState
from gpu_margin.worst_fill import RowMeasurer, ScenarioMeasurer

Book = dict[int, float]
Orders = list[tuple[int, float]]

CONVEX = ("es", "worst", "covariance")
KINDS = (*CONVEX, "var")
INSTRUMENTS = 4
SCENARIOS = 12

_RANDOM = np.random.default_rng(5)
# Instruments 0 and 1 hedge each other in part.
PNL = _RANDOM.integers(-9, 10, size=(INSTRUMENTS, SCENARIOS)).astype(np.float64)
PNL[1] = PNL[0] + _RANDOM.integers(-2, 3, size=SCENARIOS)
EXPOSURE = [3.0, 2.0, 5.0, 1.0]
FACTOR = [0, 0, 1, 2]
COVARIANCE = [[4.0, 1.0, -2.0], [1.0, 9.0, 0.0], [-2.0, 0.0, 16.0]]
Z = 2.0
WEIGHTS = {"es": (1.0, 1.0, 1.0, 1.0), "worst": (1.0,), "var": (0.0, 0.0, 1.0)}
DIVISOR = {"es": 4.0, "worst": 1.0, "var": 1.0}
UNDERLYING = np.array([0, 0, 1, 2])
NOTIONAL = np.array([100.0, 100.0, 50.0, 10.0])
NOW = 1000.0


# ---------------------------------------------------------------- by plain loops


def requirement(kind: str, book: Book) -> float:
    """Initial margin of net positions."""
    if kind == "covariance":
        exposure = [0.0] * len(COVARIANCE)
        for code, quantity in book.items():
            exposure[FACTOR[code]] += quantity * EXPOSURE[code]
        pairs = product(range(len(exposure)), repeat=2)
        variance = sum(exposure[i] * COVARIANCE[i][j] * exposure[j] for i, j in pairs)
        return Z * math.sqrt(max(variance, 0.0))
    return tail_of(kind, losses(book))


def losses(book: Book) -> list[float]:
    return [
        -sum(quantity * PNL[code][scenario] for code, quantity in book.items())
        for scenario in range(SCENARIOS)
    ]


def tail_of(kind: str, of: list[float]) -> float:
    worst = sorted(of, reverse=True)
    total = sum(weight * loss for weight, loss in zip(WEIGHTS[kind], worst, strict=False))
    return max(0.0, total / DIVISOR[kind])


def plus(book: Book, *trades: tuple[int, float]) -> Book:
    total = dict(book)
    for code, quantity in trades:
        total[code] = total.get(code, 0.0) + quantity
    return {code: quantity for code, quantity in total.items() if quantity != 0.0}


def worst_fill(kind: str, book: Book, orders: Orders) -> float:
    """W: every order filled or not."""
    choices = product([False, True], repeat=len(orders))
    return max(
        requirement(kind, plus(book, *(o for o, filled in zip(orders, c, strict=True) if filled)))
        for c in choices
    )


def bound(kind: str, book: Book, orders: Orders) -> float:
    """W+."""
    if kind == "covariance":
        return requirement(kind, book) + sum(requirement(kind, plus({}, one)) for one in orders)
    total = losses(book)
    for code, quantity in orders:
        for scenario in range(SCENARIOS):
            total[scenario] += max(0.0, -quantity * PNL[code][scenario])
    return tail_of(kind, total)


def is_safe(kind: str, book: Book, orders: Orders, order: tuple[int, float], limit: float) -> bool:
    if bound(kind, book, [*orders, order]) <= limit:
        return True
    if len(orders) >= 8:
        return False
    before = worst_fill(kind, book, orders)
    return worst_fill(kind, book, [*orders, order]) <= max(limit, before)


def largest_safe(
    kind: str, book: Book, orders: Orders, order: tuple[int, float], limit: float, lot: float = 1.0
) -> float:
    """The whole order, or the most lots that are safe; signed."""
    code, quantity = order
    if is_safe(kind, book, orders, order, limit):
        return quantity
    lots = math.floor(abs(quantity) / lot)
    sizes = [math.copysign(number * lot, quantity) for number in range(lots, 0, -1)]
    return next((q for q in sizes if is_safe(kind, book, orders, (code, q), limit)), 0.0)


# ---------------------------------------------------------------- as the gate is called


def covariance_rows(rows: Rows) -> Any:
    """[row] requirement of rows, for a model without scenario vectors."""
    found = []
    for row in range(len(rows)):
        own = slice(rows.offsets[row], rows.offsets[row + 1])
        held = zip(rows.column[own].tolist(), rows.value[own].tolist(), strict=True)
        found.append(requirement("covariance", dict(held)))
    return np.array(found, dtype=np.float64)


def market(kind: str, device: Any = None) -> GateMarket:
    if kind == "covariance":
        return GateMarket(RowMeasurer(covariance_rows, True), UNDERLYING, NOTIONAL)
    device = backend.load("numpy") if device is None else device
    measure = TailMeasure(WEIGHTS[kind], DIVISOR[kind])
    return GateMarket(
        ScenarioMeasurer(device.to_device(PNL), measure, device), UNDERLYING, NOTIONAL
    )


MARKETS = {kind: market(kind) for kind in KINDS}
FRESH = {code: MarkState(100.0, NOW) for code in (0, 1, 2)}


def rows_of(book: Book) -> Rows:
    codes = sorted(book)
    return Rows(
        np.array([0, len(codes)], dtype=np.int64),
        np.array(codes, dtype=np.int64),
        np.array([book[code] for code in codes], dtype=np.float64),
    )


def state(
    kind: str = "es",
    book: Book | None = None,
    orders: Orders | None = None,
    collateral: float = 1000.0,
    **more: Any,
) -> GateState:
    """A state with fresh marks, unless `more` says otherwise."""
    placed = tuple(Order(code, quantity, NOW) for code, quantity in orders or [])
    known = {"market": MARKETS[kind], "marks": FRESH, **more}
    return GateState(book=rows_of(book or {}), orders=placed, collateral=collateral, **known)


def parameters(**more: Any) -> GateParameters:
    return GateParameters(**{"model": "m", "stale_seconds": 60.0, **more})


# ---------------------------------------------------------------- marks

FACTORS = ("A", "B", "C")


def listed(option: list[bool] | None = None) -> Market:
    """Instruments "0" to "3" on the three factors, all futures unless `option` says otherwise."""
    count = INSTRUMENTS
    codes, ones = np.zeros(count, dtype=np.int64), np.ones(count)
    kind = np.array(option or [False] * count)
    ids = pl.Series([str(code) for code in range(count)])
    instruments = Instruments(
        ids, kind, kind, UNDERLYING, codes, ones, ones, ones, 0 * ones, 0 * ones, 0 * ones
    )
    history = History((date(2026, 1, 2),), FACTORS, np.ones((1, len(FACTORS))))
    return Market(date(2026, 1, 2), "USD", instruments, pl.Series(["G"]), history)


def board(marks: Mapping[int, MarkState]) -> MarkBoard:
    """A board with these marks."""
    empty = mark_board(listed(), 3600.0, 60.0)
    return empty.restored(
        pl.DataFrame(
            [(FACTORS[c], None, m.price, m.time, m.variance) for c, m in marks.items()],
            schema={**empty.table().schema},
            orient="row",
        )
    )
