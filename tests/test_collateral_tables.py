"""Assets and collateral: what is loaded, what fails and why, and that no margin changes by it."""

from __future__ import annotations

import math
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import small_case
from hypothesis import given, settings
from hypothesis import strategies as st
from small_case import CASE, DAYS, VALUATION, Row, frame, frames, write_case

import gpu_margin
from gpu_margin import loading, scenarios
from gpu_margin.config import load_config, load_gate
from gpu_margin.holdings import Assets, Holdings

NAN, INF = math.nan, math.inf
FIELDS = (
    *("price", "currency", "haircut", "fx_haircut", "factor", "issuer"),
    *("concentration_limit", "issuer_limit", "wrong_way_factor"),
)


def asset(
    name: str, price: Any = 1.0, haircut: Any = 0.1, currency: str = "USD", **more: Any
) -> Row:
    row = {"asset": name, **dict.fromkeys(FIELDS), "currency": currency}
    return {**row, "price": price, "haircut": haircut, **more}


def holding(account: Any, name: Any, amount: Any, netting_set: Any = None) -> Row:
    return {"account_id": account, "asset": name, "amount": amount, "netting_set": netting_set}


# Rows 1 to 5; X and Y are factors of instruments, Z is not. EUR is worth 1.1.
ASSETS = [
    asset("USD", None, None),
    asset("EUR", None, None, "EUR", fx_haircut=0.08),
    asset("BOND", 98.5, 0.05, issuer="TREASURY", issuer_limit=5e6),
    asset("SHARE", 20.0, 0.25, "EUR", factor="Z", wrong_way_factor=1.5, concentration_limit=1e6),
    asset("COIN", 3.0, 0.4, factor="Y"),
]
# Rows 1 to 6: F has collateral and no position, A none.
COLLATERAL = [
    holding("B", "USD", 1000.0, "s1"),
    holding("B", "BOND", 3.0),
    holding("C", "SHARE", 7.0),
    holding("C", "USD", -250.0),
    holding("D", "COIN", 2.0),
    holding("F", "EUR", 40.0),
]


def load(assets: Any = ASSETS, collateral: Any = COLLATERAL, **other: Any) -> loading.Loaded:
    tables: dict[str, Any] = {**frames(CASE), "assets": table(assets), **other}
    if collateral is not None:
        tables["collateral"] = table(collateral)
    return loading.load(CASE.config, **tables)


def table(rows: Any) -> Any:
    return frame(rows) if isinstance(rows, list) else rows


def changed(rows: list[Row], number: int, **values: Any) -> list[Row]:
    """Row `number` (from 1) with other values."""
    return [*rows[: number - 1], rows[number - 1] | values, *rows[number:]]


def assets_of(loaded: loading.Loaded) -> Assets:
    assert loaded.assets is not None
    return loaded.assets


def holdings_of(loaded: loading.Loaded) -> Holdings:
    assert loaded.holdings is not None
    return loaded.holdings


def failed(loaded: loading.Loaded) -> list[tuple[str, int | None, str | None]]:
    return loaded.failures.select("source", "row", "field").rows()


def held(loaded: loading.Loaded) -> dict[tuple[str, str], dict[str, float]]:
    """Amounts by account and set, and by asset."""
    holdings, ids = holdings_of(loaded), assets_of(loaded).ids
    rows = holdings.rows
    return {
        key: {
            ids[int(code)]: float(amount)
            for code, amount in zip(rows.column[begin:end], rows.value[begin:end], strict=True)
        }
        for key, begin, end in zip(
            zip(holdings.accounts, holdings.sets, strict=True),
            rows.offsets[:-1],
            rows.offsets[1:],
            strict=True,
        )
    }


# ---------------------------------------------------------------- what is loaded


