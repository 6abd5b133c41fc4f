"""A crypto venue at one instant, and the accounts on it: what its margin rulebooks are asked about.

Quantities of derivatives are in units of their underlying (a short of 3 ETH is -3, whatever the
venue's contract size is), of coins in coins. Prices are in USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.portfolio import Portfolio

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Codes of `CryptoInstruments.kind`.
KINDS = ("coin", "perpetual", "future", "option")
COIN, PERPETUAL, FUTURE, OPTION = range(len(KINDS))
# Names of `CryptoMargin.levels`.
INITIAL, MAINTENANCE = "initial", "maintenance"


@dataclass(frozen=True)
class Expiries:
    """What the feeds say of expiries: [expiry], ordered by underlying and time.

    `underlying` is a code; `seconds` to expiry, >= 0. A forward is `forward` + `fixed`: near expiry
    the part of the settlement average that is known is `fixed`, and only the rest moves. `rate` per
    year, continuously compounded. Confidences are from 0 to 1.
    """

    underlying: Ints
    seconds: Floats
    forward: Floats
    fixed: Floats
    forward_confidence: Floats
    rate: Floats
    rate_confidence: Floats
    volatility_confidence: Floats

    def __len__(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True)
class CryptoInstruments:
    """All that can be held: [instrument] in byte order of `ids`.

    `kind` codes of `KINDS`; `underlying` a code, -1 for a coin that is none; `expiry` a code into
    `Expiries`, -1 where there is none; `strike`, `call`, `volatility` (per year, decimal) of
    options, 0 elsewhere. `price` is the mark in USD for one unit, NaN where an option has none.
    `inverse` contracts settle in the coin. `settlement` is the currency of settlement by name
    ("BTC", "USDC"), the coin's own for a coin.
    """

    ids: pl.Series
    kind: Ints
    underlying: Ints
    expiry: Ints
    strike: Floats
    call: Bools
    volatility: Floats
    price: Floats
    confidence: Floats
    inverse: Bools
    settlement: pl.Series

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class CryptoMarket:
    """Feeds of a venue at `time` (seconds since 1970, UTC).

    `underlyings` names in byte order; `spot` [underlying] in USD with its confidence; `stable` is
    the price in USD of the stable coin that cash is held in.
    """

    time: float
    underlyings: pl.Series
    spot: Floats
    spot_confidence: Floats
    expiries: Expiries
    instruments: CryptoInstruments
    stable: float = 1.0
    stable_confidence: float = 1.0


@dataclass(frozen=True)
class CryptoBook:
    """Accounts on a venue. A netting set is one subaccount; an account is the sum of its sets.

    `portfolio` has a row of instruments per set. [set]: `cash` in the stable coin; `unrealised`
    profit and funding of perpetuals and futures that is not in cash yet, in USD; `market` what the
    subaccount is margined in by name (an underlying for Derive's portfolio margin, a settlement
    currency or CROSS for Deribit), "" where it follows from the positions. `charges` are amounts
    [set] that the venue adds and that cannot be computed from positions (open_orders, mmp, spot for
    Deribit), in what the set is margined in.
    """

    portfolio: Portfolio
    cash: Floats
    unrealised: Floats
    market: pl.Series
    charges: Mapping[str, Floats]

    def tile(self, start: int, stop: int) -> CryptoBook:
        """The accounts with codes start <= code < stop, as a book of its own."""
        low, high = (int(n) for n in np.searchsorted(self.portfolio.set_account, (start, stop)))
        return CryptoBook(
            portfolio=self.portfolio.tile(start, stop),
            cash=self.cash[low:high],
            unrealised=self.unrealised[low:high],
            market=self.market[low:high],
            charges={name: amount[low:high] for name, amount in self.charges.items()},
        )


@dataclass(frozen=True)
class Level:
    """What sets require at one level, in USD: `components` [set] each add up to `requirement`."""

    requirement: Floats
    components: Mapping[str, Floats]


@dataclass(frozen=True)
class CryptoMargin:
    """Margin of every netting set, in USD.

    `levels` by name: `INITIAL` and `MAINTENANCE`. `mark_to_market` [set] of positions, coins and
    unrealised profit, and `cash`: both less a requirement are the margin value, which is negative
    where a set may be liquidated. `worst` [set] is a code of `scenarios`, -1 where there is none;
    `pnl` [set, scenario] where it was asked for. `figures` [set] are further named figures, which
    add up to nothing. A set that cannot be margined has NaN everywhere, -1 for its worst scenario
    and a row of `failures`.
    """

    levels: Mapping[str, Level]
    mark_to_market: Floats
    cash: Floats
    worst: Ints
    scenarios: tuple[str, ...]
    figures: Mapping[str, Floats]
    failures: pl.DataFrame
    pnl: Floats | None = None

    def value(self, level: str) -> Floats:
        """[set] margin value: equity less requirement, allowed while it is >= 0."""
        value: Floats = self.mark_to_market + self.cash - self.levels[level].requirement
        return value
