"""Changes of an account's status, as events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.collateral import STATUSES

Ints = NDArray[np.int64]

# What a status is called when it is reached.
_KINDS = ("cured", "call", "liquidation")
_SCHEMA = {
    "sequence": pl.Int64,
    "account_id": pl.String,
    "model": pl.String,
    "kind": pl.String,
    "before": pl.String,
    "after": pl.String,
}


@dataclass(frozen=True)
class Event:
    """An account's status under a model changed from `before` (None: not known) to `after`.

    `kind` is "call", "cured" or "liquidation"; `sequence` the last row that had been taken.
    """

    sequence: int
    account_id: str
    model: str
    kind: str
    before: str | None
    after: str


def status_events(
    sequence: int, accounts: Sequence[str], model: str, codes: Ints, before: Ints, after: Ints
) -> list[Event]:
    """Events under a model of the accounts `codes` whose status (-1: not known) is another now.

    An account that was not known is no event while it is ok, and neither is one that no longer is.
    """
    changed = (after >= 0) & (after != before) & ((before >= 0) | (after > 0))
    return [
        Event(
            sequence,
            accounts[code],
            model,
            _KINDS[new],
            None if old < 0 else STATUSES[old],
            STATUSES[new],
        )
        for code, old, new in zip(
            codes[changed].tolist(), before[changed].tolist(), after[changed].tolist(), strict=True
        )
    ]


def event_table(events: Sequence[Event]) -> pl.DataFrame:
    """sequence, account_id, model, kind, before, after."""
    return pl.DataFrame([asdict(event) for event in events], schema=_SCHEMA)


def events_of(table: pl.DataFrame) -> list[Event]:
    """The events of such a table."""
    return [Event(**row) for row in table.iter_rows(named=True)]
