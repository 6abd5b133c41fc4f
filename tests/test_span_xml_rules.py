"""Rates, tiers, charges, spreads and combinations in SPAN XML, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from span_xml_case import (
    array,
    commodity,
    document,
    family,
    future,
    one_future,
    option,
    points,
    read,
    refused,
    series,
    tag,
    tags,
    told,
)

from gpu_margin.failures import ConfigError


def rate_def(rate: int, account: str, maintenance: int, kind: str = "CORE") -> str:
    return tag("pbRateDef", tags(r=rate, isCust=1, acctType=account, isM=maintenance, pbc=kind))


def adjusted(rate: int, base: int, value: str) -> str:
    return tag("adjRate", tags(r=rate, baseR=base, val=value))


def rate(value: Any, number: int = 1) -> str:
    return tag("rate", tags(r=number, val=value))


def leg(name: str = "pLeg", **values: Any) -> str:
    return tag(name, tags(**{"cc": "C", **values}))


def spread(*inner: str, number: int = 1, method: str = "F", name: str = "dSpread") -> str:
    return tag(name, tags(spread=number, chargeMeth=method), *inner)


CALENDAR = leg(pe="202609", rs="A", i=1) + leg(pe="202612", rs="B", i=1)
ACCOUNTS = ("member", "hedger", "speculator")
FACTORS = [f"{name}_{kind}" for kind in ACCOUNTS for name in ("factor", "ratio")]


def two(*inner: str, above: str = "", more: str = "") -> str:
    """A file with the commodities C and D."""
    families = family("futPf", 1, "F", future(), style="FUT")
    families += family("futPf", 2, "G", future(), style="FUT")
    both = commodity("C", 1, extra=more) + commodity("D", 2)
    return document(both, *inner, families=families, above=above)


def test_all_account_types_from_one_base(tmp_path: Path) -> None:
    """Initial is 1.1 times maintenance for hedgers, and a speculator's 1.25 times that."""
    told_rates = ((1, "M", 1), (2, "M", 0), (3, "H", 1), (4, "H", 0), (5, "S", 1), (6, "S", 0))
    above = "".join(rate_def(*one) for one in told_rates)
    steps = [(2, 1, "1"), (3, 1, "1"), (4, 3, "1.1"), (5, 3, "1"), (6, 4, "1.25")]
    own = "".join(adjusted(*one) for one in steps) + spread(rate(7), CALENDAR)
    found = read(one_future(own, above), tmp_path)
    (row,) = found.commodities.select(FACTORS).rows()
    assert row == (1, 1, 1, 1.1, 1, 1.375) and refused(found) == ""
    assert found.facts["account_types"].count(",") == 5 and found.intra["rate"].to_list() == [7]


def test_an_account_type_without_a_rate_has_the_nearest(tmp_path: Path) -> None:
    above = rate_def(2, "M", 0) + rate_def(3, "S", 1) + rate_def(9, "N", 1)
    own = adjusted(2, 3, "1.5")
    found = read(one_future(own, above), tmp_path)
    assert found.commodities.select(FACTORS).row(0) == (1, 1.5, 1, 1.5, 1, 1.5)
    assert found.facts["account_types"] == "member initial, speculator maintenance"


def test_core_and_reserve(tmp_path: Path) -> None:
    above = rate_def(1, "H", 1) + rate_def(2, "H", 1, "RESRV")
    text = one_future(adjusted(2, 1, "0.5"), above)
    core, reserve = read(text, tmp_path), read(text, tmp_path, account_class="reserve")
    assert core.commodities["factor_hedger"].item() == 1
    assert reserve.commodities["factor_hedger"].item() == 0.5
    assert reserve.facts["account_class"] == "RESRV"
    with pytest.raises(ConfigError, match="no rates for reserve"):
        read(one_future("", rate_def(1, "H", 1)), tmp_path, account_class="reserve")
    for wrong in ({"account_class": "all"}, {"account_type": "broker"}):
        with pytest.raises(ConfigError, match=r"is '(all|broker)'"):
            read(text, tmp_path, **wrong)


