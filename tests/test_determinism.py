"""The same bits for any block, tile, thread count and neighbours, ties included."""

from __future__ import annotations

import itertools
from typing import Any

import cupy_on_cpu
import numba
import numpy as np
import pytest
from strict_backend import BACKEND as STRICT
from test_backends import MEASURES, put, random_rows

from gpu_margin import array_ops
from gpu_margin import backend as backends
from gpu_margin.backend import Backend, Rows
from gpu_margin.cpu_fallback import numba_backend, numpy_backend

Answers = dict[str, np.ndarray[Any, Any]]


# Dtypes of the values, and of the matrix.
PRECISIONS = (("float64", "float64"), ("float64", "float32"), ("float32", "float32"))


def book(
    ties: bool, accounts: int = 300, scenarios: int = 130
) -> tuple[Rows, np.ndarray[Any, Any]]:
    """Rows of 0 to 90 entries; with `ties`, many equal losses and columns that do not move."""
    rng = np.random.default_rng(77)
    rows = random_rows(rng, rng.integers(0, 90, accounts).tolist(), 50)
    matrix = rng.normal(size=(50, scenarios))
    if ties:
        matrix = np.round(matrix)
        matrix[::7] = 0.0
        some = scenarios // 3
        matrix[:, some : 2 * some] = matrix[:, :some]
    return rows, matrix


def answers(device: Backend, rows: Rows, matrix: np.ndarray[Any, Any]) -> Answers:
    """What the device gives of all operations, in every precision."""
    found: Answers = {}
    for value, stored in PRECISIONS:
        held = Rows(rows.offsets, rows.column, rows.value.astype(value))
        for name, array in _answers(device, held, matrix.astype(stored)).items():
            found[f"{name}, {value} x {stored}"] = device.to_host(array)
    return found


def _answers(device: Backend, rows: Rows, matrix: np.ndarray[Any, Any]) -> dict[str, Any]:
    resident, unit = put(device, rows), device.to_device(matrix)
    square = device.to_device(np.resize(matrix, (50, 50)))
    tail = device.tail(resident, unit, MEASURES, True)
    return {
        "weighted_sum": device.weighted_sum(resident, unit),
        "tail": tail.value,
        "worst": tail.worst,
        "scenarios": tail.scenarios,
        "tail alone": device.tail(resident, unit, MEASURES).value,
        "quadratic_form": device.quadratic_form(resident, square),
        "segment_sum": device.segment_sum(resident.value, resident.offsets),
    }


def same(ours: Answers, theirs: Answers) -> None:
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        assert np.array_equal(array, theirs[name]), name
        # Equal is not enough: 0.0 == -0.0.
        assert np.array_equal(np.signbit(array), np.signbit(theirs[name])), name


@pytest.fixture(params=[False, True], ids=["plain", "ties"])
def case(request: pytest.FixtureRequest) -> tuple[Rows, np.ndarray[Any, Any]]:
    return book(request.param)


@pytest.fixture
def reference(case: tuple[Rows, np.ndarray[Any, Any]]) -> Answers:
    return answers(backends.load("numpy"), *case)


@pytest.mark.parametrize(("block", "entries"), [(1, 1), (7, 50), (300, 10**4), (10**6, 10**9)])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_numpy(
    block: int,
    entries: int,
    threads: int,
    case: tuple[Rows, np.ndarray[Any, Any]],
    reference: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numpy_backend, "_BLOCK_ROWS", block)
    monkeypatch.setattr(numpy_backend, "_BLOCK_ENTRIES", entries)
    monkeypatch.setattr(numpy_backend.os, "cpu_count", lambda: threads)
    same(answers(backends.load("numpy"), *case), reference)


# How the reference may go through a block: by column, in tiles of scenarios, few rows at a time.
BY_COLUMN = {"_COLUMN_ENTRIES": 0, "_COLUMN_SCENARIOS": 1}
TILED = {"_TILED_ENTRIES": 0, "_TILE_SCENARIOS": 7}
HELD = {**TILED, "_KEPT_CELLS": 300, "_TAIL_CELLS": 300, "_SORTED": 5}


