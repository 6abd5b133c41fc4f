"""What rows of positions require under TIMS: four floors of sums over the valuation points.

    v_c[k]  profit of class c at point k, all positions of the class in full
    g_p[k]  loss of product group p:    sum over its classes  of max(-v, 0) - share_p max(v, 0)
    l_f[k]  loss of portfolio group f:  sum over its products of max(g, 0) - share_f max(-g, 0)
    requirement = max(sum over f of max(0, max_k l_f[k]), minimum of the contracts)

A gain counts by a share that is at most 1, so that every floor is convex in what is below it and
grows with its losses: the requirement is convex, in proportion to the positions, and no more than
the sum of that of any parts. Sums run in the order of codes: what shares a call changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import Placed, placed
from gpu_margin.portfolio import Rows, regroup, row_offsets
from gpu_margin.tims_groups import Groups

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_WORST = TailMeasure((1.0,))


@dataclass(frozen=True)
class Tables:
    """What one contract is, on the host.

    `pnl` [instrument, point] profit of one long contract; `factor` [instrument] its underlying;
    `long`, `short` [instrument] the minimum for one contract held on that side.
    """

    groups: Groups
    pnl: Floats
    factor: Ints
    long: Floats
    short: Floats


@dataclass(frozen=True)
class Floor:
    """Amounts of one floor: entry i is group part[i] of row owner[i], ordered by both.

    `amount` [entry, point] on the device: profits of classes, losses of groups.
    """

    owner: Ints
    part: Ints
    amount: Array


@dataclass(frozen=True)
class Floors:
    """Everything there is of rows: the three floors, and the worst of the last.

    `loss` [entry of portfolios] is the largest loss of a portfolio group, at least 0, and `worst`
    [entry] the point of its largest amount. `lost` [row] are those with amounts out of range.
    """

    classes: Floor
    products: Floor
    portfolios: Floor
    loss: Floats
    worst: Ints
    lost: Bools


@dataclass(frozen=True)
class Terms:
    """The terms of rows, [row] on the host and at least 0; `worst` the point of each row."""

    losses: Floats
    minimum: Floats
    worst: Ints

    @property
    def amount(self) -> Floats:
        """The requirement."""
        amount: Floats = np.maximum(self.losses, self.minimum)
        return amount

    @property
    def in_minimum(self) -> Bools:
        """Whether the minimum of the contracts is in force."""
        found: Bools = self.minimum > self.losses
        return found

    @property
    def components(self) -> Mapping[str, Floats]:
        """The term that is in force."""
        nothing = np.zeros_like(self.losses)
        return {
            "valuation_points": np.where(self.in_minimum, nothing, self.losses),
            "contract_minimum": np.where(self.in_minimum, self.minimum, nothing),
        }


class TimsRisk:
    """The tables on a device, and what rows of net positions require."""

    def __init__(self, tables: Tables, backend: Backend) -> None:
        self.tables, self.backend = tables, backend
        device, groups = backend.to_device, tables.groups
        self._pnl, self._long, self._short = map(device, (tables.pnl, tables.long, tables.short))
        self._class_share = groups.class_share
        self._product_share = groups.product_share

    def terms(self, rows: Placed) -> Terms:
        """The terms of rows."""
        floors = self.floors(rows.host)
        backend, count = self.backend, len(rows.host)
        offsets = row_offsets(floors.portfolios.owner, count)
        losses = backend.to_host(
            backend.segment_sum(backend.to_device(floors.loss), backend.to_device(offsets))
        )
        return Terms(
            losses=np.where(floors.lost, np.inf, losses) + 0.0,  # -0.0 becomes 0.0
            minimum=self._minimum(rows.device) + 0.0,
            worst=self._worst(floors, count),
        )

    def floors(self, rows: Rows) -> Floors:
        """All floors of rows of net positions (on the host)."""
        groups, lost = self.tables.groups, np.zeros(len(rows), dtype=np.bool_)
        parts = regroup(rows, groups.class_of[self.tables.factor[rows.column]])
        own = Rows(parts.offsets, rows.column[parts.order], rows.value[parts.order])
        sums = self._sums(own, self._pnl)
        classes = Floor(parts.owner, parts.part, self._in_range(sums, parts.owner, lost))
        counted = self._counted(-classes.amount, self._class_share[classes.part])
        products = self._above(classes, groups.product_of, counted, lost)
        counted = self._counted(products.amount, self._product_share[products.part])
        portfolios = self._above(products, groups.portfolio_of, counted, lost)
        loss, worst = self._largest(portfolios)
        return Floors(classes, products, portfolios, loss, worst, lost)

    def _counted(self, loss: Array, share: Floats) -> Array:
        """[entry, point] losses as they stand, and gains by their share [entry]."""
        xp, nothing = self.backend.xp, self.backend.xp.zeros_like(loss)
        gain = xp.maximum(-loss, nothing)
        return xp.maximum(loss, nothing) - self.backend.to_device(share)[:, None] * gain

    def _above(self, below: Floor, group: Ints, counted: Array, lost: Bools) -> Floor:
        """The floor above: `counted` [entry of below, point] by row and group."""
        rows = _by_row(below, len(lost))
        parts = regroup(rows, group[below.part])
        ones = np.ones(len(parts.order))
        sums = self._sums(Rows(parts.offsets, parts.order, ones), counted)
        return Floor(parts.owner, parts.part, self._in_range(sums, parts.owner, lost))

    def _sums(self, rows: Rows, matrix: Array) -> Array:
        """[row, point] weighted sums; backends want a matrix that has rows."""
        if not len(rows.column):
            return self.backend.to_device(np.zeros((len(rows), self.tables.pnl.shape[1])))
        return self.backend.weighted_sum(placed(rows, self.backend).device, matrix)

    def _in_range(self, amount: Array, owner: Ints, lost: Bools) -> Array:
        """Amounts [entry, point], 0 where a row's are out of range: it is among the `lost` then.

        Backends may multiply any entry by 0, and want it finite.
        """
        xp = self.backend.xp
        fine = xp.all(xp.isfinite(amount), axis=1)
        known = self.backend.to_host(fine)
        if known.all():
            return amount
        lost[owner[~known]] = True
        return xp.where(fine[:, None], amount, xp.zeros_like(amount))

    def _largest(self, portfolios: Floor) -> tuple[Floats, Ints]:
        """[entry] the largest loss of a portfolio group, at least 0, and its point."""
        count = len(portfolios.owner)
        if not count:
            return np.zeros(0), np.zeros(0, dtype=np.int64)
        one = np.arange(count + 1, dtype=np.int64)
        rows = placed(Rows(one, one[:-1], np.ones(count)), self.backend).device
        found = self.backend.tail(rows, -portfolios.amount, [_WORST])
        to_host = self.backend.to_host
        return np.maximum(to_host(found.value)[:, 0], 0.0), to_host(found.worst)

    def _worst(self, floors: Floors, count: int) -> Ints:
        """[row] the point at which the losses of its portfolio groups add up to most."""
        entries = len(floors.loss)
        if not entries:
            return np.zeros(count, dtype=np.int64)
        xp, amount = self.backend.xp, floors.portfolios.amount
        offsets = row_offsets(floors.portfolios.owner, count)
        rows = Rows(offsets, np.arange(entries, dtype=np.int64), np.ones(entries))
        losses = xp.maximum(amount, xp.zeros_like(amount))
        found = self.backend.tail(placed(rows, self.backend).device, -losses, [_WORST])
        return self.backend.to_host(found.worst)

    def _minimum(self, rows: Rows) -> Floats:
        """[row] (on the device) the sum of its contracts' minima."""
        xp, quantity, column = self.backend.xp, rows.value, rows.column
        long, short = (xp.take(side, column, axis=0) for side in (self._long, self._short))
        each = xp.abs(quantity) * xp.where(quantity > 0, long, short)
        return self.backend.to_host(self.backend.segment_sum(each, rows.offsets))


def _by_row(floor: Floor, count: int) -> Rows:
    """The entries of a floor as rows of its groups; values are of no use."""
    offsets = row_offsets(floor.owner, count)
    return Rows(offsets, floor.part, np.zeros(len(floor.part)))
