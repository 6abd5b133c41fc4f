"""The mark board of a server: fed by records as they were logged, kept beside snapshots."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gpu_margin.io import rules
from gpu_margin.mark_board import MarkRow
from gpu_margin.records import Record
from gpu_margin.server.mark_times import seconds_of


def mark_rows(record: Record) -> Iterator[MarkRow]:
    """The rows of a record of marks; those that have no time, or no value in range, are left out.

    What the book refuses for another reason (an unknown id, an older mark) a board passes over.
    """
    rows, none = record.rows, [None] * record.count
    times = seconds_of(rows["time"]).tolist()
    for instrument, factor, field, value, time in zip(
        rows.get("instrument_id") or none,
        rows.get("factor") or none,
        rows["field"],
        rows["value"],
        times,
        strict=True,
    ):
        if _in_range(value) and not math.isnan(time):
            yield instrument, factor, str(field), float(value), time


def _in_range(value: Any) -> bool:
    """Whether the book would take the number."""
    if not isinstance(value, (int, float)):
        return False
    return value == 0.0 or rules.SMALLEST <= abs(value) <= rules.LARGEST
