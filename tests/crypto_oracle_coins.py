"""Random markets and accounts in coins for the Deribit oracle, and the same as the engine has them.

An account is {"held": {instrument id: size}, "charges": [open orders, mmp, spot]}.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import crypto_oracle_books as books
import crypto_oracle_deribit
import numpy as np
import polars as pl
from crypto_oracle_books import number, quantity

from gpu_margin.crypto_book import FUTURE, OPTION, PERPETUAL, CryptoBook, CryptoMarket, Expiries

Dict = dict[str, Any]

DAY = 86_400.0
NAME, STABLE = "BTC", 0.99
CHARGES = ("open_orders", "mmp", "spot")
SECONDS = (0.0, 600.0, 1_800.0, DAY, 30 * DAY, 400 * DAY)


def figures(random: Random) -> Dict:
    """Under the venue's names, as the oracle has them."""
    return {
        "mm_factor": random.uniform(0.5, 1.0),
        "buckets_count": random.choice((1, 4, 6)),
        "min_annualised_move": random.uniform(0.0, 0.02),
        "annualised_move_risk": random.uniform(0.0, 0.2),
        "pnl_offset": random.choice((0.0, 0.6, 1.0)),
        "extended_dampener": random.choice((0.0, 100.0, 200_000.0)),
        "max_offsetable_pnl": random.choice((0.0, 50.0, 2e7)),
        "price_range": number(random, (0.16, 0.14), 0.05, 0.6),
        "m_inc": random.choice((0.0, 5e-5, 0.01)),
        "delta_total_liq_shock_threshold": random.choice((0.0, 1e4, 2e7)),
        "max_delta_shock": random.choice((0.0, 0.1)),
        "min_volatility_for_shock_up": random.choice((0.0, 0.5)),
        "volatility_range_up": random.uniform(0.0, 0.8),
        "volatility_range_down": random.uniform(0.0, 0.6),
        "extended_table_factor": random.choice((1.0, 0.7)),
        "short_term_vega_power": random.uniform(0.0, 0.5),
        "long_term_vega_power": random.uniform(0.0, 0.3),
        "floor_seconds": 1.0,
    }


def engine_figures(figures: Dict) -> Dict:
    """The same as the engine's table."""
    general = ("mm_factor", "buckets_count")
    currency = (
        *("min_annualised_move", "annualised_move_risk", "pnl_offset"),
        *("extended_dampener", "max_offsetable_pnl"),
    )
    pair = set(figures) - {*general, *currency, "floor_seconds"}
    both = {name: figures[name] for name in currency}
    return {
        "general": {name: figures[name] for name in general},
        "currency": {NAME.lower(): both, "usd": both},
        "currency_pair": {f"{NAME.lower()}_usd": {name: figures[name] for name in pair}},
        "extended_moves": crypto_oracle_deribit.EXTENDED,
    }


def market(random: Random) -> Dict:
    """An index, expiries with a future each, and options by id."""
    index = number(random, (90_000.0,), 0.5, 5_000.0)
    seconds = sorted({number(random, SECONDS, 0.0, 300 * DAY) for _ in range(3)})
    expiries = [books.expiry(random, index, time) for time in seconds]
    options = {}
    for place, one in enumerate(expiries):
        forward = one["forward"] + one["fixed"]
        for strike in {forward * number(random, books.MONEYNESS, 0.5, 1.6) for _ in range(4)}:
            volatility = number(random, books.VOLATILITIES, 0.2, 1.5)
            for right in "CP":
                options[f"{NAME}-{place}-{strike!r}-{right}"] = {
                    "expiry": place,
                    # At the money without volatility the delta is a matter of taste.
                    "strike": strike * (1.0 + 1e-7),
                    "call": right == "C",
                    "volatility": volatility,
                }
    return {"index": index, "expiries": expiries, "options": options}


def account(random: Random, market: Dict, inverse: bool) -> Dict:
    """Nothing, one thing, all short, or anything; with what the venue charges besides."""
    names = [f"{NAME}-PERP", *(f"{NAME}-F{n}" for n in range(len(market["expiries"])))]
    names += sorted(market["options"])
    size, short = random.choice((0, 1, 3, 12)), random.random() < 0.3
    return {
        "held": {
            one: quantity(random, short) for one in random.sample(names, min(size, len(names)))
        },
        "charges": [number(random, (0.0,), 0.0, 5.0) for _ in CHARGES],
    }


def of_oracle(market: Dict, account: Dict, inverse: bool) -> Dict:
    """An account as the oracle has it."""
    held, options = account["held"], market["options"]
    return {
        "contracts": [
            {"expiry": _place(one), "size": size, "inverse": inverse}
            for one, size in held.items()
            if one not in options
        ],
        "options": [
            {**options[one], "size": size, "inverse": inverse}
            for one, size in held.items()
            if one in options
        ],
        "charges": account["charges"],
    }


def _place(name: str) -> int | None:
    own = name.split("-")[1]
    return None if own == "PERP" else int(own[1:])


def gross(market: Dict, account: Dict, inverse: bool) -> float:
    """What passes through an account's sums, in the settlement currency."""
    unit = 1.0 / market["index"] if inverse else 1.0
    total = sum(account["charges"])
    for one, size in account["held"].items():
        worth = 7 * market["index"]
        if one in market["options"]:
            option = market["options"][one]
            expiry = market["expiries"][option["expiry"]]
            forward = expiry["forward"] + expiry["fixed"]
            # In coins a put is worth its strike over a forward that may have fallen to a third.
            worth = max(7 * forward + option["strike"], 0.0)
            worth = (
                worth * market["index"] / (0.3 * forward) if inverse else worth + market["index"]
            )
        total += 7 * abs(size) * worth * unit
    return total


# ------------------------------------------------------------------------------- for the engine


def engine_market(market: Dict, inverse: bool) -> CryptoMarket:
    """The market as the engine has it."""
    common = {"underlying": 0, "inverse": inverse, "settlement": NAME if inverse else "USDC"}
    rows: list[Dict] = [
        {"id": f"{NAME}-PERP", "kind": PERPETUAL, "price": market["index"], **common}
    ]
    rows += [
        {
            "id": f"{NAME}-F{place}",
            "kind": FUTURE,
            "expiry": place,
            "price": one["forward"] + one["fixed"],
            **common,
        }
        for place, one in enumerate(market["expiries"])
    ]
    rows += [
        {**given, "id": one, "kind": OPTION, **common} for one, given in market["options"].items()
    ]
    rows.sort(key=lambda row: row["id"].encode())
    expiries = market["expiries"]
    return CryptoMarket(
        time=0.0,
        underlyings=pl.Series("underlying", [NAME], pl.String),
        spot=np.array([market["index"]]),
        spot_confidence=np.ones(1),
        expiries=Expiries(
            underlying=np.zeros(len(expiries), dtype=np.int64),
            **{
                field: np.array([one[field] for one in expiries], dtype=np.float64)
                for field in Expiries.__dataclass_fields__
                if field != "underlying"
            },
        ),
        instruments=books.instruments(rows),
        stable=STABLE,
    )


def engine_book(market: CryptoMarket, accounts: Sequence[Dict]) -> CryptoBook:
    """Accounts with their charges."""
    settlement = market.instruments.settlement[0]
    plain = [{**one, "market": settlement, "cash": 0.0, "unrealised": 0.0} for one in accounts]
    book = books.engine_book(market, plain)
    book.charges.update(
        {
            name: np.array([one["charges"][place] for one in accounts], dtype=np.float64)
            for place, name in enumerate(CHARGES)
        }
    )
    return book
