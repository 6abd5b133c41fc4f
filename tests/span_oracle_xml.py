"""A plain reader of SPAN XML (.spn, fileFormat 4.00) into the shape of `parse_pa2`.

A file has figures for several rates (account class, maintenance or initial, core or reserve); one
is read at a time. `rate_for` finds it, and `adjRate` of a combined commodity says what it is based
on: its factor lands in `factors`.
"""

from __future__ import annotations

import xml.etree.ElementTree as Tree
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from span_oracle_pa2 import ACCOUNTS, PAIRS, STILL, commodity, shown

Dict = dict[str, Any]
Node = Tree.Element
KINDS = {
    "futPf": "FUT", "fwdPf": "FWD", "phyPf": "PHY", "equityPf": "STK", "cmbPf": "CMB",
    "oofPf": "OOF", "oopPf": "OOP", "ooePf": "OOE", "oocPf": "OOC",
}  # fmt: skip
SINGLES = ("fut", "fwd", "phy", "equity", "cmb")
WFPR = {"NORMAL": 1, "SCANRANGE_CAP": 2, "SCANRANGE": 3}
SPLITS = {"SPLIT": "S", "DELTASPLIT": "D", "NONE": ""}
METHODS = {"1": "01", "10": "10", "01": "01"}


def text(node: Node | None, name: str, default: str = "") -> str:
    found = None if node is None else node.find(name)
    return default if found is None or found.text is None else found.text.strip()


def exact(node: Node | None, name: str, default: Any = 0) -> Fraction:
    said = text(node, name)
    return Fraction(said) if said else Fraction(default)


def period_of(said: str) -> str:
    """CCYYMM or CCYYMMDD; a day of 00 is none."""
    return said[:6] + ("" if said[6:] in ("", "00") else said[6:])


def flag(node: Node, name: str) -> bool:
    return text(node, name).lower() in ("1", "true", "y")


def rate_for(xml: str, account: str, initial: bool, core: bool = True) -> int:
    """The rate id of an account class from pbRateDef: its acctType begins as the class does."""
    for node in Tree.fromstring(xml).iter("pbRateDef"):
        kind = text(node, "acctType")[:1].upper()
        right = kind == account[0].upper() and flag(node, "isM") != initial
        if right and (text(node, "pbc", "CORE").upper().startswith("C") == core):
            return int(text(node, "r", "1"))
    raise ValueError(f"no rate for {account}, {'initial' if initial else 'maintenance'}")


def picked(nodes: list[Node], rate: int) -> Node | None:
    """The one of a rate id, or the only one there is."""
    for node in nodes:
        if int(text(node, "r", "1")) == rate:
            return node
    return nodes[0] if len(nodes) == 1 else None


def valued(node: Node, rate: int) -> Fraction:
    return exact(picked(node.findall("rate"), rate), "val")


