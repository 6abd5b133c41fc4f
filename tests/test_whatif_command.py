"""The command `gpu-margin whatif`: what it shows and writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import small_case
import typer
from small_case import CASE
from test_whatif import NUMPY, TRADES, loaded, standings, trade
from typer.testing import CliRunner, Result

import gpu_margin
from gpu_margin import whatif_cli
from gpu_margin.saving import save
from gpu_margin.whatif import Answers, WhatIf


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whatif")
    config = small_case.write_case(CASE, folder / "inputs", "csv")
    save(gpu_margin.run(config, backend="numpy"), folder / "out")
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Results and trades; the inputs are shared."""
    shutil.copytree(finished / "out", tmp_path / "out")
    small_case.frame(TRADES[:11]).write_csv(tmp_path / "trades.csv")
    return tmp_path


def command(folder: Path, *options: str, trades: str = "trades.csv") -> Result:
    app = typer.Typer()
    app.command()(whatif_cli.whatif)
    start = [str(folder / "out"), "--trades", str(folder / trades), "--backend", "numpy"]
    return CliRunner().invoke(app, [*start, *options], env={"COLUMNS": "160"})


def test_the_command_answers_as_python_does(folder: Path) -> None:
    done = command(folder, "--json")
    assert done.exit_code == 0, done.output
    expected = WhatIf(loaded(CASE), NUMPY).ask(small_case.frame(TRADES[:11]))
    printed = json.loads(done.stdout)
    assert printed == {"answers": expected.table.to_dicts(), "failures": []}
    for name, read in (("a.csv", pl.read_csv), ("a.parquet", pl.read_parquet)):
        assert command(folder, "--out", str(folder / name), "--model", "es").exit_code == 0
        written: pl.DataFrame = read(folder / name)
        own = expected.table.filter(pl.col("model") == "es")
        assert written.with_columns(pl.col("status_after").cast(pl.String)).equals(own)
    assert not list(folder.glob(".*"))


def test_the_largest_changes_are_shown_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way; what has no answer comes last."""
    monkeypatch.setenv("COLUMNS", "160")
    answered = WhatIf(loaded(CASE), NUMPY, model="es").ask(small_case.frame(TRADES[:1]))
    row = answered.table.row(0, named=True)
    rows = [row | {"whatif_id": "unknown", "change": None}]
    rows += [row | {"whatif_id": f"w{n}", "change": n * (-1.0) ** n} for n in range(10, 40)]
    table = pl.DataFrame(rows, schema=answered.table.schema)
    whatif_cli.show(Answers(table, answered.failures))
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    shown = [line[0] for line in words if line and line[0][0] == "w" and line[0][1:].isdigit()]
    assert shown == [f"w{n}" for n in range(39, 19, -1)]
    assert words[-1][:5] == ["11", "more", "with", "smaller", "changes"]


def test_the_command_reads_the_status(folder: Path) -> None:
    table = standings(WhatIf(loaded(CASE), NUMPY), C={"collateral_value": 0.0})
    table.write_parquet(folder / "out" / "accounts.parquet")
    answers = json.loads(command(folder, "--json").stdout)["answers"]
    found = {(row["whatif_id"], row["model"]): row["status_after"] for row in answers}
    assert found["close", "es"] == "ok"
    assert found["nothing", "cov"] == "liquidation"


def test_the_command_says_what_is_wrong(folder: Path, finished: Path) -> None:
    bad = [*TRADES[:2], trade("x", "nobody", "FUTX", 1.0)]
    small_case.frame(bad).write_csv(folder / "bad.csv")
    done = command(folder, trades="bad.csv")
    assert done.exit_code == 0 and "Failed rows: 1" in done.stdout
    assert command(folder, "--strict", trades="bad.csv").exit_code == 1
    assert command(folder, "--strict", "--allow-new", trades="bad.csv").exit_code == 0
    small_case.frame(bad[2:]).write_csv(folder / "bad.csv")
    assert command(folder, trades="bad.csv").exit_code == 3
    (folder / "there.csv").write_text("mine")
    for options in (
        ("--model", "none"),
        ("--out", str(folder / "a.xlsx")),
        ("--out", str(folder / "no" / "a.csv")),
        ("--out", str(folder / "there.csv")),
        ("--backend", "none"),
    ):
        done = command(folder, *options)
        assert done.exit_code == 2 and "error: " in done.stderr, options
    assert (folder / "there.csv").read_text() == "mine"
    assert command(folder, "--out", str(folder / "there.csv"), "--overwrite").exit_code == 0
    assert command(folder, trades="absent.csv").exit_code == 2
    (folder / "out" / "manifest.json").unlink()
    assert command(folder).exit_code == 3


def test_the_command_refuses_changed_inputs(folder: Path, finished: Path) -> None:
    path = finished / "inputs" / "history.csv"
    before = path.read_bytes()
    path.write_bytes(before + b"\n")
    try:
        done = command(folder)
    finally:
        path.write_bytes(before)
    assert done.exit_code == 3 and "has changed since the run" in done.stderr
