"""Parquet and CSV files, and frames of any library that speaks Arrow, as numbered rows.

Reading never raises for what is inside a file: what cannot be read is a failure, and the table
has the rows that could be.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from gpu_margin.failures import ConfigError, Failure, failure_table

ROW = "row"
Source = Any  # a path, or a frame with __arrow_c_stream__


@dataclass(frozen=True)
class Table:
    """The rows of one input.

    `frame` has the column `row`, the 1-based number of the data row, and every wanted column
    that the input has; some of its rows may have a failure already (`good` leaves them out).
    `source` is what failures name; `sha256` is None for frames.
    """

    source: str
    frame: pl.DataFrame
    failures: pl.DataFrame
    sha256: str | None = None

    @property
    def good(self) -> pl.DataFrame:
        """The rows without a failure."""
        return self.frame.join(self.failures.select(ROW), on=ROW, how="anti", maintain_order="left")


def read_table(
    source: Source, name: str, required: Sequence[str], optional: Sequence[str] = ()
) -> Table:
    """Read the `required` and `optional` columns of a file or frame; `name` says which input.

    An unreadable or empty input or a missing required column gives a table without rows and
    one failure that says so. Raises `ConfigError` where there is no such file.
    """
    if not isinstance(source, (str, Path)):
        label, sha256 = name, None
        frame, failures = _from_frame(source, name), failure_table()
    else:
        path = Path(source)
        if not path.exists():
            raise ConfigError(f"inputs.{name}: no such file: {path}")
        label = path.name
        sha256 = file_hash(path) if path.is_file() else None
        frame, failures = _from_file(path, [*required, *optional])
    fault = _table_fault(frame, failures, label, required)
    if fault is not None:
        return Table(label, _empty(required), fault, sha256)
    wanted = [ROW, *required, *(column for column in optional if column in frame.columns)]
    return Table(label, frame.select(wanted), failures, sha256)


def absent_table(name: str, required: Sequence[str]) -> Table:
    """The table of an optional input that was not given: no rows, no failure."""
    return Table(name, _empty(required), failure_table())


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _empty(columns: Sequence[str]) -> pl.DataFrame:
    schema: dict[str, Any] = {ROW: pl.Int64, **dict.fromkeys(columns, pl.String)}
    return pl.DataFrame(schema=schema)


def _table_fault(
    frame: pl.DataFrame, failures: pl.DataFrame, source: str, required: Sequence[str]
) -> pl.DataFrame | None:
    """What makes the table as a whole unusable, beside failures known already."""
    if not frame.columns:
        return failures
    missing = [column for column in required if column not in frame.columns]
    if missing:
        return failure_table(
            Failure("missing column: add it or correct its header", source, field=column)
            for column in missing
        )
    if frame.is_empty() and failures.is_empty():
        return failure_table([Failure("empty file: no data rows", source)])
    return None


def _from_frame(source: Source, name: str) -> pl.DataFrame:
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    if not hasattr(source, "__arrow_c_stream__"):
        raise ConfigError(
            f"{name}: {type(source).__name__} is neither a path nor a table with "
            "__arrow_c_stream__ (polars, pandas, pyarrow, ...)"
        )
    return _numbered(pl.DataFrame(source))


def _from_file(path: Path, columns: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    try:
        if path.is_file() and path.stat().st_size == 0:
            reason = "empty file: it has no bytes"
        elif path.suffix.lower() in (".parquet", ".pq"):
            return _read_parquet(path, columns), failure_table()
        else:
            return _read_csv(path)
    except (PolarsError, OSError, csv.Error, UnicodeError) as error:
        reason = f"unreadable file: {str(error).splitlines()[0]}"
    return pl.DataFrame(), failure_table([Failure(reason, path.name)])


def _read_parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    present = pl.read_parquet_schema(path)
    return _numbered(pl.read_parquet(path, columns=[c for c in present if c in columns]))


def _read_csv(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All columns as text: what is a number is decided row by row, with failures."""
    try:
        frame, failures = pl.read_csv(path, infer_schema=False), failure_table()
    except PolarsError:
        frame, failures = _read_ragged_csv(path)
    numbered = _numbered(frame.rename(str.strip))
    blank = pl.all_horizontal(pl.exclude(ROW).is_null())
    return numbered.filter(~blank), failures


def _read_ragged_csv(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read a CSV that the fast reader refuses, row by row, so that only its bad rows are lost."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv.reader(stream)
        header = next(reader)
        rows = list(reader)
    failures = failure_table(_ragged_rows(rows, len(header), path.name))
    filled = [(row + [""] * len(header))[: len(header)] for row in rows]
    frame = pl.DataFrame(filled, schema=dict.fromkeys(header, pl.String), orient="row")
    return frame.with_columns(pl.all().replace("", None)), failures


def _ragged_rows(rows: list[list[str]], width: int, source: str) -> Iterator[Failure]:
    for number, row in enumerate(rows, start=1):
        text = ",".join(row)
        if len(row) > width:
            reason = f"{len(row)} fields where the header has {width}: quote commas inside values"
            yield Failure(reason, source, number, value=text)
        elif "\ufffd" in text:
            yield Failure(
                "text is not valid UTF-8: save the file as UTF-8", source, number, value=text
            )


def _numbered(frame: pl.DataFrame) -> pl.DataFrame:
    without = frame.drop(ROW, strict=False)
    return without.with_row_index(ROW, offset=1).with_columns(pl.col(ROW).cast(pl.Int64))