def test_assets_as_they_were_given() -> None:
    loaded = load()
    assets = assets_of(loaded)
    assert loaded.failures.is_empty()
    assert assets.ids.to_list() == ["BOND", "COIN", "EUR", "SHARE", "USD"]
    assert assets.unit_value.tolist() == [98.5, 3.0, 1.1, 20.0 * 1.1, 1.0]
    assert assets.haircut.tolist() == [0.05, 0.4, 0.0, 0.25, 0.0]
    assert assets.fx_haircut.tolist() == [0.0, 0.0, 0.08, 0.0, 0.0]
    assert assets.history.factors == ("X", "Y", "Z")
    assert assets.factor.tolist() == [-1, 1, -1, 2, -1]
    assert assets.issuer.tolist() == [0, -1, -1, -1, -1]
    assert assets.concentration_limit.tolist() == [INF, INF, INF, 1e6, INF]
    assert assets.issuer_limit.tolist() == [5e6, INF, INF, INF, INF]
    assert assets.wrong_way_factor.tolist() == [0.0, 0.0, 0.0, 1.5, 0.0]
    assert assets.cash.tolist() == [False, False, True, False, True]
    assert loaded.counts["assets"] == 5


def test_holdings_as_they_were_given() -> None:
    loaded = load()
    holdings = holdings_of(loaded)
    assert holdings.accounts.to_list() == ["B", "B", "C", "D", "F"]
    assert holdings.sets.to_list() == ["B", "s1", "C", "D", "F"]
    assert holdings.rows.offsets.tolist() == [0, 1, 2, 4, 5, 6]
    assert holdings.rows.column.tolist() == [0, 4, 3, 4, 1, 2]
    assert holdings.rows.value.tolist() == [3.0, 1000.0, 7.0, -250.0, 2.0, 40.0]
    assert holdings.bad.tolist() == [0] * 5
    assert loaded.counts["collateral_sets"] == 5


def test_the_least_that_tables_may_say() -> None:
    cash = pl.DataFrame({"asset": ["USD"], "currency": ["USD"]})
    amounts = pl.DataFrame({"account_id": ["A"], "asset": ["USD"], "amount": [5]})
    loaded = load(cash, amounts)
    assert loaded.failures.is_empty()
    assert assets_of(loaded).unit_value.tolist() == [1.0]
    assert assets_of(loaded).haircut.tolist() == [0.0]
    assert held(loaded) == {("A", "A"): {"USD": 5.0}}


def test_cash_may_have_a_haircut_and_a_price_of_one() -> None:
    assets = assets_of(load([asset("EUR", 1.0, 0.02, "EUR")], []))
    assert assets.unit_value.tolist() == [1.1]
    assert assets.haircut.tolist() == [0.02]
    # Cash by any other name is an asset as any other.
    assert assets_of(load([asset("EURT", 0.99, 0.0, "EUR")], [])).cash.tolist() == [False]


def test_fx_haircut_is_not_for_what_is_in_the_margin_currency() -> None:
    rows = [asset("HERE", fx_haircut=0.3), asset("THERE", currency="EUR", fx_haircut=0.3)]
    assert assets_of(load(rows, [])).fx_haircut.tolist() == [0.0, 0.3]


def test_equal_assets_are_added_up_in_order_of_amount() -> None:
    amounts = [1e16, 1.0, -1e16, 1.0, 0.1, 0.2]
    total = 0.0
    for amount in sorted(amounts):
        total += amount
    for rows in (amounts, amounts[::-1]):
        loaded = load(collateral=[holding("A", "USD", amount) for amount in rows])
        assert held(loaded) == {("A", "A"): {"USD": total}}


def test_sets_of_an_account_are_apart_and_its_own_name_is_the_default() -> None:
    rows = [holding("B", "USD", 1.0), holding("B", "USD", 2.0, "B"), holding("B", "USD", 4.0, "s")]
    loaded = load(collateral=rows)
    assert held(loaded) == {("B", "B"): {"USD": 3.0}, ("B", "s"): {"USD": 4.0}}


def test_the_smallest_limit_that_is_stated_is_the_issuers() -> None:
    rows = [
        asset("A1", issuer="I", issuer_limit=9.0),
        asset("A2", issuer="I"),
        asset("A3", issuer="I", issuer_limit=4.0),
        asset("A4", issuer="J"),
        asset("A5", issuer="K", issuer_limit=0.0),
        asset("A6"),
    ]
    assets = assets_of(load(rows, []))
    assert assets.issuer.tolist() == [0, 0, 0, 1, 2, -1]
    assert assets.issuer_limit.tolist() == [4.0, 4.0, 4.0, INF, 0.0, INF]


