"""What a book is changed by, in sequence, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["fills", "marks"]


@dataclass(frozen=True)
class Record:
    """One request to change the book: `rows` are columns by name, as `Tracker` takes them."""

    seq: int
    kind: Kind
    rows: dict[str, list[Any]]

    @property
    def count(self) -> int:
        """How many rows it has."""
        return len(next(iter(self.rows.values()), []))


@dataclass(frozen=True)
class Outcome:
    """What became of a record: the same whenever it is applied after the same records.

    `skipped` are 1-based rows that had been booked before or are older than what is in force;
    `failures` (row, field, value, reason) are rows that changed nothing.
    """

    state_seq: int
    applied: int
    skipped: list[int] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
