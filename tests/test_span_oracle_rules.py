"""The slow SPAN on rules that no published case has, by numbers worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
from span_oracle import margin, reported
from span_oracle_case import contract, exchange_of, inter_spread, linear

TIERS = [
    {"number": 1, "start": "202601", "end": "202603"},
    {"number": 2, "start": "202604", "end": "202612"},
]


def leg(kind, key, side, ratio=1):
    return {"kind": kind, "key": key, "ratio": Fraction(ratio), "side": side}


def charge(rate, *legs):
    return {"kind": 1, "priority": 1, "rate": Fraction(rate), "charge": "F", "legs": list(legs)}


def futures(code, months, psr=300, **extra):
    return [
        contract(f"{code}{month}", linear(psr), period=month, product=code, **extra)
        for month in months
    ]


def two(psr_left=300, psr_right=600, months=("202601", "202605")):
    return exchange_of({"L": futures("L", months, psr_left), "R": futures("R", months, psr_right)})


def rows(exchange, *positions, **how):
    return margin(exchange, positions, **how)["rows"]


def test_scan_tiers_do_not_offset():
    exchange = exchange_of({"L": futures("L", ("202601", "202605"))})
    exchange["commodities"]["L"]["scan"] = TIERS
    found = rows(exchange, ("L202601", 2), ("L202605", -1))["L"]
    assert found["scan_risk"] == 900 and found["active_scenario"] == 13
    exchange["commodities"]["L"]["scan"] = "each"
    assert rows(exchange, ("L202601", 2), ("L202605", -1))["L"]["scan_risk"] == 900


def test_both_orientations_and_priorities():
    exchange = exchange_of({"L": futures("L", ("202601", "202602", "202605"))})
    one = exchange["commodities"]["L"]
    one.update({"intra_method": "10", "intra": TIERS})
    one["charges"] = [
        charge(10, leg("month", "202601", "A"), leg("month", "202605", "B")),
        charge(1, leg("tier", 1, "A"), leg("tier", 2, "B")),
        charge(100, leg("tier", 1, "A"), leg("tier", 1, "B")),
    ]
    # 3 of the series, then 2 of the tiers, nothing left of the long pool.
    assert (
        rows(exchange, ("L202601", -3), ("L202602", -4), ("L202605", 5))["L"]["intra_spread_charge"]
        == 32
    )
    assert (
        rows(exchange, ("L202601", 3), ("L202602", -4), ("L202605", 0))["L"]["intra_spread_charge"]
        == 300
    )


def test_butterfly_and_shared_pool():
    exchange = exchange_of({"L": futures("L", ("202601", "202602", "202605"))})
    one = exchange["commodities"]["L"]
    one.update({"intra_method": "10", "intra": TIERS})
    one["charges"] = [
        charge(
            7,
            leg("month", "202601", "A"),
            leg("month", "202602", "B", 2),
            leg("month", "202605", "A"),
        )
    ]
    assert rows(exchange, ("L202601", -3), ("L202602", 5), ("L202605", -9))["L"][
        "intra_spread_charge"
    ] == Fraction(35, 2)
    one["charges"] = [charge(7, leg("tier", 1, "A"), leg("tier", 2, "B"), leg("tier", 1, "A"))]
    assert rows(exchange, ("L202601", 3), ("L202605", -9))["L"]["intra_spread_charge"] == Fraction(
        21, 2
    )


def test_delivery_after_spreads():
    exchange = exchange_of({"L": futures("L", ("202601", "202605"))})
    one = exchange["commodities"]["L"]
    one.update(
        {"intra_method": "10", "delivery": {"202601": (Fraction(5), Fraction(20))}, "exponent": 1}
    )
    one["charges"] = [charge(1, leg("month", "202601", "A", 2), leg("month", "202605", "B"))]
    found = rows(exchange, ("L202601", 7), ("L202605", -2))["L"]
    assert found["intra_spread_charge"] == 20 and found["delivery_charge"] == 10 * (4 * 5 + 3 * 20)


def test_weighted_price_risk_methods():
    exchange = two()
    exchange["spreads"] = [inter_spread("01", [("L", 1, "A"), ("R", 1, "B")], rate=50)]
    held = ("L202601", 1), ("R202601", -1)
    assert [one["inter_spread_credit"] for one in rows(exchange, *held).values()] == [150, 300]
    left = exchange["commodities"]["L"]
    left["psr"] = {"202601": {"up": Fraction(100), "down": Fraction(40)}}
    left["wfpr"] = 2
    assert rows(exchange, *held)["L"]["inter_spread_credit"] == 20
    assert rows(exchange, ("L202601", -1), ("R202601", 1))["L"]["inter_spread_credit"] == 50
    left["psr"]["202601"]["down"] = Fraction(1_000)
    assert rows(exchange, *held)["L"]["inter_spread_credit"] == 150
    left["wfpr"] = 3
    assert rows(exchange, *held)["L"]["inter_spread_credit"] == 500


def test_time_and_volatility_are_no_price_risk():
    array = [30, 10, 20, 0, 40, 20, 0, 0, 0, 0, 0, 0, 130, 70, 0, 0]
    exchange = exchange_of({"L": [contract("L", array)], "R": futures("R", ["202612"])})
    exchange["spreads"] = [inter_spread("01", [("L", 1, "A"), ("R", 1, "B")], rate=100)]
    # Scan 130, volatility (130 - 70) / 2, time (30 + 10) / 2.
    assert rows(exchange, ("L", 1), ("R202612", -1))["L"]["inter_spread_credit"] == 80


def test_signs_ratios_and_chains():
    exchange = exchange_of({code: futures(code, ("202601",)) for code in "LRT"})
    exchange["spreads"] = [
        inter_spread("01", [("L", 2, "A"), ("R", 1, "B")], rate=10, priority=1),
        inter_spread("01", [("R", 1, "A"), ("T", 1, "A")], rate=20, priority=2),
        inter_spread("01", [("L", 1, "A"), ("R", 1, "B"), ("T", 1, "B")], rate=30, priority=3),
    ]
    found = rows(exchange, ("L202601", 8), ("R202601", -5), ("T202601", -2))
    # 4 of the first take all of L; R's last with T: one of the second; the third finds no L.
    assert [one["inter_spread_credit"] for one in found.values()] == [8 * 30, 4 * 30 + 60, 60]
    same = rows(exchange, ("L202601", 8), ("R202601", 5))
    assert [one["inter_spread_credit"] for one in same.values()] == [0, 0]


def test_three_legs_and_flat_credit():
    exchange = exchange_of({code: futures(code, ("202601",)) for code in "LRT"})
    legs = [("L", 1, "A"), ("R", 2, "B"), ("T", 1, "B")]
    exchange["spreads"] = [inter_spread("01", legs, rate=90, flat=True)]
    found = rows(exchange, ("L202601", -3), ("R202601", 4), ("T202601", 7))
    assert [one["inter_spread_credit"] for one in found.values()] == [60, 60, 60]


def test_tiers_between_commodities():
    exchange = two()
    for code in "LR":
        exchange["commodities"][code]["inter"] = TIERS
    held = ("L202601", 4), ("L202605", -1), ("R202601", -2), ("R202605", 3)
    exchange["spreads"] = [inter_spread("20", [("L", 1, "A", 1), ("R", 1, "B", 1)], rate=10)]
    assert [one["inter_spread_credit"] for one in rows(exchange, *held).values()] == [60, 120]
    exchange["spreads"] = [inter_spread("20", [("L", 1, "A", 0), ("R", 1, "B", 1)], rate=10)]
    assert [one["inter_spread_credit"] for one in rows(exchange, *held).values()] == [60, 120]
    # Wholes are 3 and 1, of one sign: no total, so nothing tier by tier.
    exchange["spreads"] = [inter_spread("02", [("L", 1, "A"), ("R", 1, "B")], rate=10)]
    assert [one["inter_spread_credit"] for one in rows(exchange, *held).values()] == [0, 0]
    # Wholes 5 and -4: 4 in all; tier 1 gives 3, tier 2 one more of its two.
    held = ("L202601", 3), ("L202605", 2), ("R202601", -3), ("R202605", -1)
    assert [one["inter_spread_credit"] for one in rows(exchange, *held).values()] == [120, 240]


def test_super_spreads_come_before_months():
    exchange = two()
    one = exchange["commodities"]["L"]
    one["intra_method"] = "10"
    one["charges"] = [charge(11, leg("month", "202601", "A"), leg("month", "202605", "B"))]
    held = ("L202601", 2), ("L202605", -1), ("R202601", -1)
    exchange["spreads"] = [inter_spread("01", [("L", 1, "A"), ("R", 1, "B")], rate=10)]
    late = rows(exchange, *held)["L"]
    assert late["intra_spread_charge"] == 11 and late["inter_spread_credit"] == 30
    exchange["spreads"][0]["legs"][0]["ratio"] = Fraction(1, 2)
    exchange["spreads"][0]["super"] = True
    # n = 1 (R), takes half a delta of the front month; the months then spread one.
    first = rows(exchange, *held)["L"]
    assert first["inter_spread_credit"] == 15 and first["intra_spread_charge"] == 11
    one["delivery"] = {"202601": (Fraction(1), Fraction(10))}
    assert rows(exchange, *held)["L"]["delivery_charge"] == Fraction(3, 2) + 5


def test_scanning_spread_moves_deltas_and_charges():
    exchange = exchange_of(
        {
            code: futures(code, ("202601", "202605"), psr)
            for code, psr in (("L", 300), ("R", 600), ("T", 900), ("Z", 100))
        }
    )
    left = exchange["commodities"]["L"]
    left["intra_method"] = "10"
    left["charges"] = [charge(11, leg("month", "202601", "A"), leg("month", "202605", "B"))]
    scanning = inter_spread(
        "04", [("L", 2, "A"), ("R", 1, "B"), ("T", 4, "A")], rate=50, target="T"
    )
    after = inter_spread("01", [("T", 1, "A"), ("Z", 1, "B")], rate=10, priority=2)
    exchange["spreads"] = [scanning, after]
    found = rows(exchange, ("L202601", 3), ("L202605", -1), ("R202601", -1), ("Z202601", -50))
    assert sorted(found) == ["T", "Z"]
    # L is long 2 of 300, R short 1 of 600: +-600 each, of which gains count half.
    assert found["T"]["scan_risk"] == 300 and found["T"]["intra_spread_charge"] == 11
    # Deltas: (3 - 1) * 4 / 2 - 1 * 4 / 1 = 0, so nothing to spread with Z.
    assert found["T"]["inter_spread_credit"] == 0
    found = rows(exchange, ("L202601", 3), ("R202601", -1), ("Z202601", -50))
    # 900 less half of 600; delta 6 - 4 = 2; risk per delta 600 / 2; a tenth of it, twice.
    assert found["T"]["scan_risk"] == 600 and found["T"]["inter_spread_credit"] == 60
    alone = rows(exchange, ("L202601", 3))
    assert list(alone) == ["L"] and alone["L"]["scan_risk"] == 900
    scanning["least"] = 1
    assert list(rows(exchange, ("L202601", 3))) == ["T"]
    scanning["legs"][1]["required"] = True
    assert list(rows(exchange, ("L202601", 3))) == ["L"]


def test_short_option_minimum_tiers_and_scaling():
    flat = [0] * 16
    made = [
        contract(f"{right}{month}", flat, right=right, kind="OOF", period=month, scaling="0.5")
        for right in "CP"
        for month in ("202601", "202605")
    ]
    exchange = exchange_of({"L": made})
    one = exchange["commodities"]["L"]
    one.update({"som": Fraction(100), "exponent": 1})
    held = ("C202601", -4), ("P202601", -2), ("C202605", -2), ("P202605", 8)
    assert rows(exchange, *held)["L"]["risk"] == 4_000
    one["som_method"] = 1
    assert rows(exchange, *held)["L"]["risk"] == 3_000
    one["som_tiers"] = [{**TIERS[0], "rate": Fraction(10)}, {**TIERS[1], "rate": Fraction(1)}]
    assert rows(exchange, *held)["L"]["risk"] == 210


def test_option_values_limits_and_classes():
    option = {"right": "C", "kind": "OOF", "price": 5, "multiplier": 10}
    exchange = exchange_of(
        {
            "L": [contract("LC", linear(300), **option)],
            "R": [contract("RC", linear(300), **option)],
        }
    )
    result = margin(exchange, [("LC", 1), ("RC", -1)])
    # Long only: no more than its value; the short one scans 300.
    assert result["rows"]["L"]["risk"] == 50 and result["rows"]["R"]["requirement"] == 350
    assert result["totals"] == {"USD": 350}
    result = margin(exchange, [("LC", 10), ("RC", -1)])
    assert result["rows"]["L"]["requirement"] == 0
    exchange["contracts"]["LC"]["array"] = [Fraction(0)] * 16
    assert margin(exchange, [("LC", 1), ("RC", -1)])["totals"] == {"USD": 300}
    exchange["commodities"]["L"]["limit"] = True
    assert margin(exchange, [("LC", 1), ("RC", -1)])["totals"] == {"USD": 350}
    exchange["commodities"]["L"]["limit"], exchange["limit"] = False, True
    assert margin(exchange, [("LC", 1), ("RC", -1)])["totals"] == {"USD": 350}
    exchange["commodities"]["R"]["factors"]["member"] = Fraction(2)
    exchange["commodities"]["R"]["ratios"]["speculator"] = Fraction(3)
    assert rows(exchange, ("RC", -1), account="member")["R"]["requirement"] == 650
    assert rows(exchange, ("RC", -1), account="speculator", initial=True)["R"]["requirement"] == 950


def test_gross_keeps_sides_apart():
    exchange = exchange_of({"L": futures("L", ("202601", "202605"))})
    held = ("L202601", 2), ("L202601", -2), ("L202605", -1)
    assert rows(exchange, *held)["L"]["scan_risk"] == 300
    assert rows(exchange, *held, gross=True)["L"]["scan_risk"] == 1_500


def test_currencies():
    exchange = exchange_of({"L": futures("L", ["202601"]), "R": futures("R", ["202601"])})
    exchange["rates"]["EUR", "USD"] = Fraction(2)
    exchange["contracts"]["L202601"]["currency"] = "EUR"
    exchange["commodities"]["R"]["currency"] = exchange["contracts"]["R202601"]["currency"] = "EUR"
    result = margin(exchange, [("L202601", 1), ("R202601", 1)])
    assert result["totals"] == {"USD": 600, "EUR": 300}
    assert reported(exchange, result, "EUR") == 600 and reported(exchange, result, "USD") == 1_200
    exchange["rates"].clear()
    with pytest.raises(ValueError, match="no rate"):
        margin(exchange, [("L202601", 1)])


def test_combinations():
    legs = [("202601", 1), ("202605", -1)]
    calendar = contract("CAL", linear(50), kind="CMB", product="CAL", period="202601", delta="0.5")
    exchange = exchange_of({"L": [*futures("L", ("202601", "202605")), calendar]})
    exchange["combinations"]["X", "CAL", "202601"] = [
        {"product": ("X", "L", "FUT"), "period": month, "ratio": Fraction(ratio)}
        for month, ratio in legs
    ]
    assert rows(exchange, ("CAL", 2))["L"]["scan_risk"] == 100
    one = exchange["commodities"]["L"]
    one.update({"split": "S", "intra_method": "10"})
    one["charges"] = [charge(11, leg("month", "202601", "A"), leg("month", "202605", "B"))]
    found = rows(exchange, ("CAL", 2))["L"]
    assert found["scan_risk"] == 0 and found["intra_spread_charge"] == 22
    one["split"] = "D"
    found = rows(exchange, ("CAL", 2))["L"]
    assert found["scan_risk"] == 100 and found["intra_spread_charge"] == 11
    assert rows(exchange, ("CAL", 2), ("L202605", 4))["L"]["intra_spread_charge"] == 0


def test_option_on_a_combination():
    """Its own array in its own commodity; its delta goes to the legs."""
    option = contract(
        "OC", linear(40), kind="OOC", product="OC", period="202601", right="C", delta="0.5"
    )
    option["under"] = "CAL"
    exchange = exchange_of(
        {"L": futures("L", ("202601",)), "R": futures("R", ("202601",)), "CC": [option]}
    )
    exchange["splits"]["CAL"] = "M"
    exchange["combinations"]["X", "CAL", "202601"] = [
        {"product": ("X", code, "FUT"), "period": "202601", "ratio": Fraction(ratio)}
        for code, ratio in (("L", 1), ("R", -2))
    ]
    exchange["spreads"] = [inter_spread("01", [("L", 1, "A"), ("R", 2, "B")], rate=100, flat=True)]
    found = rows(exchange, ("OC", 8))
    assert found["CC"]["scan_risk"] == 320 and found["L"]["scan_risk"] == 0
    assert found["L"]["inter_spread_credit"] == found["R"]["inter_spread_credit"] == 200


def test_front_months_are_consumed_first():
    """What a spread of wholes takes from the front month, delivery and tiers no longer have."""
    exchange = two(months=("202601", "202602", "202605"))
    left = exchange["commodities"]["L"]
    left.update({"intra_method": "10", "intra": TIERS})
    left["charges"] = [charge(5, leg("tier", 1, "A"), leg("month", "202605", "B"))]
    left["delivery"] = {"202601": (Fraction(1), Fraction(100))}
    held = ("L202601", 2), ("L202602", 2), ("L202605", -3)
    found = rows(exchange, *held)["L"]
    # Three of the tier: both of the front month, one of the next.
    assert found["intra_spread_charge"] == 15 and found["delivery_charge"] == 2
    exchange["spreads"] = [inter_spread("01", [("L", 1, "A"), ("R", 1, "B")], 10, above=True)]
    # One of the front month is gone before the months spread.
    found = rows(exchange, *held, ("R202601", -1))["L"]
    assert found["intra_spread_charge"] == 15 and found["delivery_charge"] == 2
    left["charges"] = [charge(5, leg("month", "202601", "A"), leg("month", "202605", "B"))]
    assert rows(exchange, *held, ("R202601", -1))["L"]["intra_spread_charge"] == 5


def test_tiers_stop_at_the_total():
    """Method 02: tiers that offset each other in the whole cannot form more than it does."""
    exchange = two()
    for code in "LR":
        exchange["commodities"][code]["inter"] = TIERS
    exchange["spreads"] = [inter_spread("02", [("L", 1, "A"), ("R", 1, "B")], rate=10)]
    held = ("L202601", 4), ("L202605", -2), ("R202601", -4), ("R202605", 2)
    assert [one["inter_spread_credit"] for one in rows(exchange, *held).values()] == [60, 120]
    exchange["spreads"].append(
        inter_spread("20", [("L", 1, "A", 1), ("R", 1, "B", 1)], rate=10, priority=2)
    )
    # Two of four are left in the first tier, at 300 and 600 a delta.
    assert [one["inter_spread_credit"] for one in rows(exchange, *held).values()] == [120, 240]
    # The credit of 02 is by the risk of the whole: a dearer month moves it.
    exchange["spreads"].pop()
    exchange["contracts"]["L202601"]["array"] = linear(1_200)
    found = rows(exchange, *held)["L"]
    assert found["inter_spread_credit"] == 2 * Fraction(4 * 1_200 - 2 * 300, 2) / 10


def test_tiers_with_days():
    """A bound without a day has its whole month; before a day there is none."""
    months = ("20260104", "20260105", "202601")
    exchange = exchange_of({"L": futures("L", months)})
    one = exchange["commodities"]["L"]
    one["scan"] = [
        {"number": 1, "start": "202601", "end": "20260104"},
        {"number": 2, "start": "20260105", "end": "202601"},
    ]
    held = ("L20260104", 1), ("L202601", -1), ("L20260105", 2)
    assert rows(exchange, *held)["L"]["scan_risk"] == 600
    one["scan"] = [{"number": 1, "start": "202601", "end": "202601"}]
    assert rows(exchange, *held)["L"]["scan_risk"] == 600
    assert rows(exchange, ("L20260104", 1), ("L20260105", -1))["L"]["scan_risk"] == 0
    one["scan"] = [
        {"number": 1, "start": "20260105", "end": "202601"},
        {"number": 2, "start": "202601", "end": "20260104"},
    ]
    assert rows(exchange, ("L20260104", 1), ("L20260105", -1))["L"]["scan_risk"] == 600


def test_without_price_risk_there_is_no_spread():
    """A leg without price risk per delta: nothing is credited and no delta is used."""
    exchange = exchange_of({
        "L": [contract("L", [0] * 16)], "R": futures("R", ["202612"]), "T": futures("T", ["202612"])
    })  # fmt: skip
    exchange["spreads"] = [
        inter_spread("01", [("R", 1, "A"), ("L", 1, "B")], rate=10, priority=1),
        inter_spread("01", [("R", 1, "A"), ("T", 1, "B")], rate=10, priority=2),
    ]
    found = rows(exchange, ("L", -1), ("R202612", 1), ("T202612", -1))
    assert [one["inter_spread_credit"] for one in found.values()] == [0, 30, 30]
