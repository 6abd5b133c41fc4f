"""`kind = "simm"` in a run: its own CRIF, beside models on positions or alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import Result
from crif_case import crif_of
from polars.testing import assert_frame_equal
from small_case import CASE, VALUATION, covariance, sound, toml, write_tables
from typer.testing import CliRunner

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import loading
from gpu_margin.cli import app
from gpu_margin.config import load_config, load_models
from gpu_margin.failures import failure_table
from gpu_margin.file_tables import with_files
from gpu_margin.io.outputs import MORE_TABLES
from gpu_margin.live import LiveBook
from gpu_margin.models.simm import rulebook
from gpu_margin.models.simm.calculation import Parameters, calculate
from gpu_margin.report import render
from gpu_margin.result_tables import run_tables
from gpu_margin.tracker import Tracker
from gpu_margin.whatif import WhatIf

COLUMNS = (
    *("PortfolioID", "TradeID", "ProductClass", "RiskType", "Qualifier", "Bucket"),
    *("Label1", "Label2", "Amount", "AmountCurrency", "AmountUSD"),
)
Row = dict[str, Any]
LEVELS = ["call", "post"]
ONLY_POSITIONS = [
    *("standalone", "offset", "offset_ratio", "net_exposure"),
    *("gross_exposure", "positions", "worst_scenario"),
]


def rates(portfolio: str, amount: float, currency: str = "USD", **more: Any) -> Row:
    row = {"PortfolioID": portfolio, "ProductClass": "RatesFX", "RiskType": "Risk_IRCurve"}
    row |= {"Qualifier": currency, "Bucket": "1", "Label1": "2y", "Label2": "OIS"}
    return row | {"Amount": amount, "AmountCurrency": "USD", "AmountUSD": amount} | more


def other(portfolio: str, kind: str, amount: float, **more: Any) -> Row:
    row = {"PortfolioID": portfolio, "RiskType": kind, "Amount": amount}
    return row | {"AmountCurrency": "USD", "AmountUSD": amount} | more


# A has everything that a margin is made of, B vega and so unlike sides, C is also an account of the
# small case's positions.
ROWS: list[Row] = [
    rates("A", 1000.0),
    rates("A", -400.0, "EUR"),
    other("A", "Risk_FX", 5e5, ProductClass="RatesFX", Qualifier="EUR"),
    other("A", "Risk_Equity", 2e4, ProductClass="Equity", Qualifier="ISIN:X", Bucket="5"),
    other("A", "Param_ProductClassMultiplier", 1.2, Qualifier="Equity"),
    other("A", "Param_AddOnFixedAmount", 5000.0),
    other("A", "Param_AddOnNotionalFactor", 3.0, Qualifier="Exotic"),
    other("A", "Notional", 1e6, Qualifier="Exotic"),
    rates("B", -250.0),
    rates("B", 9000.0, RiskType="Risk_IRVol", Label2=""),
    rates("C", 70.0),
]


def write(folder: Path, rows: Sequence[Row] = ROWS, name: str = "crif.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame({name: [str(row.get(name, "")) for row in rows] for name in COLUMNS})
    frame.write_csv(folder / name)
    return folder / name


def config(folder: Path, currency: str = "USD", inputs: Row | None = None, **models: Row) -> Path:
    """A TOML with these models; one of kind simm without any."""
    settings: Row = {"valuation_date": VALUATION, "currency": currency}
    settings["models"] = models or {"im": simm()}
    path = folder / "config.toml"
    path.write_text(toml(settings | ({"inputs": inputs} if inputs else {})), encoding="utf-8")
    return path


def simm(**more: Any) -> Row:
    return {"kind": "simm", "crif": ["crif.csv"], **more}


def mixed(folder: Path, **models: Row) -> Path:
    """The small case with a SIMM model between two on positions."""
    write(folder)
    paths = write_tables(CASE, folder, "parquet")
    inputs = {name: path.name for name, path in paths.items()}
    es = CASE.config["models"]["es"]
    return config(
        folder, inputs=inputs, **(models or {"cov": covariance(), "im": simm(), "es": es})
    )


def run(path: Path, **more: Any) -> gpu_margin.Run:
    return gpu_margin.run(path, **{"backend": "numpy", **more})


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def requirements(found: gpu_margin.Run, model: str = "im") -> dict[tuple[str, str], float | None]:
    rows = found.margins.filter(pl.col("model") == model)
    return {row[:2]: row[2] for row in rows.select("account_id", "level", "requirement").rows()}


def expected(version: str = "latest", rows: Sequence[Row] = ROWS) -> dict[tuple[str, str], float]:
    found = calculate(crif_of(rows), Parameters(version=version), backends.load("numpy"))
    pairs = zip(found.crif.portfolios, found.totals.tolist(), strict=True)
    return {
        (portfolio, level): margin
        for portfolio, sides in pairs
        for level, margin in zip(LEVELS, sides, strict=True)
    }


# ---------------------------------------------------------------- alone


def test_portfolios_are_accounts_and_sides_are_levels(tmp_path: Path) -> None:
    write(tmp_path)
    found = sound(run(config(tmp_path)))
    assert requirements(found) == expected()
    assert found.margins["level"].to_list() == LEVELS * 3
    assert found.margins["complete"].all()
    assert found.margins.select(ONLY_POSITIONS).null_count().row(0) == (6,) * 7
    assert found.sets["netting_set"].to_list() == found.sets["account_id"].to_list()
    assert found.groups.is_empty() and found.group_totals.is_empty()
    assert found.failures.is_empty()
    assert found.accounts is None and found.contributions is None


def test_a_figure_made_by_hand(tmp_path: Path) -> None:
    """One delta: the risk weight of version 2.6 at two years, 66, times its size."""
    write(tmp_path, [rates("P", -100.0)])
    found = run(config(tmp_path, im=simm(version="2.6", side="post")))
    assert requirements(found) == {("P", "post"): 6600.0}


def test_tables_have_the_types_of_a_run_on_positions(tmp_path: Path) -> None:
    write(tmp_path)
    alone, both = run(config(tmp_path)), run(mixed(tmp_path / "mixed"))
    for name in ("margins", "components", "sets", "groups", "failures", "group_totals"):
        assert getattr(alone, name).schema == getattr(both, name).schema, name


def test_components_name_what_adds_up(tmp_path: Path) -> None:
    write(tmp_path)
    found = run(config(tmp_path))
    own = found.components.filter((pl.col("account_id") == "A") & (pl.col("level") == "call"))
    amounts = dict(own.select("component", "amount").iter_rows())
    assert list(amounts) == [
        *("rates_fx", "credit", "equity", "commodity"),
        *("product_class_multipliers", "notional_add_on", "fixed_add_on", "schedule"),
    ]
    assert amounts["fixed_add_on"] == 5000.0
    assert amounts["notional_add_on"] == 30000.0
    assert amounts["product_class_multipliers"] == pytest.approx(0.2 * amounts["equity"])
    assert amounts["credit"] == amounts["commodity"] == amounts["schedule"] == 0.0
    assert sum(amounts.values()) == pytest.approx(requirements(found)["A", "call"], rel=1e-14)


def test_the_long_table_has_the_model_in_front(tmp_path: Path) -> None:
    write(tmp_path)
    found = run(config(tmp_path, new=simm(), old=simm(version="2.2", side="call")))
    assert found.simm is not None
    assert found.simm.columns == [
        *("model", "portfolio_id", "side", "regulation", "product_class", "risk_class"),
        *("margin_type", "bucket", "initial_margin"),
    ]
    levels = ("product_class", "risk_class", "margin_type", "bucket")
    totals = found.simm.filter(pl.all_horizontal(pl.col(levels) == "All"))
    rows = totals.select("model", "portfolio_id", pl.col("side").str.to_lowercase())
    assert set(rows.iter_rows()) == set(
        found.margins.select("model", "account_id", "level").iter_rows()
    )
    assert dict(zip(rows.rows(), totals["initial_margin"], strict=True)) == {
        row[:3]: row[3]
        for row in found.margins.select("model", "account_id", "level", "requirement").rows()
    }


def test_two_versions_side_by_side_read_the_crif_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []

    def counted(*arguments: Any, **more: Any) -> Any:
        read.append(arguments)
        return plain(*arguments, **more)

    plain = rulebook.read_crif
    monkeypatch.setattr(rulebook, "read_crif", counted)
    write(tmp_path, [*ROWS, rates("B", "much")])  # type: ignore[arg-type]
    found = run(config(tmp_path, old=simm(version="2.2"), new=simm(version="2.6", horizon="1d")))
    assert len(read) == 1
    assert len(found.failures) == 1
    assert requirements(found, "old") == expected("2.2")
    assert found.margins["model"].to_list() == ["old", "old", "new", "new"] * 3
    assert found.manifest["counts"]["crif_portfolios"] == 3


def test_several_files_are_one_crif(tmp_path: Path) -> None:
    write(tmp_path, ROWS[:5], "one.csv")
    write(tmp_path / "sub", ROWS[5:], "two.csv")
    found = run(config(tmp_path, im=simm(crif=["one.csv", "sub/two.csv"])))
    assert requirements(found) == expected()
    one = run(config(tmp_path, im=simm(crif="one.csv")))
    assert set(one.margins["account_id"]) == {"A"}


# ---------------------------------------------------------------- the manifest


def test_the_manifest_says_what_was_read_and_by_which_rules(tmp_path: Path) -> None:
    path = write(tmp_path)
    manifest = run(config(tmp_path, im=simm(version="2.6"))).manifest
    facts = manifest["on_files"]["im"]
    assert (facts["kind"], facts["version"], facts["effective_date"]) == (
        *("simm", "2.6"),
        "2023-12-02",
    )
    assert (facts["horizon"], facts["side"], facts["rate"]) == ("10d", "both", 1.0)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    crif = {"input": "crif", "path": str(path), "sha256": digest, "rows": len(ROWS)}
    assert facts["files"] == [crif]
    counts = manifest["counts"]
    assert (counts["accounts"], counts["crif_portfolios"], counts["crif_rows"]) == (3, 3, 11)
    assert "positions" not in counts
    assert manifest["totals"][0]["standalone"] is None


def test_latest_is_named_by_its_version(tmp_path: Path) -> None:
    write(tmp_path)
    facts = run(config(tmp_path)).manifest["on_files"]["im"]
    assert facts["version"] == "2.8+2512"


def test_where_files_are_is_no_parameter(tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "two"):
        write(tmp_path / name)
        hashes.add(run(config(tmp_path / name)).manifest["parameters_sha256"])
    assert len(hashes) == 1
    changed = run(config(tmp_path / "one", im=simm(horizon="1d"))).manifest["parameters_sha256"]
    assert changed not in hashes


# ---------------------------------------------------------------- failures


def test_bad_rows_are_failures_and_their_portfolios_incomplete(tmp_path: Path) -> None:
    bad = [rates("B", "much"), rates("D", 1.0, RiskType="Risk_None"), rates("E", 5.0)]  # type: ignore[arg-type]
    write(tmp_path, [*ROWS, *bad])
    found = sound(run(config(tmp_path)))
    assert found.failures.select("source", "row").rows() == [("crif.csv", 12), ("crif.csv", 13)]
    complete = dict(found.margins.select("account_id", "complete").iter_rows())
    assert complete == {"A": True, "B": False, "C": True, "D": False, "E": True}
    good = expected(rows=[*ROWS, rates("E", 5.0)])
    none = {("D", level): None for level in LEVELS}
    assert requirements(found) == good | none
    assert "D" not in set(found.components["account_id"])
    assert found.simm is not None
    assert (
        found.simm.filter(pl.col("portfolio_id") == "D")["initial_margin"].to_list() == [None] * 2
    )
    assert found.manifest["counts"]["incomplete_accounts"] == 2
    crif = found.manifest["on_files"]["im"]["files"][0]
    assert crif["rows"] == len(ROWS) + 3


def test_what_only_the_version_refuses_is_a_failure_too(tmp_path: Path) -> None:
    equity = {"ProductClass": "Equity", "Qualifier": "ISIN:Y", "Bucket": "99"}
    write(tmp_path, [*ROWS, other("C", "Risk_Equity", 5.0, **equity)])
    path = config(tmp_path)
    found = sound(run(path))
    (failure,) = found.failures.rows(named=True)
    assert failure["value"] == "99"
    assert requirements(found) == expected()
    assert found.margins.filter(~pl.col("complete"))["account_id"].to_list() == ["C", "C"]
    done = invoke("validate", path, "--json")
    assert [row["value"] for row in json.loads(done.output)["failures"]] == ["99"]


def test_a_crif_without_a_good_row_computes_nothing(tmp_path: Path) -> None:
    write(tmp_path, [rates("P", "much")])  # type: ignore[arg-type]
    path, out = config(tmp_path), tmp_path / "out"
    done = invoke("run", path, "--out", out)
    assert done.exit_code == 3
    margins = pl.read_parquet(out / "margins.parquet")
    assert margins["requirement"].to_list() == [None, None]
    assert not margins["complete"].any()
    assert invoke("validate", path).exit_code == 3


@pytest.mark.parametrize("text", ["", "PortfolioID,RiskType\nP,Risk_FX\n"])
def test_a_file_that_is_no_crif_is_a_failure(text: str, tmp_path: Path) -> None:
    (tmp_path / "crif.csv").write_text(text)
    found = run(config(tmp_path))
    assert found.margins.is_empty()
    assert len(found.failures) >= 1
    assert "What failed" in render(found)


def test_a_figure_that_overflows_is_no_figure(tmp_path: Path) -> None:
    """Amounts and rates are refused long before, so it is done by hand."""
    write(tmp_path)
    loaded = loading.load(config(tmp_path))
    (one,) = loaded.on_files
    good = rulebook.margin(one.model.parameters, one.inputs, 1.0, backends.load("numpy"))  # type: ignore[arg-type]
    huge = {level: np.append(np.inf, amount[1:]) for level, amount in good.requirement.items()}
    empty = run_tables(loaded.portfolio, loaded.market, {}, failure_table())
    found = with_files(empty, {"im": replace(good, requirement=huge)}, ["im"], "USD")
    lost = found.margins.filter(pl.col("requirement").is_null())
    assert lost.select("account_id", "complete").rows() == [("A", False)] * 2
    assert "A" not in found.components["account_id"]
    (failure,) = found.failures.rows(named=True)
    assert (failure["reason"][:4], failure["value"]) == ("im: ", "A")


# ---------------------------------------------------------------- currencies


def test_margin_in_another_currency(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "fx.csv").write_text("currency,rate\nUSD,0.9\n")
    found = sound(run(config(tmp_path, "EUR", {"fx": "fx.csv"})))
    assert requirements(found) == {key: value * 0.9 for key, value in expected().items()}
    assert set(found.margins["currency"]) == {"EUR"}
    assert found.manifest["on_files"]["im"]["rate"] == 0.9
    assert found.simm is not None
    dollars = run(config(tmp_path)).simm
    assert dollars is not None
    assert_frame_equal(
        found.simm, dollars.with_columns(pl.col("initial_margin") * 0.9), check_exact=True
    )


@pytest.mark.parametrize("fx", [None, "GBP,1.2", "USD,-1"])
def test_without_a_rate_the_way_out_is_said(fx: str | None, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "fx.csv").write_text(f"currency,rate\n{fx}\n")
    path = config(tmp_path, "EUR", None if fx is None else {"fx": "fx.csv"})
    with pytest.raises(gpu_margin.ConfigError, match=r"models\.im.*inputs\.fx.*row USD.*EUR"):
        run(path)


def test_rows_without_usd_have_rates_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, [rates("P", 100.0, AmountUSD="", AmountCurrency="EUR")])
    (tmp_path / "usd.csv").write_text("currency,rate\nEUR,1.25\n")
    path = config(tmp_path, im=simm(fx="usd.csv", version="2.6"))
    found = run(path)
    assert requirements(found)["P", "call"] == 6600.0 * 1.25
    assert [one["input"] for one in found.manifest["on_files"]["im"]["files"]] == ["crif", "fx"]
    without = run(config(tmp_path, im=simm()))
    assert not without.failures.is_empty()


# ---------------------------------------------------------------- mixed with models on positions


def test_a_mixed_run_has_both(tmp_path: Path) -> None:
    found = sound(run(mixed(tmp_path)))
    paths = {name: tmp_path / f"{name}.parquet" for name in ("positions", "instruments")}
    plain = gpu_margin.run(
        CASE.config | {"models": {name: CASE.config["models"][name] for name in ("cov", "es")}},
        backend="numpy",
        **paths,
        history=tmp_path / "history.parquet",
        fx=tmp_path / "fx.parquet",
    )
    of_positions = pl.col("model") != "im"
    for name in ("margins", "components", "sets"):
        own = getattr(found, name).filter(of_positions)
        assert_frame_equal(own, getattr(plain, name), check_exact=True)
    for name in ("groups", "group_totals"):
        assert_frame_equal(getattr(found, name), getattr(plain, name), check_exact=True)
    assert requirements(found) == expected()
    of_c = found.margins.filter(pl.col("account_id") == "C")
    assert of_c["model"].to_list() == ["cov", "im", "im", "es"]
    ids = found.margins["account_id"].to_list()
    assert ids == sorted(ids)
    assert found.manifest["counts"]["accounts"] == len(set(ids)) == 5
    assert found.manifest["counts"]["positions"] == 8


def test_models_on_positions_still_need_their_tables(tmp_path: Path) -> None:
    write(tmp_path)
    path = config(tmp_path, cov=covariance(), im=simm())
    with pytest.raises(gpu_margin.ConfigError, match=r"inputs\.positions: missing"):
        run(path)


def test_positions_that_all_fail_leave_the_portfolios(tmp_path: Path) -> None:
    path = mixed(tmp_path)
    none = pl.read_parquet(tmp_path / "positions.parquet").with_columns(
        pl.lit("NOTHING").alias("instrument_id")
    )
    none.write_parquet(tmp_path / "positions.parquet")
    found = sound(run(path))
    assert requirements(found) == expected()
    of_positions = found.margins.filter(pl.col("model") != "im")
    assert of_positions["requirement"].null_count() == len(of_positions) == 10
    assert invoke("validate", path).exit_code == 0


@pytest.mark.parametrize("name", ["positions", "collateral", "marks"])
def test_a_table_that_no_model_asks_for_is_an_error(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(gpu_margin.ConfigError, match=rf"inputs\.{name}: no model"):
        run(config(tmp_path, inputs={name: "some.csv"}))


# ---------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"version": "2.9"}, "unknown SIMM version '2.9'; known versions: 2.2"),
        ({"crif": ["none.csv"]}, "crif: no such file"),
        ({"crif": []}, "crif"),
        ({"crif": 5}, "crif"),
        ({"fx": "none.csv"}, "none.csv"),
        ({"horizon": "5d"}, "'10d'"),
        ({"side": "Call"}, "'call'"),
        ({"calculation_currency": "dollar"}, "three letters"),
        ({"crf": ["a.csv"]}, "did you mean 'crif'?"),
        ({"maintenance": 0.8}, "unknown key 'maintenance'"),
        ({"allocation": True}, "unknown key 'allocation'"),
    ],
)
def test_wrong_settings_are_named(settings: Row, said: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(gpu_margin.ConfigError) as caught:
        run(config(tmp_path, im=simm(**settings)))
    assert said in str(caught.value)
    assert "models.im" in str(caught.value)


def test_a_crif_is_needed() -> None:
    with pytest.raises(gpu_margin.ConfigError, match=r"models\.im\.crif"):
        load_config(
            {"valuation_date": VALUATION, "currency": "USD", "models": {"im": {"kind": "simm"}}}
        )


def test_a_wrong_version_is_found_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(gpu_margin.ConfigError, match=r"models\.im: unknown SIMM version"):
        load_config(config(tmp_path, im=simm(version="9")))


def test_the_order_gate_has_no_use_for_it(tmp_path: Path) -> None:
    path = mixed(tmp_path)
    text = path.read_text() + 'gate = { model = "im", stale_seconds = 5.0 }\n'
    path.write_text(text, encoding="utf-8")
    with pytest.raises(gpu_margin.ConfigError, match=r"gate\.model: a model without positions"):
        load_config(path)


def test_paths_count_from_the_toml(tmp_path: Path) -> None:
    write(tmp_path)
    found = load_config(config(tmp_path, im=simm(fx="fx.csv")))
    assert found.models["im"]["crif"] == [str(tmp_path / "crif.csv")]
    assert found.models["im"]["fx"] == str(tmp_path / "fx.csv")
    (model,) = load_models(found)
    assert model.on_files


# ---------------------------------------------------------------- the folder, and other commands


def test_the_folder_has_the_long_table(tmp_path: Path) -> None:
    write(tmp_path)
    path, out = config(tmp_path), tmp_path / "out"
    done = invoke("run", path, "--out", out)
    assert done.exit_code == 0, done.output
    assert "post" in done.stdout
    assert "None" not in done.stdout
    kept = pl.read_parquet(out / "simm.parquet")
    assert_frame_equal(kept, run(path).simm)
    assert json.loads((out / "manifest.json").read_text())["on_files"]["im"]["kind"] == "simm"
    assert (
        invoke(
            "run", mixed(tmp_path / "m", cov=covariance()), "--out", out, "--overwrite"
        ).exit_code
        == 0
    )
    assert not (out / "simm.parquet").exists()
    assert "simm" in MORE_TABLES


def test_the_report_shows_totals_and_risk_classes(tmp_path: Path) -> None:
    write(tmp_path, [*ROWS, rates("B", "much")])  # type: ignore[arg-type]
    page = render(run(config(tmp_path)))
    assert "Margin of sensitivities" in page
    for text in ("total call", "2.8+2512", "Equity", "add-ons", "Portfolio id"):
        assert text in page
    assert "Product groups" not in page
    assert "No account has been computed" not in page
    both = render(run(mixed(tmp_path / "mixed")))
    assert "Margin of sensitivities" in both
    assert "Product groups" in both
    assert "Margin of sensitivities" not in render(run(mixed(tmp_path / "m", cov=covariance())))


def test_validate_counts_portfolios(tmp_path: Path) -> None:
    write(tmp_path)
    done = invoke("validate", config(tmp_path), "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["counts"]["crif_portfolios"] == 3
    assert told["on_files"]["im"][0]["rows"] == len(ROWS)
    assert invoke("validate", mixed(tmp_path / "mixed")).exit_code == 0


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """The folder of a mixed run."""
    done = invoke("run", mixed(tmp_path / "in"), "--out", tmp_path / "out", "--quiet")
    assert done.exit_code == 0, done.output
    return tmp_path / "out"


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The folder of a run without positions."""
    write(tmp_path / "alone")
    out = tmp_path / "alone-out"
    done = invoke("run", config(tmp_path / "alone"), "--out", out, "--quiet")
    assert done.exit_code == 0, done.output
    return out


