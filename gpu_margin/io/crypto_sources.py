"""Which format feeds and holdings are in, by what they say: ours, Derive's or Deribit's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.crypto_book import CryptoBook
from gpu_margin.failures import ConfigError, Failure, failure_table, join_failures
from gpu_margin.io import crypto_feeds, deribit, derive
from gpu_margin.io.crypto_json import (
    Document,
    is_json,
    located,
    read_documents,
    record_table,
)
from gpu_margin.io.crypto_market import (
    FeedRecords,
    Feeds,
    load_feeds,
    market_codes,
    no_feeds,
)
from gpu_margin.io.crypto_rules import SVI
from gpu_margin.io.crypto_tables import (
    BALANCE_COLUMNS,
    BALANCE_OPTIONAL,
    POSITION_COLUMNS,
    POSITION_OPTIONAL,
    load_book,
)
from gpu_margin.io.tables import Source, Table, absent_table, read_table

# A path, or a document of ours.
Feed = str | Path | Mapping[str, Any]
# A path, or a frame.
Holding = Source

_FEEDS = (
    'JSON of ours ({"time": ..., "underlyings": {...}, "instruments": [...]}), Derive\'s answers '
    "(tickers or signed feeds), or Deribit's (instruments, book summaries or tickers)"
)
_HOLDINGS = (
    f"CSV or Parquet with {', '.join(POSITION_COLUMNS)}, Derive's answers (subaccounts), or "
    "Deribit's (positions, account summaries)"
)


@dataclass(frozen=True)
class ReadFeeds:
    """What feeds said, and the files that said it."""

    feeds: Feeds
    files: list[dict[str, Any]]


@dataclass(frozen=True)
class ReadHoldings:
    """Accounts, and the files that they are from."""

    book: CryptoBook
    failures: pl.DataFrame
    files: list[dict[str, Any]]


def read_feeds(feeds: Feed, positions: Holding) -> ReadFeeds:
    """The market; Derive's subaccounts among the positions say what coins are worth, if need be.

    Raises `ConfigError` where there is no such file, or none of a known format.
    """
    documents = _feed_documents(feeds)
    files = [{"input": "feeds", **one.description} for one in documents]
    readable = [one for one in documents if one.readable]
    if _is_deribit(readable):
        found = _deribit_feeds(documents)
    else:
        found = load_feeds(_feed_records(feeds, readable, positions))
        broken = [one.failures for one in documents]
        found = replace(found, failures=join_failures([*broken, found.failures]))
    return ReadFeeds(found, files)


def _feed_documents(feeds: Feed) -> list[Document]:
    if isinstance(feeds, Mapping):
        return [Document("feeds", feeds, failure_table())]
    return read_documents(Path(feeds), "feeds")


def _feed_records(feeds: Feed, readable: list[Document], positions: Holding) -> FeedRecords:
    if not readable:
        return no_feeds()
    ours = [one for one in readable if crypto_feeds.is_feeds(one.value)]
    if len(ours) > 1:
        raise ConfigError(f"feeds: {feeds}: has {len(ours)} files of feeds: name one of them")
    if ours:
        return crypto_feeds.feed_records(ours[0])
    said = [one for one in readable if derive.is_feeds(one.value)]
    if not said:
        label = "the document" if isinstance(feeds, Mapping) else feeds
        raise ConfigError(f"feeds: {label}: no format that is known; it may be {_FEEDS}")
    strangers = [one for one in readable if not derive.is_known(one.value)]
    records = derive.feed_records(said, _subaccounts(positions))
    return replace(records, failures=join_failures([records.failures, _strange(strangers)]))


def _strange(documents: list[Document]) -> pl.DataFrame:
    reason = "no answer of a known shape: take the file out of the folder"
    return failure_table(Failure(reason, one.source) for one in documents)


def _is_deribit(readable: list[Document]) -> bool:
    known = any(crypto_feeds.is_feeds(one.value) or derive.is_known(one.value) for one in readable)
    return not known and deribit.is_deribit(readable)


def _deribit_feeds(documents: list[Document]) -> Feeds:
    found = deribit.read_deribit_market(documents)
    surfaces = np.full((len(found.market.expiries), len(SVI)), np.nan)
    return Feeds(found.market, surfaces, market_codes(found.market), found.failures)


def _subaccounts(positions: Holding) -> list[Document]:
    if not isinstance(positions, (str, Path)) or not is_json(Path(positions)):
        return []
    documents = read_documents(Path(positions), "positions")
    return [one for one in documents if derive.is_subaccounts(one.value)]


# ---------------------------------------------------------------- holdings


def read_holdings(positions: Holding, balances: Source | None, said: ReadFeeds) -> ReadHoldings:
    """The accounts, on the market that the feeds are.

    Raises `ConfigError` where there is no such file, or none of a known format.
    """
    if not isinstance(positions, (str, Path)) or not is_json(Path(positions)):
        return _from_tables(positions, balances, said.feeds.codes)
    if balances is not None:
        raise ConfigError("balances: a venue's own positions have them already: leave it out")
    path = Path(positions)
    documents = read_documents(path, "positions")
    files = [{"input": "positions", **one.description} for one in documents]
    readable = [one for one in documents if one.readable]
    if _is_deribit(readable):
        found = deribit.read_deribit_book(path, said.feeds.market)
        return ReadHoldings(found.book, found.failures, files)
    book, failures = _from_derive(path, readable, said.feeds.codes)
    broken = [one.failures for one in documents]
    return ReadHoldings(book, join_failures([*broken, failures]), files)


def _from_tables(positions: Holding, balances: Source | None, codes: pl.DataFrame) -> ReadHoldings:
    tables = {"positions": read_table(positions, "positions", POSITION_COLUMNS, POSITION_OPTIONAL)}
    if balances is not None:
        tables["balances"] = read_table(balances, "balances", BALANCE_COLUMNS, BALANCE_OPTIONAL)
    owned = tables.get("balances", absent_table("balances", BALANCE_COLUMNS))
    found = load_book(tables["positions"], owned, codes)
    files = [
        _described(name, table, source)
        for (name, table), source in zip(tables.items(), (positions, balances), strict=False)
    ]
    return ReadHoldings(found.book, join_failures([found.positions, found.balances]), files)


def _from_derive(
    path: Path, readable: list[Document], codes: pl.DataFrame
) -> tuple[CryptoBook, pl.DataFrame]:
    said = [one for one in readable if derive.is_subaccounts(one.value)]
    if readable and not said:
        raise ConfigError(f"positions: {path}: no format that is known; it may be {_HOLDINGS}")
    held = derive.holding_records(said)
    positions = record_table("", held.positions, (*POSITION_COLUMNS, *POSITION_OPTIONAL))
    balances = record_table("", held.balances, (*BALANCE_COLUMNS, *BALANCE_OPTIONAL))
    found = load_book(positions, balances, codes)
    strangers = [one for one in readable if not derive.is_known(one.value)]
    return found.book, join_failures(
        [
            held.failures,
            located(found.positions, held.positions),
            located(found.balances, held.balances),
            _strange(strangers),
        ]
    )


def _described(name: str, table: Table, source: Any) -> dict[str, Any]:
    path = str(Path(source).resolve()) if isinstance(source, (str, Path)) else None
    return {"input": name, "path": path, "sha256": table.sha256, "rows": len(table.frame)}
