"""`gpu_margin.crypto`: tables of margins, tiles, failing devices, and crypto rulebooks in a run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from crypto_toy import Toy, toy_inputs
from polars.testing import assert_frame_equal

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import crypto_batches, crypto_files, demo_crypto
from gpu_margin.crypto_files import Inputs, read_crypto
from gpu_margin.crypto_run import CryptoRun
from gpu_margin.failures import ConfigError
from gpu_margin.io.outputs import MORE_TABLES

TABLES = ("margins", "components", "figures", "failures")
KINDS = ("derive_pm1", "derive_pm2", "derive_standard", "deribit_pm", "okx_pm")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The toy rulebook, whatever is asked for."""
    found = Toy()
    monkeypatch.setattr(crypto_batches, "rulebook", lambda kind: found)
    return found


@pytest.fixture
def venue(tmp_path: Path) -> Path:
    """The demo's files."""
    for name, text in demo_crypto.files().items():
        (tmp_path / name).write_text(text)
    return tmp_path


def margined(venue: Path, rulebook: str = "derive_pm2", **options: Any) -> CryptoRun:
    files = [venue / f"crypto_{name}" for name in ("feeds.json", "positions.csv", "balances.csv")]
    return gpu_margin.crypto(rulebook, *files, backend="numpy", **options)


def same(ours: CryptoRun, theirs: CryptoRun) -> None:
    for name in TABLES:
        assert_frame_equal(getattr(ours, name), getattr(theirs, name), check_exact=True)


# ---------------------------------------------------------------- by hand


def test_margins_by_hand(toy: Toy) -> None:
    inputs = toy_inputs([("a", "s", {"BTC": 1.0, "BTC-PERP": -3.0}, 50.0)], unrealised=[-5.0])
    run = gpu_margin.crypto("toy", inputs, scenarios=True)
    assert run.margins.to_dicts() == [
        {
            "account_id": "a",
            "netting_set": "s",
            "market": "BTC",
            "level": level,
            "requirement": required,
            "mark_to_market": 95.0,
            "cash": 50.0,
            "margin_value": 145.0 - required,
            "worst_scenario": "down",
            "complete": True,
        }
        for level, required in (("initial", 80.0), ("maintenance", 40.0))
    ]
    assert run.components.rows() == [
        ("a", "s", "initial", "share", 80.0),
        ("a", "s", "initial", "fixed", 0.0),
        ("a", "s", "maintenance", "share", 40.0),
        ("a", "s", "maintenance", "fixed", 0.0),
    ]
    assert run.figures.rows() == [("a", "s", "gross", 400.0)]
    assert run.scenarios is not None
    assert run.scenarios.rows() == [("a", "s", "down", -40.0), ("a", "s", "up", 40.0)]
    assert run.currency == "USD" and run.failures.is_empty()


def test_scenarios_are_told_on_request_only(toy: Toy) -> None:
    inputs = toy_inputs([("a", "s", {"BTC": 1.0}, 50.0)])
    assert gpu_margin.crypto("toy", inputs).scenarios is None


def test_a_set_that_cannot_be_margined_is_null_and_the_others_are_as_without_it(toy: Toy) -> None:
    good = [("a", "s", {"BTC": 1.0}, 50.0), ("c", "s", {"ETH-PERP": 2.0}, 1.0)]
    bad = ("b", "refused", {"BTC": 2.0}, 1.0)
    run = gpu_margin.crypto("toy", toy_inputs([good[0], bad, good[1]]), scenarios=True)
    without = gpu_margin.crypto("toy", toy_inputs(good), scenarios=True)
    lost = run.of("b").margins
    amounts = ("requirement", "mark_to_market", "cash", "margin_value", "worst_scenario")
    assert all(lost[name].null_count() == 2 for name in amounts)
    assert lost["complete"].to_list() == [False, False]
    assert run.failures["reason"].to_list() == ["the toy does not like it"]
    for name in ("margins", "components", "figures", "scenarios"):
        kept = getattr(run, name).filter(pl.col("account_id") != "b")
        assert_frame_equal(kept, getattr(without, name), check_exact=True)
    assert run.manifest["counts"]["incomplete_accounts"] == 1


