"""Random accounts on a crypto venue with one underlying: options, a perpetual and coins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

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

Ints = NDArray[np.int64]

DAY = 86_400.0
SPOT = 90_000.0
UNDERLYING, PERPETUAL_ID = "BTC", "BTC-PERP"
DAYS = (1, 2, 3, 9, 16, 30, 65, 128, 219, 310)
STRIKES = 40
# Of the legs of an account, coins (none of a perpetual or options alone).
COINS = ("BTC", "USDT")


def market(*, inverse: bool = False) -> CryptoMarket:
    """A market of 800 options, a perpetual and two coins; of Deribit's kind if `inverse`."""
    seconds = np.array(DAYS, dtype=np.float64) * DAY
    count = len(DAYS)
    sure = np.ones(count)
    expiries = Expiries(
        underlying=np.zeros(count, dtype=np.int64),
        seconds=seconds,
        forward=SPOT * np.exp(0.05 * seconds / (365 * DAY)),
        fixed=np.zeros(count),
        forward_confidence=sure,
        rate=0.05 * sure,
        rate_confidence=sure,
        volatility_confidence=sure,
    )
    settlement = UNDERLYING if inverse else "USDC"
    return CryptoMarket(
        time=1_769_000_000.0,
        underlyings=pl.Series("underlying", [UNDERLYING], pl.String),
        spot=np.array([SPOT]),
        spot_confidence=np.ones(1),
        expiries=expiries,
        instruments=_instruments(expiries, settlement, inverse),
        stable=1.0,
    )


def _instruments(expiries: Expiries, settlement: str, inverse: bool) -> CryptoInstruments:
    """In byte order of ids: coins and the perpetual, then options by expiry, strike and right."""
    count = len(expiries) * STRIKES * 2
    expiry = np.repeat(np.arange(len(expiries)), STRIKES * 2)
    rung = np.tile(np.repeat(np.arange(STRIKES), 2), len(expiries))
    strike = np.round(SPOT * (0.4 + 0.04 * rung), -2)
    call = np.tile([True, False], count // 2)
    smile = np.abs(np.log(strike / expiries.forward[expiry]))
    options = [
        f"O{one:02d}-{int(price):07d}-{'C' if right else 'P'}"
        for one, price, right in zip(expiry, strike, call, strict=True)
    ]
    first = len(COINS) + 1
    kind = np.full(first + count, OPTION, dtype=np.int64)
    kind[: len(COINS)], kind[len(COINS)] = COIN, PERPETUAL
    price = np.full(len(kind), np.nan)
    price[:first] = (SPOT, 1.0, SPOT * 1.001)
    ids = ["BTC", "BTC-PERP", *options, "USDT"]
    order = np.array([0, len(COINS), *range(first, len(kind)), 1])

    def column(head: Sequence[float], rest: NDArray[np.float64]) -> NDArray[np.float64]:
        joined = np.concatenate([np.array(head, dtype=np.float64), rest])
        return np.asarray(joined[order])

    none = [0.0] * first
    return CryptoInstruments(
        ids=pl.Series("instrument_id", ids, pl.String),
        kind=kind[order],
        underlying=np.where(np.arange(len(kind)) == 1, -1, 0)[order],
        expiry=column([-1.0] * first, expiry.astype(np.float64)).astype(np.int64),
        strike=column(none, strike),
        call=column(none, call.astype(np.float64)) > 0,
        volatility=column(none, 0.45 + 0.2 * smile),
        price=price[order],
        confidence=np.ones(len(kind)),
        inverse=np.where(kind == COIN, False, inverse)[order],
        settlement=pl.Series(
            "settlement", ["BTC", *[settlement] * (1 + count), "USDT"], dtype=pl.String
        ),
    )


def unnetted(book: CryptoBook) -> CryptoBook:
    """The same accounts, of which nothing has been computed yet: net positions are kept."""
    return replace(book, portfolio=replace(book.portfolio))


def book(
    market: CryptoMarket, accounts: int, legs: int, *, coins: bool = True, seed: int = 7
) -> CryptoBook:
    """Accounts of so many legs each: a perpetual, the coins where asked for, options."""
    random = np.random.default_rng(seed)
    i = market.instruments
    options = np.flatnonzero(i.kind == OPTION)
    fixed = np.flatnonzero((i.kind == PERPETUAL) | ((i.kind == COIN) & coins))[:legs]
    own = legs - len(fixed)
    # Options of an account are all different: a random start and a random stride that is coprime.
    stride = random.choice([3, 7, 11, 13, 17, 19, 23, 29], (accounts, 1))
    start = random.integers(len(options), size=(accounts, 1))
    chosen = options[(start + stride * np.arange(own)) % len(options)]
    column = np.concatenate([np.tile(fixed, (accounts, 1)), chosen], axis=1).astype(np.int64)
    quantity = np.round(random.normal(0.0, 5.0, column.shape), 2) + 0.005
    held = i.kind[column] == COIN
    quantity[held] = np.abs(quantity[held])
    order = np.argsort(column, axis=1, kind="stable")
    column = np.take_along_axis(column, order, axis=1)
    quantity = np.take_along_axis(quantity, order, axis=1)
    ids = pl.Series("account_id", [f"{place:07d}" for place in range(accounts)], pl.String)
    portfolio = Portfolio(
        accounts=ids,
        sets=pl.Series("netting_set", [""] * accounts, pl.String),
        set_account=np.arange(accounts, dtype=np.int64),
        rows=Rows(np.arange(accounts + 1, dtype=np.int64) * legs, column.ravel(), quantity.ravel()),
        good=np.full(accounts, legs, dtype=np.int64),
        bad=np.zeros(accounts, dtype=np.int64),
    )
    return CryptoBook(
        portfolio=portfolio,
        cash=np.zeros(accounts) if not coins else random.normal(0.0, 1e5, accounts),
        unrealised=np.zeros(accounts),
        market=pl.Series("market", [""] * accounts, pl.String),
        charges={},
    )
