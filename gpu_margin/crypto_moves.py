"""A crypto venue after the price of one underlying has moved, and the accounts on it.

Everything that has the underlying's price moves by the same factor: spot, perpetuals, dated
futures, forwards, coins of it. Implied volatilities, rates, other underlyings and the part of a
settlement average that is known stay.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpu_margin.crypto_book import (
    FUTURE,
    OPTION,
    PERPETUAL,
    Bools,
    CryptoBook,
    CryptoInstruments,
    CryptoMarket,
    Expiries,
    Floats,
    Ints,
)
from gpu_margin.portfolio import Portfolio, add_up, entry_rows, rows_at
from gpu_margin.pricing import black76

_YEAR = 365 * 86_400.0


def moved(market: CryptoMarket, underlying: int, factor: float) -> CryptoMarket:
    """The market with the prices of an underlying (a code) times `factor` > 0.

    An option's mark, where it has one, moves by what Black-76 says, and is never below 0.
    """
    spot = market.spot.copy()
    spot[underlying] *= factor
    own = market.expiries.underlying == underlying
    forward = np.where(own, market.expiries.forward * factor, market.expiries.forward)
    expiries = replace(market.expiries, forward=forward)
    instruments = market.instruments
    mine = instruments.underlying == underlying
    option = instruments.kind == OPTION
    price = np.where(mine & ~option, instruments.price * factor, instruments.price)
    after = replace(market, spot=spot, expiries=expiries)
    return _marked(market, replace(after, instruments=replace(instruments, price=price)), mine)


def shaken(market: CryptoMarket, factor: float) -> CryptoMarket:
    """The market with all implied volatilities times `factor`; marks follow as in `moved`."""
    instruments = market.instruments
    after = replace(instruments, volatility=instruments.volatility * factor)
    everything = np.ones(len(instruments), dtype=np.bool_)
    return _marked(market, replace(market, instruments=after), everything)


def _marked(before: CryptoMarket, after: CryptoMarket, chosen: Bools) -> CryptoMarket:
    """The market after a move, the marks of chosen options changed as their Black-76 values."""
    old, new = before.instruments, after.instruments
    marked = chosen & (old.kind == OPTION) & np.isfinite(old.price)
    change = _value(new, after.expiries, marked) - _value(old, before.expiries, marked)
    price = new.price.copy()
    price[marked] = np.maximum(old.price[marked] + change, 0.0)
    return replace(after, instruments=replace(new, price=price))


def _value(instruments: CryptoInstruments, expiries: Expiries, chosen: Bools) -> Floats:
    """[chosen] Black-76 values of options."""
    at = instruments.expiry[chosen]
    return black76(
        expiries.forward[at] + expiries.fixed[at],
        instruments.strike[chosen],
        instruments.volatility[chosen],
        expiries.seconds[at] / _YEAR,
        expiries.rate[at],
        instruments.call[chosen],
    )


def moved_book(
    book: CryptoBook, market: CryptoMarket, underlying: int, factor: float
) -> CryptoBook:
    """The accounts after the same move; `market` is the one before it.

    Perpetuals and dated futures gain quantity x change of the price, inverse ones too: seen in USD.
    An inverse contract is worth a fixed amount of USD, so that its quantity in coins falls as the
    price rises. Unrealised profit of sets that hold inverse contracts of the underlying and no
    other perpetuals or futures is in coins, and moves with them.
    """
    rows, kind = book.portfolio.rows, market.instruments.kind
    mine = market.instruments.underlying == underlying
    swings = (kind == PERPETUAL) | (kind == FUTURE)
    inverse = market.instruments.inverse & swings & mine
    column, owner, count = rows.column, entry_rows(rows), len(rows)
    change = np.where(swings & mine, market.instruments.price * (factor - 1.0), 0.0)
    gained = add_up(owner, rows.value * change[column], count)
    in_coins = _holders(owner, inverse[column], count) & ~_holders(
        owner, (swings & ~inverse)[column], count
    )
    unrealised = np.where(in_coins, book.unrealised * factor, book.unrealised)
    value = np.where(inverse[column], rows.value / factor, rows.value)
    portfolio = replace(book.portfolio, rows=replace(rows, value=value))
    return replace(book, portfolio=portfolio, unrealised=unrealised + gained)


def exposed(book: CryptoBook, market: CryptoMarket, underlying: int) -> Bools:
    """[set] whether it holds anything whose price is the underlying's."""
    rows = book.portfolio.rows
    mine = market.instruments.underlying == underlying
    return _holders(entry_rows(rows), mine[rows.column] & (rows.value != 0.0), len(rows))


def _holders(owner: Ints, chosen: Bools, count: int) -> Bools:
    return np.bincount(owner[chosen], minlength=count) > 0


def of_sets(book: CryptoBook, chosen: Ints) -> CryptoBook:
    """A book of some sets (codes, ascending) with their accounts."""
    portfolio = book.portfolio
    accounts, account = np.unique(portfolio.set_account[chosen], return_inverse=True)
    return CryptoBook(
        portfolio=Portfolio(
            accounts=portfolio.accounts.gather(accounts),
            sets=portfolio.sets.gather(chosen),
            set_account=account.astype(np.int64),
            rows=rows_at(portfolio.rows, chosen),
            good=portfolio.good[chosen],
            bad=portfolio.bad[chosen],
        ),
        cash=book.cash[chosen],
        unrealised=book.unrealised[chosen],
        market=book.market.gather(chosen),
        charges={name: amount[chosen] for name, amount in book.charges.items()},
    )
