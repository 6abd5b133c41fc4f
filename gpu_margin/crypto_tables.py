"""Margins of netting sets on a crypto venue as tables: totals, components, figures, scenarios.

A set that cannot be margined has null for every amount.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from gpu_margin.crypto_book import Bools, CryptoBook, CryptoMargin, CryptoMarket, Floats
from gpu_margin.crypto_sets import told_markets
from gpu_margin.failures import Failure, failure_table

_KEYS = ("account_id", "netting_set")


def keys(book: CryptoBook) -> pl.DataFrame:
    """[set] account_id and netting_set."""
    portfolio = book.portfolio
    accounts = portfolio.accounts.cast(pl.String).gather(portfolio.set_account)
    return pl.DataFrame(
        [accounts.rename("account_id"), portfolio.sets.cast(pl.String).rename("netting_set")]
    )


def usable(book: CryptoBook, found: CryptoMargin) -> Bools:
    """[set] whether it has a good row, and all that counts of its margin is a number."""
    amounts = [found.mark_to_market, *(level.requirement for level in found.levels.values())]
    finite = [np.isfinite(amount) for amount in amounts]
    good: Bools = np.all([book.portfolio.good > 0, *finite], axis=0)
    return good


def margins(book: CryptoBook, market: CryptoMarket, found: CryptoMargin) -> pl.DataFrame:
    """A row per set and level: see `CryptoRun.margins`."""
    portfolio, good = book.portfolio, usable(book, found)
    sets = keys(book).with_columns(
        told_markets(book, market),
        pl.Series("mark_to_market", found.mark_to_market),
        pl.Series("cash", found.cash),
        worst_names(found, good),
        pl.Series("complete", (portfolio.bad == 0) & good),
    )
    levels = {
        name: sets.with_columns(
            pl.Series("requirement", level.requirement),
            pl.Series("margin_value", found.value(name)),
        )
        for name, level in found.levels.items()
    }
    amounts = ("requirement", "mark_to_market", "cash", "margin_value")
    known = pl.Series("known", good)
    return stacked(levels, "level").select(
        *_KEYS,
        "market",
        "level",
        *(pl.when(_repeated(known, len(levels))).then(name).alias(name) for name in amounts),
        "worst_scenario",
        "complete",
    )


def worst_names(found: CryptoMargin, good: Bools) -> pl.Series:
    """[set] name of the worst scenario, null where there is none."""
    names = pl.Series([*found.scenarios, None], dtype=pl.String)
    places = np.where((found.worst < 0) | ~good, len(found.scenarios), found.worst)
    return names.gather(places).rename("worst_scenario")


def components(book: CryptoBook, found: CryptoMargin) -> pl.DataFrame:
    """A row per set, level and component, in USD; those of a level add up to its requirement."""
    parts: dict[tuple[str, ...], Floats] = {
        (level, name): amount
        for level, figures in found.levels.items()
        for name, amount in figures.components.items()
    }
    return _long(book, found, parts, ("level", "component"))


def figures(book: CryptoBook, found: CryptoMargin) -> pl.DataFrame:
    """A row per set and further figure, which add up to nothing."""
    parts: dict[tuple[str, ...], Floats] = {
        (name,): amount for name, amount in found.figures.items()
    }
    return _long(book, found, parts, ("figure",)).fill_nan(None)


def scenarios(book: CryptoBook, found: CryptoMargin) -> pl.DataFrame:
    """A row per set and scenario with its P&L in USD, those with a number only."""
    assert found.pnl is not None
    count = len(found.scenarios)
    row = np.repeat(np.arange(len(book.cash)), count)
    names = pl.Series("scenario", found.scenarios, dtype=pl.String)
    table = keys(book)[row].with_columns(
        names.gather(np.tile(np.arange(count), len(book.cash))),
        pl.Series("pnl", np.ascontiguousarray(found.pnl).ravel()),
    )
    good = np.repeat(usable(book, found), count)
    return table.filter(pl.Series(good) & pl.col("pnl").is_not_nan())


def overflows(book: CryptoBook, found: CryptoMargin) -> pl.DataFrame:
    """Failures of sets whose margin is infinite; the others have theirs already."""
    amounts = [found.mark_to_market, *(level.requirement for level in found.levels.values())]
    lost = np.any([np.isinf(amount) for amount in amounts], axis=0)
    reason = "requirement is not finite: amounts are too large"
    ids = keys(book)["account_id"].filter(pl.Series(lost))
    return failure_table(Failure(reason, "margins", None, "account_id", one) for one in ids)


def _long(
    book: CryptoBook,
    found: CryptoMargin,
    parts: Mapping[tuple[str, ...], Floats],
    names: tuple[str, ...],
) -> pl.DataFrame:
    """A row per set and part, in this order, of sets that have a margin."""
    own = keys(book).with_columns(
        pl.int_range(pl.len()).alias("place"), pl.Series("good", usable(book, found))
    )
    schema = dict.fromkeys(names, pl.String) | {"amount": pl.Float64}
    tables = [own.clear().with_columns(pl.lit(None, kind).alias(n) for n, kind in schema.items())]
    for part, amount in parts.items():
        told = (pl.lit(text).alias(name) for name, text in zip(names, part, strict=True))
        tables.append(own.with_columns(*told, pl.Series("amount", amount)))
    table = pl.concat(tables).filter("good").sort("place", maintain_order=True)
    return table.select(*_KEYS, *schema)


def stacked(parts: Mapping[str, pl.DataFrame], column: str) -> pl.DataFrame:
    """Tables [row] of each name as one, ordered by row, then as the names stand."""
    place = pl.int_range(pl.len(), dtype=pl.Int64).alias("place")
    named = [part.with_columns(pl.lit(name).alias(column), place) for name, part in parts.items()]
    return pl.concat(named).sort("place", maintain_order=True).drop("place")


def _repeated(of_sets: pl.Series, times: int) -> pl.Series:
    """[set x name] the same for each name of a set."""
    return of_sets.gather(np.repeat(np.arange(len(of_sets)), times))
