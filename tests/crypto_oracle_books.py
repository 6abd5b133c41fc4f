"""Random venues and accounts for the crypto oracle, and the same as the engine wants them.

A venue is a dictionary: {"stable", "markets": {name: market of `crypto_oracle` with its "options"
by instrument id}, "coins": {id: {"price", "confidence"}}, "accepted": {market: {coin: haircuts}}}.
An account is {"market", "cash", "unrealised", "held": {instrument id: quantity}}.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import polars as pl

from gpu_margin.crypto_book import (
    COIN,
    OPTION,
    PERPETUAL,
    CryptoBook,
    CryptoInstruments,
    CryptoMarket,
    Expiries,
)
from gpu_margin.portfolio import Portfolio, Rows

Dict = dict[str, Any]

DAY = 86_400.0
SECONDS = (0.0, 1.0, 600.0, 1_799.0, 1_800.0, 3_600.0, DAY, 30 * DAY, 30 * DAY + 1, 400 * DAY)
VOLATILITIES = (0.0, 1e-9, 0.05, 0.6, 1.2, 6.0, 40.0, 3_000.0)
MONEYNESS = (1e-6, 0.05, 0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0, 20.0, 1e6)
SIZES = (1e-9, 0.01, 1.0, 3.0, 40.0, 1e9)
NAMES = ("BTC", "ETH")
COINS = ("USDT", "WBTC", "sUSDe", "wstETH")


def number(random: Random, often: Sequence[float], low: float, high: float) -> float:
    """One of those that matter, or anything between."""
    return random.choice(often) if random.random() < 0.5 else random.uniform(low, high)


def confidence(random: Random) -> float:
    return number(random, (0.0, 0.4, 0.55, 1.0, 1.0), 0.0, 1.0)


def expiry(random: Random, spot: float, seconds: float) -> Dict:
    """What the feeds say of one expiry; within half an hour of it part of the price is known."""
    forward = spot * number(random, (1.0, 1.0, 1e-6), 0.8, 1.3)
    open_share = min(seconds, 1_800.0) / 1_800.0
    return {
        "seconds": seconds,
        "forward": forward * open_share,
        "fixed": forward * random.uniform(0.9, 1.1) * (1 - open_share),
        "forward_confidence": confidence(random),
        "rate": number(random, (0.0, -0.3, 0.2), -0.1, 0.3),
        "rate_confidence": confidence(random),
        "volatility_confidence": confidence(random),
    }


def market(random: Random, name: str) -> Dict:
    """One underlying, its expiries in the order of their times, its options by id."""
    spot = number(random, (1e-3, 1.0, 90_000.0), 0.5, 5_000.0)
    seconds = {number(random, SECONDS, 0.0, 300 * DAY) for _ in range(random.randint(0, 4))}
    expiries = [expiry(random, spot, time) for time in sorted(seconds)]
    options = {}
    for place, one in enumerate(expiries):
        forward = one["forward"] + one["fixed"]
        for strike in {forward * number(random, MONEYNESS, 0.5, 1.6) for _ in range(4)}:
            volatility = number(random, VOLATILITIES, 0.2, 1.5)
            for right in "CP":
                options[f"{name}-{place}-{strike!r}-{right}"] = {
                    "expiry": place,
                    "strike": strike,
                    "call": right == "C",
                    "volatility": volatility,
                }
    return {
        "spot": spot,
        "spot_confidence": confidence(random),
        "perpetual": {"price": spot * random.uniform(0.9, 1.1), "confidence": confidence(random)},
        "expiries": expiries,
        "options": options,
    }


def venue(random: Random, names: Sequence[str] = NAMES) -> Dict:
    """Markets of these names, and coins that each accepts on terms of its own."""
    markets = {name: market(random, name) for name in names}
    stable = number(random, (1.0, 0.9, 1.0), 0.3, 1.5)
    for one in markets.values():
        one["stable"] = stable
    return {
        "stable": stable,
        "markets": markets,
        "coins": {
            coin: {
                "price": number(random, (1.0, 1e-4), 0.1, 5_000.0),
                "confidence": confidence(random),
            }
            for coin in COINS
        },
        "accepted": {
            name: {
                coin: {
                    "risk_cancelling": random.random() < 0.5,
                    "mm": random.uniform(0.0, 0.5),
                    "im": random.uniform(0.0, 0.4),
                }
                for coin in COINS
            }
            for name in names
        },
    }


def pm2_figures(random: Random) -> Dict:
    """Figures as the oracle has them, scenarios of every kind among them."""
    scenarios = [
        {
            "spot": number(random, (1.0, 0.955, 1.045, 0.82), 0.3, 1.7),
            "direction": random.choice(("up", "none", "down")),
            "damping": 1.0,
        }
        for _ in range(random.randint(1, 12))
    ]
    scenarios += [
        {"spot": spot, "direction": "up", "damping": random.uniform(0.01, 0.4)}
        for spot in random.sample((0.34, 0.67, 1.5, 2.0, 3.0, 4.0, 7.0), 3)
    ]
    scenarios += [
        {"spot": 1.0, "direction": skew, "damping": number(random, (1.0, 0.0), 0.5, 2.0)}
        for skew in ("linear", "abs")
        if random.random() < 0.8
    ]
    unique = {(one["spot"], one["direction"]): one for one in scenarios}
    return {
        "scenarios": list(unique.values()),
        "linear_cap": random.uniform(0.0, 0.5),
        "abs_cap": random.uniform(0.0, 0.5),
        "linear_base": number(random, (0.0, -0.1, -2.0), -1.0, 0.5),
        "abs_base": number(random, (0.0, -0.1, -2.0), -1.0, 0.5),
        "least_star": random.uniform(0.005, 0.5),
        "width": random.uniform(0.0, 6.0),
        "skew_volatility": random.uniform(0.0, 1.5),
        "skew_slope": random.uniform(-1.0, 1.0),
        "range_up": random.uniform(0.0, 1.5),
        "range_down": random.uniform(0.0, 1.0),
        "floor_up": number(random, (0.0,), 0.1, 1.0),
        "short_power": random.uniform(0.0, 0.6),
        "long_power": random.uniform(0.0, 0.4),
        "floor_seconds": number(random, (DAY, 1.0, 400 * DAY), 1.0, 5 * DAY),
        "mm_factor": random.uniform(0.5, 1.2),
        "im_factor": random.uniform(0.8, 1.6),
        "short_rate": random.uniform(0.0, 4.0),
        "long_rate": random.uniform(0.0, 4.0),
        "short_add": random.uniform(0.0, 0.3),
        "long_add": random.uniform(0.0, 0.3),
        "long_base": random.uniform(0.8, 1.0),
        "short_base": random.uniform(1.0, 1.2),
        "basis_up": random.uniform(1.0, 1.2),
        "basis_down": random.uniform(0.8, 1.0),
        "basis_add": random.uniform(0.0, 2.0),
        "basis_mult": random.uniform(0.0, 4.0),
        "peg_threshold": random.uniform(0.9, 1.1),
        "peg_factor": random.uniform(0.0, 6.0),
        "confidence_threshold": random.choice((0.0, 0.4, 0.55, 1.0)),
        "confidence_margin": random.uniform(0.0, 2.0),
        "mm_perpetual": random.uniform(0.0, 0.1),
        "im_perpetual": random.uniform(0.0, 0.1),
        "mm_option": random.uniform(0.0, 0.02),
        "im_option": random.uniform(0.0, 0.02),
    }


def quantity(random: Random, short: bool) -> float:
    size = number(random, SIZES, 0.001, 50.0)
    return -size if short or random.random() < 0.5 else size


def account(random: Random, venue: Dict, coins: Sequence[str]) -> Dict:
    """An account in one market: nothing, one thing, all short, or anything."""
    name = random.choice(sorted(venue["markets"]))
    options = sorted(venue["markets"][name]["options"])
    size, short = random.choice((0, 1, 3, 12)), random.random() < 0.3
    chosen = random.sample(options, min(size, len(options)))
    held = {one: quantity(random, short) for one in chosen}
    if random.random() < 0.5:
        held[f"{name}-PERP"] = quantity(random, short)
    held |= {
        coin: abs(quantity(random, False))
        for coin in random.sample(sorted(coins), random.randint(0, len(coins)))
        if random.random() < 0.6
    }
    return {
        "market": name,
        "cash": number(random, (0.0,), -1e4, 1e4),
        "unrealised": number(random, (0.0,), -100.0, 100.0),
        "held": held,
    }


def many_markets(random: Random, venue: Dict) -> Dict:
    """An account in several markets at once, their own coins among what it holds."""
    parts = [account(random, venue, ()) for _ in range(3)]
    held = {name: abs(quantity(random, False)) for name in NAMES if random.random() < 0.3}
    for part in parts:
        held |= part["held"]
    return {**parts[0], "market": "", "held": held}


def of_oracle(venue: Dict, account: Dict) -> Dict:
    """An account as `crypto_oracle` has it; what it holds in other markets is left out."""
    name, held = account["market"], account["held"]
    options = venue["markets"][name]["options"]
    return {
        "cash": account["cash"],
        "unrealised": account["unrealised"],
        "perpetual": held.get(f"{name}-PERP", 0.0),
        "base": held.get(name, 0.0),
        "options": [{**options[one], "size": size} for one, size in held.items() if one in options],
        "coins": [
            {**venue["coins"][coin], **venue["accepted"][name][coin], "size": held[coin]}
            for coin in held
            if coin in venue["coins"] and coin in venue["accepted"][name]
        ],
    }


def gross(venue: Dict, account: Dict) -> float:
    """USD that pass through an account's sums: what rounding is a share of."""
    total, stable = abs(account["cash"]) + abs(account["unrealised"]), min(venue["stable"], 1.0)
    worth = {coin: given["price"] / stable for coin, given in venue["coins"].items()}
    for name, market in venue["markets"].items():
        worth[name] = 7 * market["spot"] / stable
        worth[f"{name}-PERP"] = 7 * (market["perpetual"]["price"] + market["spot"])
        for one, option in market["options"].items():
            expiry = market["expiries"][option["expiry"]]
            forward = 7 * (expiry["forward"] + expiry["fixed"])
            worth[one] = forward + option["strike"] + market["spot"]
    return total + sum(abs(size) * worth[one] for one, size in account["held"].items())


