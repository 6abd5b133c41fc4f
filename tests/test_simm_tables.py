"""The figures of SIMM: every version loads, has one shape, and says what its source says."""

from __future__ import annotations

import itertools
import json
from datetime import date
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import simm_case
from pydantic import ValidationError

from gpu_margin.failures import ConfigError
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.kinds import HORIZONS, RISK_CLASSES
from gpu_margin.models.simm.tables import BUCKETED, SimmTables

VERSIONS = (
    *("2.2", "2.3", "2.4", "2.5", "2.5A", "2.6", "2.7"),
    *("2.7+2412", "2.8+2506", "2.8+2512"),
)
MILLION = 1e6


@pytest.fixture(params=VERSIONS)
def table(request: pytest.FixtureRequest) -> SimmTables:
    return tables.load(request.param)


def stored(version: str) -> dict[str, Any]:
    file = files("gpu_margin") / "parameters" / "simm" / f"simm_{version}.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


# ---------------------------------------------------------------- versions


def test_versions_are_in_order_of_their_dates() -> None:
    assert tables.versions() == VERSIONS
    dates = [tables.load(version).effective_date for version in VERSIONS]
    assert dates == sorted(dates)
    assert (dates[0], dates[-1]) == (date(2019, 12, 1), date(2026, 7, 11))


def test_latest_is_the_newest() -> None:
    assert tables.load("latest").version == "2.8+2512"
    assert tables.load("latest") is tables.load("2.8+2512")


@pytest.mark.parametrize("version", ["2.9", "", "../simm/simm_2.5", "2.5a"])
def test_an_unknown_version_is_refused_by_name(version: str) -> None:
    with pytest.raises(ConfigError) as refused:
        tables.load(version)
    known = ", ".join((*VERSIONS, "latest"))
    assert str(refused.value) == f"unknown SIMM version {version!r}; known versions: {known}"


def test_a_file_says_which_version_it_is_and_whose_figures(table: SimmTables) -> None:
    assert stored(table.version)["version"] == table.version
    assert "(c) ISDA" in table.source
    assert f"simmcalibration_{table.version}.xml" in table.source


# ---------------------------------------------------------------- shapes


def test_all_versions_have_one_shape() -> None:
    def shape(part: Any, path: str = "") -> set[str]:
        if isinstance(part, dict) and "currencies" not in path:
            return set().union(*(shape(value, f"{path}/{key}") for key, value in part.items()))
        return {f"{path}: {np.shape(part)}" if isinstance(part, list) else path}

    first = shape(stored(VERSIONS[0]))
    assert len(first) > 300
    for version in VERSIONS[1:]:
        assert shape(stored(version)) == first


def test_buckets(table: SimmTables) -> None:
    twelve = tuple(str(bucket) for bucket in range(1, 13))
    assert table.between("CreditQualifying")[0] == table.between("Equity")[0] == twelve
    assert table.between("CreditNonQualifying")[0] == ("1", "2")
    assert table.between("Commodity")[0] == tuple(str(bucket) for bucket in range(1, 18))
    assert [name for name in BUCKETED if "Residual" in table.within(name)] == list(BUCKETED[:3])
    assert len(table.tenors) == 12


def test_matrices_are_correlations(table: SimmTables) -> None:
    """Symmetric with a unit diagonal, and no portfolio has a negative square."""
    found = [table.risk_class_correlation, table.correlations.ir_tenor]
    found += [table.between(risk_class)[1] for risk_class in BUCKETED]
    for matrix in map(np.array, found):
        assert np.array_equal(matrix, matrix.T)
        assert np.all(np.diag(matrix) == 1.0)
        assert np.linalg.eigvalsh(matrix).min() > 1e-3


def test_figures_are_floats_and_thresholds_are_usd(table: SimmTables) -> None:
    for horizon in HORIZONS:
        weights = table.at(horizon)
        assert all(type(x) is float for row in weights.ir_delta.values() for x in row)
        assert all(type(x) is float for name in BUCKETED for x in weights.vega[name].values())
    for risk_class in RISK_CLASSES:
        for measure in ("Delta", "Vega"):
            figures = table.threshold(risk_class, measure).values()
            assert all(type(x) is float and 1e5 <= x <= 1e11 for x in figures)


