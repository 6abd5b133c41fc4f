"""Texts as numbers: equal texts get equal codes, without a loop over rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

Codes = NDArray[np.int32]
Wide = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Numbers below this are looked up in a table, larger ones are hashed.
_TABLE = 1 << 21
# Columns with fewer changes than one row in so many, as the first rows tell, are encoded change by
# change.
_RUN = 4
_SAMPLE = 4096


class Dictionary:
    """Codes of texts, which grow with every batch; a missing text is the empty one."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def encode(self, texts: pl.Series) -> Codes:
        """[row] the code of each text."""
        local, first = distinct([texts])
        return self.of(texts.gather(first).to_list())[local]

    def of(self, texts: Sequence[str | None]) -> Codes:
        """The codes of a few texts."""
        codes = self.codes
        return np.array([codes.setdefault(text or "", len(codes)) for text in texts], np.int32)


def distinct(columns: Sequence[pl.Series]) -> tuple[Codes, Wide]:
    """[row] which distinct combination of texts it has, and the first row of each combination."""
    packed: Wide = np.zeros(len(columns[0]), np.int64)
    span = 1
    for column in columns:
        codes, size = _codes(column)
        if span * size > _TABLE:
            packed, first = _dense(packed, span)
            span = len(first)
        packed, span = packed * size + codes, span * size
    dense, first = _dense(packed, span)
    return dense.astype(np.int32), first


def _codes(texts: pl.Series) -> tuple[Wide, int]:
    """[row] a number of the text, 0 where there is none, and a bound of these numbers."""
    if texts.null_count() == len(texts):
        return np.zeros(len(texts), np.int64), 1
    if int(_changes(texts.head(_SAMPLE)).sum()) * _RUN > min(len(texts), _SAMPLE):
        return _plain_codes(texts)
    starts = _changes(texts)
    heads, size = _plain_codes(texts.filter(pl.Series(starts)))
    return heads[np.cumsum(starts) - 1], size


def _changes(texts: pl.Series) -> Bools:
    """[row] whether it differs from the row before; the first does."""
    changes = texts.ne_missing(texts.shift(1)).to_numpy(writable=True)
    changes[0] = True
    return changes


def _plain_codes(texts: pl.Series) -> tuple[Wide, int]:
    physical = texts.cast(pl.Categorical).to_physical().cast(pl.Int64)
    low, high = int(physical.min() or 0), int(physical.max() or 0)  # type: ignore[arg-type]
    if physical.null_count():
        physical = physical.fill_null(low - 1)
    return physical.to_numpy() - (low - 1), high - low + 2


def _dense(numbers: Wide, span: int) -> tuple[Wide, Wide]:
    """[row] the place of its number among the distinct ones, and the first row of each."""
    if span <= max(_TABLE, 4 * len(numbers)):
        rows = np.arange(len(numbers))
        first = np.full(span, -1, np.int64)
        first[numbers[::-1]] = rows[::-1]  # of equal indices the last one counts
        present = np.flatnonzero(first >= 0)
        place = np.zeros(span, np.int64)
        place[present] = np.arange(len(present))
        return place[numbers], first[present]
    frame = pl.DataFrame({"number": numbers})
    heads = frame.with_row_index("row").unique("number", keep="first", maintain_order=True)
    places = heads.with_row_index("place")
    found = frame.join(places, on="number", how="left", maintain_order="left")
    return found["place"].cast(pl.Int64).to_numpy(), heads["row"].cast(pl.Int64).to_numpy()
