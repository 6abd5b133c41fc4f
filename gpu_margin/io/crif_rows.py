"""The rows of a batch as codes and amounts, and the failures of those that are bad."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.crif import NO_DATE, Bools, Codes, Floats, Small
from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.crif_batches import Batch
from gpu_margin.io.crif_codes import Dictionary, distinct
from gpu_margin.io.crif_columns import DATES, KEY_COLUMNS, NOTIONAL, NOTIONAL_CURRENCY
from gpu_margin.io.crif_faults import NOTIONAL_RATE_KEY, RATE_KEY, explain
from gpu_margin.io.crif_keys import MONEY, MULTIPLIER, SCHEDULE, Key, meaning
from gpu_margin.io.rules import LARGEST
from gpu_margin.io.tables import NO_TEXT, ROW

Places = NDArray[np.integer[Any]]


class Keys:
    """Distinct combinations of texts and what they mean, by code."""

    def __init__(self) -> None:
        self.codes: dict[tuple[str | None, ...], int] = {}
        self.keys: list[Key] = []
        self._figures: Small = np.zeros((0, len(Key.FIGURES)), np.int8)

    def encode(self, frame: pl.DataFrame) -> Codes:
        """[row] the code of the row's key."""
        columns = [name for name in KEY_COLUMNS if name in frame.columns]
        local, first = distinct([frame[name] for name in columns])
        found = rules.text_columns(frame.select(columns)[first], KEY_COLUMNS).select(KEY_COLUMNS)
        texts = found.rows()
        codes = [
            self._new(one) if code is None else code
            for one, code in zip(texts, map(self.codes.get, texts), strict=True)
        ]
        added = [key.figures for key in self.keys[len(self._figures) :]]
        if added:
            self._figures = np.concatenate([self._figures, np.array(added, np.int8)])
        return np.array(codes, np.int32)[local]

    def figure(self, name: str, keys: Codes) -> Small:
        """[row] one of `Key.FIGURES` of the row's key."""
        figures: Small = self._figures[:, Key.FIGURES.index(name)]
        return figures[keys]

    def table(self, keys: Codes) -> pl.DataFrame:
        """[row] what the row's key means."""
        distinct_keys, place = np.unique(keys, return_inverse=True)
        columns = ["model", "unit", "dated", "bad", "reason", "field", "value"]
        found = [self.keys[code] for code in distinct_keys]
        kinds = {name: pl.String() if name in columns[-3:] else pl.Int8() for name in columns}
        values = {name: [getattr(key, name) for key in found] for name in columns}
        return pl.DataFrame(values, schema=kinds, strict=False)[place]

    def _new(self, texts: tuple[str | None, ...]) -> int:
        code = self.codes[texts] = len(self.keys)
        self.keys.append(meaning(texts))
        return code


def _starting_empty() -> Dictionary:
    """A dictionary whose code 0 is the empty text."""
    dictionary = Dictionary()
    dictionary.of([""])
    return dictionary


@dataclass
class Known:
    """Rates to USD (currency, fx), and what the batches so far have taught.

    `all_trades` says that the trades of all rows are read, not of Schedule's only. Code 0 of
    `portfolios`, `trades` and `regulations` is what a row has whose file has no such column.
    """

    rates: pl.DataFrame
    all_trades: bool = False
    keys: Keys = field(default_factory=Keys)
    portfolios: Dictionary = field(default_factory=_starting_empty)
    trades: Dictionary = field(default_factory=_starting_empty)
    regulations: Dictionary = field(default_factory=_starting_empty)


@dataclass(frozen=True)
class Rows:
    """The good rows of a batch by the codes of `Known`; None is 0, or no date, in all rows.

    `marked` are the portfolios of the bad rows.
    """

    portfolio: Codes
    key: Codes
    amount: Floats
    collect: Codes | None
    post: Codes | None
    trade: Codes | None
    end_date: Codes | None
    valuation_date: Codes | None
    notional: Floats | None
    marked: Codes
    failures: pl.DataFrame


def encode(batch: Batch, known: Known) -> Rows:
    """Validate and encode the rows of a batch."""
    frame, keys = batch.frame, known.keys
    key = keys.encode(frame)
    portfolio, nameless = _portfolios(batch, known)
    amount = _amounts(frame, keys.figure("unit", key) == MONEY, known.rates)
    terms = _schedule(frame, key, known)
    trade = known.trades.encode(frame["trade_id"]) if _reads_trades(frame, known) else terms.trade
    malformed = batch.failures[ROW].to_numpy() - batch.before - 1
    bad = nameless | terms.bad | (keys.figure("bad", key) == 1)
    wrong = (keys.figure("unit", key) == MULTIPLIER) & (amount < 0)
    wrong |= np.abs(amount) > LARGEST
    bad |= wrong | np.isnan(amount)
    bad[malformed] = True
    failures, marked = batch.failures, portfolio[:0]
    if bad.any():
        rows = np.setdiff1d(np.flatnonzero(bad), malformed)
        if wrong.any() and batch.written is not None:
            batch = replace(batch, frame=batch.written())
        found = explain(batch, rows, keys.table(key[rows]), known.rates)
        failures = join_failures([failures, found]).sort(ROW)
        at = failures[ROW].to_numpy() - batch.before - 1
        marked = np.unique(portfolio[at][~nameless[at]])
    good = ~bad if bad.any() else slice(None)
    return Rows(
        portfolio=portfolio[good],
        key=key[good],
        amount=amount[good],
        collect=_regulations(frame, "collect_regulations", known, good),
        post=_regulations(frame, "post_regulations", known, good),
        trade=_some(trade, good),
        end_date=_some(terms.end_date, good),
        valuation_date=_some(terms.valuation_date, good),
        notional=None if terms.notional is None else terms.notional[good],
        marked=marked,
        failures=failures,
    )


