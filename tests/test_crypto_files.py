"""Files of a crypto venue: what becomes of them, what fails and why, and that the rest goes on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crypto_case
import numpy as np
import polars as pl
import pytest
from crypto_case import (
    BALANCE_HEADER,
    BALANCES,
    POSITION_HEADER,
    POSITIONS,
    Row,
    feeds,
    instrument,
    read,
    write,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_margin import crypto_files
from gpu_margin.crypto_book import COIN, INITIAL, MAINTENANCE, OPTION, CryptoMargin, Level
from gpu_margin.crypto_files import CryptoFiles, Inputs, read_crypto, with_overrides
from gpu_margin.crypto_shocks import svi_volatility
from gpu_margin.failures import SCHEMA, ConfigError, failure_table

NAN, INF = math.nan, math.inf


def told(inputs: Inputs) -> list[tuple[Any, ...]]:
    return inputs.failures.select("source", "row", "field", "value", "reason").rows()


def code(inputs: Inputs, name: str) -> int:
    return inputs.market.instruments.ids.to_list().index(name)


def states(inputs: Inputs) -> dict[str, bool]:
    """Of every account, whether all its rows are good."""
    portfolio = inputs.book.portfolio
    bad = {portfolio.accounts[int(n)] for n in portfolio.set_account[portfolio.bad > 0]}
    return {name: name not in bad for name in portfolio.accounts}


def same(first: Inputs, second: Inputs) -> None:
    """Bit for bit the same market and book."""
    one, other = flat(first), flat(second)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other[name], err_msg=name)
        elif isinstance(value, pl.Series):
            assert value.to_list() == other[name].to_list(), name
        else:
            assert value == other[name], name


def flat(inputs: Inputs) -> dict[str, Any]:
    market, book, portfolio = inputs.market, inputs.book, inputs.book.portfolio
    parts = (market, market.expiries, market.instruments, book, portfolio, portfolio.rows)
    found = {
        f"{type(part).__name__}.{key}": value for part in parts for key, value in vars(part).items()
    }
    return {
        key: value
        for key, value in found.items()
        if isinstance(value, (np.ndarray, pl.Series, float))
    }


# ---------------------------------------------------------------- what is read


def test_a_good_case_is_read_without_a_failure(tmp_path: Path) -> None:
    inputs = read(tmp_path)
    assert told(inputs) == []
    assert inputs.accounts.to_list() == ["A", "B", "C", "D"]
    assert inputs.book.portfolio.sets.to_list() == ["A", "b1", "b2", "C", "D"]
    assert inputs.book.cash.tolist() == [20000.0, 5000.0, 100.0, 1234.5, 0.0]
    assert inputs.book.unrealised.tolist() == [-150.0, 0.0, 0.0, 0.0, 0.0]
    assert inputs.book.market.to_list() == ["", "", "", "", "BTC"]
    assert inputs.computable
    assert inputs.counts["crypto_positions"] == 10
    assert [one["input"] for one in inputs.files] == ["feeds", "positions", "balances"]
    assert all(len(one["sha256"]) == 64 for one in inputs.files)


def test_the_market_is_what_the_feeds_say(tmp_path: Path) -> None:
    market = read(tmp_path).market
    assert market.time == crypto_case.TIME
    assert market.underlyings.to_list() == ["BTC", "ETH"]
    assert market.spot.tolist() == [90000.0, 3000.0]
    assert market.spot_confidence.tolist() == [0.9, 1.0]
    assert market.expiries.underlying.tolist() == [0, 0, 1]
    assert market.expiries.seconds.tolist() == [30 * 86400.0, 5644800.0, 5644800.0]
    assert market.expiries.rate.tolist() == [0.04, 0.0, 0.0]
    held = market.instruments
    assert held.ids.to_list() == sorted(held.ids.to_list(), key=str.encode)
    at = {name: n for n, name in enumerate(held.ids)}
    assert held.expiry[at["BTC-30D-95000-C"]] == 0
    assert held.expiry[at["ETH-20260327-3000-P"]] == 2
    assert held.expiry[at["BTC-PERP"]] == -1
    assert held.call[at["BTC-30D-95000-C"]] and not held.call[at["ETH-20260327-3000-P"]]
    assert held.underlying[at["USDT"]] == -1 and held.underlying[at["ETH"]] == 1
    assert held.settlement[at["ETH"]] == "ETH" and held.settlement[at["BTC-PERP"]] == "USDC"
    assert math.isnan(held.price[at["BTC-20260327-100000-C"]])
    assert (held.kind == COIN).sum() == 3 and (held.kind == OPTION).sum() == 7


def test_an_option_without_a_volatility_has_that_of_the_smile(tmp_path: Path) -> None:
    inputs = read(tmp_path)
    found = inputs.market.instruments.volatility[code(inputs, "BTC-20260327-100000-C")]
    assert found == svi_volatility(100000.0, 0.01, 0.15, -0.2, 0.02, 0.3, 90400.0, 0.18)
    assert 0.4 < found < 0.8
    assert inputs.market.instruments.volatility[code(inputs, "BTC-20260327-100000-P")] == 0.6


def test_an_inverse_contract_settles_in_its_coin(tmp_path: Path) -> None:
    document = feeds()
    instrument(document, "BTC-PERP")["inverse"] = True
    held = read(tmp_path, document).market.instruments
    perpetual = held.ids.to_list().index("BTC-PERP")
    assert held.inverse.sum() == 1 and held.inverse[perpetual]
    assert held.settlement[perpetual] == "BTC"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_order_of_rows_and_objects_changes_no_bit(tmp_path: Path, suffix: str) -> None:
    document = feeds()
    turned = {**document, "instruments": document["instruments"][::-1]}
    turned["underlyings"] = dict(reversed(document["underlyings"].items()))
    turned["underlyings"]["BTC"]["expiries"].reverse()
    # 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 are not the same.
    extra = tuple(("Z", None, "cash", None, amount, None) for amount in (0.1, 0.2, 0.3))
    positions = (*POSITIONS, ("A", None, "BTC-PERP", 0.1), ("A", None, "BTC-PERP", 0.2))
    first = read(tmp_path / "a", None, positions, (*BALANCES, *extra), suffix=suffix)
    second = read(tmp_path / "b", turned, positions[::-1], (*extra, *BALANCES)[::-1], suffix=suffix)
    same(first, second)


def test_frames_and_documents_do_as_well_as_files(tmp_path: Path) -> None:
    frame = pl.DataFrame([dict(zip(POSITION_HEADER, row, strict=True)) for row in POSITIONS])
    owned = pl.DataFrame([dict(zip(BALANCE_HEADER, row, strict=True)) for row in BALANCES])
    inputs = read_crypto(feeds(), frame, owned)
    same(inputs, read(tmp_path))
    assert [one["sha256"] for one in inputs.files] == [None, None, None]


def test_no_balances_are_no_cash(tmp_path: Path) -> None:
    inputs = read(tmp_path, balances=None)
    assert inputs.book.cash.tolist() == [0.0, 0.0, 0.0]
    assert inputs.accounts.to_list() == ["A", "B"]


def test_charges_are_kept_by_name(tmp_path: Path) -> None:
    rows = (("A", None, "open_orders", None, 7.0, None), ("A", None, "mr3", None, 2.0, None))
    charges = read(tmp_path, balances=(*BALANCES, *rows)).book.charges
    found = {name: amount[0] for name, amount in charges.items()}
    assert found.pop("open_orders") == 7.0 and found.pop("mr3") == 2.0
    assert set(found) == {"mmp", "spot", "mr5", "mr8", "mr8_initial", "mr9"}
    assert set(found.values()) == {0.0}


def test_ids_that_look_like_numbers_are_texts(tmp_path: Path) -> None:
    positions = [("007", None, "BTC-PERP", 1.0), ("7", None, "BTC-PERP", 1.0)]
    inputs = read(tmp_path, None, positions, None)
    assert inputs.accounts.to_list() == ["007", "7"]


def test_times_may_be_seconds(tmp_path: Path) -> None:
    document = feeds()
    document["time"] = crypto_case.TIME
    for said in (*document["underlyings"]["ETH"]["expiries"], *document["instruments"]):
        if "expiry" in said:
            said["expiry"] = crypto_case.TIME + 5644800
    same(read(tmp_path / "a", document), read(tmp_path / "b"))


# ---------------------------------------------------------------- bad objects of the feeds


@dataclass(frozen=True)
class Bad:
    """A value in the feeds, where it stands, how its failure begins, and who suffers."""

    pointer: str
    value: Any
    reason: str
    hit: str = ""

    def __str__(self) -> str:
        return f"{self.pointer}={str(self.value)[:20]}"


class Absent:
    def __str__(self) -> str:
        return "absent"


ABSENT = Absent()
PLACE = {one["instrument_id"]: n for n, one in enumerate(feeds()["instruments"])}


def at(name: str, field: str) -> str:
    return f"/instruments/{PLACE[name]}/{field}"


def numbers(pointer: str, hit: str, *more: tuple[Any, str]) -> list[Bad]:
    faults = (
        (NAN, "not finite"),
        (INF, "not finite"),
        (-INF, "not finite"),
        ("abc", "not a number"),
        (True, "not a number"),
        ([1.0], "not a number"),
        ({"a": 1}, "not a number"),
        (2e30, "out of range"),
        (10**400, "not"),
        *more,
    )
    return [Bad(pointer, value, reason, hit) for value, reason in faults]


NEGATIVE, NOUGHT = (-1.0, "negative"), (0.0, "not positive")
MINUS = (-1.0, "not positive")
SURE = ((1.5, "outside [0, 1]"), (-0.1, "outside [0, 1]"))
BTC, ETH = "/underlyings/BTC", "/underlyings/ETH"
SMILE = f"{BTC}/expiries/0/svi"
CALL, PUT = "BTC-20260327-100000-C", "BTC-20260327-80000-P"
BAD = [
    *numbers(f"{ETH}/spot", "B", NOUGHT, MINUS, (ABSENT, "missing spot"), (None, "missing spot")),
    *numbers(f"{ETH}/confidence", "B", *SURE),
    *numbers(f"{ETH}/expiries/0/forward", "B", NEGATIVE, (ABSENT, "missing"), (0.0, "forward and")),
    *numbers(f"{ETH}/expiries/0/fixed", "B", NEGATIVE),
    *numbers(f"{ETH}/expiries/0/rate", "B", (-1e6, "rate gives"), (1e6, "rate gives")),
    *numbers(f"{ETH}/expiries/0/volatility_confidence", "B", *SURE),
    Bad(f"{ETH}/expiries/0/expiry", "soon", "expiry is not a time", "B"),
    Bad(f"{ETH}/expiries/0/expiry", "2025-01-01", "expired", "B"),
    Bad(f"{ETH}/expiries/0/expiry", ABSENT, "missing expiry", "B"),
    Bad(f"{ETH}/expiries/0/seconds", 5.0, "both expiry and seconds", "B"),
    Bad(f"{ETH}/expiries/0", 5.0, "not an object", "B"),
    Bad(f"{ETH}/expiries", {}, "not a list", "B"),
    Bad(ETH, 3000, "not an object", "B"),
    Bad(f"{ETH}/spto", 1.0, "unknown key", ""),
    Bad("/venue", "x", "unknown key", ""),
    *numbers(f"{SMILE}/a", "AB", (ABSENT, "missing svi_a"), (-1.0, "svi gives a negative")),
    *numbers(f"{SMILE}/sigma", "AB", NEGATIVE),
    Bad(f"{SMILE}/rho", 1.5, "svi_rho outside", "AB"),
    Bad(f"{SMILE}/tau", 0.0, "svi_tau is not positive", "AB"),
    Bad(f"{SMILE}/forward", -1.0, "svi_forward is not positive", "AB"),
    Bad(SMILE, 0.5, "svi is not an object", "AB"),
    *numbers(at("BTC-PERP", "price"), "A", NEGATIVE, NOUGHT, (ABSENT, "missing price")),
    *numbers(at("USDT", "price"), "D", NEGATIVE, (ABSENT, "missing price")),
    *numbers(at(PUT, "strike"), "A", NOUGHT, MINUS, (ABSENT, "missing strike")),
    *numbers(at(PUT, "volatility"), "A", NEGATIVE),
    *numbers(at(PUT, "confidence"), "A", *SURE),
    Bad(at(PUT, "price"), -5.0, "negative price", "A"),
    Bad(at("ETH-20260327-3000-P", "volatility"), ABSENT, "no volatility", "B"),
    Bad(at(PUT, "right"), "straddle", "unknown right", "A"),
    Bad(at(PUT, "right"), ABSENT, "missing right", "A"),
    Bad(at(PUT, "kind"), "warrant", "unknown kind", "A"),
    Bad(at(PUT, "kind"), ABSENT, "missing kind", "A"),
    Bad(at(PUT, "underlying"), "DOGE", "unknown underlying", "A"),
    Bad(at(PUT, "underlying"), "btc", "unknown underlying", "A"),
    Bad(at(PUT, "underlying"), ABSENT, "missing underlying", "A"),
    Bad(at("USDT", "underlying"), "DOGE", "unknown underlying", "D"),
    Bad(at(PUT, "expiry"), "2026-01-20T08:00:00Z", "expired", "A"),
    Bad(at(PUT, "expiry"), "2026-03-28T08:00:00Z", "no such expiry", "A"),
    Bad(at(PUT, "expiry"), "27MAR26", "expiry is not a time", "A"),
    Bad(at(PUT, "expiry"), ABSENT, "missing expiry", "A"),
    Bad(at(PUT, "seconds"), 5644800, "both expiry and seconds", "A"),
    Bad(at("BTC-PERP", "inverse"), "yes", "inverse is neither", "A"),
    Bad(at("BTC-PERP", "settlement"), ["BTC"], "settlement is not text", "A"),
    Bad(at(PUT, "instrument_id"), "BTC-PERP", "duplicate instrument_id", "A"),
    Bad(f"/instruments/{PLACE[PUT]}", None, "not an object", "A"),
]


def changed(bad: Bad) -> Row:
    """The feeds with the value."""
    document = feeds()
    *path, last = bad.pointer.split("/")[1:]
    place: Any = document
    for key in path:
        place = place[int(key) if isinstance(place, list) else key]
    key = int(last) if isinstance(place, list) else last
    if bad.value is ABSENT:
        del place[key]
    else:
        place[key] = bad.value
    return document


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_a_bad_value_fails_where_it_stands(tmp_path: Path, bad: Bad) -> None:
    inputs = read(tmp_path, changed(bad))
    here = {row[2]: row for row in told(inputs) if row[0] == "feeds.json"}
    assert bad.pointer in here, told(inputs)
    assert bad.reason in here[bad.pointer][4] and here[bad.pointer][1] is None
    assert {name for name, good in states(inputs).items() if not good} == set(bad.hit)


@pytest.mark.parametrize("late", [1, -1, 3600, 86400])
def test_an_expiry_is_met_to_the_second(tmp_path: Path, late: float) -> None:
    document = feeds()
    option = instrument(document, "BTC-30D-95000-C")
    option["seconds"] += late
    inputs = read(tmp_path, document)
    assert [row[2] for row in told(inputs) if row[0] == "feeds.json"] == [
        at("BTC-30D-95000-C", "expiry")
    ]


def test_an_expiry_is_met_whatever_rounding_does(tmp_path: Path) -> None:
    document = feeds()
    document["time"] = crypto_case.TIME + 0.1
    left = 5644800 - 0.1
    for said in document["underlyings"]["ETH"]["expiries"]:
        del said["expiry"]
        said["seconds"] = left
    assert told(read(tmp_path, document)) == []


def test_who_has_nothing_of_it_is_untouched(tmp_path: Path) -> None:
    clean, dirty = (
        read(tmp_path / "a"),
        read(tmp_path / "b", changed(Bad(at("USDT", "price"), -1, ""))),
    )
    portfolio, other = clean.book.tile(0, 3).portfolio, dirty.book.tile(0, 3).portfolio
    assert portfolio.rows.value.tolist() == other.rows.value.tolist()
    names = clean.market.instruments.ids.gather(portfolio.rows.column).to_list()
    assert names == dirty.market.instruments.ids.gather(other.rows.column).to_list()


def test_what_hangs_on_a_failed_object_says_so(tmp_path: Path) -> None:
    inputs = read(tmp_path, changed(Bad(f"{ETH}/spot", NAN, "")))
    reasons = {row[2]: row[4] for row in told(inputs)}
    assert reasons[f"{ETH}/expiries/0/underlying"].startswith("failed underlying")
    assert reasons[at("ETH-PERP", "underlying")].startswith("failed underlying")
    assert [row[1:4] for row in told(inputs) if row[0] == "positions.csv"] == [
        (5, "instrument_id", "ETH-PERP"),
        (6, "instrument_id", "ETH-20260327-3000-P"),
    ]
    inputs = read(tmp_path, changed(Bad(f"{ETH}/expiries/0/forward", NAN, "")))
    assert {row[4].split(":")[0] for row in told(inputs)} == {
        "forward is not finite (NaN or infinity)",
        "failed expiry",
        "failed instrument",
    }


HEAD = [
    *((("time",), value) for value in ("now", NAN, None, [], True, "2026-13-01")),
    *((("stable", "price"), value) for value in (0.0, -1.0, NAN, "x")),
    *((("stable", "confidence"), value) for value in (2.0, NAN)),
]


@pytest.mark.parametrize(("path", "value"), HEAD, ids=str)
def test_without_time_or_stable_price_nothing_is_margined(
    tmp_path: Path, path: tuple[str, ...], value: Any
) -> None:
    document = feeds()
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    inputs = read(tmp_path, document)
    assert told(inputs)[0][:3] == ("feeds.json", None, f"/{'/'.join(path)}")
    assert len(inputs.market.instruments) == 0
    assert {row[4].split(":")[0] for row in told(inputs)[1:]} == {
        "failed instrument",
        "failed asset",
    }
    assert states(inputs) == {"A": False, "B": False, "C": True, "D": False}


def test_duplicates_all_fail(tmp_path: Path) -> None:
    document = feeds()
    document["underlyings"]["ETH"]["expiries"] *= 2
    document["instruments"].append(dict(instrument(document, "USDT"), price=1.0))
    inputs = read(tmp_path, document)
    twice = [row[2] for row in told(inputs) if row[4].startswith("duplicate")]
    assert twice == [
        f"{ETH}/expiries/0/expiry",
        f"{ETH}/expiries/1/expiry",
        "/instruments/0/instrument_id",
        "/instruments/13/instrument_id",
    ]
    assert not states(inputs)["B"] and not states(inputs)["D"] and states(inputs)["A"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ('{"underlyings": {', "not JSON"),
        ('{"time": "\\ud800"}', "not JSON"),
        ('{"time": 1, "time": 2}', "stands twice"),
        ("\ufeff{", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
    ids=["empty", "cut", "surrogate", "twice", "mark", "deep"],
)
def test_unreadable_feeds_are_a_failure(tmp_path: Path, text: str, reason: str) -> None:
    inputs = read(tmp_path, text)
    assert told(inputs)[0][0] == "feeds.json" and reason in told(inputs)[0][4]
    assert not states(inputs)["A"] and states(inputs)["C"]


@pytest.mark.parametrize("text", ["[]", "{}", "5", '{"a": 1}', '[{"price": 1}]', "null"])
def test_feeds_of_no_known_format_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"feeds.*format.*ours.*Derive.*Deribit"):
        read(tmp_path, text)


# ---------------------------------------------------------------- bad rows of the tables


def bad_rows(place: int, *values: tuple[Any, str]) -> list[tuple[int, Any, str]]:
    return [(place, value, reason) for value, reason in values]


QUANTITY = (
    *((None, "missing"), ("x", "not a number"), (NAN, "not finite"), (INF, "not finite")),
    *((-INF, "not finite"), (2e30, "out of range"), ("1,000", "not a number")),
)
BAD_POSITIONS = [
    *bad_rows(0, (None, "missing account_id")),
    *bad_rows(2, (None, "missing instrument_id"), ("NOPE", "unknown"), ("btc-perp", "unknown")),
    *bad_rows(3, *QUANTITY),
]
BAD_BALANCES = [
    *bad_rows(0, (None, "missing account_id")),
    *bad_rows(2, (None, "missing kind"), ("gold", "unknown kind")),
    *bad_rows(3, ("BTC", "cash is in the stable coin"), ("USDT", "cash is in the stable coin")),
    *bad_rows(4, *QUANTITY),
]


def with_value(rows: tuple[Any, ...], place: int, value: Any) -> list[tuple[Any, ...]]:
    first = list(rows[0])
    first[place] = value
    return [tuple(first), *rows[1:]]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("place", "value", "reason"), BAD_POSITIONS, ids=str)
def test_a_bad_position_fails_by_its_row(
    tmp_path: Path, place: int, value: Any, reason: str, suffix: str
) -> None:
    inputs = read(tmp_path, None, with_value(POSITIONS, place, value), suffix=suffix)
    [(source, row, field, _, why)] = told(inputs)
    assert (source, row, field) == (f"positions.{suffix}", 1, POSITION_HEADER[place])
    assert reason in why
    assert states(inputs) == {"A": value is None and place == 0, "B": True, "C": True, "D": True}
    assert len(inputs.book.portfolio.rows.value) == 9


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("place", "value", "reason"), BAD_BALANCES, ids=str)
def test_a_bad_balance_fails_by_its_row(
    tmp_path: Path, place: int, value: Any, reason: str, suffix: str
) -> None:
    inputs = read(tmp_path, balances=with_value(BALANCES, place, value), suffix=suffix)
    [(source, row, field, _, why)] = told(inputs)
    assert (source, row, field) == (f"balances.{suffix}", 1, BALANCE_HEADER[place])
    assert reason in why
    assert states(inputs)["A"] is (place == 0) and states(inputs)["B"]
    assert inputs.book.cash[0] == 0.0


@pytest.mark.parametrize(
    ("asset", "reason"),
    [(None, "missing asset"), ("DOGE", "unknown asset"), ("BTC-PERP", "is no coin")],
)
def test_collateral_is_a_coin_of_the_feeds(tmp_path: Path, asset: Any, reason: str) -> None:
    rows = [*BALANCES, ("C", None, "collateral", asset, 1.0, None)]
    inputs = read(tmp_path, balances=rows)
    [(_, row, field, _, why)] = told(inputs)
    assert (row, field) == (8, "asset") and reason in why
    assert states(inputs) == {"A": True, "B": True, "C": False, "D": True}


def test_two_markets_of_a_set_both_fail(tmp_path: Path) -> None:
    rows = [*BALANCES, ("D", None, "cash", None, 5.0, "ETH"), ("D", None, "cash", None, 1.0, None)]
    inputs = read(tmp_path, balances=rows)
    assert [(row[1], row[2]) for row in told(inputs)] == [(7, "market"), (8, "market")]
    assert inputs.book.cash[-1] == 1.0 and inputs.book.market[-1] == ""


def test_an_account_of_bad_rows_only_is_there_and_empty(tmp_path: Path) -> None:
    inputs = read(tmp_path, None, [("Z", None, "NOPE", 1.0)], None)
    assert inputs.accounts.to_list() == ["Z"] and not inputs.computable
    assert inputs.book.portfolio.good.tolist() == [0] and inputs.book.portfolio.bad.tolist() == [1]


@pytest.mark.parametrize("name", ["feeds", "positions", "balances"])
def test_an_absent_file_is_an_error(tmp_path: Path, name: str) -> None:
    paths = write(tmp_path)
    paths[name] = tmp_path / "absent.csv"
    with pytest.raises(ConfigError, match=rf"{name}.*no such file.*absent"):
        read_crypto(**paths)


def test_a_missing_column_is_a_failure(tmp_path: Path) -> None:
    paths = write(tmp_path)
    paths["positions"].write_text("account_id,quantity\nA,1\n")
    inputs = read_crypto(**paths)
    assert told(inputs)[0] == (
        "positions.csv",
        None,
        "instrument_id",
        None,
        "missing column: add it or correct its header",
    )


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    paths = write(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no JSON file in the folder"):
        read_crypto(tmp_path / "empty", paths["positions"])


JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a document."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(found for key, one in inside for found in places(one, (*path, key)))]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_junk_in_the_feeds_raises(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    document = feeds()
    *path, last = data.draw(st.sampled_from([path for path in places(document) if path]))
    place: Any = document
    for key in path:
        place = place[key]
    place[last] = data.draw(JUNK)
    inputs = read_crypto(
        document, pl.DataFrame([dict(zip(POSITION_HEADER, POSITIONS[0], strict=True))])
    )
    assert inputs.failures.schema == SCHEMA
    market = inputs.market
    assert np.isfinite(market.spot).all() and np.isfinite(market.instruments.volatility).all()
    assert np.isfinite(market.expiries.forward).all() and (market.expiries.seconds >= 0).all()


# ---------------------------------------------------------------- pieces, tables, figures


def test_pieces_are_the_whole_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = read(tmp_path)
    assert [piece.accounts.to_list() for piece in inputs.pieces()] == [["A", "B", "C", "D"]]
    monkeypatch.setattr(crypto_files, "_ENTRIES", 1)
    pieces = list(inputs.pieces())
    assert [piece.accounts.to_list() for piece in pieces] == [["A"], ["B"], ["C"], ["D"]]
    assert [piece.book.cash.tolist() for piece in pieces] == [
        [20000.0],
        [5000.0, 100.0],
        [1234.5],
        [0.0],
    ]
    monkeypatch.setattr(crypto_files, "_ENTRIES", 10)
    monkeypatch.setattr(crypto_files, "_SETS", 3.5)
    assert [len(piece.accounts) for piece in inputs.pieces()] == [1, 1, 2]


def test_no_accounts_are_one_piece(tmp_path: Path) -> None:
    inputs = read(tmp_path, None, [], None)
    assert [len(piece.accounts) for piece in inputs.pieces()] == [0]


def margin_of(inputs: Inputs, failed: int | None = None) -> CryptoMargin:
    """Something that looks like a margin of five sets."""
    one = np.arange(1.0, 6.0)
    worst = np.array([0, 1, 0, -1, 1])
    if failed is not None:
        one[failed], worst[failed] = NAN, -1
    return CryptoMargin(
        levels={
            INITIAL: Level(one * 2, {"scenario_loss": one, "perpetual": one}),
            MAINTENANCE: Level(one, {"scenario_loss": one}),
        },
        mark_to_market=one * 10,
        cash=np.where(np.isnan(one), NAN, inputs.book.cash),
        worst=worst,
        scenarios=("up", "down"),
        figures={},
        failures=failure_table(),
    )


def test_an_account_is_the_sum_of_its_sets(tmp_path: Path) -> None:
    inputs = read(tmp_path)
    found = crypto_files.file_margin(inputs, margin_of(inputs), 2.0, {"table": "mainnet"})
    assert found.requirement[INITIAL].tolist() == [4.0, 20.0, 16.0, 20.0]
    assert found.requirement[MAINTENANCE].tolist() == [2.0, 10.0, 8.0, 10.0]
    for level, parts in found.components.items():
        np.testing.assert_array_equal(sum(parts.values()), found.requirement[level])
    assert found.known.all() and found.complete.all()
    assert found.facts == {"table": "mainnet"} and found.table == "crypto"
    rows = found.details.filter(pl.col("netting_set") == "b1").to_dicts()
    assert rows[0] == {
        "account_id": "B",
        "netting_set": "b1",
        "market": "ETH",  # that of its positions
        "level": INITIAL,
        "requirement": 8.0,
        "mark_to_market": 40.0,
        "cash": 10000.0,
        "margin_value": 40.0 + 10000.0 - 8.0,
        "worst_scenario": "down",
    }
    assert [row["level"] for row in rows] == [INITIAL, MAINTENANCE]
    assert found.details["netting_set"].to_list()[::2] == ["A", "b1", "b2", "C", "D"]
    assert found.details["worst_scenario"].to_list()[6] is None


def test_a_failed_set_takes_its_account_with_it(tmp_path: Path) -> None:
    inputs = read(tmp_path)
    found = crypto_files.file_margin(inputs, margin_of(inputs, 1), 1.0, {})
    assert found.known.tolist() == [True, False, True, True]
    assert found.complete.tolist() == [True, False, True, True]
    assert math.isnan(found.requirement[INITIAL][1]) and found.requirement[INITIAL][0] == 2.0
    lost = found.details.filter(pl.col("netting_set") == "b1")
    assert lost["requirement"].null_count() == 2 and lost["margin_value"].null_count() == 2


def test_bad_rows_make_an_account_incomplete(tmp_path: Path) -> None:
    inputs = read(tmp_path, None, [*POSITIONS, ("C", None, "NOPE", 1.0)])
    found = crypto_files.file_margin(inputs, margin_of(inputs), 1.0, {})
    assert found.known.all() and found.complete.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, {"a": 1, "b": {"c": 2, "d": [3]}}),
        ({"a": 5}, {"a": 5, "b": {"c": 2, "d": [3]}}),
        ({"b": {"c": 9}}, {"a": 1, "b": {"c": 9, "d": [3]}}),
        ({"b": {"d": [4, 5]}}, {"a": 1, "b": {"c": 2, "d": [4, 5]}}),
        ({"b": 7}, {"a": 1, "b": 7}),
        ({"e": {"f": 1}}, {"a": 1, "b": {"c": 2, "d": [3]}, "e": {"f": 1}}),
    ],
    ids=str,
)
def test_overrides_replace_single_keys(overrides: Row, expected: Row) -> None:
    table = {"a": 1, "b": {"c": 2, "d": [3]}}
    assert with_overrides(table, overrides) == expected
    assert table == {"a": 1, "b": {"c": 2, "d": [3]}}


def test_an_unknown_table_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match="unknown version '1' of nowhere x; known versions: none"):
        crypto_files.versioned("nowhere", "x", "1")
    for name in crypto_files.versions("derive", "pm2"):
        assert crypto_files.versioned("derive", "pm2", name)
    with pytest.raises(ConfigError, match=r"'moon'.*known versions: .*mainnet"):
        crypto_files.versioned("derive", "pm2", "moon")


def test_settings_are_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'balances'"):
        CryptoFiles.model_validate({"feeds": "a", "positions": "b", "balance": "c"})
    paths = write(tmp_path)
    same(crypto_files.load(CryptoFiles.model_validate(paths)), read(tmp_path))


def test_feeds_as_json_have_no_trouble_with_numbers_as_text(tmp_path: Path) -> None:
    def text(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: text(one) for key, one in value.items()}
        if isinstance(value, list):
            return [text(one) for one in value]
        return repr(value) if isinstance(value, float) else value

    same(read(tmp_path / "a", json.dumps(text(feeds()))), read(tmp_path / "b"))
