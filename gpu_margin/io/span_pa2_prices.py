"""Prices and strikes of PA2: digits, where their decimal point is, and how parts are written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.span_pa2_columns import Bools
from gpu_margin.io.span_pa2_fields import Malformed, Record
from gpu_margin.io.span_pa2_lines import Ints

Floats = NDArray[np.float64]

# More digits behind the point than a price has, and more noughts than a number here may get.
_MOST, _LEAST = 16, -4
_TENS = np.array([10**power for power in range(_MOST + 1)], dtype=np.int64)
# The last digit of a price in eighths is cut off from .0, .125, .25, .375, .5, .625, .75, .875.
_EIGHTHS = np.array([0, 1, 2, 3, -1, 4, 5, 6, 7, -1], dtype=np.int64)
PLAIN, EIGHTHS, THIRTY_SECONDS, SIXTY_FOURTHS = 0, 1, 32, 64
_ALIGNED = {"": PLAIN, "0": EIGHTHS, "C": THIRTY_SECONDS, "K": SIXTY_FOURTHS}


@dataclass(frozen=True)
class Quotation:
    """How the prices of a family are written: decimals, and an alignment as one of those above."""

    locator: int = 0
    alignment: int = PLAIN


def quotation(record: Record, name: str, first: int, column: int) -> Quotation:
    """The quotation that a P record tells: a locator of three columns, an alignment of one."""
    text, code = record.text(first, first + 2), record.text(column, column)
    digits = text.removeprefix("-").removeprefix("+").strip()
    if text and not (digits.isascii() and digits.isdigit()):
        raise Malformed(f"{name} decimal locator", text, "is not a number")
    locator = int(digits or "0") * (-1 if text.startswith("-") else 1)
    if not _LEAST <= locator <= _MOST:
        raise Malformed(
            f"{name} decimal locator", text, f"is out of range: it must be {_LEAST} to {_MOST}"
        )
    alignment = _ALIGNED.get(code)
    if alignment is None:
        raise Malformed(f"{name} alignment code", code, "is not known: it must be blank, 0, C or K")
    if alignment == EIGHTHS and locator < 1:
        raise Malformed(f"{name} decimal locator", text, "does not go with alignment code 0")
    if alignment > EIGHTHS and locator not in (2, 3):
        raise Malformed(f"{name} decimal locator", text, f"does not go with alignment code {code}")
    return Quotation(locator, alignment)


def fractions(raw: Ints, locator: Ints, alignment: Ints) -> tuple[Ints, Ints, Bools]:
    """[price] numerators and denominators of prices, and which have digits that cannot be.

    `raw` are at most 14 digits; `locator` and `alignment` are those of each price's quotation.
    """
    top = np.where(locator < 0, raw * _TENS[np.maximum(-locator, 0)], raw)
    bottom = _TENS[np.maximum(locator, 0)]
    bad = np.zeros(len(raw), dtype=np.bool_)
    for code in (EIGHTHS, THIRTY_SECONDS, SIXTY_FOURTHS):
        here = np.flatnonzero(alignment == code)
        if not len(here):
            continue
        digits, finest = raw[here], locator[here] == 3
        last = (code == EIGHTHS) | finest
        eighths = np.where(last, _EIGHTHS[digits % 10], 0)
        bad[here] = eighths < 0
        whole = np.where(last, digits // 10, digits)
        if code == EIGHTHS:
            top[here], bottom[here] = whole * 8 + eighths, 8 * _TENS[locator[here] - 1]
        else:
            bad[here] |= whole % 100 >= code
            top[here] = (whole // 100 * code + whole % 100) * 8 + eighths
            bottom[here] = 8 * code
    return top, bottom, bad


def figures(top: Ints, bottom: Ints, minus: Bools) -> Floats:
    """[price] fractions as numbers, rounded once."""
    value = top / bottom
    return np.where(minus & (top != 0), -value, value)


def shown(top: Ints, bottom: Ints, minus: Bools) -> pl.Series:
    """[price] fractions as people write them: at most ten decimals, no noughts at the end."""
    whole, rest = np.divmod(top, bottom)
    # A strike has seven digits, so that this stays below 10^17.
    decimals = np.round(rest * 10**10 / bottom).astype(np.int64)
    frame = pl.DataFrame({"whole": whole, "decimals": decimals, "minus": minus & (top != 0)})
    after = pl.col("decimals").cast(pl.String).str.zfill(10).str.strip_chars_end("0")
    return frame.select(
        pl.concat_str(
            pl.when("minus").then(pl.lit("-")).otherwise(pl.lit("")),
            pl.col("whole").cast(pl.String),
            pl.when(pl.col("decimals") > 0)
            .then(pl.concat_str(pl.lit("."), after))
            .otherwise(pl.lit("")),
        ).alias("strike")
    )["strike"]
