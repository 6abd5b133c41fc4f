"""What a benchmark leaves out or cuts short: what does not fit, or would take too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bench_contenders import (
    CEILINGS,
    KINDS,
    LARGER,
    TINY,
    Changed,
    bench_a,
    elsewhere,
    measure_nothing,
)

from gpu_margin import backend as backends
from gpu_margin import bench
from gpu_margin.backend import TailResult
from gpu_margin.bench import cases, harness, machine, pace
from gpu_margin.bench.cases import Size
from gpu_margin.bench.machine import memory
from gpu_margin.bench.margins import SimulationMargin
from gpu_margin.bench.pace import Pace
from gpu_margin.bench.result import Row


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)


def test_what_does_not_fit_is_skipped_with_the_reason() -> None:
    rows = bench_a("numpy", size=Size(10**9, 50, 10_000))
    assert {row.status for row in rows.values()} == {"skipped"} and len(rows) == 4
    assert all("would need about" in row.reason for row in rows.values())
    assert rows["numpy"].kind == "backend" and rows["scipy one-shot"].kind == "practitioner"


def test_what_does_not_fit_a_device_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Changed("small", free_bytes=lambda: 1 << 20)
    monkeypatch.setattr(harness, "on_host", lambda device: device.name != "small")
    monkeypatch.setattr(machine, "device_ceilings", lambda device, rounds: CEILINGS)
    rows = bench_a(small, "numpy")
    assert rows["small"].status == "skipped" and "device memory" in rows["small"].reason
    assert rows["numpy"].status == "ok"


def costs(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Another cost of workload (a) at any size, on a machine with 1 GiB."""
    right = SimulationMargin.work

    def work(self: Any, size: Size, *precision: Any) -> Any:
        return replace(right(self, size, *precision), input_bytes=0, backend_bytes=0, **changes)

    monkeypatch.setattr(SimulationMargin, "work", work)
    monkeypatch.setattr(machine, "free_bytes", lambda: 1 << 30)


def test_a_baseline_that_does_not_fit_is_timed_on_the_first_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs(monkeypatch, baseline_bytes=4 << 30)
    rows = bench_a("numpy")
    part, numpy = rows["scipy one-shot"], rows["numpy"]
    # of 4 GiB for 100 accounts, half of 80% of 1 GiB
    assert (part.status, part.units, part.case_units, part.ratio) == ("ok", 10, 100, 1.0)
    assert part.note == "all would need about 4.0 GiB of host memory, 1.0 GiB are free"
    assert part.seconds and numpy.seconds and numpy.ratio
    assert numpy.ratio == pytest.approx((numpy.seconds / 100) / (part.seconds / 10))


