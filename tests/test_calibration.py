"""Haircuts of a table of assets, what they change, and the command that writes them."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from gpu_margin.calibration import (
    calibrate,
    effect,
    effect_totals,
    new_table,
    price_histories,
)
from gpu_margin.failures import ConfigError
from gpu_margin.haircuts import Calibration, PriceHistory

Row = dict[str, Any]
FIRST = date(2024, 1, 1)
ASSET_TYPES = {
    "asset": pl.String,
    "price": pl.Float64,
    "currency": pl.String,
    "haircut": pl.Float64,
    "fx_haircut": pl.Float64,
    "factor": pl.String,
}


def asset(name: str, currency: str = "USD", haircut: float = 0.1, **more: Any) -> Row:
    return {"asset": name, "price": 1.0, "currency": currency, "haircut": haircut, **more}


def table(*rows: Row) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=ASSET_TYPES)


def history(*prices: float, first: date = FIRST) -> PriceHistory:
    return PriceHistory(
        tuple(first + timedelta(days=day) for day in range(len(prices))), np.array(prices)
    )


def settings(**more: Any) -> Calibration:
    return Calibration.model_validate({"horizon_days": 1, **more})


STOCK = history(100.0, 90.0, 99.0, 80.0, 88.0, 88.0)
EURUSD = history(1.25, 1.0, 1.2, 1.2, first=date(2023, 12, 1))
HISTORIES = {"STOCK": STOCK, "EURUSD": EURUSD}


def by_asset(frame: pl.DataFrame, *columns: str) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in frame.select("asset", *columns).iter_rows()}


# ---------------------------------------------------------------- the table


def test_no_assets() -> None:
    found = calibrate(table(), HISTORIES, settings(), "USD")
    assert found.is_empty()
    assert new_table(table(), found, settings(), FIRST, "abc").columns[:6] == list(ASSET_TYPES)


def test_cash_and_what_has_no_factor_keep_their_haircut() -> None:
    assets = table(
        asset("USD", haircut=0.0),
        asset("EUR", "EUR", haircut=0.0, fx_haircut=0.08),
        asset("HOUSE", haircut=0.4),
        asset("VILLA", "EUR", haircut=0.5),
    )
    found = calibrate(assets, HISTORIES, settings(), "USD")
    assert by_asset(found, "haircut", "rule", "fx_haircut", "fx_rule", "returns") == {
        "USD": (0.0, "unchanged", None, "unchanged", None),
        "EUR": (0.0, "unchanged", 0.08, "unchanged", None),
        "HOUSE": (0.4, "unchanged", None, "unchanged", None),
        "VILLA": (0.5, "unchanged", None, "unchanged", None),
    }
    notes = by_asset(found, "note")
    assert notes["USD"] == (None,)
    assert notes["EUR"] == ("no factor of EUR: keeps its FX add-on",)
    assert notes["HOUSE"] == ("no factor: keeps its haircut",)
    assert notes["VILLA"] == (
        "no factor: keeps its haircut; no factor of EUR: keeps its FX add-on",
    )
    written = new_table(assets, found, settings(), FIRST, "abc")
    assert written.select(assets.columns).equals(assets)
    assert set(written["method"]) == {"unchanged"}


def test_price_and_currency_are_measured_alike() -> None:
    assets = table(
        asset("SHARE", factor="STOCK"),
        asset("AKTIE", "EUR", factor="STOCK", fx_haircut=0.01),
        asset("EUR", "EUR", 0.0),
    )
    fx = settings(fx_factors={"EUR": "EURUSD"})
    found = calibrate(assets, HISTORIES, fx, "USD")
    columns = ("haircut_in_use", "haircut", "rule", "fx_haircut_in_use", "fx_haircut", "fx_rule")
    assert by_asset(found, *columns) == {
        "SHARE": (0.1, 0.195, "quantile", None, None, "unchanged"),
        "AKTIE": (0.1, 0.195, "quantile", 0.01, 0.2, "quantile"),
        "EUR": (0.0, 0.0, "unchanged", None, 0.2, "quantile"),
    }
    few = "few losses: the quantile is the worst of"
    assert by_asset(found, "note", "returns") == {
        "SHARE": (f"{few} 5", 5),
        "AKTIE": (f"{few} 5; FX {few} 3", 5),
        "EUR": (f"FX {few} 3", None),
    }
    # The price of a dollar in euro, falling as the euro rises.
    inverse = settings(fx_factors={"EUR": "1/USDEUR"})
    histories = {"STOCK": STOCK, "USDEUR": EURUSD.inverse()}
    assert calibrate(assets, histories, inverse, "USD").equals(found)


def test_the_currencys_own_stress_day_binds() -> None:
    assets = table(asset("EUR", "EUR", 0.0))
    calm = history(1.25, 1.0, *(1.0 + day % 2 / 100 for day in range(10)))
    asked = settings(fx_factors={"EUR": "EURUSD"}, lookback=8, stress_dates=["2024-01-02"])
    found = calibrate(assets, {"EURUSD": calm}, asked, "USD")
    assert by_asset(found, "haircut", "rule", "fx_haircut", "fx_rule") == {
        "EUR": (0.0, "unchanged", 0.2, "stress")
    }


def test_the_written_table_has_every_column_and_its_origin() -> None:
    assets = table(asset("SHARE", factor="STOCK"), asset("HOUSE"))
    assets = assets.with_columns(pl.lit("ACME").alias("issuer"))
    asked = settings(stress_dates=["2024-01-02"], lookback=5)
    found = calibrate(assets, HISTORIES, asked, "USD")
    written = new_table(assets, found, asked, FIRST, "abc")
    assert written.columns == [*assets.columns, "calibrated_on", "method", "source_sha256"]
    same = [name for name in assets.columns if name != "haircut"]
    assert written.select(same).equals(assets.select(same))
    assert written["haircut"].to_list() == [0.195, 0.1]
    assert written["calibrated_on"].to_list() == [FIRST, FIRST]
    assert written["method"].to_list() == [
        "quantile 0.99, 1 days, lookback 5, stress 2024-01-02, step 0.005",
        "unchanged",
    ]
    assert written["source_sha256"].to_list() == ["abc", "abc"]


def test_histories_have_their_own_dates() -> None:
    prices = pl.DataFrame(
        {
            "date": [FIRST, FIRST, date(2024, 1, 2), date(2024, 1, 3)],
            "factor": ["A", "B", "B", "A"],
            "price": [1.0, 2.0, 3.0, 4.0],
        }
    )
    found = price_histories(prices)
    assert found["A"].dates == (FIRST, date(2024, 1, 3))
    assert found["A"].prices.tolist() == [1.0, 4.0]
    assert found["B"].prices.tolist() == [2.0, 3.0]
    assert price_histories(prices.clear()) == {}


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"lookback": 6}, r"asset SHARE, factor STOCK: 6 return.* only 5: .* 6 valid"),
        ({"horizon_days": 6}, r"asset SHARE, factor STOCK: 1 return.* only 0: .* 6 valid"),
        ({"lookback": 4, "fx_factors": {"EUR": "EURUSD"}}, r"AKTIE, factor EURUSD: 4 .* only 3"),
        ({"fx_factors": {"USD": "EURUSD"}}, r"USD: no asset is in it \(foreign: EUR\)"),
        ({"fx_factors": {"EUR": "EURUSB"}}, r"EUR: unknown factor 'EURUSB'.* mean 'EURUSD'"),
        ({"fx_factors": {"EUR": "1/EURUSB"}}, r"EUR: unknown factor 'EURUSB'.* mean 'EURUSD'"),
        ({"stress_dates": ["2024-02-30"]}, "stress_dates"),
        ({"stress_dates": ["2019-01-01"]}, r"stress date 2019-01-01: no factor has a price"),
    ],
)
def test_wrong_settings_say_where_and_why(asked: Row, says: str) -> None:
    assets = table(asset("SHARE", factor="STOCK"), asset("AKTIE", "EUR", factor="STOCK"))
    with pytest.raises((ConfigError, ValueError), match=says):
        calibrate(assets, HISTORIES, settings(**asked), "USD")


def test_a_factor_without_any_price() -> None:
    assets = table(asset("GHOST", factor="NOTHING"))
    with pytest.raises(ConfigError, match=r"asset GHOST, factor NOTHING: .* has 0 valid price"):
        calibrate(assets, HISTORIES, settings(), "USD")


# ---------------------------------------------------------------- the effect


def accounts(*rows: tuple[Any, ...]) -> pl.DataFrame:
    columns = ["account_id", "netting_set", "model", "collateral_value", "excess", "status", "call"]
    types = [pl.String] * 3 + [pl.Float64] * 2 + [pl.String, pl.Float64]
    schema = dict(zip(columns, types, strict=True))
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def test_the_effect_is_per_account_the_largest_fall_first() -> None:
    before = accounts(
        ("A", None, "es", 100.0, 40.0, "ok", 0.0),
        ("A", "A", "es", 100.0, 40.0, "ok", 0.0),
        ("B", None, "es", 50.0, 10.0, "ok", 0.0),
        ("C", None, "es", 10.0, None, None, None),
        ("D", None, "es", 7.0, 1.0, "ok", 0.0),
    )
    after = accounts(
        ("A", None, "es", 90.0, 30.0, "ok", 0.0),
        ("A", "A", "es", 90.0, 30.0, "ok", 0.0),
        ("B", None, "es", 30.0, -10.0, "call", 10.0),
        ("C", None, "es", 12.0, None, None, None),
        ("D", None, "es", 7.0, 1.0, "ok", 0.0),
    )
    found = effect(before, after)
    assert found["account_id"].to_list() == ["B", "A", "D", "C"]
    assert found.row(0) == ("es", "B", 50.0, 10.0, "ok", 0.0, 30.0, -10.0, "call", 10.0)
    (total,) = effect_totals(found)
    assert total == {
        "model": "es",
        "accounts": 4,
        "collateral_value": 167.0,
        "excess": 51.0,
        "call": 0.0,
        "status": {"ok": 3},
        "collateral_value_after": 139.0,
        "excess_after": 21.0,
        "call_after": 10.0,
        "status_after": {"call": 1, "ok": 2},
    }
    assert effect(before, before).filter(pl.col("excess") != pl.col("excess_after")).is_empty()
    assert effect_totals(effect(before.clear(), after.clear())) == []
