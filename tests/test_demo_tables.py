"""The demo exchange: what it must contain, and that a seed fixes it."""

from __future__ import annotations

import math
import sys
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gpu_margin import demo, demo_crypto, demo_span
from gpu_margin.demo_books import KINDS
from gpu_margin.demo_collateral import MAX_OFFSET, STRESSES, VENUES, stress_profits
from gpu_margin.demo_market import VALUATION_DATE, list_instruments
from gpu_margin.failures import InputError


@pytest.fixture(scope="module")
def tables() -> demo.DemoTables:
    return demo.build(accounts=2_000, seed=7)


def with_kind(positions: pl.DataFrame) -> pl.DataFrame:
    return positions.with_columns(kind=pl.col("account_id").str.replace(r"-\d{6}$", ""))


def dollar_deltas(tables: demo.DemoTables) -> dict[str, float]:
    """Dollar delta of one contract, by plain loops and the textbook formula."""
    known = tables.history.filter(pl.col("date") <= VALUATION_DATE).sort("date")
    spots = dict(zip(known["factor"], known["price"], strict=True))
    result = {}
    for row in tables.instruments.iter_rows(named=True):
        if row["strike"] is None:
            exposure = row["price"]
        else:
            forward = row["forward"] or spots[row["underlying"]]
            time = (row["expiry"] - VALUATION_DATE).days / 365
            deviation = row["implied_vol"] * math.sqrt(time)
            d1 = math.log(forward / row["strike"]) / deviation + deviation / 2
            probability = (1 + math.erf(d1 / math.sqrt(2))) / 2 - (row["kind"] == "put")
            exposure = forward * probability * math.exp(-row["rate"] * time)
        result[row["instrument_id"]] = row["multiplier"] * exposure
    return result


def exposures(tables: demo.DemoTables, kind: str) -> pl.DataFrame:
    """Net and gross dollar delta per account of one kind."""
    delta = pl.col("quantity") * pl.col("instrument_id").replace_strict(dollar_deltas(tables))
    return (
        with_kind(tables.positions)
        .filter(pl.col("kind") == kind)
        .group_by("account_id")
        .agg(net=delta.sum(), gross=delta.abs().sum())
    )


@pytest.mark.parametrize("accounts", [8, 100])
def test_every_account_kind_is_present(accounts: int) -> None:
    positions = with_kind(demo.build(accounts).positions)
    assert set(positions["kind"]) == set(KINDS)
    assert positions["account_id"].n_unique() == accounts


def test_every_instrument_kind_is_listed_and_held(tables: demo.DemoTables) -> None:
    kinds = {"spot", "future", "perpetual", "call", "put"}
    held = tables.positions.join(tables.instruments, on="instrument_id")
    assert set(tables.instruments["kind"]) == set(held["kind"]) == kinds


def test_ids_are_unique_and_known(tables: demo.DemoTables) -> None:
    ids = tables.instruments["instrument_id"]
    assert ids.is_unique().all()
    assert "SP500-F-2019-03" in ids and "SP500-C-2019-03-2500" in ids
    assert set(tables.positions["instrument_id"]) <= set(ids)
    assert not tables.positions.select("account_id", "instrument_id").is_duplicated().any()
    assert set(tables.instruments["underlying"]) == set(tables.history["factor"])


def test_numbers_are_usable(tables: demo.DemoTables) -> None:
    quantity = tables.positions["quantity"]
    assert (quantity.is_finite() & (quantity != 0) & (quantity == quantity.round())).all()
    assert (quantity > 0).any() and (quantity < 0).any()
    assert tables.history["price"].is_finite().all() and (tables.history["price"] > 0).all()
    is_option = pl.col("kind").is_in(["call", "put"])
    options = tables.instruments.filter(is_option)
    assert options["implied_vol"].is_between(0.05, 1.0).all() and (options["strike"] > 0).all()
    assert (options["expiry"] > VALUATION_DATE).all()
    assert options.filter(pl.col("forward").is_null())["expiry"].n_unique() == 2
    assert (tables.instruments.filter(~is_option)["price"] > 0).all()


def test_the_seed_fixes_the_tables(tables: demo.DemoTables) -> None:
    again, other = demo.build(2_000, seed=7), demo.build(2_000, seed=8)
    for name, table in vars(tables).items():
        assert getattr(again, name).equals(table), name
    for name in ("positions", "collateral", "accounts", "agreements"):
        assert not getattr(other, name).equals(getattr(tables, name)), name


@pytest.mark.parametrize("fewer", [1, 8, 150])
def test_an_account_does_not_depend_on_how_many_there_are(
    tables: demo.DemoTables, fewer: int
) -> None:
    small = demo.build(fewer, seed=7)
    for name in ("positions", "collateral", "accounts"):
        own = getattr(small, name)
        assert own.equals(getattr(tables, name).head(len(own))), name
        assert own["account_id"].n_unique() == fewer


