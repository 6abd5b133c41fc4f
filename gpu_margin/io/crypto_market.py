"""What feeds say, whatever their format, becomes a `CryptoMarket`.

An object that breaks a rule is a failure; what refers to it fails with it, and the rest goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.crypto_book import (
    KINDS,
    OPTION,
    CryptoInstruments,
    CryptoMarket,
    Expiries,
    Floats,
    Ints,
)
from gpu_margin.failures import failure_table, join_failures
from gpu_margin.io import rules
from gpu_margin.io.crypto_json import Record, located, record_frame
from gpu_margin.io.crypto_rules import (
    COINS,
    DATED,
    RIGHTS,
    STABLE,
    SURE,
    SVI_COLUMNS,
    confidence,
    expiry_rules,
    instrument_rules,
    underlying_rules,
)
from gpu_margin.io.rules import Rule


@dataclass(frozen=True)
class FeedRecords:
    """What feeds say, object by object, before any of it is believed.

    `head` has `time` (ISO text or seconds since 1970), `stable` and `confidence`, the price of the
    stable coin. Underlyings have `underlying`, their name; expiries have it too. `failures` are of
    what found no place here.
    """

    head: Record
    underlyings: tuple[Record, ...]
    expiries: tuple[Record, ...]
    instruments: tuple[Record, ...]
    failures: pl.DataFrame


@dataclass(frozen=True)
class Feeds:
    """The market, and what could not be used.

    Where an option has no volatility of its own, it is NaN in the market: it follows from
    `surfaces` [expiry, parameter of `SVI`], NaN where there is none. `codes` has instrument_id,
    code and kind, both null where the instrument itself failed.
    """

    market: CryptoMarket
    surfaces: Floats
    codes: pl.DataFrame
    failures: pl.DataFrame


def load_feeds(records: FeedRecords) -> Feeds:
    """Validate and encode. Without a good time and stable price nothing can be used."""
    (time, stable, sure), faults = _head(records.head)
    underlyings = _underlyings(records.underlyings)
    expiries = _expiries(records.expiries, underlyings, time)
    instruments = _instruments(records.instruments, underlyings, expiries, time)
    parts = [underlyings, expiries, instruments]
    if faults.height:
        parts = [_Checked(part.frame, part.valid.clear(), faults.clear()) for part in parts]
        time, stable, sure = 0.0, 1.0, 1.0
    spots, dates, held = (part.valid for part in parts)
    market = CryptoMarket(
        time=time,
        underlyings=spots["underlying"],
        spot=_floats(spots["spot"]),
        spot_confidence=_floats(spots["confidence"]),
        expiries=_encoded_expiries(dates),
        instruments=_encoded_instruments(held),
        stable=stable,
        stable_confidence=sure,
    )
    failures = [records.failures, faults, *(part.failures for part in parts)]
    surfaces = dates.select(SVI_COLUMNS).cast(pl.Float64).fill_null(np.nan).to_numpy()
    return Feeds(market, surfaces, _codes(parts[2]), join_failures(failures))


@dataclass(frozen=True)
class _Checked:
    """All rows, the valid ones in the order of their codes, and the failures of the others."""

    frame: pl.DataFrame
    valid: pl.DataFrame
    failures: pl.DataFrame


def _checked(
    frame: pl.DataFrame,
    records: Sequence[Record],
    found: Sequence[Rule],
    order: Sequence[str],
    defaults: Sequence[pl.Expr],
) -> _Checked:
    """`defaults` are for valid rows: before, what is left out and what is unreadable look alike."""
    broken = rules.check(frame, "", found)
    valid = rules.passing(frame, broken).with_columns(*defaults).sort(order)
    return _Checked(frame, valid, located(broken, records))


def _head(head: Record) -> tuple[tuple[float, float, float], pl.DataFrame]:
    """Time, stable price and its confidence, and why they cannot be used."""
    frame = record_frame([head], numbers=("time", "stable", "confidence"))
    frame = rules.number_columns(rules.time_columns(frame, ["time"]), ["stable", "confidence"])
    found = rules.check(
        frame,
        "",
        [
            *rules.a_time(frame, "time"),
            *rules.missing("time"),
            *rules.missing_number(frame, "stable"),
            *rules.positive("stable"),
            *confidence(frame, "confidence"),
        ],
    )
    values = frame.select("time", "stable", pl.col("confidence").fill_null(1.0)).row(0)
    return values, located(found, [head])


def _underlyings(records: Sequence[Record]) -> _Checked:
    frame = record_frame(records, texts=["underlying"], numbers=["spot", "confidence"])
    frame = rules.text_columns(frame, ["underlying"])
    frame = rules.number_columns(frame, ["spot", "confidence"])
    found = underlying_rules(frame)
    return _checked(frame, records, found, ["underlying"], [pl.col("confidence").fill_null(1.0)])


def _expiries(records: Sequence[Record], underlyings: _Checked, time: float | None) -> _Checked:
    numbers = ("forward", "fixed", "rate", *SURE, *SVI_COLUMNS)
    frame = record_frame(records, ["underlying"], ("expiry", "seconds", *numbers), flags=("svi",))
    frame = rules.number_columns(frame, numbers)
    frame = _with_codes(_with_seconds(frame, time), underlyings)
    found = expiry_rules(frame)
    defaults = [
        *(pl.col(name).fill_null(0.0) for name in ("fixed", "rate")),
        *(pl.col(name).fill_null(1.0) for name in SURE),
    ]
    return _checked(frame, records, found, ["underlying", "left"], defaults)


def _instruments(
    records: Sequence[Record], underlyings: _Checked, expiries: _Checked, time: float | None
) -> _Checked:
    texts = ("instrument_id", "kind", "underlying", "right", "settlement")
    numbers = ("strike", "volatility", "price", "confidence")
    frame = record_frame(records, texts, ("expiry", "seconds", *numbers), flags=("inverse",))
    frame = rules.number_columns(rules.text_columns(frame, texts), numbers)
    frame = frame.with_columns(
        pl.col("kind").str.strip_chars().str.to_lowercase(),
        pl.col("right").str.strip_chars().str.to_lowercase(),
    )
    # A coin named as an underlying is its own.
    own = pl.col("instrument_id").is_in(underlyings.frame["underlying"].drop_nulls().implode())
    coin = pl.when(COINS & own).then("instrument_id")
    frame = frame.with_columns(pl.col("underlying").fill_null(coin))
    frame = _with_dates(_with_codes(_with_seconds(frame, time), underlyings), expiries)
    found = instrument_rules(frame)
    inverse = pl.col("inverse").fill_null(False)
    settles = pl.when(COINS).then("instrument_id").when(inverse).then("underlying")
    defaults = [
        pl.col("confidence").fill_null(1.0),
        inverse,
        pl.col("settlement").fill_null(settles.otherwise(pl.lit(STABLE))),
        pl.col("right")
        .replace_strict(RIGHTS, default=False, return_dtype=pl.Boolean)
        .alias("call"),
    ]
    return _checked(frame, records, found, ["instrument_id"], defaults)


def _with_seconds(frame: pl.DataFrame, time: float | None) -> pl.DataFrame:
    """`left` seconds to expiry, `instant` the same in whole milliseconds."""
    frame = rules.number_columns(rules.time_columns(frame, ["expiry"]), ["seconds"])
    left = pl.coalesce("seconds", pl.col("expiry") - pl.lit(time, pl.Float64))
    instant = (left * 1e3).round().cast(pl.Int64, strict=False)
    return frame.with_columns(left.alias("left"), instant.alias("instant"))


def _with_codes(frame: pl.DataFrame, underlyings: _Checked) -> pl.DataFrame:
    """`spot` code of the underlying, null where it failed; `spot_known` whether there is such."""
    codes = underlyings.valid.select("underlying", _place("spot"))
    names = underlyings.frame.select(pl.col("underlying").drop_nulls().unique())
    every = names.join(codes, on="underlying", how="left").with_columns(spot_known=True)
    return frame.join(every, on="underlying", how="left", maintain_order="left")


def _with_dates(frame: pl.DataFrame, expiries: _Checked) -> pl.DataFrame:
    """`date` code of the expiry, null where it failed; `date_known`; `surface`: it has a smile."""
    key = ["underlying", "instant"]
    codes = expiries.valid.select(*key, _place("date"), pl.col("svi").alias("surface"))
    every = expiries.frame.select(key).drop_nulls().unique()
    every = every.join(codes, on=key, how="left").with_columns(date_known=True)
    return frame.join(every, on=key, how="left", maintain_order="left")


def _place(name: str) -> pl.Expr:
    return pl.int_range(pl.len(), dtype=pl.Int64).alias(name)


def _encoded_expiries(valid: pl.DataFrame) -> Expiries:
    return Expiries(
        underlying=_ints(valid["spot"]),
        seconds=_floats(valid["left"]),
        forward=_floats(valid["forward"]),
        fixed=_floats(valid["fixed"]),
        forward_confidence=_floats(valid["forward_confidence"]),
        rate=_floats(valid["rate"]),
        rate_confidence=_floats(valid["rate_confidence"]),
        volatility_confidence=_floats(valid["volatility_confidence"]),
    )


def _encoded_instruments(valid: pl.DataFrame) -> CryptoInstruments:
    kind = valid["kind"].replace_strict(list(KINDS), range(len(KINDS)), return_dtype=pl.Int64)
    codes = _ints(kind)

    def of_options(column: str) -> Floats:
        return np.where(codes == OPTION, _floats(valid[column].fill_null(np.nan)), 0.0)

    dated = valid.select(pl.when(DATED).then("date").otherwise(-1).alias("date"))["date"]
    return CryptoInstruments(
        ids=valid["instrument_id"],
        kind=codes,
        underlying=_ints(valid["spot"].fill_null(-1)),
        expiry=_ints(dated),
        strike=of_options("strike"),
        call=(valid["call"].to_numpy() & (codes == OPTION)).astype(np.bool_),
        volatility=of_options("volatility"),
        price=_floats(valid["price"].fill_null(np.nan)),
        confidence=_floats(valid["confidence"]),
        inverse=valid["inverse"].to_numpy().astype(np.bool_),
        settlement=valid["settlement"],
    )


def _codes(instruments: _Checked) -> pl.DataFrame:
    ids = instruments.frame.select(pl.col("instrument_id").drop_nulls().unique())
    codes = instruments.valid.select("instrument_id", _place("code"), "kind")
    return ids.join(codes, on="instrument_id", how="left").sort("instrument_id")


def market_codes(market: CryptoMarket) -> pl.DataFrame:
    """The same of a market that another reader made; of its failed instruments nothing is known."""
    kinds = pl.Series("kind", [KINDS[code] for code in market.instruments.kind], dtype=pl.String)
    ids = market.instruments.ids.cast(pl.String).rename("instrument_id")
    return pl.DataFrame([ids, kinds]).with_columns(_place("code"))


def no_feeds() -> FeedRecords:
    """Feeds that say nothing."""
    return FeedRecords(Record("", "", {"time": 0.0, "stable": 1.0}), (), (), (), failure_table())


def _floats(series: pl.Series) -> Floats:
    return series.cast(pl.Float64).to_numpy().astype(np.float64)


def _ints(series: pl.Series) -> Ints:
    return series.cast(pl.Int64).to_numpy().astype(np.int64)
