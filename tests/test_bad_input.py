"""Bad rows, files and frames: what fails, why, and that nobody else notices."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import small_case
from hypothesis import given, settings
from hypothesis import strategies as st
from small_case import (
    CASE,
    FIGURES,
    OUTPUTS,
    TABLES,
    VALUATION,
    Case,
    Form,
    failed,
    frames,
    good_part,
    holders,
    instrument,
    position,
    same_but,
    sound,
)
from typer.testing import CliRunner

import gpu_margin
from gpu_margin.cli import app
from gpu_margin.io.tables import read_table

FORMS: tuple[Form, ...] = ("frames", "csv", "parquet")
FILES = {f"{name}.parquet" for name in OUTPUTS if name != "group_totals"}
FILES |= {"manifest.json", "report.html"}
NAN, INF = math.nan, math.inf
ACCOUNTS = {"A", "B", "C", "D", "E"}
HEADER, *LINES = b"""account_id,instrument_id,quantity,netting_set
A,FUTX,1.0,
A,CALLX,-3.0,
B,FUTY,2.0,s1
B,PUTY,5.0,s1
B,FUTX,-1.0,s2
C,SPOTX,4.0,
D,PERPY,-7.5,
E,LONE,2.0,""".splitlines()  # the positions of CASE


def run(
    case: Case = CASE, form: Form = "frames", folder: Path | None = None, /, **other: Any
) -> gpu_margin.Run:
    return sound(small_case.run(case, form, folder, **other))


@cache
def clean() -> gpu_margin.Run:
    return run()


def lost_or_untouched(finished: gpu_margin.Run, source: str, touched: set[str]) -> None:
    """A file that cannot be told into rows fails as one; else only `touched` accounts suffer."""
    if (source, None) in failed(finished):
        assert finished.margins["requirement"].null_count() == len(finished.margins)
        return
    assert failed(finished, source)
    keep = ~pl.col("account_id").is_in(sorted(touched))
    assert finished.margins.filter(keep).rows() == clean().margins.filter(keep).rows()


# ---------------------------------------------------------------- bad rows


@dataclass(frozen=True)
class Bad:
    """One bad value: in which row of which table, and how its failure begins."""

    table: str
    row: int
    field: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.table}-{self.row}-{self.field}-{self.value}"


JUNK: tuple[tuple[Any, str], ...] = ((NAN, "not finite"), ("abc", "not a number"))
NUMBERS = (
    *JUNK,
    *((INF, "not finite"), (-INF, "not finite"), ("1,000", "not a number")),
    *((2e30, "out of range"), (-2e30, "out of range"), (1e-31, "out of range")),
)
POSITIVE = ((0.0, "not positive"), (-5.0, "not positive"))
DATES = tuple((value, "not a date") for value in ("soon", "2024-02-30", "20240601"))
EXPIRED = VALUATION - timedelta(days=1)


def bad(table: str, row: int, field: str, *values: tuple[Any, str]) -> list[Bad]:
    """The value is missing, or one of these with its reason."""
    every = ((None, f"missing {field}"), *values)
    return [Bad(table, row, field, value, reason) for value, reason in every]


# Row 8 of positions is account E's only one; nobody has GBP, row 2 of fx.
BAD = [
    *bad("positions", 1, "account_id"),
    *bad("positions", 1, "instrument_id"),
    *bad("positions", 1, "quantity", *NUMBERS),
    *bad("positions", 8, "quantity"),
    *bad("positions", 8, "instrument_id", ("NOPE", "unknown instrument")),
    *bad("positions", 3, "instrument_id", ("futy", "unknown"), (" FUTY", "unknown")),
    *bad("instruments", 1, "instrument_id"),
    *bad("instruments", 1, "kind", ("swap", "unknown kind")),
    *bad("instruments", 2, "underlying", ("W", "factor without history")),
    *bad("instruments", 2, "currency", ("CHF", "without a rate"), ("eur", "without a rate")),
    *bad("instruments", 1, "price", *NUMBERS),
    *bad("instruments", 5, "price", (-1.0, "negative price")),
    *bad("instruments", 6, "price", (-1.0, "negative price")),
    *bad("instruments", 7, "multiplier", *JUNK, *POSITIVE)[1:],
    *bad("instruments", 3, "strike", *JUNK, *POSITIVE),
    *bad("instruments", 3, "expiry", *DATES, (EXPIRED, "expired option")),
    *bad("instruments", 3, "implied_vol", *JUNK, (-0.2, "negative implied_vol")),
    *bad("instruments", 4, "forward", *JUNK, *POSITIVE)[1:],
    *bad("instruments", 4, "rate", *JUNK, (-1e5, "rate gives"))[1:],
    *bad("history", 40, "date", *DATES),
    *bad("history", 40, "factor"),
    *bad("history", 40, "price", *NUMBERS, *POSITIVE),
    *bad("fx", 1, "currency"),
    *bad("fx", 1, "rate", *JUNK, *POSITIVE),
    *bad("fx", 2, "rate"),
]
TYPED = [fault for fault in BAD if fault.value in (None, -INF, -5.0, EXPIRED)]


@cache
def run_without(table: str, row: int) -> gpu_margin.Run:
    """The case's good rows alone where this one is bad."""
    return run(good_part(CASE, [(table, row)])[0])


@pytest.mark.parametrize(
    ("fault", "form"),
    [*((fault, "csv") for fault in BAD), *((fault, "parquet") for fault in TYPED)],
    ids=str,
)
def test_bad_row(fault: Bad, form: Form, tmp_path: Path) -> None:
    case = CASE.changed(fault.table, fault.row, **{fault.field: fault.value})
    _, failing = good_part(case, [(fault.table, fault.row)])
    finished = run(case, form, tmp_path)
    assert sorted(failed(finished)) == sorted((f"{table}.{form}", row) for table, row in failing)
    own = (pl.col("source") == f"{fault.table}.{form}") & (pl.col("row") == fault.row)
    failure = finished.failures.row(by_predicate=own, named=True)
    assert fault.reason in failure["reason"]
    assert failure["field"] == fault.field
    assert same_value(failure["value"], fault.value)
    same_but(finished, run_without(fault.table, fault.row), holders(case, failing))


