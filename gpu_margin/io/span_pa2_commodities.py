"""Combined commodities of PA2: what they are (2), how they are scanned (S), tiers (3), delivery and
short options (4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from gpu_margin.io.span_pa2_families import Key
from gpu_margin.io.span_pa2_fields import Malformed, Notes, Record, Undone, scaled
from gpu_margin.span_tables import (
    ACCOUNT_TYPES,
    CAPPED,
    COMMODITIES,
    DELIVERY,
    NORMAL,
    SCAN_RANGE,
    TIERS,
)

_SCAN = ("10", "21", "22")
_INTER = ("20", "21", "23")
_BY_MONTH = "02"
_NO_TIERS = "01"
_TABLE = "10"
# Spreads between months that only the older standard format has.
_INTRA_ONLY = dict.fromkeys(("02", "03", "04", "05"), "of the standard format")


@dataclass
class Commodity:
    """What records said of a combined commodity; rates are digits, without the risk exponent."""

    code: str
    exchange: str = ""
    defined: bool = False
    exponent: int = 0
    currency: str = "USD"
    style: str = ""
    limit: bool = False
    split: str = ""
    wfpr: int = NORMAL
    by_month: bool = False
    tiered: bool = False
    tiers: list[tuple[str, int, str, str, int | None]] = field(default_factory=list)
    intra: bool = False
    delivery: dict[str, tuple[int, int]] = field(default_factory=dict)
    minimum: int = 0
    minimum_greater: bool = False
    factors: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACCOUNT_TYPES, 1.0))
    ratios: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ACCOUNT_TYPES, 1.0))

    def money(self, digits: int) -> float:
        """A charge in money."""
        return scaled(digits, self.exponent)


@dataclass
class Commodities:
    """All combined commodities, in the order of the file, and the slots of their products."""

    notes: Notes
    every: dict[str, Commodity] = field(default_factory=dict)
    slots: dict[Key, tuple[str, int]] = field(default_factory=dict)

    def of(self, code: str) -> Commodity:
        """The one of a code; raises `Malformed` where there is no code."""
        if not code:
            raise Malformed("combined commodity", code, "is missing")
        return self.every.setdefault(code, Commodity(code))

    def definition(self, record: Record) -> None:
        """A 2 record: the first, or one that goes on with more products."""
        one = self.of(record.text(7, 12))
        one.exchange = record.text(3, 5)
        one.defined = True
        for first in range(23, 104, 16):
            product, kind = record.text(first, first + 9), record.text(first + 10, first + 12)
            if product:
                name = "risk array decimal locator"
                places = record.number(name, first + 13, first + 13) or 0
                if record.text(first + 14, first + 14) == "-":
                    places = -places
                self.slots[one.exchange, product, kind] = (one.code, places)
        one.currency = record.text(14, 16)
        if len(one.currency) < 3:
            raise Malformed(
                "performance bond currency", one.currency, "is no code of three letters"
            )
        one.exponent = record.number("risk exponent", 13, 13) or 0
        one.style = record.code("option margin style", 18, "PF")
        one.limit = record.code("limit option value flag", 19, "YN") == "Y"
        one.split = record.text(20, 20)

    def scanning(self, record: Record) -> None:
        """An S record: tiers of scanning, of spreads between commodities and of short options."""
        one = self.of(record.text(3, 8))
        method = record.text(9, 10)
        found = _spans(record, 13, 5, 84)
        one.wfpr = record.number("weighted futures price risk method", 83, 83) or NORMAL
        if one.wfpr not in (NORMAL, CAPPED, SCAN_RANGE):
            raise Undone("weighted futures price risk method", str(one.wfpr))
        if method not in (_NO_TIERS, _BY_MONTH, *_SCAN, *_INTER):
            raise Undone("scanning method", method)
        one.by_month |= method == _BY_MONTH
        one.tiered |= method in (*_SCAN, *_INTER)
        if one.by_month and one.tiered:
            raise Malformed("scanning method", method, "goes not with the one before: 02 and tiers")
        for place, number, start, end in found:
            if method in _SCAN:
                one.tiers.append(("scan", number, start, end, None))
            if method in _INTER:
                one.tiers.append(("inter", number, start, end, None))
            first = 104 + 7 * place
            rate = record.number("short option minimum charge rate", first, first + 6)
            if rate:
                one.tiers.append(("minimum", number, start, end, rate))

    def intra(self, record: Record) -> None:
        """A 3 record: tiers of spreads between months, and ratios of initial margin."""
        one = self.of(record.text(3, 8))
        method = record.text(9, 10)
        if method not in ("01", _TABLE):
            raise Undone("intracommodity method", method, _INTRA_ONLY.get(method, ""))
        one.intra = method == _TABLE
        for _, number, start, end in _spans(record, 11, 4, 81):
            one.tiers.append(("intra", number, start, end, None))
        for name, first in zip(ACCOUNT_TYPES, (69, 73, 77), strict=True):
            ratio = record.number(f"initial to maintenance ratio of a {name}", first, first + 3)
            if ratio:
                one.ratios[name] = ratio / 1_000

    def delivery(self, record: Record) -> None:
        """A 4 record: charges of delivery months, short option minimum, factors of maintenance."""
        one = self.of(record.text(3, 8))
        method = record.text(9, 10)
        if method == _TABLE:
            for first in (13, 35):
                month = record.month("delivery month", first + 2)
                consumed, outright = (
                    record.number("delivery charge rate", at, at + 6) or 0
                    for at in (first + 8, first + 15)
                )
                if month:
                    one.delivery[month] = consumed, outright
        one.minimum = record.number("short option minimum charge rate", 63, 69) or 0
        one.minimum_greater = record.code("short option minimum method", 79, "12") == "1"
        for name, first in zip(ACCOUNT_TYPES, (70, 73, 76), strict=True):
            factor = record.number(f"adjustment factor of a {name}", first, first + 2)
            if factor:
                one.factors[name] = factor / 100
        if method not in ("", "01", _TABLE):
            raise Undone("delivery method", method, "basis" if method == "11" else "")

    def table(self) -> pl.DataFrame:
        """Rows of `COMMODITIES`. One that no 2 record defines is a failure, and refused."""
        for code, one in self.every.items():
            if not one.defined:
                reason = "no 2 record says what this combined commodity is"
                self.notes.fail(None, "combined commodity", code, reason)
                self.notes.refuse(code, reason)
        rows = [
            {
                "combined_commodity": one.code,
                "exchange": one.exchange,
                "currency": one.currency,
                "grid": 0,
                "limit": one.limit,
                "wfpr": one.wfpr,
                "scan_by_month": one.by_month,
                "inter_by_month": one.by_month,
                "minimum_rate": one.money(one.minimum),
                "minimum_greater": one.minimum_greater,
                **{f"factor_{name}": one.factors[name] for name in ACCOUNT_TYPES},
                **{f"ratio_{name}": one.ratios[name] for name in ACCOUNT_TYPES},
                "refused": self.notes.refused.get(one.code, ""),
            }
            for one in self.every.values()
        ]
        return pl.DataFrame(rows, schema=COMMODITIES, orient="row")

    def tiers(self) -> pl.DataFrame:
        """Rows of `TIERS`."""
        rows = [
            (one.code, kind, number, start, end, None if rate is None else one.money(rate))
            for one in self.every.values()
            for kind, number, start, end, rate in one.tiers
        ]
        return pl.DataFrame(rows, schema=TIERS, orient="row")

    def deliveries(self) -> pl.DataFrame:
        """Rows of `DELIVERY`."""
        rows = [
            (one.code, month, one.money(consumed), one.money(outright))
            for one in self.every.values()
            for month, (consumed, outright) in one.delivery.items()
        ]
        return pl.DataFrame(rows, schema=DELIVERY, orient="row")


def _spans(record: Record, first: int, count: int, days: int) -> list[tuple[int, int, str, str]]:
    """Tiers of a record: their places in it, numbers, starts and ends."""
    found = []
    for place in range(count):
        here, day = first + 14 * place, days + 4 * place
        number = record.number("tier number", here, here + 1)
        start = record.month("tier start", here + 2, day)
        end = record.month("tier end", here + 8, day + 2)
        if number and start:
            if not end:
                raise Malformed("tier end", end, "is missing")
            found.append((place, number, start, end))
    return found
