"""Accounts that hold what cannot be margined: they fail by name."""

from __future__ import annotations

import numpy as np
import polars as pl

from gpu_margin.failures import failure_table
from gpu_margin.models.span.ranges import spread_out
from gpu_margin.portfolio import Rows, add_up, entry_rows, row_offsets
from gpu_margin.span_file import Bools, Ints, SpanFile

_CONTRACT, _COMMODITY = "contract_id", "combined_commodity"

# Why accounts fail; `account` is a code.
_REASONS = pl.Schema(
    {"account": pl.Int64, "reason": pl.String, "field": pl.String, "value": pl.String}
)


def blocked_contracts(file: SpanFile) -> Bools:
    """[contract] whether it, or what it counts as, or the commodity of that, is refused."""
    contracts = file.contracts
    own = (contracts.refused != "").to_numpy()
    part = contracts.part_contract
    commodity = file.slots.commodity[contracts.slot[part]]
    bad = own[part] | (file.commodities.refused != "").to_numpy()[commodity]
    owner = np.repeat(np.arange(len(own)), np.diff(contracts.part_offsets))
    return own | (add_up(owner, bad, len(own)) > 0.0)


def without(rows: Rows, dropped: Bools) -> Rows:
    """The same rows, those `dropped` [row] without entries."""
    if not dropped.any():
        return rows
    owner = entry_rows(rows)
    keep = ~dropped[owner]
    return Rows(row_offsets(owner[keep], len(rows)), rows.column[keep], rows.value[keep])


def refused_positions(file: SpanFile, rows: Rows, blocked: Bools) -> pl.DataFrame:
    """Who holds `blocked` contracts, and why these cannot be margined; `rows` are of accounts."""
    held = np.flatnonzero(blocked[rows.column])
    account, contract = entry_rows(rows)[held], rows.column[held]
    contracts = file.contracts
    first = contracts.part_offsets[contract]
    owner, within = spread_out(contracts.part_offsets[contract + 1] - first)
    part = contracts.part_contract[first[owner] + within]
    every = np.concatenate([contract, part])
    own = _reasons(
        np.concatenate([account, account[owner]]),
        contracts.refused.gather(every),
        contracts.ids.gather(every),
        _CONTRACT,
    )
    commodity = file.slots.commodity[contracts.slot[part]]
    return pl.concat([own, refused_commodities(file, account[owner], commodity)])


def refused_commodities(file: SpanFile, account: Ints, commodity: Ints) -> pl.DataFrame:
    """Which of accounts' combined commodities are refused, and why."""
    commodities = file.commodities
    reason, codes = commodities.refused.gather(commodity), commodities.codes.gather(commodity)
    return _reasons(account, reason, codes, _COMMODITY)


def _reasons(account: Ints, reason: pl.Series, value: pl.Series, field: str) -> pl.DataFrame:
    columns = {"account": account, "reason": reason, "value": value}
    found = pl.DataFrame(columns).with_columns(pl.lit(field).alias("field"))
    return found.filter(pl.col("reason") != "").select(_REASONS.names()).cast(_REASONS)


def failures_of(reasons: pl.DataFrame, accounts: pl.Series) -> pl.DataFrame:
    """Reasons as failures, each once, by account."""
    once = reasons.unique().sort("account", "field", "value")
    source = accounts.gather(once["account"]).rename("source")
    table = once.with_columns(source, pl.lit(None, dtype=pl.Int64).alias("row"))
    return table.select(failure_table().columns)
