"""Margin on a crypto venue from files to tables: requirements, what-ifs, liquidation prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin import crypto_liquidation, crypto_study, crypto_tables, crypto_whatif
from gpu_margin.backend import Backend
from gpu_margin.crypto_batches import Opened, opened
from gpu_margin.crypto_files import CURRENCY, Inputs
from gpu_margin.crypto_liquidation import Liquidation
from gpu_margin.crypto_study import Study
from gpu_margin.crypto_whatif import WhatIfs
from gpu_margin.failures import join_failures
from gpu_margin.io.tables import Source
from gpu_margin.tiling import Progress

DEFAULT = "derive_pm2"

Feeds = str | Path | Mapping[str, Any] | Inputs

_TABLES = ("margins", "components", "figures", "scenarios")


@dataclass(frozen=True)
class CryptoRun:
    """Margin of every netting set (subaccount) on a crypto venue, in `currency`.

    `margins`: account_id, netting_set, market, level (initial, maintenance), requirement,
    mark_to_market, cash, margin_value, worst_scenario, complete. A margin value is mark-to-market
    and cash less the requirement. A set that cannot be margined has null for its amounts and a row
    of `failures` (reason, source, row, field, value). `components` (account_id, netting_set, level,
    component, amount) add up to the requirements; `figures` (account_id, netting_set, figure,
    amount) are what else the rulebook tells. `scenarios` (account_id, netting_set, scenario, pnl)
    is there where it was asked for. `manifest` says what was computed from what.
    """

    rulebook: str
    currency: str
    margins: pl.DataFrame
    components: pl.DataFrame
    figures: pl.DataFrame
    failures: pl.DataFrame
    manifest: dict[str, Any]
    scenarios: pl.DataFrame | None = None

    def of(self, account: str) -> CryptoRun:
        """The same of one account; the failures are all of them."""
        own = {
            name: table.filter(pl.col("account_id") == account)
            for name in _TABLES
            if (table := getattr(self, name)) is not None
        }
        return replace(self, **own)


def crypto(
    rulebook: str,
    feeds: Feeds,
    positions: Source | None = None,
    balances: Source | None = None,
    *,
    table: str | None = None,
    figures: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    scenarios: bool = False,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
) -> CryptoRun:
    """Initial and maintenance margin of all accounts on a crypto venue.

    `rulebook` is one of `crypto_batches.kinds()`; `feeds`, `positions` and `balances` are files of
    ours or a venue's own answers, or the same in memory (JSON as a dict, tables as frames); `feeds`
    may be the `Inputs` that `crypto_files.read_crypto` gave, with all three.
    `table` is the version of the rulebook's numbers, `figures` replaces single ones; `settings` are
    what else the rulebook's parameters know. `scenarios` asks for the P&L of every scenario. Bad
    rows are in the result's `failures`.

    Raises `ConfigError` for a wrong setting or a missing file, and `BackendUnavailable` where the
    backend cannot run.
    """
    asked = _open(rulebook, feeds, positions, balances, table, figures, settings, backend, progress)
    work, inputs = asked.work, asked.inputs
    with work.clock.timed("margin"):
        quoted = work.quoted(inputs.market)
        found = quoted.margin(inputs.book, f"margin {rulebook}", pnl=scenarios)
    book, market = inputs.book, inputs.market
    run = CryptoRun(
        rulebook=rulebook,
        currency=CURRENCY,
        margins=crypto_tables.margins(book, market, found),
        components=crypto_tables.components(book, found),
        figures=crypto_tables.figures(book, found),
        failures=join_failures(
            [inputs.failures, found.failures, crypto_tables.overflows(book, found)]
        ),
        manifest={},
        scenarios=crypto_tables.scenarios(book, found) if found.pnl is not None else None,
    )
    incomplete = run.margins.filter(~pl.col("complete"))["account_id"].n_unique()
    run.manifest.update(_facts(asked, incomplete_accounts=incomplete, failures=len(run.failures)))
    return run


def whatif(
    requests: Sequence[Mapping[str, Any]] | Mapping[str, Any],
    rulebook: str,
    feeds: Feeds,
    positions: Source | None = None,
    balances: Source | None = None,
    *,
    table: str | None = None,
    figures: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
) -> WhatIfs:
    """What trades would do to margins: any number of what-ifs, in one batch.

    A request has the shape of Deribit's simulations: see `crypto_whatif`. The rest is as in
    `crypto`.
    """
    asked = _open(rulebook, feeds, positions, balances, table, figures, settings, backend, progress)
    with asked.work.clock.timed("what-ifs"):
        found = crypto_whatif.answered(asked.work, asked.inputs, requests)
    found.manifest.update(_facts(asked, whatifs=found.count, failures=len(found.failures)))
    return found


def liquidation(
    rulebook: str,
    feeds: Feeds,
    positions: Source | None = None,
    balances: Source | None = None,
    *,
    underlyings: Sequence[str] | None = None,
    table: str | None = None,
    figures: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
) -> Liquidation:
    """How far every set is from liquidation, and at which prices it would be liquidated.

    `underlyings` are those whose price is moved (default: all of the feeds), one at a time. The
    rest is as in `crypto`.
    """
    asked = _open(rulebook, feeds, positions, balances, table, figures, settings, backend, progress)
    with asked.work.clock.timed("liquidation"):
        auctions = rulebook.startswith("derive_")
        found = crypto_liquidation.liquidations(
            asked.work, asked.inputs, underlyings, auctions=auctions
        )
    found.manifest.update(_facts(asked, failures=len(found.failures)))
    return found


def study(
    moves: Mapping[str, Mapping[str, Any]],
    rulebook: str,
    feeds: Feeds,
    positions: Source | None = None,
    balances: Source | None = None,
    *,
    table: str | None = None,
    figures: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
) -> Study:
    """What all accounts would have, and would have to have, in other markets.

    `moves` by name are such as {"prices": {"BTC": 0.8, "ETH": 0.75}, "volatility": 1.5}: factors on
    the prices of underlyings (default 1) and on all implied volatilities. The rest is as in
    `crypto`.
    """
    asked = _open(rulebook, feeds, positions, balances, table, figures, settings, backend, progress)
    with asked.work.clock.timed("study"):
        found = crypto_study.studied(asked.work, asked.inputs, moves)
    found.manifest.update(_facts(asked, moves=len(moves), failures=len(found.failures)))
    return found


def _open(
    rulebook: str,
    feeds: Feeds,
    positions: Source | None,
    balances: Source | None,
    table: str | None,
    figures: Mapping[str, Any] | None,
    settings: Mapping[str, Any] | None,
    backend: str | Backend,
    progress: Progress | None,
) -> Opened:
    given = {"table": table, "figures": figures, **(settings or {})}
    return opened(rulebook, feeds, positions, balances, given, backend, progress)


def _facts(asked: Opened, **counts: int) -> dict[str, Any]:
    """What was computed, on what, in what time."""
    device, market = asked.work.device, asked.inputs.market
    shown = asked.parameters.model_dump(mode="json", exclude={"feeds", "positions", "balances"})
    return {
        "gpu_margin": version_of("gpu-margin"),
        "rulebook": asked.kind,
        "currency": CURRENCY,
        "settings": shown,
        "time": datetime.fromtimestamp(market.time, UTC).isoformat(),
        "backend": {
            "name": device.backend.name,
            "device": "; ".join(shard.describe() for shard in device.shards),
        },
        "lost_backends": device.lost,
        "counts": {**asked.inputs.counts, **counts},
        "files": asked.inputs.files,
        "seconds": asked.work.clock.seconds,
    }
