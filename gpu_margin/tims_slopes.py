"""Slopes of the TIMS requirement: what one more unit of something adds to a row's, and no more.

The requirement is a largest of linear functions; a slope is that of one which is in force. At a
portfolio group's worst point a loss counts in full and a gain by the shares of its class and its
product group. Quantity times slope adds up to the requirement, and for any other quantities to at
most theirs (it is a subgradient). What has no loss, or is in a portfolio group without one, has the
slope 0. Where the minimum is in force it is that of a contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.books import Placed
from gpu_margin.portfolio import Rows, entry_rows
from gpu_margin.tims_risk import Floor, TimsRisk

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """What is probed, [column]: its `factor`, and a unit's P&L [column, point].

    `long` and `short` [column] are its minima on either side.
    """

    factor: Ints
    pnl: Floats
    long: Floats
    short: Floats


def instruments(risk: TimsRisk) -> Units:
    """One contract of each instrument."""
    tables = risk.tables
    return Units(tables.factor, tables.pnl, tables.long, tables.short)


def exposures(risk: TimsRisk) -> Units:
    """An exposure of 1 to each factor, which is no contract."""
    moves = risk.tables.groups.moves
    nothing = np.zeros(len(moves))
    return Units(np.arange(len(moves), dtype=np.int64), moves, nothing, nothing)


def loss_rates(risk: TimsRisk, rows: Placed, probes: Rows, units: Units) -> Floats:
    """[probe entry] slopes of what the rows require, per unit of each column of `probes`."""
    terms, owner = risk.terms(rows), entry_rows(probes)
    from_points = _at_points(risk, rows.host, probes, owner, units)
    short = _held(rows.host, probes, owner, len(units.factor)) < 0.0
    column = probes.column
    from_minimum = np.where(short, -units.short[column], units.long[column])
    return np.where(terms.in_minimum[owner], from_minimum, from_points) + 0.0


def _at_points(risk: TimsRisk, rows: Rows, probes: Rows, owner: Ints, units: Units) -> Floats:
    """[probe entry] loss of a unit at its portfolio group's worst point, as far as it counts."""
    groups, floors = risk.tables.groups, risk.floors(rows)
    if not len(floors.loss):
        return np.zeros(len(owner))
    class_ = groups.class_of[units.factor[probes.column]]
    product = groups.product_of[class_]
    place = _places(floors.portfolios, owner, groups.portfolio_of[product], len(groups.portfolios))
    counts = (place >= 0) & (floors.loss[place] > 0.0)
    point = floors.worst[place]
    profit = _at(risk, floors.classes, owner, class_, len(groups.classes), point)
    loss = _at(risk, floors.products, owner, product, len(groups.products), point)
    share = np.where(profit > 0.0, groups.class_share[class_], 1.0)
    further = np.where(loss < 0.0, groups.product_share[product], 1.0)
    rate = -units.pnl[probes.column, point] * share * further
    return np.where(counts, rate, 0.0)


def _at(risk: TimsRisk, floor: Floor, owner: Ints, part: Ints, width: int, point: Ints) -> Floats:
    """[probe entry] the amount of its group at the point, 0 where its row has none."""
    place = _places(floor, owner, part, width)
    amount: Floats = risk.backend.to_host(floor.amount)[place, point]
    return np.where(place >= 0, amount, 0.0)


def _places(floor: Floor, owner: Ints, part: Ints, width: int) -> Ints:
    """[probe entry] where its row's group stands on the floor, -1 where it does not."""
    return _found(floor.owner * width + floor.part, owner * width + part)


def _held(rows: Rows, probes: Rows, owner: Ints, width: int) -> Floats:
    """[probe entry] how much of it its row holds."""
    place = _found(entry_rows(rows) * width + rows.column, owner * width + probes.column)
    return np.append(rows.value, 0.0)[place]


def _found(keys: Ints, asked: Ints) -> Ints:
    """[asked] place among the (ascending) keys, -1 where it is not there."""
    place = np.searchsorted(keys, asked)
    there = place < len(keys)
    there[there] = keys[place[there]] == asked[there]
    return np.where(there, place, -1)
