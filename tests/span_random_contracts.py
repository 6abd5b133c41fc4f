"""Products and contracts of a random combined commodity."""

from __future__ import annotations

import random
from typing import Any

Dict = dict[str, Any]
MONTHS = [
    *("202609", "20260918", "202610", "202612", "20261204"),
    *("202703", "202706", "20270616", "202709"),
]
SHAPE = [0, 0, -1, -1, 1, 1, -2, -2, 2, 2, -3, -3, 3, 3]
# Moves of the price and of volatility by scenario, as shares of their ranges, and covers of losses.
SIXTEEN = [(-step / 3, 1 - 2 * (place % 2), 1.0) for place, step in enumerate(SHAPE)]
SIXTEEN += [(3.0, 0, 0.33), (-3.0, 0, 0.33)]
# Decimal locators and alignment codes of prices.
QUOTES = [(2, " "), (2, " "), (3, " "), (0, " "), (-1, " "), (2, "0"), (3, "C"), (2, "C"), (2, "K")]


def quoted(rng: random.Random, quote: tuple[int, str], most: int) -> int:
    """Digits of a price that its alignment code allows."""
    locator, code = quote
    if code == "0":
        return 10 * rng.randint(1, most // 10) + rng.choice([0, 1, 2, 3, 5, 6, 7, 8])
    if code == " ":
        return rng.randint(10, most)
    parts = rng.randint(0, 31 if code == "C" else 63)
    if locator == 3:
        return 1_000 * rng.randint(1, 90) + 10 * parts + rng.choice([0, 1, 2, 3, 5, 6, 7, 8])
    return 100 * rng.randint(1, 90) + parts


def product(rng: random.Random, code: str, kind: str, currency: str, scaling: str) -> Dict:
    foreign = [one for one in ("USD", "EUR", "GBP") if one != currency]
    return {
        "code": code,
        "kind": kind,
        "scaling": scaling,
        "places": rng.choice([0, 0, 0, 1, 2]),
        "multiplier": rng.choice(["10", "50", "0.25"]),
        "quote": rng.choice(QUOTES),
        "decimals": rng.choice([0, 1]),
        "currency": rng.choice(foreign) if rng.random() < 0.1 else currency,
        "said": rng.random() < 0.7,
        "variable": kind == "OOF" and rng.random() < 0.15,
    }


def products_of(rng: random.Random, place: int, currency: str) -> list[Dict]:
    """A future, its options, combinations and options on them; maybe minis, serials, and more."""
    scaling = rng.choice(["1", "1", "0.2", "0.5"])
    kinds = [("F", "FUT"), ("O", "OOF"), ("K", "CMB"), ("Y", "OOC")]
    if rng.random() < 0.4:
        kinds += [("G", "FUT"), ("Q", "OOF")]
    found = [product(rng, f"{name}{place}", kind, currency, scaling) for name, kind in kinds]
    for one in found[4:]:
        one["scaling"] = rng.choice(["0.1", "2"])
    if rng.random() < 0.3:
        found += [product(rng, f"{name}{place}", "PHY", currency, "1") for name in "UVW"]
    if rng.random() < 0.3:
        found.append(product(rng, f"N{place}", "OOP", currency, "1"))
    return found


def grid_of(rng: random.Random) -> list[tuple[float, int, float]]:
    """Scenarios of an exchange: PA2's, or a few others in any order."""
    if rng.random() < 0.3:
        return SIXTEEN
    moves = rng.sample([0.5, -0.5, 1.0, -1.0, 0.25, -0.25, 2.0], rng.randint(2, 6))
    both = [(move, sign, 1.0) for move in [0.0, *moves] for sign in (1, -1)]
    return [*rng.sample(both, len(both)), (3.0, 0, 0.35), (-3.0, 0, 0.35)]


def option_array(
    rng: random.Random, psr: int, delta: float, vega: int, grid: Any = None
) -> list[int]:
    """Something like a long option's: curved, with volatility up a gain; some never lose."""
    found = []
    always = rng.choice([0, 0, 0, 0, 0, 0, 0, psr // 20, 2 * psr])
    for move, vol, cover in grid or SIXTEEN:
        moved = psr * move
        if cover == 1.0:
            gain = delta * moved + 0.15 * moved * moved / psr + vol * vega
            found.append(-round(gain) + rng.randint(-9, 9) - always)
        else:
            bent = 0.15 * moved * abs(moved) / psr * (1 if delta > 0 else -1)
            found.append(-round(cover * (delta * moved + bent)) - always)
    return found


def linear_array(psr: int, grid: Any = None) -> list[int]:
    return [-round(psr * move * cover) for move, _, cover in grid or SIXTEEN]


def future(rng: random.Random, one: Dict, month: str, psr: int, grid: Any) -> Dict:
    size = psr if rng.random() < 0.6 else psr + rng.randint(-3, 3) * 50
    array = linear_array(size, grid)
    if rng.random() < 0.1:
        array = [value + rng.randint(-40, 40) for value in array]
    return {
        "kind": "FUT",
        "product": one["code"],
        "month": month,
        "psr": size if rng.random() < 0.9 else 0,
        "array": array,
        "price": None if rng.random() < 0.05 else quoted(rng, one["quote"], 90_000),
        "delta": 10_000,
        "down": rng.choice([None, 2, 3]),
        "wide": rng.random() < 0.1,
    }


def strike(rng: random.Random, one: Dict) -> tuple[int, str]:
    """Digits of a strike and how people write it."""
    raw = rng.randint(-20, 80) * 25
    if one["decimals"] == 0:
        return raw, str(raw)
    text = f"{raw / 10:.1f}"
    return raw, text.removesuffix(".0")


def option(rng: random.Random, one: Dict, kind: str, month: str, psr: int, grid: Any) -> Dict:
    right = rng.choice("CP")
    delta = rng.randint(200, 9_500) * (1 if right == "C" else -1)
    raw, shown = strike(rng, one)
    return {
        "kind": kind,
        "product": one["code"],
        "month": month,
        "option": rng.choice([each for each in MONTHS if each <= month]),
        "right": right,
        "raw": raw,
        "strike": shown,
        "psr": psr,
        "delta": delta,
        "price": None if rng.random() < 0.03 else quoted(rng, one["quote"], 9_000),
        "array": option_array(rng, psr, delta / 10_000, rng.randint(0, psr // 10), grid),
        "own": rng.choice(["20", "12.5"]),
        "wide": rng.random() < 0.1,
    }


def contracts_of(
    rng: random.Random, products: list[Dict], months: list[str], psr: int, grid: Any
) -> list[Dict]:
    """Futures of all months and some options; ids are given once the exchange is known."""
    found: list[Dict] = []
    for one in products:
        for _ in range(4 if one["kind"] == "OOP" else 0):
            made = option(rng, one, "OOP", rng.choice(MONTHS), psr * 10 ** one["places"], grid)
            made["option"] = made["month"]
            if not any(same(made, other) for other in found):
                found.append(made)
        for month in months if one["kind"] in ("FUT", "OOF") else []:
            if one["kind"] == "FUT":
                if one["code"][0] == "F" or rng.random() < 0.5:
                    found.append(future(rng, one, month, psr * 10 ** one["places"], grid))
                continue
            for _ in range(rng.randint(0, 3)):
                made = option(rng, one, "OOF", month, psr * 10 ** one["places"], grid)
                if not any(same(made, other) for other in found):
                    found.append(made)
    return found


def same(one: Dict, other: Dict) -> bool:
    keys = ("product", "month", "option", "right", "raw")
    return all(one.get(key) == other.get(key) for key in keys)


def calendar(rng: random.Random, one: Dict, commodities: list[Dict], grid: Any) -> list[Dict]:
    """A combination of two months, the second maybe of another commodity, and an option on it."""
    near, far = sorted(rng.sample(one["months"], 2))
    home = other = one["products"][0]
    near_by = [each for each in commodities if each["exchange"] == one["exchange"]]
    if rng.random() < 0.3:
        elsewhere = rng.choice(near_by)
        other, far = elsewhere["products"][0], rng.choice(elsewhere["months"])
    split = one["split"]
    shares = ("0.6957", "0.3043") if split == "M" else ("1", rng.choice(["1", "2"]))
    by_kind = {made["kind"]: made for made in one["products"][:4]}
    psr = 500 * 10 ** by_kind["CMB"]["places"]
    made = {
        "kind": "CMB",
        "product": by_kind["CMB"]["code"],
        "month": near,
        "psr": psr,
        "price": quoted(rng, by_kind["CMB"]["quote"], 900),
        "delta": rng.randint(-9_000, 9_000),
        "array": linear_array(psr, grid),
        "legs": [
            (home["code"], near, "A", shares[0]),
            (other["code"], far, "A" if split == "M" else "B", shares[1]),
        ],
    }
    if rng.random() < 0.5:
        return [made]
    return [made, option(rng, by_kind["OOC"], "OOC", near, 400, grid)]


def name_of(exchange: str, each: Dict) -> str:
    parts = [exchange, each["product"], each["kind"]]
    if each["kind"] != "OOP":
        parts.append(each["month"])
    if "option" in each:
        parts += [each["option"], each["right"], each["strike"]]
    return ":".join(parts)
