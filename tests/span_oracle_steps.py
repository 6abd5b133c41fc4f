"""What a combined commodity is while SPAN works on it: its vectors, months, spreads, delivery.

    state   {"code", "total" [losses], "months" {period: {"delta", "left", "vector"}}, "merged",
             "lov", "sov", "som", "intra", "delivery", "inter", "only_long", "n"}

`delta` of a month is its net delta, `left` what no spread has consumed: all pools (months, tiers,
the whole) are read off `left`, so that what one spread consumes no other sees.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

Dict = dict[str, Any]
NONE = Fraction(0)


def ordered(period: str) -> tuple[str, str]:
    return period[:6], period[6:]


def within(period: str, tier: Dict) -> bool:
    """Whether a period lies in a tier; a bound without a day has all days of its month."""
    if "only" in tier:
        return bool(period == tier["only"])
    (month, day), low, high = ordered(period), ordered(tier["start"]), ordered(tier["end"])
    if month < low[0] or month > high[0]:
        return False
    if month == low[0] and low[1] and day < low[1]:
        return False
    return not (month == high[0] and high[1] and day > high[1])


def months_of(state: Dict, tier: Dict | None) -> list[str]:
    """The months of a tier that a state has, front month first; all, without a tier."""
    every = sorted(state["months"], key=ordered)
    return [one for one in every if tier is None or within(one, tier)]


def tier_of(commodity: Dict, kind: str, number: Any) -> Dict | None:
    """The tier of a number; where every month is a tier, its number is the month."""
    if commodity[kind] == "each":
        month = isinstance(number, str)
        return {"number": number, "only": number} if month else None
    for tier in commodity[kind]:
        if tier["number"] == number:
            return tier
    return None


def pool(state: Dict, periods: list[str], side: int) -> Fraction:
    """Remaining long (side 1) or short (side -1) deltas of some months, as a positive number."""
    found = NONE
    for period in periods:
        found += max(side * state["months"][period]["left"], NONE)
    return found


def net(state: Dict, periods: list[str], what: str) -> Fraction:
    return sum((state["months"][period][what] for period in periods), NONE)


def consume(state: Dict, periods: list[str], side: int, amount: Fraction) -> None:
    """Takes deltas of one side from months, front to back."""
    for period in periods:
        month = state["months"][period]
        taken = min(max(side * month["left"], NONE), amount)
        month["left"] -= side * taken
        amount -= taken


def counted(number: Fraction, places: int | None) -> Fraction:
    """Spreads are rounded down to a precision, where one is set."""
    return number if places is None else Fraction(floor(number * 10**places), 10**places)


# ---------------------------------------------------------------- scan


def add(left: list[Fraction], right: list[Fraction], times: Any = 1) -> list[Fraction]:
    return [one + times * other for one, other in zip(left, right, strict=True)]


def scanned(vector: list[Fraction], commodity: Dict) -> tuple[Fraction, int, Fraction, Fraction]:
    """Scan risk, its scenario (from 1, the first of equals), time risk and volatility risk."""
    worst = max(vector)
    active = vector.index(worst)
    still = [vector[place] for place in commodity["still"]]
    time = sum(still) / len(still)
    if worst < 0:
        return NONE, active + 1, time, (still[0] - still[-1]) / 2
    return worst, active + 1, time, (worst - vector[commodity["pairs"][active]]) / 2


def scan_groups(state: Dict, commodity: Dict) -> list[list[str]]:
    """The months scanned together: of a tier, or all; months of no tier by themselves."""
    left = months_of(state, None)
    if commodity["scan"] == "each":
        return [[period] for period in left]
    groups = []
    for tier in commodity["scan"]:
        mine = [period for period in left if within(period, tier)]
        left = [period for period in left if period not in mine]
        if mine:
            groups.append(mine)
    return groups + ([left] if left else [])


def scan(state: Dict, commodity: Dict) -> tuple[Fraction, int, Fraction]:
    """Scan risk, active scenario and futures price risk of the whole combined commodity."""
    risk, active, time, volatility = scanned(state["total"], commodity)
    if commodity["scan"] and not state["merged"]:
        risk = time = volatility = NONE
        for periods in scan_groups(state, commodity):
            part = scanned(vector_of(state, periods), commodity)
            risk, time, volatility = risk + part[0], time + part[2], volatility + part[3]
    return risk, active, max(risk - time - volatility, NONE)


def vector_of(state: Dict, periods: list[str]) -> list[Fraction]:
    found = [NONE] * state["n"]
    for period in periods:
        found = add(found, state["months"][period]["vector"])
    return found


def price_risk(state: Dict, commodity: Dict, tier: Dict | None = None) -> Fraction:
    """Weighted futures price risk: per delta, of the whole or of an inter-commodity tier."""
    periods = months_of(state, tier)
    delta = net(state, periods, "delta")
    if tier is None:
        futures = scan(state, commodity)[2]
    else:
        risk, _, time, volatility = scanned(vector_of(state, periods), commodity)
        futures = max(risk - time - volatility, NONE)
    if futures <= 0 or delta == 0:
        return NONE
    normal = futures / abs(delta)
    if commodity["wfpr"] == 1:
        return normal
    for period in periods:
        ranges = commodity["psr"].get(period)
        if ranges is not None:
            cap = ranges["down" if delta > 0 else "up"]
            return min(normal, cap) if commodity["wfpr"] == 2 else cap
    return normal


# ---------------------------------------------------------------- spreads between months


def leg_months(state: Dict, commodity: Dict, leg: Dict) -> list[str]:
    if leg["kind"] == "month":
        return [leg["key"]] if leg["key"] in state["months"] else []
    tier = tier_of(commodity, "intra", leg["key"])
    return [] if tier is None else months_of(state, tier)


def formed(state: Dict, legs: list[Dict], sides: dict[str, int]) -> Fraction:
    """How many spreads the legs allow: what legs share of one pool on one side they share."""
    needs: dict[Any, Fraction] = {}
    for leg in legs:
        key = (*leg["periods"], sides[leg["side"]])
        needs[key] = needs.get(key, NONE) + leg["ratio"]
    if not needs or any(need <= 0 for need in needs.values()):
        return NONE
    return min(pool(state, list(key[:-1]), key[-1]) / need for key, need in needs.items())


def apart(legs: list[Dict]) -> int:
    """Months between the first and the last leg of a spread charged by the month."""
    if any(leg["kind"] != "month" for leg in legs):
        raise ValueError("a charge by the month needs legs that are months")
    places = [12 * int(leg["key"][:4]) + int(leg["key"][4:6]) for leg in legs]
    return max(places) - min(places)


def intra(state: Dict, commodity: Dict, places: int | None) -> None:
    """Series spreads and tier spreads by priority, A legs long and then B legs long."""
    if commodity["intra_method"] == "01":
        return
    weight = price_risk(state, commodity)
    for spread in commodity["charges"]:
        legs = [{**leg, "periods": leg_months(state, commodity, leg)} for leg in spread["legs"]]
        for sides in ({"A": 1, "B": -1}, {"A": -1, "B": 1}):
            count = counted(formed(state, legs, sides), places)
            if count <= 0:
                continue
            rate = spread["rate"] * Fraction(10) ** commodity["exponent"]
            if spread["charge"] == "P":
                rate *= apart(legs)
            if spread["charge"] == "W":
                rate = -weight * sum(leg["ratio"] for leg in legs) * spread["rate"] / 100
            state["intra"] += count * rate
            for leg in legs:
                consume(state, leg["periods"], sides[leg["side"]], count * leg["ratio"])


def delivery(state: Dict, commodity: Dict) -> None:
    """Deltas of delivery months: what spreads consumed at one rate, what is left at another."""
    for period, (consumed, outright) in commodity["delivery"].items():
        if period in state["months"]:
            month = state["months"][period]
            charge = abs(month["delta"] - month["left"]) * consumed + abs(month["left"]) * outright
            state["delivery"] += charge * Fraction(10) ** commodity["exponent"]
