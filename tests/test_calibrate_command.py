"""The command `gpu-margin calibrate haircuts`: what it writes, shows and refuses."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer.main
from click.testing import Result
from small_case import CASE, VALUATION, covariance, toml, write_tables
from typer.testing import CliRunner

from gpu_margin import cli, engine, loading
from gpu_margin.haircuts import Calibration

ASSETS = """\
asset,price,currency,haircut,fx_haircut,factor,issuer,concentration_limit,note
USD,,USD,,,,,,margin currency
EUR,,EUR,,0.07,,,,
SHARE,100,USD,0.5,,X,ACME,,
AKTIE,40,EUR,0.01,0.02,Y,,1e6,
HOUSE,500,USD,0.4,,,,,
"""
COLLATERAL = """\
account_id,asset,amount
A,SHARE,10
A,USD,1000
B,AKTIE,300
B,EUR,-50
C,HOUSE,2
Z,SHARE,7
"""
COMMON = ("--backend", "numpy")


@dataclass(frozen=True)
class Folder:
    """A folder with a configuration and its tables."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    def calibrate(self, *arguments: object) -> Result:
        words = ["calibrate", "haircuts", str(self.config), *map(str, arguments)]
        return CliRunner().invoke(cli.app, words, env={"COLUMNS": "200"})

    def told(self, *arguments: object) -> dict[str, Any]:
        done = self.calibrate("--json", *COMMON, *arguments)
        assert done.exit_code == 0, done.output
        told: dict[str, Any] = json.loads(done.stdout)
        return told


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Folder]:
    """Writes the folder; `inputs` replace files of the configuration, None leaves one out."""

    def write(rows: str = ASSETS, **inputs: str | None) -> Folder:
        folder = tmp_path / "inputs"
        names = {name: path.name for name, path in write_tables(CASE, folder, "csv").items()}
        (folder / "assets.csv").write_text(rows)
        (folder / "collateral.csv").write_text(COLLATERAL)
        named = {**names, "assets": "assets.csv", "collateral": "collateral.csv", **inputs}
        given = {name: value for name, value in named.items() if value is not None}
        (folder / "config.toml").write_text(toml({**CASE.config, "inputs": given}))
        return Folder(folder)

    return write


@pytest.fixture
def folder(make: Callable[..., Folder]) -> Folder:
    return make()


def rounded_up(loss: float) -> float:
    thousandths = 0
    while thousandths / 1000 < loss - 1e-12:
        thousandths += 5
    return thousandths / 1000