def test_explain_passes_it_over(finished: Path) -> None:
    done = invoke("explain", finished, "C", "--json")
    assert done.exit_code == 0, done.output
    assert [one["model"] for one in json.loads(done.output)] == ["cov", "es"]


def test_what_becomes_of_the_crif_is_nothing_to_positions(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "crif.csv").unlink()
    assert invoke("explain", finished, "C", "--json").exit_code == 0


TRADES = "account_id,whatif_id,instrument_id,quantity\nC,1,SPOTX,1\n"


def commands(folder: Path, tmp_path: Path, *more: str) -> list[list[Any]]:
    trades = tmp_path / "trades.csv"
    trades.write_text(TRADES)
    return [
        ["explain", folder, "C", *more],
        ["whatif", folder, "--trades", trades, *more],
        ["cure", folder, "C", *more],
    ]


@pytest.mark.parametrize("number", range(3))
def test_commands_on_positions_refuse_it_by_name(
    number: int, finished: Path, tmp_path: Path
) -> None:
    done = invoke(*commands(finished, tmp_path, "--model", "im")[number])
    assert done.exit_code == 2, done.output
    assert "model 'im' has files of its own and no positions" in done.stderr


@pytest.mark.parametrize("number", range(3))
def test_commands_on_positions_refuse_a_run_without(
    number: int, alone: Path, tmp_path: Path
) -> None:
    done = invoke(*commands(alone, tmp_path)[number])
    assert done.exit_code == 2, done.output
    assert "no model is on positions" in done.stderr


