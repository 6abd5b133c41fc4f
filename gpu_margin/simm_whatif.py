"""What trades would do to SIMM: all of them together, and each by itself.

A trade that is tried by itself makes a portfolio of its own of its portfolio's rows with the
trade's, or without them; these portfolios are margined as a batch like any other. Rows of one trade
are those of one portfolio with one trade_id; rows that name no trade count as one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import Bools, Crif
from gpu_margin.crif_parts import (
    ByPortfolio,
    by_portfolio,
    joined,
    of_rows,
    ragged,
    stretches,
    with_rows,
)
from gpu_margin.devices import Device
from gpu_margin.failures import ConfigError
from gpu_margin.models.simm.calculation import Parameters
from gpu_margin.models.simm.kinds import SIDES
from gpu_margin.simm_batches import ROWS, Figures, figures, results_of
from gpu_margin.tiling import Progress

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ADDED, REMOVED = "added", "removed"


@dataclass(frozen=True)
class Changed:
    """A CRIF to which trades are added and from which others are removed.

    `whole` has the rows of before, then those added; `base` says how many the former are, and
    `out` [row of whole] which are removed. `incomplete` [portfolio] is that of before.
    """

    whole: Crif
    base: int
    out: Bools
    incomplete: Bools

    @property
    def after(self) -> Crif:
        """The CRIF with all changes."""
        return with_rows(self.whole, ~self.out)

    @property
    def touched(self) -> Ints:
        """Codes of the portfolios that have a trade added or removed, or a bad row among them."""
        changed = self.out.copy()
        changed[self.base :] = True
        own = np.bincount(self.whole.portfolio[changed], minlength=len(self.whole.portfolios)) > 0
        return np.flatnonzero(own | (self.whole.incomplete != self.incomplete))


@dataclass(frozen=True)
class _Trials:
    """Trades tried by themselves: codes [trial] of portfolio and trade, in this order.

    `removed` [trial]; `start` and `stop` [trial] are its rows among `rows`, added or removed.
    """

    portfolio: Ints
    trade: Ints
    removed: Bools
    rows: Ints
    start: Ints
    stop: Ints

    def __len__(self) -> int:
        return len(self.portfolio)


def changed(base: Crif, added: Crif | None, removed: Sequence[str]) -> Changed:
    """The rows of both; `ConfigError` for a trade to remove that no good row is of."""
    whole = base if added is None else joined(base, added)
    codes = np.flatnonzero(whole.trades.is_in(list(removed)).to_numpy())
    out = np.isin(whole.trade, codes)
    out[len(base) :] = False
    found = set(whole.trades.gather(np.unique(whole.trade[out])).to_list())
    missing = [name for name in dict.fromkeys(removed) if name not in found]
    if missing:
        raise ConfigError(_unknown_trades(missing, base.trades))
    incomplete = np.zeros(len(whole.portfolios), dtype=np.bool_)
    incomplete[whole.portfolios.is_in(base.portfolios.filter(base.incomplete).implode())] = True
    return Changed(whole, len(base), out, incomplete)


def before(change: Changed, parameters: Parameters, device: Device, report: Progress) -> Figures:
    """Margins of the touched portfolios before."""
    touched = change.touched
    grouped = by_portfolio(change.whole, np.arange(change.base))
    sizes = grouped.offsets[touched + 1] - grouped.offsets[touched]
    whole = change.whole

    def parts() -> Iterator[Crif]:
        for first, last in stretches(sizes, ROWS):
            own = touched[first:last]
            rows, owner = grouped.of(own)
            yield of_rows(whole, rows, owner, whole.portfolios.gather(own), change.incomplete[own])

    return figures(
        results_of(parts(), parameters, device, report, "before the trades", len(touched))
    )


def each_trade(
    change: Changed,
    margin: Floats,
    parameters: Parameters,
    device: Device,
    report: Progress,
) -> pl.DataFrame:
    """What each trade would do by itself; `margin` [portfolio, side] is that before, in USD.

    Columns portfolio_id, trade_id, what (added, removed), side, before, after,
    incremental_margin, complete; in order of portfolio, trade (by bytes), what and side.
    """
    trials = _trials(change)
    variants, count = _variants(change, trials), len(trials)
    found = figures(results_of(variants, parameters, device, report, "trade by trade", count))
    places = np.array(parameters.places)
    trial, side = np.repeat(np.arange(len(trials)), len(places)), np.tile(places, len(trials))
    owner = trials.portfolio[trial]
    frame = pl.DataFrame(
        {
            "portfolio_id": change.whole.portfolios.gather(owner),
            "trade_id": change.whole.trades.gather(trials.trade[trial]),
            "what": pl.Series([ADDED, REMOVED]).gather(trials.removed[trial].astype(np.int64)),
            "side": pl.Series(SIDES, dtype=pl.String).gather(side),
            "before": margin[owner, side],
            "after": found.margin[trial, side],
            "incremental_margin": found.margin[trial, side] - margin[owner, side],
            "complete": found.complete[trial],
        }
    )
    return frame.fill_nan(None)


def _trials(change: Changed) -> _Trials:
    """Every trade that is added to or removed from a portfolio."""
    whole = change.whole
    what = change.out.astype(np.int64)
    rows = np.flatnonzero(change.out | (np.arange(len(whole)) >= change.base))
    order = np.lexsort((what[rows], whole.trade[rows], whole.portfolio[rows]))
    rows = rows[order]
    label = np.stack([whole.portfolio[rows], whole.trade[rows], what[rows]])
    new = np.ones(len(rows), dtype=np.bool_)
    new[1:] = (label[:, 1:] != label[:, :-1]).any(axis=0)
    start = np.flatnonzero(new)
    stop = np.append(start[1:], len(rows))
    portfolio, trade, removed = label[:, start]
    return _Trials(portfolio, trade, removed.astype(np.bool_), rows, start, stop)


def _variants(change: Changed, trials: _Trials) -> Iterator[Crif]:
    """CRIFs with a portfolio for every trial, as many at a time as fit into memory."""
    grouped = by_portfolio(change.whole, np.arange(change.base))
    held = grouped.offsets[trials.portfolio + 1] - grouped.offsets[trials.portfolio]
    for first, last in stretches(held + trials.stop - trials.start, ROWS):
        yield _variant(change, trials, grouped, slice(first, last))


def _variant(change: Changed, trials: _Trials, grouped: ByPortfolio, own: slice) -> Crif:
    whole = change.whole
    portfolio, trade, removed = trials.portfolio[own], trials.trade[own], trials.removed[own]
    rows, owner = grouped.of(portfolio)
    kept = ~(removed[owner] & (whole.trade[rows] == trade[owner]))
    start, stop = trials.start[own], trials.stop[own]
    more, whose = ragged(trials.rows, start, np.where(removed, start, stop))
    incomplete = np.where(removed, change.incomplete[portfolio], whole.incomplete[portfolio])
    return of_rows(
        whole,
        np.concatenate([rows[kept], more]),
        np.concatenate([owner[kept], whose]),
        whole.portfolios.gather(portfolio),
        incomplete,
    )


def _unknown_trades(missing: Sequence[str], known: pl.Series) -> str:
    names = ", ".join(repr(name) for name in missing[:5])
    more = "" if len(missing) <= 5 else f" and {len(missing) - 5} more"
    near = difflib.get_close_matches(missing[0], known.head(10_000).to_list(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"remove: no good row of the CRIF is of trade {names}{more}{hint}"