@pytest.mark.parametrize(
    "change",
    [
        {"price": 0.0},
        {"haircut": 0.0},
        {"haircut": 1.0},
        {"fx_haircut": 1.0},
        {"concentration_limit": 0.0},
        {"wrong_way_factor": 0.0},
        {"issuer": "", "factor": ""},
    ],
    ids=str,
)
def test_limits_that_are_valid(change: Row) -> None:
    loaded = load(changed(ASSETS, 5, **change))
    assert loaded.failures.is_empty()
    assert len(assets_of(loaded)) == 5


# ---------------------------------------------------------------- histories of assets


def history_rows(*drop: tuple[str, int]) -> list[Row]:
    """The case's history without the prices of (factor, day)."""
    first = CASE.history[0]["date"]
    gone = {(factor, day) for factor, day in drop}
    return [row for row in CASE.history if (row["factor"], (row["date"] - first).days) not in gone]


def test_assets_share_the_dates_and_codes_of_the_market() -> None:
    loaded = load(history=frame(history_rows(("X", 4), ("Z", 4), ("Z", 9))), assets=ASSETS[4:])
    market, history = loaded.market.history, assets_of(loaded).history
    assert (market.factors, history.factors) == (("X", "Y"), ("X", "Y"))
    loaded = load(history=frame(history_rows(("X", 4), ("Z", 4))))
    market, history = loaded.market.history, assets_of(loaded).history
    assert loaded.failures.is_empty()
    assert history.dates == market.dates
    assert len(market.dates) == DAYS - 1
    assert (market.factors, history.factors) == (("X", "Y"), ("X", "Y", "Z"))
    prices = {(row["date"], row["factor"]): row["price"] for row in CASE.history}
    expected = [[prices[day, factor] for factor in "XYZ"] for day in market.dates]
    assert history.prices.tolist() == expected
    ours = scenarios.historical(history, 20, 2)
    theirs = scenarios.historical(market, 20, 2)
    assert ours.names == theirs.names
    assert ours.returns[:, :2].tobytes() == theirs.returns.tobytes()


def test_a_factor_with_a_gap_fails_its_asset_and_takes_no_date() -> None:
    loaded = load(history=frame(history_rows(("Z", 4))))
    assert failed(loaded) == [("assets", 4, "factor"), ("collateral", 3, "asset")]
    assert "every common date" in loaded.failures["reason"][0]
    assert "failed asset" in loaded.failures["reason"][1]
    assert len(loaded.market.history.dates) == DAYS
    assert assets_of(loaded).history.factors == ("X", "Y")


def test_a_price_on_another_date_does_not_fill_a_gap() -> None:
    loaded = load(history=frame(history_rows(("Z", 4), ("Y", 9))))
    assert len(loaded.market.history.dates) == DAYS - 1
    assert failed(loaded)[0] == ("assets", 4, "factor")


def test_a_gap_where_another_factor_has_one_too_is_none() -> None:
    assert load(history=frame(history_rows(("Z", 4), ("Y", 4)))).failures.is_empty()


def test_a_factor_is_known_by_a_valid_price_up_to_the_valuation_date() -> None:
    later = {"date": VALUATION.replace(day=20), "factor": "W", "price": 1.0}
    rows = [*CASE.history, later, {"date": VALUATION, "factor": "V", "price": -1.0}]
    for factor in ("W", "V", "U"):
        loaded = load(changed(ASSETS, 5, factor=factor), history=frame(rows))
        reasons = loaded.failures.filter(pl.col("source") == "assets")["reason"]
        assert [reason[:14] for reason in reasons] == ["unknown factor"]


def test_assets_of_a_book_without_instruments() -> None:
    loaded = load(instruments=frame([CASE.instruments[0] | {"kind": "swap"}]))
    assets = assets_of(loaded)
    assert len(assets) == 5
    assert assets.history.dates == ()
    assert assets.history.factors == ("Y", "Z")
    assert assets.history.prices.shape == (0, 2)
    assert assets.factor.tolist() == [-1, 0, -1, 1, -1]


