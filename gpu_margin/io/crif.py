"""Files and frames in ISDA's Common Risk Interchange Format become a `Crif`.

Rows are read in batches: text is turned into codes at once and forgotten, so that what stays is
numbers. The codes of the result follow the bytes of the ids, whatever the order of rows and files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import FACTOR_COLUMNS, NO_DATE, Codes, Crif
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.io.crif_batches import batches
from gpu_margin.io.crif_codes import Dictionary
from gpu_margin.io.crif_regulations import names_in
from gpu_margin.io.crif_rows import Known, Rows, encode
from gpu_margin.io.market_tables import FX_COLUMNS, fx_rates
from gpu_margin.io.tables import Source, absent_table, read_table

Progress = Callable[[str, int, int], None]

_CURRENCY = "USD"


def read_crif(
    sources: Source | Sequence[Source],
    *,
    fx: Source | None = None,
    progress: Progress | None = None,
    trades: bool = False,
) -> Crif:
    """Read one CRIF or many: paths (CSV with comma, tab or semicolon; Parquet) or Arrow frames.

    Columns are found by name, whatever their capitals and underscores; others are ignored. An
    amount is that of AmountUSD or, where a row has none, Amount in AmountCurrency by the rates `fx`
    (columns currency and rate, USD for one unit). Without a column PortfolioID all rows belong to
    the portfolio "". Only Schedule needs trades to say what the margin is: those of other rows are
    read with `trades` and "" without (they may be many, and their ids are kept in memory).

    Bad rows are left out and in the result's `failures`, those of files first, in their order.
    `progress` is called with a stage, and how many bytes or rows of how many are read. Raises
    `ConfigError` for no source, a missing file or what is neither file nor frame.
    """
    rates, fx_failures = _rates(fx)
    known, reading = Known(rates, trades), _Reading()
    for source in _listed(sources):
        reading.source_rows.append(0)
        for batch in batches(source):
            reading.source_rows[-1] += len(batch.frame)
            if batch.frame.is_empty():
                reading.failures.append(batch.failures)
                continue
            reading.add(encode(batch, known))
            if progress is not None:
                progress(f"read {batch.source}", batch.done, batch.total)
    reading.failures.append(fx_failures)
    return reading.finished(known)


def _listed(sources: Any) -> list[Source]:
    frame = hasattr(sources, "__arrow_c_stream__") or isinstance(sources, pl.LazyFrame)
    if frame or isinstance(sources, (str, Path)) or not isinstance(sources, Iterable):
        return [sources]
    found = list(sources)
    if not found:
        raise ConfigError("crif: no file: give one path or frame at least")
    return found


def _rates(fx: Source | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rates (currency, fx) to USD, and the failures on the way."""
    name = "fx"
    table = absent_table(name, FX_COLUMNS) if fx is None else read_table(fx, name, FX_COLUMNS)
    rates, found = fx_rates(table, _CURRENCY)
    return rates, join_failures([table.failures, found])


