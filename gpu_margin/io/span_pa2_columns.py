"""Fixed columns of many lines at once: numbers, signs, and texts as codes.

Columns are counted from 1, as record layouts do, and both bounds are meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.span_pa2_lines import BLANK, Bytes, Ints

Bools = NDArray[np.bool_]

_NOUGHT = ord("0")
PLUS, MINUS = ord("+"), ord("-")


@dataclass(frozen=True)
class Numbers:
    """[line] unsigned numbers; those that are `blank` are 0, those that are `bad` mean nothing."""

    values: Ints
    blank: Bools
    bad: Bools


def numbers(matrix: Bytes, first: int, last: int) -> Numbers:
    """Numbers of some columns; blanks before the digits do not count, behind them they are bad."""
    return _numbers(matrix[:, first - 1 : last])


def _numbers(field: Bytes) -> Numbers:
    digits = field - np.uint8(_NOUGHT)  # what is below "0" wraps round to something above 9
    odd = (digits > 9).any(axis=1)
    values = np.zeros(len(field), dtype=np.int64)
    for place in range(field.shape[1]):
        values *= 10
        values += digits[:, place]
    blank, bad = np.zeros(len(field), dtype=np.bool_), np.zeros(len(field), dtype=np.bool_)
    if odd.any():
        values[odd], blank[odd], bad[odd] = _loose(field[odd])
    return Numbers(values, blank, bad)


def _loose(field: Bytes) -> tuple[Ints, Bools, Bools]:
    """The same for fields that have more in them than digits."""
    digit = (field >= _NOUGHT) & (field <= _NOUGHT + 9)
    empty = field == BLANK
    values = np.zeros(len(field), dtype=np.int64)
    bad = ~(digit | empty).all(axis=1)
    begun = np.zeros(len(field), dtype=np.bool_)
    for place in range(field.shape[1]):
        here = digit[:, place]
        # A blank behind a digit: most likely the line was cut there.
        bad |= begun & ~here
        begun |= here
        values = np.where(here, values * 10 + (field[:, place].astype(np.int64) - _NOUGHT), values)
    return np.where(bad, 0, values), empty.all(axis=1), bad


def signed(matrix: Bytes, first: int, count: int, width: int) -> tuple[NDArray[np.int32], Ints]:
    """[line, value] `count` values of `width` digits with the sign behind each.

    The second is the place of the first value in a line that is none, -1 where all are good.
    """
    size = width + 1
    cube = matrix[:, first - 1 : first - 1 + count * size].reshape(len(matrix), count, size)
    digits = cube[:, :, :width] - np.uint8(_NOUGHT)
    values = np.zeros((len(matrix), count), dtype=np.int32)
    for place in range(width):
        values *= 10
        values += digits[:, :, place]
    minus, odd = sign_of(cube[:, :, width])
    np.negative(values, out=values, where=minus)
    fault = np.full(len(matrix), -1, dtype=np.int64)
    suspect = np.flatnonzero((digits > 9).any(axis=(1, 2)) | odd.any(axis=1))
    for place in range(count - 1, -1, -1) if len(suspect) else ():
        one = _numbers(np.ascontiguousarray(cube[suspect, place, :width]))
        values[suspect, place] = np.where(minus[suspect, place], -one.values, one.values)
        fault[suspect[one.bad | one.blank | odd[suspect, place]]] = place
    return values, fault


def sign_of(field: Bytes) -> tuple[Bools, Bools]:
    """Whether signs are minus, and whether they are none at all (blank is plus)."""
    minus = field == MINUS
    return minus, ~(minus | (field == PLUS) | (field == BLANK))


def coded(matrix: Bytes) -> tuple[Ints, list[str]]:
    """[line] codes of texts of one width, and the texts by code, with the blanks around them.

    Equal texts stand together in files, so that only the first of each run is looked up.
    """
    if not len(matrix):
        return np.zeros(0, dtype=np.int64), []
    starts = np.ones(len(matrix), dtype=np.bool_)
    starts[1:] = (matrix[1:] != matrix[:-1]).any(axis=1)
    heads = np.ascontiguousarray(matrix[starts]).view(f"S{matrix.shape[1]}").ravel()
    texts, codes = np.unique(heads, return_inverse=True)
    found = [text.decode("latin-1") for text in texts.tolist()]
    return codes.astype(np.int64)[np.cumsum(starts) - 1], found


def spread(codes: Ints, texts: Sequence[str | None]) -> pl.Series:
    """[line] texts of codes."""
    return (
        pl.Series(texts, dtype=pl.String)[codes] if len(codes) else pl.Series([], dtype=pl.String)
    )
