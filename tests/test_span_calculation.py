"""Order of the steps, gross accounts, short option minima, refusals and totals."""

from __future__ import annotations

import dataclasses
import random
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from span_case import tables_of
from span_engine_case import (
    NUMPY,
    Account,
    Tally,
    book_of,
    compare,
    margined,
    random_accounts,
    results_of,
)
from span_oracle_case import contract, exchange_of, inter_spread, linear
from span_oracle_pa2 import parse_pa2
from span_random import model, portfolio
from span_random_pa2 import as_pa2

from gpu_margin.models.span.calculation import prepare
from gpu_margin.portfolio import Rows
from gpu_margin.span_book import FORMED, SpanBook, SpanMargin, Terms
from gpu_margin.span_build import build
from gpu_margin.span_file import SpanFile
from gpu_margin.span_tables import SpanTables

Dict = dict[str, Any]
ARRAYS = [
    one.name for one in dataclasses.fields(SpanMargin) if one.name not in ("failures", "formed")
]
JAN, FEB = "202601", "202602"


def two() -> Dict:
    """L and R: a future in each of two months, a call and a put that are worth 10."""
    families = {}
    for code, psr in (("L", 300), ("R", 600)):
        families[code] = [
            *(contract(f"{code}{month}", linear(psr), period=month) for month in (JAN, FEB)),
            contract(f"{code}C", linear(psr / 2), "0.5", JAN, right="C", price=10),
            contract(f"{code}P", [-v for v in linear(psr / 2)], "-0.5", JAN, right="P", price=10),
        ]
    return exchange_of(families)


def one(exchange: Dict, *held: tuple[str, Any], gross: bool = False, **terms: Any) -> Dict:
    file = build(tables_of(exchange))
    found = margined(file, [Account(list(held), gross=gross)], Terms(**terms))
    assert not found.failed.any(), found.failures.rows()
    return results_of(file, found)[0]


def leg(key: str, side: str) -> Dict:
    return {"kind": "month", "key": key, "ratio": Fraction(1), "side": side}


def calendar(rate: int) -> Dict:
    legs = [leg(JAN, "A"), leg(FEB, "B")]
    return {"kind": 1, "priority": 1, "rate": Fraction(rate), "charge": "F", "legs": legs}


def test_super_spreads_then_months_then_delivery_then_others() -> None:
    """What one step consumes the next has not; delivery has what those within left."""
    held = ("L202601", 5), ("L202602", -3), ("R202601", -4)
    exchange = two()
    exchange["commodities"]["L"].update(
        {"charges": [calendar(7)], "intra_method": "10", "delivery_method": "10",
         "delivery": {JAN: (Fraction(1), Fraction(10))}}
    )  # fmt: skip
    across = inter_spread("01", [("L", 1, "A"), ("R", 1, "B")], 50)
    exchange["spreads"] = [across]
    # The net is 2: three spreads within, then two across. Delivery: 3 consumed, 2 left.
    row = one(exchange, *held)["rows"]["L"]
    assert row["intra_spread_charge"] == 21 and row["delivery_charge"] == 3 + 20
    assert row["inter_spread_credit"] == pytest.approx(2 * 300 / 2)
    # Above, the net of 2 is taken of January first: three of it are left for the spread within.
    across["super"] = True
    row = one(exchange, *held)["rows"]["L"]
    assert row["intra_spread_charge"] == 21 and row["delivery_charge"] == 5
    assert row["inter_spread_credit"] == pytest.approx(2 * 300 / 2)


def test_gross_accounts_keep_their_sides_apart() -> None:
    exchange = two()
    exchange["commodities"]["L"].update({"charges": [calendar(7)], "intra_method": "10"})
    exchange["spreads"] = [inter_spread("01", [("L", 1, "A"), ("R", 1, "B")], 50)]
    held = ("L202601", 5), ("L202601", -4), ("L202602", -3), ("R202601", -4)
    row = one(exchange, *held, gross=True)["rows"]["L"]
    assert row["scan_risk"] == (5 + 7) * 300 and row["active_scenario"] == 11
    assert row["intra_spread_charge"] == row["inter_spread_credit"] == 0
    assert one(exchange, *held)["rows"]["L"]["intra_spread_charge"] == 7


