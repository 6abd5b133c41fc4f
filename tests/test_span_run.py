"""`gpu_margin.span`: tables beside the slow SPAN's, tiles, settings, and SPAN in a run."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from span_oracle import margin as slow_margin
from span_oracle_pa2 import parse_pa2

import gpu_margin
from gpu_margin import demo_span, span_files
from gpu_margin.failures import ConfigError
from gpu_margin.io.outputs import MORE_TABLES
from gpu_margin.span_figures import AMOUNTS, COLUMNS
from gpu_margin.span_files import read_file
from gpu_margin.span_run import SpanRun

EXCHANGE = parse_pa2(demo_span.pa2())
POSITIONS = pl.read_csv(io.StringIO(demo_span.POSITIONS))
ACCOUNTS = pl.read_csv(io.StringIO(demo_span.ACCOUNTS))
LEVELS = ("maintenance", "initial")
EURO = 1.16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's files."""
    found = tmp_path_factory.mktemp("span")
    for name, text in demo_span.files().items():
        (found / name).write_text(text)
    return found


@pytest.fixture(scope="module")
def file(folder: Path) -> Any:
    """The demo's risk parameter file, read once."""
    return read_file(folder / "span.pa2")[0]


def margined(
    file: Any, positions: Any = POSITIONS, accounts: Any = ACCOUNTS, **more: Any
) -> SpanRun:
    return gpu_margin.span(file, positions, accounts, backend="numpy", **more)


def slowly(level: str) -> dict[str, dict[str, Any]]:
    """What the slow SPAN says of every account."""
    found = {}
    for name, kind, gross in ACCOUNTS.iter_rows():
        own = POSITIONS.filter(pl.col("account_id") == name).select("contract_id", "quantity")
        held = list(own.iter_rows())
        found[name] = slow_margin(EXCHANGE, held, kind, level == "initial", gross)
    return found


