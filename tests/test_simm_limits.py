"""SIMM at its limits: nothing, one row, zeros, a thousand names, any size of amount."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from crif_case import crif_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from simm_strategies import (
    CALCULATION_CURRENCIES,
    CURRENCIES,
    SIDES,
    TOTAL,
    VERSIONS,
    Book,
    Level,
    book_of,
    books,
    buckets,
    gross,
    is_oracle,
    meeting_book,
    near,
    risk_class_of,
    row,
    sensitivities,
    total,
)

from gpu_margin import backend
from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.calculation import Parameters, calculate
from gpu_margin.models.simm.kinds import HORIZONS, STREAM_OF

SOME, FEW = settings(max_examples=40, deadline=None), settings(max_examples=20, deadline=None)

# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("version", tables.versions())
def test_no_rows_are_no_portfolios(version: str) -> None:
    result = book_of([], version=version).result()
    assert result.totals.shape == (0, 2)
    assert result.table().is_empty() and result.totals_table().is_empty()


def test_add_ons_alone() -> None:
    plain = {"PortfolioID": "P", "ProductClass": ""}
    rows = [
        {**plain, "RiskType": kind, "Qualifier": name, "Amount": amount}
        for kind, name, amount in (
            ("Param_AddOnFixedAmount", "", 700.0),
            ("Param_ProductClassMultiplier", "Credit", 2.0),
            ("Param_AddOnNotionalFactor", "A", 5.0),
            ("Notional", "A", 1000.0),
            ("Notional", "B", 1e9),
        )
    ]
    levels = book_of(rows).levels()["P", "Post"]
    assert levels[TOTAL] == levels["All", "All", "AdditionalIM"] == 750.0
    assert levels["AddOnNotionalFactor", "All", "All"] == 50.0
    is_oracle(book_of(rows))


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("version", tables.versions())
def test_one_row_of_each_risk_type(version: str, horizon: str) -> None:
    """A portfolio each, once small and once concentrated."""
    rows = [
        row(kind, amount, PortfolioID=f"{kind} {amount}")
        for kind in STREAM_OF
        for amount in (12.5, -3e9)
    ]
    book = book_of(rows, horizon, version)
    is_oracle(book)
    assert all(own[TOTAL] > 0.0 for (_, side), own in book.levels().items() if side == "Call")


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("version", tables.versions())
def test_all_risk_types_together(version: str, horizon: str) -> None:
    """In one product class, then in each its share."""
    rows = [row(kind, amount) for kind in STREAM_OF for amount in (2e7, -3e5)]
    spread = [{**one, "ProductClass": PRODUCT_CLASSES[n % 4]} for n, one in enumerate(rows)]
    is_oracle(book_of(rows, horizon, version))
    is_oracle(book_of(rows + spread, horizon, version, "BRL"))


@pytest.mark.parametrize("horizon", HORIZONS)
def test_rows_of_zero_have_no_margin(horizon: str) -> None:
    rows = [row(kind, zero) for kind in STREAM_OF for zero in (0.0, -0.0)]
    assert book_of(rows, horizon).levels() == {("P", side): {TOTAL: 0.0} for side in SIDES}


@pytest.mark.parametrize("currency", CALCULATION_CURRENCIES)
@pytest.mark.parametrize("version", tables.versions())
def test_the_calculation_currency_is_no_risk(version: str, currency: str) -> None:
    rows = [row("Risk_FX", 1e7, Qualifier=currency), row("Risk_FX", -5e9, Qualifier=currency)]
    assert total(rows, "10d", version, currency) == 0.0
    for other in set(CALCULATION_CURRENCIES) - {currency}:
        assert total(rows, "10d", version, other) > 0.0


@given(VERSIONS, st.sampled_from(("CreditQ", "CreditNonQ", "Equity")), st.data())
@FEW
def test_the_residual_bucket_stands_apart(version: str, name: str, data: Any) -> None:
    """By itself it is like the oracle's; beside others it adds to them, without offset."""
    kinds = st.just(f"Risk_{name}")
    held = data.draw(st.lists(sensitivities(version, kinds), min_size=1, max_size=6))
    held = [{**one, "ProductClass": "Credit"} for one in held]
    apart = [{**one, "Bucket": "Residual"} for one in held]
    rest = [one for one in held if one["Bucket"] != "Residual"]
    is_oracle(book_of(apart, version=version))
    level: Level = ("Credit", risk_class_of(f"Risk_{name}"), "Delta")
    alone, others, both = (
        book_of(rows, version=version).levels().get(("P", "Call"), {}).get(level, 0.0)
        for rows in (apart, rest, apart + rest)
    )
    assert both == alone + others


