"""Every floor of the TIMS rulebook as tables: a run's components name only the term in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.config import Config, Model
from gpu_margin.engine import prepare
from gpu_margin.failures import ConfigError
from gpu_margin.io.tables import Source
from gpu_margin.loading import Loaded, load_book
from gpu_margin.models.tims import Parameters, Prepared
from gpu_margin.tims_risk import Floor


@dataclass(frozen=True)
class TimsTerms:
    """The floors of every netting set that has a good row, in margin currency.

    `floors` (account_id, netting_set, model, floor, group, point, loss): the loss of every class,
    product group and portfolio group at every valuation point, a gain being a negative loss.
    `figures` (model, figure, value, status, source) are those in use, value as text.
    """

    floors: pl.DataFrame
    figures: pl.DataFrame


def tims_terms(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    model: str | None = None,
    backend: str | Backend = "auto",
    **frames: Source,
) -> TimsTerms:
    """The floors of the models of kind "tims" of a configuration, or of the one of that name.

    Arguments are those of `gpu_margin.run`. Raises `ConfigError` where no such model is of TIMS.
    """
    loaded = load_book(config, **frames)
    device = backends.load(backend) if isinstance(backend, str) else backend
    chosen = [one for one in loaded.chosen(model) if one.kind == "tims"]
    if not chosen:
        raise ConfigError('no model is of kind "tims": only those have such terms')
    return TimsTerms(
        pl.concat([table for one in chosen for table in _floors(loaded, one, device)]),
        pl.concat([_figures(one) for one in chosen]),
    )


def _floors(loaded: Loaded, model: Model, device: Backend) -> list[pl.DataFrame]:
    prepared = prepare(loaded, model, device)
    assert isinstance(prepared, Prepared)
    found = prepared.risk.floors(loaded.portfolio.netted)
    groups = prepared.risk.tables.groups
    to_host = device.to_host
    profit = to_host(found.classes.amount)
    return [
        _table(loaded, model, "class", groups.classes, found.classes, 0.0 - profit),
        *(
            _table(loaded, model, name, names, floor, to_host(floor.amount))
            for name, names, floor in (
                ("product group", groups.products, found.products),
                ("portfolio group", groups.portfolios, found.portfolios),
            )
        ),
    ]


def _table(
    loaded: Loaded, model: Model, name: str, names: tuple[str, ...], floor: Floor, loss: Any
) -> pl.DataFrame:
    """One row per entry of the floor and point."""
    portfolio, points = loaded.portfolio, loss.shape[1]
    owner, part = (np.repeat(codes, points) for codes in (floor.owner, floor.part))
    count = len(owner)
    return pl.DataFrame(
        {
            "account_id": portfolio.accounts.gather(portfolio.set_account[owner]),
            "netting_set": portfolio.sets.gather(owner),
            "model": pl.repeat(model.name, count, dtype=pl.String, eager=True),
            "floor": pl.repeat(name, count, dtype=pl.String, eager=True),
            "group": pl.Series(names, dtype=pl.String).gather(part),
            "point": pl.Series(np.tile(np.arange(1, points + 1), len(floor.owner)), dtype=pl.Int64),
            "loss": pl.Series(loss.ravel() + 0.0, dtype=pl.Float64),  # -0.0 becomes 0.0
        }
    )


def _figures(model: Model) -> pl.DataFrame:
    assert isinstance(model.parameters, Parameters)
    rows = [
        (model.name, one.name, str(one.value), one.status, one.source)
        for one in model.parameters.figures()
    ]
    columns = ("model", "figure", "value", "status", "source")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