def test_market_makers_hold_hundreds_of_positions(tables: demo.DemoTables) -> None:
    makers = with_kind(tables.positions).filter(pl.col("kind") == "market-maker")
    counts = makers.group_by("account_id").len()["len"]
    assert counts.is_between(100, 400).all()
    assert 0.01 < len(counts) / 2_000 < 0.03


@pytest.mark.parametrize(
    ("kind", "most"), [("delta-neutral", 0.05), ("market-maker", 0.05), ("index-spread", 0.1)]
)
def test_hedged_accounts_have_little_net_delta(
    tables: demo.DemoTables, kind: str, most: float
) -> None:
    assert (
        exposures(tables, kind).select((pl.col("net").abs() < most * pl.col("gross")).all()).item()
    )


def test_the_positions_of_a_seed_stay_what_they_were(tables: demo.DemoTables) -> None:
    """What is drawn beside them has streams of its own."""
    collar = tables.positions.filter(pl.col("account_id") == "collar-000005")
    assert collar.drop("account_id").rows() == [
        ("WTI-F-2019-03", 25.0),
        ("WTI-C-2019-03-47", -25.0),
        ("WTI-P-2019-03-43", 25.0),
    ]


def test_stresses_against_plain_loops(tables: demo.DemoTables) -> None:
    """Profits of futures and options by the textbook formula."""
    known = tables.history.filter(pl.col("date") <= VALUATION_DATE).sort("date")
    spots = dict(zip(known["factor"], known["price"], strict=True))
    profits = stress_profits(list_instruments(tables.history), tables.history)
    factors = ("SP500", "NASDAQ", "WTI")
    assert profits.shape == (len(STRESSES), len(tables.instruments))
    for number, row in enumerate(tables.instruments.iter_rows(named=True)):
        if number % 17:
            continue
        for stress in (0, 5, len(STRESSES) - 1):
            move = STRESSES[stress][factors.index(row["underlying"])]
            if row["strike"] is None:
                gain = row["price"] * move
            else:
                forward = row["forward"] or spots[row["underlying"]]
                gain = worth(row, forward * (1 + move)) - worth(row, forward)
            expected = row["multiplier"] * gain
            assert profits[stress, number] == pytest.approx(expected, rel=1e-9, abs=1e-6)


def worth(option: dict[str, Any], forward: float) -> float:
    """Black-76."""
    time = (option["expiry"] - VALUATION_DATE).days / 365
    deviation = option["implied_vol"] * math.sqrt(time)
    d1 = math.log(forward / option["strike"]) / deviation + deviation / 2
    ends = [(1 + math.erf(d / math.sqrt(2))) / 2 for d in (d1, d1 - deviation)]
    side = 1 if option["kind"] == "call" else 0
    gain = forward * (ends[0] - 1 + side) - option["strike"] * (ends[1] - 1 + side)
    return gain * math.exp(-option["rate"] * time)


def test_everybody_holds_collateral_and_some_more_than_dollars(tables: demo.DemoTables) -> None:
    held = tables.collateral
    assert (held["amount"] > 0).all()
    assert set(held["account_id"]) == set(tables.positions["account_id"])
    assert set(held["asset"]) == set(tables.assets["asset"])
    assert not held.select("account_id", "asset").is_duplicated().any()
    several = held.group_by("account_id").len().filter(pl.col("len") > 1)
    assert 0.2 < len(several) / 2_000 < 0.4
    assert set(tables.assets["currency"]) - {"USD"} == set(tables.fx["currency"])
    follows = tables.assets["factor"].drop_nulls()
    assert set(follows) == set(tables.history["factor"])


def test_owners_have_a_few_accounts_each_and_some_net(tables: demo.DemoTables) -> None:
    accounts = tables.accounts
    assert accounts["account_id"].equals(tables.positions["account_id"].unique(maintain_order=True))
    assert set(accounts["venue"]) == set(VENUES)
    owners = accounts.group_by("owner").agg(pl.len(), venues=pl.col("venue").n_unique())
    assert 2 < owners["len"].mean() < 3
    assert tables.agreements["owner"].is_unique().all()
    netting = owners.filter(pl.col("owner").is_in(tables.agreements["owner"].implode()))
    assert len(netting) == len(tables.agreements)
    assert (netting["venues"] == 2).all()
    assert 0.05 < len(netting) / len(owners) < 0.3
    assert set(tables.agreements["max_offset"]) == {MAX_OFFSET}


def test_write_leaves_the_tables_and_their_config(tables: demo.DemoTables, tmp_path: Path) -> None:
    path = demo.write(tables, tmp_path / "new")
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    names = set(config["inputs"].values())
    others = {"config.toml", "trades.csv", "crif.csv", "crif_new.csv"}
    others |= {*demo_crypto.files(), *demo_span.files()}
    assert {file.name for file in path.parent.iterdir()} == names | others
    for noun, name in config["inputs"].items():
        assert pl.read_parquet(path.parent / name).equals(getattr(tables, noun))


def test_errors_say_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="accounts >= 1"):
        demo.build(0)
    monkeypatch.setitem(sys.modules, "arch.data", None)
    with pytest.raises(InputError, match=r"gpu-margin\[demo\]"):
        demo.build(8)
