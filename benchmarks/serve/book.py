"""A random exchange as files, made within seconds: what a server of a given size is started on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.server.keys import new_key

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INSTRUMENTS, FACTORS, CLIENTS = 20_000, 100, 64
LAST = date(2024, 3, 1)
KINDS = ("future", "call", "spot", "put", "perpetual")
MULTIPLIER = 10.0
# Accounts are drawn so many at a time, which bounds the memory.
_CHUNK = 10_000

_CONFIG = """\
valuation_date = {last}
currency = "USD"

[inputs]
positions = "positions.parquet"
instruments = "instruments.parquet"
history = "history.parquet"
collateral = "collateral.parquet"
assets = "assets.parquet"

[models.es]
kind = "simulation"
scenarios = {{ kind = "historical", lookback = {scenarios} }}
measure = {{ kind = "es", confidence = 0.99 }}

[gate]
model = "es"
stale_seconds = 86400.0

[server]
state = "state"
snapshot_rows = {snapshot_rows}

[server.limits]
queue_depth = 96

[server.access]
keys = "keys.toml"
"""


@dataclass(frozen=True)
class Size:
    """Accounts, positions of each, scenarios."""

    accounts: int
    positions: int
    scenarios: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """ACCOUNTSxPOSITIONSxSCENARIOS; `ValueError` for anything else."""
        return cls(*(int(part) for part in text.split("x")))

    def __str__(self) -> str:
        return f"{self.accounts}x{self.positions}x{self.scenarios}"


@dataclass(frozen=True)
class Book:
    """A book in a folder; `held` [account, place] are instruments, `price` [instrument] theirs.

    `keys` are API keys by client: "reader" asks, "marker" marks, "admin" may do all, and
    "client-00" and so on trade. `restart_config` never snapshots by itself.
    """

    size: Size
    folder: Path
    held: NDArray[np.int32]
    price: Floats
    keys: dict[str, str]

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def restart_config(self) -> Path:
        return self.folder / "restart.toml"

    def trader(self, number: int) -> str:
        """The key of a client that trades."""
        return self.keys[f"client-{number:02d}"]

    def marks(self, seed: int) -> pl.DataFrame:
        """A mark of everything, as of now: a price of all that is no option, and every factor's.

        Options have their forwards from the factors, so that every position is worth another.
        """
        rng = np.random.default_rng(seed)
        plain = np.flatnonzero(~is_option())
        prices = self.price[plain] * rng.uniform(0.999, 1.001, len(plain))
        return pl.DataFrame(
            {
                "instrument_id": [*instrument_ids()[plain], *[None] * FACTORS],
                "factor": [*[None] * len(plain), *factor_ids()],
                "field": ["price"] * len(plain) + ["last"] * FACTORS,
                "value": [*prices, *rng.uniform(99.0, 101.0, FACTORS)],
                "time": [time.time()] * (len(plain) + FACTORS),
            }
        )


def make(size: Size, folder: Path, seed: int = 1) -> Book:
    """Write the tables, the keys and the configurations; INSTRUMENTS by Zipf's law."""
    rng = np.random.default_rng(seed)
    price = rng.uniform(50.0, 150.0, INSTRUMENTS)
    held = draw_held(size, rng)
    quantity = rng.integers(1, 50, held.shape) * rng.choice([-1.0, 1.0], held.shape)
    tables = {
        "positions": positions(held, quantity),
        "instruments": instruments(price, rng),
        "history": history(size.scenarios, rng),
        "collateral": collateral(held, quantity, price, rng),
        "assets": pl.DataFrame({"asset": ["USD"], "currency": ["USD"]}),
    }
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    book = Book(size, folder, held, price, make_keys(folder / "keys.toml"))
    for path, rows in ((book.config, 1_000_000), (book.restart_config, 10**12)):
        text = _CONFIG.format(last=LAST, scenarios=size.scenarios, snapshot_rows=rows)
        path.write_text(text, encoding="utf-8")
    return book


def make_keys(path: Path) -> dict[str, str]:
    """API keys by client, in a file that has their hashes."""
    scopes = {"reader": ["read", "whatif"], "marker": ["read", "trade"]}
    scopes["admin"] = ["read", "whatif", "trade", "admin"]
    scopes |= {f"client-{n:02d}": ["read", "whatif", "trade"] for n in range(CLIENTS)}
    return {name: new_key(path, name, scopes=granted)[1] for name, granted in scopes.items()}


def account_ids(numbers: Any) -> list[str]:
    return [f"A{number:07d}" for number in numbers]


def instrument_ids() -> NDArray[Any]:
    return np.array([f"I{n:05d}" for n in range(INSTRUMENTS)])


