"""A made-up crypto venue at one instant and three accounts on it, in the files that a user has.

An overwriter (coins, calls sold on them), a seller of straddles in two coins, and a trader who is
long and buys puts; no random number.
"""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl

_TIME = "2026-01-21T00:00:00Z"
# Months, days from _TIME, and forwards over spot.
_EXPIRIES = (("20260130", 9, 1.0011), ("20260327", 65, 1.0082), ("20260626", 156, 1.0197))
# Spot, volatility at the money, what a step of log-strike adds and bends, strikes over spot.
_UNDERLYINGS: dict[str, tuple[float, float, float, float]] = {
    "BTC": (90_000.0, 0.46, -0.06, 0.35),
    "ETH": (3_000.0, 0.68, -0.04, 0.30),
}
_STRIKES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6)
_RATE = 0.045


def _expiry(date: str) -> str:
    return f"{date[:4]}-{date[4:6]}-{date[6:]}T08:00:00Z"


def feeds() -> dict[str, Any]:
    """Prices, forwards and volatilities, in our format of feeds."""
    instruments: list[dict[str, Any]] = [{"instrument_id": "USDT", "kind": "coin", "price": 0.9996}]
    for name, terms in _UNDERLYINGS.items():
        instruments += _instruments(name, *terms)
    return {
        "time": _TIME,
        "stable": {"price": 1.0, "confidence": 1.0},
        "underlyings": {
            name: {
                "spot": spot,
                "expiries": [
                    {"expiry": _expiry(date), "forward": round(spot * carry, 2), "rate": _RATE}
                    for date, _, carry in _EXPIRIES
                ],
            }
            for name, (spot, *_) in _UNDERLYINGS.items()
        },
        "instruments": instruments,
    }


def _instruments(
    name: str, spot: float, level: float, tilt: float, bend: float
) -> list[dict[str, Any]]:
    """The coin, its perpetual, its options."""
    found: list[dict[str, Any]] = [
        {"instrument_id": name, "kind": "coin", "underlying": name, "price": spot},
        {
            "instrument_id": f"{name}-PERP",
            "kind": "perpetual",
            "underlying": name,
            "price": round(spot * 1.0004, 2),
        },
    ]
    for date, days, carry in _EXPIRIES:
        for share in _STRIKES:
            strike = round(spot * share)
            step = math.log(strike / (spot * carry)) / math.sqrt(days / 30)
            volatility = round(level + tilt * step + bend * step * step, 4)
            for right in ("call", "put"):
                found.append(
                    {
                        "instrument_id": f"{name}-{date}-{strike}-{right[0].upper()}",
                        "kind": "option",
                        "underlying": name,
                        "expiry": _expiry(date),
                        "strike": strike,
                        "right": right,
                        "volatility": volatility,
                    }
                )
    return found


# Account, netting set, instrument, quantity in coins.
_POSITIONS = (
    ("overwriter", "eth", "ETH-20260327-3600-C", -30.0),
    ("overwriter", "eth", "ETH-20260626-4200-C", -15.0),
    ("put-buyer", "btc", "BTC-PERP", 2.0),
    ("put-buyer", "btc", "BTC-20260130-81000-P", 2.0),
    ("straddle-seller", "btc", "BTC-20260327-90000-C", -3.0),
    ("straddle-seller", "btc", "BTC-20260327-90000-P", -3.0),
    ("straddle-seller", "btc", "BTC-PERP", 0.4),
    ("straddle-seller", "eth", "ETH-20260130-3000-C", -20.0),
    ("straddle-seller", "eth", "ETH-20260130-3000-P", -20.0),
)
# Account, netting set, asset, amount, kind.
_BALANCES = (
    ("overwriter", "eth", "ETH", 50.0, "collateral"),
    ("overwriter", "eth", "USDC", -20_000.0, "cash"),
    ("put-buyer", "btc", "USDC", 18_000.0, "cash"),
    ("put-buyer", "btc", "USD", -2_500.0, "unrealised"),
    ("straddle-seller", "btc", "USDC", 125_000.0, "cash"),
    ("straddle-seller", "eth", "USDC", 22_000.0, "cash"),
    ("straddle-seller", "eth", "USDT", 5_000.0, "collateral"),
)


def positions() -> pl.DataFrame:
    """What the accounts hold of derivatives."""
    names = ("account_id", "netting_set", "instrument_id", "quantity")
    return pl.DataFrame(_POSITIONS, schema=names, orient="row")


def balances() -> pl.DataFrame:
    """Their cash and coins."""
    names = ("account_id", "netting_set", "asset", "amount", "kind")
    return pl.DataFrame(_BALANCES, schema=names, orient="row")


def whatifs() -> list[dict[str, Any]]:
    """Trades that they might do."""
    return [
        {
            "whatif_id": "wings",
            "account": "straddle-seller",
            "netting_set": "btc",
            "simulated_positions": {"BTC-20260327-126000-C": 3, "BTC-20260327-63000-P": 3},
        },
        {
            "whatif_id": "hedge half",
            "account": "put-buyer",
            "simulated_positions": {"BTC-PERP": -1},
        },
        {
            "whatif_id": "calls alone",
            "currency": "ETH",
            "add_positions": False,
            "simulated_positions": {"ETH-20260327-3600-C": -30},
        },
    ]


def files() -> dict[str, str]:
    """Names of the files and what is in them."""
    return {
        "crypto_feeds.json": json.dumps(feeds(), indent=1) + "\n",
        "crypto_positions.csv": positions().write_csv(),
        "crypto_balances.csv": balances().write_csv(),
        "crypto_whatifs.json": json.dumps(whatifs(), indent=1) + "\n",
    }
