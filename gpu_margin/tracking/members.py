"""Accounts and their netting sets, which may open at any time, and their codes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from itertools import repeat

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Members:
    """Codes of accounts and netting sets, in the order in which they were opened.

    `accounts` [account] ids; `names` [set] and `account` [set], the code of the set's account. A
    set that is named as its account is the account's cross-margin set.
    """

    def __init__(self, accounts: Sequence[str], owner: Ints, names: Sequence[str]) -> None:
        self.accounts, self.names = list(accounts), list(names)
        self.account = owner
        self._codes = {name: code for code, name in enumerate(self.accounts)}
        self._cross: dict[str, int] = {}
        self._isolated: dict[tuple[str, str], int] = {}
        self._only = np.full(len(self.accounts), -1, dtype=np.int64)
        self._several: dict[int, list[int]] = {}
        for code, (account, name) in enumerate(zip(owner.tolist(), self.names, strict=True)):
            self._enter(code, account, name)

    def __len__(self) -> int:
        return len(self.names)

    def copied(self) -> Members:
        """Ids and codes as they are now, for who only wants to read these."""
        other = copy(self)
        other.accounts, other.names = self.accounts.copy(), self.names.copy()
        return other

    def find(self, accounts: Sequence[str], names: Sequence[str] | None) -> Ints:
        """[asked] codes of sets, -1 for what is not open; by default the account's own set."""
        if names is None:
            found: Iterable[int] = map(self._cross.get, accounts, repeat(-1))
        else:
            found = (
                self._cross.get(account, -1)
                if account == name
                else self._isolated.get((account, name), -1)
                for account, name in zip(accounts, names, strict=True)
            )
        return np.fromiter(found, dtype=np.int64, count=len(accounts))

    def open(self, accounts: Sequence[str], names: Sequence[str]) -> int:
        """Open those of the sets that are not there yet; how many they were."""
        before, owners = len(self.names), []
        asked = list(dict.fromkeys(zip(accounts, names, strict=True)))
        known = self.find([account for account, _ in asked], [name for _, name in asked])
        for (account, name), code in zip(asked, known.tolist(), strict=True):
            if code >= 0:
                continue
            if account not in self._codes:
                self._codes[account] = len(self.accounts)
                self.accounts.append(account)
            self.names.append(name)
            owners.append(self._codes[account])
        new = len(self.accounts) - len(self._only)
        self._only = np.append(self._only, np.full(new, -1, dtype=np.int64))
        self.account = np.append(self.account, np.array(owners, dtype=np.int64))
        for code, owner in enumerate(owners, before):
            self._enter(code, owner, self.names[code])
        return len(owners)

    def account_code(self, account: str) -> int:
        """The code of an account, -1 for one that is not there."""
        return self._codes.get(account, -1)

    @property
    def account_codes(self) -> Mapping[str, int]:
        """By id."""
        return self._codes

    def set_code(self, account: str, name: str | None) -> int:
        """The code of a set, by default the account's own; -1 for one that is not there."""
        if name is None or name == account:
            return self._cross.get(account, -1)
        return self._isolated.get((account, name), -1)

    def sets_of_one(self, account: int) -> list[int]:
        """The sets of an account in byte order of their names."""
        only = int(self._only[account])
        return [only] if only >= 0 else self._several[account]

    def sets_of(self, accounts: Ints) -> tuple[Ints, Ints]:
        """All sets of the accounts: place of the account among them, and the set's code.

        One account after another, the sets of each in byte order of their names.
        """
        only = self._only[accounts]
        if not (only < 0).any():
            return np.arange(len(accounts), dtype=np.int64), only
        lists = [
            [code] if code >= 0 else self._several[account]
            for code, account in zip(only.tolist(), accounts.tolist(), strict=True)
        ]
        owner = np.repeat(np.arange(len(lists), dtype=np.int64), [len(own) for own in lists])
        return owner, np.array([code for own in lists for code in own], dtype=np.int64)

    def in_order(self) -> Ints:
        """[account] codes in byte order of the ids."""
        order = pl.Series(self.accounts, dtype=pl.String).arg_sort()
        codes: Ints = order.to_numpy().astype(np.int64)
        return codes

    def sorted_by_name(self, accounts: Ints) -> Ints:
        """These accounts in byte order of their ids."""
        codes = sorted(accounts.tolist(), key=self.accounts.__getitem__)
        return np.array(codes, dtype=np.int64)

    def _enter(self, code: int, account: int, name: str) -> None:
        own = self.accounts[account]
        if own == name:
            self._cross[own] = code
        else:
            self._isolated[own, name] = code
        if account in self._several:
            self._several[account].append(code)
        elif self._only[account] >= 0:
            self._several[account] = [int(self._only[account]), code]
            self._only[account] = -1
        else:
            self._only[account] = code
            return
        # Code points are in the order of their UTF-8 bytes.
        self._several[account].sort(key=self.names.__getitem__)
