"""What a margin run knows about the market, as of one valuation date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LINEAR_KINDS = ("spot", "future", "perpetual")
OPTION_KINDS = ("call", "put")


@dataclass(frozen=True)
class Instruments:
    """Valid instruments in byte order of their ids, one array entry each.

    `factor` and `group` are codes into `Market.history.factors` and `Market.groups`; `scale` is
    multiplier x fx rate, what one unit of price of one contract is worth in margin currency;
    `level` is the mark of a linear instrument and the forward of an option. The option fields
    (strike, volatility per year, time in years, rate per year) are 1, 0, 0, 0 for others.
    """

    ids: pl.Series
    option: Bools
    call: Bools
    factor: Ints
    group: Ints
    scale: Floats
    level: Floats
    strike: Floats
    volatility: Floats
    time: Floats
    rate: Floats

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class History:
    """Prices [date, factor] on the dates where every factor has a valid one, oldest first."""

    dates: tuple[date, ...]
    factors: tuple[str, ...]
    prices: Floats


@dataclass(frozen=True)
class Market:
    """Instruments and factor history as of `valuation_date`, in margin `currency`.

    `labels` [instrument] are further text columns of the instruments table that a model names.
    """

    valuation_date: date
    currency: str
    instruments: Instruments
    groups: pl.Series
    history: History
    labels: Mapping[str, pl.Series] = field(default_factory=dict)
