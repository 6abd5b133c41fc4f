"""A minimal valid case of issue 2 as rows; ways to change, write and run it; what must hold.

Rows are dicts of Python values; a text in place of a number stands for what a person may type.
Row numbers are 1-based data rows, as in failures.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from math import sin
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest

import gpu_margin

Row = dict[str, Any]
Form = Literal["frames", "csv", "parquet"]
TABLES = ("positions", "instruments", "history", "fx")
VALUATION = date(2024, 3, 1)
DAYS = 31
FIGURES = (
    *("requirement", "standalone", "offset", "offset_ratio"),
    *("net_exposure", "gross_exposure", "positions", "worst_scenario"),
)
OUTPUTS = ("margins", "components", "sets", "groups", "group_totals", "failures")
_TYPES: dict[str, Any] = {
    "quantity": pl.Float64,
    "multiplier": pl.Float64,
    "price": pl.Float64,
    "strike": pl.Float64,
    "expiry": pl.Date,
    "implied_vol": pl.Float64,
    "forward": pl.Float64,
    "rate": pl.Float64,
    "date": pl.Date,
}


@dataclass(frozen=True)
class Case:
    """Tables as rows, and the config (without inputs)."""

    config: Row
    positions: list[Row]
    instruments: list[Row]
    history: list[Row]
    fx: list[Row]

    def rows(self, table: str) -> list[Row]:
        rows: list[Row] = getattr(self, table)
        return rows

    def changed(self, table: str, number: int, /, **values: Any) -> Case:
        """Row `number` with other values."""
        rows = list(self.rows(table))
        rows[number - 1] = rows[number - 1] | values
        return self.with_rows(table, rows)

    def added(self, table: str, *rows: Row) -> Case:
        """With rows at the end."""
        return self.with_rows(table, [*self.rows(table), *rows])

    def without(self, table: str, *numbers: int) -> Case:
        """Without the rows of these numbers."""
        kept = [row for n, row in enumerate(self.rows(table), 1) if n not in numbers]
        return self.with_rows(table, kept)

    def with_rows(self, table: str, rows: list[Row]) -> Case:
        values: Any = {table: rows}
        return replace(self, **values)

    def with_models(self, **models: Row) -> Case:
        return replace(self, config=self.config | {"models": models})


def instrument(name: str, kind: str, underlying: str, currency: str = "USD", **more: Any) -> Row:
    row = {"instrument_id": name, "kind": kind, "underlying": underlying, "currency": currency}
    optional = ("multiplier", "price", "strike", "expiry", "implied_vol", "forward", "rate")
    return {**row, **dict.fromkeys(optional), **more}


def position(account: str, name: str, quantity: Any, netting_set: str | None = None) -> Row:
    row = {"account_id": account, "instrument_id": name, "quantity": quantity}
    return {**row, "netting_set": netting_set}


def covariance(lookback: int = 20, **more: Any) -> Row:
    model = {"kind": "covariance", "confidence": 0.99, "lookback": lookback}
    return {**model, "estimator": {"kind": "sample"}, **more}


def simulation(lookback: int = 20, **more: Any) -> Row:
    scenarios = {"kind": "historical", "lookback": lookback}
    measure = {"kind": "es", "confidence": 0.9}
    return {"kind": "simulation", "scenarios": scenarios, "measure": measure, **more}


def _history() -> list[Row]:
    """Rows 3 d + 1, 2, 3 are X, Y, Z of day d; the last day is the valuation date."""
    walks = (("X", 100.0, 0.0), ("Y", 50.0, 1.0), ("Z", 7.0, 2.0))
    return [
        {
            "date": VALUATION - timedelta(days=DAYS - 1 - day),
            "factor": factor,
            "price": start * (1.0 + 0.02 * sin(1.3 * day + phase)),
        }
        for day in range(DAYS)
        for factor, start, phase in walks
    ]


EXPIRY = VALUATION + timedelta(days=92)

# Accounts: A one set with an option, B two named sets, C and D an instrument each, E the only one
# in LONE. No instrument refers to factor Z.
CASE = Case(
    config={
        "valuation_date": VALUATION,
        "currency": "USD",
        "models": {"cov": covariance(), "es": simulation()},
    },
    positions=[
        position("A", "FUTX", 1.0),
        position("A", "CALLX", -3.0),
        position("B", "FUTY", 2.0, "s1"),
        position("B", "PUTY", 5.0, "s1"),
        position("B", "FUTX", -1.0, "s2"),
        position("C", "SPOTX", 4.0),
        position("D", "PERPY", -7.5),
        position("E", "LONE", 2.0),
    ],
    instruments=[
        instrument("FUTX", "future", "X", multiplier=10.0, price=101.0),
        instrument("FUTY", "future", "Y", price=51.0),
        instrument("CALLX", "call", "X", strike=100.0, expiry=EXPIRY, implied_vol=0.2),
        instrument("PUTY", "put", "Y", "EUR", strike=45.0, expiry=EXPIRY, implied_vol=0.3),
        instrument("SPOTX", "spot", "X", price=100.0),
        instrument("PERPY", "perpetual", "Y", price=50.5, multiplier=0.5),
        instrument("LONE", "future", "X", price=99.0),
    ],
    history=_history(),
    fx=[{"currency": "EUR", "rate": 1.1}, {"currency": "GBP", "rate": 1.25}],
)


# ---------------------------------------------------------------- as tables


def frame(rows: list[Row]) -> pl.DataFrame:
    """Rows as a table; a column with a text in it is all text, as a person would have it."""
    columns = rows[0] if rows else {}
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in columns])


def _column(name: str, values: list[Any]) -> pl.Series:
    if not any(isinstance(value, str) for value in values):
        return pl.Series(name, values, dtype=_TYPES.get(name), strict=False)
    return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


def frames(case: Case) -> dict[str, pl.DataFrame]:
    return {table: frame(case.rows(table)) for table in TABLES}


def write_tables(case: Case, folder: Path, form: Form) -> dict[str, Path]:
    """Files of the case's tables by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {table: folder / f"{table}.{form}" for table in TABLES}
    for table, path in paths.items():
        if form == "csv":
            _write_csv(case.rows(table), path)
        else:
            frame(case.rows(table)).write_parquet(path)
    return paths


