"""A whole run: tables in, margin of every account out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import backend as backends
from gpu_margin import covariance, models
from gpu_margin.backend import Backend
from gpu_margin.collateral_market import with_assets
from gpu_margin.config import Config, Model
from gpu_margin.devices import Device
from gpu_margin.file_models import file_margins
from gpu_margin.file_tables import details, with_files
from gpu_margin.group_pairs import group_pairs
from gpu_margin.io.tables import Source
from gpu_margin.loading import Loaded, load
from gpu_margin.market import Market
from gpu_margin.result import Correlation, FileMargin, Run, no_margin
from gpu_margin.result_tables import RunTables, run_tables, totals
from gpu_margin.solvency import Covered, Netting, account_table, covered, netting, status_counts
from gpu_margin.tile_work import WITH_ASSETS, Answer, Beside, TileWork, joined
from gpu_margin.tiling import Clock, Lanes, Progress

_PACKAGES = ("gpu_margin", "numpy", "scipy", "polars", "pydantic", "plotly")


def run(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    backend: str | Backend = "auto",
    progress: Progress | None = None,
    **frames: Source,
) -> Run:
    """Margin of every account under every model of the configuration.

    `config` is a TOML file's path or the same as a dict; `backend` a name from `gpu-margin
    devices`, or a backend; `frames` (positions, instruments, history, ...: any key of `[inputs]`)
    replace the files of the same name by any table that speaks Arrow. Bad rows are in the result's
    `failures`. Raises `ConfigError` for a wrong configuration and `BackendUnavailable` where the
    backend cannot run. A backend that fails on the way is given up and the run finished on
    another; the manifest's `lost_backends` says so.
    """
    report = progress or (lambda stage, done, total: None)
    clock = Clock()
    device = Device(backends.load(backend) if isinstance(backend, str) else backend)
    with clock.timed("load"):
        report("load", 0, 1)
        loaded = load(config, **frames)
        report("load", 1, 1)
    # An overflow is found in the result and becomes a failure of its account.
    with np.errstate(over="ignore", invalid="ignore"):
        computed = _compute(loaded, device, report, clock)
        on_files = file_margins(loaded.on_files, device, report, clock)
    with clock.timed("tables"):
        return _finished(loaded, computed, on_files, device, clock)


def prepare(loaded: Loaded, model: Model, backend: Backend) -> models.Prepared:
    """The model in the loaded market, on the device."""
    return models.load(model.kind).prepare(model.parameters, loaded.market, backend)


@dataclass(frozen=True)
class _Computed:
    """What the devices said, per model, and what collateral and owners there are beside it."""

    answers: dict[str, Answer]
    covered: Covered | None
    netting: Netting | None
    pairs: pl.DataFrame | None


def _compute(loaded: Loaded, device: Device, report: Progress, clock: Clock) -> _Computed:
    """Margin of all accounts under all models, with collateral and between venues."""
    portfolio, found = loaded.portfolio, covered(loaded)
    if not loaded.computable:
        nothing = no_margin(len(portfolio.sets), len(portfolio.accounts))
        answer = Answer([nothing], [], np.zeros(0), np.zeros(0))
        return _Computed({model.name: answer for model in loaded.models}, found, None, None)
    beside = None if found is None else found.beside
    lanes = Lanes(device, _preparations(loaded, beside), clock)
    work = TileWork(loaded.models, loaded.market.instruments.ids, portfolio, beside, clock)
    tiles = lanes.run(portfolio, work, "margin", report)
    answers = {model.name: joined([tile[model.name] for tile in tiles]) for model in loaded.models}
    margins = {name: answer.margins for name, answer in answers.items()}
    between = netting(loaded, lanes, margins, report, clock)
    return _Computed(answers, found, between, group_pairs(loaded, lanes, margins, report, clock))


def _preparations(loaded: Loaded, beside: Beside | None) -> dict[str, Callable[[Backend], Any]]:
    """What prepares each model, and where collateral moves each in the market with assets."""
    found: dict[str, Callable[[Backend], Any]] = {
        model.name: partial(prepare, loaded, model) for model in loaded.models
    }
    if beside is None or loaded.assets is None:
        return found
    wider = replace(loaded, market=with_assets(loaded.market, loaded.assets))
    more = {model.name + WITH_ASSETS: partial(prepare, wider, model) for model in loaded.models}
    return {**found, **more}


def _finished(
    loaded: Loaded,
    computed: _Computed,
    on_files: Mapping[str, FileMargin],
    device: Device,
    clock: Clock,
) -> Run:
    """The tables of the run and its manifest."""
    answers, found, between = computed.answers, computed.covered, computed.netting
    margins = {name: answer.margins for name, answer in answers.items()}
    tables = with_files(
        run_tables(loaded.portfolio, loaded.market, margins, loaded.failures),
        on_files,
        list(loaded.config.models),
        loaded.config.currency,
    )
    borne = {} if between is None else between.borne
    accounts = None if found is None else account_table(loaded, found, answers, borne)
    allocated = [table for answer in answers.values() for table in answer.contributions]
    return Run(
        margins=tables.margins,
        components=tables.components,
        sets=tables.sets,
        groups=tables.groups,
        failures=tables.failures,
        group_totals=tables.group_totals,
        correlation=_correlation(loaded.market),
        manifest=_manifest(loaded, on_files, device, clock.seconds, tables, accounts),
        accounts=accounts,
        contributions=pl.concat(allocated) if allocated else None,
        owners=None if between is None else between.owners,
        group_pairs=computed.pairs,
        **details(on_files),
    )


def _correlation(market: Market) -> Correlation:
    """Of all daily returns of the common history, for the report."""
    prices = market.history.prices
    returns = prices[1:] / prices[:-1] - 1.0
    if not len(returns):
        return Correlation((), np.zeros((0, 0)))
    return Correlation(market.history.factors, covariance.correlation(covariance.sample(returns)))


def _manifest(
    loaded: Loaded,
    on_files: Mapping[str, FileMargin],
    device: Device,
    seconds: dict[str, float],
    tables: RunTables,
    accounts: pl.DataFrame | None,
) -> dict[str, Any]:
    """All that is needed to know what was computed from what, and to do it again."""
    config = loaded.config.model_dump(mode="json")
    incomplete = tables.margins.filter(~tables.margins["complete"])["account_id"].n_unique()
    return {
        "gpu_margin": _version("gpu-margin"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": {
            "name": device.backend.name,
            "device": "; ".join(shard.describe() for shard in device.shards),
        },
        "lost_backends": device.lost,
        "config": config,
        "parameters_sha256": _parameters_hash(config),
        **_unverified(loaded),
        "inputs": loaded.inputs,
        **({"on_files": _facts(loaded, on_files)} if on_files else {}),
        "counts": {
            **loaded.counts,
            **({"accounts": tables.margins["account_id"].n_unique()} if on_files else {}),
            "incomplete_accounts": incomplete,
            "failures": len(tables.failures),
        },
        "failures_by_reason": dict(tables.failures["reason"].value_counts(sort=True).iter_rows()),
        "totals": totals(tables.margins),
        **({} if accounts is None else {"statuses": status_counts(accounts)}),
        "seconds": seconds,
        "versions": {
            "python": platform.python_version(),
            **{package: _version(package.replace("_", "-")) for package in _PACKAGES},
        },
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def _unverified(loaded: Loaded) -> dict[str, dict[str, list[str]]]:
    """By model, the figures in use that its rulebook says are not confirmed."""
    said = {one.name: models.unverified(one.kind, one.parameters) for one in loaded.models}
    found = {name: figures for name, figures in said.items() if figures}
    return {"unverified": found} if found else {}


def _facts(loaded: Loaded, on_files: Mapping[str, FileMargin]) -> dict[str, Any]:
    """Of each model on files: what it says of itself, its files and its currency's rate."""
    return {
        one.model.name: {
            "kind": one.model.kind,
            **on_files[one.model.name].facts,
            "rate": one.rate,
            "counts": dict(one.inputs.counts),
            "files": one.inputs.files,
        }
        for one in loaded.on_files
    }


def _parameters_hash(config: dict[str, Any]) -> str:
    """SHA-256 of what does not say where files are."""
    settings = {
        name: {key: value for key, value in own.items() if key not in models.files(own["kind"])}
        for name, own in config["models"].items()
    }
    text = json.dumps({**config, "inputs": None, "models": settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _version(package: str) -> str:
    return version(package)
