"""The live book: a portfolio under all models of a run, asked and changed at the same time.

One thread, the writer, changes it (`apply`, `replay`, `snapshot`, `replace_backend`); it takes its
turns itself, each for a short piece of work. Others ask inside `turns.asking()`, which they take
themselves. What marks do is made beside the figures in force and then takes their place at once, so
that whoever asks always sees one state of the book, that of `sequence`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import backend as backends
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import placed
from gpu_margin.config import Config
from gpu_margin.explain import Explanation, explanation
from gpu_margin.io.tables import Source
from gpu_margin.living import legs as encoding
from gpu_margin.living.asking import Asked, ask
from gpu_margin.living.coding import fill_group, mark_group
from gpu_margin.living.legs import Asking, LiveLegs, Names
from gpu_margin.living.viewing import account_view, summary_view
from gpu_margin.loading import Loaded
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, Rows
from gpu_margin.records import Outcome, Record
from gpu_margin.tracker import core_of
from gpu_margin.tracking.core import Core
from gpu_margin.tracking.events import Event, event_table, events_of
from gpu_margin.tracking.exporting import write_state
from gpu_margin.tracking.keeping import Kept, read_kept
from gpu_margin.tracking.seen import Seen
from gpu_margin.tracking.state import state_of
from gpu_margin.tracking.tables import run_tables
from gpu_margin.turns import Turns

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Report = Callable[[str, int, int], None]

# Rows that are booked in one turn, and in one go while nobody asks.
_PIECE, _REPLAYED = 256, 1 << 18
_EVENTS = 100_000


@dataclass(frozen=True)
class GateInputs:
    """What a gate needs of netting sets, [set] as asked; arrays are of use in the same turn only.

    `rows` of net positions on the host; `line` of each set in the resident `matrix` on the device,
    -1 for a set that is not there, and where the model has no vectors (`matrix` is None then);
    `collateral` value in margin currency, NaN where it is not known.
    """

    prepared: Prepared
    rows: Rows
    line: Ints
    matrix: Array | None
    collateral: Floats


class LiveBook:
    """A book that answers while it changes.

    `loaded` is what `load_book` of `loading` made, `frames` its tables that were not files. All its
    models on positions are resident. `remember` is for how many rows the id of a fill is known, by
    default for ever. `report` (stage, done, total) is told how far it is. Raises as `Tracker` does.
    """

    def __init__(
        self,
        loaded: Loaded,
        backend: str | Backend = "auto",
        *,
        turns: Turns | None = None,
        report: Report | None = None,
        remember: int | None = None,
        **frames: Source,
    ) -> None:
        self.turns = Turns() if turns is None else turns
        tell = report or _silent
        tell("book", 0, 1)
        device = backends.load(backend) if isinstance(backend, str) else backend
        state, seen = state_of(loaded, frames), Seen(remember)
        core = Core(state, loaded.chosen(None), device, seen, True, self.turns.changing, {})
        core.refresh()
        self._begin(core, 0, [])
        tell("book", 1, 1)

    @classmethod
    def restore(
        cls,
        path: str | Path,
        backend: str | Backend = "auto",
        *,
        turns: Turns | None = None,
        rules: Config | None = None,
        measured: bool = True,
    ) -> LiveBook:
        """The book of a snapshot, as it was; `InputError` without one.

        With `rules` it goes on under the models and rules of another configuration of its day.
        Without `measured` it may only be asked after a `replay`, which measures it anyhow.
        """
        found = read_kept(Path(path), rules)
        book = cls.__new__(cls)
        book.turns = Turns() if turns is None else turns
        events, none = events_of(found.events), replace(found, events=found.events.clear())
        core = core_of(none, backend, resident=True, turn=book.turns.changing)
        book._begin(core, int(found.meta["state_seq"]), events)
        if measured:
            core.refresh()
            book._note(core.drained(), book.sequence)
        return book

    # ------------------------------------------------------------ what changes it

    def apply(self, records: Sequence[Record]) -> list[Outcome]:
        """Book records in their order; what became of each does not depend on its neighbours.

        Fills are booked in pieces of whole records, of at most 256 rows unless one record has more;
        marks that follow each other are taken together.
        """
        found: list[Outcome] = []
        for kind, group in groupby(records, key=lambda one: one.kind):
            own = list(group)
            found += self._fills(own) if kind == "fills" else self._marks(own)
        return found

    def replay(self, records: Iterable[Record]) -> int:
        """Book records as `apply` does, with nobody asking, and measure once; how many they were.

        Positions, cash, marks and figures are the same bits; statuses are looked at in the end.
        """
        count = 0
        for group in _groups(records, _REPLAYED):
            if group[0].kind == "fills":
                fills = fill_group(group, self._core)
                self._core.reserve(min(len(fills.fills.ids), _PIECE))
                with self.turns.changing():
                    self._core.book(fills.piece(0, int(fills.offsets[-1])), measured=False)
            else:
                self._core.mark(mark_group(group, self._core).marks, measured=False)
            count += len(group)
            self.sequence = group[-1].seq
        if count or not self._core.measured:
            self._core.refresh()
            self._note(self._core.drained(), self.sequence)
        return count

    def replace_backend(self, backend: str | Backend) -> None:
        """Go on with another device: the same state."""
        self._core.refresh(backends.load(backend) if isinstance(backend, str) else backend)

    def kept(self) -> Kept:
        """A copy of everything, whose `write` may be called by any thread."""
        events = event_table(list(self._events))
        return replace(self._core.kept(state_seq=self.sequence), events=events)

    def snapshot(self, path: str | Path) -> None:
        """Write everything to one file, atomically; `restore` goes on from it."""
        self.kept().write(Path(path))

    def export(self, folder: str | Path) -> Path:
        """Write tables and a config.toml that `run` accepts; the path of the latter."""
        state = self._core.state
        return write_state(run_tables(state), state.loaded.config, Path(folder))

    # ------------------------------------------------------------ what is asked

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(model.name for model in self._core.models)

    @property
    def backend(self) -> Backend:
        """Where it is resident."""
        return self._core.backend

    @property
    def core(self) -> Core:
        """What knows the state and its figures: to be read in a turn."""
        return self._core

    def code(self, account_id: str) -> int:
        """The code of an account, -1 for one that is not there; at any time."""
        return self._core.state.members.account_code(account_id)

    def set_code(self, account_id: str, netting_set: str | None = None) -> int:
        """The code of a netting set, by default the account's own; -1 for one that is not there."""
        return self._core.state.members.set_code(account_id, netting_set)

    def instrument_code(self, instrument_id: str) -> int:
        """The code of a valid instrument, -1 for any other id."""
        return self._core.state.contracts.codes.get(instrument_id, -1)

    def accounts_like(self, prefix: str, limit: int) -> list[str]:
        """The first ids, in byte order, that start with the prefix."""
        found = [one for one in self._core.state.members.accounts if one.startswith(prefix)]
        return sorted(found)[:limit]

    def encode(
        self,
        whatifs: Sequence[Asking],
        replaced: Sequence[bool] | None = None,
        allow_new: Sequence[bool] | bool = False,
    ) -> LiveLegs:
        """What-ifs (account, netting set or None, quantity by instrument) in codes; at any time.

        `replaced`: the account has nothing but these positions; `allow_new`: an account or set that
        is not there starts empty. What is wrong with one is in the `errors`, and hurts no other.
        """
        again = partial(self.encode, whatifs, replaced, allow_new)
        return encoding.encoded(self._names(), whatifs, replaced, allow_new, again)

    def encode_columns(
        self, table: pl.DataFrame, *, replaced: bool = False, allow_new: bool = False
    ) -> LiveLegs:
        """What-ifs of a table (whatif_id, account_id, instrument_id, quantity, netting_set).

        Rows of one whatif_id and account are one what-if, see `LiveLegs.asked`; `netting_set` may
        be absent or null.
        """
        again = partial(self.encode_columns, table, replaced=replaced, allow_new=allow_new)
        return encoding.encoded_columns(self._names(), table, replaced, allow_new, again)

    def fresh(self, legs: LiveLegs) -> LiveLegs:
        """The same what-ifs in the codes of now: encoded again, where a mark has changed these."""
        return legs if legs.epoch == self._core.epoch else legs.again()

    def ask(self, legs: LiveLegs) -> Asked:
        """What what-ifs would do under all models, as one batch; in a turn of the caller's."""
        legs = self.fresh(legs)
        return ask(self._core.state, self._core.coverages, legs, self.sequence)

    def account(self, account_id: str) -> dict[str, Any] | None:
        """How an account stands, None where there is no such; in a turn of the caller's."""
        code = self.code(account_id)
        if code < 0:
            return None
        view = account_view(self._core.state, self._core.coverages, code)
        return {**view, "state_seq": self.sequence}

    def explain(self, account_id: str, model: str | None = None) -> Explanation | None:
        """Why an account requires what it does, None where there is no such; in a caller's turn.

        `model` is by default the first. Raises `ConfigError` for one that is not there and
        `InputError` where the account has no good position.
        """
        code, state = self.code(account_id), self._core.state
        coverage = self._core.coverage(model)
        if code < 0:
            return None
        sets = np.array(state.members.sets_of_one(code), dtype=np.int64)
        sets = sets[state.listed[sets]]
        portfolio = Portfolio(
            accounts=pl.Series([account_id], dtype=pl.String),
            sets=pl.Series([state.members.names[one] for one in sets.tolist()], dtype=pl.String),
            set_account=np.zeros(len(sets), dtype=np.int64),
            rows=state.positions.rows(sets),
            good=state.good[sets].astype(np.int64),
            bad=state.lost[sets],
        )
        none = state.loaded.failures.clear()
        return explanation(state.loaded, portfolio, coverage.prepared, coverage.model.name, none)

    def summary(self) -> dict[str, Any]:
        """Totals by model, and how many there are of everything; in a turn of the caller's."""
        found = summary_view(self._core.state, self._core.coverages)
        own = {"state_seq": self.sequence, "backend": self.backend.name}
        return {**own, "device": self.backend.describe(), "events": len(self._events), **found}

    def gate_inputs(self, model: str, sets: Ints) -> GateInputs:
        """What a gate needs of sets (codes, -1: not there) under a model; in a caller's turn."""
        state, coverage = self._core.state, self._core.coverage(model)
        there = sets >= 0
        rows = state.positions.rows(sets[there])
        size = np.zeros(len(sets), dtype=np.int64)
        size[there] = np.diff(rows.offsets)
        offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        collateral = np.zeros(len(sets))
        collateral[there] = coverage.sets["value"][sets[there]]
        if not state.with_collateral:
            collateral[:] = np.nan
        vectors, line = coverage.vectors, np.full(len(sets), -1, dtype=np.int64)
        if vectors is not None:
            fine = there.copy()
            fine[there] = vectors.finite[sets[there]]
            line[fine] = vectors.instruments + sets[fine]
        matrix = None if vectors is None else vectors.matrix
        held = Rows(offsets, rows.column, rows.value)
        return GateInputs(coverage.prepared, held, line, matrix, collateral)

    def events_after(self, sequence: int) -> list[Event]:
        """Events behind a state's number, of the last 100,000; at any time."""
        found: list[Event] = []
        for event in reversed(self._events.copy()):
            if event.sequence <= sequence:
                break
            found.append(event)
        return found[::-1]

    # ------------------------------------------------------------ within

    def _begin(self, core: Core, sequence: int, events: Sequence[Event]) -> None:
        _warm(core.backend)
        self._core, self.sequence = core, sequence
        self._events: deque[Event] = deque(events, maxlen=_EVENTS)

    def _names(self) -> Names:
        state = self._core.state
        return Names(state.members, state.contracts.codes, self._core.epoch)

    def _fills(self, records: Sequence[Record]) -> list[Outcome]:
        group = fill_group(records, self._core)
        skipped, refused = [np.zeros(0, dtype=np.int64)], []
        for first, last, whole in group.pieces(_PIECE):
            piece = group.piece(first, last)
            self._core.reserve(len(piece.ids))
            with self.turns.changing():
                took = self._core.book(piece)
                if whole:
                    self.sequence = records[whole - 1].seq
                cut = last > int(group.offsets[whole])
                self._note(self._core.drained(), records[whole if cut else whole - 1].seq)
            skipped.append(took.skipped)
            refused.append(took.failures)
        return group.outcomes(np.concatenate(skipped), pl.concat(refused))

    def _marks(self, records: Sequence[Record]) -> list[Outcome]:
        group = mark_group(records, self._core)
        took = self._core.mark(group.marks, then=partial(self._marked, records[-1].seq))
        return group.outcomes(took.skipped, took.failures)

    def _marked(self, sequence: int) -> None:
        """The marks have taken effect: in the same turn."""
        self.sequence = sequence
        self._note(self._core.drained(), sequence)

    def _note(self, events: Iterable[Event], sequence: int) -> None:
        self._events.extend(replace(event, sequence=sequence) for event in events)


def _warm(backend: Backend) -> None:
    """Call what is compiled at the first call, for little work and for much, before anyone asks."""
    matrix = backend.to_device(np.zeros((1, 256)))
    for rows, size in ((1, 1), (64, 300)):
        offsets = np.arange(rows + 1, dtype=np.int64) * size
        column, value = np.zeros(rows * size, dtype=np.int64), np.ones(rows * size)
        device = placed(Rows(offsets, column, value), backend).device
        backend.weighted_sum(device, matrix)
        for scenarios in (False, True):
            backend.tail(device, matrix, [TailMeasure((1.0, 1.0), 2.0)], scenarios)
        backend.segment_sum(device.value, device.offsets)


def _groups(records: Iterable[Record], most: int) -> Iterator[list[Record]]:
    """Records of one kind that follow each other, so many that they have about `most` rows."""
    group: list[Record] = []
    rows = 0
    for record in records:
        if group and (record.kind != group[0].kind or rows >= most):
            yield group
            group, rows = [], 0
        group.append(record)
        rows += record.count
    if group:
        yield group


def _silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""
