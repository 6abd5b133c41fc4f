"""What rows of positions require jointly: the terms, and how they are made of two tables of P&L.

    m_u   the worst grid loss of underlying u, signed by the price move that causes it
    M(R) = sqrt(m' R m) over R in {base, (1 - theta) base + theta I, (1 - theta) base + theta s s'}
    E     the expected shortfall of the row in joint historical scenarios
    requirement = max(E, max_R M(R), (1 - c) sum |m_u| + c max(E, max_R M(R)))

base are the correlations of the underlyings' returns and s = sign(m). Everything is computed in
shares w = m / sum |m| of the gross loss g: M(R) = g sqrt(w' R w), which neither overflows nor
vanishes where squares of m would, and of a lone underlying is its |m| to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend, TailMeasure
from gpu_margin.books import Placed
from gpu_margin.joint_grid import Cells
from gpu_margin.joint_signs import directions, resolved
from gpu_margin.portfolio import Rows, entry_rows, regroup, row_offsets

Array = Any
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WORST = TailMeasure((1.0,))


@dataclass(frozen=True)
class Rule:
    """How terms are joined: `theta`, the `share` c of an offset that counts, the `two_sided` rule.

    A loss has no direction where the other one loses `two_sided` of it (`joint_signs`).
    """

    theta: float
    share: float
    two_sided: float


@dataclass(frozen=True)
class Tables:
    """What one contract makes, [instrument, cell] and [instrument, scenario], on the host.

    `factor` [instrument] is its underlying; `base` [factor, factor] are correlations; `measure` is
    that of the scenarios, [scenario, factor] returns.
    """

    cells: Cells
    grid: Floats
    pnl: Floats
    returns: Floats
    factor: Ints
    base: Floats
    measure: TailMeasure


@dataclass(frozen=True)
class GridLosses:
    """Worst grid losses by (row, underlying), ordered by row and underlying: [entry] on the host.

    Row i's entries are offsets[i] to offsets[i + 1]; `column` are codes of underlyings; `loss` is
    |m_u| >= 0, `sign` -1 or 1 (a falling or a rising price), `cell` where it is lost.
    """

    offsets: Ints
    column: Ints
    loss: Floats
    sign: Floats
    cell: Ints

    @property
    def rows(self) -> Rows:
        """The signed m_u as rows of underlyings."""
        return Rows(self.offsets, self.column, self.sign * self.loss)


@dataclass(frozen=True)
class Terms:
    """The terms of the requirement of rows, [row] on the host and at least 0.

    `less` and `more` are M with theta of the offsets taken away and with theta of everything
    falling together; `gross` is sum |m_u|; `core` is max(E, max_R M(R)); `cap` what the bound on
    offsets adds to it; `worst` the scenario in which the row loses most.
    """

    shortfall: Floats
    base: Floats
    less: Floats
    more: Floats
    gross: Floats
    core: Floats
    cap: Floats
    worst: Ints
    share: float

    @property
    def amount(self) -> Floats:
        """The requirement."""
        amount: Floats = self.core + self.cap
        return amount

    @property
    def in_grid(self) -> NDArray[np.bool_]:
        """Whether the grid asks for more than the scenarios do."""
        more: NDArray[np.bool_] = self.core > self.shortfall
        return more

    @property
    def components(self) -> Mapping[str, Floats]:
        """The term that is in force, and what the bound on offsets adds: the requirement."""
        nothing = np.zeros_like(self.core)
        return {
            "expected_shortfall": np.where(self.in_grid, nothing, self.core),
            "correlated_grid": np.where(self.in_grid, self.core, nothing),
            "offset_floor": self.cap,
        }

    @property
    def figures(self) -> Mapping[str, Floats]:
        """Every term by name; "offset_bound" is (1 - c) sum |m_u| + c max(E, max_R M(R))."""
        return {
            "expected_shortfall": self.shortfall,
            "grid_base": self.base,
            "grid_less": self.less,
            "grid_more": self.more,
            "gross_grid": self.gross,
            "offset_bound": (1.0 - self.share) * self.gross + self.share * self.core,
            "requirement": self.amount,
        }


class JointRisk:
    """The tables on a device, and what rows of net positions require by the rule."""

    def __init__(self, tables: Tables, rule: Rule, backend: Backend) -> None:
        self.tables, self.rule, self.backend = tables, rule, backend
        device = backend.to_device
        self._pnl, self._base = device(tables.pnl), device(tables.base)
        blocks = (np.ascontiguousarray(tables.grid[:, own]) for own in tables.cells.blocks)
        self._grid = [device(block) for block in blocks]

    def terms(self, rows: Placed) -> Terms:
        """The terms of rows."""
        backend, losses = self.backend, self.grid_losses(rows.host)
        tail = backend.tail(rows.device, self._pnl, [self.tables.measure])
        shortfall = backend.to_host(tail.value)[:, 0]
        shortfall = np.maximum(shortfall, 0.0) + 0.0  # -0.0 becomes 0.0
        base, less, more, gross = self._correlated(losses)
        core = np.maximum(shortfall, np.maximum(base, np.maximum(less, more)))
        cap = (1.0 - self.rule.share) * np.maximum(gross - core, 0.0)
        return Terms(
            *(shortfall, base, less, more, gross, core, cap),
            worst=backend.to_host(tail.worst),
            share=self.rule.share,
        )

    def tail_scenarios(self, rows: Placed) -> Ints:
        """[row, place] scenarios of the tail of each row, the worst first."""
        found = self.backend.tail(rows.device, self._pnl, [self.tables.measure], True)
        return self.backend.to_host(found.scenarios)

    def grid_losses(self, rows: Rows) -> GridLosses:
        """The worst grid loss of each underlying of each row (net positions on the host)."""
        backend, device = self.backend, self.backend.to_device
        parts = regroup(rows, self.tables.factor[rows.column])
        own = Rows(
            device(parts.offsets), device(rows.column[parts.order]), device(rows.value[parts.order])
        )
        found = [backend.tail(own, block, [_WORST]) for block in self._grid]
        still, falling, rising = (backend.to_host(tail.value)[:, 0] for tail in found)
        places = [
            backend.to_host(tail.worst) + block.start
            for tail, block in zip(found, self.tables.cells.blocks, strict=True)
        ]
        worst = np.maximum(still, np.maximum(falling, rising)) + 0.0
        moved = np.where(falling >= rising, places[1], places[2])
        offsets = row_offsets(parts.owner, len(rows))
        way = directions(still, falling, rising, self.rule.two_sided)
        return GridLosses(
            offsets=offsets,
            column=parts.part,
            loss=worst,
            sign=resolved(way, worst, offsets, parts.part, self.tables.base),
            cell=np.where(worst > still, moved, places[0]),
        )

    def shares(self, losses: GridLosses) -> tuple[Rows, Array]:
        """Rows of w = m / gross, and the gross losses [row]; both on the device.

        0 for a row that loses nothing.
        """
        backend, device, xp = self.backend, self.backend.to_device, self.backend.xp
        offsets, loss = device(losses.offsets), device(losses.loss)
        gross = backend.segment_sum(loss, offsets)
        divisor = xp.where(gross > 0.0, gross, xp.ones_like(gross))
        owner = device(entry_rows(losses.rows))
        share = device(losses.sign) * loss / xp.take(divisor, owner, axis=0)
        return Rows(offsets, device(losses.column), share), gross

    def _correlated(self, losses: GridLosses) -> tuple[Floats, Floats, Floats, Floats]:
        """[row] M(R) of the three matrices, and the gross loss; none is above the gross loss."""
        backend, xp, theta = self.backend, self.backend.xp, self.rule.theta
        rows, gross = self.shares(losses)
        form = backend.quadratic_form(rows, self._base)
        form = xp.maximum(form, xp.zeros_like(form))  # a hedge that is exact may round below 0
        apart = backend.segment_sum(rows.value * rows.value, rows.offsets)
        forms = (form, (1.0 - theta) * form + theta * apart, (1.0 - theta) * form + theta)
        base, less, more = (
            backend.to_host(xp.minimum(gross * xp.sqrt(one), gross)) for one in forms
        )
        return base, less, more, backend.to_host(gross)
