"""Which accounts and netting sets there are to ask about, and where they are found.

They are those of the portfolio and those that have nothing but collateral.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.trade_tables import codes_of
from gpu_margin.portfolio import Portfolio

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_KEY = ("account_id", "netting_set")


@dataclass(frozen=True)
class Directory:
    """Accounts and their netting sets, both in byte order.

    `accounts` [account] ids, whose sets are first[i] to first[i + 1]; `names` [set] and `row`
    [set + 1], the set's row in the portfolio or -1. `complete` [account + 1]: no position row of it
    failed; `lost` [account + 1]: some did, and no good one is left. The last of these is what is
    true of a set or account that is not there, whose code is -1.
    """

    accounts: pl.Series
    first: Ints
    names: pl.Series
    row: Ints
    complete: Bools
    lost: Bools

    def sets_of(self, account: Ints, names: pl.Series) -> Ints:
        """[asked] codes of sets by account code (-1: a new one) and name.

        Sets that an account does not have are -1, -2, ..., in byte order of their names.
        """
        touched = np.unique(account[account >= 0])
        size = self.first[touched + 1] - self.first[touched]
        code = np.arange(size.sum()) + np.repeat(self.first[touched] - np.cumsum(size) + size, size)
        there = pl.DataFrame(
            {"account": np.repeat(touched, size), "name": self.names.gather(code), "code": code}
        )
        asked = pl.DataFrame({"account": account, "name": names})
        found = asked.join(there, on=["account", "name"], how="left", maintain_order="left")
        new = pl.when(pl.col("code").is_null()).then("name").rank("dense").cast(pl.Int64)
        return found.select(pl.col("code").fill_null(-new)).to_series().to_numpy()

    def aligned(self, table: pl.DataFrame) -> pl.DataFrame:
        """[set] rows of an accounts table of one model; null where it has none."""
        owner = np.repeat(np.arange(len(self.accounts)), np.diff(self.first))
        keys = pl.DataFrame({_KEY[0]: self.accounts.gather(owner), _KEY[1]: self.names})
        return keys.join(_by_set(table), on=_KEY, how="left", maintain_order="left")


def directory_of(
    portfolio: Portfolio, accounts: pl.DataFrame | None = None, among: pl.Series | None = None
) -> tuple[Directory, Portfolio]:
    """The directory, and the portfolio that its rows are of.

    `accounts` is the accounts table of the run; `among` ids of the only accounts that are wanted.
    """
    if among is not None:
        ids = among.drop_nulls().unique().sort()
        codes = codes_of(ids, portfolio.accounts)
        portfolio = portfolio.chosen(codes[codes >= 0])
        accounts = (
            None if accounts is None else accounts.filter(pl.col(_KEY[0]).is_in(ids.implode()))
        )
    owners = portfolio.accounts.gather(portfolio.set_account)
    sets = pl.DataFrame({_KEY[0]: owners, _KEY[1]: portfolio.sets}).with_row_index("row")
    sets = sets.with_columns(pl.col("row").cast(pl.Int64))
    if accounts is not None:
        keys = _by_set(accounts).select(_KEY).unique()
        sets = sets.join(keys, on=_KEY, how="full", coalesce=True).sort(_KEY)
    return _directory(sets, portfolio), portfolio


def _directory(sets: pl.DataFrame, portfolio: Portfolio) -> Directory:
    """Of the sets (account_id, netting_set, row) in byte order; row is null where there is none."""
    ids = sets[_KEY[0]].unique(maintain_order=True)
    owner = sets[_KEY[0]].rle_id().to_numpy()
    row = sets["row"].fill_null(-1).to_numpy()
    good, bad = (np.append(count, 0)[row] for count in (portfolio.good, portfolio.bad))
    any_good, any_bad = (np.bincount(owner, count, len(ids) + 1) > 0 for count in (good, bad))
    first = np.searchsorted(owner, np.arange(len(ids) + 1)).astype(np.int64)
    lost = any_bad & ~any_good
    return Directory(ids, first, sets[_KEY[1]], np.append(row, -1), ~any_bad, lost)


def _by_set(accounts: pl.DataFrame) -> pl.DataFrame:
    """The rows of sets; an account that has a row of its own only has one set, named as itself."""
    sets = accounts.filter(pl.col(_KEY[1]).is_not_null())
    others = accounts.join(sets, on=_KEY[0], how="anti")
    return pl.concat([sets, others.with_columns(pl.col(_KEY[0]).alias(_KEY[1]))])
