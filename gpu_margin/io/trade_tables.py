"""The table of trades becomes what-ifs: which trades belong together, and which can be tried."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table

Ints = NDArray[np.int64]

TRADE_COLUMNS = ("account_id", "whatif_id", "instrument_id", "quantity")
TRADE_OPTIONAL = ("netting_set",)


@dataclass(frozen=True)
class LoadedTrades:
    """What is asked, and the trades of it.

    `asked` (whatif_id, account_id, account, whole) has a row for each what-if and account, in the
    order in which they were asked: `account` is its code, -1 for a new one; it is `whole` where
    none of the what-if's rows failed. `trades` (asked, netting_set, instrument, quantity) are those
    of what is whole: `asked` is the number of its row, `instrument` a code.
    """

    asked: pl.DataFrame
    trades: pl.DataFrame
    failures: pl.DataFrame


def load_trades(
    table: Table, instruments: pl.Series, accounts: pl.Series, allow_new: bool = False
) -> LoadedTrades:
    """Validate and encode trades; a row that fails takes its what-if with it.

    `instruments` and `accounts` are ids in byte order. An account that is not among them fails,
    unless new ones are allowed. The netting set is the account's own (cross) set by default.
    """
    frame = _described(table.frame, instruments, accounts)
    found = rules.check(
        frame.join(table.failures.select(ROW), on=ROW, how="anti"),
        table.source,
        _trade_rules(frame, allow_new),
    )
    failures = join_failures([table.failures, found]).sort(ROW, nulls_last=False)
    broken = frame.filter(pl.col(ROW).is_in(failures[ROW].implode()))["whatif_id"]
    frame = frame.filter(pl.col("whatif_id").is_not_null()).with_columns(
        (~pl.col("whatif_id").is_in(broken.implode())).alias("whole")
    )
    pair = ["whatif_id", "account_id"]
    asked = frame.select(*pair, "account", "whole").unique(pair, keep="first", maintain_order=True)
    trades = frame.filter("whole").join(
        asked.select(*pair).with_row_index("asked"), on=pair, how="left", maintain_order="left"
    )
    return LoadedTrades(
        asked, trades.select("asked", "netting_set", "instrument", "quantity"), failures
    )


def codes_of(values: pl.Series, ids: pl.Series) -> Ints:
    """[value] place among the ids (in byte order), -1 for what is not among them or null."""
    if ids.is_empty():
        return np.full(len(values), -1, dtype=np.int64)
    place = ids.search_sorted(values.fill_null("")).clip(upper_bound=len(ids) - 1)
    found = (ids.gather(place) == values).fill_null(False)
    return np.where(found.to_numpy(), place.cast(pl.Int64).to_numpy(), -1)


def _described(rows: pl.DataFrame, instruments: pl.Series, accounts: pl.Series) -> pl.DataFrame:
    ids = ["account_id", "whatif_id", "instrument_id", "netting_set"]
    frame = rules.number_columns(rules.text_columns(rows, ids), ["quantity"])
    return frame.with_columns(
        pl.col("netting_set").fill_null(pl.col("account_id")),
        pl.Series("instrument", codes_of(frame["instrument_id"], instruments)),
        pl.Series("account", codes_of(frame["account_id"], accounts)),
    )


def _trade_rules(frame: pl.DataFrame, allow_new: bool) -> list[Rule]:
    return [
        *rules.missing_text("whatif_id"),
        *rules.missing_text("account_id"),
        Rule(
            "unknown account: the run has no such account; correct the id, or allow new ones",
            "account_id",
            (pl.col("account") < 0) & pl.lit(not allow_new),
        ),
        *rules.a_text("netting_set"),
        *rules.missing_text("instrument_id"),
        Rule(
            "unknown instrument: the run has no valid instrument of that id",
            "instrument_id",
            pl.col("instrument") < 0,
        ),
        *rules.missing_number(frame, "quantity"),
    ]
