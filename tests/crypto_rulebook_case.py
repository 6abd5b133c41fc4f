"""Random books under each crypto rulebook, as the properties want them: rulebooks by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import crypto_oracle_books as books
import crypto_oracle_coins as coins
import crypto_oracle_figures as named
import numpy as np
from crypto_figures_case import pm1_figures, standard_figures

from gpu_margin.backend import Backend
from gpu_margin.crypto_book import CryptoBook, CryptoMargin, CryptoMarket
from gpu_margin.models import deribit_pm, derive_pm1, derive_pm2, derive_standard
from gpu_margin.portfolio import Rows

Dict = dict[str, Any]
RULEBOOKS = ("derive_pm2", "derive_pm1", "derive_standard", "deribit_pm")
DERIVE = RULEBOOKS[:3]


@dataclass(frozen=True)
class Case:
    """A book in a market under figures, which `prepare(market, backend)` knows."""

    market: CryptoMarket
    book: CryptoBook
    prepare: Callable[[CryptoMarket, Backend], Any]

    def margin(self, backend: Backend, book: CryptoBook | None = None) -> CryptoMargin:
        """With the P&L of all scenarios; of another book in the same market if one is given."""
        prepared = self.prepare(self.market, backend)
        found: CryptoMargin = prepared.margin(self.book if book is None else book, pnl=True)
        return found


def case(rulebook: str, seed: int, accounts: int = 30, **replaced: Any) -> Case:
    """A random one; `replaced` are figures of Deribit's that are set."""
    random = Random(seed)
    if rulebook == "deribit_pm":
        return _deribit(random, accounts, replaced)
    venue = books.venue(random)
    market = books.engine_market(venue)
    if rulebook == "derive_standard":
        held = [books.many_markets(random, venue) for _ in range(accounts)]
        table = derive_standard.Figures(
            peg={"threshold": 0.98, "factor": 1.2},
            markets={name: named.standard(standard_figures(random)) for name in books.NAMES},
        )
        return _made(derive_standard, table, market, books.engine_book(market, held))
    if rulebook == "derive_pm1":
        held = [books.account(random, venue, ()) for _ in range(accounts)]
        figures = {
            name: derive_pm1.Figures(**named.pm1(pm1_figures(random))) for name in books.NAMES
        }
        return _made(derive_pm1, figures, market, books.engine_book(market, held))
    held = [books.account(random, venue, books.COINS) for _ in range(accounts)]
    both = {
        name: derive_pm2.Figures(**named.pm2(books.pm2_figures(random), venue["accepted"][name]))
        for name in books.NAMES
    }
    return _made(derive_pm2, both, market, books.engine_book(market, held))


def _deribit(random: Random, accounts: int, replaced: Dict) -> Case:
    plain, inverse = coins.market(random), random.random() < 0.5
    market = coins.engine_market(plain, inverse)
    figures = coins.engine_figures({**coins.figures(random), **replaced})
    held = [coins.account(random, plain, inverse) for _ in range(accounts)]
    table = deribit_pm.Figures.model_validate(figures)
    return _made(deribit_pm, table, market, coins.engine_book(market, held))


def _made(rulebook: Any, figures: Any, market: CryptoMarket, book: CryptoBook) -> Case:
    def prepare(other: CryptoMarket, backend: Backend) -> Any:
        return rulebook.prepare(figures, other, backend)

    return Case(market, book, prepare)


def chosen(book: CryptoBook, order: Sequence[int]) -> CryptoBook:
    """The same accounts in another order, or some of them."""
    rows, pick = book.portfolio.rows, np.array(order, dtype=np.int64)
    spans = [np.arange(rows.offsets[one], rows.offsets[one + 1]) for one in pick]
    entry = np.concatenate([np.zeros(0, dtype=np.int64), *spans]).astype(np.int64)
    sizes = np.array([len(span) for span in spans], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return with_rows(
        replace(
            book,
            cash=book.cash[pick],
            unrealised=book.unrealised[pick],
            market=book.market.gather(pick),
            charges={name: amount[pick] for name, amount in book.charges.items()},
        ),
        Rows(offsets, rows.column[entry], rows.value[entry]),
    )


def with_rows(book: CryptoBook, rows: Rows) -> CryptoBook:
    """The book with other positions, a row per set; ids are their numbers."""
    count = len(rows)
    ids = [f"{place:07d}" for place in range(count)]
    portfolio = book.portfolio
    sizes = np.diff(rows.offsets).astype(np.int64)
    return replace(
        book,
        portfolio=replace(
            portfolio,
            accounts=portfolio.accounts.clear().extend(type(portfolio.accounts)(ids)),
            sets=portfolio.sets.clear().extend(type(portfolio.sets)([""] * count)),
            set_account=np.arange(count, dtype=np.int64),
            rows=rows,
            good=sizes,
            bad=np.zeros(count, dtype=np.int64),
        ),
    )


def scaled(book: CryptoBook, factor: float) -> CryptoBook:
    """Everything in the book that is an amount, times a factor."""
    rows = book.portfolio.rows
    times = replace(
        book,
        cash=book.cash * factor,
        unrealised=book.unrealised * factor,
        charges={name: amount * factor for name, amount in book.charges.items()},
    )
    return with_rows(times, Rows(rows.offsets, rows.column, rows.value * factor))