@pytest.mark.parametrize("settings", [BY_COLUMN, TILED, BY_COLUMN | TILED, HELD, BY_COLUMN | HELD])
def test_numpy_by_column_and_in_tiles(
    settings: dict[str, int],
    case: tuple[Rows, np.ndarray[Any, Any]],
    reference: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in settings.items():
        monkeypatch.setattr(numpy_backend, name, value)
    same(answers(backends.load("numpy"), *case), reference)


def test_the_stored_order_of_unordered_rows_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BY_COLUMN.items():
        monkeypatch.setattr(numpy_backend, name, value)
    rng = np.random.default_rng(78)
    entries = 40 * 60
    rows = Rows(np.arange(41) * 60, rng.integers(0, 50, entries), rng.normal(size=entries))
    matrix = rng.normal(size=(50, 30))
    ours = backends.load("numpy").weighted_sum(rows, matrix)
    assert np.array_equal(ours, numba_backend.BACKEND.weighted_sum(rows, matrix))


@pytest.mark.parametrize("threads", [1, 2])
def test_numba(threads: int, case: tuple[Rows, np.ndarray[Any, Any]], reference: Answers) -> None:
    before = numba.get_num_threads()
    numba.set_num_threads(min(threads, before))
    try:
        same(answers(numba_backend.BACKEND, *case), reference)
    finally:
        numba.set_num_threads(before)


def test_the_cupy_backend_with_its_kernels_on_this_cpu(
    case: tuple[Rows, np.ndarray[Any, Any]], reference: Answers
) -> None:
    same(answers(cupy_on_cpu.load(), *case), reference)


@pytest.mark.parametrize("tile", [1, 1000, 1 << 22])
def test_array_ops_that_cupy_runs(
    tile: int,
    case: tuple[Rows, np.ndarray[Any, Any]],
    reference: Answers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(array_ops, "_TILE", tile)
    rows, matrix = case
    if tile == 1:  # a tile per row: a few of them do
        rows = Rows(rows.offsets[:21], rows.column, rows.value)
    ours = answers(STRICT, rows, matrix)
    same(ours, {name: array[: len(rows)] for name, array in reference.items()})


# Rows of which four or two share a warp of the CUDA kernels, in a warp's registers, by tiles.
@pytest.mark.parametrize("scenarios", [7, 16, 33, 1030])
@pytest.mark.parametrize("ties", [False, True], ids=["plain", "ties"])
@pytest.mark.parametrize("name", ["numba", "cupy on the CPU", "strict"])
def test_any_number_of_scenarios(name: str, ties: bool, scenarios: int) -> None:
    case = book(ties, accounts=12, scenarios=scenarios)
    others = {"cupy on the CPU": cupy_on_cpu.load, "strict": lambda: STRICT}
    device = others[name]() if name in others else backends.load(name)
    same(answers(device, *case), answers(backends.load("numpy"), *case))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_deep_tail_is_sorted_and_not_inserted(
    name: str, case: tuple[Rows, np.ndarray[Any, Any]]
) -> None:
    rows, matrix = case
    for depth in (64, 65, 129, 130):
        deep = [backends.TailMeasure((1.0,) * depth, float(depth))]
        ours = backends.load(name).tail(rows, matrix, deep, True)
        theirs = STRICT.tail(put(STRICT, rows), STRICT.to_device(matrix), deep, True)
        assert np.array_equal(ours.value, np.asarray(theirs.value))
        assert np.array_equal(ours.scenarios, np.asarray(theirs.scenarios))


def test_shards_of_rows_give_the_whole(
    case: tuple[Rows, np.ndarray[Any, Any]], reference: Answers
) -> None:
    rows, matrix = case
    for shards in (2, 3, 50):
        cuts = np.linspace(0, len(rows), shards + 1).astype(int)
        parts = [
            answers(numba_backend.BACKEND, _shard(rows, low, high), matrix)
            for low, high in itertools.pairwise(cuts)
        ]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in reference}
        same(joined, reference)


def _shard(rows: Rows, low: int, high: int) -> Rows:
    first, last = rows.offsets[low], rows.offsets[high]
    offsets = rows.offsets[low : high + 1] - first
    return Rows(offsets, rows.column[first:last], rows.value[first:last])
