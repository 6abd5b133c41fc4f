"""TIMS by plain loops over plain rows, from the rules of the notes; nothing of the package in it.

Ten valuation points, class netting, product and portfolio groups, a minimum. Points are exact
fractions; sums are `math.fsum`. Option values are those of `oracle`, which takes nothing from the
package either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import fsum

from oracle import black76

RANGES = {
    "high_cap_broad_index": (-0.08, 0.06),
    "non_high_cap_broad_index": (-0.1, 0.1),
    "equity_or_narrow_index": (-0.15, 0.15),
}
SHARES = {"high_cap_broad_index": 0.9, "non_high_cap_broad_index": 0.75}
BETWEEN = 0.5
EQUITY = "equity_or_narrow_index"


@dataclass(frozen=True)
class Contract:
    """One instrument; `scale` is money for one unit of its price."""

    kind: str
    underlying: str
    scale: float
    level: float
    strike: float = 1.0
    vol: float = 0.0
    years: float = 0.0
    rate: float = 0.0

    @property
    def option(self) -> bool:
        return self.kind in ("call", "put")

    def value(self, price: float) -> float:
        if not self.option:
            return self.scale * price
        terms = (self.strike, self.years, self.vol, self.rate)
        return self.scale * black76(self.kind, max(price, 0.0), *terms)

    def profit(self, move: float) -> float:
        """Of one long contract, when the price returns `move`."""
        if not self.option:
            return self.scale * self.level * move
        return self.value(self.level * (1.0 + move)) - self.value(self.level)

    def minimum(self, quantity: float, rate: float) -> float:
        """Rate x multiplier of options and futures, of longs at most what they are worth."""
        if self.kind == "spot":
            return 0.0
        each = rate * self.scale
        if quantity > 0:
            each = min(each, abs(self.value(self.level)))
        return abs(quantity) * each


@dataclass(frozen=True)
class Setting:
    """Which class an underlying is in, what a class is, and how groups lie in each other."""

    class_of: Mapping[str, str] = field(default_factory=dict)
    type_of: Mapping[str, str] = field(default_factory=dict)
    product_of: Mapping[str, str] = field(default_factory=dict)
    portfolio_of: Mapping[str, str] = field(default_factory=dict)
    product_share: Mapping[str, float] = field(default_factory=dict)
    portfolio_share: Mapping[str, float] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: RANGES)
    minimum: float = 0.375


@dataclass(frozen=True)
class Answer:
    """`losses` of the portfolio groups added up, the `minimum`, and the larger of them.

    `by_point` is what the portfolio groups lose together at each point, gains left out.
    """

    losses: float
    minimum: float
    requirement: float
    by_point: Sequence[float]


def points(low: float, high: float) -> list[Fraction]:
    """Five equidistant moves down and five up, from the lowest."""
    down, up = Fraction(str(low)), Fraction(str(high))
    return [down * step / 5 for step in (5, 4, 3, 2, 1)] + [
        up * step / 5 for step in (1, 2, 3, 4, 5)
    ]


def offset(losses: Sequence[Sequence[float]], share: float) -> list[float]:
    """Losses at each point less a share of the gains at the same point."""
    found = []
    for place in range(10):
        lost = fsum(max(one[place], 0.0) for one in losses)
        gained = fsum(max(-one[place], 0.0) for one in losses)
        found.append(lost - share * gained)
    return found


def margin(held: Sequence[tuple[Contract, float]], how: Setting) -> Answer:
    """What one row of net positions requires."""
    classes: dict[str, list[tuple[Contract, float]]] = {}
    for contract, quantity in held:
        name = how.class_of.get(contract.underlying, contract.underlying)
        classes.setdefault(name, []).append((contract, quantity))
    products: dict[str, list[list[float]]] = {}
    for name, own in classes.items():
        moves = points(*how.ranges[how.type_of.get(name, EQUITY)])
        losses = [-fsum(q * c.profit(float(move)) for c, q in own) for move in moves]
        products.setdefault(how.product_of.get(name, f"alone {name}"), []).append(losses)
    portfolios: dict[str, list[list[float]]] = {}
    for group, inside in products.items():
        losses = offset(inside, how.product_share.get(group, 1.0))
        portfolios.setdefault(how.portfolio_of.get(group, f"alone {group}"), []).append(losses)
    ends = [offset(inside, how.portfolio_share.get(n, 1.0)) for n, inside in portfolios.items()]
    total = fsum(max(0.0, *losses) for losses in ends)
    least = fsum(contract.minimum(quantity, how.minimum) for contract, quantity in held)
    together = [fsum(max(0.0, one[place]) for one in ends) for place in range(10)]
    return Answer(total, least, max(total, least), together)
