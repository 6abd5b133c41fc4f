"""What an account has of a commodity in the plain calculation, and the steps on one commodity."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.span_tables import CAPPED, NORMAL

Floats = NDArray[np.float64]
Terms = dict[str, Any]
Rows = list[Terms]

# Deltas are whole numbers of this many, so that what cancels is nought.
UNITS = 10**8


@dataclass
class Month:
    delta: float
    left: float
    vector: Floats


@dataclass
class State:
    """What an account has of a commodity."""

    total: Floats
    months: dict[str, Month] = field(default_factory=dict)
    long: float = 0.0
    short: float = 0.0
    minimum: float = 0.0
    intra: float = 0.0
    delivery: float = 0.0
    inter: float = 0.0
    only_long: bool = True
    merged: bool = False
    shorts: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    risks: dict[Any, float] = field(default_factory=dict)

    def month(self, name: str) -> Month:
        if name not in self.months:
            self.months[name] = Month(0, 0, np.zeros(len(self.total)))
        return self.months[name]


def grouped(rows: Rows, key: str) -> dict[Any, Rows]:
    found = defaultdict(list)
    for row in rows:
        found[row[key]].append(row)
    return found


def within(month: str, tier: Terms) -> bool:
    """Whether a month is in a tier, whose bounds without a day have all days of their month."""
    low, high = str(tier["start"]), str(tier["end"])
    return month[: len(low)] >= low and month[: len(high)] <= high


def tier_of(one: Terms, number: Any) -> Terms | None:
    """The inter-commodity tier of a number, or of a month where every month is one."""
    if one["inter_by_month"]:
        return (
            {"number": number, "start": number, "end": number} if isinstance(number, str) else None
        )
    return next((tier for tier in one["inter"] if tier["number"] == number), None)


def sign(number: float) -> int:
    return (number > 0) - (number < 0)


def minimum(state: State, one: Terms) -> float:
    every = {"start": "", "end": "", "rate": one["minimum_rate"]}
    found = 0.0
    for tier in one["minimum"] or [every]:
        count = {"C": 0.0, "P": 0.0}
        for (month, right), number in state.shorts.items():
            if within(month, tier):
                count[right] += number
        charged = max(count.values()) if one["minimum_greater"] else sum(count.values())
        found += charged * tier["rate"]
    return found


def scanned(vector: Floats, one: Terms) -> tuple[float, int, float]:
    """Risk, active scenario, and what of the risk is neither time nor volatility."""
    active = int(vector.argmax())
    worst, still = float(vector[active]), vector[one["still"]]
    time = float(still.mean())
    if worst < 0:
        return 0.0, active, -time - float(still[0] - still[-1]) / 2
    return worst, active, (worst + float(vector[one["pair"][active]])) / 2 - time


def scan(state: State, one: Terms) -> tuple[float, int, float]:
    risk, active, futures = scanned(state.total, one)
    if (one["scan"] or one["scan_by_month"]) and not state.merged:
        risk = futures = 0.0
        groups: dict[Any, Any] = {}
        for name, month in state.months.items():
            numbers = (tier["number"] for tier in one["scan"] if within(name, tier))
            key = name if one["scan_by_month"] else next(numbers, None)
            groups[key] = groups.get(key, 0.0) + month.vector
        for vector in groups.values():
            part = scanned(vector, one)
            risk, futures = risk + part[0], futures + part[2]
    return risk, active, max(futures, 0.0)


def price_risk(state: State, one: Terms, tier: Terms | None) -> float:
    """Of the whole, or of a tier: per delta."""
    key = None if tier is None else tier["number"]
    if key not in state.risks:
        state.risks[key] = _price_risk(state, one, tier)
    return state.risks[key]


def _price_risk(state: State, one: Terms, tier: Terms | None) -> float:
    names = sorted(m for m in state.months if tier is None or within(m, tier))
    delta = sum(state.months[name].delta for name in names)
    if tier is None:
        futures = scan(state, one)[2]
    else:
        vectors = [state.months[name].vector for name in names]
        futures = max(scanned(np.sum(vectors, axis=0), one)[2], 0.0) if names else 0.0
    if futures <= 0 or delta == 0:
        return 0.0
    normal = futures / (abs(delta) / UNITS)
    if one["wfpr"] == NORMAL:
        return normal
    for name in names:
        if name in one["ranges"]:
            most = float(one["ranges"][name]["down" if delta > 0 else "up"])
            return min(normal, most) if one["wfpr"] == CAPPED else most
    return normal


def consume(months: list[Month], side: int, amount: float) -> None:
    """Takes deltas of one side, the front month first."""
    for month in months:
        taken = min(max(side * month.left, 0.0), amount)
        month.left -= side * taken
        amount -= taken
