"""Parts of a CRIF, and two as one: rows are chosen and codes translated, no text is copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import FACTOR_COLUMNS, Bools, Codes, Crif
from gpu_margin.failures import failure_table, join_failures

Ints = NDArray[np.int64]

# Columns that are [row].
_ROWS = (
    *("portfolio", "trade", "factor", "product_class", "schedule_class", "model", "amount"),
    *("collect", "post", "end_date", "valuation_date", "notional"),
)


@dataclass(frozen=True)
class ByPortfolio:
    """Rows in order of portfolio: those of portfolio p are rows[offsets[p] : offsets[p + 1]]."""

    rows: Ints
    offsets: Ints

    def of(self, portfolios: Ints) -> tuple[Ints, Ints]:
        """Rows of portfolios, which may come more than once, and [row] which of them it is for."""
        return ragged(self.rows, self.offsets[portfolios], self.offsets[portfolios + 1])


def by_portfolio(crif: Crif, among: Ints | None = None) -> ByPortfolio:
    """The rows of every portfolio, or those of them that are among some."""
    rows = np.arange(len(crif)) if among is None else among
    owner = crif.portfolio[rows]
    if (owner[1:] < owner[:-1]).any():
        order = np.argsort(owner, kind="stable")
        rows, owner = rows[order], owner[order]
    count = len(crif.portfolios)
    return ByPortfolio(rows, np.searchsorted(owner, np.arange(count + 1)).astype(np.int64))


def ragged(values: Ints, start: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """The values from each start to its stop, one after another, and [value] which stretch."""
    sizes = stop - start
    owner = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return values[start[owner] + place], owner


def of_rows(
    crif: Crif,
    rows: Ints | slice,
    portfolio: NDArray[np.integer[Any]],
    portfolios: pl.Series,
    incomplete: Bools,
) -> Crif:
    """Some rows, in any number, under other portfolios: `portfolio` [of rows] codes of these.

    Without failures, which are those of the whole.
    """
    columns: dict[str, Any] = {name: getattr(crif, name)[rows] for name in _ROWS}
    columns["portfolio"] = portfolio.astype(np.int32)
    return replace(
        crif,
        **columns,
        portfolios=portfolios,
        incomplete=incomplete,
        failures=failure_table(),
    )


def with_rows(crif: Crif, kept: Bools) -> Crif:
    """All portfolios with some of their rows: `kept` [row]."""
    if kept.all():
        return crif
    return replace(crif, **{name: getattr(crif, name)[kept] for name in _ROWS})


def pieces(crif: Crif, most: int) -> Iterator[Crif]:
    """The same in pieces of whole portfolios: up to `most` rows, or those of one portfolio more.

    Without failures, which are those of the whole.
    """
    if len(crif) <= most:
        yield replace(crif, failures=failure_table())
        return
    grouped = by_portfolio(crif)
    # Where rows stand in order of portfolio nothing has to be copied.
    ordered = not (crif.portfolio[1:] < crif.portfolio[:-1]).any()
    for first, last in stretches(np.diff(grouped.offsets), most):
        place = slice(int(grouped.offsets[first]), int(grouped.offsets[last]))
        rows = place if ordered else grouped.rows[place]
        own = slice(first, last)
        yield of_rows(
            crif,
            rows,
            crif.portfolio[rows] - first,
            crif.portfolios[own],
            crif.incomplete[own],
        )


def stretches(sizes: Ints, most: int) -> Iterator[tuple[int, int]]:
    """First and end of stretches that add up to `most` at most, but for their last item."""
    if not len(sizes):
        return
    before = np.cumsum(sizes) - sizes
    cuts = np.flatnonzero(np.diff(before // most, prepend=-1))
    ends = [*cuts[1:].tolist(), len(sizes)]
    yield from zip(cuts.tolist(), ends, strict=True)


def joined(first: Crif, second: Crif) -> Crif:
    """The rows of both, those of the first before the others, and the failures of both."""
    portfolios, portfolio, whose = _union(first.portfolios, second.portfolios)
    trades, trade, other_trade = _union(first.trades, second.trades)
    factors, factor, other_factor = _factors(first.factors, second.factors)
    regulations = tuple(sorted({*first.regulations, *second.regulations, ()}))
    code = {names: place for place, names in enumerate(regulations)}
    regulation, other = (
        np.array([code[names] for names in one.regulations], dtype=np.int32)
        for one in (first, second)
    )
    translated = {
        "portfolio": (portfolio, whose),
        "trade": (trade, other_trade),
        "factor": (factor, other_factor),
        "collect": (regulation, other),
        "post": (regulation, other),
    }
    columns: dict[str, Any] = {}
    for name in _ROWS:
        parts = [getattr(first, name), getattr(second, name)]
        if name in translated:
            parts = [codes[part] for codes, part in zip(translated[name], parts, strict=True)]
        columns[name] = np.concatenate(parts)
    incomplete = np.zeros(len(portfolios), dtype=np.bool_)
    incomplete[portfolio[first.incomplete]] = True
    incomplete[whose[second.incomplete]] = True
    return Crif(
        portfolios=portfolios,
        trades=trades,
        factors=factors,
        regulations=regulations,
        incomplete=incomplete,
        failures=join_failures([first.failures, second.failures]),
        **columns,
    )


def _union(first: pl.Series, second: pl.Series) -> tuple[pl.Series, Codes, Codes]:
    """All texts in byte order, and the codes of each one's there."""
    texts = pl.concat([first, second.alias(first.name)]).unique().sort()
    table, own, other = (one.to_frame("text") for one in (texts, first, second))
    return texts, _codes(table, own), _codes(table, other)


def _factors(first: pl.DataFrame, second: pl.DataFrame) -> tuple[pl.DataFrame, Codes, Codes]:
    keys = pl.concat([first, second]).unique().sort(FACTOR_COLUMNS)
    return keys, _codes(keys, first), _codes(keys, second)


def _codes(keys: pl.DataFrame, wanted: pl.DataFrame) -> Codes:
    """[of wanted] the place among the keys."""
    places = keys.with_columns(pl.Series("place", np.arange(len(keys), dtype=np.int32)))
    found = wanted.join(places, on=keys.columns, how="left", maintain_order="left")
    codes: Codes = found["place"].to_numpy()
    return codes