def same_value(shown: str | None, given: Any) -> bool:
    """The value as text; a number in any notation."""
    if not isinstance(given, float):
        return shown == (None if given is None else str(given))
    number = float(str(shown))
    return number == given or (math.isnan(number) and math.isnan(given))


def test_a_failed_instrument_and_an_unknown_one_are_told_apart() -> None:
    case = CASE.changed("instruments", 2, price=None).changed("positions", 1, instrument_id="NO")
    failures = run(case).failures.to_dicts()
    reasons = {(row["source"], row["row"]): row["reason"] for row in failures}
    assert reasons.keys() == {("positions", 1), ("positions", 3), ("instruments", 2)}
    assert "unknown instrument" in reasons["positions", 1]
    assert "failed instrument" in reasons["positions", 3]


def test_a_row_fails_once_by_the_first_rule_it_breaks() -> None:
    case = CASE.changed("instruments", 3, kind=None, strike=-1.0, expiry=None, currency="CHF")
    failures = run(case).failures.filter(pl.col("source") == "instruments")
    assert failures.select("row", "field").rows() == [(3, "kind")]


def test_bad_instrument_that_nobody_holds_leaves_everyone_complete() -> None:
    finished = run(CASE.added("instruments", instrument("IDLE", "future", "Z", price=None)))
    assert failed(finished) == [("instruments", 8)]
    same_but(finished, clean(), set())


@pytest.mark.parametrize("form", FORMS)
def test_empty_text_is_a_missing_value(form: Form, tmp_path: Path) -> None:
    case = CASE
    for number, row in enumerate(CASE.positions, 1):
        case = case.changed("positions", number, netting_set=row["netting_set"] or "")
    finished = run(case, form, tmp_path)
    assert finished.failures.is_empty()
    names = finished.sets.select("account_id", "netting_set").unique(maintain_order=True).rows()
    assert names == [("A", "A"), ("B", "s1"), ("B", "s2"), ("C", "C"), ("D", "D"), ("E", "E")]
    for field in ("account_id", "instrument_id"):
        failures = run(case.changed("positions", 1, **{field: ""}), form, tmp_path).failures
        assert failures["reason"].str.starts_with(f"missing {field}").to_list() == [True]


# ---------------------------------------------------------------- duplicates


@pytest.mark.parametrize(
    ("change", "copies"), [({}, 1), ({}, 2), ({"price": 7.0}, 1), ({"kind": "swap"}, 1)]
)
@pytest.mark.parametrize("form", FORMS)
def test_all_copies_of_an_instrument_fail(
    form: Form, change: dict[str, Any], copies: int, tmp_path: Path
) -> None:
    case = CASE.added("instruments", *[CASE.instruments[1] | change] * copies)
    good, failing = good_part(case, [("instruments", row) for row in (2, 8, 9)[: copies + 1]])
    finished = run(case, form, tmp_path)
    assert len(finished.failures) == len(failing) == copies + 2
    own = finished.failures.filter(pl.col("source").str.starts_with("instruments"))
    assert own["reason"].str.contains("duplicate instrument_id").all()
    assert set(own["value"]) == {"FUTY"}
    same_but(finished, run(good), {"B"})


def test_all_copies_of_a_date_and_factor_fail_and_their_date_goes() -> None:
    case = CASE.added("history", CASE.history[39], CASE.history[39] | {"price": 1.0})
    finished = run(case)
    assert failed(finished) == [("history", 40), ("history", 94), ("history", 95)]
    assert finished.failures["reason"].str.contains("duplicate date and factor").all()
    assert finished.manifest["counts"]["history_dates"] == small_case.DAYS - 1
    same_but(finished, run(CASE.without("history", 40, 41, 42)), set())


def test_all_copies_of_a_currency_fail() -> None:
    case = CASE.added("fx", {"currency": "EUR", "rate": 1.1})
    finished = run(case)
    assert sorted(failed(finished)) == [("fx", 1), ("fx", 3), ("instruments", 4), ("positions", 4)]
    good, failing = good_part(case, [("fx", 1), ("fx", 3)])
    same_but(finished, run(good), holders(case, failing))


def test_duplicate_positions_are_netted_and_no_failure() -> None:
    parts = [position("A", "FUTX", 3.0), position("A", "FUTX", -2.0), position("C", "SPOTX", 0.0)]
    finished = run(CASE.without("positions", 1).added("positions", *parts))
    same_but(finished, clean(), set())
    assert finished.failures.is_empty()


# ---------------------------------------------------------------- what is no failure


@pytest.mark.parametrize("value", ["junk", "NaN", "-5", "0", "1e99"])
def test_fields_that_a_kind_does_not_use_may_hold_anything(value: str) -> None:
    case = CASE
    for number, row in enumerate(CASE.instruments, 1):
        option = row["kind"] in ("call", "put")
        unused = ("price",) if option else ("strike", "expiry", "implied_vol", "forward", "rate")
        case = case.changed("instruments", number, **dict.fromkeys(unused, value))
    finished = run(case)
    assert finished.failures.is_empty()
    assert finished.margins.rows() == clean().margins.rows()


@pytest.mark.parametrize(
    ("table", "row", "change"),
    [
        ("instruments", 1, {"price": -37.63}),
        ("instruments", 1, {"price": 0.0}),
        ("instruments", 5, {"price": 0.0}),
        ("instruments", 6, {"price": 0.0}),
        ("instruments", 3, {"implied_vol": 0.0}),
        ("instruments", 3, {"expiry": VALUATION}),
        ("instruments", 3, {"rate": -0.01, "forward": 1e30}),
        ("positions", 1, {"quantity": 1e30}),
        ("positions", 1, {"quantity": -1e-30}),
        ("history", 40, {"price": 1e-30}),
    ],
    ids=str,
)
def test_limits_that_are_valid(table: str, row: int, change: Mapping[str, Any]) -> None:
    finished = run(CASE.changed(table, row, **change))
    assert finished.failures.is_empty()
    assert finished.margins["complete"].all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zero", [0.0, -0.0, 0, "-0"])
