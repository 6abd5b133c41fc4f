"""Parquet and CSV files, and frames of any library that speaks Arrow, as numbered rows.

Reading never raises for what is inside a file: what cannot be read is a failure, and the table
has the rows that could be.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from gpu_margin.failures import ConfigError, Failure, failure_table
from gpu_margin.io.csv_files import read_csv

ROW = "row"
# What decoding puts in place of bytes that are no text (U+FFFD); also marks values of other types.
NO_TEXT = "\ufffd"
# Between the items of a list that is read as one text.
LIST_MARK = ";"
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
    source: Source,
    name: str,
    required: Sequence[str],
    optional: Sequence[str] = (),
    lists: Sequence[str] = (),
) -> Table:
    """Read the `required` and `optional` columns of a file or frame; `name` says which input.

    In the columns `lists` a list of texts becomes one text with ";" between them.

    An unreadable or empty input or a missing required column gives a table without rows and
    one failure that says so. Raises `ConfigError` where there is no such file.
    """
    if not isinstance(source, (str, Path)):
        label, sha256 = name, None
        frame, failures = _from_frame(source, name, [*required, *optional], lists)
    else:
        path = Path(source)
        label, sha256 = path.name, _hash_or_none(path, name)
        frame, failures = _from_file(path, [*required, *optional], lists)
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


def _hash_or_none(path: Path, name: str) -> str | None:
    """None where the bytes cannot be read; `ConfigError` where there is no such file."""
    try:
        return file_hash(path)
    except OSError as error:
        if path.is_dir() or (len(path.name) < 256 and path.exists()):
            return None
        raise ConfigError(f"inputs.{name}: no such file: {path} ({error.strerror})") from error


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


def _from_frame(
    source: Source, name: str, columns: Sequence[str], lists: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    if not isinstance(source, pl.LazyFrame) and not hasattr(source, "__arrow_c_stream__"):
        raise ConfigError(
            f"{name}: {type(source).__name__} is neither a path nor a table with "
            "__arrow_c_stream__ (polars, pandas, pyarrow, ...)"
        )
    try:
        if type(source).__module__.partition(".")[0] == "pandas":
            frame = _from_pandas(source, columns, lists)
        else:
            frame = source.collect() if isinstance(source, pl.LazyFrame) else pl.DataFrame(source)
    except (PolarsError, PanicException, OSError, ValueError, TypeError) as error:
        return pl.DataFrame(), _unreadable(error, name)
    return _numbered(_joined(frame, lists), columns), failure_table()


def _from_pandas(source: Any, columns: Sequence[str], lists: Sequence[str]) -> pl.DataFrame:
    """The wanted columns; those of Python objects as text, for Arrow refuses mixed ones."""
    wanted = source[[column for column in source.columns if column in columns]]
    if not wanted.columns.is_unique:
        raise ValueError("a column stands in it twice")
    mixed = [column for column in wanted.columns if wanted[column].dtype == object]
    readers = {column: _list_text if column in lists else _object_text for column in mixed}
    return pl.DataFrame(wanted.drop(columns=mixed)).with_columns(
        pl.Series(column, [read(value) for value in wanted[column]], dtype=pl.String)
        for column, read in readers.items()
    )


def _list_text(value: Any) -> str | None:
    """The items of a list or array as one text; anything else as in other columns."""
    items = value.tolist() if hasattr(value, "tolist") else value
    return LIST_MARK.join(map(str, items)) if isinstance(items, list) else _object_text(value)


def _joined(frame: pl.DataFrame, lists: Sequence[str]) -> pl.DataFrame:
    """Lists of texts in these columns as one text each."""
    kinds = {name: kind for name, kind in frame.schema.items() if name in lists}
    return frame.with_columns(
        pl.col(name).cast(pl.List(pl.String)).list.join(LIST_MARK)
        for name, kind in kinds.items()
        if isinstance(kind, (pl.List, pl.Array)) and kind.inner == pl.String
    )


def _object_text(value: Any) -> str | None:
    """What pandas writes for what is missing (None, NaN, NA, NaT) is no text."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    missing = isinstance(value, float) and math.isnan(value)
    missing = missing or value is None or type(value).__name__ in ("NAType", "NaTType")
    return None if missing else str(value)


def _from_file(
    path: Path, columns: Sequence[str], lists: Sequence[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    try:
        if path.suffix.lower() in (".parquet", ".pq") and not path.is_dir():
            frame = _joined(_read_parquet(path, columns), lists)
            return _numbered(frame, columns), failure_table()
        if path.is_dir():
            raise OSError("it is a folder")
        frame, failures = read_csv(path)
    except (PolarsError, PanicException, OSError, csv.Error, UnicodeError) as error:
        return pl.DataFrame(), _unreadable(error, path.name)
    if not frame.columns:
        return frame, failures
    blank = frame.select(pl.all_horizontal((pl.all() == "").fill_null(True))).to_series()
    numbered = _numbered(frame, columns)
    return numbered.filter(~blank | numbered[ROW].is_in(failures[ROW].implode())), failures


def _read_parquet(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    present = pl.read_parquet_schema(path)
    return pl.read_parquet(path, columns=[c for c in present if c in columns], glob=False)


def _unreadable(error: BaseException, source: str) -> pl.DataFrame:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return failure_table([Failure(f"unreadable file: {first}", source)])


def _numbered(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The wanted columns, those of unusual types as text, with the number of each row."""
    wanted = frame.select(column for column in columns if column in frame.columns)
    as_text = [_text(series) for series in wanted if not _usable(series.dtype)]
    numbers = pl.int_range(1, len(frame) + 1, dtype=pl.Int64, eager=True).alias(ROW)
    return pl.DataFrame([numbers, *wanted.with_columns(as_text)])


def _usable(kind: pl.DataType) -> bool:
    texts = (pl.String, pl.Categorical, pl.Enum)
    return kind.is_numeric() or kind in (*texts, pl.Date, pl.Datetime, pl.Boolean, pl.Null)


def _text(series: pl.Series) -> pl.Series:
    """Bytes as the text that they are; lists, times and objects marked as none."""
    values = [
        value.decode(errors="replace") if isinstance(value, bytes) else f"{NO_TEXT}{value}"
        for value in series.to_list()
    ]
    kept = [None if value is None else text for value, text in zip(series, values, strict=True)]
    return pl.Series(series.name, kept, dtype=pl.String)
