"""Sides, regulations and winners; Schedule IM; add-ons: vectors, hand-made cases, plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from typing import Any, Literal

import numpy as np
import pytest
import simm_case
import simm_oracle
import simm_regulation_case
import simm_rules_oracle as slow
from crif_case import crif_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gpu_margin import backend
from gpu_margin.crif import NO_DATE, PRODUCT_CLASSES, SCHEDULE_CLASSES, Crif
from gpu_margin.models.simm import regulations, schedule
from gpu_margin.models.simm.add_ons import add_ons
from gpu_margin.models.simm.calculation import Parameters, SimmResult, calculate
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.models.simm.regulations import Calculations, calculations, figures, winners

Row = dict[str, Any]
TABLE = schedule.load()


def half_up(value: float) -> int:
    return math.floor(value + 0.5)


def rows_under(crif: Crif, found: Calculations) -> dict[slow.Key, list[int]]:
    """Rows of every calculation of a side, as the slow partition has them."""
    under: dict[slow.Key, list[int]] = {}
    row = found.rows()
    for code in range(len(found)):
        own = row[found.calculation == code].tolist()
        portfolio = crif.portfolios[int(found.portfolio[code])]
        name = None if found.regulation[code] < 0 else found.names[found.regulation[code]]
        for side, bit in zip(SIDES, (regulations.CALL, regulations.POST), strict=True):
            if found.sides[code] & bit:
                assert (portfolio, side, name) not in under
                under[portfolio, side, name] = own
    return under


def regulated(collect: str = "", post: str = "", **more: Any) -> Row:
    return {
        "PortfolioID": "P",
        "ProductClass": "RatesFX",
        "RiskType": "Risk_FX",
        "Qualifier": "EUR",
        "Amount": 1.0,
        "CollectRegulations": collect,
        "PostRegulations": post,
        **more,
    }


def without_rows_of(crif: Crif, portfolio: str) -> Crif:
    """As if all its rows were bad."""
    left = crif.portfolio != crif.portfolios.to_list().index(portfolio)
    fields = [n for n, v in vars(crif).items() if isinstance(v, np.ndarray) and n != "incomplete"]
    return replace(crif, **{name: getattr(crif, name)[left] for name in fields})


# ---------------------------------------------------------------- regulations


def test_no_regulation_costs_nothing() -> None:
    crif = crif_of([regulated(PortfolioID=name) for name in "BABC"])
    found = calculations(crif)
    assert found.row is None and found.calculation is crif.portfolio
    assert found.portfolio.tolist() == [0, 1, 2] and set(found.sides) == {regulations.BOTH}
    assert set(found.regulation) == {regulations.NONE} and found.names == ()
    assert found.rows().tolist() == [0, 1, 2, 3]


def test_no_rows_at_all() -> None:
    crif = crif_of([])
    found = calculations(crif)
    assert len(found) == 0
    assert winners(found, np.zeros((0, 2))).total.shape == (0, 2)
    assert schedule.schedule_margin(crif, found, TABLE).margin.shape == (0, 2)
    assert add_ons(crif, found).multiplier.shape == (0, 4)


def test_sec_takes_cftc_and_rows_without_a_regulation_drop_out() -> None:
    rows = [regulated("SEC"), regulated("CFTC"), regulated(), regulated("CFTC,SEC")]
    crif = crif_of(rows)
    assert rows_under(crif, calculations(crif)) == {
        ("P", "Call", "CFTC"): [1, 3],
        ("P", "Call", "SEC"): [0, 1, 3],
    }


def test_cftc_stays_alone_where_its_side_has_no_sec() -> None:
    rows = [
        regulated("CFTC", "SEC"),
        regulated("SEC-unseg", "CFTC"),
        regulated("SEC", PortfolioID="Q"),
    ]
    crif = crif_of(rows)
    assert rows_under(crif, calculations(crif)) == {
        ("P", "Call", "CFTC"): [0],
        ("P", "Call", "SEC-unseg"): [1],
        ("P", "Post", "CFTC"): [1],
        ("P", "Post", "SEC"): [0, 1],
        ("Q", "Call", "SEC"): [2],
    }


def test_a_side_that_names_none_has_no_calculation_where_the_other_names_some() -> None:
    rows = [
        regulated("ESA"),
        regulated(),
        regulated(post="SEC", PortfolioID="Q"),
        regulated(post="CFTC", PortfolioID="Q"),
        regulated(PortfolioID="R"),
        regulated("UK", PortfolioID="S"),
        regulated(post="UK", PortfolioID="S"),
    ]
    crif = crif_of(rows)
    found = calculations(crif)
    assert rows_under(crif, found) == {
        ("P", "Call", "ESA"): [0],
        ("Q", "Post", "CFTC"): [3],
        ("Q", "Post", "SEC"): [2, 3],
        ("R", "Call", None): [4],
        ("R", "Post", None): [4],
        ("S", "Call", "UK"): [5],
        ("S", "Post", "UK"): [6],
    }
    assert found.sides.tolist() == [1, 2, 2, 3, 1, 2]
    best = winners(found, np.ones((6, 2)))
    assert best.total.tolist() == [[0, -1], [-1, 1], [3, 3], [4, 5]]
    assert figures(np.ones((6, 2)), best.total).tolist() == [[1, 0], [0, 1], [1, 1], [1, 1]]


def test_sides_with_the_same_rows_are_computed_once() -> None:
    rows = [regulated("ESA,UK", "ESA"), regulated("ESA", "UK"), regulated("ESA", "ESA")]
    found = calculations(crif_of(rows[:1] + rows[2:]))
    assert found.sides.tolist() == [regulations.BOTH, regulations.CALL]
    found = calculations(crif_of(rows))
    assert found.sides.tolist() == [regulations.CALL, regulations.POST] * 2
    assert found.row is not None
    assert found.row.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert found.calculation.tolist() == [0, 1, 2, 0, 3, 0, 1]


def test_a_portfolio_that_lost_its_rows_is_a_calculation_of_nothing() -> None:
    rows = [regulated("ESA"), regulated("UK", PortfolioID="Q"), regulated(PortfolioID="R")]
    found = calculations(without_rows_of(crif_of(rows), "Q"))
    assert found.portfolio.tolist() == [0, 1, 2]
    assert found.regulation.tolist() == [0, regulations.NONE, regulations.NONE]
    assert found.sides.tolist() == [1, 3, 3]
    assert winners(found, np.zeros((3, 2))).total.tolist() == [[0, -1], [1, 1], [2, 2]]


@pytest.mark.parametrize("unsegregated", ["SEC-unseg", "SEC-UNSEG"])
def test_winners_ties_and_segregation(unsegregated: str) -> None:
    rows = [
        regulated(f"{unsegregated},UK,ESA"),
        regulated(unsegregated, "UK", PortfolioID="Q"),
        regulated(PortfolioID="R"),
    ]
    found = calculations(crif_of(rows))
    assert found.names == ("ESA", unsegregated, "UK")
    # P: ESA, SEC-unseg, UK (Call); Q: SEC-unseg (Call), UK (Post); R: none.
    totals = np.array([[5.0, 99], [5, 99], [5, 99], [-3, 99], [99, -7], [1, 2]])
    best = winners(found, totals)
    assert best.total.tolist() == [[0, -1], [3, 4], [5, 5]]
    assert best.segregated.tolist() == [[0, -1], [-1, 4], [5, 5]]
    assert best.unsegregated.tolist() == [[1, -1], [3, -1], [-1, -1]]
    assert figures(totals, best.total).tolist() == [[5, 0], [-3, -7], [1, 2]]
    assert figures(totals, best.segregated).tolist() == [[5, 0], [0, -7], [1, 2]]
    totals[2, 0] = 6.0
    assert winners(found, totals).total[0, 0] == 2


def test_the_regulation_vectors_are_partitioned_and_come_to_their_totals() -> None:
    cases = simm_regulation_case.cases()
    assert len(cases) >= 16
    crif = simm_regulation_case.crif_of_cases(cases)
    rows = [row for case in cases for row in case.rows]
    found = calculations(crif)
    assert rows_under(crif, found) == slow.partition(rows)
    # The margins of the slow calculator on the rows of every calculation.
    totals = np.zeros((len(found), len(SIDES)))
    of_name = {case.name: case for case in cases}
    for code in np.flatnonzero(found.sides & regulations.CALL):
        case = of_name[crif.portfolios[int(found.portfolio[code])]]
        own = [rows[place] for place in found.rows()[found.calculation == code]]
        levels = simm_oracle.margins(own, case.version, case.horizon)
        totals[code, 0] = levels["Call"]["All", "All", "All"]
    for case in cases:
        margin = simm_regulation_case.figure(case, crif, found, totals)
        assert case.side == 0 and half_up(margin) == case.expected, case.name
    assert not add_ons(crif, found).problems.incomplete.any()


SETS = st.lists(st.sampled_from(["SEC", "CFTC", "SEC-unseg", "ESA"]), max_size=3, unique=True)
NAMED = st.builds(",".join, SETS)
REGULATED = st.lists(
    st.builds(lambda p, c, q: regulated(c, q, PortfolioID=p), st.sampled_from("AB"), NAMED, NAMED),
    max_size=8,
)


@settings(deadline=None)
@given(REGULATED, st.data())
def test_regulations_against_plain_loops(rows: list[Row], data: st.DataObject) -> None:
    crif = crif_of(rows)
    found = calculations(crif)
    under = rows_under(crif, found)
    assert under == slow.partition(rows)
    # Sides that have the same rows are one calculation, and no others are.
    split = found.sides != regulations.BOTH
    for code in np.flatnonzero(split):
        portfolio = crif.portfolios[int(found.portfolio[code])]
        name = None if found.regulation[code] < 0 else found.names[found.regulation[code]]
        assert under.get((portfolio, "Call", name)) != under.get((portfolio, "Post", name))
    entries = list(zip(found.rows().tolist(), found.calculation.tolist(), strict=True))
    assert entries == sorted(set(entries))
    some = st.sampled_from([0.0, 1.0, 2.0])
    flat = data.draw(st.lists(some, min_size=2 * len(found), max_size=2 * len(found)))
    totals = np.array(flat).reshape(-1, 2)
    best = winners(found, totals).total
    for place, portfolio in enumerate(crif.portfolios):
        for side, bit in enumerate((regulations.CALL, regulations.POST)):
            own = [
                (-totals[code, side], int(found.regulation[code]), code)
                for code in np.flatnonzero((found.portfolio == place) & ((found.sides & bit) > 0))
            ]
            assert best[place, side] == min(own, default=(-1,))[-1], portfolio


# ---------------------------------------------------------------- Schedule IM


def of_schedule(
    kind: str, amount: float, trade: str = "t", place: str = "Rates", **more: Any
) -> Row:
    return {
        "PortfolioID": "P",
        "IMModel": "Schedule",
        "TradeID": trade,
        "ProductClass": place,
        "RiskType": kind,
        "Amount": amount,
        "EndDate": "2018-11-23",
        "ValuationDate": "2018-09-12",
        **more,
    }


def charged(rows: list[Row], **more: Any) -> schedule.ScheduleMargin:
    crif = crif_of(rows)
    return schedule.schedule_margin(crif, calculations(crif), TABLE, **more)


def gross_of(*rows: Row, **more: Any) -> tuple[float, bool]:
    """Gross margin of the portfolio, and whether it is incomplete."""
    found = charged(list(rows), **more)
    return float(found.gross.sum()), bool(found.problems.incomplete.any())


def test_a_trade_without_notional_rows_has_the_notional_that_its_pvs_say() -> None:
    says, own = of_schedule("PV", 5, notional=1000.0), of_schedule("Notional", 300)
    assert gross_of(says) == gross_of(says, says) == (10.0, False)
    assert gross_of(of_schedule("PV", 5, notional=-1000.0)) == (10.0, False)
    # Its own rows go before, also where what a PV says lacks a date; the largest of several counts.
    assert gross_of(says, own) == gross_of({**says, "EndDate": ""}, own) == (3.0, False)
    more = of_schedule("PV", 1, notional=2000.0)
    assert gross_of(says, more) == gross_of(more, says) == (20.0, False)
    assert gross_of(says, of_schedule("PV", 5)) == (10.0, False)
    assert gross_of({**says, "EndDate": ""}) == (0.0, True)
    assert gross_of(of_schedule("PV", 5)) == (0.0, True)
    assert gross_of(of_schedule("PV", 5, place="FX", notional=100.0, EndDate="")) == (6.0, False)


def test_it_counts_once_under_each_regulation_that_its_pvs_name() -> None:
    rows = [
        of_schedule("PV", value, notional=1000.0, CollectRegulations=names)
        for value, names in ((5, "ESA"), (7, "ESA,UK"), (9, "UK"))
    ]
    assert charged(rows).gross.sum(axis=1).tolist() == [10.0, 10.0]


def test_the_schedule_vectors() -> None:
    cases = simm_case.schedule_tests()
    assert len(cases) >= 3
    crif = crif_of({**row, "PortfolioID": case.name} for case in cases for row in case.rows)
    found = calculations(crif)
    margin = schedule.schedule_margin(crif, found, TABLE)
    assert not margin.problems.incomplete.any()
    winning = figures(margin.margin, winners(found, margin.margin).total)
    for place, name in enumerate(crif.portfolios):
        (case,) = (case for case in cases if case.name == name)
        assert half_up(winning[place, 0]) == case.expected["secured"]
        assert -half_up(winning[place, 1]) == case.expected["pledgor"]


def test_the_schedule_unit_cases() -> None:
    notional = of_schedule("Notional", 1000)
    cases = {
        "testNettingWorksAsExpected": [notional, of_schedule("Notional", -1000)],
        "testNettingWorksAsExpectedPv": [
            notional,
            of_schedule("PV", 1000),
            of_schedule("PV", -1000),
        ],
        "testNotionalBeingGottenFromTradeFields": [
            {**of_schedule("PV", 1000), "notional": 1000.0},
            {**of_schedule("PV", -1000), "notional": 1000.0},
        ],
        "testNettingAndAbsoluteNotional": [
            notional,
            of_schedule("Notional", -1000, "u"),
            of_schedule("PV", 2000),
            of_schedule("PV", -1000),
            of_schedule("PV", -1000, "u"),
        ],
    }
    expected = {"testNettingWorksAsExpected": 0, "testNettingAndAbsoluteNotional": 8}
    for name, rows in cases.items():
        both = [half_up(side) for side in charged(rows).margin[0]]
        assert both == [expected.get(name, 10)] * 2, name


@pytest.mark.parametrize(
    ("end", "start", "percent"),
    [
        ("2020-09-12", "2018-09-12", 1),
        ("2020-09-13", "2018-09-12", 2),
        ("2023-09-12", "2018-09-12", 2),
        ("2023-09-13", "2018-09-12", 4),
        ("2018-09-11", "2018-09-12", 1),
        ("2020-02-29", "2018-02-28", 1),
        ("2020-03-01", "2018-02-28", 2),
        ("2022-02-28", "2020-02-29", 1),
        ("2022-03-01", "2020-02-29", 2),
        ("2099-12-31", "2018-09-12", 4),
    ],
)
def test_bands_end_on_the_day_itself(end: str, start: str, percent: int) -> None:
    row = of_schedule("Notional", 100.0, EndDate=end, ValuationDate=start)
    assert charged([row]).margin[0] == pytest.approx([percent, percent], rel=1e-15)
    days = (date.fromisoformat(start) - date(1970, 1, 1)).days
    later = {**row, "ValuationDate": ""}
    assert charged([later], valuation_date=days).margin.tolist() == charged([row]).margin.tolist()
    assert charged([later]).problems.failures["field"].to_list() == ["valuation_date"]


def test_rates_of_all_classes() -> None:
    rows = [
        of_schedule("Notional", 100.0, name, name, EndDate="2030-01-01")
        for name in SCHEDULE_CLASSES
    ]
    assert charged(rows).gross[0] == pytest.approx([4, 6, 10, 15, 15, 15], rel=1e-15)


def test_legs_of_a_trade_net_where_all_is_the_same() -> None:
    later = of_schedule("Notional", -1000, EndDate="2030-01-01")
    assert charged([of_schedule("Notional", 1000), later]).gross[0, 0] == pytest.approx(50)


BAD = {
    "trade_id": of_schedule("Notional", 5.0, ""),
    "product_class": of_schedule("Notional", 5.0, "x", "RatesFX"),
    "end_date": of_schedule("Notional", 5.0, "x", EndDate=""),
    "valuation_date": of_schedule("Notional", 5.0, "x", ValuationDate=""),
    "risk_type": of_schedule("Risk_FX", 5.0, "x"),
    "amount": of_schedule("PV", 5.0, "x"),
}


@pytest.mark.parametrize("field", BAD)
def test_what_cannot_be_charged_is_a_failure_and_the_rest_goes_on(field: str) -> None:
    good = [of_schedule("Notional", 1000), of_schedule("PV", 10)]
    mate = [of_schedule("PV", 7.0, "x"), of_schedule("Notional", 3.0, "x")] * (field in BAD_TRADES)
    other = of_schedule("Notional", 10.0, "x", PortfolioID="Q")
    margin = charged([*good, BAD[field], *mate, other])
    assert margin.margin.tolist() == charged([*good, other]).margin.tolist()
    (failure,) = margin.problems.failures.to_dicts()
    assert failure["field"] == field and failure["source"] == "portfolio P"
    assert failure["row"] is None and failure["value"] is not None
    assert margin.problems.incomplete.tolist() == [True, False]


BAD_TRADES = ("product_class", "end_date", "valuation_date")


def test_flat_rates_need_no_dates() -> None:
    row = of_schedule("Notional", 100.0, "t", "FX", EndDate="", ValuationDate="")
    margin = charged([row])
    assert margin.margin[0, 0] == pytest.approx(6) and not margin.problems.incomplete.any()


def test_the_table_must_be_whole() -> None:
    figures_of = TABLE.model_dump()
    bands = dict(figures_of["rates"])
    for wrong in (
        {**bands, "FX": []},
        {**bands, "FX": [{"up_to_years": 2, "rate": 0.1}]},
        {**bands, "FX": [{"up_to_years": None, "rate": 0.1}, {"up_to_years": 2, "rate": 0.1}]},
        {name: bands[name] for name in reversed(bands)},
    ):
        with pytest.raises(ValidationError):
            schedule.ScheduleTable.model_validate({**figures_of, "rates": wrong})


AMOUNTS = st.sampled_from([0.0, 0.1, 0.7, -0.3, 1e9, -7.7, 123456.789, 3.3])
# Sums of these are exact: what cancels leaves nothing that a ratio or a tolerance could trip over.
EXACT = st.sampled_from([0.0, 0.125, 0.75, -0.25, 1e9, -7.75, 123456.75, 3.25])


def scheduled(amounts: st.SearchStrategy[float]) -> st.SearchStrategy[list[Row]]:
    return st.lists(
        st.builds(
            lambda kind, amount, trade, place, end, name, collect, post: of_schedule(
                kind,
                amount,
                trade,
                place,
                EndDate=end,
                PortfolioID=name,
                CollectRegulations=collect,
                PostRegulations=post,
            ),
            st.sampled_from(["Notional", "Notional", "PV"]),
            amounts,
            st.sampled_from("tuv"),
            st.sampled_from(["Rates", "Credit", "FX", "Other"]),
            st.sampled_from(["2020-01-01", "2022-01-01", "2030-01-01", "2030-01-01", ""]),
            st.sampled_from("AB"),
            NAMED,
            NAMED,
        ),
        max_size=12,
    )


@settings(deadline=None)
@given(scheduled(EXACT))
def test_schedule_against_plain_loops(rows: list[Row]) -> None:
    crif = crif_of(rows)
    found = calculations(crif)
    margin = schedule.schedule_margin(crif, found, TABLE)
    bad = slow.spoilt(rows)
    lost = set()
    for (portfolio, side, name), own in slow.partition(rows).items():
        held = [rows[i] for i in own if (portfolio, rows[i]["TradeID"]) not in bad]
        expected, without = slow.schedule(held, side)
        lost |= {(portfolio, trade) for trade in without}
        place = crif.portfolios.to_list().index(portfolio)
        code = -1 if name is None else found.names.index(name)
        bit = 1 + SIDES.index(side)
        here = (found.portfolio == place) & (found.regulation == code) & ((found.sides & bit) > 0)
        (figure,) = margin.margin[here, SIDES.index(side)]
        assert figure == pytest.approx(float(expected), rel=1e-13)
    incomplete = {portfolio for portfolio, _ in bad | lost}
    assert {*np.array(crif.portfolios)[margin.problems.incomplete]} == incomplete
    told = {
        (row["source"].removeprefix("portfolio "), row["value"])
        for row in margin.problems.failures.to_dicts()
    }
    assert told == bad | lost


# ---------------------------------------------------------------- add-ons


def parameter(kind: str, amount: float, qualifier: str = "", **more: Any) -> Row:
    return {
        "PortfolioID": "P",
        "RiskType": kind,
        "Qualifier": qualifier,
        "Amount": amount,
        **more,
    }


MULTIPLIER, FACTOR = "Param_ProductClassMultiplier", "Param_AddOnNotionalFactor"
FIXED = "Param_AddOnFixedAmount"


def test_the_add_on_vectors() -> None:
    (name, *_) = simm_case.level_files()
    file = simm_case.level_file(name)
    crif = crif_of(row for rows in file.portfolios.values() for row in rows)
    found = add_ons(crif, calculations(crif))
    assert not found.problems.incomplete.any() and (found.fixed != 0).sum() >= 4
    scaled = 0
    for place, portfolio in enumerate(crif.portfolios):
        for side in SIDES:
            levels = file.margins[portfolio, side]
            for figure, product in (
                (found.fixed, "AddOnFixedAmount"),
                (found.notional, "AddOnNotionalFactor"),
            ):
                level = (product, "All", "AdditionalIM")
                assert figure[place] == pytest.approx(levels.get(level, 0.0), rel=1e-14)
            for scale, product in zip(found.multiplier[place], PRODUCT_CLASSES, strict=True):
                added = levels.get((product, "All", "AdditionalIM"), 0.0)
                total = levels.get((product, "All", "All"), 0.0)
                assert (scale - 1) * (total - added) == pytest.approx(added, rel=1e-9, abs=1e-3)
                scaled += scale != 1
    assert scaled >= 16


def test_add_ons_by_hand() -> None:
    rows = [
        parameter(FIXED, 10.0, "a"),
        parameter(FIXED, -4.0),
        parameter(FACTOR, 12.5, "x"),
        parameter(FACTOR, 50.0, "nothing"),
        parameter("Notional", -8.0, "x"),
        parameter("Notional", 16.0, "x"),
        parameter("Notional", 99.0, "y"),
        parameter("Notional", 1e6, "x", IMModel="Schedule"),
        parameter(MULTIPLIER, 1.5, "Equity"),
        parameter("Risk_FX", 3.0, "EUR"),
    ]
    crif = crif_of(rows)
    found = add_ons(crif, calculations(crif))
    assert found.fixed.tolist() == [6.0] and found.notional.tolist() == [1.0]
    assert found.multiplier.tolist() == [[1.0, 1.0, 1.5, 1.0]]
    assert not found.problems.incomplete.any()


def test_a_negative_sum_of_notionals_takes_off_margin() -> None:
    rows = [
        parameter(FACTOR, 12.5, "x"),
        parameter("Notional", 8.0, "x"),
        parameter("Notional", -24.0, "x"),
    ]
    crif = crif_of(rows)
    assert add_ons(crif, calculations(crif)).notional.tolist() == [-2.0]


def test_equal_ones_are_one_and_of_different_ones_the_largest_counts() -> None:
    rows = [
        parameter(MULTIPLIER, 1.5, "Credit"),
        parameter(MULTIPLIER, 1.5, "Credit"),
        parameter(MULTIPLIER, 1.25, "Equity", PortfolioID="Q"),
        parameter(MULTIPLIER, 1.75, "Equity", PortfolioID="Q"),
        parameter(FACTOR, 2.0, "x", PortfolioID="Q"),
        parameter(FACTOR, 1.0, "x", PortfolioID="Q"),
        parameter("Notional", 100.0, "x", PortfolioID="Q"),
        parameter(MULTIPLIER, 2.0, "Bonds", PortfolioID="R"),
    ]
    crif = crif_of(rows)
    found = add_ons(crif, calculations(crif))
    assert found.multiplier.tolist() == [[1, 1.5, 1, 1], [1, 1, 1.75, 1], [1, 1, 1, 1]]
    assert found.notional.tolist() == [0, 2, 0]
    assert found.problems.incomplete.tolist() == [False, True, True]
    assert found.problems.failures["value"].to_list() == ["x: 1.0", "Equity: 1.25", "Bonds: 2.0"]


def test_what_a_regulation_says_itself_goes_before_what_sec_takes_over() -> None:
    rows = [
        parameter(MULTIPLIER, 1.25, "Equity", CollectRegulations="SEC"),
        parameter(MULTIPLIER, 1.75, "Equity", CollectRegulations="CFTC"),
        parameter(MULTIPLIER, 1.5, "Credit", CollectRegulations="CFTC"),
    ]
    crif = crif_of(rows)
    found = calculations(crif)
    add = add_ons(crif, found)
    assert found.names == ("CFTC", "SEC") and set(found.sides) == {regulations.CALL}
    assert add.multiplier.tolist() == [[1, 1.5, 1.75, 1], [1, 1.5, 1.25, 1]]
    assert not add.problems.incomplete.any()


def test_two_of_one_regulation_that_differ_are_a_failure() -> None:
    rows = [
        parameter(MULTIPLIER, 1.25, "Equity", CollectRegulations="ESA"),
        parameter(MULTIPLIER, 1.75, "Equity", CollectRegulations="ESA,UK"),
        parameter(MULTIPLIER, 3.0, "Equity", CollectRegulations="SEC"),
    ]
    crif = crif_of(rows)
    add = add_ons(crif, calculations(crif))
    assert add.problems.failures["value"].to_list() == ["Equity: 1.25"]


def parameters(amounts: st.SearchStrategy[float]) -> st.SearchStrategy[list[Row]]:
    return st.lists(
        st.builds(
            lambda row, name: {**row, "PortfolioID": name},
            st.one_of(
                st.builds(
                    parameter,
                    st.sampled_from([FIXED, FACTOR, "Notional"]),
                    amounts,
                    st.sampled_from(["x", "y", "é"]),
                ),
                st.builds(
                    parameter,
                    st.just(MULTIPLIER),
                    st.sampled_from([0.5, 1.0, 1.5]),
                    st.sampled_from(PRODUCT_CLASSES),
                ),
            ),
            st.sampled_from("AB"),
        ),
        max_size=12,
    )


@settings(deadline=None)
@given(parameters(EXACT))
def test_add_ons_against_plain_loops(rows: list[Row]) -> None:
    crif = crif_of(rows)
    found = add_ons(crif, calculations(crif))
    for place, portfolio in enumerate(crif.portfolios):
        fixed, notional, scales = slow.add_ons(r for r in rows if r["PortfolioID"] == portfolio)
        assert found.fixed[place] == float(fixed)
        # Shares of products, up to 1e9 each where they cancel, are rounded.
        assert found.notional[place] == pytest.approx(float(notional), rel=1e-13, abs=1e-6)
        expected = [float(scales.get(name, 1)) for name in PRODUCT_CLASSES]
        assert found.multiplier[place].tolist() == expected


# ---------------------------------------------------------------- through `calculate`

FX_MARGIN = 7.4
"""Of 1 USD in EUR, by SIMM 2.6 over ten days."""


def calculated(crif: Crif, side: Literal["call", "post", "both"] = "both") -> SimmResult:
    return calculate(crif, Parameters(version="2.6", side=side), backend.load("numpy"))


def test_a_side_without_a_calculation_has_no_margin_and_one_row() -> None:
    rows = [
        regulated("ESA", Amount=1e6),
        regulated(Amount=1e3),
        regulated(post="ESA,UK", PortfolioID="Q", Amount=2e6),
        regulated(PortfolioID="R", Amount=3e6),
        regulated("UK", PortfolioID="O"),
    ]
    crif = without_rows_of(crif_of(rows), "O")
    result = calculated(crif)
    million = FX_MARGIN * 1e6
    expected = [
        ("O", "Call", "", 0.0),
        ("O", "Post", "", 0.0),
        ("P", "Call", "ESA", million),
        ("P", "Post", "", 0.0),
        ("Q", "Call", "", 0.0),
        ("Q", "Post", "ESA", 2 * million),
        ("R", "Call", "", 3 * million),
        ("R", "Post", "", 3 * million),
    ]
    assert result.totals.ravel().tolist() == pytest.approx([usd for *_, usd in expected])
    assert result.winners.total.tolist() == [[0, 0], [1, -1], [-1, 2], [4, 4]]
    # Every level of such a side is left out but its total.
    levels = dict.fromkeys(("product_class", "risk_class", "margin_type", "bucket"), "All")
    table = result.table()
    shown = table.filter(**levels).drop(*levels)
    assert shown.rows() == result.totals_table().drop("complete").rows()
    for found, (*place, margin) in zip(shown.rows(), expected, strict=True):
        assert found[:-1] == tuple(place) and found[-1] == pytest.approx(margin)
        rows_of = table.filter(portfolio_id=found[0], side=found[1])
        assert set(rows_of["regulation"]) == {found[2]} and (len(rows_of) > 1) == (margin > 0)
    post = calculated(crif, "post")
    assert post.table().rows() == table.filter(side="Post").rows()
    assert post.totals_table().rows() == result.totals_table().filter(side="Post").rows()


def test_simm_and_schedule_add_up_within_a_regulation() -> None:
    def notional(amount: float, named: str) -> Row:
        days = {"EndDate": "", "ValuationDate": ""}
        return of_schedule("Notional", amount, place="FX", CollectRegulations=named, **days)

    # SIMM: ESA 740, SEC 370. Schedule: SEC 600, UK 800.
    rows = [
        regulated("ESA", Amount=100),
        regulated("SEC", Amount=50),
        notional(1e4, "SEC"),
        {**notional(4e4 / 3, "UK"), "TradeID": "u"},
    ]
    result = calculated(crif_of(rows))
    assert not result.incomplete.any()
    assert result.totals.tolist() == [[pytest.approx(970), 0]]
    table = result.totals_table()
    assert table["regulation"].to_list() == ["SEC", ""]
    (schedule_row,) = result.table().filter(product_class="Schedule").rows()
    assert schedule_row[:3] == ("P", "Call", "SEC") and schedule_row[-1] == pytest.approx(600)
    simm = result.table().filter(product_class="RatesFX", risk_class="All", margin_type="All")
    assert simm["initial_margin"].to_list() == pytest.approx([370])


def test_simm_and_schedule_add_up_without_a_regulation() -> None:
    rows = [
        regulated(Amount=100),
        of_schedule("Notional", 1000),
        of_schedule("PV", 10),
        parameter(MULTIPLIER, 1.5, "RatesFX"),
        parameter(FACTOR, 10.0, "x"),
        parameter("Notional", 40.0, "x"),
    ]
    result = calculated(crif_of(rows))
    assert not result.incomplete.any()
    # What we post has no gross replacement cost, so that its ratio is 1, too.
    expected = [740 * 1.5 + 4 + 10] * 2
    assert result.totals.tolist() == [pytest.approx(expected)]
    # A sensitivity is no row of Schedule, and does not become one of SIMM.
    result = calculated(crif_of([*rows, regulated(IMModel="Schedule", TradeID="t", Amount=100)]))
    assert result.totals.tolist() == [pytest.approx(expected)]
    assert result.failures["field"].to_list() == ["risk_type"] and result.incomplete.all()


# ---------------------------------------------------------------- what changes no bit

ROWS = st.builds(lambda a, b: a + b, scheduled(AMOUNTS), parameters(AMOUNTS))


def all_figures(rows: list[Row]) -> dict[str, list[tuple[Any, ...]]]:
    """Portfolio -> regulation, sides and figures of its calculations, as exact bytes."""
    crif = crif_of(rows)
    found = calculations(crif)
    margin, add = schedule.schedule_margin(crif, found, TABLE), add_ons(crif, found)
    told = {portfolio: list[tuple[Any, ...]]() for portfolio in crif.portfolios}
    arrays = (margin.gross, margin.margin, add.fixed, add.notional, add.multiplier)
    for code, place in enumerate(found.portfolio.tolist()):
        name = "" if found.regulation[code] < 0 else found.names[found.regulation[code]]
        values = [array[code].tobytes() for array in arrays]
        told[crif.portfolios[place]].append((name, int(found.sides[code]), *values))
    for problems in (margin.problems, add.problems):
        for row in problems.failures.to_dicts():
            told[row["source"].removeprefix("portfolio ")].append(tuple(row.values()))
    return told


@settings(deadline=None)
@given(ROWS, st.randoms())
def test_order_of_rows_and_company_change_no_bit(rows: list[Row], random: Any) -> None:
    told = all_figures(rows)
    mixed = rows[:]
    random.shuffle(mixed)
    assert all_figures(mixed) == told
    for portfolio, own in told.items():
        assert all_figures([r for r in rows if r["PortfolioID"] == portfolio]) == {portfolio: own}


@settings(deadline=None)
@given(scheduled(EXACT))
def test_a_notional_in_two_rows_is_one(rows: list[Row]) -> None:
    halves = [{**row, "Amount": row["Amount"] / 2} for row in rows for _ in range(2)]
    crif, twice = crif_of(rows), crif_of(halves)
    whole = schedule.schedule_margin(crif, calculations(crif), TABLE)
    split = schedule.schedule_margin(twice, calculations(twice), TABLE)
    assert split.margin.tolist() == whole.margin.tolist()


def test_dates_before_and_after_1970() -> None:
    days = np.array([date(1904, 2, 29).toordinal(), date(2024, 2, 29).toordinal()])
    days -= date(1970, 1, 1).toordinal()
    earlier = schedule.years_before(days.astype(np.int32), 4)
    expected = [date(1900, 2, 28), date(2020, 2, 29)]
    assert [date.fromordinal(d + date(1970, 1, 1).toordinal()) for d in earlier] == expected
    assert NO_DATE < -1_000_000