def test_zero_quantity_is_a_position_of_nothing(zero: Any, form: Form, tmp_path: Path) -> None:
    finished = run(CASE.changed("positions", 8, quantity=zero), form, tmp_path)
    rows = finished.margins.filter(pl.col("account_id") == "E").to_dicts()
    assert finished.failures.is_empty()
    for row in rows:
        assert row["complete"]
        assert row["positions"] == 0
        assert [str(row[name]) for name in FIGURES[:4]] == ["0.0"] * 4  # and not -0.0


def test_history_after_the_valuation_date_is_not_used_and_never_fails() -> None:
    later = VALUATION + timedelta(days=1)
    rows: list[dict[str, Any]] = [
        {"date": later, "factor": "X", "price": price} for price in (-1.0, NAN, None, 5.0, 5.0)
    ]
    finished = run(CASE.added("history", *rows, {"date": later, "factor": None, "price": 1.0}))
    assert finished.failures.is_empty()
    assert finished.margins.rows() == clean().margins.rows()


def test_bad_history_of_a_factor_that_nobody_uses_removes_no_date() -> None:
    finished = run(CASE.changed("history", 42, price=-1.0))  # Z
    assert failed(finished) == [("history", 42)]
    assert finished.manifest["counts"]["history_dates"] == small_case.DAYS
    same_but(finished, clean(), set())


def test_a_failed_instrument_does_not_use_its_factor() -> None:
    case = CASE.added("instruments", instrument("OLD", "call", "Z", strike=1.0, implied_vol=0.1))
    finished = run(case.changed("history", 42, price=-1.0))
    assert sorted(failed(finished)) == [("history", 42), ("instruments", 8)]
    same_but(finished, clean(), set())


# ---------------------------------------------------------------- incomplete accounts


def test_bad_row_in_one_netting_set_leaves_the_other_alone() -> None:
    case = CASE.changed("positions", 5, quantity="x")  # the only row of B's set s2
    finished = run(case)
    sets = finished.sets.filter(pl.col("account_id") == "B")
    keys = sets.select("netting_set", "model").rows()
    complete = dict(zip(keys, sets["complete"], strict=True))
    assert complete == {(s, m): s == "s1" for s in ("s1", "s2") for m in ("cov", "es")}
    empty = sets.filter(pl.col("netting_set") == "s2")
    assert empty.select(FIGURES).rows() == [(None,) * len(FIGURES)] * 2
    assert empty["currency"].to_list() == ["USD"] * 2
    s1 = (pl.col("account_id") == "B") & (pl.col("netting_set") == "s1")
    assert finished.sets.filter(s1).rows() == clean().sets.filter(s1).rows()
    same_but(finished, run(CASE.without("positions", 5)), {"B"})


def test_totals_keep_incomplete_accounts_apart() -> None:
    case = CASE.changed("positions", 4, quantity=None).changed("positions", 8, quantity=None)
    finished = run(case)
    got = {(row["model"], row["complete"]): row for row in finished.manifest["totals"]}
    assert got.keys() == {(m, c) for m in ("cov", "es") for c in (True, False)}
    for (model, complete), row in got.items():
        accounts = ["A", "C", "D"] if complete else ["B"]  # E has no figure
        part = finished.margins.filter(
            pl.col("account_id").is_in(accounts), pl.col("model") == model
        )
        assert row["accounts"] == len(accounts)
        assert row["requirement"] == pytest.approx(part["requirement"].sum(), rel=1e-15)
        assert row["standalone"] == pytest.approx(part["standalone"].sum(), rel=1e-15)
    totals = finished.group_totals.filter(pl.col("model") == "es")
    assert dict(totals.select("product_group", "accounts").rows()) == {"X": 2, "Y": 1}
    counts = finished.manifest["counts"]
    assert (counts["accounts"], counts["incomplete_accounts"], counts["failures"]) == (5, 2, 2)
    assert finished.manifest["failures_by_reason"] == {"missing quantity: give a value": 2}


# ---------------------------------------------------------------- currencies


def test_mixed_currencies_need_a_rate() -> None:
    finished = run(CASE, fx=None)
    assert failed(finished) == [("positions", 4), ("instruments", 4)]
    same_but(finished, run(good_part(CASE, [("fx", 1)])[0]), {"B"})


def test_margin_currency_with_another_rate_is_a_failure_and_its_rate_stays_1() -> None:
    finished = run(CASE.added("fx", {"currency": "USD", "rate": 2.0}))
    assert failed(finished) == [("fx", 3)]
    assert "must be 1" in finished.failures["reason"][0]
    same_but(finished, clean(), set())
    assert run(CASE.added("fx", {"currency": "USD", "rate": 1.0})).failures.is_empty()


# ---------------------------------------------------------------- whole files


def contents() -> dict[str, bytes]:
    """Files of positions without a usable row, by what is wrong with them."""
    good = frames(CASE)["positions"]
    parquet, empty = BytesIO(), BytesIO()
    good.write_parquet(parquet)
    good.clear().write_parquet(empty)
    return {
        "nothing.csv": b"",
        "nothing.parquet": b"",
        "byte order mark.csv": b"\xef\xbb\xbf",
        "blank lines.csv": b"\n \n\n",
        "header.csv": HEADER,
        "header and blank lines.csv": HEADER + b"\r\n\r\n",
        "utf-16.csv": good.write_csv().encode("utf-16"),
        "semicolons.csv": good.write_csv(separator=";").encode(),
        "bytes.csv": bytes(range(256)) * 4,
        "parquet.csv": parquet.getvalue(),
        "text.parquet": good.write_csv().encode(),
        "garbage.parquet": b"PAR1" + bytes(40) + b"PAR1",
        "cut.parquet": parquet.getvalue()[:-100],
        "no rows.parquet": empty.getvalue(),
    }


def check_no_rows(finished: gpu_margin.Run, source: str) -> None:
    assert finished.margins.is_empty()
    assert len(finished.failures)
    assert finished.failures["row"].null_count() == len(finished.failures)
    assert set(finished.failures["source"]) == {source}
    assert finished.failures["reason"].str.contains("empty|unreadable|missing column").all()


@pytest.mark.parametrize("name", contents())
def test_file_without_usable_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(contents()[name])
    check_no_rows(run(positions=tmp_path / name), name)


@pytest.mark.parametrize("name", ["folder.csv", "folder.parquet", "folder"])
def test_folder_in_place_of_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    check_no_rows(run(positions=tmp_path / name), name)


