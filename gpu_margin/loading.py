"""All inputs of a run, checked and encoded: what can be known before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import models
from gpu_margin.config import Config, Model, load_config, load_models, on_positions
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.holdings import Assets, Holdings
from gpu_margin.io.collateral_tables import (
    ASSET_COLUMNS,
    ASSET_OPTIONAL,
    COLLATERAL_COLUMNS,
    COLLATERAL_OPTIONAL,
    load_assets,
    load_holdings,
)
from gpu_margin.io.mark_tables import MARK_COLUMNS, MARK_OPTIONAL, load_marks, marked
from gpu_margin.io.market_tables import (
    FX_COLUMNS,
    HISTORY_COLUMNS,
    INSTRUMENT_COLUMNS,
    INSTRUMENT_OPTIONAL,
    LoadedMarket,
    load_market,
)
from gpu_margin.io.ownership_tables import (
    ACCOUNT_COLUMNS,
    AGREEMENT_COLUMNS,
    AGREEMENT_LISTS,
    load_ownership,
)
from gpu_margin.io.position_tables import POSITION_COLUMNS, POSITION_OPTIONAL, load_portfolio
from gpu_margin.io.tables import Source, Table, absent_table, read_table
from gpu_margin.market import Market
from gpu_margin.offsets import PRODUCT_GROUP
from gpu_margin.ownership import Ownership
from gpu_margin.portfolio import Portfolio

# Columns that a table must have, and may have; a table may be absent where that is said.
_TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "positions": (POSITION_COLUMNS, POSITION_OPTIONAL),
    "instruments": (INSTRUMENT_COLUMNS, INSTRUMENT_OPTIONAL),
    "history": (HISTORY_COLUMNS, ()),
    "fx": (FX_COLUMNS, ()),
    "collateral": (COLLATERAL_COLUMNS, COLLATERAL_OPTIONAL),
    "assets": (ASSET_COLUMNS, ASSET_OPTIONAL),
    "accounts": (ACCOUNT_COLUMNS, ()),
    "agreements": (AGREEMENT_COLUMNS, ()),
    "marks": (MARK_COLUMNS, MARK_OPTIONAL),
}
_LISTS = {"agreements": AGREEMENT_LISTS}
_REQUIRED = ("positions", "instruments", "history")
# What says nothing without another table, and why.
_NEEDS = {
    "collateral": ("assets", "what the assets of the collateral are worth"),
    "agreements": ("accounts", "the owners and venues of the accounts"),
}


@dataclass(frozen=True)
class FileModel:
    """A model on files, what it has read, and margin currency for one unit of its own."""

    model: Model
    inputs: models.FileInputs
    rate: float

    @property
    def failures(self) -> pl.DataFrame:
        """What the model's parameters do not allow among good rows."""
        return models.on_files(self.model.kind).check(self.model.parameters, self.inputs)