def test_collateral_changes_no_margin() -> None:
    without = small_case.run(CASE)
    with_it = small_case.run(CASE, assets=frame(ASSETS), collateral=frame(COLLATERAL))
    for name in ("margins", "components", "sets", "groups"):
        got, expected = getattr(with_it, name), getattr(without, name)
        assert got.rows() == expected.rows(), name
    assert with_it.manifest["counts"].items() >= without.manifest["counts"].items()


# ---------------------------------------------------------------- bad rows

NUMBERS = (
    *((NAN, "not finite"), (INF, "not finite"), (-INF, "not finite")),
    *(("abc", "not a number"), ("1,000", "not a number"), (2e30, "out of range")),
)
FRACTION = ((-0.1, "outside [0, 1]"), (1.0001, "outside [0, 1]"), (5, "outside [0, 1]"))
BAD = [
    *((1, field, None, f"missing {field}") for field in ("asset", "currency")),
    *((3, field, None, f"missing {field}") for field in ("price", "haircut")),
    *((3, "currency", value, "currency without a rate") for value in ("CHF", "usd", "GBX")),
    *((3, field, *fault) for field in ("price", "haircut") for fault in NUMBERS),
    *((3, "fx_haircut", *fault) for fault in (*NUMBERS, *FRACTION)),
    *((3, "haircut", *fault) for fault in FRACTION),
    (3, "price", -1.0, "negative price"),
    *((1, "price", price, "price of cash must be 1") for price in (0.0, 0.99)),
    (1, "price", -1.0, "negative price"),
    *((1, "haircut", *fault) for fault in (*NUMBERS, *FRACTION)),
    (5, "factor", "W", "unknown factor"),
    (5, "factor", "y", "unknown factor"),
    (4, "factor", None, "wrong_way_factor without a factor"),
    *((4, "wrong_way_factor", *fault) for fault in NUMBERS),
    (4, "wrong_way_factor", -0.5, "negative wrong_way_factor"),
    *((4, "concentration_limit", *fault) for fault in NUMBERS),
    (4, "concentration_limit", -1.0, "negative concentration_limit"),
    *((3, "issuer_limit", *fault) for fault in NUMBERS),
    (3, "issuer_limit", -1.0, "negative issuer_limit"),
    (3, "issuer", None, "issuer_limit without an issuer"),
]


@pytest.mark.parametrize(("row", "field", "value", "reason"), BAD, ids=str)
def test_bad_asset(row: int, field: str, value: Any, reason: str) -> None:
    name = ASSETS[row - 1]["asset"]
    holders = [n for n, r in enumerate(COLLATERAL, 1) if r["asset"] == name]
    loaded = load(changed(ASSETS, row, **{field: value}))
    own = loaded.failures.filter(pl.col("source") == "assets")
    assert own["row"].to_list() == [row]
    assert reason in own["reason"][0]
    blamed = "wrong_way_factor" if reason.startswith("wrong") else field
    assert own["field"][0] == ("issuer_limit" if reason.startswith("issuer_l") else blamed)
    assert [row for source, row, _ in failed(loaded) if source == "collateral"] == holders
    assert assets_of(loaded).ids.to_list() == sorted(
        r["asset"] for n, r in enumerate(ASSETS, 1) if n != row
    )
    # The others are what they would be without the row.
    others = [r for n, r in enumerate(ASSETS, 1) if n != row]
    kept = [r for n, r in enumerate(COLLATERAL, 1) if n not in holders]
    good = load(others, kept)
    assert good.failures.is_empty()
    expected = held(good)
    assert {key: rows for key, rows in held(loaded).items() if rows} == expected
    for name in ("unit_value", "haircut", "factor", "issuer_limit"):
        assert getattr(assets_of(loaded), name).tolist() == getattr(assets_of(good), name).tolist()


