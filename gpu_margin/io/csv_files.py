"""CSV files as text columns: what is a number is decided row by row, with failures.

A fast reader takes what it can read; what it refuses, or may have misread, is read again record by
record, so that only bad records are lost.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from gpu_margin.failures import Failure, failure_table

_SPANNING = "[\r\n]"


def read_csv(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All records as text, null where empty, and the failures of those that are malformed.

    Malformed records keep their place in the frame, so that row n is the n-th record. A file
    without a header gives a frame without columns.
    """
    quotes = _count_quotes(path)
    if quotes % 2:
        return _by_record(path, lines=True)
    try:
        frame = pl.read_csv(path, infer_schema=False, glob=False).rename(str.strip)
    except PolarsError:
        return _by_record(path)
    # A stray quote swallows lines up to the next one: the strict reader tells it from a value
    # that has line breaks on purpose.
    if quotes and frame.select(pl.any_horizontal(pl.all().str.contains(_SPANNING)).any()).item():
        return _by_record(path)
    return frame, failure_table()


def _count_quotes(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(block.count(b'"') for block in iter(lambda: stream.read(1 << 24), b""))


def _by_record(path: Path, lines: bool = False) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read record by record; with `lines`, every line of the file is a record of its own."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        text = stream.read()
    physical = text.splitlines(keepends=True)
    try:
        records = list(csv.reader(physical, strict=True)) if not lines else None
    except csv.Error:  # quotes that do not pair up inside records
        records = None
    if records is None:
        records = [_line_fields(line) for line in physical]
    while records and not any(field.strip() for field in records[0]):
        records.pop(0)
    if not records:
        return pl.DataFrame(), failure_table([Failure("empty file: no header", path.name)])
    names, places = _header(records.pop(0))
    failures = failure_table(_malformed(records, len(names), path.name))
    columns = {
        name: [row[place] if place < len(row) else "" for row in records]
        for name, place in zip(names, range(len(names)), strict=True)
        if place in places
    }
    frame = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return frame.with_columns(pl.all().replace("", None)), failures


def _line_fields(line: str) -> list[str]:
    """The fields of one line; one that leaves a quote open has it marked for `_malformed`."""
    fields = next(csv.reader([line.rstrip("\r\n")]), [])
    return [*fields, *[_UNCLOSED] * (line.count('"') % 2)]


_UNCLOSED = "\0unclosed"


def _header(record: list[str]) -> tuple[list[str], set[int]]:
    """Names of all columns, and the places of those that have a name of their own."""
    names = [name.strip() for name in record]
    places = {place for place, name in enumerate(names) if name and name not in names[:place]}
    return names, places


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
