"""CSV files as text columns: what is a number is decided row by row, with failures.

A fast reader takes what it can read; what it refuses, or may have misread, is read again record by
record, so that only bad records are lost.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from gpu_margin.failures import Failure, failure_table

_SPANNING = "[\r\n]"
# How polars names a column that the header has again.
_REPEATED = re.compile(r"(.*)_duplicated_\d+")


def read_csv(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All records as text, null where empty, and the failures of those that are malformed.

    Malformed records keep their place in the frame, so that row n is the n-th record. A file
    without a header, or with a column twice, gives a frame without columns.
    """
    quotes = _count_quotes(path)
    if quotes % 2:
        return _by_record(path)
    try:
        frame = pl.read_csv(path, infer_schema=False, glob=False).rename(str.strip)
    except PolarsError:
        return _by_record(path)
    if quotes and frame.select(pl.any_horizontal(pl.all().str.contains(_SPANNING)).any()).item():
        return _by_record(path)
    repeated = [match[1] for name in frame.columns if (match := _REPEATED.fullmatch(name))]
    if any(repeated):
        return pl.DataFrame(), _column_twice(repeated, path.name)
    return frame, failure_table()


def _count_quotes(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(block.count(b'"') for block in iter(lambda: stream.read(1 << 24), b""))


def _text_lines(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        return list(stream)


def _by_record(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    return read_lines(_text_lines(path), path.name)


def read_lines(
    lines: list[str], source: str, separator: str = ","
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lines, the header first, read record by record; the result is that of `read_csv`.

    Where quotes do not pair up, or seem to have swallowed lines, every line is a record.
    """
    if sum(line.count('"') for line in lines) % 2:
        return _table(_lines(lines, separator), source)
    try:
        records = list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error:  # quotes that do not pair up inside records
        records = _lines(lines, separator)
    if _swallowed(records, separator):
        records = _lines(lines, separator)
    return _table(records, source)


def _swallowed(records: list[list[str]], separator: str) -> bool:
    """Whether a value with line breaks looks like lines between two stray quotes.

    It then has the separators of a record in it, or leaves a record with too many fields.
    """
    width = len(records[0]) if records else 0
    return any(
        len(record) > width or field.count(separator) >= width - 1
        for record in records
        for field in record
        if "\n" in field or "\r" in field
    )


def _lines(lines: list[str], separator: str) -> list[list[str]]:
    """Every line as a record of its own."""
    return [_line_fields(line, separator) for line in lines]


def _table(records: list[list[str]], source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Records, the header first, as columns of text."""
    while records and not any(field.strip() for field in records[0]):
        records.pop(0)
    if not records:
        return pl.DataFrame(), failure_table([Failure("empty file: no header", source)])
    names = [name.strip() for name in records.pop(0)]
    repeated = [name for place, name in enumerate(names) if name and name in names[:place]]
    if repeated:
        return pl.DataFrame(), _column_twice(repeated, source)
    failures = failure_table(_malformed(records, len(names), source))
    columns = {
        name or f"column {place}": [row[place] if place < len(row) else "" for row in records]
        for place, name in enumerate(names)
    }
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return frame.with_columns(pl.all().replace("", None)), failures


def _column_twice(names: list[str], source: str) -> pl.DataFrame:
    reason = "column twice: it is not clear which counts, remove one"
    return failure_table(Failure(reason, source, field=name) for name in names)


def _line_fields(line: str, separator: str) -> list[str]:
    """The fields of one line; one that leaves a quote open has it marked for `_malformed`."""
    fields = next(csv.reader([line.rstrip("\r\n")], delimiter=separator), [])
    return [*fields, *[_UNCLOSED] * (line.count('"') % 2)]


_UNCLOSED = "\0unclosed"


def _malformed(records: list[list[str]], width: int, source: str) -> Iterator[Failure]:
    for number, record in enumerate(records, start=1):
        text = ",".join(field for field in record if field != _UNCLOSED)
        if record and record[-1] == _UNCLOSED:
            reason = "a quote is not closed: close it, or double quotes inside a value"
        elif len(record) > width:
            reason = f"{len(record)} fields where the header has {width}: quote commas in values"
        elif "\ufffd" in text:
            reason = "text is not valid UTF-8: save the file as UTF-8"
        else:
            continue
        yield Failure(reason, source, number, value=text)
