"""What `span_random.model` drew, written as SPAN XML."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

from span_oracle_prices import decoded

Dict = dict[str, Any]
# The rate that all others are derived from; those are numbered by account class and margin.
BASE = 9
ACCOUNTS = ("member", "hedger", "speculator")


def tag(name: str, *inner: Any) -> str:
    return f"<{name}>{''.join(str(one) for one in inner)}</{name}>"


def rated(value: Any, name: str = "rate") -> str:
    return tag(name, tag("r", BASE), tag("val", value))


def decimal(value: Fraction) -> str:
    """A fraction of twos, fives and tens as digits."""
    return format(Decimal(value.numerator) / Decimal(value.denominator), "f")


def bound(month: str) -> str:
    return month if len(month) > 6 else month + "00"


def tiers(name: str, found: list[Dict], rates: list[Any] | None = None) -> str:
    if not found:
        return ""
    return tag(
        name,
        *[
            tag(
                "tier",
                tag("tn", one["number"]),
                tag("sPe", one["start"]),
                tag("ePe", bound(one["end"])),
                rated(rates[place]) if rates else "",
            )
            for place, one in enumerate(found)
        ],
    )


def charges(one: Dict, fractions: bool) -> list[str]:
    size = 10 ** one["exponent"]
    ordered = [
        charge for kind in ("month", "tier") for charge in one["charges"] if charge["kind"] == kind
    ]
    found = []
    for place, charge in enumerate(ordered, start=1):
        legs = []
        for leg in charge["legs"]:
            month = charge["kind"] == "month"
            where = tag("pe", leg["key"]) if month else tag("tn", leg["key"])
            said = tag("cc", one["code"]), where, tag("rs", leg["side"]), tag("i", leg["ratio"])
            legs.append(tag("pLeg" if month else "tLeg", *said))
        rate = charge["rate"] * size
        if charge["how"] == "W":
            # Shares of price risk, some of them negative: charges.
            rate = (charge["rate"] - 150) / (1_000 if fractions else 10)
        head = tag("spread", place), tag("chargeMeth", charge["how"]), rated(rate)
        found.append(tag("dSpread", *head, *legs))
    return found


def definition(one: Dict, fractions: bool) -> str:
    size = 10 ** one["exponent"]
    som = one["som_rates"] or [one["som"]]
    whole = [{"number": 1, "start": "000000", "end": "999999"}]
    links = [
        tag(
            "pfLink",
            tag("exch", one["exchange"]),
            tag("pfId", each["code"]),
            tag("pfCode", each["code"]),
            tag("pfType", each["kind"]),
            tag("sc", 1),
        )
        for each in one["products"]
    ]
    adjusted = [
        tag("adjRate", tag("r", number), tag("baseR", BASE), tag("val", one[what][name]))
        for number, name, what in classes()
    ]
    return tag(
        "ccDef",
        tag("cc", one["code"]),
        tag("currency", one["currency"]),
        tag("riskExponent", one["exponent"]),
        tag("capAnov", int(one["limit"])),
        tag("procMeth", "NORMAL"),
        tag("wfprMeth", ["NORMAL", "SCANRANGE_CAP", "SCANRANGE"][one["wfpr"] - 1]),
        tag("somMeth", "MAX" if one["som_method"] == 1 else "GROSS"),
        tag("cmbMeth", {"": "NONE", "D": "DELTASPLIT"}.get(one["split"], "SPLIT")),
        *links,
        *adjusted,
        tiers("scanTiers", one["scan"]),
        tiers("intraTiers", one["intra"]),
        tiers("interTiers", one["inter"]),
        tiers(
            "somTiers", one["scan"] if one["som_rates"] else whole, [rate * size for rate in som]
        ),
        *charges(one, fractions),
        *[
            tag(
                "spotRate",
                tag("r", BASE),
                tag("pe", month),
                tag("sprd", spread * size),
                tag("outr", outright * size),
            )
            for month, spread, outright in one["delivery"]
        ],
    )


def classes() -> list[tuple[int, str, str]]:
    """Rate numbers of account classes: maintenance, then initial."""
    return [
        (3 * place + number, name, what)
        for place, what in enumerate(("factors", "ratios"))
        for number, name in enumerate(ACCOUNTS, start=1)
    ]


def contract_xml(one: Dict, made: Dict, each: Dict, lopsided: bool) -> str:
    size = Fraction(10) ** (one["exponent"] - made["places"])
    values = tag(
        "ra",
        tag("r", BASE),
        *[tag("a", decimal(value * size)) for value in each["array"]],
        tag("d", decimal(Fraction(each["delta"], 10_000))),
    )
    wide = each["psr"] // 10 ** made["places"] * 10 ** one["exponent"]
    down = tag("priceScanDown", wide * each["down"] / 4) if lopsided and each.get("down") else ""
    scan = tag("scanRate", tag("r", BASE), tag("priceScan", wide), down)
    price = ""
    if each["price"] is not None:
        locator, code = made["quote"]
        price = tag("p", decimal(decoded(f"{each['price']:07d}", locator, code)))
    scaling = tag("sc", made["scaling"])
    if each["kind"] == "FUT":
        head = tag("cId", each["month"]), tag("pe", bound(each["month"])), price
        return tag("fut", *head, tag("cvf", made["multiplier"]), scaling, scan, values)
    if each["kind"] == "CMB":
        legs = [
            tag("undC", tag("pfId", code), tag("cId", month), tag("s", side), tag("i", ratio))
            for code, month, side, ratio in each["legs"]
        ]
        head = tag("cId", each["month"]), tag("pe", each["month"]), price
        return tag("cmb", *head, tag("cvf", made["multiplier"]), scaling, *legs, scan, values)
    beneath = one["products"][2 if each["kind"] == "OOC" else 0]["code"]
    under = tag(
        "undC",
        tag("exch", one["exchange"]),
        tag("pfId", beneath),
        tag("cId", each["month"]),
    )
    under = "" if each["kind"] == "OOP" else under
    own = tag("cvf", each["own"]) if made["variable"] else ""
    said = tag("o", each["right"]), tag("k", each["strike"]), price, own
    return tag("series", tag("pe", each["option"]), scaling, under, scan, tag("opt", *said, values))


def families(drawn: Dict) -> str:
    names = {"FUT": "futPf", "OOF": "oofPf", "CMB": "cmbPf", "OOC": "oocPf", "PHY": "phyPf"}
    names["OOP"] = "oopPf"
    exchanges: dict[str, list[str]] = {}
    for one in drawn["commodities"]:
        for made in one["products"]:
            mine = [
                contract_xml(one, made, each, drawn["grid"] is not None)
                for each in one["contracts"]
                if each["product"] == made["code"]
            ]
            option = made["kind"] in ("OOF", "OOC", "OOP")
            style = "EQTY" if option and one["style"] != "F" else "FUT"
            exchanges.setdefault(one["exchange"], []).append(
                tag(
                    names[made["kind"]],
                    tag("pfId", made["code"]),
                    tag("pfCode", made["code"]),
                    tag("currency", made["currency"]),
                    tag("cvf", made["multiplier"]),
                    tag("valueMeth", style),
                    *mine,
                )
            )
    return "".join(tag("exchange", tag("exch", name), *found) for name, found in exchanges.items())


def spread_xml(spread: Dict, fractions: bool) -> str:
    def shown(rate: int) -> str:
        if spread["flat"]:
            return rated(rate if spread["priority"] % 2 else -rate)
        return rated(rate / (1_000 if fractions else 10))

    legs = []
    for leg in spread["legs"]:
        own = shown(leg["rate"]) if spread["apart"] else ""
        aim = spread["target"] == leg["cc"]
        if spread["method"] == "04":
            ratio = spread["target_ratio"] if aim else leg["ratio"]
            said = (
                tag("cc", leg["cc"]),
                tag("isTarget", int(aim)),
                tag("isRequired", 0) if not leg["required"] else "",
                tag("isRequired", 1) if leg["required"] and aim else "",
                tag("i", ratio),
                own,
            )
            legs.append(tag("sLeg", *said))
        else:
            said = (
                tag("cc", leg["cc"]),
                tag("tn", leg["tier"]),
                tag("rs", leg["side"]),
                tag("i", leg["ratio"]),
                own,
            )
            legs.append(tag("tLeg", *said))
    if spread["method"] != "04":
        return tag(
            "dSpread",
            tag("spread", spread["priority"]),
            tag("chargeMeth", "F" if spread["flat"] else "W"),
            shown(spread["rate"]),
            *legs,
        )
    if spread["target"] not in [leg["cc"] for leg in spread["legs"]]:
        legs.append(
            tag(
                "sLeg",
                tag("cc", spread["target"]),
                tag("isTarget", 1),
                tag("isRequired", 0),
                tag("i", spread["target_ratio"]),
            )
        )
    return tag(
        "sSpread",
        tag("spread", spread["priority"]),
        tag("isTargetReq", int(spread["target_required"])),
        tag("numLegsReq", spread["least"]),
        shown(spread["rate"]),
        *legs,
    )


def points(grid: list[tuple[float, int, float]] | None) -> str:
    """Scenarios numbered from 101; each pairs with the one of the opposite volatility."""
    if grid is None:
        return ""
    found = []
    for place, (move, vol, cover) in enumerate(grid):
        pair = grid.index((move, -vol, cover)) if vol else place
        scan = tag("mult", move), tag("numerator", 1), tag("denominator", 1)
        said = tag("point", 101 + place), tag("priceScanDef", *scan), tag("weight", cover)
        found.append(tag("scanPointDef", *said, tag("pairedPoint", 101 + pair)))
    return tag("pointDef", tag("r", BASE), *found)


def as_xml(drawn: Dict) -> str:
    rates = [
        tag(
            "pbRateDef",
            tag("r", number),
            tag("isCust", 1),
            tag("acctType", name[0].upper()),
            tag("isM", int(what == "factors")),
            tag("pbc", "CORE"),
        )
        for number, name, what in classes()
    ]
    euro, pound, fractions = drawn["euro"], drawn["pound"], drawn["fractions"]
    spreads = {
        above: [spread_xml(one, fractions) for one in drawn["spreads"] if one["super"] is above]
        for above in (True, False)
    }
    house = tag(
        "clearingOrg",
        tag("ec", "SYN"),
        tag("isNetMargin", 1),
        tag("capAnov", int(drawn["limit"])),
        *[
            tag("curConv", tag("fromCur", source), tag("toCur", target), tag("factor", factor))
            for source, target, factor in (
                ("EUR", "USD", euro),
                ("USD", "GBP", pound),
                ("GBP", "EUR", "1.15"),
            )
        ],
        *rates,
        points(drawn["grid"]),
        families(drawn),
        *[definition(one, fractions) for one in drawn["commodities"]],
        tag("superSpreads", *spreads[True]),
        tag("interSpreads", *spreads[False]),
    )
    return tag(
        "spanFile", tag("fileFormat", "4.00"), tag("pointInTime", tag("date", "20260901"), house)
    )
