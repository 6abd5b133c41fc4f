"""Accounts that are margined by a SPAN file, and what their margin is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.portfolio import Portfolio
from gpu_margin.span_tables import ACCOUNT_TYPES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class SpanBook:
    """Positions of accounts: the codes of the portfolio's entries are those of contracts.

    Each account has one netting set. [account]: `account_type` is a place in `ACCOUNT_TYPES`;
    `gross` whether long and short positions are kept apart.
    """

    portfolio: Portfolio
    account_type: Ints
    gross: Bools

    def tile(self, start: int, stop: int) -> SpanBook:
        """The accounts with codes start <= code < stop."""
        return replace(
            self,
            portfolio=self.portfolio.tile(start, stop),
            account_type=self.account_type[start:stop],
            gross=self.gross[start:stop],
        )


@dataclass(frozen=True)
class Terms:
    """How margin is asked for.

    `initial` or maintenance; `delta_places`, `spread_places` round deltas (to the nearest) and
    numbers of spreads (down) to so many decimals, None not at all.
    """

    initial: bool = False
    delta_places: int | None = None
    spread_places: int | None = None


@dataclass(frozen=True)
class SpanMargin:
    """Margin of accounts by combined commodity and in all.

    [row], ordered by `account` and `commodity` (codes), in money of the commodity's currency:
    `scan_risk` with its `active` scenario (from 0), `intra_spread_charge`, `delivery_charge`,
    `inter_spread_credit`, `short_option_minimum`, `risk` (maintenance or initial), and the values
    of long and of short options paid up front (the latter negative).

    [total], ordered by `total_account` and `total_currency` (a code of the file): `total`, what the
    account requires in that currency, option values netted, never below 0; `total_risk` is the sum
    of its risks. An account that holds what cannot be margined is `failed` [account], has no rows,
    and its reasons stand in `failures`.

    `formed`, where it was asked for, is a row per spread formed: account, spread (place in
    `SpanFile.intra` or `inter`), within (of one commodity), commodity (codes; of inter-commodity
    spreads a row per leg), count, amount (a charge is positive, a credit negative).
    """

    account: Ints
    commodity: Ints
    scan_risk: Floats
    active: Ints
    intra_spread_charge: Floats
    delivery_charge: Floats
    inter_spread_credit: Floats
    short_option_minimum: Floats
    risk: Floats
    long_option_value: Floats
    short_option_value: Floats
    total_account: Ints
    total_currency: Ints
    total: Floats
    total_risk: Floats
    failed: Bools
    failures: pl.DataFrame
    formed: pl.DataFrame | None = None

    @property
    def net_option_value(self) -> Floats:
        """[row] value of options, bought less sold."""
        return self.long_option_value + self.short_option_value

    @property
    def requirement(self) -> Floats:
        """[row] risk less net option value: below 0 where the options are worth more."""
        return self.risk - self.net_option_value


FORMED = pl.Schema(
    {
        "account": pl.Int64,
        "spread": pl.Int64,
        "within": pl.Boolean,
        "commodity": pl.Int64,
        "count": pl.Float64,
        "amount": pl.Float64,
    }
)

# Hedgers' figures are those that files are based on.
DEFAULT_TYPE = ACCOUNT_TYPES.index("hedger")
