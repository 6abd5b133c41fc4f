"""From margins of streams to those of risk classes, product classes and a whole calculation.

Arrays are [calculation, product class, risk class] or shorter, on the host: there are few of them.
Sums over classes run in the order of `RISK_CLASSES` and `PRODUCT_CLASSES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models.simm.kinds import MARGIN_TYPES, RISK_CLASSES, SIDES

Floats = NDArray[np.float64]

DELTA, VEGA, CURVATURE, BASE_CORR = range(len(MARGIN_TYPES))


@dataclass(frozen=True)
class Levels:
    """Margins of one side at every level, in USD.

    `margin` [type, calculation, product class, risk class] by `MARGIN_TYPES`; `psi` [risk class,
    risk class] are the correlations of risk classes.
    """

    margin: Floats
    psi: Floats

    @cached_property
    def risk_class(self) -> Floats:
        """[calculation, product class, risk class] all margin types."""
        return _added(list(self.margin))

    @cached_property
    def product_class(self) -> Floats:
        """[calculation, product class] all risk classes, offset by their correlations."""
        return joined(self.risk_class, self.psi)

    @cached_property
    def by_type(self) -> Floats:
        """[type, calculation, product class] each type alone, as if there were no other."""
        return np.stack([joined(one, self.psi) for one in self.margin])

    @cached_property
    def total(self) -> Floats:
        """[calculation] all product classes."""
        return over_classes(self.product_class)


def joined(margin: Floats, psi: Floats) -> Floats:
    """Root of the sum over pairs of psi_rs m_r m_s; of margins [..., risk class]."""
    classes = range(len(RISK_CLASSES))
    terms = [psi[r, s] * (margin[..., r] * margin[..., s]) for r in classes for s in classes]
    found: Floats = np.sqrt(np.maximum(_added(terms), 0.0))
    return found


def over_classes(margin: Floats) -> Floats:
    """The sum over product classes, which do not offset; of [calculation, product class]."""
    return _added([margin[:, place] for place in range(margin.shape[1])])


def _added(terms: list[Floats]) -> Floats:
    return reduce(np.add, terms)


def empty(calculations: int, classes: int) -> Floats:
    """[side, type, calculation, product class, risk class] nothing."""
    return np.zeros((len(SIDES), len(MARGIN_TYPES), calculations, classes, len(RISK_CLASSES)))
