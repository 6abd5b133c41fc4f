"""The mark board of a server: fed by records as they were logged, kept beside snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.io import rules
from gpu_margin.mark_board import MarkRow
from gpu_margin.records import Record


def mark_rows(record: Record) -> Iterator[MarkRow]:
    """The rows of a record of marks; those that have no time, or no value in range, are left out.

    What the book refuses for another reason (an unknown id, an older mark) a board passes over.
    """
    rows, none = record.rows, [None] * record.count
    times = _seconds(rows["time"])
    for instrument, factor, field, value, time in zip(
        rows.get("instrument_id") or none,
        rows.get("factor") or none,
        rows["field"],
        rows["value"],
        times,
        strict=True,
    ):
        if _in_range(value) and time is not None:
            yield instrument, factor, str(field), float(value), time


def _in_range(value: Any) -> bool:
    """Whether the book would take the number."""
    if not isinstance(value, (int, float)):
        return False
    return value == 0.0 or rules.SMALLEST <= abs(value) <= rules.LARGEST


def _seconds(times: list[Any]) -> list[float | None]:
    """Times as the book reads them, in seconds since 1970 UTC; None for what is none."""
    if all(type(one) in (int, float) for one in times):
        return [float(one) if np.isfinite(one) else None for one in times]
    frame = pl.DataFrame({"time": [None if one is None else str(one) for one in times]})
    found = rules.time_columns(frame, ["time"])["time"].fill_nan(None)
    return found.to_list()
