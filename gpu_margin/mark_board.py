"""The mark board: what is known of every underlying's price, how old it is, how much it moves.

An underlying is a factor of the history. Its price is marked by `last` of the factor, or else by
the `price` of an instrument on it that is no option. Volatility needs one series, for the basis
between two is no return: a factor follows the first source that marks it. `last` takes over when it
comes, and any source when what is followed is older than the board's limit; what then moves is no
return either. Marks of options (their forward and volatility) say nothing here.

A board does not change: `after` gives the next one. Marks in the same order give the same bits,
however they are cut into batches. Times are seconds since 1970 UTC.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.market import Market
from gpu_margin.portfolio import Rows
from gpu_margin.throttle import SECONDS_PER_YEAR, MarkState, update_volatility

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# instrument_id and factor (one is None), field, value, time: as `LoadedMarks.marks` has them
MarkRow = tuple[str | None, str | None, str, float, float]

_SCHEMA = {
    "factor": pl.String,
    "instrument_id": pl.String,
    "price": pl.Float64,
    "time": pl.Float64,
    "variance": pl.Float64,
}


@dataclass(frozen=True, eq=False)
class _Places:
    """Codes of factors by their name, and by the id of an instrument whose price is theirs."""

    of_factor: Mapping[str, int]
    of_instrument: Mapping[str, int]
    underlying: Ints


@dataclass(frozen=True, eq=False)
class MarkBoard:
    """Marks of underlyings in one market: made by `mark_board`.

    [factor], by code: `price`, `time` and `variance` of the log price per second, NaN where there
    is no mark; `source` the instrument whose price is followed, None for `last` of the factor.
    `half_life` of a return in seconds; `stale_seconds` is the age from which another source takes
    over, and what is stale by default.
    """

    places: _Places
    price: Floats
    time: Floats
    variance: Floats
    source: tuple[str | None, ...]
    half_life: float
    stale_seconds: float

    def after(self, marks: Iterable[MarkRow]) -> MarkBoard:
        """The board after marks in sequence; those that are of no underlying change nothing."""
        changed: dict[int, tuple[MarkState, str | None]] = {}
        for instrument, factor, field, value, time in marks:
            code = self._code(instrument, factor, field)
            if code < 0:
                continue
            before, source = changed.get(code) or (self._state(code), self.source[code])
            if before is None or source == instrument:
                state = update_volatility(before, value, time, self.half_life)
            else:
                state = self._taken_over(before, instrument, value, time)
            if state is not None and state is not before:
                changed[code] = state, instrument
        return self._with(changed) if changed else self

    def states(self) -> Mapping[int, MarkState]:
        """The marks by code of the underlying."""
        return _States(self)

    @cached_property
    def volatility(self) -> Floats:
        """[factor] realised, per year, as a decimal; NaN without a mark."""
        return np.sqrt(self.variance * SECONDS_PER_YEAR)

    def stale(self, now: float, limit: float | None = None) -> Bools:
        """[factor] whether its mark is missing or older than `limit` seconds."""
        fresh: Bools = now - self.time <= (self.stale_seconds if limit is None else limit)
        return ~fresh

    def stale_sets(self, rows: Rows, now: float, limit: float | None = None) -> Bools:
        """[row] whether an underlying of its instruments has a mark that is missing or stale."""
        stale = self.stale(now, limit)
        if not stale.any() or not len(rows.column):
            return np.zeros(len(rows), dtype=np.bool_)
        # How many of them there are up to every entry; entries of a row stand together.
        found = np.concatenate([[0], np.cumsum(stale[self.places.underlying[rows.column]])])
        return np.asarray(np.diff(found[rows.offsets]) > 0)

    def table(self) -> pl.DataFrame:
        """factor, instrument_id (null where `last` is followed), price, time, variance."""
        name = {code: factor for factor, code in self.places.of_factor.items()}
        known = np.flatnonzero(~np.isnan(self.time)).tolist()
        columns = {
            "factor": [name[code] for code in known],
            "instrument_id": [self.source[code] for code in known],
            "price": self.price[known],
            "time": self.time[known],
            "variance": self.variance[known],
        }
        return pl.DataFrame(columns, schema=_SCHEMA)

    def restored(self, table: pl.DataFrame) -> MarkBoard:
        """The board with what another one's `table` says, also of a market with other codes."""
        changed = {}
        for factor, source, *figures in table.select(*_SCHEMA).iter_rows():
            if factor in self.places.of_factor:
                changed[self.places.of_factor[factor]] = (MarkState(*figures), source)
        return self._with(changed)

    def _code(self, instrument: str | None, factor: str | None, field: str) -> int:
        """The underlying that is marked, -1 for none."""
        if instrument is not None:
            return self.places.of_instrument.get(instrument, -1) if field == "price" else -1
        return self.places.of_factor.get(factor or "", -1) if field == "last" else -1

    def _state(self, code: int) -> MarkState | None:
        time = float(self.time[code])
        if math.isnan(time):
            return None
        return MarkState(float(self.price[code]), time, float(self.variance[code]))

    def _taken_over(
        self, before: MarkState, instrument: str | None, price: float, time: float
    ) -> MarkState:
        """The state after a mark of a source that was not followed."""
        passed = time - before.time
        if not (0.0 < price < math.inf and math.isfinite(time) and passed >= 0.0):
            return before
        if instrument is not None and passed <= self.stale_seconds:
            return before
        return MarkState(price, time, before.variance)

    def _with(self, changed: Mapping[int, tuple[MarkState, str | None]]) -> MarkBoard:
        price, time, variance = self.price.copy(), self.time.copy(), self.variance.copy()
        source = list(self.source)
        for code, (state, of) in changed.items():
            price[code], time[code], variance[code] = state.price, state.time, state.variance
            source[code] = of
        return replace(self, price=price, time=time, variance=variance, source=tuple(source))


class _States(Mapping[int, MarkState]):
    """The marks of a board."""

    def __init__(self, board: MarkBoard) -> None:
        self._board = board

    def __getitem__(self, code: int) -> MarkState:
        known = 0 <= code < len(self._board.time)
        state = self._board._state(code) if known else None
        if state is None:
            raise KeyError(code)
        return state

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(~np.isnan(self._board.time)).tolist())

    def __len__(self) -> int:
        return int(np.count_nonzero(~np.isnan(self._board.time)))


def mark_board(
    market: Market, half_life: float, stale_seconds: float, marks: pl.DataFrame | None = None
) -> MarkBoard:
    """The board of a market; `marks`, as `LoadedMarks.marks` has them, come first by their time.

    What the tables say without a time (prices of instruments, the history) is no mark.
    """
    instruments = market.instruments
    linear = np.flatnonzero(~instruments.option).tolist()
    ids, factor = instruments.ids.to_list(), instruments.factor
    places = _Places(
        of_factor={name: code for code, name in enumerate(market.history.factors)},
        of_instrument={ids[one]: int(factor[one]) for one in linear},
        underlying=factor,
    )
    count = len(market.history.factors)
    none = np.full(count, math.nan)
    board = MarkBoard(places, none, none, none, (None,) * count, half_life, stale_seconds)
    if marks is None:
        return board
    rows = marks.select("instrument_id", "factor", "field", "value", "time")
    ordered = rows.sort("time", "factor", "instrument_id", nulls_last=True, maintain_order=True)
    return board.after(ordered.iter_rows())
