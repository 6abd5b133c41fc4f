"""Derive's standard margin: its own cases, its limits, and what sets it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import vectors_case
from crypto_bits_case import bits
from standard_case import STANDARD, Held, StandardCase, Venue, book, standard_case, standard_figures
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin.crypto_book import INITIAL, MAINTENANCE, CryptoMargin
from gpu_margin.failures import ConfigError
from gpu_margin.models import derive_standard

NUMPY = backends.load("numpy")
MARGINS = {"IM": INITIAL, "MM": MAINTENANCE}


def margined(case: StandardCase, *held: Held, backend=NUMPY) -> CryptoMargin:
    prepared = derive_standard.prepare(case.figures, case.market, backend)
    return prepared.margin(book(case.market, held or [case.held]))


@pytest.mark.parametrize(
    "name", vectors_case.cases("derive", [f"derive_standard-{name}" for name in STANDARD])
)
def test_case(name):
    case = STANDARD[name.removeprefix("derive_standard-")]
    found = margined(standard_case(case))
    assert found.failures.is_empty()
    got = {short: found.figures[f"margin_value_{level}"][0] for short, level in MARGINS.items()}
    for short, level in MARGINS.items():
        assert found.value(level)[0] == pytest.approx(got[short], rel=1e-10, abs=1e-10)
    got["mtm"] = found.mark_to_market[0] + found.cash[0]
    for key, expected in case["expected"].items():
        value = got[key.removesuffix("_trunc")]
        if key.endswith("_trunc"):
            assert math.trunc(value) == expected, key
        else:
            assert value == pytest.approx(expected, rel=0, abs=1e-10 * max(1, abs(expected))), key


# ---------------------------------------------------------------- a venue of our own

TERMS = {
    "maxSpot": 0.15,
    "minSpot": 0.13,
    "mmCall": 0.09,
    "mmPut": 0.08,
    "mmPutMtm": 0.07,
    "unpIM": 1.2,
    "unpMM": 1.1,
    "mmOffset": 1.05,
    "conf_thr": 0.55,
    "oc_factor": 1.0,
    "depeg_thr": 0.99,
    "depeg_fac": 2.0,
    "perp_mm": 0.05,
    "perp_im": 0.066,
    "im_scale": 0.93,
    "base_factor": 0.75,
}
MONTH, QUARTER = 30 * 86_400.0, 90 * 86_400.0


def a_venue(volatility: float = 0.6, month: float = MONTH) -> Venue:
    venue = Venue()
    for name, spot in (("BTC", 90_000.0), ("ETH", 3_000.0)):
        venue.underlying(name, spot)
        venue.held(f"{name}-PERP", "perpetual", underlying=name, price=spot * 1.001)
        venue.held(name, "coin", underlying=name, price=spot)
        for seconds, premium in ((month, 1.002), (QUARTER, 1.01)):
            venue.expiry(name, seconds, spot * premium)
            for share in (0.8, 0.9, 1.0, 1.1, 1.2):
                for call in (True, False):
                    venue.option(name, seconds, spot * share, call, volatility)
    return venue


def of(venue: Venue, names=("BTC", "ETH"), **terms: float) -> StandardCase:
    return StandardCase(standard_figures(TERMS | terms, names), venue.market(), Held())


def name(underlying: str, strike: float, right: str, seconds: float = MONTH) -> str:
    return f"{underlying}-{seconds:.0f}-{strike:08.0f}-{right}"


CASE = of(a_venue())


def test_empty_sets_and_cash_alone_need_nothing():
    found = margined(CASE, Held(), Held(cash=12.5), Held(cash=-3.0))
    assert found.failures.is_empty()
    for level in (INITIAL, MAINTENANCE):
        assert found.levels[level].requirement.tolist() == [0.0, 0.0, 0.0]
        assert found.value(level).tolist() == [0.0, 12.5, -3.0]
    assert found.worst.tolist() == [-1, -1, -1] and found.scenarios == ()


def test_no_sets_and_no_instruments():
    prepared = derive_standard.prepare(CASE.figures, CASE.market, NUMPY)
    found = prepared.margin(book(CASE.market, []), pnl=True)
    assert len(found.cash) == 0 and found.pnl.shape == (0, 0)
    nothing = of(Venue(), ())
    assert margined(nothing, Held(cash=1.0)).value(INITIAL).tolist() == [1.0]


def test_one_perpetual_requires_a_share_of_its_notional_on_either_side():
    found = margined(CASE, Held({"BTC-PERP": 2.0}, unrealised=7.0), Held({"BTC-PERP": -2.0}))
    notional = 2.0 * 90_090.0
    assert found.levels[INITIAL].requirement == pytest.approx([notional * 0.066] * 2)
    assert found.levels[MAINTENANCE].requirement == pytest.approx([notional * 0.05] * 2)
    assert found.mark_to_market.tolist() == [7.0, 0.0]


def test_a_coin_counts_for_its_factor():
    found = margined(CASE, Held({"ETH": 4.0}))
    assert found.value(MAINTENANCE) == pytest.approx([12_000 * 0.75])
    assert found.value(INITIAL) == pytest.approx([12_000 * 0.75 * 0.93])
    assert found.mark_to_market.tolist() == [12_000.0]


def test_long_options_count_for_nothing():
    found = margined(CASE, Held({name("ETH", 3000, "C"): 3.0, name("ETH", 2700, "P"): 1.0}))
    assert found.mark_to_market[0] > 0
    assert found.value(INITIAL).tolist() == [0.0]
    assert found.value(MAINTENANCE).tolist() == [0.0]


def test_a_covered_spread_loses_its_width_and_a_naked_call_its_own_margin():
    spread = Held({name("ETH", 2700, "C"): -1.0, name("ETH", 3000, "C"): 1.0})
    naked = Held({name("ETH", 3600, "C"): -1.0})
    found = margined(CASE, spread, naked)
    mark = found.mark_to_market[1]
    # 15% less 20% out of the money is below 13%, which is the least.
    assert found.value(INITIAL) == pytest.approx([-300.0, mark - 0.13 * 3000])
    assert found.value(MAINTENANCE) == pytest.approx([-300.0, mark - 0.09 * 3000])


def test_uncovered_calls_cost_their_forward_beyond_their_own_strikes():
    case = of(a_venue(), unpIM=0.1, unpMM=0.05)
    short = Held({name("ETH", 2700, "C"): -2.0, name("ETH", 2400, "C"): 1.0})
    found = margined(case, short)
    # They pay 300 at their last strike; higher ones of the market are not theirs.
    assert found.value(INITIAL) == pytest.approx([-0.1 * 3006])
    assert found.value(MAINTENANCE) == pytest.approx([-0.05 * 3006])


def test_calls_do_not_cover_calls_of_another_expiry_or_market():
    near = {name("ETH", 2700, "C"): -1.0}
    alone = margined(CASE, Held(near)).value(INITIAL)[0]
    others = {name("ETH", 2700, "C", QUARTER): 1.0, name("BTC", 72_000, "C"): 1.0}
    assert margined(CASE, Held(near | others)).value(INITIAL)[0] == pytest.approx(alone)


def test_strikes_that_a_set_does_not_hold_change_nothing():
    few = Venue()
    few.underlying("ETH", 3_000.0)
    few.expiry("ETH", MONTH, 3_006.0)
    for strike in (2_700.0, 3_000.0):
        few.option("ETH", MONTH, strike, False, 0.6)
    held = Held({name("ETH", 2700, "P"): -1.3, name("ETH", 3000, "P"): 0.7})
    assert bits(margined(of(few), held)) == bits(margined(CASE, held))


def test_no_volatility_and_no_time_leave_the_intrinsic_value():
    for venue in (a_venue(volatility=0.0), a_venue(month=0.0)):
        seconds = min(key[1] for key in venue.expiries)
        put, call = name("ETH", 3300, "P", seconds), name("ETH", 3600, "C", seconds)
        found = margined(of(venue), Held({put: -1.0}), Held({call: -1.0}))
        assert found.failures.is_empty()
        assert found.mark_to_market == pytest.approx([-(3300 - 3006), 0.0])
        short = 3000 * 0.08 + 294
        assert found.value(MAINTENANCE) == pytest.approx([-short, -0.09 * 3000])


def test_sizes_scale():
    held = {name("ETH", 2700, "P"): -2.0, name("ETH", 3300, "C"): -1.0, "BTC-PERP": 0.5, "ETH": 1.0}
    large = {key: size * 2.0**20 for key, size in held.items()}
    found = margined(CASE, Held(held), Held(large))
    for level in (INITIAL, MAINTENANCE):
        small, big = found.levels[level].requirement
        assert big == small * 2.0**20


def test_all_short_is_no_less_than_each_alone():
    options = {key: -1.0 for key in CASE.market.instruments.ids if key.endswith(("-C", "-P"))}
    each = [Held({key: size}) for key, size in options.items()]
    found = margined(CASE, Held(options), *each)
    for level in (INITIAL, MAINTENANCE):
        value = found.value(level)
        assert value[0] < 0
        assert value[0] >= value[1:].sum() - 1e-6


def test_feeds_that_are_unsure_cost_for_initial_margin_only():
    venue = a_venue()
    venue.underlying("ETH", 3_000.0, 0.3)
    held = Held({"ETH-PERP": -2.0, "ETH": 1.5, name("ETH", 3000, "C"): -3.0, "BTC-PERP": 1.0})
    found = margined(of(venue), held)
    parts = found.levels[INITIAL].components
    assert parts["confidence_perpetual"] == pytest.approx([0.7 * 3000 * 2])
    assert parts["confidence_collateral"] == pytest.approx([0.7 * 3000 * 1.5])
    assert parts["confidence_option"] == pytest.approx([0.7 * 3000 * 3])
    sure = margined(CASE, held)
    maintenance = found.levels[MAINTENANCE].requirement
    assert maintenance.tolist() == sure.levels[MAINTENANCE].requirement.tolist()
    venue.underlying("ETH", 3_000.0, 0.55)
    assert bits(margined(of(venue), held)) == bits(sure)


def test_a_lost_peg_costs_for_perpetuals_and_short_options():
    venue = a_venue()
    venue.stable = 0.97
    held = Held({"ETH-PERP": -2.0, "ETH": 1.5, name("ETH", 3000, "C"): -3.0}, cash=5.0)
    long = Held({name("ETH", 3000, "C"): 3.0})
    found = margined(of(venue), held, long, Held({"ETH": 1.0}))
    parts = found.levels[INITIAL].components
    assert parts["peg"] == pytest.approx([0.02 * 2 * 3000 * 5, 0.0, 0.0])
    assert found.mark_to_market[2] == pytest.approx(3000 / 0.97)
    assert found.value(MAINTENANCE)[2] == pytest.approx(3000 * 0.75)


# ---------------------------------------------------------------- batches and backends


def random_sets(count: int, seed: int) -> list[Held]:
    random, ids = np.random.default_rng(seed), CASE.market.instruments.ids.to_list()
    sets = []
    for _ in range(count):
        chosen = random.choice(len(ids), size=random.integers(0, 12), replace=False)
        size = np.round(random.normal(size=len(chosen)) * 3, 2)
        size = np.where([ids[n] in ("BTC", "ETH") for n in chosen], np.abs(size), size)
        held = {ids[n]: float(q) for n, q in zip(chosen, size, strict=True) if q}
        sets.append(Held(held, float(random.normal() * 1e4), float(random.normal() * 100)))
    return sets


def test_components_add_up_in_their_order():
    found = margined(CASE, *random_sets(60, 1))
    for level in found.levels.values():
        total = np.zeros(60)
        for amount in level.components.values():
            total = total + amount
        assert total.tolist() == level.requirement.tolist()


def test_a_set_has_the_same_bits_alone_or_among_others_and_on_every_backend(monkeypatch):
    sets = random_sets(40, 2)
    together = bits(margined(CASE, *sets))
    for place, held in enumerate(sets):
        alone = bits(margined(CASE, held))
        one = slice(8 * place, 8 * place + 8)
        assert {name: every[one] for name, every in together.items()} == alone
    monkeypatch.setattr("gpu_margin.derive_options._CELLS", 20)
    assert bits(margined(CASE, *sets)) == together
    for backend in (backends.load("numba"), STRICT):
        assert bits(margined(CASE, *sets, backend=backend)) == together


# ---------------------------------------------------------------- refusals


def test_sets_that_cannot_be_margined_fail_by_name_and_others_go_on():
    venue = a_venue()
    venue.held("BTC-JUN", "future", underlying="BTC", price=1.0, expiry=MONTH)
    venue.held("BTC-USD", "perpetual", underlying="BTC", price=9e4, inverse=True)
    venue.held("SHIB", "coin", price=1.0)
    venue.held("ETH-NAN", "perpetual", underlying="ETH")
    case = of(venue)
    odd = ("BTC-JUN", "BTC-USD", "SHIB", "ETH-NAN")
    sets = [Held({key: 1.0, "ETH-PERP": 1.0}) for key in odd]
    good = Held({"ETH-PERP": 1.0}, cash=3.0)
    found = margined(case, *sets, Held({"BTC": -1.0}), good)
    assert found.failures["source"].to_list() == [f"account-{n:06d}" for n in range(5)]
    assert found.failures["value"].to_list() == [*odd, "BTC"]
    assert len(set(found.failures["reason"])) == 5
    for level in (INITIAL, MAINTENANCE):
        assert np.isnan(found.value(level)).tolist() == [True] * 5 + [False]
    known = {key: value[-8:] for key, value in bits(found).items()}
    assert known == bits(margined(CASE, good))


def test_a_charge_that_the_rulebook_does_not_know_is_a_failure():
    found = margined(CASE, Held(cash=1.0, charges={"mmp": 5.0}), Held(cash=1.0))
    assert found.failures.select("source", "field").rows() == [("account-000000", "mmp")]


def test_a_margin_beyond_all_numbers_is_a_failure():
    found = margined(CASE, Held({"BTC-PERP": 1e306}), Held({"BTC-PERP": 1.0}))
    assert found.failures["source"].to_list() == ["account-000000"]
    assert np.isnan(found.mark_to_market).tolist() == [True, False]


# ---------------------------------------------------------------- the table


def parameters(**more) -> derive_standard.Parameters:
    return derive_standard.Parameters(feeds="f", positions="p", **more)


def test_the_live_table_has_every_market():
    figures = derive_standard.figures(parameters())
    assert figures.peg.threshold == 0.99 and figures.peg.factor == 2.0
    assert len(figures.markets) == 47
    assert figures.markets["BTC"].perpetual.initial == 0.066
    assert figures.markets["HYPE"].option.spot_most == 0.3
    assert figures.markets["DOGE"].option is None
    assert figures.markets["wstETH"].collateral.factor == 0.8


def test_single_figures_can_be_replaced():
    changed = parameters(figures={"BTC": {"perpetual": {"initial": 0.2}}, "peg": {"factor": 3.0}})
    figures, table = derive_standard.figures(changed), derive_standard.figures(parameters())
    assert figures.markets["BTC"].perpetual.initial == 0.2
    assert figures.markets["BTC"].perpetual.maintenance == 0.05
    assert figures.peg.factor == 3.0 and figures.peg.threshold == 0.99
    assert figures.markets["ETH"] == table.markets["ETH"]


def test_wrong_figures_and_tables_are_errors():
    with pytest.raises(ValueError, match="did you mean 'perpetual'"):
        parameters(figures={"BTC": {"perpetuall": {"initial": 0.2}}})
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        parameters(figures={"BTC": {"perpetual": {"initial": -0.2}}})
    with pytest.raises(ConfigError, match="mainnet"):
        parameters(table="testnet")


def test_the_same_market_is_asked_many_times():
    prepared = derive_standard.prepare(CASE.figures, CASE.market, NUMPY)
    sets = book(CASE.market, random_sets(10, 3))
    assert bits(prepared.margin(sets)) == bits(prepared.margin(replace(sets)))