def test_short_options_have_a_minimum() -> None:
    exchange = two()
    terms = exchange["commodities"]["L"]
    terms["som"] = Fraction(400)
    held = ("LC", -2), ("LP", -3)
    assert one(exchange, *held)["rows"]["L"]["short_option_minimum"] == 5 * 400
    assert one(exchange, *held)["rows"]["L"]["risk"] == 2000
    terms["som_method"] = 1
    assert one(exchange, *held)["rows"]["L"]["short_option_minimum"] == 3 * 400
    assert one(exchange, ("LC", 2), ("L202601", -9))["rows"]["L"]["short_option_minimum"] == 0
    terms["som_tiers"] = [
        {"start": JAN, "end": JAN, "rate": Fraction(7)},
        {"start": JAN, "end": FEB, "rate": Fraction(1)},
        {"start": FEB, "end": FEB, "rate": Fraction(50)},
    ]
    assert one(exchange, *held)["rows"]["L"]["short_option_minimum"] == 3 * 8
    terms["som_method"] = 2
    both = ("LC", -2), ("LC", 5), ("LP", -3)
    assert one(exchange, *both, gross=True)["rows"]["L"]["short_option_minimum"] == 5 * 8
    assert one(exchange, *both)["rows"]["L"]["short_option_minimum"] == 3 * 8


def test_bought_options_cost_what_they_are_worth_at_most() -> None:
    row = one(two(), ("LC", 2))["rows"]["L"]
    assert row["scan_risk"] == 300 and row["risk"] == 20 and row["requirement"] == 0
    assert one(two(), ("LC", 2), ("L202601", 1))["rows"]["L"]["risk"] == 600
    assert one(two(), ("LC", 2), ("LP", -1))["rows"]["L"]["risk"] == 450


@pytest.mark.parametrize("initial", [False, True])
def test_kinds_of_accounts(initial: bool) -> None:
    exchange = two()
    terms = exchange["commodities"]["L"]
    kinds = ("member", "hedger", "speculator")
    terms["factors"] = dict(zip(kinds, map(Fraction, ("0.9", "1", "1.1")), strict=True))
    terms["ratios"] = dict(zip(kinds, map(Fraction, ("1", "1.2", "1.5")), strict=True))
    file = build(tables_of(exchange))
    accounts = [Account([("L202601", 1), ("LC", -1)], kind) for kind in kinds]
    found = margined(file, accounts, Terms(initial=initial))
    wanted = [150, 180, 225] if initial else [135, 150, 165]
    assert found.risk == pytest.approx(wanted)
    assert found.total == pytest.approx([risk + 10 for risk in wanted])
    assert found.total_risk == pytest.approx(wanted)


def test_totals_pool_or_limit_option_value() -> None:
    exchange = two()
    held = ("LC", 90), ("L202601", -1), ("R202601", 1)
    # L: 13,200 of risk for 44 deltas less 900; R: 600.
    exchange["contracts"]["LC"]["price"] = Fraction(1000)
    assert one(exchange, *held)["totals"] == {"USD": 0}
    exchange["commodities"]["L"]["limit"] = True
    assert one(exchange, *held)["totals"] == {"USD": 600}
    exchange["commodities"]["L"]["limit"] = False
    exchange["limit"] = True
    assert one(exchange, *held)["totals"] == {"USD": 600}
    exchange["limit"] = False
    exchange["commodities"]["R"]["currency"] = "EUR"
    for name in ("R202601", "R202602", "RC", "RP"):
        exchange["contracts"][name]["currency"] = "EUR"
    assert one(exchange, *held)["totals"] == {"EUR": 600, "USD": 0}


def changed(tables: SpanTables, name: str, where: pl.Expr, **to: Any) -> SpanTables:
    table: pl.DataFrame = getattr(tables, name)
    made = table.with_columns(
        pl.when(where).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
        for column, value in to.items()
    )
    return dataclasses.replace(tables, **{name: made})


def test_who_holds_what_is_refused_fails_by_name() -> None:
    exchange = two()
    tables = changed(tables_of(exchange), "contracts", pl.col("contract_id") == "L202602",
                     refused="its array is bad")  # fmt: skip
    file = build(
        changed(tables, "commodities", pl.col("combined_commodity") == "R", refused="basis")
    )
    accounts = [
        Account([("L202601", 1)]),
        Account([("L202601", 1), ("L202602", 2)]),
        Account([("RC", 1), ("R202601", -2)], gross=True),
        Account([("L202602", 2), ("R202601", 1)]),
        Account([("L202602", 2), ("L202602", -2), ("L202601", 1)]),
        Account([("L202602", 2), ("L202602", -2)], gross=True),
    ]
    found = margined(file, accounts)
    assert found.failed.tolist() == [False, True, True, True, False, True]
    assert found.account.tolist() == found.total_account.tolist() == [0, 4]
    bad, basis = (
        ("its array is bad", "contract_id", "L202602"),
        ("basis", "combined_commodity", "R"),
    )
    assert found.failures.select("source", "row", "reason", "field", "value").rows() == [
        ("00001", None, *bad),
        ("00002", None, *basis),
        ("00003", None, *basis),
        ("00003", None, *bad),
        ("00005", None, *bad),
    ]


