"""Derive's portfolio margins against every fixture, and what they do at their limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from crypto_bits_case import bits
from derive_case import Case, book_of, folder, pm1_cases, pm2_case, pm2_names
from derive_venue import BACKENDS, PM2, RULEBOOKS, near, random_book, venue, venue_of

from gpu_margin import derive_grid
from gpu_margin.crypto_book import INITIAL, MAINTENANCE, CryptoMargin
from gpu_margin.crypto_shocks import svi_volatility
from gpu_margin.models import derive_pm1, derive_pm2

# The rulebook forbids a twist of the smile with a spot move; the one fixture that has it.
FORBIDDEN = "test_67_misc_skew_scenario_with_spot_move"
DIRECTIONS = {1: "up", 0: "none", -1: "down"}


# ---------------------------------------------------------------- fixtures


def pm2_margin(case: Case, figures: Mapping[str, Any]) -> tuple[derive_pm2.Figures, CryptoMargin]:
    own = derive_pm2.Figures(**figures)
    prepared = derive_pm2.prepare({"BASE": own}, case.market, BACKENDS[0])
    found = prepared.margin(case.book, pnl=True)
    assert found.failures.is_empty()
    return own, found


def wrong_amounts(found: CryptoMargin, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a fixture of PMRM 2 that differ: name -> found and expected."""
    initial = found.levels[INITIAL].components
    unsure = ("perpetual_confidence", "option_confidence", "collateral_confidence")
    amounts = {
        "IM": found.value(INITIAL),
        "MM": found.value(MAINTENANCE),
        "ForwardContingency": found.figures["basis_contingency"],
        "PortfolioMTM": found.mark_to_market + found.cash,
        "OptionMTM": found.figures["option_value"],
        "CollateralMTM": found.figures["collateral_value"],
        "MMPerpCont": -initial["perpetual"],
        "IMPerpCont": -initial["perpetual_initial"],
        "MMOptionCont": -initial["short_options"],
        "IMOptionCont": -initial["short_options_initial"],
        "MMBaseCont": -initial["collateral_haircut"],
        "IMBaseCont": -initial["collateral_haircut_initial"],
        "OracleCont": -np.sum([initial[name] for name in unsure], axis=0),
    }
    pairs = {name: (float(amount[0]), expected[name]) for name, amount in amounts.items()}
    return {name: pair for name, pair in pairs.items() if not near(*pair)}


