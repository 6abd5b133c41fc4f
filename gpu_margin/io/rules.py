"""Rules that a row must meet, checked for all rows of a table at once.

A row fails by the first rule that it breaks, so that there are as many failures as bad rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from gpu_margin.failures import failure_table, join_failures
from gpu_margin.io.tables import NO_TEXT, ROW

# Numbers beyond these magnitudes are typing errors, and their products could overflow: with
# them no product of quantity, multiplier, price, rate and return leaves the range of float64.
LARGEST, SMALLEST = 1e30, 1e-30

_RAW = "raw:"
_ISO_DAY = r"^(\d{4}-\d{2}-\d{2})(?:[T ]|$)"
_ALWAYS = pl.lit(True)


@dataclass(frozen=True)
class Rule:
    """Rows where `bad` holds fail with `reason`; `field` is the column to blame."""

    reason: str
    field: str
    bad: pl.Expr


def check(frame: pl.DataFrame, source: str, rules: Sequence[Rule]) -> pl.DataFrame:
    """Failures of the rows that break a rule, in order of the rules."""
    broken = pl.coalesce(
        pl.when(rule.bad.fill_null(False)).then(pl.lit(number, pl.Int32))
        for number, rule in enumerate(rules)
    )
    verdict = frame.with_columns(broken.alias("broken")).filter(pl.col("broken").is_not_null())
    parts = verdict.partition_by("broken", as_dict=True)
    return join_failures(
        _failures(part, source, rules[int(number)]) for (number,), part in sorted(parts.items())
    )


def passing(frame: pl.DataFrame, failures: pl.DataFrame) -> pl.DataFrame:
    """The rows of the frame that have no failure."""
    return frame.join(failures.select(ROW), on=ROW, how="anti", maintain_order="left")


def text_columns(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The frame with the columns as text, null where absent or empty."""
    frame = _with_columns(frame, columns)
    texts = [pl.col(column).cast(pl.String, strict=False) for column in columns]
    return frame.with_columns(
        pl.when(text.str.len_bytes() > 0).then(text).alias(column)
        for column, text in zip(columns, texts, strict=True)
    )


