"""The marks in force, and which of those that come count."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import polars as pl

# instrument_id and factor (one is None), field; value and time
Key = tuple[str | None, str | None, str]
Mark = tuple[float, float]
# row number in its batch, then key and mark
MarkRow = tuple[int, str | None, str | None, str, float, float]

NO_MARKS = pl.DataFrame(
    schema={
        "instrument_id": pl.String,
        "factor": pl.String,
        "field": pl.String,
        "value": pl.Float64,
        "time": pl.Float64,
    }
)


class Step(NamedTuple):
    """A mark that counts: row number in its batch, what it is of, and its value and time."""

    row: int
    key: Key
    mark: Mark


class Marks:
    """Of each instrument or factor and field the latest mark by its own time; never changed."""

    def __init__(self, force: Mapping[Key, Mark]) -> None:
        self._force = force

    @classmethod
    def of(cls, table: pl.DataFrame) -> Marks:
        """The marks of a table, one of each."""
        rows = table.select(NO_MARKS.columns).iter_rows()
        return cls({row[:3]: row[3:] for row in rows})

    def __len__(self) -> int:
        return len(self._force)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._force)

    def newer(self, rows: Iterable[MarkRow]) -> list[Step]:
        """Of marks in sequence, those that are not older than what they follow."""
        known: dict[Key, Mark] = {}
        steps = []
        for row, instrument, factor, field, value, time in rows:
            key = (instrument, factor, field)
            before = known.get(key) or self._force.get(key)
            if before is None or time >= before[1]:
                known[key] = (value, time)
                steps.append(Step(row, key, known[key]))
        return steps

    def after(self, steps: Iterable[Step]) -> Marks:
        """Those in force after the steps."""
        return Marks({**self._force, **{step.key: step.mark for step in steps}})

    def table(self) -> pl.DataFrame:
        """As `io.mark_tables.LoadedMarks` has them."""
        rows = [(*key, *mark) for key, mark in self._force.items()]
        table = pl.DataFrame(rows, schema=NO_MARKS.schema, orient="row")
        return table.sort("instrument_id", "factor", "field")
