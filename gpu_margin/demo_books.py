"""The demo's accounts: books of recognisable kinds, drawn account after account.

Every random column comes from a stream of its own, so that account i is the same whether the
exchange has a hundred accounts or a million.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import polars as pl

from gpu_margin.demo_market import (
    AT_THE_MONEY,
    OPTION_EXPIRIES,
    STRIKES,
    UNDERLYINGS,
    Floats,
    Ints,
    Listing,
)

Legs = tuple[Ints, Floats]  # instrument code and quantity, both [account, leg]; 0 is no position


class Draws:
    """Random columns for a fixed number of accounts, each from a stream of its own."""

    def __init__(self, rng: np.random.Generator, accounts: int) -> None:
        self._rng = rng
        self._accounts = accounts

    def uniform(self, width: int = 1) -> Floats:
        """Uniform on [0, 1), [account, width]."""
        return self._rng.spawn(1)[0].random((self._accounts, width))

    def integers(self, low: int, high: int, width: int = 1) -> Ints:
        """Whole numbers from low up to but not including high, [account, width]."""
        return low + np.floor(self.uniform(width) * (high - low)).astype(np.int64)

    def sign(self, width: int = 1) -> Floats:
        """Long (1) or short (-1), [account, width]."""
        return np.where(self.uniform(width) < 0.5, -1.0, 1.0)

    def size(self, median: float, sigma: float = 1.0, width: int = 1) -> Floats:
        """Lognormal numbers of whole contracts, at least one, [account, width]."""
        return np.maximum(np.rint(self.lognormal(median, sigma, width)), 1.0)

    def lognormal(self, median: float, sigma: float, width: int = 1) -> Floats:
        """Numbers above zero whose logarithms have standard deviation sigma, [account, width]."""
        normal = self._rng.spawn(1)[0].standard_normal((self._accounts, width))
        return median * np.exp(sigma * normal)

    def expiry(self, count: int, width: int = 1) -> Ints:
        """Places in the first `count` expiries, the near ones more often, [account, width]."""
        return np.floor(self.uniform(width) ** 2 * count).astype(np.int64)


def legs(*pairs: tuple[Ints, Floats]) -> Legs:
    """Columns of codes and quantities side by side."""
    return np.hstack([code for code, _ in pairs]), np.hstack([size for _, size in pairs])


def hedged(listing: Listing, codes: Ints, sizes: Floats) -> Legs:
    """The book with front futures added that bring each underlying's delta near zero."""
    delta = sizes * listing.unit[codes]
    owner = codes * len(UNDERLYINGS) // len(listing.unit)
    columns = []
    for place, front in enumerate(listing.future[:, 0]):
        net = np.where(owner == place, delta, 0.0).sum(axis=1, keepdims=True)
        columns.append((np.full(net.shape, front), -np.rint(net / listing.unit[front])))
    return legs((codes, sizes), *columns)


def outright(listing: Listing, draws: Draws) -> Legs:
    """One to three naked positions on different underlyings, mostly near futures."""
    count = len(UNDERLYINGS)
    under = (draws.integers(0, count) + np.arange(count)) % count
    month = draws.expiry(OPTION_EXPIRIES, count)
    strike, side = draws.integers(5, 16, count), draws.integers(0, 2, count)
    what = draws.uniform(count)
    cash, option = listing.cash[under], listing.option[under, month, strike, side]
    codes = np.select([what < 0.65, what < 0.8], [listing.future[under, month], cash], option)
    held = draws.uniform(count) < np.array([1.0, 0.3, 0.1])
    lot = np.where(codes == cash, 10.0, 1.0)  # cash units are small
    return codes, held * lot * draws.sign(count) * draws.size(3, 1.2, count)


def index_spread(listing: Listing, draws: Draws) -> Legs:
    """SP500 future against the NASDAQ future of the same expiry, about dollar neutral."""
    month = draws.expiry(3)
    first, second = listing.future[0, month], listing.future[1, month]
    size = draws.sign() * draws.size(8)
    ratio = listing.unit[first] / listing.unit[second]
    return legs((first, size), (second, -np.rint(size * ratio)))


def calendar_spread(listing: Listing, draws: Draws) -> Legs:
    """One expiry of a future against a later one."""
    under, near, gap = draws.integers(0, 3), draws.expiry(4), draws.integers(1, 3)
    size = draws.sign() * draws.size(10)
    return legs((listing.future[under, near], size), (listing.future[under, near + gap], -size))


