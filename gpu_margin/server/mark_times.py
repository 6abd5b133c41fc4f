"""Times of marks as the book reads them, and those of the future, which are refused.

A mark of the far future would never grow stale, and no later one could take its place. It is
refused before it is logged: the book does not look at the clock, so that a log gives one state
whenever it is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.io import rules
from gpu_margin.server.feeding import BadMessage
from gpu_margin.tracking.mark_batches import iso_seconds

AHEAD_SECONDS = 60.0
WAY_OUT = "times are seconds since 1970 UTC or ISO 8601; milliseconds must be divided by 1000"

_NUMBERS = {int, float}
_SHOWN = 64


@dataclass(frozen=True)
class Ahead:
    """A mark whose time is too far ahead: its `row`, from 0, and what is wrong with it."""

    row: int
    detail: str


def first_ahead(times: Sequence[Any], seconds: float) -> Ahead | None:
    """The first time that is more than `seconds` after now, None where there is none.

    A time that cannot be read is passed over: the book has a reason for it.
    """
    now = time.time()
    late = seconds_of(times) > now + seconds
    if not late.any():
        return None
    row = int(late.argmax())
    shown = str(times[row]).strip()[:_SHOWN]
    clock = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    return Ahead(row, f"{shown} is more than {seconds:g} s after the server's time, {clock}")


def check_marks(rows: Mapping[str, Sequence[Any]], seconds: float) -> None:
    """Raise `BadMessage` where a time of these marks is more than `seconds` after now."""
    found = first_ahead(rows["time"], seconds)
    if found is not None:
        place = "time" if len(rows["time"]) == 1 else f"[{found.row}].time"
        raise BadMessage(f"{found.detail}: {WAY_OUT}", place)


def seconds_of(times: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Times as the book reads them, in seconds since 1970 UTC; NaN for what is none."""
    if not set(map(type, times)) <= _NUMBERS:
        # Texts are read one by one, and rows that come together often have one time.
        read = {one: iso_seconds(one) for one in dict.fromkeys(times)}
        times = [read[one] for one in times]
    if set(map(type, times)) <= _NUMBERS:
        found = np.array(times, dtype=np.float64)
    else:
        texts = [None if one is None else str(one) for one in times]
        frame = pl.DataFrame({"time": texts}, schema={"time": pl.String})
        found = rules.time_columns(frame, ["time"])["time"].to_numpy()
    return np.where(np.isfinite(found), found, np.nan)
