"""What Deribit's netting sets are margined in, and which of them its public rules cannot margin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crypto_book import COIN, CryptoMarket
from gpu_margin.crypto_sets import NONE, SEVERAL, Refusals, codes_of, only_key
from gpu_margin.deribit_vectors import DOLLARS, Figures, UnitVectors, of_currencies
from gpu_margin.portfolio import Rows, entry_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# What a cross-collateral set is margined in, by name; cash of a book is in the other.
CROSS, CASH = "CROSS", "USDC"
# Charges of a book that are the venue's own, in the order that they are added.
CHARGES = ("open_orders", "mmp", "spot")


@dataclass(frozen=True)
class Settlements:
    """Settlement currencies in byte order, and after them CROSS, whose currency is USD.

    [currency]: `price` in USD, NaN where none is known; `underlying` its code, or NONE. `ratio`
    [currency, underlying] is what a coin of the underlying is worth in it.
    """

    names: pl.Series
    price: Floats
    underlying: Ints
    ratio: Floats

    @property
    def cross(self) -> int:
        """The code of CROSS."""
        return len(self.names) - 1

    @property
    def by_name(self) -> dict[str, float]:
        """Price in USD by name."""
        return dict(zip(self.names, self.price.tolist(), strict=True))

    def worth(self, clamped: Floats) -> Floats:
        """[currency, scenario] its price in USD where profits are counted; 1 where none is known.

        A coin's price moves with the scenarios, by `clamped` [underlying, scenario].
        """
        # The last row is that of no underlying, which -1 takes.
        step = np.append(clamped, np.zeros((1, clamped.shape[1])), axis=0)[self.underlying]
        found = self.price[:, None] * (1.0 + step)
        return np.where(np.isfinite(found) & (found > 0.0), found, 1.0)


def settlements(market: CryptoMarket) -> Settlements:
    """Whatever the instruments of a market settle in; dollar coins without a price are at 1."""
    i = market.instruments
    named = {*i.settlement, CASH} - {CROSS}
    names = pl.Series("settlement", [*sorted(named), CROSS], dtype=pl.String)
    price = np.array([_price(market, name) for name in names], dtype=np.float64)
    ratio = market.spot[None, :] / np.where(price > 0.0, price, np.nan)[:, None]
    return Settlements(names, price, codes_of(names, market.underlyings), ratio)


def _price(market: CryptoMarket, name: str) -> float:
    if name == CROSS:
        return 1.0
    i = market.instruments
    underlying = int(codes_of(pl.Series([name]), market.underlyings)[0])
    if underlying >= 0:
        return float(market.spot[underlying])
    coin = np.flatnonzero((i.ids == name).to_numpy() & (i.kind == COIN))
    if len(coin):
        return float(i.price[coin[0]])
    if name == CASH:
        return market.stable
    return 1.0 if name.lower() in DOLLARS else np.nan


def haircuts(figures: Figures, market: CryptoMarket) -> Floats:
    """[instrument] USD that the initial margin takes off one unit of a coin; NaN if not known."""
    i = market.instruments
    found = np.zeros(len(i))
    for coin in np.flatnonzero(i.kind == COIN):
        found[coin] = i.price[coin] * figures.collateral_haircut(i.ids[int(coin)])
    return found


@dataclass(frozen=True)
class Held:
    """What can be held, and what is known of it."""

    figures: Figures
    market: CryptoMarket
    currencies: Settlements
    units: UnitVectors
    haircut: Floats


def settle(refusals: Refusals, rows: Rows, held: Held) -> Ints:
    """[set] code of its settlement currency; who has none, or no public rule, is refused.

    What the book says, else what its derivatives settle in, else its only coin, else cash.
    """
    book, i, currencies = refusals.book, held.market.instruments, held.currencies
    own = codes_of(i.settlement, currencies.names)
    named = codes_of(book.market, currencies.names)
    told, cross = (book.market != "").to_numpy(), named == currencies.cross
    derived = only_key(rows, np.where(i.kind == COIN, NONE, own))
    coins = only_key(rows, np.where(i.kind == COIN, own, NONE))
    markets = book.market.to_list()
    known = ", ".join(currencies.names)
    refusals.add(told & (named < 0), _UNKNOWN.format(known), "market", markets)
    refusals.add((derived == SEVERAL) & ~cross, _MIXED, "market", markets)
    other = told & ~cross & (derived >= 0) & (derived != named)
    refusals.add(other, _OTHER, "market", markets)
    refusals.add(~told & (derived == NONE) & (coins == SEVERAL), _UNNAMED, "market")
    cash = int(codes_of(pl.Series([CASH]), currencies.names)[0])
    found = np.where(derived >= 0, derived, np.where(coins >= 0, coins, cash))
    found = np.where(told, named, found)
    found = np.where(refusals.failed, cash, found).astype(np.int64)
    _check_collateral(refusals, rows, held, own, found)
    _check_values(refusals, rows, held, found)
    _check_joined(refusals, rows, held, found)
    return np.where(refusals.failed, cash, found).astype(np.int64)


def _check_collateral(refusals: Refusals, rows: Rows, held: Held, own: Ints, found: Ints) -> None:
    """Segregated sets hold coins of their settlement currency only; charges are the venue's."""
    book, owner, currencies = refusals.book, entry_rows(rows), held.currencies
    alone = found != currencies.cross
    coin = held.market.instruments.kind[rows.column] == COIN
    strange = coin & (own[rows.column] != found[owner]) & alone[owner]
    names = currencies.names.gather(found).to_list()
    refusals.add(_entries(rows, strange), _STRANGE, "market", names)
    elsewhere = alone & (currencies.names.gather(found) != CASH).to_numpy()
    refusals.add(elsewhere & (book.cash != 0.0), _CASH, "market", names)
    for name, amount in book.charges.items():
        if name not in CHARGES:
            refusals.add(np.asarray(amount) != 0.0, _CHARGE.format(", ".join(CHARGES)), name)


