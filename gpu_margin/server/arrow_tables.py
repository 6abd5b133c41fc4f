"""Bodies in Arrow: tables of legs, fills and marks, held to what their JSON form is held to."""

from __future__ import annotations

import io
from collections.abc import Sequence

import polars as pl

from gpu_margin.server.arrow_streams import Malformed, count_rows
from gpu_margin.server.problems import Problem

_NUMBERS = frozenset({"quantity", "price", "fee", "value"})
# As `messages.Id` and `messages.Number` have them.
_LONGEST, _LARGEST = 256, 1e30


def read_table(
    body: bytes, required: Sequence[str], optional: Sequence[str], most: int
) -> pl.DataFrame:
    """The rows of an Arrow IPC stream: text, and numbers as float64.

    `Problem` 400 where it is none, 422 for columns or values that are wrong, or more than `most`
    rows. Times may be numbers, text or timestamps, which become seconds since 1970 UTC.
    """
    table = _read(body, most)
    _check_names(table, required, optional)
    return table.select(_checked(table[name], name in required) for name in table.columns)


def write_arrow(table: pl.DataFrame) -> bytes:
    """The table as an Arrow IPC stream."""
    stream = io.BytesIO()
    table.write_ipc_stream(stream)
    return stream.getvalue()


def too_many(field: str, most: int) -> Problem:
    """422: more than a request may have."""
    return Problem(
        422,
        "too-many",
        f"more than {most} at once",
        field=field,
        way_out="send them in several requests",
    )


def _read(body: bytes, most: int) -> pl.DataFrame:
    try:
        if count_rows(body) > most:
            raise too_many("rows", most)
        return pl.read_ipc_stream(io.BytesIO(body))
    except (Problem, KeyboardInterrupt, SystemExit):
        raise
    # A broken stream may end in a panic of the library, which is no Exception.
    except BaseException as error:
        said = str(error) if isinstance(error, Malformed) else type(error).__name__
        raise Problem(
            400,
            "malformed-body",
            f"the body cannot be read as an Arrow IPC stream: {said}",
            way_out="send the stream format, not the file format, and not compressed",
        ) from error


def _check_names(table: pl.DataFrame, required: Sequence[str], optional: Sequence[str]) -> None:
    missing = [name for name in required if name not in table.columns]
    unknown = [name for name in table.columns if name not in (*required, *optional)]
    if missing or unknown:
        what = "missing" if missing else "not known"
        raise Problem(
            422,
            "invalid",
            f"a column is {what}",
            field=(missing or unknown)[0][:_LONGEST],
            way_out=f"send {', '.join(required)}; optional: {', '.join(optional) or 'none'}",
        )


def _checked(column: pl.Series, required: bool) -> pl.Series:
    """The column as the book takes it."""
    name, kind = column.name, column.dtype
    if required and column.null_count():
        raise _wrong(column, column.is_null(), "there is no value")
    if name in _NUMBERS or (name == "time" and kind.is_numeric()):
        return _numbers(column)
    if name == "time" and kind in (pl.Datetime, pl.Date):
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if kind not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise _another_kind(column)
    text = column.cast(pl.String)
    size = text.str.len_bytes()
    # The id of a what-if may be empty: it only comes back.
    least = 0 if name in ("whatif_id", "time") else 1
    wrong = (size < least) | (text.str.len_chars() > _LONGEST)
    if wrong.any():
        raise _wrong(column, wrong, f"text of {least} to {_LONGEST} characters is wanted")
    return text


def _numbers(column: pl.Series) -> pl.Series:
    if not column.dtype.is_numeric() and column.dtype != pl.Null:
        raise _another_kind(column)
    found = column.cast(pl.Float64, strict=False)
    wrong = ~(found.abs() <= _LARGEST) | (found.is_null() & column.is_not_null())
    if wrong.any():
        raise _wrong(column, wrong, f"a number of {-_LARGEST:g} to {_LARGEST:g} is wanted")
    return found.fill_null(0.0) if column.name == "fee" else found


def _wrong(column: pl.Series, wrong: pl.Series, detail: str) -> Problem:
    row = wrong.fill_null(False).arg_max()
    return Problem(
        422,
        "invalid",
        f"{detail}, first in row {0 if row is None else row + 1}",
        field=column.name,
        way_out="correct the row",
    )


def _another_kind(column: pl.Series) -> Problem:
    return Problem(
        422,
        "invalid",
        f"a column of {str(column.dtype)[:_LONGEST]}",
        field=column.name,
        way_out="numbers as float64, times also as timestamps, all else as text",
    )