def test_an_option_without_a_price_and_a_refused_leg() -> None:
    exchange = two()
    exchange["contracts"]["LC"]["price"] = None
    exchange["contracts"]["CMB"] = contract("CMB", linear(1), 0, JAN, kind="CMB")
    exchange["contracts"]["CMB"]["commodity"] = "L"
    legs = [("L202601", "R202602")]
    tables = changed(tables_of(exchange), "contracts", pl.col("contract_id") == "R202602",
                     refused="no such month")  # fmt: skip
    place = {name: at for at, name in enumerate(tables.contracts["contract_id"])}
    rows = [
        {"contract": place["CMB"], "leg": place[name], "ratio": ratio, "replaced": True}
        for pair in legs
        for name, ratio in zip(pair, (1.0, -1.0), strict=True)
    ]
    splits = pl.DataFrame(rows, schema=tables.splits.schema)
    file = build(dataclasses.replace(tables, splits=splits))
    found = margined(file, [Account([("LC", 1)]), Account([("CMB", 1)]), Account([("LP", 1)])])
    assert found.failed.tolist() == [True, True, False]
    said = found.failures.select("source", "value").rows()
    assert said == [("00000", "LC"), ("00001", "R202602")]
    assert "no price" in found.failures["reason"][0]
    # A combination of good legs may be refused itself.
    tables = changed(tables_of(exchange), "contracts", pl.col("contract_id") == "CMB",
                     refused="no legs")  # fmt: skip
    file = build(dataclasses.replace(tables, splits=splits))
    found = margined(file, [Account([("CMB", 1)]), Account([("R202602", 1)])])
    assert found.failed.tolist() == [True, False]
    assert found.failures.select("reason", "value").rows() == [("no legs", "CMB")]


def test_a_commodity_made_by_scanning_may_be_refused() -> None:
    exchange = two()
    exchange["commodities"]["T"] = {**exchange["commodities"]["L"], "code": "T"}
    exchange["contracts"]["T"] = contract("T", linear(1), period=JAN)
    exchange["contracts"]["T"]["commodity"] = "T"
    exchange["spreads"] = [
        inter_spread("04", [("L", 1, "A"), ("R", 1, "B"), ("T", 1, "A")], 50, target="T")
    ]
    file = build(
        changed(tables_of(exchange), "commodities", pl.col("combined_commodity") == "T",
                refused="no")
    )  # fmt: skip
    accounts = [Account([("L202601", 1), ("R202601", -1)]), Account([("L202601", 1)])]
    found = prepare(file, NUMPY).margin(book_of(file, accounts), formed=True)
    assert found.failed.tolist() == [True, False] and found.account.tolist() == [1]
    assert found.failures.select("source", "value").rows() == [("00000", "T")]
    assert found.formed is not None and found.formed.is_empty()


def test_a_tier_of_all_months_is_no_whole() -> None:
    """The whole is scanned by its scan tiers, a tier as one."""
    exchange = two()
    every = {"number": 1, "start": JAN, "end": FEB}
    apart = [{"number": at, "start": month, "end": month} for at, month in ((1, JAN), (2, FEB))]
    exchange["commodities"]["L"].update({"inter": [every], "scan": apart})
    held = ("L202601", 5), ("L202602", -3), ("R202601", -4)
    for tier, risk in ((1, 600), (0, 2400)):
        legs = [("L", 1, "A", tier), ("R", 1, "B", 0)]
        exchange["spreads"] = [inter_spread("20", legs, 50)]
        assert build(tables_of(exchange)).inter.leg_whole.tolist() == [not tier, True]
        row = one(exchange, *held)["rows"]["L"]
        assert row["inter_spread_credit"] == pytest.approx(risk / 2)


def test_what_was_formed_is_listed_where_asked() -> None:
    exchange = two()
    exchange["commodities"]["L"].update({"charges": [calendar(7)], "intra_method": "10"})
    exchange["spreads"] = [inter_spread("01", [("L", 1, "A"), ("R", 1, "B")], 50)]
    file = build(tables_of(exchange))
    accounts = [Account([("R202601", 1)]),
                Account([("L202601", 5), ("L202602", -3), ("R202601", -1)])]  # fmt: skip
    prepared, book = prepare(file, NUMPY), book_of(file, accounts)
    assert prepared.margin(book).formed is None
    found = prepared.margin(book, formed=True).formed
    assert found is not None and found.schema == FORMED
    assert found.rows() == [
        (1, 0, True, 0, 3.0, 21.0),
        (1, 0, False, 0, 1.0, pytest.approx(-150)),
        (1, 0, False, 1, 1.0, pytest.approx(-300)),
    ]