def parse_spn(xml: str, rate: int = 1) -> Dict:
    """The exchange that a file describes, at one of its rates."""
    root = Tree.fromstring(xml)
    time = root.find("pointInTime")
    house = None if time is None else time.find("clearingOrg")
    if time is None or house is None:
        raise ValueError("no clearing organisation in the file")
    file: Dict = {
        "complex": text(house, "ec"), "date": text(time, "date"), "limit": flag(house, "capAnov"),
        "class": "CORE", "rates": {}, "commodities": {}, "contracts": {}, "spreads": [],
        "combinations": {}, "splits": {}, "refused": [], "gross": text(house, "isNetMargin") == "0",
    }  # fmt: skip
    for node in house.findall("curConv"):
        file["rates"][text(node, "fromCur"), text(node, "toCur")] = exact(node, "factor")
    links: Dict = {}
    file["unit"] = percent(house)
    for node in house.findall("ccDef"):
        definition(file, node, links, rate, grid(house, (PAIRS, STILL)))
    families: Dict = {}
    futures: Dict = {}
    for node in house.findall("exchange"):
        for kind in KINDS:
            for part in node.findall(kind):
                families[text(node, "exch"), text(part, "pfId")] = part
                for one in [one for name in SINGLES for one in part.findall(name)]:
                    key = text(node, "exch"), text(part, "pfId"), text(one, "cId")
                    futures[key] = (text(part, "pfCode"), KINDS[kind], period_of(text(one, "pe")))
    for node in house.findall("exchange"):
        exchange = text(node, "exch")
        for kind, label in KINDS.items():
            for part in node.findall(kind):
                link = links.get((exchange, text(part, "pfId"))) or links.get(
                    (exchange, text(part, "pfCode"), label)
                )
                if link is not None:
                    family(file, exchange, label, part, link, futures, rate)
    for name, above in (("superSpreads", True), ("interSpreads", False)):
        for holder in house.findall(name):
            for one in holder:
                if one.tag in ("dSpread", "sSpread"):
                    file["spreads"].append(spread_between(file, one, above, rate, file["unit"]))
    for one in house.iter("clearSpread"):
        for leg in one.findall("homeLeg"):
            file["refused"].append(
                f"{text(leg, 'cc')}: a spread with another clearing organisation"
            )
    file["spreads"].sort(key=lambda one: one["priority"])
    return file


