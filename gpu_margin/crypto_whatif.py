"""What-ifs on a crypto venue: any number of them, and the sets they start from, in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import crypto_tables
from gpu_margin.crypto_batches import Work
from gpu_margin.crypto_book import COIN, FUTURE, PERPETUAL, CryptoBook, CryptoMargin, Floats, Ints
from gpu_margin.crypto_files import Inputs
from gpu_margin.crypto_moves import of_sets
from gpu_margin.crypto_requests import Request, Requests, failure, parsed
from gpu_margin.crypto_sets import codes_of, told_markets
from gpu_margin.failures import Failure, failure_table, join_failures
from gpu_margin.portfolio import Portfolio, Rows, add_up, entry_rows, row_offsets, rows_at


@dataclass(frozen=True)
class WhatIfs:
    """What-ifs in the order in which they were asked, in USD.

    `whatifs`: whatif_id, account_id, netting_set, market, level, before, after, change (of the
    requirement), margin_value_before, margin_value, margin_value_change, worst_scenario_before,
    worst_scenario, complete. Before is null without a base. What is null after could not be
    margined, and has a row of `failures`: the row is the number of the what-if.
    """

    whatifs: pl.DataFrame
    failures: pl.DataFrame
    count: int
    manifest: dict[str, Any] = field(default_factory=dict)


def answered(
    work: Work, inputs: Inputs, given: Sequence[Mapping[str, Any]] | Mapping[str, Any]
) -> WhatIfs:
    """All what-ifs; raises `ConfigError` where there are none."""
    asked = parsed(given)
    trials = _trials(asked, inputs)
    book = _book(trials, inputs)
    found = work.quoted(inputs.market).margin(book, "what-ifs")
    bases = len(trials.bases)
    levels = _levels(inputs, book, found, bases, trials)
    table = _laid_out(levels, asked)
    failures = [inputs.failures, failure_table(trials.failures), _told(found, trials, asked)]
    return WhatIfs(table, join_failures(failures), len(asked.names))


@dataclass(frozen=True)
class _Trials:
    """Good what-ifs: `base` [trial] is a code into `bases` (codes of sets, ascending), -1 for none.

    `place` [trial] is the what-if's among all. Legs [leg]: `owner` the trial, `column`, `quantity`,
    and `paid`, the USD for one unit, NaN where that was not said.
    """

    requests: list[Request]
    place: Ints
    bases: Ints
    base: Ints
    owner: Ints
    column: Ints
    quantity: Floats
    paid: Floats
    failures: list[Failure]


def _trials(asked: Requests, inputs: Inputs) -> _Trials:
    """The what-ifs whose base and instruments are known."""
    finder = _Finder(inputs)
    codes = _instrument_codes(asked, inputs)
    good, place, sets, failures = [], [], [], list(asked.failures)
    for number, request in zip(asked.place, asked.good, strict=True):
        unknown = [name for name in request.positions if codes[name] < 0]
        found = finder.base(request, number + 1)
        if unknown:
            reason = "unknown instrument: the feeds do not have it"
            failures.append(failure(reason, number + 1, "simulated_positions", unknown[0]))
        elif isinstance(found, Failure):
            failures.append(found)
        else:
            good.append(request)
            place.append(number)
            sets.append(found)
    own = np.array(sets, dtype=np.int64)
    bases = np.unique(own[own >= 0])
    base = np.where(own < 0, -1, np.searchsorted(bases, own))
    legs = [
        (trial, codes[name], quantity, request.prices.get(name, np.nan))
        for trial, request in enumerate(good)
        for name, quantity in request.positions.items()
    ]
    owner, column, quantity, paid = np.array(legs, dtype=np.float64).reshape(-1, 4).T
    return _Trials(
        good,
        np.array(place, dtype=np.int64),
        bases,
        base,
        owner.astype(np.int64),
        column.astype(np.int64),
        quantity,
        paid,
        sorted(failures, key=lambda one: one.row or 0),
    )


def _instrument_codes(asked: Requests, inputs: Inputs) -> dict[str, int]:
    """Codes of the instruments that are named, -1 for those that the feeds do not have."""
    names = list(dict.fromkeys(name for one in asked.good for name in one.positions))
    codes = codes_of(pl.Series(names, dtype=pl.String), inputs.market.instruments.ids)
    return dict(zip(names, codes.tolist(), strict=True))


class _Finder:
    """Which set a what-if starts from."""

    def __init__(self, inputs: Inputs) -> None:
        book = inputs.book
        named = crypto_tables.keys(book).with_columns(
            told_markets(book, inputs.market).fill_null("")
        )
        self._accounts, self._sets = dict[str, list[int]](), dict[str, list[int]]()
        self._own = named["netting_set"].to_list()
        self._market = named["market"].to_list()
        for code, (account, name, _) in enumerate(named.iter_rows()):
            self._accounts.setdefault(account, []).append(code)
            self._sets.setdefault(name, []).append(code)

    def base(self, request: Request, number: int) -> int | Failure:
        """The code of its set, -1 where it is a portfolio by itself."""
        account, name = request.account, request.netting_set
        if account is None and name is None:
            if not request.add:
                return -1
            reason = "needs an account to add to; or say add_positions = false"
            return failure(reason, number, "add_positions", "true")
        among = self._sets.get(name or "", []) if account is None else self._accounts.get(account)
        if not among:
            field, value = ("account", account) if account is not None else ("netting_set", name)
            return failure("unknown: it has no positions and no balances", number, field, value)
        found = [
            code
            for code in among
            if (name is None or self._own[code] == name)
            and (not request.currency or self._market[code] == request.currency)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(self._own[code] for code in found[:5])
            reason = f"there are several netting sets: name one ({names})"
        else:
            reason = "no netting set of the account has this name and currency"
        return failure(reason, number, "netting_set", name or request.currency)


def _book(trials: _Trials, inputs: Inputs) -> CryptoBook:
    """The bases, then a set for every trial, each an account by itself."""
    base = of_sets(inputs.book, trials.bases)
    count, bases = len(trials.requests), len(trials.bases)
    start = np.where(trials.base < 0, bases, trials.base)  # the last place is that of no base
    names = _names(trials)
    own = base.portfolio
    told = pl.Series([one.currency for one in trials.requests], dtype=pl.String)
    market = base.market.cast(pl.String).extend_constant("", 1).gather(start)
    alone = pl.Series(trials.base < 0)
    charges = {name: np.append(amount, 0.0)[start] for name, amount in base.charges.items()}
    cash, unrealised = _paid(trials, inputs)
    none = np.zeros(1, dtype=np.int64)
    accounts = own.accounts.cast(pl.String).gather(own.set_account)
    return CryptoBook(
        portfolio=Portfolio(
            accounts=pl.concat([accounts, names]),
            sets=pl.concat([own.sets.cast(pl.String), names]),
            set_account=np.arange(bases + count, dtype=np.int64),
            rows=_rows(trials, own.rows, inputs),
            good=np.concatenate([own.good, np.maximum(np.append(own.good, none)[start], 1)]),
            bad=np.concatenate([own.bad, np.append(own.bad, none)[start]]),
        ),
        cash=np.concatenate([base.cash, np.append(base.cash, 0.0)[start] + cash]),
        unrealised=np.concatenate(
            [base.unrealised, np.append(base.unrealised, 0.0)[start] + unrealised]
        ),
        market=pl.concat([base.market.cast(pl.String), market.zip_with(~alone, told)]),
        charges={name: np.concatenate([base.charges[name], charges[name]]) for name in charges},
    )


def _names(trials: _Trials) -> pl.Series:
    return pl.Series([f"what-if {one.name}" for one in trials.requests], dtype=pl.String)


def _rows(trials: _Trials, base: Rows, inputs: Inputs) -> Rows:
    """Rows of the bases, then of the trials: what stays of the base, and the legs."""
    kept = rows_at(base, trials.base)
    owner = entry_rows(kept)
    add = np.array([one.add for one in trials.requests], dtype=np.bool_)
    stays = add[owner] | (inputs.market.instruments.kind[kept.column] == COIN)
    owner = np.concatenate([owner[stays], trials.owner])
    column = np.concatenate([kept.column[stays], trials.column])
    value = np.concatenate([kept.value[stays], trials.quantity])
    order = np.lexsort((value, column, owner))
    offsets = row_offsets(owner[order], len(trials.requests))
    return Rows(
        np.concatenate([base.offsets, base.offsets[-1] + offsets[1:]]),
        np.concatenate([base.column, column[order]]),
        np.concatenate([base.value, value[order]]),
    )


def _paid(trials: _Trials, inputs: Inputs) -> tuple[Floats, Floats]:
    """[trial] cash and unrealised profit that the trades bring at the prices that are named.

    Perpetuals and futures are owed the way to their mark; the others are paid for.
    """
    instruments = inputs.market.instruments
    kind = instruments.kind[trials.column]
    swings = (kind == PERPETUAL) | (kind == FUTURE)
    said = np.isfinite(trials.paid)
    cost = np.where(said & ~swings, -trials.quantity * trials.paid, 0.0)
    way = np.where(said & swings, instruments.price[trials.column] - trials.paid, 0.0)
    count = len(trials.requests)
    cash = np.array([one.cash for one in trials.requests], dtype=np.float64)
    return cash + add_up(trials.owner, cost, count), add_up(
        trials.owner, trials.quantity * way, count
    )


def _levels(
    inputs: Inputs, book: CryptoBook, found: CryptoMargin, bases: int, trials: _Trials
) -> dict[str, pl.DataFrame]:
    """Of each level a row per trial, with `place` of the what-if."""
    good = crypto_tables.usable(book, found)
    after = np.arange(bases, len(good))
    # The last place is that of no base.
    before = np.where(trials.base < 0, len(good), trials.base)

    def at(amount: Floats, places: Ints) -> pl.Series:
        known = np.append(np.where(good, amount, np.nan), np.nan)
        return pl.Series(known[places], nan_to_null=True)

    worst = crypto_tables.worst_names(found, good).extend_constant(None, 1)
    own = crypto_tables.keys(book).with_columns(told_markets(book, inputs.market))
    nobody = pl.DataFrame({name: [None] for name in own.columns}, schema=own.schema)
    base = pl.concat([own, nobody])[before]
    market = own["market"].gather(after)
    whole = pl.Series((book.portfolio.bad == 0) & good).gather(after)
    levels = {}
    for name, level in found.levels.items():
        value = found.value(name)
        levels[name] = pl.DataFrame(
            {
                "place": trials.place,
                "account_id": base["account_id"],
                "netting_set": base["netting_set"],
                "market": market,
                "before": at(level.requirement, before),
                "after": at(level.requirement, after),
                "margin_value_before": at(value, before),
                "margin_value": at(value, after),
                "worst_scenario_before": worst.gather(before),
                "worst_scenario": worst.gather(after),
                "complete": whole,
            }
        )
    return levels


def _laid_out(levels: Mapping[str, pl.DataFrame], asked: Requests) -> pl.DataFrame:
    """All what-ifs, also those that failed, in their order; changes beside the figures."""
    names = pl.DataFrame({"whatif_id": asked.names}, schema={"whatif_id": pl.String})
    every = names.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("place"))
    wide = crypto_tables.stacked(
        {
            name: every.join(part, on="place", how="left", maintain_order="left").drop("place")
            for name, part in levels.items()
        },
        "level",
    )
    return wide.select(
        *("whatif_id", "account_id", "netting_set", "market", "level", "before", "after"),
        (pl.col("after") - pl.col("before")).alias("change"),
        *("margin_value_before", "margin_value"),
        (pl.col("margin_value") - pl.col("margin_value_before")).alias("margin_value_change"),
        *("worst_scenario_before", "worst_scenario"),
        pl.col("complete").fill_null(False),
    )


def _told(found: CryptoMargin, trials: _Trials, asked: Requests) -> pl.DataFrame:
    """What the rulebook refused; of a what-if with its number."""
    numbers = pl.DataFrame(
        {"source": _names(trials), "number": trials.place + 1},
        schema={"source": pl.String, "number": pl.Int64},
    ).unique("source", keep="first", maintain_order=True)
    table = found.failures.join(numbers, on="source", how="left", maintain_order="left")
    return table.with_columns(pl.coalesce("row", "number").alias("row")).drop("number")
