"""Netting between venues: what an owner's books require together, and who bears what.

The cross-margin books that an owner has at the venues of an agreement are merged. With R_v the
requirement at venue v and J that of the merged book, the owner's requirement is
max(J, sum R_v - max_offset (sum R_v - J)); accounts bear it in proportion to their own. Isolated
sets are never merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.ownership import Agreements, Ownership
from gpu_margin.portfolio import Portfolio, Rows, add_up, entry_rows, row_offsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MergedBooks:
    """The books that agreements merge: `book` [set] of a portfolio, -1 for those that stay alone.

    Book i belongs to agreement agreement[i]; `portfolio` has it as account i, and its sets' rows as
    rows of one netting set that are not netted yet.
    """

    book: Ints
    agreement: Ints
    portfolio: Portfolio


@dataclass(frozen=True)
class Netted:
    """[book] the sum of what its venues require, what the merged book does, and what counts."""

    venue_sum: Floats
    joint: Floats
    capped: Floats


def merged_books(portfolio: Portfolio, ownership: Ownership) -> MergedBooks:
    """The cross-margin sets of accounts whose venues an agreement nets, as one book each.

    A book of fewer than two sets is merged all the same: it nets to itself.
    """
    of_account = _agreement_of_accounts(portfolio, ownership)
    cross = portfolio.sets == portfolio.accounts.gather(portfolio.set_account)
    chosen = np.where(cross.to_numpy(), of_account[portfolio.set_account], -1)
    agreement = np.unique(chosen[chosen >= 0])
    book = np.where(chosen >= 0, np.searchsorted(agreement, chosen), -1)
    return MergedBooks(book, agreement, _merge(portfolio, book, len(agreement)))


def net(books: MergedBooks, requirement: Floats, joint: Floats, agreements: Agreements) -> Netted:
    """What the books require; `requirement` [set] of each alone, `joint` [book] of all together."""
    inside = books.book >= 0
    venue_sum = add_up(books.book[inside], requirement[inside], len(books.agreement))
    share = agreements.max_offset[books.agreement]
    # Written so that a share of 0 gives the sum itself, and one of 1 the joint requirement.
    bounded = np.where(share == 1.0, joint, venue_sum - share * (venue_sum - joint))
    return Netted(venue_sum, joint, np.maximum(joint, bounded))


def shares(books: MergedBooks, requirement: Floats, netted: Netted) -> Floats:
    """[set] what each set bears: its share of its book's requirement, or its own where it is alone.

    In proportion to the sets' own requirements; alike where all of these are 0.
    """
    inside = books.book >= 0
    book = np.where(inside, books.book, 0)
    if not len(books.agreement):
        return requirement
    total = netted.venue_sum[book]
    count = np.bincount(books.book[inside], minlength=len(books.agreement))[book]
    part = np.where(
        total > 0.0, requirement / np.where(total > 0.0, total, 1.0), 1.0 / np.maximum(count, 1)
    )
    unchanged = ~inside | (netted.capped[book] == total)
    return np.where(unchanged, requirement, netted.capped[book] * part)


def scaled(covered: Floats, own: Floats, borne: Floats) -> Floats:
    """[set] what positions and collateral require together, when of `own` only `borne` is left.

    Netting between venues is of positions: what it saves of them is saved of all.
    """
    ratio = borne / np.where(own > 0.0, own, 1.0)
    return np.where(own > 0.0, covered * ratio, covered + borne)


def owner_table(
    books: MergedBooks, ownership: Ownership, netted: Netted, model: str, level: str
) -> pl.DataFrame:
    """owner, model, level, venue_sum, joint, capped, saving, venues: one row per merged book."""
    agreements = ownership.agreements
    owner = ownership.owners.gather(agreements.owner[books.agreement])
    venues = [
        ";".join(ownership.venues.gather(agreements.venue[first:last]).to_list())
        for first, last in zip(
            agreements.offsets[books.agreement].tolist(),
            agreements.offsets[books.agreement + 1].tolist(),
            strict=True,
        )
    ]
    return pl.DataFrame(
        {
            "owner": owner.cast(pl.String),
            "model": pl.Series([model] * len(owner), dtype=pl.String),
            "level": pl.Series([level] * len(owner), dtype=pl.String),
            "venue_sum": netted.venue_sum,
            "joint": netted.joint,
            "capped": netted.capped,
            "saving": netted.venue_sum - netted.capped,
            "venues": pl.Series(venues, dtype=pl.String),
        }
    )


def _agreement_of_accounts(portfolio: Portfolio, ownership: Ownership) -> Ints:
    """[account of the portfolio] its agreement, -1 without one."""
    known = pl.DataFrame({"account": ownership.accounts, "agreement": ownership.agreement})
    ids = pl.DataFrame({"account": portfolio.accounts})
    found = ids.join(known, on="account", how="left", maintain_order="left")["agreement"]
    agreement: Ints = found.fill_null(-1).to_numpy().astype(np.int64)
    return agreement


def _merge(portfolio: Portfolio, book: Ints, books: int) -> Portfolio:
    """The books as accounts of one set; equal instruments of different sets are both there."""
    rows = portfolio.netted
    owner = book[entry_rows(rows)]
    entry = np.flatnonzero(owner >= 0)
    order = entry[np.lexsort((rows.value[entry], rows.column[entry], owner[entry]))]
    names = pl.Series([str(number) for number in range(books)], dtype=pl.String)
    sizes = np.bincount(owner[order], minlength=books).astype(np.int64)
    merged = Rows(row_offsets(owner[order], books), rows.column[order], rows.value[order])
    codes = np.arange(books, dtype=np.int64)
    return Portfolio(names, names, codes, merged, sizes, np.zeros(books, dtype=np.int64))
