"""The demo's market: real daily closes, and the contracts that are made up on top of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import InputError
from gpu_margin.pricing import black76_delta

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

VALUATION_DATE = date(2018, 12, 31)
RATE = 0.025
STRIKES = 21
AT_THE_MONEY = STRIKES // 2
OPTION_EXPIRIES = 5  # chains on the first expiries; the last future has none


@dataclass(frozen=True)
class Underlying:
    """Contract terms of everything listed on one factor."""

    name: str
    group: str
    multiplier: float
    tick: float
    strike_step: float
    income: float  # dividend or convenience yield a year; negative is contango
    skew: float  # relative fall of volatility per standard deviation of moneyness
    cash: tuple[str, str, float, float]  # kind, id, multiplier, price per unit of the factor
    expiries: tuple[date, ...]

    def years(self) -> Floats:
        """Years from the valuation date to each expiry."""
        return np.array([(expiry - VALUATION_DATE).days / 365 for expiry in self.expiries])


def _dates(text: str) -> tuple[date, ...]:
    return tuple(date.fromisoformat(word) for word in text.split())


QUARTERS = _dates("2019-03-15 2019-06-21 2019-09-20 2019-12-20 2020-03-20 2020-06-19")
MONTHS = _dates("2019-01-22 2019-02-20 2019-03-20 2019-04-22 2019-05-21 2019-06-20")
ETFS = (("spot", "SP500-ETF", 1.0, 0.1), ("spot", "NASDAQ-ETF", 1.0, 0.025))
PERPETUAL = ("perpetual", "WTI-PERP", 100.0, 1.0)
UNDERLYINGS = (
    Underlying("SP500", "S&P 500", 50.0, 0.25, 50.0, 0.02, 0.10, ETFS[0], QUARTERS),
    Underlying("NASDAQ", "NASDAQ", 20.0, 0.25, 100.0, 0.01, 0.10, ETFS[1], QUARTERS),
    Underlying("WTI", "crude oil", 1000.0, 0.01, 1.0, -0.01, 0.04, PERPETUAL, MONTHS),
)


@dataclass(frozen=True)
class Listing:
    """The instruments, and the codes (row numbers) under which recipes find them."""

    instruments: pl.DataFrame
    unit: Floats  # [instrument] dollar delta of one contract
    future: Ints  # [underlying, expiry]
    cash: Ints  # [underlying]
    option: Ints  # [underlying, expiry, strike, side]; side 0 is the call, 1 the put


def load_history() -> pl.DataFrame:
    """Daily closes as a long table date, factor, price; days without a price are left out."""
    try:
        from arch.data import nasdaq, sp500, wti
    except ImportError as error:
        raise InputError(
            "the demo's market history comes with the package arch, which cannot be imported "
            f'({error}): pip install "gpu-margin[demo]"'
        ) from error
    closes = (sp500.load()["Adj Close"], nasdaq.load()["Adj Close"], wti.load()["DCOILWTICO"])
    tables = []
    for terms, series in zip(UNDERLYINGS, closes, strict=True):
        days = series.index.to_numpy().astype("datetime64[D]")
        table = pl.DataFrame({"date": days, "price": series.to_numpy(dtype=np.float64)})
        tables.append(table.select("date", pl.lit(terms.name).alias("factor"), "price"))
    return pl.concat(tables).filter(pl.col("price").is_not_nan())


def known_closes(terms: Underlying, history: pl.DataFrame) -> Floats:
    """Daily closes of an underlying up to the valuation date, oldest first."""
    mine = (pl.col("factor") == terms.name) & (pl.col("date") <= VALUATION_DATE)
    return history.filter(mine)["price"].to_numpy()


def volatility_surface(terms: Underlying, closes: Floats, years: Floats, ratio: Floats) -> Floats:
    """Implied volatilities at strike / forward = `ratio`; the shape is that of the broadcast.

    At the money it goes from what the last quarter realised to what the last four years did.
    """
    changes = np.diff(np.log(closes))
    recent, usual = (float(changes[-days:].std()) * 252**0.5 for days in (63, 1000))
    atm = usual + (recent - usual) * np.exp(-2.0 * years)
    moneyness = np.log(ratio) / (atm * np.sqrt(years))
    surface = atm * (1.0 - terms.skew * moneyness + 0.02 * moneyness**2)
    return np.asarray(surface.round(4), dtype=np.float64)


def option_table(terms: Underlying, closes: Floats, future: Floats) -> pl.DataFrame:
    """Chains with a call and a put at every strike, in the order [expiry, strike, side]."""
    near = np.arange(OPTION_EXPIRIES)[:, None, None]
    years = terms.years()[near]
    # The nearest chain names no forward, so that the default, the last price, is exercised.
    forward = np.where(near == 0, closes[-1], future[near])
    steps = np.arange(STRIKES)[:, None] - AT_THE_MONEY
    strike = (np.rint(forward / terms.strike_step) + steps) * terms.strike_step
    volatility = volatility_surface(terms, closes, years, strike / forward)
    call = np.array([True, False])
    delta = black76_delta(forward, strike, volatility, years, RATE, call)
    grid = np.broadcast_arrays(near, call, strike, volatility, forward, delta * forward)
    place, is_call, strikes, volatilities, forwards, exposure = (a.ravel() for a in grid)
    days = [terms.expiries[i] for i in place]
    names = zip("CP" * (len(days) // 2), days, strikes, strict=True)
    return pl.DataFrame(
        {
            "instrument_id": [f"{terms.name}-{s}-{day:%Y-%m}-{k:g}" for s, day, k in names],
            "kind": np.where(is_call, "call", "put").tolist(),
            "multiplier": terms.multiplier,
            "strike": strikes,
            "expiry": days,
            "implied_vol": volatilities,
            "forward": np.where(place == 0, np.nan, forwards),
            "rate": RATE,
            "unit": exposure * terms.multiplier,
        }
    ).with_columns(pl.col("forward").fill_nan(None))


def instruments_on(terms: Underlying, history: pl.DataFrame) -> pl.DataFrame:
    """Futures, cash and options on one underlying, with `unit`: the dollar delta of one."""
    closes = known_closes(terms, history)
    kind, name, multiplier, scale = terms.cash
    fair = closes[-1] * np.exp((RATE - terms.income) * terms.years())
    marks = np.rint(fair / terms.tick) * terms.tick
    linear = pl.DataFrame(
        {
            "instrument_id": [*(f"{terms.name}-F-{day:%Y-%m}" for day in terms.expiries), name],
            "kind": ["future"] * len(marks) + [kind],
            "multiplier": [terms.multiplier] * len(marks) + [multiplier],
            "price": [*marks, closes[-1] * scale],
            "expiry": [*terms.expiries, None],
        }
    ).with_columns((pl.col("multiplier") * pl.col("price")).alias("unit"))
    table = pl.concat([linear, option_table(terms, closes, marks)], how="diagonal")
    return table.select(
        *("instrument_id", "kind", pl.lit(terms.name).alias("underlying")),
        *(pl.lit(terms.group).alias("product_group"), pl.lit("USD").alias("currency")),
        pl.exclude("instrument_id", "kind"),
    )


def list_instruments(history: pl.DataFrame) -> Listing:
    """The exchange's products at the valuation date."""
    table = pl.concat(instruments_on(terms, history) for terms in UNDERLYINGS)
    codes = np.arange(table.height).reshape(len(UNDERLYINGS), -1)
    futures = len(QUARTERS)
    return Listing(
        instruments=table.drop("unit"),
        unit=table["unit"].to_numpy(),
        future=codes[:, :futures],
        cash=codes[:, futures],
        option=codes[:, futures + 1 :].reshape(len(UNDERLYINGS), OPTION_EXPIRIES, STRIKES, 2),
    )
