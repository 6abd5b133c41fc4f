"""A tracker's state as tables: as people read it, and as `run` and another tracker take it."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.collateral import STATUSES, Standing
from gpu_margin.io.tables import ROW, Table
from gpu_margin.tracking.coverage import Coverage
from gpu_margin.tracking.ledger import Ledger
from gpu_margin.tracking.state import State

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SHOWN = ("initial", "maintenance", "excess", "utilisation", "call")
_KEY = ("account_id", "netting_set")


def positions_table(state: State) -> pl.DataFrame:
    """account_id, netting_set, instrument_id, quantity: net positions, one row each."""
    ids = state.loaded.market.instruments.ids.alias("instrument_id")
    table = _entries(state, state.positions, ids, "quantity").filter(pl.col("quantity") != 0.0)
    return table.sort(*_KEY, "instrument_id")


def collateral_table(state: State) -> pl.DataFrame:
    """account_id, netting_set, asset, amount: what is held, cash included, one row each."""
    ids = state.assets.ids.alias("asset")
    return _entries(state, state.holdings, ids, "amount").sort(*_KEY, "asset")


def market_tables(state: State) -> dict[str, pl.DataFrame]:
    """The inputs that no fill changes, and the marks."""
    around = {**state.inputs.market, **state.inputs.around}
    found = {name: _as_read(table) for name, table in around.items() if name in _given(state)}
    if len(state.marks):
        found["marks"] = state.marks.table()
    return found


def run_tables(state: State) -> dict[str, pl.DataFrame]:
    """The inputs of a run on the state, by name.

    A set that had positions and has none has a row of quantity 0, and rows that failed are there to
    fail again. What collateral there is is there only where the inputs had any; without, `cash`
    (as collateral) has what fills and marks did to it, which is no input of a run.
    """
    given = market_tables(state)
    positions = [positions_table(state), _flat(state), state.inputs.lost_positions]
    tables = {**given, "positions": pl.concat([_plain(part) for part in positions])}
    if state.with_collateral:
        held = [collateral_table(state), state.inputs.lost_collateral]
        tables["collateral"] = pl.concat([_plain(part) for part in held])
    else:
        tables["cash"] = collateral_table(state)
    return tables


def sizes_table(state: State) -> pl.DataFrame:
    """account_id, netting_set, instrument_id, size, where a position is less than its fills."""
    ids = state.loaded.market.instruments.ids.alias("instrument_id")
    _, place = state.positions.all_places()
    table = _entries(state, state.positions, ids, "quantity").with_columns(
        pl.Series("size", state.positions.size[place])
    )
    return table.filter(pl.col("size") > pl.col("quantity").abs()).drop("quantity")


def carried(before: State, after: State, status: Ints) -> Ints:
    """[account of the state after] the code that its account had before, -1 for a new one.

    `status` has nothing of accounts that are newer than the last time they were measured.
    """
    code = {account: code for code, account in enumerate(before.members.accounts)}
    place = [code.get(account, -1) for account in after.members.accounts]
    known = np.full(max(len(code), len(status)) + 1, -1, dtype=np.int64)
    known[: len(status)] = status
    return known[np.array(place, dtype=np.int64)]


def requirements_table(state: State, coverage: Coverage) -> pl.DataFrame:
    """account_id, netting_set, requirement, complete: sets that have or had positions.

    The requirement is the positions' own, as in the sets of a run; null where it is not known.
    """
    sets = np.flatnonzero(state.listed)
    own = np.where(coverage.known(sets), coverage.own[sets], np.nan)
    complete = (state.lost[sets] == 0) & ~np.isnan(own)
    table = _names(state, sets).with_columns(
        pl.Series("requirement", own).fill_nan(None), pl.Series("complete", complete)
    )
    return table.sort(*_KEY)


def accounts_table(state: State, coverage: Coverage, accounts: Ints) -> pl.DataFrame:
    """How accounts (codes) and their netting sets stand, as `Run.accounts` has it."""
    owner, sets, of_sets, of_accounts = coverage.standing(accounts)
    bad = state.listed[sets] & ((state.lost[sets] > 0) | ~coverage.known(sets))
    bad |= state.lost_collateral[sets] > 0
    bad_account = np.bincount(owner[bad], minlength=len(accounts)) > 0
    ids = pl.Series([state.members.accounts[code] for code in accounts.tolist()], dtype=pl.String)
    nobody = pl.Series([None] * len(ids), dtype=pl.String)
    whole = _figures(ids, nobody, of_accounts, ~bad_account)
    own = ids.gather(owner)
    names = pl.Series([state.members.names[code] for code in sets.tolist()], dtype=pl.String)
    # Where an account is one cross-margin set, the set is the account.
    apart = pl.Series(np.bincount(owner)[owner] > 1) | (names != own)
    parts = _figures(own, names, of_sets, ~bad).filter(apart)
    table = pl.concat([whole, parts]).select(
        *_KEY,
        pl.lit(coverage.model.name).alias("model"),
        pl.lit(state.loaded.market.currency).alias("currency"),
        "collateral_value",
        *_SHOWN[:4],
        "status",
        "call",
        "complete",
    )
    return table.sort("account_id", pl.col("netting_set").is_not_null(), "netting_set")


def _figures(
    account: pl.Series, netting_set: pl.Series, figures: Standing, complete: Bools
) -> pl.DataFrame:
    status = pl.Series([*STATUSES, None], dtype=pl.String).gather(
        np.where(figures.status < 0, len(STATUSES), figures.status)
    )
    return pl.DataFrame(
        {
            "account_id": account,
            "netting_set": netting_set,
            "collateral_value": figures.value,
            **{name: pl.Series(getattr(figures, name)).fill_nan(None) for name in _SHOWN},
            "status": status,
            "complete": complete,
        }
    )


def _names(state: State, sets: Ints) -> pl.DataFrame:
    """account_id and netting_set of sets (codes, which may repeat)."""
    accounts = pl.Series("account_id", state.members.accounts, dtype=pl.String)
    names = pl.Series("netting_set", state.members.names, dtype=pl.String)
    return pl.DataFrame([accounts.gather(state.members.account[sets]), names.gather(sets)])


def _entries(state: State, ledger: Ledger, ids: pl.Series, value: str) -> pl.DataFrame:
    """All entries of a ledger, with the names of their sets and columns."""
    sets, place = ledger.all_places()
    return _names(state, sets).with_columns(
        ids.cast(pl.String).gather(ledger.column[place]), pl.Series(value, ledger.value[place])
    )


def _flat(state: State) -> pl.DataFrame:
    """A row of quantity 0 for sets that had a good position row and have no position."""
    every = np.arange(len(state.members), dtype=np.int64)
    held = np.diff(state.positions.rows(every).offsets) > 0
    first = state.loaded.market.instruments.ids[0]
    return _names(state, np.flatnonzero(state.good & ~held)).with_columns(
        pl.lit(first, pl.String).alias("instrument_id"), pl.lit(0.0).alias("quantity")
    )


def _given(state: State) -> set[str]:
    """The tables that the inputs had, of those that are not made from the state."""
    return {*state.loaded.inputs, *state.inputs.around}


def _as_read(table: Table) -> pl.DataFrame:
    """The rows that could be read, without their numbers."""
    return table.good.drop(ROW)


def _plain(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.selectors.string().cast(pl.String))
