"""What a rulebook answers, and the tables that a run writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Figures:
    """Figures of rows (netting sets, groups), in margin currency.

    All arrays are [row]: `requirement` >= 0; `standalone` the sum of each position's own
    requirement; `net_exposure`, `gross_exposure`; `positions` the count of net positions;
    `worst` the code of the worst scenario, -1 where the rulebook has none.
    """

    requirement: Floats
    standalone: Floats
    net_exposure: Floats
    gross_exposure: Floats
    positions: Ints
    worst: Ints


@dataclass(frozen=True)
class GroupFigures:
    """Figures of the product groups of each netting set: row i is group part[i] of set owner[i]."""

    owner: Ints
    part: Ints
    figures: Figures


@dataclass(frozen=True)
class Margin:
    """One level of margin of a portfolio: per netting set, per group, and why.

    `components` [set] each add up to the requirement; `account_worst` [account] is the worst
    scenario of each account over all its sets, -1 where there is none; `scenarios` names them.
    """

    level: str
    sets: Figures
    groups: GroupFigures
    components: Mapping[str, Floats]
    account_worst: Ints
    scenarios: tuple[str, ...]


@dataclass(frozen=True)
class PositionFigures:
    """Figures of net positions, all [position] and in margin currency.

    `standalone` is what a position would require alone; `worst_pnl` the profit in the account's
    worst scenario, None without one.
    """

    exposure: Floats
    standalone: Floats
    worst_pnl: Floats | None


@dataclass(frozen=True)
class FileMargin:
    """Margin of accounts that a rulebook has from files of its own, in margin currency.

    `accounts` are ids in byte order. `requirement` has [account] for each level, `components` the
    same for each named part, which add up to it. `known` [account] says who has a good row,
    `complete` [account] who has no bad one. `details` is the rulebook's own table, written as
    `table`; `facts` is what the manifest says of the rulebook; `failures` are those that were found
    with the margin.
    """

    accounts: pl.Series
    requirement: Mapping[str, Floats]
    components: Mapping[str, Mapping[str, Floats]]
    known: Bools
    complete: Bools
    table: str
    details: pl.DataFrame
    facts: Mapping[str, Any]
    failures: pl.DataFrame


@dataclass(frozen=True)
class Correlation:
    """Correlations [factor, factor] of the factors' returns, for people to look at."""

    factors: tuple[str, ...]
    matrix: Floats


@dataclass(frozen=True)
class Run:
    """A finished run: the tables that are written, and what the report shows beside them.

    `margins` (account_id, model, level, currency, requirement, standalone, offset,
    offset_ratio, net_exposure, gross_exposure, positions, worst_scenario, complete);
    `components` (account_id, model, level, component, amount); `sets`, as margins with
    netting_set after account_id; `groups` (account_id, model, product_group, requirement,
    positions); `failures` (reason, source, row, field, value); `group_totals` (model,
    product_group, standalone, requirement, offset, accounts), of complete accounts only.

    With collateral, `accounts` (account_id, netting_set, model, currency, collateral_value,
    initial, maintenance, excess, utilisation, status, call, complete): a row per account, its
    netting_set null, and one per set of those that have isolated sets. Where a model asks for it,
    `contributions` (account_id, model, level, method, instrument_id, amount). With agreements,
    `owners` (owner, model, level, venue_sum, joint, capped, saving, venues). None elsewhere.
    `group_pairs` (model, first, second, separate, together, offset, accounts) is for the report
    only and not written.

    Accounts of a model on files have levels of its own (SIMM: call and post) and, in `margins` and
    `sets`, null between requirement and complete. With a SIMM model, `simm` (model, portfolio_id,
    side, regulation, product_class, risk_class, margin_type, bucket, initial_margin). With a model
    of a crypto venue, `crypto` (model, account_id, netting_set, market, level, requirement,
    mark_to_market, cash, margin_value, worst_scenario). With a SPAN model, `span` (model,
    account_id, combined_commodity, level, currency, rate, scan_risk, active_scenario,
    intra_spread_charge, delivery_charge, inter_spread_credit, short_option_minimum, risk,
    net_option_value, requirement): amounts are in margin currency, `rate` of it for one unit of the
    commodity's `currency`.
    """

    margins: pl.DataFrame
    components: pl.DataFrame
    sets: pl.DataFrame
    groups: pl.DataFrame
    failures: pl.DataFrame
    group_totals: pl.DataFrame
    correlation: Correlation
    manifest: dict[str, Any]
    accounts: pl.DataFrame | None = None
    contributions: pl.DataFrame | None = None
    owners: pl.DataFrame | None = None
    group_pairs: pl.DataFrame | None = None
    simm: pl.DataFrame | None = None
    crypto: pl.DataFrame | None = None
    span: pl.DataFrame | None = None


def join_figures(parts: list[Figures]) -> Figures:
    """Figures of several tiles, one after another."""
    return Figures(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Figures)
        }
    )


def join_margins(parts: list[Margin]) -> Margin:
    """Margin of several tiles of accounts, one after another, as one."""
    first_set = np.cumsum([0, *(len(part.sets.requirement) for part in parts)])
    owners = [part.groups.owner + first for part, first in zip(parts, first_set, strict=False)]
    return Margin(
        level=parts[0].level,
        sets=join_figures([part.sets for part in parts]),
        groups=GroupFigures(
            owner=np.concatenate(owners),
            part=np.concatenate([part.groups.part for part in parts]),
            figures=join_figures([part.groups.figures for part in parts]),
        ),
        components={
            name: np.concatenate([part.components[name] for part in parts])
            for name in parts[0].components
        },
        account_worst=np.concatenate([part.account_worst for part in parts]),
        scenarios=parts[0].scenarios,
    )


def no_margin(sets: int, accounts: int) -> Margin:
    """The initial margin of sets that have no good position: nothing at all."""
    return Margin(
        "initial",
        _nothing(sets),
        GroupFigures(_none(0), _none(0), _nothing(0)),
        {},
        _none(accounts),
        (),
    )


def _nothing(rows: int) -> Figures:
    zero = np.zeros(rows)
    return Figures(zero, zero, zero, zero, np.zeros(rows, dtype=np.int64), _none(rows))


def _none(rows: int) -> Ints:
    return np.full(rows, -1, dtype=np.int64)
