"""Prices of coins, books of them, and what books lose: what `joint_study` margins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import pricing
from gpu_margin.market import History, Instruments, Market
from gpu_margin.portfolio import Rows

Floats = NDArray[np.float64]

COINS = ("BTC", "ETH", "SOL")
LOOKBACK, MILLION = 365, 1e6
_TENOR, _YEAR = 30, 365.0
_LEGS = ("PERP", "CALL", "PUT")


@dataclass(frozen=True)
class Prices:
    """Closes [day, coin] on the days that all `coins` have."""

    days: tuple[date, ...]
    coins: tuple[str, ...]
    close: Floats

    def place(self, day: date) -> int:
        return self.days.index(day)

    def volatility(self, place: int) -> Floats:
        """[coin] realised over the 30 days up to a day, per year; at least 40%."""
        move = np.diff(np.log(self.close[place - _TENOR : place + 1]), axis=0)
        realised: Floats = np.maximum(np.sqrt((move**2).mean(axis=0) * _YEAR), 0.4)
        return realised


def read_prices(folder: Path, coins: tuple[str, ...]) -> Prices:
    """The older file as far as it goes, then the newer one."""
    joined: pl.DataFrame | None = None
    for coin in coins:
        old = pl.read_csv(folder / f"{coin}-USD_1d_to_2023-07.csv", infer_schema=False)
        old = old.select(day="Date", close="Close")
        new = pl.read_csv(folder / f"{coin}-USD_1d_2020-2025.csv", infer_schema=False)
        new = new[2:].select(day="Price", close="Close")
        both = pl.concat([old, new.filter(pl.col("day") > old["day"].max())])
        both = both.select("day", pl.col("close").cast(pl.Float64).alias(coin)).drop_nulls()
        joined = both if joined is None else joined.join(both, on="day", how="inner")
    assert joined is not None
    days = tuple(joined.sort("day")["day"].str.to_date().to_list())
    return Prices(days, coins, joined.sort("day").select(coins).to_numpy())


@dataclass(frozen=True)
class Book:
    """USD of each coin's perpetual and straddle at the close that it is set up at.

    `beta` names the coin whose perpetual is scaled to hedge the others over the lookback.
    """

    name: str
    perpetual: Mapping[str, float]
    straddle: Mapping[str, float]
    beta: str | None = None

    @property
    def coins(self) -> tuple[str, ...]:
        return tuple(coin for coin in COINS if coin in {*self.perpetual, *self.straddle})


def _linear(name: str, beta: str | None = None, **dollars: float) -> Book:
    return Book(name, dollars, {}, beta)


BOOKS = (
    _linear("long BTC, short ETH", BTC=1.0, ETH=-1.0),
    _linear("short BTC, long ETH", BTC=-1.0, ETH=1.0),
    _linear("long ETH, short BTC by beta", beta="BTC", BTC=-1.0, ETH=1.0),
    _linear("long both", BTC=1.0, ETH=1.0),
    Book("long ETH straddle, short BTC straddle", {}, {"BTC": -1.0, "ETH": 1.0}),
    Book("short both straddles", {}, {"BTC": -1.0, "ETH": -1.0}),
    _linear("long SOL, short ETH", SOL=1.0, ETH=-1.0),
    _linear("long SOL, short half BTC and half ETH", SOL=1.0, BTC=-0.5, ETH=-0.5),
)


def market_at(prices: Prices, place: int) -> Market:
    """A perpetual, a call and a put of each coin at a close, and the history up to it."""
    close, volatility = prices.close[place], prices.volatility(place)
    count, legs = len(prices.coins), len(_LEGS)

    def each(values: Any) -> Floats:
        return np.repeat(np.asarray(values, dtype=np.float64), legs)

    option = np.tile([False, True, True], count)
    factor = np.repeat(np.arange(count), legs)
    instruments = Instruments(
        ids=pl.Series([f"{coin}-{leg}" for coin in prices.coins for leg in _LEGS]),
        option=option,
        call=np.tile([False, True, False], count),
        factor=factor,
        group=factor,
        scale=np.ones(count * legs),
        level=each(close),
        strike=np.where(option, each(close), 1.0),
        volatility=np.where(option, each(volatility), 0.0),
        time=np.where(option, _TENOR / _YEAR, 0.0),
        rate=np.zeros(count * legs),
    )
    history = History(prices.days[: place + 1], prices.coins, prices.close[: place + 1])
    return Market(prices.days[place], "USD", instruments, pl.Series(prices.coins), history)


def quantities(book: Book, prices: Prices, place: int) -> Floats:
    """[instrument] of the market at the close of a day."""
    dollars = np.zeros((len(prices.coins), len(_LEGS)))
    for coin, share in book.perpetual.items():
        dollars[prices.coins.index(coin), 0] = share * _beta(book, coin, prices, place)
    for coin, share in book.straddle.items():
        dollars[prices.coins.index(coin), 1:] = share
    quantity: Floats = (MILLION * dollars / prices.close[place][:, None]).ravel()
    return quantity


def _beta(book: Book, coin: str, prices: Prices, place: int) -> float:
    """What a dollar of the other coin moves for a dollar of this one, 1 where it is no hedge."""
    if coin != book.beta:
        return 1.0
    close = prices.close[place - LOOKBACK : place + 1]
    move = close[1:] / close[:-1] - 1.0
    other = move[:, 1 - prices.coins.index(coin)]
    own = move[:, prices.coins.index(coin)]
    return float(own @ other / (own @ own))


def loss(market: Market, quantity: Floats, after: Floats, days: int, shock: float = 1.0) -> float:
    """Of positions when the coins are at `after` [coin] `days` later, volatilities x `shock`."""
    i = market.instruments
    there = after[i.factor]
    now = pricing.black76(i.level, i.strike, i.volatility, i.time, i.rate, i.call)
    then = pricing.black76(
        there,
        i.strike,
        i.volatility * shock,
        np.maximum(i.time - days / _YEAR, 0.0),
        i.rate,
        i.call,
    )
    made = np.where(i.option, then - now, there - i.level)
    return -float(made @ quantity)


def rows_of(held: list[Floats]) -> Rows:
    """Rows of net positions from [instrument] quantities."""
    sizes = [np.flatnonzero(one) for one in held]
    return Rows(
        np.cumsum([0, *map(len, sizes)]).astype(np.int64),
        np.concatenate(sizes).astype(np.int64),
        np.concatenate([one[own] for one, own in zip(held, sizes, strict=True)]),
    )
