"""Fills booked and their accounts margined again, beside doing so account by account.

`pytest benchmarks/bench_tracker.py` tracks a small book. The size is TRACKER_SIZE =
ACCOUNTSxPOSITIONSxSCENARIOS; as a script (by default with 20000x50x250) it prints fills per second
in batches of 1,000, of uniformly random accounts, one in ten opening a new instrument, every
touched account margined after each batch:

    TRACKER_SIZE=100000x50x250 python benchmarks/bench_tracker.py numba
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from gpu_margin import backend as backends
from gpu_margin import loading
from gpu_margin.backend import Backend
from gpu_margin.failures import BackendUnavailable
from gpu_margin.tracker import Tracker

Floats = NDArray[np.float64]
Columns = dict[str, Any]
NAMES = ("numba", "numpy")
BATCH, INSTRUMENTS, FACTORS = 1000, 2000, 20
LAST = date(2024, 3, 1)


@dataclass(frozen=True)
class Size:
    accounts: int
    positions: int
    scenarios: int


def size_asked(default: str) -> Size:
    return Size(*(int(n) for n in os.environ.get("TRACKER_SIZE", default).split("x")))


@dataclass(frozen=True)
class World:
    """Random tables: `held` [account, position] are instruments, in `quantity` [same]."""

    config: Columns
    frames: dict[str, Any]
    held: NDArray[np.int64]
    quantity: Floats


def world(size: Size) -> World:
    rng = np.random.default_rng(1)
    step = INSTRUMENTS // size.positions
    shape = (size.accounts, size.positions)
    held = np.arange(size.positions) * step + rng.integers(0, step, shape)
    quantity = rng.integers(1, 50, shape) * rng.choice([-1.0, 1.0], shape)
    days = size.scenarios + 1
    prices = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, (days, FACTORS)), axis=0))
    dates = [LAST - timedelta(days=days - 1 - day) for day in range(days)]
    accounts = np.array([f"account {n:07d}" for n in range(size.accounts)])
    model = {
        "kind": "simulation",
        "scenarios": {"kind": "historical", "lookback": size.scenarios},
        "measure": {"kind": "es", "confidence": 0.99},
    }
    frames = {
        "positions": pl.DataFrame(
            {
                "account_id": np.repeat(accounts, size.positions),
                "instrument_id": instrument_ids()[held.ravel()],
                "quantity": quantity.ravel(),
            }
        ),
        "instruments": instruments(rng),
        "history": pl.DataFrame(
            {
                "date": np.repeat(np.array(dates, dtype="datetime64[D]"), FACTORS),
                "factor": np.tile([f"F{n:02d}" for n in range(FACTORS)], days),
                "price": prices.ravel(),
            }
        ),
        "assets": pl.DataFrame({"asset": ["USD"], "currency": ["USD"]}),
        "collateral": pl.DataFrame({"account_id": accounts, "amount": 1e5, "asset": "USD"}),
    }
    config = {"valuation_date": LAST, "currency": "USD", "models": {"es": model}}
    return World(config, frames, held, quantity)


def instrument_ids() -> NDArray[Any]:
    return np.array([f"I{n:05d}" for n in range(INSTRUMENTS)])


def instruments(rng: np.random.Generator) -> pl.DataFrame:
    """Futures, spot, perpetuals and options in turn."""
    number = np.arange(INSTRUMENTS)
    kinds = np.array(["future", "call", "spot", "put", "perpetual"])
    return pl.DataFrame(
        {
            "instrument_id": instrument_ids(),
            "kind": kinds[number % len(kinds)],
            "underlying": [f"F{n % FACTORS:02d}" for n in number],
            "currency": "USD",
            "multiplier": 10.0,
            "price": rng.uniform(50.0, 150.0, INSTRUMENTS),
            "strike": rng.uniform(50.0, 150.0, INSTRUMENTS),
            "expiry": [LAST + timedelta(days=90)] * INSTRUMENTS,
            "implied_vol": 0.2,
        }
    )


def batches(made: World, count: int, seed: int = 2) -> list[Columns]:
    """Fills of random accounts, nine in ten in an instrument that was held at the start."""
    rng = np.random.default_rng(seed)
    names = made.frames["collateral"]["account_id"].to_numpy()
    found = []
    for batch in range(count):
        account = rng.integers(0, len(names), BATCH)
        place = rng.integers(0, made.held.shape[1], BATCH)
        old, any_one = made.held[account, place], rng.integers(0, INSTRUMENTS, BATCH)
        instrument = np.where(rng.random(BATCH) < 0.1, any_one, old)
        found.append(
            {
                "fill_id": [f"{seed}-{batch}-{n}" for n in range(BATCH)],
                "account_id": names[account].tolist(),
                "instrument_id": instrument_ids()[instrument].tolist(),
                "quantity": rng.integers(1, 5, BATCH) * rng.choice([-1.0, 1.0], BATCH),
                "price": rng.uniform(90.0, 110.0, BATCH),
                "fee": rng.uniform(0.0, 1.0, BATCH),
            }
        )
    return found


class Naive:
    """What a practitioner writes: a dict per account, and a matrix product for each after a fill.

    Cash is left out, and so is everything about collateral.
    """

    def __init__(self, made: World, unit: Floats) -> None:
        ids = instrument_ids().tolist()
        names = made.frames["collateral"]["account_id"].to_list()
        rows = zip(names, made.held.tolist(), made.quantity.tolist(), strict=True)
        self._code = {name: code for code, name in enumerate(ids)}
        self._unit, self._worst = unit, max(1, round(unit.shape[1] * 0.01 + 0.49))
        self._held = {name: dict(zip(own, size, strict=True)) for name, own, size in rows}
        self.required: dict[str, float] = {}

    def fill(self, batch: Columns) -> None:
        columns = (batch[key] for key in ("account_id", "instrument_id", "quantity"))
        for account, instrument, quantity in zip(*columns, strict=True):
            own, code = self._held[account], self._code[instrument]
            own[code] = own.get(code, 0.0) + quantity
        for account in set(batch["account_id"]):
            own = self._held[account]
            pnl = np.array(list(own.values())) @ self._unit[list(own)]
            worst = np.partition(pnl, self._worst)[: self._worst]
            self.required[account] = max(0.0, -float(worst.mean()))


@dataclass(frozen=True)
class Case:
    """A tracked book of one size on one backend, and the same naively."""

    made: World
    tracker: Tracker
    naive: Naive

    def contenders(self) -> dict[str, Callable[[Columns], Any]]:
        return {"tracker": self.tracker.fill, "account by account": self.naive.fill}


def build(size: Size, backend: Backend) -> Case:
    made = world(size)
    tracker = Tracker(loading.load(made.config, **made.frames), "es", backend, **made.frames)
    unit = tracker.unit_pnl()
    assert unit is not None
    return Case(made, tracker, Naive(made, unit))


def agree(case: Case) -> bool:
    """Whether both have the same requirements of accounts that had fills."""
    table = case.tracker.requirements()
    ours = dict(zip(table["account_id"], table["requirement"], strict=True))
    found = np.array([ours[account] for account in case.naive.required])
    naive = np.array(list(case.naive.required.values()))
    return bool(np.allclose(found, naive, rtol=1e-9, atol=1e-6))


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return backends.load(request.param)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", ["tracker", "account by account"])
def test_fills(benchmark: Any, backend: Backend, name: str) -> None:
    case = build(size_asked("2000x50x250"), backend)
    rounds = 6
    coming = iter(batches(case.made, rounds))
    done: list[Columns] = []

    def next_batch() -> tuple[tuple[Columns], dict[str, Any]]:
        done.append(next(coming))
        return (done[-1],), {}

    benchmark.group = f"{BATCH} fills"
    benchmark.pedantic(case.contenders()[name], setup=next_batch, rounds=rounds)
    (other,) = (fill for key, fill in case.contenders().items() if key != name)
    for batch in done:
        other(batch)
    assert agree(case)


def print_figures(backend: Backend, size: Size, rounds: int = 50) -> None:
    """Fills per second of wall and of CPU time (of all threads)."""
    small = build(Size(50, size.positions, size.scenarios), backend)  # compiled before it is timed
    small.tracker.fill(batches(small.made, 1)[0])
    start = time.perf_counter()
    case = build(size, backend)
    print(f"{backend.name}: {size}, {rounds} batches of {BATCH} fills")
    print(f"  built in {time.perf_counter() - start:.1f} s")
    coming = batches(case.made, rounds)
    for name, fill in case.contenders().items():
        walls, cpu = [], time.process_time()
        for batch in coming:
            wall = time.perf_counter()
            fill(batch)
            walls.append(time.perf_counter() - wall)
        rate, best = rounds * BATCH / sum(walls), BATCH / min(walls)
        cpu_rate = rounds * BATCH / (time.process_time() - cpu)
        print(
            f"  {name:<20}{rate:10,.0f} fills/s (best batch {best:,.0f}, per CPU-s {cpu_rate:,.0f})"
        )
    assert agree(case)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        print_figures(backends.load(chosen), size_asked("20000x50x250"))
