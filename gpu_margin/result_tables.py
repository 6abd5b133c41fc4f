"""Margins of sets and groups become the tables of a run: per account, set, component, group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import Failure, failure_table, join_failures
from gpu_margin.market import Market
from gpu_margin.portfolio import Portfolio, add_up
from gpu_margin.result import Figures, Margin, no_margin

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_AMOUNTS = ("requirement", "standalone", "net_exposure", "gross_exposure", "positions")
_ORDER = (
    "model",
    "level",
    "currency",
    "requirement",
    "standalone",
    "offset",
    "offset_ratio",
    "net_exposure",
    "gross_exposure",
    "positions",
    "worst_scenario",
    "complete",
)


@dataclass(frozen=True)
class RunTables:
    """The tables of a run, as `Run` describes them."""

    margins: pl.DataFrame
    components: pl.DataFrame
    sets: pl.DataFrame
    groups: pl.DataFrame
    group_totals: pl.DataFrame
    failures: pl.DataFrame


@dataclass(frozen=True)
class _Level:
    """One level of one model, with which of its sets have figures (`usable` [set])."""

    portfolio: Portfolio
    market: Market
    model: str
    margin: Margin
    usable: Bools

    @property
    def complete(self) -> Bools:
        """[set] whether every position row of the set is in its figures."""
        complete: Bools = (self.portfolio.bad == 0) & self.usable
        return complete

    @property
    def account_complete(self) -> Bools:
        """[account] whether all its sets are complete."""
        bad = self.portfolio.set_account[~self.complete]
        complete: Bools = np.bincount(bad, minlength=len(self.portfolio.accounts)) == 0
        return complete

    def by_account(self, amounts: Floats) -> Floats:
        """[account] sum of usable sets' amounts, in order of the sets."""
        owner = self.portfolio.set_account[self.usable]
        return add_up(owner, amounts[self.usable], len(self.portfolio.accounts))


def run_tables(
    portfolio: Portfolio,
    market: Market,
    margins: Mapping[str, list[Margin]],
    failures: pl.DataFrame,
) -> RunTables:
    """Tables of all models' margins, ordered by account and then model as configured.

    An account or set without a good row has null figures. Where a figure is not finite, for
    its positions are too large for float64, the set is treated as one without a good row and
    there is a failure more. Without models there must be no account.
    """
    levels = [
        _Level(portfolio, market, model, margin, usable_sets(portfolio, margin))
        for model, parts in margins.items()
        for margin in parts
    ]
    if not levels:
        nothing = no_margin(len(portfolio.sets), len(portfolio.accounts))
        levels = [_Level(portfolio, market, "", nothing, usable_sets(portfolio, nothing))]
    overflows = failure_table(failure for level in levels for failure in _overflows(level))
    initial = [level for level in levels if level.margin.level == "initial"]
    return RunTables(
        margins=_stacked([_account_table(level) for level in levels], ["account_id"]),
        components=_stacked([_component_table(level) for level in levels], ["account_id"]),
        sets=_stacked([_set_table(level) for level in levels], ["account_id", "netting_set"]),
        groups=_stacked([_group_table(level) for level in initial], ["account_id"]),
        group_totals=pl.concat([_group_totals(level) for level in initial]),
        failures=join_failures([failures, overflows]),
    )


def totals(margins: pl.DataFrame) -> list[dict[str, Any]]:
    """Totals per model and level, of complete and of incomplete accounts apart.

    None where a model on files knows no such amount.
    """
    rows = []
    keys = ["model", "level", "complete"]
    known = margins.filter(pl.col("requirement").is_not_null())
    for (model, level, complete), part in known.group_by(keys, maintain_order=True):
        names = ("requirement", "standalone", "offset")
        sums = {name: None if part[name].has_nulls() else math.fsum(part[name]) for name in names}
        accounts = {"accounts": len(part)}
        rows.append({"model": model, "level": level, "complete": complete, **accounts, **sums})
    return rows


def usable_sets(portfolio: Portfolio, margin: Margin) -> Bools:
    """[set] whether it has a good row and figures that are finite."""
    usable: Bools = (portfolio.good > 0) & _finite(margin.sets)
    return usable


def _finite(figures: Figures) -> Bools:
    amounts = (figures.requirement, figures.standalone, figures.net_exposure)
    finite: Bools = np.all(np.isfinite((*amounts, figures.gross_exposure)), axis=0)
    return finite


def _overflows(level: _Level) -> list[Failure]:
    reason = f"{level.model}: requirement is not finite: quantities or prices are too large"
    portfolio = level.portfolio
    lost = portfolio.set_account[(portfolio.good > 0) & ~level.usable]
    accounts = [portfolio.accounts[int(code)] for code in lost]
    return [Failure(reason, "margins", None, "account_id", account) for account in accounts]


