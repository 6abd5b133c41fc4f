"""Every term of the joint rulebook as tables: a run's components name only the one in force."""

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
from gpu_margin.models.joint import Prepared
from gpu_margin.portfolio import entry_rows

# By the codes of `Cells.volatility` modulo 3.
_VOLATILITY = pl.Series("volatility", ["same", "up", "down"])


@dataclass(frozen=True)
class JointTerms:
    """The terms of every netting set that has a good row, in margin currency.

    `figures` (account_id, netting_set, model, figure, amount) as `models.joint.Prepared.figures`
    names them; `grid_losses` (account_id, netting_set, model, underlying, loss, price_move,
    volatility): the signed m_u, and the cell in which it is lost.
    """

    figures: pl.DataFrame
    grid_losses: pl.DataFrame


def joint_terms(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    model: str | None = None,
    backend: str | Backend = "auto",
    **frames: Source,
) -> JointTerms:
    """The terms of the models of kind "joint" of a configuration, or of the one of that name.

    Arguments are those of `gpu_margin.run`. Raises `ConfigError` where no such model is joint.
    """
    loaded = load_book(config, **frames)
    device = backends.load(backend) if isinstance(backend, str) else backend
    found = []
    for one in loaded.chosen(model):
        if one.kind == "joint":
            prepared = prepare(loaded, one, device)
            assert isinstance(prepared, Prepared)
            found.append((one, prepared))
    if not found:
        raise ConfigError('no model is of kind "joint": only those have such terms')
    return JointTerms(
        pl.concat([_figures(loaded, *one) for one in found]),
        pl.concat([_grid_losses(loaded, *one) for one in found]),
    )


def _keys(loaded: Loaded, model: Model, sets: Any) -> pl.DataFrame:
    """account_id, netting_set and model of rows that belong to these sets (codes)."""
    portfolio = loaded.portfolio
    return pl.DataFrame(
        {
            "account_id": portfolio.accounts.gather(portfolio.set_account[sets]),
            "netting_set": portfolio.sets.gather(sets),
            "model": pl.repeat(model.name, len(sets), dtype=pl.String, eager=True),
        }
    )


def _figures(loaded: Loaded, model: Model, prepared: Prepared) -> pl.DataFrame:
    good = np.flatnonzero(loaded.portfolio.good > 0)
    figures = prepared.figures(loaded.portfolio.netted)
    keys = _keys(loaded, model, np.repeat(good, len(figures)))
    names = pl.Series("figure", list(figures) * len(good), dtype=pl.String)
    amounts = np.stack(list(figures.values()), axis=1)[good].ravel()
    return keys.with_columns(names, pl.Series("amount", amounts, dtype=pl.Float64))


def _grid_losses(loaded: Loaded, model: Model, prepared: Prepared) -> pl.DataFrame:
    found, cells = prepared.grid_losses(loaded.portfolio.netted), prepared.risk.tables.cells
    factors = pl.Series("underlying", loaded.market.history.factors, dtype=pl.String)
    way = cells.volatility[found.column, found.cell] % len(_VOLATILITY)
    owner = entry_rows(found.rows)
    return _keys(loaded, model, owner).with_columns(
        factors.gather(found.column),
        pl.Series("loss", found.sign * found.loss + 0.0, dtype=pl.Float64),
        pl.Series("price_move", cells.move[found.column, found.cell], dtype=pl.Float64),
        _VOLATILITY.gather(way),
    )
