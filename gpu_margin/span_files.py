"""A SPAN risk parameter file and the accounts that are margined by it, read together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from gpu_margin.failures import failure_table, join_failures
from gpu_margin.io.span_positions import Held, read_held
from gpu_margin.io.span_source import read_span
from gpu_margin.io.tables import Source, file_hash
from gpu_margin.pieces import full_pieces
from gpu_margin.settings import Settings
from gpu_margin.span_book import SpanBook, Terms
from gpu_margin.span_build import build
from gpu_margin.span_file import SpanFile
from gpu_margin.span_tables import SpanTables

FILES = ("file", "positions", "accounts")
# Other parameters that change what is read.
READ = ("account_class",)
# What amounts are shown in unless a model says otherwise.
CURRENCY = "USD"

MAINTENANCE, INITIAL = "maintenance", "initial"

# Entries and accounts that are margined at a time.
_ENTRIES, _ACCOUNTS = 1_000_000, 250_000

# A path, or what was read from one.
Parameters = str | Path | SpanTables | SpanFile


class SpanTerms(Settings):
    """How margin is asked for, by those who do not ask for one level."""

    account_type: Literal["member", "hedger", "speculator"] = Field(
        default="hedger", description="of accounts that are told nothing else"
    )
    gross: bool = Field(
        default=False,
        strict=True,
        description="keep long and short positions apart, unless an account is told otherwise",
    )
    delta_places: int | None = Field(
        default=None, ge=0, le=12, description="decimals that deltas are rounded to; none: all"
    )
    spread_places: int | None = Field(
        default=None, ge=0, le=12, description="decimals that spreads are rounded down to"
    )

    def terms(self, level: str) -> Terms:
        """Those of a level."""
        return Terms(
            initial=level == INITIAL,
            delta_places=self.delta_places,
            spread_places=self.spread_places,
        )


@dataclass(frozen=True)
class Inputs:
    """What a file says, the accounts, and the files that both are from."""

    file: SpanFile
    held: Held
    files: list[dict[str, Any]]
    failures: pl.DataFrame

    @property
    def accounts(self) -> pl.Series:
        """Ids of the accounts, in byte order."""
        return self.held.portfolio.accounts

    @property
    def computable(self) -> bool:
        """Whether any account has a good row."""
        return bool(self.held.portfolio.good.any())

    @property
    def counts(self) -> Mapping[str, int]:
        """Of accounts, of their positions and of what the file has."""
        return {
            "span_accounts": len(self.accounts),
            "span_positions": len(self.held.portfolio.rows.value),
            **file_counts(self.file),
        }

    def book(self, terms: SpanTerms) -> SpanBook:
        """All accounts, those that were told nothing as the terms say."""
        return self.held.book(terms.account_type, terms.gross)

    def pieces(self) -> Iterator[Inputs]:
        """The same accounts in pieces that fit into memory, without the failures."""
        for start, stop in tiles(self.held.portfolio.rows.offsets):
            yield replace(self, held=self.held.tile(start, stop), failures=failure_table())


def tiles(offsets: Any) -> Iterator[tuple[int, int]]:
    """Ranges of accounts that are margined at a time, one at least; `offsets` of their entries."""
    count = len(offsets) - 1
    # What is there up to and with each account, in units of a full piece.
    filled = offsets[1:] / _ENTRIES + np.arange(1, count + 1) / _ACCOUNTS
    return full_pieces(filled)


def file_counts(file: SpanFile) -> dict[str, int]:
    """How much a file has of what."""
    return {
        "span_contracts": len(file.contracts.ids),
        "span_commodities": len(file.commodities.codes),
        "span_spreads": len(file.intra.rate) + len(file.inter),
    }


def read_file(
    source: Parameters, account_class: str = "core", only: tuple[str, bool] | None = None
) -> tuple[SpanFile, dict[str, Any]]:
    """A risk parameter file, and what it was read from.

    `source` may be the tables of a reader, or a file that was read; the rest is as in `read_span`.
    Raises `ConfigError` where there is no such file, or none of a format that is known.
    """
    described: dict[str, Any] = {"input": "file", "path": None, "sha256": None}
    if isinstance(source, SpanFile):
        file = source
    elif isinstance(source, SpanTables):
        file = build(source)
    else:
        path = Path(source)
        file = build(read_span(path, account_class, only))
        described.update(path=str(path.resolve()), sha256=file_hash(path))
    return file, {**described, "rows": len(file.contracts.ids), "facts": dict(file.facts)}


def read_inputs(
    source: Parameters,
    positions: Source,
    accounts: Source | None = None,
    account_class: str = "core",
    only: tuple[str, bool] | None = None,
) -> Inputs:
    """A risk parameter file and the accounts on it; see `read_file` and `read_held`."""
    file, described = read_file(source, account_class, only)
    held = read_held(positions, file.contracts.ids, accounts)
    failures = join_failures([file.failures, held.failures])
    return Inputs(file, held, [described, *held.files], failures)
