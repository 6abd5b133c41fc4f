"""Why an account requires what it requires: its positions, groups and worst scenario."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import backend as backends
from gpu_margin.allocation import contributions
from gpu_margin.config import Model
from gpu_margin.engine import prepare
from gpu_margin.failures import ConfigError, InputError
from gpu_margin.io.position_tables import POSITION_COLUMNS
from gpu_margin.io.tables import ROW, read_table
from gpu_margin.loading import Loaded
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, entry_rows
from gpu_margin.reopening import reopen
from gpu_margin.result_tables import run_tables


@dataclass(frozen=True)
class Explanation:
    """One account under one model.

    `figures` is the account's row of margins; `positions` (netting_set, instrument_id,
    product_group, quantity, exposure, standalone, contribution, worst_pnl), the contributions
    of which add up to the requirement; `groups` (product_group, requirement, positions);
    `failures` the account's failed position rows.
    """

    account: str
    model: str
    figures: dict[str, Any]
    positions: pl.DataFrame
    groups: pl.DataFrame
    failures: pl.DataFrame


def explain(folder: str | Path, account: str, model: str | None = None) -> list[Explanation]:
    """Explain an account of a finished run, under one model on positions or all of them.

    The inputs that the run's manifest names are read again. Raises `InputError` where they are
    no longer what they were, `ConfigError` for an account or model that the run does not have.
    """
    loaded = reopen(folder)
    models = loaded.chosen(model)
    code = loaded.portfolio.accounts.index_of(account)
    if code is None:
        others = set(loaded.config.models) - {one.name for one in loaded.models}
        raise ConfigError(
            f"the run has no {'positions of an ' if others else ''}account {account!r}; "
            "see margins.parquet for its ids"
        )
    portfolio = loaded.portfolio.tile(code, code + 1)
    return [_explain(loaded, portfolio, one) for one in models]


def _explain(loaded: Loaded, portfolio: Portfolio, model: Model) -> Explanation:
    prepared = prepare(loaded, model, backends.load("numpy"))
    failures = _account_failures(loaded, portfolio.accounts[0])
    return explanation(loaded, portfolio, prepared, model.name, failures)


def explanation(
    loaded: Loaded, portfolio: Portfolio, prepared: Prepared, name: str, failures: pl.DataFrame
) -> Explanation:
    """Explain the one account of a portfolio under a model that was prepared in its market.

    `failures` are the account's. Raises `InputError` where it has no good position row.
    """
    if not portfolio.good.any():
        raise InputError(
            f"account {portfolio.accounts[0]!r} has no good position row: "
            f"{failures['reason'].to_list()}"
        )
    margins = {name: prepared.margin(portfolio)}
    tables = run_tables(portfolio, loaded.market, margins, failures)
    figures = prepared.positions(portfolio)
    # Of the measure as it is: smoothed ones would not add up to a value-at-risk.
    contribution = contributions(prepared, portfolio, smooth=False).amount
    rows, instruments = portfolio.netted, loaded.market.instruments
    positions = pl.DataFrame(
        {
            "netting_set": portfolio.sets.gather(entry_rows(rows)),
            "instrument_id": instruments.ids.gather(rows.column),
            "product_group": loaded.market.groups.gather(instruments.group[rows.column]),
            "quantity": rows.value,
            "exposure": figures.exposure,
            "standalone": figures.standalone,
            "contribution": contribution,
            "worst_pnl": _or_null(figures.worst_pnl, len(rows.value)),
        }
    )
    return Explanation(
        account=portfolio.accounts[0],
        model=name,
        figures=tables.margins.row(0, named=True),
        positions=positions.sort("contribution", descending=True, maintain_order=True),
        groups=tables.groups.drop("account_id", "model"),
        failures=failures,
    )


def _or_null(values: Any, length: int) -> pl.Series:
    return pl.Series(np.full(length, None) if values is None else values, dtype=pl.Float64)


def _account_failures(loaded: Loaded, account: str) -> pl.DataFrame:
    """The failed rows of the positions file that name the account."""
    table = read_table(loaded.config.inputs.positions, "positions", POSITION_COLUMNS)
    rows = table.frame.filter(pl.col("account_id").cast(pl.String) == account)
    failed = loaded.failures.filter(pl.col("source") == table.source)
    return failed.join(rows.select(ROW), on=ROW, how="semi")