@pytest.mark.parametrize("name", ["folder.csv", "folder.parquet"])
def test_folder_of_files_in_place_of_a_file(name: str, tmp_path: Path) -> None:
    """It has no hash by which a run could be explained."""
    (tmp_path / name).mkdir()
    frames(CASE)["positions"].write_parquet(tmp_path / name / "part.parquet")
    check_no_rows(run(positions=tmp_path / name), name)


@pytest.mark.parametrize("name", ["garbage.parquet", "nothing.csv"])
@pytest.mark.parametrize("table", ["instruments", "history", "fx"])
def test_other_tables_without_usable_rows(table: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(contents()[name])
    finished = run(**{table: tmp_path / name})
    assert failed(finished, name) == [(name, None)]
    if table == "fx":
        same_but(finished, run_without("fx", 1), {"B"})
        return
    assert set(finished.margins["account_id"]) == ACCOUNTS
    assert finished.margins.select(FIGURES).rows() == [(None,) * 8] * len(finished.margins)
    assert not finished.margins["complete"].any()
    assert len(failed(finished, "positions")) == len(CASE.positions)
    assert finished.manifest["counts"]["incomplete_accounts"] == 5


REQUIRED = [
    *(("positions", name) for name in ("account_id", "instrument_id", "quantity")),
    *(("instruments", name) for name in ("instrument_id", "kind", "underlying", "currency")),
    *(("history", name) for name in ("date", "factor", "price")),
    *(("fx", name) for name in ("currency", "rate")),
]


@pytest.mark.parametrize("form", ["frames", "csv"])
@pytest.mark.parametrize(("table", "column"), REQUIRED)
def test_missing_column(table: str, column: str, form: Form, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != column} for row in CASE.rows(table)]
    finished = run(CASE.with_rows(table, rows), form, tmp_path)
    source = table if form == "frames" else f"{table}.{form}"
    whole = finished.failures.filter(pl.col("row").is_null())
    assert whole.select("source", "field", "value").rows() == [(source, column, None)]
    assert "missing column" in whole["reason"][0]


def test_absent_optional_columns_have_defaults() -> None:
    optional = ("multiplier", "forward", "rate", "netting_set")
    case = CASE.changed("instruments", 1, multiplier=None).changed("instruments", 6, multiplier=1)
    bare = case
    for table in ("positions", "instruments"):
        rows = [{k: v for k, v in row.items() if k not in optional} for row in case.rows(table)]
        bare = bare.with_rows(table, rows)
    finished = run(bare)
    assert finished.failures.is_empty()
    alone = ~pl.col("account_id").is_in(["B"])  # B has two sets
    assert finished.margins.filter(alone).rows() == run(case).margins.filter(alone).rows()


def test_one_broken_page_of_a_parquet_file_is_a_failure_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "positions.parquet"
    frames(CASE)["positions"].write_parquet(path, compression="uncompressed", statistics=False)
    whole = bytearray(path.read_bytes())
    whole[47] = 0  # in the header of the first page: polars 2.1 panics
    path.write_bytes(whole)
    finished = run(positions=path)
    assert finished.failures.is_empty() or failed(finished) == [("positions.parquet", None)]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux")
def test_file_that_cannot_be_read() -> None:
    finished = run(positions="/proc/self/mem")  # is there, and reading it is an I/O error
    assert failed(finished) == [("mem", None)]
    assert "unreadable" in finished.failures["reason"][0]


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["positions[1]", "positions*", "positions?", "positions {1,2}"])
def test_file_name_is_no_pattern(name: str, form: Form, tmp_path: Path) -> None:
    small_case.write_tables(CASE, tmp_path, form)
    path = (tmp_path / f"positions.{form}").rename(tmp_path / f"{name}.{form}")
    other = small_case.write_tables(CASE.without("positions", 1), tmp_path, form)["positions"]
    other.rename(tmp_path / f"positions1.{form}")
    finished = run(positions=path)
    assert finished.failures.is_empty()
    assert finished.margins.rows() == clean().margins.rows()


# ---------------------------------------------------------------- CSV as people have it


def csv_run(folder: Path, content: bytes) -> gpu_margin.Run:
    path = folder / "positions.csv"
    path.write_bytes(content)
    return run(positions=path)


@pytest.mark.parametrize(
    ("line", "reason", "field"),
    [
        (b"A,FUTX,1,000.0,", "5 fields where the header has 4", None),
        (b"A,FUTX,1.0,,,,", "7 fields where the header has 4", None),
        (b"A,FUTX,1.0,caf\xe9", "not valid UTF-8", None),
        (b'A,FUTX,"1,000.0",', "not a number", "quantity"),
        (b"A,NOPE,1,000.0,", "5 fields where the header has 4", None),
        (b"A,FUTX", "missing quantity", "quantity"),
        (b"A", "missing instrument_id", "instrument_id"),
        (b"A,,,", "missing instrument_id", "instrument_id"),
        (b'A,FUTX,"",', "missing quantity", "quantity"),
        (b"A,FUTX,  ,", "missing quantity", "quantity"),
    ],
)
def test_bad_line(line: bytes, reason: str, field: str | None, tmp_path: Path) -> None:
    for ending in (b"\n", b"\r\n"):
        finished = csv_run(tmp_path, ending.join([HEADER, *LINES[:1], line, *LINES[2:]]))
        (failure,) = finished.failures.to_dicts()
        assert (failure["source"], failure["row"]) == ("positions.csv", 2)
        assert reason in failure["reason"]
        assert failure["field"] == field
        same_but(finished, run_without("positions", 2), {"A"})


