"""Deribit's recorded answers beside the checkout, and answers made up in its shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import vectors_case

from gpu_margin.crypto_book import (
    COIN,
    FUTURE,
    OPTION,
    PERPETUAL,
    CryptoBook,
    CryptoInstruments,
    CryptoMarket,
    Expiries,
)
from gpu_margin.portfolio import Portfolio, Rows

DAY = 86_400.0


def folder() -> Path:
    """The folder of the venue's vectors; absent as `vectors_case.folder` says."""
    return vectors_case.folder("deribit")


@cache
def recorded() -> dict[str, Mapping[str, Any]]:
    """Every recorded answer that lies in the folder, by its name."""
    cases = dict[str, Mapping[str, Any]]()
    for path in sorted(folder().glob("*.json")):
        listed = json.loads(path.read_text(encoding="utf-8"))
        for number, case in enumerate(listed if isinstance(listed, list) else [listed]):
            if "model_params" in case and "expected" in case:
                cases[case.get("name") or f"{path.stem}-{number}"] = case
    return cases


def answer(case: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded case as the answer of private/pme/simulate that it is from."""
    expected = case["expected"]
    currency = next(iter(case["index"])).partition("_")[0]
    longer = {"index": "index_price", "mark": "mark_price", "underlying": "underlying_price"}
    ticker = {
        name: {longer.get(key, key): value for key, value in one.items()}
        for name, one in case["ticker"].items()
    }
    charges = ("open_orders_margin", "mmp_margin", "spot_margin")
    details = {key: expected.get(key, 0) for key in charges}
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {
            "model_params": case["model_params"],
            "index_price": case["index"],
            "ticker": ticker,
            "portfolio": {"position": case["position_base"], "currency": {}},
            "margins": {currency: {"initial_margin_details": details}},
        },
    }


# ---------------------------------------------------------------- markets and books by hand


@dataclass(frozen=True)
class Thing:
    """An instrument: options have a strike and a volatility, dated ones days to expiry."""

    name: str
    kind: int
    underlying: str
    settlement: str
    days: float | None = None
    strike: float = 0.0
    call: bool = False
    volatility: float = 0.0
    price: float = np.nan


def perpetual(underlying: str, settlement: str | None = None) -> Thing:
    """An inverse perpetual, or a linear one that settles in another currency."""
    name = underlying if settlement is None else f"{underlying}_{settlement}"
    return Thing(f"{name}-PERPETUAL", PERPETUAL, underlying, settlement or underlying)


def future(underlying: str, days: float, settlement: str | None = None) -> Thing:
    name = underlying if settlement is None else f"{underlying}_{settlement}"
    return Thing(f"{name}-F{days:g}", FUTURE, underlying, settlement or underlying, days)


def option(
    underlying: str,
    days: float,
    strike: float,
    call: bool = True,
    volatility: float = 0.6,
    settlement: str | None = None,
) -> Thing:
    name = underlying if settlement is None else f"{underlying}_{settlement}"
    label = f"{name}-{days:g}-{strike:g}-{'C' if call else 'P'}"
    settled = settlement or underlying
    return Thing(label, OPTION, underlying, settled, days, strike, call, volatility)


def coin(name: str, price: float) -> Thing:
    return Thing(name, COIN, name, name, price=price)


def market(
    things: Sequence[Thing], spot: Mapping[str, float], basis: float = 0.0, fixed: float = 0.0
) -> CryptoMarket:
    """The things in a market; a forward is spot x (1 + `basis`), of which `fixed` is known."""
    things = sorted(things, key=lambda thing: thing.name)
    names = sorted(spot)
    dates = sorted(
        {(names.index(one.underlying), one.days) for one in things if one.days is not None}
    )
    spots = np.array([spot[name] for name in names])
    forward = np.array([spots[at] * (1.0 + basis) for at, _ in dates])
    ones = np.ones(len(dates))
    kind = np.array([one.kind for one in things], dtype=np.int64)

    def underlying(thing: Thing) -> int:
        return names.index(thing.underlying) if thing.underlying in names else -1

    return CryptoMarket(
        time=1.8e9,
        underlyings=pl.Series(names, dtype=pl.String),
        spot=spots,
        spot_confidence=np.ones(len(names)),
        expiries=Expiries(
            underlying=np.array([at for at, _ in dates], dtype=np.int64),
            seconds=np.array([days * DAY for _, days in dates]),
            forward=forward * (1.0 - fixed),
            fixed=forward * fixed,
            forward_confidence=ones,
            rate=0.0 * ones,
            rate_confidence=ones,
            volatility_confidence=ones,
        ),
        instruments=CryptoInstruments(
            ids=pl.Series([one.name for one in things], dtype=pl.String),
            kind=kind,
            underlying=np.array([underlying(one) for one in things], dtype=np.int64),
            expiry=np.array(
                [
                    -1 if one.days is None else dates.index((underlying(one), one.days))
                    for one in things
                ],
                dtype=np.int64,
            ),
            strike=np.array([one.strike for one in things]),
            call=np.array([one.call for one in things], dtype=np.bool_),
            volatility=np.array([one.volatility for one in things]),
            price=np.array([one.price for one in things]),
            confidence=np.ones(len(things)),
            inverse=np.array(
                [one.settlement == one.underlying and one.kind != COIN for one in things],
                dtype=np.bool_,
            ),
            settlement=pl.Series([one.settlement for one in things], dtype=pl.String),
        ),
    )


def book(
    quoted: CryptoMarket,
    sets: Sequence[Mapping[str, float]],
    markets: Sequence[str] | None = None,
    cash: Sequence[float] | None = None,
    unrealised: Sequence[float] | None = None,
    charges: Mapping[str, Sequence[float]] | None = None,
) -> CryptoBook:
    """Accounts a00000, a00001, ... of one set each, with quantities by instrument."""
    codes = {name: code for code, name in enumerate(quoted.instruments.ids)}
    rows = [sorted((codes[name], size) for name, size in held.items()) for held in sets]
    count = len(sets)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ids = pl.Series([f"a{number:05}" for number in range(count)], dtype=pl.String)
    return CryptoBook(
        portfolio=Portfolio(
            accounts=ids,
            sets=ids,
            set_account=np.arange(count, dtype=np.int64),
            rows=Rows(
                offsets,
                np.array([code for row in rows for code, _ in row], dtype=np.int64),
                np.array([size for row in rows for _, size in row], dtype=np.float64),
            ),
            good=np.array([len(row) for row in rows], dtype=np.int64),
            bad=np.zeros(count, dtype=np.int64),
        ),
        cash=np.zeros(count) if cash is None else np.array(cash, dtype=np.float64),
        unrealised=np.zeros(count) if unrealised is None else np.array(unrealised),
        market=pl.Series(markets or [""] * count, dtype=pl.String),
        charges={name: np.array(one) for name, one in (charges or {}).items()},
    )
