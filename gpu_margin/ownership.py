"""Who owns accounts, at which venues they are, and between which venues an owner's books net."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Agreements:
    """Agreements as they hold for each owner: one of all owners is here once per owner.

    `owner` [agreement] are codes into `Ownership.owners`, ascending, and an owner's agreements
    stand in order of their first venue. Agreement i nets the venues `venue[offsets[i]:offsets[i +
    1]]` (codes into `Ownership.venues`, ascending, at least two). `max_offset` [agreement] in [0,
    1] is the share of what netting saves that counts. No venue is in two agreements of an owner.
    """

    owner: Ints
    offsets: Ints
    venue: Ints
    max_offset: Floats

    def __len__(self) -> int:
        return len(self.owner)


@dataclass(frozen=True)
class Ownership:
    """Owners and venues of accounts.

    `accounts` [account] are the ids that have an owner, in byte order; they need not be the
    portfolio's, of which those that are not here own no owner. `owner`, `venue` and `agreement`
    [account] are codes into `owners`, `venues` (names in byte order) and `agreements`: the one of
    the account's owner that its venue is in, or -1.
    """

    accounts: pl.Series
    owner: Ints
    venue: Ints
    agreement: Ints
    owners: pl.Series
    venues: pl.Series
    agreements: Agreements

    def __len__(self) -> int:
        return len(self.accounts)
