"""TIMS by hand: ten valuation points, class netting, product and portfolio groups, a minimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

RANGES = {
    "high_cap_broad_index": (-0.08, 0.06),
    "non_high_cap_broad_index": (-0.1, 0.1),
    "equity_or_narrow_index": (-0.15, 0.15),
}


def ranges_of(kind: str) -> tuple[float, float]:
    return RANGES[kind]


def points(low: Any, high: Any) -> list[Fraction]:
    """Five equidistant moves down and five up, from the lowest."""
    down, up = Fraction(str(low)), Fraction(str(high))
    return [down * step / 5 for step in (5, 4, 3, 2, 1)] + [
        up * step / 5 for step in (1, 2, 3, 4, 5)
    ]


POINTS = {kind: points(*ends) for kind, ends in RANGES.items()}


def offset(losses: Sequence[Sequence[Any]], share: Any) -> list[Any]:
    """Losses at each point less a share of the gains at the same point."""
    found = []
    for place in range(len(losses[0])):
        lost = sum(max(one[place], 0) for one in losses)
        gained = sum(max(-one[place], 0) for one in losses)
        found.append(lost - share * gained)
    return found


def requirement(
    products: Mapping[str, Mapping[str, Sequence[Any]]],
    shares: Mapping[str, Any],
    portfolios: Mapping[str, Sequence[str]],
    further: Mapping[str, Any],
    minimum: Any,
) -> Any:
    """Losses per product group and class to one requirement: the worst point of each portfolio."""
    total: Any = 0
    for name, groups in portfolios.items():
        inside = [offset(list(products[group].values()), shares[group]) for group in groups]
        total += max(0, *offset(inside, further[name]))
    return max(total, minimum)