@pytest.mark.parametrize(
    "change", [{"baseline_bytes": 1e18}, {"baseline_bytes": 4 << 30, "together": 0}]
)
def test_a_baseline_without_a_part_that_fits_is_skipped(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """Backends are checked all the same, against a reference on some of the accounts."""
    monkeypatch.setattr(cases, "REFERENCE_CELLS", 50 * TINY.scenarios)
    costs(monkeypatch, **change)
    rows = bench_a("numpy", Changed("liar", tail=elsewhere))
    assert rows["scipy one-shot"].status == "skipped"
    assert "would need about" in rows["scipy one-shot"].reason
    assert rows["numpy"].status == "ok" and rows["numpy"].ratio is None
    assert "in 1 of 50 rows" in rows["liar"].reason


@pytest.mark.parametrize("kind", [kind for kinds in KINDS for kind in kinds], ids=lambda k: k.title)
def test_a_part_is_the_first_units(kind: Any) -> None:
    together = kind.work(TINY).together
    if together:
        case = kind.build(TINY)
        for name in set(kind.practitioners) - set(kind.partial):
            one = case.practitioner(name, 3 * together)
            assert one.units == 3 * together
            assert bench.complaint(case, one, one.run()) == ""
    assert together or kind.key == "d"


def step_by_step(limit: float, *chosen: Any, sizes: Sequence[Size] = (LARGER, TINY)) -> list[Row]:
    """Rows of the simulation margin at several sizes."""
    return list(bench.run_bench(["a"], sizes, chosen, 1, limit=limit).rows)


class NoProducts(np.ndarray[Any, Any]):
    """An array of a device without a library for matrix products."""

    def __matmul__(self, other: Any) -> Any:
        raise ImportError("libcublas.so.13: cannot open shared object file")


def test_a_device_without_matrix_products_is_benchmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_COPIED", 1 << 12)
    monkeypatch.setattr(machine, "_ORDER_DEVICE", 8)
    device = Changed("device", to_device=lambda array: array.view(NoProducts), to_host=np.asarray)
    monkeypatch.setattr(harness, "on_host", lambda device: device.name != "device")
    result = bench.run_bench(["a"], [TINY], [device, "numpy"], 1)
    assert set(result.ceilings["device"]) == {"copy_gb_s"}
    row = next(row for row in result.rows if row.contender == "device")
    work, copy = SimulationMargin().work(TINY), result.ceilings["device"]["copy_gb_s"]
    assert row.status == "ok" and row.floor == pytest.approx(work.compulsory_bytes / copy / 1e9)
    assert set(machine.device_ceilings(backends.load("numpy"), 1)) == {
        *("copy_gb_s", "gemm_gflop_s", "gemm_fp32_gflop_s")
    }


def test_a_device_that_fails_at_once_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(array: Any) -> Any:
        raise RuntimeError("the GPU has fallen off the bus")

    monkeypatch.setattr(harness, "on_host", lambda device: device.name != "lost")
    rows = bench_a(Changed("lost", to_device=lost), "numpy")
    assert rows["lost"].status == "skipped" and "fallen off the bus" in rows["lost"].reason
    assert rows["numpy"].status == "ok"


def test_small_sizes_come_first() -> None:
    rows = step_by_step(600.0, sizes=[LARGER, TINY, replace(TINY, accounts=150)])
    assert list(dict.fromkeys(row.accounts for row in rows)) == [100, 150, 200]


def test_what_was_too_slow_at_a_smaller_size_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller size comes first; nothing is known of it, so it runs whatever the limit."""
    monkeypatch.setattr(pace, "TELLING_SECONDS", 0.0)
    rows = step_by_step(1e-12, "numpy")
    smaller = [row for row in rows if row.size == "100 x 10 x 20"]
    larger = [row for row in rows if row.size == "200 x 10 x 20"]
    assert rows == [*smaller, *larger] and {row.status for row in smaller} == {"ok"}
    assert {row.status for row in larger} == {"skipped"} and len(larger) == len(smaller)
    for row in larger:
        assert row.reason.startswith("would take about 0 s here (from its ")
        assert row.reason.endswith(" s at 100 x 10 x 20)")
        assert row.units == row.case_units == 200 and row.note == ""


def test_short_times_tell_nothing_of_larger_sizes() -> None:
    rows = step_by_step(1e-12, "numpy")
    assert {row.status for row in rows} == {"ok"}


def test_a_slow_baseline_is_timed_on_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "TELLING_SECONDS", 0.0)
    right = Pace.expect

    def expect(self: Pace, row: Row, work: Any) -> Any:
        """Ten seconds for the smaller size of the baseline."""
        known = right(self, row, work)
        fixed = row.contender == "scipy one-shot" and known
        return replace(known, seconds=row.units / 10) if fixed else known

    monkeypatch.setattr(Pace, "expect", expect)
    rows = {row.contender: row for row in step_by_step(15.0, "numpy")[-4:]}
    assert rows["scipy one-shot"].units == 75 and rows["scipy one-shot"].status == "ok"
    assert rows["scipy one-shot"].note.startswith("all would take about ")
    assert rows["numpy"].units == 200 and rows["numpy"].ratio is not None


def test_the_rate_of_the_largest_smaller_size_counts() -> None:
    workload = SimulationMargin()
    known = Pace()

    def row(accounts: int, seconds: float | None, **more: Any) -> tuple[Row, Any]:
        size = Size(accounts, 10, 20)
        blank = replace(harness._blank(workload, size), contender="jax", seconds=seconds)
        return replace(blank, **more), workload.work(size)

    assert known.expect(*row(1000, None)) is None
    for accounts, seconds in ((100, 1.0), (200, 4.0), (5000, 0.5), (300, 0.01)):
        known.learn(*row(accounts, seconds))
    found = known.expect(*row(1000, None))
    assert found is not None and found.seconds == pytest.approx(20.0)
    assert found.text == "about 20 s here (from its 4 s at 200 x 10 x 20)"
    half = known.expect(*row(1000, None, units=500))
    assert half is not None and half.seconds == pytest.approx(10.0)
    assert known.expect(*row(50, None)) is None
    for other in ({"contender": "numpy"}, {"variant": "kernel"}, {"precision": "mixed"}):
        assert known.expect(*row(1000, None, **other)) is None


@pytest.mark.parametrize(("patience", "rounds"), [(0.0, 1), (1000.0, 4)])
def test_patience_bounds_the_rounds(patience: float, rounds: int) -> None:
    calls: list[int] = []

    def counted(*arguments: Any) -> TailResult:
        calls.append(1)
        return backends.load("numpy").tail(*arguments)

    chosen = [Changed("counted", tail=counted)]
    rows = bench.run_bench(["a"], [TINY], chosen, 4, patience=patience).rows
    assert [len(row.rounds) for row in rows] == [rounds] * 4
    assert len(calls) == rounds + 1  # and the one that warms up


def test_memory_is_measured_at_a_size_that_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, laptop = Size(1_000_000, 50, 10_000), Size(10_000, 50, 250)
    monkeypatch.setattr(machine, "free_bytes", lambda: 1 << 40)
    assert machine._memory_size([laptop, exchange]) == Size(100_000, 50, 1_000)
    monkeypatch.setattr(machine, "free_bytes", lambda: 1 << 30)
    assert machine._memory_size([laptop, exchange]) == laptop
    monkeypatch.setattr(machine, "free_bytes", lambda: 1 << 20)
    (row,) = memory([laptop], [])
    assert row["reason"] == "the baseline fits at no size"


def test_the_memory_of_what_is_too_slow_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(name: str, *_: Any) -> dict[str, int]:
        assert name != "numpy"
        return {"imported": 1, "peak": 2}

    monkeypatch.setattr(machine, "_measure_apart", measured)
    slow = {"numpy": "would take ages", "scipy one-shot": ""}
    rows = list(memory([TINY], [backends.load("numpy")], lambda name, size: slow[name]))
    assert [(row["contender"], row["reason"]) for row in rows] == [*reversed(slow.items())]
    assert [row.get("peak") for row in rows] == [2, None]


@pytest.mark.parametrize(("patience", "why"), [(0.0, "would take about 0 s"), (600.0, "")])
def test_memory_knows_the_patience(
    monkeypatch: pytest.MonkeyPatch, patience: float, why: str
) -> None:
    def asked(sizes: Any, devices: Any, slow: Any) -> list[dict[str, Any]]:
        return [{"numpy": slow("numpy", TINY), "unknown": slow("unknown", TINY)}]

    monkeypatch.setattr(machine, "memory", asked)
    monkeypatch.setattr(pace, "TELLING_SECONDS", 0.0)
    (reasons,) = bench.run_bench(["a"], [TINY], ["numpy"], 1, patience=patience).memory
    assert reasons["numpy"].startswith(why) and bool(reasons["numpy"]) == bool(why)
    assert reasons["unknown"] == ""
