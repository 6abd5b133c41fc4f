"""The benchmark harness: answers are checked, what cannot run is named, and results are written."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_contenders import (
    CEILINGS,
    KINDS,
    LARGER,
    LIBRARIES,
    TINY,
    Changed,
    available,
    bench_a,
    broken,
    coarse,
    elsewhere,
    measure_nothing,
    off,
)

from gpu_margin import backend as backends
from gpu_margin import bench
from gpu_margin.backend import TailResult
from gpu_margin.bench import cases, machine
from gpu_margin.bench.cases import Answer, Reference, Size
from gpu_margin.bench.margins import SimulationMargin
from gpu_margin.bench.result import BenchResult, Row
from gpu_margin.failures import BackendUnavailable, ConfigError


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_nothing(monkeypatch)


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
    assert set(whole.ceilings["host"]) == set(CEILINGS)
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
    assert text.count('class="chart"') == 5 and text.count('"name":"ceiling, host"') == 5


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
def test_a_backend_that_cannot_run_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise BackendUnavailable(f"{name}: no such device")

    monkeypatch.setattr(backends, "load", load)
    row = bench_a("cupy")["cupy"]
    assert row.status == "skipped" and row.reason == "cupy: no such device"


@pytest.mark.usefixtures("quick")
def test_another_dtype_needs_a_backend_that_says_so() -> None:
    double = Changed("double", dtypes=("float64",))
    rows = bench_a("numpy", double, precisions=["mixed"])
    assert rows["double"].reason == "does not work in mixed"
    assert rows["numpy"].status == "ok"
    assert rows["scipy one-shot"].status == "ok" and rows["scipy one-shot"].precision == "float64"


@pytest.mark.usefixtures("quick")
def test_precisions_stand_beside_each_other() -> None:
    chosen = bench.precisions("float32,mixed, float64")
    rows = bench.run_bench(["a"], [TINY], ["numpy"], 1, precisions=chosen).rows
    found = {row.precision: row for row in rows if row.kind == "backend"}
    assert tuple(found) == chosen and all(row.status == "ok" for row in found.values())
    errors = {name: row.error or 0.0 for name, row in found.items()}
    assert errors["float64"] < 1e-14 < 1e-9 < errors["mixed"] < 2e-7 < 1e-6
    assert errors["mixed"] < errors["float32"] < 1e-5
    # Float32 values and a float32 matrix are read in 12 and 80 bytes of each entry, not 16 and 160.
    read = {name: (row.gb_s or 0) * (row.seconds or 0) * 1e6 for name, row in found.items()}
    assert read == pytest.approx({"float64": 176, "mixed": 96, "float32": 92})
    assert [row.precision for row in rows if row.kind == "practitioner"] == ["float64"] * 3
    floors = {name: row.floor or 0.0 for name, row in found.items()}
    assert floors["float64"] > floors["mixed"] > floors["float32"] > 0.0


@pytest.mark.usefixtures("quick")
def test_float32_has_the_ceiling_of_its_own_products(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {**CEILINGS, "gemm_gflop_s": 1e-3, "gemm_fp32_gflop_s": 4e-3}
    monkeypatch.setattr(machine, "host_ceilings", lambda rounds: slow)
    rows = bench.run_bench(["a"], [TINY], ["numpy"], 1, precisions=bench.PRECISIONS).rows
    floors = [row.floor for row in rows if row.kind == "backend"]
    assert floors == pytest.approx([0.04, 0.04, 0.01])  # of 40,000 operations


@pytest.mark.usefixtures("quick")
def test_each_precision_has_its_own_tolerance() -> None:
    both = ["mixed", "float32"]
    result = bench.run_bench(["a"], [TINY], [Changed("coarse", tail=coarse)], 1, precisions=both)
    mixed, float32 = (row for row in result.rows if row.kind == "backend")
    assert mixed.status == "wrong" and "more than 1e-06" in mixed.reason
    assert float32.status == "ok" and 1e-6 < (float32.error or 0.0) < 1e-5


@pytest.mark.usefixtures("quick")
def test_workloads_in_float64_only_say_so() -> None:
    both = bench.run_bench(["b"], [TINY], ["numpy"], 1, precisions=["float64", "mixed"]).rows
    assert (both[0].contender, both[0].reason) == ("(all)", "no mixed: in float64 only")
    assert [row.status for row in both[1:]] == ["ok"] * 3
    (only,) = bench.run_bench(["d"], [TINY], ["numpy"], 1, precisions=["float32"]).rows
    assert only.status == "skipped" and only.reason == "no float32: in float64 only"


@pytest.mark.usefixtures("quick")
def test_sizes_that_are_alike_run_once() -> None:
    twice = [TINY, replace(TINY, scenarios=30)]
    result = bench.run_bench(["b"], twice, ["numpy"], 1)
    assert len([row for row in result.rows if row.contender == "numpy"]) == 1


@pytest.mark.usefixtures("quick")
def test_progress_reaches_its_end() -> None:
    seen: dict[str, tuple[int, int]] = {}
    bench.run_bench(["a"], [TINY], ["numpy"], 1, lambda *step: seen.update({step[0]: step[1:]}))
    done = {"ceilings": (1, 1), "(a) 100 x 10 x 20": (4, 4), "memory of (a)": (1, 1)}
    assert seen == done


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
    assert bench.backend_choice("auto, numpy,auto") == ("auto", "numpy")
    with pytest.raises(ConfigError, match="unknown backend 'abacus'; choose some of auto, all, "):
        bench.backend_choice("numpy,abacus")
    with pytest.raises(ConfigError, match="choose some of float64, mixed, float32"):
        bench.precisions("float64,float16")


@pytest.mark.usefixtures("quick")
def test_variants_of_a_device_fetch_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    sent: list[int] = []

    def to_host(array: Any) -> Any:
        fetched.append(array.size)
        return array

    def to_device(array: Any) -> Any:
        sent.append(array.size)
        return array

    monkeypatch.setattr(cases, "on_host", lambda device: False)
    device: Any = Changed("device", to_host=to_host, to_device=to_device)
    case = SimulationMargin().build(TINY)
    upload, resident, kernel = case.backend(device)
    moved = {}
    for one in (upload, resident, kernel):
        fetched.clear()
        sent.clear()
        result = one.run()
        moved[one.variant] = (list(sent), list(fetched))
        assert bench.complaint(case, one, result) == ""
    # offsets, columns and values; two measures and the worst scenario, or one to wait for them
    assert moved["upload"] == ([101, 1000, 1000], [200, 100])
    assert moved["resident"] == ([], [200, 100])
    assert moved["kernel"] == ([], [1])


@pytest.mark.usefixtures("quick")
def test_results_are_kept_as_they_come() -> None:
    seen: list[BenchResult] = []
    result = bench.run_bench(["a"], [TINY, LARGER], ["numpy"], 1, keep=seen.append)
    assert [len(one.rows) for one in seen] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 8]
    assert [one.done for one in seen] == [0] * 5 + [1] * 5 + [2] * 2
    assert {one.cases for one in seen} == {2}
    assert [one.finished for one in seen] == [False] * 11 + [True] and seen[-1] == result
    assert (seen[3].state, result.state) == ("not finished, 0 of 2 cases done", "finished")


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
