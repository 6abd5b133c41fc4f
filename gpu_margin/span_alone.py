"""SPAN margin position by position, beside that of the portfolio.

Adding up what single contracts require is how a margin is often guessed, and several times too
much: spreads and options offset each other in the portfolio only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import span_figures
from gpu_margin.portfolio import Portfolio, Rows, entry_rows
from gpu_margin.span_batches import Work
from gpu_margin.span_book import SpanBook, Terms
from gpu_margin.span_figures import Money
from gpu_margin.span_file import SpanFile


@dataclass(frozen=True)
class Alone:
    """`positions` and `accounts` as `SpanRun.positions` and `SpanRun.alone` have them."""

    positions: pl.DataFrame
    accounts: pl.DataFrame


def alone(
    work: Work, file: SpanFile, book: SpanBook, terms: Terms, money: Money, totals: pl.DataFrame
) -> Alone:
    """Every net position as an account by itself; `totals` are those of the portfolios.

    Of an account whose long and short positions are kept apart, its rows are not netted.
    """
    single, owner = _singles(book)
    found = work.margin(file, single, terms, "position by position")
    count = len(single.portfolio.accounts)
    total = span_figures.totals(file, count, found, money)
    ids = book.portfolio.accounts.gather(owner[total.account])
    rows = single.portfolio.rows
    positions = pl.DataFrame(
        {
            "account_id": ids,
            "contract_id": file.contracts.ids.gather(rows.column[total.account]),
            "quantity": rows.value[total.account],
            "currency": span_figures.currency_names(file, total.currency, money),
            "requirement": pl.Series(total.requirement, dtype=pl.Float64, nan_to_null=True),
        }
    )
    return Alone(positions, _beside(positions, totals))


def _beside(positions: pl.DataFrame, totals: pl.DataFrame) -> pl.DataFrame:
    """A row per account and currency: the sum of its positions, and its requirement."""
    keys = ["account_id", "currency"]
    sums = positions.group_by(keys).agg(
        pl.len().cast(pl.Int64).alias("positions"),
        pl.col("requirement").sum().alias("sum_alone"),
    )
    wide = totals.select(*keys, "requirement").join(
        sums, on=keys, how="left", nulls_equal=True, maintain_order="left"
    )
    known = pl.col("requirement").is_not_null()
    return wide.select(
        *keys,
        pl.col("positions").fill_null(0),
        pl.when(known).then("sum_alone").alias("sum_alone"),
        "requirement",
        pl.when(pl.col("requirement") > 0.0)
        .then(pl.col("sum_alone") / pl.col("requirement"))
        .alias("times"),
    )


def _singles(book: SpanBook) -> tuple[SpanBook, NDArray[np.int64]]:
    """A book of an account per position, and [position] whose it is."""
    portfolio = book.portfolio
    netted, plain = portfolio.netted, portfolio.rows
    parts = []
    for rows, apart in ((netted, False), (plain, True)):
        owner = entry_rows(rows)
        kept = np.flatnonzero((book.gross[owner] == apart) & (rows.value != 0.0))
        parts.append((owner[kept], rows.column[kept], rows.value[kept]))
    owner, column, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(owner, kind="stable")
    owner, count = owner[order], len(owner)
    names = pl.Series(np.arange(count)).cast(pl.String)
    each = np.ones(count, dtype=np.int64)
    single = Portfolio(
        accounts=names,
        sets=names,
        set_account=np.arange(count, dtype=np.int64),
        rows=Rows(np.arange(count + 1, dtype=np.int64), column[order], value[order]),
        good=each,
        bad=np.zeros(count, dtype=np.int64),
    )
    own = replace(
        book, portfolio=single, account_type=book.account_type[owner], gross=book.gross[owner]
    )
    return own, owner
