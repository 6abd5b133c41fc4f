"""The benchmark harness: answers are checked, what cannot run is named, and results are written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpu_margin import backend as backends
from gpu_margin import bench
from gpu_margin.backend import Rows, TailMeasure, TailResult
from gpu_margin.bench import cases, machine
from gpu_margin.bench.cases import Answer, Reference, Size
from gpu_margin.bench.margins import SimulationMargin
from gpu_margin.bench.result import BenchResult, Row
from gpu_margin.failures import BackendUnavailable, ConfigError

TINY = Size(100, 10, 20)
KINDS = bench.WORKLOADS.values()
LIBRARIES = ("duckdb", "QuantLib")  # may be missing
CEILINGS = {"copy_gb_s": 10.0, "copy_one_core_gb_s": 10.0, "gemm_gflop_s": 100.0}


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


def broken(*_: Any) -> TailResult:
    raise MemoryError("no more of it")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings and memory not measured: they take seconds at any size."""
    monkeypatch.setattr(machine, "host_ceilings", lambda rounds: CEILINGS)
    monkeypatch.setattr(machine, "memory", lambda sizes, devices: [])


def bench_a(*chosen: Any, size: Size = TINY, **more: Any) -> dict[str, Row]:
    """Rows of the simulation margin by contender."""
    rows = bench.run_bench(["a"], [size], chosen, 1, **more).rows
    return {row.contender: row for row in rows}


@pytest.fixture(scope="module")
def whole() -> BenchResult:
    """Every workload on the host's backends, nothing left out."""
    names = available("numpy", "numba")
    return bench.run_bench(bench.workloads("all"), [TINY], names, rounds=1)


def test_every_workload_gives_checked_times(whole: BenchResult) -> None:
    timed = {(row.workload, row.title, row.contender) for row in whole.rows if row.status == "ok"}
    for key, kinds in bench.WORKLOADS.items():
        for kind in kinds:
            optional = {name for name in kind.practitioners if name.split()[0] in LIBRARIES}
            for name in {*kind.practitioners, *available("numpy", "numba")} - optional:
                assert (key, kind.title, name) in timed
    assert not [row for row in whole.rows if row.status in ("wrong", "failed")]
    for row in whole.rows:
        if row.status == "ok":
            assert row.seconds == min(row.rounds) and 0 < row.seconds < 60
            assert row.error is not None and 0 <= row.error <= 1e-12
            assert row.ratio is not None and row.units_per_second == row.units / row.seconds
            assert row.units <= row.case_units
        else:
            assert row.reason and row.seconds is None and row.ratio is None


def test_the_baseline_is_the_unit_of_ratios(whole: BenchResult) -> None:
    first = {kind.title: kind.practitioners[0] for kinds in KINDS for kind in kinds}
    ratios = {row.ratio for row in whole.rows if first[row.title] == row.contender}
    assert ratios == {1.0}


def test_ceilings_and_memory_are_measured(whole: BenchResult) -> None:
    assert set(whole.ceilings["host"]) == {"copy_gb_s", "copy_one_core_gb_s", "gemm_gflop_s"}
    assert all(0.1 < figure < 1e6 for figure in whole.ceilings["host"].values())
    assert [row["contender"] for row in whole.memory][:2] == ["scipy one-shot", "numpy"]
    for row in whole.memory:
        assert row["reason"] == ""
        assert row["arrow"] == 24 * 1000
        assert 10 << 20 < row["imported"] < row["peak"] < 4 << 30


def test_results_are_written_whole(whole: BenchResult, tmp_path: Path) -> None:
    figures, picture = bench.write(whole, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        (figures.name, picture.name)
    )
    assert figures.name.startswith("bench-20") and figures.stem == picture.stem
    read = json.loads(figures.read_text())
    assert set(read) == {"schema", *(field.name for field in fields(BenchResult))}
    assert all(set(row) == {field.name for field in fields(Row)} for row in read["rows"])
    assert {"processor", "cores", "memory_bytes", "gpus"} <= set(read["machine"])
    assert {"python", "numpy", "scipy", "polars"} <= set(read["versions"])
    assert read["command"] and read["created"] and read["backends"]["numpy"]
    text = picture.read_text()
    assert "https://cdn" not in text.split("</script></head>")[1]
    assert text.count('class="chart"') == 5 and text.count("ceiling, host") == 5


def test_the_terminal_shows_every_row(whole: BenchResult, capsys: Any) -> None:
    bench.show(whole)
    shown = capsys.readouterr().out
    for row in whole.rows:
        figure = "" if row.ratio is None else f"{row.ratio:.3f}"
        lines = [line for line in shown.splitlines() if f" {row.contender} " in line]
        assert any(figure in line and row.reason in line for line in lines), row
    assert "measured ceilings" in shown and "Memory of (a)" in shown


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("tail", "reason"), [(off, "of gross, more than 1e-12"), (elsewhere, "worst scenario in 1 of")]
)
def test_a_wrong_answer_is_named_and_its_time_not_shown(tail: Any, reason: str) -> None:
    result = bench.run_bench(["a"], [TINY], [Changed("liar", tail=tail), "numpy"], 1)
    liar, honest = (row for row in result.rows if row.kind == "backend")
    assert liar.status == "wrong" and reason in liar.reason
    assert liar.seconds is None and liar.ratio is None and liar.rounds == ()
    assert honest.status == "ok" and result.wrong == 1


