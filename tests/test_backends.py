"""Every operation on every backend that can run, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import cupy_on_cpu
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strict_backend import BACKEND as STRICT

from gpu_margin import backend as backends
from gpu_margin import pricing
from gpu_margin.backend import Backend, Rows, TailMeasure
from gpu_margin.failures import BackendUnavailable, ConfigError

Floats = NDArray[np.float64]
MEASURES = (
    TailMeasure((1.0,)),
    TailMeasure((0.0, 0.0, 1.0)),
    TailMeasure((1.0, 1.0, 1.0, 1.0), 4.0),
    TailMeasure((1.0, 1.0, 0.25), 2.25),
    TailMeasure((0.0, 0.3, 0.7)),
)


def _runnable() -> list[Any]:
    found: list[Any] = [
        pytest.param(STRICT, id="strict"),
        pytest.param(cupy_on_cpu.load(), id="cupy on the CPU"),
    ]
    for name in backends.backend_names():
        marks = [pytest.mark.gpu] if name == "cupy" else []
        try:
            found.append(pytest.param(backends.load(name), id=name, marks=marks))
        except BackendUnavailable:
            continue
    return found


@pytest.fixture(params=_runnable())
def device(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.param
    return backend


# ---------------------------------------------------------------- the slow reference


def loop_sum(rows: Rows, matrix: Floats) -> Floats:
    """Multiply, then add, in stored order, starting from zero."""
    result = np.zeros((len(rows), matrix.shape[1]))
    for row in range(len(rows)):
        for scenario in range(matrix.shape[1]):
            total = 0.0
            for entry in range(rows.offsets[row], rows.offsets[row + 1]):
                term = float(rows.value[entry]) * float(matrix[rows.column[entry], scenario])
                total = total + term
            result[row, scenario] = total
    return result


def loop_tail(losses: Floats, measure: TailMeasure) -> Floats:
    result = []
    for row in losses.tolist():
        worst = sorted(row)[len(row) - len(measure.weights) :]
        total = 0.0
        for weight, loss in zip(reversed(measure.weights), worst, strict=True):
            total = total + weight * loss
        result.append(total / measure.divisor)
    return np.array(result)


def loop_quadratic(rows: Rows, matrix: Floats) -> Floats:
    result = []
    for row in range(len(rows)):
        own = range(rows.offsets[row], rows.offsets[row + 1])
        total = 0.0
        for i in own:
            slope = 0.0
            for j in own:
                slope = slope + float(matrix[rows.column[i], rows.column[j]]) * float(rows.value[j])
            total = total + float(rows.value[i]) * slope
        result.append(total)
    return np.array(result)


def random_rows(rng: np.random.Generator, sizes: list[int], columns: int) -> Rows:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    column = [np.sort(rng.integers(0, columns, size)) for size in sizes]
    value = np.round(rng.normal(size=int(offsets[-1])) * 100, 1)
    joined = np.concatenate([np.empty(0, np.int64), *column]).astype(np.int64)
    return frozen(Rows(offsets, joined, value))


def frozen(rows: Rows) -> Rows:
    for array in (rows.offsets, rows.column, rows.value):
        array.flags.writeable = False
    return rows


def put(device: Backend, rows: Rows) -> Rows:
    return Rows(*(device.to_device(a) for a in (rows.offsets, rows.column, rows.value)))


def agree(device: Backend, got: Any, expected: Floats, gross: Floats | float) -> None:
    """The same bits from an exact backend, 1e-12 of the gross sum from another."""
    host = device.to_host(got)
    if device.exact:
        assert np.array_equal(host, expected)
    else:
        assert np.all(np.abs(host - expected) <= 1e-12 * np.asarray(gross) + 1e-300)


# Rows empty, single, long; fewer and more than a block; scenarios few and many, with ties.
SHAPES = [
    ([3, 0, 1, 7], 5, 9),
    ([0], 1, 4),
    ([1], 1, 4),
    ([200, 1, 33], 40, 17),
    ([2] * 700, 12, 6),
    ([5, 0, 3, 1], 6, 1500),
]


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{len(shape[0])}x{shape[2]}")
def case(request: pytest.FixtureRequest) -> tuple[Rows, Floats]:
    sizes, columns, scenarios = request.param
    rng = np.random.default_rng(len(sizes))
    matrix = np.round(rng.normal(size=(columns, scenarios)), 1)
    matrix.flags.writeable = False
    return random_rows(rng, sizes, columns), matrix


def gross(rows: Rows, matrix: Floats) -> Floats:
    return loop_sum(Rows(rows.offsets, rows.column, np.abs(rows.value)), np.abs(matrix))


def test_weighted_sum(device: Backend, case: tuple[Rows, Floats]) -> None:
    rows, matrix = case
    got = device.weighted_sum(put(device, rows), device.to_device(matrix))
    agree(device, got, loop_sum(rows, matrix), gross(rows, matrix))


def test_tail(device: Backend, case: tuple[Rows, Floats]) -> None:
    rows, matrix = case
    result = device.tail(put(device, rows), device.to_device(matrix), MEASURES)
    losses = -loop_sum(rows, matrix)
    bound = gross(rows, matrix).max(axis=1, initial=0.0)
    for number, measure in enumerate(MEASURES):
        agree(device, result.value[:, number], loop_tail(losses, measure), bound)
    worst = device.to_host(result.worst)
    assert worst.dtype == np.int64
    if device.exact:
        assert np.array_equal(worst, losses.argmax(axis=1))
    else:
        chosen = losses[np.arange(len(rows)), worst]
        assert np.all(losses.max(axis=1) - chosen <= 1e-12 * bound)


def test_scenarios_of_the_tail(device: Backend, case: tuple[Rows, Floats]) -> None:
    rows, matrix = case
    resident, unit = put(device, rows), device.to_device(matrix)
    assert device.tail(resident, unit, MEASURES).scenarios is None
    for measures in (MEASURES, MEASURES[:1]):
        result = device.tail(resident, unit, measures, True)
        depth = max(len(measure.weights) for measure in measures)
        scenarios, losses = device.to_host(result.scenarios), -loop_sum(rows, matrix)
        assert scenarios.dtype == np.int64 and scenarios.shape == (len(rows), depth)
        assert np.array_equal(scenarios[:, 0], device.to_host(result.worst))
        assert all(len(set(row)) == depth for row in scenarios.tolist())
        worst_first = np.argsort(-losses, axis=1, kind="stable")[:, :depth]
        if device.exact:
            assert np.array_equal(scenarios, worst_first)
        bound = gross(rows, matrix).max(axis=1, keepdims=True, initial=0.0)
        largest = np.take_along_axis(losses, worst_first, axis=1)
        chosen = np.take_along_axis(losses, scenarios, axis=1)
        assert np.all(np.abs(chosen - largest) <= 1e-12 * bound)


def test_of_equal_losses_the_first_scenario_is_the_worst(device: Backend) -> None:
    rows = Rows(np.array([0, 1, 2]), np.array([0, 1]), np.array([1.0, -1.0]))
    matrix = np.array([[1.0, -2.0, 0.0, -2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    measure = TailMeasure((1.0,) * 4)
    result = device.tail(put(device, rows), device.to_device(matrix), [measure], scenarios=True)
    assert device.to_host(result.worst).tolist() == [1, 0]
    assert device.to_host(result.scenarios).tolist() == [[1, 3, 2, 0], [0, 1, 2, 3]]


def test_quadratic_form(device: Backend, case: tuple[Rows, Floats]) -> None:
    rows, matrix = case
    square = np.round(matrix @ matrix.T, 2)
    got = device.quadratic_form(put(device, rows), device.to_device(square))
    bound = loop_quadratic(Rows(rows.offsets, rows.column, np.abs(rows.value)), np.abs(square))
    agree(device, got, loop_quadratic(rows, square), bound)


def test_segment_sum(device: Backend, case: tuple[Rows, Floats]) -> None:
    rows, _ = case
    got = device.segment_sum(device.to_device(rows.value), device.to_device(rows.offsets))
    one = np.ones((1, 1))
    single = Rows(rows.offsets, np.zeros_like(rows.column), rows.value)
    agree(device, got, loop_sum(single, one)[:, 0], gross(single, one)[:, 0])


def test_what_shares_a_call_changes_no_bit(device: Backend) -> None:
    rng = np.random.default_rng(5)
    sizes = rng.integers(0, 40, 60).tolist()
    rows, matrix = random_rows(rng, sizes, 30), rng.normal(size=(30, 64))
    many = TailMeasure((1.0,) * 20, 20.0)
    together = device.tail(put(device, rows), device.to_device(matrix), [many])
    form = device.quadratic_form(put(device, rows), device.to_device(matrix @ matrix.T))
    for row in range(0, len(rows), 7):
        own = slice(rows.offsets[row], rows.offsets[row + 1])
        alone = Rows(np.array([0, sizes[row]]), rows.column[own], rows.value[own])
        single = device.tail(put(device, alone), device.to_device(matrix), [many])
        scale = gross(alone, matrix).max()
        agree(device, single.value, device.to_host(together.value)[row : row + 1], scale)
        one = device.quadratic_form(put(device, alone), device.to_device(matrix @ matrix.T))
        agree(device, one, device.to_host(form)[row : row + 1], scale**2)


def test_black76(device: Backend) -> None:
    forward, strike, deviation, time, rate, call = np.meshgrid(
        [0.0, 50.0, 100.0, 3000.0],
        [90.0, 100.0],
        [0.0, 1e-6, 0.2, 3.0],
        [0.0, 1 / 365, 2.0],
        [-0.02, 0.05],
        [0.0, 1.0],
    )
    terms = (forward, strike, deviation, time, rate, call > 0)
    got = device.to_host(device.black76(*(device.to_device(term) for term in terms)))
    expected = pricing.black76(*terms)
    assert np.all(np.abs(got - expected) <= 1e-13 * np.maximum(forward, strike) * math.exp(0.04))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_exact_backends_agree_bit_for_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numpy_backend = backends.load("numpy")
    rows = random_rows(rng, rng.integers(0, 20, rng.integers(1, 30)).tolist(), 10)
    matrix = rng.normal(size=(10, 12)) * 10.0 ** rng.integers(-8, 8)
    ours = numpy_backend.tail(rows, matrix, MEASURES)
    theirs = STRICT.tail(put(STRICT, rows), STRICT.to_device(matrix), MEASURES)
    assert np.array_equal(ours.value, np.asarray(theirs.value))
    assert np.array_equal(ours.worst, np.asarray(theirs.worst))


def test_devices_describe_themselves(device: Backend) -> None:
    assert device.describe()
    assert device.free_bytes() > 0
    array = np.arange(3.0)
    assert np.array_equal(device.to_host(device.to_device(array)), array)


def test_auto_takes_what_can_run() -> None:
    assert backends.load("auto").name in backends.PREFERENCE


def test_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="auto, cupy, jax, numba, numpy"):
        backends.load("abacus")


def test_a_missing_library_says_how_to_get_it() -> None:
    try:
        backends.load("cupy")
    except BackendUnavailable as error:
        assert "gpu-margin[cuda]" in str(error) or "no CUDA device" in str(error)  # noqa: PT017
