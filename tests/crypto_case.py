"""A small crypto venue made by hand, as feeds, positions and balances; ways to change and read it.

Time: 2026-01-21 00:00 UTC. BTC: spot 90,000, an expiry in 65 1/3 days (2026-03-27 08:00) with a
forward of 90,500 and a smile, another in 30 days with a forward of 90,200 and rate 4%. ETH: spot
3,000, an expiry on 2026-03-27 with a forward of 3,020.

Instruments: BTC-PERP, ETH-PERP; BTC-20260327-80000-P (volatility 0.65), -90000-C (0.6),
-100000-C (none: from the smile), -100000-P (0.6); BTC-30D-95000-C (0.55); ETH-20260327-3000-C
and -P (0.75); BTC-20260327, a dated future; coins USDT, BTC and ETH.

Accounts: A (a short perpetual and options of BTC, cash, unrealised profit), B with the sets b1
(ETH) and b2 (BTC covered by coins), C (cash alone), D (USDT alone, market BTC named).
`write` makes files of a case; `read` reads them with `read_crypto`; `TIME` is its time in seconds.
`document_of` and `rows_of` write any market and book in the formats of ours.
"""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin.crypto_book import COIN, FUTURE, KINDS, OPTION, CryptoBook, CryptoMarket
from gpu_margin.crypto_files import Inputs, read_crypto
from gpu_margin.portfolio import entry_rows

Row = dict[str, Any]
TIME = 1_768_953_600.0
MARCH = "2026-03-27T08:00:00Z"
POSITION_HEADER = ("account_id", "netting_set", "instrument_id", "quantity")
BALANCE_HEADER = ("account_id", "netting_set", "kind", "asset", "amount", "market")


def _option(name: str, strike: float, right: str, volatility: float | None, **other: Any) -> Row:
    coin = name.split("-")[0]
    said = {"instrument_id": name, "kind": "option", "underlying": coin, "expiry": MARCH}
    said |= {"strike": strike, "right": right, **other}
    return said if volatility is None else {**said, "volatility": volatility}


def feeds() -> Row:
    """A fresh document of feeds."""
    smile = {"a": 0.01, "b": 0.15, "rho": -0.2, "m": 0.02, "sigma": 0.3}
    return copy.deepcopy(
        {
            "time": "2026-01-21T00:00:00Z",
            "stable": {"price": 1.0, "confidence": 1.0},
            "underlyings": {
                "ETH": {"spot": 3000.0, "expiries": [{"expiry": MARCH, "forward": 3020.0}]},
                "BTC": {
                    "spot": 90000.0,
                    "confidence": 0.9,
                    "expiries": [
                        {
                            "expiry": MARCH,
                            "forward": 90500.0,
                            "svi": {**smile, "forward": 90400.0, "tau": 0.18},
                        },
                        {"seconds": 30 * 86400, "forward": 90200.0, "rate": 0.04},
                    ],
                },
            },
            "instruments": [
                {"instrument_id": "USDT", "kind": "coin", "price": 0.9995},
                {"instrument_id": "BTC", "kind": "coin", "price": 90000.0},
                {"instrument_id": "ETH", "kind": "coin", "price": 3000.0, "confidence": 0.95},
                {
                    "instrument_id": "ETH-PERP",
                    "kind": "perpetual",
                    "underlying": "ETH",
                    "price": 3001.0,
                },
                {
                    "instrument_id": "BTC-PERP",
                    "kind": "perpetual",
                    "underlying": "BTC",
                    "price": 90020.0,
                    "confidence": 0.8,
                },
                _option("BTC-20260327-80000-P", 80000.0, "put", 0.65),
                _option("BTC-20260327-90000-C", 90000.0, "call", 0.6, price=9000.0),
                _option("BTC-20260327-100000-C", 100000.0, "call", None),
                _option("BTC-20260327-100000-P", 100000.0, "put", 0.6),
                {
                    "instrument_id": "BTC-30D-95000-C",
                    "kind": "option",
                    "underlying": "BTC",
                    "seconds": 30 * 86400,
                    "strike": 95000.0,
                    "right": "C",
                    "volatility": 0.55,
                },
                _option("ETH-20260327-3000-C", 3000.0, "call", 0.75),
                _option("ETH-20260327-3000-P", 3000.0, "put", 0.75),
                {
                    "instrument_id": "BTC-20260327",
                    "kind": "future",
                    "underlying": "BTC",
                    "expiry": MARCH,
                    "price": 90510.0,
                },
            ],
        }
    )


