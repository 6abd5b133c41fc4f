"""Spreads between combined commodities: by deltas (01, 02, 20) and by scanning (04)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from span_oracle_steps import (
    NONE,
    add,
    consume,
    counted,
    months_of,
    net,
    price_risk,
    tier_of,
)

Dict = dict[str, Any]
Convert = Callable[[str, str], Fraction]


def sign(number: Fraction) -> int:
    return (number > 0) - (number < 0)


def matched(legs: list[Dict]) -> Fraction:
    """Spreads that legs form from their nets: the first leg sets which of A and B is long."""
    long = 0
    count = None
    for leg in legs:
        side = 1 if leg["side"] == "A" else -1
        if leg["net"] == 0 or leg["ratio"] <= 0:
            return NONE
        long = long or sign(leg["net"]) * side
        if sign(leg["net"]) != long * side:
            return NONE
        most = abs(leg["net"]) / leg["ratio"]
        count = most if count is None else min(count, most)
    return count or NONE


def placed(
    spread: Dict, states: dict[str, Dict], commodities: Dict, number: Any
) -> list[Dict] | None:
    """Legs with their months and what is left in them; nothing where one is missing.

    `number` is the tier of all legs; None takes the tier each leg names, and 0 the whole.
    """
    found = []
    for leg in spread["legs"]:
        state = states.get(leg["cc"])
        if state is None:
            return None
        wanted = leg["tier"] if number is None else number
        tier = None
        if wanted != 0:
            tier = tier_of(commodities[leg["cc"]], "inter", wanted)
            if tier is None:
                return None
        periods = months_of(state, tier)
        risen = price_risk(state, commodities[leg["cc"]], tier if number is None else None)
        found.append({**leg, "state": state, "periods": periods, "risk": risen,
                      "net": net(state, periods, "left")})  # fmt: skip
    return found


def credited(spread: Dict, legs: list[Dict], count: Fraction) -> None:
    """Credits of so many spreads, and the deltas they take."""
    for leg in legs:
        if spread["flat"]:
            leg["state"]["inter"] += count * leg["rate"] / len(legs)
        else:
            leg["state"]["inter"] += leg["risk"] * count * leg["ratio"] * leg["rate"] / 100
        consume(leg["state"], leg["periods"], sign(leg["net"]), count * leg["ratio"])


def by_deltas(spread: Dict, states: dict[str, Dict], commodities: Dict, places: int | None) -> None:
    """Methods 01 (wholes) and 20 (the tier of each leg)."""
    legs = placed(spread, states, commodities, 0 if spread["method"] == "01" else None)
    if legs is None or (not spread["flat"] and any(leg["risk"] <= 0 for leg in legs)):
        return
    count = counted(matched(legs), places)
    if count > 0:
        credited(spread, legs, count)


def by_tiers(spread: Dict, states: dict[str, Dict], commodities: Dict, places: int | None) -> None:
    """Method 02: tier by tier with tier, as many in all as the wholes allow."""
    wholes = placed(spread, states, commodities, 0)
    if wholes is None or (not spread["flat"] and any(leg["risk"] <= 0 for leg in wholes)):
        return
    left = counted(matched(wholes), places)
    numbers: set[Any] = set()
    for leg in wholes:
        tiers = commodities[leg["cc"]]["inter"]
        if tiers == "each":
            numbers |= set(leg["state"]["months"])
        else:
            numbers |= {tier["number"] for tier in tiers}
    # Where one has numbered tiers and another months for tiers, no tier is a tier of both.
    for number in sorted(numbers, key=str):
        legs = placed(spread, states, commodities, number)
        if legs is None or left <= 0:
            continue
        count = min(counted(matched(legs), places), left)
        if count > 0:
            credited(spread, legs, count)
            left -= count


def damped(vector: list[Fraction], rate: Fraction) -> list[Fraction]:
    """Gains count at a rate only."""
    return [value if value >= 0 else value * rate for value in vector]


def by_scanning(
    spread: Dict,
    states: dict[str, Dict],
    commodities: Dict,
    fresh: Callable[[str], Dict],
    convert: Convert,
) -> None:
    """Method 04: the legs' vectors, deltas, charges and option values become the target's."""
    present = [leg for leg in spread["legs"] if leg["cc"] in states]
    if len(present) < spread["least"]:
        return
    if any(leg["required"] and leg["cc"] not in states for leg in spread["legs"]):
        return
    aim = next(leg for leg in spread["legs"] if leg["target"])
    if aim["cc"] not in commodities:
        return
    target = fresh(aim["cc"])
    target["merged"] = True
    home = commodities[aim["cc"]]["currency"]
    for leg in present:
        state = states.pop(leg["cc"])
        money = convert(commodities[leg["cc"]]["currency"], home)
        share, times = leg["rate"] / 100, aim["ratio"] / leg["ratio"]
        target["total"] = add(target["total"], damped(state["total"], share), money)
        for what in ("lov", "sov", "som", "intra", "delivery", "inter"):
            target[what] += money * state[what]
        target["only_long"] &= state["only_long"]
        for period, month in state["months"].items():
            mine = target["months"].setdefault(
                period, {"delta": NONE, "left": NONE, "vector": [NONE] * target["n"]}
            )
            mine["delta"] += times * month["delta"]
            mine["left"] += times * month["left"]
            mine["vector"] = add(mine["vector"], damped(month["vector"], share), money)
    states[aim["cc"]] = target


def inter(
    spreads: list[Dict],
    states: dict[str, Dict],
    commodities: Dict,
    fresh: Callable[[str], Dict],
    convert: Convert,
    places: int | None,
) -> None:
    """Spreads one after the other, in the order of their priorities."""
    for spread in spreads:
        if spread["method"] in ("01", "20"):
            by_deltas(spread, states, commodities, places)
        elif spread["method"] == "02":
            by_tiers(spread, states, commodities, places)
        elif spread["method"] == "04":
            by_scanning(spread, states, commodities, fresh, convert)
        else:
            raise ValueError(f"no intercommodity method {spread['method']}")
