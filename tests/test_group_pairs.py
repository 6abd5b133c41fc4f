"""Offsets by pair of product groups: limits, hand-computed numbers, plain loops, tiles."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations
from math import fsum
from typing import Any

import numpy as np
import polars as pl
import pytest
from hand_market import (
    capped,
    es,
    market,
    measured,
    portfolio_of,
    prepared,
    split,
    var,
    weights_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from small_case import CASE

from gpu_margin import backend as backends
from gpu_margin import group_pairs, tiling
from gpu_margin.devices import Device
from gpu_margin.engine import prepare
from gpu_margin.loading import Loaded, load
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio
from gpu_margin.result_tables import usable_sets
from gpu_margin.tiling import Clock, Lanes

# Profits of one contract of A and B in four scenarios.
HAND = [[-10.0, -6.0, 5.0, 2.0], [4.0, 10.0, -8.0, 1.0]]


def every(portfolio: Portfolio) -> Any:
    return np.arange(len(portfolio.accounts))


# ---------------------------------------------------------------- limits


def test_no_accounts_and_accounts_without_a_pair() -> None:
    hand = market(HAND, "ab")
    simulation = prepared(hand, "simulation", **es(0.5))
    lone = portfolio_of({"one": {"one": {0: 2.0}}, "none": {"none": {}}})
    for chosen in (every(lone), every(lone)[:0]):
        pairs = group_pairs.pair_offsets(simulation, lone, hand.instruments.group, chosen)
        assert len(pairs.together) == 0
        table = group_pairs.pair_table({"model": pairs}, hand.groups)
        assert table.is_empty()
    (margin,) = simulation.margin(lone)
    assert len(group_pairs.most_offset(lone, margin, usable_sets(lone, margin))) == 0
    assert group_pairs.pair_table({}, hand.groups).is_empty()


def test_sets_of_an_account_do_not_offset_each_other() -> None:
    hand = market(HAND, "ab")
    simulation = prepared(hand, "simulation", **es(0.5))
    apart = portfolio_of({"one": {"s1": {0: 1.0}, "s2": {1: 1.0}}})
    pairs = group_pairs.pair_offsets(simulation, apart, hand.instruments.group, every(apart))
    assert len(pairs.together) == 0


# ---------------------------------------------------------------- by hand


def test_one_of_each_by_hand() -> None:
    """The two worst of four: A loses 10 and 6, B 8 and -1, both together 6 and 3."""
    hand = market(HAND, "ab")
    simulation = prepared(hand, "simulation", **es(0.5))
    book = portfolio_of({"x": {"x": {0: 1.0, 1: 1.0}}, "y": {"s": {0: 2.0, 1: 2.0}, "t": {0: 1.0}}})
    pairs = group_pairs.pair_offsets(simulation, book, hand.instruments.group, every(book))
    (row,) = group_pairs.pair_table({"es": pairs}, hand.groups).to_dicts()
    assert row.pop("separate") == pytest.approx(3 * (8.0 + 3.5))
    assert row.pop("together") == pytest.approx(3 * 4.5)
    assert row.pop("offset") == pytest.approx(3 * 7.0)
    assert row == {"model": "es", "first": "a", "second": "b", "accounts": 2}


def test_accounts_whose_groups_save_each_other_most() -> None:
    hand = market(HAND, "ab")
    simulation = prepared(hand, "simulation", **es(0.5))
    both = {0: 1.0, 1: 1.0}
    book = portfolio_of(
        {
            "a": {"a": both},
            "b": {"b": {0: 9.0}},
            "c": {"s": both, "t": both},
            "d": {"d": {0: 5.0, 1: 5.0}},
        }
    )
    (margin,) = simulation.margin(book)
    usable = usable_sets(book, margin)
    found = [group_pairs.most_offset(book, margin, usable, most).tolist() for most in range(5)]
    assert found == [[], [3], [2, 3], [0, 2, 3], [0, 2, 3]]
    usable[1 + 1 + 1] = False  # the second set of c
    assert group_pairs.most_offset(book, margin, usable).tolist() == [0, 3]


# ---------------------------------------------------------------- plain loops


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([es(0.8), var(0.8)]), st.sampled_from([1.0, 0.4]))
def test_against_plain_loops(seed: int, measure: dict[str, Any], cap: float) -> None:
    rng = np.random.default_rng(seed)
    groups = "aabbcd"
    profits = rng.normal(0, 10, (6, 20))
    accounts: dict[str, dict[str, dict[int, float]]] = {}
    for number in range(5):
        names = ["s", "t"][: rng.integers(1, 3)]
        sizes = rng.integers(1, 6, len(names))
        codes = [rng.permutation(6)[:size].tolist() for size in sizes]
        accounts[f"acc{number}"] = {
            name: {code: float(rng.integers(1, 5) * rng.choice([-1, 1])) for code in own}
            for name, own in zip(names, codes, strict=True)
        }
    hand = market(profits, groups)
    simulation = prepared(hand, "simulation", **measure, offset_cap=cap)
    book, chosen = portfolio_of(accounts), np.array([0, 2, 3])
    pairs = group_pairs.pair_offsets(simulation, book, hand.instruments.group, chosen)
    found = {
        (row["first"], row["second"]): row
        for row in group_pairs.pair_table({"m": pairs}, hand.groups).iter_rows(named=True)
    }
    weights = weights_of(measure["measure"]["kind"], 0.8, 20, False)
    expected: dict[Any, list[tuple[str, float, float]]] = {}
    for name in ("acc0", "acc2", "acc3"):
        for held in accounts[name].values():
            own = split(held, groups)
            for pair in combinations(own, 2):
                apart = fsum(measured(profits, own[letter], weights) for letter in pair)
                both = {**own[pair[0]], **own[pair[1]]}
                one = capped(profits, both, weights, groups, cap)
                expected.setdefault(pair, []).append((name, apart, one))
    assert set(found) == set(expected)
    for pair, parts in expected.items():
        row = found[pair]
        assert row["separate"] == pytest.approx(fsum(apart for _, apart, _ in parts), abs=1e-9)
        assert row["together"] == pytest.approx(fsum(one for _, _, one in parts), abs=1e-9)
        assert row["offset"] == row["separate"] - row["together"]
        assert row["accounts"] == len({name for name, _, _ in parts})


# ---------------------------------------------------------------- the whole of it


def lanes_of(loaded: Loaded) -> tuple[Lanes, dict[str, Prepared]]:
    numpy = backends.load("numpy")
    every_model = {model.name: partial(prepare, loaded, model) for model in loaded.models}
    on_host = {name: ready(numpy) for name, ready in every_model.items()}
    return Lanes(Device(numpy), every_model, Clock()), on_host


def table_of(loaded: Loaded) -> Any:
    lanes, on_host = lanes_of(loaded)
    margins = {name: model.margin(loaded.portfolio) for name, model in on_host.items()}
    clock = Clock()
    table = group_pairs.group_pairs(loaded, lanes, margins, lambda *_: None, clock)
    return table, set(clock.seconds)


def loaded_case() -> Loaded:
    frames = {name: CASE.rows(name) for name in ("positions", "instruments", "history", "fx")}
    return load(
        CASE.config,
        **{name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in frames.items()},
    )


def many_accounts(loaded: Loaded) -> Loaded:
    """The same market with 40 accounts that hold some of everything."""
    rng = np.random.default_rng(5)
    count = len(loaded.market.instruments)
    book = {
        f"acc{number:02d}": {"s": {c: float(q) for c, q in enumerate(rng.normal(0, 5, count))}}
        for number in range(40)
    }
    return replace(loaded, portfolio=portfolio_of(book))


def test_tiles_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = many_accounts(loaded_case())
    whole, stages = table_of(loaded)
    assert stages == {"pairs cov", "pairs es"}
    assert set(whole["model"]) == {"cov", "es"}
    monkeypatch.setattr(tiling, "_TILE_SIZE", 25)
    assert table_of(loaded)[0].equals(whole)


def test_so_many_accounts_and_groups_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = many_accounts(loaded_case())
    monkeypatch.setattr(group_pairs, "GROUPS", 2)
    table, _ = table_of(loaded)
    assert len(table) == 2
    assert table["accounts"].max() <= 40
    monkeypatch.setattr(group_pairs, "GROUPS", 0)
    assert table_of(loaded)[0].is_empty()


def test_a_book_in_which_nothing_offsets() -> None:
    loaded = loaded_case()
    alone = replace(loaded, portfolio=portfolio_of({"a": {"a": {0: 1.0}}}))
    table, stages = table_of(alone)
    assert table.is_empty() and stages == set()
