"""SPAN margin from files to tables: contracts, requirements, what-ifs."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version as version_of
from typing import Any

import numpy as np
import polars as pl
from pydantic import ValidationError

from gpu_margin import span_alone, span_figures, span_whatif
from gpu_margin.backend import Backend
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.io.tables import Source
from gpu_margin.span_batches import Work, work_on
from gpu_margin.span_file import SpanFile
from gpu_margin.span_files import (
    INITIAL,
    MAINTENANCE,
    Inputs,
    Parameters,
    SpanTerms,
    read_file,
    read_inputs,
)
from gpu_margin.span_tables import ACCOUNT_TYPES
from gpu_margin.span_whatif import WhatIfs
from gpu_margin.tiling import Progress

LEVELS = (MAINTENANCE, INITIAL)

_TABLES = ("margins", "totals", "formed", "positions", "alone")


@dataclass(frozen=True)
class SpanRun:
    """SPAN margin of accounts at one level, by a risk parameter file.

    `margins`, a row per account and combined commodity in money of its own currency: account_id,
    combined_commodity, currency, scan_risk, active_scenario (from 1), intra_spread_charge,
    delivery_charge, inter_spread_credit, short_option_minimum, risk, net_option_value, requirement
    (risk less net option value: below 0 where options are worth more).
    `totals`, a row per account and currency, or where one was named per account: account_id,
    currency, risk, net_option_value, requirement (never below 0), complete. An account that holds
    what cannot be margined is in no row of `margins`, has null here, and a row of `failures`.

    Where they were asked for: `formed` (account_id, kind, spread, legs, combined_commodity,
    currency, count, amount: a charge is positive, a credit negative); `positions` (account_id,
    contract_id, quantity, currency, requirement of the position alone) and `alone` (account_id,
    currency, positions, sum_alone, requirement, times: how often the sum is the requirement).
    """

    level: str
    margins: pl.DataFrame
    totals: pl.DataFrame
    failures: pl.DataFrame
    manifest: dict[str, Any]
    formed: pl.DataFrame | None = None
    positions: pl.DataFrame | None = None
    alone: pl.DataFrame | None = None

    def of(self, account: str) -> SpanRun:
        """The same of one account; the failures are all of them."""
        own = {
            name: table.filter(pl.col("account_id") == account)
            for name in _TABLES
            if (table := getattr(self, name)) is not None
        }
        return replace(self, **own)


def span(
    file: Parameters,
    positions: Source,
    accounts: Source | None = None,
    *,
    level: str = MAINTENANCE,
    account_type: str = "hedger",
    gross: bool = False,
    currency: str | None = None,
    account_class: str = "core",
    own_rates: bool = False,
    delta_places: int | None = None,
    spread_places: int | None = None,
    formed: bool = False,
    standalone: bool = False,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
) -> SpanRun:
    """SPAN margin of all accounts by an exchange's risk parameter file.

    `file` is a path (PA2 or SPAN XML, plain or zipped) or what `span_files.read_file` gave;
    `positions` (account_id, contract_id, quantity) and `accounts` (account_id; account_type:
    member, hedger or speculator; gross) are paths or frames. `level` is maintenance or initial;
    `account_type` and `gross` are of accounts that are told nothing else; `currency` converts
    totals by the file's own rates; `account_class` is core or reserve. `own_rates` reads XML for
    the account type and level alone, where types have rates of their own: what is refused for
    that reason says so. `delta_places`, `spread_places` round deltas, and numbers of spreads down.
    `formed` asks for the spreads, `standalone` for every position alone. Bad rows are in the
    result's `failures`.

    Raises `ConfigError` for a wrong setting or a missing file, and `BackendUnavailable` where the
    backend cannot run.
    """
    terms = _terms(level, account_type, gross, delta_places, spread_places)
    work = work_on(backend, progress)
    only = (account_type, level == INITIAL) if own_rates else None
    inputs = _read(work, file, positions, accounts, account_class, only)
    own, money = inputs.file, span_figures.money(inputs.file, currency)
    book, ids = inputs.book(terms), inputs.accounts
    found = work.margin(own, book, terms.terms(level), f"margin {level}", formed=formed)
    total = span_figures.totals(own, len(ids), found, money)
    portfolio = inputs.held.portfolio
    totals = span_figures.total_table(own, ids, total, money, portfolio.good, portfolio.bad)
    alone = None
    if standalone:
        alone = span_alone.alone(work, own, book, terms.terms(level), money, totals)
    lost = span_figures.lost_accounts(own, ids, found, total, money)
    failures = join_failures([inputs.failures, found.failures, lost])
    incomplete = totals.filter(~pl.col("complete"))["account_id"].n_unique()
    facts = {
        "level": level,
        "currency": currency,
        **terms.model_dump(),
        **_facts(work, inputs, incomplete_accounts=incomplete, failures=len(failures)),
    }
    return SpanRun(
        level=level,
        margins=span_figures.by_commodity(own, ids, found),
        totals=totals,
        failures=failures,
        manifest=facts,
        formed=span_figures.formed_table(own, ids, found) if formed else None,
        positions=None if alone is None else alone.positions,
        alone=None if alone is None else alone.accounts,
    )


@dataclass(frozen=True)
class Contracts:
    """What can be held by a file.

    `contracts`: contract_id, exchange, combined_commodity, product, type, future_month,
    option_month, right, strike, price, multiplier, delta, scan_long, scan_short: the last two are
    the worst losses of the risk array of one bought and one sold, at least 0, in money of the
    combined commodity. `failures`: lines of the file that could not be used, then combined
    commodities and contracts that cannot be margined. `facts` is what the file says of itself.
    """

    contracts: pl.DataFrame
    failures: pl.DataFrame
    facts: dict[str, str]


def contracts(
    file: Parameters, product: str | None = None, *, account_class: str = "core"
) -> Contracts:
    """The contracts of a file, or those of a product; `ConfigError` where there are none."""
    own, _ = read_file(file, account_class)
    failures = join_failures([own.failures, span_figures.refusals(own)])
    return Contracts(_chosen(_listed(own), product), failures, dict(own.facts))


def _listed(own: SpanFile) -> pl.DataFrame:
    known = own.contracts
    table = known.terms.select(
        *("contract_id", "exchange", "combined_commodity", "product", "type"),
        *("future_month", "option_month", "right", "strike", "price", "multiplier", "delta"),
    )
    decimals = own.commodities.decimals[own.slots.commodity[known.slot]].astype(np.float64)
    longs, shorts = (
        np.maximum(worst / 10.0**decimals, 0.0) + 0.0
        for worst in (known.array.max(axis=1), -known.array.min(axis=1))
    )
    return table.with_columns(
        pl.Series("scan_long", longs, dtype=pl.Float64),
        pl.Series("scan_short", shorts, dtype=pl.Float64),
    )


def _chosen(table: pl.DataFrame, product: str | None) -> pl.DataFrame:
    if product is None:
        return table
    chosen = table.filter(pl.col("product") == product)
    if chosen.is_empty():
        every = table["product"].unique().to_list()
        near = difflib.get_close_matches(product, every, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"product: the file has none that is named {product!r}{hint}")
    return chosen


def whatif(
    changes: Source | Sequence[Mapping[str, Any]],
    file: Parameters,
    positions: Source,
    accounts: Source | None = None,
    *,
    level: str = MAINTENANCE,
    account_type: str = "hedger",
    gross: bool = False,
    currency: str | None = None,
    account_class: str = "core",
    own_rates: bool = False,
    delta_places: int | None = None,
    spread_places: int | None = None,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
) -> WhatIfs:
    """What adding or removing contracts would do to requirements: any number of what-ifs at once.

    `changes` (account_id, contract_id, quantity; optional whatif_id, action) is a path, a frame or
    a list of dicts: see `span_whatif`. The rest is as in `span`.
    """
    terms = _terms(level, account_type, gross, delta_places, spread_places)
    work = work_on(backend, progress)
    only = (account_type, level == INITIAL) if own_rates else None
    inputs = _read(work, file, positions, accounts, account_class, only)
    money = span_figures.money(inputs.file, currency)
    found = span_whatif.answered(work, inputs, changes, terms, level, money)
    facts = {
        "level": level,
        "currency": currency,
        **terms.model_dump(),
        **_facts(work, inputs, whatifs=found.count, failures=len(found.failures)),
    }
    return replace(found, manifest=facts)


def _terms(
    level: str, account_type: str, gross: bool, delta_places: int | None, spread_places: int | None
) -> SpanTerms:
    if level not in LEVELS:
        raise ConfigError(f"level: {level!r} is none of {', '.join(LEVELS)}")
    given = {
        "account_type": account_type,
        "gross": gross,
        "delta_places": delta_places,
        "spread_places": spread_places,
    }
    try:
        return SpanTerms.model_validate(given)
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']} "
            f"(given: {fault['input']!r})"
            for fault in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from error


def _read(
    work: Work,
    file: Parameters,
    positions: Source,
    accounts: Source | None,
    account_class: str,
    only: tuple[str, bool] | None,
) -> Inputs:
    work.report("read", 0, 1)
    with work.clock.timed("read"):
        inputs = read_inputs(file, positions, accounts, account_class, only)
    work.report("read", 1, 1)
    told = inputs.held.account_type
    if only is not None and (told[told >= 0] != ACCOUNT_TYPES.index(only[0])).any():
        raise ConfigError(f"own_rates: the accounts are not all of account type {only[0]}")
    return inputs


def _facts(work: Work, inputs: Inputs, **counts: int) -> dict[str, Any]:
    """What was computed, on what, in what time."""
    device = work.device
    return {
        "gpu_margin": version_of("gpu-margin"),
        "rulebook": "span",
        "facts": dict(inputs.file.facts),
        "backend": {
            "name": device.backend.name,
            "device": "; ".join(shard.describe() for shard in device.shards),
        },
        "lost_backends": device.lost,
        "counts": {**inputs.counts, **counts},
        "files": inputs.files,
        "seconds": work.clock.seconds,
    }