def factor_ids() -> list[str]:
    return [f"F{n:03d}" for n in range(FACTORS)]


def is_option() -> NDArray[np.bool_]:
    """[instrument]"""
    places = [KINDS.index("call"), KINDS.index("put")]
    return np.isin(np.arange(INSTRUMENTS) % len(KINDS), places)


def popular(count: int, rng: np.random.Generator) -> Ints:
    """So many instruments, each as often as one over its rank says."""
    shares = np.cumsum(1.0 / np.arange(1, INSTRUMENTS + 1))
    place = np.searchsorted(shares, rng.random(count) * shares[-1], side="right")
    # Ranks lie about at random, so that all kinds and factors have popular instruments.
    ranked: Ints = np.random.default_rng(0).permutation(INSTRUMENTS)[place]
    return ranked


def draw_held(size: Size, rng: np.random.Generator) -> NDArray[np.int32]:
    """[account, place] different instruments of each account, popular ones more often."""
    wanted, drawn = size.positions, 3 * size.positions
    found = np.empty((size.accounts, wanted), dtype=np.int32)
    stride = INSTRUMENTS // wanted
    for start in range(0, size.accounts, _CHUNK):
        count = min(_CHUNK, size.accounts - start)
        some = popular(count * drawn, rng).reshape(count, drawn)
        # Enough for those whose popular ones are all the same: evenly spaced, from anywhere.
        spaced = rng.integers(0, stride, (count, 1)) + stride * np.arange(wanted)
        choice = np.hstack([some, spaced])
        order = np.argsort(choice, axis=1, kind="stable")
        ranked = np.take_along_axis(choice, order, axis=1)
        again = np.zeros(choice.shape, dtype=np.bool_)
        same = np.hstack([np.zeros((count, 1), dtype=np.bool_), ranked[:, 1:] == ranked[:, :-1]])
        np.put_along_axis(again, order, same, axis=1)
        first = np.argsort(again, axis=1, kind="stable")[:, :wanted]
        found[start : start + count] = np.take_along_axis(choice, first, axis=1)
    return found


def positions(held: NDArray[np.int32], quantity: Floats) -> pl.DataFrame:
    accounts, each = held.shape
    owner = pl.Series(np.repeat(np.arange(accounts, dtype=np.uint32), each))
    return pl.DataFrame(
        {
            "account_id": pl.Series(account_ids(range(accounts))).gather(owner),
            "instrument_id": pl.Series(instrument_ids().tolist()).gather(held.ravel()),
            "quantity": quantity.ravel(),
        }
    )


def instruments(price: Floats, rng: np.random.Generator) -> pl.DataFrame:
    number = np.arange(INSTRUMENTS)
    return pl.DataFrame(
        {
            "instrument_id": instrument_ids(),
            "kind": np.array(KINDS)[number % len(KINDS)],
            "underlying": np.array(factor_ids())[number // len(KINDS) % FACTORS],
            "currency": "USD",
            "multiplier": MULTIPLIER,
            "price": price,
            "strike": rng.uniform(70.0, 130.0, INSTRUMENTS),
            "expiry": [LAST + timedelta(days=30 * (1 + n % 12)) for n in range(INSTRUMENTS)],
            "implied_vol": rng.uniform(0.1, 0.4, INSTRUMENTS),
        }
    )


def history(scenarios: int, rng: np.random.Generator) -> pl.DataFrame:
    """Lognormal prices around 100 that move with a market that all factors share."""
    days = scenarios + 1
    returns = 0.007 * rng.normal(size=(days, 1)) + 0.007 * rng.normal(size=(days, FACTORS))
    dates = [LAST - timedelta(days=days - 1 - day) for day in range(days)]
    prices = 100.0 * np.exp(np.cumsum(returns[::-1], axis=0)[::-1])
    return pl.DataFrame(
        {
            "date": np.repeat(np.array(dates, dtype="datetime64[D]"), FACTORS),
            "factor": factor_ids() * days,
            "price": prices.ravel(),
        }
    )


def collateral(
    held: NDArray[np.int32], quantity: Floats, price: Floats, rng: np.random.Generator
) -> pl.DataFrame:
    """Around what a book may lose: some accounts are called, most orders may stand."""
    exposure = quantity * MULTIPLIER * price[held] * np.where(is_option(), 0.5, 1.0)[held]
    deviation = 0.01 * np.sqrt((exposure**2).sum(axis=1))
    amount = 4.0 * deviation * rng.lognormal(0.5, 0.4, len(held))
    return pl.DataFrame(
        {"account_id": account_ids(range(len(held))), "asset": "USD", "amount": amount.round(2)}
    )
