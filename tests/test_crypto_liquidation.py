"""Liquidation prices: zeros of many functions, moves of one underlying, and both together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from crypto_toy import Toy, toy_book, toy_inputs, toy_market
from polars.testing import assert_frame_equal

from gpu_margin import backend as backends
from gpu_margin import crypto_liquidation
from gpu_margin.crypto_batches import Work
from gpu_margin.crypto_liquidation import Liquidation
from gpu_margin.crypto_moves import exposed, moved, moved_book, of_sets
from gpu_margin.crypto_roots import Roots, grid, roots
from gpu_margin.devices import Device
from gpu_margin.failures import ConfigError
from gpu_margin.tiling import Clock

Function = Callable[[float], float]


def silent(stage: str, done: int, total: int) -> None:
    pass


# ---------------------------------------------------------------- zeros


def zeros(functions: Sequence[Function]) -> tuple[Roots, int]:
    """The zeros of plain functions, and how many factors were asked after the scan."""
    asked = []

    def ask(factor: float, chosen: Any) -> Any:
        asked.append(factor)
        return np.array([functions[code](factor) for code in chosen])

    factors = grid()
    values = np.array([[one(float(factor)) for one in functions] for factor in factors])
    found = roots(factors, values, ask, lambda done, total: None)
    return found, len(asked)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x - 0.5, [0.5]),
        (lambda x: 2.0 - x, [2.0]),
        (lambda x: 1.0, []),
        (lambda x: -1.0, []),
        (lambda x: (x - 0.7) * (x - 1.3), [0.7, 1.3]),
        (lambda x: -(x - 0.41) * (x - 0.9) * (x - 2.7), [0.41, 0.9, 2.7]),
        (lambda x: min(x - 0.8003, 50.0 * (x - 0.8003)), [0.8003]),
        (lambda x: 0.37 - abs(x - 1.0), [0.63, 1.37]),
        (lambda x: math.exp(20.0 * (x - 1.0)) - 3.0, [1.0 + math.log(3.0) / 20.0]),
        (lambda x: 1.0 if x < 1.2345 else -1.0, [1.2345]),
        (lambda x: 1e-200 * (x - 1.5), [1.5]),
        (lambda x: 1e25 * (x - 1.5), [1.5]),
        (lambda x: x - 1.0, [1.0]),
        (lambda x: float("nan"), []),
        (lambda x: float("nan") if x > 1.1 else x - 0.9, [0.9]),
    ],
)
def test_every_zero_is_found(function: Function, expected: list[float]) -> None:
    found, asked = zeros([function])
    assert found.factor.tolist() == pytest.approx(expected, rel=1e-9)
    assert asked <= 50 * max(1, len(expected))
    assert (np.abs(found.factor - np.array(expected)) <= found.within + 1e-12).all()


def test_straight_lines_take_few_evaluations() -> None:
    _, asked = zeros([lambda x: 100.0 - 113.7 * x])
    assert asked <= 6


def test_functions_do_not_disturb_each_other() -> None:
    functions: list[Function] = [
        lambda x: x - 0.5,
        lambda x: (x - 0.7) * (x - 1.3),
        lambda x: math.log(x) + 0.3,
    ]
    together, _ = zeros(functions)
    for code, function in enumerate(functions):
        alone, _ = zeros([function])
        assert together.factor[together.function == code].tolist() == pytest.approx(
            alone.factor.tolist(), rel=1e-9
        )


def test_thousands_of_zeros_share_their_evaluations() -> None:
    """Then each is known to its bracket, which is said."""
    places = np.linspace(0.3, 2.5, 3000)
    asked = []

    def ask(factor: float, chosen: Any) -> Any:
        asked.append(factor)
        return np.log(factor / places[chosen])

    factors = grid()
    values = np.log(factors[:, None] / places)
    found = roots(factors, values, ask, lambda done, total: None)
    assert found.function.tolist() == list(range(3000))
    assert len(asked) <= 4096
    assert (found.within > 0).any() and found.within.max() < 0.006
    assert (np.abs(found.factor - places) <= found.within).all()
    # Between the ends of a bracket the function is nearly straight.
    assert np.abs(found.factor - places).max() < 1e-5


def test_hundreds_of_zeros_are_all_found_to_the_end() -> None:
    places = np.linspace(0.3, 2.5, 700)
    asked = []

    def ask(factor: float, chosen: Any) -> Any:
        asked.append(factor)
        return np.log(factor / places[chosen])

    values = np.log(grid()[:, None] / places)
    found = roots(grid(), values, ask, lambda done, total: None)
    np.testing.assert_allclose(found.factor, places, rtol=1e-6)
    assert len(asked) <= 4096 and (found.within <= 1e-6 * places).all()


def test_the_scan_has_the_spot_itself_and_is_finer_around_it() -> None:
    factors = grid()
    assert 61 <= len(factors) <= 121 and (np.diff(factors) > 0).all()
    assert (factors == 1.0).sum() == 1 and factors[0] == 0.2 and factors[-1] == pytest.approx(3.0)
    assert np.diff(factors).min() == pytest.approx(0.01, rel=0.01)


# ---------------------------------------------------------------- moves


def test_a_move_moves_what_has_the_underlyings_price_and_nothing_else() -> None:
    market = toy_market()
    there = moved(market, 0, 1.5)
    price = dict(zip(there.instruments.ids, there.instruments.price, strict=True))
    assert there.spot.tolist() == [150.0, 10.0]
    assert there.expiries.forward.tolist() == [135.0, 10.0]
    assert there.expiries.fixed.tolist() == [11.0, 0.0]  # known already: it stays
    assert (price["BTC"], price["BTC-PERP"], price["BTC-FUT"]) == (150.0, 150.0, 153.0)
    assert (price["ETH"], price["ETH-PERP"], price["USDT"]) == (10.0, 10.0, 1.0)
    assert math.isnan(price["BTC-C-100"])
    assert (there.instruments.volatility == market.instruments.volatility).all()
    assert market.spot.tolist() == [100.0, 10.0]  # the old market is as it was


def test_no_move_changes_no_bit() -> None:
    market = toy_market()
    book = toy_book([("a", "a", {"BTC-PERP": 0.1, "BTC-INV": 0.3, "BTC-C-100": -2.0}, 5.0)])
    there, then = moved(market, 0, 1.0), moved_book(book, market, 0, 1.0)
    for name in ("price", "volatility"):
        np.testing.assert_array_equal(
            getattr(there.instruments, name), getattr(market.instruments, name)
        )
    assert (there.expiries.forward == market.expiries.forward).all()
    assert (then.unrealised == book.unrealised).all()
    assert (then.portfolio.rows.value == book.portfolio.rows.value).all()


def test_a_marked_option_moves_by_what_black_says_from_its_mark() -> None:
    from dataclasses import replace

    from gpu_margin.pricing import black76

    market = toy_market()
    price = market.instruments.price.copy()
    place = list(market.instruments.ids).index("BTC-C-100")
    price[place] = 13.0
    marked = replace(market, instruments=replace(market.instruments, price=price))
    up = float(black76(119.0, 100.0, 0.5, 0.2, 0.0, True))  # 1.2 x 90 + 11
    now = float(black76(101.0, 100.0, 0.5, 0.2, 0.0, True))
    assert moved(marked, 0, 1.2).instruments.price[place] == pytest.approx(13.0 + up - now)
    assert moved(marked, 0, 1.0).instruments.price[place] == 13.0
    price[place] = 0.01
    assert moved(marked, 0, 0.3).instruments.price[place] == 0.0  # never below


def test_perpetuals_gain_and_lose_linear_and_inverse() -> None:
    """An inverse one in coins: q (1 - 1/f) of them, worth q S (f - 1) at the new price."""
    market = toy_market()
    sets = [
        ("a", "a", {"BTC-PERP": -2.0, "ETH-PERP": 7.0}, 0.0),
        ("b", "b", {"BTC-INV": 3.0}, 0.0),
        ("c", "c", {"BTC": 4.0, "BTC-C-100": 1.0}, 0.0),
        ("d", "d", {"BTC-INV": 3.0, "BTC-PERP": 1.0}, 0.0),
        ("e", "e", {"BTC-FUT": 1.0}, 0.0),
    ]
    book = toy_book(sets, unrealised=[10.0, 20.0, 5.0, 8.0, 0.0])
    then = moved_book(book, market, 0, 1.25)
    coins = 20.0 / 100.0 + 3.0 * (1.0 - 1.0 / 1.25)
    assert then.unrealised.tolist() == pytest.approx(
        [10.0 - 50.0, coins * 125.0, 5.0, 8.0 + 75.0 + 25.0, 25.5]
    )
    held = dict(enumerate(then.portfolio.rows.value))
    column = then.portfolio.rows.column
    ids = list(market.instruments.ids)
    for row, value in held.items():
        was = book.portfolio.rows.value[row]
        assert value == (was / 1.25 if ids[column[row]] == "BTC-INV" else was)


def test_who_is_exposed() -> None:
    book = toy_book(
        [
            ("a", "a", {"BTC-PERP": 1.0}, 0.0),
            ("b", "b", {"ETH-PERP": 1.0}, 0.0),
            ("c", "c", {}, 5.0),
            ("d", "d", {"BTC": 1.0, "USDT": 3.0}, 0.0),
            ("e", "e", {"BTC-PERP": 0.0}, 0.0),
        ]
    )
    assert exposed(book, toy_market(), 0).tolist() == [True, False, False, True, False]


def test_a_book_of_some_sets_has_their_rows() -> None:
    book = toy_book(
        [
            ("a", "a1", {"BTC-PERP": 1.0}, 1.0),
            ("a", "a2", {"ETH-PERP": 2.0, "USDT": 9.0}, 2.0),
            ("b", "b", {"BTC": 3.0}, 3.0),
        ],
        unrealised=[10.0, 20.0, 30.0],
    )
    part = of_sets(book, np.array([1, 2]))
    assert part.portfolio.accounts.to_list() == ["a", "b"]
    assert part.portfolio.sets.to_list() == ["a2", "b"]
    assert part.portfolio.set_account.tolist() == [0, 1]
    assert part.portfolio.rows.value.tolist() == [2.0, 9.0, 3.0]
    assert part.cash.tolist() == [2.0, 3.0] and part.unrealised.tolist() == [20.0, 30.0]
    none = of_sets(book, np.zeros(0, dtype=np.int64))
    assert len(none.cash) == 0 and len(none.portfolio.rows) == 0


# ---------------------------------------------------------------- liquidation


def search(
    sets: Sequence[tuple[str, str, Mapping[str, float], float]],
    underlyings: Sequence[str] | None = None,
    toy: Toy | None = None,
    figures: Mapping[str, float] | None = None,
    unrealised: Sequence[float] | None = None,
) -> Liquidation:
    toy = toy or Toy()
    numbers = {"initial": 0.2, "maintenance": 0.1, "fixed": 0.0, **(figures or {})}
    work = Work(toy, numbers, Device(backends.load("numpy")), silent, Clock())
    inputs = toy_inputs(sets, unrealised)
    return crypto_liquidation.liquidations(work, inputs, underlyings)


def test_a_long_and_a_short_perpetual_by_hand() -> None:
    """q S (f - 1) + cash = 0.1 |q| S f: zero at a price that algebra says."""
    found = search(
        [("long", "l", {"BTC-PERP": 2.0}, 50.0), ("short", "s", {"BTC-PERP": -2.0}, 50.0)]
    )
    long, short = found.prices.iter_rows(named=True)
    assert long["price"] == pytest.approx(150.0 / 1.8, rel=1e-9)
    assert short["price"] == pytest.approx(250.0 / 2.2, rel=1e-9)
    assert (long["side"], short["side"]) == ("below", "above")
    assert long["nearest"] and long["turns"] == "liquidation" and long["spot"] == 100.0
    assert long["change_percent"] == pytest.approx(100.0 * (1.5 / 1.8 - 1.0))
    below, above = found.nearest.iter_rows(named=True)
    assert below["below"] == long["price"] and below["above"] is None and below["prices"] == 1
    assert above["above"] == short["price"] and above["below"] is None and above["note"] == ""


def test_an_inverse_perpetual_with_its_coin() -> None:
    """1 coin and 3 long, all in coins: f + 3 (f - 1) = 0.1 (f + 3) in units of the old price."""
    found = search([("a", "a", {"BTC": 1.0, "BTC-INV": 3.0}, 0.0)])
    # Gross at f: the coin f, the contracts (3 / f) x f.
    assert found.prices["price"].to_list() == pytest.approx([100.0 * 3.3 / 3.9], rel=1e-9)


def test_a_short_straddle_has_two_prices() -> None:
    straddle = {"BTC-C-100": -1.0, "BTC-P-100": -1.0}
    found = search([("a", "a", straddle, 45.0)], ["BTC"])
    assert found.prices["side"].to_list() == ["below", "above"]
    assert found.prices["nearest"].to_list() == [True, True]
    assert found.nearest["prices"].to_list() == [2]
    for price in found.prices["price"]:
        there = search([("a", "a", straddle, 45.0)], ["BTC"], figures=None)
        assert there.distance["status"].to_list() == ["ok"]
        near = moved_value(straddle, 45.0, price / 100.0)
        assert abs(near) < 1e-6


def moved_value(held: Mapping[str, float], cash: float, factor: float) -> float:
    """The maintenance margin value after a move, computed from the beginning."""
    inputs = toy_inputs([("a", "a", held, cash)])
    figures = {"initial": 0.2, "maintenance": 0.1, "fixed": 0.0}
    work = Work(Toy(), figures, Device(backends.load("numpy")), silent, Clock())
    there = work.quoted(moved(inputs.market, 0, factor))
    book = moved_book(inputs.book, inputs.market, 0, factor)
    return float(there.margin(book, "margin").value("maintenance")[0])


def test_beyond_liquidation_there_may_be_recovery() -> None:
    """Short one put and long two further in loss: worse at first, then better again."""
    held = {"BTC-P-100": -1.0, "BTC-PERP": -2.0}
    found = search([("a", "a", held, 35.0)], ["BTC"])
    prices = found.prices
    assert prices["turns"].to_list()[-1] == "liquidation"
    away = [row for row in prices.iter_rows(named=True) if row["side"] == "above"]
    assert [row["nearest"] for row in away] == [True] + [False] * (len(away) - 1)


def test_in_liquidation_now_the_nearest_price_is_one_of_recovery() -> None:
    found = search([("a", "a", {"BTC-PERP": 2.0}, 10.0)])
    assert found.distance["status"].to_list() == ["liquidation"]
    assert found.prices["turns"].to_list() == ["recovery"]
    assert found.prices["side"].to_list() == ["above"]
    assert found.nearest["note"].to_list() == ["in liquidation now"]


def test_none_is_said() -> None:
    found = search(
        [
            ("hedged", "h", {"BTC": 1.0, "BTC-PERP": -1.0}, 500.0),
            ("sunk", "s", {"BTC-PERP": -1.0, "BTC": 1.0}, -500.0),
        ]
    )
    assert found.prices.is_empty()
    hedged, sunk = found.nearest.iter_rows(named=True)
    assert hedged["prices"] == 0 and hedged["below"] is None and hedged["above"] is None
    assert hedged["note"] == "none between 20.00 and 300.00"
    assert sunk["note"] == "in liquidation now; none between 20.00 and 300.00"


def test_each_underlying_is_moved_by_itself() -> None:
    held = {"BTC-PERP": 1.0, "ETH-PERP": -5.0}
    found = search([("a", "a", held, 30.0)])
    by_name = {row["underlying"]: row for row in found.prices.iter_rows(named=True)}
    # 100 (f - 1) + 30 = 0.1 (100 f + 50); 50 (1 - f) + 30 = 0.1 (100 + 50 f)
    assert by_name["BTC"]["price"] == pytest.approx(100.0 * 75.0 / 90.0, rel=1e-9)
    assert by_name["ETH"]["price"] == pytest.approx(10.0 * 70.0 / 55.0, rel=1e-9)
    only = search([("a", "a", held, 30.0)], ["ETH"])
    assert_frame_equal(only.prices, found.prices.filter(pl.col("underlying") == "ETH"))


def test_an_unknown_underlying_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown underlying 'BTX'; did you mean 'BTC'"):
        search([("a", "a", {"BTC": 1.0}, 0.0)], ["BTX"])


def test_the_distance_by_hand() -> None:
    found = search(
        [
            ("a", "a", {"BTC-PERP": 2.0}, 50.0),
            ("b", "b", {"BTC-PERP": 2.0}, 30.0),
            ("c", "c", {}, 7.0),
            ("d", "d", {"BTC-PERP": 2.0}, -1.0),
            ("e", "refused", {"BTC-PERP": 2.0}, 1.0),
        ]
    )
    rows = found.distance.to_dicts()
    assert [row["status"] for row in rows] == ["ok", "margin call", "ok", "liquidation", "unknown"]
    first = rows[0]
    assert (first["equity"], first["initial"], first["maintenance"]) == (50.0, 40.0, 20.0)
    assert first["margin_value"] == 30.0 and first["utilisation"] == 0.4
    assert rows[2]["utilisation"] == 0.0 and rows[3]["utilisation"] is None
    assert rows[4]["equity"] is None and rows[4]["complete"] is False
    notes = dict(found.nearest.select("account_id", "note").iter_rows())
    assert notes["e"] == "unknown: it cannot be margined" and "c" not in notes
    assert found.failures["reason"].to_list() == ["the toy does not like it"]


def test_the_scan_margins_all_sets_at_once() -> None:
    toy, one = Toy(), Toy()
    sets = [(f"a{n}", "s", {"BTC-PERP": 1.0}, 20.0 + 0.5 * n) for n in range(40)]
    found = search(sets, ["BTC"], toy)
    search(sets[:1], ["BTC"], one)
    assert len(found.prices) == 40
    assert toy.calls < len(grid()) + 1 + 40 * 8
    prices = found.prices["price"].to_numpy()
    cash = 20.0 + 0.5 * np.arange(40)
    np.testing.assert_allclose(prices, (100.0 - cash) / 0.9, rtol=1e-9)


def test_sets_do_not_disturb_each_other() -> None:
    sets = [
        ("a", "a", {"BTC-C-100": -1.0, "BTC-P-100": -1.0}, 45.0),
        ("b", "b", {"BTC-PERP": 2.0}, 50.0),
        ("c", "refused", {"BTC-PERP": 2.0}, 50.0),
    ]
    together = search(sets, ["BTC"])
    for one in sets[:2]:
        alone = search([one], ["BTC"])
        own = together.prices.filter(pl.col("account_id") == one[0])
        assert_frame_equal(own, alone.prices, check_exact=True)


def test_of_one_account() -> None:
    found = search([("a", "a", {"BTC-PERP": 2.0}, 50.0), ("b", "b", {"BTC-PERP": -2.0}, 50.0)])
    own = found.of("b")
    assert own.distance["account_id"].to_list() == ["b"]
    assert own.prices["side"].to_list() == ["above"] and len(own.nearest) == 1


def test_progress_is_told_of_the_scan_and_the_search() -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def report(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    figures = {"initial": 0.2, "maintenance": 0.1, "fixed": 0.0}
    work = Work(Toy(), figures, Device(backends.load("numpy")), report, Clock())
    crypto_liquidation.liquidations(work, toy_inputs([("a", "a", {"BTC-PERP": 2.0}, 50.0)]))
    assert told["scan BTC"][0] == (0, len(grid())) and told["scan BTC"][-1] == (len(grid()),) * 2
    assert told["search BTC"][-1][0] == told["search BTC"][-1][1]
    assert "scan ETH" not in told  # nobody holds it


def test_nobody_is_there() -> None:
    found = search([])
    assert found.distance.is_empty() and found.prices.is_empty() and found.nearest.is_empty()
