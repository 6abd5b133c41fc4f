"""CRIF files and frames as batches of rows: a little of any amount is in memory at a time."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from gpu_margin.failures import ConfigError, Failure, failure_table
from gpu_margin.io import crif_blocks
from gpu_margin.io.crif_columns import COLUMNS, REGULATIONS, column_faults, known_columns
from gpu_margin.io.tables import ROW, Source, read_table

# Rows of a batch of a Parquet file or frame.
_ROWS = 1 << 18
_NAME = "crif"


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one source.

    `frame` has those of `COLUMNS` that the source has: amounts as numbers or text, the rest text,
    null or "" where empty. `failures` are of the source as a whole, or of malformed rows, numbered
    as in the source; `before` is the number of rows before the first. `clean` says that all text
    was text. `done` of `total` bytes or rows of the source are read. `written` gives the frame
    again with amounts as they are written, where it has them as numbers.
    """

    source: str
    frame: pl.DataFrame
    failures: pl.DataFrame
    before: int = 0
    clean: bool = True
    done: int = 0
    total: int = 0
    written: Callable[[], pl.DataFrame] | None = None


def batches(source: Source) -> Iterator[Batch]:
    """The rows of a path or frame, in their order.

    What is no CRIF as a whole is one batch without rows that has the failures. Raises `ConfigError`
    where there is no such file, or the source is neither a path nor a frame.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    label = _NAME if path is None else path.name
    try:
        yield from _of_frame(source) if path is None else _of_file(path)
    except (PolarsError, PanicException, OSError, csv.Error) as error:
        if path is not None and isinstance(error, FileNotFoundError):
            raise ConfigError(f"{_NAME}: no such file: {path} ({error.strerror})") from error
        first = next(iter(str(error).splitlines()), type(error).__name__)
        yield _nothing([Failure(f"unreadable file: {first}", label)])


def _of_file(path: Path) -> Iterator[Batch]:
    if path.is_dir():
        raise IsADirectoryError("it is a folder")
    path.stat()  # says by itself that there is no such file
    if path.suffix.lower() in (".parquet", ".pq"):
        yield from _of_parquet(path)
    else:
        yield from _of_csv(path)


def _nothing(failures: list[Failure]) -> Batch:
    return Batch(failures[0].source, pl.DataFrame(), failure_table(failures))


def _of_csv(path: Path) -> Iterator[Batch]:
    total = path.stat().st_size
    with path.open("rb") as stream:
        header = crif_blocks.read_header(stream)
        if header is None:
            yield _nothing([Failure("empty file: no header", path.name)])
            return
        if faults := column_faults(header.columns, path.name):
            yield _nothing(faults)
            return
        before, filled = 0, False
        for block in crif_blocks.blocks(stream, header):
            frame, failures = crif_blocks.read_block(block, header, path.name)
            failures = failures.with_columns(pl.col(ROW) + before)
            clean = failures.is_empty()
            written = partial(_written, block, header, path.name)
            yield Batch(path.name, frame, failures, before, clean, stream.tell(), total, written)
            before += len(frame)
            filled = filled or not (_blank(frame.head(1)) and _blank(frame))
        if not filled:
            yield _nothing([Failure("empty file: no data rows", path.name)])


def _written(block: bytes, header: crif_blocks.Header, source: str) -> pl.DataFrame:
    return crif_blocks.read_texts(block, header, source)[0]


def _blank(frame: pl.DataFrame) -> bool:
    return all(((text == "") | text.is_null()).all() for text in frame.cast(pl.String))


def _of_parquet(path: Path) -> Iterator[Batch]:
    names = list(pl.read_parquet_schema(path))
    if faults := column_faults(known_columns(names), path.name):
        yield _nothing(faults)
        return
    table = _named(pl.scan_parquet(path, glob=False), names)
    total = table.select(pl.len()).collect().item()
    for before in range(0, total, _ROWS):
        yield _batch(table.slice(before, _ROWS).collect(), path.name, before, total)
    if not total:
        yield _nothing([Failure("empty file: no data rows", path.name)])


def _of_frame(source: Any) -> Iterator[Batch]:
    """`read_table` takes pandas' mixed columns, and says what is no table."""
    frame, failures = _pandas(source) if _is_pandas(source) else _arrow(source)
    if not failures.is_empty():
        yield Batch(_NAME, pl.DataFrame(), failures)
        return
    for before in range(0, len(frame), _ROWS):
        yield _batch(frame.slice(before, _ROWS), _NAME, before, len(frame))


def _is_pandas(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "pandas"


def _pandas(source: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The columns that count, under our names; or the failures of the frame as a whole."""
    known = known_columns([str(name) for name in source.columns])
    if faults := column_faults(known, _NAME):
        return pl.DataFrame(), failure_table(faults)
    named = source.set_axis(_our_names(known), axis=1)
    table = read_table(named, _NAME, (), COLUMNS, REGULATIONS)
    return table.frame.drop(ROW), table.failures


def _arrow(source: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same of a frame that speaks Arrow."""
    if not isinstance(source, pl.LazyFrame):
        table = read_table(source, _NAME, ())  # says what is wrong with it
        if not table.failures.is_empty():
            return pl.DataFrame(), table.failures
        source = pl.DataFrame(source).lazy()
    names = source.collect_schema().names()
    if faults := column_faults(known_columns(names), _NAME):
        return pl.DataFrame(), failure_table(faults)
    frame = _named(source, names).collect()
    table = read_table(frame.head(1), _NAME, ())
    return frame, table.failures


def _our_names(known: list[str | None]) -> list[str]:
    return [name or f"-{place}" for place, name in enumerate(known)]


def _named(frame: pl.LazyFrame, names: list[str]) -> pl.LazyFrame:
    """The columns that count, under our names."""
    known = known_columns(names)
    return frame.select(
        pl.col(name).alias(ours) for name, ours in zip(names, known, strict=True) if ours
    )


def _batch(frame: pl.DataFrame, source: str, before: int, total: int) -> Batch:
    """Columns of any type as numbers and text, as in other tables."""
    table = read_table(_whole_buckets(frame), source, (), COLUMNS, REGULATIONS)
    texts = [name for name in table.frame.columns if name not in (ROW, "amount_usd", "amount")]
    text = table.frame.drop(ROW).with_columns(pl.col(texts).cast(pl.String, strict=False))
    done = before + len(frame)
    return Batch(source, text, table.failures, before, clean=False, done=done, total=total)


def _whole_buckets(frame: pl.DataFrame) -> pl.DataFrame:
    """Buckets that were read as 1.0, for some rows have none, as "1"."""
    if not frame.schema.get("bucket", pl.String()).is_float():
        return frame
    bucket = pl.col("bucket")
    number = bucket.cast(pl.Int64, strict=False)
    text = pl.when(number == bucket).then(number.cast(pl.String)).otherwise(bucket.cast(pl.String))
    return frame.with_columns(text.alias("bucket"))