@pytest.mark.parametrize("where", ["spread", "tier", "delivery", "array", "range", "between"])
def test_account_types_with_rates_of_their_own(where: str, tmp_path: Path) -> None:
    """They are refused together, and read one at a time."""

    def rates(one: Any, other: Any) -> str:
        return rate(one) + rate(other, 2)

    values = rates(7, 9) if where == "spread" else rate(7)
    own = spread(values, CALENDAR)
    minimum = rates(1, 2) if where == "tier" else rate(1)
    own += tag("somTiers", tag("tier", tags(tn=0), minimum))
    own += tag("spotRate", tags(r=1, pe="202609", sprd=1, outr=2))
    own += tag("spotRate", tags(r=2, pe="202609", sprd=1, outr=3)) * (where == "delivery")
    scan = tag("scanRate", tags(r=1, priceScan=5))
    scan += tag("scanRate", tags(r=2, priceScan=6)) * (where == "range")
    arrays = array() + array("9 " * 16, rate=2) * (where == "array")
    contract = tag("fut", tags(cId=1, pe="202609"), scan, arrays)
    legs = leg("tLeg", tn=0, rs="A") + leg("tLeg", tn=0, rs="B", cc="D")
    percent = rates("0.5", "0.6") if where == "between" else rate("0.5")
    between = tag("interSpreads", spread(percent, legs, method="W"))
    above = rate_def(1, "H", 1) + rate_def(2, "S", 0)
    families = family("futPf", 1, "F", contract) + family("futPf", 2, "G", future())
    both = commodity("C", 1, extra=own) + commodity("D", 2)
    text = document(both, between, families=families, above=above)
    assert "account types have rates of their own" in refused(read(text, tmp_path))
    for number, kind, initial in ((1, "hedger", False), (2, "speculator", True)):
        found = read(text, tmp_path, account_type=kind, initial=initial)
        assert refused(found) == refused(found, "D") == ""
        assert found.facts["margin"] == ("initial" if initial else "maintenance")
        second = number == 2
        assert found.intra["rate"].item() == (9 if second and where == "spread" else 7)
        assert found.tiers["rate"].item() == (2 if second and where == "tier" else 1)
        assert found.delivery["outright"].item() == (3 if second and where == "delivery" else 2)
        assert found.ranges["up"].item() == (6 if second and where == "range" else 5)
        assert found.arrays[0, 0] == (9 if second and where == "array" else 0)
        assert found.inter_legs["rate"][0] == (0.6 if second and where == "between" else 0.5)
    with pytest.raises(ConfigError, match="no rate for member: the file has hedger maint"):
        read(text, tmp_path, account_type="member")


def test_tiers(tmp_path: Path) -> None:
    def tier(number: int, start: str, end: str, *more: str) -> str:
        return tag("tier", tags(tn=number, sPe=start, ePe=end), *more)

    own = tag("scanTiers", tier(1, "20260900", "202612"), tier(2, "20270115", "999999"))
    own += tag("intraTiers", tier(3, "202609", "20260930")) + tag("rateTiers", tier(8, "x", "y"))
    own += tag("interTiers", tag("tier", tags(tn=4)))
    own += tag("somTiers", tag("tier", tags(tn=0), rate(50)), tag("tier", tags(tn=6)))
    found = read(one_future(own + tags(somMeth="MAX", capAnov=1)), tmp_path)
    assert found.tiers.drop("combined_commodity").rows() == [
        ("scan", 1, "202609", "202612", None),
        ("scan", 2, "20270115", "", None),
        ("intra", 3, "202609", "20260930", None),
        ("inter", 4, "", "", None),
        ("minimum", 0, "", "", 50),
    ]
    row = found.commodities.select("minimum_greater", "limit", "minimum_rate").row(0)
    assert row == (True, True, 0) and found.failures.is_empty()


def test_charges_within(tmp_path: Path) -> None:
    """In the order of their numbers: flat, by the month, and weighted as a share."""
    far = leg(pe="20260900", rs="B", i="1.5") + leg(pe="202702", rs="A")
    tiers = leg("tLeg", tn=1) + leg("tLeg", tn=2, rs="B")
    own = spread(rate("0.25"), tiers, number=30, method="W") + spread(
        rate(10), far, number=4, method="P"
    )
    own += spread(rate(-3), CALENDAR, number=1)
    found = read(one_future(own), tmp_path)
    assert found.intra.rows() == [
        ("C", -3, False, "spread 1"),
        ("C", 50, False, "spread 4"),
        ("C", 0.25, True, "spread 30"),
    ]
    assert found.intra_legs.rows() == [
        (0, "202609", None, 1, 1),
        (0, "202612", None, 1, -1),
        (1, "202609", None, 1.5, -1),
        (1, "202702", None, 1, 1),
        (2, "", 1, 1, 1),
        (2, "", 2, 1, -1),
    ]


