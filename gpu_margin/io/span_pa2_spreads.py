"""Spreads of PA2: between months (E), between tiers (C), between combined commodities (6)."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from gpu_margin.io.span_pa2_commodities import Commodities
from gpu_margin.io.span_pa2_fields import Idle, Malformed, Record, Undone, month_of
from gpu_margin.span_tables import (
    BY_DELTA,
    BY_LEG_TIERS,
    BY_SCANNING,
    BY_TIERS,
    INTER,
    INTER_LEGS,
    INTRA,
    INTRA_LEGS,
)

_CENTURY = "20"
_TABLE = "10"
_METHODS = {"01": BY_DELTA, "02": BY_TIERS, "04": BY_SCANNING, "20": BY_LEG_TIERS}
_CRUSH = {"03": "crush"}
_LEGS = (17, 35, 53, 71)
# Decimals of a percentage (whose hundredth is the share) and of money per spread.
_SHARE, _MONEY = 10**6, 10**2


@dataclass(frozen=True)
class _Within:
    """A spread within a combined commodity: series spreads have `kind` 0 and come first."""

    code: str
    kind: int
    priority: int
    rate: int
    legs: tuple[tuple[str, int, float, int], ...]


@dataclass
class Within:
    """Spreads between months and tiers of the same combined commodity."""

    spreads: list[_Within] = field(default_factory=list)

    def series(self, record: Record) -> None:
        """An E record: up to four months."""
        legs = []
        for first in (21, 35, 49, 63):
            if not record.text(first, first + 13):
                continue
            short = record.text(first, first + 3)
            month = month_of("leg month", _CENTURY + short, record.text(first + 4, first + 6))
            ratio = record.number("delta per spread ratio", first + 7, first + 12) or 0
            legs.append((month, 0, ratio / 10_000, record.side("leg side", first + 13)))
        self._add(record, 0, record.number("spread priority", 9, 13), (14, 20), legs)

    def tiers(self, record: Record) -> None:
        """A C record: up to eight tiers."""
        method = record.text(9, 10)
        if method not in ("", _TABLE):
            raise Undone("tier spread method", method)
        legs = []
        for first in range(22, 72, 7):
            if not record.text(first, first + 6):
                continue
            tier = record.number("leg tier", first + 2, first + 3) or 0
            ratio = record.number("delta per spread ratio", first + 4, first + 5) or 0
            legs.append(("", tier, float(ratio), record.side("leg side", first + 6)))
        self._add(record, 1, record.number("spread priority", 11, 12), (15, 21), legs)

    def _add(
        self,
        record: Record,
        kind: int,
        priority: int | None,
        rate: tuple[int, int],
        legs: list[tuple[str, int, float, int]],
    ) -> None:
        _told([leg[2] for leg in legs])
        digits = record.number("charge rate", *rate) or 0
        self.spreads.append(_Within(record.text(3, 8), kind, priority or 0, digits, tuple(legs)))

    def tables(self, commodities: Commodities) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows of `INTRA` and `INTRA_LEGS`, without those of commodities that form no spreads."""
        rows: list[tuple[str, float, bool, str]] = []
        legs: list[tuple[int, str, int, float, int]] = []
        names = ("series", "tier")
        known = commodities.every
        for one in sorted(self.spreads, key=lambda one: (one.kind, one.priority)):
            if one.code in known and known[one.code].intra:
                legs += [(len(rows), *leg) for leg in one.legs]
                name = f"{names[one.kind]} {one.priority}"
                rows.append((one.code, known[one.code].money(one.rate), False, name))
        return (
            pl.DataFrame(rows, schema=INTRA, orient="row"),
            pl.DataFrame(legs, schema=INTRA_LEGS, orient="row"),
        )


def _told(ratios: list[float]) -> None:
    """A spread has legs, and takes something of each."""
    if not ratios:
        raise Idle("legs", "", "are missing: no such spread is formed")
    if not all(ratios):
        raise Idle("delta per spread ratio", "0", "is nought: no such spread is formed")


@dataclass(frozen=True)
class _Leg:
    code: str
    ratio: float
    side: int
    tier: int
    rate: float
    required: bool
    target: bool = False


@dataclass(frozen=True)
class _Between:
    """A spread between combined commodities."""

    priority: int
    method: int
    flat: bool
    above: bool
    least: int
    name: str
    legs: tuple[_Leg, ...]