def test_a_margin_beyond_all_numbers_is_a_failure(toy: Toy) -> None:
    run = gpu_margin.crypto("toy", toy_inputs([("a", "s", {"BTC": 1e308, "BTC-PERP": 1e308}, 0.0)]))
    assert run.margins["requirement"].to_list() == [None, None]
    (reason,) = run.failures["reason"]
    assert "not finite" in reason


@pytest.mark.parametrize("sets", [[], [("a", "s", {}, 7.0)], [("a", "s", {"BTC": 0.0}, 7.0)]])
def test_nobody_and_nothing(toy: Toy, sets: list[Any]) -> None:
    run = gpu_margin.crypto("toy", toy_inputs(sets), scenarios=True)
    assert len(run.margins) == 2 * len(sets)
    assert set(run.margins["requirement"]) <= {0.0}
    assert set(run.margins["margin_value"]) <= {7.0}
    assert run.margins["worst_scenario"].null_count() == len(run.margins)


# ---------------------------------------------------------------- tiles and devices


def many(count: int = 25) -> Inputs:
    """Accounts with one or two sets."""
    sets = [
        (f"a{n:02d}", f"s{part}", {"BTC": 1.0 + n, "BTC-C-100": -0.3 * n - part}, 3.0 * n)
        for n in range(count)
        for part in range(1 + n % 2)
    ]
    return toy_inputs(sets)


