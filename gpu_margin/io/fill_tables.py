"""Tables of fills, marks and transfers as a tracker takes them: rows in sequence, and failures."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.mark_tables import MARK_OPTIONAL, load_marks
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table

FILL_COLUMNS = ("fill_id", "account_id", "instrument_id", "quantity", "price")
FILL_OPTIONAL = ("netting_set", "fee")
TRANSFER_COLUMNS = ("account_id", "asset", "amount")
TRANSFER_OPTIONAL = ("netting_set",)

_FILL_TEXTS = ("fill_id", "account_id", "netting_set", "instrument_id")
_TRANSFER_TEXTS = ("account_id", "netting_set", "asset")


@dataclass(frozen=True)
class LoadedRows:
    """The rows of a batch that are good, in their order, and the failed ones.

    `rows` has `row`, their 1-based number, and columns as the function that made them says.
    """

    rows: pl.DataFrame
    failures: pl.DataFrame


def load_fills(table: Table, instruments: pl.DataFrame) -> LoadedRows:
    """Fills (row, fill_id, account_id, netting_set, code, quantity, price, fee).

    `instruments` (instrument_id, code, signed) has all ids of the table of instruments: the code is
    null where the instrument failed, `signed` says whether its price may be negative. A fee may be
    left out and be negative; the netting set is by default the account's own.
    """
    frame = rules.number_columns(
        rules.text_columns(table.frame, _FILL_TEXTS), ["quantity", "price", "fee"]
    )
    known = instruments.with_columns(pl.lit(True).alias("known"))
    frame = frame.join(known, on="instrument_id", how="left", maintain_order="left")
    found = rules.check(rules.passing(frame, table.failures), table.source, _fill_rules(frame))
    failures = join_failures([table.failures, found]).sort(ROW, nulls_last=False)
    columns = [ROW, "fill_id", "account_id", "netting_set", "code", "quantity", "price", "fee"]
    good = rules.passing(frame, failures).with_columns(
        pl.col("netting_set").fill_null(pl.col("account_id")), pl.col("fee").fill_null(0.0)
    )
    return LoadedRows(good.select(columns), failures)


def load_transfers(table: Table, assets: pl.Series) -> LoadedRows:
    """Transfers of collateral (row, account_id, netting_set, code, amount); negative ones leave.

    `assets` are the ids by code.
    """
    frame = rules.number_columns(rules.text_columns(table.frame, _TRANSFER_TEXTS), ["amount"])
    known = assets.cast(pl.String).alias("asset").to_frame().with_row_index("code")
    frame = frame.join(known, on="asset", how="left", maintain_order="left").with_columns(
        pl.col("code").cast(pl.Int64)
    )
    found = rules.check(rules.passing(frame, table.failures), table.source, _transfer_rules(frame))
    failures = join_failures([table.failures, found]).sort(ROW, nulls_last=False)
    good = rules.passing(frame, failures).with_columns(
        pl.col("netting_set").fill_null(pl.col("account_id"))
    )
    return LoadedRows(good.select(ROW, "account_id", "netting_set", "code", "amount"), failures)


def load_mark_rows(table: Table, instruments: Table, history: Table) -> LoadedRows:
    """Marks (row, instrument_id, factor, field, value, time), each valid by itself.

    The rules are those of `load_marks`; which mark counts is for the tracker, which knows more.
    """
    failures = load_marks(table, instruments, history).failures
    frame = rules.text_columns(table.frame, [*MARK_OPTIONAL, "field"])
    frame = rules.time_columns(rules.number_columns(frame, ["value"]), ["time"])
    frame = frame.with_columns(pl.col("field").str.strip_chars().str.to_lowercase())
    good = rules.passing(frame, failures)
    return LoadedRows(good.select(ROW, *MARK_OPTIONAL, "field", "value", "time"), failures)


def _fill_rules(frame: pl.DataFrame) -> list[Rule]:
    return [
        *rules.missing_text("fill_id"),
        *rules.missing_text("account_id"),
        *rules.a_text("netting_set"),
        *rules.missing_text("instrument_id"),
        *rules.known_instrument(pl.col("known").is_null()),
        *rules.sound_instrument(pl.col("code").is_null()),
        *rules.missing_number(frame, "quantity"),
        Rule("quantity is 0: nothing was traded", "quantity", pl.col("quantity") == 0),
        *rules.missing_number(frame, "price"),
        *rules.not_negative("price", ~pl.col("signed")),
        *rules.a_number(frame, "fee"),
    ]


def _transfer_rules(frame: pl.DataFrame) -> list[Rule]:
    return [
        *rules.missing_text("account_id"),
        *rules.a_text("netting_set"),
        *rules.missing_text("asset"),
        Rule(
            "unknown asset: there is no valid asset of that id", "asset", pl.col("code").is_null()
        ),
        *rules.missing_number(frame, "amount"),
    ]
