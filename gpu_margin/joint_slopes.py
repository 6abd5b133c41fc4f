"""Slopes of the joint requirement: what one more unit of something would add to a row's.

Of the expected shortfall it is the mean loss of a unit in the tail. The grid's M = g sqrt(w' R w)
has the slope (R w)_u / sqrt(w' R w) in m_u, and m_u that of a unit's loss in the cell where the
underlying loses most. Quantity times slope adds up to the requirement.

An underlying that a row does not hold loses nothing, whichever way its price goes: a unit of it
adds what a unit held long loses alone, by the correlation of that loss to the row's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.books import Placed
from gpu_margin.joint_risk import GridLosses, JointRisk
from gpu_margin.portfolio import Rows, entry_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Slopes [row, factor] that are held at a time.
_SLOPES = 1 << 22


@dataclass(frozen=True)
class Units:
    """What is probed, [column]: its `factor`, and a unit's P&L [column, cell] and [., scenario]."""

    factor: Ints
    grid: Floats
    pnl: Floats


def instruments(risk: JointRisk) -> Units:
    """One contract of each instrument."""
    return Units(risk.tables.factor, risk.tables.grid, risk.tables.pnl)


def exposures(risk: JointRisk) -> Units:
    """An exposure of 1 to each factor."""
    tables = risk.tables
    returns = np.ascontiguousarray(tables.returns.T)
    grid = tables.cells.share * tables.cells.move
    return Units(np.arange(len(returns), dtype=np.int64), grid, returns)


def loss_rates(risk: JointRisk, rows: Placed, probes: Rows, units: Units) -> Floats:
    """[probe entry] slopes of what the rows require, per unit of each column of `probes`."""
    terms, losses = risk.terms(rows), risk.grid_losses(rows.host)
    owner = entry_rows(probes)
    mean = _mean_losses(risk, rows, probes, owner, units)
    lost, by = _grid_slopes(risk, losses, probes, owner, units)
    core = np.where(terms.in_grid[owner], by * lost, mean)
    share = risk.rule.share
    bound = (terms.gross > terms.core)[owner]
    return np.where(bound, (1.0 - share) * lost + share * core, core)


def _mean_losses(risk: JointRisk, rows: Placed, probes: Rows, owner: Ints, units: Units) -> Floats:
    """[probe entry] mean loss of one unit in the scenarios of its row's tail."""
    measure = risk.tables.measure
    scenarios = risk.tail_scenarios(rows)
    total = np.zeros(len(owner))
    # From the least loss to the worst, as the measure itself adds up.
    for place in reversed(range(len(measure.weights))):
        profit = units.pnl[probes.column, scenarios[owner, place]]
        total = total - measure.weights[place] * profit
    return total / measure.divisor


def _grid_slopes(
    risk: JointRisk, losses: GridLosses, probes: Rows, owner: Ints, units: Units
) -> tuple[Floats, Floats]:
    """[probe entry] loss of a unit in its underlying's worst cell, and the slope of M in |m_u|."""
    theta, factor = risk.rule.theta, units.factor[probes.column]
    place = _places(losses, owner, factor, len(risk.tables.base))
    held = place >= 0
    alone = np.argmin(units.grid, axis=1) if len(units.grid) else np.zeros(0, dtype=np.int64)
    cell = np.where(held, _taken(losses.cell, place), alone[probes.column])
    lost = -units.grid[probes.column, cell]
    slope, form = _correlations(risk, losses, owner, factor)
    move = risk.tables.cells.move[factor, cell]
    # What has no direction of its own adds to the row, as in the requirement.
    way = np.where(move == 0.0, np.where(slope < 0.0, -1.0, 1.0), np.sign(move))
    sign = np.where(held, _taken(losses.sign, place), way)
    height = np.sqrt((1.0 - theta) * form + theta)[owner]
    risky = height > 0.0
    by = ((1.0 - theta) * sign * slope + theta) / np.where(risky, height, 1.0)
    return lost, np.where(risky, by, 0.0)


def _correlations(
    risk: JointRisk, losses: GridLosses, owner: Ints, factor: Ints
) -> tuple[Floats, Floats]:
    """[probe entry] (base w) of its underlying in its row, and w' base w of the rows."""
    backend, base = risk.backend, risk.backend.to_device(risk.tables.base)
    rows, _ = risk.shares(losses)
    form = np.maximum(backend.to_host(backend.quadratic_form(rows, base)), 0.0)
    slope = np.zeros(len(owner))
    step = max(1, _SLOPES // max(len(risk.tables.base), 1))
    for start in range(0, len(losses.offsets) - 1, step):
        stop = min(start + step, len(losses.offsets) - 1)
        own = slice(*np.searchsorted(owner, (start, stop)))
        part = _rows_between(rows, losses.offsets, start, stop, backend)
        block = backend.to_host(backend.weighted_sum(part, base))
        slope[own] = block[owner[own] - start, factor[own]]
    return slope, form


def _rows_between(rows: Rows, offsets: Ints, start: int, stop: int, backend: Backend) -> Rows:
    """Rows start to stop of rows on the device, `offsets` being theirs on the host."""
    first, last = int(offsets[start]), int(offsets[stop])
    own = backend.to_device(offsets[start : stop + 1] - first)
    return Rows(own, rows.column[first:last], rows.value[first:last])


def _places(losses: GridLosses, owner: Ints, factor: Ints, width: int) -> Ints:
    """[probe entry] where its row's underlying stands among the losses, -1 where it does not."""
    key = entry_rows(losses.rows) * width + losses.column
    asked = owner * width + factor
    place = np.searchsorted(key, asked)
    there = place < len(key)
    there[there] = key[place[there]] == asked[there]
    return np.where(there, place, -1)


def _taken(values: NDArray[Any], place: Ints) -> NDArray[Any]:
    """values[place], 0 for -1."""
    return np.append(values, np.zeros(1, dtype=values.dtype))[place]
