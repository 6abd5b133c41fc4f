"""The table of marks: later prices and volatilities that stand in for those of the tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from gpu_margin.failures import join_failures
from gpu_margin.io import rules
from gpu_margin.io.rules import Rule
from gpu_margin.io.tables import ROW, Table
from gpu_margin.market import LINEAR_KINDS, OPTION_KINDS

MARK_COLUMNS = ("field", "value", "time")
MARK_OPTIONAL = ("instrument_id", "factor")

_OVERRIDDEN = ("price", "implied_vol", "forward")
_LAST = "last"
_KEY = ("instrument_id", "factor", "field")
_OPTION = pl.col("kind").is_in(OPTION_KINDS)
_LINEAR = pl.col("kind").is_in(LINEAR_KINDS)


@dataclass(frozen=True)
class LoadedMarks:
    """The marks that count and the failed rows.

    `marks` has instrument_id or factor (the other is null), field, value, and time in seconds
    since 1970 UTC: the latest valid mark of each, the last row where times are equal.
    """

    marks: pl.DataFrame
    failures: pl.DataFrame


def load_marks(marks: Table, instruments: Table, history: Table) -> LoadedMarks:
    """Validate marks against the ids in the other two tables; a bad mark changes nothing.

    A time is ISO text, a date, a time with or without zone (without: UTC), or seconds since 1970.
    """
    frame = _describe(marks, instruments, history)
    found = rules.check(frame, marks.source, [*_place_rules(), *_value_rules(frame)])
    latest = rules.passing(frame, found).sort("time", ROW)
    latest = latest.unique(_KEY, keep="last", maintain_order=True).sort(_KEY)
    return LoadedMarks(
        latest.select(*_KEY, "value", "time"), join_failures([marks.failures, found])
    )


def marked(instruments: Table, marks: pl.DataFrame) -> Table:
    """The instruments with marks in place of what their rows say, right or wrong.

    `last` of a factor is the forward of the options on it that have none of their own.
    """
    if marks.is_empty():
        return instruments
    frame = rules.text_columns(instruments.frame, ["instrument_id", "underlying"])
    frame = rules.number_columns(frame, _OVERRIDDEN)
    for field in _OVERRIDDEN:
        of_field = marks.filter(pl.col("field") == field)
        frame = _beside(frame, of_field, "instrument_id", "instrument_id").with_columns(
            pl.coalesce("mark", field).alias(field)
        )
    lasts = marks.filter(pl.col("field") == _LAST)
    frame = _beside(frame, lasts, "underlying", "factor").with_columns(
        pl.when(rules.left_out(frame, "forward")).then("mark").otherwise("forward").alias("forward")
    )
    return replace(instruments, frame=frame.drop("mark"))


def _beside(frame: pl.DataFrame, marks: pl.DataFrame, column: str, key: str) -> pl.DataFrame:
    """The frame with the value of each row's mark as `mark`, null where there is none."""
    values = marks.select(pl.col(key).alias(column), pl.col("value").alias("mark"))
    return frame.drop("mark", strict=False).join(
        values, on=column, how="left", maintain_order="left"
    )


def _describe(marks: Table, instruments: Table, history: Table) -> pl.DataFrame:
    """Mark rows with numbers and times parsed, and what is known of their instrument or factor."""
    frame = rules.text_columns(marks.good, [*MARK_OPTIONAL, "field"])
    frame = rules.time_columns(rules.number_columns(frame, ["value"]), ["time"])
    kinds = rules.text_columns(instruments.good, ["instrument_id", "kind"]).select(
        "instrument_id",
        pl.col("kind").str.strip_chars().str.to_lowercase(),
        pl.lit(True).alias("known_instrument"),
    )
    factors = rules.text_columns(history.good, ["factor"]).select(
        "factor", pl.lit(True).alias("known_factor")
    )
    frame = frame.with_columns(pl.col("field").str.strip_chars().str.to_lowercase())
    for known, key in ((kinds, "instrument_id"), (factors, "factor")):
        only = known.unique(key, keep="first", maintain_order=True)
        frame = frame.join(only, on=key, how="left", maintain_order="left")
    return frame


def _place_rules() -> list[Rule]:
    """What a mark is of."""
    instrument, factor = pl.col("instrument_id").is_not_null(), pl.col("factor").is_not_null()
    last = pl.col("field") == _LAST
    of_instrument = ", ".join(_OVERRIDDEN)
    return [
        *rules.a_text("instrument_id"),
        *rules.a_text("factor"),
        Rule("missing instrument_id or factor: name one", "instrument_id", ~instrument & ~factor),
        Rule("both instrument_id and factor: leave one out", "factor", instrument & factor),
        *rules.known_instrument(instrument & pl.col("known_instrument").is_null()),
        Rule(
            "unknown factor: add it to the history or correct the name",
            "factor",
            factor & pl.col("known_factor").is_null(),
        ),
        *rules.missing_text("field"),
        Rule(
            f"unknown field: it must be one of {of_instrument} of an instrument, or {_LAST} of a "
            "factor",
            "field",
            ~pl.col("field").is_in([*_OVERRIDDEN, _LAST]),
        ),
        Rule(
            f"field of an instrument: of a factor only {_LAST} can be marked",
            "field",
            factor & ~last,
        ),
        Rule(
            f"field of a factor: of an instrument {of_instrument} can be marked",
            "field",
            instrument & last,
        ),
        Rule(
            "field that options do not use: mark their implied_vol and forward",
            "field",
            _OPTION & (pl.col("field") == "price"),
        ),
        Rule(
            "field that only options use: mark the price",
            "field",
            _LINEAR & (pl.col("field") != "price"),
        ),
    ]


def _value_rules(frame: pl.DataFrame) -> list[Rule]:
    field = pl.col("field")
    never_negative = (field == "price") & pl.col("kind").is_in(("spot", "perpetual"))
    return [
        *rules.missing_number(frame, "value"),
        Rule(
            "negative price of a spot or perpetual", "value", never_negative & (pl.col("value") < 0)
        ),
        Rule("negative implied_vol", "value", (field == "implied_vol") & (pl.col("value") < 0)),
        Rule(
            "forward or last is not positive",
            "value",
            field.is_in(("forward", _LAST)) & (pl.col("value") <= 0),
        ),
        *rules.a_time(frame, "time"),
        *rules.missing("time"),
    ]
