"""What the tests of `gpu-margin bench` share: lying backends, and ceilings that cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from gpu_margin import backend as backends
from gpu_margin import bench
from gpu_margin.backend import Rows, TailMeasure, TailResult
from gpu_margin.bench import machine
from gpu_margin.bench.cases import Size
from gpu_margin.bench.result import Row
from gpu_margin.failures import BackendUnavailable

TINY = Size(100, 10, 20)
LARGER = Size(200, 10, 20)
KINDS = bench.WORKLOADS.values()
LIBRARIES = ("duckdb", "QuantLib")  # may be missing
CEILINGS = {
    "copy_gb_s": 10.0,
    "copy_one_core_gb_s": 10.0,
    "gemm_gflop_s": 100.0,
    "gemm_fp32_gflop_s": 200.0,
}


def available(*names: str) -> list[str]:
    found = []
    for name in names:
        if name in backends.backend_names():
            try:
                found.append(backends.load(name).name)
            except BackendUnavailable:
                continue
    return found


class Changed:
    """The NumPy backend, some of its operations replaced."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.name = name
        self._changes = changes
        self._true = backends.load("numpy")

    def __getattr__(self, name: str) -> Any:
        return self._changes.get(name) or getattr(self._true, name)


def off(rows: Rows, matrix: Any, measures: Sequence[TailMeasure]) -> TailResult:
    """One value of one account a little too large."""
    right = backends.load("numpy").tail(rows, matrix, measures)
    value = right.value.copy()
    value[-1, -1] *= 1.0 + 1e-9
    return TailResult(value, right.worst)


def elsewhere(rows: Rows, matrix: Any, measures: Sequence[TailMeasure]) -> TailResult:
    """One account's worst scenario wrong."""
    right = backends.load("numpy").tail(rows, matrix, measures)
    worst = right.worst.copy()
    worst[0] = (worst[0] + 1) % matrix.shape[1]
    return TailResult(right.value, worst)


def coarse(rows: Rows, matrix: Any, measures: Sequence[TailMeasure]) -> TailResult:
    """Right to three parts in a million of each value."""
    right = backends.load("numpy").tail(rows, matrix, measures)
    return TailResult(right.value * (1.0 + 3e-6), right.worst)


def broken(*_: Any) -> TailResult:
    raise MemoryError("no more of it")


def measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings and memory are not measured: they take seconds at any size."""
    monkeypatch.setattr(machine, "host_ceilings", lambda rounds: CEILINGS)
    monkeypatch.setattr(machine, "memory", lambda sizes, devices, slow: [])


def bench_a(*chosen: Any, size: Size = TINY, **more: Any) -> dict[str, Row]:
    """Rows of the simulation margin by contender."""
    rows = bench.run_bench(["a"], [size], chosen, 1, **more).rows
    return {row.contender: row for row in rows}