# ------------------------------------------------------------------------------- for the engine


def engine_market(venue: Dict) -> CryptoMarket:
    """A venue's feeds and instruments as the engine has them."""
    names = sorted(venue["markets"])
    rows: list[Dict] = [
        {"id": coin, "kind": COIN, "settlement": coin, **given}
        for coin, given in venue["coins"].items()
    ]
    expiries: list[Dict] = []
    for code, name in enumerate(names):
        market, start = venue["markets"][name], len(expiries)
        expiries += [{**one, "underlying": code} for one in market["expiries"]]
        rows.append(
            {
                "id": name,
                "kind": COIN,
                "underlying": code,
                "price": market["spot"],
                "settlement": name,
            }
        )
        rows.append(
            {
                "id": f"{name}-PERP",
                "kind": PERPETUAL,
                "underlying": code,
                **market["perpetual"],
            }
        )
        rows += [
            {
                "id": one,
                "kind": OPTION,
                "underlying": code,
                **given,
                "expiry": start + given["expiry"],
            }
            for one, given in market["options"].items()
        ]
    rows.sort(key=lambda row: row["id"].encode())
    markets = [venue["markets"][name] for name in names]
    return CryptoMarket(
        time=0.0,
        underlyings=pl.Series("underlying", names, pl.String),
        spot=np.array([market["spot"] for market in markets]),
        spot_confidence=np.array([market["spot_confidence"] for market in markets]),
        expiries=Expiries(
            underlying=np.array([one["underlying"] for one in expiries], dtype=np.int64),
            **{
                field: np.array([one[field] for one in expiries], dtype=np.float64)
                for field in Expiries.__dataclass_fields__
                if field != "underlying"
            },
        ),
        instruments=instruments(rows),
        stable=venue["stable"],
    )


