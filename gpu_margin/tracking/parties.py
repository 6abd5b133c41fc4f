"""Netting between venues in a tracked book: who nets with whom, and what that leaves."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import owners
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio
from gpu_margin.tracking.state import State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Parties:
    """Accounts by the agreement of their owner; accounts that come may join one."""

    def __init__(self, state: State) -> None:
        self._known = _agreements(state)
        self._agreement = np.zeros(0, dtype=np.int64)
        self._members: dict[int, Ints] = {}

    @property
    def some(self) -> bool:
        """Whether there is any agreement."""
        return bool(self._known)

    def join(self, accounts: list[str]) -> None:
        """Accounts that have been opened, the next codes."""
        agreement = np.array([self._known.get(one, -1) for one in accounts], dtype=np.int64)
        first = len(self._agreement)
        self._agreement = np.append(self._agreement, agreement)
        for one in np.unique(agreement[agreement >= 0]).tolist():
            mine = first + np.flatnonzero(agreement == one)
            self._members[one] = np.append(self._members.get(one, mine[:0]), mine)

    def with_partners(self, accounts: Ints) -> Ints:
        """The accounts and those that they net with."""
        if not self._known:
            return accounts
        agreements = np.unique(self._agreement[accounts])
        parties = [self._members[one] for one in agreements.tolist() if one >= 0]
        return np.unique(np.concatenate([accounts, *parties]))


def borne(
    state: State, prepared: Prepared, own: Floats, accounts: Ints, owner: Ints, sets: Ints
) -> Floats:
    """[set] what netting between venues leaves of what it requires, `own` [set of the state].

    `sets` are all sets of the accounts (in byte order), `owner` [set] the place of its account.
    """
    ownership = state.loaded.ownership
    listed = np.flatnonzero(state.listed[sets])
    mine = sets[listed]
    left = own[sets].copy()
    if ownership is None or not len(mine):
        return left
    count = np.zeros(len(mine), dtype=np.int64)
    portfolio = Portfolio(
        accounts=pl.Series([state.members.accounts[code] for code in accounts.tolist()]),
        sets=pl.Series([state.members.names[code] for code in mine.tolist()], dtype=pl.String),
        set_account=owner[listed],
        rows=state.positions.rows(mine),
        good=count,
        bad=count,
    )
    books = owners.merged_books(portfolio, ownership)
    usable = state.good[mine] & np.isfinite(own[mine])
    required = np.where(usable, own[mine], 0.0)
    joint = prepared.require(books.portfolio.netted).amount
    netted = owners.net(books, required, joint, ownership.agreements)
    left[listed] = owners.shares(books, required, netted)
    return left


def _agreements(state: State) -> dict[str, int]:
    """The agreement of each account that has one; they may not all be there yet."""
    ownership = state.loaded.ownership
    if ownership is None:
        return {}
    pairs = zip(ownership.accounts.to_list(), ownership.agreement.tolist(), strict=True)
    return {account: agreement for account, agreement in pairs if agreement >= 0}
