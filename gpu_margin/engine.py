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
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gpu_margin import backend as backends
from gpu_margin import covariance, models
from gpu_margin.backend import Backend
from gpu_margin.config import Config, Model
from gpu_margin.devices import Device
from gpu_margin.failures import GpuMarginError
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
    run. A backend that fails on the way is given up and the run finished on another; the
    manifest's `lost_backends` says so.
    """
    report = progress or (lambda stage, done, total: None)
    seconds: dict[str, float] = {}
    device = Device(backends.load(backend) if isinstance(backend, str) else backend)
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
    device: Device,
    report: Progress,
    seconds: dict[str, float],
) -> list[Margin]:
    """The model's margin of all accounts, one entry per level."""
    portfolio = loaded.portfolio
    if not loaded.computable:
        return [no_margin(len(portfolio.sets), len(portfolio.accounts))]
    stage = f"margin {model.name}"
    report(stage, 0, len(portfolio.accounts))
    # An overflow is found in the result and becomes a failure of its account.
    with np.errstate(over="ignore", invalid="ignore"):
        tiles = list(_tiles(loaded, model, device, report, seconds))
    return [join_margins(list(level)) for level in zip(*tiles, strict=True)]


def _tiles(
    loaded: Loaded,
    model: Model,
    device: Device,
    report: Progress,
    seconds: dict[str, float],
) -> Iterator[list[Margin]]:
    """Margin of one tile of accounts after another.

    Where the device has too little memory the tile is halved; where it fails otherwise it is
    given up, and the run goes on from the same account on another.
    """
    stage, prepared, start = f"margin {model.name}", None, 0
    accounts, most = len(loaded.portfolio.accounts), _TILE_ACCOUNTS
    while start < accounts:
        stop = min(start + most, accounts)
        try:
            if prepared is None:
                with _timed(f"prepare {model.name}", seconds):
                    prepared = prepare(loaded, model, device.backend)
            with _timed(stage, seconds):
                margins = prepared.margin(loaded.portfolio.tile(start, stop))
        except GpuMarginError:
            raise
        except Exception as error:
            if isinstance(error, MemoryError) and prepared is not None and stop - start > 1:
                most = (stop - start) // 2
                continue
            device.give_up(stage, error)
            prepared = None
            continue
        yield margins
        start = stop
        report(stage, stop, accounts)


def _correlation(market: Market) -> Correlation:
    """Of all daily returns of the common history, for the report."""
    prices = market.history.prices
    returns = prices[1:] / prices[:-1] - 1.0
    if not len(returns):
        return Correlation((), np.zeros((0, 0)))
    return Correlation(market.history.factors, covariance.correlation(covariance.sample(returns)))


def _manifest(
    loaded: Loaded, device: Device, seconds: dict[str, float], tables: RunTables
) -> dict[str, Any]:
    """All that is needed to know what was computed from what, and to do it again."""
    config = loaded.config.model_dump(mode="json")
    parameters = json.dumps({**config, "inputs": None}, sort_keys=True)
    incomplete = tables.margins.filter(~tables.margins["complete"])["account_id"].n_unique()
    return {
        "gpu_margin": _version("gpu-margin"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "backend": {"name": device.backend.name, "device": device.backend.describe()},
        "lost_backends": device.lost,
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
            **{package: _version(package.replace("_", "-")) for package in _PACKAGES},
        },
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


@cache
def _version(package: str) -> str:
    return version(package)


@contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add to the seconds of a stage, also when it fails."""
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] = round(seconds.get(stage, 0.0) + time.perf_counter() - start, 6)