def grid(node: Node, default: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    """Paired points and the points without a move of the price, counted from nought."""
    found = node.find("pointDef")
    if found is None:
        return default
    defs = found.findall("scanPointDef")
    places = {text(one, "point"): place for place, one in enumerate(defs)}
    pairs = [places[text(one, "pairedPoint", text(one, "point"))] for one in defs]
    still = []
    for place, one in enumerate(defs):
        move = one.find("priceScanDef")
        size = exact(move, "mult") * exact(move, "numerator", 1) if move is not None else 0
        if not size:
            still.append(place)
    return pairs, still or default[1]


def tiers_of(node: Node, name: str, rate: int) -> list[Dict]:
    found = []
    for tier in (node.find(name) if node.find(name) is not None else Node(name)).findall("tier"):
        if not text(tier, "sPe") and text(tier, "tbn", "0") not in ("", "0"):
            raise ValueError(f"{text(node, 'cc')}: a tier of tiers in {name}")
        one = {"number": int(text(tier, "tn")), "start": period_of(text(tier, "sPe", "000000")),
               "end": period_of(text(tier, "ePe", "999999"))}  # fmt: skip
        if tier.find("rate") is not None:
            one["rate"] = valued(tier, rate)
        found.append(one)
    return found


def definition(
    file: Dict, node: Node, links: Dict, rate: int, points: tuple[list[int], list[int]]
) -> None:
    one = commodity(text(node, "cc"))
    factor, base, seen = Fraction(1), rate, set()
    adjusted = {int(text(a, "r", "1")): a for a in node.findall("adjRate")}
    while base in adjusted and base not in seen:
        seen.add(base)
        factor *= exact(adjusted[base], "val", 1)
        base = int(text(adjusted[base], "baseR", str(base)))
    pairs, still = grid(node, points)
    if text(node, "procMeth", "NORMAL") == "LIQ":
        file["refused"].append(f"{one['code']}: liquidation risk")
    som = tiers_of(node, "somTiers", base)
    one.update({
        "currency": text(node, "currency", "USD"), "exponent": 0,
        "limit": flag(node, "capAnov"), "wfpr": WFPR[text(node, "wfprMeth", "NORMAL")],
        "som_method": 1 if text(node, "somMeth") == "MAX" else 2,
        "split": SPLITS[text(node, "cmbMeth", "NONE")], "scan": tiers_of(node, "scanTiers", base),
        "intra": tiers_of(node, "intraTiers", base), "inter": tiers_of(node, "interTiers", base),
        "factors": dict.fromkeys(ACCOUNTS, factor), "ratios": dict.fromkeys(ACCOUNTS, factor),
        "pairs": pairs, "still": still, "intra_method": "10", "base": base,
        "som_tiers": [tier for tier in som if "rate" in tier],
        "charges": [
            charge(one["code"], spread, base, file["unit"]) for spread in node.findall("dSpread")
        ],
    })  # fmt: skip
    one["charges"].sort(key=lambda spread: spread["priority"])
    for spot in node.findall("spotRate"):
        if int(text(spot, "r", "1")) == base:
            one["delivery"][period_of(text(spot, "pe"))] = exact(spot, "sprd"), exact(spot, "outr")
    for link in node.findall("pfLink"):
        mine = {"code": one["code"], "sc": exact(link, "sc", 1)}
        links[text(link, "exch"), text(link, "pfId")] = mine
        links[text(link, "exch"), text(link, "pfCode"), text(link, "pfType")] = mine
    file["commodities"][one["code"]] = one


def charge(code: str, node: Node, rate: int, unit: Fraction) -> Dict:
    """A spread within a combined commodity: legs of tiers or of months."""
    legs = []
    for leg in node:
        if leg.tag == "rpLeg":
            raise ValueError(f"{code}: a spread of rolling periods")
        if leg.tag in ("tLeg", "pLeg"):
            if text(leg, "cc", code) != code:
                raise ValueError(f"{code}: a leg of {text(leg, 'cc')}")
            key = int(text(leg, "tn")) if leg.tag == "tLeg" else period_of(text(leg, "pe"))
            legs.append({
                "kind": "tier" if leg.tag == "tLeg" else "month", "key": key,
                "ratio": exact(leg, "i", 1), "side": text(leg, "rs", "A"),
            })  # fmt: skip
    method = text(node, "chargeMeth", "F")
    unit = unit if method == "W" else Fraction(1)
    return {
        "kind": 0, "priority": int(text(node, "spread", "0")), "rate": valued(node, rate) * unit,
        "charge": method, "legs": legs,
    }  # fmt: skip


def percent(house: Node) -> Fraction:
    """What makes percents of weighted rates: files with shares (the real ones) have no other."""
    weighted = list(house.iter("sSpread"))
    for name, default in (("ccDef", "F"), ("superSpreads", "W"), ("interSpreads", "W")):
        for holder in house.findall(name):
            for one in holder.findall("dSpread"):
                weighted += [one] if text(one, "chargeMeth", default) == "W" else []
    values = [abs(exact(rate, "val")) for one in weighted for rate in one.iter("rate")]
    return Fraction(100) if all(value <= 1 for value in values) else Fraction(1)


def needed(leg: Node) -> bool:
    """Whether a spread needs a leg: if nothing is said, all but the target."""
    if not text(leg, "isRequired"):
        return not flag(leg, "isTarget")
    return flag(leg, "isRequired")


def spread_between(file: Dict, node: Node, above: bool, rate: int, unit: Fraction) -> Dict:
    """An inter-commodity spread: sSpread is method 04; dSpread is 01, or 20 with a tier.

    A flat rate is a credit of its size: the field's own texts write it with either sign, and nobody
    charges for what offsets.
    """
    flat = text(node, "chargeMeth", "W") == "F"
    unit = Fraction(1) if flat else unit
    common, legs = valued(node, rate) * unit, []
    if text(node, "chargeMeth", "W") not in ("F", "W"):
        raise ValueError(f"spread {text(node, 'spread')}: charged by {text(node, 'chargeMeth')}")
    for leg in node:
        if leg.tag in ("pLeg", "rpLeg"):
            raise ValueError(f"spread {text(node, 'spread')}: a leg of months between commodities")
        if leg.tag in ("tLeg", "sLeg"):
            own = valued(leg, rate) * unit if leg.find("rate") is not None else common
            legs.append({
                "cc": text(leg, "cc"), "ratio": exact(leg, "i", 1), "side": text(leg, "rs", "A"),
                "tier": int(text(leg, "tn", "0")), "rate": abs(own) if flat else own,
                "required": needed(leg), "target": flag(leg, "isTarget"),
            })  # fmt: skip
            if legs[-1]["target"] and flag(node, "isTargetReq"):
                legs[-1]["required"] = True
    method = "04" if node.tag == "sSpread" else ("20" if any(leg["tier"] for leg in legs) else "01")
    return {
        "priority": int(text(node, "spread", "0")), "method": method, "flat": flat, "legs": legs,
        "super": above, "least": int(text(node, "numLegsReq", "0")) or 2,
        "line": len(file["spreads"]), "fx": flag(node, "applyFxRisk"),
    }  # fmt: skip


def singles(part: Node) -> Iterator[tuple[Node, Node | None]]:
    """Contracts of a family, and the series of each option."""
    for name in SINGLES:
        for one in part.findall(name):
            yield one, None
    for series in part.findall("series"):
        for one in series.findall("opt"):
            yield one, series


def family(
    file: Dict, exchange: str, kind: str, part: Node, link: Dict, futures: Dict, rate: int
) -> None:
    one, code = file["commodities"][link["code"]], text(part, "pfCode")
    base = one["base"]
    premium = text(part, "valueMeth", "EQTY") not in ("FUT", "FUTDA")
    for node, series in singles(part):
        home = node if series is None else series
        own = period_of(text(home, "pe"))
        period, option, beneath = own, "" if series is None else own, ""
        under = home.find("undC")
        if kind in ("OOF", "OOC") and under is not None:
            where = text(under, "exch", exchange), text(under, "pfId"), text(under, "cId")
            beneath, _, period = futures.get(where, ("", "", own))
        ra = picked(node.findall("ra"), base)
        if ra is None:
            continue
        array = [Fraction(value.text or 0) for value in ra.findall("a")]
        if len(array) != len(one["pairs"]):
            raise ValueError(
                f"{code} {own}: {len(array)} values where the grid has {len(one['pairs'])}"
            )
        right = text(node, "o")[:1]
        month = "" if kind in ("OOP", "OOE") else period
        name = ":".join(x for x in (exchange, code, kind, month, option, right) if x)
        strike = exact(node, "k") if right else None
        name += f":{shown(strike)}" if right else ""
        if name in file["contracts"]:
            raise ValueError(f"two contracts {name}")
        scaling = exact(node, "sc", text(home, "sc", "1") or 1) * link["sc"]
        times = exact(node, "cvf", text(home, "cvf") or text(part, "cvf", "1"))
        key = (exchange, code, kind)
        file["contracts"][name] = {
            "id": name, "commodity": one["code"], "product": code, "type": kind, "period": period,
            "option": option, "future": month, "right": right, "strike": strike,
            "multiplier": times,
            "price": exact(node, "p") if text(node, "p") else None,
            "delta": exact(ra, "d", text(node, "d", "0") or 0), "scaling": scaling,
            "array": array, "premium": bool(right) and premium,
            "currency": text(part, "currency", one["currency"]), "exchange": exchange, "key": key,
            "under": beneath if kind == "OOC" else "",
        }  # fmt: skip
        if kind == "CMB":
            legs = []
            for leg in node.findall("undC"):
                there = futures[text(leg, "exch", exchange), text(leg, "pfId"), text(leg, "cId")]
                ratio = exact(leg, "i", 1)
                ratio = -ratio if text(leg, "s", "A") == "B" else ratio
                product = (text(leg, "exch", exchange), there[0], there[1])
                legs.append({"product": product, "period": there[2], "ratio": ratio})
            file["combinations"][exchange, code, own] = legs
        ranges = picked(home.findall("scanRate"), base)
        if ranges is not None and exact(ranges, "priceScan"):
            up = exact(ranges, "priceScan") / scaling
            down = exact(ranges, "priceScanDown") / scaling or up
            rank = (0 if kind == "FUT" else 1, code, kind, option)
            held = one["psr"].get(period)
            if held is None or rank < held["rank"]:
                one["psr"][period] = {"rank": rank, "up": up, "down": down}