@dataclass(frozen=True)
class Loaded:
    """The encoded inputs and the failures on the way.

    `models` are those on positions, `on_files` the others; models on the same files share what was
    read. Without the former, market and portfolio are empty.

    `assets`, `holdings`, `ownership` and `marks` are None where their tables were not given
    (assets, collateral, accounts, marks). `marks` are those that count, as `LoadedMarks` has them;
    they are in the market already. `inputs` says of each table its path (None for a frame), SHA-256
    and number of rows.
    """

    config: Config
    models: list[Model]
    market: Market
    portfolio: Portfolio
    failures: pl.DataFrame
    inputs: dict[str, dict[str, Any]]
    assets: Assets | None = None
    holdings: Holdings | None = None
    ownership: Ownership | None = None
    marks: pl.DataFrame | None = None
    on_files: tuple[FileModel, ...] = ()

    @property
    def computable(self) -> bool:
        """Whether any account has a good position."""
        return bool(self.portfolio.good.any())

    def chosen(self, model: str | None) -> list[Model]:
        """The model on positions of that name, all for None; `ConfigError` where there is none."""
        found = [one for one in self.models if model in (None, one.name)]
        if not found:
            known = ", ".join(one.name for one in self.models)
            if model in self.config.models:
                raise ConfigError(
                    f"model {model!r} has files of its own and no positions; those with positions "
                    f"are {known or 'none'}"
                )
            raise ConfigError(f"the run has no model {model!r}; its models are {known}")
        return found

    @property
    def counts(self) -> dict[str, int]:
        """How much there is of everything that was given."""
        files = dict[str, int]()
        for inputs in unlike(one.inputs for one in self.on_files):
            for name, count in inputs.counts.items():
                files[name] = files.get(name, 0) + count
        book = self._of_positions if self.models else {}
        return {**book, **files, "failures": len(self.failures)}

    @property
    def _of_positions(self) -> dict[str, int]:
        incomplete = np.unique(self.portfolio.set_account[self.portfolio.bad > 0])
        parts = {
            "assets": self.assets,
            "collateral_sets": self.holdings,
            "owned_accounts": self.ownership,
            "agreements": None if self.ownership is None else self.ownership.agreements,
            "marks": self.marks,
        }
        return {
            "accounts": len(self.portfolio.accounts),
            "incomplete_accounts": len(incomplete),
            "netting_sets": len(self.portfolio.sets),
            "positions": len(self.portfolio.rows.value),
            "instruments": len(self.market.instruments),
            "factors": len(self.market.history.factors),
            "history_dates": len(self.market.history.dates),
            **{name: len(part) for name, part in parts.items() if part is not None},
        }


def load(config: str | Path | Mapping[str, Any] | Config, **frames: Source) -> Loaded:
    """Read and check everything that a configuration names.

    `frames` (positions, instruments, history, fx, collateral, assets, accounts, agreements, marks)
    stand in for the files of the same name: a path, or a polars, pandas or Arrow table. Raises
    `ConfigError` for what no row is to blame for: a wrong key, an absent file, a history that is
    too short.
    """
    config = config if isinstance(config, Config) else load_config(config)
    every = load_models(config)
    loaded, rates = _book(config, [model for model in every if not model.on_files], frames)
    others = _on_files([model for model in every if model.on_files], rates, config.currency)
    found = [inputs.failures for inputs in unlike(one.inputs for one in others)]
    return replace(loaded, on_files=others, failures=join_failures([loaded.failures, *found]))


def load_book(config: str | Path | Mapping[str, Any] | Config, **frames: Source) -> Loaded:
    """The same for those who know positions only: models on files are passed over.

    Raises `ConfigError` where there are no others.
    """
    config = config if isinstance(config, Config) else load_config(config)
    return replace(load(on_positions(config), **frames), config=config)


def unlike(inputs: Iterable[models.FileInputs]) -> list[models.FileInputs]:
    """Each once, for models may share them."""
    return list({id(one): one for one in inputs}.values())


def _book(
    config: Config, rulebooks: list[Model], frames: Mapping[str, Source]
) -> tuple[Loaded, pl.DataFrame]:
    """All but the models on files, and rates (currency, fx) into margin currency."""
    sources = _sources(config, frames, bool(rulebooks))
    labels = label_columns(rulebooks)
    tables = {name: read_input(name, source, labels) for name, source in sources.items()}
    given = {name: tables[name] for name, source in sources.items() if source is not None}
    marks = load_marks(tables["marks"], tables["instruments"], tables["history"])
    market = load_market(
        marked(tables["instruments"], marks.marks),
        tables["history"],
        tables["fx"],
        config.valuation_date,
        config.currency,
        labels,
    )
    book = load_portfolio(tables["positions"], market.codes)
    around = _around(given, market)
    loaded = Loaded(
        config=config,
        models=rulebooks,
        market=market.market,
        portfolio=book.portfolio,
        failures=join_failures([book.failures, market.failures, marks.failures, around.failures]),
        inputs={name: _description(table, sources[name]) for name, table in given.items()},
        assets=around.assets,
        holdings=around.holdings,
        ownership=around.ownership,
        marks=marks.marks if "marks" in given else None,
    )
    _check_models(loaded)
    return loaded, market.rates


