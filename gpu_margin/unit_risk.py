"""Margin of rulebooks that know a position by its unit: quantity times numbers per instrument.

Such a rulebook prepares, per instrument, the exposure of one contract and the requirement of
one contract held long or short alone, and says what any row of net positions requires. The
figures of sets, groups and accounts then follow in one way: each is a re-keying of the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.portfolio import Portfolio, Rows, regroup
from gpu_margin.result import Figures, GroupFigures, Margin, PositionFigures

Array = Any


@dataclass(frozen=True)
class Requirement:
    """`amount` [row] on the device, >= 0; `worst` [row] scenario codes on the host, or -1."""

    amount: Array
    worst: NDArray[np.int64]


Require = Callable[[Rows, Rows], Requirement]


@dataclass(frozen=True)
class UnitRisk:
    """Per instrument, on the device: exposure of one contract, its own requirement by side.

    `require` takes rows of net positions on the host and the same rows on the device.
    """

    exposure: Array
    long: Array
    short: Array
    require: Require
    backend: Backend


def margin_of(
    portfolio: Portfolio,
    group: NDArray[np.int64],
    unit: UnitRisk,
    component: str,
    scenarios: tuple[str, ...] = (),
) -> Margin:
    """Initial margin of every netting set, group and account.

    `group` [instrument] codes of product groups; `component` names the requirement's only
    component; `scenarios` names the codes of `Requirement.worst`.
    """
    rows = portfolio.netted
    parts = regroup(rows, group[rows.column])
    by_group = Rows(parts.offsets, rows.column[parts.order], rows.value[parts.order])
    sets = figures(rows, unit)
    return Margin(
        level="initial",
        sets=sets,
        groups=GroupFigures(parts.owner, parts.part, figures(by_group, unit)),
        components={component: sets.requirement},
        account_worst=_account_worst(portfolio, sets, unit),
        scenarios=scenarios,
    )


def figures(rows: Rows, unit: UnitRisk) -> Figures:
    """Figures of rows of net positions (on the host)."""
    backend, xp = unit.backend, unit.backend.xp
    resident = upload(rows, backend)
    exposure, standalone = _per_position(resident, unit)

    def total(values: Array) -> NDArray[np.float64]:
        return backend.to_host(backend.segment_sum(values, resident.offsets))

    required = unit.require(rows, resident)
    return Figures(
        requirement=backend.to_host(required.amount) + 0.0,  # -0.0 becomes 0.0
        standalone=total(standalone),
        net_exposure=total(exposure),
        gross_exposure=total(xp.abs(exposure)),
        positions=np.diff(rows.offsets),
        worst=required.worst,
    )


def position_figures(
    portfolio: Portfolio,
    unit: UnitRisk,
    contribution: NDArray[np.float64],
    worst_pnl: NDArray[np.float64] | None = None,
) -> PositionFigures:
    """Figures of net positions whose contributions are known."""
    to_host = unit.backend.to_host
    exposure, standalone = _per_position(upload(portfolio.netted, unit.backend), unit)
    return PositionFigures(to_host(exposure), to_host(standalone), contribution, worst_pnl)


def _per_position(resident: Rows, unit: UnitRisk) -> tuple[Array, Array]:
    """[entry] exposure and own requirement of positions on the device."""
    xp, quantity, column = unit.backend.xp, resident.value, resident.column
    own = xp.where(
        quantity > 0, xp.take(unit.long, column, axis=0), xp.take(unit.short, column, axis=0)
    )
    return quantity * xp.take(unit.exposure, column, axis=0), xp.abs(quantity) * own


def upload(rows: Rows, backend: Backend) -> Rows:
    """The rows on the device."""
    device = backend.to_device
    return Rows(device(rows.offsets), device(rows.column), device(rows.value))


def _account_worst(portfolio: Portfolio, sets: Figures, unit: UnitRisk) -> NDArray[np.int64]:
    """Worst scenario of each account; where it has several sets, that of their sum."""
    worst = np.full(len(portfolio.accounts), -1, dtype=np.int64)
    worst[portfolio.set_account] = sets.worst
    several = np.flatnonzero(np.bincount(portfolio.set_account, minlength=len(worst)) > 1)
    if len(several):
        rows = portfolio.by_account(several)
        worst[several] = unit.require(rows, upload(rows, unit.backend)).worst
    return worst
