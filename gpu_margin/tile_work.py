"""What is done with a tile of accounts: margin, allocation, and what collateral does beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.allocation import contributions
from gpu_margin.allocation_tables import contribution_table
from gpu_margin.config import Model
from gpu_margin.covers import Held
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, Rows, rows_at, side_by_side
from gpu_margin.result import Margin, join_margins
from gpu_margin.result_tables import usable_sets
from gpu_margin.tiling import Clock, Tile, stage_of

Floats = NDArray[np.float64]

# What the model prepared in the market with assets is called.
WITH_ASSETS = " with assets"


@dataclass(frozen=True)
class Beside:
    """Collateral beside positions, `held` [set of all] with `units` [entry] of each asset.

    In scenarios, units join the positions; otherwise the mean loss of a unit in the tail of the
    set's requirement is asked for.
    """

    held: Held
    units: Floats
    in_scenarios: bool


@dataclass(frozen=True)
class Answer:
    """One model's answer for a tile.

    `rates` [entry of held] is the mean loss of one unit, `covered` [set] what positions and
    collateral require together; both empty where nobody asked. `contributions` is a table.
    """

    margins: list[Margin]
    contributions: list[pl.DataFrame]
    rates: Floats
    covered: Floats


@dataclass(frozen=True)
class TileWork:
    """The work on a tile, under all models; `whole` is what it is a tile of.

    `instruments` are the ids of the market.
    """

    models: list[Model]
    instruments: pl.Series
    whole: Portfolio
    beside: Beside | None
    clock: Clock

    def __call__(
        self, prepared: Mapping[str, Prepared], tile: Tile, portfolio: Portfolio
    ) -> dict[str, Answer]:
        """The answer of every model."""
        first = int(np.searchsorted(self.whole.set_account, tile.start))
        return {
            model.name: self._answer(model, prepared, portfolio, first) for model in self.models
        }

    def _answer(
        self,
        model: Model,
        prepared: Mapping[str, Prepared],
        portfolio: Portfolio,
        first_set: int,
    ) -> Answer:
        with stage_of(f"margin {model.name}", self.clock):
            margins = prepared[model.name].margin(portfolio)
        tables = []
        if model.options.allocation:
            with stage_of(f"allocation {model.name}", self.clock):
                tables = [self._contributions(model, prepared[model.name], portfolio, margins)]
        rates, covered = np.zeros(0), np.zeros(0)
        if self.beside is not None:
            with stage_of(f"collateral {model.name}", self.clock):
                both = prepared[model.name + WITH_ASSETS]
                rates, covered = _beside(both, self.beside, portfolio.netted, first_set)
        return Answer(margins, tables, rates, covered)

    def _contributions(
        self, model: Model, prepared: Prepared, portfolio: Portfolio, margins: list[Margin]
    ) -> pl.DataFrame:
        initial = next(margin for margin in margins if margin.level == "initial")
        allocation = contributions(prepared, portfolio, initial.sets.requirement)
        usable = usable_sets(portfolio, initial)
        return contribution_table(
            portfolio, self.instruments, allocation, model.name, initial.level, usable
        )


def joined(parts: list[Answer]) -> Answer:
    """Answers of several tiles, one after another, as one."""
    levels = zip(*(part.margins for part in parts), strict=True)
    return Answer(
        margins=[join_margins(list(level)) for level in levels],
        contributions=[table for part in parts for table in part.contributions],
        rates=np.concatenate([part.rates for part in parts]),
        covered=np.concatenate([part.covered for part in parts]),
    )


def _beside(
    prepared: Prepared, beside: Beside, rows: Rows, first_set: int
) -> tuple[Floats, Floats]:
    """Mean losses [entry] of collateral, or what it requires with the positions [set]."""
    offsets = beside.held.rows.offsets[first_set : first_set + len(rows) + 1]
    own = slice(int(offsets[0]), int(offsets[-1]))
    held = Rows(offsets - offsets[0], beside.held.rows.column[own], beside.units[own])
    if beside.in_scenarios:
        return np.zeros(0), prepared.require(side_by_side(rows, held)).amount
    asked = np.flatnonzero(np.diff(held.offsets) > 0)
    probes = Rows(np.append(held.offsets[asked], held.offsets[-1]), held.column, held.value)
    return prepared.loss_rates(rows_at(rows, asked), probes, "instrument"), np.zeros(0)