# ---------------------------------------------------------------- figures


def test_figures_as_published() -> None:
    """A few of each risk class, typed by hand."""
    new, old = tables.load("2.8+2512"), tables.load("2.2")
    assert new.at("10d").ir_delta["1"][:4] == (107, 101, 90, 69)
    assert new.at("1d").ir_delta["2"][-1] == 11
    assert (new.at("10d").ir_hvr, new.at("10d").inflation, new.at("10d").xccy) == (0.74, 51, 21)
    assert new.at("10d").delta["CreditQualifying"]["Residual"] == 423
    assert new.at("10d").vega["Equity"]["12"] == 0.72
    assert new.at("1d").vega["CreditNonQualifying"] == {"1": 0.1, "2": 0.1, "Residual": 0.1}
    assert new.at("10d").fx_delta == ((31.7, 31.7), (31.7, 7.4))
    assert new.correlations.fx == (((0.5, 0.7), (0.7, 0.97)), ((0.03, 0.12), (0.12, 0.5)))
    assert new.within("CreditQualifying")["3"] == (0.92, 0.46)
    assert new.within("CreditQualifying")["Residual"] == (0.5, 0.5)
    assert new.within("Equity")["Residual"] == (1.0, 0.0)
    assert new.threshold("CreditQualifying", "Delta")["2"] == 190_000
    assert new.threshold("FX", "Vega")["6"] == 310_000_000
    assert new.risk_class_correlation[0] == (1, 0.09, 0.07, 0.11, 0.34, 0.15)
    assert old.at("10d").fx_delta == ((10.28, 10.28), (10.28, 7.57))
    assert old.correlations.fx[1] == ((0.5, 0.368), (0.368, 0.5))
    assert old.between("CreditNonQualifying")[1] == ((1, 0.17), (0.17, 1))
    assert old.threshold("InterestRate", "Delta")["1"] == 6_900_000


def by_groups(raw: dict[str, Any]) -> list[list[float]]:
    return [[raw[one][other] for other in "12"] for one in "12"]


def per_bucket(raw: Any, buckets: Any) -> dict[str, float]:
    return dict(raw) if isinstance(raw, dict) else dict.fromkeys(buckets, raw)


def test_currency_figures_are_those_of_the_source(table: SimmTables) -> None:
    raw = simm_case.raw_parameters(table.version)
    rates, fx = raw["InterestRate"], raw["FX"]
    for horizon in HORIZONS:
        weights, told = table.at(horizon), rates["risk_weights"][horizon]
        for group, row in weights.ir_delta.items():
            assert dict(zip(table.tenors, row, strict=True)) == told["Delta"][group]
        assert (weights.ir_vega, weights.ir_hvr) == (
            told["Vega"],
            told["HistoricalVolatilityRatio"],
        )
        assert (weights.inflation, weights.xccy) == (told["Inflation"], told["XCcyBasis"])
        told = fx["risk_weights"][horizon]
        assert np.array(weights.fx_delta).tolist() == by_groups(told["Delta"])
        assert weights.fx_vega == told["Vega"]
        assert weights.hvr["FX"] == told["HistoricalVolatilityRatio"]
    found, told = table.correlations, rates["correlations"]
    assert np.array(found.ir_tenor).tolist() == told["IntraBucket"]
    assert [found.sub_curve, found.inflation, found.xccy, found.ir_outer] == [
        told[name] for name in ("SubCurves", "Inflation", "XCcyBasis", "Outer")
    ]
    told = fx["correlations"]
    assert np.array(found.fx).tolist() == [by_groups(told["IntraBucket"][group]) for group in "12"]
    assert found.fx_vega == told["Volatility"]
    assert np.array(table.risk_class_correlation).tolist() == raw["risk_class_correlations"]


