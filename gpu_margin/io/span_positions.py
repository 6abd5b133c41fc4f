"""Positions in contracts of a SPAN file and what is said of accounts become codes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Source, Table, absent_table, read_table
from gpu_margin.portfolio import Portfolio, Rows, row_offsets
from gpu_margin.span_book import SpanBook
from gpu_margin.span_tables import ACCOUNT_TYPES

Ints = NDArray[np.int64]

POSITION_COLUMNS = ("account_id", "contract_id", "quantity")
ACCOUNT_COLUMNS = ("account_id",)
ACCOUNT_OPTIONAL = ("account_type", "gross")

# Unknown ids for which the nearest one is looked for, and how much alike it must be.
_HINTS, _ALIKE = 20, 0.6
_YES, _NO = ("true", "yes", "1", "y"), ("false", "no", "0", "n")
# What an account was not told.
_UNTOLD = -1


@dataclass(frozen=True)
class Held:
    """Positions of accounts in contracts, by code, and what the accounts were told to be.

    [account]: `account_type` a place in `ACCOUNT_TYPES` and `gross` 0 or 1, each -1 where nothing
    was said. `files` is what was read.
    """

    portfolio: Portfolio
    account_type: Ints
    gross: Ints
    failures: pl.DataFrame
    files: list[dict[str, Any]]

    def book(self, account_type: str, gross: bool) -> SpanBook:
        """All accounts; those that were told nothing are of this type."""
        default = ACCOUNT_TYPES.index(account_type)
        return SpanBook(
            portfolio=self.portfolio,
            account_type=np.where(self.account_type == _UNTOLD, default, self.account_type),
            gross=np.where(self.gross == _UNTOLD, gross, self.gross == 1),
        )

    def tile(self, start: int, stop: int) -> Held:
        """The accounts with codes start <= code < stop."""
        return replace(
            self,
            portfolio=self.portfolio.tile(start, stop),
            account_type=self.account_type[start:stop],
            gross=self.gross[start:stop],
        )


def read_held(positions: Source, ids: pl.Series, accounts: Source | None = None) -> Held:
    """Positions (account_id, contract_id, quantity) and accounts (account_id; account_type, gross).

    `ids` [contract] are those of the file; sources are paths or frames. A bad row is a failure and
    makes its account incomplete; who stands twice among the accounts has two bad rows. Raises
    `ConfigError` where there is no such file.
    """
    held = read_table(positions, "positions", POSITION_COLUMNS)
    told = (
        absent_table("accounts", (*ACCOUNT_COLUMNS, *ACCOUNT_OPTIONAL))
        if accounts is None
        else read_table(accounts, "accounts", ACCOUNT_COLUMNS, ACCOUNT_OPTIONAL)
    )
    owned, failures = checked_positions(held, ids)
    said, unsaid = _checked_accounts(told)
    sources = {"positions": (held, positions), "accounts": (told, accounts)}
    files = [
        _described(name, table, source)
        for name, (table, source) in sources.items()
        if source is not None
    ]
    return _encoded(owned, said, join_failures([failures, unsaid]), files)


def checked_positions(held: Table, ids: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with an account and a contract, and all failures.

    The rows have `account_id`, `contract_id`, `quantity`, the contract's `code`, and `bad`.
    """
    frame = rules.text_columns(held.frame, ["account_id", "contract_id"])
    frame = with_codes(rules.number_columns(frame, ["quantity"]), ids)
    found = rules.check(
        rules.passing(frame, held.failures),
        held.source,
        [
            *rules.missing_text("account_id"),
            *rules.missing_text("contract_id"),
            *known_contract(frame, ids),
            *rules.missing_number(frame, "quantity"),
        ],
    )
    failures = join_failures([held.failures, found]).sort(ROW, nulls_last=False)
    owned = frame.filter(pl.col("account_id").is_not_null()).with_columns(
        pl.col(ROW).is_in(failures[ROW].implode()).alias("bad")
    )
    return owned, failures