POSITIONS: tuple[tuple[Any, ...], ...] = (
    ("A", None, "BTC-PERP", -0.5),
    ("A", None, "BTC-20260327-90000-C", 2.0),
    ("A", None, "BTC-20260327-100000-C", -2.0),
    ("A", None, "BTC-20260327-80000-P", -1.0),
    ("B", "b1", "ETH-PERP", 10.0),
    ("B", "b1", "ETH-20260327-3000-P", 10.0),
    ("B", "b2", "BTC-20260327-100000-C", -1.0),
    ("B", "b2", "BTC-30D-95000-C", 0.25),
)
BALANCES: tuple[tuple[Any, ...], ...] = (
    ("A", None, "cash", None, 20000.0, None),
    ("A", None, "unrealised", None, -150.0, None),
    ("B", "b1", "cash", "USDC", 5000.0, None),
    ("B", "b2", "collateral", "BTC", 1.0, None),
    ("B", "b2", "cash", None, 100.0, None),
    ("C", None, "cash", None, 1234.5, None),
    ("D", None, "collateral", "USDT", 1000.0, "BTC"),
)


def instrument(document: Row, name: str) -> Row:
    """The instrument of that id in a document of feeds, to be changed."""
    return next(one for one in document["instruments"] if one["instrument_id"] == name)


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Rows as CSV, or as Parquet by the name of the path."""
    if path.suffix == ".parquet":
        columns = zip(*rows, strict=True) if rows else [[] for _ in header]
        named = zip(header, columns, strict=True)
        pl.DataFrame({name: list(values) for name, values in named}, strict=False).write_parquet(
            path
        )
        return path
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def write(
    folder: Path,
    document: Any = None,
    positions: Sequence[Sequence[Any]] = POSITIONS,
    balances: Sequence[Sequence[Any]] | None = BALANCES,
    suffix: str = "csv",
) -> dict[str, Path]:
    """Files of a case in the folder, by the names of the parameters that take them."""
    folder.mkdir(parents=True, exist_ok=True)
    said = feeds() if document is None else document
    (folder / "feeds.json").write_text(said if isinstance(said, str) else json.dumps(said))
    paths = {
        "feeds": folder / "feeds.json",
        "positions": write_rows(folder / f"positions.{suffix}", POSITION_HEADER, positions),
    }
    if balances is not None:
        paths["balances"] = write_rows(folder / f"balances.{suffix}", BALANCE_HEADER, balances)
    return paths


def read(folder: Path, *changes: Any, **other: Any) -> Inputs:
    """The case, or what `write` makes of the changes, read back."""
    return read_crypto(**write(folder, *changes, **other))


def document_of(market: CryptoMarket) -> Row:
    """Feeds that say this market."""
    names, dates, held = market.underlyings.to_list(), market.expiries, market.instruments
    parts = ("seconds", "forward", "fixed", "forward_confidence", "rate", "rate_confidence")
    spots: dict[str, Row] = {
        name: {"spot": float(spot), "confidence": float(sure), "expiries": []}
        for name, spot, sure in zip(names, market.spot, market.spot_confidence, strict=True)
    }
    for place, code in enumerate(dates.underlying):
        said = {part: float(getattr(dates, part)[place]) for part in parts}
        said["volatility_confidence"] = float(dates.volatility_confidence[place])
        spots[names[code]]["expiries"].append(said)
    instruments = []
    for place, name in enumerate(held.ids):
        kind, code = int(held.kind[place]), int(held.underlying[place])
        said = {"instrument_id": name, "kind": KINDS[kind], "settlement": held.settlement[place]}
        said |= {"confidence": float(held.confidence[place]), "inverse": bool(held.inverse[place])}
        if code >= 0:
            said["underlying"] = names[code]
        if held.price[place] == held.price[place]:
            said["price"] = float(held.price[place])
        if kind in (FUTURE, OPTION):
            said["seconds"] = float(dates.seconds[held.expiry[place]])
        if kind == OPTION:
            said |= {"strike": float(held.strike[place]), "right": "CP"[not held.call[place]]}
            said["volatility"] = float(held.volatility[place])
        instruments.append(said)
    stable = {"price": market.stable, "confidence": market.stable_confidence}
    return {
        "time": market.time,
        "stable": stable,
        "underlyings": spots,
        "instruments": instruments,
    }


def rows_of(book: CryptoBook, market: CryptoMarket) -> tuple[list[Any], list[Any]]:
    """Rows of positions (coins among them) and balances that say this book."""
    portfolio, ids = book.portfolio, market.instruments.ids
    owners = [portfolio.accounts[int(code)] for code in portfolio.set_account]
    sets = list(zip(owners, portfolio.sets.to_list(), strict=True))
    entries = zip(entry_rows(portfolio.rows), portfolio.rows.column, strict=True)
    positions, balances = [], []
    for (row, column), value in zip(entries, portfolio.rows.value, strict=True):
        coin = market.instruments.kind[column] == COIN
        said = (*sets[row], "collateral", ids[int(column)], float(value), None)
        (balances if coin else positions).append(said if coin else (*sets[row], *said[3:5]))
    amounts = {"cash": book.cash, "unrealised": book.unrealised, **book.charges}
    for place, owner in enumerate(sets):
        named = book.market[place] or None
        for kind, amount in amounts.items():
            balances.append((*owner, kind, None, float(amount[place]), named))
    return positions, balances
