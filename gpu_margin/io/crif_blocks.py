"""A CSV file of any size as blocks of whole records, and each block as columns.

The separator is that of the header. A fast reader takes a block; what it refuses, or may have
misread, is read again record by record, so that only bad records are lost.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import BinaryIO

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from gpu_margin.failures import failure_table
from gpu_margin.io.crif_columns import AMOUNTS, known_columns
from gpu_margin.io.csv_files import read_lines
from gpu_margin.io.rules import LARGEST

# Bytes of a block: enough to keep the reader busy, few enough to be forgotten.
_BLOCK = 1 << 24
# A record with line breaks in quotes is followed so far; a longer one is a quote left open.
_LONGEST = 1 << 16
_SEPARATORS = "\t;,"


@dataclass(frozen=True)
class Header:
    """The separator of a file and [column] our names of its columns, None for what is unknown."""

    separator: str
    columns: tuple[str | None, ...]

    @property
    def names(self) -> list[str]:
        """[column] a name that no other has; those that do not count are "-0", "-1", ..."""
        return [name or f"-{place}" for place, name in enumerate(self.columns)]


def read_header(stream: BinaryIO) -> Header | None:
    """The first line that is not blank; None where there is none."""
    for line in stream:
        text = line.decode("utf-8-sig", errors="replace").strip("\r\n")
        separator = max(_SEPARATORS, key=text.count)
        fields = next(csv.reader([text], delimiter=separator), [])
        if any(field.strip() for field in fields):
            return Header(separator, tuple(known_columns(fields)))
    return None


def blocks(stream: BinaryIO, header: Header) -> Iterator[bytes]:
    """The rest of the stream in pieces that end where a record does, each under a header line."""
    line = header.separator.join(header.names).encode() + b"\n"
    while block := stream.read(_BLOCK):
        tail = [stream.readline()]
        if b'"' in block or b'"' in tail[0]:
            tail += _open_record(stream, (_count(block, b'"') + tail[0].count(b'"')) % 2)
        yield b"".join((line, block, *tail))


def _open_record(stream: BinaryIO, opened: int) -> list[bytes]:
    """The lines that belong to a value which a quote has opened, none where it does not end."""
    here = stream.tell()
    lines: list[bytes] = []
    while opened and stream.tell() - here < _LONGEST and (line := stream.readline()):
        lines.append(line)
        opened ^= line.count(b'"') % 2
    if opened:
        stream.seek(here)
        return []
    return lines


def read_block(block: bytes, header: Header, source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The columns that count, and failures of malformed records; rows count from 1 in the block.

    Amounts are float64 where all of them are good, else text, as all other columns are.
    """
    frame = _fast(block, header, AMOUNTS)
    if frame is not None and _sound(frame):
        return frame, failure_table()
    return read_texts(block, header, source)


def read_texts(block: bytes, header: Header, source: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The same with amounts as they are written."""
    frame = _fast(block, header, ())
    if frame is not None:
        return frame, failure_table()
    lines = list(StringIO(block.decode(errors="replace"), newline=""))
    frame, failures = read_lines(lines, source, header.separator)
    return frame.select(name for name in header.columns if name), failures


def _fast(block: bytes, header: Header, numbers: Sequence[str]) -> pl.DataFrame | None:
    """The columns that count, or None where the fast reader refuses or may have misread."""
    quotes = _count(block, b'"') if b'"' in block else 0
    kinds = {name: pl.Float64() if name in numbers else pl.String() for name in header.names}
    if quotes % 2:
        return None
    try:
        frame = pl.read_csv(
            BytesIO(block),
            schema=kinds,
            separator=header.separator,
            quote_char='"' if quotes else None,
        )
    except PolarsError:
        return None
    if quotes and len(frame) != _rows(block):
        return None
    return frame.select(name for name in header.columns if name)


def _rows(block: bytes) -> int:
    """Lines below the header."""
    return _count(block, b"\n") - block.endswith(b"\n")


def _count(block: bytes, byte: bytes) -> int:
    """How often a byte stands in it; `bytes.count` is slow where it is often."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == byte[0]))


def _sound(frame: pl.DataFrame) -> bool:
    """Whether all amounts that there are can be used, so that their text is not needed."""
    amounts = [frame[name] for name in AMOUNTS if name in frame.columns]
    good = [np.count_nonzero(np.abs(amount.to_numpy()) <= LARGEST) for amount in amounts]
    return good == [amount.count() for amount in amounts]