def with_codes(frame: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    """The frame with the `code` of its contract_id, null where the file has no such."""
    known = pl.DataFrame({"contract_id": ids}).with_row_index("code")
    known = known.with_columns(pl.col("code").cast(pl.Int64))
    return frame.join(known, on="contract_id", how="left", maintain_order="left")


def known_contract(frame: pl.DataFrame, ids: pl.Series) -> list[Rule]:
    """The contract must be in the file; the first unknown ids are told which is nearest."""
    unknown = frame.filter(pl.col("code").is_null() & pl.col("contract_id").is_not_null())
    names = unknown["contract_id"].unique(maintain_order=True).head(_HINTS).to_list()
    found, missing = [], pl.col("code").is_null()
    for name in names:
        near = nearest(name, ids)
        if near is not None:
            reason = f"unknown contract: the file does not have it; did you mean {near!r}?"
            found.append(Rule(reason, "contract_id", missing & (pl.col("contract_id") == name)))
    plain = "unknown contract: the file does not have it; gpu-margin span contracts lists its own"
    return [*found, Rule(plain, "contract_id", missing)]


def nearest(name: str, ids: pl.Series) -> str | None:
    """The id that is most alike, None where none is.

    First the exchange, product and type that are most alike, then among their contracts: all ids
    of a large file would take seconds.
    """
    families = ids.str.extract(r"^([^:]*(?::[^:]*){0,2})").unique(maintain_order=True)
    start = ":".join(name.split(":")[:3])
    (family,) = _closest(start, families.to_list()) or (None,)
    if family is None:
        return None
    own = ids.filter((ids == family) | ids.str.starts_with(f"{family}:")).to_list()
    found = _closest(name, own)
    return found[0] if found else None


def _closest(name: str, among: list[str]) -> list[str]:
    return difflib.get_close_matches(name, among, n=1, cutoff=_ALIKE)


def _checked_accounts(told: Table) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows (account_id, account_type, gross as codes, bad), and failures."""
    names = ["account_id", *ACCOUNT_OPTIONAL]
    frame = rules.text_columns(told.frame, names)
    kind, gross = (pl.col(name).str.to_lowercase() for name in ACCOUNT_OPTIONAL)
    reason = f"unknown account_type: write {', '.join(ACCOUNT_TYPES)}"
    found = rules.check(
        rules.passing(frame, told.failures),
        told.source,
        [
            *rules.missing_text("account_id"),
            *rules.unique(["account_id"], "the account stands here twice: keep one of the rows"),
            Rule(reason, "account_type", ~kind.is_in(ACCOUNT_TYPES)),
            Rule("gross is neither true nor false", "gross", ~gross.is_in([*_YES, *_NO])),
        ],
    )
    failures = join_failures([told.failures, found]).sort(ROW, nulls_last=False)
    types = dict(zip(ACCOUNT_TYPES, range(len(ACCOUNT_TYPES)), strict=True))
    bad = pl.col(ROW).is_in(failures[ROW].implode())
    rows = frame.filter(pl.col("account_id").is_not_null()).select(
        "account_id",
        kind.replace_strict(types, default=_UNTOLD, return_dtype=pl.Int64).alias("account_type"),
        pl.when(gross.is_in(_YES))
        .then(1)
        .when(gross.is_in(_NO))
        .then(0)
        .otherwise(_UNTOLD)
        .cast(pl.Int64)
        .alias("gross"),
        bad.alias("bad"),
    )
    return rows, failures


def _encoded(
    rows: pl.DataFrame, said: pl.DataFrame, failures: pl.DataFrame, files: list[dict[str, Any]]
) -> Held:
    """Accounts in byte order, each one netting set, their entries by contract and quantity."""
    counts = rows.group_by("account_id").agg(
        pl.col("bad").sum().cast(pl.Int64), (~pl.col("bad")).sum().cast(pl.Int64).alias("good")
    )
    unsure = said.group_by("account_id").agg(
        pl.col("account_type", "gross").first(), pl.col("bad").sum().cast(pl.Int64).alias("unsure")
    )
    accounts = counts.sort("account_id").join(
        unsure, on="account_id", how="left", maintain_order="left"
    )
    place = accounts.select("account_id").with_row_index("account")
    good = (
        rows.filter(~pl.col("bad"))
        .join(place, on="account_id")
        .select(pl.col("account").cast(pl.Int64), "code", "quantity")
        .sort("account", "code", "quantity")
    )
    untold = pl.col("account_type", "gross").fill_null(_UNTOLD)
    accounts = accounts.with_columns(untold, pl.col("bad") + pl.col("unsure").fill_null(0))
    count = len(accounts)
    portfolio = Portfolio(
        accounts=accounts["account_id"],
        sets=accounts["account_id"],
        set_account=np.arange(count, dtype=np.int64),
        rows=Rows(
            offsets=row_offsets(good["account"].to_numpy(), count),
            column=good["code"].to_numpy().astype(np.int64, copy=False),
            value=good["quantity"].to_numpy().astype(np.float64, copy=False),
        ),
        good=accounts["good"].to_numpy(),
        bad=accounts["bad"].to_numpy(),
    )
    types, gross = (accounts[name].to_numpy() for name in ("account_type", "gross"))
    return Held(portfolio, types, gross, failures, files)


def _described(name: str, table: Table, source: Source) -> dict[str, Any]:
    return {"input": name, **path_of(source), "sha256": table.sha256, "rows": len(table.frame)}


def path_of(source: Source) -> dict[str, Any]:
    """The path of a source, None for what lies in memory."""
    path = str(Path(source).resolve()) if isinstance(source, (str, Path)) else None
    return {"path": path}
