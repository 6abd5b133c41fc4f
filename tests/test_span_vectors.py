"""The engine against every published number of SPAN that comes without a file, by name."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest
from span_case import tables_of
from span_engine_case import close, required
from span_oracle_case import contract, exchange_of, inter_spread, linear
from span_oracle_tims import RANGES
from span_vectors_case import WITHOUT_FILE, vector

from gpu_margin.span_build import build
from gpu_margin.tims_groups import groups_of
from gpu_margin.tims_settings import TimsParameters

Dict = dict[str, Any]


def rows_of(exchange: Dict, held: Mapping[str, Any], initial: bool = False) -> Dict:
    """What a hedger of these positions requires."""
    return required(build(tables_of(exchange)), held, initial=initial)


def test_ice_us_sugar11_scan() -> None:
    case = vector("ice_us_sugar11_scan")
    exchange = exchange_of(
        {"SB": [contract(name, array, delta=0) for name, array in case["arrays"].items()]}
    )
    found = rows_of(exchange, case["positions"])["rows"]["SB"]
    assert found["scan_risk"] == case["expected_scan_risk"]
    assert found["active_scenario"] == case["expected_active_scenario"]


def test_cme_scanning_based_spread() -> None:
    case = vector("cme_scanning_based_spread")
    arrays = case["leg_arrays"]
    exchange = exchange_of({name: [contract(name, array)] for name, array in arrays.items()})
    legs = [("30Y", 1, "A"), ("10Y", 1, "B")]
    rate = 100 * Fraction(str(case["credit_rate"]))
    exchange["spreads"] = [inter_spread("04", legs, rate=rate, target="30Y")]
    found = rows_of(exchange, dict.fromkeys(arrays, 1))["rows"]
    assert list(found) == ["30Y"]
    close(found["30Y"]["scan_risk"], case["expected_scan"])
    worst = max(case["expected_combined"])
    assert found["30Y"]["active_scenario"] == 1 + case["expected_combined"].index(worst)


def test_cme_spread_calc_small_inter() -> None:
    cases = {case["name"]: case for case in vector("cme_spread_calc_small")["cases"]}
    grains = cases["inter corn:soy 2:1 55%"]
    exchange = exchange_of(
        {name: [contract(name, linear(size))] for name, size in grains["outright"].items()}
    )
    exchange["spreads"] = [inter_spread("01", [("corn", 2, "A"), ("soy", 1, "B")], rate=55)]
    result = rows_of(exchange, {"corn": 2, "soy": -1})
    rows = result["rows"].values()
    close(sum(one["scan_risk"] for one in rows), grains["gross"])
    close(sum(one["inter_spread_credit"] for one in rows), grains["credit"])
    close(result["totals"]["USD"], grains["margin"])


@pytest.mark.parametrize("pair", ["M2 -1 M3", "M2 -1 M4", "M3 -1 M4"])
def test_cme_spread_calc_small_intra(pair: str) -> None:
    cases = {case["name"]: case for case in vector("cme_spread_calc_small")["cases"]}
    case = cases[f"intra +1 {pair}"]
    near, far = pair.split(" -1 ")
    months = {near: "202602", far: "202604"}
    sizes = dict(zip((near, far), case["outright"], strict=True))
    exchange = exchange_of(
        {"CC": [contract(name, linear(sizes[name]), period=months[name]) for name in sizes]}
    )
    charged(exchange["commodities"]["CC"], case["charge"], ("month", months[near], months[far]))
    close(rows_of(exchange, {near: 1, far: -1})["totals"]["USD"], case["margin"])
    close(rows_of(exchange, {near: -1, far: 1})["totals"]["USD"], case["margin"])


def charged(one: Dict, rate: Any, *pairs: tuple[Any, ...]) -> None:
    """Spreads within a commodity, one against one, at rates (of a list, one each)."""
    rates = rate if isinstance(rate, list) else [rate]
    one["intra_method"] = "10"
    one["charges"] = [
        {
            "kind": 0,
            "priority": place,
            "rate": Fraction(value),
            "charge": "F",
            "legs": [
                {"kind": kind, "key": key, "ratio": Fraction(1), "side": side}
                for key, side in ((left, "A"), (right, "B"))
            ],
        }
        for place, (value, (kind, left, right)) in enumerate(zip(rates, pairs, strict=True))
    ]


def test_cme_modified_split() -> None:
    case = vector("cme_modified_split")["cases"][0]
    months = ("202609", "202610")
    sizes = list(case["outrights"].items())
    exchange = exchange_of(
        {
            "CL": [
                contract(name, linear(size), period=month)
                for (name, size), month in zip(sizes, months, strict=True)
            ],
            "CS": [contract("CS Aug16", linear(9_999), kind="CMB", product="CS", period="202608")],
        }
    )
    exchange["commodities"]["CS"]["split"] = "M"
    exchange["combinations"]["X", "CS", "202608"] = [
        {"product": ("X", name, "FUT"), "period": month, "ratio": Fraction(share)}
        for (name, share), month in zip(case["split"].items(), months, strict=True)
    ]
    found = rows_of(exchange, {"CS Aug16": 1})
    assert list(found["rows"]) == ["CL"]
    close(found["totals"]["USD"], case["expected_margin"], 1)
    wanted = sum(case["outrights"][name] * share for name, share in case["split"].items())
    close(found["totals"]["USD"], wanted)


TIERS = [
    {"number": 1, "start": "202601", "end": "202603"},
    {"number": 2, "start": "202604", "end": "202612"},
]
FLAT = [0] * 16


def of_months() -> Dict:
    months = ("202601", "202602", "202604", "202605")
    exchange = exchange_of({"CC": [contract(f"F{month}", FLAT, period=month) for month in months]})
    exchange["commodities"]["CC"]["intra"] = TIERS
    return exchange


def ice_rule(name: str) -> Dict:
    cases: list[Dict] = vector("ice_us_small_rules")["cases"]
    return next(case for case in cases if case["rule"].startswith(name))


def test_ice_us_small_rules_intermonth() -> None:
    second, exchange = ice_rule("intermonth method 2"), of_months()
    one = exchange["commodities"]["CC"]
    charged(one, second["rate"], ("tier", 1, 1))
    held = {"F202601": second["long_delta"], "F202602": second["short_delta"]}
    close(rows_of(exchange, held)["rows"]["CC"]["intra_spread_charge"], second["charge"])
    third = ice_rule("intermonth method 3")
    rates = [third["rate_t1"], third["rate_t2"], third["rate_t12"]]
    charged(one, rates, ("tier", 1, 1), ("tier", 2, 2), ("tier", 1, 2))
    held = {"F202601": 5, "F202602": -3, "F202604": 3, "F202605": -5}
    close(rows_of(exchange, held)["rows"]["CC"]["intra_spread_charge"], third["charge"])


def test_ice_us_small_rules_delivery() -> None:
    last, exchange = ice_rule("delivery method 2"), of_months()
    one = exchange["commodities"]["CC"]
    charged(one, last["intermonth_rate"], ("tier", 1, 2))
    one["delivery"] = {"202601": (Fraction(0), Fraction(last["delivery_rate"]))}
    front = last["front_spreads"]
    held = {"F202601": front + last["front_outrights"], "F202604": -front}
    found = rows_of(exchange, held)["rows"]["CC"]
    close(found["intra_spread_charge"], last["intermonth_charge"])
    close(found["delivery_charge"], last["delivery_charge"])


def test_ice_us_small_rules_short_options() -> None:
    least = ice_rule("short option minimum")
    options = [contract(right, FLAT, right=right, kind="OOF") for right in "CP"]
    exchange = exchange_of({"CC": options})
    one = exchange["commodities"]["CC"]
    one["som"] = Fraction(least["rate"])
    held = {"C": -3, "P": -2}
    assert least["short_options"] == 5
    close(rows_of(exchange, held)["rows"]["CC"]["risk"], least["som"])
    one["som_method"] = 1
    close(rows_of(exchange, held)["rows"]["CC"]["risk"], 3 * least["rate"])


def test_ice_us_small_rules_initial() -> None:
    rule = ice_rule("initial = 110%")
    assert "110%" in rule["rule"]
    exchange = exchange_of({"CC": [contract("F", linear(1_000))]})
    exchange["commodities"]["CC"]["ratios"]["hedger"] = Fraction(11, 10)
    close(rows_of(exchange, {"F": 2}, initial=True)["totals"]["USD"], 2_200)
    close(rows_of(exchange, {"F": 2})["totals"]["USD"], 2_000)


def test_nse_nifty_fut() -> None:
    array = vector("nse_nifty_fut_20260625")["array"]
    exchange = exchange_of({"NIFTY": [contract("FUT", array)]})
    long, short = (rows_of(exchange, {"FUT": side})["rows"]["NIFTY"] for side in (1, -1))
    close(long["scan_risk"], max(array))
    close(short["scan_risk"], -min(array))
    assert long["active_scenario"] == 13 and short["active_scenario"] == 11


def test_cme_gc_real_futures() -> None:
    case = vector("cme_gc_20250912_real")
    array = case["GC_202509_FUT"]["array"]
    months = ("202509", "202510", "202606")
    exchange = exchange_of(
        {"GC": [contract(f"GC {month}", array, period=month) for month in months]}
    )
    pairs = [("month", "202509", "202510"), ("month", "202509", "202606")]
    charged(exchange["commodities"]["GC"], [300, 1_000], *pairs)
    for wanted in case["expected"][:4]:
        found = rows_of(exchange, wanted["pos"])["rows"]["GC"]
        close(found["scan_risk"], wanted["scan"])
        close(found["intra_spread_charge"], wanted.get("intra", 0))
        assert found["active_scenario"] == wanted.get("active", found["active_scenario"])


@pytest.mark.parametrize("side", [1, -1])
def test_cme_gc_real_put(side: int) -> None:
    """The put's array is not public: one with the printed scan risks of both sides stands for it.

    A long put's total is printed as it is before the floor at nought.
    """
    case = vector("cme_gc_20250912_real")
    name = "OG 202512 3700 P"
    put = case["OG_put"]
    printed = {one["pos"][name]: one for one in case["expected"][4:]}
    array = [0, 0, printed[1]["scan"], -printed[-1]["scan"], *[0] * 12]
    option = contract(
        "OG",
        array,
        delta=put["delta"],
        right="P",
        kind="OOF",
        price=put["settlement"],
        multiplier=put["cvf"],
    )
    exchange = exchange_of({"GC": [option]})
    exchange["commodities"]["GC"]["som"] = Fraction(case["som_rate"])
    found, wanted = rows_of(exchange, {"OG": side}), printed[side]
    close(found["rows"]["GC"]["scan_risk"], wanted["scan"])
    close(found["rows"]["GC"]["net_option_value"], wanted["nov"])
    close(found["rows"]["GC"]["requirement"], wanted["total"])
    close(found["totals"]["USD"], max(0, wanted["total"]))


@pytest.mark.parametrize("name", WITHOUT_FILE)
def test_without_its_risk_file(name: str) -> None:
    assert vector(name)
    pytest.skip(f"{name}: the risk parameter file it was computed from is not public")


# ---------------------------------------------------------------- TIMS


@pytest.mark.parametrize("kind", sorted(RANGES))
def test_tims_points(kind: str) -> None:
    """The valuation points of a class type, from the settings' own table."""
    low, high = vector("tims_rules")["ranges"][kind]
    parameters = TimsParameters(classes={"A": {"type": kind}})
    (moves,) = groups_of(parameters, ["A"]).moves.tolist()
    steps = [low * step / 5 for step in (5, 4, 3, 2, 1)]
    steps += [high * step / 5 for step in (1, 2, 3, 4, 5)]
    assert moves == pytest.approx(steps, abs=1e-15)
