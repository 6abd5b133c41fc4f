"""A venue with two underlyings, under the figures of mainnet, for Derive's portfolio margins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import strict_backend
from derive_case import Expiry, Held, book_of, market_of

from gpu_margin import backend
from gpu_margin.crypto_book import COIN, OPTION, PERPETUAL, CryptoBook, CryptoMarket
from gpu_margin.models import derive_pm1, derive_pm2

BACKENDS = (backend.load("numpy"), backend.load("numba"), strict_backend.BACKEND)
DAY = 86_400.0


def near(found: float, expected: float) -> bool:
    return abs(found - expected) <= 1e-10 * max(1.0, abs(expected))


def table(name: str) -> dict[str, Any]:
    text = (files("gpu_margin") / "parameters" / "derive" / f"{name}_mainnet.json").read_text()
    found: dict[str, Any] = json.loads(text)["markets"]
    return found


PM1 = {name: derive_pm1.Figures(**own) for name, own in table("pm1").items()}
PM2 = {name: derive_pm2.Figures(**own) for name, own in table("pm2").items()}
RULEBOOKS = [
    pytest.param(derive_pm1, PM1, id="derive_pm1"),
    pytest.param(derive_pm2, PM2, id="derive_pm2"),
]

SPOT = {"BTC": 90_000.0, "ETH": 3_000.0}
EXPIRIES = [
    Expiry(2 * DAY, 90_100.0, rate=0.05),
    Expiry(45 * DAY, 91_000.0, rate=0.06, volatility_confidence=0.3),
    Expiry(400 * DAY, 99_000.0, rate=-0.02),
    Expiry(9 * DAY, 3_010.0, underlying=1),
]


def options() -> list[Held]:
    return [
        Held(f"{name}-{place}-{strike:.0f}-{'CP'[put]}", OPTION, 0.0, underlying=code,
             expiry=place, strike=strike, call=not put, volatility=0.5 + 0.1 * share)
        for place, expiry in enumerate(EXPIRIES)
        for code, name in [(expiry.underlying, ("BTC", "ETH")[expiry.underlying])]
        for share in (0.7, 0.9, 1.0, 1.1, 1.6)
        for put in (0, 1)
        for strike in [round(SPOT[name] * share)]
    ]  # fmt: skip


def venue(more: Sequence[Held] = (), expiries: Sequence[Expiry] = (), **terms: Any) -> CryptoMarket:
    spots = [("BTC", SPOT["BTC"], 1.0), ("ETH", SPOT["ETH"], 1.0)]
    return market_of([*instruments(), *more], [*EXPIRIES, *expiries], spots, **terms)


def venue_of(names: Mapping[str, str]) -> CryptoMarket:
    """The same instruments under other names."""
    spots = [("BTC", SPOT["BTC"], 1.0), ("ETH", SPOT["ETH"], 1.0)]
    held = [replace(one, name=names[one.name]) for one in instruments()]
    return market_of(held, EXPIRIES, spots)


def instruments() -> list[Held]:
    return [
        *options(),
        Held("BTC-PERP", PERPETUAL, 0.0, 90_050.0, 0.5, 0),
        Held("ETH-PERP", PERPETUAL, 0.0, 3_001.0, 1.0, 1),
        Held("BTC", COIN, 0.0, 90_000.0, 1.0, 0),
        Held("ETH", COIN, 0.0, 3_000.0, 1.0, 1),
    ]


def random_book(market: CryptoMarket, sets: int) -> CryptoBook:
    """Sets in both markets: cash alone, few legs, many legs."""
    random = np.random.default_rng(7)
    rows = []
    for number in range(sets):
        name = ("BTC", "ETH")[number % 3 == 2]
        own = [i for i in market.instruments.ids if i.startswith(f"{name}-")]
        legs = random.choice(own, random.integers(0, min(25, len(own))), replace=False)
        quantity = random.normal(size=len(legs)).round(1) + 0.05
        row = list(zip(legs.tolist(), quantity.tolist(), strict=True))
        rows.append([*row, (name, float(random.integers(1, 5)))] if number % 2 else row)
    cash = random.normal(scale=1e5, size=sets).tolist()
    return book_of(market, rows, cash, random.normal(scale=1e3, size=sets).tolist())