@pytest.mark.usefixtures("quick")
def test_an_answer_that_goes_wrong_later_is_found() -> None:
    calls: list[int] = []

    def sometimes(*arguments: Any) -> TailResult:
        calls.append(1)
        return (off if len(calls) > 1 else backends.load("numpy").tail)(*arguments)

    assert bench_a(Changed("liar", tail=sometimes))["liar"].status == "wrong"
    assert len(calls) == 2


@pytest.mark.usefixtures("quick")
def test_a_failing_backend_stops_nobody() -> None:
    rows = bench_a(Changed("broken", tail=broken), "numpy")
    assert rows["broken"].status == "failed"
    assert rows["broken"].reason == "MemoryError: no more of it"
    assert rows["numpy"].status == "ok"


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_is_skipped_with_the_reason() -> None:
    rows = bench_a("numpy", size=Size(10**9, 50, 10_000))
    assert {row.status for row in rows.values()} == {"skipped"} and len(rows) == 4
    assert all("too large: needs about" in row.reason for row in rows.values())
    assert rows["numpy"].kind == "backend" and rows["scipy one-shot"].kind == "practitioner"


@pytest.mark.usefixtures("quick")
def test_what_does_not_fit_a_device_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Changed("small", free_bytes=lambda: 1 << 20)
    monkeypatch.setattr(bench, "on_host", lambda device: device.name != "small")
    monkeypatch.setattr(machine, "device_ceilings", lambda device, rounds: CEILINGS)
    rows = bench_a(small, "numpy")
    assert rows["small"].status == "skipped" and "device memory" in rows["small"].reason
    assert rows["numpy"].status == "ok"


@pytest.mark.usefixtures("quick")
def test_the_baseline_alone_may_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends are then checked against a reference on some of the accounts."""
    monkeypatch.setattr(cases, "REFERENCE_CELLS", 50 * TINY.scenarios)
    needed = bench.WORKLOADS["a"][0].work(TINY)
    plenty = replace(needed, baseline_bytes=1e18)
    monkeypatch.setattr(SimulationMargin, "work", lambda self, size: plenty)
    rows = bench_a("numpy", Changed("liar", tail=elsewhere))
    assert "too large" in rows["scipy one-shot"].reason
    assert rows["numpy"].status == "ok" and rows["numpy"].ratio is None
    assert "in 1 of 50 rows" in rows["liar"].reason


@pytest.mark.usefixtures("quick")
def test_a_backend_that_cannot_run_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise BackendUnavailable(f"{name}: no such device")

    monkeypatch.setattr(backends, "load", load)
    row = bench_a("cupy")["cupy"]
    assert row.status == "skipped" and row.reason == "cupy: no such device"


@pytest.mark.usefixtures("quick")
def test_another_dtype_needs_a_backend_that_says_so() -> None:
    single = Changed("single", dtypes=("float64", "float32"), tail=lambda *_: None)
    rows = bench_a("numpy", single, dtype="float32")
    assert rows["numpy"].reason == "does not work in float32"
    assert rows["single"].status == "failed"  # it was tried
    assert rows["scipy one-shot"].status == "ok"


@pytest.mark.usefixtures("quick")
def test_sizes_that_are_alike_run_once() -> None:
    twice = [TINY, replace(TINY, scenarios=30)]
    result = bench.run_bench(["b"], twice, ["numpy"], 1)
    assert len([row for row in result.rows if row.contender == "numpy"]) == 1


@pytest.mark.usefixtures("quick")
def test_progress_reaches_its_end() -> None:
    seen: dict[str, tuple[int, int]] = {}
    bench.run_bench(["a"], [TINY], ["numpy"], 1, lambda *step: seen.update({step[0]: step[1:]}))
    assert seen == {"ceilings": (1, 1), "(a) 100 x 10 x 20": (4, 4)}


def test_names_are_checked() -> None:
    assert bench.sizes("laptop,100x10x20") == (Size(10_000, 50, 250), TINY)
    assert bench.sizes("desk")[1] == Size(100_000, 50, 1_000)
    assert bench.workloads("c,a,c") == ("c", "a")
    for text in ("huge", "10x10", "0x1x1", ""):
        with pytest.raises(ConfigError, match="laptop, desk, exchange, or ACCOUNTS"):
            bench.sizes(text)
    with pytest.raises(ConfigError, match="choose all, or some of a, b, c, d"):
        bench.workloads("a,e")
    with pytest.raises(ConfigError, match="unknown backend 'abacus'"):
        bench.run_bench(["a"], [TINY], ["abacus"], 1)


@pytest.mark.parametrize(
    ("value", "worst", "reason"),
    [
        ([[1.0], [np.nan]], [0, 1], "off by nan"),
        ([[1.0]], [0], "shape"),
        ([[1.0], [2.0]], None, "no worst scenario"),
        ([[1.0], [2.0 + 1e-14]], [0, 1], ""),
    ],
)
def test_the_reference_complains(value: Any, worst: Any, reason: str) -> None:
    right = Answer(np.array([[1.0], [2.0]]), np.array([0, 1]))
    reference = Reference(np.arange(2), right, np.ones(2))
    got = Answer(np.array(value), None if worst is None else np.array(worst))
    complaint = reference.complaint(got, 2, 1e-12, worst=True)[1]
    assert complaint.startswith(reason) and bool(complaint) == bool(reason)
