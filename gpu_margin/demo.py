"""A demo exchange on real market history: tables as a clearing house would hand them in.

Prices are the daily closes that the package `arch` ships (S&P 500, NASDAQ, WTI crude); the
contracts, volatilities and accounts on top of them are made up, from one seed. Every random
column comes from a stream of its own and is drawn account after account, so that account i is
the same whether the exchange has a hundred accounts or a million.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import InputError
from gpu_margin.io.outputs import write_atomically
from gpu_margin.pricing import black76_delta

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Legs = tuple[Ints, Floats]  # instrument code and quantity, both [account, leg]; 0 is no position

VALUATION_DATE = date(2018, 12, 31)
RATE = 0.025
STRIKES = 21
AT_THE_MONEY = STRIKES // 2
OPTION_EXPIRIES = 5  # chains on the first expiries; the last future has none

CONFIG = """\
valuation_date = 2018-12-31
currency = "USD"
[inputs]
positions = "positions.parquet"
instruments = "instruments.parquet"
history = "history.parquet"
[models.covariance]
kind = "covariance"
confidence = 0.99
horizon_days = 2
estimator = { kind = "ewma", decay = 0.97 }      # or sample, ledoit_wolf
lookback = 1000
[models.historical]
kind = "simulation"
scenarios = { kind = "historical", lookback = 1000 }
horizon_days = 2
horizon = "overlapping"                           # h-day returns; "sqrt_time" multiplies 1-day ones by sqrt(h)
measure = { kind = "es", confidence = 0.975, tail = "discrete" }
"""  # noqa: E501


@dataclass(frozen=True)
class DemoTables:
    """The three input tables of one demo exchange."""

    positions: pl.DataFrame
    instruments: pl.DataFrame
    history: pl.DataFrame


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
    Underlying("SP500", "equity index", 50.0, 0.25, 50.0, 0.02, 0.10, ETFS[0], QUARTERS),
    Underlying("NASDAQ", "equity index", 20.0, 0.25, 100.0, 0.01, 0.10, ETFS[1], QUARTERS),
    Underlying("WTI", "energy", 1000.0, 0.01, 1.0, -0.01, 0.04, PERPETUAL, MONTHS),
)


@dataclass(frozen=True)
class Listing:
    """The instruments, and the codes (row numbers) under which recipes find them."""

    instruments: pl.DataFrame
    unit: Floats  # [instrument] dollar delta of one contract
    future: Ints  # [underlying, expiry]
    cash: Ints  # [underlying]
    option: Ints  # [underlying, expiry, strike, side]; side 0 is the call, 1 the put


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
        normal = self._rng.spawn(1)[0].standard_normal((self._accounts, width))
        return np.maximum(np.rint(median * np.exp(sigma * normal)), 1.0)

    def expiry(self, count: int, width: int = 1) -> Ints:
        """Places in the first `count` expiries, the near ones more often, [account, width]."""
        return np.floor(self.uniform(width) ** 2 * count).astype(np.int64)


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
    mine = (pl.col("factor") == terms.name) & (pl.col("date") <= VALUATION_DATE)
    closes = history.filter(mine)["price"].to_numpy()
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


def build(accounts: int = 10_000, seed: int = 7) -> DemoTables:
    """The demo exchange with `accounts` accounts; the same seed gives the same tables.

    Raises InputError if the package arch is missing or a number makes no sense.
    """
    if accounts < 1 or seed < 0:
        raise InputError(f"a demo needs accounts >= 1 and seed >= 0, not {accounts} and {seed}")
    history = load_history()
    listing = list_instruments(history)
    return DemoTables(draw_positions(listing, accounts, seed), listing.instruments, history)


def write(tables: DemoTables, folder: Path) -> Path:
    """Write the three tables and config.toml into `folder`; returns the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("positions", "instruments", "history"):
        write_atomically(folder / f"{name}.parquet", getattr(tables, name).write_parquet)
    config = folder / "config.toml"
    write_atomically(config, lambda path: path.write_text(CONFIG, encoding="utf-8"))
    return config
