"""Scenario studies: all accounts of a venue in other markets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import gpu_margin
from gpu_margin import demo_crypto
from gpu_margin.crypto_run import study
from gpu_margin.crypto_study import UNMOVED, Study
from gpu_margin.failures import ConfigError

KEYS = ("account_id", "netting_set", "level")
CRASH = {"prices": {"BTC": 0.8, "ETH": 0.75}, "volatility": 1.5}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """The demo's venue."""
    for name, text in demo_crypto.files().items():
        (tmp_path / name).write_text(text)
    return [tmp_path / f"crypto_{name}" for name in ("feeds.json", "positions.csv", "balances.csv")]


def asked(moves: dict[str, Any], files: list[Path], rulebook: str = "derive_pm2") -> Study:
    return study(moves, rulebook, *files, backend="numpy")


def of(found: Study, move: str) -> pl.DataFrame:
    return found.margins.filter(pl.col("move") == move).drop("move")


def test_the_market_as_it_is_comes_first_with_the_figures_of_a_run(files: list[Path]) -> None:
    found = asked({"crash": CRASH}, files)
    run = gpu_margin.crypto("derive_pm2", *files, backend="numpy")
    assert found.margins["move"].unique(maintain_order=True).to_list() == [UNMOVED, "crash"]
    assert_frame_equal(of(found, UNMOVED).drop("pnl"), run.margins, check_exact=True)
    assert set(of(found, UNMOVED)["pnl"]) == {0.0}
    assert found.failures.is_empty() and found.manifest["counts"]["moves"] == 1


def test_a_move_of_one_is_none(files: list[Path]) -> None:
    found = asked({"still": {"prices": {"BTC": 1.0}}, "empty": {}}, files)
    for move in ("still", "empty"):
        assert_frame_equal(of(found, move), of(found, UNMOVED), check_exact=True)


def test_perpetuals_gain_what_their_price_does(files: list[Path]) -> None:
    """A set of one perpetual: its gain by hand, its requirement in proportion to the price."""
    positions = pl.DataFrame(
        {"account_id": ["a"], "instrument_id": ["BTC-PERP"], "quantity": [-3.0]}
    )
    found = study(
        {"up": {"prices": {"BTC": 1.1}}}, "derive_pm2", files[0], positions, backend="numpy"
    )
    price = found.margins.filter(pl.col("level") == "initial")
    run = gpu_margin.crypto("derive_pm2", files[0], positions, backend="numpy")
    per_unit = run.components.filter(
        (pl.col("component") == "perpetual") & (pl.col("level") == "maintenance")
    )["amount"][0]
    spot = per_unit / 3.0 / 0.03
    assert price["requirement"][1] == pytest.approx(1.1 * price["requirement"][0], rel=1e-12)
    assert price["pnl"][1] == pytest.approx(-3.0 * 0.1 * spot, rel=2e-3)  # the perpetual's basis


def test_moves_come_one_by_one_to_what_they_come_to_together(files: list[Path]) -> None:
    """Each demo set is in one coin: the other's move does nothing to it."""
    moves = {
        "both": {"prices": {"BTC": 0.8, "ETH": 0.75}},
        "btc": {"prices": {"BTC": 0.8}},
        "eth": {"prices": {"ETH": 0.75}},
    }
    found = asked(moves, files)
    both, parts = of(found, "both"), pl.concat([of(found, "btc"), of(found, "eth")])
    own = pl.col("move") == pl.col("market").str.to_lowercase()
    single = found.margins.filter(own).drop("move").sort(KEYS)
    assert_frame_equal(both.sort(KEYS), single, check_exact=True)
    assert len(parts) == 2 * len(both)


def test_higher_volatilities_are_worth_more_to_who_is_long(files: list[Path]) -> None:
    found = of(asked({"shaken": {"volatility": 1.5}}, files), "shaken")
    assert (found.filter(pl.col("account_id") == "straddle-seller")["pnl"] < 0.0).all()
    assert (found.filter(pl.col("account_id") == "put-buyer")["pnl"] > 0.0).all()


def test_a_set_that_cannot_be_margined_says_in_which_market(files: list[Path]) -> None:
    positions = pl.DataFrame(
        {
            "account_id": ["a", "a", "b"],
            "instrument_id": ["BTC-PERP", "ETH-PERP", "BTC-PERP"],
            "quantity": [1.0, 1.0, 1.0],
        }
    )
    found = study({"crash": CRASH}, "derive_pm2", files[0], positions, backend="numpy")
    assert [reason.partition(":")[0] for reason in found.failures["reason"]] == [UNMOVED, "crash"]
    known = found.margins.filter(pl.col("account_id") == "b")["pnl"]
    assert known.is_not_null().all()
    assert found.margins.filter(pl.col("account_id") == "a")["pnl"].is_null().all()


@pytest.mark.parametrize(
    ("move", "said"),
    [
        ({"prices": {"DOGE": 1.1}}, "unknown underlying 'DOGE'; the feeds have BTC, ETH"),
        ({"prices": {"BTC": 0.0}}, "moves.x.prices.BTC"),
        ({"prices": {"BTC": float("nan")}}, "moves.x.prices.BTC"),
        ({"volatility": -1.0}, "moves.x.volatility"),
        ({"price": {"BTC": 1.1}}, "did you mean 'prices'"),
    ],
)
def test_a_move_that_is_none_is_refused(files: list[Path], move: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asked({"x": move}, files)


def test_a_move_may_not_have_the_name_of_the_market_as_it_is(files: list[Path]) -> None:
    with pytest.raises(ConfigError, match="rename this"):
        asked({UNMOVED: CRASH}, files)
