"""Allocations as tables: sets added up to accounts, by instrument, group and sub-account."""

from __future__ import annotations

from math import fsum
from typing import Any

import numpy as np
import polars as pl
import pytest
import small_case
from hand_market import es, market, portfolio_of, prepared, rows_of, var
from test_allocation import HAND, adds_up

from gpu_margin import backend as backends
from gpu_margin.allocation import contributions, euler, rolled_up
from gpu_margin.allocation_tables import (
    allocation_table,
    by_account,
    contribution_table,
    group_table,
    set_table,
)
from gpu_margin.engine import prepare
from gpu_margin.loading import Loaded, load
from gpu_margin.models import Prepared
from gpu_margin.shapley import shapley

ACCOUNTS = portfolio_of(
    {
        "one": {"one": {0: 1.0, 1: 1.0}},
        "two": {"house": {0: 2.0}, "client": {0: -1.0, 2: 4.0}},
        "void": {"void": {}},
    }
)
THREE = market([*HAND, [1.0, -1.0, 2.0, -2.0]], "aba")


def table(model: Prepared, usable: Any = True) -> pl.DataFrame:
    portfolio = ACCOUNTS
    chosen = np.broadcast_to(np.asarray(usable), len(portfolio.sets))
    found = contributions(model, portfolio)
    ids = THREE.instruments.ids
    return contribution_table(portfolio, ids, found, "sim", "initial", chosen)


def test_the_table_of_accounts_adds_their_sets() -> None:
    model = prepared(THREE, "simulation", **var(0.5))
    got = table(model)
    assert got.columns == ["account_id", "model", "level", "method", "instrument_id", "amount"]
    assert got.select("model", "level", "method").unique().rows() == [("sim", "initial", "euler")]
    required = model.require(ACCOUNTS.netted).amount
    by_account = np.bincount(ACCOUNTS.set_account, required)
    for account, own in got.group_by("account_id", maintain_order=True):
        code = ACCOUNTS.accounts.index_of(account[0])
        assert code is not None
        assert own["amount"].sum() == pytest.approx(by_account[code], rel=1e-12)
        names = own["instrument_id"].to_list()
        held = [name for name in names if not name.startswith("residual:")]
        assert names == held + [name for name in names if name.startswith("residual:")]
        assert held == (["A", "B"] if account[0] == "one" else ["A", "C"])
    assert set(got["account_id"]) == {"one", "two"}  # the empty account requires nothing
    both = contributions(model, ACCOUNTS)
    mine = got.filter(pl.col("account_id") == "two")["amount"][0]
    of_a = both.amount[(both.part == 0) & (ACCOUNTS.set_account[both.owner] == 1)]
    assert mine == of_a[0] + of_a[1]


def test_residuals_have_rows_only_where_there_are_any() -> None:
    got = table(prepared(THREE, "simulation", **var(0.5)))
    reasons = got.filter(pl.col("instrument_id").str.starts_with("residual:"))
    assert "residual:smoothing" in reasons["instrument_id"].to_list()
    assert (reasons["amount"] != 0.0).all()


def test_sets_without_figures_are_left_out() -> None:
    model = prepared(THREE, "simulation", **es(0.5))
    got = table(model, ACCOUNTS.sets != "house")
    alone = euler(model, rows_of({0: -1.0, 2: 4.0}))
    own = got.filter(pl.col("account_id") == "two")
    assert own["amount"].to_list()[:2] == alone.amount.tolist()
    assert own["amount"].sum() == pytest.approx(alone.requirement[0], rel=1e-12)
    assert table(model, False).is_empty()


