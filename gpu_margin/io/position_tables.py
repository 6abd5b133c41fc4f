"""The table of positions becomes a `Portfolio`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table
from gpu_margin.portfolio import Portfolio, Rows

POSITION_COLUMNS = ("account_id", "instrument_id", "quantity")
POSITION_OPTIONAL = ("netting_set",)


@dataclass(frozen=True)
class LoadedPortfolio:
    """The portfolio and the failed position rows."""

    portfolio: Portfolio
    failures: pl.DataFrame


def load_portfolio(positions: Table, codes: pl.DataFrame) -> LoadedPortfolio:
    """Validate and encode positions.

    `codes` has instrument_id and code, null where the instrument itself failed. A bad row is
    left out, and its netting set remembers that it had one.
    """
    frame = _described(positions.frame, codes)
    found = rules.check(
        frame.join(positions.failures.select(ROW), on=ROW, how="anti"),
        positions.source,
        _position_rules(frame),
    )
    failures = join_failures([positions.failures, found]).sort(ROW, nulls_last=False)
    owned = frame.filter(pl.col("account_id").is_not_null()).with_columns(
        pl.col(ROW).is_in(failures[ROW].implode()).alias("bad")
    )
    return LoadedPortfolio(_encode(owned), failures)


def _described(rows: pl.DataFrame, codes: pl.DataFrame) -> pl.DataFrame:
    frame = rules.text_columns(rows, ["account_id", "instrument_id", "netting_set"])
    frame = rules.number_columns(frame, ["quantity"])
    known = codes.with_columns(pl.lit(True).alias("known"))
    return frame.join(known, on="instrument_id", how="left", maintain_order="left").with_columns(
        pl.col("netting_set").fill_null(pl.col("account_id"))
    )


def _position_rules(frame: pl.DataFrame) -> list[Rule]:
    return [
        *rules.missing_text("account_id"),
        *rules.a_text("netting_set"),
        *rules.missing_text("instrument_id"),
        *rules.known_instrument(pl.col("known").is_null()),
        *rules.missing_number(frame, "quantity"),
        *rules.sound_instrument(pl.col("code").is_null()),
    ]


def _encode(rows: pl.DataFrame) -> Portfolio:
    """Rows (account_id, netting_set, code, quantity, bad) as sorted codes."""
    key = ["account_id", "netting_set"]
    sets = rows.group_by(key).agg(
        pl.col("bad").sum().cast(pl.Int64), (~pl.col("bad")).sum().cast(pl.Int64).alias("good")
    )
    sets = sets.sort(key).with_row_index("set")
    accounts = sets["account_id"].unique(maintain_order=True)
    good = (
        rows.filter(~pl.col("bad"))
        .select(*key, "code", "quantity")
        .join(sets.select(*key, "set"), on=key)
        .sort("set", "code", "quantity")
    )
    per_set = sets["good"].to_numpy()
    return Portfolio(
        accounts=accounts,
        sets=sets["netting_set"],
        set_account=_codes(sets["account_id"].rle_id()),
        rows=Rows(
            offsets=np.concatenate([[0], np.cumsum(per_set)]).astype(np.int64),
            column=_codes(good["code"]),
            value=good["quantity"].to_numpy().astype(np.float64, copy=False),
        ),
        good=per_set,
        bad=sets["bad"].to_numpy(),
    )


def _codes(series: pl.Series) -> NDArray[np.int64]:
    return series.to_numpy().astype(np.int64, copy=False)
