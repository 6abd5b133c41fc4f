"""Sets of a crypto venue: entries re-keyed, the only key of a row, names of sets and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from derive_case import Expiry, Held, book_of, market_of

from gpu_margin.crypto_book import COIN, PERPETUAL, CryptoBook, CryptoMarket
from gpu_margin.crypto_sets import (
    NONE,
    SEVERAL,
    Refusals,
    codes_of,
    gathered,
    keyed,
    market_of_sets,
    name_sets,
    netted,
    only_key,
    short_entries,
)
from gpu_margin.crypto_shocks import averaged, svi_volatility
from gpu_margin.portfolio import Rows

ROWS = Rows(
    np.array([0, 3, 3, 5]),
    np.array([0, 1, 2, 1, 3]),
    np.array([1.0, -2.0, 3.0, 4.0, -5.0]),
)


@pytest.mark.parametrize(
    ("key", "owner", "part", "column"),
    [
        ([0, 0, 1, 1], [0, 0, 2, 2], [0, 1, 0, 1], [[0, 1], [2], [1], [3]]),
        ([1, 0, 1, 0], [0, 0, 2], [0, 1, 0], [[1], [0, 2], [1, 3]]),
        ([-1, 0, -1, 0], [0, 2], [0, 0], [[1], [1, 3]]),
        ([-1, -1, -1, -1], [], [], []),
    ],
    ids=["in order", "out of order", "some left out", "nothing"],
)
def test_keyed_rows(
    key: list[int], owner: list[int], part: list[int], column: list[list[int]]
) -> None:
    rows, owners, parts = keyed(ROWS, np.array(key), 2)
    assert owners.tolist() == owner and parts.tolist() == part
    entries = list(zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True))
    assert [rows.column[a:b].tolist() for a, b in entries] == column
    values = {0: [1.0], 1: [-2.0, 4.0], 2: [3.0], 3: [-5.0]}
    assert all(v in values[c] for c, v in zip(rows.column, rows.value, strict=True))
    assert np.diff(gathered(owners, 3)).tolist() == [owner.count(n) for n in range(3)]


def test_the_only_key_of_a_row() -> None:
    assert only_key(ROWS, np.array([4, 4, 4, 4])).tolist() == [4, NONE, 4]
    assert only_key(ROWS, np.array([1, 2, 1, 2])).tolist() == [SEVERAL, NONE, 2]
    assert only_key(ROWS, np.array([-1, -1, 3, -1])).tolist() == [3, NONE, NONE]
    assert short_entries(ROWS).column.tolist() == [1, 3]
    assert short_entries(ROWS).offsets.tolist() == [0, 1, 1, 2]
    assert codes_of(pl.Series(["b", "", "a"]), pl.Series(["a", "b"])).tolist() == [1, NONE, 0]


def venue() -> CryptoMarket:
    held = [
        Held("A-PERP", PERPETUAL, 0.0, 1.0, 1.0, 0),
        Held("B-PERP", PERPETUAL, 0.0, 1.0, 1.0, 1),
        Held("COIN", COIN, 0.0, 1.0),
    ]
    return market_of(held, [Expiry(1.0, 1.0)], [("A", 1.0, 1.0), ("B", 1.0, 1.0)])


def markets(book: CryptoBook, market: CryptoMarket, coin: int) -> tuple[list[int], Refusals]:
    refusals = Refusals(book)
    own = np.where(market.instruments.kind == COIN, coin, NONE)
    return market_of_sets(refusals, market, netted(book), own).tolist(), refusals


def test_which_market_a_set_is_in() -> None:
    market = venue()
    sets = [[("A-PERP", 1.0)], [("B-PERP", 1.0), ("COIN", 1.0)], [("COIN", 1.0)], []]
    assert markets(book_of(market, sets), market, 0)[0] == [0, 1, 0, NONE]
    found, refusals = markets(book_of(market, sets), market, NONE)
    assert found == [0, 1, NONE, NONE] and refusals.failed.tolist() == [False, False, True, False]
    said = book_of(market, sets, markets=["A", "A", "B", "C"])
    found, refusals = markets(said, market, 0)
    assert found == [0, NONE, 1, NONE]
    assert refusals.table["source"].to_list() == ["a0000003", "a0000001"]
    assert refusals.table["value"].to_list() == ["C", "A"]
    both = book_of(market, [[("A-PERP", 1.0), ("B-PERP", 1.0)]])
    assert "several underlyings" in markets(both, market, 0)[1].table["reason"][0]


def test_a_set_is_told_its_first_reason() -> None:
    market = venue()
    book = book_of(market, [[("A-PERP", 1.0), ("B-PERP", 1.0)], [("B-PERP", 1.0)], []])
    refusals, ids = Refusals(book), market.instruments.ids
    refusals.entries(netted(book), np.array([False, True, False]), "b", ids)
    refusals.entries(netted(book), np.array([True, True, False]), "a", ids)
    refusals.add(np.ones(3, dtype=np.bool_), "rest", "cash", ["x", "y", "z"])
    assert refusals.table.rows() == [
        ("b", "a0000000", None, "instrument_id", "B-PERP"),
        ("b", "a0000001", None, "instrument_id", "B-PERP"),
        ("rest", "a0000002", None, "cash", "z"),
    ]
    unasked = Refusals(book)
    bad, among = np.array([False, True, False]), np.array([False, True, True])
    unasked.entries(netted(book), bad, "b", ids, among)
    assert unasked.failed.tolist() == [False, True, False]


def test_sets_are_named_by_account_and_set() -> None:
    book = book_of(venue(), [[], [], []])
    portfolio = replace(
        book.portfolio,
        accounts=pl.Series(["x", "y"]),
        sets=pl.Series(["x", "two", ""]),
        set_account=np.array([0, 0, 1]),
    )
    named = name_sets(replace(book, portfolio=portfolio), np.arange(3))
    assert named.to_list() == ["x", "x/two", "y"]


def test_half_an_hours_average() -> None:
    """What of a forward of 100 still moves, and what is fixed."""
    moving, fixed = averaged(np.full(4, 100.0), np.array([0.0, 900.0, 1_800.0, 9e9]))
    assert moving.tolist() == [0.0, 50.0, 100.0, 100.0] and fixed.tolist() == [
        100.0,
        50.0,
        0.0,
        0.0,
    ]


def test_a_flat_smile_has_one_volatility() -> None:
    strikes = np.array([1.0, 100.0, 1e9])
    flat = svi_volatility(strikes, 0.09, 0.0, 0.0, 0.0, 0.1, 100.0, 0.25)
    assert np.allclose(flat, 0.6, rtol=1e-15)
    most = svi_volatility(strikes, 1e9, 0.0, 0.0, 0.0, 0.1, 100.0, 0.25)
    assert np.allclose(most, 24.0, rtol=1e-15)
