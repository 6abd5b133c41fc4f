"""Simulation margin as joins of long tables, as a practitioner with a data frame writes it.

Both join positions with one row per instrument and scenario, sum per account and scenario, and take
the tail of each account. The tables are made before the clock starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.backend import Rows


class Skipped(Exception):
    """A contender or a size that cannot run here; the message says why."""


Joined = tuple[NDArray[np.float64], NDArray[np.int64]]  # [account, measure], [account] worst


def polars(
    rows: Rows, matrix: NDArray[Any], accounts: int, var_place: int, es_count: int
) -> Callable[[], Joined]:
    """The join in polars, for the first `accounts` rows."""
    positions, profits = _tables(rows, matrix, accounts)
    worst = pl.col("x").arg_min()
    tail = pl.col("x").bottom_k(max(var_place, es_count)).sort()

    def run() -> Joined:
        summed = (
            positions.lazy()
            .join(profits.lazy(), on="instrument")
            .group_by("account", "scenario")
            .agg((pl.col("quantity") * pl.col("pnl")).sum().alias("x"))
        )
        found = (
            summed.group_by("account")
            .agg(
                pl.col("scenario").get(worst).alias("worst"),
                (-tail.get(var_place - 1)).alias("var"),
                (-tail.head(es_count).mean()).alias("es"),
            )
            .sort("account")
            .collect()
        )
        return found.select("var", "es").to_numpy(), found["worst"].to_numpy()

    return run


def duckdb(
    rows: Rows, matrix: NDArray[Any], accounts: int, var_place: int, es_count: int
) -> Callable[[], Joined]:
    """The join in SQL; raises `Skipped` where duckdb, or pyarrow for its tables, is missing."""
    try:
        import duckdb as engine  # type: ignore[import-not-found,unused-ignore]
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed") from error
    connection = engine.connect()
    for name, table in zip(("positions", "profits"), _tables(rows, matrix, accounts), strict=True):
        connection.register("table_of_polars", table.to_arrow())
        connection.execute(f"create table {name} as select * from table_of_polars")
        connection.unregister("table_of_polars")
    query = f"""
        with summed as (
            select account, scenario, sum(quantity * pnl) as x
            from positions join profits using (instrument) group by account, scenario
        ), tails as (
            select account, arg_min(scenario, x) as worst, list_sort(min(x, {es_count})) as es,
                list_sort(min(x, {var_place})) as var
            from summed group by account
        )
        select -var[{var_place}] as var, -list_avg(es) as es, worst from tails order by account
    """

    def run() -> Joined:
        found: dict[str, Any] = connection.execute(query).fetchnumpy()
        return np.stack([found["var"], found["es"]], axis=1), found["worst"]

    return run


def _tables(rows: Rows, matrix: NDArray[Any], accounts: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Positions (account, instrument, quantity) and profits (instrument, scenario, pnl)."""
    sizes = np.diff(rows.offsets[: accounts + 1])
    first, last = rows.offsets[0], rows.offsets[accounts]
    positions = pl.DataFrame(
        {
            "account": np.repeat(np.arange(accounts), sizes),
            "instrument": rows.column[first:last],
            "quantity": rows.value[first:last],
        }
    )
    instruments, scenarios = matrix.shape
    profits = pl.DataFrame(
        {
            "instrument": np.repeat(np.arange(instruments), scenarios),
            "scenario": np.tile(np.arange(scenarios), instruments),
            "pnl": matrix.ravel(),
        }
    )
    return positions, profits