def number_columns(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The frame with the columns as float64; what is no number is null and kept as raw text."""
    frame = _with_columns(frame, columns)
    for column in columns:
        if frame.schema[column].is_numeric():
            frame = frame.with_columns(pl.col(column).cast(pl.Float64))
        else:
            raw = _raw_text(column)
            frame = frame.with_columns(raw, raw.cast(pl.Float64, strict=False).alias(column))
    return frame


def date_columns(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The frame with the columns as dates (ISO text, dates or times); the rest as raw text."""
    frame = _with_columns(frame, columns)
    for column in columns:
        if frame.schema[column] in (pl.Date, pl.Datetime):
            # The day that a time shows, whatever its zone.
            day = pl.col(column)
            if frame.schema[column] == pl.Datetime:
                day = day.dt.replace_time_zone(None)
            frame = frame.with_columns(day.cast(pl.Date))
        else:
            raw = _raw_text(column)
            day = raw.str.extract(_ISO_DAY).str.to_date("%Y-%m-%d", strict=False)
            frame = frame.with_columns(raw, day.alias(column))
    return frame


def time_columns(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The frame with the columns as seconds since 1970 UTC (float64); the rest as raw text.

    Times may be ISO text, dates or times (those without a zone are UTC), or such seconds.
    """
    frame = number_columns(frame, [c for c in columns if not _is_time(frame, c)])
    for column in columns:
        if _is_time(frame, column):
            frame = frame.with_columns(pl.col(column).dt.epoch("us") / 1e6)
        elif _RAW + column in frame.columns:
            texts = frame[_RAW + column].to_list()
            seconds = pl.Series([_seconds(text) for text in texts], dtype=pl.Float64)
            frame = frame.with_columns(pl.col(column).fill_null(seconds))
    return frame


def left_out(frame: pl.DataFrame, column: str) -> pl.Expr:
    """Whether a number, date or time was not given; one that cannot be read was."""
    raw = _RAW + column
    nothing = pl.col(raw).is_null() if raw in frame.columns else _ALWAYS
    return pl.col(column).is_null() & nothing


def a_text(column: str) -> list[Rule]:
    """A value that is there must be text."""
    no_text = pl.col(column).str.contains(NO_TEXT, literal=True)
    return [Rule(f"{column} is not text: bytes that are not UTF-8, or a list", column, no_text)]


def missing_text(column: str) -> list[Rule]:
    """A text must be there."""
    return [*missing(column), *a_text(column)]


def missing(column: str, where: pl.Expr = _ALWAYS) -> list[Rule]:
    """A value must be there."""
    return [Rule(f"missing {column}: give a value", column, where & pl.col(column).is_null())]


def a_number(frame: pl.DataFrame, column: str, where: pl.Expr = _ALWAYS) -> list[Rule]:
    """A value that is there must be a finite number of sane size."""
    value = pl.col(column)
    size = value.abs()
    finite = value.is_finite()
    extreme = (size > LARGEST) | ((size < SMALLEST) & (size > 0))
    return [
        *_unreadable(frame, column, f"{column} is not a number: text in a number column", where),
        Rule(f"{column} is not finite (NaN or infinity)", column, where & ~finite),
        Rule(
            f"{column} is out of range: its size must be 0 or in [{SMALLEST:g}, {LARGEST:g}]",
            column,
            where & extreme,
        ),
    ]


def missing_number(frame: pl.DataFrame, column: str, where: pl.Expr = _ALWAYS) -> list[Rule]:
    """A finite number of sane size must be there."""
    return [*a_number(frame, column, where), *missing(column, where)]


def a_date(frame: pl.DataFrame, column: str, where: pl.Expr = _ALWAYS) -> list[Rule]:
    """A value that is there must be a date."""
    return _unreadable(frame, column, f"{column} is not a date: write YYYY-MM-DD", where)


def a_time(frame: pl.DataFrame, column: str) -> list[Rule]:
    """A value that is there must be a time."""
    reason = f"{column} is not a time: write 2024-03-01T12:00:00Z, or seconds since 1970"
    finite = pl.col(column).is_finite()
    return [
        *_unreadable(frame, column, reason, _ALWAYS),
        Rule(f"{column} is not finite (NaN or infinity)", column, ~finite),
    ]


def positive(column: str, where: pl.Expr = _ALWAYS) -> list[Rule]:
    """A value that is there must be positive."""
    return [Rule(f"{column} is not positive", column, where & (pl.col(column) <= 0))]


def not_negative(column: str, where: pl.Expr = _ALWAYS) -> list[Rule]:
    """A value that is there must not be negative."""
    return [Rule(f"negative {column}", column, where & (pl.col(column) < 0))]


def unique(columns: Sequence[str], reason: str) -> list[Rule]:
    """No two rows may have the same key; all copies fail, for none is known to be right."""
    return [Rule(reason, columns[-1], pl.struct(columns).is_duplicated())]


def known_instrument(unknown: pl.Expr) -> list[Rule]:
    """The instrument must be in the table of instruments."""
    reason = "unknown instrument: add it to the instruments table or correct the id"
    return [Rule(reason, "instrument_id", unknown)]


def sound_instrument(failed: pl.Expr) -> list[Rule]:
    """The instrument's own row must not have failed."""
    reason = "failed instrument: see its own failure in the instruments table"
    return [Rule(reason, "instrument_id", failed)]


def _unreadable(frame: pl.DataFrame, column: str, reason: str, where: pl.Expr) -> list[Rule]:
    raw = _RAW + column
    if raw not in frame.columns:
        return []
    return [Rule(reason, column, where & pl.col(raw).is_not_null() & pl.col(column).is_null())]


def _raw_text(column: str) -> pl.Expr:
    """What a person typed, without surrounding blanks; nothing at all is null."""
    text = pl.col(column).cast(pl.String, strict=False).str.strip_chars()
    return pl.when(text.str.len_bytes() > 0).then(text).alias(_RAW + column)


def _is_time(frame: pl.DataFrame, column: str) -> bool:
    return column in frame.columns and frame.schema[column] in (pl.Date, pl.Datetime)


def _seconds(text: str | None) -> float | None:
    """Seconds since 1970 UTC of an ISO time; None for what is none."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _with_columns(frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    absent = [column for column in columns if column not in frame.columns]
    return frame.with_columns(pl.lit(None, pl.String).alias(column) for column in absent)


def _failures(rows: pl.DataFrame, source: str, rule: Rule) -> pl.DataFrame:
    shown = _RAW + rule.field if _RAW + rule.field in rows.columns else rule.field
    return rows.select(
        pl.lit(rule.reason).alias("reason"),
        pl.lit(source).alias("source"),
        pl.col(ROW),
        pl.lit(rule.field).alias("field"),
        pl.col(shown).cast(pl.String, strict=False).alias("value"),
    ).match_to_schema(failure_table().schema)
