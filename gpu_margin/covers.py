"""Netting sets of positions and of collateral, brought together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.holdings import Assets, Holdings
from gpu_margin.portfolio import Portfolio, Rows, entry_rows, row_offsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_KEY = ["account_id", "netting_set"]


@dataclass(frozen=True)
class Cover:
    """All netting sets that have positions or collateral, ordered by account and name.

    `accounts` [account] in byte order, `sets` [set] names, `owner` [set] their account's code;
    `position` and `holding` [set] are the codes of the set in the portfolio and in the holdings, -1
    where it has none there.
    """

    accounts: pl.Series
    sets: pl.Series
    owner: Ints
    position: Ints
    holding: Ints


def cover_of(portfolio: Portfolio, holdings: Holdings) -> Cover:
    """The sets of both, each once."""
    ours = pl.DataFrame(
        {
            "account_id": portfolio.accounts.gather(portfolio.set_account).cast(pl.String),
            "netting_set": portfolio.sets.cast(pl.String),
        }
    ).with_row_index("position")
    theirs = pl.DataFrame(
        {
            "account_id": holdings.accounts.cast(pl.String),
            "netting_set": holdings.sets.cast(pl.String),
        }
    ).with_row_index("holding")
    both = ours.join(theirs, on=_KEY, how="full", coalesce=True).sort(_KEY)
    accounts = both["account_id"].unique(maintain_order=True)
    owner = both["account_id"].rle_id().to_numpy().astype(np.int64)
    codes = (both[name].cast(pl.Int64).fill_null(-1).to_numpy() for name in ("position", "holding"))
    position, holding = (code.astype(np.int64) for code in codes)
    return Cover(accounts, both["netting_set"], owner, position, holding)


@dataclass(frozen=True)
class Held:
    """Collateral that moves, beside the positions of its netting set.

    `rows` [set of the portfolio] of instruments of the market with assets: `entry` [row entry] is
    where each stands among the holdings. Holdings of sets without positions are not here.
    """

    rows: Rows
    entry: Ints


def held_beside(
    cover: Cover, holdings: Holdings, chosen: NDArray[np.bool_], first: int, sets: int
) -> Held:
    """The `chosen` [holding] beside the positions; asset i is instrument first + i.

    Values are 1: what is held of it is for the caller to say.
    """
    position = np.full(len(holdings), -1, dtype=np.int64)
    inside = cover.holding >= 0
    position[cover.holding[inside]] = cover.position[inside]
    owner = position[entry_rows(holdings.rows)]
    entry = np.flatnonzero(chosen & (owner >= 0))
    # Sets are in the same order on both sides, and a set's assets in order of their codes.
    rows = Rows(
        row_offsets(owner[entry], sets), holdings.rows.column[entry] + first, np.ones(len(entry))
    )
    return Held(rows, entry)


def moving(assets: Assets, holdings: Holdings, only_wrong_way: bool) -> NDArray[np.bool_]:
    """[holding] whether the asset has a factor (and, if so asked, a wrong-way factor above 0)."""
    asset = holdings.rows.column
    chosen = assets.factor[asset] >= 0
    wrong_way: NDArray[np.bool_] = assets.wrong_way_factor[asset] > 0.0
    return chosen & wrong_way if only_wrong_way else chosen