def test_weighted_rates_are_shares_or_percent(tmp_path: Path) -> None:
    """A file in which one is above 1 has percent; flat rates do not count."""
    legs = leg("tLeg", rs="A") + leg("tLeg", rs="B", cc="D")
    within = spread(rate("0.5"), CALENDAR, method="W") + spread(rate(99), CALENDAR)
    for most, wanted in (("1", [0.5, 1]), ("1.5", [0.005, 0.015])):
        between = tag("interSpreads", spread(rate(most), legs, method="W"))
        found = read(two(between, more=within), tmp_path)
        assert found.intra.filter("weighted")["rate"].to_list() == wanted[:1]
        assert found.inter_legs["rate"].to_list() == wanted[1:] * 2


def test_spreads_between(tmp_path: Path) -> None:
    legs = leg("tLeg", rs="A", i=2) + leg("tLeg", rs="B", cc="D")
    tiers = leg("tLeg", rs="B", tn=1) + tag("tLeg", tags(cc="D", rs="A"), rate("0.7"))
    target = tag("sLeg", tags(cc="D", isTarget=1, i=3))
    scanning = tag(
        "sSpread",
        tags(spread=2, isTargetReq=1, numLegsReq=3),
        rate("0.8"),
        tag("sLeg", tags(cc="C", isRequired=0)) + tag("sLeg", tags(cc="E")) + target,
    )
    inside = tag("interSpreads", spread(rate("0.5"), tiers, number=9, method="W") + scanning)
    upper = tag("superSpreads", spread(rate(-12), legs, number=50))
    found = read(two(inside, upper), tmp_path)
    assert found.inter.rows() == [
        (1, True, True, 2, "spread 50"),
        (4, False, False, 3, "spread 2"),
        (20, False, False, 2, "spread 9"),
    ]
    assert found.inter_legs.rows() == [
        (0, "C", 2, 1, 0, 12, True, False),
        (0, "D", 1, -1, 0, 12, True, False),
        (1, "C", 1, 1, 0, 0.8, False, False),
        (1, "E", 1, 1, 0, 0.8, True, False),
        (1, "D", 3, 1, 0, 0.8, True, True),
        (2, "C", 1, -1, 1, 0.5, True, False),
        (2, "D", 1, 1, 0, 0.7, True, False),
    ]


def test_rates_of_currencies_and_the_limit(tmp_path: Path) -> None:
    def conversion(source: str, value: str) -> str:
        return tag("curConv", tags(fromCur=source, toCur="USD", factor=value))

    above = conversion("EUR", "1.1") + conversion("GBP", "0") + tags(capAnov="true")
    found = read(one_future(above=above), tmp_path)
    assert found.rates.rows() == [("EUR", "USD", 1.1)] and found.limit
    assert told(found) == [("factor", "0")]


def combination(*legs: str, number: int = 1) -> str:
    return tag("cmb", tags(cId=number, pe="202609", p=1), *legs, array(delta="0.25"))


def combinations(method: str, *legs: str) -> str:
    under = tag("undC", tags(pfId=3, cId=1))
    families = family("futPf", 1, "F", future(), future("202612", number=2), style="FUT")
    families += family("cmbPf", 3, "K", combination(*legs))
    families += family("oocPf", 4, "Y", series(option(), month="202608", extra=under))
    return document(commodity("C", 1, 3, 4, extra=tags(cmbMeth=method)), families=families)


LEGS = [
    tag("undC", tags(exch="X", pfId=1, cId=1, s="A", i="0.5")),
    tag("undC", tags(pfId=1, cId=2, s="B")),
]


def test_combinations(tmp_path: Path) -> None:
    """Positions or deltas go to the legs; those of options on combinations only the deltas."""
    for method, replaced in (("SPLIT", True), ("DELTASPLIT", False)):
        found = read(combinations(method, *LEGS), tmp_path)
        names = found.contracts["contract_id"].to_list()
        assert names[2:] == ["X:K:CMB:202609", "X:Y:OOC:202609:202608:C:100"]
        assert found.splits.rows() == [
            (2, 0, 0.5, replaced),
            (2, 1, -1, replaced),
            (3, 0, 0.5, False),
            (3, 1, -1, False),
        ]
    assert read(combinations("NONE", *LEGS), tmp_path).splits.is_empty()


