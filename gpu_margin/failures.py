"""What went wrong: failed rows as values, and the few errors that stop a run.

A bad row is a result, not an exception: it is written down as a `Failure`, counted, and the
rest of the table goes on. Exceptions are for what no row can be blamed for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import polars as pl

SCHEMA = pl.Schema(
    {
        "reason": pl.String,
        "source": pl.String,
        "row": pl.Int64,
        "field": pl.String,
        "value": pl.String,
    }
)


class GpuMarginError(Exception):
    """Base of the errors that gpu_margin raises on purpose; the message says the way out."""


class ConfigError(GpuMarginError):
    """The configuration or its relation to the data is wrong; nothing was computed."""


class InputError(GpuMarginError):
    """An input as a whole cannot be used (missing file, changed file, missing package)."""


class BackendUnavailable(GpuMarginError):
    """A backend cannot run on this machine; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Failure:
    """One bad row or file.

    `row` is the 1-based number of the data row (the header of a CSV is not counted), None where
    the file as a whole is at fault; `value` is the offending value as text.
    """

    reason: str
    source: str
    row: int | None = None
    field: str | None = None
    value: str | None = None


def failure_table(failures: Iterable[Failure] = ()) -> pl.DataFrame:
    """Failures as a table with columns reason, source, row, field, value."""
    return pl.DataFrame([asdict(failure) for failure in failures], schema=SCHEMA)


def join_failures(tables: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Several failure tables as one, in the order given."""
    return pl.concat([failure_table(), *tables])
