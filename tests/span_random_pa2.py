"""What `span_random.model` drew, written as PA2."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

Dict = dict[str, Any]


def in_groups(every: list[Any], size: int) -> list[list[Any]]:
    return [every[start : start + size] for start in range(0, len(every), size)]


def put(*fields: tuple[int, str]) -> str:
    """A record: texts at columns counted from 1, the last blanks cut off."""
    line = [" "] * 200
    for first, text in fields:
        line[first - 1 : first - 1 + len(text)] = text
    return "".join(line).rstrip()


def fixed(value: Any, width: int, decimals: int = 0) -> str:
    number = Decimal(str(value)).scaleb(decimals)
    if number != int(number) or number < 0 or len(str(int(number))) > width:
        raise ValueError(f"{value} does not fit 9({width}) with {decimals} decimals")
    return f"{int(number):0{width}d}"


def sign(value: float) -> str:
    return "-" if value < 0 else "+"


def dated(month: str, first: int, day: int) -> list[tuple[int, str]]:
    """A month and its day code in the columns they have."""
    return [(first, month[:6]), (day, month[6:])]


def header(drawn: Dict) -> list[str]:
    lines = [
        put(
            (1, "0 SYN"),
            (9, "20260901SC"),
            (36, "U2Y"),
            (39, "Y" if drawn["limit"] else "N"),
            (69, "CORE"),
            (75, "M"),
        ),
        put((1, "T EUR"), (7, "USD"), (11, fixed(drawn["euro"], 10, 6))),
        put((1, "T USD"), (7, "GBP"), (11, fixed(drawn["pound"], 10, 6))),
        put((1, "T GBP"), (7, "EUR"), (11, fixed("1.15", 10, 6))),
    ]
    for exchange in sorted({one["exchange"] for one in drawn["commodities"]}):
        lines.append(put((1, f"1 {exchange}"), (8, "01")))
        for one in drawn["commodities"]:
            if one["exchange"] == exchange:
                lines += [family(one, each) for each in one["products"]]
    return lines


def family(one: Dict, each: Dict) -> str:
    """The P record of a product; its valuation may be left to the combined commodity."""
    option = each["kind"] in ("OOF", "OOC", "OOP")
    valuation = ("FUT" if one["style"] == "F" else "EQTY") if option else "FUT"
    places, code = each["quote"]
    size = Decimal(each["multiplier"])
    small = size < 1
    return put(
        (1, f"P {one['exchange']}"),
        (6, each["code"]),
        (16, each["kind"]),
        (34, f"{places:03d}"),
        (37, f"{each['decimals']:03d}"),
        (40, code),
        (42, fixed(size * 100 if small else size, 14, 7)),
        (66, each["currency"]),
        (73, "-" if small else "+"),
        (74, "02" if small else "00"),
        (117, valuation if each["said"] or not option else ""),
        (161, "1" if each["variable"] else " "),
    )


def scanning(one: Dict) -> list[str]:
    """S records: of scanning, of inter-commodity tiers or of both, five tiers each."""

    def records(method: str, tiers: list[Dict], rates: list[int]) -> list[str]:
        return [
            record(method, some, rates[5 * place : 5 * place + 5])
            for place, some in enumerate(in_groups(tiers, 5))
        ] or [record(method, [], [])]

    def record(method: str, tiers: list[Dict], rates: list[int]) -> str:
        fields = [
            (1, "S "),
            (3, one["code"]),
            (9, method),
            (11, fixed(len(tiers), 2)),
            (83, str(one["wfpr"])),
        ]
        for place, tier in enumerate(tiers):
            at, day = 13 + 14 * place, 84 + 4 * place
            fields += [
                (at, fixed(tier["number"], 2)),
                *dated(tier["start"], at + 2, day),
                *dated(tier["end"], at + 8, day + 2),
            ]
            if rates:
                fields.append((104 + 7 * place, fixed(rates[place], 7)))
        return put(*fields)

    rates = one["som_rates"]
    if one["scanning"] == "22":
        return [*records("22", one["scan"], rates), *records("23", one["inter"], [])]
    return records(one["scanning"], one["scan"] or one["inter"], rates)


def definitions(one: Dict) -> list[str]:
    """The 2 records: six products each."""
    lines = []
    products = [each for each in one["products"] if one["split"] or each["kind"] != "CMB"]
    for some in in_groups(products, 6):
        fields = [
            (1, f"2 {one['exchange']}"),
            (7, one["code"]),
            (13, str(one["exponent"])),
            (14, one["currency"]),
            (18, one["style"]),
            (19, "Y" if one["limit"] else "N"),
            (20, one["split"]),
        ]
        for place, each in enumerate(some):
            at = 23 + 16 * place
            fields += [(at, each["code"]), (at + 10, each["kind"])]
            if each["places"]:
                fields += [(at + 13, str(each["places"])), (at + 14, "+")]
        lines.append(put(*fields))
    return lines


def within(one: Dict) -> list[str]:
    """The 3 records: four tiers each."""
    lines = []
    ratios = "".join(fixed(ratio, 4, 3) for ratio in one["ratios"].values())
    for some in in_groups(one["intra"], 4):
        fields = [(1, "3 "), (3, one["code"]), (9, "10"), (69, ratios)]
        for place, tier in enumerate(some):
            at, day = 11 + 14 * place, 81 + 4 * place
            fields += [
                (at, fixed(tier["number"], 2)),
                *dated(tier["start"], at + 2, day),
                *dated(tier["end"], at + 8, day + 2),
            ]
        lines.append(put(*fields))
    return lines


def charges(one: Dict) -> list[str]:
    lines = []
    ordered = [
        charge for kind in ("month", "tier") for charge in one["charges"] if charge["kind"] == kind
    ]
    for place, charge in enumerate(ordered, start=1):
        if charge["kind"] == "month":
            fields = [
                (1, "E "),
                (3, one["code"]),
                (9, fixed(place, 5)),
                (14, fixed(charge["rate"], 7)),
            ]
            for at, leg in enumerate(charge["legs"]):
                ratio = fixed(leg["ratio"], 6, 4)
                fields.append((21 + 14 * at, f"{leg['key'][2:]:7}{ratio}{leg['side']}"))
        else:
            fields = [
                (1, "C "),
                (3, one["code"]),
                (9, "10" + fixed(place, 2) + fixed(len(charge["legs"]), 2)),
                (15, fixed(charge["rate"], 7)),
            ]
            for at, leg in enumerate(charge["legs"]):
                text = (
                    fixed(at + 1, 2) + fixed(leg["key"], 2) + fixed(leg["ratio"], 2) + leg["side"]
                )
                fields.append((22 + 7 * at, text))
        lines.append(put(*fields))
    return lines


def delivery(one: Dict) -> list[str]:
    """The 4 records: two delivery months each, and what else they say."""
    lines = []
    factors = "".join(fixed(factor, 3, 2) for factor in one["factors"].values())
    for some in in_groups(one["delivery"], 2) or [[]]:
        fields = [
            (1, "4 "),
            (3, one["code"]),
            (9, "10" if some else "01"),
            (11, fixed(len(one["delivery"]), 2)),
            (63, fixed(one["som"], 7)),
            (70, factors),
            (79, str(one["som_method"])),
        ]
        for place, (month, spread, outright) in enumerate(some):
            text = fixed(place + 1, 2) + month + fixed(spread, 7) + fixed(outright, 7)
            fields.append((13 + 22 * place, text))
        lines.append(put(*fields))
    return lines


def commodity(one: Dict) -> list[str]:
    return [*definitions(one), *scanning(one), *within(one), *charges(one), *delivery(one)]


def combination(one: Dict, each: Dict) -> list[str]:
    """The legs of a combination, each with the whole and the rest of its ratio."""
    lines = []
    for place, (product, month, side, ratio) in enumerate(each["legs"], start=1):
        whole, _, rest = ratio.partition(".")
        lines.append(
            put(
                (1, f"Z {one['exchange']}"),
                (6, each["product"]),
                (16, "CAL"),
                *dated(each["month"], 21, 27),
                (36, fixed(place, 3) + side + fixed(whole, 3)),
                (43, product),
                (53, "FUT"),
                *dated(month, 56, 62),
                (64, rest.ljust(4, "0")),
            )
        )
    return lines


def risk_lines(one: Dict, each: Dict) -> list[str]:
    """The B record and the array records of a contract."""
    product = next(made for made in one["products"] if made["code"] == each["product"])
    month, expiry = each["month"], each.get("option", "")
    month = "" if each["kind"] == "OOP" else month
    lines = [
        put(
            (1, f"B {one['exchange']}"),
            (6, each["product"]),
            (16, each["kind"]),
            *dated(month, 19, 25),
            *dated(expiry, 28, 34),
            (53, fixed(each["psr"] // 10 ** product["places"], 5)),
            (86, fixed(product["scaling"], 6, 4)),
        )
    ]
    raw = each.get("raw", 0)
    who = [
        (3, one["exchange"]),
        (6, each["product"]),
        (16, one["products"][2 if each["kind"] == "OOC" else 0]["code"]),
        (26, each["kind"]),
        (29, each.get("right", " ")),
        *dated(month, 30, 36),
        *dated(expiry, 39, 45),
        (48, fixed(abs(raw), 7)),
    ]
    digits = 8 if each.get("wide") or max(map(abs, each["array"])) > 99_999 else 5
    values = [fixed(abs(value), digits) + sign(value) for value in each["array"]]
    delta = fixed(abs(each["delta"]), 5) + sign(each["delta"])
    price = "9999999" if each["price"] is None else fixed(each["price"], 7)
    names = ("83", "84") if digits == 8 else ("81", "82")
    first = "".join(values[:9])
    lines.append(put((1, names[0]), *who, (55, first + "0000000" + price + "N")))
    second = "".join(values[9:]) + delta + "00000000" + price + "+" + sign(raw)
    at = 55 + len(second)
    fields = [(55, second), (at + 6, "C")]
    if product["variable"]:
        # Columns 138-151 behind 82, 21 further behind 84.
        fields += [(138 if digits == 5 else 159, fixed(each["own"], 14, 7))]
    lines.append(put((1, names[1]), *who, *fields))
    return lines


def between(spread: Dict) -> list[str]:
    """The 6 records of a spread: four legs each."""
    lines = []
    shown = [
        fixed(rate, 7, 2 if spread["flat"] else 3)
        for rate in [spread["rate"], *(leg["rate"] for leg in spread["legs"])]
    ]
    for start in range(0, len(spread["legs"]), 4):
        fields = [
            (1, "6 ALL"),
            (6, fixed(spread["priority"], 4)),
            (10, shown[0]),
            (89, spread["method"]),
            (101, "F" if spread["flat"] else " "),
            (110, "S" if spread["super"] else "N"),
            (122, "Y" if spread["apart"] else " "),
        ]
        for place, leg in enumerate(spread["legs"][start : start + 4]):
            needed = " " if leg["required"] else "N"
            text = leg["exchange"] + needed + f"{leg['cc']:6}" + fixed(leg["ratio"], 7, 4)
            fields += [
                (17 + 18 * place, text + leg["side"]),
                (102 + 2 * place, fixed(leg["tier"], 2)),
                (123 + 7 * place, shown[1 + start + place]),
            ]
        if spread["method"] == "04":
            needed = "Y" if spread["target_required"] else "N"
            fields += [
                (91, "SYN" + needed + spread["target"]),
                (111, fixed(spread["target_ratio"], 7, 4)),
                (118, fixed(spread["least"], 4)),
            ]
        lines.append(put(*fields))
    return lines


def as_pa2(drawn: Dict) -> str:
    lines = header(drawn)
    for one in drawn["commodities"]:
        lines += commodity(one)
        for each in one["contracts"]:
            lines += combination(one, each) if each["kind"] == "CMB" else []
        if one["split"]:
            combined, upon = one["products"][2]["code"], one["products"][3]["code"]
            lines.append(put((1, "Y "), (3, combined), (13, upon)))
    arrays = [risk_lines(one, each) for one in drawn["commodities"] for each in one["contracts"]]
    lines += [record[0] for record in arrays]
    lines += [line for record in arrays for line in record[1:]]
    lines.append("? a record nobody knows")
    lines += [line for spread in drawn["spreads"] for line in between(spread)]
    return "\n".join(lines) + "\n"
