"""Three precisions, in the contract and in the simulation model; options repriced by the device."""

from __future__ import annotations

from functools import cache
from typing import Any

import cupy_on_cpu
import numpy as np
import polars as pl
import pytest
import small_case
from numpy.typing import NDArray
from polars.testing import assert_frame_equal
from random_tables import random_case
from small_case import CASE, Case, position, simulation
from strict_backend import BACKEND as STRICT
from test_backends import MEASURES, _runnable, loop_quadratic, loop_sum, loop_tail, put, random_rows

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import engine, loading, pricing
from gpu_margin.allocation import contributions
from gpu_margin.backend import Backend, Rows
from gpu_margin.config import Model
from gpu_margin.models.simulation import tail_measure
from gpu_margin.scenarios import historical

Floats = NDArray[Any]
NUMPY = backends.load("numpy")
# Dtypes of the values, and of the matrix.
DTYPES = {
    "float64": ("float64", "float64"),
    "mixed": ("float64", "float32"),
    "float32": ("float32", "float32"),
}
TABLES = ("margins", "components", "sets", "groups", "group_totals", "failures")


@pytest.fixture(params=_runnable())
def device(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


def other_devices() -> list[Any]:
    return [
        pytest.param(lambda: backends.load("numba"), id="numba"),
        pytest.param(lambda: STRICT, id="strict"),
        pytest.param(cupy_on_cpu.load, id="cupy on the CPU"),
        pytest.param(lambda: backends.load("jax"), id="jax"),
    ]


# ---------------------------------------------------------------- the contract


def in_order(rows: Rows, matrix: Floats) -> Floats:
    """[row, scenario] multiply, then add, in stored order, all in the dtype of the values."""
    wide = matrix.astype(rows.value.dtype)
    result = np.zeros((len(rows), matrix.shape[1]), dtype=rows.value.dtype)
    for row in range(len(rows)):
        for entry in range(rows.offsets[row], rows.offsets[row + 1]):
            result[row] = result[row] + rows.value[entry] * wide[rows.column[entry]]
    return result


def unit_roundoff(precision: str) -> float:
    """What a sum of n terms may be off, as a share of its gross and per term, between orders."""
    return 2.0**-23 if precision == "float32" else 1e-14


def book(precision: str, scenarios: int) -> tuple[Rows, Floats]:
    rng = np.random.default_rng(scenarios)
    value, stored = DTYPES[precision]
    rows = random_rows(rng, [3, 0, 1, 7, 40], 9)
    rows = Rows(rows.offsets, rows.column, rows.value.astype(value))
    return rows, rng.normal(size=(9, scenarios)).astype(stored)


@pytest.mark.parametrize("scenarios", [5, 70, 1100])
@pytest.mark.parametrize("precision", DTYPES)
def test_sums_run_in_the_dtype_of_the_values(
    device: Backend, precision: str, scenarios: int
) -> None:
    rows, matrix = book(precision, scenarios)
    expected = in_order(rows, matrix)
    resident, unit = put(device, rows), device.to_device(matrix)
    sums = device.to_host(device.weighted_sum(resident, unit))
    tail = device.tail(resident, unit, MEASURES)
    measured = np.stack([loop_tail(-expected, measure) for measure in MEASURES], axis=1)
    value = device.to_host(tail.value)
    assert (sums.dtype, value.dtype) == (expected.dtype, np.float64)
    if device.exact:
        assert np.array_equal(sums, expected)
        assert np.array_equal(value, measured)
        assert np.array_equal(device.to_host(tail.worst), expected.argmin(axis=1))
    else:
        gross = loop_sum(Rows(rows.offsets, rows.column, np.abs(rows.value)), np.abs(matrix))
        entries = np.diff(rows.offsets)[:, None]
        bound = entries * unit_roundoff(precision) * gross
        assert np.all(np.abs(sums - expected) <= bound)
        assert np.all(np.abs(value - measured) <= bound.max(axis=1, keepdims=True))


def test_the_precisions_differ() -> None:
    """Or the tests above would not tell them apart."""
    given = {precision: book(precision, 70) for precision in DTYPES}
    found = [NUMPY.weighted_sum(*given[precision]).astype(np.float64) for precision in DTYPES]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not np.any(found[one][[0, 3, 4]] == found[other][[0, 3, 4]])


def test_other_operations_compute_in_float64(device: Backend) -> None:
    rows, matrix = book("float32", 9)
    wide = Rows(rows.offsets, rows.column, rows.value.astype(np.float64))
    exact = matrix.astype(np.float64)
    form = device.to_host(device.quadratic_form(put(device, rows), device.to_device(matrix)))
    sums = device.to_host(
        device.segment_sum(device.to_device(rows.value), device.to_device(rows.offsets))
    )
    assert form.dtype == sums.dtype == np.float64
    magnitude = Rows(rows.offsets, rows.column, np.abs(wide.value))
    gross = loop_quadratic(magnitude, np.abs(exact))
    assert np.all(np.abs(form - loop_quadratic(wide, exact)) <= 1e-12 * gross)
    one = Rows(rows.offsets, np.zeros_like(rows.column), wide.value)
    total = loop_sum(one, np.ones((1, 1)))[:, 0]
    assert np.all(np.abs(sums - total) <= 1e-12 * NUMPY.segment_sum(magnitude.value, rows.offsets))
    numbers = np.array([101.0, 99.0, 0.3, 0.7, 0.02], dtype=np.float32)
    terms = [number.reshape(1, 1) for number in (*numbers, np.array(True))]
    got = device.to_host(device.black76(*(device.to_device(term) for term in terms)))
    expected = pricing.black76(*numbers.tolist(), True)
    assert abs(float(got[0, 0]) - float(expected)) <= 1e-13 * 101.0


@pytest.mark.parametrize("operation", ["weighted_sum", "tail"])
@pytest.mark.parametrize(
    ("value", "stored"), [("float32", "float64"), ("int64", "float64"), ("float64", "int64")]
)
def test_sums_that_would_lose_digits_are_refused(
    device: Backend, operation: str, value: str, stored: str
) -> None:
    rows, matrix = book("float64", 5)
    narrow = put(device, Rows(rows.offsets, rows.column, rows.value.astype(value)))
    more = (MEASURES,) if operation == "tail" else ()
    with pytest.raises(ValueError, match=rf"values of \S*{value} with a matrix of \S*{stored}: "):
        getattr(device, operation)(narrow, device.to_device(matrix.astype(stored)), *more)


# ---------------------------------------------------------------- the model


def tables_of(seed: int, **more: Any) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    """A random exchange under its simulation models, each with the parameters `more` as well."""
    case = random_case(seed, max_instruments=12, max_accounts=6)
    rows = {"positions": case.positions, "instruments": case.instruments, "history": case.history}
    if case.fx:
        rows["fx"] = case.fx
    models = {
        name: {**model, **more}
        for name, model in case.config["models"].items()
        if model["kind"] == "simulation"
    }
    found = {name: pl.DataFrame(table, infer_schema_length=None) for name, table in rows.items()}
    return {**case.config, "models": models}, found


def run(seed: int, backend: Backend = NUMPY, **more: Any) -> gpu_margin.Run:
    config, rows = tables_of(seed, **more)
    finished = gpu_margin.run(config, backend=backend, **rows)
    assert finished.manifest["lost_backends"] == []
    return finished


def returns_of(loaded: loading.Loaded, model: Model) -> Floats:
    """[scenario, factor] returns that a simulation model applies."""
    given: Any = model.parameters
    steps = (given.scenarios.lookback, given.horizon_days, given.horizon)
    return historical(loaded.market.history, *steps).returns


def same_tables(ours: gpu_margin.Run, theirs: gpu_margin.Run) -> None:
    for name in TABLES:
        assert_frame_equal(getattr(ours, name), getattr(theirs, name), check_exact=True)


@cache
def gross_losses(seed: int) -> dict[tuple[str, str], tuple[float, int]]:
    """Per model and account: the largest gross P&L of any scenario, and the positions.

    The gross P&L of a row bounds what rounding can do to its loss.
    """
    config, rows = tables_of(seed)
    loaded = loading.load(config, **rows)
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for model in loaded.models:
        unit = np.abs(pricing.unit_pnl(loaded.market.instruments, returns_of(loaded, model)))
        for code, account in enumerate(loaded.portfolio.accounts):
            held = loaded.portfolio.tile(code, code + 1).netted
            profit = np.abs(held.value)[:, None] * unit[held.column]
            found[model.name, account] = (profit.sum(axis=0).max(initial=0.0), len(held.value))
    return found


def assert_within(seed: int, ours: gpu_margin.Run, theirs: gpu_margin.Run, bound: Any) -> None:
    """Requirements of accounts within bound(positions) of their gross P&L."""
    assert len(ours.margins) == len(theirs.margins) > 0
    gross = gross_losses(seed)
    pairs = zip(ours.margins.rows(named=True), theirs.margins.rows(named=True), strict=True)
    for one, other in pairs:
        largest, positions = gross[one["model"], one["account_id"]]
        off = abs(one["requirement"] - other["requirement"])
        assert off <= bound(positions) * largest, (one["model"], one["account_id"])


def rounding(precision: str) -> Any:
    """The share of gross P&L that a precision may cost: half a unit in the last place of float32.

    Once per stored number; where sums are float32, too, also per quantity, product and addition.
    """
    if precision == "mixed":
        return lambda positions: 2.0**-24 * (1 + 1e-6)
    return lambda positions: (positions + 2) * 2.0**-24 * (1 + 1e-4)


SEEDS = range(200, 206)


@pytest.mark.parametrize("seed", SEEDS)
def test_float64_is_the_tail_of_unrounded_profits(seed: int) -> None:
    same_tables(run(seed, precision="float64"), run(seed))
    config, rows = tables_of(seed, precision="float64")
    loaded = loading.load(config, **rows)
    portfolio = loaded.portfolio
    for model in loaded.models:
        returns, given = returns_of(loaded, model), model.parameters
        pnl = pricing.unit_pnl(loaded.market.instruments, returns)
        (margin,) = engine.prepare(loaded, model, NUMPY).margin(portfolio)
        measure = tail_measure(given.measure, len(returns))  # type: ignore[attr-defined]
        tail = NUMPY.tail(portfolio.netted, pnl, [measure])
        assert np.array_equal(margin.sets.requirement, np.maximum(tail.value[:, 0], 0.0))


@pytest.mark.parametrize("precision", ["mixed", "float32"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_precision_costs_what_it_says(seed: int, precision: str) -> None:
    ours, theirs = run(seed, precision=precision), run(seed)
    assert_within(seed, ours, theirs, rounding(precision))
    assert ours.margins["requirement"].dtype == pl.Float64
    assert not ours.margins["requirement"].equals(theirs.margins["requirement"])
    assert ours.failures.is_empty()


def test_sums_in_float32_are_not_the_mixed_ones() -> None:
    mixed, single = run(200, precision="mixed"), run(200, precision="float32")
    assert not mixed.margins["requirement"].equals(single.margins["requirement"])


@pytest.mark.parametrize("precision", ["mixed", "float32"])
@pytest.mark.parametrize("load", other_devices())
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_every_device_gives_the_same(seed: int, load: Any, precision: str) -> None:
    other = load()
    ours, theirs = run(seed, other, precision=precision), run(seed, precision=precision)
    if other.exact:
        same_tables(ours, theirs)
    elif precision == "mixed":
        assert_within(seed, ours, theirs, lambda positions: 1e-12)
    else:
        assert_within(seed, ours, theirs, lambda positions: positions * 2.0**-23)


def test_precisions_stand_side_by_side() -> None:
    models = {name: simulation(precision=name) for name in DTYPES}
    finished = small_case.run(CASE.with_models(**models))
    assert finished.margins["model"].unique(maintain_order=True).to_list() == list(DTYPES)
    required = [finished.margins.filter(model=name)["requirement"] for name in DTYPES]
    assert required[1].to_numpy() == pytest.approx(required[0].to_numpy(), rel=1e-5)
    assert required[2].to_numpy() == pytest.approx(required[0].to_numpy(), rel=1e-5)
    recorded = finished.manifest["config"]["models"]
    assert {name: model["precision"] for name, model in recorded.items()} == {
        name: name for name in DTYPES
    }


@pytest.mark.parametrize("precision", DTYPES)
def test_contributions_are_of_the_profits_that_are_stored(precision: str) -> None:
    config, rows = tables_of(201, precision=precision)
    loaded = loading.load(config, **rows)
    portfolio = loaded.portfolio
    for model in loaded.models:
        prepared = engine.prepare(loaded, model, NUMPY)
        (margin,) = prepared.margin(portfolio)
        part = contributions(prepared, portfolio, smooth=False).amount
        total = NUMPY.segment_sum(part, portfolio.netted.offsets)
        size = NUMPY.segment_sum(np.abs(part), portfolio.netted.offsets)
        slack = 1e-6 if precision == "float32" else 1e-12
        assert np.all(np.abs(total - margin.sets.requirement) <= slack * (size + 1e-9))


# ---------------------------------------------------------------- its range


WHALES = ["long", "whale"]


def with_whales(multiplier: float, quantity: float) -> Case:
    """The small case, and accounts of futures at a price of 1e30: one long, one long and short.

    The futures come first of all: what fills up rows of other accounts is 0 of them.
    """
    first = next(row for row in CASE.instruments if row["kind"] == "future")
    terms = {"price": 1e30, "multiplier": multiplier}
    huge = [{**first, **terms, "instrument_id": f"0 {side}"} for side in ("up", "down")]
    held = [
        position("whale", "0 up", quantity),
        position("whale", "0 down", -quantity),
        position("long", "0 up", quantity),
        position("long", first["instrument_id"], 1.0),
    ]
    return CASE.added("instruments", *huge).added("positions", *held)


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
@pytest.mark.parametrize(
    ("multiplier", "quantity", "lost"),
    [
        # One contract is too much to be stored, however little there is of it.
        (1e12, 1e-10, ["mixed", "float32"]),
        # The sums are too much for float32: long against short is inf - inf in it.
        (1e-2, 1e14, ["float32"]),
        (1e-2, 1e5, []),
    ],
)
def test_what_leaves_the_range_fails_its_account_alone(
    multiplier: float, quantity: float, lost: list[str], backend: str
) -> None:
    models = {name: simulation(precision=name) for name in DTYPES}
    case = with_whales(multiplier, quantity).with_models(**models)
    finished = small_case.run(case, backend=backend)
    small = small_case.run(CASE.with_models(**models), backend=backend)
    whale = pl.col("account_id").is_in(WHALES)
    for name in DTYPES:
        margins = finished.margins.filter(model=name)
        required = margins.filter(whale)["requirement"]
        assert required.is_null().to_list() == [name in lost] * 2, name
        others = small.margins.filter(model=name)
        assert_frame_equal(margins.filter(~whale), others, check_exact=True)
    failures = finished.failures.filter(source="margins")
    named = [reason.split(":")[0] for reason in failures["reason"]]
    assert sorted(named) == sorted(lost * 2)
    assert sorted(failures["value"]) == sorted(WHALES * len(lost))


# ---------------------------------------------------------------- options repriced by the device


# An exchange with options that have time and volatility left, and with some that have not.
OPTIONS = 212


def unit_pnls(seed: int, backend: Backend) -> list[tuple[Floats, Floats, Floats]]:
    """Per model: unit P&L priced by the host, by the device, and what an option may be off."""
    config, rows = tables_of(seed, repricing="device")
    loaded = loading.load(config, **rows)
    i = loaded.market.instruments
    assert np.any(i.option & (i.volatility > 0.0) & (i.time > 0.0))
    found = []
    for model in loaded.models:
        prepared: Any = engine.prepare(loaded, model, backend)
        returns = returns_of(loaded, model)
        shocked = np.maximum(i.level[:, None] * (1.0 + returns.T[i.factor]), 0.0)
        largest = np.maximum(np.maximum(shocked, i.level[:, None]), i.strike[:, None])
        bound = np.where(i.option[:, None], 2e-13 * i.scale[:, None] * largest, 0.0)
        found.append((pricing.unit_pnl(i, returns), prepared.unit.unit_pnl, bound))
    return found


@pytest.mark.parametrize("load", [pytest.param(lambda: NUMPY, id="numpy"), *other_devices()])
def test_options_repriced_by_the_device_are_within_the_tolerance(load: Any) -> None:
    backend = load()
    for host, device, bound in unit_pnls(OPTIONS, backend):
        assert np.all(np.abs(device - host) <= bound)
        if backend.name in ("numpy", "numba"):
            assert np.array_equal(device, host)


class Pricing:
    """The NumPy backend, its prices counted and a little too high."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def shards(self) -> list[Any]:
        return [self]

    def __getattr__(self, name: str) -> Any:
        return getattr(NUMPY, name)

    def black76(self, *terms: Any) -> Floats:
        values = NUMPY.black76(*terms)
        self.sizes.append(values.size)
        return np.asarray(values * (1.0 + 1e-3))


def test_only_who_asks_for_it_has_options_repriced_by_the_device() -> None:
    asked: Any = Pricing()
    device, host = run(OPTIONS, asked, repricing="device"), run(OPTIONS, repricing="host")
    assert asked.sizes
    assert not device.margins["requirement"].equals(host.margins["requirement"])
    assert {m["repricing"] for m in device.manifest["config"]["models"].values()} == {"device"}
    unasked: Any = Pricing()
    same_tables(run(OPTIONS, unasked), host)
    assert not unasked.sizes


@pytest.mark.parametrize("cells", [1, 1000])
def test_options_are_repriced_in_bounded_blocks(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(OPTIONS, repricing="device")
    config, rows = tables_of(OPTIONS, repricing="device")
    scenarios = max(model["scenarios"]["lookback"] for model in config["models"].values())
    monkeypatch.setattr(pricing, "_BLOCK_CELLS", cells)
    counting: Any = Pricing()
    gpu_margin.run(config, backend=counting, **rows)
    assert max(counting.sizes) <= max(cells, scenarios)
    same_tables(run(OPTIONS, repricing="device"), whole)
