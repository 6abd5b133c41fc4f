"""Spreads within a combined commodity, as SPAN XML has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpu_margin.io.span_xml_rates import picked
from gpu_margin.io.span_xml_tree import Bad, Node

Row = dict[str, Any]

_LEGS = ("tLeg", "pLeg", "rpLeg")
SIDES = {"A": 1, "B": -1}


def unit_of(house: Node) -> int:
    """What weighted rates are divided by: 100 where they are percent, 1 where they are shares.

    A file does not say; one in which none is above 1 has shares, as those of exchanges have.
    """
    weighted = list(_within(house, ("sSpread",)))
    for name, default in (("ccDef", "F"), ("superSpreads", "W"), ("interSpreads", "W")):
        for holder in house.all(name):
            weighted += [one for one in holder.all("dSpread") if _method(one, default) == "W"]
    for spread in weighted:
        for rate in _within(spread, ("rate",)):
            try:
                if abs(rate.number("val", 0.0)) > 1:
                    return 100
            except Bad:
                continue  # Whoever reads it refuses it.
    return 1


def _within(node: Node, names: tuple[str, ...]) -> Iterator[Node]:
    """All elements of some names anywhere in one."""
    for one in node.children:
        if one.name in names:
            yield one
        yield from _within(one, names)


def _method(node: Node, default: str) -> str:
    return node.word("chargeMeth") or default


def charges_of(node: Node, code: str, base: int, unit: int) -> dict[str, list[Row]]:
    """Rows of `intra` and of `intra_legs` in the order in which spreads are formed.

    Flat charges (F) are money per spread, those by the month (P) as well once the months between
    the first and the last leg are counted; weighted ones (W) are credits, `unit` as `unit_of` says.
    """
    spreads = sorted(node.all("dSpread"), key=lambda one: one.whole("spread", 0))
    found: dict[str, list[Row]] = {"intra": [], "intra_legs": []}
    for place, spread in enumerate(spreads):
        legs = [_leg(leg, code, place) for leg in spread.all(*_LEGS)]
        found["intra"].append(_charge(spread, code, base, unit, legs))
        found["intra_legs"] += legs
    return found


def plain_spread(node: Node) -> None:
    """Refuses what spreads may have beside their rate and legs and is not done."""
    if node.first("dSpread") is not None:
        raise Bad("spreads in spreads are not done", node.line, "dSpread")
    if "VOL" in node.word("spreadType").upper():
        said = node.word("spreadType")
        raise Bad("spreads of volatility are not done", node.line, "spreadType", said)


def _charge(node: Node, code: str, base: int, unit: int, legs: list[Row]) -> Row:
    plain_spread(node)
    if not legs:
        raise Bad("a spread without legs", node.line, "dSpread")
    method = _method(node, "F")
    if method not in ("F", "P", "W"):
        raise Bad("a charge method that is not done; F, P, W are", node.line, "chargeMeth", method)
    rate = picked(node.all("rate"), [base], node.line, "rate")
    if rate is None:
        raise Bad("a spread without a rate", node.line, "rate")
    value = rate.exact("val")
    if method == "P":
        value *= _apart(node, legs)
    value = value / unit if method == "W" else value
    name = f"spread {node.word('spread')}".strip()
    return {
        "combined_commodity": code,
        "rate": float(value),
        "weighted": method == "W",
        "name": name,
    }


def _leg(node: Node, code: str, place: int) -> Row:
    """A leg: a month, or a tier."""
    if node.name == "rpLeg":
        raise Bad("legs of rolling periods (rpLeg) are not done", node.line, "rpLeg")
    if node.word("cc", code) != code:
        raise Bad("a leg of another combined commodity", node.line, "cc", node.word("cc"))
    month = node.month("pe") if node.name == "pLeg" else ""
    if node.name == "pLeg" and not month:
        raise Bad("a leg without a month", node.line, "pe", node.word("pe"))
    tier = node.whole("tn") if node.name == "tLeg" else None
    return {"spread": place, "month": month, "tier": tier, **shape(node)}


def shape(node: Node) -> Row:
    """How many deltas a leg takes and of which side."""
    ratio, side = node.number("i", 1.0), node.word("rs") or "A"
    if ratio <= 0:
        raise Bad("a leg's ratio is not above 0", node.line, "i", node.word("i"))
    if side not in SIDES:
        raise Bad("a leg's side is neither A nor B", node.line, "rs", side)
    return {"ratio": ratio, "side": SIDES[side]}


def _apart(node: Node, legs: list[Row]) -> int:
    """Months between the first and the last leg of a spread charged by the month."""
    if not all(leg["month"] for leg in legs):
        raise Bad("a charge by the month needs legs that are months", node.line, "chargeMeth", "P")
    places = [12 * int(leg["month"][:4]) + int(leg["month"][4:6]) for leg in legs]
    return max(places) - min(places)
