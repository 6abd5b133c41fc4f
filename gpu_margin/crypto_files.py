"""What makes a rulebook on a crypto venue a rulebook on files: its settings, inputs and tables.

Amounts are in USD until `file_margin` takes them into margin currency.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from gpu_margin.crypto_book import Bools, CryptoBook, CryptoMargin, CryptoMarket, Floats
from gpu_margin.crypto_sets import told_markets
from gpu_margin.crypto_shocks import svi_volatility
from gpu_margin.failures import ConfigError, failure_table, join_failures
from gpu_margin.io.crypto_market import Feeds
from gpu_margin.io.crypto_sources import Feed, Holding, read_feeds, read_holdings
from gpu_margin.io.tables import Source
from gpu_margin.pieces import full_pieces
from gpu_margin.portfolio import add_up
from gpu_margin.result import FileMargin
from gpu_margin.settings import Settings

FILES = ("feeds", "positions", "balances")
CURRENCY = "USD"
# The rulebooks' own table of a run.
TABLE = "crypto"

# Entries and netting sets that are margined at a time.
_ENTRIES, _SETS = 2_000_000, 250_000


class CryptoFiles(Settings):
    """Files of a crypto rulebook; relative paths count from the TOML file."""

    feeds: Path = Field(description="what the market says: JSON of ours, or a venue's answers")
    positions: Path = Field(description="CSV, Parquet, or a venue's answers as JSON")
    balances: Path | None = Field(default=None, description="cash and coins: CSV or Parquet")


@dataclass(frozen=True)
class Inputs:
    """A venue at one instant, the accounts on it, and the files that both are from."""

    market: CryptoMarket
    book: CryptoBook
    files: list[dict[str, Any]]
    failures: pl.DataFrame

    @property
    def accounts(self) -> pl.Series:
        """Ids of the accounts, in byte order."""
        return self.book.portfolio.accounts

    @property
    def computable(self) -> bool:
        """Whether any account has a good row."""
        return bool(self.book.portfolio.good.any())

    @property
    def counts(self) -> Mapping[str, int]:
        """Of accounts, netting sets, positions and what can be held."""
        portfolio = self.book.portfolio
        return {
            "crypto_accounts": len(portfolio.accounts),
            "crypto_netting_sets": len(portfolio.sets),
            "crypto_positions": len(portfolio.rows.value),
            "crypto_instruments": len(self.market.instruments),
        }

    def pieces(self) -> Iterator[Inputs]:
        """The same accounts in pieces that fit into memory, without the failures."""
        portfolio = self.book.portfolio
        last_set = np.searchsorted(
            portfolio.set_account, np.arange(len(portfolio.accounts)), "right"
        )
        # What is there up to and with each account, in units of a full piece.
        filled = portfolio.rows.offsets[last_set] / _ENTRIES + last_set / _SETS
        for start, stop in full_pieces(filled):
            yield replace(self, book=self.book.tile(start, stop), failures=failure_table())


def load(parameters: CryptoFiles) -> Inputs:
    """Read the files; raises `ConfigError` where one is not there or is of no format known."""
    return read_crypto(parameters.feeds, parameters.positions, parameters.balances)


def read_crypto(feeds: Feed, positions: Holding, balances: Source | None = None) -> Inputs:
    """A venue and the accounts on it, from JSON of ours, tables, or a venue's own answers.

    `feeds` is a path, or the document itself; the others are paths, or frames of any library that
    speaks Arrow. What is wrong in a file is a failure; raises `ConfigError` where there is no such
    file, or none of a format that is known.
    """
    said = read_feeds(feeds, positions)
    held = read_holdings(positions, balances, said)
    # Where both lie in one folder, what is wrong with a file is told twice.
    failures = join_failures([said.feeds.failures, held.failures]).unique(maintain_order=True)
    files = [*said.files, *held.files]
    return Inputs(with_surfaces(said.feeds), held.book, files, failures)


def with_surfaces(feeds: Feeds) -> CryptoMarket:
    """The market with volatilities from the smiles of the expiries, where options had none."""
    instruments = feeds.market.instruments
    chosen = np.flatnonzero(np.isnan(instruments.volatility))
    if not len(chosen):
        return feeds.market
    smile = feeds.surfaces[instruments.expiry[chosen]].T
    volatility = instruments.volatility.copy()
    volatility[chosen] = svi_volatility(instruments.strike[chosen], *smile)
    return replace(feeds.market, instruments=replace(instruments, volatility=volatility))


def check(parameters: CryptoFiles, inputs: Inputs) -> pl.DataFrame:
    """No failures: what a rulebook does not take of a set, it says when it margins the set."""
    return failure_table()


# ---------------------------------------------------------------- figures of a rulebook


def versions(venue: str, name: str) -> list[str]:
    """Versions of the table `name` of a venue that there are, in byte order."""
    folder, prefix = resources("gpu_margin") / "parameters" / venue, f"{name}_"
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir())
    return sorted(
        one.removeprefix(prefix).removesuffix(".json")
        for one in names
        if one.startswith(prefix) and one.endswith(".json")
    )


def versioned(venue: str, name: str, version: str) -> dict[str, Any]:
    """The table of a rulebook's figures, as it stands; `ConfigError` for an unknown version."""
    known = versions(venue, name)
    if version not in known:
        raise ConfigError(
            f"table: unknown version {version!r} of {venue} {name}; known versions: "
            f"{', '.join(known) or 'none'}"
        )
    path = resources("gpu_margin") / "parameters" / venue / f"{name}_{version}.json"
    table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return table


