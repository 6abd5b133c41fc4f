"""Commands, exit codes and files of the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result
from random_tables import Case, random_case, write_case
from typer.testing import CliRunner

from gpu_margin import cli

FILES = {
    *("margins.parquet", "components.parquet", "sets.parquet", "groups.parquet"),
    *("failures.parquet", "manifest.json", "report.html"),
}
MARGIN_COLUMNS = [
    *("account_id", "model", "level", "currency", "requirement", "standalone", "offset"),
    *("offset_ratio", "net_exposure", "gross_exposure", "positions", "worst_scenario", "complete"),
]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def case() -> Case:
    return random_case(31, max_instruments=8, max_accounts=4)


@pytest.fixture
def config(case: Case, tmp_path: Path) -> Path:
    return write_case(case, tmp_path / "inputs", "parquet")


@pytest.fixture
def flawed(case: Case, tmp_path: Path) -> Path:
    bad = {"account_id": "bad", "instrument_id": "nothing", "quantity": 1.0}
    positions = [*case.positions, bad]
    other = Case(case.seed, case.config, positions, case.instruments, case.history, case.fx)
    return write_case(other, tmp_path / "flawed", "csv")


def test_run_writes_everything(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("run", config, "--out", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == FILES
    margins = pl.read_parquet(out / "margins.parquet")
    assert margins.columns == MARGIN_COLUMNS
    assert margins.select("account_id", "model", "level").is_unique().all()
    assert pl.read_parquet(out / "groups.parquet").columns == [
        *("account_id", "model", "product_group", "requirement", "positions")
    ]
    assert pl.read_parquet(out / "components.parquet").columns == [
        *("account_id", "model", "level", "component", "amount")
    ]
    assert pl.read_parquet(out / "failures.parquet").columns == [
        *("reason", "source", "row", "field", "value")
    ]
    assert "report.html" in done.output


def test_the_manifest_says_what_was_computed_from_what(config: Path, tmp_path: Path) -> None:
    invoke("run", config, "--out", tmp_path / "out", "--backend", "numpy")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["backend"]["name"] == "numpy"
    for name in ("positions", "instruments", "history"):
        assert Path(manifest["inputs"][name]["path"]) == config.parent / f"{name}.parquet"
        assert len(manifest["inputs"][name]["sha256"]) == 64
    margins = pl.read_parquet(tmp_path / "out" / "margins.parquet")
    assert manifest["counts"]["accounts"] == margins["account_id"].n_unique()
    total = sum(row["requirement"] for row in manifest["totals"])
    assert total == pytest.approx(margins["requirement"].sum(), rel=1e-12)
    assert {"load", "tables", "write", "report"} <= manifest["seconds"].keys()
    assert {"python", "numpy", "polars"} <= manifest["versions"].keys()


def test_the_hash_of_parameters_follows_them(case: Case, tmp_path: Path) -> None:
    def digest(text: str) -> str:
        config.write_text(text)
        told = invoke("run", config, "--out", tmp_path / "out", "--json", "--overwrite").stdout
        return str(json.loads(told)["parameters_sha256"])

    config = write_case(case, tmp_path, "parquet")
    text = config.read_text()
    assert digest(text) == digest("# a comment\n" + text)
    other = text.replace("confidence = 0.9", "confidence = 0.8", 1)
    assert other != text
    assert digest(text) != digest(other)


def test_a_folder_in_use_is_refused(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert invoke("run", config, "--out", out, "--quiet").exit_code == 0
    refused = invoke("run", config, "--out", out)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert invoke("run", config, "--out", out, "--overwrite", "--quiet").exit_code == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert invoke("run", config, "--out", config).exit_code == 2


def test_quiet_says_nothing_and_json_is_json(config: Path, tmp_path: Path) -> None:
    quiet = invoke("run", config, "--out", tmp_path / "a", "--quiet")
    assert quiet.stdout == quiet.stderr == ""
    told = json.loads(invoke("run", config, "--out", tmp_path / "b", "--json").stdout)
    assert told["folder"] == str(tmp_path / "b")
    assert told["totals"]
    checked = json.loads(invoke("validate", config, "--json").stdout)
    assert checked["counts"]["failures"] == 0
    found = json.loads(invoke("devices", "--json").stdout)
    assert {"numpy", "jax", "cupy"} <= {device["name"] for device in found}


def test_failed_rows_change_the_exit_code_only_when_strict(flawed: Path, tmp_path: Path) -> None:
    for command in (
        ["run", flawed, "--out", tmp_path / "out", "--overwrite"],
        ["validate", flawed],
    ):
        loose = invoke(*command)
        assert loose.exit_code == 0
        assert "unknown instrument" in loose.output
        assert "positions.csv" in loose.output
        assert invoke(*command, "--strict").exit_code == 1


def test_nothing_computed(case: Case, tmp_path: Path) -> None:
    hopeless = [{**row, "instrument_id": "nothing"} for row in case.positions]
    other = Case(case.seed, case.config, hopeless, case.instruments, case.history, case.fx)
    config = write_case(other, tmp_path / "inputs", "csv")
    done = invoke("run", config, "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "nothing computed" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert pl.read_parquet(tmp_path / "out" / "margins.parquet")["requirement"].is_null().all()
    assert invoke("validate", config).exit_code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["run", "no-such.toml", "--out", "out"],
        ["frobnicate"],
        ["demo", "--accounts", "0"],
        ["demo", "--accounts", "many"],
    ],
)
def test_bad_usage(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(*arguments).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_an_unknown_backend(config: Path, tmp_path: Path) -> None:
    done = invoke("run", config, "--out", tmp_path / "out", "--backend", "abacus")
    assert done.exit_code == 2
    assert "numpy" in done.stderr


def test_explain_in_words_and_json(config: Path, case: Case, tmp_path: Path) -> None:
    invoke("run", config, "--out", tmp_path / "out", "--quiet")
    account = case.positions[0]["account_id"]
    words = invoke("explain", tmp_path / "out", account)
    assert words.exit_code == 0
    assert "contribution" in words.output
    told = json.loads(invoke("explain", tmp_path / "out", account, "--json").stdout)
    assert [part["model"] for part in told] == list(case.config["models"])
    for part in told:
        total = sum(position["contribution"] for position in part["positions"])
        slack = 1e-12 * part["figures"]["gross_exposure"]
        assert total == pytest.approx(part["figures"]["requirement"], rel=1e-9, abs=slack)
    assert invoke("explain", tmp_path / "out", "nobody").exit_code == 2
    assert invoke("explain", tmp_path, account).exit_code == 3


def test_demo_can_be_made_twice_but_not_over_something_else(tmp_path: Path) -> None:
    arguments = ["demo", "--accounts", 30, "--out", tmp_path / "demo", "--quiet"]
    assert invoke(*arguments).exit_code == 0
    first = pl.read_parquet(tmp_path / "demo" / "results" / "margins.parquet")
    assert invoke(*arguments).exit_code == 0
    assert pl.read_parquet(tmp_path / "demo" / "results" / "margins.parquet").equals(first)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert invoke("demo", "--accounts", 30, "--out", tmp_path / "mine").exit_code == 2


def test_the_command_is_installed(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("gpu-margin")
    done = subprocess.run(
        [command, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    for name in ("run", "validate", "explain", "devices", "demo"):
        assert name in done.stdout
