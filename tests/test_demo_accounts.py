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


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write(demo.build(accounts=400, seed=7), tmp_path_factory.mktemp("exchange"))


@pytest.fixture(scope="module")
def run(exchange: Path) -> gpu_margin.Run:
    return gpu_margin.run(exchange)


@pytest.mark.parametrize("kind", demo.KINDS)
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
        for kind in demo.KINDS
    }
    assert ratio["calendar-spread"] > 0.95
    assert ratio["market-maker"] > 0.9
    assert ratio["index-spread"] > 0.3
    assert ratio["outright"] < 0.05