def test_tiles_change_no_bit_and_progress_is_told(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gpu_margin.crypto("toy", many(), scenarios=True)
    assert toy.calls == 1
    monkeypatch.setattr(crypto_files, "_SETS", 4)
    told: list[tuple[str, int, int]] = []
    tiled = gpu_margin.crypto(
        "toy", many(), scenarios=True, progress=lambda *words: told.append(words)
    )
    assert toy.calls > 6
    same(tiled, whole)
    assert whole.scenarios is not None and tiled.scenarios is not None
    assert_frame_equal(tiled.scenarios, whole.scenarios, check_exact=True)
    margins = [done for stage, done, _ in told if stage == "margin toy"]
    assert margins == sorted(margins) and margins[0] == 0 and margins[-1] == 25
    assert len(margins) > 6


def test_a_device_that_fails_is_given_up(toy: Toy) -> None:
    whole = gpu_margin.crypto("toy", many(), backend="numpy")
    toy.faults = 1
    run = gpu_margin.crypto("toy", many(), backend="numba")
    same(run, whole)
    (lost,) = run.manifest["lost_backends"]
    assert lost["name"] == "numba" and "on fire" in lost["error"] and lost["next"] == "numpy"
    assert run.manifest["backend"]["name"] == "numpy"


def test_where_no_device_is_left_its_error_is_raised(toy: Toy) -> None:
    toy.faults = 9
    with pytest.raises(RuntimeError, match="on fire"):
        gpu_margin.crypto("toy", many(), backend="numpy")


# ---------------------------------------------------------------- settings


def test_the_rulebooks_are_all_there() -> None:
    assert set(KINDS) <= set(crypto_batches.kinds())
    assert "simm" not in crypto_batches.kinds() and "covariance" not in crypto_batches.kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_every_rulebook_says_where_its_numbers_are_from(kind: str) -> None:
    found = crypto_batches.tables(kind)
    assert found
    for table in found:
        assert table["table"] and len(table["date"]) == 10 and table["source"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_rulebook_margins_the_demo(venue: Path, kind: str) -> None:
    """Components add up to the requirement, and values to what is owned less it."""
    run = margined(venue, kind, scenarios=True)
    known = run.margins.drop_nulls("requirement")
    # OKX does not publish what volatilities move by: there options are refused by name.
    assert len(known) >= (0 if kind == "okx_pm" else 4)
    adds_up(run)
    assert len(run.failures) == (len(run.margins) - len(known)) // 2


def adds_up(run: CryptoRun) -> None:
    """Components to requirements, and values to what is owned less them."""
    for row in run.margins.drop_nulls("requirement").iter_rows(named=True):
        own = pl.all_horizontal(
            pl.col(name) == row[name] for name in ("account_id", "netting_set", "level")
        )
        parts = run.components.filter(own)["amount"]
        assert math.fsum(parts) == pytest.approx(row["requirement"], rel=1e-12, abs=1e-9)
        value = row["mark_to_market"] + row["cash"] - row["requirement"]
        assert row["margin_value"] == value


def test_okx_without_options() -> None:
    positions = pl.DataFrame(
        {"account_id": ["a"], "instrument_id": ["BTC-PERP"], "quantity": [-1.0]}
    )
    run = gpu_margin.crypto("okx_pm", demo_crypto.feeds(), positions, backend="numpy")
    initial, maintenance = run.margins["requirement"]
    assert initial == pytest.approx(1.3 * maintenance) and maintenance > 0.12 * 90_000
    adds_up(run)


def test_figures_replace_single_numbers_of_the_table(venue: Path) -> None:
    plain, dearer = margined(venue), margined(venue, figures={"BTC": {"im_factor": 2.0}})
    parts = [
        run.components.filter(pl.col("component") == "scenario_loss") for run in (plain, dearer)
    ]
    joined = parts[0].join(parts[1], on=["account_id", "netting_set", "level"])
    for row in joined.iter_rows(named=True):
        twice = row["netting_set"] == "btc" and row["level"] == "initial"
        assert row["amount_right"] == (2.0 * row["amount"] if twice else row["amount"])
    assert dearer.manifest["settings"]["figures"] == {"BTC": {"im_factor": 2.0}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rulebook": "derive_pm3"}, "unknown rulebook 'derive_pm3'; did you mean 'derive_pm2'"),
        ({"rulebook": "simm"}, "unknown rulebook 'simm'"),
        ({"table": "testnet"}, "unknown version 'testnet'.*mainnet"),
        ({"figures": {"BTC": {"im_factr": 2.0}}}, "did you mean 'im_factor'"),
        ({"figures": {"BTC": {"im_factor": "high"}}}, "im_factor"),
        ({"settings": {"tabel": "x"}}, "did you mean 'table'"),
    ],
)
def test_wrong_settings_are_told(venue: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        margined(venue, **options)


def test_positions_are_needed(venue: Path) -> None:
    with pytest.raises(ConfigError, match="positions: missing"):
        gpu_margin.crypto("derive_pm2", venue / "crypto_feeds.json")


def test_a_missing_file_is_told(venue: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json"):
        gpu_margin.crypto("derive_pm2", venue / "none.json", venue / "crypto_positions.csv")


def test_files_frames_and_inputs_give_the_same(venue: Path) -> None:
    files = margined(venue)
    feeds, positions, balances = (
        venue / f"crypto_{name}" for name in ("feeds.json", "positions.csv", "balances.csv")
    )
    same(gpu_margin.crypto("derive_pm2", read_crypto(feeds, positions, balances)), files)
    frames = gpu_margin.crypto(
        "derive_pm2", demo_crypto.feeds(), demo_crypto.positions(), demo_crypto.balances()
    )
    same(frames, files)
    assert files.manifest["files"][0]["sha256"]


def test_bad_rows_are_failures_and_their_sets_incomplete(venue: Path) -> None:
    with (venue / "crypto_positions.csv").open("a") as stream:
        stream.write("put-buyer,btc,BTC-PERPETUAL,1\n")
    run, clean = margined(venue), margined(venue)
    assert len(run.failures) == 1 and run.failures["value"].to_list() == ["BTC-PERPETUAL"]
    complete = dict(run.margins.select("account_id", "complete").iter_rows())
    assert complete == {"overwriter": True, "put-buyer": False, "straddle-seller": True}
    assert_frame_equal(run.margins.drop("complete"), clean.margins.drop("complete"))


def test_the_demo_is_always_the_same_and_its_files_are_what_it_says() -> None:
    files = demo_crypto.files()
    assert files == demo_crypto.files()
    assert json.loads(files["crypto_feeds.json"]) == demo_crypto.feeds()
    assert len(demo_crypto.feeds()["instruments"]) == 113


# ---------------------------------------------------------------- in a run


def config(venue: Path, kinds: tuple[str, ...] = ("derive_pm2",)) -> dict[str, Any]:
    files = {
        "feeds": str(venue / "crypto_feeds.json"),
        "positions": str(venue / "crypto_positions.csv"),
        "balances": str(venue / "crypto_balances.csv"),
    }
    return {
        "valuation_date": "2026-01-21",
        "currency": "USD",
        "models": {kind: {"kind": kind, **files} for kind in kinds},
    }


def test_all_crypto_rulebooks_in_one_run(venue: Path, tmp_path: Path) -> None:
    finished = gpu_margin.run(config(venue, KINDS), backend="numpy")
    assert finished.crypto is not None
    assert finished.crypto["model"].unique(maintain_order=True).to_list() == list(KINDS)
    assert finished.crypto.columns == [
        *("model", "account_id", "netting_set", "market", "level", "requirement"),
        *("mark_to_market", "cash", "margin_value", "worst_scenario"),
    ]
    levels = finished.margins["level"].unique(maintain_order=True).to_list()
    assert levels == ["initial", "maintenance"]
    assert finished.margins["standalone"].null_count() == len(finished.margins)
    gpu_margin.save(finished, tmp_path / "out")
    assert_frame_equal(pl.read_parquet(tmp_path / "out" / "crypto.parquet"), finished.crypto)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert set(manifest["on_files"]) == set(KINDS)
    assert all(len(one["files"]) == 3 for one in manifest["on_files"].values())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Margin on crypto venues" in page and "okx_pm" in page
    assert "No account has been computed" not in page
    assert "Models side by side" not in page  # that is of models on positions


def test_a_run_and_the_call_agree(venue: Path) -> None:
    finished, run = gpu_margin.run(config(venue), backend="numpy"), margined(venue)
    assert finished.crypto is not None
    ours = run.margins.drop("complete")
    told = finished.crypto.drop("model", "market")
    assert_frame_equal(told, ours.select(told.columns))
    sums = ours.group_by("account_id", "level", maintain_order=True).agg(
        pl.col("requirement").sum()
    )
    told = finished.margins.select("account_id", "level", "requirement")
    assert_frame_equal(told, sums)


def test_crypto_stands_beside_positions_in_a_run(venue: Path, tmp_path: Path) -> None:
    from random_tables import random_case, write_case

    from gpu_margin.config import load_config

    path = write_case(random_case(41, max_instruments=6, max_accounts=9), tmp_path / "x", "parquet")
    loaded = load_config(path).model_dump(exclude_none=True)
    loaded["fx"] = None
    mixed = {key: value for key, value in loaded.items() if value is not None}
    mixed["models"] = {**mixed["models"], "derive": config(venue)["models"]["derive_pm2"]}
    if mixed["currency"] != "USD":
        pytest.skip("the case is not in USD")
    finished = gpu_margin.run(mixed, backend="numpy")
    assert finished.crypto is not None
    assert "derive" in finished.margins["model"].to_list()
    saved = gpu_margin.save(finished, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert saved is not None and "Margin on crypto venues" in page


def test_another_currency_takes_its_rate(venue: Path, tmp_path: Path) -> None:
    dollars = gpu_margin.run(config(venue), backend="numpy").crypto
    (tmp_path / "fx.csv").write_text("currency,rate\nUSD,0.5\n")
    euro = {**config(venue), "currency": "EUR", "inputs": {"fx": str(tmp_path / "fx.csv")}}
    found = gpu_margin.run(euro, backend="numpy").crypto
    assert found is not None and dollars is not None
    amounts = ["requirement", "mark_to_market", "cash", "margin_value"]
    assert_frame_equal(found, dollars.with_columns(pl.col(amounts) * 0.5))


def test_the_table_is_written_where_it_is() -> None:
    assert "crypto" in MORE_TABLES
    assert backends.load("numpy").exact
