"""The joint requirement by plain loops over plain rows, from the text of issue 7.

Nothing is taken from the package under test and no array library does the arithmetic; sums are
`math.fsum`. Option values are those of `oracle`, which takes nothing from it either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, fsum, sqrt

from oracle import black76

MOVES = (-0.18, -0.135, -0.09, -0.045, 0.045, 0.09, 0.135, 0.18)


@dataclass(frozen=True)
class Contract:
    """One instrument: `kind` spot, call or put; `scale` is money for one unit of its price."""

    kind: str
    underlying: str
    scale: float
    level: float
    strike: float = 1.0
    vol: float = 0.0
    years: float = 0.0
    rate: float = 0.0

    def profit(self, move: float, vol: float | None = None) -> float:
        """Of one long contract, when the price returns `move` and the volatility becomes `vol`."""
        if self.kind == "spot":
            return self.scale * self.level * move
        there = max(self.level * (1.0 + move), 0.0)
        vol = self.vol if vol is None else vol
        terms = (self.strike, self.years)
        now = black76(self.kind, self.level, *terms, self.vol, self.rate)
        then = black76(self.kind, there, *terms, vol, self.rate)
        return self.scale * (then - now)


@dataclass(frozen=True)
class Shape:
    """The grid of one underlying."""

    moves: Sequence[float] = MOVES
    up: float = 0.5
    down: float = 0.3
    short: float = 0.3
    long: float = 0.13
    least: float = 1.0
    tails: Sequence[tuple[float, float]] = ()

    def profits(self, held: Sequence[tuple[Contract, float]]) -> list[tuple[float, float]]:
        """(move, profit) of positions of one underlying in every cell."""
        cells = [(move, way, 1.0) for move in (0.0, *self.moves) for way in (0, 1, -1)]
        cells += [(move, 1, share) for move, share in self.tails]
        return [
            (
                move,
                fsum(q * share * c.profit(move, self.shocked(c, way)) for c, q in held),
            )
            for move, way, share in cells
        ]

    def shocked(self, contract: Contract, way: int) -> float:
        days = max(365.0 * contract.years, self.least)
        scale = (30.0 / days) ** (self.short if days <= 30.0 else self.long)
        if way > 0:
            return contract.vol * (1.0 + self.up * scale)
        return contract.vol * max(1.0 - self.down * scale, 0.0) if way < 0 else contract.vol


@dataclass(frozen=True)
class Setting:
    """The model's settings; `decay` None for the sample's correlations."""

    lookback: int
    theta: float = 0.25
    c: float = 0.8
    confidence: float = 0.975
    days: int = 1
    overlapping: bool = True
    decay: float | None = 0.97
    two_sided: float = 1.0
    stress: Sequence[str] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True)
class Market:
    """Prices of each underlying on the same dates (texts), oldest first."""

    dates: Sequence[str]
    prices: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Answer:
    """Every term, the signed m_u, losses by scenario, and how near the figures are to a jump."""

    shortfall: float
    base: float
    less: float
    more: float
    gross: float
    bound: float
    requirement: float
    signed: Mapping[str, float]
    losses: Mapping[str, float]
    stability: float


def margin(held: Sequence[tuple[Contract, float]], market: Market, how: Setting) -> Answer:
    """What one row of net positions requires."""
    losses = scenario_losses(held, market, how)
    worst = sorted(losses.values(), reverse=True)
    k = max(1, ceil(round((1.0 - how.confidence) * len(worst), 9)))
    shortfall = max(0.0, fsum(worst[:k]) / k)
    base = correlations(market, how)
    signed, stability = grid_losses(held, how, base)
    names = sorted(signed)
    sign = {u: 1.0 if signed[u] >= 0 else -1.0 for u in names}
    gross = fsum(abs(signed[u]) for u in names)

    def correlated(extra: Mapping[tuple[str, str], float], kept: float) -> float:
        form = fsum(
            signed[u] * signed[v] * (kept * base[u, v] + extra.get((u, v), 0.0))
            for u in names
            for v in names
        )
        return sqrt(max(form, 0.0))

    theta = how.theta
    m_base = correlated({}, 1.0)
    m_less = correlated({(u, u): theta for u in names}, 1.0 - theta)
    m_more = correlated(
        {(u, v): theta * sign[u] * sign[v] for u in names for v in names}, 1 - theta
    )
    core = max(shortfall, m_base, m_less, m_more)
    bound = (1.0 - how.c) * gross + how.c * core
    requirement = max(core, bound)
    return Answer(
        *(shortfall, m_base, m_less, m_more, gross, bound, requirement),
        signed=signed,
        losses=losses,
        stability=stability,
    )


def scenario_losses(
    held: Sequence[tuple[Contract, float]], market: Market, how: Setting
) -> dict[str, float]:
    """Loss of the whole row by scenario: the window's days, and the stress days."""
    step = how.days if how.overlapping else 1
    scale = 1.0 if how.overlapping else sqrt(how.days)
    days = list(range(len(market.dates) - how.lookback, len(market.dates)))
    days += [market.dates.index(day) for day in how.stress]
    found = {}
    for day in sorted(set(days)):
        move = {u: (p[day] / p[day - step] - 1.0) * scale for u, p in market.prices.items()}
        found[market.dates[day]] = fsum(-q * c.profit(move[c.underlying]) for c, q in held)
    return found


def correlations(market: Market, how: Setting) -> dict[tuple[str, str], float]:
    """Of daily returns over the lookback, weighted by decay^age; the mean is not removed."""
    count = len(market.dates)
    days = range(count - how.lookback, count)
    weight = {day: 1.0 if how.decay is None else how.decay ** (count - 1 - day) for day in days}
    move = {u: {d: p[d] / p[d - 1] - 1.0 for d in days} for u, p in market.prices.items()}
    product = {
        (u, v): fsum(weight[d] * move[u][d] * move[v][d] for d in days) for u in move for v in move
    }
    found = {}
    for u, v in product:
        size = sqrt(product[u, u] * product[v, v])
        found[u, v] = 1.0 if u == v else (product[u, v] / size if size > 0.0 else 0.0)
    return found


def grid_losses(
    held: Sequence[tuple[Contract, float]], how: Setting, base: Mapping[tuple[str, str], float]
) -> tuple[dict[str, float], float]:
    """The signed worst loss of each underlying, and how far signs are from being other ones."""
    signed: dict[str, float] = {}
    open_ones: dict[str, float] = {}
    stability = 1.0
    for name in sorted({c.underlying for c, _ in held}):
        own = [(c, q) for c, q in held if c.underlying == name]
        cells = how.shapes.get(name, Shape()).profits(own)
        worst = max(0.0, *(-profit for _, profit in cells))
        of = {
            way: max([0.0, *(-p for move, p in cells if (move > 0) - (move < 0) == way)])
            for way in (-1, 0, 1)
        }
        if worst > 0.0:
            other = min(of[-1], of[1])
            near = (abs(worst - of[0]) / worst, abs(other - how.two_sided * worst) / worst)
            stability = min(stability, *near)
        if worst == of[0] or min(of[-1], of[1]) >= how.two_sided * worst:
            open_ones[name] = worst
        else:
            signed[name] = -worst if of[-1] == worst else worst
    for name in sorted(open_ones):
        slope = fsum(base[name, other] * loss for other, loss in signed.items())
        size = fsum(abs(base[name, other] * loss) for other, loss in signed.items())
        if size > 0.0 and open_ones[name] > 0.0:
            stability = min(stability, abs(slope) / size)
        signed[name] = open_ones[name] if slope >= 0.0 else -open_ones[name]
    return signed, stability
