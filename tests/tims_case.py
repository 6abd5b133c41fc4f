"""Markets of a few contracts, TIMS models in them, and random ones of both."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
from hand_market import rows_of
from tims_oracle import BETWEEN, EQUITY, RANGES, SHARES, Contract, Setting

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.market import History, Instruments, Market
from gpu_margin.models import tims
from gpu_margin.models.tims import Parameters, Prepared
from gpu_margin.portfolio import Rows

NUMPY = backends.load("numpy")
LAST = date(2024, 3, 1)
SPX, RUT = "high_cap_broad_index", "non_high_cap_broad_index"


def market_of(contracts: list[Contract], names: str) -> Market:
    """The contracts in this order on underlyings that never moved: TIMS asks for no history."""

    def column(name: str) -> np.ndarray[Any, Any]:
        return np.array([float(getattr(c, name)) for c in contracts])

    factor = np.array([sorted(names).index(c.underlying) for c in contracts], dtype=np.int64)
    instruments = Instruments(
        ids=pl.Series([f"I{number:03d}" for number in range(len(contracts))], dtype=pl.String),
        option=np.array([c.option for c in contracts], dtype=np.bool_),
        call=np.array([c.kind == "call" for c in contracts], dtype=np.bool_),
        factor=factor,
        group=factor,
        scale=column("scale"),
        level=column("level"),
        strike=column("strike"),
        volatility=column("vol"),
        time=column("years"),
        rate=column("rate"),
    )
    dates = tuple(LAST - timedelta(days=1 - day) for day in range(2))
    history = History(dates, tuple(sorted(names)), np.full((2, len(names)), 100.0))
    kinds = {"kind": pl.Series([c.kind for c in contracts], dtype=pl.String)}
    return Market(LAST, "USD", instruments, pl.Series(sorted(names)), history, kinds)


def model(market: Market, backend: Backend = NUMPY, **more: Any) -> Prepared:
    parameters = Parameters.model_validate(more)
    tims.check(parameters, market)
    return tims.prepare(parameters, market, backend)


def spots(names: str, level: float = 100.0) -> list[Contract]:
    return [Contract("spot", name, 1.0, level) for name in names]


def option(kind: str, name: str, strike: float = 100.0, **more: Any) -> Contract:
    terms = {"vol": 0.3, "years": 30 / 365, **more}
    return Contract(kind, name, 100.0, 100.0, strike, **terms)


def amounts(prepared: Prepared, *held: dict[int, float]) -> list[float]:
    found: list[float] = prepared.require(rows_of(*held)).amount.tolist()
    return found


def random_contracts(rng: np.random.Generator, names: str) -> list[Contract]:
    found = []
    for number in range(int(rng.integers(2, 20))):
        name = names[number % len(names)]
        kind = str(rng.choice(["spot", "future", "call", "put"]))
        level = 100.0 * math.exp(0.1 * rng.normal())
        terms = {
            "strike": level * math.exp(0.2 * rng.normal()),
            "vol": float(rng.choice([0.0, 0.3, 0.8, 2.0])),
            "years": float(rng.choice([0, 1, 7, 30, 90, 400])) / 365,
            "rate": float(rng.choice([0.0, 0.03])),
        }
        terms = terms if kind in ("call", "put") else {}
        found.append(Contract(kind, name, float(rng.choice([1.0, 0.1, 50.0])), level, **terms))
    return found


def random_rows(rng: np.random.Generator, count: int, instruments: int) -> Rows:
    rows = []
    for _ in range(count):
        codes = rng.permutation(instruments)[: rng.integers(0, instruments + 1)]
        rows.append({int(c): float(rng.choice([-3, -1, 1, 2, 0.5])) for c in codes})
    return rows_of(*rows)


def random_setting(rng: np.random.Generator, names: str) -> Setting:
    """Underlyings in fewer classes, those in up to three product groups, those in up to two."""
    class_of = {name: str(rng.choice(list(names))) for name in names if rng.random() < 0.3}
    classes = sorted({class_of.get(name, name) for name in names})
    type_of = {name: str(rng.choice(sorted(RANGES))) for name in classes if rng.random() < 0.8}
    product_of = {name: f"g{rng.integers(0, 3)}" for name in classes if rng.random() < 0.8}
    products = sorted(set(product_of.values()))
    portfolio_of = {name: f"f{rng.integers(0, 2)}" for name in products if rng.random() < 0.7}
    share = {name: _default(name, product_of, type_of) for name in products}
    for name, known in share.items():
        if known is None or rng.random() < 0.4:
            share[name] = float(rng.choice([0.0, 0.3, 0.9, 1.0]))
    between = {
        name: BETWEEN if rng.random() < 0.5 else float(rng.choice([0.0, 0.25, 1.0]))
        for name in sorted(set(portfolio_of.values()))
    }
    return Setting(
        class_of=class_of,
        type_of=type_of,
        product_of=product_of,
        portfolio_of=portfolio_of,
        product_share={name: one for name, one in share.items() if one is not None},
        portfolio_share=between,
        minimum=float(rng.choice([0.375, 0.25, 0.0, 20.0])),
    )


def _default(name: str, product_of: dict[str, str], type_of: dict[str, str]) -> float | None:
    """The share of a product group by its classes' one type."""
    types = {type_of.get(one, EQUITY) for one, group in product_of.items() if group == name}
    return SHARES.get(types.pop()) if len(types) == 1 else None


def parameters_of(how: Setting) -> dict[str, Any]:
    """The same as a model's settings: what is the table's is left to it."""
    classes: dict[str, dict[str, Any]] = {}
    for name, type_ in how.type_of.items():
        classes.setdefault(name, {})["type"] = type_
    for name, group in how.product_of.items():
        classes.setdefault(name, {})["product_group"] = group
    products: dict[str, dict[str, Any]] = {}
    for name, share in how.product_share.items():
        if share != _default(name, dict(how.product_of), dict(how.type_of)):
            products.setdefault(name, {})["share"] = share
    for name, group in how.portfolio_of.items():
        products.setdefault(name, {})["portfolio_group"] = group
    portfolios = {
        name: {"share": share} for name, share in how.portfolio_share.items() if share != BETWEEN
    }
    return {
        "class_of": dict(how.class_of),
        "classes": classes,
        "product_groups": products,
        "portfolio_groups": portfolios,
        "minimum_per_contract": how.minimum,
    }
