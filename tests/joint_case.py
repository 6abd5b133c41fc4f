"""Markets of a few contracts whose prices a test chooses, and joint models in them."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
from hand_market import rows_of
from joint_oracle import Contract, Setting, Shape

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.market import History, Instruments, Market
from gpu_margin.models import joint
from gpu_margin.models.joint import Parameters, Prepared
from gpu_margin.portfolio import Rows

NUMPY = backends.load("numpy")
LAST = date(2024, 3, 1)
DAYS = 90


def market_of(contracts: list[Contract], prices: dict[str, list[float]]) -> Market:
    """The contracts in this order, priced by these histories that end on `LAST`."""
    names = sorted(prices)
    days = len(prices[names[0]])
    option = np.array([c.kind != "spot" for c in contracts], dtype=np.bool_)

    def column(name: str) -> np.ndarray[Any, Any]:
        return np.array([float(getattr(c, name)) for c in contracts])

    instruments = Instruments(
        ids=pl.Series([f"I{number:03d}" for number in range(len(contracts))], dtype=pl.String),
        option=option,
        call=np.array([c.kind == "call" for c in contracts], dtype=np.bool_),
        factor=np.array([names.index(c.underlying) for c in contracts], dtype=np.int64),
        group=np.array([names.index(c.underlying) for c in contracts], dtype=np.int64),
        scale=column("scale"),
        level=column("level"),
        strike=column("strike"),
        volatility=column("vol"),
        time=column("years"),
        rate=column("rate"),
    )
    dates = tuple(LAST - timedelta(days=days - 1 - day) for day in range(days))
    matrix = np.array([prices[name] for name in names]).T
    return Market(LAST, "USD", instruments, pl.Series(names), History(dates, tuple(names), matrix))


def walks(rng: np.random.Generator, names: str, days: int = DAYS) -> dict[str, list[float]]:
    """Correlated prices, some of them with a crash."""
    common = rng.normal(size=days)
    found = {}
    for name in names:
        move = 0.03 * (0.8 * common + 0.6 * rng.normal(size=days))
        if rng.random() < 0.5:
            move[rng.integers(0, days)] = -0.4
        found[name] = (100.0 * np.cumprod(1.0 + move)).tolist()
    return found


def model(market: Market, backend: Backend = NUMPY, **more: Any) -> Prepared:
    parameters = Parameters.model_validate({"lookback": len(market.history.dates) - 1, **more})
    joint.check(parameters, market)
    return joint.prepare(parameters, market, backend)


def spots(names: str, level: float = 100.0) -> list[Contract]:
    return [Contract("spot", name, 1.0, level) for name in names]


def straddle(name: str, vol: float = 0.6) -> list[Contract]:
    terms = {"strike": 100.0, "vol": vol, "years": 30 / 365}
    return [Contract(kind, name, 1.0, 100.0, **terms) for kind in ("call", "put")]


def alternating(names: str, size: float, same: bool = True) -> dict[str, list[float]]:
    """Prices that go up and down by turns, all together or every second one against the others."""
    found = {}
    for number, name in enumerate(names):
        way = 1.0 if same or number % 2 == 0 else -1.0
        moves = [1.0 + way * size * (-1.0) ** day for day in range(40)]
        found[name] = [100.0, *(100.0 * np.cumprod(moves)).tolist()]
    return found


def amounts(prepared: Prepared, *held: dict[int, float]) -> list[float]:
    found: list[float] = prepared.require(rows_of(*held)).amount.tolist()
    return found


def stress_text(market: Market, *places: int) -> list[str]:
    return [market.history.dates[place].isoformat() for place in places]


def random_contracts(rng: np.random.Generator, names: str) -> list[Contract]:
    found = []
    for number in range(int(rng.integers(2, 14))):
        name = names[number % len(names)]
        kind = str(rng.choice(["spot", "call", "put"]))
        level = 100.0 * math.exp(0.1 * rng.normal())
        terms = {
            "strike": level * math.exp(0.2 * rng.normal()),
            "vol": float(rng.choice([0.0, 0.3, 0.8, 2.0])),
            "years": float(rng.choice([0, 1, 7, 30, 90, 400])) / 365,
            "rate": float(rng.choice([0.0, 0.03])),
        }
        terms = {} if kind == "spot" else terms
        found.append(Contract(kind, name, float(rng.choice([1.0, 0.1, 50.0])), level, **terms))
    return found


def random_rows(rng: np.random.Generator, count: int, instruments: int) -> Rows:
    rows = []
    for row in range(count):
        codes = rng.permutation(instruments)[: rng.integers(0, instruments + 1)]
        sign = -1.0 if row % 6 == 0 else 1.0
        rows.append({int(c): sign * float(rng.choice([-3, -1, 1, 2, 0.5])) for c in codes})
    return rows_of(*rows)


def random_setting(rng: np.random.Generator, names: str, market: Market) -> Setting:
    shapes = {name: Shape() for name in names}
    if rng.random() < 0.5:
        shapes[names[0]] = Shape(
            moves=(-0.3, 0.1, 0.25), up=0.8, down=0.9, short=0.5, tails=((-0.66, 0.4), (2.0, 0.1))
        )
    return Setting(
        lookback=int(rng.integers(20, 60)),
        theta=float(rng.choice([0.0, 0.25, 0.6, 1.0])),
        c=float(rng.choice([0.0, 0.5, 0.8, 1.0])),
        confidence=float(rng.choice([0.9, 0.975, 0.99])),
        days=int(rng.choice([1, 2])),
        overlapping=bool(rng.random() < 0.5),
        decay=None if rng.random() < 0.5 else 0.94,
        two_sided=float(rng.choice([1.0, 0.7])),
        stress=stress_text(market, *rng.integers(3, DAYS, rng.integers(0, 4)).tolist()),
        shapes=shapes,
    )


def parameters_of(how: Setting) -> dict[str, Any]:
    return {
        "lookback": how.lookback,
        "theta": how.theta,
        "offset_cap": how.c,
        "confidence": how.confidence,
        "horizon_days": how.days,
        "horizon": "overlapping" if how.overlapping else "sqrt_time",
        "estimator": {"kind": "ewma", "decay": how.decay} if how.decay else {"kind": "sample"},
        "two_sided": how.two_sided,
        "stress_days": list(how.stress),
        "underlyings": {
            name: {
                "price_moves": list(shape.moves),
                "volatility_up": shape.up,
                "volatility_down": shape.down,
                "short_power": shape.short,
                "long_power": shape.long,
                "tails": [{"price_move": move, "share": share} for move, share in shape.tails],
            }
            for name, shape in how.shapes.items()
        },
    }
