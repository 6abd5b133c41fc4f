"""What trades would do to accounts: requirement before and after, and the status that follows.

A what-if is some trades of an account, at the mark: they change positions and nothing else. The
value of its collateral stays as the run has it, haircuts for wrong-way risk included; premiums that
change hands are for who books the trades (`tracker`). Nothing is booked: every what-if starts from
the portfolio as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.collateral import STATUSES, CollateralParameters, standing
from gpu_margin.config import Model
from gpu_margin.directory import Directory, directory_of
from gpu_margin.engine import prepare
from gpu_margin.failures import Failure, InputError, failure_table, join_failures
from gpu_margin.io.tables import Source, Table, read_table
from gpu_margin.io.trade_tables import TRADE_COLUMNS, TRADE_OPTIONAL, LoadedTrades, load_trades
from gpu_margin.loading import Loaded
from gpu_margin.portfolio import add_up
from gpu_margin.reopening import reopen
from gpu_margin.resident import Book, book_for, net

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# A run's requirement is one that is recomputed here within this share of it.
_SAME = 1e-9
_UNKNOWN = -1
_FIGURES = ("before", "after", "change", "status_after", "complete")
_AMOUNTS = ("collateral_value", "initial")
_NO_CALLS = CollateralParameters()


@dataclass(frozen=True)
class Legs:
    """Trades of what-ifs, encoded.

    `account` [what-if] codes of accounts, -1 for a new one. Per leg, in any order: the `whatif`
    that it belongs to, the `netting_set` that it goes to (a code; -1, -2, ... for sets that its
    account does not have yet), the `instrument` (a code) and the `quantity`.
    """

    account: Ints
    whatif: Ints
    netting_set: Ints
    instrument: Ints
    quantity: Floats


@dataclass(frozen=True)
class Outcome:
    """What what-ifs do under a model: [what-if], in margin currency.

    An account's requirement is the sum of its sets'; it is not finite where it is not known.
    `status` after the trades are codes of `collateral.STATUSES`, -1 where it is not known.
    """

    before: Floats
    after: Floats
    status: Ints

    @property
    def finite(self) -> Bools:
        """[what-if] whether it is known."""
        finite: Bools = np.isfinite(self.before) & np.isfinite(self.after)
        return finite


@dataclass(frozen=True)
class Answers:
    """Answered what-ifs.

    `table` (whatif_id, account_id, model, before, after, change, status_after, complete) in the
    order asked and then of the models. Figures are null where a row of the what-if failed;
    `status_after` also where the run knows of no collateral, or the account's status does not
    follow from its own requirement (owner netting, collateral in the scenarios); `complete` is as
    in margins.
    """

    table: pl.DataFrame
    failures: pl.DataFrame


@dataclass(frozen=True)
class _Collateral:
    """What the run says under a model: [set + 1] of the directory, NaN where it says nothing.

    The last is 0, for a new set. `maintenance` is a fraction of the initial requirement.
    """

    value: Floats
    initial: Floats
    maintenance: float

    def status(self, netting_set: Ints, before: Floats, after: Floats) -> Ints:
        """[set of a what-if] its status after; a new set (code < 0) has no collateral."""
        code = np.maximum(netting_set, -1)
        value, same = self.value[code], np.abs(self.initial[code] - before) <= _SAME * before
        known = same & np.isfinite(value) & np.isfinite(after)
        figures = standing(after, value, self.maintenance * after, _NO_CALLS)
        return np.where(known, figures.status, _UNKNOWN)


class WhatIf:
    """A portfolio that what-ifs can be asked of, resident on a backend under each of its models.

    `model` is one model, default all; `accounts` the accounts table of the run, for the status;
    `among` the ids of the only accounts that will be asked about, where the others need no room.
    Raises `ConfigError` for a model that the run does not have, `InputError` where no account has a
    good position.
    """

    def __init__(
        self,
        loaded: Loaded,
        backend: str | Backend = "auto",
        *,
        model: str | None = None,
        accounts: pl.DataFrame | None = None,
        among: pl.Series | None = None,
    ) -> None:
        if not loaded.computable:
            raise InputError("nothing to ask about: no account of the run has a good position")
        device = backends.load(backend) if isinstance(backend, str) else backend
        chosen = loaded.chosen(model)
        self._instruments = loaded.market.instruments.ids
        self.directory, portfolio = directory_of(loaded.portfolio, accounts, among)
        self._books: dict[str, Book] = {}
        self._collateral: dict[str, _Collateral | None] = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for one in chosen:
                prepared = prepare(loaded, one, device)
                self._books[one.name] = book_for(prepared, portfolio, device)
                self._collateral[one.name] = _collateral(self.directory, one, accounts)

    def ask(self, trades: Source | Table, *, allow_new: bool = False) -> Answers:
        """The answers to a table (account_id, whatif_id, instrument_id, quantity, netting_set).

        Trades of one whatif_id and account are one what-if, and equal instruments are netted.
        `netting_set` may be absent: the account's own, as in positions. Accounts that the portfolio
        does not have are failures, unless new ones are allowed.
        """
        if not isinstance(trades, Table):
            trades = read_table(trades, "trades", TRADE_COLUMNS, TRADE_OPTIONAL)
        asked = load_trades(trades, self._instruments, self.directory.accounts, allow_new)
        legs = self._encoded(asked)
        return _answers(asked, trades.source, self.directory, self.ask_arrays(legs))

    def ask_arrays(self, legs: Legs) -> dict[str, Outcome]:
        """Per model what the what-ifs do; a what-if without legs changes nothing."""
        with np.errstate(over="ignore", invalid="ignore"):
            return {
                name: outcome(book, self.directory, legs, self._collateral[name])
                for name, book in self._books.items()
            }

    def _encoded(self, loaded: LoadedTrades) -> Legs:
        account = loaded.asked["account"].to_numpy()
        trades = loaded.trades
        whatif = trades["asked"].cast(pl.Int64).to_numpy()
        return Legs(
            account,
            whatif,
            self.directory.sets_of(account[whatif], trades["netting_set"]),
            trades["instrument"].to_numpy(),
            trades["quantity"].to_numpy(),
        )


def read_run(folder: str | Path) -> tuple[Loaded, pl.DataFrame | None]:
    """The inputs of a finished run, read again, and its accounts table where it has one.

    Raises `InputError` where the inputs are no longer what they were.
    """
    loaded, path = reopen(folder), Path(folder) / "accounts.parquet"
    return loaded, pl.read_parquet(path) if path.is_file() else None


def outcome(
    book: Book, directory: Directory, legs: Legs, collateral: _Collateral | None = None
) -> Outcome:
    """What what-ifs do to the accounts of a book."""
    owner, netting_set, place = _touched(directory, legs)
    trades = net(place, legs.instrument, legs.quantity, len(owner))
    changed = book.changed(trades, directory.row[np.maximum(netting_set, -1)])
    count = len(legs.account)
    status = np.full(count, _UNKNOWN, dtype=np.int64)
    if collateral is not None:
        of_set = collateral.status(netting_set, changed.before, changed.after)
        np.maximum.at(status, owner, of_set)
        status[owner[of_set == _UNKNOWN]] = _UNKNOWN
    before = add_up(owner, changed.before, count)
    return Outcome(before, add_up(owner, changed.after, count), status)


def _touched(directory: Directory, legs: Legs) -> tuple[Ints, Ints, Ints]:
    """The sets of every what-if: all that its account has, then the new ones.

    [set of a what-if] the what-if and the set's code, and [leg] which of these it goes to.
    """
    known = legs.account >= 0
    first = np.where(known, directory.first[legs.account], 0)
    size = np.where(known, directory.first[legs.account + 1] - first, 0)
    start = np.cumsum(size) - size
    owner = np.repeat(np.arange(len(size)), size)
    netting_set = np.arange(len(owner)) + np.repeat(first - start, size)
    place = (start - first)[legs.whatif] + legs.netting_set
    new = np.flatnonzero(legs.netting_set < 0)
    if len(new):
        keys = np.stack([legs.whatif[new], -legs.netting_set[new]])
        opened, which = np.unique(keys, axis=1, return_inverse=True)
        place[new] = len(owner) + which.reshape(-1)
        owner = np.concatenate([owner, opened[0]])
        netting_set = np.concatenate([netting_set, -opened[1]])
    return owner, netting_set, place


def _collateral(
    directory: Directory, model: Model, accounts: pl.DataFrame | None
) -> _Collateral | None:
    """What the run's accounts table says of the sets under a model."""
    if accounts is None:
        return None
    found = directory.aligned(accounts.filter(pl.col("model") == model.name))
    value, initial = (
        np.append(found[name].cast(pl.Float64).fill_null(np.nan), 0.0) for name in _AMOUNTS
    )
    return _Collateral(value, initial, model.options.maintenance)


