"""Scenario studies on a crypto venue: all accounts in any number of markets.

A market is the feeds' own after a move: prices of underlyings times factors, implied volatilities
times one. Positions stay; what they gain on the way is in their mark-to-market.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import polars as pl
from pydantic import Field, ValidationError

from gpu_margin import crypto_tables
from gpu_margin.crypto_batches import Work
from gpu_margin.crypto_book import CryptoBook, CryptoMarket
from gpu_margin.crypto_files import Inputs
from gpu_margin.crypto_moves import moved, moved_book, shaken
from gpu_margin.failures import ConfigError, failure_table, join_failures
from gpu_margin.settings import Settings

# The market as the feeds have it.
UNMOVED = "unmoved"

_Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Move(Settings):
    """Factors: `prices` by underlying, and `volatility` of all implied volatilities."""

    prices: dict[str, _Factor] = Field(default={})
    volatility: _Factor = 1.0


@dataclass(frozen=True)
class Study:
    """Margins of all netting sets in every market, in USD.

    `margins`: move, then the columns of `CryptoRun.margins`, then pnl: what the move has brought
    the set, null where it is not known; `unmoved` comes first, then the moves as they were asked.
    `failures` are those of the files, and of margins with the move before their reason.
    """

    margins: pl.DataFrame
    failures: pl.DataFrame
    manifest: dict[str, Any] = field(default_factory=dict)


def studied(work: Work, inputs: Inputs, moves: Mapping[str, Mapping[str, Any]]) -> Study:
    """All sets under all moves; `moves` by name, each with the fields of `Move`.

    Raises `ConfigError` for a factor that is none, or an underlying that the feeds do not have.
    """
    asked = {name: _move(name, move, inputs.market) for name, move in moves.items()}
    if UNMOVED in asked:
        raise ConfigError(f"moves.{UNMOVED}: the market as it is always comes first: rename this")
    tables, failures = [], [inputs.failures]
    work.report("study", 0, len(asked) + 1)
    for done, (name, move) in enumerate({UNMOVED: Move(), **asked}.items(), 1):
        market, book = _after(inputs.market, inputs.book, move)
        found = work.quoted(market).quietly(book, "study")
        tables.append(
            crypto_tables.margins(book, market, found).select(pl.lit(name).alias("move"), pl.all())
        )
        said = join_failures([found.failures, crypto_tables.overflows(book, found)])
        reason = pl.concat_str(pl.lit(f"{name}: "), "reason").alias("reason")
        failures.append(said.with_columns(reason) if len(said) else failure_table())
        work.report("study", done, len(asked) + 1)
    equity = pl.col("mark_to_market") + pl.col("cash")
    before = pl.concat([tables[0].select(equity.alias("before"))["before"]] * len(tables))
    margins = pl.concat(tables).with_columns((equity - before).alias("pnl"))
    return Study(margins, join_failures(failures))


def _move(name: str, given: Mapping[str, Any], market: CryptoMarket) -> Move:
    try:
        move = Move.model_validate(dict(given))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join([name, *map(str, fault["loc"])])
        raise ConfigError(f"moves.{place}: {fault['msg']} (given: {fault['input']!r})") from error
    known = market.underlyings.to_list()
    unknown = sorted(set(move.prices) - set(known))
    if unknown:
        raise ConfigError(
            f"moves.{name}: unknown underlying {unknown[0]!r}; the feeds have {', '.join(known)}"
        )
    return move


def _after(market: CryptoMarket, book: CryptoBook, move: Move) -> tuple[CryptoMarket, CryptoBook]:
    """Market and book after the prices' moves, one after another, and then the volatilities'."""
    for code, name in enumerate(market.underlyings):
        factor = move.prices.get(name, 1.0)
        if factor != 1.0:
            book = moved_book(book, market, code, factor)
            market = moved(market, code, factor)
    return (market if move.volatility == 1.0 else shaken(market, move.volatility)), book