@pytest.mark.parametrize("risk_class", BUCKETED)
def test_bucket_figures_are_those_of_the_source(table: SimmTables, risk_class: str) -> None:
    raw = simm_case.raw_parameters(table.version)[risk_class]
    for horizon in HORIZONS:
        weights, told = table.at(horizon), raw["risk_weights"][horizon]
        assert weights.delta[risk_class] == told["Delta"]
        buckets = told["Delta"].keys()
        assert weights.vega[risk_class] == per_bucket(told["Vega"], buckets)
        assert weights.hvr.get(risk_class) == told.get("HistoricalVolatilityRatio")
        assert told.get("BaseCorrelation", weights.base_corr) == weights.base_corr
    told = raw["correlations"]
    for bucket, pair in table.within(risk_class).items():
        if risk_class.startswith("Credit"):
            part = told["IntraBucket"]["residual" if bucket == "Residual" else "aggregate"]
            assert pair == (part["same"], part["different"])
        else:
            assert pair == (1.0, told["IntraBucket"][bucket])
    names, matrix = table.between(risk_class)
    for (i, one), (j, other) in itertools.permutations(enumerate(names), 2):
        inter = told["InterBucket"]
        assert matrix[i][j] == (inter[one][other] if isinstance(inter, dict) else inter[i][j])
    assert told.get("BaseCorrelation", table.correlations.base_corr) == table.correlations.base_corr


@pytest.mark.parametrize("risk_class", RISK_CLASSES)
def test_thresholds_are_those_of_the_source(table: SimmTables, risk_class: str) -> None:
    raw = simm_case.raw_parameters(table.version)[risk_class]["concentration_thresholds_usd_m"]
    for measure in ("Delta", "Vega"):
        found = table.threshold(risk_class, measure)
        told = per_bucket(raw[measure], found)
        assert found == {key: round(figure * MILLION) for key, figure in told.items()}


# ---------------------------------------------------------------- currencies


def test_currency_groups(table: SimmTables) -> None:
    assert [table.ir_group(name) for name in ("USD", "JPY", "XXX")] == ["1", "2", "3"]
    groups = [table.ir_concentration_group(name) for name in ("USD", "CHF", "JPY", "XXX")]
    assert groups == ["2", "3", "4", "1"]
    assert [table.fx_concentration_group(name) for name in ("USD", "BRL", "XXX")] == ["1", "2", "3"]
    assert (table.fx_group("USD"), table.fx_group("XXX")) == (1, 1)


@pytest.mark.parametrize(
    ("version", "high"),
    [
        ("2.2", ["BRL"]),
        ("2.3", []),
        ("2.4", ["ARS", "BRL", "MXN", "TRY", "ZAR"]),
        ("2.5", ["BRL", "RUB", "TRY", "ZAR"]),
    ],
)
def test_currencies_of_high_volatility(version: str, high: list[str]) -> None:
    table = tables.load(version)
    names = ["ARS", "BRL", "EUR", "MXN", "RUB", "TRY", "USD", "ZAR"]
    assert [name for name in names if table.fx_group(name) == 0] == high


def test_a_version_without_groups_has_one_figure_repeated() -> None:
    table = tables.load("2.3")
    assert table.at("10d").fx_delta == ((7.5, 7.5), (7.5, 7.5))
    assert set(np.array(table.correlations.fx).ravel()) == {0.5}


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("weights", "10d", "delta", "Equity", "3"), 0, "greater than 0"),
        (("weights", "1d", "fx_vega"), float("inf"), "finite"),
        (("thresholds", "FX", "Delta", "1"), -1, "greater than 0"),
        (("thresholds", "FX", "Vega", "7"), 1, "FX vega thresholds"),
        (("correlations", "sub_curve"), 1.1, "less than or equal to 1"),
        (("correlations", "ir_tenor", 0, 1), 0.5, "not symmetric"),
        (("correlations", "between", "Equity", 2, 2), 0.9, "a diagonal entry is not 1"),
        (("correlations", "between", "Commodity"), [[1]], "1 rows for 17 buckets"),
        (("risk_class_correlation",), [[1]], "risk_class_correlation"),
        (("risk_class_correlation",), [[1, 0]], "not square"),
        (("weights", "10d", "ir_delta", "1"), [1, 2], "figures by tenor"),
        (("currencies", "fx"), {"1": ["Other"], "2": ["Other"]}, "a currency twice"),
        (("correlations", "within", "Equity", "13"), [1, 0], "within Equity"),
        (("weights", "10d", "hrv"), 1, "did you mean 'hvr'"),
    ],
)
def test_a_bad_table_is_refused(path: tuple[str | int, ...], value: Any, message: str) -> None:
    bad: Any = stored("2.5")
    part = bad
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        SimmTables.model_validate(bad)
