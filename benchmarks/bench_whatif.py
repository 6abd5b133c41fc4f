"""What-ifs from resident scenario vectors, beside recomputing the account; ratios within one run.

`pytest benchmarks/bench_whatif.py` times a small book. The size is WHATIF_SIZE = ACCOUNTSxPOSITIONS
xSCENARIOS (that of issue 4: 100000x50x1000, for which there must be 1.5 GB); as a script it prints
microseconds of CPU per what-if and the memory that the resident arrays take, per backend:

    WHATIF_SIZE=100000x50x1000 python benchmarks/bench_whatif.py numba
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from gpu_margin import backend as backends
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import placed
from gpu_margin.directory import Directory, directory_of
from gpu_margin.failures import BackendUnavailable
from gpu_margin.portfolio import Portfolio, Rows, entry_rows
from gpu_margin.resident import RecomputedBook, ResidentBook
from gpu_margin.unit_risk import Requirement, ScenarioVectors
from gpu_margin.whatif import Legs, outcome

Floats = NDArray[np.float64]
NAMES = ("numba", "numpy")
BATCH, TRADES, INSTRUMENTS = 1000, 5, 2000


@dataclass(frozen=True)
class Size:
    accounts: int
    positions: int
    scenarios: int


def size_asked() -> Size:
    return Size(*(int(n) for n in os.environ.get("WHATIF_SIZE", "2000x50x1000").split("x")))


class Model:
    """Expected shortfall at 99% of random unit P&L, as far as books know models."""

    def __init__(self, unit: Floats, backend: Backend) -> None:
        k = max(1, unit.shape[1] // 100)
        self.measure = TailMeasure((1.0,) * k, float(k))
        self.vectors = ScenarioVectors(backend.to_device(unit), self.measure)
        self._backend = backend

    def require(self, rows: Rows) -> Requirement:
        """As a simulation model does it."""
        device = placed(rows, self._backend).device
        found = self._backend.tail(device, self.vectors.matrix, [self.measure])
        amount = np.maximum(self._backend.to_host(found.value)[:, 0], 0.0)
        return Requirement(amount, {}, self._backend.to_host(found.worst))


def random_portfolio(size: Size) -> Portfolio:
    """Each account with as many different instruments, long and short."""
    rng = np.random.default_rng(1)
    step = INSTRUMENTS // size.positions
    shape = (size.accounts, size.positions)
    column = (np.arange(size.positions) * step + rng.integers(0, step, shape)).ravel()
    value = rng.integers(1, 50, column.size) * rng.choice([-1.0, 1.0], column.size)
    ids = pl.Series([f"account {n:07d}" for n in range(size.accounts)])
    count = np.arange(size.accounts, dtype=np.int64)
    offsets = np.arange(size.accounts + 1, dtype=np.int64) * size.positions
    rows = Rows(offsets, column, value)
    return Portfolio(ids, ids, count, rows, np.ones_like(count), np.zeros_like(count))


def random_legs(directory: Directory, seed: int) -> Legs:
    """A batch of what-ifs, each of a random account."""
    rng = np.random.default_rng(seed)
    account = rng.integers(0, len(directory.accounts), BATCH)
    whatif = np.repeat(np.arange(BATCH, dtype=np.int64), TRADES)
    instrument = rng.integers(0, INSTRUMENTS, len(whatif))
    quantity = rng.integers(1, 20, len(whatif)) * rng.choice([-1.0, 1.0], len(whatif))
    return Legs(account, whatif, directory.first[account][whatif], instrument, quantity)


def by_scenarios(unit: Floats, portfolio: Portfolio, legs: Legs, measure: TailMeasure) -> Floats:
    """[what-if] what a practitioner writes: the account's positions and the trades, multiplied."""
    rows, after = portfolio.rows, np.empty(len(legs.account))
    owner = entry_rows(Rows(np.arange(0, len(legs.whatif) + 1, TRADES), legs.whatif, legs.quantity))
    for number, account in enumerate(legs.account.tolist()):
        held = slice(rows.offsets[account], rows.offsets[account + 1])
        own = owner == number
        pnl = rows.value[held] @ unit[rows.column[held]]
        pnl += legs.quantity[own] @ unit[legs.instrument[own]]
        after[number] = max(0.0, -np.sort(pnl)[: len(measure.weights)].mean())
    return after


