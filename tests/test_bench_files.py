"""A benchmark as files and pages: written as results come, whole also when the run is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_contenders import CEILINGS, TINY
from typer.testing import CliRunner

from gpu_margin import bench, cli
from gpu_margin.bench import apart, charts, files
from gpu_margin.bench.cases import Size
from gpu_margin.bench.result import BenchResult, Row

RECORDED = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("bench-*.json"))
# Signals reach the command also where the tests run in the background.
COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
from gpu_margin.cli import main
main()
"""
# Some minutes of work, one small case after another.
MANY = ",".join(f"{accounts}x2x5" for accounts in range(10, 2000))


def row(contender: str, size: Size, seconds: float | None = 1.0, **more: Any) -> Row:
    """A row of the simulation margin."""
    (workload,) = bench.WORKLOADS["a"]
    known = dict.fromkeys(("ratio", "units_per_second", "gb_s", "copy_share", "floor"), seconds)
    return Row(
        workload="a",
        title=workload.title,
        size=str(size),
        accounts=size.accounts,
        positions=size.positions,
        scenarios=size.scenarios,
        contender=contender,
        kind="practitioner" if contender == "scipy one-shot" else "backend",
        unit="accounts",
        rounds=() if seconds is None else (seconds,),
        seconds=seconds,
        **{
            "status": "skipped" if seconds is None else "ok",
            "units": size.accounts,
            "case_units": size.accounts,
            **known,
            **more,
        },
    )


def result(*rows: Row, **more: Any) -> BenchResult:
    facts = {"processor": "An EPYC", "cores": 2, "memory_bytes": 1, "gpus": [], "system": "Linux"}
    return BenchResult(
        rows=rows,
        ceilings={"host": CEILINGS},
        memory=[],
        backends={"numpy": "host"},
        machine=facts,
        versions={"python": "3"},
        command="gpu-margin bench",
        created="2026-01-02T03:04:05+00:00",
        rounds=1,
        cases=2,
        **more,
    )


# ---------------------------------------------------------------- files


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    full = result(row("numpy", TINY, precision="mixed", note="all"), finished=True, done=2)
    figures, picture = bench.write(full, tmp_path)
    assert figures.name == "bench-2026-01-02T030405-an-epyc.json"
    assert bench.read(figures) == full and picture.stem == figures.stem


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_recorded_results_can_be_read_and_shown(path: Path, tmp_path: Path, capsys: Any) -> None:
    recorded = bench.read(path)
    assert recorded.finished and recorded.state == "finished"
    assert recorded.precisions[0] == "float64" and recorded.done == recorded.cases > 1
    bench.show(recorded)
    assert "scipy one-shot" in capsys.readouterr().out
    assert "ceiling, host" in bench.write(recorded, tmp_path)[1].read_text()


def test_there_are_recorded_results() -> None:
    assert RECORDED


def test_figures_are_kept_after_every_row_and_the_page_after_every_case(tmp_path: Path) -> None:
    keep = apart.keeper(tmp_path, pages=True)
    figures, picture = files.paths(tmp_path, result().created, "An EPYC")
    keep(result())
    assert bench.read(figures) == result() and not picture.exists()
    keep(result(row("numpy", TINY)))
    assert len(bench.read(figures).rows) == 1 and not picture.exists()
    keep(result(row("numpy", TINY), done=1))
    assert "not finished, 1 of 2 cases done" in picture.read_text()
    picture.unlink()
    keep(result(row("numpy", TINY), row("jax", TINY), done=1))
    assert len(bench.read(figures).rows) == 2 and not picture.exists()
    keep(result(row("numpy", TINY), row("jax", TINY), done=1, finished=True))
    assert "<dd>finished</dd>" in picture.read_text()
    assert sorted(tmp_path.iterdir()) == [picture, figures]


def test_without_a_folder_no_page_is_drawn(tmp_path: Path) -> None:
    keep = apart.keeper(tmp_path, pages=False)
    for done in (0, 1, 2):
        keep(result(row("numpy", TINY), done=done, finished=done == 2))
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


# ---------------------------------------------------------------- what people see


def test_a_partial_result_says_so(capsys: Any) -> None:
    part = row("scipy one-shot", TINY, units=10, note="all would need about 80 GiB")
    slow = row("jax", TINY, None, reason="would take about 900 s here")
    bench.show(replace(result(part, slow, row("numpy", TINY), done=1), rounds=5, stopped="by X"))
    shown = capsys.readouterr().out
    assert "stopped by X, 1 of 2 cases done" in shown
    (line,) = [line for line in shown.splitlines() if "scipy one-shot" in line]
    assert "on the first 10 accounts only: all would need about 80 GiB; 1 of 5 rounds" in line
    (line,) = [line for line in shown.splitlines() if " jax " in line]
    assert "skipped: would take about 900 s here" in line


