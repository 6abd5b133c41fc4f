"""A small crypto venue, and a toy rulebook whose margins and liquidation prices are algebra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import crypto_files
from gpu_margin.crypto_book import (
    INITIAL,
    MAINTENANCE,
    OPTION,
    CryptoBook,
    CryptoInstruments,
    CryptoMargin,
    CryptoMarket,
    Expiries,
    Level,
)
from gpu_margin.crypto_files import Inputs
from gpu_margin.failures import Failure, failure_table
from gpu_margin.portfolio import Portfolio, Rows, add_up, entry_rows
from gpu_margin.pricing import black76

YEAR = 365 * 86_400.0
COIN_K, PERP_K, FUTURE_K, OPTION_K = range(4)
# id -> kind, underlying, strike, call, price, inverse
_LISTED: dict[str, tuple[int, int, float, bool, float, bool]] = {
    "BTC": (COIN_K, 0, 0.0, False, 100.0, False),
    "BTC-C-100": (OPTION_K, 0, 100.0, True, np.nan, False),
    "BTC-FUT": (FUTURE_K, 0, 0.0, False, 102.0, False),
    "BTC-INV": (PERP_K, 0, 0.0, False, 100.0, True),
    "BTC-P-100": (OPTION_K, 0, 100.0, False, np.nan, False),
    "BTC-PERP": (PERP_K, 0, 0.0, False, 100.0, False),
    "ETH": (COIN_K, 1, 0.0, False, 10.0, False),
    "ETH-PERP": (PERP_K, 1, 0.0, False, 10.0, False),
    "USDT": (COIN_K, -1, 0.0, False, 1.0, False),
}


def toy_market() -> CryptoMarket:
    """BTC at 100 with an expiry in 73 days, ETH at 10."""
    kind, underlying, strike, call, price, inverse = (
        np.array(column) for column in zip(*_LISTED.values(), strict=True)
    )
    count = len(_LISTED)
    option = kind == OPTION
    return CryptoMarket(
        time=1_769_000_000.0,
        underlyings=pl.Series(["BTC", "ETH"]),
        spot=np.array([100.0, 10.0]),
        spot_confidence=np.ones(2),
        expiries=Expiries(
            underlying=np.array([0, 1]),
            seconds=np.array([0.2, 0.2]) * YEAR,
            forward=np.array([90.0, 10.0]),
            fixed=np.array([11.0, 0.0]),
            forward_confidence=np.ones(2),
            rate=np.zeros(2),
            rate_confidence=np.ones(2),
            volatility_confidence=np.ones(2),
        ),
        instruments=CryptoInstruments(
            ids=pl.Series(list(_LISTED)),
            kind=kind.astype(np.int64),
            underlying=underlying.astype(np.int64),
            expiry=np.where(option, 0, -1).astype(np.int64),
            strike=strike.astype(np.float64),
            call=call.astype(np.bool_),
            volatility=np.where(option, 0.5, 0.0),
            price=price.astype(np.float64),
            confidence=np.ones(count),
            inverse=inverse.astype(np.bool_),
            settlement=pl.Series(["USDC"] * count),
        ),
    )


def toy_book(
    sets: Sequence[tuple[str, str, Mapping[str, float], float]],
    market: CryptoMarket | None = None,
    unrealised: Sequence[float] | None = None,
) -> CryptoBook:
    """Sets of (account, set, quantities, cash), ordered by account and set."""
    ids = list((market or toy_market()).instruments.ids)
    accounts = sorted({account for account, *_ in sets})
    entries = [
        (row, ids.index(name), quantity)
        for row, (_, _, held, _) in enumerate(sets)
        for name, quantity in sorted(held.items())
    ]
    owner, column, value = np.array(entries, dtype=np.float64).reshape(-1, 3).T
    rows = np.searchsorted(owner, np.arange(len(sets) + 1)).astype(np.int64)
    count = len(sets)
    return CryptoBook(
        portfolio=Portfolio(
            accounts=pl.Series(accounts, dtype=pl.String),
            sets=pl.Series([name for _, name, *_ in sets], dtype=pl.String),
            set_account=np.array([accounts.index(name) for name, *_ in sets], dtype=np.int64),
            rows=Rows(rows, column.astype(np.int64), value),
            good=np.ones(count, dtype=np.int64),
            bad=np.zeros(count, dtype=np.int64),
        ),
        cash=np.array([cash for *_, cash in sets]),
        unrealised=np.zeros(count) if unrealised is None else np.array(unrealised, dtype=float),
        market=pl.Series([""] * count, dtype=pl.String),
        charges={"open_orders": np.zeros(count)},
    )


def toy_inputs(
    sets: Sequence[tuple[str, str, Mapping[str, float], float]],
    unrealised: Sequence[float] | None = None,
) -> Inputs:
    return Inputs(toy_market(), toy_book(sets, unrealised=unrealised), [], failure_table())


class ToyParameters(crypto_files.CryptoFiles):
    table: str = "mainnet"
    figures: dict[str, float] = {}  # noqa: RUF012


@dataclass
class Toy:
    """Requires a share of gross value: `initial` and `maintenance` of it; refuses set "refused".

    Options are marked by Black-76 at the moved market, perpetuals and futures are worth what is
    unrealised. The last component is a constant, so that components are more than one.
    """

    Parameters = ToyParameters
    calls: int = 0
    sets: int = 0
    faults: int = 0

    def figures(self, parameters: Any) -> Mapping[str, float]:
        return {"initial": 0.2, "maintenance": 0.1, "fixed": 0.0, **parameters.figures}

    def prepare(self, figures: Any, market: CryptoMarket, backend: Any) -> ToyPrepared:
        if self.faults:
            self.faults -= 1
            raise RuntimeError("the device is on fire")
        return ToyPrepared(self, figures, market)


@dataclass
class ToyPrepared:
    toy: Toy
    figures: Mapping[str, float]
    market: CryptoMarket

    @property
    def unit(self) -> np.ndarray[Any, Any]:
        """[instrument] price of one unit."""
        i, e = self.market.instruments, self.market.expiries
        price, option = i.price.copy(), i.kind == OPTION
        at = i.expiry[option]
        forward, years = e.forward[at] + e.fixed[at], e.seconds[at] / YEAR
        value = black76(forward, i.strike[option], i.volatility[option], years, 0.0, i.call[option])
        price[option] = value
        return price

    def margin(self, book: CryptoBook, *, pnl: bool = False) -> CryptoMargin:
        self.toy.calls += 1
        rows, unit, kind = book.portfolio.netted, self.unit, self.market.instruments.kind
        self.toy.sets += len(rows)
        owner, count = entry_rows(rows), len(rows)
        value = rows.value * unit[rows.column]
        gross = add_up(owner, np.abs(value), count)
        owned = np.where((kind == OPTION_K) | (kind == COIN_K), 1.0, 0.0)[rows.column]
        mtm = add_up(owner, value * owned, count) + book.unrealised
        refused = (book.portfolio.sets == "refused").to_numpy()
        move = np.stack([-0.1 * gross, 0.1 * gross], axis=1)

        def known(amount: Any) -> Any:
            return np.where(refused, np.nan, amount)

        def level(name: str) -> Level:
            share, fixed = self.figures[name] * gross, np.full(count, self.figures["fixed"])
            parts = {"share": known(share), "fixed": known(fixed)}
            return Level(known(share + fixed), parts)

        names = book.portfolio.sets.filter(pl.Series(refused, dtype=pl.Boolean))
        return CryptoMargin(
            levels={INITIAL: level("initial"), MAINTENANCE: level("maintenance")},
            mark_to_market=known(mtm),
            cash=book.cash,
            worst=np.where(refused | (gross == 0.0), -1, 0),
            scenarios=("down", "up"),
            figures={"gross": known(gross)},
            failures=failure_table(
                Failure("the toy does not like it", str(name), None, "netting_set", str(name))
                for name in names
            ),
            pnl=np.where(refused[:, None], np.nan, move) if pnl else None,
        )
