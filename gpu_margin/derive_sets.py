"""Netting sets under Derive's portfolio margins: which market each is in, and unsure feeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict

from gpu_margin.crypto_book import (
    COIN,
    FUTURE,
    OPTION,
    PERPETUAL,
    Bools,
    CryptoMarket,
    Floats,
    Ints,
)
from gpu_margin.crypto_sets import Refusals, market_of_sets, short_entries
from gpu_margin.portfolio import Rows
from gpu_margin.settings import Settings

# No price is larger: products of two are finite.
_LARGEST = 1e100
_NO_COIN = "the coin is no collateral in the set's market"
_OWED = "a coin is owed: this rulebook knows coins as collateral only"
_NO_FIGURES = "the rulebook has no figures for the set's market; give them under figures"
_DATED = "a dated future: this rulebook knows options, perpetuals and coins"
_INVERSE = "an inverse contract: this rulebook knows contracts that settle in the stable coin"
_PRICELESS = "the feeds say no price, volatility or forward that can be used"


class Numbers(Settings):
    """Figures of a rulebook, all of them finite."""

    model_config = ConfigDict(allow_inf_nan=False)


def unusable(market: CryptoMarket) -> Mapping[str, Bools]:
    """[instrument] by reason: what no portfolio margin of Derive takes, or cannot price."""
    held, expiries = market.instruments, market.expiries
    dated, inverse = held.kind == FUTURE, held.inverse & (held.kind != COIN)
    spot = np.append(market.spot, np.nan)[held.underlying]
    at = held.expiry
    terms = (expiries.forward, expiries.fixed, expiries.seconds)
    inputs = [held.volatility, spot, *(np.append(term, np.nan)[at] for term in terms)]
    rate = np.append(expiries.rate, np.nan)[at]
    option = _all_usable(*inputs, held.strike, np.abs(rate)) & (held.strike > 0)
    coin = _all_usable(held.price) & (1.0 / _LARGEST <= market.stable <= _LARGEST)
    perpetual = _all_usable(held.price, spot)
    priced = np.select([held.kind == OPTION, held.kind == COIN], [option, coin], perpetual)
    return {_DATED: dated, _INVERSE: inverse, _PRICELESS: ~priced & ~dated & ~inverse}


def _all_usable(*numbers: Floats) -> Bools:
    found: Bools = np.all([(one >= 0.0) & (one <= _LARGEST) for one in numbers], axis=0)
    return found


def place_sets(
    refusals: Refusals,
    rows: Rows,
    market: CryptoMarket,
    faults: Mapping[str, Bools],
    accepted: Mapping[int, Bools],
    cancelling: Mapping[int, Bools],
) -> Ints:
    """[set] code of the underlying that it is margined in, negative where there is none.

    Who cannot be margined is refused. `accepted` says by underlying which coins [instrument] are
    collateral, `cancelling` which of them move with it: a set of these alone is in that market.
    """
    held = market.instruments
    coin = held.kind == COIN
    for reason, bad in faults.items():
        refusals.entries(rows, bad, reason, held.ids)
    refusals.entries(short_entries(rows), coin, _OWED, held.ids)
    own = np.full(len(held), -1, dtype=np.int64)
    for code, moving in cancelling.items():
        own[moving] = code
    found = market_of_sets(refusals, market, rows, own)
    refusals.add((found >= 0) & ~np.isin(found, list(accepted)), _NO_FIGURES, "market")
    for code, taken in accepted.items():
        refusals.entries(rows, coin & ~taken, _NO_COIN, held.ids, found == code)
    return np.where(refusals.failed, -1, found)


@dataclass(frozen=True)
class Unsure:
    """What unsure feeds of an underlying ask for, as shares of the notional.

    A feed less sure than `threshold` asks for `margin` x (1 - confidence).
    """

    market: CryptoMarket
    code: int
    threshold: float
    margin: float

    def of(self, confidence: Floats) -> Floats:
        """Of feeds with these confidences, or the spot's where that is less."""
        sure = np.minimum(confidence, self.market.spot_confidence[self.code])
        least = np.nan_to_num(sure, nan=0.0)
        return np.where(least < self.threshold, (1.0 - least) * self.margin, 0.0)

    @property
    def perpetual(self) -> float:
        """The confidence of the least sure perpetual, 1 where there is none."""
        held = self.market.instruments
        own = (held.kind == PERPETUAL) & (held.underlying == self.code)
        return float(held.confidence[own].min(initial=1.0))

    def columns(self, own: Bools) -> dict[str, Floats]:
        """[instrument] USD for a unit of the perpetuals and options among `own` [instrument].

        `perpetual` is the notional itself. Options need all feeds of their expiry, and those of the
        perpetuals where the set has any.
        """
        held, expiries, spot = self.market.instruments, self.market.expiries, self._spot
        perpetual, option = own & (held.kind == PERPETUAL), own & (held.kind == OPTION)
        least = np.minimum(expiries.volatility_confidence, expiries.forward_confidence)
        least = np.minimum(least, expiries.rate_confidence)
        of_expiry = np.append(least, 1.0)[held.expiry]
        also = np.minimum(of_expiry, self.perpetual)
        return {
            "perpetual": np.where(perpetual, spot, 0.0),
            "perpetual_confidence": np.where(perpetual, spot * self.of(held.confidence), 0.0),
            "option_confidence": np.where(option, spot * self.of(of_expiry), 0.0),
            "option_confidence_with_perpetual": np.where(option, spot * self.of(also), 0.0),
        }

    @property
    def _spot(self) -> float:
        return float(self.market.spot[self.code])