def test_legs_that_are_not_there(tmp_path: Path) -> None:
    for bad, said in (
        (tag("undC", tags(pfId=1, cId=7)), "its leg X:1:7 is not in the file"),
        (tag("undC", tags(pfId=1, cId=1, i="x")), "no good ratio or side"),
        (tag("undC", tags(pfId=1, cId=1, s="Z")), "no good ratio or side"),
    ):
        found = read(combinations("SPLIT", LEGS[0], bad), tmp_path)
        reasons = found.contracts["refused"].to_list()
        assert reasons[:2] == ["", ""] and said in reasons[2] and said in reasons[3]
        assert found.splits.is_empty()
    itself = combinations("SPLIT", tag("undC", tags(pfId=3, cId=1)))
    assert "X:3:1 is not in the file" in read(itself, tmp_path).contracts["refused"][2]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (tags(procMeth="LIQ"), "liquidation risk"),
        (tags(procMeth="NEW"), "procMeth NEW"),
        (tags(wfprMeth="NEW"), "wfprMeth NEW is not done"),
        (tags(somMeth="NEW"), "somMeth NEW is not done"),
        (tags(cmbMeth="NEW"), "cmbMeth NEW is not done"),
        (tags(spotMeth="BASIS"), "delivery by basis"),
        (tags(marginMeth="HVAR"), "marginMeth HVAR"),
        (tags(binaryArrays=1), "binary arrays"),
        (tags(capAnov="x"), "capAnov is neither 1 nor 0 ('x'), line"),
        (spread(rate(1), leg("rpLeg", rpNum=1)), "rolling periods"),
        (spread(rate(1), CALENDAR, method="Z"), "charge method"),
        (spread(rate(1), leg("tLeg", tn=1), method="P"), "needs legs that are months"),
        (spread(rate(1), leg(pe="202609", cc="D")), "another combined commodity ('D')"),
        (spread(rate(1), leg(pe="2026")), "pe is not a month"),
        (spread(rate(1), leg(pe="202609", rs="C")), "neither A nor B"),
        (spread(rate(1), leg(pe="202609", i="0")), "ratio is not above 0"),
        (spread(rate(1), leg(pe="202609", i="nan")), "i is not a number ('nan')"),
        (spread(rate(1), leg("tLeg", tn="1.5")), "tn is not a whole number"),
        (spread(rate("x"), CALENDAR), "val is not a number"),
        (spread(rate(1)), "without legs"),
        (spread(CALENDAR), "without a rate"),
        (spread(rate(1, 2), rate(1, 3), CALENDAR), "no rate for rate 1"),
        (spread(rate(1), CALENDAR, spread(rate(1), CALENDAR)), "spreads in spreads"),
        (spread(rate(1), CALENDAR, tags(spreadType="DELTAVOL")), "volatility"),
        (tag("scanTiers", tag("tier", tags(tn=1, tbn=1, tne=2))), "tiers of tiers"),
        (tag("scanTiers", tag("tier", tags(tn=1, sPe="x"))), "sPe is not a month"),
        (tag("scanTiers", tag("tier", tags(sPe="202609"))), "no tn"),
        (tag("somTiers", tag("tier", tags(tn=1), rate("-"))), "val is not a number"),
        (tag("spotRate", tags(r=1, pe="202609", sprd="x")), "sprd is not a number"),
        (adjusted(1, 2, "1") + adjusted(2, 1, "1"), "circle"),
        (adjusted(1, 2, "x"), "val is not a number"),
        (points((1, 0, 3)), "the paired scan point is not there"),
        (points((1, 0, 1), (1, 0, 1)), "scan point is there twice"),
        (points((1, "x", 1)), "mult is not a number"),
        (tag("pfLink", tags(exch="X", pfId=1, sc="x")), "sc is not a number"),
    ],
)
def test_what_refuses_a_commodity(extra: str, said: str, tmp_path: Path) -> None:
    families = family("futPf", 1, "F", future()) + family("futPf", 2, "G", future())
    text = document(commodity("C", 1, extra=extra) + commodity("D", 2), families=families)
    found = read(text, tmp_path)
    assert said in refused(found) and refused(found, "D") == ""
    assert len(found.failures) == 1
    assert "X:G:FUT:202609" in found.contracts["contract_id"].to_list()


