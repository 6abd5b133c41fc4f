"""Small exchanges by hand, in the shape the readers give."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from span_oracle_pa2 import commodity

Dict = dict[str, Any]


def exact(number: Any) -> Fraction:
    return number if isinstance(number, Fraction) else Fraction(str(number))


def linear(psr: float) -> list[Fraction]:
    """The array of a future with a price scan range."""
    steps = [0, 0, -1, -1, 1, 1, -2, -2, 2, 2, -3, -3, 3, 3]
    return [Fraction(psr) * step / 3 for step in steps] + [
        Fraction(psr) * Fraction(-99, 100),
        Fraction(psr) * Fraction(99, 100),
    ]


def contract(
    name: str,
    array: list[Any],
    delta: Any = 1,
    period: str = "202612",
    kind: str = "FUT",
    right: str = "",
    price: Any = 0,
    multiplier: Any = 1,
    scaling: Any = 1,
    product: str = "",
) -> Dict:
    """A contract; an option's value is paid up front."""
    key = ("X", product or name, kind)
    return {
        "id": name,
        "commodity": "",
        "product": key[1],
        "type": kind,
        "period": period,
        "option": period if right else "",
        "right": right,
        "strike": None,
        "price": exact(price),
        "multiplier": exact(multiplier),
        "delta": exact(delta),
        "scaling": exact(scaling),
        "array": [exact(value) for value in array],
        "currency": "USD",
        "premium": bool(right),
        "exchange": "X",
        "key": key,
    }


def exchange_of(families: dict[str, list[Dict]]) -> Dict:
    """An exchange of combined commodities and their contracts, and nothing else."""
    exchange: Dict = {
        "complex": "X",
        "date": "20260101",
        "limit": False,
        "class": "CORE",
        "rates": {},
        "commodities": {},
        "contracts": {},
        "spreads": [],
        "combinations": {},
        "splits": {},
        "refused": [],
    }
    for code, contracts in families.items():
        exchange["commodities"][code] = commodity(code)
        for one in contracts:
            one["commodity"] = code
            exchange["contracts"][one["id"]] = one
    return exchange


def inter_spread(
    method: str,
    legs: list[tuple[Any, ...]],
    rate: Any,
    target: str = "",
    flat: bool = False,
    priority: int = 1,
    above: bool = False,
    least: int = 2,
) -> Dict:
    """A spread of (commodity, ratio, side[, tier]) legs at one rate."""
    made = [
        {
            "cc": leg[0],
            "ratio": exact(leg[1]),
            "side": leg[2],
            "tier": leg[3] if len(leg) > 3 else 0,
            "rate": exact(rate),
            "required": False,
            "target": leg[0] == target,
        }
        for leg in legs
    ]
    return {
        "priority": priority,
        "method": method,
        "flat": flat,
        "legs": made,
        "super": above,
        "least": least,
        "line": 0,
        "fx": True,
    }
