"""The long table of a CRIF's initial margin: every level of every portfolio and side.

A row is one level: `product_class`, `risk_class`, `margin_type` and `bucket` are `All` where all of
them are together, and the row in which all four are is the total. Levels that are 0 are left out,
the total never is. The layout is that of ORE's `simm` report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm.kinds import MARGIN_TYPES, RISK_CLASSES, SIDES
from gpu_margin.models.simm.levels import Levels, over_classes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ALL, ADDITIONAL = "All", "AdditionalIM"
NOTIONAL_FACTOR, FIXED_AMOUNT, SCHEDULE = "AddOnNotionalFactor", "AddOnFixedAmount", "Schedule"
# Portfolios that are laid out at a time: every level of each is held.
_PORTFOLIOS = 20_000

Column = tuple[str, str, str, Floats]


@dataclass(frozen=True)
class SideMargin:
    """One side of all calculations: SIMM by level, and what is added to it. All [calculation].

    `multiplier` [calculation, product class]; `notional` and `fixed` are add-ons, `schedule` is
    Schedule IM.
    """

    levels: Levels
    multiplier: Floats
    notional: Floats
    fixed: Floats
    schedule: Floats

    @property
    def additional(self) -> Floats:
        """[calculation, product class] what the multipliers add."""
        added: Floats = (self.multiplier - 1.0) * self.levels.product_class
        return added

    @property
    def simm(self) -> Floats:
        """[calculation] SIMM with its add-ons."""
        classes = over_classes(self.levels.product_class + self.additional)
        total: Floats = classes + self.notional + self.fixed
        return total

    @property
    def total(self) -> Floats:
        """[calculation] SIMM and Schedule IM."""
        total: Floats = self.simm + self.schedule
        return total


def columns(side: SideMargin) -> Iterator[Column]:
    """Every level: product class, risk class, margin type, and [calculation] its margin."""
    levels, additional = side.levels, side.additional
    for place, product_class in enumerate(PRODUCT_CLASSES):
        for number, risk_class in enumerate(RISK_CLASSES):
            for kind, margin_type in enumerate(MARGIN_TYPES):
                yield product_class, risk_class, margin_type, levels.margin[kind, :, place, number]
            yield product_class, risk_class, ALL, levels.risk_class[:, place, number]
        for kind, margin_type in enumerate(MARGIN_TYPES):
            yield product_class, ALL, margin_type, levels.by_type[kind, :, place]
        yield product_class, ALL, ADDITIONAL, additional[:, place]
        yield product_class, ALL, ALL, levels.product_class[:, place] + additional[:, place]
    for name, values in (
        (NOTIONAL_FACTOR, side.notional),
        (FIXED_AMOUNT, side.fixed),
        (SCHEDULE, side.schedule),
    ):
        if name != SCHEDULE:
            yield name, ALL, ADDITIONAL, values
        yield name, ALL, ALL, values
    yield from _together(side)


def _together(side: SideMargin) -> Iterator[Column]:
    """All product classes, which add up."""
    levels = side.levels
    for number, risk_class in enumerate(RISK_CLASSES):
        for kind, margin_type in enumerate(MARGIN_TYPES):
            yield ALL, risk_class, margin_type, over_classes(levels.margin[kind, :, :, number])
        yield ALL, risk_class, ALL, over_classes(levels.risk_class[:, :, number])
    for kind, margin_type in enumerate(MARGIN_TYPES):
        yield ALL, ALL, margin_type, over_classes(levels.by_type[kind])
    yield ALL, ALL, ADDITIONAL, over_classes(side.additional) + side.notional + side.fixed
    yield ALL, ALL, ALL, side.total


def long_table(
    portfolios: pl.Series,
    sides: Sequence[SideMargin],
    winning: Ints,
    regulation: pl.Series,
    chosen: Sequence[int],
) -> pl.DataFrame:
    """The columns portfolio_id, side, regulation, those of the level, and initial_margin.

    `winning` [portfolio, side] is the calculation whose levels are shown, -1 for none; `regulation`
    [calculation + 1] its regulation, last that of none; `chosen` are the places of sides wanted.
    """
    parts = []
    for start in range(0, max(len(portfolios), 1), _PORTFOLIOS):
        own = slice(start, start + _PORTFOLIOS)
        parts.append(_rows(portfolios[own], sides, winning[own], regulation, chosen))
    return pl.concat(parts)


def _rows(
    portfolios: pl.Series,
    sides: Sequence[SideMargin],
    winning: Ints,
    regulation: pl.Series,
    chosen: Sequence[int],
) -> pl.DataFrame:
    names: list[tuple[str, str, str]] = []
    figures = []
    for place in chosen:
        own = [
            (column[:3], np.append(column[3], 0.0)[winning[:, place]])
            for column in columns(sides[place])
        ]
        names = [name for name, _ in own]
        figures.append(np.stack([values for _, values in own], axis=1))
    table = np.stack(figures, axis=1)  # [portfolio, side, level]
    shown = table != 0.0
    shown[:, :, -1] = True
    portfolio, side, level = np.nonzero(shown)
    calculation = winning[portfolio, np.array(chosen)[side]]
    parts = list(zip(*names, strict=True))
    return pl.DataFrame(
        {
            "portfolio_id": portfolios.gather(portfolio),
            "side": pl.Series([SIDES[place] for place in chosen]).gather(side),
            "regulation": regulation.gather(calculation % len(regulation)),
            "product_class": pl.Series(parts[0]).gather(level),
            "risk_class": pl.Series(parts[1]).gather(level),
            "margin_type": pl.Series(parts[2]).gather(level),
            "bucket": pl.repeat(ALL, len(level), eager=True, dtype=pl.String),
            "initial_margin": table[portfolio, side, level],
        }
    )
