"""Records as batches: fills and marks of many records in one, and what became of each record.

What is found in a record does not depend on its neighbours: columns are read together only where
nothing is wrong with any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import InputError
from gpu_margin.io.fill_tables import FILL_COLUMNS, FILL_OPTIONAL
from gpu_margin.records import Outcome, Record
from gpu_margin.tracking.batches import NO_FAILURES, Fills
from gpu_margin.tracking.core import Core
from gpu_margin.tracking.mark_batches import MarkRows, marks_of

Ints = NDArray[np.int64]
Wrong = dict[int, list[dict[str, Any]]]

# What a column says that is not there.
_OTHERWISE: dict[str, Any] = {"netting_set": None, "fee": 0.0}


@dataclass(frozen=True)
class Group:
    """Records whose rows are numbered together, from 1, and what is wrong with some of them.

    Record i has the rows offsets[i] + 1 to offsets[i + 1], of which `good` [record] can be taken;
    `wrong` has the failures of records by place, their rows numbered in the record.
    """

    records: Sequence[Record]
    offsets: Ints
    good: Ints
    wrong: Wrong

    def outcomes(self, skipped: Ints, refused: pl.DataFrame) -> list[Outcome]:
        """What became of each record; skipped and refused rows are by their numbers in all."""
        if not len(skipped) and refused.is_empty() and not self.wrong:
            return [Outcome(one.seq, one.count) for one in self.records]
        left: list[list[int]] = [[] for _ in self.records]
        out = [list(self.wrong.get(place, [])) for place in range(len(self.records))]
        applied = self.good.tolist()
        for row in skipped.tolist():
            place = self._record(row)
            left[place].append(row - int(self.offsets[place]))
            applied[place] -= 1
        for row, *rest in refused.select("row", "field", "value", "reason").iter_rows():
            place = self._record(row)
            out[place].append(_failure(row - int(self.offsets[place]), *rest))
            applied[place] -= 1
        return [
            Outcome(one.seq, applied[place], left[place], sorted(out[place], key=_row))
            for place, one in enumerate(self.records)
        ]

    def _record(self, row: int) -> int:
        return int(np.searchsorted(self.offsets, row, side="left")) - 1


@dataclass(frozen=True)
class FillGroup(Group):
    """Records of fills; `place` and `row` of the fills are numbers in all of them."""

    fills: Fills

    def piece(self, first: int, last: int) -> Fills:
        """The fills of rows first + 1 to last, as a batch of their own."""
        start, stop = np.searchsorted(self.fills.place, (first, last), side="right")
        some = self.fills
        if start > 0 or stop < len(some.ids):
            some = some.chosen(np.arange(start, stop))
        return replace(some, place=some.place - first, received=last - first)

    def pieces(self, most: int) -> Iterator[tuple[int, int, int]]:
        """First and last row of pieces, and how many records are whole behind each.

        Records go together as long as they have no more than `most` rows; longer ones are cut.
        """
        first, record, count = 0, 0, len(self.records)
        while record < count:
            whole = int(np.searchsorted(self.offsets, first + most, side="right")) - 1
            last = int(self.offsets[whole]) if whole > record else first + most
            record = max(whole, record)
            yield first, last, record
            first = last


@dataclass(frozen=True)
class MarkGroup(Group):
    """Records of marks; rows of the marks are numbers in all of them."""

    marks: MarkRows


def fill_group(records: Sequence[Record], core: Core) -> FillGroup:
    """The fills of records."""
    offsets = _offsets(records)
    columns = _together(records, np.diff(offsets).tolist())
    whole = None if columns is None else core.encoded_at_once(columns)
    if whole is not None:
        return FillGroup(records, offsets, np.diff(offsets), {}, whole)
    parts: list[Fills] = []
    wrong: Wrong = {}
    for number, record in enumerate(records):
        try:
            part = core.encoded(record.rows)
        except InputError as error:
            wrong[number] = [_failure(None, None, None, str(error))]
            continue
        if len(part.failures):
            wrong[number] = _failures(part.failures)
        place = part.place + offsets[number]
        parts.append(replace(part, place=place, row=place))
    fills = _joined(parts, int(offsets[-1]))
    good = np.diff(np.searchsorted(fills.place, offsets, side="right"))
    return FillGroup(records, offsets, good, wrong, fills)


def mark_group(records: Sequence[Record], core: Core) -> MarkGroup:
    """The marks of records."""
    offsets = _offsets(records)
    rows: list[Any] = []
    wrong: Wrong = {}
    good = np.zeros(len(records), dtype=np.int64)
    for number, (record, offset) in enumerate(zip(records, offsets.tolist(), strict=False)):
        try:
            found = marks_of(record.rows, core.state)
        except InputError as error:
            wrong[number] = [_failure(None, None, None, str(error))]
            continue
        if len(found.failures):
            wrong[number] = _failures(found.failures)
        good[number] = len(found.rows)
        rows += [(row + offset, *rest) for row, *rest in found.rows] if offset else found.rows
    marks = MarkRows("marks", int(offsets[-1]), rows, NO_FAILURES)
    return MarkGroup(records, offsets, good, wrong, marks)


def _offsets(records: Sequence[Record]) -> Ints:
    counts = [record.count for record in records]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _together(records: Sequence[Record], counts: list[int]) -> dict[str, list[Any]] | None:
    """The columns of all records one after another; None where some record's do not fit."""
    columns: dict[str, list[Any]] = {}
    for name in (*FILL_COLUMNS, *FILL_OPTIONAL):
        given = [record.rows.get(name) for record in records]
        if not any(values is not None for values in given):
            continue
        if name in _OTHERWISE:
            other = _OTHERWISE[name]
            given = [
                [other] * count if values is None else values
                for values, count in zip(given, counts, strict=True)
            ]
        lists = [values for values in given if values is not None]
        if list(map(len, lists)) != counts:
            return None
        columns[name] = list(chain.from_iterable(lists))
    return columns


def _joined(parts: Sequence[Fills], received: int) -> Fills:
    """Batches as one."""
    every = [name for part in parts for name in part.accounts]
    named = [
        name for part in parts for name in (part.accounts if part.names is None else part.names)
    ]

    def arrays(name: str, kind: Any) -> Any:
        return np.concatenate([np.zeros(0, dtype=kind), *(getattr(one, name) for one in parts)])

    return Fills(
        received=received,
        place=arrays("place", np.int64),
        row=arrays("row", np.int64),
        ids=[one for part in parts for one in part.ids],
        accounts=every,
        names=named,
        instrument=arrays("instrument", np.int64),
        quantity=arrays("quantity", np.float64),
        price=arrays("price", np.float64),
        fee=arrays("fee", np.float64),
        failures=NO_FAILURES,
    )


def _failures(table: pl.DataFrame) -> list[dict[str, Any]]:
    return [_failure(*row) for row in table.select("row", "field", "value", "reason").iter_rows()]


def _failure(row: int | None, field: str | None, value: str | None, reason: str) -> dict[str, Any]:
    return {"row": row, "field": field, "value": value, "reason": reason}


def _row(failure: dict[str, Any]) -> int:
    return failure["row"] or 0
