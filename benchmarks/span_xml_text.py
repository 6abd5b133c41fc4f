"""A synthetic exchange as SPAN XML (fileFormat 4.00), an element to a line as exchanges write it.

Of what PA2 says it lacks one thing: spreads tier by tier (method 02) are spreads of wholes here.
"""

from __future__ import annotations

from collections.abc import Iterable

import span_terms
from span_contracts import COVER, EXTREME, STEPS, Exchange
from span_terms import Charge, Commodity, Spread, Tier

FAMILIES = {"FUT": "futPf", "OOF": "oofPf", "OOP": "oopPf", "CMB": "cmbPf"}
BASE = 7
# (rate, account type, maintenance) of each class whose figures are a multiple of the base's.
RATES = tuple(
    (number, kind, number <= 3) for number, kind in enumerate(("M", "H", "S", "M", "H", "S"), 1)
)


def tag(name: str, *inner: object) -> str:
    """An element; one with elements in it begins and ends on lines of its own."""
    text = "".join(map(str, inner))
    return f"<{name}>\n{text}</{name}>\n" if text[:1] == "<" else f"<{name}>{text}</{name}>\n"


def rated(value: str | int, name: str = "rate") -> str:
    return tag(name, tag("r", BASE), tag("val", value))


def period(month: str) -> str:
    """CCYYMMDD; 00 is no day."""
    return tag("pe", month.ljust(8, "0"))


def money(one: Commodity, amount: int) -> int:
    return amount * int(10**one.exponent)


def shifted(number: int, places: int) -> str:
    """A whole number of 10^-places, without trailing noughts."""
    text = f"{number:0{places + 1}d}"
    return f"{text[: len(text) - places]}.{text[len(text) - places :]}".rstrip("0").rstrip(".")


def beginning() -> str:
    """What comes before the exchanges."""
    turns = [
        tag("curConv", tag("fromCur", source), tag("toCur", target), tag("factor", rate))
        for source, target, rate in span_terms.RATES
    ]
    rates = [
        tag("pbRateDef", tag("r", number), tag("isCust", 1), tag("acctType", kind),
            tag("isM", int(still)), tag("pbc", "CORE"))
        for number, kind, still in RATES
    ]  # fmt: skip
    head = tag("ec", "SYN"), tag("name", "Synthetic"), tag("isNetMargin", 1), tag("capAnov", 0)
    return "".join((*head, tag("lookAheadYears", "0.003968"), *turns, *rates, _points()))


def _points() -> str:
    """The sixteen scenarios."""
    found = []
    for place in range(16):
        far = place >= len(STEPS)
        thirds = int(EXTREME * (1, -1)[place % 2] * 3) if far else round(STEPS[place] * 3)
        move = tag("mult", 1), tag("numerator", thirds), tag("denominator", 3)
        turn = tag("mult", 1), tag("numerator", 0 if far else (1, -1)[place % 2])
        found.append(
            tag("scanPointDef", tag("point", place + 1), tag("priceScanDef", *move),
                tag("volScanDef", *turn, tag("denominator", 1)),
                tag("weight", COVER if far else 1),
                tag("pairedPoint", place + 1 if far else (place ^ 1) + 1))
        )  # fmt: skip
    return tag("pointDef", tag("r", BASE), *found)


# ------------------------------------------------------------------------------ definitions


def definition(one: Commodity, families: dict[str, tuple[int, str, str]]) -> str:
    """ccDef; families are number, code and type by role."""
    links = [
        tag("pfLink", tag("exch", one.exchange), tag("pfId", number), tag("pfCode", code),
            tag("pfType", kind), tag("sc", 1))
        for number, code, kind in families.values()
    ]  # fmt: skip
    factors = *(shifted(f, 2) for f in one.factors), *(shifted(ratio, 3) for ratio in one.ratios)
    derived = [
        tag("adjRate", tag("r", rate[0]), tag("baseR", BASE), tag("val", factor))
        for rate, factor in zip(RATES, factors, strict=True)
    ]
    own = any(tier.minimum is not None for tier in one.scan)
    minima = one.scan if own else (Tier(1, "000000", "999999", one.minimum),)
    return tag(
        "ccDef",
        *(tag("cc", one.code), tag("name", f"Commodity {one.place}")),
        *(tag("currency", one.currency), tag("riskExponent", one.exponent)),
        *(tag("capAnov", int(one.limit)), tag("procMeth", "NORMAL")),
        tag("wfprMeth", ("NORMAL", "SCANRANGE_CAP", "SCANRANGE")[one.wfpr - 1]),
        *(tag("spotMeth", "NORMAL"), tag("somMeth", "MAX" if one.greater else "GROSS")),
        tag("cmbMeth", "SPLIT" if one.combined else "NONE"),
        *links,
        *derived,
        *(_tiers("scanTiers", one.scan), _tiers("intraTiers", one.intra)),
        _tiers("interTiers", one.inter),
        _tiers("somTiers", [tier for tier in minima if tier.minimum is not None], one),
        *(_charge(one, charge, number) for number, charge in enumerate(one.charges, start=1)),
        *(
            tag("spotRate", tag("r", BASE), period(month), tag("sprd", money(one, consumed)),
                tag("outr", money(one, left)))
            for month, consumed, left in one.delivery
        ),
    )  # fmt: skip


def _tiers(name: str, tiers: Iterable[Tier], one: Commodity | None = None) -> str:
    found = [
        tag("tier", tag("tn", tier.number), tag("sPe", tier.start), tag("ePe", tier.end),
            "" if one is None else rated(money(one, tier.minimum or 0)))
        for tier in tiers
    ]  # fmt: skip
    return tag(name, *found) if found else ""


def _charge(one: Commodity, charge: Charge, number: int) -> str:
    legs = []
    for key, ratio, side in charge.legs:
        month = isinstance(key, str)
        where = period(str(key)) if month else tag("tn", key)
        inner = tag("cc", one.code), where, tag("rs", side), tag("i", ratio)
        legs.append(tag("pLeg" if month else "tLeg", *inner))
    flat = tag("spread", number), tag("chargeMeth", "F")
    return tag("dSpread", *flat, rated(money(one, charge.rate)), *legs)


def between(exchange: Exchange, spread: Spread) -> str:
    """dSpread or sSpread."""

    def rate(amount: int) -> str:
        # Flat rates are charges here: a credit is negative.
        return rated("-" + shifted(amount, 2) if spread.flat else shifted(amount, 4))

    every, legs = exchange.commodities, []
    for leg in spread.legs:
        code = tag("cc", every[leg.commodity].code)
        own = rate(leg.rate) if spread.apart else ""
        if spread.method == "04":
            aim = tag("isTarget", int(leg.commodity == spread.target))
            needed = tag("isRequired", int(leg.required))
            legs.append(tag("sLeg", code, aim, needed, tag("i", leg.ratio), own))
        else:
            inner = tag("tn", leg.tier), tag("rs", leg.side), tag("i", leg.ratio)
            legs.append(tag("tLeg", code, *inner, own))
    number = tag("spread", spread.priority)
    if spread.method != "04":
        way = tag("chargeMeth", "F" if spread.flat else "W")
        return tag("dSpread", number, way, rate(spread.rate), *legs)
    if spread.target not in [leg.commodity for leg in spread.legs]:
        code = tag("cc", every[spread.target].code)
        legs.append(tag("sLeg", code, tag("isTarget", 1), tag("isRequired", 0), tag("i", 1)))
    head = number, tag("isTargetReq", 0), tag("numLegsReq", spread.least)
    return tag("sSpread", *head, rate(spread.rate), *legs)
