"""The slow SIMM oracle against every vector: a test of the oracle itself and of the method note."""

from __future__ import annotations

from functools import cache, partial
from math import floor, isclose

import pytest
import simm_oracle_rules as rules
from simm_case import (
    Level,
    Row,
    level_file,
    level_files,
    parameter_versions,
    regulation_files,
    schedule_tests,
    unit_file,
    unit_files,
)
from simm_oracle import SIDES, margins

TYPES = {
    "delta": "Delta",
    "vega": "Vega",
    "curvature": "Curvature",
    "base_corr": "BaseCorr",
    "add_on": "AdditionalIM",
}
TOTAL: Level = ("All", "All", "All")


def whole(amount: float) -> int:
    """Rounded half up, as the standard's own figures are; below zero away from zero."""
    return floor(amount + 0.5) if amount >= 0.0 else -floor(0.5 - amount)


def figures(levels: dict[Level, float]) -> dict[str, int]:
    """Total and breakdown in whole USD, by the names of the unit tests."""
    found = {name: levels.get(("All", "All", kind), 0.0) for name, kind in TYPES.items()}
    return {name: whole(amount) for name, amount in {"total": levels[TOTAL], **found}.items()}


@cache
def levels_of(name: str) -> dict[tuple[str, str], dict[Level, float]]:
    """(portfolio, side) -> the oracle's levels, of the CRIF, version and horizon of a file."""
    file = level_file(name)
    found = {}
    for portfolio, rows in file.portfolios.items():
        of_side = margins(rows, file.version, file.horizon)
        found |= {(portfolio, side): of_side[side] for side in SIDES}
    return found


def test_there_is_something_to_check() -> None:
    assert unit_files() and regulation_files() and level_files() and schedule_tests()


@pytest.mark.parametrize("name", unit_files())
def test_unit_tests_of_the_standard(name: str) -> None:
    file = unit_file(name)
    wrong = {}
    for test in file.tests:
        found = figures(margins(test.rows, file.version, file.horizon, file.currency)["Call"])
        if found != {"total": test.total, **test.breakdown}:
            wrong[test.name] = (found, test.total, test.breakdown)
    assert file.tests and not wrong


@pytest.mark.parametrize("name", level_files())
def test_every_row_of_another_calculator(name: str) -> None:
    """Rows that it leaves out are zero."""
    wrong = {}
    for place, expected in level_file(name).margins.items():
        found = levels_of(name)[place]
        for level in sorted(expected.keys() | found.keys()):
            pair = (found.get(level, 0.0), expected.get(level, 0.0))
            if not isclose(*pair, rel_tol=1e-9, abs_tol=1e-6):
                wrong[place, level] = pair
    assert not wrong


@pytest.mark.parametrize("name", regulation_files())
def test_regulations(name: str) -> None:
    file = unit_file(name)

    def total(side: str, rows: list[Row]) -> float:
        return margins(rows, file.version, file.horizon, file.currency)[side][TOTAL]

    for test in file.tests:
        side = {"SECURED": "Call", "PLEDGOR": "Post"}[test.role]
        binding, _ = rules.regulated(test.rows, side, partial(total, side))[test.mode]
        rows = rules.by_regulation(test.rows, side)[binding]
        found = figures(margins(rows, file.version, file.horizon, file.currency)[side])
        assert found == {"total": test.total, **test.breakdown}, test.name


def test_schedule() -> None:
    for case in schedule_tests():
        assert whole(rules.schedule(case.rows, "Call")) == case.expected["secured"], case.name
        assert whole(-rules.schedule(case.rows, "Post")) == case.expected["pledgor"], case.name


def trade(kind: str, amount: float, name: str = "t") -> Row:
    days = {"valuation_date": "2018-02-01", "end_date": "2019-02-01"}
    rest = {"TradeID": name, "ProductClass": "Rates", "RiskType": kind}
    return {**days, **rest, "AmountUSD": str(amount)}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], 0.0),
        ([trade("Notional", 1e3), trade("Notional", -1e3)], 0.0),
        ([trade("Notional", 1e3), trade("PV", 1e3), trade("PV", -1e3)], 10.0),
        ([{**trade("PV", pv), "notional": "1000"} for pv in (1e3, -1e3)], 10.0),
        (
            [
                trade("Notional", 1e3, "a"),
                trade("PV", 2e3, "a"),
                trade("PV", -1e3, "a"),
                trade("Notional", -1e3, "b"),
                trade("PV", -1e3, "b"),
            ],
            8.0,
        ),
    ],
    ids=[
        "empty",
        "netted notional",
        "no replacement cost",
        "notional of the field",
        "netted value",
    ],
)
def test_schedule_by_hand(rows: list[Row], expected: float) -> None:
    assert rules.schedule(rows, "Call") == pytest.approx(expected)


# ---------------------------------------------------------------- what no vector has


def row(kind: str, qualifier: str, amount: float, **others: str) -> Row:
    product = others.pop("ProductClass", "RatesFX")
    start = {"ProductClass": product, "RiskType": kind, "Qualifier": qualifier}
    return {**start, **others, "AmountUSD": str(amount)}


@pytest.mark.parametrize("version", parameter_versions())
@pytest.mark.parametrize("horizon", ["10d", "1d"])
def test_every_version_can_be_read(version: str, horizon: str) -> None:
    name = next(name for name in level_files() if level_file(name).portfolios)
    largest = max(level_file(name).portfolios.values(), key=len)
    assert margins(largest, version, horizon)["Call"][TOTAL] > 0.0


def test_an_empty_portfolio_needs_no_margin() -> None:
    assert margins([], "2.6", "10d") == {side: {TOTAL: 0.0} for side in SIDES}


def test_the_calculation_currency_drops_its_own_exposure_and_chooses_the_weights() -> None:
    rows = [row("Risk_FX", "USD", 1e6), row("Risk_FX", "EUR", 2e6)]
    assert margins(rows, "2.6", "10d", "USD")["Call"][TOTAL] == pytest.approx(7.4 * 2e6)
    assert margins(rows, "2.6", "10d", "EUR")["Call"][TOTAL] == pytest.approx(7.4 * 1e6)
    both = (1 + 4 + 2 * 0.88 * 2) ** 0.5  # seen from BRL, a currency of high volatility
    assert margins(rows, "2.6", "10d", "BRL")["Call"][TOTAL] == pytest.approx(14.7e6 * both)


def test_tenors_and_pairs_in_any_writing() -> None:
    one = [
        row("Risk_FXVol", "EURUSD", 1e6, Label1="1Y"),
        row("Risk_IRVol", "eur", 3e6, Label1="2W"),
    ]
    two = [
        row("Risk_FXVol", "USDEUR", 1e6, Label1="1y"),
        row("Risk_IRVol", "EUR", 3e6, Label1="2w"),
    ]
    assert margins(one, "2.6", "10d") == margins(two, "2.6", "10d")


def test_the_order_of_rows_changes_no_bit() -> None:
    file = level_file(level_files()[0])
    rows = max(file.portfolios.values(), key=len)
    forth, back = (margins(order, file.version, file.horizon) for order in (rows, rows[::-1]))
    assert forth == back
