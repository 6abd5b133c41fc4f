"""Tails as weights of ranked losses: what a measure is, and what its Euler contributions follow."""

from __future__ import annotations

import math
from itertools import pairwise

from gpu_margin.backend import TailMeasure


def euler_measure(measure: TailMeasure, scenarios: int) -> TailMeasure:
    """The measure whose tail says what a position contributes to `measure`.

    `scenarios` is the count n of losses that are ranked, worst first from 1. A measure whose
    weights do not grow towards smaller losses (expected shortfall, worst loss) is its own. That of
    a value-at-risk would rest on one scenario, so each of its ranks k is spread in a triangle over
    the ranks k - h .. k + h, h = min(k - 1, n - k, floor(k / 2)), with weights that add up to its
    own: two ranks where it is interpolated. Raises `ValueError` where the measure has more weights
    than there are scenarios. Source: the mean loss of a position where the sum is at its quantile
    (Hallerbach, J. Risk 5/2 (2003) 1), estimated with a kernel over the losses next to it
    (Epperlein and Smillie, Risk 19/8 (2006) 70); the triangle in ranks is this project's.
    """
    if len(measure.weights) > scenarios:
        raise ValueError(f"{len(measure.weights)} weights for {scenarios} scenarios")
    if not is_smoothed(measure):
        return measure
    ranks = [(k, weight) for k, weight in enumerate(measure.weights, 1) if weight != 0.0]
    reach = {k: min(k - 1, scenarios - k, k // 2) for k, _ in ranks}
    if len(ranks) == 1 and ranks[0][1] == 1.0:  # whole weights add up to the divisor exactly
        ((k, _),) = ranks
        size = reach[k] + 1
        weights = [float(max(0, size - abs(rank - k))) for rank in range(1, k + size)]
        return TailMeasure(tuple(weights), float(size * size) * measure.divisor)
    depth = max(k + h for k, h in reach.items())
    return TailMeasure(
        tuple(
            math.fsum(
                weight * max(0, reach[k] + 1 - abs(rank - k)) / (reach[k] + 1) ** 2
                for k, weight in ranks
            )
            for rank in range(1, depth + 1)
        ),
        measure.divisor,
    )


def is_smoothed(measure: TailMeasure) -> bool:
    """Whether contributions to the measure follow another tail than its own."""
    return any(later > earlier for earlier, later in pairwise(measure.weights))
