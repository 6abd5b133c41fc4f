"""The command `gpu-margin export-state`: files in, a folder that a run takes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tracker_case as case
import typer
from small_case import write_case
from tracker_case import Row, columns, fill, mark
from typer.testing import CliRunner

import gpu_margin
from gpu_margin import export_cli
from gpu_margin.io.fill_tables import FILL_COLUMNS, FILL_OPTIONAL
from gpu_margin.io.mark_tables import MARK_COLUMNS, MARK_OPTIONAL
from gpu_margin.io.tables import read_table

APP = typer.Typer()
APP.command()(export_cli.export_state)

FILLS = [
    fill("1", "A", "FUTX", 1.0, 100.0, fee=0.5),
    fill("2", "C", "SPOTX", -4.0, 100.0),
    fill("1", "A", "FUTX", 1.0, 100.0),
    fill("3", "C", "FUTX", 9.0, 150.0),
]
MARKS = [mark("FUTX", "price", 102.0), mark("PERPY", "price", 51.0)]


def called(*arguments: Any) -> Any:
    return CliRunner().invoke(APP, [str(one) for one in (*arguments, "--backend", "numpy")])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A run with collateral, its inputs in a folder of their own."""
    path = write_case(replace(case.CASE_WITH_MORE, config=case.CONFIG), tmp_path / "inputs")
    case.ASSETS.write_parquet(path.parent / "assets.parquet")
    case.COLLATERAL.write_parquet(path.parent / "collateral.parquet")
    text = path.read_text().replace(
        "inputs = { ", "inputs = { assets = 'assets.parquet', collateral = 'collateral.parquet', "
    )
    path.write_text(text)
    return path


def written(rows: list[Row], path: Path) -> Path:
    frame = pl.DataFrame(columns(rows))
    (frame.write_csv if path.suffix == ".csv" else frame.write_parquet)(path)
    return path


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_fills_and_marks_from_files(config: Path, tmp_path: Path, form: str) -> None:
    fills, marks = written(FILLS, tmp_path / f"f.{form}"), written(MARKS, tmp_path / f"m.{form}")
    out = tmp_path / "state"
    done = called(config, "--out", out, "--fills", fills, "--marks", marks)
    assert done.exit_code == 0, done.output
    for text in ("fills: 3 applied, 1 skipped, 0 failed", "marks: 2 applied", "liquidation"):
        assert text in done.output
    expected = case.tracker()
    expected.mark(columns(MARKS))
    expected.fill(columns(FILLS))
    finished = gpu_margin.run(out / "config.toml", backend="numpy")
    assert finished.accounts is not None
    assert finished.accounts.filter(model="es").equals(expected.accounts())


def test_nothing_but_a_copy(config: Path, tmp_path: Path) -> None:
    done = called(config, "--out", tmp_path / "state", "--json")
    assert done.exit_code == 0
    found = json.loads(done.output)
    assert (found["fills"]["applied"], found["events"], found["model"]) == (0, [], "es")
    assert sum(found["statuses"].values()) == found["accounts"] + 1  # F has no positions
    first, then = (gpu_margin.run(one, backend="numpy") for one in (config, found["config"]))
    assert first.margins.equals(then.margins)


def test_bad_rows(config: Path, tmp_path: Path) -> None:
    rows = [FILLS[0], FILLS[1] | {"instrument_id": "NONE"}]
    arguments = (config, "--fills", written(rows, tmp_path / "f.csv"))
    done = called(*arguments, "--out", tmp_path / "state")
    assert done.exit_code == 0
    assert "fills: 1 applied, 0 skipped, 1 failed" in done.output
    assert "unknown instrument" in done.output
    assert called(*arguments, "--out", tmp_path / "other", "--strict").exit_code == 1


def test_bad_usage(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "state"
    assert called(config, "--out", out, "--model", "none").exit_code == 2
    assert called(config, "--out", out, "--fills", tmp_path / "none").exit_code == 2
    done = called(config, "--out", config.parent, "--overwrite")
    assert done.exit_code == 2 and "has inputs.positions of the run in it" in done.output
    assert called(config, "--out", out).exit_code == 0
    assert called(config, "--out", out).exit_code == 2
    assert called(config, "--out", out, "--overwrite").exit_code == 0


# ---------------------------------------------------------------- what comes when


def sequence(fills: list[Row] | None, marks: list[Row] | None) -> list[Any]:
    """Batches as (what, the quantities or values in it)."""
    fill_table = mark_table = None
    if fills is not None:
        names = (FILL_COLUMNS, (*FILL_OPTIONAL, "time"))
        fill_table = read_table(pl.DataFrame(fills), "fills", *names)
    if marks is not None:
        mark_table = read_table(pl.DataFrame(marks), "marks", MARK_COLUMNS, MARK_OPTIONAL)
    return [
        (name, part.frame["quantity" if name == "fills" else "value"].to_list())
        for name, part in export_cli.in_sequence(fill_table, mark_table)
    ]


def timed(quantity: float, time: Any) -> Row:
    return fill("1", "A", "FUTX", quantity, 1.0, time=time)


def test_marks_come_first_where_fills_have_no_time() -> None:
    fills = [fill("1", "A", "FUTX", q, 1.0) for q in (1.0, 2.0)]
    marks = [mark("FUTX", "price", 7.0, 2.0), mark("FUTX", "price", 6.0, 1.0)]
    assert sequence(fills, marks) == [("marks", [6.0]), ("marks", [7.0]), ("fills", [1.0, 2.0])]
    assert sequence(None, marks) == [("marks", [6.0]), ("marks", [7.0])]
    assert sequence(fills, None) == [("fills", [1.0, 2.0])]
    assert sequence(None, None) == []


def test_marks_come_before_the_fills_of_their_time() -> None:
    fills = [timed(1.0, 1.0), timed(2.0, 2.0), timed(3.0, None), timed(4.0, 1.5), timed(5.0, 9.0)]
    marks = [mark("FUTX", "price", value, value) for value in (2.0, 2.5, 2.0, 10.0)]
    assert sequence(fills, marks) == [
        ("fills", [1.0]),
        ("marks", [2.0, 2.0]),
        ("fills", [2.0, 3.0, 4.0]),
        ("marks", [2.5]),
        ("fills", [5.0]),
        ("marks", [10.0]),
    ]


def test_batches_have_a_thousand_fills() -> None:
    fills = [fill(str(n), "A", "FUTX", float(n), 1.0) for n in range(2300)]
    assert [len(values) for _, values in sequence(fills, None)] == [1000, 1000, 300]
