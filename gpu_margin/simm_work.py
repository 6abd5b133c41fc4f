"""SIMM of a CRIF as tables in USD: all levels, totals, contributions, and what trades change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import Crif
from gpu_margin.devices import Device
from gpu_margin.failures import join_failures
from gpu_margin.models.simm.calculation import Parameters, SimmResult
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.simm_attribution import attributed
from gpu_margin.simm_batches import results
from gpu_margin.simm_whatif import Changed, before, each_trade
from gpu_margin.tiling import Clock, Progress

Floats = NDArray[np.float64]
Tables = tuple[pl.DataFrame, pl.DataFrame]


@dataclass(frozen=True)
class Margined:
    """A CRIF's margin in USD, null where it is unknown; the tables of `simm_run.SimmRun`.

    `failures` are those that the rules found; `contributions` are by risk factor and by trade, None
    where they were not asked for.
    """

    levels: pl.DataFrame
    totals: pl.DataFrame
    failures: pl.DataFrame
    contributions: Tables | None


@dataclass(frozen=True)
class Answered:
    """What all trades change together, and each by itself; in USD.

    `failures` are those that the rules found before the trades.
    """

    changes: pl.DataFrame
    trades: pl.DataFrame
    failures: pl.DataFrame


@dataclass(frozen=True)
class Work:
    """What is done on a device, who is told how far it is, and how long it takes."""

    device: Device
    report: Progress
    clock: Clock

    def margined(self, crif: Crif, parameters: Parameters, attribution: bool = False) -> Margined:
        """All portfolios of a CRIF."""
        levels, totals, failures, contributions = [], [], [], []
        stage = f"SIMM {parameters.version}"
        with self.clock.timed("margin"):
            for result in results(
                crif, parameters, self.device, self.report, stage, traced=attribution
            ):
                levels.append(_known(result, result.table()))
                totals.append(_known(result, result.totals_table()))
                failures.append(result.failures)
                if attribution:
                    contributions.append(attributed(result, self.device.shards[0]))
        return Margined(
            pl.concat(levels),
            pl.concat(totals),
            join_failures(failures),
            _joined(contributions) if attribution else None,
        )

    def answered(self, change: Changed, parameters: Parameters, after: Margined) -> Answered:
        """What the trades change; `after` are the margins with all changes."""
        places = np.array(parameters.places)
        shape = (len(change.whole.portfolios), len(places))
        margin = np.full((shape[0], len(SIDES)), np.nan)
        now = after.totals["initial_margin"].fill_null(np.nan).to_numpy().reshape(shape)
        margin[:, places] = now
        complete = after.totals["complete"].to_numpy().reshape(shape)[:, 0].copy()
        touched = change.touched
        with self.clock.timed("trades"):
            found = before(change, parameters, self.device, self.report)
            margin[touched] = found.margin
            complete[touched] &= found.complete
            trades = each_trade(change, margin, parameters, self.device, self.report)
        changes = after.totals.select("portfolio_id", "side").with_columns(
            pl.Series("before", margin[:, places].ravel()),
            pl.Series("after", now.ravel()),
            pl.Series("change", (now - margin[:, places]).ravel()),
            pl.Series("complete", np.repeat(complete, len(places))),
        )
        return Answered(changes.fill_nan(None), trades, found.failures)


def _joined(tables: list[Tables]) -> Tables:
    factors, trades = zip(*tables, strict=True)
    return pl.concat(factors), pl.concat(trades)


def _known(result: SimmResult, table: pl.DataFrame) -> pl.DataFrame:
    """With null for the margin of portfolios all of whose rows failed."""
    none = ~result.known
    if not none.any():
        return table
    ids = result.crif.portfolios.filter(none).implode()
    margin = pl.when(~pl.col("portfolio_id").is_in(ids)).then("initial_margin")
    return table.with_columns(margin.alias("initial_margin"))