def worst_loss(factor: str, days: int) -> float:
    """Of the small case's history: with 31 dates, the 99% quantile is the worst."""
    prices = [row["price"] for row in CASE.history if row["factor"] == factor]
    return max(1 - later / earlier for earlier, later in zip(prices, prices[days:], strict=False))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_new_table_is_an_assets_table(folder: Folder, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"new.{suffix}"
    done = folder.calibrate("--out", out, "--fx-factor", "EUR=Z", *COMMON)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [out.name]
    table = pl.read_csv(out, try_parse_dates=True) if suffix == "csv" else pl.read_parquet(out)
    assert table.columns == [
        *("asset", "price", "currency", "haircut", "fx_haircut", "concentration_limit"),
        *("issuer_limit", "wrong_way_factor", "factor", "issuer"),
        *("calibrated_on", "method", "source_sha256"),
    ]
    digest = hashlib.sha256((folder.path / "history.csv").read_bytes()).hexdigest()
    assert set(table["source_sha256"]) == {digest}
    assert set(table["calibrated_on"]) == {VALUATION}
    loaded = loading.load(folder.config, assets=out)
    old = loading.load(folder.config)
    assert loaded.assets is not None and old.assets is not None
    assert not len(loaded.failures)
    by_id = dict(zip(loaded.assets.ids, loaded.assets.haircut, strict=True))
    share, aktie = rounded_up(worst_loss("X", 2)), rounded_up(worst_loss("Y", 2))
    assert by_id == {"USD": 0.0, "EUR": 0.0, "HOUSE": 0.4, "SHARE": share, "AKTIE": aktie}
    euro = rounded_up(worst_loss("Z", 2))
    by_id = dict(zip(loaded.assets.ids, loaded.assets.fx_haircut, strict=True))
    assert by_id == {"USD": 0.0, "EUR": euro, "HOUSE": 0.0, "SHARE": 0.0, "AKTIE": euro}
    for same in ("unit_value", "factor", "issuer", "concentration_limit", "wrong_way_factor"):
        assert (getattr(loaded.assets, same) == getattr(old.assets, same)).all()


def test_calibrating_the_new_table_again_changes_nothing(folder: Folder, tmp_path: Path) -> None:
    out = tmp_path / "new.csv"
    first = folder.told("--out", out, "--fx-factor", "EUR=Z")
    (folder.path / "assets.csv").write_text(out.read_text())
    again = folder.told("--out", out, "--overwrite", "--fx-factor", "EUR=Z")
    assert [row["haircut"] for row in again["assets"]] == [
        row["haircut"] for row in first["assets"]
    ]
    assert all(row["haircut"] == row["haircut_in_use"] for row in again["assets"])
    assert again["effect"]["accounts"] == []
    assert (folder.path / "assets.csv").read_text() == out.read_text()


def test_the_effect_is_what_the_holdings_say(folder: Folder) -> None:
    told = folder.told()
    share, aktie = rounded_up(worst_loss("X", 2)), rounded_up(worst_loss("Y", 2))
    change = {
        "A": 10 * 100 * (0.5 - share),
        "B": 300 * 40 * 1.1 * (1 - 0.02) * (0.01 - aktie),
        "Z": 7 * 100 * (0.5 - share),
    }
    rows = told["effect"]["accounts"]
    assert {(row["model"], row["account_id"]) for row in rows} == {
        (model, account) for model in CASE.config["models"] for account in change
    }
    run = engine.run(folder.config, backend="numpy")
    for row in rows:
        value = row["collateral_value_after"] - row["collateral_value"]
        assert value == pytest.approx(change[row["account_id"]], rel=1e-9)
        assert row["excess_after"] - row["excess"] == pytest.approx(value, rel=1e-9)
        assert run.accounts is not None
        own = run.accounts.filter(
            pl.col("netting_set").is_null(),
            pl.col("account_id") == row["account_id"],
            pl.col("model") == row["model"],
        )
        assert own["collateral_value"].to_list() == [row["collateral_value"]]
        assert own["status"].to_list() == [row["status"]]
    for total in told["effect"]["totals"]:
        value = total["collateral_value_after"] - total["collateral_value"]
        assert value == pytest.approx(math.fsum(change.values()), rel=1e-9)
        assert sum(total["status"].values()) == sum(total["status_after"].values())
    assert [row["account_id"] for row in rows[:3]] == ["B", "Z", "A"]


def test_without_collateral_or_on_demand_there_is_no_effect(make: Callable[..., Folder]) -> None:
    assert make(collateral=None).told()["effect"] is None
    assert make().told("--no-effect")["effect"] is None


def test_what_a_person_sees(folder: Folder, tmp_path: Path) -> None:
    stress = VALUATION - timedelta(days=3)
    done = folder.calibrate("--out", tmp_path / "a.csv", *COMMON, "--stress-date", stress)
    for text in ("SHARE", "50.00", "per cent", "quantile", "Effect", "a.csv", "no factor of EUR"):
        assert text in done.stdout, text
    quiet = folder.calibrate("--out", tmp_path / "b.csv", *COMMON, "--quiet")
    assert (quiet.exit_code, quiet.output) == (0, "")
    assert (tmp_path / "b.csv").exists()


def test_a_bad_row_is_said_and_left_out(make: Callable[..., Folder], tmp_path: Path) -> None:
    folder = make(f"{ASSETS}ODD,100,USD,1.5,,X,,,\nGHOST,1,USD,0.1,,NONE,,,\n")
    told = folder.told("--out", tmp_path / "new.csv")
    assert [(row["source"], row["row"], row["field"]) for row in told["failures"]] == [
        ("assets.csv", 6, "haircut"),
        ("assets.csv", 7, "factor"),
    ]
    good = make().told()
    assert told["assets"] == good["assets"]
    assert told["effect"] == good["effect"]
    make()
    history = folder.path / "history.csv"
    history.write_text(history.read_text() + f"{VALUATION},NONE,-5\n")
    assert [row["source"] for row in folder.told()["failures"]] == ["history.csv"]
    assert "haircut outside [0, 1]" in make(f"{ASSETS}ODD,1,USD,2,,,,,\n").calibrate().stdout


def test_a_factor_counts_on_its_own_dates_up_to_the_valuation_date(folder: Folder) -> None:
    """Without two dates of X, Y keeps all of its own; the day after the valuation is not known."""
    history = folder.path / "history.csv"
    header, *rows = history.read_text().splitlines()
    tomorrow = VALUATION + timedelta(days=1)
    kept = [row for number, row in enumerate(rows) if number not in (30, 60)]
    crash = [f"{tomorrow},X,1.0", f"{tomorrow},Y,1.0"]
    before = {row["asset"]: row for row in folder.told("--no-effect")["assets"]}
    history.write_text("\n".join([header, *kept, *crash]) + "\n")
    after = {row["asset"]: row for row in folder.told("--no-effect")["assets"]}
    assert (before["SHARE"]["returns"], after["SHARE"]["returns"]) == (29, 27)
    same = {"source_sha256": None}
    assert after["AKTIE"] | same == before["AKTIE"] | same


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method", "guess"], "--method"),
        (["--confidence", "1"], "--confidence"),
        (["--confidence", "nan"], "--confidence"),
        (["--horizon-days", "0"], "--horizon-days"),
        (["--step", "0"], "--step"),
        (["--decay", "1"], "--decay"),
        (["--lookback", "30"], "asset SHARE, factor X: 30 return(s) over 2 day(s)"),
        (["--stress-date", "yesterday"], "--stress-date"),
        (["--stress-date", "1999-12-31"], "stress date 1999-12-31"),
        (["--fx-factor", "EUR"], "CURRENCY=FACTOR"),
        (["--fx-factor", "EUR=Z", "--fx-factor", "EUR=X"], "two factors"),
        (["--fx-factor", "EUR=ZZ"], "unknown factor 'ZZ'; did you mean 'Z'?"),
        (["--fx-factor", "JPY=Z"], "no asset is in it (foreign: EUR)"),
        (["--out", "new.xlsx"], ".parquet or .csv"),
        (["--out", "nowhere/new.csv"], "folder that is there"),
        (["--out", "inputs/assets.csv"], "--overwrite"),
        (["--backend", "abacus"], "abacus"),
    ],
)
def test_bad_usage(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    unwritten = [] if "--out" in arguments else ["--out", "new.csv"]
    done = folder.calibrate(*arguments, *unwritten)
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["inputs"]
    assert (folder.path / "assets.csv").read_text() == ASSETS


def test_tables_that_are_not_there(make: Callable[..., Folder]) -> None:
    done = make(assets=None, collateral=None).calibrate()
    assert (done.exit_code, "inputs.assets: missing" in done.stderr) == (2, True)
    done = make(assets="other.csv").calibrate()
    assert (done.exit_code, "no such file" in done.stderr) == (2, True)
    header = ASSETS.splitlines()[0]
    done = make(f"{header}\nSHARE,-1,USD,0.5,,X,,,\n").calibrate()
    assert (done.exit_code, "no asset is valid" in done.stderr) == (3, True)


def test_ewma_and_stress_reach_the_measure(folder: Folder) -> None:
    ewma = folder.told("--no-effect", "--method", "ewma", "--decay", 0.5, "--confidence", 0.999)
    plain = folder.told("--no-effect", "--method", "ewma")
    share = [row["haircut"] for told in (ewma, plain) for row in told["assets"][2:3]]
    assert share[0] > share[1] > 0
    assert ewma["assets"][2]["method"] == (
        "ewma 0.999, decay 0.5, 2 days, lookback all, step 0.005"
    )
    stress = folder.told("--no-effect", "--lookback", 1, "--stress-history")
    whole = folder.told("--no-effect")
    assert [row["haircut"] for row in stress["assets"]] == [
        row["haircut"] for row in whole["assets"]
    ]
    assert stress["assets"][2]["rule"] == "stress"
    fine = folder.told("--no-effect", "--step", 0.0001, "--horizon-days", 1)["assets"][2]["haircut"]
    assert 0 <= fine - worst_loss("X", 1) < 0.0001


def test_options_and_settings_have_the_same_defaults() -> None:
    command = typer.main.get_command(cli.app).commands["calibrate"].commands["haircuts"]
    options = {parameter.name: parameter for parameter in command.params}
    names = {"stress_dates": "stress_date", "fx_factors": "fx_factor"}
    for name, field in Calibration.model_fields.items():
        assert (options[names.get(name, name)].default or None) == (field.default or None), name
    for parameter in command.params:
        assert parameter.help, parameter.name


def test_a_model_that_cannot_run_says_so(folder: Folder) -> None:
    """The effect needs the models; haircuts alone do not."""
    text = toml({**CASE.config, "models": {"cov": covariance(lookback=500)}})
    inputs = folder.config.read_text().splitlines()[-1]
    folder.config.write_text(f"{text}{inputs}\n")
    done = folder.calibrate(*COMMON)
    assert (done.exit_code, "models.cov" in done.stderr) == (2, True)
    assert folder.calibrate("--no-effect").exit_code == 0