def test_explain_of_an_account_that_has_no_positions(finished: Path) -> None:
    rows = pl.read_parquet(finished / "margins.parquet")
    assert "A" in rows["account_id"]
    done = invoke("explain", finished, "nobody")
    assert done.exit_code == 2
    assert "no positions of an account" in done.stderr


def test_whatif_answers_for_the_others(finished: Path, tmp_path: Path) -> None:
    done = invoke(*commands(finished, tmp_path)[1], "--json")
    assert done.exit_code == 0, done.output
    loaded = loading.load(tmp_path / "in" / "config.toml")
    assert len(loaded.on_files) == 1
    table = WhatIf(loaded, "numpy").ask(tmp_path / "trades.csv").table
    assert table["model"].to_list() == ["cov", "es"]


ASSETS = "asset,price,currency,haircut,factor\nUSD,,USD,,\nSHARE,100,USD,0.5,X\n"
COLLATERAL = "account_id,asset,amount\nA,SHARE,10\nC,USD,1000\nZ,USD,5\n"


def with_collateral(folder: Path) -> Path:
    path = mixed(folder)
    (folder / "assets.csv").write_text(ASSETS)
    (folder / "collateral.csv").write_text(COLLATERAL)
    named = "assets = 'assets.csv', collateral = 'collateral.csv', positions"
    path.write_text(path.read_text().replace("positions", named, 1), encoding="utf-8")
    return path