def test_all_copies_of_an_asset_fail() -> None:
    for copy in ({}, {"price": 7.0}, {"haircut": None}):
        loaded = load([*ASSETS, ASSETS[2] | copy])
        assert failed(loaded) == [
            ("assets", 3, "asset"),
            ("assets", 6, "asset"),
            ("collateral", 2, "asset"),
        ]
        assert "duplicate asset" in loaded.failures["reason"][0]
        assert "BOND" not in assets_of(loaded).ids


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("account_id", None, "missing account_id"),
        ("asset", None, "missing asset"),
        ("asset", "GOLD", "unknown asset"),
        ("asset", "bond", "unknown asset"),
        ("amount", None, "missing amount"),
        *(("amount", *fault) for fault in NUMBERS),
    ],
    ids=str,
)
def test_bad_collateral_row(field: str, value: Any, reason: str) -> None:
    rows = [*COLLATERAL, holding("C", "BOND", 1.0)]
    loaded = load(collateral=changed(rows, 7, **{field: value}))
    assert failed(loaded) == [("collateral", 7, field)]
    assert reason in loaded.failures["reason"][0]
    assert held(loaded) == held(load())
    bad = dict(zip(holdings_of(loaded).sets, holdings_of(loaded).bad.tolist(), strict=True))
    assert bad == {"B": 0, "s1": 0, "C": int(field != "account_id"), "D": 0, "F": 0}


def test_a_set_of_bad_rows_only_is_there_and_empty() -> None:
    rows = [holding("Q", "GOLD", 1.0), holding("Q", "USD", "x"), holding("Q", "USD", 1.0, "good")]
    loaded = load(collateral=rows)
    assert held(loaded) == {("Q", "Q"): {}, ("Q", "good"): {"USD": 1.0}}
    assert holdings_of(loaded).bad.tolist() == [2, 0]


def test_an_unknown_asset_and_a_failed_one_are_told_apart() -> None:
    loaded = load(changed(ASSETS, 3, haircut=None), [*COLLATERAL, holding("A", "GOLD", 1.0)])
    reasons = dict(loaded.failures.select("row", "reason").filter(pl.col("row") > 1).rows())
    assert "failed asset" in reasons[2]
    assert "unknown asset" in reasons[7]


def test_a_row_fails_once_by_the_first_rule_it_breaks() -> None:
    loaded = load([asset("A", -1.0, 7.0, "CHF", issuer_limit=-1.0, wrong_way_factor=NAN)], [])
    assert [(f[1], f[2]) for f in failed(loaded) if f[0] == "assets"] == [(1, "currency")]


def test_the_order_of_rows_changes_nothing() -> None:
    forth, back = load(), load(ASSETS[::-1], COLLATERAL[::-1])
    assert held(forth) == held(back)
    for name in Assets.__dataclass_fields__:
        ours, theirs = getattr(assets_of(forth), name), getattr(assets_of(back), name)
        if name == "history":
            ours, theirs = ours.prices, theirs.prices
        assert list(np.ravel(ours)) == list(np.ravel(theirs)), name


# ---------------------------------------------------------------- which tables there are


def test_collateral_needs_assets_and_not_the_reverse() -> None:
    with pytest.raises(gpu_margin.ConfigError, match=r"inputs\.collateral: needs inputs\.assets"):
        loading.load(CASE.config, **frames(CASE), collateral=frame(COLLATERAL))
    loaded = load(collateral=None)
    assert loaded.holdings is None
    assert len(assets_of(loaded)) == 5
    plain = loading.load(CASE.config, **frames(CASE))
    assert (plain.assets, plain.holdings, plain.ownership, plain.marks) == (None,) * 4
    assert not {"assets", "collateral_sets", "marks"} & plain.counts.keys()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_files_of_the_configuration(form: Any, tmp_path: Path) -> None:
    config = write_case(CASE, tmp_path, form)
    for name, rows in (("assets", ASSETS), ("collateral", COLLATERAL)):
        path = tmp_path / f"{name}.{form}"
        frame(rows).write_csv(path) if form == "csv" else frame(rows).write_parquet(path)
    text = config.read_text(encoding="utf-8")
    named = f'inputs = {{ assets = "assets.{form}", collateral = "collateral.{form}", '
    config.write_text(text.replace("inputs = { ", named), encoding="utf-8")
    loaded = loading.load(config)
    assert loaded.failures.is_empty()
    assert held(loaded) == held(load())
    assert assets_of(loaded).unit_value.tolist() == assets_of(load()).unit_value.tolist()
    for name, rows in (("assets", 5), ("collateral", 6)):
        described = loaded.inputs[name]
        assert described["path"] == str(tmp_path / f"{name}.{form}")
        assert (len(described["sha256"]), described["rows"]) == (64, rows)
    loaded = loading.load(config, collateral=pd.DataFrame(COLLATERAL))
    assert held(loaded) == held(load())
    assert loaded.inputs["collateral"]["path"] is None


