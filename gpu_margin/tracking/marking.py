"""Marks as they come: which of them count, and what they settle.

Futures and perpetuals are settled at their marks: a fill settles quantity x multiplier x (mark -
price), and a new mark quantity x multiplier x (new - old) for whoever holds the instrument, so that
a position is worth nothing beyond its cash, and a round trip earns what it was sold for less what
it was bought for. Other instruments were paid for, and their marks move no cash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.io.rules import LARGEST, SMALLEST
from gpu_margin.tracking.inputs import NO_MARKS
from gpu_margin.tracking.state import State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# instrument_id and factor (one is None), field; value and time
Key = tuple[str | None, str | None, str]
Mark = tuple[float, float]


@dataclass(frozen=True)
class Step:
    """A mark that counts: row number in its batch, what it is of, and its value and time."""

    row: int
    key: Key
    mark: Mark


class Marks:
    """The marks in force: of each instrument or factor and field the latest by its own time."""

    def __init__(self, table: pl.DataFrame) -> None:
        rows = table.select(NO_MARKS.columns).iter_rows()
        self._force: dict[Key, Mark] = {row[:3]: row[3:] for row in rows}

    def newer(self, rows: pl.DataFrame) -> list[Step]:
        """Of marks in sequence, those that are not older than what they follow."""
        known: dict[Key, Mark] = {}
        steps = []
        for row, *key_parts, value, time in rows.iter_rows():
            key = (key_parts[0], key_parts[1], key_parts[2])
            before = known.get(key) or self._force.get(key)
            if before is None or time >= before[1]:
                known[key] = (value, time)
                steps.append(Step(row, key, known[key]))
        return steps

    def after(self, steps: Iterable[Step]) -> pl.DataFrame:
        """The table of marks in force after these, as `LoadedMarks.marks` has it."""
        force = {**self._force, **{step.key: step.mark for step in steps}}
        rows = [(*key, *mark) for key, mark in force.items()]
        table = pl.DataFrame(rows, schema=NO_MARKS.schema, orient="row")
        return table.sort("instrument_id", "factor", "field")


def settle(state: State, steps: list[Step]) -> tuple[Floats, list[Step]]:
    """Cash after the steps, [place of the ledger of holdings], and those that are refused.

    A step that leads out of range is refused. Amounts are added in sequence; the state is as it
    was, but for entries of 0 among the holdings.
    """
    holders = _Holders(state, steps)
    moves = [(step, *holders.moved(step)) for step in steps]
    paid = [move for move in moves if move[1] >= 0]
    account, amount = holders.payments([code for _, code, _ in paid], [by for *_, by in paid])
    cash = state.holdings.value.copy()
    most = np.abs(cash)
    np.add.at(most, account, np.abs(amount))
    if (most[account] > LARGEST).any():
        return _one_by_one(state, steps)
    np.add.at(cash, account, amount)
    cash[account] = np.where(np.abs(cash[account]) < SMALLEST, 0.0, cash[account])
    return cash, []


def _one_by_one(state: State, steps: list[Step]) -> tuple[Floats, list[Step]]:
    """As `settle`, where not all of the steps are known to stay within range."""
    holders = _Holders(state, steps)
    cash, refused = state.holdings.value.copy(), []
    for step in steps:
        before = dict(holders.level)
        code, by = holders.moved(step)
        account, amount = holders.payments([code] if code >= 0 else [], [by])
        after = cash[account] + amount
        if (np.abs(after) > LARGEST).any():
            refused.append(step)
            holders.level = before
        else:
            cash[account] = np.where(np.abs(after) < SMALLEST, 0.0, after)
    return cash, refused


class _Holders:
    """Who holds the instruments that are marked; `level` are their marks as steps go by."""

    def __init__(self, state: State, steps: list[Step]) -> None:
        self._contracts = state.contracts
        marked = {self._settled(step) for step in steps} - {-1}
        self.level = {one: float(state.loaded.market.instruments.level[one]) for one in marked}
        sets, place = state.positions.all_places()
        column = state.positions.column[place]
        own = np.flatnonzero(np.isin(column, list(marked)) & (state.positions.value[place] != 0.0))
        own = own[np.argsort(column[own], kind="stable")]
        self._column, self._quantity = column[own], state.positions.value[place[own]]
        self._account = state.holdings.places(sets[own], state.contracts.asset[self._column])

    def moved(self, step: Step) -> tuple[int, float]:
        """The instrument of a step that settles, -1 of another, and by how much it moves."""
        code = self._settled(step)
        if code < 0:
            return code, 0.0
        by = step.mark[0] - self.level[code]
        self.level[code] = step.mark[0]
        return code, by

    def payments(self, codes: list[int], moves: list[float]) -> tuple[Ints, Floats]:
        """[payment] places of cash and amounts, one instrument that moved after another."""
        code, by = np.array(codes, dtype=np.int64), np.array(moves[: len(codes)])
        first, last = (np.searchsorted(self._column, code, side) for side in ("left", "right"))
        size = last - first
        entry = np.arange(size.sum()) + np.repeat(first - np.cumsum(size) + size, size)
        worth = self._quantity[entry] * self._contracts.unit[self._column[entry]]
        return self._account[entry], worth * np.repeat(by, size)

    def _settled(self, step: Step) -> int:
        """The instrument of a mark that moves cash, else -1."""
        code = self._contracts.codes.get(step.key[0] or "", -1)
        return code if code >= 0 and self._contracts.settled[code] else -1