def test_collateral_meets_models_on_positions(tmp_path: Path) -> None:
    path, out = with_collateral(tmp_path), tmp_path / "out"
    found = sound(run(path))
    assert found.accounts is not None
    assert set(found.accounts["model"]) == {"cov", "es"}
    assert found.accounts.filter(pl.col("account_id") == "Z")["initial"].to_list() == [0.0, 0.0]
    assert requirements(found) == expected()
    done = invoke("run", path, "--out", out)
    assert done.exit_code == 0, done.output
    standings = done.stdout[done.stdout.index("Collateral, USD") :]
    assert "cov" in standings and " im " not in standings


def test_calibrate_asks_only_models_on_positions(tmp_path: Path) -> None:
    path = with_collateral(tmp_path)
    (tmp_path / "crif.csv").unlink()
    arguments = ("--backend", "numpy", "--horizon-days", "5", "--json")
    done = invoke("calibrate", "haircuts", path, *arguments)
    assert done.exit_code == 0, done.output
    effect = json.loads(done.stdout)["effect"]
    assert {one["model"] for one in effect["totals"]} == {"cov", "es"}


def test_a_live_book_is_of_positions(tmp_path: Path) -> None:
    path = mixed(tmp_path)
    book = LiveBook(loading.load(path), "numpy")
    assert book.models == ("cov", "es")
    write(tmp_path / "alone")
    loaded = loading.load(config(tmp_path / "alone"))
    with pytest.raises(gpu_margin.GpuMarginError):
        LiveBook(loaded, "numpy")
    with pytest.raises(gpu_margin.ConfigError, match="model"):
        loaded.chosen(None)


