"""Deribit's answers, saved to files, as a market and a book."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import deribit_case as case
import numpy as np
import polars as pl
import pytest

from gpu_margin import backend
from gpu_margin.crypto_book import (
    COIN,
    FUTURE,
    INITIAL,
    OPTION,
    PERPETUAL,
    CryptoBook,
    CryptoMarket,
)
from gpu_margin.crypto_files import read_crypto
from gpu_margin.failures import ConfigError, failure_table
from gpu_margin.io import deribit
from gpu_margin.io.crypto_json import Document, read_documents
from gpu_margin.io.deribit import read_deribit, read_deribit_book, read_deribit_market, read_params
from gpu_margin.io.deribit_answers import parsed
from gpu_margin.models import deribit_pm
from gpu_margin.pricing import black76

# 2026-03-01T00:00:00Z, in milliseconds.
NOW = 1_772_323_200_000
EXPIRY = 1_774_598_400_000  # 2026-03-27T08:00:00Z
CALL, PUT = "BTC-27MAR26-60000-C", "BTC-27MAR26-50000-P"


def envelope(result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 7, "result": result, "usOut": NOW * 1_000, "testnet": False}


def instrument(name: str, **own: Any) -> dict[str, Any]:
    """As public/get_instruments has it, of an inverse future unless it says otherwise."""
    return {
        "tick_size": 0.5,
        "settlement_period": "month",
        "settlement_currency": "BTC",
        "quote_currency": "USD",
        "base_currency": "BTC",
        "kind": "future",
        "instrument_type": "reversed",
        "instrument_name": name,
        "contract_size": 10.0,
        "expiration_timestamp": EXPIRY,
        **own,
    }


def summary(name: str, **own: Any) -> dict[str, Any]:
    """As public/get_book_summary_by_currency has it."""
    return {
        "instrument_name": name,
        "creation_timestamp": NOW,
        "mark_price": 60_100.0,
        "estimated_delivery_price": 60_000.0,
        "volume": 1.0,
        **own,
    }


def quoted_option(name: str, **own: Any) -> dict[str, Any]:
    terms = {
        "mark_price": 0.05,
        "mark_iv": 55.5,
        "underlying_price": 60_300.0,
        "interest_rate": 0.0,
    }
    return summary(name, **{**terms, **own})


def position(name: str, size: float, **own: Any) -> dict[str, Any]:
    """As private/get_positions has it."""
    direction = "buy" if size > 0 else "sell" if size < 0 else "zero"
    kind = "option" if name.endswith(("-C", "-P")) else "future"
    return {
        "instrument_name": name,
        "kind": kind,
        "size": size,
        "direction": direction,
        "average_price": 0.0,
        "mark_price": 60_100.0,
        **own,
    }


def account(currency: str, balance: float, **own: Any) -> dict[str, Any]:
    """As private/get_account_summary has it."""
    return {
        "currency": currency,
        "balance": balance,
        "equity": balance,
        "options_value": 0.0,
        "margin_model": "segregated_pm",
        "cross_collateral_enabled": False,
        **own,
    }


def feeds() -> dict[str, Any]:
    """A small market: file name and answer."""
    return {
        "instruments": envelope(
            [
                instrument("BTC-27MAR26"),
                instrument(
                    "BTC-PERPETUAL",
                    settlement_period="perpetual",
                    expiration_timestamp=32_503_708_800_000,
                ),
                instrument(CALL, kind="option", option_type="call", strike=60_000.0),
                instrument(PUT, kind="option", option_type="put", strike=50_000.0),
                instrument("BTC-FS-27MAR26_PERP", kind="future_combo"),
            ]
        ),
        "book": envelope(
            [
                summary("BTC-PERPETUAL", mark_price=60_050.0),
                summary("BTC-27MAR26", mark_price=60_250.0),
                quoted_option(CALL),
                quoted_option(PUT, mark_price=0.01),
                summary("BTC-FS-27MAR26_PERP", mark_price=200.0),
            ]
        ),
        "index_btc_usd": envelope({"index_price": 60_010.0, "estimated_delivery_price": 60_010.0}),
    }


def saved(folder: Path, answers: Mapping[str, Any]) -> Path:
    """The answers as files; names may have sub-folders."""
    for name, answer in answers.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(answer), encoding="utf-8")
    return folder


def held(book: CryptoBook, market: CryptoMarket) -> dict[tuple[str, str], dict[str, float]]:
    """Quantities by account and set, then by instrument."""
    portfolio, names = book.portfolio, market.instruments.ids
    found = {}
    for number, name in enumerate(portfolio.sets):
        low, high = portfolio.rows.offsets[number : number + 2]
        rows = {
            names[int(portfolio.rows.column[at])]: float(portfolio.rows.value[at])
            for at in range(low, high)
        }
        found[portfolio.accounts[int(portfolio.set_account[number])], name] = rows
    return found


def told(failures: pl.DataFrame) -> list[tuple[str, str]]:
    return list(failures.select("source", "field").rows())


# ---------------------------------------------------------------- the market


def test_a_market_of_book_summaries(tmp_path: Path) -> None:
    loaded = read_deribit_market(saved(tmp_path, feeds()))
    market, i = loaded.market, loaded.market.instruments
    assert loaded.failures.is_empty()
    assert market.time == NOW / 1e3
    assert market.underlyings.to_list() == ["BTC"]
    assert market.spot.tolist() == [60_010.0]
    assert market.stable == 1.0
    assert i.ids.to_list() == ["BTC", "BTC-27MAR26", PUT, CALL, "BTC-PERPETUAL", "USDT"]
    assert i.kind.tolist() == [COIN, FUTURE, OPTION, OPTION, PERPETUAL, COIN]
    assert i.inverse.tolist() == [False, True, True, True, True, False]
    assert i.settlement.to_list() == ["BTC"] * 5 + ["USDT"]
    np.testing.assert_allclose(i.volatility[2:4], 0.555, rtol=1e-14)
    assert i.strike[2:4].tolist() == [50_000.0, 60_000.0]
    assert i.call[2:4].tolist() == [False, True]
    # A mark in coins counts at the index.
    np.testing.assert_allclose(i.price[2:4], [0.01 * 60_010.0, 0.05 * 60_010.0], rtol=1e-14)
    assert i.price[[0, 1, 4, 5]].tolist() == [60_010.0, 60_250.0, 60_050.0, 1.0]
    e = market.expiries
    assert e.seconds.tolist() == [(EXPIRY - NOW) / 1e3]
    # The forward is that of the options, not the mark of the future.
    assert e.forward.tolist() == [60_300.0]
    assert i.expiry.tolist() == [-1, 0, 0, 0, -1, -1]


def test_names_alone_say_what_instruments_are(tmp_path: Path) -> None:
    with_terms = read_deribit_market(saved(tmp_path / "a", feeds())).market
    without = {name: one for name, one in feeds().items() if name != "instruments"}
    without["book"]["result"] = without["book"]["result"][:4]
    names_only = read_deribit_market(saved(tmp_path / "b", without)).market
    for name in ("ids", "settlement"):
        left, right = getattr(with_terms.instruments, name), getattr(names_only.instruments, name)
        assert left.to_list() == right.to_list()
    for name in ("kind", "strike", "call", "volatility", "price", "inverse", "expiry"):
        left, right = getattr(with_terms.instruments, name), getattr(names_only.instruments, name)
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(with_terms.expiries.seconds, names_only.expiries.seconds)


@pytest.mark.parametrize(
    ("name", "kind", "base", "settlement", "inverse", "strike"),
    [
        ("BTC-PERPETUAL", "perpetual", "BTC", "BTC", True, None),
        ("BTC_USDC-PERPETUAL", "perpetual", "BTC", "USDC", False, None),
        ("ETH-28JUN24", "future", "ETH", "ETH", True, None),
        ("ETH-5JAN24-2000-P", "option", "ETH", "ETH", True, 2_000.0),
        ("XRP_USDC-30JUN23-0d625-C", "option", "XRP", "USDC", False, 0.625),
    ],
)
def test_names(
    name: str, kind: str, base: str, settlement: str, inverse: bool, strike: float | None
) -> None:
    found = parsed(name)
    assert found is not None
    assert (found.kind, found.base, found.settlement) == (kind, base, settlement)
    assert (found.inverse, found.strike) == (inverse, strike)


@pytest.mark.parametrize(
    "name", ["BTC", "BTC-31FEB26", "BTC-5XYZ24", "BTC-FS-27MAR26_PERP", "btc-perpetual", None, 5]
)
def test_what_is_no_name(name: Any) -> None:
    assert parsed(name) is None


def test_expiries_are_at_eight_o_clock() -> None:
    found = parsed("BTC-27MAR26")
    assert found is not None and found.expiry == EXPIRY / 1e3


def test_tickers_in_any_wrapping_say_the_same(tmp_path: Path) -> None:
    ticker = {
        "instrument_name": "BTC-PERPETUAL",
        "timestamp": NOW,
        "mark_price": 60_050.0,
        "index_price": 60_010.0,
        "state": "open",
    }
    notice = {"channel": "ticker.BTC-PERPETUAL.100ms", "data": ticker}
    wrapped = [
        ticker,
        envelope(ticker),
        [envelope(ticker)],
        {"jsonrpc": "2.0", "method": "subscription", "params": notice},
    ]
    for number, one in enumerate(wrapped):
        loaded = read_deribit_market(saved(tmp_path / str(number), {"t": one}))
        assert loaded.failures.is_empty()
        assert loaded.market.spot.tolist() == [60_010.0]
        assert loaded.market.instruments.ids.to_list() == ["BTC", "BTC-PERPETUAL", "USDT"]


def test_the_newest_of_several_quotes_counts(tmp_path: Path) -> None:
    old = summary("BTC-PERPETUAL", mark_price=1.0, creation_timestamp=NOW - 5)
    new = summary("BTC-PERPETUAL", mark_price=2.0, creation_timestamp=NOW + 5)
    loaded = read_deribit_market(saved(tmp_path, {"a": [new], "b": [old]}))
    assert loaded.market.instruments.price[1] == 2.0
    assert loaded.market.time == (NOW + 5) / 1e3
    assert read_deribit_market(tmp_path, time=1e9).market.time == 1e9


def test_linear_instruments_are_quoted_in_their_coin(tmp_path: Path) -> None:
    name = "SOL_USDC-27MAR26-92-C"
    answers = {
        "q": [
            summary("SOL_USDC-PERPETUAL", mark_price=100.0, estimated_delivery_price=99.0),
            summary(name, mark_price=8.0, mark_iv=80.0, underlying_price=101.0),
        ],
        "usdc_usd": {"index_price": 0.99},
    }
    loaded = read_deribit_market(saved(tmp_path, answers))
    market, i = loaded.market, loaded.market.instruments
    assert loaded.failures.is_empty()
    assert market.stable == 0.99
    assert i.ids.to_list() == ["SOL", name, "SOL_USDC-PERPETUAL", "USDT"]
    np.testing.assert_allclose(i.price, [99.0 * 0.99, 7.92, 99.0, 1.0], rtol=1e-14)
    np.testing.assert_allclose(market.expiries.forward, [101.0 * 0.99], rtol=1e-14)
    np.testing.assert_allclose(market.spot, [99.0 * 0.99], rtol=1e-14)
    assert not i.inverse.any()


def test_the_last_half_hour_is_an_average(tmp_path: Path) -> None:
    late = EXPIRY - 600_000
    answers = {"q": [quoted_option(CALL, creation_timestamp=late)]}
    e = read_deribit_market(saved(tmp_path, answers)).market.expiries
    assert e.forward.tolist() == pytest.approx([20_100.0])
    assert e.fixed.tolist() == pytest.approx([40_200.0])


@pytest.mark.parametrize(
    ("own", "field"),
    [
        ({"mark_iv": None}, "/2/mark_iv"),
        ({"mark_iv": float("nan")}, "/2/mark_iv"),
        ({"mark_iv": -5.0}, "/2/mark_iv"),
        ({"mark_iv": "high"}, "/2/mark_iv"),
        ({"mark_iv": True}, "/2/mark_iv"),
        ({"mark_price": float("inf")}, "/2/mark_price"),
        ({"instrument_name": "BTC-27MAR26-60000-X"}, "/2/instrument_name"),
        ({"instrument_name": 12}, None),
    ],
)
def test_a_bad_quote_fails_alone(tmp_path: Path, own: dict[str, Any], field: str | None) -> None:
    answers = {"q": [summary("BTC-PERPETUAL"), quoted_option(PUT), {**quoted_option(CALL), **own}]}
    loaded = read_deribit_market(saved(tmp_path, answers))
    ids = loaded.market.instruments.ids.to_list()
    assert ids == ["BTC", PUT, "BTC-PERPETUAL", "USDT"]
    assert told(loaded.failures) == ([("q.json", field)] if field else [])


def test_an_expired_contract_fails_by_name(tmp_path: Path) -> None:
    answers = {"q": [summary("BTC-PERPETUAL"), summary("BTC-27FEB26")]}
    loaded = read_deribit_market(saved(tmp_path, answers))
    assert loaded.market.instruments.ids.to_list() == ["BTC", "BTC-PERPETUAL", "USDT"]
    assert any("expired" in reason for reason in loaded.failures["reason"])


def test_without_an_underlying_price_an_expiry_fails(tmp_path: Path) -> None:
    bare = {**quoted_option(CALL), "underlying_price": None}
    loaded = read_deribit_market(saved(tmp_path, {"q": [summary("BTC-PERPETUAL"), bare]}))
    assert ("q.json", "/1/underlying_price") in told(loaded.failures)
    # The mark of the future of that day serves.
    with_future = {"q": [summary("BTC-27MAR26", mark_price=60_250.0), bare]}
    other = read_deribit_market(saved(tmp_path, with_future))
    assert other.failures.is_empty()
    assert other.market.expiries.forward.tolist() == [60_250.0]


def test_unreadable_and_unknown_files_are_failures(tmp_path: Path) -> None:
    saved(tmp_path, {**feeds(), "x": {"hello": 1}, "e": {"jsonrpc": "2.0", "error": {"code": 5}}})
    (tmp_path / "broken.json").write_text('{"result": [', encoding="utf-8")
    saved(tmp_path, {"list": [3, {"index_price": 5.0}], "eth_usd": {"index_price": "NaN"}})
    loaded = read_deribit_market(tmp_path)
    assert len(loaded.market.instruments) == 6
    assert set(told(loaded.failures)) == {
        ("broken.json", None),
        ("x.json", ""),
        ("e.json", "/error"),
        ("list.json", "/0"),
        ("list.json", "/1/index_price"),
        ("eth_usd.json", "/index_price"),
    }


def test_a_market_without_a_time_says_so(tmp_path: Path) -> None:
    answers = {"q": {"instrument_name": "BTC-PERPETUAL", "mark_price": 1.0, "index_price": 1.0}}
    loaded = read_deribit_market(saved(tmp_path, answers))
    assert [reason.split(":")[0] for reason in loaded.failures["reason"]] == ["missing time"]
    assert read_deribit_market(tmp_path, time=1e9).failures.is_empty()


def test_no_such_file() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_deribit_market(Path("nowhere.json"))


# ---------------------------------------------------------------- the book


def test_one_account_from_a_folder(tmp_path: Path) -> None:
    answers = {
        **feeds(),
        "positions": envelope(
            [
                # The example of the venue's reference: 50 USD at 7476.65.
                position("BTC-PERPETUAL", 50.0, mark_price=7_476.65),
                position("BTC-27MAR26", -600.0, size_currency=-0.0099),
                position(CALL, -2.5),
                position(PUT, 0.0),
            ]
        ),
        "summary": envelope(
            account("BTC", 1.5, id=42, username="desk", equity=1.4, options_value=-0.125)
        ),
    }
    found = read_deribit(saved(tmp_path, answers))
    assert found.failures.is_empty()
    rows = held(found.book, found.market)
    assert list(rows) == [("42", "BTC")]
    own = rows["42", "BTC"]
    assert own["BTC-PERPETUAL"] == pytest.approx(0.006687487, rel=1e-7)
    assert own["BTC-27MAR26"] == -0.0099
    assert own[CALL] == -2.5
    assert own["BTC"] == 1.5
    assert found.book.market.to_list() == ["BTC"]
    assert found.book.cash.tolist() == [0.0]
    # Equity is balance + options + profit of the session.
    assert found.book.unrealised.tolist() == pytest.approx([(1.4 - 1.5 + 0.125) * 60_010.0])


def test_the_example_of_the_reference_adds_up(tmp_path: Path) -> None:
    """equity = balance + options_value + futures_session_upl + futures_session_rpl."""
    one = account(
        "BTC", 302.60065765, equity=302.61869214, options_value=-0.0086, id=10,
        futures_session_upl=0.05921555, futures_session_rpl=-0.03258105,
    )  # fmt: skip
    found = read_deribit(saved(tmp_path, {**feeds(), "s": {"id": 10, "summaries": [one]}}))
    session = 0.05921555 - 0.03258105
    assert found.book.unrealised[0] == pytest.approx(session * 60_010.0, abs=1e-3)
    del one["equity"]
    other = read_deribit(saved(tmp_path, {**feeds(), "s": {"id": 10, "summaries": [one]}}))
    assert other.book.unrealised[0] == pytest.approx(session * 60_010.0, rel=1e-12)


def test_settlement_currencies_are_sets_of_their_own(tmp_path: Path) -> None:
    answers = {
        "q": [
            summary("BTC-PERPETUAL"),
            summary("BTC_USDC-PERPETUAL"),
            summary("ETH-PERPETUAL", estimated_delivery_price=3_000.0),
        ],
        "p": [
            position("BTC-PERPETUAL", 60_100.0),
            position("BTC_USDC-PERPETUAL", 7.98, size_currency=0.0001),
            position("ETH-PERPETUAL", -3_000.0, mark_price=3_000.0),
        ],
        "s": {
            "username": "u",
            "summaries": [account("BTC", 1.0), account("USDC", 500.0), account("USYC", 0.0)],
        },
    }
    found = read_deribit(saved(tmp_path, answers))
    assert found.failures.is_empty()
    assert held(found.book, found.market) == {
        ("u", "BTC"): {"BTC": 1.0, "BTC-PERPETUAL": 1.0},
        ("u", "ETH"): {"ETH-PERPETUAL": -1.0},
        ("u", "USDC"): {"BTC_USDC-PERPETUAL": 0.0001},
    }
    assert found.book.cash.tolist() == [0.0, 0.0, 500.0]


def test_a_cross_account_is_one_set_but_for_currencies_apart(tmp_path: Path) -> None:
    cross = {"margin_model": "cross_pm", "cross_collateral_enabled": True}
    answers = {
        "q": [summary("BTC-PERPETUAL"), summary("ETH-PERPETUAL", estimated_delivery_price=3e3)],
        "bnb_usd": {"index_price": 600.0},
        "p": [position("BTC-PERPETUAL", 60_100.0), position("ETH-PERPETUAL", 0.0)],
        "s": {
            "id": 9,
            "summaries": [
                account("BTC", 1.0, **cross),
                account("USDC", 500.0, **cross),
                account("BNB", 2.0),
            ],
        },
    }
    found = read_deribit(saved(tmp_path, answers))
    assert found.failures.is_empty()
    rows = held(found.book, found.market)
    assert rows["9", "CROSS"] == {"BTC": 1.0, "BTC-PERPETUAL": 1.0, "ETH-PERPETUAL": 0.0}
    assert rows["9", "BNB"] == {"BNB": 2.0}
    assert dict(zip(found.book.portfolio.sets, found.book.market, strict=True)) == {
        "BNB": "BNB",
        "CROSS": "CROSS",
    }


def test_accounts_in_folders_of_their_own(tmp_path: Path) -> None:
    answers = {
        **feeds(),
        "one/positions": [position("BTC-PERPETUAL", 60_100.0)],
        "one/summary": account("BTC", 1.0, id=1),
        "two/positions": [position("BTC-PERPETUAL", -60_100.0)],
        "details": envelope([{"uid": 3, "positions": [position(CALL, 1.0)], "open_orders": []}]),
        "subaccounts": envelope(
            [{"id": 4, "margin_model": "segregated_pm", "portfolio": {"btc": account("btc", 5.0)}}]
        ),
    }
    found = read_deribit(saved(tmp_path, answers))
    assert found.failures.is_empty()
    assert held(found.book, found.market) == {
        ("1", "BTC"): {"BTC": 1.0, "BTC-PERPETUAL": 1.0},
        ("3", "BTC"): {CALL: 1.0},
        ("4", "BTC"): {"BTC": 5.0},
        ("two", "BTC"): {"BTC-PERPETUAL": -1.0},
    }


def test_a_file_gives_its_name_to_an_account_that_says_none(tmp_path: Path) -> None:
    market = read_deribit_market(saved(tmp_path / "f", feeds())).market
    path = saved(tmp_path, {"desk seven": [position(CALL, 1.0)]}) / "desk seven.json"
    for source in (path, [path], read_documents(path, "positions")):
        found = read_deribit_book(source, market)
        assert list(held(found.book, market)) == [("desk seven", "BTC")]


def test_positions_of_nobody_in_particular_fail(tmp_path: Path) -> None:
    answers = {
        **feeds(),
        "positions": [position("BTC-PERPETUAL", 60_100.0)],
        "a": account("BTC", 1.0, id=1),
        "b": account("BTC", 2.0, id=2),
    }
    found = read_deribit(saved(tmp_path, answers))
    assert told(found.failures) == [("positions.json", "/0")]
    assert found.failures["value"].to_list() == ["1, 2"]
    assert held(found.book, found.market) == {
        ("1", "BTC"): {"BTC": 1.0},
        ("2", "BTC"): {"BTC": 2.0},
    }


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (position("BTC-26JUN26", 1.0), "instrument_name"),
        (position(CALL, float("nan")), "size"),
        ({**position(CALL, 1.0), "size": "many"}, "size"),
        ({**position(CALL, 1.0), "size": None}, "size"),
        (position(CALL, -1.0, direction="buy"), "size"),
        (position(CALL, 1.0, direction="up"), "size"),
        (position("BTC-PERPETUAL", 10.0, mark_price=None), "size"),
        (position("BTC-PERPETUAL", 10.0, size_currency=float("inf")), "size_currency"),
        (position("BTC-PERPETUAL", 10.0, instrument_name=None), "instrument_name"),
    ],
)
def test_a_bad_position_fails_alone(tmp_path: Path, bad: dict[str, Any], field: str) -> None:
    answers = {**feeds(), "p": envelope([position(PUT, 1.0), bad])}
    found = read_deribit(saved(tmp_path, answers))
    assert told(found.failures) == [("p.json", f"/result/1/{field}")]
    rows = held(found.book, found.market)
    assert {PUT: 1.0} in rows.values()
    assert found.book.portfolio.bad.sum() == 1


def test_a_short_has_a_size_below_zero_however_it_is_written(tmp_path: Path) -> None:
    answers = {**feeds(), "p": [position(CALL, 2.0, direction="sell"), position(PUT, -2.0)]}
    found = read_deribit(saved(tmp_path, answers))
    assert list(held(found.book, found.market).values()) == [{CALL: -2.0, PUT: -2.0}]


def test_what_is_told_twice_counts_once(tmp_path: Path) -> None:
    twice = [position(CALL, 1.0)]
    answers = {
        **feeds(),
        "p": twice,
        "q": twice,
        "s": account("BTC", 1.0),
        "t": account("BTC", 1.0),
    }
    found = read_deribit(saved(tmp_path, answers))
    assert held(found.book, found.market) == {(tmp_path.name, "BTC"): {"BTC": 1.0, CALL: 1.0}}
    assert told(found.failures) == [("q.json", "/0/size"), ("t.json", "/balance")]
    assert all("a second" in value for value in found.failures["value"])


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (account("BTC", float("nan")), "/balance"),
        (account("BTC", 1.0, equity="much"), "/equity"),
        (account("DOGE", 1.0), "/currency"),
    ],
)
def test_a_bad_summary_fails_by_name(tmp_path: Path, bad: dict[str, Any], field: str) -> None:
    found = read_deribit(saved(tmp_path, {**feeds(), "s": bad}))
    assert ("s.json", field) in told(found.failures)


# ---------------------------------------------------------------- pme/simulate, figures


def test_an_answer_of_simulate_is_market_and_book(tmp_path: Path) -> None:
    recorded = case.recorded()["btc_perp_plus_future_docs_example"]
    path = saved(tmp_path, {"me": case.answer(recorded)}) / "me.json"
    found = read_deribit(path)
    assert found.failures.is_empty()
    assert held(found.book, found.market) == {("me", "BTC"): recorded["position_base"]}
    assert found.book.charges["mmp"].tolist() == [0.06]
    assert found.book.charges["open_orders"].tolist() == [0.000018212]
    assert found.market.time == 1_718_619_740.501


def test_positions_come_before_those_of_simulate(tmp_path: Path) -> None:
    answer = case.answer(case.recorded()["btc_perp_plus_future_docs_example"])
    answers = {"me": answer, "positions": [position("BTC-PERPETUAL", 10.0, size_currency=0.5)]}
    found = read_deribit(saved(tmp_path, answers))
    assert list(held(found.book, found.market).values()) == [{"BTC-PERPETUAL": 0.5}]
    assert found.book.charges["mmp"].tolist() == [0.06]


def test_simulate_of_a_cross_account_has_its_coins(tmp_path: Path) -> None:
    answer = case.answer(case.recorded()["btc_perp_plus_future_docs_example"])
    result = answer["result"]
    result["portfolio"]["currency"] = {"btc": 2.0, "usdc": 50.0}
    details = result["margins"].pop("btc")
    result["margins"]["cross"] = details
    found = read_deribit(saved(tmp_path, {"me": answer}) / "me.json")
    assert found.failures.is_empty()
    own = {"BTC": 2.0, **result["portfolio"]["position"]}
    assert held(found.book, found.market) == {("me", "CROSS"): own}
    assert found.book.cash.tolist() == [50.0]
    assert found.book.charges["mmp"].tolist() == [0.06]


@pytest.mark.parametrize("wrap", [lambda p: p, envelope, lambda p: envelope({"model_params": p})])
def test_figures_of_an_answer(tmp_path: Path, wrap: Any) -> None:
    told = case.recorded()["eth_perp_short_feb2026"]["model_params"]
    path = saved(tmp_path, {"params": wrap(told)}) / "params.json"
    assert read_params(path) == told
    parameters = deribit_pm.Parameters(feeds=path, positions=path, model_params=path)
    table = deribit_pm.figures(parameters)
    assert table.currency["eth"].pnl_offset == 0.6
    # What an answer says nothing of is the table's; single figures come last.
    assert table.currency["btc"].annualised_move_risk == 0.075
    own = parameters.model_copy(update={"figures": {"currency": {"eth": {"pnl_offset": 0.1}}}})
    assert deribit_pm.figures(own).currency["eth"].pnl_offset == 0.1


def test_an_answer_without_figures_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, {"x": envelope([1])}) / "x.json"
    with pytest.raises(ConfigError, match="has no figures"):
        read_params(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_params(tmp_path / "nowhere.json")


# ---------------------------------------------------------------- as the run reads it


def test_a_run_reads_answers_from_one_folder(tmp_path: Path) -> None:
    answers = {
        **feeds(),
        "p": [position("BTC-PERPETUAL", 60_100.0), position(CALL, -1.0)],
        "s": account("BTC", 1.0, id=5),
    }
    folder = saved(tmp_path, answers)
    inputs = read_crypto(folder, folder)
    assert inputs.failures.is_empty()
    parameters = deribit_pm.Parameters(feeds=folder, positions=folder)
    found = deribit_pm.margin(parameters, inputs, 1.0, backend.load("numpy"))
    assert found.accounts.to_list() == ["5"]
    assert found.requirement[INITIAL][0] > 0.0
    total = sum(amount[0] for amount in found.components[INITIAL].values())
    assert total == pytest.approx(found.requirement[INITIAL][0], rel=1e-14)
    assert found.facts["table"] == "recorded"


def test_what_is_deribits(tmp_path: Path) -> None:
    assert deribit.is_deribit(saved(tmp_path / "a", feeds()))
    assert not deribit.is_deribit(saved(tmp_path / "b", {"x": {"underlyings": {}}}))


# ---------------------------------------------------------------- anything at all

JUNK = (
    *(None, True, -1, 0, 1e308, 1e-320, float("nan"), float("inf"), 10**400),
    *("", "x", "1.5", "CROSS", "BTC-27MAR26", [], {}, [1], ["a"], {"a": 1}),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inside = enumerate(value)
    return [path, *(place for key, one in inside for place in _places(one, (*path, key)))]


def _spoilt(value: Any, path: tuple[Any, ...], junk: Any) -> Any:
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _spoilt(copy[path[0]], path[1:], junk)
    return copy


@pytest.mark.parametrize("seed", range(80))
def test_whatever_an_answer_holds_it_is_a_failure_and_no_exception(seed: int) -> None:
    chosen = random.Random(seed)
    answers: dict[str, Any] = {
        **feeds(),
        "p": envelope([position("BTC-PERPETUAL", 60_100.0), position(CALL, -1.0)]),
        "s": {"id": 3, "summaries": [account("BTC", 1.0), account("USDC", 9.0)]},
        "d": [{"uid": 3, "positions": [position(PUT, 1.0)]}],
        "m": case.answer(case.recorded()["btc_perp_plus_future_docs_example"]),
    }
    for _ in range(3):
        name = chosen.choice(sorted(answers))
        place = chosen.choice(_places(answers[name]))
        answers[name] = _spoilt(answers[name], place, chosen.choice(JUNK))
    documents = [Document(f"{name}.json", one, failure_table()) for name, one in answers.items()]
    found = read_deribit(documents)
    with np.errstate(all="ignore"):
        prepared = deribit_pm.prepare(
            deribit_pm.figures(deribit_pm.Parameters(feeds="f", positions="p")),
            found.market,
            backend.load("numpy"),
        )
        prepared.margin(found.book)


# ---------------------------------------------------------------- real quotes


def test_real_tickers_are_worth_their_marks(tmp_path: Path) -> None:
    path = case.folder().parent.parent / "data" / "deribit" / (
        "deribit_btc_options_2020-05-21_tickers.csv"
    )  # fmt: skip
    if not path.is_file():
        pytest.skip(f"no real quotes in {path.parent}")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = ("mark_price", "mark_iv", "underlying_price", "index_price", "timestamp")
    answers = [
        {"instrument_name": row["instrument_name"], **{key: row[key] for key in numbers}}
        for row in rows
    ]
    loaded = read_deribit_market(saved(tmp_path, {"tickers": answers}))
    assert loaded.failures.is_empty()
    market = loaded.market
    i, e = market.instruments, market.expiries
    option = i.kind == OPTION
    assert option.sum() == len(rows)
    at = i.expiry[option]
    value = black76(
        e.forward[at], i.strike[option], i.volatility[option], e.seconds[at] / (365 * 86_400.0),
        0.0, i.call[option],
    )  # fmt: skip
    error = np.abs(value / e.forward[at] - i.price[option] / market.spot[0])
    # Marks were taken within seconds of each other, and volatilities are rounded.
    assert np.median(error) < 2e-5
    assert error.max() < 2e-3
