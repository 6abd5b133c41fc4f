"""Demo accounts of every kind, recomputed by plain loops that import nothing from the package."""

from __future__ import annotations

import tomllib
from pathlib import Path

import oracle
import polars as pl
import pytest
from test_against_oracle import keyed, same_figures

import gpu_margin
from gpu_margin import demo
from gpu_margin.collateral import STATUSES
from gpu_margin.demo_books import KINDS
from gpu_margin.demo_collateral import EURO


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write(demo.build(accounts=400, seed=7), tmp_path_factory.mktemp("exchange"))


@pytest.fixture(scope="module")
def run(exchange: Path) -> gpu_margin.Run:
    return gpu_margin.run(exchange)


@pytest.mark.parametrize("kind", KINDS)
def test_accounts_of_every_kind(kind: str, exchange: Path, run: gpu_margin.Run) -> None:
    folder = exchange.parent
    positions = pl.read_parquet(folder / "positions.parquet")
    of_kind = positions.filter(pl.col("account_id").str.starts_with(f"{kind}-"))
    chosen = of_kind["account_id"].unique().sort().head(1 if kind == "market-maker" else 3)
    instruments = pl.read_parquet(folder / "instruments.parquet").to_dicts()
    expected = oracle.compute(
        tomllib.loads(demo.CONFIG),
        positions.filter(pl.col("account_id").is_in(chosen.implode())).to_dicts(),
        instruments,
        pl.read_parquet(folder / "history.parquet").to_dicts(),
    )
    got = keyed(run.margins, ["account_id", "model"])
    assert len(expected.accounts) == 2 * len(chosen)
    for key, figures in expected.accounts.items():
        same_figures(got[key], figures, expected.losses.get(key, {}))


def test_kinds_behave_as_their_names_say(run: gpu_margin.Run) -> None:
    historical = run.margins.filter(pl.col("model") == "historical")
    ratio = {
        kind: historical.filter(pl.col("account_id").str.starts_with(f"{kind}-"))[
            "offset_ratio"
        ].median()
        for kind in KINDS
    }
    assert ratio["calendar-spread"] > 0.95
    assert ratio["market-maker"] > 0.9
    assert ratio["index-spread"] > 0.3
    assert ratio["outright"] < 0.05


def test_most_accounts_are_solvent_and_some_are_not(run: gpu_margin.Run) -> None:
    """As many calls as a report needs, and no more than an exchange survives."""
    assert run.accounts is not None
    assert run.failures.is_empty()
    for model, part in run.accounts.partition_by(
        "model", as_dict=True, maintain_order=True
    ).items():
        share = {status: (part["status"] == status).mean() for status in STATUSES}
        assert 0.75 < share["ok"] < 0.95, model
        assert 0.02 < share["call"] < 0.15, model
        assert 0.005 < share["liquidation"] < 0.1, model
        assert part["complete"].all()


def test_owners_net_between_venues(run: gpu_margin.Run) -> None:
    assert run.owners is not None
    assert set(run.owners["venues"]) == {"CLR-A;CLR-B"}
    assert (run.owners["saving"] > -1e-6).all()
    assert run.owners["saving"].sum() > 0.1 * run.owners["venue_sum"].sum()


def test_funds_that_fall_with_the_account_are_cut(exchange: Path, run: gpu_margin.Run) -> None:
    """Wrong-way risk: the fund's haircut of accounts long its index is more than the table's."""
    folder = exchange.parent
    held = pl.read_parquet(folder / "collateral.parquet")
    assets = pl.read_parquet(folder / "assets.parquet")
    assert run.accounts is not None
    rate = pl.when(pl.col("currency") == "EUR").then(EURO).otherwise(1.0)
    kept = (1 - pl.col("haircut")) * (1 - pl.col("fx_haircut").fill_null(0.0))
    plain = (
        held.join(assets, on="asset")
        .with_columns(plain=pl.col("amount") * pl.col("price") * rate * kept)
        .group_by("account_id")
        .agg(pl.col("plain").sum(), moves=pl.col("factor").is_not_null().any())
    )
    both = run.accounts.join(plain, on="account_id")
    moves, still = both.filter("moves"), both.filter(~pl.col("moves"))
    assert ((still["collateral_value"] - still["plain"]).abs() <= 1e-6).all()
    assert (moves["collateral_value"] <= moves["plain"] + 1e-6).all()
    assert (moves["collateral_value"] < 0.99 * moves["plain"]).any()


def test_the_requirement_is_attributed_to_instruments(run: gpu_margin.Run) -> None:
    assert run.contributions is not None
    assert run.contributions["model"].unique().to_list() == ["historical"]
    total = run.contributions["amount"].sum()
    historical = run.margins.filter(pl.col("model") == "historical")["requirement"].sum()
    assert total == pytest.approx(historical, rel=1e-9)