@pytest.mark.parametrize("kind", ["Risk_Equity", "Risk_CreditVolNonQ"])
def test_a_thousand_names_in_a_bucket(kind: str) -> None:
    """Concentrated, each in its own degree."""
    draw = Random(7)
    rows = [
        row(kind, draw.gauss(0.0, 1.0) * 10.0 ** draw.uniform(5, 9), Qualifier=f"N{n}")
        for n in range(1000)
    ]
    one = [{**held, "Label2": f"G{n % 3}"} for n, held in enumerate(rows)]
    book = book_of(one if kind.endswith("NonQ") else rows)
    levels = book.levels()
    near(levels, {("P", side): own for side, own in book.oracle().items()}, gross(book), 1e-12)


@pytest.mark.parametrize("horizon", HORIZONS)
@pytest.mark.parametrize("size", [1e13, 1e50, 1e100])
def test_no_size_of_amount_is_too_large(size: float, horizon: str) -> None:
    rows = [
        row(kind, sign * size, product, Qualifier=name)
        for kind in STREAM_OF
        for product in PRODUCT_CLASSES
        for sign, name in ((1.0, "EURUSD" if "FXVol" in kind else "EUR"), (-0.3, "JPYUSD"))
        if kind == "Risk_FXVol" or len(name) == 3
    ]
    levels = book_of(rows, horizon).levels()["P", "Post"]
    assert all(math.isfinite(amount) and amount > 0.0 for amount in levels.values())


@given(books())
@example(meeting_book())
@SOME
def test_no_margin_is_negative(book: Book) -> None:
    """At any level; the add-ons drawn take nothing away."""
    for own in book.levels().values():
        assert min(own.values()) >= 0.0


def test_what_may_take_margin_away() -> None:
    """A multiplier below 1, and a negative fixed amount: the rulebook has no floor for them."""
    risk = row("Risk_Equity", 1e6, "Equity")
    fixed = {**risk, "RiskType": "Param_AddOnFixedAmount", "ProductClass": "", "Amount": -1e12}
    below = {**fixed, "RiskType": "Param_ProductClassMultiplier", "Qualifier": "Equity"}
    plain = total([risk])
    assert total([risk, fixed]) == plain - 1e12 < 0.0
    assert total([risk, {**below, "Amount": 0.25}]) == pytest.approx(plain / 4.0, rel=1e-15)


def test_the_strategies_reach_all() -> None:
    """Every risk type, bucket, tenor, group and currency can be drawn: they are in the tables."""
    for version in tables.versions():
        found = tables.load(version)
        for groups in (found.currencies.ir, found.currencies.ir_concentration):
            assert {found.ir_group(one) for one in CURRENCIES} >= set(found.currencies.ir)
            assert all(members for members in groups.values())
        assert {found.ir_concentration_group(one) for one in CURRENCIES} == set(
            found.currencies.ir_concentration
        )
        assert {found.fx_concentration_group(one) for one in CURRENCIES} == {"1", "2", "3"}
        assert {found.fx_group(one) for one in CURRENCIES} == {
            int(group) - 1 for group, members in found.currencies.fx.items() if members
        }
        assert "Residual" in buckets(version, "Equity")


def test_a_margin_beyond_all_numbers_is_a_failure_of_its_portfolio_alone() -> None:
    row = {"ProductClass": "Equity", "RiskType": "Risk_Equity", "Qualifier": "A", "Bucket": "1"}
    good = {**row, "PortfolioID": "good", "Amount": 1e6}
    rows = [good, {**row, "PortfolioID": "huge", "Amount": 1e140}]
    result, alone = (
        calculate(crif_of(some), Parameters(), backend.load("numpy")) for some in (rows, rows[:1])
    )
    assert result.known.tolist() == [True, False] == (~result.incomplete).tolist()
    assert result.totals[0].tolist() == alone.totals[0].tolist()
    (failure,) = result.failures.to_dicts()
    assert (failure["source"], failure["field"]) == ("portfolio huge", "amount")
    assert result.table().filter(portfolio_id="good").equals(alone.table())