def _on_files(rulebooks: list[Model], rates: pl.DataFrame, currency: str) -> tuple[FileModel, ...]:
    """Models on files with what they read: the same files once."""
    rate_of, read = dict(rates.iter_rows()), dict[Any, models.FileInputs]()
    found = []
    for model in rulebooks:
        rulebook = models.on_files(model.kind)
        own = models.currency(model.kind, model.parameters)
        try:
            if own not in rate_of:
                raise ConfigError(
                    f"its margin is in {own}: for currency {currency!r}, name "
                    f"inputs.fx with a row {own}, its price in {currency}"
                )
            names = (getattr(model.parameters, name) for name in models.read_by(model.kind))
            key = (rulebook.load, *names)  # rulebooks of one kind of file share how it is read
            if key not in read:
                read[key] = rulebook.load(model.parameters)
        except ConfigError as error:
            raise ConfigError(f"models.{model.name}: {error}") from error
        found.append(FileModel(model, read[key], rate_of[own]))
    return tuple(found)


def _sources(
    config: Config, frames: Mapping[str, Source], with_positions: bool
) -> dict[str, Source | None]:
    """Where each table comes from, None where it was not given.

    Without a model on positions nobody asks for any but rates.
    """
    unknown = sorted(set(frames) - set(_TABLES))
    if unknown:
        raise ConfigError(f"unknown input {unknown[0]!r}; inputs are {', '.join(_TABLES)}")
    sources = {**config.inputs.model_dump(), **frames}
    if not with_positions:
        for name, source in sources.items():
            if source is not None and name != "fx":
                raise ConfigError(f"inputs.{name}: no model of the run is on positions: remove it")
        return sources
    for name in _REQUIRED:
        if sources[name] is None:
            raise ConfigError(f"inputs.{name}: missing: name the file that has the {name}")
    for name, (other, why) in _NEEDS.items():
        if sources[name] is not None and sources[other] is None:
            raise ConfigError(f"inputs.{name}: needs inputs.{other}, which has {why}: name it too")
    return sources


def label_columns(rulebooks: list[Model]) -> tuple[str, ...]:
    """Columns of the instruments table that models name, beside those that are always read."""
    named = {getattr(model.parameters, "offset_column", PRODUCT_GROUP) for model in rulebooks}
    return tuple(sorted(named - {PRODUCT_GROUP}))


def read_input(name: str, source: Source | None, labels: tuple[str, ...]) -> Table:
    """The input of that name, without rows where it was not given; `labels` as `label_columns`."""
    required, optional = _TABLES[name]
    if name == "instruments":
        known = (*required, *optional)
        optional = (*optional, *(label for label in labels if label not in known))
    if source is None:
        return absent_table(name, required)
    return read_table(source, name, required, optional, _LISTS.get(name, ()))


@dataclass(frozen=True)
class _Around:
    """What stands around a portfolio: each None where its tables were not given."""

    assets: Assets | None
    holdings: Holdings | None
    ownership: Ownership | None
    failures: pl.DataFrame


def _around(given: Mapping[str, Table], market: LoadedMarket) -> _Around:
    """Collateral and ownership from those tables that were given."""
    assets = holdings = ownership = None
    if "assets" in given:
        assets = load_assets(given["assets"], market.rates, market.prices, market.market)
    if assets is not None and "collateral" in given:
        holdings = load_holdings(given["collateral"], assets.codes)
    if "accounts" in given:
        agreements = given.get("agreements", absent_table("agreements", AGREEMENT_COLUMNS))
        ownership = load_ownership(given["accounts"], agreements)
    found = [part.failures for part in (assets, holdings, ownership) if part is not None]
    return _Around(
        assets=None if assets is None else assets.assets,
        holdings=None if holdings is None else holdings.holdings,
        ownership=None if ownership is None else ownership.ownership,
        failures=join_failures(found),
    )


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
