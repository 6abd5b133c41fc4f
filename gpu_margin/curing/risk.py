"""Requirements as an optimiser sees them: convex, and known by what it has met so far.

A requirement that grows in proportion to its positions and rewards diversification is the largest
of linear functions of them. A `Term` gives a programme those that matter: a tail by the programme
of Rockafellar and Uryasev over the scenarios met so far, anything smooth by its tangents. What is
left out only makes the programme easier, so its optimum is a bound at any time.

Sums here are those of an optimiser, in no stored order: what a plan requires is recomputed by the
model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import isotonic_regression

from gpu_margin.backend import TailMeasure

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# What a term has met: opaque to all but the term; the same object where nothing is new.
Known = Any
# Value and slope [column] of a requirement at positions [column]; the slope times the positions
# is the value, and times any others at most theirs.
Slope = Callable[[Floats], tuple[float, Floats]]

_SAME_SLOPE = 1e-12


@dataclass(frozen=True)
class Block:
    """Rows `position` x + `top` r + `own` y >= 0 that hold r, the requirement, up.

    `position` [row, column], `top` [row], `own` [row, variable] sparse, `own_lower` [variable].
    """

    position: Floats
    top: Floats
    own: sparse.csr_array
    own_lower: Floats


class Term(Protocol):
    """A requirement of the positions in some instruments."""

    @property
    def columns(self) -> Ints:
        """Codes of its instruments, ascending."""
        ...

    def value(self, position: Floats) -> float:
        """What positions [column] require; may be negative, the programme floors it."""
        ...

    def learn(self, known: Known, position: Floats) -> Known:
        """What is known with that of the positions; `known` itself where that is nothing new."""
        ...

    def block(self, known: Known) -> Block:
        """Rows for a programme; too low at most where nothing is known."""
        ...


@dataclass(frozen=True)
class Part:
    """max(M, (1 - share) sum G + share M), M of `whole` and G of `groups`; M without groups."""

    whole: Term
    groups: tuple[Term, ...] = ()
    share: float = 1.0

    @property
    def terms(self) -> tuple[Term, ...]:
        """All of its terms, the whole first."""
        return (self.whole, *self.groups)


def required(parts: Sequence[Part], position: Floats) -> float:
    """What `position` [instrument] requires: the sum over the parts, no term below 0."""
    total = 0.0
    for part in parts:
        whole, *groups = (max(0.0, term.value(position[term.columns])) for term in part.terms)
        mixed = (1.0 - part.share) * sum(groups) + part.share * whole
        total += max(whole, mixed) if groups else whole
    return total


# ---------------------------------------------------------------- tails


def coherent_weights(measure: TailMeasure) -> Floats:
    """[rank] the least weights that do not grow towards smaller losses and bound the measure.

    Expected shortfall and worst loss are their own bound; that of a value-at-risk at rank k is
    the expected shortfall at the same k. By summation by parts, weights bound others of the same
    sum for all losses where their running sums do; the least such sums that are concave are the
    concave hull, whose slopes are the regression of the weights on falling ones.
    """
    weights = np.array(measure.weights, dtype=np.float64) / measure.divisor
    bound = isotonic_regression(weights, increasing=False).x
    # Weights that fall already are to stay what they are, to the bit.
    falling = bool(np.all(weights[1:] <= weights[:-1]))
    return weights if falling else np.asarray(bound, dtype=np.float64)


@dataclass(frozen=True)
class Tail:
    """A weighted mean of the worst losses; `weights` [rank] fall from the worst loss on.

    `pnl` [column, scenario] is the P&L of one contract. The sum of the k worst losses is the least
    k a + sum_s max(0, loss_s - a) over a (Rockafellar and Uryasev, J. Risk 2 (2000) 21), and
    falling weights are a sum of such sums. Known are codes of scenarios, ascending.
    """

    columns: Ints
    pnl: Floats
    weights: Floats

    def value(self, position: Floats) -> float:
        """The weighted sum of the worst losses."""
        losses = -(position @ self.pnl)
        return float(self.weights @ losses[self._worst(losses)])

    def learn(self, known: Known, position: Floats) -> Known:
        """The scenarios of the tail of these positions."""
        met = self._worst(-(position @ self.pnl))
        if known is None:
            return np.sort(met)
        joined = np.union1d(known, met)
        return joined if len(joined) > len(known) else known

    def block(self, known: Known) -> Block:
        """One level a and one excess per known scenario for each step of the weights."""
        scenarios = np.zeros(0, dtype=np.int64) if known is None else known
        steps = self.weights - np.append(self.weights[1:], 0.0)
        levels = [(rank, step) for rank, step in enumerate(steps.tolist(), 1) if step > 0.0]
        count, width = len(scenarios), 1 + len(scenarios)
        losses = np.tile(self.pnl[:, scenarios].T, (len(levels), 1))
        # Excess + P&L + level >= 0, and the requirement above the sum of all.
        each = sparse.hstack([np.ones((count, 1)), sparse.eye_array(count)])
        sums = [-step * np.append(float(rank), np.ones(count)) for rank, step in levels]
        return Block(
            position=np.vstack([np.zeros(len(self.columns)), losses]),
            top=np.append(1.0, np.zeros(count * len(levels))),
            own=sparse.vstack(
                [np.concatenate(sums)[None, :], sparse.block_diag([each] * len(levels))]
            ).tocsr(),
            own_lower=np.tile(np.append(-np.inf, np.zeros(width - 1)), len(levels)),
        )

    def _worst(self, losses: Floats) -> Ints:
        """Codes of the worst losses, worst first."""
        depth = len(self.weights)
        chosen = np.argpartition(-losses, depth - 1)[:depth]
        return np.asarray(chosen[np.argsort(-losses[chosen], kind="stable")], dtype=np.int64)


# ---------------------------------------------------------------- anything with a slope


@dataclass(frozen=True)
class Tangents:
    """A requirement known by value and slope; known are slopes [column] met so far."""

    columns: Ints
    slope: Slope

    def value(self, position: Floats) -> float:
        """The requirement itself."""
        return self.slope(position)[0]

    def learn(self, known: Known, position: Floats) -> Known:
        """The slope at these positions."""
        _, slope = self.slope(position)
        met: list[Floats] = [] if known is None else known
        size = float(np.abs(slope).max(initial=0.0))
        near = any(np.abs(slope - old).max(initial=0.0) <= _SAME_SLOPE * size for old in met)
        return met if near and known is not None else [*met, slope]

    def block(self, known: Known) -> Block:
        """The requirement is above each tangent."""
        slopes = [] if known is None else known
        position = -np.array(slopes, dtype=np.float64).reshape(len(slopes), len(self.columns))
        nothing = sparse.csr_array((len(slopes), 0))
        return Block(position, np.ones(len(slopes)), nothing, np.zeros(0))


def covariance_slope(z: float, exposure: Floats, factor: Ints, matrix: Floats) -> Slope:
    """z sqrt(x'Cx) of positions: `exposure`, `factor` [column] of one contract, `matrix` C."""

    def slope(position: Floats) -> tuple[float, Floats]:
        x = np.bincount(factor, position * exposure, minlength=len(matrix))
        marginal = matrix @ x
        variance = float(x @ marginal)
        if variance <= 0.0:
            return 0.0, np.zeros(len(position))
        deviation = float(np.sqrt(variance))
        return z * deviation, z / deviation * exposure * marginal[factor]

    return slope