def test_serve_refuses_a_configuration_without_positions(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(gpu_margin.ConfigError, match="no model is on positions"):
        loading.load_book(config(tmp_path))


def test_a_server_leaves_it_out_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("fastapi")
    from test_server_house import in_house

    found: list[Any] = []
    caplog.set_level("WARNING")
    in_house(mixed(tmp_path), lambda house: found.append(house.answering.book.models))
    assert found == [("cov", "es")]
    (said,) = [one for one in caplog.records if "left out" in one.message]
    assert said.models == ["im"]  # type: ignore[attr-defined]


def test_a_tracker_keeps_the_model_in_what_it_exports(tmp_path: Path) -> None:
    tracker = Tracker(loading.load(mixed(tmp_path / "in")), backend="numpy")
    assert [model.name for model in tracker.models] == ["cov", "es"]
    exported = tracker.export(tmp_path / "next")
    again, first = run(exported), run(tmp_path / "in" / "config.toml")
    assert requirements(again) == requirements(first) == expected()
    tracker.snapshot(tmp_path / "snapshot")
    (tmp_path / "in" / "crif.csv").unlink()
    assert len(Tracker.restore(tmp_path / "snapshot", "numpy").models) == 2


def test_export_state_needs_positions(tmp_path: Path) -> None:
    write(tmp_path / "alone")
    fills = tmp_path / "fills.csv"
    fills.write_text("fill_id,account_id,instrument_id,quantity,price\n1,C,SPOTX,1,100\n")
    alone = invoke(
        "export-state", config(tmp_path / "alone"), "--fills", fills, "--out", tmp_path / "a"
    )
    assert alone.exit_code == 2, alone.output
    both = invoke("export-state", mixed(tmp_path / "in"), "--fills", fills, "--out", tmp_path / "b")
    assert both.exit_code == 0, both.output


# ---------------------------------------------------------------- devices


class Faulty:
    """The NumPy backend, but `segment_sum` fails from the given call on."""

    name = "faulty"

    def __init__(self, calls: int) -> None:
        self._sound: Any = backends.load("numpy")
        self._calls = calls

    def shards(self) -> Sequence[Any]:
        return [self]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)

    def segment_sum(self, *arguments: Any) -> Any:
        self._calls -= 1
        if self._calls <= 0:
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
        return self._sound.segment_sum(*arguments)


