"""How far sets on a crypto venue are from liquidation, and the prices that would bring it.

A set may be liquidated where its margin value at maintenance is negative. The price of one
underlying at a time is moved (`crypto_moves`) over a scan of factors, all sets at once; where a
margin value turns, its zero is searched. There may be several, or none in the range of the scan:
under portfolio margin no single price need exist.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import crypto_tables
from gpu_margin.crypto_batches import Work
from gpu_margin.crypto_book import INITIAL, MAINTENANCE, CryptoBook, CryptoMargin, Floats, Ints
from gpu_margin.crypto_files import Inputs
from gpu_margin.crypto_moves import exposed, moved, moved_book, of_sets
from gpu_margin.crypto_roots import Roots, grid, roots
from gpu_margin.crypto_sets import told_markets
from gpu_margin.derive_auction import auction_share
from gpu_margin.failures import ConfigError, join_failures


@dataclass(frozen=True)
class Liquidation:
    """Distance to liquidation and liquidation prices of netting sets, in USD.

    `distance`: account_id, netting_set, market, equity (mark-to-market and cash), initial,
    maintenance (requirements), margin_value (equity less maintenance), utilisation (maintenance by
    equity, null where equity is not positive), status (ok; margin call: below initial; liquidation:
    below maintenance), auction_share (of the set that Derive's auction would sell at its start;
    null under other venues' rulebooks), complete.

    `prices`: account_id, netting_set, underlying, spot, price, change_percent, within (how
    far from it, in USD, the true one may be), side (below, above), nearest (of its side), turns
    (what a move away from the spot meets there: liquidation, or recovery). `nearest`: a row per set
    and underlying that it holds: spot, below, above (nearest prices, null where there is none),
    prices (how many), note.
    """

    distance: pl.DataFrame
    prices: pl.DataFrame
    nearest: pl.DataFrame
    failures: pl.DataFrame
    manifest: dict[str, Any] = field(default_factory=dict)

    def of(self, account: str) -> Liquidation:
        """The same of one account; the failures are all of them."""
        own = {
            name: getattr(self, name).filter(pl.col("account_id") == account)
            for name in ("distance", "prices", "nearest")
        }
        return replace(self, **own)


def liquidations(
    work: Work,
    inputs: Inputs,
    underlyings: Sequence[str] | None = None,
    *,
    auctions: bool = False,
) -> Liquidation:
    """All sets, under moves of each of the underlyings; `auctions` are those of Derive.

    Raises `ConfigError` for an unknown underlying.
    """
    names = inputs.market.underlyings.cast(pl.String).to_list()
    codes = [_code(name, names) for name in (names if underlyings is None else underlyings)]
    book = inputs.book
    found = work.quoted(inputs.market).margin(book, "margin")
    searched = [_search(work, inputs, code) for code in dict.fromkeys(codes)]
    sets, tables = crypto_tables.keys(book), []
    for one in searched:
        tables.append((_prices(one, sets), _nearest(one, sets)))
    return Liquidation(
        distance=_distance(inputs, found, auctions),
        prices=pl.concat([_NO_PRICES, *(prices for prices, _ in tables)]),
        nearest=pl.concat([_NO_NEAREST, *(nearest for _, nearest in tables)]),
        failures=join_failures([inputs.failures, found.failures]),
    )


def _code(name: str, known: list[str]) -> int:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown underlying {name!r}{hint} (known: {', '.join(known)})")
    return known.index(name)


@dataclass(frozen=True)
class _Searched:
    """Zeros of sets under moves of one underlying.

    `sets` (codes) hold it, `safe` [set of these] says who is not in liquidation now, `known` who
    has a margin at all.
    """

    underlying: str
    spot: float
    sets: Ints
    safe: Floats
    roots: Roots


def _search(work: Work, inputs: Inputs, code: int) -> _Searched:
    market = inputs.market
    name, spot = str(market.underlyings[code]), float(market.spot[code])
    sets = np.flatnonzero(exposed(inputs.book, market, code)).astype(np.int64)
    own, factors = of_sets(inputs.book, sets), grid()
    values = np.zeros((len(factors), len(sets)))
    stage = f"scan {name}"

    def value(book: CryptoBook, factor: float) -> Floats:
        there = work.quoted(moved(market, code, factor))
        found = there.quietly(moved_book(book, market, code, factor), stage)
        good = crypto_tables.usable(book, found)
        return np.where(good, found.value(MAINTENANCE), np.nan)

    if len(sets):
        work.report(stage, 0, len(factors))
        for place, factor in enumerate(factors):
            values[place] = value(own, float(factor))
            work.report(stage, place + 1, len(factors))

    def ask(factor: float, chosen: Ints) -> Floats:
        return value(of_sets(own, chosen), factor)

    tell = partial(work.report, f"search {name}") if len(sets) else _nobody
    found = roots(factors, values, ask, tell)
    now = values[np.flatnonzero(factors == 1.0)[0]]
    return _Searched(name, spot, sets, now, found)


def _nobody(done: int, total: int) -> None:
    """Nothing is told."""


# ---------------------------------------------------------------- tables


_NO_PRICES = pl.DataFrame(
    schema={
        "account_id": pl.String,
        "netting_set": pl.String,
        "underlying": pl.String,
        "spot": pl.Float64,
        "price": pl.Float64,
        "change_percent": pl.Float64,
        "within": pl.Float64,
        "side": pl.String,
        "nearest": pl.Boolean,
        "turns": pl.String,
    }
)
_NO_NEAREST = pl.DataFrame(
    schema={
        "account_id": pl.String,
        "netting_set": pl.String,
        "underlying": pl.String,
        "spot": pl.Float64,
        "below": pl.Float64,
        "above": pl.Float64,
        "prices": pl.Int64,
        "note": pl.String,
    }
)


def _prices(one: _Searched, sets: pl.DataFrame) -> pl.DataFrame:
    """A row per zero, ordered by set and price."""
    zero, own = one.roots, one.sets[one.roots.function]
    below = zero.factor < 1.0
    table = sets[own].with_columns(
        pl.lit(one.underlying).alias("underlying"),
        pl.lit(one.spot).alias("spot"),
        pl.Series("price", zero.factor * one.spot),
        pl.Series("change_percent", 100.0 * (zero.factor - 1.0)),
        pl.Series("within", zero.within * one.spot),
        pl.Series("side", np.where(below, "below", "above"), dtype=pl.String),
        pl.Series("set", own),
        pl.Series("safe", one.safe[zero.function] >= 0.0),
    )
    # Places from the spot outwards, from 0: at every one the margin value changes its sign.
    group = pl.col("price").rank("ordinal").over("set", "side").cast(pl.Int64) - 1
    last = pl.len().over("set", "side").cast(pl.Int64) - 1
    place = pl.when(pl.col("side") == "below").then(last - group).otherwise(group)
    falls = (place % 2 == 0) == pl.col("safe")
    return table.with_columns(
        (place == 0).alias("nearest"),
        pl.when(falls).then(pl.lit("liquidation")).otherwise(pl.lit("recovery")).alias("turns"),
    ).select(_NO_PRICES.columns)


def _nearest(one: _Searched, sets: pl.DataFrame) -> pl.DataFrame:
    """A row per set that holds the underlying."""
    count = len(one.sets)
    price, function = one.roots.factor * one.spot, one.roots.function
    below, above = np.full(count, -np.inf), np.full(count, np.inf)
    low = one.roots.factor < 1.0
    np.maximum.at(below, function[low], price[low])
    np.minimum.at(above, function[~low], price[~low])
    found = np.bincount(function, minlength=count)
    factors = grid()
    none = f"none between {factors[0] * one.spot:,.2f} and {factors[-1] * one.spot:,.2f}"
    unknown = np.isnan(one.safe)
    liquid = np.where(one.safe < 0.0, "in liquidation now", "")
    note = np.where(unknown, "unknown: it cannot be margined", np.where(found, liquid, none))
    note = np.where((found == 0) & (one.safe < 0.0), f"in liquidation now; {none}", note)
    return sets[one.sets].with_columns(
        pl.lit(one.underlying).alias("underlying"),
        pl.lit(one.spot).alias("spot"),
        pl.Series("below", np.where(np.isfinite(below), below, np.nan), nan_to_null=True),
        pl.Series("above", np.where(np.isfinite(above), above, np.nan), nan_to_null=True),
        pl.Series("prices", found.astype(np.int64)),
        pl.Series("note", note, dtype=pl.String),
    )


def _distance(inputs: Inputs, found: CryptoMargin, auctions: bool) -> pl.DataFrame:
    """A row per set, in their order."""
    book = inputs.book
    good = crypto_tables.usable(book, found)
    equity = found.mark_to_market + found.cash
    need = found.levels[MAINTENANCE].requirement
    positive = equity > 0.0
    figures = {
        "equity": equity,
        "initial": found.levels[INITIAL].requirement,
        "maintenance": need,
        "margin_value": found.value(MAINTENANCE),
        "utilisation": np.where(positive, need / np.where(positive, equity, 1.0), np.nan),
    }
    share = auction_share(equity, found.value(MAINTENANCE))
    # A margin value that is not negative is not auctioned, whatever its buffer.
    share = np.where(found.value(MAINTENANCE) < 0.0, share, 0.0)
    status = np.where(found.value(INITIAL) < 0.0, "margin call", "ok")
    status = np.where(found.value(MAINTENANCE) < 0.0, "liquidation", status)
    return crypto_tables.keys(book).with_columns(
        told_markets(book, inputs.market),
        *(
            pl.Series(name, np.where(good, amount, np.nan), nan_to_null=True)
            for name, amount in figures.items()
        ),
        pl.Series("status", np.where(good, status, "unknown"), dtype=pl.String),
        pl.Series("auction_share", np.where(good & auctions, share, np.nan), nan_to_null=True),
        pl.Series("complete", (book.portfolio.bad == 0) & good),
    )