@dataclass
class Between:
    """Spreads between combined commodities.

    `groups` are records that tell one spread: legs beyond the fourth stand on records of the same
    priority that come right after one with four.
    """

    groups: list[list[Record]] = field(default_factory=list)
    spreads: list[_Between] = field(default_factory=list)

    def add(self, record: Record) -> None:
        """A 6 record; it is read when all that go on with it are there."""
        if self.groups:
            before = self.groups[-1][-1]
            if _key(before) == _key(record) and all(_codes(before)):
                self.groups[-1].append(record)
                return
        self.groups.append([record])

    def read(self, group: list[Record]) -> None:
        """The spread of one group of records; raises `Malformed` with the line at fault."""
        head = group[0]
        flat = head.code("credit calculation method", 101, "WF") == "F"
        unit = _MONEY if flat else _SHARE
        method = head.text(89, 90)
        if method not in _METHODS:
            raise Undone("intercommodity method", method, _CRUSH.get(method, ""))
        common = (head.number("spread credit rate", 10, 16) or 0) / unit
        legs = []
        for record in group:
            try:
                legs += _legs(record, common, unit)
            except Malformed as error:
                error.row = record.row
                raise
        if method == "04":
            # The gains of legs count at a share, even where the file calls its rate flat.
            share = common / 100 if flat else common
            legs = _with_target(head, [_shared(leg, flat) for leg in legs], share)
        _told([leg.ratio for leg in legs])
        priority = head.number("spread priority", 6, 9) or 0
        self.spreads.append(
            _Between(
                priority=priority,
                method=_METHODS[method],
                flat=flat,
                above=head.code("spread group flag", 110, "SN") == "S",
                least=head.number("minimum number of legs", 118, 121) or 2,
                name=f"{head.text(3, 5)} {priority}".strip(),
                legs=tuple(legs),
            )
        )

    def tables(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows of `INTER` and `INTER_LEGS`."""
        ordered = sorted(self.spreads, key=lambda one: one.priority)
        rows = [(one.method, one.flat, one.above, one.least, one.name) for one in ordered]
        legs = [
            (spread, leg.code, leg.ratio, leg.side, leg.tier, leg.rate, leg.required, leg.target)
            for spread, one in enumerate(ordered)
            for leg in one.legs
        ]
        return (
            pl.DataFrame(rows, schema=INTER, orient="row"),
            pl.DataFrame(legs, schema=INTER_LEGS, orient="row"),
        )


def _key(record: Record) -> tuple[str, str, str, bool]:
    """Group, priority, method, and whether it is above: what records of one spread share."""
    above = record.text(110, 110) == "S"
    return record.text(3, 5), record.text(6, 9), record.text(89, 90), above


def _codes(record: Record) -> list[str]:
    return [record.text(first + 4, first + 9) for first in _LEGS]


def _legs(record: Record, common: float, unit: int) -> list[_Leg]:
    """Up to four legs, each at the common rate of the spread or at its own."""
    apart = record.code("separate leg rates flag", 122, "YN") == "Y"
    legs = []
    for place, code in enumerate(_codes(record)):
        first, tier, own = _LEGS[place], 102 + 2 * place, 123 + 7 * place
        if not code:
            continue
        rate = common
        if apart:
            rate = (record.number("leg credit rate", own, own + 6) or 0) / unit
        ratio = record.number("delta per spread ratio", first + 10, first + 16) or 0
        legs.append(
            _Leg(
                code=code,
                ratio=ratio / 10_000,
                side=record.side("leg side", first + 17),
                tier=record.number("leg tier", tier, tier + 1) or 0,
                rate=rate,
                # A blank too: what is not said to be optional is needed.
                required=record.text(first + 3, first + 3) != "N",
            )
        )
    return legs


def _shared(leg: _Leg, flat: bool) -> _Leg:
    return _Leg(**{**vars(leg), "rate": leg.rate / 100}) if flat else leg


def _with_target(record: Record, legs: list[_Leg], common: float) -> list[_Leg]:
    """Legs of a spread by scanning with its target marked, or put behind them."""
    if not all(leg.ratio for leg in legs):
        raise Malformed("delta per spread ratio", "0", "is nought")
    code = record.text(95, 100)
    if not code:
        raise Malformed("target combined commodity", "", "is missing")
    ratio = (record.number("target ratio", 111, 117) or 10_000) / 10_000
    needed = record.text(94, 94) != "N"
    for place, leg in enumerate(legs):
        if leg.code == code:
            required = leg.required or needed
            own = {**vars(leg), "ratio": ratio, "required": required, "target": True}
            return [*legs[:place], _Leg(**own), *legs[place + 1 :]]
    return [*legs, _Leg(code, ratio, 1, 0, common, needed, True)]


def concerned(group: list[Record]) -> list[str]:
    """The combined commodities that 6 records name."""
    return [code for record in group for code in (*_codes(record), record.text(95, 100)) if code]