def positions(*rows: tuple[str, str, float]) -> pl.DataFrame:
    names = ["account_id", "contract_id", "quantity"]
    return pl.DataFrame(rows, schema=names, orient="row")


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("level", LEVELS)
def test_every_figure_is_the_slow_ones(file: Any, level: str) -> None:
    run, slow = margined(file, level=level), slowly(level)
    assert tuple(run.margins.columns) == COLUMNS
    rows = {
        (row["account_id"], row["combined_commodity"]): row
        for row in run.margins.iter_rows(named=True)
    }
    theirs = {(name, code): own for name, one in slow.items() for code, own in one["rows"].items()}
    assert rows.keys() == theirs.keys()
    for key, row in rows.items():
        assert row["currency"] == theirs[key]["currency"]
        assert row["active_scenario"] == theirs[key]["active_scenario"], key
        for name in AMOUNTS:
            assert row[name] == pytest.approx(float(theirs[key][name]), rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_totals_are_the_slow_ones(file: Any, level: str) -> None:
    run, slow = margined(file, level=level), slowly(level)
    found = {
        (row["account_id"], row["currency"]): row["requirement"]
        for row in run.totals.iter_rows(named=True)
    }
    theirs = {(name, of): own for name, one in slow.items() for of, own in one["totals"].items()}
    assert found == {key: pytest.approx(float(own)) for key, own in theirs.items()}
    assert run.totals["complete"].all() and run.failures.is_empty()
    assert run.level == level == run.manifest["level"]


def test_totals_in_one_currency(file: Any) -> None:
    run, plain = margined(file, currency="USD"), margined(file)
    rates = {"USD": 1.0, "EUR": EURO}
    theirs: dict[str, float] = {}
    for row in plain.totals.iter_rows(named=True):
        name = row["account_id"]
        theirs[name] = theirs.get(name, 0.0) + row["requirement"] * rates[row["currency"]]
    assert set(run.totals["currency"]) == {"USD"}
    assert dict(run.totals.select("account_id", "requirement").iter_rows()) == theirs
    assert_frame_equal(run.margins, plain.margins)
    for row in run.totals.iter_rows(named=True):
        assert row["requirement"] >= row["risk"] - row["net_option_value"]
    back = margined(file, currency="EUR").totals["requirement"]
    assert np.allclose(back * EURO, run.totals["requirement"], rtol=1e-12)


def test_a_currency_without_a_rate_is_refused(file: Any) -> None:
    with pytest.raises(ConfigError, match=r"no rate into 'CHF'.*EUR, USD"):
        margined(file, currency="CHF")


def test_an_account_whose_money_cannot_be_converted_fails_alone(folder: Path) -> None:
    text = "".join(
        line for line in demo_span.pa2().splitlines(keepends=True) if not line.startswith("T ")
    )
    path = folder / "no_rate.pa2"
    path.write_text(text)
    run = margined(path, currency="USD")
    lost = run.totals.filter(pl.col("requirement").is_null())
    assert lost["account_id"].to_list() == ["power-desk"] and not lost["complete"].any()
    (failure,) = run.failures.to_dicts()
    assert failure["reason"] == "the file has no rate from EUR to USD"
    assert failure["source"] == "power-desk" and failure["value"] == "EUR"
    assert "EUR" in margined(path).totals["currency"].to_list()


# ---------------------------------------------------------------- bad rows, settings, tiles


def test_bad_rows_make_their_account_incomplete_and_change_no_other(file: Any) -> None:
    bad = positions(("refiner", "DMO:CR:FUT:209901", 1.0), ("nobody", "DMO:CR:FUT:202701", np.nan))
    run, clean = (
        margined(file, pl.concat([POSITIONS.cast({"quantity": float}), bad])),
        margined(file),
    )
    assert run.failures["source"].to_list() == ["positions"] * 2
    complete = dict(run.totals.select("account_id", "complete").iter_rows())
    assert [name for name, whole in complete.items() if not whole] == ["nobody", "refiner"]
    kept = run.totals.filter(pl.col("account_id") != "nobody").drop("complete")
    assert_frame_equal(kept, clean.totals.drop("complete"))
    assert_frame_equal(run.margins, clean.margins)
    assert run.totals.filter(pl.col("account_id") == "nobody")["requirement"].to_list() == [None]
    assert run.manifest["counts"]["incomplete_accounts"] == 2


def test_what_is_refused_fails_its_holders_by_name(folder: Path) -> None:
    lines = demo_span.pa2().splitlines(keepends=True)
    text = "".join(line.replace("4 GASOIL10", "4 GASOIL11") for line in lines)
    path = folder / "basis.pa2"
    path.write_text(text)
    run, clean = margined(path, standalone=True), margined(folder / "span.pa2")
    holders = {"refiner", "strangle-seller", "power-desk"}
    lost = run.totals.filter(pl.col("requirement").is_null())
    assert set(lost["account_id"]) == holders
    assert set(run.failures["source"]) == holders
    assert all("delivery method 11" in reason for reason in run.failures["reason"])
    assert not set(run.margins["account_id"]) & holders
    kept = clean.margins.filter(~pl.col("account_id").is_in(list(holders)))
    assert_frame_equal(run.margins, kept)
    assert run.alone is not None
    assert run.alone.filter(pl.col("account_id") == "refiner")["sum_alone"].to_list() == [None]


def test_amounts_beyond_all_numbers_are_failures(file: Any) -> None:
    array = np.where(file.contracts.array == 0.0, 0.0, file.contracts.array * 1e300)
    vast = replace(file, contracts=replace(file.contracts, array=array))
    rows = positions(("a", "DMO:CR:FUT:202701", 1e9), ("b", "DMO:CR:FUT:202701", 1.0))
    run = margined(vast, rows, None)
    assert run.totals["requirement"].is_null().to_list() == [True, False]
    (failure,) = run.failures.to_dicts()
    assert failure["value"] == "a" and "not finite" in failure["reason"]


def test_tiles_change_no_bit_and_progress_is_told(
    file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = margined(file, formed=True, standalone=True)
    monkeypatch.setattr(span_files, "_ACCOUNTS", 2)
    told: list[tuple[str, int, int]] = []
    tiled = margined(file, formed=True, standalone=True, progress=lambda *words: told.append(words))
    for name in ("margins", "totals", "failures", "formed", "positions", "alone"):
        assert_frame_equal(getattr(tiled, name), getattr(whole, name), check_exact=True)
    done = [count for stage, count, _ in told if stage == "margin maintenance"]
    assert done[0] == 0 and done[-1] == 6 and len(done) >= 4 and done == sorted(done)


def test_accounts_that_say_nothing_are_as_the_call_says(file: Any) -> None:
    name = "DMO:CR:FUT:202703"
    both = positions(("a", name, 3.0), ("a", name, -1.0))
    net = margined(file, both, None, level="initial", account_type="speculator")
    gross = margined(file, both, None, level="initial", account_type="member", gross=True)
    assert net.totals["requirement"].to_list() == [pytest.approx(2 * 5000 * 1.1)]
    assert gross.totals["requirement"].to_list() == [pytest.approx(4 * 5000)]


def test_spreads_may_be_rounded_down(file: Any) -> None:
    rows = [("a", "DMO:CR:FUT:202701", 1.5), ("a", "DMO:CR:FUT:202703", -1.5)]
    whole = margined(file, positions(*rows), None, spread_places=0).margins
    exact = margined(file, positions(*rows), None).margins
    assert exact["intra_spread_charge"].to_list() == [1.5 * 700]
    assert whole["intra_spread_charge"].to_list() == [700.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "call"}, "level: 'call' is none of"),
        ({"account_type": "broker"}, "account_type: .*'member'.*given: 'broker'"),
        ({"delta_places": -1}, "delta_places"),
        ({"account_class": "gold"}, "none of core, reserve"),
        ({"account_class": "reserve"}, "a PA2 file is of one class"),
    ],
)
def test_wrong_settings_are_told(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        margined(folder / "span.pa2", **options)


def test_files_frames_and_what_was_read_give_the_same(folder: Path, file: Any) -> None:
    names = ("span.pa2", "span_positions.csv", "span_accounts.csv")
    files = gpu_margin.span(*(folder / name for name in names), backend="numpy")
    frames = margined(file)
    assert_frame_equal(files.margins, frames.margins)
    assert [one["input"] for one in files.manifest["files"]] == ["file", "positions", "accounts"]
    assert all(len(one["sha256"]) == 64 for one in files.manifest["files"])
    assert files.manifest["facts"]["clearing"] == "DMO"
    assert files.of("collar").totals["account_id"].to_list() == ["collar"]


# ---------------------------------------------------------------- in a run


def config(folder: Path, **more: Any) -> dict[str, Any]:
    files = {
        name: str(folder / f"span{end}")
        for name, end in (
            ("file", ".pa2"),
            ("positions", "_positions.csv"),
            ("accounts", "_accounts.csv"),
        )
    }
    return {
        "valuation_date": "2026-11-20",
        "currency": "USD",
        "models": {"exchange": {"kind": "span", **files, **more}},
    }


def test_span_in_a_run(folder: Path, file: Any, tmp_path: Path) -> None:
    finished = gpu_margin.run(config(folder), backend="numpy")
    assert finished.span is not None
    for level in LEVELS:
        run = margined(file, level=level, currency="USD")
        total = finished.margins.filter(pl.col("level") == level)
        joined = run.totals.select("account_id", "requirement")
        assert_frame_equal(total.select("account_id", "requirement"), joined)
        own = finished.span.filter(pl.col("level") == level)
        rates = pl.Series([{"USD": 1.0, "EUR": EURO}[one] for one in own["currency"]])
        assert own["rate"].to_list() == rates.to_list()
        theirs = run.margins.with_columns(pl.col(AMOUNTS) * rates)
        assert_frame_equal(own.select(COLUMNS), theirs)
    sums = finished.components.group_by("account_id", "level").agg(pl.col("amount").sum())
    joined = finished.margins.join(sums, on=["account_id", "level"])
    assert np.allclose(joined["amount"], joined["requirement"], rtol=1e-12, atol=1e-9)
    gpu_margin.save(finished, tmp_path / "out")
    assert_frame_equal(pl.read_parquet(tmp_path / "out" / "span.parquet"), finished.span)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    told = manifest["on_files"]["exchange"]
    assert told["file_clearing"] == "DMO" and len(told["files"]) == 3 and told["rate"] == 1.0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "SPAN margin" in page and "CRUDE" in page and "total initial" in page
    assert "span" in MORE_TABLES


def test_a_run_in_another_currency(folder: Path, tmp_path: Path) -> None:
    dollars = gpu_margin.run(config(folder), backend="numpy")
    (tmp_path / "fx.csv").write_text("currency,rate\nUSD,0.8\n")
    pounds = {**config(folder), "currency": "GBP", "inputs": {"fx": str(tmp_path / "fx.csv")}}
    found = gpu_margin.run(pounds, backend="numpy")
    assert np.allclose(
        found.margins["requirement"], 0.8 * dollars.margins["requirement"], rtol=1e-12
    )
    # By the file's own rate of the euro, where the run is in euros.
    euros = gpu_margin.run({**config(folder, currency="EUR"), "currency": "EUR"}, backend="numpy")
    assert np.allclose(
        EURO * euros.margins["requirement"], dollars.margins["requirement"], rtol=1e-12
    )
    with pytest.raises(ConfigError, match=r"its margin is in EUR.*a row EUR"):
        gpu_margin.run(config(folder, currency="EUR"), backend="numpy")
    with pytest.raises(ConfigError, match="no rate into 'CHF'"):
        gpu_margin.run({**config(folder, currency="CHF"), "currency": "CHF"}, backend="numpy")


def test_models_of_one_file_share_what_is_read_but_not_across_classes(folder: Path) -> None:
    both = config(folder)
    own = both["models"]["exchange"]
    both["models"]["gross"] = {**own, "account_type": "speculator", "gross": True}
    finished = gpu_margin.run(both, backend="numpy")
    files = [finished.manifest["on_files"][name]["files"] for name in ("exchange", "gross")]
    assert files[0] == files[1]
    assert finished.manifest["counts"]["span_accounts"] == 6
    both["models"]["gross"]["account_class"] = "reserve"
    with pytest.raises(ConfigError, match=r"models\.gross: .*a PA2 file is of one class"):
        gpu_margin.run(both, backend="numpy")


def test_a_run_in_pieces_has_the_same_bits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gpu_margin.run(config(folder), backend="numpy")
    monkeypatch.setattr(span_files, "_ACCOUNTS", 2)
    pieces = gpu_margin.run(config(folder), backend="numpy")
    for name in ("margins", "components", "span", "failures"):
        assert_frame_equal(getattr(pieces, name), getattr(whole, name), check_exact=True)
    inputs = span_files.read_inputs(folder / "span.pa2", POSITIONS, ACCOUNTS)
    sizes = [len(piece.accounts) for piece in inputs.pieces()]
    assert sum(sizes) == 6 and max(sizes) <= 2


def test_money_without_a_rate_fails_its_account_in_a_run(folder: Path) -> None:
    lines = demo_span.pa2().splitlines(keepends=True)
    path = folder / "no_rate_run.pa2"
    path.write_text("".join(line for line in lines if not line.startswith("T ")))
    finished = gpu_margin.run(config(folder, file=str(path)), backend="numpy")
    lost = finished.margins.filter(pl.col("requirement").is_null())
    assert lost["account_id"].to_list() == ["power-desk"] * 2 and not lost["complete"].any()
    assert finished.span is not None
    assert "power-desk" not in finished.span["account_id"].to_list()
    assert finished.failures["reason"].to_list() == [
        "exchange: the file has no rate from EUR to USD"
    ]


def test_a_run_without_any_good_position_still_has_a_report(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("account_id,contract_id,quantity\na,DMO:CR:FUT:209901,1\n")
    wrong = config(folder)
    wrong["models"]["exchange"]["positions"] = str(path)
    finished = gpu_margin.save(gpu_margin.run(wrong, backend="numpy"), tmp_path / "out")
    assert finished.margins["requirement"].is_null().all() and finished.span is not None
    assert finished.span.is_empty() and len(finished.failures) == 1
    assert "SPAN margin" in (tmp_path / "out" / "report.html").read_text()


def test_failures_of_a_run_name_the_model(folder: Path) -> None:
    path = folder / "basis_run.pa2"
    path.write_text(demo_span.pa2().replace("4 GASOIL10", "4 GASOIL11"))
    finished = gpu_margin.run(config(folder, file=str(path)), backend="numpy")
    lost = finished.margins.filter(pl.col("requirement").is_null())
    assert set(lost["account_id"]) == {"refiner", "strangle-seller", "power-desk"}
    told = finished.failures.filter(pl.col("source").is_in(lost["account_id"].to_list()))
    assert told["reason"].str.starts_with("exchange: ").all() and len(told) == 3
    assert finished.span is not None and "collar" in finished.span["account_id"].to_list()