@dataclass(frozen=True)
class Case:
    """A book of one size: resident and not, on one backend."""

    unit: Floats
    portfolio: Portfolio
    directory: Directory
    model: Model
    resident: ResidentBook

    @cached_property
    def recomputed(self) -> RecomputedBook:
        """Made when it is asked for: it nets the whole portfolio, which takes memory."""
        model: Any = self.model
        return RecomputedBook(model, self.portfolio)

    def contenders(self) -> dict[str, Callable[[Legs], Floats]]:
        return {
            "resident": lambda legs: outcome(self.resident, self.directory, legs).after,
            "recomputed": lambda legs: outcome(self.recomputed, self.directory, legs).after,
            "matrix product": lambda legs: by_scenarios(
                self.unit, self.portfolio, legs, self.model.measure
            ),
        }


def build(size: Size, backend: Backend) -> Case:
    unit = np.random.default_rng(0).normal(size=(INSTRUMENTS, size.scenarios))
    portfolio = random_portfolio(size)
    directory, portfolio = directory_of(portfolio)
    model: Any = Model(unit, backend)
    resident = ResidentBook(model, portfolio, backend)
    return Case(unit, portfolio, directory, model, resident)


def agree(case: Case, name: str, legs: Legs) -> bool:
    """Whether a contender is right, to 1e-12 of what is added up."""
    expected = case.contenders()["matrix product"](legs)
    positions = np.diff(case.portfolio.rows.offsets).max() + TRADES
    gross = 50.0 * positions * np.abs(case.unit).max()
    return bool(np.allclose(case.contenders()[name](legs), expected, rtol=0, atol=1e-12 * gross))


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return backends.load(request.param)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", ["resident", "recomputed", "matrix product"])
def test_whatifs(benchmark: Any, backend: Backend, name: str) -> None:
    case = build(size_asked(), backend)
    legs = random_legs(case.directory, 2)
    benchmark.group = f"{BATCH} what-ifs of {TRADES} trades"
    benchmark.pedantic(case.contenders()[name], args=(legs,), rounds=5, warmup_rounds=1)
    assert agree(case, name, legs)


def megabytes(what: str) -> float:
    """A line of this process's status, where the system has one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1e3


def print_figures(backend: Backend, size: Size, rounds: int = 20) -> None:
    """Microseconds per what-if (CPU of all threads, and wall), and memory."""
    case = build(Size(10, size.positions, size.scenarios), backend)  # compiled before it is timed
    for contender in case.contenders().values():
        contender(random_legs(case.directory, 0))
    del case, contender
    start, before = time.perf_counter(), megabytes("VmRSS")
    case = build(size, backend)
    arrays = [case.resident.matrix, case.unit, *vars(case.portfolio.rows).values()]
    held = sum(array.nbytes for array in arrays) / 1e6
    print(f"{backend.name}: {size}, {BATCH} what-ifs of {TRADES} trades per batch")
    print(f"  resident arrays {held:,.0f} MB, in {time.perf_counter() - start:.1f} s")
    print(
        f"  RSS {megabytes('VmRSS'):,.0f} MB (peak {megabytes('VmHWM'):,.0f}; {before:,.0f} before)"
    )
    batches = [random_legs(case.directory, seed) for seed in range(rounds)]
    for name, contender in case.contenders().items():
        assert agree(case, name, batches[0]), name
        cpu, wall = time.process_time(), time.perf_counter()
        for legs in batches:
            contender(legs)
        taken = (time.process_time() - cpu, time.perf_counter() - wall)
        each = [1e6 * seconds / rounds / BATCH for seconds in taken]
        print(f"  {name:<16}{each[0]:10.1f} us of CPU{each[1]:10.1f} us")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or NAMES:
        print_figures(backends.load(chosen), size_asked())
