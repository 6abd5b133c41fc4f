"""A whole run: tables in, margin of every account out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gpu_margin import backend as backends
from gpu_margin import covariance, models
from gpu_margin.backend import Backend
from gpu_margin.config import Config, Model
from gpu_margin.io.tables import Source
from gpu_margin.loading import Loaded, load
from gpu_margin.market import Market
from gpu_margin.result import Correlation, Margin, Run, join_margins, no_margin
from gpu_margin.result_tables import RunTables, run_tables, totals

# (stage, done, total): called as work goes on, for progress bars.
Progress = Callable[[str, int, int], None]

# Accounts margined between two steps of a progress bar; devices work in smaller blocks.
_TILE_ACCOUNTS = 10_000

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
    devices`, or a backend; `frames` (positions, instruments, history, fx) replace the files of
    the same name by any table that speaks Arrow. Bad rows are in the result's `failures`. Raises
    `ConfigError` for a wrong configuration and `BackendUnavailable` where the backend cannot
    run.
    """
    report = progress or (lambda stage, done, total: None)
    seconds: dict[str, float] = {}
    device = backends.load(backend) if isinstance(backend, str) else backend
    with _timed("load", seconds):
        report("load", 0, 1)
        loaded = load(config, **frames)
        report("load", 1, 1)
    margins = {
        model.name: _model_margins(loaded, model, device, report, seconds)
        for model in loaded.models
    }
    with _timed("tables", seconds):
        tables = run_tables(loaded.portfolio, loaded.market, margins, loaded.failures)
    return Run(
        margins=tables.margins,
        components=tables.components,
        sets=tables.sets,
        groups=tables.groups,
        failures=tables.failures,
        group_totals=tables.group_totals,
        correlation=_correlation(loaded.market),
        manifest=_manifest(loaded, device, seconds, tables),
    )


def prepare(loaded: Loaded, model: Model, backend: Backend) -> models.Prepared:
    """The model in the loaded market, on the device."""
    return models.load(model.kind).prepare(model.parameters, loaded.market, backend)


def _model_margins(
    loaded: Loaded,
    model: Model,
    backend: Backend,
    report: Progress,
    seconds: dict[str, float],
) -> list[Margin]:
    """The model's margin of all accounts, one entry per level."""
    portfolio = loaded.portfolio
    if not loaded.computable:
        return [no_margin(len(portfolio.sets), len(portfolio.accounts))]
    stage, accounts = f"margin {model.name}", len(portfolio.accounts)
    report(stage, 0, accounts)
    with _timed(f"prepare {model.name}", seconds):
        prepared = prepare(loaded, model, backend)
    tiles = []
    # An overflow is found in the result and becomes a failure of its account.
    with _timed(stage, seconds), np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, accounts, _TILE_ACCOUNTS):
            stop = min(start + _TILE_ACCOUNTS, accounts)
            tiles.append(prepared.margin(portfolio.tile(start, stop)))
            report(stage, stop, accounts)
    return [join_margins(list(level)) for level in zip(*tiles, strict=True)]


def _correlation(market: Market) -> Correlation:
    """Of all daily returns of the common history, for the report."""
    prices = market.history.prices
    returns = prices[1:] / prices[:-1] - 1.0
    if not len(returns):
        return Correlation((), np.zeros((0, 0)))
    return Correlation(market.history.factors, covariance.correlation(covariance.sample(returns)))


def _manifest(
    loaded: Loaded, backend: Backend, seconds: dict[str, float], tables: RunTables
) -> dict[str, Any]:
    """All that is needed to know what was computed from what, and to do it again."""
    config = loaded.config.model_dump(mode="json")
    parameters = json.dumps({**config, "inputs": None}, sort_keys=True)
    incomplete = tables.margins.filter(~tables.margins["complete"])["account_id"].n_unique()
    return {
        "gpu_margin": version("gpu-margin"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": {"name": backend.name, "device": backend.describe()},
        "config": config,
        "parameters_sha256": hashlib.sha256(parameters.encode()).hexdigest(),
        "inputs": loaded.inputs,
        "counts": {
            **loaded.counts,
            "incomplete_accounts": incomplete,
            "failures": len(tables.failures),
        },
        "failures_by_reason": dict(tables.failures["reason"].value_counts(sort=True).iter_rows()),
        "totals": totals(tables.margins),
        "seconds": seconds,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package.replace("_", "-")) for package in _PACKAGES},
        },
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


@contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 6)