def option_book(listing: Listing, draws: Draws, cover: int, call: int, put: int) -> Legs:
    """A cover (future, or as much cash), a call above and a put below the money, so many each."""
    under, month = draws.integers(0, 3), draws.expiry(OPTION_EXPIRIES)
    future = listing.future[under, month]
    held = np.where(draws.uniform() < 0.3, listing.cash[under], future)
    above = listing.option[under, month, draws.integers(AT_THE_MONEY + 1, AT_THE_MONEY + 7), 0]
    below = listing.option[under, month, draws.integers(AT_THE_MONEY - 6, AT_THE_MONEY), 1]
    size = draws.size(6)
    covers = np.rint(size * listing.unit[future] / listing.unit[held])
    return legs((held, cover * covers), (above, call * size), (below, put * size))


def delta_neutral(listing: Listing, draws: Draws) -> Legs:
    """A volatility book of calls and puts of two expiries on one underlying, hedged."""
    under, month = draws.integers(0, 3), draws.expiry(OPTION_EXPIRIES - 1)
    strike = draws.integers(AT_THE_MONEY - 4, AT_THE_MONEY + 5, 4)
    codes = listing.option[under, month + np.array([0, 0, 1, 1]), strike, np.array([0, 1, 0, 1])]
    # Big enough that half a future, the most that rounding leaves open, is little against it.
    sizes = draws.sign(4) * np.maximum(draws.size(60, 0.8, 4), 25.0)
    return hedged(listing, codes, sizes)


def popularity(listing: Listing) -> Floats:
    """How readily market makers hold an instrument, [instrument]; near and at the money first."""
    weight = np.ones(len(listing.unit))
    month = np.arange(OPTION_EXPIRIES)[:, None, None]
    distance = np.abs(np.arange(STRIKES) - AT_THE_MONEY)[:, None]
    weight[listing.option] = np.exp(-month / 3 - distance / 6)
    weight[listing.future[:, 0]] = 0.0  # kept for the hedge
    return weight


def market_maker(listing: Listing, draws: Draws) -> Legs:
    """100 to 400 positions over all products, both ways, hedged with the front futures."""
    most = 400 - len(UNDERLYINGS)
    with np.errstate(divide="ignore"):  # weight 0: never before the others
        # Exponential clocks: the first to ring are a weighted sample without replacement.
        ring = -np.log1p(-draws.uniform(len(listing.unit))) / popularity(listing)
    codes = np.argsort(ring, axis=1, kind="stable")[:, :most]
    held = np.arange(most) < draws.integers(100, most + 1)
    return hedged(listing, codes, held * draws.sign(most) * draws.size(12, 1.0, most))


# Kind of account: its share of the accounts, and how its book is drawn.
RECIPES: dict[str, tuple[float, Callable[[Listing, Draws], Legs]]] = {
    "outright": (0.45, outright),
    "index-spread": (0.10, index_spread),
    "calendar-spread": (0.15, calendar_spread),
    "covered-call": (0.08, partial(option_book, cover=1, call=-1, put=0)),
    "strangle": (0.07, partial(option_book, cover=0, call=-1, put=-1)),
    "collar": (0.07, partial(option_book, cover=1, call=-1, put=1)),
    "delta-neutral": (0.06, delta_neutral),
    "market-maker": (0.02, market_maker),
}
KINDS: tuple[str, ...] = tuple(RECIPES)


def account_kinds(accounts: int, rng: np.random.Generator) -> Ints:
    """Place in KINDS of each account; the first accounts are one of each kind."""
    kinds = rng.choice(len(KINDS), size=accounts, p=[share for share, _ in RECIPES.values()])
    kinds[: len(KINDS)] = np.arange(len(KINDS))[:accounts]
    return kinds


def draw_positions(listing: Listing, accounts: int, seed: int) -> pl.DataFrame:
    """Positions of all accounts, in the order of accounts."""
    choice, *streams = np.random.default_rng(seed).spawn(1 + len(KINDS))
    kinds = account_kinds(accounts, choice)
    parts = []
    for place, (_, recipe) in enumerate(RECIPES.values()):
        members = np.flatnonzero(kinds == place)
        codes, sizes = recipe(listing, Draws(streams[place], len(members)))
        row, leg = np.nonzero(sizes)
        parts.append((members[row], codes[row, leg], sizes[row, leg]))
    member, code, size = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(member, kind="stable")
    names = pl.Series([f"{KINDS[kind]}-{i:06d}" for i, kind in enumerate(kinds.tolist())])
    return pl.DataFrame(
        {
            "account_id": names.gather(member[order]),
            "instrument_id": listing.instruments["instrument_id"].gather(code[order]),
            "quantity": size[order],
        }
    )
