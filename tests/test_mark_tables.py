"""Marks: what they override, which of them counts, what fails and why."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import small_case
from hypothesis import given, settings
from hypothesis import strategies as st
from small_case import CASE, VALUATION, Case, Row, frame, frames, instrument

from gpu_margin import loading

NAN, INF = math.nan, math.inf
# Alone in having a forward of its own is PUTY; CALLX takes the last price of X.
MARKED = CASE.changed("instruments", 4, forward=52.0)
FIELDS = ("level", "volatility")


def mark(name: Any, field: Any, value: Any, time: Any = 1.0, *, factor: Any = None) -> Row:
    return {"instrument_id": name, "factor": factor, "field": field, "value": value, "time": time}


def last(factor: Any, value: Any, time: Any = 1.0) -> Row:
    return mark(None, "last", value, time, factor=factor)


def load(marks: Any, case: Case = MARKED, **other: Any) -> loading.Loaded:
    rows = frame(marks) if isinstance(marks, list) else marks
    return loading.load(case.config, **{**frames(case), **other}, marks=rows)


def figures(loaded: loading.Loaded) -> dict[str, tuple[float, float]]:
    """Level and volatility of each instrument."""
    found = loaded.market.instruments
    return {
        name: (float(found.level[code]), float(found.volatility[code]))
        for code, name in enumerate(found.ids)
    }


PLAIN = figures(loading.load(MARKED.config, **frames(MARKED)))


def failed(loaded: loading.Loaded) -> list[tuple[str, int | None, str | None]]:
    return loaded.failures.select("source", "row", "field").rows()


# ---------------------------------------------------------------- what is overridden


def test_marks_override_the_tables() -> None:
    loaded = load(
        [
            mark("FUTX", "price", -3.0),
            mark("SPOTX", "price", 0.0),
            mark("CALLX", "implied_vol", 0.0),
            mark("PUTY", "forward", 60.0),
            mark("PUTY", "implied_vol", 0.9),
            last("X", 123.0),
        ]
    )
    assert loaded.failures.is_empty()
    changed = {"FUTX": (-3.0, 0.0), "SPOTX": (0.0, 0.0), "CALLX": (123.0, 0.0), "PUTY": (60.0, 0.9)}
    assert figures(loaded) == PLAIN | changed
    assert loaded.marks is not None
    assert loaded.counts["marks"] == len(loaded.marks) == 6


def test_last_is_the_forward_of_options_without_one() -> None:
    assert figures(load([last("Y", 70.0)])) == PLAIN
    loaded = load([last("Y", 70.0)], CASE)
    assert figures(loaded)["PUTY"] == (70.0, 0.3)
    assert figures(load([last("Y", 70.0), mark("PUTY", "forward", 80.0)], CASE))["PUTY"][0] == 80.0
    # History and what comes of it stay.
    plain = loading.load(CASE.config, **frames(CASE)).market
    assert loaded.market.history.prices.tobytes() == plain.history.prices.tobytes()
    assert loaded.market.history.dates == plain.history.dates
    assert loaded.market.valuation_date == VALUATION


def test_marks_are_as_if_the_tables_had_said_so() -> None:
    marks = [mark("FUTX", "price", 105.25), mark("CALLX", "implied_vol", 0.35), last("Y", 51.5)]
    said = CASE.changed("instruments", 1, price=105.25).changed("instruments", 3, implied_vol=0.35)
    said = said.changed("instruments", 4, forward=51.5)
    marked = small_case.run(CASE, marks=frame(marks))
    assert marked.margins.rows() == small_case.run(said).margins.rows()
    assert marked.margins.rows() != small_case.run(CASE).margins.rows()
    assert small_case.run(CASE, marks=frame(marks[:0] or [last("Z", 3.0)])).margins.rows() == (
        small_case.run(CASE).margins.rows()
    )


def test_a_mark_gives_what_the_row_lacks() -> None:
    for value in (None, "abc", NAN, 0.1):
        case = CASE.changed("instruments", 1, price=value)
        loaded = load([mark("FUTX", "price", 101.0)], case)
        assert loaded.failures.is_empty(), value
        assert figures(loaded)["FUTX"] == (101.0, 0.0)
    # But last is for a forward that was left out, not for one that cannot be read.
    case = CASE.changed("instruments", 4, forward="abc")
    assert ("instruments", 4, "forward") in failed(load([last("Y", 51.0)], case))


def test_marks_of_an_instrument_that_fails_all_the_same() -> None:
    case = CASE.changed("instruments", 1, currency="CHF")
    loaded = load([mark("FUTX", "price", 101.0)], case)
    assert ("instruments", 1, "currency") in failed(loaded)
    assert not [row for row in failed(loaded) if row[0] == "marks"]


def test_tables_without_the_columns_that_are_marked() -> None:
    columns = ("instrument_id", "kind", "underlying", "currency")
    rows = [{key: row[key] for key in columns} for row in CASE.instruments[:1]]
    loaded = load([mark("FUTX", "price", 7.0)], instruments=frame(rows))
    assert figures(loaded) == {"FUTX": (7.0, 0.0)}


def test_whole_numbers_in_the_table_take_any_mark() -> None:
    table = frame([instrument("FUTX", "future", "X")]).with_columns(pl.lit(100).alias("price"))
    assert table.schema["price"] == pl.Int32
    loaded = load([mark("FUTX", "price", 7.25)], instruments=table)
    assert figures(loaded) == {"FUTX": (7.25, 0.0)}


# ---------------------------------------------------------------- which mark counts


def test_the_latest_mark_counts_and_the_last_row_among_equals() -> None:
    for times, expected in (
        ((1.0, 2.0, 3.0), 3.0),
        ((3.0, 2.0, 1.0), 1.0),
        ((2.0, 3.0, 3.0), 3.0),
        ((3.0, 3.0, 2.0), 2.0),
        ((-1.0, -2.0, -1.5), 1.0),
        ((0.1, 0.2, 0.3 - 1e-7), 3.0),
    ):
        rows = [mark("FUTX", "price", n, time) for n, time in enumerate(times, 1)]
        loaded = load(rows)
        assert figures(loaded)["FUTX"][0] == expected, times
        assert loaded.marks is not None
        kept = loaded.marks.rows()
        assert kept == [("FUTX", None, "price", expected, times[int(expected) - 1])]


def test_a_bad_mark_leaves_the_good_one_before_it() -> None:
    loaded = load([mark("SPOTX", "price", 90.0, 1.0), mark("SPOTX", "price", -1.0, 2.0)])
    assert failed(loaded) == [("marks", 2, "value")]
    assert figures(loaded)["SPOTX"] == (90.0, 0.0)


NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        (1709294400, 1709294400.0),
        (1709294400.25, 1709294400.25),
        ("1709294400.25", 1709294400.25),
        ("2024-03-01T12:00:00Z", NOON.timestamp()),
        ("2024-03-01T12:00:00.5", NOON.timestamp() + 0.5),
        ("2024-03-01 13:00:00+01:00", NOON.timestamp()),
        ("2024-03-01T12:00", NOON.timestamp()),
        ("2024-03-01", NOON.timestamp() - 43200),
        (date(2024, 3, 1), NOON.timestamp() - 43200),
        (datetime(2024, 3, 1, 12), NOON.timestamp()),
        (NOON, NOON.timestamp()),
        (NOON.astimezone(timezone(timedelta(hours=5))), NOON.timestamp()),
        (-1.5, -1.5),
    ],
)
def test_times(time: Any, seconds: float) -> None:
    rows = pl.DataFrame({"instrument_id": ["FUTX"], "field": ["price"], "value": [1.0]})
    for unit in ("ms", "us", "ns"):
        column = pl.Series("time", [time])
        if column.dtype == pl.Datetime:
            column = column.dt.cast_time_unit(unit)
        loaded = load(rows.with_columns(column))
        assert loaded.failures.is_empty()
        assert loaded.marks is not None
        assert loaded.marks["time"].to_list() == [seconds]


# ---------------------------------------------------------------- bad rows

GOOD = mark("FUTX", "price", 105.0)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (mark("NOPE", "price", 1.0), "instrument_id", "unknown instrument"),
        (mark("futx", "price", 1.0), "instrument_id", "unknown instrument"),
        (last("W", 1.0), "factor", "unknown factor"),
        (mark(None, "price", 1.0), "instrument_id", "missing instrument_id or factor"),
        (mark("", "last", 1.0, factor=""), "instrument_id", "missing instrument_id or factor"),
        (mark("FUTX", "price", 1.0, factor="X"), "factor", "both instrument_id and factor"),
        (mark("FUTX", None, 1.0), "field", "missing field"),
        (mark("FUTX", "mark", 1.0), "field", "unknown field"),
        (mark("FUTX", "last", 1.0), "field", "field of a factor"),
        (mark(None, "price", 1.0, factor="X"), "field", "field of an instrument"),
        (mark("CALLX", "price", 1.0), "field", "options do not use"),
        *((mark("FUTX", field, 0.2), "field", "only options use") for field in ("implied_vol",)),
        (mark("FUTX", "forward", 1.0), "field", "only options use"),
        *((mark("FUTX", "price", v), "value", "not finite") for v in (NAN, INF, -INF)),
        *((mark("FUTX", "price", v), "value", "not a number") for v in ("abc", "1,0")),
        (mark("FUTX", "price", None), "value", "missing value"),
        (mark("FUTX", "price", 1e31), "value", "out of range"),
        (mark("SPOTX", "price", -1.0), "value", "negative price"),
        (mark("PERPY", "price", -1e-3), "value", "negative price"),
        (mark("CALLX", "implied_vol", -0.1), "value", "negative implied_vol"),
        *((mark("CALLX", "forward", v), "value", "not positive") for v in (0.0, -1.0)),
        *((last("X", v), "value", "not positive") for v in (0.0, -1.0)),
        *((mark("FUTX", "price", 1.0, t), "time", "not a time") for t in ("noon", "2024-02-30")),
        *((mark("FUTX", "price", 1.0, t), "time", "not finite") for t in (NAN, INF)),
        (mark("FUTX", "price", 1.0, None), "time", "missing time"),
    ],
    ids=str,
)
def test_bad_mark(row: Row, field: str, reason: str) -> None:
    loaded = load([GOOD, row])
    assert failed(loaded) == [("marks", 2, field)]
    assert reason in loaded.failures["reason"][0]
    assert figures(loaded) == PLAIN | {"FUTX": (105.0, 0.0)}


@pytest.mark.parametrize("field", [" Price ", "PRICE"])
def test_fields_are_read_as_kinds_are(field: str) -> None:
    assert figures(load([mark("FUTX", field, 9.0)]))["FUTX"][0] == 9.0


@pytest.mark.parametrize(
    "content", [b"", b"field,value\n", b"\xff", b"field,value,time\nprice,1,1"]
)
def test_unusable_marks_change_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "marks.csv"
    path.write_bytes(content)
    loaded = load(path)
    assert {source for source, _, _ in failed(loaded)} == {"marks.csv"}
    assert figures(loaded) == PLAIN


# ---------------------------------------------------------------- properties

ROWS = st.lists(
    st.builds(
        mark,
        st.sampled_from([None, "FUTX", "SPOTX", "CALLX", "PUTY", "NOPE"]),
        st.sampled_from(["price", "implied_vol", "forward", "last", "other", None]),
        st.one_of(st.none(), st.floats(), st.integers(-3, 3).map(float)),
        st.one_of(st.none(), st.integers(0, 3).map(float), st.floats()),
        factor=st.sampled_from([None, None, None, "X", "Y", "W"]),
    ),
    min_size=1,
    max_size=12,
)
KINDS = {"FUTX": "future", "SPOTX": "spot", "CALLX": "call", "PUTY": "put"}


def good(row: Row) -> bool:
    """By the definition, row by row."""
    value, time, field, name = row["value"], row["time"], row["field"], row["instrument_id"]
    if value is None or not math.isfinite(value) or time is None or not math.isfinite(time):
        return False
    if value != 0 and not 1e-30 <= abs(value) <= 1e30:
        return False
    if row["factor"] is not None:
        return name is None and row["factor"] in ("X", "Y") and field == "last" and value > 0
    option = KINDS.get(name) in ("call", "put")
    if name not in KINDS or field not in (("implied_vol", "forward") if option else ("price",)):
        return False
    least = {"implied_vol": 0.0, "forward": 1e-30}.get(field, 0.0 if name == "SPOTX" else -INF)
    return bool(value >= least)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_any_marks_do_as_the_definition_says(rows: list[Row]) -> None:
    loaded = load(rows)
    assert len(loaded.failures) == sum(not good(row) for row in rows)
    found: dict[Any, tuple[float, float]] = {}
    for row in rows:
        key = (row["instrument_id"] or row["factor"], row["field"])
        if good(row) and (key not in found or row["time"] >= found[key][0]):
            found[key] = (row["time"], row["value"])
    expected = dict(PLAIN)
    for name, (level, volatility) in PLAIN.items():
        # PUTY has a forward of its own.
        places = [(name, "price"), (name, "forward")]
        places += [("X", "last")] if name == "CALLX" else []
        values = [found[place][1] for place in places if place in found]
        vol = found.get((name, "implied_vol"), (0.0, volatility))[1]
        expected[name] = (values[0] if values else level, vol)
    assert figures(loaded) == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet='FUTX,price;"\n\r120-:+ZT.é\0', max_size=40), max_size=6))
def test_any_text_in_a_file_never_raises(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "marks.csv"
        path.write_bytes("\n".join(["instrument_id,field,value,time", *lines]).encode())
        loaded = load(path)
    assert loaded.failures["reason"].null_count() == 0
    assert np.isfinite(loaded.market.instruments.level).all()


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789-:+ZTWe. ", max_size=30))
def test_any_time_is_a_time_or_a_failure(time: str) -> None:
    loaded = load([mark("FUTX", "price", 1.0, time)])
    assert loaded.marks is not None
    assert len(loaded.marks) + len(loaded.failures) == 1


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1" * 400, "-0"]
)
def test_times_at_the_ends(time: str) -> None:
    loaded = load([mark("FUTX", "price", 1.0, time)])
    assert loaded.marks is not None
    assert len(loaded.marks) + len(loaded.failures) == 1
