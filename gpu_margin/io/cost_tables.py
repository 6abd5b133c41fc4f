"""The table of what trading costs: which instruments a cure may trade, and on what terms."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table

COST_COLUMNS = ("instrument_id", "cost")
COST_OPTIONAL = ("lot", "tradable", "limit")

_NUMBERS = ("cost", "lot", "limit")
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True)
class LoadedCosts:
    """Terms of trading, and the failed rows.

    `terms` (code, cost, lot, tradable, limit), by code of instrument: cost per contract in margin
    currency, the rest null where it is not said. `refused` are codes of instruments whose rows
    failed: nothing is known of what they cost.
    """

    terms: pl.DataFrame
    refused: pl.Series
    failures: pl.DataFrame


def load_costs(costs: Table, instruments: pl.Series) -> LoadedCosts:
    """Validate and encode terms; `instruments` are the ids of all, by code."""
    codes = instruments.to_frame("instrument_id").with_row_index("code")
    frame = rules.number_columns(
        rules.text_columns(costs.good, ["instrument_id", "tradable"]), _NUMBERS
    )
    frame = frame.join(codes, on="instrument_id", how="left", maintain_order="left").with_columns(
        pl.col("code").cast(pl.Int64),
        pl.col("tradable").str.strip_chars().str.to_lowercase(),
    )
    found = rules.check(frame, costs.source, _rules(frame))
    terms = rules.passing(frame, found).with_columns(
        pl.when(pl.col("tradable").is_not_null()).then(pl.col("tradable").is_in(_YES))
    )
    failed = frame.filter(pl.col(ROW).is_in(found[ROW].implode()))
    return LoadedCosts(
        terms.select("code", *COST_COLUMNS[1:], *COST_OPTIONAL).sort("code"),
        failed["code"].drop_nulls().unique().sort(),
        join_failures([costs.failures, found]),
    )


def _rules(frame: pl.DataFrame) -> list[Rule]:
    neither = ~pl.col("tradable").is_in((*_YES, *_NO))
    return [
        *rules.missing_text("instrument_id"),
        *rules.unique(["instrument_id"], "duplicate instrument_id: keep one row"),
        *rules.known_instrument(pl.col("code").is_null()),
        *rules.missing_number(frame, "cost"),
        *rules.not_negative("cost"),
        *rules.a_number(frame, "lot"),
        *rules.positive("lot"),
        *rules.a_number(frame, "limit"),
        *rules.not_negative("limit"),
        Rule("tradable must be true or false", "tradable", neither),
    ]