def wrong_scenarios(
    figures: derive_pm2.Figures, found: CryptoMargin, expected: Mapping[str, Any]
) -> list[Any]:
    """Scenarios of a fixture whose P&L no scenario of that spot and volatility has."""
    assert found.pnl is not None
    places = {name: place for place, name in enumerate(found.scenarios)}
    ours = [
        (one.spot - 1.0, one.volatility, float(found.pnl[0, places[name]]))
        for one, name in zip(figures.ordered, figures.names, strict=True)
    ]
    asked = [
        (float(spot), DIRECTIONS[moved], float(pnl))
        for spot, moved, pnl in [*expected["reg_losses"], *expected["tail_losses"]]
    ]
    asked += [(0.0, kind.lower(), float(pnl)) for kind, pnl in expected["skew_losses"]]
    return [
        one
        for one in asked
        if not any(
            abs(own[0] - one[0]) < 1e-9 and own[1] == one[1] and near(own[2], one[2])
            for own in ours
        )
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"derive_pm2-{name}") for name in pm2_names()]
)
def test_fixtures_of_the_second_portfolio_margin(name: str) -> None:
    """Every figure and every scenario's P&L."""
    case = pm2_case(name)
    figures, expected = dict(case.figures), case.expected
    if name == FORBIDDEN:
        with pytest.raises(ValueError, match="a skew scenario leaves the spot where it is"):
            derive_pm2.Figures(**figures)
        twisted = {("linear", 1.18)}
        allowed = [
            one for one in figures["scenarios"] if (one["volatility"], one["spot"]) not in twisted
        ]
        figures["scenarios"] = allowed
        skews = [one for one in expected["skew_losses"] if one[0] != "LINEAR_SPOT_SHOCK"]
        expected = {**expected, "skew_losses": skews}
    own, found = pm2_margin(case, figures)
    assert not wrong_amounts(found, expected)
    assert not wrong_scenarios(own, found, expected)
    count = len(expected["reg_losses"]) + len(expected["tail_losses"])
    assert count + len(expected["skew_losses"]) == len(own.scenarios)
    worst = min(
        *(expected[f"worst_{kind}_loss"] for kind in ("reg", "tail")),
        *(float(pnl) for _, pnl in expected["skew_losses"]),
        expected["ForwardContingency"],
    )
    assert near(found.figures["worst_pnl"][0], min(worst, 0.0))


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=f"derive_pm1-{name}") for name in pm1_cases()]
)
def test_fixtures_of_the_first_portfolio_margin(name: str) -> None:
    """Margin values; of some the source keeps whole USD only, cut towards zero."""
    case = pm1_cases()[name]
    figures = {"BASE": derive_pm1.Figures(**case.figures)}
    found = derive_pm1.prepare(figures, case.market, BACKENDS[0]).margin(case.book)
    assert found.failures.is_empty()
    amounts = {
        "IM": float(found.value(INITIAL)[0]),
        "MM": float(found.value(MAINTENANCE)[0]),
        "mtm_incl_cash": float(found.mark_to_market[0] + found.cash[0]),
        "basis": float(found.figures["basis_contingency"][0]),
    }
    known = case.expected.keys()
    assert known <= {*amounts, "IM_trunc", "MM_trunc"}
    for key, expected in case.expected.items():
        if key.endswith("_trunc"):
            assert int(amounts[key.removesuffix("_trunc")]) == expected, key
        else:
            assert near(amounts[key], expected), key


def test_marked_volatilities_are_those_of_the_feeds() -> None:
    """Up to a total variance of 20, where the fixtures' own marks stop."""
    compared = 0
    for name in pm2_names():
        scenario = json.loads((folder() / "pm2" / f"{name}.json").read_text())["Scenario"]
        smiles = {one["FeedExpiry"]: one["SVIparam"] for one in scenario["OptionFeeds"]}
        for option in scenario["Options"]:
            smile = [float(one) for one in smiles[option["Expiry"]]]
            if option["MarkVol"] ** 2 * smile[-1] < 20.0 - 1e-9:
                found = svi_volatility(option["Strike"], *smile)
                assert near(float(found), option["MarkVol"]), (name, option)
                compared += 1
    assert compared > 1_000


@pytest.mark.parametrize("name", ["BTC", "ETH", "SOL", "HYPE"])
def test_tables_are_those_of_the_deployment(name: str) -> None:
    raw = json.loads((folder() / "mainnet_params" / f"{name}_PM2Params.json").read_text())
    figures, margins = PM2[name], raw["params"]["marginParams"]
    assert len(figures.scenarios) == len(raw["params"]["scenarios"])
    for own, theirs in zip(figures.scenarios, raw["params"]["scenarios"], strict=True):
        spot, dampening = float(theirs["spotShock"]), float(theirs["dampeningFactor"])
        expected = (spot, theirs["scenarioType"], dampening)
        assert (own.spot, own.volatility, own.dampening) == expected
    assert (figures.im_factor, figures.mm_factor) == tuple(
        float(margins[factor]) for factor in ("imFactor", "mmFactor")
    )
    assert {coin: own.mm_haircut for coin, own in figures.collaterals.items()} == {
        one["name"]: float(one["collateralParams"]["mmHaircut"])
        for one in raw["collaterals"].values()
    }
    # What is owned is marked down and what is owed is marked up, whatever the deployment calls it.
    assert figures.long_discount < 1.0 < figures.short_discount