@pytest.mark.parametrize("content", [b"", b"asset,price\n", b"\xff\xfe,\n", b'asset\n"', b"\0"])
def test_an_unusable_table_fails_as_one_and_nobody_else(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    loaded = load(assets=path)
    assert assets_of(loaded).ids.is_empty()
    assert {source for source, _, _ in failed(loaded)} == {"table.csv", "collateral"}
    assert holdings_of(loaded).bad.sum() == len(COLLATERAL)
    loaded = load(collateral=path)
    assert len(holdings_of(loaded)) == 0
    assert {source for source, _, _ in failed(loaded)} == {"table.csv"}
    plain = loading.load(CASE.config, **frames(CASE))
    assert loaded.portfolio.rows.value.tolist() == plain.portfolio.rows.value.tolist()


def test_an_absent_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(gpu_margin.ConfigError, match=r"inputs\.assets: no such file"):
        load(assets=tmp_path / "assets.csv")


# ---------------------------------------------------------------- settings


def test_settings_of_collateral_and_their_defaults() -> None:
    config = load_config(CASE.config)
    assert config.gate is None
    assert config.collateral.model_dump() == {
        "mode": "haircut",
        "call_minimum": 0.0,
        "call_rounding": 0.01,
    }
    said = {"mode": "in_scenarios", "call_minimum": 100, "call_rounding": 1.0}
    assert load_config(CASE.config | {"collateral": said}).collateral.model_dump() == said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("mode", value) for value in ("haircuts", None, 1)),
        *(("call_minimum", value) for value in (-1, NAN, "much", None)),
        *(("call_rounding", value) for value in (0, -0.01, NAN, None)),
        ("call_min", 1),
    ],
)
def test_wrong_settings_of_collateral(key: str, value: Any) -> None:
    with pytest.raises(
        gpu_margin.ConfigError, match=r"collateral.*call_min|collateral\.(mode|call)"
    ):
        load_config(CASE.config | {"collateral": {key: value}})


def test_settings_of_the_gate_are_checked_with_the_rest() -> None:
    said = {"model": "es", "stale_seconds": 60.0}
    config = load_config(CASE.config | {"gate": said})
    assert config.gate == said
    gate: Any = load_gate(config)
    assert (gate.model, gate.utilisation_cap, gate.stale_seconds) == ("es", 1.0, 60.0)
    assert load_gate(load_config(CASE.config)) is None
    for change, words in (
        ({"model": "other"}, "gate.model: unknown model 'other'; the models are cov, es"),
        ({"utilisation_cap": 0.0}, "gate.utilisation_cap"),
        ({"stale_seconds": -1.0}, "gate.stale_seconds"),
        ({"stale_second": 1.0}, "did you mean 'stale_seconds'"),
    ):
        with pytest.raises(gpu_margin.ConfigError, match=re.escape(words)):
            load_config(CASE.config | {"gate": said | change})


# ---------------------------------------------------------------- properties

TEXTS = st.sampled_from([None, "", "A", "USD", "EUR", "BOND", "SHARE", "x;y", "é", "1", " USD"])
VALUES = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 1e31, 1e-31]),
)
ASSET_ROWS = st.lists(
    st.builds(
        asset,
        TEXTS,
        VALUES,
        VALUES,
        st.sampled_from(["USD", "EUR", "CHF", ""]),
        fx_haircut=VALUES,
        factor=st.sampled_from([None, "X", "Z", "W"]),
        issuer=st.sampled_from([None, "I", "J"]),
        concentration_limit=VALUES,
        issuer_limit=VALUES,
        wrong_way_factor=VALUES,
    ),
    min_size=1,
    max_size=6,
)
AMOUNTS = st.one_of(st.none(), st.floats(), st.integers(-5, 5).map(float))
HOLDING_ROWS = st.lists(st.builds(holding, TEXTS, TEXTS, AMOUNTS, TEXTS), min_size=1, max_size=12)