def _stacked(tables: list[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
    return pl.concat(tables).sort(keys, maintain_order=True)


def _account_table(level: _Level) -> pl.DataFrame:
    portfolio = level.portfolio
    sets = level.margin.sets
    amounts = {name: level.by_account(getattr(sets, name)) for name in _AMOUNTS}
    known = np.bincount(portfolio.set_account[level.usable], minlength=len(portfolio.accounts))
    keys = pl.DataFrame({"account_id": portfolio.accounts})
    worst, complete = level.margin.account_worst, level.account_complete
    return _figure_table(keys, level, amounts, worst, known > 0, complete)


def _set_table(level: _Level) -> pl.DataFrame:
    portfolio, sets = level.portfolio, level.margin.sets
    amounts = {name: getattr(sets, name) for name in _AMOUNTS}
    keys = pl.DataFrame(
        {
            "account_id": portfolio.accounts.gather(portfolio.set_account),
            "netting_set": portfolio.sets,
        }
    )
    return _figure_table(keys, level, amounts, sets.worst, level.usable, level.complete)


def _figure_table(
    keys: pl.DataFrame,
    level: _Level,
    amounts: Mapping[str, NDArray[Any]],
    worst: Ints,
    known: Bools,
    complete: Bools,
) -> pl.DataFrame:
    """Figures beside their keys; all null where they are not `known`."""
    frame = keys.with_columns(
        pl.lit(level.model).alias("model"),
        pl.lit(level.margin.level).alias("level"),
        pl.lit(level.market.currency).alias("currency"),
        pl.Series("known", known),
        pl.Series("complete", complete),
        _names(level.margin.scenarios, worst),
        *(pl.Series(name, values) for name, values in amounts.items()),
    )
    standalone, requirement = pl.col("standalone"), pl.col("requirement")
    offset = standalone - requirement
    ratio = pl.when(standalone == 0).then(0.0).otherwise(offset / standalone)
    frame = frame.with_columns(
        offset.alias("offset"),
        ratio.alias("offset_ratio"),
        pl.col("positions").cast(pl.Int64),
    )
    figures = [name for name in _ORDER[3:] if name != "complete"]
    return frame.with_columns(pl.when("known").then(pl.col(figures))).select(*keys.columns, *_ORDER)


def _names(scenarios: tuple[str, ...], worst: Ints) -> pl.Series:
    """Scenario names of the codes, null for -1."""
    names = pl.Series([*scenarios, None], dtype=pl.String)
    return names.gather(np.where(worst < 0, len(scenarios), worst)).alias("worst_scenario")


def _component_table(level: _Level) -> pl.DataFrame:
    """Components of accounts that have figures."""
    owner = level.portfolio.set_account[level.usable]
    known = np.unique(owner)
    schema = {"account_id": pl.String, "model": pl.String, "level": pl.String}
    empty = pl.DataFrame(schema={**schema, "component": pl.String, "amount": pl.Float64})
    tables = [
        pl.DataFrame({"account_id": level.portfolio.accounts.gather(known)}).with_columns(
            pl.lit(level.model).alias("model"),
            pl.lit(level.margin.level).alias("level"),
            pl.lit(component).alias("component"),
            pl.Series("amount", level.by_account(amounts)[known], dtype=pl.Float64),
        )
        for component, amounts in level.margin.components.items()
    ]
    return pl.concat([empty, *tables])


def _account_groups(level: _Level) -> pl.DataFrame:
    """Per account and group code: requirement, standalone, positions, over the usable sets."""
    groups = level.margin.groups
    usable = level.usable[groups.owner] & _finite(groups.figures)
    width = max(len(level.market.groups), 1)
    key = level.portfolio.set_account[groups.owner[usable]] * width + groups.part[usable]
    pair, place = np.unique(key, return_inverse=True)

    def total(amounts: NDArray[Any]) -> Floats:
        return add_up(place, amounts[usable], len(pair))

    return pl.DataFrame(
        {
            "account": pair // width,
            "group": pair % width,
            "requirement": total(groups.figures.requirement),
            "standalone": total(groups.figures.standalone),
            "positions": total(groups.figures.positions).astype(np.int64),
        }
    )


def _group_table(level: _Level) -> pl.DataFrame:
    groups = _account_groups(level)
    return groups.select(
        level.portfolio.accounts.gather(groups["account"]).alias("account_id"),
        pl.lit(level.model).alias("model"),
        level.market.groups.gather(groups["group"]).alias("product_group"),
        "requirement",
        "positions",
    )


def _group_totals(level: _Level) -> pl.DataFrame:
    groups = _account_groups(level)
    complete = groups.filter(pl.Series(level.account_complete[groups["account"].to_numpy()]))
    rows = [
        {
            "model": level.model,
            "product_group": level.market.groups[int(code)],
            "standalone": math.fsum(part["standalone"]),
            "requirement": math.fsum(part["requirement"]),
            "accounts": len(part),
        }
        for (code,), part in complete.sort("group").group_by("group", maintain_order=True)
    ]
    schema = {
        "model": pl.String,
        "product_group": pl.String,
        "standalone": pl.Float64,
        "requirement": pl.Float64,
        "accounts": pl.Int64,
    }
    frame = pl.DataFrame(rows, schema=schema)
    offset = (pl.col("standalone") - pl.col("requirement")).alias("offset")
    return frame.with_columns(offset).select(
        "model", "product_group", "standalone", "requirement", "offset", "accounts"
    )
