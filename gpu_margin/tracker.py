"""A resident portfolio that takes fills and marks in sequence and knows how accounts stand.

A fill changes a position and cash: by -fee, by quantity x multiplier x (mark - price) for futures
and perpetuals, by -quantity x multiplier x price for what is paid for. A mark changes the market;
futures and perpetuals are settled at it (`tracking.marking`). The accounts that a batch touches are
added up anew in canonical order, so that every figure is, bit for bit, that of a run on the state
as it is exported. How fills and marks are cut into batches changes no bit of the state; statuses
are looked at after every batch.

Cash stands in the netting set of the fill, in the cash asset of the instrument's currency, or in
that of the margin currency where the assets have no such. Collateral is taken as settled at the
marks and prices of the inputs. A tracker is for one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import backend as backends
from gpu_margin import loading
from gpu_margin.backend import Backend
from gpu_margin.config import Config, Inputs, Model
from gpu_margin.failures import ConfigError
from gpu_margin.io.fill_tables import (
    TRANSFER_COLUMNS,
    TRANSFER_OPTIONAL,
    load_mark_rows,
    load_transfers,
)
from gpu_margin.io.mark_tables import MARK_COLUMNS, MARK_OPTIONAL
from gpu_margin.io.tables import ROW, Source, Table
from gpu_margin.loading import Loaded
from gpu_margin.tracking import tables
from gpu_margin.tracking.batches import fills_of, joined, read_columns
from gpu_margin.tracking.booking import put
from gpu_margin.tracking.coverage import Coverage
from gpu_margin.tracking.events import Event, event_table, events_of, status_events
from gpu_margin.tracking.exporting import write_state
from gpu_margin.tracking.filling import book_fills, out_of_range
from gpu_margin.tracking.marking import Marks, settle
from gpu_margin.tracking.seen import Seen
from gpu_margin.tracking.snapshots import Snapshot, read_snapshot, write_snapshot
from gpu_margin.tracking.state import state_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Batch = Source | Mapping[str, Any] | Table


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


class Tracker:
    """A portfolio under one model, resident.

    `loaded` is what `loading.load` made; `frames` are those of its tables that were not files, and
    files must be as they were. `model` may be left out where there is one only. `remember` is for
    how many rows the id of a fill is known, by default for ever. Raises `ConfigError` for a model
    that is not there and `InputError` where inputs have changed or no instrument is valid.
    """

    def __init__(
        self,
        loaded: Loaded,
        model: str | None = None,
        backend: str | Backend = "auto",
        *,
        remember: int | None = None,
        **frames: Source,
    ) -> None:
        self._backend = backends.load(backend) if isinstance(backend, str) else backend
        self.model = _chosen(loaded, model)
        self.sequence = 0
        self._events: list[Event] = []
        self._seen = Seen(remember)
        self._pending: Ints = np.zeros(0, dtype=np.int64)
        self._begin(loaded, frames)

    @classmethod
    def restore(cls, path: str | Path, backend: str | Backend = "auto") -> Tracker:
        """The tracker of a snapshot, which goes on where it was; `InputError` without one."""
        found = read_snapshot(Path(path))
        meta, frames = found.meta, dict(found.tables)
        more = {name: frames.pop(name) for name in _BESIDE if name in frames}
        config = Config.model_validate(meta["config"])
        loaded = loading.load(config, **frames)
        tracker = cls(loaded, meta["model"], backend, remember=meta["remember"], **frames)
        tracker.sequence = meta["sequence"]
        tracker._seen.restore(more["seen"])
        tracker._events = events_of(more["events"])
        tracker._go_on(more)
        return tracker

    # ------------------------------------------------------------ what comes in

    def fill(self, fills: Batch) -> BatchResult:
        """Book fills in their order, and measure the accounts that they touch.

        `fills` has fill_id, account_id, instrument_id, quantity (negative: sold), price, and
        optionally netting_set (by default the account's own) and fee, in the instrument's currency:
        a frame, a file's path or columns by name. Accounts and netting sets open as they are named.
        A fill whose id was booked before is skipped; one that is wrong is a failure and changes
        nothing, and its id may come again.
        """
        batch = fills_of(fills, self._state.contracts, self._instrument_codes)
        numbers = self.sequence + batch.place
        self.sequence += batch.received
        new = self._seen.new(batch.ids, numbers)
        skipped = batch.row[~new]
        if len(skipped):
            batch, numbers = batch.chosen(np.flatnonzero(new)), numbers[new]
        booked, sets, failures = book_fills(self._state, batch)
        self._pending = np.union1d(self._pending, sets)
        ids = batch.ids
        if len(failures):
            ids = [one for one, fine in zip(ids, booked.tolist(), strict=True) if fine]
        self._seen.add(ids, numbers[booked])
        return self._taken(len(ids), skipped, joined(batch.failures, failures))

    def mark(self, marks: Batch) -> BatchResult:
        """Take marks in their order, settle what is settled daily, and measure every account.

        `marks` has instrument_id or factor, field (price, implied_vol, forward; of a factor last),
        value and time, as the inputs' marks. A mark that is older than the one in force is skipped.
        """
        table = read_columns(marks, "marks", MARK_COLUMNS, MARK_OPTIONAL)
        inputs = self._state.inputs.market
        rows = load_mark_rows(table, inputs["instruments"], inputs["history"])
        steps = self._marks.newer(rows.rows)
        received = rows.rows[ROW].to_numpy()
        skipped = np.setdiff1d(received, np.array([step.row for step in steps], dtype=np.int64))
        cash, refused = settle(self._state, steps)
        steps = [step for step in steps if step not in refused]
        values = [step.mark[0] for step in refused]
        failures = out_of_range(table.source, [step.row for step in refused], "value", values)
        if steps:
            self._remark(self._marks.after(steps), cash)
        self.sequence += len(table.frame)
        return self._taken(len(steps), skipped, joined(rows.failures, failures))

    def transfer(self, transfers: Batch) -> BatchResult:
        """Add collateral to netting sets, or take it from them, in sequence.

        `transfers` has account_id, asset, amount (negative: taken away) and optionally netting_set.
        Raises `ConfigError` where the inputs say nothing of collateral.
        """
        state = self._state
        if not state.with_collateral:
            raise ConfigError("inputs.collateral: missing: nothing is known of collateral")
        table = read_columns(transfers, "transfers", TRANSFER_COLUMNS, TRANSFER_OPTIONAL)
        rows = load_transfers(table, state.assets.ids)
        accounts, names = (rows.rows[key].to_list() for key in ("account_id", "netting_set"))
        state.open(accounts, names)
        sets = state.members.find(accounts, names)
        place = state.holdings.places(sets, rows.rows["code"].to_numpy())
        put_in = put(state.holdings, place, rows.rows["amount"].to_numpy())
        self.sequence += len(table.frame)
        self._pending = np.union1d(self._pending, sets)
        out = rows.rows.filter(pl.Series(~put_in))
        refused = out_of_range(table.source, out[ROW].to_list(), "amount", out["amount"].to_list())
        nothing = np.zeros(0, dtype=np.int64)
        return self._taken(int(put_in.sum()), nothing, joined(rows.failures, refused))

    # ------------------------------------------------------------ what is known

    @property
    def events(self) -> pl.DataFrame:
        """sequence, account_id, kind (call, cured, liquidation), before, after."""
        return event_table(self._events)

    @property
    def with_collateral(self) -> bool:
        """Whether the inputs say anything of collateral: only then is a standing known."""
        return self._state.with_collateral

    @property
    def failures(self) -> pl.DataFrame:
        """The failed rows of the inputs."""
        return self._state.loaded.failures

    def accounts(self) -> pl.DataFrame:
        """How accounts and their netting sets stand, as the accounts of a run; all of them.

        Raises `ConfigError` where the inputs say nothing of collateral.
        """
        if not self._state.with_collateral:
            raise ConfigError("inputs.collateral: missing: it is not known how accounts stand")
        order = self._state.members.in_order()
        return tables.accounts_table(self._state, self._coverage, order)

    def requirements(self) -> pl.DataFrame:
        """account_id, netting_set, requirement (null: not known), complete, as a run's sets."""
        return tables.requirements_table(self._state, self._coverage)

    def positions(self) -> pl.DataFrame:
        """account_id, netting_set, instrument_id, quantity."""
        return tables.positions_table(self._state)

    def collateral(self) -> pl.DataFrame:
        """account_id, netting_set, asset, amount: cash included.

        Where the inputs say nothing of collateral, it is what fills and marks did to cash.
        """
        return tables.collateral_table(self._state)

    def unit_pnl(self) -> Floats | None:
        """[instrument, scenario] profit of one contract, by code; None where there are no such."""
        return self._coverage.unit_pnl()

    # ------------------------------------------------------------ what goes out

    def export(self, folder: str | Path) -> Path:
        """Write tables and a config.toml that `run` accepts; the path of the latter.

        A run on it gives the tracker's figures, bit for bit.
        """
        state = self._state
        return write_state(tables.run_tables(state), state.loaded.config, Path(folder))

    def snapshot(self, path: str | Path) -> None:
        """Write everything to one file, atomically; `restore` goes on from it."""
        config = self._state.loaded.config.model_copy(update={"inputs": Inputs()})
        meta = {
            "config": config.model_dump(mode="json"),
            "model": self.model.name,
            "remember": self._seen.remember,
            "sequence": self.sequence,
        }
        seen = {"seen": self._seen.table(), "events": self.events}
        frames = {**tables.run_tables(self._state), **self._beside(), **seen}
        write_snapshot(Snapshot(frames, meta), Path(path))

    # ------------------------------------------------------------ within

    def _begin(self, loaded: Loaded, frames: Mapping[str, Source]) -> None:
        """Know of nothing but what was loaded."""
        state = state_of(loaded, frames)
        with np.errstate(over="ignore", invalid="ignore"):
            coverage = Coverage(state, self.model, self._backend)
            accounts = coverage.measure_all()
        # Nothing is taken over before everything is there.
        self._state, self._coverage, self._marks = state, coverage, Marks(state.marks)
        self._instrument_codes = state.instrument_codes()
        self._pending = np.zeros(0, dtype=np.int64)
        coverage.status[accounts] = self._statuses(accounts)

    def _beside(self) -> dict[str, pl.DataFrame]:
        """What a tracker on the exported state would not know."""
        state = self._state
        return {
            "sizes": tables.sizes_table(state),
            "statuses": tables.statuses_table(state, self._coverage),
        }

    def _go_on(self, beside: Mapping[str, pl.DataFrame]) -> None:
        """Know what `_beside` says, and the cash that is no collateral."""
        self._state.set_sizes(beside["sizes"])
        if "cash" in beside:
            self._state.add_cash(beside["cash"])
        tables.set_statuses(self._state, self._coverage, beside["statuses"])

    def _remark(self, marks: pl.DataFrame, cash: Floats) -> None:
        """Go over to the market at other marks."""
        state = self._state
        market = state.inputs.market_at(state.loaded, marks).market
        if not market.instruments.ids.equals(state.loaded.market.instruments.ids):
            self._load_again(marks, cash)
            return
        loaded = replace(state.loaded, market=market)
        self._coverage.price(loaded)
        state.loaded, state.marks, state.holdings.value = loaded, marks, cash
        self._marks = Marks(marks)
        self._pending = np.arange(len(state.members), dtype=np.int64)

    def _load_again(self, marks: pl.DataFrame, cash: Floats) -> None:
        """An instrument has become valid by its mark: everything is encoded anew."""
        state = self._state
        before = state.marks, state.holdings.value
        state.marks, state.holdings.value = marks, cash
        frames = tables.run_tables(state)
        beside = {**self._beside(), **_popped(frames, "cash")}
        try:
            loaded = loading.load(
                state.loaded.config.model_copy(update={"inputs": Inputs()}), **frames
            )
            self._begin(loaded, frames)
        except BaseException:
            state.marks, state.holdings.value = before
            raise
        self._go_on(beside)
        self._pending = np.arange(len(self._state.members), dtype=np.int64)

    def _taken(self, applied: int, skipped: Ints, failures: pl.DataFrame) -> BatchResult:
        """Measure what was touched, also by an earlier batch that failed on the way."""
        accounts, events = np.zeros(0, dtype=np.int64), []
        if len(self._pending):
            with np.errstate(over="ignore", invalid="ignore"):
                accounts = self._coverage.measure(self._pending)
            events = self._new_events(accounts)
        self._pending = self._pending[:0]
        self._state.positions.tidy()
        self._state.holdings.tidy()
        return BatchResult(self.sequence, applied, skipped, failures, accounts, tuple(events))

    def _statuses(self, accounts: Ints) -> Ints:
        if not self._state.with_collateral:
            return np.full(len(accounts), -1, dtype=np.int64)
        return self._coverage.standing(accounts)[3].status

    def _new_events(self, accounts: Ints) -> list[Event]:
        """Note the accounts' statuses, and what changed; a status that is lost stays noted."""
        after, known = self._statuses(accounts), self._coverage.status
        names = self._state.members.accounts
        events = status_events(self.sequence, names, accounts, known[accounts], after)
        known[accounts] = np.where(after >= 0, after, known[accounts])
        self._events += events
        return events


_BESIDE = ("seen", "events", "sizes", "statuses", "cash")


def _popped(frames: dict[str, pl.DataFrame], name: str) -> dict[str, pl.DataFrame]:
    return {name: frames.pop(name)} if name in frames else {}


def _chosen(loaded: Loaded, model: str | None) -> Model:
    found = [one for one in loaded.models if model in (None, one.name)]
    if len(found) != 1:
        known = ", ".join(one.name for one in loaded.models)
        raise ConfigError(f"a tracker has one model, not {model!r}; the models are {known}")
    return found[0]
