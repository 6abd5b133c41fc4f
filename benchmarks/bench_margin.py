"""Simulation margin of a whole book, beside what a practitioner would write.

Run with `make bench`; figures to compare are the ratios within one run. The book has 50 positions
per account drawn from 2,000 instruments by popularity (Zipf), as books of exchanges have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import demo
from gpu_margin.backend import Rows, TailMeasure

ACCOUNTS, POSITIONS, INSTRUMENTS, SCENARIOS = 10_000, 50, 2_000, 250
K = 7  # expected shortfall at 97.5% of 250 scenarios
MEASURE = TailMeasure((1.0,) * K, float(K))


@pytest.fixture(scope="module")
def book() -> tuple[Rows, Any]:
    rng = np.random.default_rng(1)
    popularity = 1.0 / np.arange(1, INSTRUMENTS + 1)
    column = rng.choice(INSTRUMENTS, (ACCOUNTS, POSITIONS), p=popularity / popularity.sum()).astype(
        np.int64
    )
    offsets = np.arange(ACCOUNTS + 1, dtype=np.int64) * POSITIONS
    value = rng.integers(-100, 100, ACCOUNTS * POSITIONS).astype(np.float64)
    rows = Rows(offsets, np.sort(column, axis=1).ravel(), value)
    return rows, rng.normal(size=(INSTRUMENTS, SCENARIOS))


@pytest.mark.parametrize("name", ["numpy", "jax"])
def test_tail(benchmark: Any, book: tuple[Rows, Any], name: str) -> None:
    rows, matrix = book
    device = backends.load(name)
    resident = Rows(*(device.to_device(a) for a in (rows.offsets, rows.column, rows.value)))
    unit = device.to_device(matrix)

    def margin() -> Any:
        return device.to_host(device.tail(resident, unit, [MEASURE]).value)

    got = benchmark.pedantic(margin, rounds=5, warmup_rounds=1)
    assert np.allclose(got[:, 0], one_shot(rows, matrix), rtol=1e-12)


def test_scipy_one_shot(benchmark: Any, book: tuple[Rows, Any]) -> None:
    """What a practitioner writes: all rows x scenarios at once, then a partition."""
    benchmark.pedantic(one_shot, args=book, rounds=5, warmup_rounds=1)


def one_shot(rows: Rows, matrix: Any) -> Any:
    sparse = csr_array((rows.value, rows.column, rows.offsets), shape=(len(rows), INSTRUMENTS))
    pnl = sparse @ matrix
    pnl.partition(K - 1, axis=1)
    return -pnl[:, :K].mean(axis=1)


def test_copy_bandwidth(benchmark: Any) -> None:
    """The machine's ceiling: copying as many bytes as the one-shot P&L has."""
    source = np.ones((ACCOUNTS, SCENARIOS))
    benchmark.pedantic(source.copy, rounds=5, warmup_rounds=1)


def test_demo_run(benchmark: Any, tmp_path: Path) -> None:
    """The whole demo run, from Parquet to tables in memory: 10,000 accounts, two models."""
    config = demo.write(demo.build(), tmp_path)
    run = benchmark.pedantic(
        gpu_margin.run, args=(config,), kwargs={"backend": "numpy"}, rounds=3, warmup_rounds=1
    )
    assert len(run.margins) == 20_000