def test_line_whose_account_cannot_be_read_is_an_account_of_its_own(tmp_path: Path) -> None:
    finished = csv_run(tmp_path, b"\n".join([HEADER, b"M\xfcller,FUTX,1.0,", *LINES]))
    assert failed(finished) == [("positions.csv", 1)]
    same_but(finished, clean(), {"M�ller"})


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        b"\n".join([HEADER, *LINES]),
        b"\n".join([HEADER, *LINES, b"", b""]),
        b"\n\n".join([HEADER, *LINES]),
        b"\r\n\r\n".join([HEADER, *LINES]),
        b"\xef\xbb\xbf" + b"\r\n".join([HEADER, *LINES]),
        b"\n".join([b" account_id , instrument_id,quantity ,netting_set ", *LINES]),
        b"\n".join([b'"account_id","instrument_id","quantity","netting_set"', *LINES]),
        b"\n".join([HEADER + b",note", *(line + b',"1"",\n"' for line in LINES)]),
        b"\n".join([HEADER + b",,", *(line + b",," for line in LINES)]),
        b"\n".join([HEADER, *(line.replace(b".0", b". ") for line in LINES)]),
    ],
)
def test_csv_dialects(content: bytes, ragged: bool, tmp_path: Path) -> None:
    """The same rows, also where another row makes the fast reader refuse the file."""
    extra = b"\nF,FUTX,1,2,3,4,5,6,7,8" if ragged else b""
    finished = csv_run(tmp_path, content.rstrip(b"\r\n") + extra)
    assert len(finished.failures) == ragged
    same_but(finished, clean(), {"F"} if ragged else set())


@pytest.mark.parametrize("ragged", [False, True])
def test_ids_with_commas_and_newlines_and_rows_counted_as_records(
    ragged: bool, tmp_path: Path
) -> None:
    ids = ['Smith, John & "Co"', "two\nlines", "A", "01", " A"]
    quoted = ['"' + name.replace('"', '""') + '"' for name in ids]
    lines = [f"{name},FUTX,1.0,".encode() for name in quoted]
    lines += [b"C,FUTX,x,", *([b"D,FUTX,1.0,,,"] if ragged else [])]
    finished = csv_run(tmp_path, b"\n".join([HEADER, *lines]))
    assert failed(finished) == [("positions.csv", row) for row in ([6, 7] if ragged else [6])]
    complete = finished.margins.filter(pl.col("complete"))
    assert set(complete["account_id"]) == set(ids)
    assert complete.filter(pl.col("model") == "es")["requirement"].n_unique() == 1


def no_swallowed_line(text: str) -> bool:
    """Line breaks with a record's commas are taken for lines between two stray quotes."""
    return "\n" not in text or text.count(",") < 2


@given(
    st.lists(
        st.text("aB1 ,;\"'\n\u00e9\u2028\x85\x0c", min_size=1).filter(no_swallowed_line),
        unique=True,
        max_size=6,
    ),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_both_readers_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], quoting: Any
) -> None:
    """Any text may be an account; a bad last row is why the second reader is asked."""
    content = StringIO()
    writer = csv.writer(content, quoting=quoting, lineterminator="\n")
    writer.writerows([["account_id", "instrument_id", "quantity"], ["A", "FUTX", 1.0]])
    writer.writerows([name, "FUTX", number] for number, name in enumerate(ids, 1))
    path = tmp_path_factory.mktemp("csv") / "positions.csv"
    path.write_bytes(content.getvalue().encode())
    plain = read_table(path, "positions", ("account_id", "instrument_id", "quantity"))
    assert plain.frame["account_id"].to_list() == ["A", *ids]
    path.write_bytes(content.getvalue().encode() + b"F,FUTX,1,000\n")
    ragged = read_table(path, "positions", ("account_id", "instrument_id", "quantity"))
    assert ragged.failures["row"].to_list() == [len(ids) + 2]
    assert ragged.frame[:-1].rows() == plain.frame.rows()


@pytest.mark.parametrize("extra", [b"", b"A,FUTX,1,2,3,4\n"])
def test_blank_lines_count_alike_for_both_readers(extra: bytes, tmp_path: Path) -> None:
    content = HEADER + b"\n" + LINES[0] + b"\n\n\nC,SPOTX,bad,\n" + extra
    assert ("positions.csv", 4) in failed(csv_run(tmp_path, content))


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (HEADER, b'"A,FUTX,1.0,'),
        (HEADER, b'A,"FUTX,1.0,'),
        (HEADER, b'A,FUTX,"1.0,'),
        (HEADER, b'A,FUTX,1.0,"'),
        (HEADER + b",note", b'A,FUTX,1.0,,"see mail'),
        (HEADER, b'A,FUTX,1.0,2,3,"4'),
    ],
)
def test_unclosed_quote_does_not_swallow_other_accounts(
    header: bytes, line: bytes, tmp_path: Path
) -> None:
    finished = csv_run(tmp_path, b"\n".join([header, line, *LINES[1:]]) + b"\n")
    named = {name for name in finished.margins["account_id"] if name not in ACCOUNTS}
    lost_or_untouched(finished, "positions.csv", {"A"} | named)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 5), (2, 6)])
@pytest.mark.parametrize("field", range(3))
def test_two_stray_quotes_do_not_swallow_the_accounts_between(
    first: int, last: int, field: int, tmp_path: Path
) -> None:
    lines = list(LINES)
    for number in (first, last):
        fields = lines[number].split(b",")
        fields[field] = b'"' + fields[field]
        lines[number] = b",".join(fields)
    finished = csv_run(tmp_path, b"\n".join([HEADER, *lines]) + b"\n")
    bad = {("positions.csv", first + 1), ("positions.csv", last + 1)}
    assert set(failed(finished)) == bad
    touched = {lines[number].split(b",")[0].decode() for number in (first, last)}
    named = {name for name in finished.margins["account_id"] if name not in ACCOUNTS}
    lost_or_untouched(finished, "positions.csv", touched | named | {t.strip('"') for t in touched})


def test_a_column_twice_is_a_failure_of_the_file(tmp_path: Path) -> None:
    for ragged in (b"", b"\nA,FUTX,1.0,,2,3,4"):
        content = b"\n".join([HEADER + b",quantity", *(line + b",5" for line in LINES)]) + ragged
        (failure,) = csv_run(tmp_path, content).failures.to_dicts()
        assert (failure["row"], failure["field"]) == (None, "quantity")
        assert "twice" in failure["reason"]


def test_unclosed_quote_does_not_swallow_the_latest_history(tmp_path: Path) -> None:
    path = small_case.write_tables(CASE, tmp_path, "csv")["history"]
    lines = path.read_bytes().splitlines()
    lines[70] = lines[70].rsplit(b",", 1)[0] + b',"101.0'
    path.write_bytes(b"\n".join(lines))
    finished = run(history=path)
    if ("history.csv", None) not in failed(finished):
        assert finished.manifest["counts"]["history_dates"] == small_case.DAYS - 1


