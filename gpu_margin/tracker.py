"""A resident portfolio that takes fills and marks in sequence and knows how accounts stand.

A fill changes a position and cash: by -fee, by quantity x multiplier x (mark - price) for futures
and perpetuals, by -quantity x multiplier x price for what is paid for. A mark changes the market;
futures and perpetuals are settled at it (`tracking.marking`). The accounts that a batch touches are
added up anew in canonical order, so that every figure is, bit for bit, that of a run on the state
as it is exported. How fills and marks are cut into batches changes no bit of the state; statuses
are looked at after every batch.

Cash stands in the netting set of the fill, in the cash asset of the instrument's currency, or in
that of the margin currency where the assets have no such. Collateral is taken as settled at the
marks and prices of the inputs. One thread changes a tracker. Others may read what it knows inside
turns: fills are booked and marks take effect inside `turn()`, and what marks do is made beside the
figures in force before that.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.config import Model
from gpu_margin.failures import ConfigError
from gpu_margin.io.fill_tables import TRANSFER_COLUMNS, TRANSFER_OPTIONAL, load_transfers
from gpu_margin.io.tables import Source
from gpu_margin.loading import Loaded
from gpu_margin.tracking import tables
from gpu_margin.tracking.batches import read_columns
from gpu_margin.tracking.core import Batch, BatchResult, Core, Turn
from gpu_margin.tracking.events import event_table, events_of
from gpu_margin.tracking.exporting import write_state
from gpu_margin.tracking.keeping import Kept, read_kept
from gpu_margin.tracking.mark_batches import marks_of
from gpu_margin.tracking.seen import Seen
from gpu_margin.tracking.state import state_of

Floats = NDArray[np.float64]

__all__ = ["Batch", "BatchResult", "Tracker", "core_of"]


class Tracker:
    """A portfolio under one model of a run or all of them, resident.

    `loaded` is what `load_book` of `loading` made; `frames` are its tables that were not files, and
    files must be as they were. `remember` is for how many rows the id of a fill is known, by
    default for ever; `resident` keeps scenario vectors on the device, for those who ask what trades
    would do. Raises `ConfigError` for a model that is not there and `InputError` where inputs have
    changed or no instrument is valid.
    """

    def __init__(
        self,
        loaded: Loaded,
        model: str | None = None,
        backend: str | Backend = "auto",
        *,
        remember: int | None = None,
        resident: bool = False,
        turn: Turn = nullcontext,
        **frames: Source,
    ) -> None:
        device = backends.load(backend) if isinstance(backend, str) else backend
        models, seen = loaded.chosen(model), Seen(remember)
        self.core = Core(state_of(loaded, frames), models, device, seen, resident, turn, {})
        self.core.refresh()

    @classmethod
    def restore(cls, path: str | Path, backend: str | Backend = "auto") -> Tracker:
        """The tracker of a snapshot, which goes on where it was; `InputError` without one."""
        tracker = cls.__new__(cls)
        tracker.core = core_of(read_kept(Path(path)), backend)
        tracker.core.refresh()
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
        batch = self.core.encoded(fills)
        self.core.reserve(len(batch.ids))
        with self.core.turn():
            return self.core.book(batch)

    def mark(self, marks: Batch) -> BatchResult:
        """Take marks in their order, settle what is settled daily, and measure who is concerned.

        `marks` has instrument_id or factor, field (price, implied_vol, forward; of a factor last),
        value and time, as the inputs' marks. A mark that is older than the one in force is skipped.
        """
        return self.core.mark(marks_of(marks, self.core.state))

    def transfer(self, transfers: Batch) -> BatchResult:
        """Add collateral to netting sets, or take it from them, in sequence.

        `transfers` has account_id, asset, amount (negative: taken away) and optionally netting_set.
        Raises `ConfigError` where the inputs say nothing of collateral.
        """
        state = self.core.state
        if not state.with_collateral:
            raise ConfigError("inputs.collateral: missing: nothing is known of collateral")
        table = read_columns(transfers, "transfers", TRANSFER_COLUMNS, TRANSFER_OPTIONAL)
        rows = load_transfers(table, state.assets.ids)
        return self.core.transfer(table, rows.rows, rows.failures)

    # ------------------------------------------------------------ what is known

    @property
    def model(self) -> Model:
        """The first model."""
        return self.core.models[0]

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them."""
        return self.core.models

    @property
    def sequence(self) -> int:
        """The number of the last row."""
        return self.core.sequence

    @property
    def events(self) -> pl.DataFrame:
        """sequence, account_id, model, kind (call, cured, liquidation), before, after."""
        return event_table(self.core.events)

    @property
    def with_collateral(self) -> bool:
        """Whether the inputs say anything of collateral: only then is a standing known."""
        return self.core.state.with_collateral

    @property
    def failures(self) -> pl.DataFrame:
        """The failed rows of the inputs."""
        return self.core.state.loaded.failures

    def accounts(self, model: str | None = None) -> pl.DataFrame:
        """How accounts and their netting sets stand, as the accounts of a run; all of them.

        Raises `ConfigError` where the inputs say nothing of collateral.
        """
        if not self.core.state.with_collateral:
            raise ConfigError("inputs.collateral: missing: it is not known how accounts stand")
        order = self.core.state.members.in_order()
        return tables.accounts_table(self.core.state, self.core.coverage(model), order)

    def requirements(self, model: str | None = None) -> pl.DataFrame:
        """account_id, netting_set, requirement (null: not known), complete, as a run's sets."""
        return tables.requirements_table(self.core.state, self.core.coverage(model))

    def positions(self) -> pl.DataFrame:
        """account_id, netting_set, instrument_id, quantity."""
        return tables.positions_table(self.core.state)

    def collateral(self) -> pl.DataFrame:
        """account_id, netting_set, asset, amount: cash included.

        Where the inputs say nothing of collateral, it is what fills and marks did to cash.
        """
        return tables.collateral_table(self.core.state)

    def unit_pnl(self, model: str | None = None) -> Floats | None:
        """[instrument, scenario] profit of one contract, by code; None where there are no such."""
        return self.core.coverage(model).unit_pnl()

    # ------------------------------------------------------------ what goes out

    def export(self, folder: str | Path) -> Path:
        """Write tables and a config.toml that `run` accepts; the path of the latter.

        A run on it gives the tracker's figures, bit for bit.
        """
        state = self.core.state
        return write_state(tables.run_tables(state), state.loaded.config, Path(folder))

    def snapshot(self, path: str | Path) -> None:
        """Write everything to one file, atomically; `restore` goes on from it."""
        self.core.kept().write(Path(path))


def core_of(
    found: Kept, backend: str | Backend = "auto", resident: bool = False, turn: Turn = nullcontext
) -> Core:
    """What was kept, to go on where it was; nothing is measured yet."""
    models = [one for one in found.state.loaded.models if one.name in found.statuses]
    seen = Seen(found.meta["remember"], found.seen)
    device = backends.load(backend) if isinstance(backend, str) else backend
    core = Core(found.state, models, device, seen, resident, turn, found.statuses)
    core.sequence = found.meta["sequence"]
    core.events += events_of(found.events)
    return core