def _check_values(refusals: Refusals, rows: Rows, held: Held, found: Ints) -> None:
    """What sets hold must have figures and prices."""
    i, units, market = held.market.instruments, held.units, held.market
    currency = of_currencies(held.figures, market, "pnl_offset")
    listed = np.isfinite(units.moves).all(axis=1) & np.isfinite(currency)
    listed = np.append(listed, False)[i.underlying]
    refusals.entries(rows, (i.kind != COIN) & ~listed, _NO_FIGURES, i.ids)
    lost = ~np.isfinite(units.value) | ~np.isfinite(units.delta)
    refusals.entries(rows, lost | ~np.isfinite(units.amounts).all(axis=1), _NO_VALUE, i.ids)
    refusals.entries(rows, np.isnan(held.haircut), _NO_HAIRCUT, i.ids)
    known: Bools = np.asarray(np.isfinite(units.dollars).all(axis=1))
    cross = found == held.currencies.cross
    lost = ~known[rows.column] & cross[entry_rows(rows)]
    refusals.add(_entries(rows, lost), _NO_IMPACT, "equity_side_impact")
    names = held.currencies.names.gather(found).to_list()
    refusals.add(~(held.currencies.price[found] > 0.0), _NO_INDEX, "market", names)


def _check_joined(refusals: Refusals, rows: Rows, held: Held, found: Ints) -> None:
    """Sets in which underlyings offset each other need a figure that is not public."""
    if held.figures.correlation_contingency is not None:
        return
    i = held.market.instruments
    underlying = np.where(i.kind == COIN, NONE, i.underlying)
    joined = (found == held.currencies.cross) | (only_key(rows, underlying) == SEVERAL)
    names = held.currencies.names.gather(found).to_list()
    refusals.add(joined, _NO_CONTINGENCY, "correlation_contingency", names)


def _entries(rows: Rows, bad: Bools) -> Bools:
    """[row] whether any of its entries is bad."""
    found: Bools = np.bincount(entry_rows(rows)[bad], minlength=len(rows)) > 0
    return found


_UNKNOWN = "the market of a set is no settlement currency; known: {}"
_MIXED = "positions settle in several currencies: give each a set of its own, or name CROSS"
_OTHER = "positions settle in another currency than the set's market: put them into its set"
_UNNAMED = "nothing says what the set is margined in: name a settlement currency or CROSS"
_STRANGE = "a segregated set holds a coin that is not its settlement currency"
_CASH = "a set that settles in a coin has cash in USD: give its balance as that coin"
_CHARGE = "unknown charge; known: {}"
_NO_FIGURES = "no figures of its underlying: give figures.currency and figures.currency_pair"
_NO_VALUE = "the instrument cannot be valued: a price, forward or volatility is missing"
_NO_HAIRCUT = "no haircut of the coin is known: give figures.haircut"
_NO_IMPACT = "a coin's equity_side_impact is neither both nor none: give figures.currency"
_NO_INDEX = "the settlement currency has no price"
_NO_CONTINGENCY = (
    "several underlyings offset each other, and the formula of the venue's correlation contingency "
    "is not public: set figures.correlation_contingency, or give each underlying a set of its own"
)
