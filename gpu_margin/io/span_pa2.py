"""SPAN risk parameter files in the expanded unpacked format (PA2, "U2") become `SpanTables`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from gpu_margin.failures import ConfigError
from gpu_margin.io.span_pa2_commodities import Commodities
from gpu_margin.io.span_pa2_contracts import Found, contracts_of
from gpu_margin.io.span_pa2_families import Family, Key, Months, family, key_of
from gpu_margin.io.span_pa2_fields import Idle, Malformed, Notes, Record, Undone
from gpu_margin.io.span_pa2_halves import Halves, both, paired
from gpu_margin.io.span_pa2_lines import Lines, blocks, kind, opened
from gpu_margin.io.span_pa2_series import ranges_of
from gpu_margin.io.span_pa2_splits import Combinations
from gpu_margin.io.span_pa2_spreads import Between, Within, concerned
from gpu_margin.span_tables import CONTRACTS, RANGES, RATES, SCHEMAS, SpanTables

_FORMAT = "U2"
_SESSIONS = {"S": "settlement", "I": "intraday"}
_FILES = {"E": "early", "F": "final", "C": "complete"}


def read_pa2(path: str | Path) -> SpanTables:
    """Read a PA2 file, plain or in a zip.

    Records that the algorithm does not use are passed by and counted. A malformed one is a failure
    and drops what it describes; the combined commodities it concerns as wholes are refused. Raises
    `ConfigError` for a missing file, and for one in another format.
    """
    where = Path(path)
    file = _File(Notes(where.name))
    with opened(where) as stream:
        for lines in blocks(stream):
            file.add(lines)
    return file.tables()


@dataclass
class _File:
    """What was read so far."""

    notes: Notes
    lines: int = 0
    skipped: int = 0
    header: Record | None = None
    rates: dict[tuple[str, str], float] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    families: dict[Key, Family | str] = field(default_factory=dict)
    months: Months = field(default_factory=Months)
    within: Within = field(default_factory=Within)
    between: Between = field(default_factory=Between)
    combinations: Combinations = field(default_factory=Combinations)
    halves: tuple[Halves, ...] = field(
        default_factory=lambda: (
            Halves("81", 5, False),
            Halves("82", 5, True),
            Halves("83", 8, False),
            Halves("84", 8, True),
        )
    )

    def __post_init__(self) -> None:
        self.commodities = Commodities(self.notes)
        self.readers = {kind(name): reader for name, reader in self._readers().items()}
        self.in_bulk = np.array(
            [kind("B "), *[half.kind for half in self.halves], 0], dtype=np.uint16
        )

    def _readers(self) -> dict[str, Callable[[Record], None]]:
        return {
            "0 ": self._header,
            "T ": self._rate,
            "P ": self._family,
            "2 ": self.commodities.definition,
            "S ": self.commodities.scanning,
            "3 ": self.commodities.intra,
            "4 ": self.commodities.delivery,
            "E ": self._series,
            "C ": self._tiers,
            "5 ": self._group,
            "6 ": self.between.add,
            "X ": self.combinations.method,
            "Y ": self.combinations.option,
            "Z ": self.combinations.leg,
        }

    def add(self, lines: Lines) -> None:
        """Read one more block."""
        if self.header is None:
            self._begin(lines)
        self.lines += len(lines)
        for half in self.halves:
            half.add(lines, self.notes)
        self.months.add(lines, self.notes)
        for place in np.flatnonzero(~np.isin(lines.kinds, self.in_bulk)).tolist():
            reader = self.readers.get(int(lines.kinds[place]))
            text = lines.text(place)
            if reader is None:
                self.skipped += bool(text.strip(" \x1a"))
            else:
                self._read(reader, Record(text, lines.first + place))

    def _begin(self, lines: Lines) -> None:
        """Refuse what is not PA2 by its first line."""
        first = next((place for place in range(len(lines)) if lines.text(place).strip()), None)
        if first is None:
            return
        record = Record(lines.text(first), lines.first + first)
        said = record.text(36, 37)
        name = f"SPAN: {self.notes.source}"
        if record.line.lstrip("\ufeff\xef\xbb\xbf").startswith("<"):
            raise ConfigError(f"{name} is XML: read it as SPAN XML (.spn)")
        if record.line[:2] == "0 " and said == "UP":
            raise ConfigError(
                f"{name} is in the Paris expanded format (UP): take the expanded unpacked one (U2)"
            )
        if record.line[:2] == "1 ":
            raise ConfigError(
                f"{name} is in the standard format of 80 columns: take the expanded unpacked "
                "one (U2, .pa2)"
            )
        if record.line[:2] != "0 " or said != _FORMAT:
            raise ConfigError(
                f"{name} is no PA2 file: its first line must begin with 0 and have {_FORMAT} in "
                f"columns 36-37, and there is {said!r}: take the expanded unpacked format"
            )

    def _read(self, reader: Callable[[Record], None], record: Record) -> None:
        try:
            reader(record)
        except Malformed as error:
            said = self._noted(error, record.row, _concerned(record))
            if record.line[:2].strip() == "P":
                self.families[key_of(record.line[2:18])] = f"its P record in {said}"

    def _noted(self, error: Malformed, row: int, codes: list[str]) -> str:
        """Note a fault in a record, refuse the commodities it concerns, and say why."""
        row = error.row or row
        if isinstance(error, Undone):
            said = f"{error.said}; line {row} asks for it"
            if not codes:
                self.notes.fail(row, error.field, error.value, error.said)
        else:
            reason = f"malformed {error.field}: it {error.reason}"
            self.notes.fail(row, error.field, error.value, reason)
            said = f"line {row} is malformed: {error.field} {error.value!r} {error.reason}"
        for code in [] if isinstance(error, Idle) else codes:
            self.commodities.of(code)
            self.notes.refuse(code, said)
        return said

    def _form_between(self) -> None:
        """Read spreads between commodities, all of whose records are there."""
        for group in self.between.groups:
            try:
                self.between.read(group)
            except Malformed as error:
                self._noted(error, group[0].row, concerned(group))

    def _header(self, record: Record) -> None:
        if self.header is not None:
            raise Malformed("record", "0", "is a second header")
        self.header = record
        record.code("overall limit option value flag", 39, "YN")

    def _rate(self, record: Record) -> None:
        rate = record.number("conversion multiplier", 11, 20)
        if not rate:
            raise Malformed("conversion multiplier", record.text(11, 20), "is nought")
        source, target = record.text(3, 5), record.text(7, 9)
        if len(source) < 3 or len(target) < 3:
            raise Malformed("currency", f"{source} {target}", "is no code of three letters")
        self.rates[source, target] = rate / 10**6

    def _family(self, record: Record) -> None:
        self.families[key_of(record.line[2:18])] = family(record)

    def _series(self, record: Record) -> None:
        self.commodities.of(record.text(3, 8))
        self.within.series(record)

    def _tiers(self, record: Record) -> None:
        self.commodities.of(record.text(3, 8))
        self.within.tiers(record)

    def _group(self, record: Record) -> None:
        self.groups.append(record.text(3, 5))

    def tables(self) -> SpanTables:
        """All that was read as tables."""
        notes = self.notes
        if self.header is None:
            notes.fail(None, "header", None, "empty file: no header (0 record)")
        found = self._contracts()
        contracts, splits = pl.DataFrame(schema=CONTRACTS), pl.DataFrame(schema=SCHEMAS["splits"])
        ranges, arrays = pl.DataFrame(schema=RANGES), np.zeros((0, 16))
        if found is not None:
            contracts, arrays = found.contracts, found.arrays
            ranges = ranges_of(found.series, found.of_series, contracts, self.commodities, notes)
            styles = {code: one.split for code, one in self.commodities.every.items()}
            splits, refused = self.combinations.splits(contracts, found.under, styles)
            contracts = contracts.with_columns(refused)
        self._form_between()
        intra, intra_legs = self.within.tables(self.commodities)
        inter, inter_legs = self.between.tables()
        commodities = self.commodities.table()  # the last that may add failures
        rates = [(*pair, rate) for pair, rate in self.rates.items()]
        return SpanTables(
            contracts=contracts,
            arrays=arrays,
            commodities=commodities,
            tiers=self.commodities.tiers(),
            ranges=ranges,
            delivery=self.commodities.deliveries(),
            intra=intra,
            intra_legs=intra_legs,
            inter=inter,
            inter_legs=inter_legs,
            splits=splits,
            rates=pl.DataFrame(rates, schema=RATES, orient="row"),
            failures=notes.table(),
            limit=self.header is not None and self.header.text(39, 39) == "Y",
            facts=self._facts(),
        )

    def _contracts(self) -> Found | None:
        narrow, wide = (
            paired(first, second, self.notes)
            for first, second in (self.halves[:2], self.halves[2:])
        )
        pairs = both(narrow, wide)
        if pairs is None:
            return None
        return contracts_of(pairs, self.families, self.months, self.commodities, self.notes)

    def _facts(self) -> dict[str, str]:
        counted = {"lines": str(self.lines), "skipped": str(self.skipped)}
        head = self.header
        if head is None:
            return {"format": "PA2", **counted}
        facts = {
            "format": "PA2",
            "clearing": head.text(3, 8),
            "date": head.text(9, 16),
            "created": f"{head.text(24, 31)} {head.text(32, 35)}".strip(),
            "session": _SESSIONS.get(head.text(17, 17), head.text(17, 17)),
            "settlement": _FILES.get(head.text(18, 19), head.text(18, 19)),
            "account_class": head.text(69, 73) or "CORE",
            "margin": "initial" if head.text(75, 75) == "I" else "maintenance",
            "net": {"Y": "net", "N": "gross"}.get(head.text(38, 38), ""),
            "groups": " ".join(dict.fromkeys(chain(self.groups))),
        }
        return {name: value for name, value in facts.items() if value} | counted


def _concerned(record: Record) -> list[str]:
    """The combined commodity that a record is about, if it is about one."""
    name = record.line[:2].strip()
    if name not in ("2", "S", "3", "4", "E", "C"):
        return []
    code = record.text(7, 12) if name == "2" else record.text(3, 8)
    return [code] if code else []