class _Reading:
    """Good rows in chunks by column, portfolios of bad rows, and failures."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[NDArray[Any] | None]] = {column: [] for column in _FILL}
        self.sizes: list[int] = []
        self.source_rows: list[int] = []
        self.marked: list[Codes] = []
        self.failures: list[pl.DataFrame] = []

    def add(self, rows: Rows) -> None:
        """Keep the rows of one more batch."""
        self.sizes.append(len(rows.key))
        for column, chunks in self.chunks.items():
            chunks.append(getattr(rows, column))
        self.marked.append(rows.marked)
        self.failures.append(rows.failures)

    def finished(self, known: Known) -> Crif:
        """All rows, with codes in order of their bytes. Empties the chunks as it goes."""
        marked = np.unique(np.concatenate([np.zeros(0, np.int32), *self.marked]))
        portfolios, portfolio = _ranked(known.portfolios, self._column("portfolio"), marked)
        trades, trade = _ranked(known.trades, self._column("trade"))
        sets, collect, post = _regulations(
            known.regulations, self._column("collect"), self._column("post")
        )
        key = self._column("key")
        factors, factor = _factors(known, key)
        incomplete = np.zeros(len(portfolios), np.bool_)
        texts = list(known.portfolios.codes)
        incomplete[portfolios.is_in([texts[code] for code in marked]).to_numpy()] = True
        return Crif(
            portfolios=portfolios.alias("portfolio_id"),
            trades=trades.alias("trade_id"),
            factors=factors,
            regulations=sets,
            portfolio=portfolio,
            trade=trade,
            factor=factor,
            product_class=known.keys.figure("product_class", key),
            schedule_class=known.keys.figure("schedule_class", key),
            model=known.keys.figure("model", key),
            amount=self._column("amount"),
            collect=collect,
            post=post,
            end_date=self._column("end_date"),
            valuation_date=self._column("valuation_date"),
            notional=self._column("notional"),
            incomplete=incomplete,
            failures=join_failures(self.failures),
            source_rows=tuple(self.source_rows),
        )

    def _column(self, name: str) -> NDArray[Any]:
        """All chunks of a column as one array; they are given up."""
        chunks, fill = self.chunks.pop(name), _FILL[name]
        whole = np.zeros(sum(self.sizes), np.float64 if name in _FLOATS else np.int32)
        start = 0
        for place, size in enumerate(self.sizes):
            chunk, chunks[place] = chunks[place], None
            if chunk is not None or fill:  # zeros that are not written take no memory
                whole[start : start + size] = fill if chunk is None else chunk
            start += size
        return whole


# What a column is where a batch does not have it.
_FLOATS = ("amount", "notional")
_FILL = dict.fromkeys(("portfolio", "key", "collect", "post", "trade", *_FLOATS), 0)
_FILL |= dict.fromkeys(("end_date", "valuation_date"), NO_DATE)


def _ranked(
    dictionary: Dictionary, codes: Codes, others: Sequence[int] | Codes = ()
) -> tuple[pl.Series, Codes]:
    """The texts in use in order of their bytes, and [row] the places of the codes there.

    `others` are codes in use beside those of the rows.
    """
    used = np.bincount(codes, minlength=len(dictionary.codes)) > 0
    used[list(others)] = True
    present = np.flatnonzero(used)
    texts = pl.Series(list(dictionary.codes), dtype=pl.String)[present]
    order = texts.arg_sort().to_numpy()
    place = np.zeros(len(used), np.int32)
    place[present[order]] = np.arange(len(present))
    return texts[order], place[codes]


def _factors(known: Known, key: Codes) -> tuple[pl.DataFrame, Codes]:
    """The distinct factors of the rows in order of their bytes, and [row] the factor's code."""
    present = np.flatnonzero(np.bincount(key, minlength=len(known.keys.keys)))
    of_key = {int(code): known.keys.keys[code].factor for code in present}
    factors = sorted(set(of_key.values()))
    code_of = {factor: code for code, factor in enumerate(factors)}
    place = np.zeros(len(known.keys.keys), np.int32)
    place[present] = [code_of[factor] for factor in of_key.values()]
    schema = dict.fromkeys(FACTOR_COLUMNS, pl.String())
    return pl.DataFrame(factors, schema=schema, orient="row"), place[key]


def _regulations(
    dictionary: Dictionary, collect: Codes, post: Codes
) -> tuple[tuple[tuple[str, ...], ...], Codes, Codes]:
    """The distinct sets in use, the empty one first, and [row] the codes of both sides."""
    used = np.bincount(collect, minlength=len(dictionary.codes))
    used += np.bincount(post, minlength=len(dictionary.codes))
    found = [names_in(text) for text in dictionary.codes]
    present = {names for names, rows in zip(found, used, strict=True) if rows}
    sets = tuple(sorted({(), *present}))
    code_of = {names: code for code, names in enumerate(sets)}
    place = np.array([code_of.get(names, 0) for names in found], np.int32)
    return sets, place[collect], place[post]
