"""What PA2 says of families of contracts (P records) and of their months (B records)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.span_pa2_columns import Bools, coded, numbers, sign_of, spread
from gpu_margin.io.span_pa2_fields import Malformed, Notes, Record, month_of, scaled
from gpu_margin.io.span_pa2_lines import BLANK, Bytes, Lines, kind
from gpu_margin.io.span_pa2_prices import Quotation, quotation

# Exchange, product and type.
Key = tuple[str, str, str]

_MONTH = kind("B ")
_WIDTH = 168
_LARGEST_EXPONENT = 20


def key_of(text: str) -> Key:
    """A family's key from its 16 columns: exchange 3, product 10, type 3."""
    return text[:3].strip(), text[3:13].strip(), text[13:16].strip()


@dataclass(frozen=True)
class Family:
    """A product of one type: how its prices are written and what they are worth."""

    price: Quotation
    strike: Quotation
    multiplier: float
    currency: str
    valuation: str
    variable: bool


def family(record: Record) -> Family:
    """The family of a P record; raises `Malformed`."""
    factor = record.number("contract value factor", 42, 55) or 0
    power = record.exponent("contract value factor exponent", 74, 75, 73)
    if abs(power) > _LARGEST_EXPONENT:
        raise Malformed("contract value factor exponent", str(power), "is out of range")
    option = record.text(16, 18).startswith("OO")
    return Family(
        price=quotation(record, "settlement price", 34, 40),
        # Those of no options have none, whatever is written there.
        strike=quotation(record, "strike price", 37, 41) if option else _strike(record),
        multiplier=scaled(factor, power - 7),
        currency=record.text(66, 68),
        valuation=record.text(117, 121),
        variable=record.text(161, 161) == "1",
    )


def _strike(record: Record) -> Quotation:
    try:
        return quotation(record, "strike price", 37, 41)
    except Malformed:
        return Quotation()


_COLUMNS = {
    "exchange": pl.String,
    "product": pl.String,
    "type": pl.String,
    "future_month": pl.String,
    "option_month": pl.String,
    "range": pl.Int64,
    "power": pl.Int64,
    "percent": pl.Boolean,
    "scaling": pl.Int64,
    "fault": pl.String,
}


@dataclass
class Months:
    """Price scan ranges and delta scaling of months.

    `lost` has families some of whose records tell no month: none of their scalings is known.
    """

    frames: list[pl.DataFrame] = field(default_factory=list)
    lost: dict[Key, str] = field(default_factory=dict)

    def add(self, lines: Lines, notes: Notes) -> None:
        """Read the B records of a block."""
        chosen = np.flatnonzero(lines.kinds == _MONTH)
        if not len(chosen):
            return
        matrix, rows = lines.matrix(chosen, _WIDTH), chosen + lines.first
        size, power, scale = (
            numbers(matrix, 53, 57),
            numbers(matrix, 166, 167),
            numbers(matrix, 86, 91),
        )
        minus, odd = sign_of(matrix[:, 167])
        percent = matrix[:, 164] == ord("P")
        faults = {
            "futures price scan range": (size.bad, slice(52, 57)),
            "delta scaling factor": (scale.bad, slice(85, 91)),
            "futures price scan range exponent": (
                power.bad | odd | (power.values > _LARGEST_EXPONENT),
                slice(165, 168),
            ),
            "price scan range quotation method": (
                ~(percent | np.isin(matrix[:, 164], (BLANK, ord("A")))),
                slice(164, 165),
            ),
        }
        told = _faults(matrix, rows, faults, notes)
        columns = _keys(matrix)
        future, option = self._months(matrix, rows, notes, columns)
        frame = pl.DataFrame(
            {
                **columns,
                "future_month": future,
                "option_month": option,
                "range": size.values,
                "power": np.where(minus, -power.values, power.values),
                "percent": percent,
                "scaling": np.where(scale.values == 0, 10_000, scale.values),
                "fault": told,
            },
            schema=_COLUMNS,
        )
        self.frames.append(frame.filter(frame["future_month"].is_not_null()))

    def _months(
        self, matrix: Bytes, rows: NDArray[np.int64], notes: Notes, keys: Mapping[str, pl.Series]
    ) -> tuple[pl.Series, pl.Series]:
        """Futures and option months, null where either is none; those of lost families noted."""
        found = []
        bad: dict[int, Malformed] = {}
        for name, first in (("futures month", 18), ("option month", 27)):
            codes, texts = coded(matrix[:, first : first + 8])
            months: list[str | None] = []
            for code, text in enumerate(texts):
                try:
                    months.append(month_of(name, text[:6].strip(), text[6:].strip()))
                except Malformed as error:
                    months.append(None)
                    bad |= dict.fromkeys(np.flatnonzero(codes == code).tolist(), error)
            found.append(pl.Series(months, dtype=pl.String)[codes])
        for place, fault in sorted(bad.items()):
            row = int(rows[place])
            notes.fail(row, fault.field, fault.value, f"malformed {fault.field}: it {fault.reason}")
            key = (keys["exchange"][place], keys["product"][place], keys["type"][place])
            self.lost.setdefault(key, f"its B record in line {row} is malformed: {fault.field}")
        nothing = found[0].is_null() | found[1].is_null()
        blanked = [pl.select(pl.when(~nothing).then(one)).to_series() for one in found]
        return blanked[0], blanked[1]

    def table(self) -> pl.DataFrame:
        """One row per family and month: of several records the last."""
        every = pl.concat([pl.DataFrame(schema=_COLUMNS), *self.frames])
        keys = ["exchange", "product", "type", "future_month", "option_month"]
        return every.unique(keys, keep="last", maintain_order=True)


def _keys(matrix: Bytes) -> dict[str, pl.Series]:
    codes, texts = coded(matrix[:, 2:18])
    keys = [key_of(text) for text in texts]
    names = ("exchange", "product", "type")
    return {name: spread(codes, [key[at] for key in keys]) for at, name in enumerate(names)}


def _faults(
    matrix: Bytes,
    rows: NDArray[np.int64],
    faults: Mapping[str, tuple[Bools, slice]],
    notes: Notes,
) -> list[str | None]:
    """[record] why its figures cannot be used, None where they can."""
    told: list[str | None] = [None] * len(matrix)
    for name, (bad, part) in faults.items():
        for place in np.flatnonzero(bad).tolist():
            if told[place] is None:
                row = int(rows[place])
                value = bytes(matrix[place, part]).decode("latin-1").strip()
                notes.fail(row, name, value, f"malformed {name}: contracts of this month refused")
                told[place] = f"its B record in line {row} is malformed: {name}"
    return told
