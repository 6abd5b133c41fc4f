"""The slow SPAN where the field's texts say what one file alone does not, by numbers by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from span_oracle import margin, rounded
from span_oracle_case import contract, exchange_of, inter_spread, linear
from span_oracle_pa2 import parse_pa2
from span_oracle_xml import parse_spn
from span_random_pa2 import put
from test_span_oracle_readers import between_xml, small_xml


def six(codes: str, priority: str = "0001", method: str = "01", **more: str) -> str:
    legs = [(17 + 18 * place, f"X   {code:6}0010000A") for place, code in enumerate(codes)]
    extra = [(int(column.removeprefix("at_")), text) for column, text in more.items()]
    return put((1, "6 ALL"), (6, priority), (10, "0500000"), (89, method), *legs, *extra)


def codes_of(*lines: str) -> list[str]:
    return [
        "".join(leg["cc"] for leg in one["legs"]) for one in parse_pa2("\n".join(lines))["spreads"]
    ]


def test_legs_beyond_the_fourth_stand_on_the_next_record() -> None:
    """Spreads of up to twenty legs: a full record is continued by one of its priority and kind."""
    assert codes_of(six("ABCD"), six("EF")) == ["ABCDEF"]
    assert codes_of(six("ABCD"), six("EFGH"), six("I"), six("JK")) == ["ABCDEFGHI", "JK"]
    assert codes_of(six("ABC"), six("EF")) == ["ABC", "EF"]
    assert codes_of(six("ABCD"), six("EF", "0002")) == ["ABCD", "EF"]
    assert codes_of(six("ABCD"), six("EF", at_110="S")) == ["ABCD", "EF"]
    target = {"at_95": "F", "at_94": "N"}
    (one,) = parse_pa2("\n".join([six("ABCD", method="04", **target), six("EF", method="04")]))[
        "spreads"
    ]
    assert [leg["cc"] for leg in one["legs"] if leg["target"]] == ["F"] and len(one["legs"]) == 6


@pytest.mark.parametrize(("said", "needed"), [("N", False), ("Y", True), (" ", True)])
def test_a_target_is_needed_unless_it_is_said_not_to_be(said: str, needed: bool) -> None:
    line = six("AB", method="04", at_94=said, at_95="T")
    (one,) = parse_pa2(line)["spreads"]
    assert one["legs"][-1]["target"] and one["legs"][-1]["required"] is needed


def test_weighted_rates_of_xml_are_shares_unless_one_is_above_1() -> None:
    held = ("X:L:FUT:202601", 2), ("X:R:FUT:202605", -1)
    credits = []
    for value in ("0.1", "10"):
        text = small_xml(between=between_xml("W", 0)).replace("<val>0</val>", f"<val>{value}</val>")
        rows = margin(parse_spn(text), held)["rows"].values()
        credits.append([one["inter_spread_credit"] for one in rows])
    assert credits == [[20, 10]] * 2
    for value in ("-10", "10"):
        text = small_xml(between=between_xml("F", 0)).replace("<val>0</val>", f"<val>{value}</val>")
        rows = margin(parse_spn(text), held)["rows"].values()
        assert [one["inter_spread_credit"] for one in rows] == [5, 5]


def test_legs_by_scanning_are_needed_unless_they_are_said_not_to_be() -> None:
    legs = [
        ("<cc>L</cc><isTarget>1</isTarget>", False),
        ("<cc>L</cc><isTarget>0</isTarget>", True),
        ("<cc>L</cc><isRequired>0</isRequired>", False),
        ("<cc>L</cc><isTarget>1</isTarget><isRequired>1</isRequired>", True),
    ]
    for said, needed in legs:
        rate = "<rate><r>1</r><val>0.5</val></rate>"
        spread = f"<sSpread><spread>1</spread>{rate}<sLeg>{said}</sLeg></sSpread>"
        (one,) = parse_spn(small_xml(between=spread))["spreads"]
        assert one["legs"][0]["required"] is needed and one["legs"][0]["rate"] == 50


def test_where_every_month_is_a_tier_days_are_months_of_their_own() -> None:
    """Method 02 matches a month with that month, not with the days in it."""
    exchange = exchange_of(
        {
            "L": [contract("L", linear(300), period="202612")],
            "R": [
                contract("R", linear(300), period="20261204"),
                contract("R2", linear(300), period="202612"),
            ],
        }
    )
    for one in exchange["commodities"].values():
        one["scan"] = one["inter"] = "each"
    exchange["spreads"] = [inter_spread("02", [("L", 1, "A"), ("R", 1, "B")], rate=50)]
    for name, credit in (("R", 0), ("R2", 150)):
        rows = margin(exchange, [("L", 1), (name, -1)])["rows"]
        assert rows["L"]["inter_spread_credit"] == credit


def test_net_deltas_are_rounded_to_the_nearest() -> None:
    assert rounded(Fraction("0.25"), 1) == Fraction("0.3")
    assert rounded(Fraction("-0.25"), 1) == Fraction("-0.3")
    assert rounded(Fraction("0.2499"), 1) == Fraction("0.2")
    assert rounded(Fraction("0.2499"), None) == Fraction("0.2499")
    one = contract("L", linear(300), delta="0.3", period="202601")
    exchange = exchange_of({"L": [one]})
    exchange["commodities"]["L"]["delivery"] = {"202601": (Fraction(0), Fraction(10))}
    charges = [
        margin(exchange, [("L", 3)], delta_places=places)["rows"]["L"]["delivery_charge"]
        for places in (None, 0)
    ]
    assert charges == [9, 10]
