"""Columns of marks become rows: in one go where nothing is wrong with any, else rule by rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from gpu_margin.io.fill_tables import load_mark_rows
from gpu_margin.io.mark_tables import MARK_COLUMNS, MARK_OPTIONAL
from gpu_margin.io.rules import LARGEST, SMALLEST
from gpu_margin.io.tables import Source, Table
from gpu_margin.tracking.batches import NO_FAILURES, read_columns
from gpu_margin.tracking.marks import MarkRow
from gpu_margin.tracking.state import State

_OF_OPTIONS = ("implied_vol", "forward")
# Seconds that are whole in float64.
_EXACT = 2.0**53


@dataclass(frozen=True)
class MarkRows:
    """Good marks of a batch of `received` rows from `source`, and the failures of the others."""

    source: str
    received: int
    rows: list[MarkRow]
    failures: pl.DataFrame


def marks_of(source: Source | Mapping[str, Any] | Table, state: State) -> MarkRows:
    """The marks of a batch, each valid by itself."""
    if isinstance(source, Mapping):
        rows = _in_one_go(source, state)
        if rows is not None:
            return MarkRows("marks", len(rows), rows, NO_FAILURES)
    table = read_columns(source, "marks", MARK_COLUMNS, MARK_OPTIONAL)
    market = state.inputs.market
    found = load_mark_rows(table, market["instruments"], market["history"])
    rows = list(found.rows.iter_rows())
    return MarkRows(table.source, len(table.frame), rows, found.failures)


def iso_seconds(time: Any) -> Any:
    """A time as the rules read it, where it is ISO text; anything else as it is."""
    if type(time) is not str or time[4:5] != "-" or time != time.strip():
        return time
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return time
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _in_one_go(columns: Mapping[str, Any], state: State) -> list[MarkRow] | None:
    """The marks, if none of them breaks any rule that `load_marks` has; None where one may."""
    names = ("instrument_id", "factor", *MARK_COLUMNS)
    if any(not isinstance(columns.get(name, []), list) for name in names):
        return None
    fields, values, times = (columns.get(name, []) for name in MARK_COLUMNS)
    count, nothing = len(fields), [None] * len(fields)
    instruments, factors = (columns.get(name, nothing) for name in MARK_OPTIONAL)
    if {len(one) for one in (values, times, instruments, factors)} != {count} or not count:
        return None
    times = [iso_seconds(time) for time in times]
    if not {type(value) for value in (*values, *times)} <= {int, float}:
        return None
    codes, known = state.contracts.codes, state.factors
    option, signed = state.loaded.market.instruments.option, state.contracts.signed
    rows: list[MarkRow] = []
    for row, instrument, factor, field, value, time in zip(
        range(1, count + 1), instruments, factors, fields, values, times, strict=True
    ):
        if instrument is not None:
            code = codes.get(instrument, -1) if type(instrument) is str else -1
            if code < 0 or factor is not None:
                return None
            good = field in _OF_OPTIONS if option[code] else field == "price"
            least = -math.inf if signed[code] else 0.0
            good = good and (value > 0.0 if field == "forward" else value >= least)
        else:
            good = type(factor) is str and factor in known and field == "last" and value > 0.0
        size = abs(value)
        if not (good and (SMALLEST <= size <= LARGEST or size == 0.0) and abs(time) <= _EXACT):
            return None
        rows.append((row, instrument, factor, field, float(value), float(time)))
    return rows
