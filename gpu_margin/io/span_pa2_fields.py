"""One record of PA2: its fields, what is wrong with them, and whom that concerns."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from gpu_margin.failures import Failure, failure_table, join_failures


class Malformed(ValueError):
    """A field of a record that cannot be used, and why."""

    def __init__(self, field: str, value: str, reason: str) -> None:
        super().__init__(f"{field} {value!r} {reason}")
        self.field, self.value, self.reason = field, value, reason
        self.row: int | None = None  # where it is not the record that was read


class Idle(Malformed):
    """A record that says nothing which could change a margin."""


class Undone(Malformed):
    """Something that a file may ask for and that is not done."""

    def __init__(self, field: str, value: str, meaning: str = "") -> None:
        super().__init__(field, value, "is not done")
        self.said = f"{field} {value or 'blank'}{f' ({meaning})' * bool(meaning)} is not done"


@dataclass(frozen=True)
class Record:
    """A line and its number in the file. Columns count from 1; behind its end all is blank."""

    line: str
    row: int

    def text(self, first: int, last: int) -> str:
        """A field without the blanks around it."""
        return self.line[first - 1 : last].strip()

    def number(self, name: str, first: int, last: int) -> int | None:
        """Digits, None where there are none; raises `Malformed` for anything else.

        Blanks before the digits do not count; behind them, the line was most likely cut there.
        """
        text = self.line[first - 1 : last]
        digits = text.strip()
        if not digits:
            return None
        if not (digits.isascii() and digits.isdigit()):
            raise Malformed(name, digits, "is not a number")
        if len(text.rstrip()) < last - first + 1:
            raise Malformed(name, digits, "ends before its last column")
        return int(digits)

    def code(self, name: str, column: int, allowed: str) -> str:
        """One letter of those allowed, or "" for a blank."""
        text = self.text(column, column)
        if text and text not in allowed:
            raise Malformed(name, text, f"is none of {', '.join(allowed)}")
        return text

    def month(self, name: str, first: int, days: int | None = None, width: int = 2) -> str:
        """CCYYMM from a column on, and the day or week code from another on; "" for none."""
        day = "" if days is None else self.text(days, days + width - 1)
        return month_of(name, self.text(first, first + 5), day)

    def side(self, name: str, column: int) -> int:
        """1 for A and -1 for B."""
        text = self.text(column, column)
        if text not in ("A", "B"):
            raise Malformed(name, text, "is neither A nor B")
        return 1 if text == "A" else -1

    def exponent(self, name: str, first: int, last: int, sign: int) -> int:
        """A power of ten and the column of its sign."""
        size = self.number(name, first, last) or 0
        return -size if self.code(f"sign of {name}", sign, "+-") == "-" else size


def month_of(name: str, month: str, day: str) -> str:
    """A month of CCYYMM with its day or week code, of which noughts are none; "" for no month."""
    if not month.strip("0"):
        return ""
    if not (len(month) == 6 and month.isascii() and month.isdigit()):
        raise Malformed(name, month, "is not a month of CCYYMM")
    return month + ("" if day in ("00", "000") else day)


def scaled(value: int, exponent: int) -> float:
    """A number of digits times a power of ten, rounded once."""
    return float(value * 10**exponent) if exponent >= 0 else value / 10**-exponent


@dataclass
class Notes:
    """What is wrong with a file: failures, and combined commodities that cannot be margined."""

    source: str
    failures: list[Failure] = field(default_factory=list)
    tables: list[pl.DataFrame] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def fail(self, row: int | None, name: str | None, value: str | None, reason: str) -> None:
        """One line, or what it describes, cannot be used."""
        self.failures.append(Failure(reason, self.source, row, name, value))

    def refuse(self, code: str, reason: str) -> None:
        """A combined commodity cannot be margined; the first reason counts."""
        if code:
            self.refused.setdefault(code, reason)

    def table(self) -> pl.DataFrame:
        """All failures in the order of lines."""
        every = join_failures([failure_table(self.failures), *self.tables])
        return every.sort("row", maintain_order=True, nulls_last=False)