def _reads_trades(frame: pl.DataFrame, known: Known) -> bool:
    return known.all_trades and "trade_id" in frame.columns


def _some(codes: Codes | None, good: Bools | slice) -> Codes | None:
    return None if codes is None else codes[good]


def _regulations(
    frame: pl.DataFrame, column: str, known: Known, good: Bools | slice
) -> Codes | None:
    return known.regulations.encode(frame[column])[good] if column in frame.columns else None


def _portfolios(batch: Batch, known: Known) -> tuple[Codes, Bools]:
    """[row] the portfolio, and whether it is missing or no text."""
    size = len(batch.frame)
    if "portfolio_id" not in batch.frame.columns:
        return np.zeros(size, np.int32), np.zeros(size, np.bool_)
    ids = batch.frame["portfolio_id"]
    codes = known.portfolios.encode(ids)
    return codes, (codes == 0) | _no_text(ids, batch.clean)


def _no_text(texts: pl.Series, clean: bool) -> Bools:
    if clean:
        return np.zeros(len(texts), np.bool_)
    found: Bools = texts.str.contains(NO_TEXT, literal=True).fill_null(False).to_numpy()
    return found


def _amounts(frame: pl.DataFrame, money: Bools, rates: pl.DataFrame) -> Floats:
    """[row] the amount in USD, or the plain figure; NaN where there is none."""
    amount, given = _numbers(frame, "amount_usd")
    rest = np.flatnonzero(~given)
    if len(rest) and "amount" in frame.columns:
        others = frame.select("amount", *_present(frame, ["amount_currency"]))[rest]
        own, _ = _numbers(others, "amount")
        rate = rules.text_columns(others, ["amount_currency"]).select(RATE_KEY)
        fx = rate.join(rates, on="currency", how="left", maintain_order="left")["fx"]
        with np.errstate(over="ignore"):
            amount[rest] = own * np.where(money[rest], _floats(fx), 1.0)
    return amount


def _numbers(frame: pl.DataFrame, column: str) -> tuple[Floats, Bools]:
    """[row] the number, NaN where it is none, and whether anything was given."""
    if column not in frame.columns:
        return np.full(len(frame), np.nan), np.zeros(len(frame), np.bool_)
    if frame.schema[column] == pl.Float64:
        given = frame[column].is_not_null().to_numpy()
        return frame[column].to_numpy(writable=True), given
    numbers = rules.number_columns(frame.select(column), [column])
    given = numbers.select(~rules.left_out(numbers, column)).to_series().to_numpy()
    return _floats(numbers[column]), given


def _floats(numbers: pl.Series) -> Floats:
    values: Floats = numbers.cast(pl.Float64).fill_null(np.nan).to_numpy(writable=True)
    return values


@dataclass(frozen=True)
class _Terms:
    """What only rows of Schedule have, None where there are no such rows."""

    bad: Bools
    trade: Codes | None = None
    end_date: Codes | None = None
    valuation_date: Codes | None = None
    notional: Floats | None = None


def _schedule(frame: pl.DataFrame, key: Codes, known: Known) -> _Terms:
    bad = np.zeros(len(frame), np.bool_)
    rows = np.flatnonzero(known.keys.figure("model", key) == SCHEDULE)
    if not len(rows):
        return _Terms(bad)
    part = frame.select(_present(frame, ["trade_id", *DATES]))[rows]
    part = rules.date_columns(rules.text_columns(part, ["trade_id"]), DATES)
    dated = known.keys.figure("dated", key[rows]) == 1
    trade, end, valuation = (np.full(len(frame), blank, np.int32) for blank in _BLANK)
    trade[rows] = known.trades.encode(part["trade_id"])
    for column, days in zip(DATES, (end, valuation), strict=True):
        days[rows] = part[column].to_physical().fill_null(NO_DATE).to_numpy()
        wrong = part.select(pl.col(column).is_null() & ~rules.left_out(part, column))
        bad[rows] |= wrong.to_series().to_numpy()
    bad[rows] |= (trade[rows] == 0) | (dated & (end[rows] == NO_DATE))
    bad[rows] |= _no_text(part["trade_id"], clean=False)
    notional = _notionals(frame, rows, known.rates)
    if notional is not None:
        bad |= ~(np.abs(notional) <= LARGEST)
    return _Terms(bad, trade, end, valuation, notional)


def _notionals(frame: pl.DataFrame, rows: Places, rates: pl.DataFrame) -> Floats | None:
    """[row] of `rows` what they say of their trade in USD, 0 for nothing; NaN for no number."""
    columns = _present(frame, [NOTIONAL, NOTIONAL_CURRENCY])
    if NOTIONAL not in columns:
        return None
    part = rules.text_columns(frame.select(columns)[rows], [NOTIONAL_CURRENCY])
    number, given = _numbers(part, NOTIONAL)
    rate = part.select(NOTIONAL_RATE_KEY).join(
        rates, on="currency", how="left", maintain_order="left"
    )
    found = np.zeros(len(frame))
    with np.errstate(over="ignore", invalid="ignore"):
        found[rows] = np.where(given, number * _floats(rate["fx"]), 0.0)
    return found


_BLANK = (0, NO_DATE, NO_DATE)


def _present(frame: pl.DataFrame, columns: list[str]) -> list[str]:
    return [column for column in columns if column in frame.columns]