def plot(*rows: Row) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Traces and layout of the plot of these rows."""
    text = charts.chart(result(*rows), 0, list(rows))
    start = text.index("[{", text.index("Plotly.newPlot"))
    traces, end = json.JSONDecoder().raw_decode(text[start:])
    layout = json.JSONDecoder().raw_decode(text[text.index("{", start + end) :])[0]
    return traces, layout


def test_a_plot_has_all_sizes_and_the_ceiling_around_them() -> None:
    sizes = [
        *(Size(10_000, 50, 250), Size(100_000, 50, 250)),
        *(Size(100_000, 50, 1_000), Size(1_000_000, 50, 1_000), Size(1_000_000, 50, 10_000)),
    ]
    rows = [row(name, size, 2.0) for size in sizes for name in ("scipy one-shot", "numba")]
    rows.append(row("jax", sizes[0], 3.0))
    rows.extend(row("jax", size, None, reason="too slow") for size in sizes[1:])
    traces, layout = plot(*rows)
    for name in ("scipy one-shot", "numba"):
        mine = [trace for trace in traces if trace["name"] == name]
        assert [trace["x"] for trace in mine] == [[10_000, 100_000], [100_000, 10**6], [10**6]]
        assert [trace["showlegend"] for trace in mine] == [True, False, False]
    panels = [trace["xaxis"] for trace in traces if trace["name"] == "ceiling, host"]
    assert panels == ["x", "x2", "x3"] or panels == ["x1", "x2", "x3"]
    ceilings = [trace["x"] for trace in traces if trace["name"] == "ceiling, host"]
    assert ceilings[2] == [500_000, 1_000_000, 2_000_000]
    assert ceilings[0] == [5_000, 10_000, 100_000, 200_000]
    titles = [layout[axis]["title"]["text"] for axis in ("xaxis", "xaxis2", "xaxis3")]
    assert titles[2] == "accounts with 50 positions x 10k scenarios"
    assert layout["xaxis3"]["matches"] == "x" and layout["yaxis2"]["matches"] == "y"
    domains = [layout[axis]["domain"] for axis in ("xaxis", "xaxis2", "xaxis3")]
    assert domains[0][0] == 0 and domains[2][1] == 1
    assert domains[0][1] < domains[1][0] and domains[1][1] < domains[2][0]


def test_a_size_of_which_nothing_was_timed_is_in_the_plot() -> None:
    larger = Size(1000, 10, 20)
    traces, _ = plot(row("numpy", TINY), row("numpy", larger, None, reason="too slow"))
    (ceiling,) = [trace for trace in traces if trace["name"] == "ceiling, host"]
    assert ceiling["x"] == [50, 100, 1000, 2000]


def test_precisions_are_lines_of_their_own() -> None:
    rows = [row("numpy", TINY, precision=name) for name in bench.PRECISIONS]
    traces, _ = plot(*rows, row("scipy one-shot", TINY, units=10))
    lines = {trace["name"]: trace for trace in traces if trace["mode"] == "lines+markers"}
    assert list(lines) == ["numpy", "numpy, mixed", "numpy, float32", "scipy one-shot"]
    symbols = {trace["marker"]["symbol"] for trace in lines.values()}
    assert len(symbols) == 3 and len({trace["line"]["color"] for trace in lines.values()}) == 2
    assert lines["scipy one-shot"]["y"] == [10.0]  # a tenth of the accounts in 1 s
    floors = [trace for trace in traces if trace["mode"] == "lines"]
    assert [trace["name"] for trace in floors] == [
        *("ceiling, host", "ceiling, host, mixed", "ceiling, host, float32")
    ]
    assert floors[0]["y"][0] > floors[1]["y"][0] > floors[2]["y"][0]


def test_a_plot_of_nothing_is_a_remark() -> None:
    rows = [row("numpy", TINY, None, reason="too slow")]
    assert "Nothing was timed" in charts.chart(result(*rows), 0, rows)


# ---------------------------------------------------------------- the command


def command(*more: str) -> Any:
    chosen = ("--workload", "a", "--backend", "numpy", "--rounds", "1")
    return CliRunner().invoke(cli.app, ["bench", *chosen, *more])


def test_the_command_writes_a_finished_result(tmp_path: Path) -> None:
    also = ("--precision", "float64,mixed", "--patience", "3", "--limit", "4", "--quiet")
    done = command("--size", "50x4x8,100x4x8", "--out", str(tmp_path / "new"), *also)
    assert done.exit_code == 0, done.output
    page, figures = sorted((tmp_path / "new").iterdir())
    read = json.loads(figures.read_text())
    assert (read["finished"], read["stopped"], read["cases"], read["done"]) == (True, "", 2, 2)
    assert (read["patience"], read["limit"], read["precisions"]) == (3, 4, ["float64", "mixed"])
    assert [one["precision"] for one in read["rows"] if one["contender"] == "numpy"] == [
        *("float64", "mixed") * 2
    ]
    assert [one["contender"] for one in read["memory"]] == ["scipy one-shot", "numpy"]
    assert "<dd>finished</dd>" in page.read_text()


def test_without_a_folder_the_result_is_shown_all_the_same(tmp_path: Path) -> None:
    done = command("--size", "50x4x8", "--json")
    assert done.exit_code == 0 and json.loads(done.output)["finished"] is True


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--precision", "choose some of float64, mixed, float32"),
        ("--backend", "choose some of auto, all"),
        ("--size", "choose laptop, desk, exchange"),
    ],
)
def test_a_wrong_choice_stops_before_anything_runs(option: str, text: str) -> None:
    done = command(option, "nonsense")
    assert done.exit_code == 2 and text in " ".join(done.output.split())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert command("--out", str(tmp_path / "file")).exit_code == 2


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A run of some minutes in `folder` that has its first rows, and its process that measures.

    Of workload (d), whose cases have files in a temporary folder.
    """
    scratch = folder / "scratch"
    scratch.mkdir()
    chosen = ("--workload", "d", "--backend", "numpy", "--rounds", "1", "--size", MANY)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "bench", *chosen, "--out", str(folder / "out")],
        env={**os.environ, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            wait_for(lambda: any(rows_of(path) for path in (folder / "out").glob("*.json")))
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield process, int(children.split()[0])
        finally:
            process.kill()


def rows_of(figures: Path) -> list[Any]:
    rows: list[Any] = json.loads(figures.read_text())["rows"]
    return rows


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 120.0
    while not happened():
        assert time.monotonic() < end, "nothing happened for two minutes"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system has no /proc")
@pytest.mark.parametrize(
    ("number", "whom", "code", "why"),
    [
        (signal.SIGINT, "the command", 130, "stopped by Ctrl-C"),
        (signal.SIGTERM, "the command", 143, "stopped by SIGTERM"),
        (signal.SIGKILL, "its process", 137, "stopped by SIGKILL (perhaps there was too little"),
    ],
)
def test_a_run_that_is_stopped_leaves_what_it_measured(
    tmp_path: Path, number: int, whom: str, code: int, why: str
) -> None:
    with started(tmp_path) as (process, measuring):
        os.kill(process.pid if whom == "the command" else measuring, number)
        shown, complaint = process.communicate(timeout=120)
    assert process.returncode == code, complaint
    with pytest.raises(ProcessLookupError):
        os.kill(measuring, 0)
    page, figures = sorted((tmp_path / "out").iterdir())
    read = bench.read(figures)
    assert read.rows and not read.finished and read.done < read.cases == 1990
    assert read.state.startswith(why) and read.state.endswith("of 1990 cases done")
    assert read.state in page.read_text()
    assert "polars + scipy script" in shown and str(figures) in shown
    assert f"error: {read.state}" in complaint
    assert not list((tmp_path / "scratch").iterdir())


def test_a_process_that_works_on_is_ended_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_MEASURE", "import time; print('[1]', flush=True); time.sleep(60)")

    def stop(step: int) -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        apart._watch({}, "", stop)
    assert time.monotonic() - start < 30


def test_what_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "_GRACE", 0.2)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True)"
    stubborn = [sys.executable, "-c", f"{code}; time.sleep(60)"]
    with subprocess.Popen(
        stubborn, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        apart._end(process)
        assert process.returncode == -signal.SIGKILL


def test_a_process_that_fails_leaves_what_it_measured(tmp_path: Path) -> None:
    figures = bench.write(result(row("numpy", TINY)), tmp_path)[0]
    place = files.paths(tmp_path, result().created)  # of this machine's processor
    figures.rename(place[0])
    (tmp_path / f".{place[0].name}.123.tmp").touch()
    ended = apart._ended(tmp_path, result().created, 1, pages=False)
    assert ended.code == 1 and ended.result is not None and ended.written == ()
    assert ended.result.state.startswith("stopped by a failure of its process, exit code 1, 0 of 2")
    assert not list(tmp_path.glob(".*"))
    assert apart._ended(tmp_path / "none", result().created, -9, pages=True).result is None


@pytest.fixture
def _signals_as_usual() -> Iterator[None]:
    """What runs in the background of a shell has SIGINT ignored, and so have its children."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {one: signal.signal(one, handler) for one, handler in usual.items()}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.usefixtures("_signals_as_usual")
def test_only_the_first_signal_counts() -> None:
    with apart._Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)  # not heard yet
        with pytest.raises(apart._Stopped) as stopped, signals.heard():
            pass
        assert stopped.value.number == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
    with apart._Signals() as signals, signals.heard():
        with pytest.raises(apart._Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