def shuffled(book: SpanBook, order: np.ndarray[Any, Any]) -> SpanBook:
    """The same accounts in another order (some twice, or not at all)."""
    rows, portfolio = book.portfolio.rows, book.portfolio
    size = np.diff(rows.offsets)[order]
    entry = np.concatenate(
        [np.arange(rows.offsets[at], rows.offsets[at + 1]) for at in order] or [order]
    ).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    names = pl.Series([f"{at:05d}" for at in range(len(order))], dtype=pl.String)
    made = dataclasses.replace(
        portfolio,
        accounts=names,
        sets=names,
        set_account=np.arange(len(order)),
        rows=Rows(offsets, rows.column[entry], rows.value[entry]),
        good=portfolio.good[order],
        bad=portfolio.bad[order],
    )
    return SpanBook(made, book.account_type[order], book.gross[order])


def bits_of(found: SpanMargin, account: int) -> list[bytes]:
    """All figures of an account, as bits."""
    rows, totals = found.account == account, found.total_account == account
    figures = [name for name in ARRAYS if not name.endswith("account") and name != "failed"]
    return [getattr(found, name)[totals if name.startswith("total") else rows].tobytes()
            for name in figures]  # fmt: skip


@pytest.mark.parametrize("first", range(0, 30, 10))
def test_accounts_in_any_order_and_number_have_the_same_bits(first: int) -> None:
    for seed in range(first, first + 10):
        drawn, rng = model(seed, xml=False), random.Random(seed)
        file = build(tables_of(parse_pa2(as_pa2(drawn))))
        accounts = [
            Account([(name, size / 7) for name, size in portfolio(drawn, rng)],
                    gross=rng.random() < 0.2) for _ in range(20)
        ]  # fmt: skip
        prepared, book = prepare(file, NUMPY), book_of(file, accounts)
        whole = prepared.margin(book)
        order = np.random.default_rng(seed).integers(0, 20, 50)
        again = prepared.margin(shuffled(book, order))
        for place, account in enumerate(order.tolist()):
            assert bits_of(again, place) == bits_of(whole, account)
            assert again.failed[place] == whole.failed[account]


@pytest.mark.parametrize("size", [1e200, 1e306])
def test_figures_beyond_all_numbers_are_of_one_account_only(size: float) -> None:
    drawn, _, file = of_model(70_001, True)
    rng = random.Random(0)
    accounts = [Account(portfolio(drawn, rng)) for _ in range(5)]
    beyond = Account([(name, held * size) for name, held in accounts[2].positions])
    prepared = prepare(file, NUMPY)
    whole = prepared.margin(book_of(file, accounts))
    again = prepared.margin(book_of(file, [*accounts[:2], beyond, *accounts[3:]]))
    assert np.isfinite(whole.total).all() and not again.failed.any()
    for account in (0, 1, 3, 4):
        assert bits_of(again, account) == bits_of(whole, account)
    if size > 1e300:
        assert not np.isfinite(again.total[again.total_account == 2]).all()


def of_model(seed: int, between: bool) -> tuple[Dict, Dict, SpanFile]:
    drawn = model(seed, xml=False)
    if not between:
        drawn["spreads"] = []
    exchange = parse_pa2(as_pa2(drawn))
    return drawn, exchange, build(tables_of(exchange))


@pytest.mark.parametrize("between", [False, True], ids=["within", "between, too"])
@pytest.mark.parametrize("first", range(70_000, 70_100, 50))
def test_random_exchanges_as_the_oracle_has_them(first: int, between: bool) -> None:
    tally = Tally()
    for seed in range(first, first + 50):
        drawn, exchange, file = of_model(seed, between)
        rng = random.Random(seed)
        accounts = random_accounts(rng, drawn, lambda one, own, _: portfolio(one, own), 5)
        terms = Terms(initial=rng.random() < 0.5, spread_places=rng.choice([None, None, 2]))
        assert compare(exchange, file, accounts, terms, tally) == [], seed
    assert tally.accounts > 220 and tally.seen["intra_spread_charge"] > 30
    assert bool(tally.seen["inter_spread_credit"]) == between
