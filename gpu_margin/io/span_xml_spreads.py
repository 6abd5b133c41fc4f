"""Spreads between combined commodities, as SPAN XML has them.

`sSpread` is by scanning; `dSpread` is by deltas, of tiers where a leg names one. A spread that
cannot be used refuses the combined commodities of its legs.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from gpu_margin.io.span_xml_charges import plain_spread, shape
from gpu_margin.io.span_xml_commodities import Commodities
from gpu_margin.io.span_xml_rates import ALL, alike, picked
from gpu_margin.io.span_xml_tree import Bad, Node
from gpu_margin.span_tables import BY_DELTA, BY_LEG_TIERS, BY_SCANNING

Row = dict[str, Any]

_ABOVE, _BELOW = "superSpreads", "interSpreads"
_ELSEWHERE = ("superInterClearSpreads", "interClearSpreads")
_LEGS = ("tLeg", "sLeg", "pLeg", "rpLeg")


def spreads_between(house: Node, commodities: Commodities) -> tuple[list[Row], list[Row]]:
    """Rows of `inter` and `inter_legs` in the order in which they are formed."""
    found = []
    for holder in house.all(_ABOVE, _BELOW):
        for spread in holder.all("dSpread", "sSpread"):
            try:
                order = (holder.name != _ABOVE, spread.whole("spread", 0))
                found.append((order, *_spread(spread, holder.name == _ABOVE, commodities)))
            except Bad as bad:
                _refuse(spread, commodities, bad)
    for holder in house.all(*_ELSEWHERE):
        for spread in holder.children:
            reason = "spreads with another clearing organisation are not done"
            _refuse(spread, commodities, Bad(reason, spread.line, spread.name))
    found.sort(key=lambda one: one[0])
    legs = [{"spread": place, **leg} for place, (_, _, own) in enumerate(found) for leg in own]
    return [row for _, row, _ in found], legs


def _refuse(spread: Node, commodities: Commodities, bad: Bad) -> None:
    commodities.faults.append(bad)
    name = f"spread {spread.word('spread')}".strip()
    for leg in spread.all(*_LEGS, "homeLeg"):
        commodities.refuse(leg.word("cc"), f"{name}, line {bad.line}: {bad.reason}")


def _spread(node: Node, above: bool, commodities: Commodities) -> tuple[Row, list[Row]]:
    plain_spread(node)
    nodes = list(node.all(*_LEGS))
    scanning = node.name == "sSpread"
    if not nodes:
        raise Bad("a spread without legs", node.line, node.name)
    if any((leg.name == "sLeg") != scanning or leg.name in ("pLeg", "rpLeg") for leg in nodes):
        raise Bad("legs of months between combined commodities are not done", node.line, node.name)
    flat = _flat(node, scanning)
    ids = _ids(nodes, commodities)
    rates = alike(lambda place: _rates(node, nodes, ids[place]), range(len(ids)), node.line)
    # A flat rate is a credit of its size: texts write it with either sign.
    legs = [
        _leg(leg, float(abs(rate) if flat else rate / commodities.unit), node.flag("isTargetReq"))
        for leg, rate in zip(nodes, rates, strict=True)
    ]
    if scanning:
        _check_target(node, legs, commodities)
    tiers = any(leg["tier"] for leg in legs)
    row = {
        "method": BY_SCANNING if scanning else (BY_LEG_TIERS if tiers else BY_DELTA),
        "flat": flat,
        "above": above,
        "least": node.whole("numLegsReq", 0) or 2,
        "name": f"spread {node.word('spread')}".strip(),
    }
    return row, legs


def _flat(node: Node, scanning: bool) -> bool:
    method = node.word("chargeMeth") or "W"
    if method not in ("F", "W"):
        raise Bad("a charge method that is not done; F, W are", node.line, "chargeMeth", method)
    if scanning and node.first("sPointDef") is not None:
        raise Bad("rates of single scan points (sPointDef) are not done", node.line, "sPointDef")
    return method == "F" and not scanning


def _ids(nodes: list[Node], commodities: Commodities) -> list[list[int]]:
    """For each class that differs the rate ids that may be its: its own, its legs' bases."""
    found = []
    for one in ALL:
        own = [commodities.rates.of[one]]
        for leg in nodes:
            known = commodities.by_code.get(leg.word("cc"))
            own += [known.based[one]] if known is not None else []
        found.append(list(dict.fromkeys(own)))
    return [ids for place, ids in enumerate(found) if ids not in found[:place]]


def _rates(node: Node, nodes: list[Node], ids: list[int]) -> list[Fraction]:
    """[leg] its own rate or that of the spread."""
    common = picked(node.all("rate"), ids, node.line, "rate")
    found = []
    for leg in nodes:
        own = picked(leg.all("rate"), ids, leg.line, "rate") or common
        if own is None:
            raise Bad("a spread without a rate", node.line, "rate")
        found.append(own.exact("val"))
    return found


def _leg(node: Node, rate: float, target_required: bool) -> Row:
    code, target = node.word("cc"), node.flag("isTarget")
    # Where nothing is said, all but the target are needed.
    needed = node.flag("isRequired") if node.word("isRequired") else not target
    if not code:
        raise Bad("a leg without a combined commodity", node.line, "cc")
    return {
        "combined_commodity": code,
        **shape(node),
        "tier": node.whole("tn", 0),
        "rate": rate,
        "required": needed or (target and target_required),
        "target": target,
    }


def _check_target(node: Node, legs: list[Row], commodities: Commodities) -> None:
    if sum(leg["target"] for leg in legs) != 1:
        raise Bad("a spread by scanning needs one target", node.line, "isTarget")
    codes = [leg["combined_commodity"] for leg in legs]
    money = {commodities.by_code[code].currency for code in codes if code in commodities.by_code}
    if node.flag("applyFxRisk") and len(money) > 1:
        raise Bad("risk of exchange rates (applyFxRisk) is not done", node.line, "applyFxRisk")