def _write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_case(case: Case, folder: Path, form: Form = "parquet") -> Path:
    """Tables and TOML in the folder; the TOML's path."""
    inputs = {table: path.name for table, path in write_tables(case, folder, form).items()}
    path = folder / "config.toml"
    path.write_text(toml({**case.config, "inputs": inputs}), encoding="utf-8")
    return path


def toml(config: Row) -> str:
    return "".join(f"{key} = {_toml_value(value)}\n" for key, value in config.items())


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else repr(value)


def run(
    case: Case, form: Form = "frames", folder: Path | None = None, **other: Any
) -> gpu_margin.Run:
    """The case run on the reference backend; `other` tables replace those of the case."""
    if form == "frames" or folder is None:
        tables: dict[str, Any] = dict(frames(case))
    else:
        tables = dict(write_tables(case, folder, form))
    return gpu_margin.run(case.config, **{"backend": "numpy", **tables, **other})


# ---------------------------------------------------------------- what every run must obey


def sound(finished: gpu_margin.Run) -> gpu_margin.Run:
    """No NaN and no infinity anywhere; sets and components add up to the accounts."""
    for name in OUTPUTS:
        table: pl.DataFrame = getattr(finished, name)
        for column in table.select(pl.selectors.float()):
            assert column.drop_nulls().is_finite().all(), (name, column.name)
    json.dumps(finished.manifest, allow_nan=False)
    keys = ["account_id", "model", "level"]
    requirement = figures(finished.margins, keys, "requirement")
    assert figures(finished.components, keys, "amount") == pytest.approx(requirement, rel=1e-12)
    assert figures(finished.sets, keys, "requirement") == pytest.approx(requirement, rel=1e-12)
    assert all(value >= 0 for value in requirement.values())
    return finished


def figures(table: pl.DataFrame, keys: list[str], column: str) -> dict[Any, float]:
    known = table.drop_nulls(column).group_by(keys).agg(pl.col(column).sum())
    return {row[:-1]: row[-1] for row in known.select(*keys, column).iter_rows()}


def failed(finished: gpu_margin.Run, source: str | None = None) -> list[Any]:
    """(source, row) of failures, in their order."""
    rows = finished.failures.select("source", "row").rows()
    return [row for row in rows if source in (None, row[0])]


def good_part(case: Case, bad: Iterable[tuple[str, int]]) -> tuple[Case, set[tuple[str, int]]]:
    """The rows that are good where these are bad, and all rows that fail."""
    gone = {table: {row for name, row in bad if name == table} for table in TABLES}
    rates = case.without("fx", *gone["fx"]).rows("fx")
    known = {"USD", *(row["currency"] for row in rates)}
    for number, row in enumerate(case.instruments, 1):
        if row["currency"] not in known:
            gone["instruments"].add(number)
    good = case.without("instruments", *gone["instruments"])
    ids = {row["instrument_id"] for row in good.instruments}
    for number, row in enumerate(case.positions, 1):
        if row["instrument_id"] not in ids:
            gone["positions"].add(number)
    for table in TABLES:
        good = good.with_rows(table, case.without(table, *gone[table]).rows(table))
    return good, {(table, row) for table in TABLES for row in gone[table]}


def same_but(finished: gpu_margin.Run, good: gpu_margin.Run, touched: set[str]) -> None:
    """Beside `good`, the run of the good rows alone: only `touched` accounts are incomplete."""
    for name in ("margins", "components", "sets", "groups"):
        got, expected = getattr(finished, name), getattr(good, name)
        other = ~pl.col("account_id").is_in(sorted(touched))
        assert got.filter(other).rows() == expected.filter(other).rows(), name
        if name in ("components", "groups"):  # no figure, no row
            assert got.rows() == expected.rows()
    incomplete = finished.margins.filter(~pl.col("complete"))
    assert set(incomplete["account_id"]) == touched
    assert finished.margins.filter(pl.col("complete"))["requirement"].null_count() == 0
    figures = pl.exclude("complete")
    kept = incomplete.filter(pl.col("requirement").is_not_null()).select(figures)
    known = pl.col("account_id").is_in(sorted(touched))
    assert kept.rows() == good.margins.filter(known).select(figures).rows()
    without = incomplete.filter(pl.col("requirement").is_null())
    assert not set(without["account_id"]) & set(good.margins["account_id"])
    assert without.select(FIGURES).rows() == [(None,) * len(FIGURES)] * len(without)


def holders(case: Case, failing: Iterable[tuple[str, int]]) -> set[str]:
    rows = [case.positions[row - 1] for table, row in failing if table == "positions"]
    return {row["account_id"] for row in rows} - {None, ""}
