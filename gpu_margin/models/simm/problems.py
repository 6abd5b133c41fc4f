"""Failures of rows and trades that only a rule of the model can find, by portfolio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.crif import Bools, Codes, Crif
from gpu_margin.failures import SCHEMA, failure_table


@dataclass(frozen=True)
class Problems:
    """Failures (source "portfolio <id>", row unknown); [portfolio] `incomplete`: who has any."""

    failures: pl.DataFrame
    incomplete: Bools


def no_problems(crif: Crif) -> Problems:
    """None at all."""
    return Problems(failure_table(), np.zeros(len(crif.portfolios), dtype=np.bool_))


def problems(
    crif: Crif, portfolio: Codes, reason: str | pl.Series, field: str | pl.Series, value: pl.Series
) -> Problems:
    """One of each [failure], in order of portfolio, value and reason whatever theirs was."""
    if not len(portfolio):
        return no_problems(crif)
    table = pl.DataFrame({"portfolio": portfolio, "value": value}).with_columns(
        pl.lit(reason).alias("reason"), pl.lit(field).alias("field")
    )
    names = "portfolio " + crif.portfolios.gather(pl.Series(portfolio))
    table = table.with_columns(names.alias("source"), pl.lit(None, pl.Int64).alias("row"))
    table = table.unique().sort("portfolio", "value", "reason", "field")
    incomplete = np.zeros(len(crif.portfolios), dtype=np.bool_)
    incomplete[portfolio] = True
    return Problems(table.select(pl.col(n).cast(t) for n, t in SCHEMA.items()), incomplete)


def together(*several: Problems) -> Problems:
    """All of them, in the order given."""
    incomplete = np.any([one.incomplete for one in several], axis=0)
    return Problems(pl.concat([one.failures for one in several]), incomplete)
