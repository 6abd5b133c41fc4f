"""Random accounts on a synthetic exchange: neighbours in its chains, calendar spreads, options."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from span_contracts import FUTURE, Exchange
from span_xml_contracts import by_quote

Ints = NDArray[np.int64]


def contract_ids(exchange: Exchange, rows: Ints) -> pl.Series:
    """What readers call contracts."""
    every = exchange.commodities
    heads, tails = [], []
    for one in exchange.series:
        own = every[one.commodity]
        parts = own.exchange, own.products[one.role], own.types[one.role], one.future
        heads.append(":".join(part for part in parts if part))
        tails.append(f":{one.option}" if one.option else "")
    series = exchange.series_of[rows]
    quotes = [one.strike for one in every]
    strike = by_quote(quotes, exchange.commodity[rows], exchange.strike[rows])
    frame = pl.DataFrame({
        "head": pl.Series(heads)[series],
        "tail": pl.Series(tails)[series],
        "right": pl.Series(np.array(["", ":C:", ":P:"])[exchange.right[rows]]),
        "strike": pl.select(
            pl.when(strike.str.contains(".", literal=True))
            .then(strike.str.strip_chars_end("0").str.strip_chars_end("."))
            .otherwise(strike)
        ).to_series(),
    })  # fmt: skip
    strike_part = pl.when(pl.col("right") == "").then(pl.lit("")).otherwise(pl.col("strike"))
    text = pl.concat_str("head", "tail", "right", strike_part)
    return frame.select(contract_id=text).to_series()


def draw(exchange: Exchange, accounts: int, legs: int, seed: int = 1) -> tuple[Ints, Ints]:
    """Contracts and quantities [account, leg], half options, of neighbouring commodities.

    Every two futures of an account are the near and the far month of a commodity, of which one is
    bought and one is sold; the near ones of neighbours are on opposite sides, four times of five.
    An odd last one is a combination, every other time that its commodity has one.
    """
    random = np.random.default_rng([seed, 3])
    futures = legs - legs // 2
    neighbours = min((futures + 1) // 2 or 1, len(exchange.commodities))
    first = random.integers(0, len(exchange.commodities) - neighbours + 1, accounts)
    bought = random.choice([-1, 1], accounts)
    row, side = [], []
    own, start, count = _ranges(exchange, _of_role(exchange, "future"))
    combined = np.full(len(exchange.commodities), -1, dtype=np.int64)
    combinations = _of_role(exchange, "combination")
    combined[exchange.commodity[combinations]] = combinations
    at = np.zeros(accounts, dtype=np.int64)
    for leg in range(futures):
        mine = first + leg // 2 % neighbours
        if leg % 2 == 0:
            at = random.integers(0, count[mine] - 1)
        chosen = own[start[mine] + (at + leg % 2) % count[mine]]
        if leg == futures - 1 and leg % 2 == 0:
            other = combined[mine]
            chosen = np.where((other >= 0) & (random.random(accounts) < 0.5), other, chosen)
        row.append(chosen)
        against = np.where(random.random(accounts) < 0.8, -1, 1) if leg else np.ones(accounts, int)
        alternate = (-1) ** (leg // 2) * np.where(leg % 2 == 1, -1, against)
        side.append(bought * alternate)
    own, start, count = _ranges(exchange, _options(exchange))
    low, high = start[first], start[first + neighbours - 1] + count[first + neighbours - 1]
    for leg in range(legs - futures):
        # A part of the neighbours' options for each leg, so that no two are the same.
        from_, to = (low + (high - low) * (leg + step) // (legs - futures) for step in (0, 1))
        row.append(own[random.integers(from_, np.maximum(to, from_ + 1))])
        side.append(random.choice([-1, 1], accounts))
    size = random.integers(1, 40, (accounts, legs))
    return np.stack(row, axis=1), size * np.stack(side, axis=1).astype(np.int64)


def _of_role(exchange: Exchange, role: str) -> Ints:
    single = np.array([one.role == role for one in exchange.series])
    return np.flatnonzero(single[exchange.series_of])


def _options(exchange: Exchange) -> Ints:
    """Those that have a price: without one, their value is unknown."""
    missing = np.concatenate([part.missing for part in exchange.chunks()])
    return np.flatnonzero((exchange.right != FUTURE) & ~missing)


def _ranges(exchange: Exchange, rows: Ints) -> tuple[Ints, Ints, Ints]:
    """Rows, and where those of each commodity start and how many they are."""
    every = np.arange(len(exchange.commodities) + 1)
    bounds = np.searchsorted(exchange.commodity[rows], every)
    return rows, bounds[:-1], np.diff(bounds)


def table(exchange: Exchange, accounts: int, legs: int, seed: int = 1) -> pl.DataFrame:
    """Positions as a file of them has them."""
    row, quantity = draw(exchange, accounts, legs, seed)
    used, code = np.unique(row, return_inverse=True)
    ids = contract_ids(exchange, used)
    names = pl.Series([f"{place:07d}" for place in range(accounts)])
    return pl.DataFrame({
        "account_id": names[np.repeat(np.arange(accounts), legs)],
        "contract_id": ids[code.ravel()],
        "quantity": quantity.ravel().astype(np.float64),
    })  # fmt: skip


def plain_terms(exchange: Exchange, row: Ints, quantity: Ints) -> list[list[list[object]]]:
    """Per account [symbol, instrument, quantity, expiry, strike], as brokers in India name them.

    Combinations are told as their legs.
    """
    names = np.array(["FUT", "CE", "PE"])
    found = []
    for rows, sizes in zip(row.tolist(), quantity.tolist(), strict=True):
        account: list[list[object]] = []
        for one, size in zip(rows, sizes, strict=True):
            series = exchange.series[exchange.series_of[one]]
            own = exchange.commodities[series.commodity]
            months = [series.option or series.future]
            if series.role == "combination":
                months = list(own.months[series.at : series.at + 2])
            strike = float(exchange.strike[one]) * own.strike.tick
            for sign, month in zip((1, -1), months, strict=False):
                name = str(names[exchange.right[one]])
                account.append([own.code, name, sign * size, month.ljust(8, "0"), strike])
        found.append(account)
    return found
