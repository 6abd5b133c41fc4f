"""What accounts hold against their margin: assets, and how much of each is in every netting set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.market import History
from gpu_margin.portfolio import Rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_NO_HISTORY = History((), (), np.zeros((0, 0)))


@dataclass(frozen=True)
class Assets:
    """Valid assets in byte order of their ids, [asset].

    `unit_value` is price x fx rate: margin currency per unit. `haircut` and `fx_haircut` are the
    fractions removed, in [0, 1]; `fx_haircut` is 0 for what is in the margin currency. `factor` is
    a code into `history.factors` and `issuer` numbers the issuers, both -1 without one. The limits
    are market value per account in margin currency, inf without one: `concentration_limit` of the
    asset, `issuer_limit` of all assets of its issuer together, which is the same for all of them:
    the smallest that any of them states. `wrong_way_factor` is 0 without one. `cash` is an asset
    that is named as its currency.

    `history` has the dates of the market's history, and its factors, which keep their codes; after
    them come those that only assets have. `scenarios.historical(history, ...)` therefore gives the
    very scenarios of the market, with a return of every asset's factor.
    """

    ids: pl.Series
    unit_value: Floats
    haircut: Floats
    fx_haircut: Floats
    factor: Ints
    issuer: Ints
    concentration_limit: Floats
    issuer_limit: Floats
    wrong_way_factor: Floats
    cash: Bools
    history: History = _NO_HISTORY

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Holdings:
    """Collateral of netting sets: [set] those that hold any, ordered by account and name.

    `accounts` and `sets` name the account and netting set (by default named as the account).
    `rows` has a row of assets for each, in ascending order; equal assets are summed one after
    another in order of amount, and amounts may be negative. `bad` counts the input rows that
    failed and are in no amount.
    """

    accounts: pl.Series
    sets: pl.Series
    rows: Rows
    bad: Ints

    def __len__(self) -> int:
        return len(self.sets)
