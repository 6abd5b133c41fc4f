"""Allocations as tables: what each part of an account accounts for, and what no part does."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.allocation import Allocation, rolled_up
from gpu_margin.portfolio import Portfolio

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RESIDUAL = "residual:"


def contribution_table(
    portfolio: Portfolio,
    instruments: pl.Series,
    allocation: Allocation,
    model: str,
    level: str,
    usable: Bools,
) -> pl.DataFrame:
    """Contributions of all accounts (account_id, model, level, method, instrument_id, amount).

    `instruments` are the ids of the market; `allocation` is of the portfolio's netting sets, in
    parts of instruments; `usable` [set] says which sets have figures. Amounts are in margin
    currency, summed over the sets of the account. An account's rows stand together, its
    instruments in byte order and then what is not theirs: `residual:<reason>` in place of the
    instrument, where it is not zero. Added up in this order they are the account's requirement.
    """
    by_instrument = by_account(portfolio, allocation, allocation.part, usable)
    return allocation_table(
        by_instrument, portfolio.accounts, instruments, "instrument_id", model, level
    )


def group_table(
    portfolio: Portfolio,
    groups: pl.Series,
    group: Ints,
    allocation: Allocation,
    model: str,
    level: str,
    usable: Bools,
) -> pl.DataFrame:
    """The same by product group; `groups` are names and `group` [instrument] codes of them."""
    rolled = by_account(portfolio, allocation, group[allocation.part], usable)
    return allocation_table(rolled, portfolio.accounts, groups, "product_group", model, level)


def set_table(
    portfolio: Portfolio, allocation: Allocation, model: str, level: str, usable: Bools
) -> pl.DataFrame:
    """The same by netting set, which is what a sub-account is here."""
    rolled = by_account(portfolio, allocation, allocation.owner, usable)
    return allocation_table(rolled, portfolio.accounts, portfolio.sets, "netting_set", model, level)


def by_account(
    portfolio: Portfolio, allocation: Allocation, key: Ints, usable: Bools
) -> Allocation:
    """An allocation of netting sets as one of accounts, by parts `key` [share]."""
    return rolled_up(allocation, key, portfolio.set_account, len(portfolio.accounts), usable)


def allocation_table(
    allocation: Allocation,
    owners: pl.Series,
    parts: pl.Series,
    column: str,
    model: str,
    level: str,
) -> pl.DataFrame:
    """Amounts and residuals of rows named `owners`; `column` has the names of the parts.

    A standard error, null for residuals, stands beside the amount where there is one.
    """
    residuals = [np.flatnonzero(amounts) for amounts in allocation.residuals.values()]
    reasons = [f"{RESIDUAL}{reason}" for reason in allocation.residuals]
    names = pl.concat([parts.rename(column), pl.Series(column, reasons, dtype=pl.String)])
    owner = np.concatenate([allocation.owner, *residuals])
    code = np.concatenate(
        [allocation.part]
        + [np.full(len(rows), len(parts) + number) for number, rows in enumerate(residuals)]
    )
    left_over = zip(allocation.residuals.values(), residuals, strict=True)
    amount = np.concatenate([allocation.amount, *(amounts[rows] for amounts, rows in left_over)])
    order = np.argsort(owner, kind="stable")
    columns = [
        owners.gather(owner[order]).alias("account_id"),
        pl.repeat(model, len(order), dtype=pl.String, eager=True).alias("model"),
        pl.repeat(level, len(order), dtype=pl.String, eager=True).alias("level"),
        pl.repeat(allocation.method, len(order), dtype=pl.String, eager=True).alias("method"),
        names.gather(code[order]).alias(column),
        pl.Series("amount", amount[order]),
    ]
    if allocation.error is not None:
        error = pl.Series("standard_error", allocation.error)
        none = pl.repeat(None, len(order) - len(error), dtype=pl.Float64, eager=True)
        columns.append(error.append(none).gather(order))
    return pl.DataFrame(columns)
