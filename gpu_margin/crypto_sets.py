"""Netting sets of a crypto venue: their entries re-keyed, which market each is in, and who fails.

Nothing here knows a rulebook; nothing loops over sets or positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crypto_book import COIN, CryptoBook, CryptoMargin, CryptoMarket, Level
from gpu_margin.failures import SCHEMA, join_failures
from gpu_margin.portfolio import Rows, entry_rows, row_offsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# What a key says of rows that have none, and of rows that have several.
NONE, SEVERAL = -1, -2


def netted(book: CryptoBook) -> Rows:
    """[set] net positions: one entry per instrument, in order of its code, none of them zero."""
    return book.portfolio.netted


@dataclass
class Refusals:
    """The sets of a book that cannot be margined, and why; a set is told one reason, its first.

    `failed` [set]; `table` has a row per failed set: its source is the set as `name_sets` has it.
    """

    book: CryptoBook
    failed: Bools = field(init=False)
    _tables: list[pl.DataFrame] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.failed = np.zeros(len(self.book.cash), dtype=np.bool_)

    def add(
        self, sets: Bools, reason: str, column: str, value: pl.Series | Sequence[str] | str = ""
    ) -> None:
        """Refuse some sets: `sets` [set] says which; `value` one for all, or [set]."""
        fresh = np.flatnonzero(sets & ~self.failed)
        if not len(fresh):
            return
        self.failed[fresh] = True
        frame = pl.DataFrame({"source": name_sets(self.book, fresh)})
        if isinstance(value, str):
            told: Any = pl.lit(value)
        else:
            told = pl.Series(value, dtype=pl.String).gather(fresh)
        absent = pl.lit(None, pl.Int64).alias("row")
        said = (pl.lit(reason).alias("reason"), absent, pl.lit(column).alias("field"))
        frame = frame.with_columns(*said, told.alias("value"))
        self._tables.append(frame.select(SCHEMA.names()).cast(SCHEMA))

    def entries(
        self, rows: Rows, bad: Bools, reason: str, ids: pl.Series, among: Bools | None = None
    ) -> None:
        """Refuse the sets of bad instruments, by the first that each has.

        `bad` and `ids` [instrument]; `among` [set] are the sets that are asked about, all of them
        unless said.
        """
        wrong = np.flatnonzero(bad[rows.column])
        if not len(wrong):
            return
        owner, first = np.unique(entry_rows(rows)[wrong], return_index=True)
        column = np.zeros(len(rows), dtype=np.int64)
        column[owner] = rows.column[wrong[first]]
        sets = np.zeros(len(rows), dtype=np.bool_)
        sets[owner] = True if among is None else among[owner]
        self.add(sets, reason, "instrument_id", ids.gather(column))

    @property
    def table(self) -> pl.DataFrame:
        """Failures, ordered by reason as they were found, then by set."""
        return join_failures(self._tables)


def name_sets(book: CryptoBook, sets: Ints) -> pl.Series:
    """Names of sets for people: the account's id, and the set's where it is another."""
    account = book.portfolio.accounts.gather(book.portfolio.set_account[sets]).cast(pl.String)
    own = book.portfolio.sets.gather(sets).cast(pl.String)
    frame = pl.DataFrame({"account": account.rename("account"), "own": own.rename("own")})
    alone = (pl.col("own") == pl.col("account")) | (pl.col("own") == "")
    both = pl.concat_str("account", pl.lit("/"), "own")
    return frame.select(pl.when(alone).then("account").otherwise(both).alias("source"))["source"]


def keyed(rows: Rows, key: Ints, keys: int) -> tuple[Rows, Ints, Ints]:
    """The entries brought together by (row, key[column]): a row each, its owner row and its key.

    `key` [column] is from 0 to keys - 1, or negative for columns that are left out. The new rows
    are ordered by owner and key; their entries keep their order and their columns.
    """
    owner, part = entry_rows(rows), key[rows.column]
    column, value = rows.column, rows.value
    if len(key) and key.min() < 0:
        inside = np.flatnonzero(part >= 0)
        owner, part, column, value = owner[inside], part[inside], column[inside], value[inside]
    pair = owner * keys + part
    if (pair[1:] < pair[:-1]).any():
        order = np.argsort(pair, kind="stable")
        pair, column, value = pair[order], column[order], value[order]
    first = np.ones(len(pair), dtype=np.bool_)
    first[1:] = pair[1:] != pair[:-1]
    start = np.flatnonzero(first)
    offsets = np.append(start, len(pair)).astype(np.int64)
    pair = pair[start]
    owner = pair // max(keys, 1)
    return Rows(offsets, column, value), owner, pair - owner * keys


def gathered(owner: Ints, count: int) -> Ints:
    """[count + 1] offsets of keyed rows under their owners; `owner` as `keyed` has it."""
    return row_offsets(owner, count)


def short_entries(rows: Rows) -> Rows:
    """The entries below zero."""
    below = np.flatnonzero(rows.value < 0.0)
    offsets = row_offsets(entry_rows(rows)[below], len(rows))
    return Rows(offsets, rows.column[below], rows.value[below])


def only_key(rows: Rows, key: Ints) -> Ints:
    """[row] the key that all its entries have; NONE without entries, SEVERAL where they differ.

    `key` [column]; columns whose key is negative do not count.
    """
    part = key[rows.column]
    inside = np.flatnonzero(part >= 0)
    owner, part = entry_rows(rows)[inside], part[inside]
    found = np.full(len(rows), NONE, dtype=np.int64)
    found[owner] = part
    # The last entry of a row stays; whoever differs from it shows that there are several.
    found[owner[found[owner] != part]] = SEVERAL
    return found


def market_of_sets(refusals: Refusals, market: CryptoMarket, rows: Rows, coin_market: Ints) -> Ints:
    """[set] the underlying that it is margined in, as a code; NONE where nothing says so.

    What the book says, else the only underlying of its derivatives, else (coins alone) the only
    one of `coin_market` [instrument]. A set without any of these is refused if it has positions:
    with cash alone it needs no market.
    """
    book, names = refusals.book, market.underlyings
    kind = market.instruments.kind
    derivatives = only_key(rows, np.where(kind == COIN, NONE, market.instruments.underlying))
    named = codes_of(book.market, names)
    told, said = (book.market != "").to_numpy(), book.market
    refusals.add(told & (named < 0), _UNKNOWN.format(", ".join(names)), "market", said)
    refusals.add(derivatives == SEVERAL, _MIXED, "market", said)
    other = told & (derivatives >= 0) & (derivatives != named)
    refusals.add(other, _OTHER, "market", said)
    coins = only_key(rows, np.where(kind == COIN, coin_market, NONE))
    found = np.where(told, named, np.where(derivatives >= 0, derivatives, coins))
    size = np.diff(rows.offsets)
    refusals.add((found < 0) & (size > 0), _UNNAMED, "market", said)
    return np.where(refusals.failed, NONE, np.maximum(found, NONE)).astype(np.int64)


_UNKNOWN = "the market of a set is not known; the feeds have {}"
_MIXED = "positions in several underlyings: a set is margined in one market; split it into sets"
_OTHER = "positions in another underlying than the set's market; put them into a set of their own"
_UNNAMED = "nothing says which market the set is margined in; name it in column market"


def codes_of(names: pl.Series, known: pl.Series) -> Ints:
    """[name] its place among `known`, NONE where it is not there."""
    table = pl.DataFrame({"name": known.cast(pl.String), "code": np.arange(len(known))})
    asked = pl.DataFrame({"name": names.cast(pl.String)})
    found = asked.join(table, on="name", how="left", maintain_order="left")["code"]
    return found.fill_null(NONE).to_numpy().astype(np.int64)


@dataclass(frozen=True)
class Part:
    """Margin of some sets of a book, all [of `sets`], which are codes.

    `levels` are components by level, in the order in which they are added up to the requirement.
    `worst` are codes of `scenarios`, -1 where there is none; `pnl` [of sets, scenario].
    """

    sets: Ints
    levels: Mapping[str, Mapping[str, Floats]]
    mark_to_market: Floats
    figures: Mapping[str, Floats]
    worst: Ints
    scenarios: tuple[str, ...]
    pnl: Floats | None = None


def combined(
    refusals: Refusals,
    parts: Sequence[Part],
    levels: Mapping[str, Sequence[str]],
    figures: Sequence[str],
    scenarios: Sequence[str],
    pnl: bool = False,
) -> CryptoMargin:
    """The margin of a book from those of its parts.

    `levels` are the names of their components, `figures` and `scenarios` those of all parts. Sets
    in no part that were not refused hold cash alone: they require nothing.
    """
    book, size = refusals.book, len(refusals.failed)
    names = tuple(dict.fromkeys(scenarios))
    value, worst = book.unrealised.astype(np.float64), np.full(size, NONE, dtype=np.int64)
    matrix = np.zeros((size, len(names))) if pnl else None
    amounts = {level: {name: np.zeros(size) for name in own} for level, own in levels.items()}
    others = {name: np.zeros(size) for name in figures}
    for part in parts:
        code = np.array([*(names.index(name) for name in part.scenarios), NONE])
        value[part.sets], worst[part.sets] = part.mark_to_market, code[part.worst]
        for level, own in part.levels.items():
            for name, amount in own.items():
                amounts[level][name][part.sets] = amount
        for name, amount in part.figures.items():
            others[name][part.sets] = amount
        if matrix is not None and part.pnl is not None:
            matrix[part.sets] = np.nan
            matrix[part.sets[:, None], code[:-1]] = part.pnl
    required = {level: added(own, np.zeros(size)) for level, own in amounts.items()}
    end = value + book.cash
    for requirement in required.values():
        end = end - requirement
    refusals.add(~np.isfinite(end), _BEYOND, "quantity")
    failed = refusals.failed
    for amount in (value, *others.values(), *required.values(), *_all(amounts)):
        amount[failed] = np.nan
    worst[failed] = NONE
    if matrix is not None:
        matrix[failed] = np.nan
    return CryptoMargin(
        levels={level: Level(required[level], own) for level, own in amounts.items()},
        mark_to_market=value,
        cash=np.where(failed, np.nan, book.cash),
        worst=worst,
        scenarios=names,
        figures=others,
        failures=refusals.table,
        pnl=matrix,
    )


_BEYOND = "the margin is not finite: quantities, cash or prices are too large"


def _all(amounts: Mapping[str, Mapping[str, Floats]]) -> Iterator[Floats]:
    for own in amounts.values():
        yield from own.values()


def added(components: Mapping[str, Floats], start: Floats) -> Floats:
    """The sum of components, one after another in their order, from `start`, which are zeros."""
    total = start
    for amount in components.values():
        total = total + amount
    return total


def told_markets(book: CryptoBook, market: CryptoMarket) -> pl.Series:
    """[set] what the book says, else the only underlying of its derivatives, else null."""
    instruments = market.instruments
    key = np.where(instruments.kind == COIN, -1, instruments.underlying)
    found = only_key(book.portfolio.rows, key)
    names = pl.concat([market.underlyings.cast(pl.String), pl.Series([None], dtype=pl.String)])
    own = names.gather(np.where(found < 0, len(market.underlyings), found))
    frame = pl.DataFrame([book.market.cast(pl.String).rename("told"), own.rename("own")])
    told = pl.col("told").replace("", None)
    return frame.select(pl.coalesce(told, "own").alias("market"))["market"]
