"""Tables of instruments, history and fx become a `Market`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import LARGEST, Rule
from gpu_margin.io.tables import Table
from gpu_margin.market import LINEAR_KINDS, OPTION_KINDS, History, Instruments, Market

INSTRUMENT_COLUMNS = ("instrument_id", "kind", "underlying", "currency")
INSTRUMENT_OPTIONAL = (
    "multiplier",
    "price",
    "product_group",
    "contract_id",
    "strike",
    "expiry",
    "implied_vol",
    "forward",
    "rate",
)
HISTORY_COLUMNS = ("date", "factor", "price")
FX_COLUMNS = ("currency", "rate")

_NUMBERS = ("multiplier", "price", "strike", "implied_vol", "forward", "rate")
_OPTION = pl.col("kind").is_in(OPTION_KINDS)
_LINEAR = pl.col("kind").is_in(LINEAR_KINDS)


@dataclass(frozen=True)
class LoadedMarket:
    """The market, the code of every instrument id and the failures on the way.

    `codes` has instrument_id and code, null where the instrument failed; `rates` (currency, fx) are
    those into the margin currency, and `prices` (date, factor, price) the history's valid ones up
    to the valuation date, of all factors and dates.
    """

    market: Market
    codes: pl.DataFrame
    rates: pl.DataFrame
    prices: pl.DataFrame
    failures: pl.DataFrame


def load_market(
    instruments: Table,
    history: Table,
    fx: Table,
    valuation_date: date,
    currency: str,
    labels: Sequence[str] = (),
) -> LoadedMarket:
    """Validate the three tables and encode them, as of the valuation date.

    Instruments whose row fails, whose currency has no rate or whose underlying has no history
    are left out; history dates are those where every factor in use has a valid price. `labels` are
    further columns that the market is to have, where the table has them; an instrument without a
    label has its own id.
    """
    rates, fx_failures = fx_rates(fx, currency)
    prices, history_failures = _valid_prices(history, valuation_date)
    described = _describe(instruments, rates, prices, valuation_date)
    found = rules.check(described, instruments.source, _instrument_rules(described))
    valid = rules.passing(described, found).sort("instrument_id")
    factors = valid["underlying"].unique().sort()
    groups = valid["product_group"].unique().sort()
    market = Market(
        valuation_date=valuation_date,
        currency=currency,
        instruments=_encode(valid, factors, groups),
        groups=groups,
        history=_common_history(prices, factors),
        labels={label: _label(valid, label) for label in labels if label in valid.columns},
    )
    failures = join_failures(
        [instruments.failures, found, history.failures, history_failures, fx.failures, fx_failures]
    )
    return LoadedMarket(market, _codes(described, valid), rates, prices, failures)


def _label(valid: pl.DataFrame, column: str) -> pl.Series:
    """[instrument] the column as text, the instrument's own id where there is none."""
    text = rules.text_columns(valid, [column])[column]
    return text.fill_null(valid["instrument_id"])


