"""The core of a tracker: batches in codes change a state and its figures, in turns.

See `gpu_margin.tracker`, which is its face; a live book drives it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.config import Model
from gpu_margin.failures import ConfigError
from gpu_margin.io.tables import ROW, Source, Table
from gpu_margin.resident import Vectors
from gpu_margin.tracking.batches import Fills, fills_at_once, fills_of, joined
from gpu_margin.tracking.becoming import Figures, Next, after_marks, anew, happened
from gpu_margin.tracking.booking import put
from gpu_margin.tracking.columns import merged
from gpu_margin.tracking.coverage import Coverage
from gpu_margin.tracking.events import Event, event_table
from gpu_margin.tracking.filling import book_fills, out_of_range
from gpu_margin.tracking.keeping import Kept, kept
from gpu_margin.tracking.mark_batches import MarkRows
from gpu_margin.tracking.marking import segments, settle
from gpu_margin.tracking.marks import Step
from gpu_margin.tracking.seen import Seen
from gpu_margin.tracking.state import State

Ints = NDArray[np.int64]

Batch = Source | Mapping[str, Any] | Table
Turn = Callable[[], AbstractContextManager[None]]
Then = Callable[[], None] | None

_NONE: Ints = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class BatchResult:
    """What became of a batch.

    `sequence` is the number of its last row: rows are numbered as they come, whatever becomes of
    them. `applied` rows changed the state; `skipped` (1-based rows of the batch) did not and are no
    failures: fills that were booked before, marks older than those in force. `accounts` are the
    codes of those whose figures are new, `events` what happened to their statuses.
    """

    sequence: int
    applied: int
    skipped: Ints
    failures: pl.DataFrame
    accounts: Ints
    events: tuple[Event, ...]


class Core:
    """A state under some models, and their figures; one thread changes it.

    `sequence` is the number of the last row; `measured` says whether every figure is that of the
    state, which it is not before the first `refresh`; `epoch` how often codes of accounts, sets and
    instruments have been given anew. `known` are statuses [account] by model that were known
    before. `turn` is taken for whatever others may see.
    """

    def __init__(
        self,
        state: State,
        models: Sequence[Model],
        backend: Backend,
        seen: Seen,
        resident: bool,
        turn: Turn,
        known: Mapping[str, Ints],
    ) -> None:
        self.state, self.models, self.backend = state, tuple(models), backend
        self.sequence, self.epoch, self.measured = 0, 0, False
        self.turn, self.seen, self.events = turn, seen, list[Event]()
        self.coverages: list[Coverage] = []
        self._resident, self._status = resident, dict(known)
        self._ids = state.instrument_codes()
        self._spare: list[Vectors | None] = []
        self._pending = _NONE

    def encoded(self, fills: Batch) -> Fills:
        """The fills of a batch as `book` takes them."""
        return fills_of(fills, self.state.contracts, self._ids)

    def encoded_at_once(self, fills: Mapping[str, Any]) -> Fills | None:
        """As `encoded`, where nothing is wrong with any of them; None where something may be."""
        return fills_at_once(fills, self.state.contracts)

    def book(self, batch: Fills, measured: bool = True) -> BatchResult:
        """Book a batch that was encoded since the last mark, in a turn of the caller's.

        Without `measured` no figure is right any more before `refresh`.
        """
        before, applied = self.sequence, 0
        self.sequence += batch.received
        skipped, failures = [_NONE], [batch.failures]
        # An id is known once its fill is booked, which the book may refuse: then it may come again.
        for part in batch.distinct():
            numbers = before + part.place
            new = self.seen.new(part.ids, numbers)
            if not new.all():
                skipped.append(part.row[~new])
                part, numbers = part.chosen(np.flatnonzero(new)), numbers[new]
            booked, sets, refused = book_fills(self.state, part)
            if measured:
                self._pending = np.union1d(self._pending, sets)
            ids = part.ids
            if len(refused):
                ids = [one for one, fine in zip(ids, booked.tolist(), strict=True) if fine]
            self.seen.add(ids, numbers[booked])
            applied += len(ids)
            failures.append(refused)
        self.measured = self.measured and measured
        return self._taken(applied, np.concatenate(skipped), joined(*failures))

    def mark(self, found: MarkRows, measured: bool = True, then: Then = None) -> BatchResult:
        """Marks of a batch that was read since the last mark; see `Tracker.mark`.

        Without `measured` no figure is right any more before `refresh`. `then` is called in a turn:
        in the one in which the marks take effect, if any does.
        """
        steps = self.state.marks.newer(found.rows)
        received = np.array([row[0] for row in found.rows], dtype=np.int64)
        skipped = np.setdiff1d(received, np.array([step.row for step in steps], dtype=np.int64))
        if measured and len(self._pending):
            with self.turn():
                self._measured()
        sequence, refused = self.sequence + found.received, list[Step]()
        accounts, events = list[Ints](), list[Event]()
        parts = list(segments(self.state, steps))
        for number, part in enumerate(parts, 1):
            last = then if number == len(parts) else None
            touched, happened, out = self._remark(part, sequence, measured, last)
            accounts.append(touched)
            events += happened
            refused += out
        if then is not None and not parts:
            with self.turn():
                then()
        self.sequence = sequence
        values = [step.mark[0] for step in refused]
        failures = out_of_range(found.source, [step.row for step in refused], "value", values)
        return BatchResult(
            sequence,
            len(steps) - len(refused),
            skipped,
            joined(found.failures, failures),
            merged(accounts),
            tuple(events),
        )

    def transfer(self, table: Table, rows: pl.DataFrame, failures: pl.DataFrame) -> BatchResult:
        """Transfers of a table that are good (`rows` of `load_transfers`); see `Tracker`."""
        state = self.state
        accounts, names = (rows[key].to_list() for key in ("account_id", "netting_set"))
        self.reserve(len(accounts))
        with self.turn():
            state.open(accounts, names)
            sets = state.members.find(accounts, names)
            place = state.holdings.places(sets, rows["code"].to_numpy())
            put_in = put(state.holdings, place, rows["amount"].to_numpy())
            self.sequence += len(table.frame)
            self._pending = np.union1d(self._pending, sets)
            out = rows.filter(pl.Series(~put_in))
            amounts = out["amount"].to_list()
            refused = out_of_range(table.source, out[ROW].to_list(), "amount", amounts)
            return self._taken(int(put_in.sum()), _NONE, joined(failures, refused))

    def refresh(self, backend: Backend | None = None) -> None:
        """Prepare and measure everything anew, on another backend if one is given."""
        device = backend or self.backend
        coverages = Figures(self.models, device, self._resident).of(self.state, self._last())
        events = []
        for coverage in coverages:
            accounts = np.arange(len(self.state.members.accounts), dtype=np.int64)
            events += happened(coverage, accounts, self.sequence)
        with self.turn():
            self.coverages, self._status, self._pending = coverages, {}, _NONE
            self.backend, self.measured = device, True
            self._spare = [None] * len(coverages)
            self.events += events

    def reserve(self, fills: int) -> None:
        """Make room for so many further fills, beside what is in use."""
        state, count = self.state, len(self.state.members) + fills
        positions, holdings = state.positions.roomier(fills), state.holdings.roomier(fills)
        vectors = [one.reserve(count) for one in self.coverages]
        if positions is None and holdings is None and not any(vectors):
            return
        with self.turn():
            state.positions = state.positions if positions is None else positions
            state.holdings = state.holdings if holdings is None else holdings
            for coverage, own in zip(self.coverages, vectors, strict=True):
                coverage.vectors = own or coverage.vectors

    def drained(self) -> list[Event]:
        """The events since this was last called; they are no longer kept here."""
        events, self.events = self.events, []
        return events

    def coverage(self, model: str | None = None) -> Coverage:
        """How netting sets and accounts stand under a model, by default the first: to be read."""
        for one in self.coverages:
            if model in (None, one.model.name):
                return one
        known = ", ".join(one.name for one in self.models)
        raise ConfigError(f"there is no model {model!r}; the models are {known}")

    def kept(self, **more: Any) -> Kept:
        """A copy of what a snapshot has, and `more` numbers and texts; to be written at leisure."""
        meta = {"remember": self.seen.remember, "sequence": self.sequence, **more}
        return kept(self.state, self._last(), self.seen, event_table(self.events), meta)

    # ------------------------------------------------------------ within

    @property
    def _figures(self) -> Figures:
        return Figures(self.models, self.backend, self._resident)

    def _last(self) -> dict[str, Ints]:
        """By model the last status that was known of each account."""
        return {one.model.name: one.status for one in self.coverages} or self._status

    def _remark(
        self, steps: list[Step], sequence: int, measured: bool, then: Then
    ) -> tuple[Ints, list[Event], list[Step]]:
        """Go over to the market after some steps: accounts and events, and the steps refused."""
        state, cash = self.state, self.state.holdings.copied()
        refused = settle(state, cash, steps)
        out = {step.row for step in refused}
        steps = [step for step in steps if step.row not in out]
        if not steps:
            with self.turn():
                _call(then)
            return _NONE, [], refused
        figures, coverages = self._figures, self.coverages if measured else []
        spares = self._spare if measured else []
        new = after_marks(state, steps, cash, figures, coverages, spares, sequence)
        if new is None:
            marks = state.marks.after(steps)
            new = anew(state, marks, cash, figures, self._last(), measured, sequence)
        self._take_over(new, sequence, measured, then)
        return new.accounts, new.events, refused

    def _take_over(self, new: Next, sequence: int, measured: bool, then: Then) -> None:
        """Be what was made beside, from one turn to the next."""
        spares = [None if new.anew else one for one in self._spare]
        if measured and not new.anew:
            pairs = zip(self.coverages, new.coverages, strict=True)
            spares = [_left(*pair) or spare for pair, spare in zip(pairs, spares, strict=True)]
        ids = new.state.instrument_codes() if new.anew else self._ids
        with self.turn():
            for one in new.coverages:
                one.settle()
            self.state, self._ids, self.sequence = new.state, ids, sequence
            self.measured = self.measured and measured
            if measured or new.anew:
                self.coverages = new.coverages
            if new.anew:
                self._status, self.epoch = new.statuses, self.epoch + 1
            self.events += new.events
            _call(then)
        self._spare = spares

    def _taken(self, applied: int, skipped: Ints, failures: pl.DataFrame) -> BatchResult:
        accounts, events = self._measured()
        return BatchResult(self.sequence, applied, skipped, failures, accounts, tuple(events))

    def _measured(self) -> tuple[Ints, list[Event]]:
        """Measure what was touched, also by an earlier batch that failed on the way."""
        accounts, events = list[Ints](), list[Event]()
        if len(self._pending):
            with np.errstate(over="ignore", invalid="ignore"):
                for coverage in self.coverages:
                    accounts.append(coverage.measure(self._pending))
                    found = happened(coverage, accounts[-1], self.sequence)
                    self.events += found
                    events += found
        self._pending = _NONE
        return merged(accounts), events


def _call(then: Then) -> None:
    if then is not None:
        then()


def _left(before: Coverage, after: Coverage) -> Vectors | None:
    """The vectors that no one uses any more, if other ones have been made."""
    if before.vectors is None or after.vectors is None:
        return None
    return None if before.vectors.matrix is after.vectors.matrix else before.vectors
