"""SIMM of whole batches against every vector: the standard's unit tests, and another calculator."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from math import floor, isclose
from typing import Any

import numpy as np
import polars as pl
import pytest
import simm_oracle
import simm_regulation_case
from crif_case import crif_of
from simm_case import Level, level_file, level_files, unit_file, unit_files

from gpu_margin import backend
from gpu_margin.crif import PRODUCT_CLASSES
from gpu_margin.models.simm.calculation import Parameters, SimmResult, calculate
from gpu_margin.models.simm.kinds import MARGIN_TYPES, RISK_CLASSES

BACKENDS = ("numpy", "numba")
TYPES = dict(zip(("delta", "vega", "curvature", "base_corr"), MARGIN_TYPES, strict=True))
TOTAL: Level = ("All", "All", "All")


def whole(amount: float) -> int:
    """Rounded half up."""
    return floor(amount + 0.5) if amount >= 0.0 else -floor(0.5 - amount)


def calculated(rows: Any, version: str, horizon: str, currency: str, name: str) -> SimmResult:
    parameters = Parameters(version=version, horizon=horizon, calculation_currency=currency)
    result = calculate(crif_of(rows), parameters, backend.load(name))
    assert result.failures.is_empty() and not result.incomplete.any()
    return result


def levels_of(table: pl.DataFrame) -> dict[tuple[str, str], dict[Level, float]]:
    """(portfolio, side) -> level -> USD."""
    found: dict[tuple[str, str], dict[Level, float]] = defaultdict(dict)
    for portfolio, side, _, *level, bucket, margin in table.iter_rows():
        assert bucket == "All" and tuple(level) not in found[portfolio, side]
        found[portfolio, side][tuple(level)] = margin
    return found


@cache
def of_file(name: str, device: str) -> dict[tuple[str, str], dict[Level, float]]:
    file = level_file(name)
    rows = [row for one in file.portfolios.values() for row in one]
    return levels_of(calculated(rows, file.version, file.horizon, "USD", device).table())


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("name", unit_files())
def test_unit_tests_of_the_standard(name: str, device: str) -> None:
    """Totals and breakdowns, in whole USD; all tests in one batch."""
    file = unit_file(name)
    rows = [{**row, "PortfolioID": test.name} for test in file.tests for row in test.rows]
    result = calculated(rows, file.version, file.horizon, file.currency, device)
    levels, wrong = levels_of(result.table()), {}
    for test in file.tests:
        own = levels[test.name, "Call"]
        found = {key: whole(own.get(("All", "All", kind), 0.0)) for key, kind in TYPES.items()}
        found |= {"add_on": whole(own.get(("All", "All", "AdditionalIM"), 0.0))}
        found["total"] = whole(own[TOTAL])
        if found != {"total": test.total, **test.breakdown}:
            wrong[test.name] = (found, test.total, test.breakdown)
    assert file.tests and not wrong


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("name", level_files())
def test_every_row_of_another_calculator(name: str, device: str) -> None:
    """Rows that it leaves out are zero, and so are those that we do."""
    found, wrong = of_file(name, device), {}
    margins = level_file(name).margins
    assert margins.keys() == found.keys()
    for place, expected in margins.items():
        for level in expected.keys() | found[place].keys():
            pair = (found[place].get(level, 0.0), expected.get(level, 0.0))
            if not isclose(*pair, rel_tol=1e-9, abs_tol=1e-6):
                wrong[place, level] = pair
    assert margins and not wrong


@pytest.mark.parametrize("name", level_files())
def test_the_same_bits_from_every_backend(name: str) -> None:
    assert of_file(name, BACKENDS[0]) == of_file(name, BACKENDS[1])


def test_regulations() -> None:
    cases = simm_regulation_case.cases()
    assert cases
    wrong = {}
    for version, horizon in {(one.version, one.horizon) for one in cases}:
        chosen = [one for one in cases if (one.version, one.horizon) == (version, horizon)]
        crif = simm_regulation_case.crif_of_cases(chosen)
        parameters = Parameters(version=version, horizon=horizon)
        result = calculate(crif, parameters, backend.load("numpy"))
        totals = np.stack([side.total for side in result.sides], axis=1)
        for one in chosen:
            found = simm_regulation_case.figure(one, crif, result.calculations, totals)
            if whole(found) != one.expected:
                wrong[one.name] = (found, one.expected)
    assert not wrong


@pytest.mark.parametrize("currency", ["EUR", "BRL", "ARS", "JPY"])
@pytest.mark.parametrize("horizon", ["10d", "1d"])
@pytest.mark.parametrize("version", ["2.2", "2.3", "2.5A", "2.7", "latest"])
def test_other_calculation_currencies_against_the_oracle(
    version: str, horizon: str, currency: str
) -> None:
    file = level_file(level_files()[0])
    names = sorted(file.portfolios)[::12]
    rows = [row for name in names for row in file.portfolios[name]]
    levels = levels_of(calculated(rows, version, horizon, currency, "numpy").table())
    oracle = "2.8+2512" if version == "latest" else version
    for name in names:
        own = simm_oracle.margins(file.portfolios[name], oracle, horizon, currency)
        for side, expected in own.items():
            found = levels[name, side]
            for level in expected.keys() | found.keys():
                pair = (found.get(level, 0.0), expected.get(level, 0.0))
                assert isclose(*pair, rel_tol=1e-9, abs_tol=1e-6), (name, side, level, pair)


def test_names_are_those_of_the_tables() -> None:
    name = level_files()[0]
    known = {(p, r, m) for levels in level_file(name).margins.values() for p, r, m in levels}
    assert {p for p, _, _ in known} >= set(PRODUCT_CLASSES)
    assert {r for _, r, _ in known} >= set(RISK_CLASSES)
