"""Random small exchanges, in numbers, as PA2 text and as SPAN XML: what both readers must agree on.

`model(seed)` draws one: commodities with scanning, inter-commodity and intra tiers (some of more
tiers than a record holds), series and tier spreads (three-legged ones and ones within a tier too),
delivery, short option minima, several products with scalings, decimals and prices of their own,
months with days, options on futures and on combinations, currencies; and spreads between
commodities in chains, of two to six legs, flat and weighted, of all methods, above and below.
`portfolio(model, rng)` draws positions; `as_pa2` and `as_xml` write it. What XML cannot say is
drawn for `xml=False` only, what PA2 cannot say (grids of scenarios, asymmetric ranges, charges by
the month and by price risk) for `pa2=False` only.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

from span_random_contracts import (
    MONTHS,
    calendar,
    contracts_of,
    grid_of,
    name_of,
    products_of,
)

Dict = dict[str, Any]
ACCOUNTS = ("member", "hedger", "speculator")


def legs_between(
    rng: random.Random, keys: list[Any], count: int, ratios: list[str], same: bool
) -> list[Dict]:
    """Legs of months or tiers: A B, or A B A, or both of one."""
    chosen = [rng.choice(keys)] * 2 if same else rng.sample(keys, count)
    sides = "AB" if len(chosen) == 2 else "ABA"
    return [
        {"key": key, "side": side, "ratio": rng.choice(ratios)}
        for key, side in zip(chosen, sides, strict=True)
    ]


def tiers(rng: random.Random, count: int) -> list[Dict]:
    cuts = sorted(rng.sample(range(1, len(MONTHS)), count - 1))
    bounds = [0, *cuts, len(MONTHS)]
    return [
        {"number": place + 1, "start": MONTHS[low], "end": MONTHS[high - 1]}
        for place, (low, high) in enumerate(pairwise(bounds))
    ]


def charges_of(
    rng: random.Random, months: list[str], within: list[Dict], hows: tuple[str, ...]
) -> list[Dict]:
    """Series spreads and tier spreads."""
    charges = []
    for _ in range(rng.randint(0, 3)):
        if len(months) >= 3 and rng.random() < 0.3:
            legs = legs_between(rng, months, 3, ["1", "2"], False)
        else:
            legs = legs_between(rng, months, 2, ["1", "1", "2", "1.5"], False)
        made = {"kind": "month", "rate": rng.randint(0, 400), "legs": legs}
        charges.append({**made, "how": rng.choice(hows)})
    for _ in range(rng.randint(0, 4)):
        numbers = [tier["number"] for tier in within]
        many = 3 if len(numbers) >= 3 and rng.random() < 0.3 else 2
        legs = legs_between(rng, numbers, many, ["1", "1", "2"], rng.random() < 0.4)
        how = rng.choice([one for one in hows if one != "P"])
        charges.append({"kind": "tier", "rate": rng.randint(1, 400), "legs": legs, "how": how})
    return charges


def one_commodity(rng: random.Random, place: int, xml: bool, pa2: bool, grid: Any) -> Dict:
    months = sorted(rng.sample(MONTHS, rng.randint(2, 6)))
    psr = rng.randint(5, 120) * 100
    scanning = rng.choice(["01", "01", "10", "20", "21", "22", *([] if xml else ["02"])])
    wide, narrow = (tiers(rng, rng.choice([2, 2, 3, 6, 7])) for _ in range(2))
    currency = "EUR" if rng.random() < 0.25 else "USD"
    products = products_of(rng, place, currency)
    within = tiers(rng, rng.choice([2, 3, 4, 5]))
    whole = [month for month in months if len(month) == 6]
    scan = wide if scanning in ("10", "21", "22") else []
    steep = rng.random() < 0.5
    return {
        "code": f"CC{place:02d}",
        "exchange": "SYN" if place % 3 else "SY2",
        "products": products,
        "months": months,
        "currency": currency,
        "exponent": rng.choice([0, 0, 0, 1, 2]),
        "limit": rng.random() < 0.2,
        "style": "F" if rng.random() < 0.15 else "P",
        "scanning": scanning,
        "wfpr": rng.choice([1, 2, 3]),
        "contracts": contracts_of(rng, products, months, psr, grid),
        "scan": scan,
        "inter": narrow if scanning in ("20", "22") else (wide if scanning == "21" else []),
        "som": rng.choice([0, 25, 900, 8_000]),
        "som_method": rng.choice([1, 2]),
        "som_rates": [rng.choice([5, 60, 9_000]) for _ in scan if steep],
        "intra": within,
        "charges": charges_of(rng, months, within, ("F",) if pa2 else ("F", "F", "P", "W")),
        "split": rng.choice(["", "", "S", "D", "M"]),
        "delivery": [
            (month, rng.randint(0, 90), rng.randint(0, 300))
            for month in whole[: rng.choice([0, 0, 1, 2, 3, 5])]
        ],
        "factors": {name: rng.choice(["1", "1", "1.25"]) for name in ACCOUNTS},
        "ratios": {name: rng.choice(["1.1", "1.35", "1"]) for name in ACCOUNTS},
    }


def one_spread(
    rng: random.Random, commodities: list[Dict], priority: int, xml: bool, last: Dict | None
) -> Dict:
    """A spread; often it shares a leg with the one before it, so that chains come to be."""
    count = min(rng.choice([2, 2, 2, 3, 3, 5, 6]), len(commodities))
    chosen = rng.sample(commodities, count)
    if last is not None and rng.random() < 0.5:
        code = rng.choice(last["legs"])["cc"]
        linked = [one for one in commodities if one["code"] == code]
        chosen = (linked + [one for one in chosen if one["code"] != code])[:count]
    method = rng.choice(["01", "01", "01", "20", "20", "04", *([] if xml else ["02", "02"])])
    legs = []
    for place, one in enumerate(chosen):
        tier = rng.choice([0, *[tier["number"] for tier in one["inter"]]]) if method == "20" else 0
        legs.append(
            {
                "cc": one["code"],
                "exchange": one["exchange"],
                "side": rng.choice("AB") if place else "A",
                "tier": tier,
                "ratio": rng.choice(["1", "1", "2", "0.5", "3"]),
                "required": rng.random() < 0.4,
                "rate": rng.randint(300, 950),
            }
        )
    if rng.random() < 0.04:
        legs[-1]["cc"] = "NOWHER"
    if method == "20" and not any(leg["tier"] for leg in legs):
        method = "01"
    target = None
    if method == "04":
        outside = [one["code"] for one in commodities if one not in chosen]
        target = rng.choice(outside) if outside and rng.random() < 0.4 else chosen[0]["code"]
    return {
        "priority": priority,
        "method": method,
        "legs": legs,
        "rate": rng.choice([300, 555, 700, 800]),
        "flat": method in ("01", "20", "02") and rng.random() < 0.25,
        "apart": rng.random() < 0.3,
        "super": rng.random() < 0.2,
        "target": target,
        "target_ratio": rng.choice(["1", "2"]),
        "target_required": rng.random() < 0.2,
        "least": rng.choice([0, 0, 1, 3]),
    }


def model(seed: int, xml: bool = True, pa2: bool = True) -> Dict:
    """An exchange; the same seed gives the same."""
    rng = random.Random(seed)
    many = rng.choice([2, 3, 4, 5, 5, 7])
    grid = None if pa2 else grid_of(rng)
    commodities = [one_commodity(rng, place, xml, pa2, grid) for place in range(many)]
    for one in commodities:
        if one["split"]:
            one["contracts"] += calendar(rng, one, commodities, grid)
    for one in commodities:
        for each in one["contracts"]:
            each["id"] = name_of(one["exchange"], each)
    spreads: list[Dict] = []
    for place in range(1, rng.randint(2, 11)):
        last = spreads[-1] if spreads else None
        spreads.append(one_spread(rng, commodities, place, xml, last))
    return {
        "commodities": commodities,
        "spreads": spreads,
        "limit": rng.random() < 0.2,
        "euro": f"1.{rng.randint(0, 999_999):06d}",
        "pound": f"0.{rng.randint(500_000, 999_999):06d}",
        "fractions": rng.random() < 0.5,
        "grid": grid,
    }


def portfolio(drawn: Dict, rng: random.Random, whole: bool = False) -> list[tuple[str, int]]:
    """Positions in a few of the contracts: futures of opposite signs, options of either.

    `whole` takes options without a price as well: who holds one cannot be margined.
    """
    every = [
        each["id"]
        for one in drawn["commodities"]
        for each in one["contracts"]
        if whole or each["price"] is not None or each["kind"] == "FUT"
    ]
    if rng.random() < 0.2:
        every = [one for one in every if ":OO" in one] or every
    count = min(len(every), rng.choice([1, 2, 3, 5, 8, 12, 20]))
    signs = rng.choice([(1, -1), (1, -1), (1, -1), (1,), (-1,)])
    return [
        (one, rng.choice([1, 1, 2, 3, 5, 10, 17]) * rng.choice(signs))
        for one in rng.sample(every, count)
    ]
