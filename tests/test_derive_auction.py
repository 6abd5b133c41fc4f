"""Auctions of Derive: the venue's cases from their margin values, and the limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import vectors_case
from crypto_bits_case import close
from derive_case import Expiry, Held, book_of, market_of, pm1_cases
from standard_case import cases

from gpu_margin import backend as backends
from gpu_margin.crypto_book import COIN, MAINTENANCE, OPTION, PERPETUAL
from gpu_margin.derive_auction import (
    LIVE,
    AuctionTerms,
    after_bid,
    asked_share,
    auction_fee,
    auction_share,
    bid_price,
    buffer_margin,
    insolvent_payment,
)
from gpu_margin.failures import ConfigError
from gpu_margin.models import derive_pm1

CASES = cases("derive", "liquidation_auctions*.json")
# What the cases were made with: their numbers hold for no others.
TERMS = AuctionTerms(
    start=0.98,
    fast_end=0.80,
    fast_seconds=100.0,
    slow_seconds=14_400.0,
    buffer=0.2,
    fee=0.02,
    insolvent_multiple=1.1,
    insolvent_seconds=100.0,
)


def whole(number: float) -> float:
    """A number of the venue's 18 digits."""
    return number / 1e18


@pytest.mark.parametrize(
    "name", vectors_case.cases("derive", [f"derive_auction-{name}" for name in CASES])
)
def test_case(name):
    case = CASES[name.removeprefix("derive_auction-")]
    reserved, left = 0.0, 1.0
    for action in case["Actions"]:
        expected = {key: whole(number) for key, number in action["Results"].items()}
        wanted = whole(action["Liquidator"]["PercentWant"])
        if expected["PreMtM"] > 0:
            sold, paid = solvent(expected, action["Time"], wanted, reserved)
            reserved += paid
        else:
            sold = insolvent(expected, action["Time"], wanted, left)
        left *= 1.0 - sold


def solvent(expected, seconds, wanted, reserved):
    """Share and price of a bid on an account worth something, checked on the way."""
    pre = expected["PreMtM"], expected["PreMM"]
    close(buffer_margin(*pre, TERMS), expected["PreBM"])
    most = auction_share(*pre, seconds, TERMS, reserved=reserved)
    close(most, expected["PreFMax"])
    share = min(wanted, float(most))
    # The share of what is left, whatever the field is called.
    close(share, expected["fLiquidatedOfOriginal"])
    paid = float(bid_price(share, pre[0], seconds, TERMS, reserved=reserved))
    close(paid, expected["ExpectedBidPrice"])
    post = [after_bid(value, share, paid, reserved) for value in pre]
    close(post[0], expected["PostMtM"])
    close(post[1], expected["PostMM"])
    close(buffer_margin(*post, TERMS), expected["PostBM"])
    again = auction_share(*post, seconds, TERMS, reserved=reserved + paid)
    close(again, expected["PostFMax"])
    return share, paid


def insolvent(expected, seconds, wanted, left):
    """Share, of what is left, of an account worth less than nothing, checked on the way."""
    pre = expected["PreMtM"], expected["PreMM"]
    close(buffer_margin(*pre, TERMS), expected["PreBM"])
    close(auction_share(*pre, seconds, TERMS), expected["PreFMax"])
    close(bid_price(wanted, pre[0], seconds, TERMS), expected["ExpectedBidPrice"])
    at_start = expected["Lowerbound"] / TERMS.insolvent_multiple
    close(-insolvent_payment(wanted, at_start, seconds, TERMS), expected["SMPayout"])
    close(-insolvent_payment(1.0, at_start, 100.0, TERMS), expected["Lowerbound"])
    post = [after_bid(value, wanted / left, 0.0) for value in pre]
    close(post[0], expected["PostMtM"])
    close(post[1], expected["PostMM"])
    close(buffer_margin(*post, TERMS), expected["PostBM"])
    return wanted / left


# ---------------------------------------------------------------- from the portfolio on