def _answers(
    asked: LoadedTrades, source: str, directory: Directory, outcomes: Mapping[str, Outcome]
) -> Answers:
    """Figures where a what-if is whole and its account known; for the others it is said why."""
    account, whole = asked.asked["account"].to_numpy(), asked.asked["whole"].to_numpy()
    lost = whole & directory.lost[account]
    known = {name: whole & ~lost & found.finite for name, found in outcomes.items()}
    ids = asked.asked["whatif_id"]
    failures = [_failure(source, ids, lost, "account without a good position row: see the run's")]
    for name, some in known.items():
        reason = f"{name}: requirement is not finite: quantities or prices are too large"
        failures.append(_failure(source, ids, whole & ~lost & ~some, reason))
    complete = directory.complete[account]
    return Answers(
        _table(asked.asked, outcomes, known, complete), join_failures([asked.failures, *failures])
    )


def _failure(source: str, ids: pl.Series, where: Bools, reason: str) -> pl.DataFrame:
    return failure_table(
        Failure(reason, source, None, "whatif_id", one) for one in ids.filter(pl.Series(where))
    )


def _table(
    asked: pl.DataFrame,
    outcomes: Mapping[str, Outcome],
    known: Mapping[str, Bools],
    complete: Bools,
) -> pl.DataFrame:
    """Of each what-if a row per model."""
    models = len(outcomes)

    def column(values: list[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(values, axis=1).reshape(-1)

    found = list(outcomes.values())
    row = np.repeat(np.arange(len(asked)), models)
    before, after = column([one.before for one in found]), column([one.after for one in found])
    status = column([one.status for one in found])
    names = pl.Series([*STATUSES, None], dtype=pl.String)
    frame = asked.select("whatif_id", "account_id")[row].with_columns(
        pl.Series("model", list(outcomes) * len(asked), dtype=pl.String),
        pl.Series("before", before),
        pl.Series("after", after),
        pl.Series("change", after - before),
        names.gather(np.where(status < 0, len(STATUSES), status)).alias("status_after"),
        pl.Series("complete", complete[row]),
    )
    answered = pl.Series(column(list(known.values())))
    return frame.with_columns(pl.when(answered).then(pl.col(_FIGURES)))
