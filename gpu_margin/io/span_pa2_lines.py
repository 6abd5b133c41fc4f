"""A PA2 file, plain or in a zip, as blocks of whole lines, and lines as matrices of bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gpu_margin.failures import ConfigError
from gpu_margin.io import span_zips

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

# No record has more columns that count; what is behind them is passed by.
WIDEST = 200
BLANK = 32
# Bytes of a block: enough for the lines to be worth a matrix, few enough to be forgotten.
_BLOCK = 1 << 24
_NEWLINE, _RETURN = 10, 13


@dataclass(frozen=True)
class Lines:
    """Lines of a block: where in `buffer` they start, how long they are without their ends.

    `first` is the number of the first line in the file, counted from 1. `kinds` [line] are the two
    bytes that name a record, as one number. Behind the last line the buffer has enough blanks to
    look `WIDEST` bytes ahead.
    """

    buffer: Bytes
    starts: Ints
    lengths: Ints
    kinds: NDArray[np.uint16]
    first: int

    def __len__(self) -> int:
        return len(self.starts)

    def text(self, place: int) -> str:
        """One line as it is written."""
        start = int(self.starts[place])
        return self.buffer[start : start + int(self.lengths[place])].tobytes().decode("latin-1")

    def matrix(self, chosen: Ints, width: int) -> Bytes:
        """[chosen line, column] bytes of the first `width` columns, blank behind a line's end."""
        windows = np.lib.stride_tricks.sliding_window_view(self.buffer, width)
        found: Bytes = windows[self.starts[chosen]]
        lengths = self.lengths[chosen]
        for length in np.unique(lengths[lengths < width]):
            found[lengths == length, length:] = BLANK
        return found


def kind(name: str) -> int:
    """The two bytes that name a record as one number."""
    return ord(name[0]) << 8 | ord(name[1])


def blocks(stream: IO[bytes]) -> Iterator[Lines]:
    """All lines of a stream, in blocks."""
    rest, first = b"", 1
    while data := stream.read(_BLOCK):
        data = rest + data
        cut = data.rfind(b"\n") + 1
        rest = data[cut:]
        if cut:
            lines = split(data[:cut], first)
            first += len(lines)
            yield lines
    if rest:
        yield split(rest + b"\n", first)


def split(data: bytes, first: int) -> Lines:
    """Whole lines, each with its newline, from the line of number `first` on."""
    buffer = np.frombuffer(data + b" " * WIDEST, dtype=np.uint8)
    ends = np.flatnonzero(buffer[: len(data)] == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
    lengths = ends - starts
    lengths -= (lengths > 0) & (buffer[ends - 1] == _RETURN)
    # A line may be one letter whose blank was cut off.
    second = np.where(lengths > 1, buffer[starts + 1], BLANK).astype(np.uint16)
    kinds = np.where(lengths > 0, buffer[starts].astype(np.uint16) << 8 | second, 0)
    return Lines(buffer, starts, lengths, kinds.astype(np.uint16), first)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of the one in a zip that is PA2.

    Raises `ConfigError` where there is no such file, or the zip is broken or says not which of its
    files is meant.
    """
    try:
        with path.open("rb") as plain:
            if plain.read(2) != b"PK":
                plain.seek(0)
                yield plain
                return
    except OSError as error:
        raise ConfigError(f"SPAN: no such file: {path} ({error.strerror})") from error
    try:
        with zipfile.ZipFile(path) as archive, archive.open(_member(archive, path)) as packed:
            yield packed
    except span_zips.FAULTS as error:
        raise ConfigError(f"SPAN: {path.name} is a zip that cannot be read: {error}") from error


def _member(archive: zipfile.ZipFile, path: Path) -> str:
    found, named = span_zips.members(archive, span_zips.PA2)
    if not named and len(found) != 1:
        raise ConfigError(
            f"SPAN: {path.name} has {len(found)} files and none is named .pa2: unpack it, "
            "and give the file that is meant"
        )
    return found[0].filename
