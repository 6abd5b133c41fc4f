"""SPAN again, one account at a time, in plain loops and exact fractions: nothing of gpu_margin.

`margin(exchange, positions)` takes what `parse_pa2` or `parse_spn` gives and pairs of a contract's
id and a quantity, and gives

    {"rows": {combined commodity: {"scan_risk", "active_scenario", "intra_spread_charge",
              "delivery_charge", "inter_spread_credit", "short_option_minimum", "risk",
              "net_option_value", "requirement", "long_option_value", ...}},
     "totals": {currency: requirement}, "unfloored": {currency: risk less net option value}}

The order of steps is the method's: combinations, vectors and deltas, super spreads, spreads between
months, delivery, spreads between commodities, short option minimum, account class, option values.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import floor
from typing import Any

from span_oracle_inter import inter
from span_oracle_steps import (
    NONE,
    add,
    delivery,
    intra,
    scan,
    within,
)

Dict = dict[str, Any]
Positions = Iterable[tuple[str, Any]]


def rate_of(exchange: Dict, source: str, target: str) -> Fraction:
    """What one unit of a currency is in another, from the file."""
    if source == target:
        return Fraction(1)
    if (source, target) in exchange["rates"]:
        return exchange["rates"][source, target]
    if (target, source) in exchange["rates"]:
        return 1 / exchange["rates"][target, source]
    raise ValueError(f"no rate from {source} to {target}")


def fresh_state(code: str, points: int) -> Dict:
    return {
        "code": code, "total": [NONE] * points, "months": {}, "merged": False, "n": points,
        "lov": NONE, "sov": NONE, "som": NONE, "intra": NONE, "delivery": NONE, "inter": NONE,
        "only_long": True, "shorts": {},
    }  # fmt: skip


def points_of(exchange: Dict, code: str) -> int:
    return len(exchange["commodities"][code]["pairs"])


def month_of(state: Dict, period: str) -> Dict:
    blank = {"delta": NONE, "left": NONE, "vector": [NONE] * state["n"]}
    return state["months"].setdefault(period, blank)


def split_of(exchange: Dict, contract: Dict) -> str:
    """How positions in a combination are margined: S, D, M or not at all."""
    own = exchange["splits"].get(contract["product"])
    if own is None and contract["right"]:
        own = exchange["splits"].get(contract.get("under"))
    return own or exchange["commodities"][contract["commodity"]]["split"]


def legs_of(exchange: Dict, contract: Dict) -> list[tuple[Dict, Fraction]]:
    """The contracts a combination is made of, with how many of each."""
    legs = exchange["combinations"].get(
        (contract["exchange"], contract["product"], contract["period"])
    )
    if legs is None and contract["right"] and contract.get("under"):
        under = contract["exchange"], contract["under"], contract["period"]
        legs = exchange["combinations"].get(under)
    found = []
    for leg in legs or []:
        for one in exchange["contracts"].values():
            if one["key"] == leg["product"] and one["period"] == leg["period"] and not one["right"]:
                found.append((one, leg["ratio"]))
                break
        else:
            raise ValueError(f"{contract['id']} has a leg that is not in the file: {leg}")
    return found


def allocated(exchange: Dict, netted: dict[str, Fraction]) -> list[tuple[Dict, Fraction, str]]:
    """Positions after combinations became their legs.

    What follows a position says what of it counts: "all", "delta", or "flat" (all but delta).
    """
    found = []
    for name, quantity in netted.items():
        contract = exchange["contracts"][name]
        method = split_of(exchange, contract)
        legs = legs_of(exchange, contract) if method in ("S", "D", "M") else []
        if not legs:
            found.append((contract, quantity, "all"))
        elif contract["right"] or method == "D":
            found.append((contract, quantity, "flat"))
            for leg, ratio in legs:
                found.append((leg, quantity * contract["delta"] * ratio, "delta"))
        else:
            for leg, ratio in legs:
                found.append((leg, quantity * ratio, "all"))
    return found


def rounded(number: Fraction, places: int | None) -> Fraction:
    """To the nearest of so many decimals, halves away from nought."""
    if places is None:
        return number
    size = floor(abs(number) * 10**places + Fraction(1, 2))
    return Fraction(size if number > 0 else -size, 10**places)


def states_of(
    exchange: Dict, netted: dict[str, Fraction], places: int | None = None
) -> dict[str, Dict]:
    """Vectors, deltas, option values and short options per combined commodity."""
    states: dict[str, Dict] = {}
    for contract, quantity, what in allocated(exchange, netted):
        code = contract["commodity"]
        one = exchange["commodities"][code]
        state = states.setdefault(code, fresh_state(code, points_of(exchange, code)))
        money = rate_of(exchange, contract["currency"], one["currency"])
        month = month_of(state, contract["period"])
        if what in ("all", "flat"):
            state["total"] = add(state["total"], contract["array"], quantity * money)
            month["vector"] = add(month["vector"], contract["array"], quantity * money)
        if what == "all":
            month["delta"] += quantity * contract["delta"] * contract["scaling"]
        if what == "delta":
            month["delta"] += quantity * contract["scaling"]
        option = bool(contract["right"])
        if what != "delta" and option and contract["premium"]:
            if contract["price"] is None:
                raise ValueError(f"{contract['id']} has no price")
            value = quantity * contract["price"] * contract["multiplier"] * money
            state["lov" if quantity > 0 else "sov"] += value
        if what != "delta" and option and quantity < 0:
            key = (contract["period"], contract["right"])
            count = -quantity * contract["scaling"]
            state["shorts"][key] = state["shorts"].get(key, NONE) + count
        if not option or quantity < 0 or not contract["premium"]:
            state["only_long"] = False
    for code, state in states.items():
        for month in state["months"].values():
            month["left"] = month["delta"] = rounded(month["delta"], places)
        state["som"] = minimum(state, exchange["commodities"][code])
    return states


def minimum(state: Dict, commodity: Dict) -> Fraction:
    """The short option minimum: of all, or of each of its tiers."""
    tiers = commodity["som_tiers"] or [
        {"start": "000000", "end": "999999", "rate": commodity["som"]}
    ]
    found = NONE
    for tier in tiers:
        sums = {"C": NONE, "P": NONE}
        for (period, right), count in state["shorts"].items():
            if within(period, tier):
                sums[right] += count
        both = max(sums.values()) if commodity["som_method"] == 1 else sum(sums.values())
        found += both * tier["rate"] * Fraction(10) ** commodity["exponent"]
    return found


def row(
    state: Dict, commodity: Dict, scanned: tuple[Any, ...], account: str, initial: bool
) -> Dict:
    """Figures of a combined commodity once all spreads are formed."""
    risk, active = scanned[:2]
    before = risk + state["intra"] + state["delivery"] - state["inter"]
    found = max(before, state["som"])
    if state["only_long"]:
        found = min(found, state["lov"])
    found *= commodity["ratios" if initial else "factors"][account]
    value = state["lov"] + state["sov"]
    return {
        "scan_risk": risk, "active_scenario": active, "intra_spread_charge": state["intra"],
        "delivery_charge": state["delivery"], "inter_spread_credit": state["inter"],
        "short_option_minimum": state["som"], "risk": found, "net_option_value": value,
        "requirement": found - value, "long_option_value": state["lov"],
        "short_option_value": state["sov"], "currency": commodity["currency"],
        "excess": max(NONE, value - found), "losses": state["total"],
    }  # fmt: skip


def totalled(exchange: Dict, rows: dict[str, Dict]) -> Dict:
    """Requirements per currency: of all together, or of each where option value is limited."""
    pooled: dict[str, Fraction] = {}
    limited: dict[str, Fraction] = {}
    for code, one in rows.items():
        short = one["requirement"]
        if exchange["limit"] or exchange["commodities"][code]["limit"]:
            limited[one["currency"]] = limited.get(one["currency"], NONE) + max(NONE, short)
            pooled.setdefault(one["currency"], NONE)
        else:
            pooled[one["currency"]] = pooled.get(one["currency"], NONE) + short
    totals = {name: max(NONE, amount) + limited.get(name, NONE) for name, amount in pooled.items()}
    every: dict[str, Fraction] = {}
    for one in rows.values():
        every[one["currency"]] = every.get(one["currency"], NONE) + one["requirement"]
    return {"rows": rows, "totals": totals, "unfloored": every}


def reported(exchange: Dict, result: Dict, currency: str) -> Fraction:
    """All totals in one currency, which no figure before depends on."""
    return sum(
        (amount * rate_of(exchange, name, currency) for name, amount in result["totals"].items()),
        NONE,
    )


def refuse(exchange: Dict, codes: Iterable[str]) -> None:
    """What a file asks for and this does not do."""
    for what in exchange["refused"]:
        if what.split(":")[0] in codes:
            raise ValueError(what)


def margin(
    exchange: Dict,
    positions: Positions,
    account: str = "hedger",
    initial: bool = False,
    gross: bool = False,
    places: int | None = None,
    delta_places: int | None = None,
) -> Dict:
    """What an account requires; `gross` keeps its long and its short positions apart.

    Numbers of spreads are rounded down to `places`, net deltas of months to `delta_places`.
    """
    if gross:
        return gross_margin(exchange, positions, account, initial)
    netted: dict[str, Fraction] = {}
    for name, quantity in positions:
        netted[name] = netted.get(name, NONE) + Fraction(quantity)
    held = {name: quantity for name, quantity in netted.items() if quantity}
    states = states_of(exchange, held, delta_places)
    commodities = exchange["commodities"]
    refuse(exchange, states)

    def fresh(code: str) -> Dict:
        return fresh_state(code, points_of(exchange, code))

    def convert(source: str, target: str) -> Fraction:
        return rate_of(exchange, source, target)

    above = [spread for spread in exchange["spreads"] if spread["super"]]
    below = [spread for spread in exchange["spreads"] if not spread["super"]]
    inter(above, states, commodities, fresh, convert, places)
    for code, state in states.items():
        intra(state, commodities[code], places)
        delivery(state, commodities[code])
    inter(below, states, commodities, fresh, convert, places)
    rows = {}
    for code in sorted(states):
        one = commodities[code]
        rows[code] = row(states[code], one, scan(states[code], one), account, initial)
    return totalled(exchange, rows)


def gross_margin(exchange: Dict, positions: Positions, account: str, initial: bool) -> Dict:
    """Long and short positions scanned apart, without spreads and without delivery."""
    sides: list[dict[str, Fraction]] = [{}, {}]
    for name, quantity in positions:
        side = sides[0 if quantity > 0 else 1]
        side[name] = side.get(name, NONE) + Fraction(quantity)
    parts = [states_of(exchange, side) for side in sides]
    rows = {}
    for code in sorted({*parts[0], *parts[1]}):
        one = exchange["commodities"][code]
        whole = fresh_state(code, points_of(exchange, code))
        risk = NONE
        for part in parts:
            if code in part:
                state = part[code]
                risk += scan(state, one)[0]
                whole["total"] = add(whole["total"], state["total"])
                for what in ("lov", "sov", "som"):
                    whole[what] += state[what]
                whole["only_long"] &= state["only_long"]
        active = scan(whole, {**one, "scan": []})[1]
        rows[code] = row(whole, one, (risk, active), account, initial)
    return totalled(exchange, rows)
