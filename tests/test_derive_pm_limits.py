"""Derive's portfolio margins at their limits, and who cannot be margined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from derive_case import Expiry, Held, book_of
from derive_venue import BACKENDS, DAY, EXPIRIES, PM1, PM2, RULEBOOKS, near, options, venue

from gpu_margin.crypto_book import (
    COIN,
    FUTURE,
    INITIAL,
    MAINTENANCE,
    OPTION,
    PERPETUAL,
    CryptoMargin,
)
from gpu_margin.crypto_files import Inputs
from gpu_margin.failures import ConfigError, failure_table
from gpu_margin.models import derive_pm1, derive_pm2


def one(
    rulebook: Any,
    figures: Any,
    pairs: Sequence[tuple[str, float]],
    more: Sequence[Held] = (),
    expiries: Sequence[Expiry] = (),
    **terms: Any,
) -> CryptoMargin:
    market = venue(more, expiries)
    book = book_of(market, [pairs], **terms)
    margin: CryptoMargin = rulebook.prepare(figures, market, BACKENDS[0]).margin(book, pnl=True)
    return margin


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_cash_alone_requires_nothing(rulebook: Any, figures: Any) -> None:
    for markets in ([""], ["BTC"]):
        found = one(rulebook, figures, [], cash=[123.0], unrealised=[4.0], markets=markets)
        assert found.value(INITIAL)[0] == found.value(MAINTENANCE)[0] == 127.0
        assert found.levels[INITIAL].requirement[0] == 0.0 and found.worst[0] == -1
    nobody = book_of(venue(), [])
    empty = rulebook.prepare(figures, venue(), BACKENDS[0]).margin(nobody, pnl=True)
    assert len(empty.worst) == len(empty.mark_to_market) == 0 and empty.failures.is_empty()


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_a_charge_of_another_venue_is_refused_and_not_passed_over(
    rulebook: Any, figures: Any
) -> None:
    market = venue()
    book = book_of(market, [[("ETH-PERP", 1.0)], [("ETH-PERP", 1.0)]])
    charged = replace(book, charges={"mr3": np.array([0.0, 5.0])})
    found = rulebook.prepare(figures, market, BACKENDS[0]).margin(charged)
    assert np.isnan(found.mark_to_market).tolist() == [False, True]
    assert found.failures["field"].to_list() == ["mr3"]


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
@pytest.mark.parametrize("size", [1.0, -1.0, 1e6, -1e6])
def test_a_perpetual_alone(rulebook: Any, figures: Any, size: float) -> None:
    """The largest plain move, in price; dampened ones are smaller."""
    found = one(rulebook, figures, [("ETH-PERP", size)])
    assert near(found.figures["worst_pnl"][0], -0.18 * 3_001.0 * abs(size))
    side = "0.82" if size > 0 else "1.18"
    assert found.scenarios[found.worst[0]] == f"spot x{side} vol up"
    share = 0.03 * 3_000.0 * abs(size)
    assert near(found.levels[MAINTENANCE].components["perpetual"][0], share)


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
@pytest.mark.parametrize(
    ("expiry", "volatility", "worth"),
    [
        (Expiry(0.0, 0.0, 95_000.0), 0.6, 5_000.0),
        (Expiry(900.0, 47_500.0, 47_500.0), 0.0, 5_000.0),
        (Expiry(30 * DAY, 95_000.0), 0.0, 5_000.0),
        (Expiry(30 * DAY, 0.0), 0.6, 0.0),
    ],
    ids=["expired", "averaging", "no volatility", "no forward"],
)
def test_intrinsic_values(
    rulebook: Any, figures: Any, expiry: Expiry, volatility: float, worth: float
) -> None:
    """Of an expired option nothing moves; half way through the averaging, half of it does."""
    place = len(EXPIRIES)
    call = Held("BTC-X", OPTION, 0.0, underlying=0, expiry=place, strike=90_000.0, call=True,
                volatility=volatility)  # fmt: skip
    found = one(rulebook, figures, [("BTC-X", 2.0)], [call], [expiry])
    assert found.failures.is_empty()
    assert near(found.figures["option_value"][0], 2.0 * worth)
    still = found.scenarios.index("spot x1.045 vol none")
    moved = max(0.0, expiry.forward * 1.045 + expiry.fixed - 90_000.0)
    own = figures["BTC"]
    assert found.pnl is not None
    base = own.discount if rulebook is derive_pm1 else own.long_discount
    add = own.rate_add if rulebook is derive_pm1 else own.long_rate_add
    discount = base * np.exp(-add * expiry.seconds / (365 * DAY))
    assert near(found.pnl[0, still], 2.0 * (moved * discount - worth))


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_shorts_net_by_strike(rulebook: Any, figures: Any) -> None:
    """A call and a put of one strike net; other strikes and expiries do not."""
    share = figures["BTC"].option_share if rulebook is derive_pm1 else figures["BTC"].option_mm
    legs = [("BTC-0-90000-C", -3.0), ("BTC-0-90000-P", 1.0), ("BTC-0-99000-C", 5.0),
            ("BTC-1-90000-P", -2.0), ("BTC-1-81000-C", -1.0), ("BTC-1-81000-P", -4.0)]  # fmt: skip
    found = one(rulebook, figures, legs)
    expected = (2.0 + 2.0 + 5.0) * 90_000.0 * share
    assert near(found.levels[MAINTENANCE].components["short_options"][0], expected)


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_all_short_and_huge_is_worse_than_all_long(rulebook: Any, figures: Any) -> None:
    legs = [held.name for held in options() if held.underlying == 0]
    short = one(rulebook, figures, [(name, -1e6) for name in legs])
    long = one(rulebook, figures, [(name, 1e6) for name in legs])
    assert short.levels[INITIAL].requirement[0] > long.levels[INITIAL].requirement[0] > 0.0
    assert near(short.mark_to_market[0], -long.mark_to_market[0])


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_rates_below_zero_count_as_none(rulebook: Any, figures: Any) -> None:
    """Expiry 2 has one: its options are worth no more than without a rate."""
    legs = [("BTC-2-63000-C", 1.0), ("BTC-2-99000-P", -1.0)]
    prepared = [
        rulebook.prepare(
            {"BTC": figures["BTC"].model_copy(update=_RATE_MULTIPLES[rulebook])},
            replace(market, expiries=replace(market.expiries, rate=market.expiries.rate * times)),
            BACKENDS[0],
        )
        for market in [venue()]
        for times in (1.0, 0.0)
    ]
    found, none = (one.margin(book_of(venue(), [legs]), pnl=True) for one in prepared)
    assert found.levels[INITIAL].requirement[0] == none.levels[INITIAL].requirement[0]
    assert found.pnl is not None and none.pnl is not None and (found.pnl == none.pnl).all()


_RATE_MULTIPLES = {
    derive_pm1: {"rate_multiple": 2.0},
    derive_pm2: {"long_rate_multiple": 2.0, "short_rate_multiple": 1.0},
}


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_unsure_feeds_ask_for_more(rulebook: Any, figures: Any) -> None:
    """Options ask for what the perpetual's feed does only beside a perpetual; PMRM's coin too."""
    own = figures["BTC"]
    margin, base = own.confidence_margin, [("BTC", 1.0)]
    share = {
        "BTC-0-90000-C": 0.0,  # sure feeds
        "BTC-1-90000-C": 0.7 * margin,  # an unsure volatility
    }
    for name, alone in share.items():
        found = one(rulebook, figures, [(name, -2.0), *base])
        components = found.levels[INITIAL].components
        assert near(components["option_confidence"][0], 2.0 * alone * 90_000.0)
        assert components["perpetual_confidence"][0] == 0.0
        coin = "base" if rulebook is derive_pm1 else "collateral"
        assert components[f"{coin}_confidence"][0] == 0.0
        beside = one(rulebook, figures, [(name, -2.0), ("BTC-PERP", -1.5), *base])
        components = beside.levels[INITIAL].components
        both = max(alone, 0.5 * margin)
        assert near(components["option_confidence"][0], 2.0 * both * 90_000.0)
        assert near(components["perpetual_confidence"][0], 1.5 * 0.5 * margin * 90_000.0)
        expected = 0.5 * margin * 90_000.0 if rulebook is derive_pm1 else 0.0
        assert near(components[f"{coin}_confidence"][0], expected)


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_coins_are_worth_stable_coins(rulebook: Any, figures: Any) -> None:
    market = venue(stable=0.8)
    book = book_of(market, [[("BTC", 2.0)]], markets=["BTC"])
    found = rulebook.prepare(figures, market, BACKENDS[0]).margin(book)
    assert near(found.mark_to_market[0], 2.0 * 90_000.0 / 0.8)
    assert near(found.figures["worst_pnl"][0], -0.18 * 2.0 * 90_000.0 / 0.8)
    own = figures["BTC"]
    lost = own.peg_factor * (own.peg_threshold - 0.8)
    whole = 0.18 * 2.0 * 90_000.0 / 0.8
    if rulebook is derive_pm1:
        whole += own.base_share * 2.0 * 90_000.0
    assert near(found.levels[INITIAL].components["peg"][0], lost * whole)


# ---------------------------------------------------------------- who fails, by name


def bad(kind: int, **terms: Any) -> Held:
    return Held("BTC-BAD", kind, 0.0, **{"underlying": 0, "price": 90_000.0, **terms})


REFUSED: dict[str, tuple[Callable[[], list[Any]], str, str]] = {
    "two underlyings": (lambda: [("BTC-PERP", 1.0), ("ETH-PERP", 1.0)], "several", ""),
    "a coin that is none": (lambda: [("BTC-PERP", 1.0), ("WHAT", 1.0)], "no collateral", "WHAT"),
    "a coin without a market": (lambda: [("WHAT", 1.0)], "nothing says which market", ""),
    "a coin that is owed": (lambda: [("BTC-PERP", 1.0), ("BTC", -1.0)], "is owed", "BTC"),
    "a dated future": (lambda: [("BTC-F", 1.0)], "a dated future", "BTC-F"),
    "an inverse contract": (lambda: [("BTC-I", 1.0)], "an inverse contract", "BTC-I"),
    "a perpetual without a price": (lambda: [("BTC-P", 1.0)], "no price", "BTC-P"),
    "an option without a volatility": (lambda: [("BTC-O", -1.0)], "no price", "BTC-O"),
    "too much of it": (lambda: [("BTC-PERP", 1e308)], "not finite", ""),
    "no figures": (lambda: [("XYZ-PERP", 1.0)], "no figures", ""),
}


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_set_that_cannot_be_margined_is_named(rulebook: Any, figures: Any, name: str) -> None:
    """Whoever else is in the book has its margin all the same."""
    legs, reason, value = REFUSED[name]
    option = {"expiry": 0, "strike": 9e4, "call": True, "price": np.nan}
    more = [
        Held("WHAT", COIN, 0.0, 1.0),
        replace(bad(FUTURE), name="BTC-F"),
        replace(bad(PERPETUAL, inverse=True), name="BTC-I"),
        replace(bad(PERPETUAL, price=np.nan), name="BTC-P"),
        replace(bad(OPTION, volatility=np.nan, **option), name="BTC-O"),
        Held("XYZ-PERP", PERPETUAL, 0.0, 5.0, 1.0, 2),
    ]
    market = venue(more)
    spot, sure = np.append(market.spot, 5.0), np.append(market.spot_confidence, 1.0)
    names = market.underlyings.clone().append(market.underlyings[:1].replace("BTC", "XYZ"))
    market = replace(market, underlyings=names, spot=spot, spot_confidence=sure)
    good = [("BTC-PERP", 2.0), ("BTC-0-90000-C", -1.0)]
    prepared = rulebook.prepare(figures, market, BACKENDS[0])
    found = prepared.margin(book_of(market, [good, legs(), good]), pnl=True)
    assert len(found.failures) == 1
    failure = found.failures.row(0, named=True)
    assert reason in failure["reason"] and failure["source"] == "a0000001"
    assert failure["value"] == value or value == ""
    for level in found.levels.values():
        assert np.isnan(level.requirement[1]) and level.requirement[0] == level.requirement[2] > 0
    assert np.isnan(found.mark_to_market[1]) and np.isnan(found.cash[1]) and found.worst[1] == -1
    assert np.isnan(found.pnl[1]).all() and (found.pnl[0] == found.pnl[2]).all()


@pytest.mark.parametrize(("rulebook", "figures"), RULEBOOKS)
def test_the_market_of_a_set_can_be_said(rulebook: Any, figures: Any) -> None:
    wrong = one(rulebook, figures, [("BTC-PERP", 1.0)], markets=["ETH"])
    assert "another underlying" in wrong.failures["reason"][0]
    unknown = one(rulebook, figures, [("BTC-PERP", 1.0)], markets=["XRP"])
    assert "not known" in unknown.failures["reason"][0]
    own, said = (one(rulebook, figures, [("ETH", 2.0)], markets=[m]) for m in ("", "ETH"))
    assert own.levels[INITIAL].requirement[0] == said.levels[INITIAL].requirement[0] > 0.0


def test_a_coin_counts_by_the_table_of_the_market() -> None:
    """ETH beside Bitcoin is collateral that does not move with it, at a haircut of its own."""
    found = one(derive_pm2, PM2, [("ETH", 2.0)], markets=["BTC"])
    assert found.figures["worst_pnl"][0] == 0.0 and found.worst[0] == -1
    assert near(found.levels[INITIAL].requirement[0], 6_000.0 * 0.25)
    assert near(found.levels[MAINTENANCE].requirement[0], 6_000.0 * 0.2)
    alone = one(derive_pm1, PM1, [("ETH", 2.0)], markets=["BTC"])
    assert "no collateral" in alone.failures["reason"][0]


# ---------------------------------------------------------------- as a model on files


@pytest.mark.parametrize("rulebook", [derive_pm1, derive_pm2], ids=["derive_pm1", "derive_pm2"])
def test_parameters_replace_single_figures(rulebook: Any) -> None:
    paths = {"feeds": Path("feeds.json"), "positions": Path("positions.csv")}
    plain = rulebook.figures(rulebook.Parameters(**paths))
    changed = rulebook.Parameters(**paths, figures={"BTC": {"im_factor": 1.75}})
    found = rulebook.figures(changed)
    assert found["BTC"] == plain["BTC"].model_copy(update={"im_factor": 1.75})
    assert found["ETH"] == plain["ETH"]
    with pytest.raises(ConfigError, match="unknown version 'mainet'"):
        rulebook.Parameters(**paths, table="mainet")
    with pytest.raises(ValueError, match="finite number"):
        rulebook.Parameters(**paths, figures={"BTC": {"im_factor": np.nan}})
    with pytest.raises(ValueError, match="did you mean 'im_factor'"):
        rulebook.Parameters(**paths, figures={"BTC": {"im_facto": 1.0}})
    market = venue()
    book = book_of(market, [[("BTC-PERP", 1.0)], [("BTC-PERP", 1.0), ("ETH-PERP", 1.0)]])
    inputs = Inputs(market, book, [], failure_table())
    found = rulebook.margin(changed, inputs, 2.0, BACKENDS[0])
    loss = 2.0 * 0.18 * 90_050.0 * 1.75
    assert near(found.components[INITIAL]["scenario_loss"][0], loss)
    assert found.known.tolist() == [True, False] and len(found.failures) == 1
    assert found.details["market"].to_list() == ["BTC", "BTC", None, None]
