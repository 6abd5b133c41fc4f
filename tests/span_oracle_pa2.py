"""A plain reader of PA2, expanded unpacked: every record the algorithm uses, to dictionaries.

    exchange   {"complex", "date", "limit", "class", "rates" {(from, to): multiplier},
                "commodities" {code: commodity}, "contracts" {id: contract}, "spreads" [spread],
                "combinations" {id: [leg]}, "splits" {product: method}}
    commodity  {"code", "exchange", "exponent", "currency", "style", "limit", "split", "wfpr",
                "scan", "inter", "intra", "som_tiers" (tiers), "charges" [spread], "delivery"
                {period: (consumed, remaining)}, "som", "som_method", "factors", "ratios", "psr",
                "pairs", "still"}
    contract   {"id", "commodity", "product", "type", "period", "option", "right", "strike",
                "price", "multiplier", "delta", "scaling", "array", "currency", "premium"}

Numbers are exact fractions; periods are CCYYMM and a day or week code.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from span_oracle_pa2_inter import aim, inter
from span_oracle_prices import columns, decoded, digits, locator, number, period, scaled

Dict = dict[str, Any]
ACCOUNTS = ("member", "hedger", "speculator")
PAIRS = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 14, 15]
STILL = [0, 1]
NO_PRICE = "9999999"


def commodity(code: str) -> Dict:
    """A combined commodity that nothing is yet known of."""
    ones = dict.fromkeys(ACCOUNTS, Fraction(1))
    return {
        "code": code, "exchange": "", "exponent": 0, "currency": "USD", "style": "", "limit": False,
        "split": "", "wfpr": 1, "scan": [], "inter": [], "intra": [], "som_tiers": [],
        "charges": [], "delivery": {}, "delivery_method": "01", "som": Fraction(0),
        "som_method": 2, "factors": dict(ones), "ratios": dict(ones), "psr": {},
        "pairs": PAIRS, "still": STILL, "intra_method": "01",
    }  # fmt: skip


def parse_pa2(text: str) -> Dict:
    """The exchange that a file describes. Unknown records are passed by."""
    file: Dict = {
        "complex": "", "date": "", "limit": False, "class": "", "rates": {}, "commodities": {},
        "contracts": {}, "spreads": [], "combinations": {}, "splits": {}, "slots": {},
        "families": {}, "months": {}, "halves": {}, "groups": {}, "refused": [], "options_on": {},
    }  # fmt: skip
    readers = {
        "0 ": header, "T ": currency, "2 ": definition, "S ": scanning, "3 ": intra,
        "E ": series, "C ": tiers, "4 ": delivery, "B ": month, "P ": family, "5 ": group,
        "6 ": inter, "X ": split, "Y ": option_on, "Z ": combination, "81": first_half,
        "83": first_half, "82": second_half, "84": second_half,
    }  # fmt: skip
    for place, line in enumerate(text.splitlines(), start=1):
        if line[:2] in readers:
            try:
                readers[line[:2]](file, line)
            except (ValueError, KeyError, IndexError) as error:
                raise ValueError(f"line {place}: {error}") from error
    for code in file["commodities"]:
        file["commodities"][code]["charges"].sort(key=lambda one: (one["kind"], one["priority"]))
    for spread in file["spreads"]:
        aim(spread)
    file["spreads"].sort(key=lambda one: one["priority"])
    return file


def of(file: Dict, code: str) -> Dict:
    return file["commodities"].setdefault(code, commodity(code))


def code_of(line: str) -> str:
    return columns(line, 3, 8).strip()


def header(file: Dict, line: str) -> None:
    file["complex"] = columns(line, 3, 8).strip()
    file["date"] = columns(line, 9, 16)
    file["gross"] = columns(line, 38, 38) == "N"
    file["limit"] = columns(line, 39, 39) == "Y"
    file["class"] = columns(line, 69, 73).strip() or "CORE"
    file["initial"] = columns(line, 75, 75) == "I"
    if columns(line, 36, 37) != "U2":
        raise ValueError(f"the format is {columns(line, 36, 37)}, not U2")


def currency(file: Dict, line: str) -> None:
    file["rates"][columns(line, 3, 5), columns(line, 7, 9)] = number(line, 11, 20, 6)


def definition(file: Dict, line: str) -> None:
    one = of(file, columns(line, 7, 12).strip())
    one["exchange"] = columns(line, 3, 5)
    one["exponent"] = int(number(line, 13, 13))
    one["currency"] = columns(line, 14, 16)
    one["style"] = columns(line, 18, 18).strip()
    one["limit"] = columns(line, 19, 19) == "Y"
    one["split"] = columns(line, 20, 20).strip()
    for first in range(23, 104, 16):
        product, kind = (
            columns(line, first, first + 9).strip(),
            columns(line, first + 10, first + 12),
        )
        if product:
            places = int(number(line, first + 13, first + 13))
            places = -places if columns(line, first + 14, first + 14) == "-" else places
            file["slots"][one["exchange"].strip(), product, kind] = (one["code"], places)


def spans(line: str, first: int, count: int, days: int) -> list[Dict]:
    """Tiers of a record: number, start, end in 14 columns each; their days 4 columns each."""
    found = []
    for place in range(count):
        here, day = first + 14 * place, days + 4 * place
        tier = digits(line, here, here + 1)
        start = period(line, here + 2, here + 7, day, day + 1)
        end = period(line, here + 8, here + 13, day + 2, day + 3)
        if tier and start:
            found.append({"number": int(tier), "start": start, "end": end, "place": place})
    return found


def scanning(file: Dict, line: str) -> None:
    one, method = of(file, code_of(line)), columns(line, 9, 10)
    one["wfpr"] = int(number(line, 83, 83)) or 1
    found = spans(line, 13, 5, 84)
    if method == "02":
        one["scan"] = one["inter"] = "each"
    if method in ("10", "21", "22"):
        one["scan"] = [*one["scan"], *found]
    if method in ("20", "21", "23"):
        one["inter"] = [*one["inter"], *found]
    if method not in ("01", "02", "10", "20", "21", "22", "23"):
        raise ValueError(f"no scanning method {method}")
    for tier in found:
        first = 104 + 7 * tier["place"]
        rate = digits(line, first, first + 6)
        if rate:
            one["som_tiers"].append({**tier, "rate": rate})


def intra(file: Dict, line: str) -> None:
    one = of(file, code_of(line))
    one["intra_method"] = columns(line, 9, 10)
    if one["intra_method"] not in ("01", "10"):
        raise ValueError(f"no intracommodity method {one['intra_method']}")
    one["intra"] = [*one["intra"], *spans(line, 11, 4, 81)]
    for name, first in zip(ACCOUNTS, (69, 73, 77), strict=True):
        ratio = digits(line, first, first + 3, 3)
        if ratio:
            one["ratios"][name] = ratio


def series(file: Dict, line: str) -> None:
    legs = []
    for first in (21, 35, 49, 63):
        if columns(line, first, first + 13).strip():
            rest = columns(line, first + 4, first + 6).strip()
            legs.append({
                "kind": "month",
                "key": f"20{columns(line, first, first + 3)}{rest}",
                "ratio": number(line, first + 7, first + 12, 4),
                "side": columns(line, first + 13, first + 13),
            })  # fmt: skip
    of(file, code_of(line))["charges"].append({
        "kind": 0, "priority": int(number(line, 9, 13)), "rate": number(line, 14, 20),
        "charge": "F", "legs": legs,
    })  # fmt: skip


def tiers(file: Dict, line: str) -> None:
    legs = []
    for first in range(22, 72, 7):
        if columns(line, first, first + 6).strip():
            legs.append({
                "kind": "tier",
                "key": int(number(line, first + 2, first + 3)),
                "ratio": number(line, first + 4, first + 5),
                "side": columns(line, first + 6, first + 6),
            })  # fmt: skip
    of(file, code_of(line))["charges"].append({
        "kind": 1, "priority": int(number(line, 11, 12)), "rate": number(line, 15, 21),
        "charge": "F", "legs": legs,
    })  # fmt: skip


def delivery(file: Dict, line: str) -> None:
    one = of(file, code_of(line))
    one["delivery_method"] = columns(line, 9, 10)
    if one["delivery_method"] == "11":
        file["refused"].append(f"{one['code']}: delivery method 11")
    if one["delivery_method"] == "10":
        for first in (13, 35):
            day = period(line, first + 2, first + 7, 200, 200)
            if day:
                rates = number(line, first + 8, first + 14), number(line, first + 15, first + 21)
                one["delivery"][day] = rates
    one["som"] = number(line, 63, 69)
    one["som_method"] = 1 if columns(line, 79, 79) == "1" else 2
    for name, first in zip(ACCOUNTS, (70, 73, 76), strict=True):
        factor = digits(line, first, first + 2, 2)
        if factor:
            one["factors"][name] = factor


def month(file: Dict, line: str) -> None:
    key = columns(line, 3, 5).strip(), columns(line, 6, 15).strip(), columns(line, 16, 18)
    future, option = period(line, 19, 24, 25, 26), period(line, 28, 33, 34, 35)
    wide = scaled(number(line, 53, 57), number(line, 166, 167), columns(line, 168, 168))
    file["months"][*key, future, option] = {
        "range": wide,
        "percent": columns(line, 165, 165) == "P",
        "scaling": digits(line, 86, 91, 4) or Fraction(1),
    }


def family(file: Dict, line: str) -> None:
    key = columns(line, 3, 5).strip(), columns(line, 6, 15).strip(), columns(line, 16, 18)
    file["families"][key] = {
        "price": (locator(line, 34, 36), columns(line, 40, 40)),
        "strike": (locator(line, 37, 39), columns(line, 41, 41)),
        "multiplier": scaled(number(line, 42, 55, 7), number(line, 74, 75), columns(line, 73, 73)),
        "currency": columns(line, 66, 68).strip(),
        "valuation": columns(line, 117, 121).strip(),
        "variable": columns(line, 161, 161) == "1",
    }


def group(file: Dict, line: str) -> None:
    found = file["groups"].setdefault(columns(line, 3, 5).strip(), [])
    for first in range(13, 68, 6):
        if columns(line, first, first + 5).strip():
            found.append(columns(line, first, first + 5).strip())


def split(file: Dict, line: str) -> None:
    file["splits"][columns(line, 4, 13).strip()] = columns(line, 3, 3)


def option_on(file: Dict, line: str) -> None:
    file["options_on"][columns(line, 13, 22).strip()] = columns(line, 3, 12).strip()


def combination(file: Dict, line: str) -> None:
    exchange, product = columns(line, 3, 5).strip(), columns(line, 6, 15).strip()
    key = exchange, product, period(line, 21, 26, 27, 28)
    rest = columns(line, 64, 67).strip()
    ratio = number(line, 40, 42) + (Fraction(int(rest), 10_000) if rest.isdigit() else 0)
    file["combinations"].setdefault(key, []).append({
        "product": (exchange, columns(line, 43, 52).strip(), columns(line, 53, 55)),
        "period": period(line, 56, 61, 62, 63),
        "ratio": ratio if columns(line, 39, 39) == "A" else -ratio,
    })  # fmt: skip


def identity(line: str) -> tuple[str, ...]:
    return (
        columns(line, 3, 5).strip(), columns(line, 6, 15).strip(), columns(line, 26, 28),
        columns(line, 29, 29).strip(), period(line, 30, 35, 36, 37), period(line, 39, 44, 45, 46),
        columns(line, 48, 54),
    )  # fmt: skip


def signed(line: str, first: int, count: int, width: int) -> list[Fraction]:
    """Values of `width` digits, each followed by its sign."""
    values = []
    for place in range(count):
        here = first + (width + 1) * place
        value, sign = (
            digits(line, here, here + width - 1),
            columns(line, here + width, here + width),
        )
        if value is None or sign not in ("+", "-", " ", ""):
            raise ValueError(f"no array value in columns {here}-{here + width}")
        values.append(-value if sign == "-" else value)
    return values


def first_half(file: Dict, line: str) -> None:
    width = 5 if line.startswith("81") else 8
    end = 54 + 9 * (width + 1)
    wide = columns(line, end + 15, end + 15) == "Y"
    half = {
        "values": signed(line, 55, 9, width),
        "price": columns(line, end + 1, end + 14),
        "wide": wide,
    }
    file["halves"].setdefault(identity(line), []).append(half)


def second_half(file: Dict, line: str) -> None:
    """The rest of a contract: with the half before it, it is one."""
    who = identity(line)
    half = file["halves"][who].pop(0)
    exchange, product, kind, right, future, option, strike = who
    width, key = 5 if line.startswith("82") else 8, (exchange, product, kind)
    end = 54 + 7 * (width + 1)
    terms, (code, places) = file["families"][key], file["slots"][key]
    one = file["commodities"][code]
    size = Fraction(10) ** (one["exponent"] - places)
    delta = number(line, end + 1, end + 5, 4)
    raw = half["price"] if half["wide"] else columns(line, end + 15, end + 21)
    minus = columns(line, end + 22, end + 22) == "-"
    raw = raw.strip()
    blank = raw == "" or set(raw) == {"9"}
    price = None if blank else decoded(raw, *terms["price"], minus)
    level = None
    if right:
        level = decoded(strike, *terms["strike"], columns(line, end + 23, end + 23) == "-")
    times = terms["multiplier"]
    if terms["variable"]:
        own = number(line, end + 42, end + 55, 7)
        times = (
            scaled(own, number(line, end + 56, end + 57), columns(line, end + 58, end + 58))
            or times
        )
    beneath = columns(line, 16, 25).strip()
    about = file["months"].get((*key, future, option)) or file["months"].get((*key, future, ""))
    scaling = about["scaling"] if about else Fraction(1)
    when = future or option
    name = ":".join(part for part in (exchange, product, kind, future, option, right) if part)
    name += f":{shown(level)}" if right else ""
    if name in file["contracts"]:
        raise ValueError(f"two contracts {name}")
    array = [value * size for value in half["values"] + signed(line, 55, 7, width)]
    premium = bool(right) and (
        terms["valuation"] == "EQTY" if terms["valuation"] else one["style"] != "F"
    )
    file["contracts"][name] = {
        "id": name, "commodity": code, "product": product, "type": kind, "period": when,
        "future": future,
        "option": option, "right": right, "strike": level, "price": price, "multiplier": times,
        "delta": -delta if columns(line, end + 6, end + 6) == "-" else delta, "scaling": scaling,
        "array": array, "currency": terms["currency"] or one["currency"], "premium": premium,
        "exchange": exchange, "key": key, "under": file["options_on"].get(product, beneath),
    }  # fmt: skip
    if about and about["range"]:
        wide = about["range"] * Fraction(10) ** one["exponent"]
        if about["percent"]:
            if price is None:
                return
            wide = about["range"] / 100 * abs(price) * times
        rank = (0 if kind == "FUT" else 1, product, kind, option)
        held = one["psr"].get(when)
        if held is None or rank < held["rank"]:
            one["psr"][when] = {"rank": rank, "up": wide / scaling, "down": wide / scaling}


def shown(value: Fraction | None) -> str:
    """A strike as people write it: no trailing noughts."""
    if value is None:
        return ""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.10f}".rstrip("0")
