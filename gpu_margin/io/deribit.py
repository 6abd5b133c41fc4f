"""Deribit's own answers become a crypto market and book: JSON as API v2 gives it, saved to files.

A file, a folder, or several of them. Which answer a file holds follows from what is in it, not from
its name; answers may stand in their JSON-RPC envelope or without it. The answers of every account
lie in a sub-folder of their own where they do not say whose they are. Nothing here asks the venue.

`deribit_answers` says which answers are known, `deribit_feeds` and `deribit_accounts` how they are
read. Failures name the file and, as their field, the JSON pointer to the value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin.crypto_book import COIN, KINDS, CryptoBook, CryptoMarket
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.io.crypto_json import Document, located, read_documents, record_table
from gpu_margin.io.crypto_market import load_feeds, market_codes
from gpu_margin.io.crypto_tables import (
    BALANCE_COLUMNS,
    BALANCE_OPTIONAL,
    POSITION_COLUMNS,
    POSITION_OPTIONAL,
    load_book,
)
from gpu_margin.io.deribit_accounts import Known, holding_records
from gpu_margin.io.deribit_answers import FEEDS, HOLDINGS, Item, items
from gpu_margin.io.deribit_feeds import DOLLAR_COINS, feed_records

# A file, a folder (with a sub-folder per account), a document that was read, or several of these.
One = str | Path | Document
Source = One | Sequence[One]

# Tables of pme/get_params that are figures of `deribit_pm`, and what their entries hold beside.
_PARAMS = ("general", "currency", "currency_pair")


@dataclass(frozen=True)
class LoadedMarket:
    """The market, and what could not be read."""

    market: CryptoMarket
    failures: pl.DataFrame


@dataclass(frozen=True)
class LoadedBook:
    """The accounts, and what could not be read."""

    book: CryptoBook
    failures: pl.DataFrame


@dataclass(frozen=True)
class DeribitAnswers:
    """Market and book; `failures` of both, each told once."""

    market: CryptoMarket
    book: CryptoBook
    failures: pl.DataFrame


def is_deribit(source: Source) -> bool:
    """Whether any JSON file there holds an answer of Deribit's in a known shape."""
    found, _ = items(_documents(source, "feeds"))
    return any(item.kind in (*FEEDS, *HOLDINGS) for item in found)


def read_deribit(
    feeds: Source, positions: Source | None = None, *, time: float | None = None
) -> DeribitAnswers:
    """Market and book; positions may lie with the feeds, which is the default.

    `time` in seconds since 1970 is that of the market, where it is not the newest quote's. Raises
    `ConfigError` where there is no such file.
    """
    said = read_deribit_market(feeds, time=time)
    held = read_deribit_book(feeds if positions is None else positions, said.market)
    failures = join_failures([said.failures, held.failures]).unique(maintain_order=True)
    return DeribitAnswers(said.market, held.book, failures)


def read_deribit_market(feeds: Source, *, time: float | None = None) -> LoadedMarket:
    """Instruments, book summaries or tickers, index prices: a market."""
    documents = _documents(feeds, "feeds")
    found, lost = items(documents)
    loaded = load_feeds(feed_records(found, time))
    return LoadedMarket(loaded.market, join_failures([*_broken(documents), lost, loaded.failures]))


def read_deribit_book(positions: Source, market: CryptoMarket) -> LoadedBook:
    """Positions and account summaries, or answers of pme/simulate: a book on that market."""
    documents = _documents(positions, "positions")
    found, lost = items(documents)
    records = holding_records(found, _known(market), _alone(positions, found))
    held = record_table("", records.positions, (*POSITION_COLUMNS, *POSITION_OPTIONAL))
    owned = record_table("", records.balances, (*BALANCE_COLUMNS, *BALANCE_OPTIONAL))
    loaded = load_book(held, owned, market_codes(market))
    told = [
        located(loaded.positions, records.positions),
        located(loaded.balances, records.balances),
    ]
    failures = join_failures([*_broken(documents), lost, records.failures, *told])
    return LoadedBook(loaded.book, failures)


def read_params(path: Path) -> dict[str, Any]:
    """Figures in an answer of pme/get_params or pme/simulate, as tables general, currency, pair.

    Raises `ConfigError` where there is no such file, or none with figures.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"model_params: cannot read {path}: {error}") from error
    for key in ("result", "model_params"):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
    found = {
        name: value[name]
        for name in _PARAMS
        if isinstance(value, Mapping) and isinstance(value.get(name), Mapping)
    }
    if not found:
        raise ConfigError(
            f"model_params: {path} has no figures: give the answer of pme/get_params or "
            "pme/simulate, with general, currency and currency_pair"
        )
    return found


def _documents(source: Source, name: str) -> list[Document]:
    if isinstance(source, Document):
        return [source]
    if isinstance(source, str | Path):
        return read_documents(Path(source), name)
    return [document for one in source for document in _documents(one, name)]


def _broken(documents: Sequence[Document]) -> list[pl.DataFrame]:
    return [document.failures for document in documents]


def _alone(source: Source, found: Sequence[Item]) -> str:
    """The account of answers that do not say whose they are, and lie in no sub-folder."""
    if isinstance(source, str | Path):
        return Path(source).resolve().name if Path(source).is_dir() else Path(source).stem
    stems = sorted({item.stem for item in found if item.kind in HOLDINGS})
    return stems[0] if stems else ""


def _known(market: CryptoMarket) -> Known:
    i = market.instruments
    names = i.ids.to_list()
    coins = {name: float(i.price[at]) for at, name in enumerate(names) if i.kind[at] == COIN}
    spots = dict(zip(market.underlyings, market.spot.tolist(), strict=True))
    dollars = {**dict.fromkeys(DOLLAR_COINS, 1.0), DOLLAR_COINS[0]: market.stable}
    return Known(
        kinds={name: KINDS[i.kind[at]] for at, name in enumerate(names)},
        settlements=dict(zip(names, i.settlement, strict=True)),
        prices={**dollars, **coins, **spots},
    )