def good_number(value: Any) -> bool:
    """By the definition: a finite number of sane size."""
    return (
        value is not None and math.isfinite(value) and (value == 0 or 1e-30 <= abs(value) <= 1e30)
    )


def good_asset(row: Row, rows: list[Row]) -> bool:
    """By the definition, row by row; the case's history is complete for X and Z."""
    cash = row["asset"] == row["currency"]
    needed = {"price": (0.0, INF), "haircut": (0.0, 1.0)}
    optional = {
        "fx_haircut": (0.0, 1.0),
        "concentration_limit": (0.0, INF),
        "issuer_limit": (0.0, INF),
        "wrong_way_factor": (0.0, INF),
    }
    for field, (low, high) in {**needed, **optional}.items():
        value = row[field]
        if value is None and (cash or field in optional):
            continue
        if not good_number(value) or not low <= value <= high:
            return False
    return (
        row["asset"] not in (None, "")
        and sum(other["asset"] == row["asset"] for other in rows) == 1
        and row["currency"] in ("USD", "EUR")
        and not (cash and row["price"] not in (None, 1.0))
        and row["factor"] != "W"
        and not (row["factor"] is None and (row["wrong_way_factor"] or 0.0) > 0)
        and not (row["issuer"] is None and row["issuer_limit"] is not None)
    )


@settings(max_examples=100, deadline=None)
@given(ASSET_ROWS, HOLDING_ROWS)
def test_any_rows_load_as_the_definition_says(assets: list[Row], rows: list[Row]) -> None:
    loaded = load(assets, rows)
    good = {row["asset"]: row for row in assets if good_asset(row, assets)}
    assert assets_of(loaded).ids.to_list() == sorted(good, key=str.encode)
    for code, name in enumerate(assets_of(loaded).ids):
        price = 1.0 if good[name]["price"] is None else good[name]["price"]
        rate = {"USD": 1.0, "EUR": 1.1}[good[name]["currency"]]
        assert assets_of(loaded).unit_value[code] == price * rate
    expected: dict[Any, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    bad: dict[Any, int] = defaultdict(int)
    for row in rows:
        if row["account_id"] in (None, ""):
            continue
        key = (row["account_id"], row["netting_set"] or row["account_id"])
        bad[key] += 0
        if row["asset"] in good and good_number(row["amount"]):
            expected[key][row["asset"]].append(row["amount"])
        else:
            bad[key] += 1
    sums = {
        key: {name: added(amounts) for name, amounts in expected.get(key, {}).items()}
        for key in bad
    }
    assert held(loaded) == sums
    keys = list(zip(holdings_of(loaded).accounts, holdings_of(loaded).sets, strict=True))
    assert keys == sorted(bad, key=lambda key: (key[0].encode(), key[1].encode()))
    assert holdings_of(loaded).bad.tolist() == [bad[key] for key in keys]
    # As many failures as bad rows.
    failures = loaded.failures.filter(pl.col("source") == "collateral")
    blank = sum(row["account_id"] in (None, "") for row in rows)
    assert len(failures) == sum(bad.values()) + blank


def added(amounts: list[float]) -> float:
    total = 0.0
    for amount in sorted(amounts):
        total += amount
    return total


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="abUSD,;\"\n\r'1.5 -é\0", max_size=30), max_size=6), st.booleans())
def test_any_text_in_a_file_never_raises(lines: list[str], of_assets: bool) -> None:
    header = "asset,currency,price,haircut" if of_assets else "account_id,asset,amount"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes("\n".join([header, *lines]).encode())
        loaded = load(**{"assets" if of_assets else "collateral": path})
    assert loaded.failures["reason"].null_count() == 0
    assert len(loaded.portfolio.accounts) == 5
