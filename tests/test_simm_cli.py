"""The command `gpu-margin simm`: what it shows and writes, what it refuses, and the README's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result
from polars.testing import assert_frame_equal
from simm_book_case import book
from typer.testing import CliRunner

import gpu_margin
from gpu_margin import cli, demo_crif
from gpu_margin.models.simm.kinds import RISK_CLASSES
from gpu_margin.simm_run import SimmRun

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LEVELS = [
    *("portfolio_id", "side", "regulation", "product_class", "risk_class", "margin_type"),
    *("bucket", "initial_margin"),
]
BESIDE = ("failures", "changes", "trades", "contributions", "trade_contributions", "comparison")
ASKED = ["--add", "crif_new.csv", "--remove", "coal-2027, cds-bank-5y", "--remove", "swap-EUR-10y"]
ASKED += ["--attribution", "--compare", "2.5"]
BAD = {"PortfolioID": "utility", "ProductClass": "Commodity", "RiskType": "Risk_Commodity"}
BAD["Qualifier"] = "Brent"


def invoke(*arguments: object) -> Result:
    words = ["simm", *(str(argument) for argument in arguments), "--backend", "numpy"]
    return CliRunner().invoke(cli.app, words)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's CRIFs and one with bad rows, in which commands run."""
    monkeypatch.chdir(tmp_path)
    demo_crif.crif().write_csv("crif.csv")
    demo_crif.ideas().write_csv("crif_new.csv")
    bad = [{**BAD, "Bucket": "2", "AmountUSD": "much"}, {**BAD, "Bucket": "x", "AmountUSD": "1"}]
    text = demo_crif.crif().with_columns(pl.col("AmountUSD").cast(pl.String)).drop("Amount")
    pl.concat([text, pl.DataFrame(bad)], how="diagonal").write_csv("bad.csv")
    pl.DataFrame(bad).write_csv("hopeless.csv")
    return tmp_path


def asked() -> SimmRun:
    return gpu_margin.simm(
        "crif.csv",
        add="crif_new.csv",
        remove=["coal-2027", "cds-bank-5y", "swap-EUR-10y"],
        attribution=True,
        against="2.5",
        backend="numpy",
    )


