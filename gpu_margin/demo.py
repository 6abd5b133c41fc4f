"""A demo exchange on real market history: tables as a clearing house would hand them in.

Prices are the daily closes that the package `arch` ships (S&P 500, NASDAQ, WTI crude); the
contracts, volatilities, accounts and collateral on top of them are made up, from one seed. Account
i is the same whether the exchange has a hundred accounts or a million.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from gpu_margin import demo_crif, demo_crypto, demo_span
from gpu_margin.demo_books import draw_positions
from gpu_margin.demo_collateral import draw_around
from gpu_margin.demo_market import list_instruments, load_history
from gpu_margin.failures import InputError
from gpu_margin.io.outputs import write_atomically

CONFIG = """\
valuation_date = 2018-12-31
currency = "USD"
[inputs]
positions = "positions.parquet"
instruments = "instruments.parquet"
history = "history.parquet"
fx = "fx.parquet"
collateral = "collateral.parquet"
assets = "assets.parquet"
accounts = "accounts.parquet"
agreements = "agreements.parquet"
[collateral]
mode = "haircut"                                  # or in_scenarios
call_minimum = 100.0                              # no call below it
call_rounding = 1.0                               # calls are rounded up
[models.covariance]
kind = "covariance"
confidence = 0.99
horizon_days = 2
estimator = { kind = "ewma", decay = 0.97 }      # or sample, ledoit_wolf
lookback = 1000
maintenance = 0.8                                 # of the initial requirement
[models.historical]
kind = "simulation"
scenarios = { kind = "historical", lookback = 1000 }
horizon_days = 2
horizon = "overlapping"                           # h-day returns; "sqrt_time" multiplies 1-day ones by sqrt(h)
measure = { kind = "es", confidence = 0.975, tail = "discrete" }
maintenance = 0.8
allocation = true                                 # which positions the requirement comes from
# offset_cap = 0.8                                # of what product groups save each other, this share counts
[gate]                                            # the order gate of gpu-margin serve
model = "historical"
stale_seconds = 60.0                              # orders on older marks are refused
"""  # noqa: E501


# What-ifs on an account that every demo of six accounts or more has.
TRADES = """\
account_id,whatif_id,instrument_id,quantity
collar-000005,half the future,WTI-F-2019-03,-12
collar-000005,no collar,WTI-C-2019-03-47,25
collar-000005,no collar,WTI-P-2019-03-43,-25
"""


@dataclass(frozen=True)
class DemoTables:
    """The input tables of one demo exchange."""

    positions: pl.DataFrame
    instruments: pl.DataFrame
    history: pl.DataFrame
    fx: pl.DataFrame
    collateral: pl.DataFrame
    assets: pl.DataFrame
    accounts: pl.DataFrame
    agreements: pl.DataFrame


def build(accounts: int = 10_000, seed: int = 7) -> DemoTables:
    """The demo exchange with `accounts` accounts; the same seed gives the same tables.

    Raises InputError if the package arch is missing or a number makes no sense.
    """
    if accounts < 1 or seed < 0:
        raise InputError(f"a demo needs accounts >= 1 and seed >= 0, not {accounts} and {seed}")
    history = load_history()
    listing = list_instruments(history)
    positions = draw_positions(listing, accounts, seed)
    around = draw_around(listing, history, positions, seed)
    return DemoTables(positions, listing.instruments, history, **vars(around))


def write(tables: DemoTables, folder: Path) -> Path:
    """Write the tables, config.toml, trades to try and other models' files; returns config.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in vars(tables).items():
        write_atomically(folder / f"{name}.parquet", table.write_parquet)
    for name, rows in (("crif", demo_crif.crif()), ("crif_new", demo_crif.ideas())):
        write_atomically(folder / f"{name}.csv", rows.write_csv)
    others = {**demo_crypto.files(), **demo_span.files()}
    for name, text in {"trades.csv": TRADES, **others, "config.toml": CONFIG}.items():
        write_atomically(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))
    return folder / "config.toml"