@pytest.mark.parametrize(
    "inside",
    [
        tag("interSpreads", spread(rate(1), leg("tLeg"), leg("tLeg", cc="D"), method="P")),
        tag("interSpreads", spread(rate(1), leg(pe="202609"), leg("tLeg", cc="D"), method="W")),
        tag("interSpreads", spread(leg("tLeg"), leg("tLeg", cc="D"), method="W")),
        tag("interSpreads", spread(rate("x"), leg("tLeg"), leg("tLeg", cc="D"), method="W")),
        tag("interSpreads", spread(rate(1), leg("tLeg", rs="x"), leg("tLeg", cc="D"), method="W")),
        tag("superSpreads", tag("sSpread", rate(1), leg("sLeg"), leg("sLeg", cc="D"))),
        tag("superSpreads", tag("sSpread", rate(1), leg("sLeg", isTarget="?"))),
        tag("superSpreads", tag("sSpread", tag("sPointDef"), rate(1), leg("sLeg", isTarget=1))),
        tag("interClearSpreads", tag("clearSpread", leg("homeLeg"), leg("awayLeg", cc="E"))),
        tag("superInterClearSpreads", spread(rate(1), leg("tLeg"))),
    ],
)
def test_what_spreads_refuse_their_legs(inside: str, tmp_path: Path) -> None:
    found = read(two(inside), tmp_path)
    other = "cc>D" in inside
    assert refused(found) and bool(refused(found, "D")) == other and len(found.failures) == 1
    assert found.inter.is_empty() and found.inter_legs.is_empty()


def test_risk_of_exchange_rates_only_with_several_currencies(tmp_path: Path) -> None:
    legs = leg("sLeg", isTarget=1) + leg("sLeg", cc="D")
    inside = tag("superSpreads", tag("sSpread", tags(applyFxRisk=1), rate(1), legs))
    assert refused(read(two(inside), tmp_path)) == ""
    text = two(inside).replace("<cc>D</cc><currency>USD", "<cc>D</cc><currency>EUR")
    assert "applyFxRisk" in refused(read(text, tmp_path))


def test_a_family_of_two_commodities(tmp_path: Path) -> None:
    families = family("futPf", 1, "F", future())
    found = read(document(commodity("C", 1) + commodity("D", 1), families=families), tmp_path)
    assert all("both have the family X:1" in refused(found, code) for code in "CD")
    twice = read(document(commodity("C", 1) + commodity("C", 1), families=families), tmp_path)
    assert refused(twice) == "it is there twice" and len(twice.commodities) == 1


@pytest.mark.parametrize(
    "above", [rate_def(1, "H", 1).replace("<r>1", "<r>x"), tags(capAnov="x"), points((1, "x", 1))]
)
def test_what_refuses_all(above: str, tmp_path: Path) -> None:
    found = read(one_future(above=above), tmp_path)
    assert refused(found) and len(found.failures) >= 1
    if "point" in above:
        own = points(*((number, 0, number) for number in range(1, 17)))
        assert refused(read(one_future(own, above), tmp_path)) == ""


def test_ranges_in_percent_matter_where_they_cap(tmp_path: Path) -> None:
    scan = tag("scanRate", tags(r=1, priceScanPct=5))
    for method, bad in (("NORMAL", False), ("SCANRANGE", True), ("SCANRANGE_CAP", True)):
        found = read(one_future(tags(wfprMeth=method), contract=future(extra=scan)), tmp_path)
        assert ("percent" in refused(found)) == bad and found.ranges.is_empty()
    wrong = tag("scanRate", tags(r=1, priceScan="x"))
    found = read(one_future(contract=future(extra=wrong)), tmp_path)
    assert refused(found) == "a price scan range cannot be used"
    assert told(found) == [("priceScan", "x")]


def test_currencies(tmp_path: Path) -> None:
    found = read(document(tag("ccDef", tags(cc="C"))), tmp_path)
    assert "no currency" in refused(found)
    families = family("futPf", 1, "F", future()).replace("<currency>USD</currency>", "")
    found = read(document(commodity("C", 1, currency="EUR"), families=families), tmp_path)
    assert found.contracts["currency"].to_list() == ["EUR"]


def test_points_without_a_still_one_are_the_usual(tmp_path: Path) -> None:
    found = read(one_future(above=points(*((n, 1, n) for n in range(1, 17)))), tmp_path)
    assert found.grids[0].still.tolist() == [True, True] + [False] * 14
    assert found.commodities.filter(pl.col("grid") == 0).height == 1
