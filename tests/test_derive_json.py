"""Derive's answers as they come from the venue: what becomes of them, and what fails."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import crypto_case
import numpy as np
import pytest
from crypto_case import Row
from hypothesis import given, settings
from hypothesis import strategies as st
from test_crypto_files import JUNK, places, same, states, told

from gpu_margin.crypto_book import CryptoMarket
from gpu_margin.crypto_files import Inputs, read_crypto
from gpu_margin.crypto_shocks import averaged, svi_volatility
from gpu_margin.failures import ConfigError

NOW = 1_768_953_600.0
EXPIRY = 1_774_598_400
YEAR = 365 * 86400.0
CALL, PUT = "BTC-20260327-100000-C", "BTC-20260327-80000-P"


def short(
    volatility: str | None, mark: str, forward: str = "90500", at: float = NOW, df: str = "0.99"
) -> Row:
    """A ticker of public/get_tickers, short keys and decimals as text."""
    said: Row = {"t": int(at * 1000), "A": "0", "a": "0", "B": "1", "b": "1", "f": None}
    said |= {"I": "90000", "M": mark, "stats": {"oi": "0"}, "minp": "1", "maxp": "9"}
    if volatility is not None:
        pricing = {"d": "0.5", "i": volatility, "f": forward, "m": mark, "df": df, "r": "1"}
        said["option_pricing"] = pricing
    return said


def long(name: str, kind: str, mark: str, **other: Any) -> Row:
    """A ticker of public/get_ticker."""
    said: Row = {
        "instrument_name": name,
        "instrument_type": kind,
        "base_currency": name.split("-")[0],
        "quote_currency": "USDC",
        "timestamp": int(NOW * 1000),
        "index_price": "90000",
        "mark_price": mark,
        "option_details": None,
        "perp_details": None,
        "erc20_details": None,
        "option_pricing": None,
    }
    return said | other


def perpetual() -> Row:
    return long("BTC-PERP", "perp", "90020", perp_details={"index": "BTC-USD"})


def option() -> Row:
    details = {"expiry": EXPIRY, "strike": "100000", "option_type": "C", "index": "BTC-USD"}
    pricing = {
        "iv": "0.55",
        "mark_price": "4000",
        "forward_price": "90500",
        "discount_factor": "0.99",
    }
    return long(CALL, "option", "4000", option_details=details, option_pricing=pricing)


def tickers(**more: Row) -> Row:
    found = {CALL: short("0.55", "4000"), PUT: short("0.6", "3000")}
    return {"id": 1, "result": {"tickers": {**found, "BTC-PERP": short(None, "90020"), **more}}}


def position(name: str, amount: str, kind: str, **other: Any) -> Row:
    said = {"instrument_name": name, "instrument_type": kind, "amount": amount, "mark_price": "1"}
    return {**said, "mark_value": "-12.5", "unrealized_pnl": "3", **other}


def collateral(name: str, amount: str, price: str, **other: Any) -> Row:
    said = {"asset_name": name, "asset_type": "erc20", "currency": name, "amount": amount}
    return {**said, "mark_price": price, "mark_value": "0", **other}


def subaccount(number: Any = 7, **other: Any) -> Row:
    return {
        "subaccount_id": number,
        "currency": "BTC",
        "margin_type": "PM2",
        "label": "",
        "open_orders": [],
        "positions": [position("BTC-PERP", "-0.5", "perp"), position(CALL, "2", "option")],
        "collaterals": [
            collateral("USDC", "1000", "1", pending_interest="0.5"),
            collateral("BTC", "0.25", "89990"),
            collateral("USDT", "10", "0.999"),
        ],
        **other,
    }


SIGNED: Row = {
    "spot_data": {
        "BTC": {"currency": "BTC", "price": "90000", "confidence": "0.9", "timestamp": NOW * 1000},
        "USDC": {"currency": "USDC", "price": "0.98", "confidence": "1", "timestamp": 1},
    },
    "fwd_data": {
        "BTC": {
            str(EXPIRY): {
                "fwd_diff": "500",
                "confidence": "0.8",
                "spot_aggregate_latest": "0",
                "spot_aggregate_start": "0",
                "timestamp": NOW * 1000,
            }
        }
    },
    "rate_data": {"BTC": {str(EXPIRY): {"rate": "0.03", "confidence": "0.7", "timestamp": 1}}},
    "vol_data": {
        "BTC": {
            str(EXPIRY): {
                "confidence": "0.6",
                "timestamp": 1,
                "vol_data": {
                    "SVI_a": "0.01",
                    "SVI_b": "0.15",
                    "SVI_rho": "-0.2",
                    "SVI_m": "0.02",
                    "SVI_sigma": "0.3",
                    "SVI_fwd": "90400",
                    "SVI_refTau": "0.18",
                },
            }
        }
    },
    "perp_data": {"BTC": {"P": {"spot_diff_value": "20", "confidence": "0.5", "timestamp": 1}}},
}


def put(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def read(folder: Path, feeds: Any, holdings: Any) -> Inputs:
    return read_crypto(put(folder / "f.json", feeds), put(folder / "p.json", holdings))


def market(folder: Path, *answers: Any) -> CryptoMarket:
    for number, answer in enumerate(answers):
        put(folder / "all" / f"{number}.json", answer)
    inputs = read_crypto(folder / "all", put(folder / "p.json", subaccount(positions=[])))
    assert told(inputs) == []
    return inputs.market


def place(found: CryptoMarket, name: str) -> int:
    return found.instruments.ids.to_list().index(name)


# ---------------------------------------------------------------- feeds


def test_tickers_with_short_keys_are_a_market(tmp_path: Path) -> None:
    found = market(tmp_path, tickers())
    held, call = found.instruments, place(found, CALL)
    assert found.time == NOW and found.underlyings.to_list() == ["BTC"]
    assert found.spot.tolist() == [90000.0] and found.stable == 1.0
    assert found.expiries.seconds.tolist() == [EXPIRY - NOW]
    assert found.expiries.forward.tolist() == [90500.0] and found.expiries.fixed.tolist() == [0.0]
    assert math.exp(-found.expiries.rate[0] * (EXPIRY - NOW) / YEAR) == pytest.approx(
        0.99, rel=1e-14
    )
    assert held.strike[call] == 100000.0 and held.call[call] and held.volatility[call] == 0.55
    assert held.price[call] == 4000.0 and held.price[place(found, "BTC-PERP")] == 90020.0
    assert held.ids.to_list() == ["BTC", CALL, PUT, "BTC-PERP", "USDT"]


def test_tickers_with_long_keys_say_the_same(tmp_path: Path) -> None:
    short_keys = tickers()
    del short_keys["result"]["tickers"][PUT]
    first = market(tmp_path / "a", {"result": option()}, {"result": perpetual()})
    second = market(tmp_path / "b", short_keys)
    for part in ("expiries", "instruments"):
        for key, value in vars(getattr(first, part)).items():
            np.testing.assert_array_equal(value, getattr(getattr(second, part), key), err_msg=key)


@pytest.mark.parametrize(
    "envelope",
    [
        lambda one: one,
        lambda one: {"id": 1, "result": one},
        lambda one: [one],
        lambda one: {"result": [one]},
        lambda one: {"result": {"tickers": [one]}},
        lambda one: [{"result": one}],
        lambda one: {"method": "subscription", "params": {"channel": "x", "data": one}},
        lambda one: {"params": {"data": {"timestamp": 1, "instrument_ticker": one}}},
    ],
)
def test_an_envelope_changes_nothing(tmp_path: Path, envelope: Callable[[Row], Any]) -> None:
    found = market(tmp_path, envelope(perpetual()))
    assert found.instruments.ids.to_list() == ["BTC", "BTC-PERP", "USDT"]
    assert found.time == NOW and found.spot.tolist() == [90000.0]


def test_the_newest_answer_counts(tmp_path: Path) -> None:
    old = {"result": {"tickers": {CALL: short("0.5", "1", "1000", NOW - 60) | {"I": "1"}}}}
    first = market(tmp_path / "a", tickers(), old)
    second = market(tmp_path / "b", old, tickers())
    assert first.time == second.time == NOW
    for found in (first, second):
        assert found.spot.tolist() == [90000.0] and found.expiries.forward.tolist() == [90500.0]
        assert found.instruments.volatility[place(found, CALL)] == 0.55


def test_signed_feeds_say_confidences_rates_and_smiles(tmp_path: Path) -> None:
    answer = tickers()
    del answer["result"]["tickers"][CALL]["option_pricing"]["i"]
    found = market(tmp_path, answer, {"result": SIGNED})
    assert found.stable == 0.98 and found.spot_confidence.tolist() == [0.9]
    dates = found.expiries
    assert dates.forward.tolist() == [90500.0] and dates.rate.tolist() == [0.03]
    sure = (dates.forward_confidence, dates.rate_confidence, dates.volatility_confidence)
    assert [one.tolist() for one in sure] == [[0.8], [0.7], [0.6]]
    assert found.instruments.confidence[place(found, "BTC-PERP")] == 0.5
    assert found.instruments.confidence[place(found, PUT)] == 1.0
    smile = svi_volatility(100000.0, 0.01, 0.15, -0.2, 0.02, 0.3, 90400.0, 0.18)
    assert found.instruments.volatility[place(found, CALL)] == smile
    assert found.instruments.volatility[place(found, PUT)] == 0.6


@pytest.mark.parametrize("left", [0.0, 600.0, 1799.0, 1800.0, 1801.0])
def test_near_expiry_a_part_of_the_forward_is_known(tmp_path: Path, left: float) -> None:
    found = market(
        tmp_path, {"result": {"tickers": {CALL: short("0.5", "1", at=EXPIRY - left, df="1")}}}
    )
    moving, known = averaged(np.array([90500.0]), np.array([left]))
    np.testing.assert_allclose(found.expiries.forward, moving, rtol=1e-15)
    np.testing.assert_allclose(found.expiries.fixed, known, rtol=1e-15, atol=1e-10)


def test_near_expiry_signed_feeds_say_what_is_known(tmp_path: Path) -> None:
    said = json.loads(json.dumps(SIGNED))
    said["spot_data"]["BTC"]["timestamp"] = (EXPIRY - 600) * 1000
    date = said["fwd_data"]["BTC"][str(EXPIRY)]
    date |= {"spot_aggregate_start": "5", "spot_aggregate_latest": str(5 + 1200 * 89000.0)}
    found = market(tmp_path, {"result": said}, {"result": {"tickers": {CALL: short("0.5", "1")}}})
    assert found.expiries.fixed[0] == pytest.approx(1200 * 89000 / 1800, rel=1e-14)
    assert found.expiries.forward[0] == pytest.approx(90500 * 600 / 1800, rel=1e-14)


def test_coins_have_the_price_of_ticker_then_subaccount_then_spot(tmp_path: Path) -> None:
    feeds = [perpetual(), long("USDT-USDC", "erc20", "0.997", index_price="0.998")]
    inputs = read(tmp_path / "a", feeds, subaccount())
    held = inputs.market.instruments
    assert held.price[held.ids.to_list().index("USDT")] == 0.997
    assert inputs.market.underlyings.to_list() == ["BTC"]
    assert held.price[held.ids.to_list().index("BTC")] == 89990.0
    found = read(tmp_path / "b", feeds, subaccount(collaterals=[])).market
    assert found.instruments.price[place(found, "BTC")] == 90000.0


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"M": None}, "M", "missing price"),
        ({"M": "x"}, "M", "price is not a number"),
        ({"M": "-1"}, "M", "negative price"),
        ({"M": "NaN"}, "M", "price is not finite"),
    ],
)
def test_a_bad_perpetual_fails_by_its_pointer(
    tmp_path: Path, change: Row, field: str, reason: str
) -> None:
    answer = tickers()
    answer["result"]["tickers"]["BTC-PERP"] |= change
    inputs = read(tmp_path, answer, subaccount())
    source, row, where, _, why = told(inputs)[0]
    assert (source, row, where) == ("f.json", None, f"/result/tickers/BTC-PERP/{field}")
    assert reason in why
    assert states(inputs) == {"7": False} and inputs.book.unrealised.tolist() == [-12.5]


@pytest.mark.parametrize(
    ("key", "value", "field", "reason"),
    [
        ("i", "-0.5", "option_pricing/i", "negative volatility"),
        ("i", "Infinity", "option_pricing/i", "volatility is not finite"),
        ("i", None, "option_pricing/i", "no volatility"),
        ("f", "x", "option_pricing/f", "forward is not a number"),
        ("f", "-5", "option_pricing/f", "negative forward"),
        ("df", "0", "option_pricing/df", "rate is not finite"),
        ("df", "-1", "option_pricing/df", "rate is not finite"),
        ("df", [], "option_pricing/df", "rate is not finite"),
    ],
)
def test_bad_option_pricing_fails_by_its_pointer(
    tmp_path: Path, key: str, value: Any, field: str, reason: str
) -> None:
    answer = tickers()
    del answer["result"]["tickers"][PUT]
    answer["result"]["tickers"][CALL]["option_pricing"][key] = value
    inputs = read(tmp_path, answer, subaccount())
    source, _, where, _, why = told(inputs)[0]
    assert (source, where) == ("f.json", f"/result/tickers/{CALL}/{field}") and reason in why
    assert states(inputs) == {"7": False}


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("spot_data/BTC/price", "x", "spot is not a number"),
        ("spot_data/BTC/price", "-1", "spot is not positive"),
        ("spot_data/BTC/confidence", "2", "confidence outside"),
        ("spot_data/USDC/price", "0", "stable is not positive"),
        (f"fwd_data/BTC/{EXPIRY}/fwd_diff", "x", "missing forward"),
        (f"fwd_data/BTC/{EXPIRY}/fwd_diff", "-1e6", "negative forward"),
        (f"fwd_data/BTC/{EXPIRY}/confidence", "NaN", "forward_confidence is not finite"),
        (f"rate_data/BTC/{EXPIRY}/rate", "x", "rate is not a number"),
        (f"rate_data/BTC/{EXPIRY}/confidence", "-1", "rate_confidence outside"),
        (f"vol_data/BTC/{EXPIRY}/vol_data/SVI_rho", "1.1", "svi_rho outside"),
        (f"vol_data/BTC/{EXPIRY}/vol_data/SVI_a", None, "missing svi_a"),
        (f"vol_data/BTC/{EXPIRY}/confidence", "x", "volatility_confidence is not a number"),
        ("perp_data/BTC/P/confidence", "7", "confidence outside"),
    ],
)
def test_bad_signed_feeds_fail_by_their_pointer(
    tmp_path: Path, path: str, value: Any, reason: str
) -> None:
    said = json.loads(json.dumps({"result": SIGNED}))
    place: Any = said["result"]
    *keys, last = path.split("/")
    for key in keys:
        place = place[key]
    place[last] = value
    put(tmp_path / "all" / "0.json", tickers())
    put(tmp_path / "all" / "1.json", said)
    inputs = read_crypto(tmp_path / "all", put(tmp_path / "p.json", subaccount()))
    first = told(inputs)[0]
    assert reason in first[4] and states(inputs) == {"7": False}
    # The confidence of a perpetual is told where its ticker is.
    expected = ("1.json", f"/result/{path}")
    ticker = ("0.json", "/result/tickers/BTC-PERP/confidence")
    assert (first[0], first[2]) == (ticker if path.startswith("perp") else expected)


@pytest.mark.parametrize(
    ("name", "field", "reason"),
    [
        ("BTC-20260231-100000-C", "instrument_name", "missing expiry"),
        ("BTC-20250327-100000-C", "instrument_name", "expired"),
        ("BTC-20260327-1_0_0-C", "instrument_name", "strike is not a number"),
        ("BTC-20260327-0-C", "instrument_name", "strike is not positive"),
        ("BTC-SOON", "instrument_name", "missing expiry"),
    ],
)
def test_a_name_that_says_nothing_fails(tmp_path: Path, name: str, field: str, reason: str) -> None:
    inputs = read(
        tmp_path, tickers(**{name: short("0.5", "1") | {"instrument_type": "option"}}), subaccount()
    )
    mine = [row for row in told(inputs) if row[2].startswith(f"/result/tickers/{name}/{field}")]
    assert mine and reason in mine[0][4]
    assert states(inputs) == {"7": True}


def test_a_strike_may_have_a_fraction(tmp_path: Path) -> None:
    found = market(tmp_path, tickers(**{"BTC-20260327-150_5-C": short("0.5", "1")}))
    assert found.instruments.strike[place(found, "BTC-20260327-150_5-C")] == 150.5


# ---------------------------------------------------------------- subaccounts


def test_a_subaccount_is_an_account(tmp_path: Path) -> None:
    inputs = read(tmp_path, tickers(), {"id": 1, "result": subaccount()})
    book, held = inputs.book, inputs.market.instruments
    assert told(inputs) == [] and inputs.accounts.to_list() == ["7"]
    assert book.portfolio.sets.to_list() == ["7"] and book.market.to_list() == ["BTC"]
    assert book.cash.tolist() == [1000.5] and book.unrealised.tolist() == [-12.5]
    names = held.ids.gather(book.portfolio.rows.column).to_list()
    assert dict(zip(names, book.portfolio.rows.value, strict=True)) == {
        "BTC": 0.25,
        CALL: 2.0,
        "BTC-PERP": -0.5,
        "USDT": 10.0,
    }
    assert [one["input"] for one in inputs.files] == ["feeds", "positions"]


def test_several_subaccounts_in_one_answer_or_several(tmp_path: Path) -> None:
    several = [subaccount(10), subaccount(9, collaterals=[])]
    inputs = read(tmp_path, tickers(), {"result": several})
    assert inputs.accounts.to_list() == ["10", "9"]
    put(tmp_path / "all" / "x.json", {"result": several[1]})
    put(tmp_path / "all" / "sub" / "y.json", several[0])
    same(read_crypto(put(tmp_path / "f.json", tickers()), tmp_path / "all"), inputs)


def test_feeds_and_subaccounts_may_lie_in_one_folder(tmp_path: Path) -> None:
    put(tmp_path / "all" / "x.json", tickers())
    put(tmp_path / "all" / "y.json", subaccount())
    inputs = read_crypto(tmp_path / "all", tmp_path / "all")
    assert told(inputs) == []
    same(inputs, read(tmp_path, tickers(), subaccount()))


def test_what_a_perpetual_is_worth_adds_up(tmp_path: Path) -> None:
    """A recorded answer: its mark value is what the three parts make."""
    parts = {
        "unrealized_pnl": "-2.6455959784245548835819950103759765625",
        "net_settlements": "-4.032902047219498639",
        "pending_funding": "0",
    }
    there = position("BTC-PERP", "-0.02", "perp", mark_value="1.38730606879471451975", **parts)
    gone = {key: value for key, value in there.items() if key != "mark_value"}
    for said in (there, gone):
        inputs = read(tmp_path, tickers(), subaccount(positions=[said]))
        assert inputs.book.unrealised[0] == pytest.approx(1.387306068794, rel=1e-11)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"margin_type": "PM2", "currency": "BTC"}, "BTC"),
        ({"margin_type": "PM", "currency": "BTC"}, "BTC"),
        ({"margin_type": "PM2", "currency": ["BTC"]}, "BTC"),
        ({"margin_type": "PM2", "currency": ["BTC", "ETH"]}, ""),
        ({"margin_type": "PM2", "currency": "USDC"}, ""),
        ({"margin_type": "SM", "currency": "all"}, ""),
        ({"margin_type": "SM", "currency": "BTC"}, ""),
        ({"margin_type": None, "currency": None}, ""),
    ],
    ids=str,
)
def test_the_market_is_that_of_a_portfolio_margin_subaccount(
    tmp_path: Path, said: Row, expected: str
) -> None:
    assert read(tmp_path, tickers(), subaccount(**said)).book.market.to_list() == [expected]


BAD = [
    ({"positions": [position("NOPE", "1", "option")]}, "/positions/0/instrument_name", "unknown"),
    ({"positions": [position(CALL, "x", "option")]}, "/positions/0/amount", "not a number"),
    ({"positions": [position(CALL, "inf", "option")]}, "/positions/0/amount", "not finite"),
    ({"positions": [{"amount": "1"}]}, "/positions/0/instrument_name", "missing instrument_id"),
    ({"positions": [5]}, "/positions/0", "not an object"),
    ({"positions": {}}, "/positions", "not a list"),
    (
        {"positions": [position("BTC-PERP", "1", "perp", mark_value="x")]},
        "/positions/0/mark_value",
        "not a number",
    ),
    (
        {"positions": [{"instrument_name": "BTC-PERP", "instrument_type": "perp", "amount": "1"}]},
        "/positions/0/mark_value",
        "missing amount",
    ),
    ({"collaterals": [collateral("USDC", "NaN", "1")]}, "/collaterals/0/amount", "not finite"),
    (
        {"collaterals": [collateral("USDC", "1", "1", pending_interest="x")]},
        "/collaterals/0/pending_interest",
        "not a number",
    ),
    ({"collaterals": [{"amount": "1"}]}, "/collaterals/0/asset_name", "missing asset"),
    ({"collaterals": "none"}, "/collaterals", "not a list"),
]


@pytest.mark.parametrize(("change", "pointer", "reason"), BAD, ids=lambda one: str(one)[:40])
def test_a_bad_part_of_a_subaccount_fails_by_its_pointer(
    tmp_path: Path, change: Row, pointer: str, reason: str
) -> None:
    inputs = read(tmp_path, tickers(), [subaccount(**change), subaccount(8)])
    mine = [row for row in told(inputs) if row[0] == "p.json"]
    assert [(row[1], row[2]) for row in mine] == [(None, f"/0{pointer}")]
    assert reason in mine[0][4]
    assert states(inputs) == {"7": False, "8": True}


def test_a_subaccount_twice_counts_once(tmp_path: Path) -> None:
    inputs = read(tmp_path, tickers(), [subaccount(), subaccount()])
    assert [row[2:4] for row in told(inputs)] == [("/1/positions", "7"), ("/1/collaterals", "7")]
    assert "duplicate subaccount" in told(inputs)[0][4]
    assert inputs.book.cash.tolist() == [1000.5]


def test_positions_and_collaterals_may_be_answers_of_their_own(tmp_path: Path) -> None:
    whole = subaccount(currency="all", margin_type="SM")
    parts = [
        {"result": {"subaccount_id": 7, part: whole[part]}} for part in ("positions", "collaterals")
    ]
    first = read(tmp_path / "a", tickers(), parts)
    assert told(first) == []
    assert first.book.portfolio.rows.value.tolist() == [0.25, 2.0, -0.5, 10.0]
    assert first.book.cash.tolist() == [1000.5]


def test_an_empty_subaccount_is_there(tmp_path: Path) -> None:
    inputs = read(tmp_path, tickers(), subaccount(positions=[], collaterals=[]))
    assert inputs.accounts.to_list() == ["7"] and inputs.computable
    assert inputs.book.cash.tolist() == [0.0] and len(inputs.book.portfolio.rows.value) == 0


def test_a_channel_says_which_instrument(tmp_path: Path) -> None:
    said = {"timestamp": 1, "instrument_ticker": short("0.55", "4000")}
    message = {
        "method": "subscription",
        "params": {"channel": f"ticker_slim.{CALL}.100", "data": said},
    }
    assert market(tmp_path, message).instruments.ids.to_list() == ["BTC", CALL, "USDT"]


def test_subaccounts_go_with_feeds_of_ours(tmp_path: Path) -> None:
    inputs = read(tmp_path, crypto_case.feeds(), subaccount())
    assert told(inputs) == []
    assert inputs.market.instruments.volatility[place(inputs.market, PUT)] == 0.65


def test_tickers_go_with_tables_of_ours(tmp_path: Path) -> None:
    rows = [("A", None, CALL, 1.0), ("A", None, "BTC", 1.0)]
    inputs = read_crypto(
        put(tmp_path / "f.json", tickers()),
        crypto_case.write_rows(tmp_path / "p.csv", crypto_case.POSITION_HEADER, rows),
    )
    assert told(inputs) == [] and inputs.book.portfolio.rows.value.tolist() == [1.0, 1.0]


def test_balances_beside_subaccounts_are_refused(tmp_path: Path) -> None:
    balances = crypto_case.write(tmp_path / "c")["balances"]
    with pytest.raises(ConfigError, match=r"balances.*leave it out"):
        read_crypto(
            put(tmp_path / "f.json", tickers()), put(tmp_path / "p.json", subaccount()), balances
        )


@pytest.mark.parametrize("said", [{}, [], {"result": {"a": 1}}, {"subaccount_id": 5}, 7], ids=str)
def test_positions_of_no_known_format_are_refused(tmp_path: Path, said: Any) -> None:
    with pytest.raises(ConfigError, match=r"positions.*CSV.*Derive.*Deribit"):
        read(tmp_path, tickers(), said)


def test_a_stranger_in_the_folder_is_a_failure(tmp_path: Path) -> None:
    put(tmp_path / "all" / "x.json", tickers())
    put(tmp_path / "all" / "y.json", {"hello": 1})
    (tmp_path / "all" / "z.json").write_text("{")
    inputs = read_crypto(tmp_path / "all", put(tmp_path / "p.json", subaccount()))
    assert [(row[0], row[4].split(":")[0]) for row in told(inputs)] == [
        ("z.json", "unreadable file"),
        ("y.json", "no answer of a known shape"),
    ]
    assert states(inputs) == {"7": True}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_junk_in_answers_raises(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("junk")
    answers = [{"result": option()}, tickers(), {"result": SIGNED}, {"result": subaccount()}]
    whole = json.loads(json.dumps(answers))
    path = data.draw(st.sampled_from([path for path in places(whole) if len(path) > 1]))
    place: Any = whole
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(JUNK)
    for number, answer in enumerate([*whole, subaccount(9)]):
        put(folder / "all" / f"{number}.json", answer)
    inputs = read_crypto(folder / "all", folder / "all")
    found = inputs.market
    assert np.isfinite(found.spot).all() and np.isfinite(found.expiries.forward).all()
    assert np.isfinite(found.instruments.volatility).all()
    assert np.isfinite(inputs.book.cash).all() and np.isfinite(inputs.book.unrealised).all()
