"""Prices of PA2: digits, a decimal locator, an alignment code; and numbers of fixed columns."""

from __future__ import annotations

from fractions import Fraction

EIGHTHS = {"0": 0, "1": 1, "2": 2, "3": 3, "5": 4, "6": 5, "7": 6, "8": 7}
PARTS = {"C": 32, "K": 64}


def eighths(digit: str) -> Fraction:
    """The last digit of a CBT price: a truncated eighth, so that 4 and 9 cannot be."""
    if digit not in EIGHTHS:
        raise ValueError(f"no eighth ends in {digit}")
    return Fraction(EIGHTHS[digit], 8)


def decoded(raw: str, locator: int, alignment: str = "", negative: bool = False) -> Fraction:
    """What a price field says, in units of the quotation."""
    if not raw.isdigit():
        raise ValueError(f"not a price: {raw!r}")
    sign = -1 if negative else 1
    code = alignment.strip()
    if code == "":
        scale = Fraction(10) ** -locator
        return sign * int(raw) * scale
    if code == "0":
        if locator < 1:
            raise ValueError(f"alignment 0 with locator {locator}")
        return sign * (int(raw[:-1]) + eighths(raw[-1])) / Fraction(10) ** (locator - 1)
    if code not in PARTS:
        raise ValueError(f"unknown alignment {code!r}")
    if locator not in (2, 3):
        raise ValueError(f"alignment {code} with locator {locator}")
    whole, parts = int(raw[:-locator]), raw[-locator:]
    ticks = int(parts[:2]) + (eighths(parts[2]) if locator == 3 else 0)
    if ticks >= PARTS[code]:
        raise ValueError(f"{raw} has {ticks} of {PARTS[code]} parts")
    return sign * (whole + Fraction(ticks) / PARTS[code])


def columns(line: str, first: int, last: int) -> str:
    """Columns first..last, counted from 1; trailing blanks may have been cut off."""
    return line[first - 1 : last]


def digits(line: str, first: int, last: int, decimals: int = 0) -> Fraction | None:
    """An unsigned number with implied decimals; nothing where the field is blank."""
    field = columns(line, first, last).strip()
    if field == "":
        return None
    if not field.isdigit():
        raise ValueError(f"columns {first}-{last} are not a number: {field!r}")
    return Fraction(int(field), 10**decimals)


def number(line: str, first: int, last: int, decimals: int = 0) -> Fraction:
    """The same, nothing being nought."""
    return digits(line, first, last, decimals) or Fraction(0)


def scaled(value: Fraction, exponent: Fraction, sign: str) -> Fraction:
    """A value times ten to the power of a separate exponent and its sign."""
    return value * Fraction(10) ** (-int(exponent) if sign == "-" else int(exponent))


def locator(line: str, first: int, last: int) -> int:
    """A decimal locator, which may be written -02."""
    field = columns(line, first, last).strip()
    return int(field) if field else 0


def period(line: str, first: int, last: int, day_first: int, day_last: int) -> str:
    """CCYYMM and the day or week code after it; nothing where the month is blank or nought."""
    month = columns(line, first, last).strip()
    if month == "" or set(month) == {"0"}:
        return ""
    if len(month) != 6 or not month.isdigit():
        raise ValueError(f"columns {first}-{last} are not a month: {month!r}")
    day = columns(line, day_first, day_last).strip()
    return month + ("" if day == "00" else day)
