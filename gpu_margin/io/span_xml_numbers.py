"""Many numbers of an XML document at once: digits as columns, anything unusual one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.span_xml_tree import LARGEST, NUMBER, Codes, Ints, Tree

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Digits that a float64 holds, so that digits / 10^decimals is the float64 nearest to the number.
_DIGITS = 15
# Numbers at a time: few enough for their digits to stay near the processor.
_BLOCK = 1 << 15
_POWERS = 10.0 ** np.arange(23)
_MINUS, _PLUS, _POINT, _ZERO = b"-+.0"


@dataclass(frozen=True)
class Figures:
    """Numbers; all arrays are [number].

    `value` is the float64 nearest to what is written, NaN where nothing or no number is;
    `decimals` are those written. `absent` is where nothing is, `bad` where no finite number is.
    """

    value: Floats
    decimals: Codes
    absent: Bools
    bad: Bools


def figures(tree: Tree, elements: Ints) -> Figures:
    """The numbers that elements say; -1 is none."""
    text = np.frombuffer(tree.text or b"0", np.uint8)
    value, decimals = np.empty(len(elements)), np.empty(len(elements), np.int16)
    plain, absent = np.empty(len(elements), np.bool_), np.empty(len(elements), np.bool_)
    for low in range(0, len(elements), _BLOCK):
        own = slice(low, low + _BLOCK)
        at = np.maximum(elements[own], 0)
        start = tree.start[at].astype(np.int64)
        size = np.where(elements[own] < 0, 0, tree.end[at] - start)
        value[own], decimals[own], plain[own] = _plain(text, start, size)
        absent[own] = size == 0
    bad = np.zeros(len(elements), np.bool_)
    odd = np.flatnonzero(~plain & ~absent)
    value[absent], decimals[absent] = np.nan, 0
    if len(odd):
        _others(tree, elements, odd, value, decimals, absent, bad)
    bad |= np.abs(value) > LARGEST
    return Figures(value, decimals, absent, bad)


def _plain(text: NDArray[Any], start: Ints, size: Ints) -> tuple[Floats, Ints, Bools]:
    """Values, decimals, and which of the texts are a sign, digits and a point and no more."""
    first = text.take(start, mode="clip")
    minus = first == _MINUS
    signed = minus | (first == _PLUS)
    at = start + signed
    left = size - signed
    digits, after = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)
    points = np.zeros(len(start), np.int64)
    fits = (left > 0) & (left <= _DIGITS + 1)
    for place in range(int(np.max(left, initial=0, where=fits))):
        here = left > place
        byte = text.take(at + place, mode="clip")
        point = here & (byte == _POINT)
        number = (byte - _ZERO).astype(np.uint8)
        digit = here & (number < 10)
        fits &= digit | point | ~here
        digits = np.where(digit, digits * 10 + number, digits)
        after += digit & (points > 0)
        points += point
    fits &= (points <= 1) & (left > points) & (left - points <= _DIGITS)
    after = np.where(fits, after, 0)
    value = digits / _POWERS[after]
    return np.where(minus, -value, value), after, fits


def _others(
    tree: Tree,
    elements: Ints,
    odd: Ints,
    value: Floats,
    decimals: Codes,
    absent: Bools,
    bad: Bools,
) -> None:
    """Numbers with exponents, blanks around them or more digits, and what is no number."""
    said = pl.Series(tree.said(elements[odd]), dtype=pl.String)
    good = said.str.contains(NUMBER)
    found = said.str.strip_prefix("+").cast(pl.Float64, strict=False)
    number = found.to_numpy()
    number = np.where(good.to_numpy() & np.isfinite(number), number, np.nan)
    value[odd] = number
    absent[odd] = (said == "").to_numpy()
    bad[odd] = np.isnan(number) & ~absent[odd]
    power = said.str.extract(r"[eE]([+-]?[0-9]+)$").cast(pl.Int64, strict=False).fill_null(0)
    written = said.str.extract(r"\.([0-9]*)").fill_null("").str.len_bytes().cast(pl.Int64)
    decimals[odd] = np.maximum((written - power).to_numpy(), 0)


def scaled(value: Floats, decimals: Codes) -> tuple[Floats, Ints]:
    """[row, place] numbers as whole ones, and [row] by how many decimals.

    These are those written, but no more than a float64 holds of the row's largest number.
    """
    most = decimals.max(axis=1, initial=0).astype(np.int64)
    largest = np.abs(value).max(axis=1, initial=1.0)
    whole = np.floor(np.log10(largest)).astype(np.int64) + 1
    places = np.clip(most, 0, np.maximum(_DIGITS - whole, 0))
    return np.rint(value * _POWERS[places][:, None]) + 0.0, places