# ---------------------------------------------------------------- column types and frames


TEXTS = {
    "positions": ("account_id", "instrument_id", "netting_set"),
    "instruments": ("instrument_id", "kind", "underlying", "currency"),
    "history": ("factor",),
    "fx": ("currency",),
}


@pytest.mark.parametrize("form", ["frames", "parquet"])
@pytest.mark.parametrize("kind", [pl.Categorical, pl.Binary, "dictionary"], ids=str)
def test_text_columns_of_other_types(kind: Any, form: Form, tmp_path: Path) -> None:
    tables: dict[str, Any] = {}
    for name, table in frames(CASE).items():
        if kind == "dictionary":
            arrow = table.to_arrow()
            for column in TEXTS[name]:
                at = arrow.schema.get_field_index(column)
                text = arrow[column].combine_chunks().cast(pa.string())
                arrow = arrow.set_column(at, column, text.dictionary_encode())
            tables[name] = arrow
        else:
            tables[name] = table.cast(dict.fromkeys(TEXTS[name], kind))
        if form == "parquet":
            pl.DataFrame(tables[name]).write_parquet(tmp_path / f"{name}.parquet")
            tables[name] = tmp_path / f"{name}.parquet"
    finished = run(**tables)
    assert finished.failures.is_empty()
    assert finished.margins.rows() == clean().margins.rows()


def test_integer_ids_are_text() -> None:
    table = frames(CASE)["positions"].with_columns(pl.int_range(pl.len()).alias("account_id"))
    assert set(run(positions=table).margins["account_id"]) == {str(n) for n in range(8)}


@pytest.mark.parametrize("form", ["frames", "parquet"])
@pytest.mark.parametrize(
    "kind", [pl.Decimal(18, 4), pl.Float32, pl.Int64, pl.Int8, pl.String, pl.Categorical], ids=str
)
def test_number_columns_of_other_types(kind: Any, form: Form, tmp_path: Path) -> None:
    case = CASE.changed("positions", 7, quantity=-7.0)
    whole = frames(case)["positions"].with_columns(pl.col("quantity").cast(pl.Int64))
    table = whole.with_columns(pl.col("quantity").cast(pl.String).cast(kind))
    path = tmp_path / "positions.parquet"
    table.write_parquet(path)
    finished = run(positions=table if form == "frames" else path)
    assert finished.failures.is_empty()
    assert finished.margins.rows() == run(case).margins.rows()


DAY = pl.col("date").cast(pl.Datetime("us"))
EVENING = DAY + pl.duration(hours=23)
DAYS = {
    "milliseconds": pl.col("date").cast(pl.Datetime("ms")),
    "evening": EVENING.cast(pl.Datetime("ns")),
    "utc": DAY.dt.replace_time_zone("UTC"),
    "tokyo": DAY.dt.replace_time_zone("Asia/Tokyo"),
    "new york": EVENING.dt.replace_time_zone("America/New_York"),
    "text": pl.col("date").dt.to_string("%Y-%m-%d"),
    "blanks": pl.col("date").dt.to_string(" %Y-%m-%d "),
    "text with T": pl.col("date").dt.to_string("%Y-%m-%dT17:30:00Z"),
    "text with time": pl.col("date").dt.to_string("%Y-%m-%d 17:30:00"),
    "categorical": pl.col("date").dt.to_string("%Y-%m-%d").cast(pl.Categorical),
}


@pytest.mark.parametrize("name", DAYS)
def test_dates_of_other_types_are_the_days_that_they_show(name: str, tmp_path: Path) -> None:
    table = frames(CASE)["history"].with_columns(DAYS[name].alias("date"))
    path = tmp_path / "history.parquet"
    table.write_parquet(path)
    for source in (table, path):
        finished = run(history=source)
        assert finished.failures.is_empty()
        assert finished.margins.rows() == clean().margins.rows()


def test_expiry_as_datetime_or_text() -> None:
    table = frames(CASE)["instruments"]
    for kind in (pl.Datetime("us"), pl.String):
        finished = run(instruments=table.with_columns(pl.col("expiry").cast(kind)))
        assert finished.margins.rows() == clean().margins.rows()


