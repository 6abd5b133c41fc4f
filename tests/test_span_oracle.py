"""The slow SPAN against the published and the hand-made cases it can compute."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from span_oracle import margin, reported
from span_oracle_case import contract, exchange_of, inter_spread, linear
from span_oracle_pa2 import parse_pa2
from span_oracle_prices import decoded
from span_oracle_tims import POINTS, ranges_of, requirement
from span_vectors_case import WITHOUT_FILE, data, vector


def close(left, right, most=1e-9):
    assert float(left) == pytest.approx(float(right), abs=most)


def named(words: str) -> str:
    """What the hand-made cases call a contract, as its id."""
    parts = words.split()
    if parts[1] == "FUT":
        return f"XYZ:{parts[0]}:FUT:{parts[2]}"
    option = parts[3].replace("/", "")
    return f"XYZ:{parts[0]}:OOF:202512:{option}:{parts[2][0]}:{parts[2][1:]}"


@pytest.mark.parametrize("place", range(15))
def test_synthetic_file(place):
    case = vector("synthetic_pa2_selfderived")["cases"][place]
    exchange = parse_pa2(data("span_synthetic_riskkit.pa2").read_text())
    held = [(named(words), quantity) for words, quantity in case["pos"].items()]
    result = margin(exchange, held)
    rows = result["rows"]
    first = rows["CC-ZZ"]
    figures = {
        "active": "active_scenario",
        "intra": "intra_spread_charge",
        "som": "short_option_minimum",
        "risk": "risk",
        "nov": "net_option_value",
        "lov": "long_option_value",
    }
    for short, name in figures.items():
        if short in case:
            close(first[name], case[short])
    if "sov" in case:
        close(-first["short_option_value"], case["sov"])
    for short, name in (("scan", "scan_risk"), ("inter_credit", "inter_spread_credit")):
        wanted = case.get(short, {})
        wanted = wanted if isinstance(wanted, dict) else dict.fromkeys(rows, wanted)
        for code, amount in wanted.items():
            close(rows[code][name], amount)
    if "total" in case:
        close(result["totals"]["USD"], case["total"])
        close(reported(exchange, result, "USD"), case["total"])
    if "speculator_initial" in case:
        once = margin(exchange, held, account="speculator", initial=True)
        close(once["totals"]["USD"], case["speculator_initial"])


def test_synthetic_parameters():
    said = vector("synthetic_pa2_selfderived")["combined"]
    exchange = parse_pa2(data("span_synthetic_riskkit.pa2").read_text())
    one = exchange["commodities"]["CC-ZZ"]
    assert one["som"] == said["CC-ZZ"]["som"] and one["som_method"] == said["CC-ZZ"]["som_method"]
    assert one["intra_method"] == said["CC-ZZ"]["intra_method"]
    assert (
        one["delivery_method"] == said["CC-ZZ"]["delivery"] and one["wfpr"] == said["CC-ZZ"]["wfpr"]
    )
    assert [float(ratio) for ratio in one["ratios"].values()] == said["CC-ZZ"]["itom"]
    assert exchange["commodities"]["CC-YY"]["som"] == said["CC-YY"]["som"]


def test_sugar_11_scan():
    case = vector("ice_us_sugar11_scan")
    exchange = exchange_of(
        {"SB": [contract(name, array, delta=0) for name, array in case["arrays"].items()]}
    )
    result = margin(exchange, case["positions"].items())
    assert result["rows"]["SB"]["scan_risk"] == case["expected_scan_risk"]
    assert result["rows"]["SB"]["active_scenario"] == case["expected_active_scenario"]
    total = [
        sum(case["positions"][name] * array[place] for name, array in case["arrays"].items())
        for place in range(16)
    ]
    assert total == case["computed_summary"]
    assert (
        max(
            abs(one - two) for one, two in zip(total, case["expected_summary_printed"], strict=True)
        )
        <= 2
    )


def test_scanning_based_spread():
    case = vector("cme_scanning_based_spread")
    exchange = exchange_of(
        {name: [contract(name, array)] for name, array in case["leg_arrays"].items()}
    )
    exchange["spreads"] = [
        inter_spread(
            "04",
            [("30Y", 1, "A"), ("10Y", 1, "B")],
            rate=100 * Fraction(str(case["credit_rate"])),
            target="30Y",
        )
    ]
    result = margin(exchange, dict.fromkeys(case["leg_arrays"], 1).items())
    assert list(result["rows"]) == ["30Y"]
    close(result["rows"]["30Y"]["scan_risk"], case["expected_scan"])
    for place, wanted in enumerate(case["expected_combined"]):
        rate = case["credit_rate"]
        found = sum(
            v[place] if v[place] >= 0 else rate * v[place] for v in case["leg_arrays"].values()
        )
        assert found == pytest.approx(wanted, abs=0.11)


def test_spread_calc_small():
    cases = {case["name"]: case for case in vector("cme_spread_calc_small")["cases"]}
    grains = cases["inter corn:soy 2:1 55%"]
    exchange = exchange_of(
        {name: [contract(name, linear(size))] for name, size in grains["outright"].items()}
    )
    exchange["spreads"] = [inter_spread("01", [("corn", 2, "A"), ("soy", 1, "B")], rate=55)]
    result = margin(exchange, [("corn", 2), ("soy", -1)])
    rows = result["rows"].values()
    close(sum(one["scan_risk"] for one in rows), grains["gross"])
    close(sum(one["inter_spread_credit"] for one in rows), grains["credit"])
    close(result["totals"]["USD"], grains["margin"])


@pytest.mark.parametrize("pair", ["M2 -1 M3", "M2 -1 M4", "M3 -1 M4"])
def test_spread_calc_intra(pair):
    case = {case["name"]: case for case in vector("cme_spread_calc_small")["cases"]}[
        f"intra +1 {pair}"
    ]
    near, far = pair.split(" -1 ")
    months = {near: "202602", far: "202604"}
    exchange = exchange_of(
        {
            "CC": [
                contract(name, linear(size), period=months[name])
                for name, size in zip((near, far), case["outright"], strict=True)
            ]
        }
    )
    legs = [
        {"kind": "month", "key": months[name], "ratio": Fraction(1), "side": side}
        for name, side in ((near, "A"), (far, "B"))
    ]
    one = exchange["commodities"]["CC"]
    one["intra_method"] = "10"
    one["charges"] = [
        {"kind": 0, "priority": 1, "rate": case["charge"], "charge": "F", "legs": legs}
    ]
    close(margin(exchange, [(near, 1), (far, -1)])["totals"]["USD"], case["margin"])
    close(margin(exchange, [(near, -1), (far, 1)])["totals"]["USD"], case["margin"])


def test_modified_split():
    case = vector("cme_modified_split")["cases"][0]
    exchange = exchange_of(
        {
            "CL": [
                contract(name, linear(size), period=period)
                for (name, size), period in zip(
                    case["outrights"].items(), ("202609", "202610"), strict=True
                )
            ],
            "CS": [contract("CS Aug16", linear(9_999), kind="CMB", product="CS", period="202608")],
        }
    )
    exchange["commodities"]["CS"]["split"] = "M"
    ratios = (Fraction(16, 23), Fraction(7, 23))
    exchange["combinations"]["X", "CS", "202608"] = [
        {"product": ("X", name, "FUT"), "period": period, "ratio": ratio}
        for name, period, ratio in zip(case["split"], ("202609", "202610"), ratios, strict=True)
    ]
    for ratio, said in zip(ratios, case["split"].values(), strict=True):
        assert float(ratio) == pytest.approx(said, abs=1e-15)
    result = margin(exchange, [("CS Aug16", 1)])
    close(result["totals"]["USD"], case["expected_margin"], 1)
    assert list(result["rows"]) == ["CL"]


def test_ice_small_rules():
    cases = {case["rule"]: case for case in vector("ice_us_small_rules")["cases"]}
    flat = [0] * 16
    tiers = [
        {"number": 1, "start": "202601", "end": "202603"},
        {"number": 2, "start": "202604", "end": "202612"},
    ]

    def of_months(**extra):
        exchange = exchange_of(
            {
                "CC": [
                    contract(f"F{month}", flat, period=month)
                    for month in ("202601", "202602", "202604", "202605")
                ]
            }
        )
        exchange["commodities"]["CC"].update({"intra_method": "10", "intra": tiers, **extra})
        return exchange

    def charge(rate, left, right):
        legs = [
            {"kind": "tier", "key": left, "ratio": Fraction(1), "side": "A"},
            {"kind": "tier", "key": right, "ratio": Fraction(1), "side": "B"},
        ]
        return {"kind": 1, "priority": 1, "rate": rate, "charge": "F", "legs": legs}

    second = cases["intermonth method 2"]
    exchange = of_months(charges=[charge(second["rate"], 1, 1)])
    held = [("F202601", second["long_delta"]), ("F202602", second["short_delta"])]
    close(margin(exchange, held)["rows"]["CC"]["intra_spread_charge"], second["charge"])
    third = cases["intermonth method 3"]
    every = [
        charge(third["rate_t1"], 1, 1),
        charge(third["rate_t2"], 2, 2),
        charge(third["rate_t12"], 1, 2),
    ]
    exchange = of_months(charges=every)
    held = [("F202601", 5), ("F202602", -3), ("F202604", 3), ("F202605", -5)]
    close(margin(exchange, held)["rows"]["CC"]["intra_spread_charge"], third["charge"])
    last = cases["delivery method 2"]
    exchange = of_months(
        charges=[charge(last["intermonth_rate"], 1, 2)],
        delivery={"202601": (Fraction(0), Fraction(last["delivery_rate"]))},
    )
    held = [
        ("F202601", last["front_spreads"] + last["front_outrights"]),
        ("F202604", -last["front_spreads"]),
    ]
    found = margin(exchange, held)["rows"]["CC"]
    close(found["intra_spread_charge"], last["intermonth_charge"])
    close(found["delivery_charge"], last["delivery_charge"])
    least = cases["short option minimum"]
    options = [
        contract("C", flat, right="C", kind="OOF"),
        contract("P", flat, right="P", kind="OOF"),
    ]
    exchange = exchange_of({"CC": options})
    exchange["commodities"]["CC"]["som"] = Fraction(least["rate"])
    close(margin(exchange, [("C", -3), ("P", -2)])["rows"]["CC"]["risk"], least["som"])
    exchange["commodities"]["CC"]["som_method"] = 1
    close(margin(exchange, [("C", -3), ("P", -2)])["rows"]["CC"]["risk"], 300)


def test_nse_nifty_array():
    case = vector("nse_nifty_fut_20260625")
    array = case["array"]
    moved = Fraction(str(case["price_scan"])) * Fraction(str(case["verified"]["price_factor"]))
    base = Fraction(str(array[0]))
    for place, step in enumerate([0, 0, 1, 1, -1, -1, 2, 2, -2, -2, 3, 3, -3, -3]):
        close(base - moved * step / 3, array[place], 0.011)
    for place, step in ((14, 1), (15, -1)):
        close(Fraction(35, 100) * (base - 2 * moved * step), array[place], 0.011)
    exchange = exchange_of({"NIFTY": [contract("FUT", array)]})
    long, short = (margin(exchange, [("FUT", side)])["rows"]["NIFTY"] for side in (1, -1))
    close(long["scan_risk"], 2244.36)
    assert long["active_scenario"] == 13 and short["active_scenario"] == 11
    close(case["price_scan"] / case["spot"], case["checks"]["psr_pct_of_spot"])


def test_gc_array():
    case = vector("cme_gc_20250912_real")
    array = case["GC_202509_FUT"]["array"]
    months = ("202509", "202510", "202606")
    exchange = exchange_of(
        {"GC": [contract(f"GC {month}", array, period=month) for month in months]}
    )
    one = exchange["commodities"]["GC"]
    one["intra_method"] = "10"
    one["charges"] = [
        {
            "kind": 0,
            "priority": place,
            "rate": rate,
            "charge": "F",
            "legs": [
                {"kind": "month", "key": month, "ratio": Fraction(1), "side": side}
                for month, side in (("202509", "A"), (far, "B"))
            ],
        }
        for place, far, rate in ((1, "202510", 300), (2, "202606", 1000))
    ]
    for wanted in case["expected"][:4]:
        found = margin(exchange, wanted["pos"].items())["rows"]["GC"]
        close(found["scan_risk"], wanted["scan"])
        if "active" in wanted:
            assert found["active_scenario"] == wanted["active"]
        close(found["intra_spread_charge"], wanted.get("intra", 0))
    put = case["OG_put"]
    for wanted in case["expected"][4:]:
        side = wanted["pos"]["OG 202512 3700 P"]
        # The array is not public: one with the printed scan risks on both sides stands for it.
        scans = {seen["pos"]["OG 202512 3700 P"]: seen["scan"] for seen in case["expected"][4:]}
        option = contract(
            "OG",
            [0, 0, scans[1], -scans[-1], *[0] * 12],
            delta=put["delta"],
            right="P",
            kind="OOF",
            price=put["settlement"],
            multiplier=put["cvf"],
        )
        exchange = exchange_of({"GC": [option]})
        exchange["commodities"]["GC"]["som"] = Fraction(case["som_rate"])
        result = margin(exchange, [("OG", side)])
        close(result["rows"]["GC"]["scan_risk"], wanted["scan"])
        close(result["rows"]["GC"]["net_option_value"], wanted["nov"])
        close(result["unfloored"]["USD"], wanted["total"])


@pytest.mark.parametrize("place", range(19))
def test_price_decode(place):
    raw, locator, alignment, wanted = vector("cme_price_decode")["cases"][place]
    close(decoded(raw, locator, alignment), wanted, 0)


def test_price_decode_refuses():
    close(decoded("0003763", 2, " ", negative=True), -37.63)
    for raw in ("0106014", "0106019", "0106320"):
        with pytest.raises(ValueError, match=r"eighth|parts"):
            decoded(raw, 3, "C")
    close(decoded("0000012", -2), 1200)


def test_real_lines_parsed():
    lines = vector("pa2_real_lines_parsed")
    layout = json.loads(data("pa2_expanded_layout.json").read_text())
    seen = 0
    for one in lines:
        for what, text in one["fields"].items():
            first, last = (int(part) for part in what.split()[0].split("-"))
            assert one["line"][first - 1 : last].strip() == text.strip(), what
            seen += 1
    assert layout and seen > 200


@pytest.mark.parametrize("name", WITHOUT_FILE)
def test_without_its_file(name):
    vector(name)
    pytest.skip(f"{name}: its risk parameter file is not public")


@pytest.mark.parametrize(
    "kind", ["high_cap_broad_index", "non_high_cap_broad_index", "equity_or_narrow_index"]
)
def test_tims_points(kind):
    case = vector("tims_rules")
    assert list(ranges_of(kind)) == case["ranges"][kind]
    moves = POINTS[kind]
    assert len(moves) == 10 and min(moves) == Fraction(str(case["ranges"][kind][0]))
    assert max(moves) == Fraction(str(case["ranges"][kind][1]))
    printed = {
        "equity_or_narrow_index": [-15, -12, -9, -6, -3, 3, 6, 9, 12, 15],
        "high_cap_broad_index": [-8, -6.4, -4.8, -3.2, -1.6, 1.2, 2.4, 3.6, 4.8, 6],
    }.get(kind)
    if printed:
        assert [float(100 * move) for move in moves] == pytest.approx(printed)


def test_tims_offsets():
    losses = {"A": [100] + [0] * 9, "B": [-100] + [0] * 9}
    close(
        requirement({"G": losses}, {"G": Fraction(9, 10)}, {"P": ["G"]}, {"P": Fraction(1, 2)}, 0),
        10,
    )
    close(requirement({"G": {"A": [0] * 10}}, {"G": 1}, {"P": ["G"]}, {"P": 0}, 75), 75)