def with_overrides(table: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The table with single keys replaced: tables within it are merged, all else is replaced."""
    merged = dict(table)
    for key, value in overrides.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = with_overrides(old, value) if both else value  # type: ignore[arg-type]
    return merged


# ---------------------------------------------------------------- margin of accounts


def file_margin(
    inputs: Inputs,
    found: CryptoMargin,
    rate: float,
    facts: Mapping[str, Any],
    market: pl.Series | None = None,
) -> FileMargin:
    """The margin of accounts from that of their netting sets, times `rate`.

    A level of an account is the sum over its sets, in their order: what one set has too much helps
    no other. An account with a set that cannot be margined is not known, and has NaN. `market`
    [set] is what each set was margined in, where the rulebook knows better than the book.
    """
    market = told_markets(inputs.book, inputs.market) if market is None else market
    portfolio = inputs.book.portfolio
    owner, count = portfolio.set_account, len(portfolio.accounts)
    failed = np.isnan(found.mark_to_market)

    def of_accounts(amount: Floats) -> Floats:
        return add_up(owner, amount * rate, count)

    def holders(of_sets: Bools) -> Bools:
        return np.bincount(owner[of_sets], minlength=count) > 0

    lost = holders(failed)
    return FileMargin(
        accounts=portfolio.accounts,
        requirement={name: of_accounts(one.requirement) for name, one in found.levels.items()},
        components={
            name: {part: of_accounts(amount) for part, amount in one.components.items()}
            for name, one in found.levels.items()
        },
        known=holders(portfolio.good > 0) & ~lost,
        complete=~holders(portfolio.bad > 0) & ~lost,
        table=TABLE,
        details=_details(inputs.book, found, rate, market),
        facts=dict(facts),
        failures=found.failures,
    )


def _details(book: CryptoBook, found: CryptoMargin, rate: float, market: pl.Series) -> pl.DataFrame:
    """A row per netting set and level, in that order; null where a set could not be margined."""
    portfolio = book.portfolio
    names = pl.Series([*found.scenarios, None], dtype=pl.String)
    sets = pl.DataFrame(
        {
            "account_id": portfolio.accounts.gather(portfolio.set_account),
            "netting_set": portfolio.sets,
            "market": market.replace("", None),
            "mark_to_market": found.mark_to_market * rate,
            "cash": found.cash * rate,
            "worst_scenario": names.gather(
                np.where(found.worst < 0, len(found.scenarios), found.worst)
            ),
            "place": np.arange(len(portfolio.sets)),
        }
    )
    levels = [
        sets.with_columns(
            pl.lit(name).alias("level"),
            pl.Series("requirement", level.requirement * rate),
            pl.Series("margin_value", found.value(name) * rate),
        )
        for name, level in found.levels.items()
    ]
    amounts = ("requirement", "mark_to_market", "cash", "margin_value")
    return (
        pl.concat(levels)
        .sort("place", maintain_order=True)
        .select(
            *("account_id", "netting_set", "market", "level"),
            *(pl.col(name).fill_nan(None) for name in amounts),
            "worst_scenario",
        )
    )
