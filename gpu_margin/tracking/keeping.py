"""A tracker in a file: tables in a ZIP archive, read again without checking every position anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import loading
from gpu_margin.config import Config, Inputs
from gpu_margin.failures import InputError
from gpu_margin.loading import Loaded
from gpu_margin.portfolio import Rows
from gpu_margin.tracking import tables
from gpu_margin.tracking.ledger import Ledger
from gpu_margin.tracking.members import Members
from gpu_margin.tracking.seen import Seen
from gpu_margin.tracking.snapshots import Snapshot, read_snapshot, write_snapshot
from gpu_margin.tracking.state import State, state_of

Ints = NDArray[np.int64]

_LEDGERS = ("positions", "holdings")
_OWN = ("seen", "events", "sets", "accounts_by_code", "codes")
_FLAGS = ("listed", "good", "lost", "lost_collateral")


@dataclass(frozen=True)
class Kept:
    """What a snapshot has: a state that nobody changes, and what is known beside it.

    `statuses` [account] by model are the last that were known; `meta` is what JSON can say:
    "remember", "sequence" and whatever else the keeper wants.
    """

    state: State
    statuses: Mapping[str, Ints]
    seen: dict[str, int]
    events: pl.DataFrame
    meta: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write the file under a temporary name and rename it."""
        config = self.state.loaded.config.model_copy(update={"inputs": Inputs()})
        known = {"config": config.model_dump(mode="json"), "collateral": self.state.with_collateral}
        meta = {**self.meta, **known}
        write_snapshot(Snapshot(_tables(self), meta), path)


def kept(
    state: State,
    statuses: Mapping[str, Ints],
    seen: Seen,
    events: pl.DataFrame,
    meta: Mapping[str, Any],
) -> Kept:
    """A copy of what is kept, at the cost of copying arrays."""
    still = replace(
        state,
        members=state.members.copied(),
        positions=state.positions.copied(),
        holdings=state.holdings.copied(),
        listed=state.listed.copy(),
        good=state.good.copy(),
        lost=state.lost.copy(),
        lost_collateral=state.lost_collateral.copy(),
    )
    own = {name: status.copy() for name, status in statuses.items()}
    return Kept(still, own, seen.copied(), events, meta)


def read_kept(path: Path, rules: Config | None = None) -> Kept:
    """What was kept in a file; `InputError` where it has no snapshot, or one of another format.

    `rules` are the models and rules to go on with, by default those that it was kept under.
    """
    found = read_snapshot(path)
    try:
        return _read(found, rules)
    except (KeyError, ValueError, IndexError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not the snapshot of a tracker ({error})") from error


def _tables(own: Kept) -> dict[str, pl.DataFrame]:
    state = own.state
    members = state.members
    sets = {name: getattr(state, name) for name in _FLAGS}
    found = {
        **tables.market_tables(state),
        "lost_positions": state.inputs.lost_positions,
        "lost_collateral": state.inputs.lost_collateral,
        "seen": Seen(None, own.seen).table(),
        "events": own.events,
        "sets": pl.DataFrame({"name": members.names, "account": members.account, **sets}),
        "accounts_by_code": pl.DataFrame(
            {"account_id": members.accounts, **{f"model {k}": v for k, v in own.statuses.items()}}
        ),
        "codes": _codes(state),
    }
    for name in _LEDGERS:
        found |= _ledger_tables(name, getattr(state, name))
    return found


def _ledger_tables(name: str, ledger: Ledger) -> dict[str, pl.DataFrame]:
    every = np.arange(len(ledger), dtype=np.int64)
    rows, place = ledger.rows(every, keep_zeros=True), ledger.all_places()[1]
    size = ledger.size[place]
    other = np.flatnonzero(size != np.abs(rows.value))
    entries = {"column": rows.column.astype(np.int32), "value": rows.value}
    return {
        f"{name} counts": pl.DataFrame({"count": np.diff(rows.offsets)}),
        f"{name} entries": pl.DataFrame(entries),
        f"{name} sizes": pl.DataFrame({"entry": other, "size": size[other]}),
    }


def _read(found: Snapshot, rules: Config | None) -> Kept:
    given, meta = dict(found.tables), dict(found.meta)
    positions, holdings = (_ledger(name, given) for name in _LEDGERS)
    own = {name: given.pop(name) for name in _OWN}
    config = Config.model_validate(meta.pop("config"))
    if rules is not None:
        config = rules.model_copy(update={"inputs": config.inputs})
    state = _state(given, config, meta.pop("collateral"))
    if not _codes(state).equals(own["codes"]):
        raise InputError("the snapshot was written by a version with other rules: load the inputs")
    accounts, sets = own["accounts_by_code"], own["sets"]
    owner = sets["account"].to_numpy().astype(np.int64)
    state = replace(
        state,
        members=Members(accounts["account_id"].to_list(), owner, sets["name"].to_list()),
        positions=positions,
        holdings=holdings,
        listed=sets["listed"].to_numpy().copy(),
        good=sets["good"].to_numpy().copy(),
        lost=sets["lost"].to_numpy().copy(),
        lost_collateral=sets["lost_collateral"].to_numpy().copy(),
    )
    statuses = {
        name.removeprefix("model "): accounts[name].to_numpy().astype(np.int64)
        for name in accounts.columns[1:]
    }
    if rules is not None:
        none = np.full(len(accounts), -1, dtype=np.int64)
        statuses = {one.name: statuses.get(one.name, none.copy()) for one in state.loaded.models}
    return Kept(state, statuses, Seen.of(own["seen"]), own["events"], meta)


def _state(given: dict[str, pl.DataFrame], config: Config, collateral: bool) -> State:
    """A state without members, from the tables around it."""
    lost = {name: given.pop(f"lost_{name}") for name in ("positions", "collateral")}
    frames = {**given, "positions": lost["positions"]}
    if collateral:
        frames["collateral"] = lost["collateral"]
    loaded = loading.load_book(config, **frames)
    return state_of(_without_fault(loaded), frames)


def _without_fault(loaded: Loaded) -> Loaded:
    """A table that has nothing but failed rows may have none at all."""
    fault = pl.col("source").is_in(["positions", "collateral"]) & pl.col("row").is_null()
    return replace(loaded, failures=loaded.failures.filter(~fault))


def _ledger(name: str, given: dict[str, pl.DataFrame]) -> Ledger:
    counts, entries, sizes = (
        given.pop(f"{name} {part}") for part in ("counts", "entries", "sizes")
    )
    value = entries["value"].to_numpy().copy()
    size = np.abs(value)
    size[sizes["entry"].to_numpy()] = sizes["size"].to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts["count"].to_numpy())]).astype(np.int64)
    return Ledger(Rows(offsets, entries["column"].to_numpy().astype(np.int64), value), size)


def _codes(state: State) -> pl.DataFrame:
    """What the columns of the ledgers mean."""
    ids = [state.loaded.market.instruments.ids.to_list(), state.assets.ids.to_list()]
    kind = np.repeat(["instrument", "asset"], [len(part) for part in ids])
    return pl.DataFrame({"kind": kind, "id": [*ids[0], *ids[1]]})
