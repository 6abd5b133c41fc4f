"""The smallest cure of an account of a finished run, whose inputs are read again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin import backend as backends
from gpu_margin.config import Model
from gpu_margin.curing.collateral import Beside, one_account
from gpu_margin.curing.planning import Asked, Case, Cure, CureParameters
from gpu_margin.failures import ConfigError, InputError, failure_table
from gpu_margin.io.cost_tables import COST_COLUMNS, COST_OPTIONAL, load_costs
from gpu_margin.io.tables import Source, read_table
from gpu_margin.reopening import reopen


@dataclass(frozen=True)
class Cures:
    """Plans of all netting sets of an account, the worst off first.

    `unknown` (netting set, model) are those whose requirement is not known; `failures` the failed
    rows of the cost table.
    """

    plans: list[Cure]
    unknown: list[tuple[str, str]]
    failures: pl.DataFrame


def cure_account(
    folder: str | Path,
    account: str,
    parameters: CureParameters | None = None,
    costs: Source | None = None,
    model: str | None = None,
) -> Cures:
    """The cheapest trades that bring each netting set of an account to the target.

    `costs` is a table (instrument_id, cost; optional lot, tradable, limit). Raises `InputError`
    where the run's inputs have changed or it knows of no collateral, `ConfigError` for an account
    or model that it does not have.
    """
    loaded = reopen(folder)
    chosen = loaded.chosen(model)
    code = loaded.portfolio.accounts.index_of(account)
    if code is None:
        raise ConfigError(
            f"the run has no positions of an account {account!r}; see margins.parquet for its ids"
        )
    ids = loaded.market.instruments.ids
    table = None if costs is None else read_table(costs, "cost", COST_COLUMNS, COST_OPTIONAL)
    terms = None if table is None else load_costs(table, ids)
    asked = Asked.of(one_account(loaded, code), parameters or CureParameters(), terms)
    found = [pair for one in chosen for pair in _plans(asked, Path(folder), one)]
    return Cures(
        plans=[plan for row, plan in sorted(found, key=_worst_first) if isinstance(plan, Cure)],
        unknown=[(row["set"], row["model"]) for row, plan in found if plan is None],
        failures=failure_table() if terms is None else terms.failures,
    )


def value_of(folder: Path, account: str, netting_set: str, model: str) -> dict[str, Any]:
    """The row of accounts.parquet for a netting set, or for the account where that is its only one.

    Raises `InputError` where the run has no such table or row.
    """
    path = folder / "accounts.parquet"
    if not path.is_file():
        raise InputError(f"{path}: not there: cure needs a run with inputs.collateral")
    table = pl.read_parquet(path).filter(account_id=account, model=model)
    rows = table.filter(pl.col("netting_set") == netting_set)
    if rows.is_empty() and table["netting_set"].is_null().all():
        rows = table
    if rows.is_empty():
        raise InputError(f"{path}: no row of account {account!r}, set {netting_set!r}, {model!r}")
    return rows.row(0, named=True)


def _plans(
    asked: Asked, folder: Path, model: Model
) -> Iterator[tuple[dict[str, Any], Cure | None]]:
    """Of each netting set of the account, how it stands and its plan."""
    portfolio = asked.loaded.portfolio
    account = portfolio.accounts[0]
    standings = [
        {**value_of(folder, account, name, model.name), "set": name} for name in portfolio.sets
    ]
    beside = Beside(asked.loaded, model, backends.load("numpy"))
    rows = portfolio.netted
    for number, standing in enumerate(standings):
        if standing["initial"] is None:
            yield standing, None
            continue
        own = slice(int(rows.offsets[number]), int(rows.offsets[number + 1]))
        case = Case(asked, model, beside, number, rows.column[own], rows.value[own])
        yield standing, case.plan(standing)


def _worst_first(found: tuple[dict[str, Any], Cure | None]) -> tuple[bool, float, str, str]:
    """No collateral for what is required comes first, then the largest utilisation."""
    row = found[0]
    used = row["utilisation"]
    return (used is not None, -(used or 0.0), row["set"], row["model"])