def fx_rates(fx: Table, currency: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rates (currency, fx) into the margin currency, whose own is 1, and the failed rows."""
    frame = rules.number_columns(rules.text_columns(fx.good, ["currency"]), ["rate"])
    own = (pl.col("currency") == currency) & (pl.col("rate") != 1)
    found = rules.check(
        frame,
        fx.source,
        [
            *rules.missing_text("currency"),
            *rules.unique(["currency"], "duplicate currency: keep one row"),
            *rules.missing_number(frame, "rate"),
            *rules.positive("rate"),
            Rule(f"rate of the margin currency {currency} must be 1", "rate", own),
        ],
    )
    own_rate = pl.DataFrame({"currency": [currency], "fx": [1.0]})
    rates = rules.passing(frame, found).select("currency", pl.col("rate").alias("fx"))
    return pl.concat([own_rate, rates.filter(pl.col("currency") != currency)]), found


def _valid_prices(history: Table, valuation_date: date) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows (date, factor, price) up to the valuation date, oldest first, and the failed rows."""
    frame = rules.number_columns(rules.text_columns(history.good, ["factor"]), ["price"])
    frame = rules.date_columns(frame, ["date"])
    frame = frame.filter(pl.col("date").is_null() | (pl.col("date") <= valuation_date))
    found = rules.check(
        frame,
        history.source,
        [
            *rules.a_date(frame, "date"),
            *rules.missing("date"),
            *rules.missing_text("factor"),
            *rules.missing_number(frame, "price"),
            *rules.positive("price"),
            *rules.unique(["date", "factor"], "duplicate date and factor: keep one row"),
        ],
    )
    valid = rules.passing(frame, found).select("date", "factor", "price")
    return valid.sort("date", "factor"), found


def _describe(
    instruments: Table, rates: pl.DataFrame, prices: pl.DataFrame, valuation_date: date
) -> pl.DataFrame:
    """Instrument rows with numbers parsed, defaults filled in, fx rate and last price beside."""
    texts = [*INSTRUMENT_COLUMNS, "product_group"]
    frame = rules.number_columns(rules.text_columns(instruments.good, texts), _NUMBERS)
    frame = rules.date_columns(frame, ["expiry"])
    last = prices.group_by("factor", maintain_order=True).agg(pl.col("price").last().alias("last"))
    days = (pl.col("expiry") - valuation_date).dt.total_days()
    joined = frame.with_columns(pl.col("kind").str.strip_chars().str.to_lowercase()).join(
        last, left_on="underlying", right_on="factor", how="left", maintain_order="left"
    )
    return joined.join(rates, on="currency", how="left", maintain_order="left").with_columns(
        pl.col("product_group").fill_null(pl.col("underlying")),
        (days / 365.0).alias("time"),
    )


def _instrument_rules(frame: pl.DataFrame) -> list[Rule]:
    known = _OPTION | _LINEAR
    no_rate = pl.col("fx").is_null()
    kinds = ", ".join((*LINEAR_KINDS, *OPTION_KINDS))
    return [
        *rules.missing_text("instrument_id"),
        *rules.unique(["instrument_id"], "duplicate instrument_id: all copies fail, keep one row"),
        *rules.missing_text("kind"),
        Rule(f"unknown kind: it must be one of {kinds}", "kind", ~known),
        *rules.missing_text("underlying"),
        *rules.a_text("product_group"),
        *rules.missing_text("currency"),
        Rule("currency without a rate: add it to the fx table", "currency", no_rate),
        *rules.a_number(frame, "multiplier"),
        *rules.positive("multiplier"),
        *rules.missing_number(frame, "price", _LINEAR),
        *rules.not_negative("price", pl.col("kind").is_in(("spot", "perpetual"))),
        *_option_rules(frame),
        Rule(
            "factor without history: no valid price of the underlying up to the valuation date",
            "underlying",
            pl.col("last").is_null(),
        ),
    ]


def _option_rules(frame: pl.DataFrame) -> list[Rule]:
    discount = (-pl.col("rate").fill_null(0.0) * pl.col("time")).exp()
    return [
        *rules.missing_number(frame, "strike", _OPTION),
        *rules.positive("strike", _OPTION),
        *rules.a_date(frame, "expiry", _OPTION),
        *rules.missing("expiry", _OPTION),
        Rule(
            "expired option: expiry before the valuation date",
            "expiry",
            _OPTION & (pl.col("time") < 0),
        ),
        *rules.missing_number(frame, "implied_vol", _OPTION),
        *rules.not_negative("implied_vol", _OPTION),
        *rules.a_number(frame, "forward", _OPTION),
        *rules.positive("forward", _OPTION),
        *rules.a_number(frame, "rate", _OPTION),
        Rule("rate gives a discount factor out of range", "rate", _OPTION & (discount > LARGEST)),
    ]


def _codes(described: pl.DataFrame, valid: pl.DataFrame) -> pl.DataFrame:
    codes = valid.select("instrument_id").with_row_index("code")
    ids = described.select(pl.col("instrument_id").drop_nulls().unique(maintain_order=True))
    return ids.join(codes, on="instrument_id", how="left").with_columns(
        pl.col("code").cast(pl.Int64)
    )


def _encode(valid: pl.DataFrame, factors: pl.Series, groups: pl.Series) -> Instruments:
    """Columns of valid rows (sorted by id) as arrays."""
    option = valid["kind"].is_in(OPTION_KINDS).to_numpy()
    multiplier = _floats(valid["multiplier"].fill_null(1.0))
    forward = valid["forward"].fill_null(valid["last"])

    def option_field(column: str, otherwise: float) -> NDArray[np.float64]:
        return np.where(option, _floats(valid[column].fill_null(otherwise)), otherwise)

    return Instruments(
        ids=valid["instrument_id"],
        option=option,
        call=(valid["kind"] == "call").to_numpy(),
        factor=_rank(valid["underlying"], factors),
        group=_rank(valid["product_group"], groups),
        scale=multiplier * _floats(valid["fx"]),
        level=np.where(option, _floats(forward), _floats(valid["price"].fill_null(0.0))),
        strike=option_field("strike", 1.0),
        volatility=option_field("implied_vol", 0.0),
        time=option_field("time", 0.0),
        rate=option_field("rate", 0.0),
    )


def _common_history(prices: pl.DataFrame, factors: pl.Series) -> History:
    """Dates where every factor has a price: the others cannot give a return to all."""
    used = prices.filter(pl.col("factor").is_in(factors.implode()))
    complete = used.filter(pl.len().over("date") == len(factors))
    matrix = _floats(complete["price"]).reshape(-1, max(len(factors), 1))
    dates: Sequence[date] = complete["date"].unique(maintain_order=True).to_list()
    return History(tuple(dates), tuple(factors.to_list()), matrix)


def _rank(values: pl.Series, sorted_unique: pl.Series) -> NDArray[np.int64]:
    """Position of each value among the sorted unique ones."""
    lookup = {value: code for code, value in enumerate(sorted_unique.to_list())}
    return np.array([lookup[value] for value in values.to_list()], dtype=np.int64)


def _floats(series: pl.Series) -> NDArray[np.float64]:
    return series.cast(pl.Float64).to_numpy().astype(np.float64, copy=False)