LIBRARIES: dict[str, Any] = {
    "arrow": pl.DataFrame.to_arrow,
    "reader": lambda table: table.to_arrow().to_reader(),
    "batch": lambda table: table.to_arrow().to_batches()[0],
    "lazy": pl.DataFrame.lazy,
    "pandas": pl.DataFrame.to_pandas,
    "pandas of dicts": lambda table: pd.DataFrame(table.to_dicts()),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_frames_of_other_libraries(library: str) -> None:
    """pandas among them has NaN where an optional field is missing."""
    convert = LIBRARIES[library]
    finished = run(**{name: convert(table) for name, table in frames(CASE).items()})
    assert finished.failures.is_empty()
    assert finished.margins.rows() == clean().margins.rows()


def test_other_columns_and_their_order_do_not_matter() -> None:
    names = ("row", "code", "known", "bad", "fx", "last", "time", "broken", "raw:price", "set")
    tables = {
        name: table.select(reversed(table.columns)).with_columns(
            pl.lit("other").alias(other) for other in names
        )
        for name, table in frames(CASE).items()
    }
    finished = run(**tables)
    assert finished.failures.is_empty()
    assert finished.margins.rows() == clean().margins.rows()


def test_order_of_rows_does_not_matter() -> None:
    tables = {name: table.reverse() for name, table in frames(CASE).items()}
    assert run(**tables).margins.rows() == clean().margins.rows()


def test_other_columns_of_pandas_may_hold_anything() -> None:
    table = frames(CASE)["positions"].to_pandas()
    table["note"] = [object(), 1, "text", None, 2.5, b"", [], {}]
    assert run(positions=table).margins.rows() == clean().margins.rows()


@pytest.mark.parametrize("missing", [None, pd.NA, NAN, pd.NaT], ids=str)
def test_missing_values_of_pandas(missing: Any) -> None:
    tables = {}
    for name, table in frames(CASE).items():
        objects = table.to_pandas().astype(object)
        tables[name] = objects.where(objects.notna(), missing)
    assert run(**tables).margins.rows() == clean().margins.rows()


def test_pandas_with_a_column_twice_does_not_raise() -> None:
    table = frames(CASE)["positions"].to_pandas()
    finished = run(positions=pd.concat([table, table["quantity"]], axis=1))
    assert finished.failures.is_empty() or failed(finished) == [("positions", None)]


def test_pandas_column_of_numbers_and_text() -> None:
    table = frames(CASE)["positions"].to_pandas()
    table["quantity"] = ["abc", *table["quantity"].astype(object)[1:]]
    lost_or_untouched(run(positions=table), "positions", {"A"})


NO_TYPES = {
    "list": ("positions", pl.concat_list("quantity")),
    "array": ("positions", pl.concat_list("quantity").list.to_array(1)),
    "duration": ("positions", pl.lit(timedelta(days=1)).alias("quantity")),
    "bool": ("positions", pl.lit(True).alias("quantity")),
    "null": ("positions", pl.lit(None).alias("quantity")),
    "list of kinds": ("instruments", pl.concat_list("kind")),
    "list of expiries": ("instruments", pl.concat_list("expiry")),
    "list of dates": ("history", pl.concat_list("date")),
    "number as date": ("history", pl.col("date").dt.to_string("%Y%m%d").cast(pl.Int64)),
}


@pytest.mark.parametrize("name", NO_TYPES)
def test_columns_of_unusable_types_fail_and_do_not_raise(name: str) -> None:
    table, values = NO_TYPES[name]
    assert failed(run(**{table: frames(CASE)[table].with_columns(values)}), table)


def test_ids_that_are_lists_do_not_raise() -> None:
    run(positions=frames(CASE)["positions"].with_columns(pl.concat_list("account_id")))


def test_bytes_that_are_no_text_fail_their_row() -> None:
    table = frames(CASE)["positions"].cast({"account_id": pl.Binary})
    broken = pl.Series("account_id", [b"\xff", *table["account_id"][1:]])
    lost_or_untouched(run(positions=table.with_columns(broken)), "positions", {"A", "�"})


# ---------------------------------------------------------------- huge and tiny

BIG = instrument("BIG", "future", "H", "XXL", multiplier=1e30, price=1e30)


def huge_case() -> Case:
    """Account Z holds what is beyond float64 in x'Cx; its factor jumps between the limits."""
    case = CASE.added("instruments", BIG, instrument("H", "future", "H", price=1.0))
    case = case.added("fx", {"currency": "XXL", "rate": 1e30})
    days = sorted({row["date"] for row in CASE.history})
    jumps = [1e30 if n % 2 else 1e-30 for n in range(len(days))]
    rows = [{"date": d, "factor": "H", "price": p} for d, p in zip(days, jumps, strict=True)]
    return case.added("history", *rows)


@pytest.mark.parametrize("quantities", [[1e30], [1e30, 1e30], [1e30, -1e30, -1e30], [-1e30]])
def test_overflow_is_a_failure_and_null(quantities: list[float]) -> None:
    case = huge_case()
    rows = [position("Z", "BIG", quantity) for quantity in quantities]
    finished = run(case.added("positions", *rows, position("Z", "SPOTX", 1.0, "small")))
    assert len(finished.failures) == 1
    assert "cov" in finished.failures["reason"][0]
    assert "not finite" in finished.failures["reason"][0]
    own = finished.margins.filter(pl.col("account_id") == "Z")
    small = run(CASE.with_rows("positions", [position("Z", "SPOTX", 1.0, "small")]))
    assert own["complete"].to_list() == [False, True]  # cov, es
    assert own["requirement"].to_list() == [small.margins["requirement"][0], own[1, "requirement"]]
    sets = finished.sets.filter(pl.col("account_id") == "Z", pl.col("model") == "cov")
    assert sets["complete"].to_list() == [False, True]
    assert sets["requirement"].is_null().to_list() == [True, False]
    others = pl.col("account_id") != "Z"
    assert finished.margins.filter(others).rows() == run(case).margins.rows()


@given(st.data())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_numbers_at_their_limits_never_give_nan(data: st.DataObject) -> None:
    limits = st.sampled_from([1e30, 1e15, 1.0, 1e-15, 1e-30])
    signed = st.sampled_from([1e30, -1e30, 0.0, -0.0, 1e-30, -1.0])
    case = huge_case().added("positions", position("Z", "BIG", 1.0), position("Z", "H", 1.0))
    for number in range(1, len(case.positions) + 1):
        case = case.changed("positions", number, quantity=data.draw(signed))
    for number in range(1, len(case.instruments) + 1):
        fields = ("multiplier", "price", "strike", "implied_vol", "forward")
        values: dict[str, Any] = {field: data.draw(limits) for field in fields}
        case = case.changed("instruments", number, rate=data.draw(signed), **values)
    models = {
        "lw": small_case.covariance(estimator={"kind": "ledoit_wolf"}),
        "worst": small_case.simulation(measure={"kind": "worst"}),
    }
    run(case.with_models(**case.config["models"], **models))


# ---------------------------------------------------------------- random corruption

JUNK_TEXTS = [
    ("positions", "instrument_id", ("", "NOPE")),
    ("positions", "quantity", ("", "abc", "NaN", "-inf", "1e31")),
    ("instruments", "instrument_id", ("",)),
    ("instruments", "kind", ("", "swap")),
    ("instruments", "underlying", ("", "W")),
    ("instruments", "currency", ("", "CHF")),
    ("instruments", "multiplier", ("abc", "0", "inf")),
    ("history", "date", ("", "soon")),
    ("history", "price", ("", "0", "-1", "x", "NaN")),
    ("fx", "rate", ("", "0", "-1", "x", "inf")),
]
HARMLESS = [
    ("instruments", 3, "price", "junk"),
    ("instruments", 1, "strike", "-1"),
    ("instruments", 5, "expiry", "never"),
    ("positions", 6, "netting_set", "x, y"),
]
COPIES = [("instruments", 1), ("instruments", 7), ("history", 50), ("fx", 1)]


@given(st.data(), st.sampled_from(["frames", "csv"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_random_corruption(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: Form
) -> None:
    """Exactly the corrupted rows and what hangs on them fail; the rest is as without them."""
    case, bad = CASE, set()
    for table, field, values in data.draw(st.lists(st.sampled_from(JUNK_TEXTS), max_size=6)):
        row = data.draw(st.integers(1, len(CASE.rows(table))))
        value = data.draw(st.sampled_from(values))
        case = case.changed(table, row, **{field: value})
        bad.add((table, row))
    for table, row, field, value in data.draw(st.lists(st.sampled_from(HARMLESS))):
        case = case.changed(table, row, **{field: value})
    for table, row in data.draw(st.lists(st.sampled_from(COPIES), unique=True, max_size=2)):
        if (table, row) not in bad:
            case = case.added(table, case.rows(table)[row - 1])
            bad |= {(table, row), (table, len(case.rows(table)))}
    good, failing = good_part(case, bad)
    finished = run(case, form, tmp_path_factory.mktemp("case"))
    names = [table if form == "frames" else f"{table}.{form}" for table in TABLES]
    expected = {(names[TABLES.index(table)], row) for table, row in failing}
    assert len(finished.failures) == len(failing)
    assert set(failed(finished)) == expected
    touched = holders(case, failing)
    if not good.positions:
        assert finished.margins["requirement"].null_count() == len(finished.margins)
        return
    same_but(finished, run(good), touched)
    if not any(table in ("history", "instruments", "fx") for table, _ in failing):
        same = ~pl.col("account_id").is_in(sorted(touched | {"C"}))  # C may be in another set
        assert finished.margins.filter(same).rows() == clean().margins.filter(same).rows()


# ---------------------------------------------------------------- the command line


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def saved(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def test_exit_codes_of_failed_rows(tmp_path: Path) -> None:
    good = small_case.write_case(CASE, tmp_path / "good")
    bad = small_case.write_case(CASE.changed("positions", 1, quantity=None), tmp_path / "bad")
    for config, flags, code in ((good, "--strict", 0), (bad, "--quiet", 0), (bad, "--strict", 1)):
        out = tmp_path / f"{config.parent.name}{flags}"
        result = command("run", config, "--out", out, "--quiet", flags)
        assert result.exit_code == code, result.output
        assert {path.name for path in out.iterdir()} == FILES
        assert len(saved(out, "failures")) == (config == bad)
        assert command("validate", config, "--quiet", flags).exit_code == code


@pytest.mark.parametrize(
    "case",
    [
        CASE.with_rows("positions", [position("A", "FUTX", None), position("B", "NOPE", 1.0)]),
        CASE.with_rows("instruments", [instrument("FUTX", "swap", "X")]),
        CASE.with_rows("history", [{"date": date(2023, 1, 1), "factor": "Z", "price": 1.0}]),
    ],
    ids=["positions", "instruments", "history"],
)
def test_nothing_computable_exits_3_and_writes_everything(case: Case, tmp_path: Path) -> None:
    config, out = small_case.write_case(case, tmp_path, "csv"), tmp_path / "out"
    result = command("run", config, "--out", out)
    assert result.exit_code == 3, result.output
    assert {path.name for path in out.iterdir()} == FILES
    margins = saved(out, "margins")
    assert set(margins["account_id"]) == {row["account_id"] for row in case.positions}
    assert margins["requirement"].null_count() == len(margins) > 0
    assert not margins["complete"].any()
    assert saved(out, "components").is_empty()
    assert command("validate", config).exit_code == 3


@pytest.mark.parametrize("content", [b"", HEADER], ids=["zero bytes", "header"])
def test_no_positions_at_all_exits_3_and_writes_everything(content: bytes, tmp_path: Path) -> None:
    config, out = small_case.write_case(CASE, tmp_path, "csv"), tmp_path / "out"
    (tmp_path / "positions.csv").write_bytes(content)
    result = command("run", config, "--out", out, "--json")
    assert result.exit_code == 3, result.output
    assert {path.name for path in out.iterdir()} == FILES
    assert saved(out, "margins").is_empty()
    assert saved(out, "failures").select("source", "row").rows() == [("positions.csv", None)]
    assert json.loads(result.stdout)["counts"]["failures"] == 1


@pytest.mark.parametrize("content", [b"", b"currency,rate\n", b"\xff"])
def test_a_run_with_an_unusable_file_can_be_explained(content: bytes, tmp_path: Path) -> None:
    config, out = small_case.write_case(CASE, tmp_path, "csv"), tmp_path / "out"
    (tmp_path / "fx.csv").write_bytes(content)
    assert command("run", config, "--out", out, "--quiet").exit_code == 0
    for account in ("A", "B"):
        result = command("explain", out, account, "--json")
        assert result.exit_code == 0, result.exception or result.output
    (tmp_path / "fx.csv").write_bytes(b"currency,rate\nEUR,1.1\n")
    assert command("explain", out, "A").exit_code in (2, 3)  # refused: it has changed


def test_results_on_disk_have_no_nan(tmp_path: Path) -> None:
    case = huge_case().added("positions", position("Z", "BIG", 1e30), position("Y", "NOPE", 1.0))
    config, out = small_case.write_case(case, tmp_path), tmp_path / "out"
    assert command("run", config, "--out", out, "--quiet").exit_code == 0
    for name in ("margins", "components", "sets", "groups"):
        for column in saved(out, name).select(pl.selectors.float()):
            assert column.drop_nulls().is_finite().all(), (name, column.name)
    text = (out / "manifest.json").read_text(encoding="utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the manifest"))


def test_validate_says_all_failures_as_json(tmp_path: Path) -> None:
    case = CASE.changed("history", 1, price=0.0).changed("positions", 2, quantity="many")
    result = command("validate", small_case.write_case(case, tmp_path, "csv"), "--json")
    answer = json.loads(result.stdout)
    rows = [(f["source"], f["row"], f["field"], f["value"]) for f in answer["failures"]]
    assert rows == [("positions.csv", 2, "quantity", "many"), ("history.csv", 1, "price", "0.0")]
    assert answer["counts"]["incomplete_accounts"] == 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.toml", *(f"{table}.csv" for table in TABLES)}
