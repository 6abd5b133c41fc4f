"""OKX's portfolio margin: the venue's example, by hand where it has none, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import vectors_case
from crypto_bits_case import bits, close
from okx_case import ANSWERS, MONTH, OPEN, SHOCKS, WEEK, Builder, a_venue
from standard_case import Held, Venue, book
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin.crypto_book import INITIAL, MAINTENANCE, CryptoMargin, CryptoMarket
from gpu_margin.crypto_shocks import option_value
from gpu_margin.models import okx_pm

NUMPY = backends.load("numpy")


def figures(**changed) -> okx_pm.Figures:
    return okx_pm.figures(okx_pm.Parameters(feeds="f", positions="p", figures=changed))


def margined(
    market: CryptoMarket, *held: Held, backend=NUMPY, pnl: bool = False, **changed
) -> CryptoMargin:
    prepared = okx_pm.prepare(figures(**changed), market, backend)
    return prepared.margin(book(market, held), pnl=pnl)


# ---------------------------------------------------------------- the venue's example

UNITS = [
    pytest.param((case, unit), id=f"okx_pm-{case}-{unit}")
    for case, answer in ANSWERS.items()
    for unit in answer["riskUnits"]
]
ACCOUNTS = [pytest.param(case, id=f"okx_pm-{case}-account") for case in ANSWERS]


@pytest.mark.parametrize("place", vectors_case.cases("okx", UNITS))
def test_unit_of_case(place):
    case, unit = place
    built = Builder(ANSWERS[case])
    expected = built.units[unit]
    market = built.venue.market()
    found = margined(market, built.of(unit, cash=1e9), pnl=True)
    assert found.failures.is_empty()
    for name in ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7", "mr9"):
        close(found.figures[name][0], expected[name])
    close(found.levels[MAINTENANCE].requirement[0], expected["mmr"])
    close(found.levels[INITIAL].requirement[0], expected["imr"])
    close(found.mark_to_market[0], expected["upl"])
    cell = dict(zip(found.scenarios, found.pnl[0], strict=True))
    for move, gain in expected["mr1_scenarios_volSame"].items():
        for volatility in ("up", "same", "down"):
            close(cell[f"{unit} spot {100 * float(move):+g}% vol {volatility}"], gain)
    final, extreme = expected["mr1_final"], expected["mr6_final"]
    worst = f"{unit} spot {100 * final['spotShock']:+g}% vol {final['volShock']}"
    assert found.scenarios[found.worst[0]] == worst
    close(cell[worst], final["pnl"])
    close(cell[f"{unit} spot {100 * extreme['spotShock']:+g}% extreme"], extreme["pnl"])


@pytest.mark.parametrize("case", vectors_case.cases("okx", ACCOUNTS))
def test_account_of_case(case):
    built = Builder(ANSWERS[case])
    expected, market = built.account, built.venue.market()
    found = margined(market, built.of(*built.units, cash=built.cash))
    assert found.failures.is_empty()
    maintenance, initial = found.levels[MAINTENANCE], found.levels[INITIAL]
    close(maintenance.components["mr8"][0], expected["borrowMmr_mr8"])
    close(maintenance.requirement[0], expected["totalMmr"])
    close(maintenance.requirement[0] - maintenance.components["mr8"][0], expected["derivMmr"])
    close(initial.requirement[0], expected["totalImr"])
    equity = found.mark_to_market[0] + found.cash[0]
    close(equity, expected["eq"])
    close(found.mark_to_market[0], expected["upl"])


# ---------------------------------------------------------------- a venue of our own

MARKET = a_venue().market()
SWAP = "BTC-USDT-SWAP"


def test_empty_sets_and_cash_alone_need_nothing():
    found = margined(MARKET, Held(), Held(cash=5.0), Held({"USDT": 7.0}))
    assert found.failures.is_empty()
    for level in (INITIAL, MAINTENANCE):
        assert found.levels[level].requirement.tolist() == [0.0, 0.0, 0.0]
        assert found.value(level).tolist() == [0.0, 5.0, 7.0]
    assert found.worst.tolist() == [-1, -1, -1]


def test_no_sets_and_no_instruments():
    assert len(margined(MARKET).cash) == 0
    nothing = margined(Venue().market(), Held(cash=1.0), pnl=True)
    assert nothing.value(INITIAL).tolist() == [1.0] and nothing.pnl.shape == (1, 0)


def test_one_perpetual_by_hand():
    found = margined(MARKET, Held({SWAP: -2.0}), **OPEN)
    assert found.figures["mr1"] == pytest.approx([2 * 90_000 * 0.12])
    assert found.figures["mr4"] == pytest.approx([2 * 90_090 * 0.01])
    assert found.figures["mr6"] == pytest.approx([2 * 90_000 * 0.24 / 2])
    assert found.figures["mr7"] == pytest.approx([2 * 90_090 * 0.01])
    assert found.scenarios[found.worst[0]] == "BTC spot +12% vol up"
    assert found.levels[INITIAL].requirement == pytest.approx([1.3 * (21_600 + 1_801.8)])


def test_contracts_on_a_coin_are_one_unit_and_others_are_not():
    mixed = {SWAP: 1.0, "BTC-USDC-SWAP": -1.0, "BTC-USD-SWAP": 0.5, "LTC-USDT-SWAP": -10.0}
    sets = [Held(mixed), Held({"BTC-USD-SWAP": 0.5}), Held({"LTC-USDT-SWAP": -10.0})]
    found = margined(MARKET, *sets, **OPEN)
    assert found.figures["mr1"][0] == pytest.approx(found.figures["mr1"][1:].sum())
    # Perpetuals of one unit are one leg against the index; each is charged at least the minimum.
    assert found.figures["mr4"][0] == pytest.approx(found.figures["mr4"][1:].sum())
    more = 2 * 90_090 * 0.01
    assert found.figures["mr7"][0] == pytest.approx(found.figures["mr7"][1:].sum() + more)


def test_a_hedged_unit_pays_the_minimum():
    found = margined(MARKET, Held({SWAP: 1.0, "BTC-USDC-SWAP": -1.0}), **OPEN)
    parts = found.levels[MAINTENANCE].components
    assert parts["mr7"] == pytest.approx([2 * 90_090 * 0.01])
    assert parts["mr1"].tolist() == [0.0] and found.worst.tolist() == [-1]


def test_extreme_moves_decide_where_wings_are_short():
    call = next(n for n in MARKET.instruments.ids if n.startswith("BTC-604800-00108000-C"))
    venue = {"tiers": {**OPEN["tiers"], "first": {"extreme": 0.9, "minimum_steps": [[1e300, 1]]}}}
    found = margined(MARKET, Held({call: -1.0}), **{**OPEN, **venue})
    assert found.scenarios[found.worst[0]] == "BTC spot +90% extreme"
    parts = found.levels[MAINTENANCE].components
    assert parts["mr6"] == found.figures["mr6"] and parts["mr1"].tolist() == [0.0]


def test_spot_hedges_as_far_as_there_are_contracts_against_it():
    sets = [Held({"BTC": 1.0}), Held({"BTC": 5.0, SWAP: -2.0}), Held({"BTC": 1.0, SWAP: -2.0})]
    found = margined(MARKET, *sets, Held({"BTC": 1.0, SWAP: 2.0}), **OPEN)
    one = 90_000 * 0.12
    assert found.figures["mr1"] == pytest.approx([0.0, 0.0, one, 2 * one], abs=1e-9)
    apart = margined(MARKET, *sets, **OPEN, spot_offset=False)
    assert apart.figures["mr1"] == pytest.approx([0.0, 2 * one, 2 * one])
    discount = found.levels[INITIAL].components["collateral_discount"]
    assert discount == pytest.approx([4_500.0, 22_500.0, 4_500.0, 4_500.0])


# By its share a volatility of 80% moves more than by points, one of 20% by points.
@pytest.mark.parametrize(("volatility", "up", "down"), [(0.8, 1.2, 0.4), (0.2, 0.5, 0.0)])
@pytest.mark.parametrize("side", [1.0, -1.0])
def test_options_are_revalued_in_every_cell(volatility, up, down, side):
    strike, week, years = 90_000.0, "BTC-604800-00090000", 7 / 365
    sizes, calls = side * np.array([-3.0, 2.0]), np.array([True, False])
    market = a_venue(volatility).market()
    held = Held({f"{week}-C": sizes[0], f"{week}-P": sizes[1]})
    found = margined(market, held, pnl=True, **OPEN)
    forward = 90_000.0 * 1.001

    def value(factor, sigma, time=years):
        return float(sizes @ option_value(forward * factor, strike, sigma, time, calls))

    now, cell = value(1.0, volatility), dict(zip(found.scenarios, found.pnl[0], strict=True))
    for move in (-12, -8, -4, 0, 4, 8, 12):
        for name, sigma in (("up", up), ("same", volatility), ("down", down)):
            got = cell[f"BTC spot {move:+g}% vol {name}"]
            close(got, value(1 + move / 100, sigma) - now)
    for move in (24, -24):
        close(cell[f"BTC spot {move:+g}% extreme"], value(1 + move / 100, volatility) - now)
    close(found.figures["mr2"][0], max(0.0, now - value(1.0, volatility, 6 / 365)))
    assert (found.figures["mr2"][0] > 0) == (side < 0)
    assert found.mark_to_market == pytest.approx([now])


def test_long_tenors_move_by_less():
    call = f"BTC-{MONTH:.0f}-00090000-C"
    found = margined(MARKET, Held({call: 1.0}), pnl=True, **OPEN)
    cell = dict(zip(found.scenarios, found.pnl[0], strict=True))
    terms = (90_000.0 * 1.005, 90_000.0), (30 / 365, True)
    # A quarter of 60% is more than 10 points.
    gain = option_value(*terms[0], 0.75, *terms[1]) - option_value(*terms[0], 0.6, *terms[1])
    close(cell["BTC spot +0% vol up"], float(gain))


def test_no_volatility_and_no_time():
    free = {**OPEN, "volatility": [{"days": 1e9, "points": 0.0, "share": 0.5}]}
    for venue in (a_venue(volatility=0.0), a_venue(week=0.0)):
        market = venue.market()
        seconds = min(key[1] for key in venue.expiries)
        put = f"BTC-{seconds:.0f}-00108000-P"
        found = margined(market, Held({put: -1.0}), **free)
        assert found.failures.is_empty()
        forward = 90_000 * 1.001
        assert found.mark_to_market == pytest.approx([forward - 108_000])
        assert found.figures["mr1"] == pytest.approx([0.12 * forward])
        assert found.figures["mr2"].tolist() == [0.0]


def test_futures_pay_for_the_time_they_have():
    found = margined(MARKET, Held({f"BTC-USDT-{MONTH:.0f}": 1.0}), **OPEN)
    assert found.figures["mr4"] == pytest.approx([90_450 * 0.05 * 30 / 365])
    spread = Held({f"BTC-USDT-{MONTH:.0f}": 1.0, f"BTC-USDT-{WEEK:.0f}": -1.0})
    found = margined(MARKET, spread, **OPEN)
    both = 90_450 * 0.05 * 30 / 365 + 90_090 * 0.05 * 7 / 365
    assert found.figures["mr4"] == pytest.approx([both])


def test_the_minimum_charge_has_steps():
    steps = {"first": {"minimum_steps": [[1000.0, 1.0], [5000.0, 2.0]]}}
    changed = {**OPEN, "tiers": {**OPEN["tiers"], **steps}}
    sizes = (1.0, 2.0, 1000.0 / (90_090 * 0.0045), 20.0)
    sets = [Held({SWAP: size, "BTC-USDC-SWAP": -1e-9}) for size in sizes]
    found = margined(MARKET, *sets, **changed)
    rate = 90_090 * 0.0045
    assert found.figures["mr7"][:2] == pytest.approx([rate, rate * 2])
    assert found.failures["source"].to_list() == ["account-000003"]
    found = margined(MARKET, Held({SWAP: 5.0}), **changed)
    assert found.figures["mr7"] == pytest.approx([rate * 5 * 2])


def test_sizes_scale():
    held = {SWAP: -1.5, "BTC-604800-00090000-C": 2.0, "LTC-USDT-SWAP": 30.0, "BTC": 0.5}
    large = {key: size * 2.0**20 for key, size in held.items()}
    found = margined(MARKET, Held(held), Held(large), **OPEN)
    for level in (INITIAL, MAINTENANCE):
        small, big = found.levels[level].requirement
        assert big == small * 2.0**20 > 0


def test_all_short_is_no_more_than_each_alone():
    held = {name: -1.0 for name in MARKET.instruments.ids if name not in ("BTC", "USDT")}
    found = margined(MARKET, Held(held), *[Held({k: v}) for k, v in held.items()], **OPEN)
    assert found.failures.is_empty()
    required = found.levels[MAINTENANCE].requirement
    assert 0 < required[0] <= required[1:].sum() + 1e-6


# ---------------------------------------------------------------- charges and refusals


def test_given_charges_count_within_the_unit_or_on_top_of_several():
    changed = {**OPEN, "waived": []}
    near, far = "BTC-604800-00090000-C", f"BTC-{MONTH:.0f}-00090000-C"
    charges = {"mr3": 10.0, "mr5": 20.0}
    held = {near: -1.0, far: 1.0}
    lone = Held(held, charges=charges)
    both = Held({**held, "LTC-USDT-SWAP": 10.0}, charges=charges)
    other = Held({"LTC-USDT-SWAP": 10.0})
    found = margined(MARKET, lone, both, other, **changed)
    assert found.failures.is_empty()
    parts = found.levels[MAINTENANCE].components
    assert parts["mr3"].tolist() == [10.0, 10.0, 0.0]
    assert parts["mr5"].tolist() == [20.0, 20.0, 0.0]
    required = found.levels[MAINTENANCE].requirement
    assert required[1] == pytest.approx(required[0] + required[2])
    hedged = Held({SWAP: 1.0, "BTC-USDC-SWAP": -1.0}, charges={"mr3": 10.0, "mr9": 3.0})
    parts = margined(MARKET, hedged, **changed).levels[MAINTENANCE].components
    assert parts["mr3"].tolist() == [0.0] and parts["mr9"].tolist() == [3.0]


def test_borrowing_beyond_what_is_known_needs_its_charges():
    sets = [
        Held(cash=-1_000.0),
        Held(cash=-80_000.0),
        Held(cash=-80_000.0, charges={"mr8": 1_700.0, "mr8_initial": 8_100.0}),
        Held(cash=-80_000.0, charges={"mr8": 1_700.0}),
        Held({"BTC": -0.1}),
    ]
    found = margined(MARKET, *sets, **OPEN)
    assert found.failures["field"].to_list() == ["mr8_initial", "mr8", "mr8"]
    kept, asked = (found.levels[n].components["mr8"] for n in (MAINTENANCE, INITIAL))
    assert kept[[0, 2]].tolist() == [20.0, 1_700.0] and asked[[0, 2]].tolist() == [100.0, 8_100.0]
    assert np.isnan(kept[[1, 3, 4]]).all()


def test_what_is_not_public_is_refused_by_name():
    near, far = "BTC-604800-00090000-C", f"BTC-{MONTH:.0f}-00090000-C"
    odd = {
        "options of several expiries": {near: -1.0, far: 1.0},
        "options need the charge mr5": {near: 1.0},
        "several settlement currencies": {SWAP: 1.0, "BTC-USDC-SWAP": -1.0},
        "no perpetual_basis": {"XYZ-USDT-SWAP": 1.0},
        "no minimum_charge": {f"XYZ-USDT-{WEEK:.0f}": 1.0},
        "no share that it counts for": {"BTC": 1.0},
        "minimum charge is beyond": {SWAP: 1000.0},
    }
    sets = [Held(positions) for positions in odd.values()]
    found = margined(MARKET, *sets, Held({SWAP: 1.0}), volatility=SHOCKS)
    told = dict(zip(found.failures["source"], found.failures["reason"], strict=True))
    for place, reason in enumerate(odd):
        assert reason in told.pop(f"account-{place:06d}")
    assert not told
    assert np.isfinite(found.levels[INITIAL].requirement).tolist() == [False] * 7 + [True]
    without = margined(MARKET, Held({near: 1.0}), waived=["mr3", "mr5"])
    assert "volatility shocks" in without.failures["reason"][0]


def test_bad_charges_prices_and_sizes_are_failures():
    venue = a_venue()
    venue.held("LTC-ODD-SWAP", "perpetual", underlying="LTC", settlement="USDT")
    sets = [
        Held({SWAP: 1.0}, charges={"mr3": -1.0}),
        Held({SWAP: 1.0}, charges={"mr9": math.nan}),
        Held({"LTC-ODD-SWAP": 1.0}),
        Held({SWAP: 1e305}),
        Held({SWAP: 1.0}, charges={"open_orders": 1.0}),
        Held({SWAP: 1.0}),
    ]
    found = margined(venue.market(), *sets, **OPEN)
    assert sorted(found.failures["source"]) == [f"account-{n:06d}" for n in range(5)]
    assert np.isfinite(found.levels[INITIAL].requirement).tolist() == [False] * 5 + [True]


# ---------------------------------------------------------------- batches and backends


def random_sets(count: int, seed: int) -> list[Held]:
    random, ids = np.random.default_rng(seed), MARKET.instruments.ids.to_list()
    sets = []
    for _ in range(count):
        chosen = random.choice(len(ids), size=random.integers(0, 12), replace=False)
        size = np.round(random.normal(size=len(chosen)) * 3, 2)
        size = np.where([ids[n] in ("BTC", "USDT") for n in chosen], np.abs(size), size)
        held = {ids[n]: float(q) for n, q in zip(chosen, size, strict=True) if q}
        charges = {"mr3": float(random.choice([0.0, 50.0])), "mr9": float(random.choice([0, 9]))}
        sets.append(Held(held, float(random.normal() * 1e4), float(random.normal()), charges))
    return sets


def test_components_add_up_in_their_order():
    found = margined(MARKET, *random_sets(60, 1), **OPEN)
    assert found.failures.is_empty()
    for level in found.levels.values():
        total = np.zeros(60)
        for amount in level.components.values():
            total = total + amount
        assert total.tolist() == level.requirement.tolist()


def test_a_set_has_the_same_bits_alone_or_among_others_and_on_every_backend(monkeypatch):
    sets = random_sets(30, 2)
    together = bits(margined(MARKET, *sets, **OPEN))
    for place, held in enumerate(sets):
        one = slice(8 * place, 8 * place + 8)
        alone = bits(margined(MARKET, held, **OPEN))
        assert {name: every[one] for name, every in together.items()} == alone
    monkeypatch.setattr("gpu_margin.okx_charges._UNITS", 3)
    assert bits(margined(MARKET, *sets, **OPEN)) == together
    for backend in (backends.load("numba"), STRICT):
        assert bits(margined(MARKET, *sets, backend=backend, **OPEN)) == together


def test_gains_of_all_cells_only_when_asked_for():
    sets = random_sets(20, 3)
    assert margined(MARKET, *sets, **OPEN).pnl is None
    found = margined(MARKET, *sets, pnl=True, **OPEN)
    assert found.pnl.shape == (20, len(found.scenarios))
    assert len(set(found.scenarios)) == len(found.scenarios) == 3 * 23
    assert bits(replace(found, pnl=None)) == bits(margined(MARKET, *sets, **OPEN))


def test_wrong_figures_are_errors():
    with pytest.raises(ValueError, match="listed in several tiers"):
        figures(tiers={"second": {"coins": ["BTC"]}})
    with pytest.raises(ValueError, match="without coins"):
        figures(tiers={"others": {"coins": ["XYZ"]}})
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        figures(initial_factor=0.9)
