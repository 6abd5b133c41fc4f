"""SIMM and Schedule IM of whole books of CRIF: which rows, which margins, which one wins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from gpu_margin.backend import Backend
from gpu_margin.crif import FACTOR_COLUMNS, MODELS, NO_DATE, Crif
from gpu_margin.failures import join_failures
from gpu_margin.models.simm import add_ons as adding
from gpu_margin.models.simm import schedule as scheduling
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.factors import Factors, Rules, factors_of
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.models.simm.margins import margins
from gpu_margin.models.simm.netting import CLASSES, Netted, net
from gpu_margin.models.simm.problems import Problems, no_problems, problems, together
from gpu_margin.models.simm.regulations import (
    Calculations,
    Winners,
    calculations,
    figures,
    winners,
)
from gpu_margin.models.simm.result import SideMargin, long_table
from gpu_margin.models.simm.segments import Device
from gpu_margin.settings import Settings

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SIMM = MODELS.index("SIMM")
_PLACES = {"call": (0,), "post": (1,), "both": (0, 1)}


def _currency(text: str) -> str:
    if len(text) != 3 or not text.isascii() or not text.isalpha():
        raise ValueError("a currency has three letters, as USD")
    return text.upper()


class Parameters(Settings):
    """Settings of a SIMM calculation."""

    version: str = Field(default=tables.LATEST, description="of SIMM, as 2.8+2512, or latest")
    horizon: Literal["10d", "1d"] = Field(default="10d", description="margin period of risk")
    calculation_currency: Annotated[str, AfterValidator(_currency)] = Field(
        default="USD", description="currency whose FX sensitivities are no risk"
    )
    side: Literal["call", "post", "both"] = Field(
        default="both", description="margin to be called, to be posted, or both"
    )

    valuation_date: date | None = Field(
        default=None, description="from which Schedule rows without a date of their own count"
    )

    @property
    def places(self) -> tuple[int, ...]:
        """The places of the sides in `SIDES`."""
        return _PLACES[self.side]


@dataclass(frozen=True)
class SimmResult:
    """Initial margin of every portfolio of a CRIF, in USD.

    `sides` are the margins of all `calculations`, call and post; `winners` which calculation counts
    for each portfolio and side. `incomplete` [portfolio] says who has rows that failed, `failures`
    which: those of the CRIF, then those that the version or the rules found.
    """

    crif: Crif
    parameters: Parameters
    rules: Rules
    factors: Factors
    netted: Netted
    calculations: Calculations
    sides: tuple[SideMargin, ...]
    winners: Winners
    failures: pl.DataFrame
    incomplete: Bools

    @cached_property
    def totals(self) -> Floats:
        """[portfolio, side] the winning initial margin; not finite where it overflows."""
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.stack([side.total for side in self.sides], axis=1)
        return figures(total, self.winners.total)

    @cached_property
    def known(self) -> Bools:
        """[portfolio] whether its margins are: it has a good row, or no row, and no overflow."""
        crif = self.crif
        good = np.ones(len(crif.factors), dtype=np.bool_)
        good[list(self.factors.failed)] = False
        rows = good[crif.factor] | (crif.model != _SIMM)
        some = np.bincount(crif.portfolio[rows], minlength=len(crif.portfolios)) > 0
        known: Bools = (some | ~self.incomplete) & np.isfinite(self.totals).all(axis=1)
        return known

    @cached_property
    def regulation(self) -> pl.Series:
        """[calculation + 1] its regulation, "" for none; the last is that of no calculation."""
        names = pl.Series([*self.calculations.names, ""], dtype=pl.String)
        return names.gather(np.append(self.calculations.regulation, -1) % len(names))

    def table(self) -> pl.DataFrame:
        """Every level of every portfolio and side, see `result`."""
        winning = self.winners.total.astype(np.int64)
        portfolios = self.crif.portfolios
        chosen = self.parameters.places
        with np.errstate(over="ignore", invalid="ignore"):
            return long_table(portfolios, self.sides, winning, self.regulation, chosen)

    def totals_table(self) -> pl.DataFrame:
        """portfolio_id, side, regulation, initial_margin, complete; of each portfolio and side."""
        places = np.array(self.parameters.places)
        count = len(self.crif.portfolios)
        portfolio, side = np.repeat(np.arange(count), len(places)), np.tile(places, count)
        winning = self.winners.total.astype(np.int64)[portfolio, side]
        return pl.DataFrame(
            {
                "portfolio_id": self.crif.portfolios.gather(portfolio),
                "side": pl.Series(SIDES, dtype=pl.String).gather(side),
                "regulation": self.regulation.gather(winning % len(self.regulation)),
                "initial_margin": self.totals[portfolio, side],
                "complete": ~self.incomplete[portfolio],
            }
        )


def calculate(
    crif: Crif, parameters: Parameters, backend: Backend, *, traced: bool = False
) -> SimmResult:
    """Initial margin of all portfolios; raises `ConfigError` for an unknown version.

    A `traced` result knows which net sensitivity each row went into, as attribution wants it.
    """
    # What is beyond all numbers is a failure of its portfolio.
    with np.errstate(over="ignore", invalid="ignore"):
        return _calculated(crif, parameters, Device(backend), traced)


def _calculated(crif: Crif, parameters: Parameters, device: Device, traced: bool) -> SimmResult:
    rules = rules_of(parameters)
    factors, groups = factors_of(rules, crif.factors), calculations(crif)
    netted = net_rows(crif, factors, groups, traced)
    levels = margins(device, netted, factors, rules, len(groups))
    added = adding.add_ons(crif, groups)
    schedule = scheduling.schedule_margin(crif, groups, scheduling.load(), _days(parameters))
    sides = tuple(
        SideMargin(one, added.multiplier, added.notional, added.fixed, schedule.margin[:, place])
        for place, one in enumerate(levels)
    )
    totals = np.stack([side.total for side in sides], axis=1)
    overflow = _overflow(crif, groups, totals)
    found = together(unknown(crif, factors), added.problems, schedule.problems, overflow)
    return SimmResult(
        crif,
        parameters,
        rules,
        factors,
        netted,
        groups,
        sides,
        winners(groups, np.where(np.isfinite(totals), totals, np.inf)),
        join_failures([crif.failures, found.failures]),
        crif.incomplete | found.incomplete,
    )


def rules_of(parameters: Parameters) -> Rules:
    """The rules that the parameters name; `ConfigError` for an unknown version."""
    figures = tables.load(parameters.version)
    return Rules(figures, parameters.horizon, parameters.calculation_currency)


def _days(parameters: Parameters) -> int:
    """The valuation date in days since 1970."""
    day = parameters.valuation_date
    return NO_DATE if day is None else (day - date(1970, 1, 1)).days


def net_rows(crif: Crif, factors: Factors, groups: Calculations, traced: bool) -> Netted:
    """SIMM rows net by calculation, product class and factor; `entry` is [entry of groups]."""
    factor, kind, amount = crif.factor, crif.product_class, crif.amount
    simm = crif.model == _SIMM
    if groups.row is not None:
        row = groups.row
        factor, kind, amount, simm = factor[row], kind[row], amount[row], simm[row]
    place = factors.place[factor]
    counted = simm & (place >= 0)
    group = groups.calculation.astype(np.int64) * CLASSES + kind
    if counted.all():
        return net(group, place, amount, factors, traced)
    netted = net(group[counted], place[counted], amount[counted], factors, traced)
    if not traced:
        return netted
    entry = np.full(len(place), -1, dtype=np.int64)
    entry[counted] = netted.entry
    return Netted(netted.streams, entry)


def _overflow(crif: Crif, groups: Calculations, totals: Floats) -> Problems:
    """Portfolios whose margin is beyond all numbers: no reader lets such amounts pass."""
    beyond = np.unique(groups.portfolio[~np.isfinite(totals).all(axis=1)])
    reason = "the margin is beyond all numbers: give smaller amounts"
    value = pl.repeat(None, len(beyond), dtype=pl.String, eager=True)
    return problems(crif, beyond, reason, "amount", value)


def unknown(crif: Crif, factors: Factors) -> Problems:
    """Rows of factors that the version does not know."""
    if not factors.failed:
        return no_problems(crif)
    failed = np.zeros(len(crif.factors), dtype=np.bool_)
    failed[list(factors.failed)] = True
    rows = np.flatnonzero(failed[crif.factor] & (crif.model == _SIMM))
    pairs = np.unique(np.stack([crif.portfolio[rows], crif.factor[rows]]), axis=1)
    told = [factors.failed[number] for number in pairs[1].tolist()]
    keys = crif.factors[pairs[1]]
    values = [
        str(key[FACTOR_COLUMNS.index(field)])
        for key, (field, _) in zip(keys.iter_rows(), told, strict=True)
    ]
    return problems(
        crif,
        pairs[0].astype(np.int32),
        pl.Series([reason for _, reason in told], dtype=pl.String),
        pl.Series([field for field, _ in told], dtype=pl.String),
        pl.Series(values, dtype=pl.String),
    )