# ---------------------------------------------------------------- many sets


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_bits_are_those_of_any_backend(rulebook: Any, figures: Any) -> None:
    market = venue(stable=0.97)
    book = random_book(market, 60)
    found = [
        rulebook.prepare(figures, market, device).margin(book, pnl=True) for device in BACKENDS
    ]
    assert found[0].failures.is_empty() and (found[0].levels[INITIAL].requirement > 0).any()
    assert (found[0].levels[INITIAL].components["peg"] > 0).any()
    assert (found[0].levels[INITIAL].components["option_confidence"] > 0).any()
    assert found[0].pnl is not None
    assert all(bits(one) == bits(found[0]) for one in found[1:])


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_bits_are_those_of_a_set_alone(
    rulebook: Any, figures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever shares the book, the market or a slice of the work."""
    market, device = venue(), BACKENDS[1]
    book = random_book(market, 40)
    prepared = rulebook.prepare(figures, market, device)
    whole = prepared.margin(book, pnl=True)
    monkeypatch.setattr(derive_grid, "_SETS", 3)
    assert whole.pnl is not None
    assert bits(prepared.margin(book, pnl=True)) == bits(whole)
    for number in range(40):
        alone = prepared.margin(book.tile(number, number + 1))
        for name, level in alone.levels.items():
            assert level.requirement[0] == whole.levels[name].requirement[number]
            for part, amount in level.components.items():
                assert amount[0] == whole.levels[name].components[part][number]
        assert alone.mark_to_market[0] == whole.mark_to_market[number]


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_components_add_up_and_the_worst_scenario_is_named(rulebook: Any, figures: Any) -> None:
    """Markets of one book may have scenarios of their own."""
    market = venue(stable=0.95)
    fewer = figures["ETH"].model_copy(update={"scenarios": figures["ETH"].scenarios[4:]})
    prepared = rulebook.prepare({**figures, "ETH": fewer}, market, BACKENDS[0])
    book = random_book(market, 50)
    found = prepared.margin(book, pnl=True)
    for level in found.levels.values():
        total = np.zeros(50)
        for amount in level.components.values():
            total = total + amount
        assert (total == level.requirement).all()
    worst = found.figures["worst_pnl"]
    named = found.worst >= 0
    assert named.any() and (worst[~named] == 0.0).all()
    assert found.pnl is not None
    own = found.pnl[np.flatnonzero(named), found.worst[named]]
    assert (own == worst[named]).all() and (np.nanmin(found.pnl, axis=1) == worst).all()
    assert "basis" in found.scenarios and "spot x0.82 vol up" in found.scenarios
    ether = prepared.margin(book.tile(2, 3), pnl=True)
    assert ether.scenarios[0] == found.scenarios[0]
    absent = [found.scenarios.index(name) for name in figures["ETH"].names[:4]]
    assert np.isnan(found.pnl[2, absent]).all() and np.isfinite(found.pnl[3]).all()
    for name, pnl in zip(fewer.names, ether.pnl[0, 4:], strict=False):
        assert found.pnl[2, found.scenarios.index(name)] == pnl


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_names_of_instruments_change_nothing(rulebook: Any, figures: Any) -> None:
    """Their order is that of the positions, and need not be that of expiries and strikes."""
    legs = [(f"BTC-{e}-{k}-{r}", float(k % 7 - 3) - 0.5)
            for r in "CP" for k in (63_000, 90_000, 144_000) for e in (0, 1, 2)]  # fmt: skip
    market = venue()
    turned = {name: name[::-1] for name in market.instruments.ids}
    others = venue_of({**turned, "BTC": "BTC", "ETH": "ETH"})
    found, again = (
        rulebook.prepare(figures, where, BACKENDS[0]).margin(book_of(where, [own]))
        for where, own in (
            (market, legs),
            (others, [(turned[name], quantity) for name, quantity in legs]),
        )
    )
    for level, own in found.levels.items():
        for part, amount in own.components.items():
            assert near(again.levels[level].components[part][0], amount[0]), part
