"""The SIMM vectors and parameter files beside the checkout, as plain Python cases."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import vectors_case

Row = dict[str, str]
"""A CRIF row as it is written: column -> text."""
Level = tuple[str, str, str]
"""(product class, risk class, margin type)."""


def vectors() -> Path:
    """The folder of vectors; an error in CI where SIMM's are not in it, elsewhere a skip."""
    return vectors_case.folder("simm").parent


def parameters() -> Path:
    """The folder of raw parameter files, which lies beside the vectors; absent as above."""
    folder = vectors().parent / "params" / "simm"
    if not folder.is_dir():
        reason = f"no SIMM parameter files in {folder}"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason, allow_module_level=True)
    return folder


@cache
def parameter_versions() -> tuple[str, ...]:
    files = parameters().glob("simm_*.json")
    return tuple(sorted(file.stem.removeprefix("simm_") for file in files))


@cache
def raw_parameters(version: str) -> dict[str, Any]:
    """The figures of a version as they are stored."""
    found: dict[str, Any] = json.loads((parameters() / f"simm_{version}.json").read_text())
    return found


@dataclass(frozen=True)
class UnitTest:
    """A test of the standard's own set: USD, rounded half up; `role` and `mode` of regulations."""

    name: str
    rows: tuple[Row, ...]
    total: int
    breakdown: dict[str, int]
    role: str
    mode: str


@dataclass(frozen=True)
class UnitFile:
    """A file of unit tests."""

    file: str
    version: str
    horizon: str
    currency: str
    tests: tuple[UnitTest, ...]


@dataclass(frozen=True)
class LevelFile:
    """Another calculator's rows: (portfolio, side) -> level -> USD, and the CRIF they belong to."""

    file: str
    version: str
    horizon: str
    portfolios: dict[str, tuple[Row, ...]]
    margins: dict[tuple[str, str], dict[Level, float]]


@dataclass(frozen=True)
class ScheduleTest:
    """A Schedule IM case: USD per role, rounded half up, of the pledgor negated."""

    name: str
    rows: tuple[Row, ...]
    expected: dict[str, float]


def _unit_test(test: dict[str, Any], records: dict[str, Row]) -> UnitTest:
    return UnitTest(
        name=test["id"],
        rows=tuple(records[record] for record in test["records"]),
        total=test["expected_total"],
        breakdown=test["expected_breakdown"],
        role=test.get("im_role", "SECURED"),
        mode=test.get("calculation_type", "TOTAL"),
    )


@cache
def unit_file(name: str) -> UnitFile:
    """A file by its name in the folder."""
    found = json.loads((vectors() / "simm" / name).read_text())
    return UnitFile(
        file=name,
        version=found["simm_version"],
        horizon=found["holding_period"],
        currency=found["calc_currency"],
        tests=tuple(_unit_test(test, found["records"]) for test in found["tests"]),
    )


def _names(pattern: str) -> list[str]:
    return sorted(
        file.name for file in (vectors() / "simm").iterdir() if re.fullmatch(pattern, file.name)
    )


def unit_files() -> list[str]:
    """Names of all v<version>_<horizon>.json."""
    return _names(r"v[^_]+_\d+d\.json")


def regulation_files() -> list[str]:
    """Names of all v<version>_<horizon>_regulations.json."""
    return _names(r"v[^_]+_\d+d_regulations\.json")


def level_files() -> list[str]:
    """Names of all <set>_<version>_<horizon>.csv that have a <set>_crif.csv beside them."""
    names = _names(r"[^_]+_[^_]+_\d+d\.csv")
    return [name for name in names if _crif_of(name).is_file()]


def _crif_of(name: str) -> Path:
    return vectors() / "simm" / f"{name.split('_')[0]}_crif.csv"


@cache
def crif(file: Path) -> dict[str, tuple[Row, ...]]:
    """Portfolio -> its rows, in the order of the file."""
    portfolios: dict[str, list[Row]] = defaultdict(list)
    with file.open(newline="") as text:
        for row in csv.DictReader(text):
            portfolios[row["PortfolioID"]].append(row)
    return {portfolio: tuple(rows) for portfolio, rows in portfolios.items()}


@cache
def level_file(name: str) -> LevelFile:
    """A file by its name in the folder, with its CRIF."""
    _, version, horizon = name.removesuffix(".csv").split("_")
    portfolios = crif(_crif_of(name))
    margins: dict[tuple[str, str], dict[Level, float]] = {
        (portfolio, side): {} for portfolio in portfolios for side in ("Call", "Post")
    }
    with (vectors() / "simm" / name).open(newline="") as text:
        for row in csv.DictReader(text):
            if row["Bucket"] == "All":
                level = (row["ProductClass"], row["RiskClass"], row["MarginType"])
                side = margins[row["PortfolioID"], row["Side"]]
                assert level not in side, row
                side[level] = float(row["InitialMargin"])
    return LevelFile(name, version, horizon, portfolios, margins)


@cache
def schedule_tests() -> tuple[ScheduleTest, ...]:
    """The Schedule IM cases that come with records."""
    found = json.loads((vectors() / "simm" / "schedule.json").read_text())
    return tuple(
        ScheduleTest(case["id"], tuple(case["records"]), case["expected"])
        for case in found["cases"]
    )