def margin_values(given: Mapping[str, Any], passed: float = 0.0) -> tuple[float, float]:
    """Mark-to-market and maintenance margin value of a case's portfolio, cash included in both.

    Expiries are counted from the start of the auction, of which so much has `passed`.
    """
    seconds, right = given["FeedExpiries"], given["OptionIsCall"]
    expiries = [
        Expiry(
            seconds=at - passed,
            forward=whole(given["ForwardsVariable"][n]),
            fixed=whole(given["ForwardsFixed"][n]),
            rate=whole(given["Rates"][n]),
        )
        for n, at in enumerate(seconds)
    ]
    options = [
        Held(
            f"BASE-{n:04}",
            OPTION,
            whole(size),
            underlying=0,
            expiry=seconds.index(given["OptionExpiries"][n]),
            strike=whole(given["OptionStrikes"][n]),
            call=bool(right[n]),
            volatility=whole(given["OptionVols"][n]),
        )
        for n, size in enumerate(given["OptionAmounts"])
    ]
    spot, sure = whole(given["SpotPrice"]), whole(given["SpotConfidence"])
    perpetual = whole(given["Perps"]), whole(given["PerpPrice"]), whole(given["PerpConfidence"])
    held = [
        *options,
        Held("BASE", COIN, whole(given["Base"]), spot, sure, 0),
        Held("BASE-PERP", PERPETUAL, *perpetual, 0),
    ]
    market = market_of(held, expiries, [("BASE", spot, sure)], whole(given["StablePrice"]))
    unrealised = whole(given["UnrealisedPerpPNL"]) + whole(given["UnrealisedFunding"])
    pairs = [(one.name, one.quantity) for one in held]
    book = book_of(market, [pairs], [whole(given["Cash"])], [unrealised], ["BASE"])
    terms = next(case.figures for name, case in pm1_cases().items() if "verify_Test1" in name)
    figures = {"BASE": derive_pm1.Figures(**terms)}
    found = derive_pm1.prepare(figures, market, backends.load("numpy")).margin(book)
    assert found.failures.is_empty()
    return float(found.mark_to_market[0] + found.cash[0]), float(found.value(MAINTENANCE)[0])


@pytest.mark.parametrize(
    "name", vectors_case.cases("derive", [f"derive_auction-{name}-portfolio" for name in CASES])
)
def test_margin_values_of_case(name):
    """Each bid's margin values, by PMRM v1 from what the account holds then."""
    case = CASES[name.removeprefix("derive_auction-").removesuffix("-portfolio")]
    for action in case["Actions"]:
        pre = margin_values(action["PortfolioAndFeeds"], action["Time"])
        close(pre[0], whole(action["Results"]["PreMtM"]))
        close(pre[1], whole(action["Results"]["PreMM"]))
    start = margin_values(case["InitialPortfolio"])
    close(auction_fee(*start, TERMS), case["LiquidationFee"])
    if start[0] < 0:
        expected = whole(case["Actions"][0]["Results"]["Lowerbound"])
        close(-insolvent_payment(1.0, buffer_margin(*start, TERMS), 100.0, TERMS), expected)


# ---------------------------------------------------------------- limits


def test_the_readme_share_at_the_start():
    buffer = buffer_margin(100.0, -50.0, TERMS)
    assert buffer == -50.0 - 0.2 * 150.0
    assert auction_share(100.0, -50.0, 0.0, TERMS) == buffer / (buffer - 0.98 * 100.0)


def test_the_asked_share_falls_fast_and_then_slowly():
    minute, hour = 60.0, 3600.0
    times = [0.0, 15 * minute, 15 * minute + 6 * hour, 13 * hour, 20 * hour]
    assert asked_share(times) == pytest.approx([0.95, 0.70, 0.35, 0.0, 0.0])
    along = asked_share(np.linspace(0, 14 * hour, 2001))
    assert (np.diff(along) <= 0).all() and (along >= 0).all()


def test_accounts_that_need_no_auction_sell_nothing():
    assert auction_share([100.0, 100.0, 0.0, -5.0], [20.0, 13.05, -1.0, -9.0]).tolist() == [
        0.0,
        0.0,
        0.0,
        0.0,
    ]


def test_a_share_brings_the_buffer_margin_to_nothing():
    random = np.random.default_rng(5)
    to_market = random.uniform(1, 1e6, 500)
    maintenance = -random.uniform(0, 1e7, 500)
    seconds = random.uniform(0, 5e4, 500)
    reserved = to_market * random.uniform(0, 0.9, 500)
    share = auction_share(to_market, maintenance, seconds, reserved=reserved)
    assert ((share > 0) & (share <= 1)).all()
    paid = bid_price(share, to_market, seconds, reserved=reserved)
    post = [after_bid(value, share, paid, reserved) for value in (to_market, maintenance)]
    assert buffer_margin(*post) == pytest.approx(np.zeros(500), abs=1e-7)


def test_at_the_end_everything_goes_for_nothing():
    assert auction_share(100.0, -50.0, 1e6).tolist() == 1.0
    assert bid_price(1.0, 100.0, 1e6).tolist() == 0.0


def test_terms_without_a_time_are_at_once_at_their_end():
    at_once = AuctionTerms(fast_seconds=0.0, slow_seconds=0.0)
    assert asked_share([0.0, 1.0], at_once).tolist() == [0.0, 0.0]


def test_live_terms_say_nothing_of_insolvent_accounts():
    with pytest.raises(ConfigError, match="insolvent_seconds"):
        insolvent_payment(1.0, -100.0, 10.0, LIVE)