def test_the_long_table_is_written(folder: Path) -> None:
    done = invoke("crif.csv", "--out", "m.parquet", "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert sorted(path.name for path in folder.glob("*m.*")) == ["m.failures.parquet", "m.parquet"]
    table = pl.read_parquet("m.parquet")
    assert table.columns == LEVELS
    total = table.filter(pl.all_horizontal(pl.col(name) == "All" for name in LEVELS[3:7]))
    assert total.select("portfolio_id", "side").rows() == [
        (portfolio, side)
        for portfolio in ("hedge-fund", "pension-fund", "utility")
        for side in ("Call", "Post")
    ]
    assert set(RISK_CLASSES) <= set(table["risk_class"])
    assert_frame_equal(table, gpu_margin.simm("crif.csv", backend="numpy").levels)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_what_is_asked_for_is_written_beside(folder: Path, suffix: str) -> None:
    done = invoke("crif.csv", *ASKED, "--out", f"m.{suffix}")
    assert done.exit_code == 0, done.output
    run = asked()
    assert run.comparison is not None
    read: Any = pl.read_csv if suffix == "csv" else pl.read_parquet
    for name in BESIDE:
        path = folder / f"m.{name}.{suffix}"
        assert f"written: {path.name}" in done.stdout
        wanted = run.comparison.levels if name == "comparison" else getattr(run, name)
        if name != "failures":
            texts = [
                pl.col(n).fill_null("") for n, kind in wanted.schema.items() if kind == pl.String
            ]
            found = read(path).cast(wanted.schema).with_columns(texts)
            assert_frame_equal(found, wanted, check_exact=True)
    assert not list(folder.glob(".*"))


def test_json_says_what_python_says() -> None:
    told = json.loads(invoke("crif.csv", *ASKED, "--json").stdout)
    run = asked()
    for name in ("totals", "changes", "trades", "contributions", "trade_contributions", "failures"):
        assert told[name] == getattr(run, name).to_dicts(), name
    assert "levels" not in told
    assert told["version"] == run.version and told["against"] == "2.5"
    assert told["comparison"]["before"] == run.version
    assert run.comparison is not None
    assert told["comparison"]["totals"] == run.comparison.totals.to_dicts()
    assert told["counts"] == {
        "portfolios": 3,
        "incomplete_portfolios": 0,
        "rows": run.manifest["counts"]["rows"],
        "failures": 0,
    }
    one = json.loads(invoke("crif.csv", *ASKED, "--json", "--portfolio", "utility").stdout)
    for name in ("levels", "totals", "trades", "contributions"):
        assert {row["portfolio_id"] for row in one[name]} == {"utility"}
    assert {row["portfolio_id"] for row in one["comparison"]["levels"]} == {"utility"}


def test_bad_rows_are_shown_and_written_and_strict_counts_them() -> None:
    done = invoke("bad.csv", "--out", "m.csv")
    assert done.exit_code == 0, done.output
    assert "Failed rows: 2" in done.stdout and "amount_usd = 'much'" in done.stdout
    assert re.search(r"utility .* incomplete", done.stdout)
    failures = pl.read_csv("m.failures.csv")
    assert failures["field"].to_list() == ["amount_usd", "bucket"]
    assert set(failures["source"]) == {"bad.csv"}
    assert invoke("bad.csv", "--strict").exit_code == 1
    assert invoke("crif.csv", "--strict").exit_code == 0


def test_nothing_computed() -> None:
    for source in ("hopeless.csv", "empty.csv"):
        Path("empty.csv").write_text("a\n", encoding="utf-8")
        done = invoke(source, "--attribution", "--compare", "2.6", "--out", "m.csv", "--overwrite")
        assert done.exit_code == 3
        assert "nothing computed" in done.stderr and "Failed rows" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.csv"], "no such file"),
        (["crif.csv", "--version", "9"], "known versions: 2.2, "),
        (["crif.csv", "--compare", "9"], "known versions: 2.2, "),
        (["crif.csv", "--horizon", "5d"], "horizon"),
        (["crif.csv", "--side", "collect"], "side"),
        (["crif.csv", "--calculation-currency", "euro"], "three letters"),
        (["crif.csv", "--result-currency", "EUR"], "fx table"),
        (["crif.csv", "--remove", "coal2027"], "did you mean 'coal-2027'?"),
        (["crif.csv", "--portfolio", "nobody"], "no such portfolio"),
        (["crif.csv", "--fx", "rates.csv"], "no such file"),
        (["crif.csv", "--out", "m.xlsx"], ".parquet or .csv"),
        (["crif.csv", "--out", "crif.csv"], "--overwrite"),
        (["crif.csv", "--out", "there.csv"], "there.failures.csv"),
        (["crif.csv", "--backend", "abacus"], "abacus"),
        ([], "Missing argument"),
        (["crif.csv", "--sides", "call"], "No such option"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, arguments: list[str], said: str) -> None:
    Path("there.failures.csv").touch()
    before = sorted(path.name for path in folder.iterdir())
    words = ["simm", *arguments] if "--backend" in arguments else None
    done = CliRunner().invoke(cli.app, words) if words else invoke(*arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert sorted(path.name for path in folder.iterdir()) == before


def test_the_result_currency_scales_what_is_shown() -> None:
    pl.DataFrame({"currency": ["EUR"], "rate": [2.0]}).write_csv("fx.csv")
    usd = json.loads(invoke("crif.csv", "--json").stdout)
    eur = json.loads(
        invoke("crif.csv", "--json", "--result-currency", "eur", "--fx", "fx.csv").stdout
    )
    assert eur["result_currency"] == "EUR"
    for one, other in zip(usd["totals"], eur["totals"], strict=True):
        assert other["initial_margin"] == one["initial_margin"] / 2.0


def test_twenty_portfolios_are_shown_and_how_many_more() -> None:
    book(25).write_csv("many.csv")
    done = invoke("many.csv", "--side", "post")
    lines = [line.split() for line in done.stdout.splitlines()]
    shown = [line for line in lines if line and re.fullmatch("P0..", line[0])]
    figures = [float(line[1].replace(",", "")) for line in shown]
    assert len(shown) == 20 and figures == sorted(figures, reverse=True)
    assert "5 more portfolios with smaller margins" in done.stdout
    totals = gpu_margin.simm("many.csv", side="post", backend="numpy").totals["initial_margin"]
    (whole,) = [line for line in lines if line[:2] == ["all", "portfolios"]]
    assert whole[2] == f"{totals.sum():,.2f}"
    assert {line[2] for line in shown if len(line) == 3} <= {"EMIR", "CFTC", "SEC"}


def test_one_portfolio_is_shown_with_its_levels() -> None:
    done = invoke("crif.csv", "--portfolio", "utility", "--side", "call")
    lines = [line.rstrip() for line in done.stdout.splitlines() if line.strip()]
    names = [re.sub(r"\s+[\d,.]+$", "", line[1:]) for line in lines[3:]]
    assert names == [
        *("total", "  RatesFX", "    InterestRate", "      Delta", "    FX", "      Delta"),
        *("  Commodity", "    Commodity", "      Delta", "      Vega"),
    ]
    assert len({len(line) for line in lines[3:]}) == 1
    levels = gpu_margin.simm("crif.csv", side="call", backend="numpy").of("utility").levels
    assert f"{levels['initial_margin'][-1]:,.2f}" in lines[3]


def test_several_files_are_one_crif() -> None:
    frame = demo_crif.crif()
    frame.head(20).write_csv("a.tsv", separator="\t")
    frame.slice(20).write_parquet("b.parquet")
    done = invoke("a.tsv", "b.parquet", "--json")
    assert (
        json.loads(done.stdout)["totals"]
        == json.loads(invoke("crif.csv", "--json").stdout)["totals"]
    )


def test_the_demo_crif_has_all_risk_classes_and_no_bad_row() -> None:
    run = gpu_margin.simm("crif.csv", add="crif_new.csv", backend="numpy")
    assert run.failures.is_empty()
    assert set(run.levels["risk_class"]) == {*RISK_CLASSES, "All"}
    assert {"Delta", "Vega", "Curvature", "BaseCorr"} <= set(run.levels["margin_type"])
    assert demo_crif.crif().equals(demo_crif.crif())


# ---------------------------------------------------------------- README


@pytest.fixture
def documented(folder: Path) -> Path:
    """What the demo leaves of CRIF, where the README says."""
    (folder / "gpu-margin-demo").mkdir()
    for name in ("crif.csv", "crif_new.csv"):
        (folder / name).rename(folder / "gpu-margin-demo" / name)
    return folder


def section() -> str:
    found = re.search(r"^## ISDA SIMM\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_readme_shows_what_the_command_prints(documented: Path) -> None:
    blocks = re.findall(r"```console\n(.*?)```", section(), re.DOTALL)
    examples = re.findall(r"^\$ gpu-margin simm (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.M)
    assert len(examples) >= 3
    for arguments, output in examples:
        done = invoke(*arguments.split())
        assert done.exit_code == 0, done.output
        if output:
            shown = [line.rstrip() for line in done.stdout.splitlines()]
            assert [line for line in shown if line] == [
                line for line in output.splitlines() if line
            ]


def test_the_readme_python_prints_tables(
    documented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)
    assert len(list(filter(None, code.splitlines()))) == 3
    exec(compile(code, "README", "exec"), {})
    assert capsys.readouterr().out.count("shape: (") == 3


def test_the_readme_says_whose_simm_is() -> None:
    assert "commercial use" in section() and "ISDA" in section() and "licence" in section()
    assert "licence" in CliRunner().invoke(cli.app, ["simm", "--help"]).output


def test_many_failures_are_shown_by_kind() -> None:
    """One line per kind, whatever portfolios they are of, and at most ten."""
    rows = [
        {**BAD, "PortfolioID": f"P{n:03d}", "Bucket": "99", "AmountUSD": 1.0} for n in range(40)
    ]
    rows += [{**BAD, "Bucket": "1", "RiskType": f"Risk_{n}", "AmountUSD": 1.0} for n in range(3)]
    pl.DataFrame(rows).write_csv("failing.csv")
    done = invoke("failing.csv")
    assert done.exit_code == 3
    lines = [line.split() for line in done.stdout.splitlines()]
    at = lines.index(["Failed", "rows:", "43"])
    assert [line[0] for line in lines[at + 1 :]] == ["40", "3"]
    assert "(first: portfolio P000, bucket = '99')" in done.stdout


def test_amounts_in_other_currencies_take_the_rates() -> None:
    """A bad rate is told once, and so is what has no rate; the rest goes on."""
    crif = demo_crif.crif().drop("AmountUSD").with_columns(pl.col("Amount") / 2.0)
    crif.with_columns(AmountCurrency=pl.lit("EUR")).write_csv("eur.csv")
    pl.DataFrame({"currency": ["EUR", "GBP"], "rate": [2.0, -1.0]}).write_csv("fx.csv")
    told = json.loads(invoke("eur.csv", "--fx", "fx.csv", "--json", "--add", "crif_new.csv").stdout)
    usd = json.loads(invoke("crif.csv", "--json", "--add", "crif_new.csv").stdout)
    assert told["totals"] == usd["totals"] and told["trades"] == usd["trades"]
    (failure,) = told["failures"]
    assert failure["source"] == "fx.csv" and failure["field"] == "rate"
    without = json.loads(invoke("eur.csv", "--json", "--add", "crif_new.csv").stdout)
    assert {row["field"] for row in without["failures"]} == {"amount_currency"}
    assert len(without["failures"]) == len(crif)
