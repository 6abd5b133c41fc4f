"""Derive's liquidation auctions: what share of an account may be bought, and for how much.

An account whose maintenance margin value is below 0 is sold in shares. Where its mark-to-market is
above 0, a share costs its part of it at a discount that grows with time: fast at first, then slowly
down to nothing. At most so much is sold that its buffer margin, which is below the margin value, is
0 afterwards. An account worth less than nothing is taken over against payment. What bidders have
paid already is reserved: it stays with the account and is not sold again.

All arguments broadcast, amounts are in USD, times in seconds from the start of the auction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.failures import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AuctionTerms:
    """The venue's settings; those that are given here are the live ones.

    The asked share of mark-to-market falls from `start` to `fast_end` in `fast_seconds` and to 0 in
    another `slow_seconds`. Buffer margin is below the margin value by `buffer` of what this is
    below mark-to-market. An account worth less than nothing is taken over for up to
    `insolvent_multiple` of its buffer margin at the start, reached in `insolvent_seconds`. These
    two and `fee`, a share of what is sold, are not known of the live venue.
    """

    start: float = 0.95
    fast_end: float = 0.70
    fast_seconds: float = 15 * 60.0
    slow_seconds: float = 12 * 3600.0
    buffer: float = 0.15
    fee: float = 0.0
    insolvent_multiple: float | None = None
    insolvent_seconds: float | None = None


LIVE = AuctionTerms()


def buffer_margin(to_market: Any, maintenance: Any, terms: AuctionTerms = LIVE) -> Floats:
    """What an account must bring to 0: `maintenance` is its margin value, cash included in both."""
    to_market, maintenance = _numbers(to_market, maintenance)
    return np.asarray(maintenance - terms.buffer * (to_market - maintenance))


def asked_share(seconds: Any, terms: AuctionTerms = LIVE) -> Floats:
    """Share of mark-to-market that a bidder pays at a time."""
    (seconds,) = _numbers(seconds)
    fast = _way(seconds, terms.fast_seconds)
    slow = _way(seconds - terms.fast_seconds, terms.slow_seconds)
    falling = terms.start - (terms.start - terms.fast_end) * fast
    return np.where(seconds < terms.fast_seconds, falling, terms.fast_end * (1.0 - slow))


def auction_share(
    to_market: Any,
    maintenance: Any,
    seconds: Any = 0.0,
    terms: AuctionTerms = LIVE,
    *,
    reserved: Any = 0.0,
) -> Floats:
    """The largest share of what is left of an account that may be bought.

    After it the buffer margin is 0. It is 0 where that is 0 or more already, and where the account
    is worth nothing or less: then the whole may be taken over for payment.
    """
    to_market, reserved = _numbers(to_market, reserved)
    buffer = buffer_margin(to_market, maintenance, terms)
    paid = asked_share(seconds, terms) * (to_market - reserved) + reserved
    sold = (buffer < 0) & (to_market > 0)
    whole = np.where(sold, buffer - paid, -1.0)
    share = np.where(sold, buffer, 0.0) / np.where(whole < 0, whole, -1.0)
    return np.clip(np.where(whole < 0, share, 1.0), 0.0, 1.0)


def bid_price(
    share: Any,
    to_market: Any,
    seconds: Any = 0.0,
    terms: AuctionTerms = LIVE,
    *,
    reserved: Any = 0.0,
) -> Floats:
    """What a bidder pays for a share of what is left of an account that is worth something."""
    share, to_market, reserved = _numbers(share, to_market, reserved)
    worth = np.maximum(to_market - reserved, 0.0)
    return np.asarray(share * asked_share(seconds, terms) * worth)


def after_bid(value: Any, share: Any, price: Any, reserved: Any = 0.0) -> Floats:
    """Mark-to-market, margin value or buffer margin of an account after a bid."""
    value, share, price, reserved = _numbers(value, share, price, reserved)
    return np.asarray((1.0 - share) * (value - reserved) + reserved + price)


def insolvent_payment(
    share: Any, buffer_at_start: Any, seconds: Any, terms: AuctionTerms
) -> Floats:
    """What a bidder is paid for a share, of the account at the start, worth less than nothing.

    Raises `ConfigError` where the terms do not say how such auctions go.
    """
    if terms.insolvent_multiple is None or terms.insolvent_seconds is None:
        raise ConfigError(
            "the terms say nothing of accounts worth less than nothing; give "
            "insolvent_multiple and insolvent_seconds"
        )
    share, buffer, seconds = _numbers(share, buffer_at_start, seconds)
    most = np.maximum(-buffer, 0.0) * terms.insolvent_multiple
    return np.asarray(share * most * _way(seconds, terms.insolvent_seconds))


def auction_fee(to_market: Any, maintenance: Any, terms: AuctionTerms) -> Floats:
    """What starting an auction costs: `fee` of the worth of the share that would be sold.

    It is the share that would bring the buffer margin to 0 if it were sold without a discount.
    """
    (to_market,) = _numbers(to_market)
    buffer = buffer_margin(to_market, maintenance, terms)
    sold = (buffer < 0) & (to_market > 0)
    share = np.where(sold, buffer, 0.0) / np.where(sold, buffer - to_market, -1.0)
    return np.asarray(terms.fee * share * np.maximum(to_market, 0.0))


def _numbers(*given: Any) -> tuple[Floats, ...]:
    return tuple(np.asarray(one, dtype=np.float64) for one in given)


def _way(seconds: Floats, whole: float) -> Floats:
    """How much of a time has gone by: from 0 to 1."""
    if whole <= 0:
        return np.where(seconds >= 0, 1.0, 0.0)
    return np.clip(seconds / whole, 0.0, 1.0)