@pytest.mark.parametrize("calls", [1, 2, 5])
@pytest.mark.parametrize("pieces", [1, 3])
def test_a_device_that_fails_is_given_up(
    calls: int, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces > 1:
        monkeypatch.setattr(rulebook, "_ROWS", 1)
    write(tmp_path)
    path = config(tmp_path)
    found = run(path, backend=Faulty(calls))
    assert requirements(found) == expected()
    (lost,) = found.manifest["lost_backends"]
    assert (lost["name"], lost["stage"]) == ("faulty", "margin im")
    assert "ILLEGAL_ADDRESS" in lost["error"]
    assert found.manifest["backend"]["name"] == lost["next"]
    assert "ILLEGAL_ADDRESS" in render(found)


def test_an_error_of_the_last_backend_is_raised(tmp_path: Path) -> None:
    write(tmp_path)
    device: Any = Faulty(1)
    device.name = "numpy"
    with pytest.raises(RuntimeError, match="ILLEGAL"):
        run(config(tmp_path), backend=device)


def test_pieces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [*ROWS, rates("B", "much")])  # type: ignore[arg-type]
    path = config(tmp_path)
    whole = run(path)
    monkeypatch.setattr(rulebook, "_ROWS", 1)
    told: list[tuple[str, int, int]] = []
    cut = run(path, progress=lambda *one: told.append(one))
    for name in ("margins", "components", "sets", "failures", "simm"):
        assert_frame_equal(getattr(cut, name), getattr(whole, name), check_exact=True)
    assert [one[1] for one in told if one[0] == "margin im"] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["numba", "jax"])
def test_other_backends(name: str, tmp_path: Path) -> None:
    try:
        backends.load(name)
    except gpu_margin.BackendUnavailable:
        pytest.skip(f"{name} is not installed")
    write(tmp_path)
    found = requirements(run(config(tmp_path), backend=name))
    assert list(found) == list(expected())
    assert np.allclose(list(found.values()), list(expected().values()), rtol=1e-12)  # type: ignore[arg-type]
