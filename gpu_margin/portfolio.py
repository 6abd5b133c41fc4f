"""Positions of all accounts as sparse rows: netting sets of instruments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = Any
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Value = TypeVar("Value", bound=np.generic)

# A net quantity below this share of what it was added up from is rounding. Whole contracts are
# safe: their sums are exact, and 1 is above it unless they add up to more than 10^15.
_ROUNDING = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Rows:
    """Compressed sparse rows: row i holds entries offsets[i] to offsets[i + 1].

    `offsets` [row + 1] int64, `column` [entry] int64, `value` [entry] float64. The entries of a
    row stand in ascending order of column: their order is the order of every sum.
    """

    offsets: Array
    column: Array
    value: Array

    def __len__(self) -> int:
        return int(self.offsets.shape[0]) - 1


@dataclass(frozen=True)
class Regrouped:
    """The entries of rows, brought together by (row, key): each such pair is a segment.

    `order` [entry] takes the entries into order of row, key and column; segment i is the
    entries offsets[i] to offsets[i + 1] of that order, of row `owner[i]` and key `part[i]`.
    """

    order: Ints
    offsets: Ints
    owner: Ints
    part: Ints


# Compared by identity: what is computed of a portfolio, or lies on a device for it, is found again.
@dataclass(frozen=True, eq=False)
class Portfolio:
    """Positions of all accounts, encoded.

    `accounts` [account] ids in byte order; `sets` [set] names with `set_account` [set] their
    account's code, ordered by account and name. `rows` has a row per netting set; its entries
    are ordered by instrument code and quantity and not netted: whether the two sides of an
    instrument offset is for the rulebook to say. `good` and `bad` [set] count the input rows
    that were loaded and that failed.
    """

    accounts: pl.Series
    sets: pl.Series
    set_account: Ints
    rows: Rows
    good: Ints
    bad: Ints

    @cached_property
    def netted(self) -> Rows:
        """Rows of net positions, as `netted_rows` has them."""
        return netted_rows(self.rows)

    def by_account(self, among: Ints) -> Rows:
        """Net positions with one row per account of `among` (codes), all its sets in one row."""
        owner = self.set_account[entry_rows(self.netted)]
        chosen = np.flatnonzero(np.isin(owner, among))
        row = np.searchsorted(among, owner[chosen])
        order = np.lexsort((self.netted.value[chosen], self.netted.column[chosen], row))
        entry = chosen[order]
        return Rows(
            row_offsets(row[order], len(among)), self.netted.column[entry], self.netted.value[entry]
        )

    def chosen(self, codes: Ints) -> Portfolio:
        """The accounts of these (ascending) codes, as a portfolio of their own."""
        own = np.flatnonzero(np.isin(self.set_account, codes))
        return Portfolio(
            accounts=self.accounts.gather(codes),
            sets=self.sets.gather(own),
            set_account=np.searchsorted(codes, self.set_account[own]).astype(np.int64),
            rows=rows_at(self.rows, own),
            good=self.good[own],
            bad=self.bad[own],
        )

    def tile(self, start: int, stop: int) -> Portfolio:
        """The accounts with codes start <= code < stop, as a portfolio of its own."""
        low, high = np.searchsorted(self.set_account, (start, stop))
        begin, end = self.rows.offsets[low], self.rows.offsets[high]
        return Portfolio(
            accounts=self.accounts[start:stop],
            sets=self.sets[int(low) : int(high)],
            set_account=self.set_account[low:high] - start,
            rows=Rows(
                self.rows.offsets[low : high + 1] - begin,
                self.rows.column[begin:end],
                self.rows.value[begin:end],
            ),
            good=self.good[low:high],
            bad=self.bad[low:high],
        )


def netted_rows(rows: Rows) -> Rows:
    """Net positions, one entry per column of a row, those that net to zero left out.

    `rows` are ordered by column and value. Equal columns are summed one after another in that
    order. What is left of them is zero where it is no more than rounding: 0.1 + 0.2 - 0.3 is no
    position.
    """
    owner = entry_rows(rows)
    first = _starts(owner, rows.column)
    entry = np.cumsum(first) - 1
    count = int(first.sum())
    quantity = add_up(entry, rows.value, count)
    size = add_up(entry, np.abs(rows.value), count)
    keep = np.abs(quantity) > _ROUNDING * size
    owner, column = owner[first][keep], rows.column[first][keep]
    return Rows(row_offsets(owner, len(rows)), column, quantity[keep])


def rows_at(rows: Rows, chosen: Ints) -> Rows:
    """The chosen rows, in that order; an empty one for -1."""
    first = rows.offsets[chosen]
    size = np.where(chosen < 0, 0, rows.offsets[chosen + 1] - first)
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    entry = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], size)
    return Rows(offsets, rows.column[entry], rows.value[entry])


def values_at(values: NDArray[Value], codes: Ints, otherwise: Any) -> NDArray[Value]:
    """[code] of the values, `otherwise` for a code that there is none of."""
    known = (codes >= 0) & (codes < len(values))
    if known.all():
        return values[codes]
    found = np.full(len(codes), otherwise, dtype=values.dtype)
    found[known] = values[codes[known]]
    return found


def side_by_side(rows: Rows, more: Rows) -> Rows:
    """The entries of both row by row; the columns of `more` come after those of `rows`."""
    owner = np.concatenate([entry_rows(rows), entry_rows(more)])
    order = np.argsort(owner, kind="stable")
    column = np.concatenate([rows.column, more.column])[order]
    value = np.concatenate([rows.value, more.value])[order]
    return Rows(row_offsets(owner[order], len(rows)), column, value)


def entry_rows(rows: Rows) -> Ints:
    """[entry] number of the row that it stands in."""
    return np.repeat(np.arange(len(rows), dtype=np.int64), np.diff(rows.offsets))


def regroup(rows: Rows, key: Ints) -> Regrouped:
    """The entries of `rows` by (row, key); `key` [entry]."""
    owner = entry_rows(rows)
    order = np.lexsort((rows.column, key, owner))
    owner, key = owner[order], key[order]
    first = _starts(owner, key)
    offsets = np.append(np.flatnonzero(first), len(order)).astype(np.int64)
    return Regrouped(order, offsets, owner[first], key[first])


def _starts(*keys: Ints) -> NDArray[np.bool_]:
    """[entry] True where any of the (sorted) keys differs from the entry before."""
    first = np.ones(len(keys[0]), dtype=np.bool_)
    if len(first):
        first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    return first


def add_up(owner: Ints, values: NDArray[Any], count: int) -> Floats:
    """[owner] sums of `values` [entry] by `owner` [entry], one after another in stored order."""
    # Without entries, bincount forgets its weights and counts in integers.
    return np.bincount(owner, weights=values, minlength=count).astype(np.float64, copy=False)


def row_offsets(owner: Ints, rows: int) -> Ints:
    """CSR offsets of entries whose (sorted) row numbers are `owner`."""
    return np.searchsorted(owner, np.arange(rows + 1, dtype=np.int64)).astype(np.int64)
