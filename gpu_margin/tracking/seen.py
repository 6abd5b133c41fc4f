"""Which fills have been booked: a fill that comes again is not booked again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Seen:
    """Ids of fills by the sequence number at which they were booked.

    `remember` is how many numbers an id is known for, None for ever. An id takes about 150 bytes.
    """

    def __init__(self, remember: int | None = None, at: dict[str, int] | None = None) -> None:
        self.remember = remember
        self._at = {} if at is None else at

    def __len__(self) -> int:
        return len(self._at)

    def new(self, ids: Sequence[str], sequence: Ints) -> Bools:
        """[fill] whether it has not been booked; no id stands twice in the batch."""
        if self._at.keys().isdisjoint(ids):
            return np.ones(len(ids), dtype=np.bool_)
        last = map(self._at.get, ids)
        return np.array(
            [
                before is None or self._forgotten(before, now)
                for before, now in zip(last, sequence.tolist(), strict=True)
            ]
        )

    def add(self, ids: Sequence[str], sequence: Ints) -> None:
        """These have been booked, the last of them just now."""
        self._at.update(zip(ids, sequence.tolist(), strict=True))
        if self.remember is not None and len(self._at) > 2 * self.remember + 1024:
            now = int(sequence[-1])
            self._at = {i: at for i, at in self._at.items() if not self._forgotten(at, now)}

    def table(self) -> pl.DataFrame:
        """fill_id and sequence."""
        schema = {"fill_id": pl.String, "sequence": pl.Int64}
        columns = {"fill_id": list(self._at), "sequence": list(self._at.values())}
        return pl.DataFrame(columns, schema=schema)

    @staticmethod
    def of(table: pl.DataFrame) -> dict[str, int]:
        """What such a table says."""
        return dict(zip(table["fill_id"].to_list(), table["sequence"].to_list(), strict=True))

    def copied(self) -> dict[str, int]:
        """What is known."""
        return self._at.copy()

    def _forgotten(self, last: int, now: int) -> bool:
        return self.remember is not None and now - last > self.remember
