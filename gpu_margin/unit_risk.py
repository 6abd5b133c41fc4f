"""Margin of rulebooks that know a position by its unit: quantity times numbers per instrument.

Such a rulebook prepares, per instrument, the exposure of one contract and the requirement of
one contract held long or short alone, and says what any row of net positions requires and what a
unit more of anything would add to it (`UnitRisk`). `Prepared` makes the rest of it: the figures of
sets, groups and accounts are one re-keying of rows after the other. A requirement of several terms
is one of unit risk, too (`unit_of`, `margin_of_terms`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from gpu_margin import pricing
from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import Placed, book_of, placed
from gpu_margin.market import Market
from gpu_margin.offsets import Offsets
from gpu_margin.portfolio import Portfolio, Rows, entry_rows
from gpu_margin.result import Figures, GroupFigures, Margin, PositionFigures

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Of = Literal["instrument", "factor"]


@dataclass(frozen=True)
class Amount:
    """What positions require together: `value` [row] >= 0 on the device, `worst` [row] scenarios.

    `worst` are codes on the host, -1 where the rulebook has none.
    """

    value: Array
    worst: Ints


@dataclass(frozen=True)
class Requirement:
    """What rows of net positions require, [row] on the host.

    `components` add up to `amount`: the measure itself and, where offsets are bounded,
    "offset_cap"; `worst` are scenario codes, -1 where the rulebook has none.
    """

    amount: Floats
    components: Mapping[str, Floats]
    worst: Ints


@dataclass(frozen=True)
class ScenarioVectors:
    """`matrix` [instrument, scenario] unit P&L on the device, and the measure of its sums."""

    matrix: Array
    measure: TailMeasure


@dataclass(frozen=True)
class UnitRisk:
    """What a rulebook says of units, in one market and on one device.

    Per instrument and on the device: `exposure` of one contract, its own requirement `long` and
    `short`. `measure` takes rows of net positions (on both sides) and says what each requires, all
    positions of a row offsetting each other. `rates` (rows, probes, of, smooth) is the mean loss in
    the tail of each row of one unit of each column of the row of `probes`: [probe entry] on the
    host. `offsets` bounds what groups may save each other; `component` names the measure;
    `scenarios` names the codes of the worst ones; `unit_pnl` [instrument, scenario] is on the host.
    """

    market: Market
    backend: Backend
    component: str
    exposure: Array
    long: Array
    short: Array
    measure: Callable[[Placed], Amount]
    rates: Callable[[Placed, Rows, Of, bool], Floats]
    offsets: Offsets | None = None
    scenarios: tuple[str, ...] = ()
    unit_pnl: NDArray[Any] | None = None
    vectors: ScenarioVectors | None = None


@dataclass(frozen=True)
class Prepared:
    """A rulebook of unit risk in one market; see `models.Prepared`."""

    unit: UnitRisk

    @property
    def offsets(self) -> Offsets | None:
        """How far product groups may offset each other; None for freely."""
        return self.unit.offsets

    @property
    def vectors(self) -> ScenarioVectors | None:
        """Scenario vectors, where a requirement is one measure of their sum."""
        return self.unit.vectors if self.unit.offsets is None else None

    def margin(self, portfolio: Portfolio) -> list[Margin]:
        """Initial margin of every netting set, group and account."""
        unit = self.unit
        book = book_of(portfolio, unit.market.instruments.group, unit.backend)
        required = _require(book.sets, unit)
        worst = _account_worst(portfolio, required.worst, unit)
        groups = GroupFigures(
            book.owner, book.part, _figures(book.groups, _raw(book.groups, unit), unit)
        )
        sets = _figures(book.sets, required, unit)
        return [Margin("initial", sets, groups, required.components, worst, unit.scenarios)]

    def require(self, rows: Rows) -> Requirement:
        """What rows of net positions (on the host) require; the same bits as in `margin`."""
        return _require(placed(rows, self.unit.backend), self.unit)

    def loss_rates(self, rows: Rows, probes: Rows, of: Of, smooth: bool = True) -> Floats:
        """[probe entry] mean loss of one unit of each column in the tail of its row of `rows`.

        The Euler rate of what a row requires without floor and cap: quantity times rate adds up to
        it. A unit is one contract of an instrument or, for factors, an exposure of 1. With
        `smooth`, the rank of value-at-risk is smoothed (`tails.euler_measure`).
        """
        return self.unit.rates(placed(rows, self.unit.backend), probes, of, smooth)

    def positions(self, portfolio: Portfolio) -> PositionFigures:
        """Figures of net positions; what they contribute is for `allocation` to say."""
        unit, to_host = self.unit, self.unit.backend.to_host
        exposure, standalone = _per_position(placed(portfolio.netted, unit.backend).device, unit)
        return PositionFigures(to_host(exposure), to_host(standalone), self._worst_pnl(portfolio))

    def _worst_pnl(self, portfolio: Portfolio) -> Floats | None:
        """[position] P&L in the worst scenario of the account."""
        unit, rows = self.unit, portfolio.netted
        if unit.unit_pnl is None:
            return None
        worst = _account_worst(portfolio, unit.measure(placed(rows, unit.backend)).worst, unit)
        scenario = worst[portfolio.set_account[entry_rows(rows)]]
        return np.asarray(rows.value * unit.unit_pnl[rows.column, scenario], dtype=np.float64)


class Terms(Protocol):
    """What rows require, [row] on the host, and the terms it is made of; see `Requirement`."""

    @property
    def amount(self) -> Floats:
        """The requirement, at least 0."""
        ...

    @property
    def components(self) -> Mapping[str, Floats]:
        """The terms that are in force, which add up to it."""
        ...

    @property
    def worst(self) -> Ints:
        """Codes of the worst scenarios."""
        ...


class TermRisk(Protocol):
    """What says the terms of rows of net positions."""

    backend: Backend

    def terms(self, rows: Placed) -> Terms:
        """The terms of rows."""
        ...


class Slopes(Protocol):
    """A module that says the slopes of a `TermRisk`, per unit of what it makes units of."""

    def instruments(self, risk: Any) -> Any:
        """One contract of each instrument."""
        ...

    def exposures(self, risk: Any) -> Any:
        """An exposure of 1 to each factor."""
        ...

    def loss_rates(self, risk: Any, rows: Placed, probes: Rows, units: Any) -> Floats:
        """[probe entry] slopes of what the rows require, per unit of each column of `probes`."""
        ...


def unit_of(
    risk: TermRisk,
    slopes: Slopes,
    market: Market,
    component: str,
    scenarios: tuple[str, ...],
    unit_pnl: Floats | None = None,
) -> UnitRisk:
    """The unit risk of terms, with slopes that are not smoothed; the rest is as in `UnitRisk`.

    It has no scenario vectors: a requirement of several terms is no measure of a sum of these.
    """
    backend, count = risk.backend, len(market.instruments)

    def measure(rows: Placed) -> Amount:
        return _amount(risk.terms(rows), backend)

    def rates(rows: Placed, probes: Rows, of: Of, smooth: bool) -> Floats:
        units = slopes.instruments(risk) if of == "instrument" else slopes.exposures(risk)
        return slopes.loss_rates(risk, rows, probes, units)

    return UnitRisk(
        market=market,
        backend=backend,
        component=component,
        exposure=backend.to_device(pricing.unit_exposure(market.instruments)),
        long=own_requirement(1.0, count, measure, backend),
        short=own_requirement(-1.0, count, measure, backend),
        measure=measure,
        rates=rates,
        scenarios=scenarios,
        unit_pnl=unit_pnl,
    )


def margin_of_terms(risk: TermRisk, unit: UnitRisk, portfolio: Portfolio) -> list[Margin]:
    """Initial margin as `Prepared.margin` has it; components of a netting set are its terms."""
    of_sets: list[Terms] = []

    def measure(rows: Placed) -> Amount:
        terms = risk.terms(rows)
        if rows.host is portfolio.netted:
            of_sets.append(terms)
        return _amount(terms, unit.backend)

    (margin,) = Prepared(replace(unit, measure=measure)).margin(portfolio)
    return [replace(margin, components=of_sets[0].components)]


def require_of_terms(risk: TermRisk, rows: Rows) -> Requirement:
    """What rows of net positions (on the host) require; the same bits as `margin_of_terms`."""
    terms = risk.terms(placed(rows, risk.backend))
    return Requirement(terms.amount, terms.components, terms.worst)


def _amount(terms: Terms, backend: Backend) -> Amount:
    """The requirement on the device."""
    return Amount(backend.to_device(terms.amount), terms.worst)


def own_requirement(side: float, instruments: int, measure: Any, backend: Backend) -> Array:
    """[instrument] on the device: requirement of one contract alone, long (1) or short (-1)."""
    count = np.arange(instruments + 1, dtype=np.int64)
    rows = Rows(count, count[:-1], np.full(instruments, side))
    return measure(placed(rows, backend)).value


def _raw(rows: Placed, unit: UnitRisk) -> Requirement:
    """What positions require that all offset each other."""
    found = unit.measure(rows)
    amount = unit.backend.to_host(found.value) + 0.0  # -0.0 becomes 0.0
    return Requirement(amount, {unit.component: amount}, found.worst)


def _require(rows: Placed, unit: UnitRisk) -> Requirement:
    """What positions require, their offsets bounded."""
    raw = _raw(rows, unit)
    if unit.offsets is None:
        return raw

    def together(parts: Rows) -> Floats:
        if parts is rows.host:
            return raw.amount
        return _raw(placed(parts, unit.backend), unit).amount

    base, capped = unit.offsets.required(rows.host, together)
    return Requirement(capped, {unit.component: base, "offset_cap": capped - base}, raw.worst)


def _figures(rows: Placed, required: Requirement, unit: UnitRisk) -> Figures:
    """Figures of rows of net positions."""
    backend, xp = unit.backend, unit.backend.xp
    exposure, standalone = _per_position(rows.device, unit)

    def total(values: Array) -> Floats:
        return backend.to_host(backend.segment_sum(values, rows.device.offsets))

    return Figures(
        requirement=required.amount,
        standalone=total(standalone),
        net_exposure=total(exposure),
        gross_exposure=total(xp.abs(exposure)),
        positions=np.diff(rows.host.offsets),
        worst=required.worst,
    )


def _per_position(resident: Rows, unit: UnitRisk) -> tuple[Array, Array]:
    """[entry] exposure and own requirement of positions on the device."""
    xp, quantity, column = unit.backend.xp, resident.value, resident.column
    own = xp.where(
        quantity > 0, xp.take(unit.long, column, axis=0), xp.take(unit.short, column, axis=0)
    )
    return quantity * xp.take(unit.exposure, column, axis=0), xp.abs(quantity) * own


def _account_worst(portfolio: Portfolio, of_sets: Ints, unit: UnitRisk) -> Ints:
    """Worst scenario of each account; where it has several sets, that of their sum."""
    worst = np.full(len(portfolio.accounts), -1, dtype=np.int64)
    worst[portfolio.set_account] = of_sets
    several = np.flatnonzero(np.bincount(portfolio.set_account, minlength=len(worst)) > 1)
    if len(several):
        worst[several] = unit.measure(placed(portfolio.by_account(several), unit.backend)).worst
    return worst
