"""SIMM of whole books, both sides and every level, beside ORE, another calculator of SIMM.

`pytest benchmarks/bench_simm.py`; the size is SIMM_SIZE portfolios of 200 rows (default 10000), of
which ORE computes 300, as ours do in the same group. ORE is skipped where it is not installed
(`pip install open-source-risk-engine`). `extra_info` has the rates: compare those across groups.
Rates per CPU second, memory and growth are `simm_load.py`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import simm_book
import simm_load
import simm_ore

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.crif import Crif
from gpu_margin.failures import BackendUnavailable
from gpu_margin.io.crif import read_crif
from gpu_margin.models.simm import tables

SIZE, BESIDE_ORE = int(os.environ.get("SIMM_SIZE", "10000")), 300
NAMES = ("numba", "numpy")
ROUNDS = 5
SIZES = pytest.mark.parametrize("portfolios", sorted({SIZE, BESIDE_ORE}, reverse=True))


@cache
def book(portfolios: int) -> Crif:
    return simm_book.book(portfolios)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    try:
        return backends.load(request.param)
    except BackendUnavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def ore() -> None:
    try:
        simm_ore.load()
    except ImportError:
        pytest.skip("no ORE: install gpu-margin[ore]")


def timed(benchmark: Any, group: str, portfolios: int, work: Callable[[], Any]) -> Any:
    """What the work gives; noted with how many portfolios a second, of CPU time also."""
    seconds = []

    def measured() -> Any:
        start = time.process_time()
        done = work()
        seconds.append(time.process_time() - start)
        return done

    benchmark.group = f"SIMM of {portfolios} portfolios {group}"
    done = benchmark.pedantic(measured, rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["portfolios_per_cpu_second"] = portfolios / min(seconds)
    return done


@SIZES
def test_in_memory(benchmark: Any, backend: Backend, portfolios: int) -> None:
    crif = book(portfolios)
    found = timed(benchmark, "in memory", portfolios, lambda: simm_load.margins(crif, backend))
    assert_totals(found, portfolios)


@SIZES
def test_from_a_file(benchmark: Any, backend: Backend, portfolios: int, tmp_path: Path) -> None:
    path = simm_load.crif_file(book(portfolios), tmp_path)
    found = timed(
        benchmark, "from a file", portfolios, lambda: simm_load.margins(read_crif(path), backend)
    )
    assert_totals(found, portfolios)
    assert found.equals(simm_load.margins(book(portfolios), backend))


@pytest.mark.usefixtures("ore")
def test_in_memory_by_ore(benchmark: Any) -> None:
    newest = tables.load(tables.LATEST).version
    calculator = simm_ore.Calculator(simm_book.frame(book(BESIDE_ORE)), newest)
    found = timed(benchmark, "in memory", BESIDE_ORE, calculator.calculate)
    ours = simm_load.margins(book(BESIDE_ORE), backends.load("numpy"), newest)
    assert simm_load.differing(ours, calculator.figures(found)) == 0


@pytest.mark.usefixtures("ore")
def test_from_a_file_by_ore(benchmark: Any, tmp_path: Path) -> None:
    """The newest version that its application has, to a file."""
    version = simm_ore.BY_APPLICATION[-1]
    application = simm_ore.Application(tmp_path, version)
    simm_ore.write_text(simm_book.frame(book(BESIDE_ORE)), application.crif)
    timed(benchmark, "from a file", BESIDE_ORE, application.run)
    ours = simm_load.margins(book(BESIDE_ORE), backends.load("numpy"), version)
    assert simm_load.differing(ours, application.figures()) == 0


def assert_totals(found: pl.DataFrame, portfolios: int) -> None:
    """Every portfolio has a total on both sides."""
    levels = ("product_class", "risk_class", "margin_type")
    totals = found.filter(pl.col(level) == "All" for level in levels)
    assert len(totals) == 2 * portfolios and (totals["initial_margin"] > 0.0).all()