def instruments(rows: Sequence[Dict]) -> CryptoInstruments:
    """Rows of instruments, in byte order of their ids, as columns."""

    def column(field: str, default: Any, kind: Any) -> Any:
        return np.array([row.get(field, default) for row in rows], dtype=kind)

    return CryptoInstruments(
        ids=pl.Series("instrument_id", [row["id"] for row in rows], pl.String),
        kind=column("kind", COIN, np.int64),
        underlying=column("underlying", -1, np.int64),
        expiry=column("expiry", -1, np.int64),
        strike=column("strike", 0.0, np.float64),
        call=column("call", False, np.bool_),
        volatility=column("volatility", 0.0, np.float64),
        price=column("price", np.nan, np.float64),
        confidence=column("confidence", 1.0, np.float64),
        inverse=column("inverse", False, np.bool_),
        settlement=pl.Series(
            "settlement", [row.get("settlement", "USDC") for row in rows], pl.String
        ),
    )


def engine_book(market: CryptoMarket, accounts: Sequence[Dict], named: bool = True) -> CryptoBook:
    """Accounts as the engine has them, a netting set each, in their order."""
    place = {one: code for code, one in enumerate(market.instruments.ids)}
    rows = [
        sorted((place[one], size) for one, size in account["held"].items()) for account in accounts
    ]
    ids = pl.Series("account_id", [f"{place:07d}" for place in range(len(rows))], pl.String)
    entries = [entry for row in rows for entry in row]
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    portfolio = Portfolio(
        accounts=ids,
        sets=pl.Series("netting_set", [""] * len(rows), pl.String),
        set_account=np.arange(len(rows), dtype=np.int64),
        rows=Rows(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.array([column for column, _ in entries], dtype=np.int64),
            np.array([value for _, value in entries], dtype=np.float64),
        ),
        good=sizes,
        bad=np.zeros(len(rows), dtype=np.int64),
    )
    return CryptoBook(
        portfolio=portfolio,
        cash=np.array([account["cash"] for account in accounts], dtype=np.float64),
        unrealised=np.array([account["unrealised"] for account in accounts], dtype=np.float64),
        market=pl.Series(
            "market", [account["market"] if named else "" for account in accounts], pl.String
        ),
        charges={},
    )
