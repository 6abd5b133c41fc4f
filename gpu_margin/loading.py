"""All inputs of a run, checked and encoded: what can be known before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import models
from gpu_margin.config import Config, Model, load_config, load_models
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.io.market_tables import (
    FX_COLUMNS,
    HISTORY_COLUMNS,
    INSTRUMENT_COLUMNS,
    INSTRUMENT_OPTIONAL,
    load_market,
)
from gpu_margin.io.position_tables import POSITION_COLUMNS, POSITION_OPTIONAL, load_portfolio
from gpu_margin.io.tables import Source, Table, absent_table, read_table
from gpu_margin.market import Market
from gpu_margin.portfolio import Portfolio

# Columns that a table must have, and may have; a table may be absent where that is said.
_TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "positions": (POSITION_COLUMNS, POSITION_OPTIONAL),
    "instruments": (INSTRUMENT_COLUMNS, INSTRUMENT_OPTIONAL),
    "history": (HISTORY_COLUMNS, ()),
    "fx": (FX_COLUMNS, ()),
}
_MAY_BE_ABSENT = ("fx",)


@dataclass(frozen=True)
class Loaded:
    """The encoded inputs and the failures on the way.

    `inputs` says of each table its path (None for a frame), SHA-256 and number of rows.
    """

    config: Config
    models: list[Model]
    market: Market
    portfolio: Portfolio
    failures: pl.DataFrame
    inputs: dict[str, dict[str, Any]]

    @property
    def computable(self) -> bool:
        """Whether any account has a good position."""
        return bool(self.portfolio.good.any())

    @property
    def counts(self) -> dict[str, int]:
        """How much there is of everything."""
        incomplete = np.unique(self.portfolio.set_account[self.portfolio.bad > 0])
        return {
            "accounts": len(self.portfolio.accounts),
            "incomplete_accounts": len(incomplete),
            "netting_sets": len(self.portfolio.sets),
            "positions": len(self.portfolio.rows.value),
            "instruments": len(self.market.instruments),
            "factors": len(self.market.history.factors),
            "history_dates": len(self.market.history.dates),
            "failures": len(self.failures),
        }


def load(config: str | Path | Mapping[str, Any] | Config, **frames: Source) -> Loaded:
    """Read and check everything that a configuration names.

    `frames` (positions, instruments, history, fx) stand in for the files of the same name: a
    path, or a polars, pandas or Arrow table. Raises `ConfigError` for what no row is to blame
    for: a wrong key, an absent file, a history that is too short.
    """
    config = config if isinstance(config, Config) else load_config(config)
    unknown = sorted(set(frames) - set(_TABLES))
    if unknown:
        raise ConfigError(f"unknown input {unknown[0]!r}; inputs are {', '.join(_TABLES)}")
    sources = {**config.inputs.model_dump(), **frames}
    tables = {name: _table(name, sources[name]) for name in _TABLES}
    market = load_market(
        tables["instruments"],
        tables["history"],
        tables["fx"],
        config.valuation_date,
        config.currency,
    )
    book = load_portfolio(tables["positions"], market.codes)
    loaded = Loaded(
        config=config,
        models=load_models(config),
        market=market.market,
        portfolio=book.portfolio,
        failures=join_failures([book.failures, market.failures]),
        inputs={
            name: _description(tables[name], source)
            for name, source in sources.items()
            if source is not None
        },
    )
    _check_models(loaded)
    return loaded


def _table(name: str, source: Source | None) -> Table:
    required, optional = _TABLES[name]
    if source is not None:
        return read_table(source, name, required, optional)
    if name in _MAY_BE_ABSENT:
        return absent_table(name, required)
    raise ConfigError(f"inputs.{name}: missing: name the file that has the {name}")


def _description(table: Table, source: Source) -> dict[str, Any]:
    path = str(Path(source).resolve()) if isinstance(source, (str, Path)) else None
    return {"path": path, "sha256": table.sha256, "rows": len(table.frame)}


def _check_models(loaded: Loaded) -> None:
    """What the data must give to each model: without it no account could be computed."""
    if not loaded.computable:
        return
    for model in loaded.models:
        try:
            models.load(model.kind).check(model.parameters, loaded.market)
        except ConfigError as error:
            raise ConfigError(f"models.{model.name}: {error}") from error