def test_product_groups_and_sub_accounts() -> None:
    model = prepared(THREE, "simulation", **es(0.5))
    found = contributions(model, ACCOUNTS)
    usable = np.ones(4, dtype=bool)
    groups = group_table(
        ACCOUNTS, THREE.groups, THREE.instruments.group, found, "sim", "initial", usable
    )
    one = groups.filter(pl.col("account_id") == "one", pl.col("product_group") == "b")
    assert one["amount"].to_list() == pytest.approx([2.0])
    two = groups.filter(pl.col("account_id") == "two", pl.col("product_group") == "a")
    of_two = found.amount[ACCOUNTS.set_account[found.owner] == 1]
    assert two["amount"].to_list() == pytest.approx([fsum(of_two)], rel=1e-14)
    sets = set_table(ACCOUNTS, found, "sim", "initial", usable)
    own = dict(sets.filter(pl.col("account_id") == "two").select("netting_set", "amount").rows())
    for name in ("client", "house"):
        code = ACCOUNTS.sets.index_of(name)
        assert code is not None
        assert own[name] == pytest.approx(found.requirement[code], rel=1e-12)
    for frame in (groups, sets):
        total = dict(frame.group_by("account_id").agg(pl.col("amount").sum()).rows())
        assert total["two"] == pytest.approx(found.requirement[1] + found.requirement[2], rel=1e-12)


def test_standard_errors_stand_beside_sampled_amounts() -> None:
    rng = np.random.default_rng(3)
    model = prepared(market(rng.normal(size=(13, 20)), "a" * 13), "simulation", **es(0.9))
    held = dict.fromkeys(range(13), 1.0)
    portfolio = portfolio_of({"one": {"x": held, "y": held}, "two": {"two": {0: 1.0}}})
    found = shapley(model, portfolio.netted, portfolio.netted.column, samples=10)
    assert found.error is not None
    rolled = by_account(portfolio, found, found.part, np.ones(3, dtype=bool))
    names = pl.Series([chr(ord("A") + code) for code in range(13)])
    got = allocation_table(rolled, portfolio.accounts, names, "instrument_id", "sim", "initial")
    one = got.filter(pl.col("account_id") == "one")
    # An upper bound: both sets were sampled by the same orders.
    assert one["standard_error"].to_list()[:13] == pytest.approx(2 * found.error[:13])
    residuals = got.filter(pl.col("instrument_id").str.starts_with("residual:"))
    assert residuals["standard_error"].null_count() == len(residuals)
    assert one["amount"].sum() == pytest.approx(2 * found.requirement[0], rel=1e-12)


def test_rolling_up_keeps_the_requirement() -> None:
    model = prepared(THREE, "simulation", **var(0.5))
    found = contributions(model, ACCOUNTS)
    everything = np.zeros(4, dtype=np.int64)
    rolled = rolled_up(found, found.part, everything, 1)
    assert rolled.part.tolist() == [0, 1, 2]
    assert rolled.residuals["smoothing"][0] == pytest.approx(fsum(found.residuals["smoothing"]))
    adds_up(rolled)


def test_rounding_is_not_counted_twice() -> None:
    """In float32 it is large enough to be seen."""
    book = market(np.random.default_rng(4).normal(size=(3, 20)), "aba")
    model = prepared(book, "simulation", **es(0.9), precision="float32")
    found = contributions(model, ACCOUNTS)
    rolled = rolled_up(found, found.part, np.zeros(4, dtype=np.int64), 1)
    rounding = fsum(found.residuals["rounding"])
    assert abs(rounding) > 1e-9
    assert rolled.residuals["rounding"][0] == pytest.approx(rounding, rel=1e-6)
    adds_up(rolled)


# ---------------------------------------------------------------- order of input


def tables_of(loaded: Loaded) -> list[pl.DataFrame]:
    portfolio, instruments = loaded.portfolio, loaded.market.instruments
    usable = portfolio.good > 0
    return [
        contribution_table(
            portfolio,
            instruments.ids,
            contributions(prepare(loaded, model, backends.load("numpy")), portfolio),
            model.name,
            "initial",
            usable,
        )
        for model in loaded.models
    ]


def test_the_order_of_input_rows_changes_no_bit() -> None:
    frames = small_case.frames(small_case.CASE)
    config = small_case.CASE.config
    shuffled = {
        name: frame.sample(fraction=1.0, shuffle=True, seed=3) for name, frame in frames.items()
    }
    for ours, theirs in zip(
        tables_of(load(config, **frames)), tables_of(load(config, **shuffled)), strict=True
    ):
        assert ours.equals(theirs)
        assert len(ours)
