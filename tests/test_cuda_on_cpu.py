"""The CUDA sources, run on this CPU: the bits of the NumPy backend, whatever the launch.

What the compiler for the device makes of the same lines is not seen here (test_cuda_compiles.py),
but the order of every sum, ties, limits and the meeting of lanes are.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from cuda_on_cpu import LaunchError, run
from numpy.typing import NDArray

from gpu_margin import array_ops, backend
from gpu_margin.backend import Rows, TailMeasure
from gpu_margin.kernels import launch
from gpu_margin.kernels.launch import Launch, ScenarioTile

if not os.environ.get("CI"):
    if shutil.which("g++") is None:
        pytest.skip("the CUDA sources on the CPU need g++", allow_module_level=True)
    if platform.machine() != "x86_64":
        pytest.skip("the CUDA shim's fibres are for x86-64", allow_module_level=True)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NUMPY = backend.load("numpy")

SCENARIOS = [1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 257, 1000, 1023, 1024, 1025, 2500]
PRECISIONS = list(launch.PRECISIONS)
STORED = {"f64": np.float64, "mixed": np.float32, "f32": np.float32}
SUMMED = {"f64": np.float64, "mixed": np.float64, "f32": np.float32}
KEYS = {"f64": np.uint64, "mixed": np.uint64, "f32": np.uint32}


# ---------------------------------------------------------------- launching


class Output:
    """An array that a kernel writes, between bytes that it must leave alone."""

    GUARD = 256
    BYTE = 0x5A

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.all = np.full(size + 2 * self.GUARD, self.BYTE, dtype=np.uint8)
        self.array = self.all[self.GUARD : self.GUARD + size].view(dtype).reshape(shape)

    def checked(self) -> NDArray[Any]:
        """The array, after the bytes around it were looked at."""
        assert np.all(self.all[: self.GUARD] == self.BYTE)
        assert np.all(self.all[len(self.all) - self.GUARD :] == self.BYTE)
        return self.array


@dataclass(frozen=True)
class Tail:
    """What a tail kernel gave: value [row, measure], worst [row], index [row, place]."""

    value: Floats
    worst: Ints
    index: Ints | None


class TailCall:
    """A tail's arguments and results, to be launched in any way."""

    def __init__(
        self,
        rows: Rows,
        matrix: Floats,
        measures: Sequence[TailMeasure],
        precision: str = "f64",
        with_index: bool = True,
    ) -> None:
        self.rows, self.precision = rows, precision
        self.matrix = matrix.astype(STORED[precision])
        self.depth = max(len(measure.weights) for measure in measures)
        self.sizes = np.array([len(measure.weights) for measure in measures])
        # Beyond a measure's size: what must not be read.
        self.weights = np.full((len(measures), self.depth), np.nan)
        for number, measure in enumerate(measures):
            self.weights[number, : self.sizes[number]] = measure.weights
        self.divisors = np.array([measure.divisor for measure in measures])
        self.value = Output((len(rows), len(measures)), np.float64)
        self.worst = Output((len(rows),), np.int64)
        self.index = Output((len(rows), self.depth), np.int64) if with_index else None

    def launch(
        self, plan: Launch, *more: NDArray[Any] | int, blocks: int = 0, backwards: bool = False
    ) -> None:
        run(
            plan,
            blocks or plan.blocks(len(self.rows)),
            *(self.rows.offsets, self.rows.column, self.rows.value, self.matrix),
            *(len(self.rows), self.matrix.shape[1]),
            *(self.weights, self.sizes, self.divisors, len(self.sizes), self.depth),
            *(self.value.array, self.worst.array, self.index.array if self.index else None),
            *more,
            backwards=backwards,
        )

    def result(self) -> Tail:
        index = self.index.checked() if self.index else None
        return Tail(self.value.checked(), self.worst.checked(), index)

    def in_one_pass(self, blocks: int = 0, backwards: bool = False) -> Tail:
        plan = launch.tail(self.matrix.shape[1], self.depth, self.precision)
        self.launch(plan, blocks=blocks, backwards=backwards)
        return self.result()

    def by(self, entry: str) -> Tail:
        """By one entry of tail.cu or tail_small.cu that has room for all scenarios."""
        plan = launch.tail(32, self.depth, self.precision)
        source = "tail_small.cu" if "small" in entry else "tail.cu"
        self.launch(replace(plan, source=source, entry=entry))
        return self.result()

    def tiled(
        self, tiles: Sequence[ScenarioTile], blocks: int = 0, backwards: bool = False
    ) -> Tail:
        keys = Output((len(self.rows), self.depth), KEYS[self.precision])
        indices = Output((len(self.rows), self.depth), np.uint32)
        for tile in tiles:
            plan = launch.tail_tile(tile.width, self.depth, self.precision)
            arrays = (keys.array, indices.array)
            self.launch(plan, *arrays, tile.first, tile.width, blocks=blocks, backwards=backwards)
        keys.checked(), indices.checked()
        return self.result()


def tiles_of(scenarios: int, width: int) -> list[ScenarioTile]:
    starts = range(0, scenarios, width)
    return [ScenarioTile(start, min(width, scenarios - start)) for start in starts]


# ---------------------------------------------------------------- what they must give


def profits_of(rows: Rows, matrix: NDArray[Any], summed: Any = np.float64) -> NDArray[Any]:
    """[row, scenario]: multiply, then add, in stored order, in the precision of the sums."""
    result = np.zeros((len(rows), matrix.shape[1]), dtype=summed)
    with np.errstate(all="ignore"):
        for row in range(len(rows)):
            for entry in range(rows.offsets[row], rows.offsets[row + 1]):
                unit = matrix[rows.column[entry]].astype(summed)
                result[row] = result[row] + summed(rows.value[entry]) * unit
    return result


def expected_tail(profits: NDArray[Any], measures: Sequence[TailMeasure]) -> Tail:
    """By a stable sort and a sequential sum."""
    depth = max(len(measure.weights) for measure in measures)
    index = np.argsort(profits, axis=1, kind="stable")[:, :depth]
    kept = np.take_along_axis(profits, index, axis=1).astype(np.float64)
    value = np.empty((len(profits), len(measures)))
    with np.errstate(all="ignore"):
        for number, measure in enumerate(measures):
            total = np.zeros(len(profits))
            for place in reversed(range(len(measure.weights))):
                total = total + measure.weights[place] * -kept[:, place]
            value[:, number] = total / measure.divisor
    return Tail(value, profits.argmin(axis=1), index)


def same(got: Tail, expected: Tail) -> None:
    assert np.array_equal(got.value, expected.value, equal_nan=True)
    assert np.array_equal(got.worst, expected.worst)
    if got.index is not None:
        assert np.array_equal(got.index, expected.index)


def rows_of(rng: np.random.Generator, sizes: Sequence[int], columns: int) -> Rows:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    column = rng.integers(0, columns, offsets[-1])
    return Rows(offsets, column, np.round(rng.normal(size=offsets[-1]) * 100, 1))


def matrix_of(rng: np.random.Generator, columns: int, scenarios: int, ties: bool) -> Floats:
    matrix = rng.normal(size=(columns, scenarios))
    return np.round(matrix) if ties else matrix


def measures_of(depth: int) -> list[TailMeasure]:
    """Worst loss, value-at-risk, two expected shortfalls and a spectrum, `depth` at most."""
    half = max(1, depth // 2)
    spectrum = tuple(1.0 / (1 + place) for place in range(depth))
    return [
        TailMeasure((1.0,)),
        TailMeasure((0.0,) * (depth - 1) + (1.0,)),
        TailMeasure((1.0,) * half, float(half)),
        TailMeasure((1.0,) * (depth - 1) + (0.3,), depth - 0.7),
        TailMeasure(spectrum, 3.0),
    ]


def depths_of(scenarios: int) -> list[int]:
    """Every depth where there are few; else around what lanes and paddings may get wrong."""
    if scenarios <= 17:
        return list(range(1, scenarios + 1))
    some = {1, 2, 7, 26, 31, 32, 33, 64, 65, scenarios // 2, scenarios - 1, scenarios}
    if scenarios > 300:
        some -= {2, 31, 64, scenarios // 2}
    return sorted(depth for depth in some if depth <= scenarios)


SIZES = [0, 1, 3, 40, 0, 9]


def reference(rows: Rows, matrix: Floats, precision: str) -> NDArray[Any]:
    return profits_of(rows, matrix.astype(STORED[precision]), SUMMED[precision])


# ---------------------------------------------------------------- tail


@pytest.mark.parametrize("scenarios", SCENARIOS)
@pytest.mark.parametrize("ties", [False, True], ids=["smooth", "ties"])
def test_tail_has_the_bits_of_numpy(scenarios: int, ties: bool) -> None:
    rng = np.random.default_rng(scenarios)
    rows, matrix = rows_of(rng, SIZES, 12), matrix_of(rng, 12, scenarios, ties)
    profits = profits_of(rows, matrix)
    for depth in depths_of(scenarios):
        measures = measures_of(depth)
        call = TailCall(rows, matrix, measures)
        tiles = tiles_of(scenarios, launch.MOST_IN_REGISTERS)
        got = call.in_one_pass() if len(tiles) == 1 else call.tiled(tiles)
        theirs = NUMPY.tail(rows, matrix, measures)
        same(got, expected_tail(profits, measures))
        same(replace(got, index=None), Tail(theirs.value, theirs.worst, None))


@pytest.mark.parametrize("precision", ["mixed", "f32"])
@pytest.mark.parametrize("scenarios", SCENARIOS)
def test_tail_of_float32_has_the_bits_of_its_loop(precision: str, scenarios: int) -> None:
    rng = np.random.default_rng(scenarios)
    rows = rows_of(rng, SIZES, 12)
    for depth in depths_of(scenarios)[::3]:
        matrix = matrix_of(rng, 12, scenarios, ties=depth % 2 == 0)
        measures = measures_of(depth)
        call = TailCall(rows, matrix, measures, precision)
        tiles = tiles_of(scenarios, launch.MOST_IN_REGISTERS)
        got = call.in_one_pass() if len(tiles) == 1 else call.tiled(tiles)
        same(got, expected_tail(reference(rows, matrix, precision), measures))
        exact = expected_tail(profits_of(rows, matrix), measures)
        absolute = Rows(rows.offsets, rows.column, np.abs(rows.value))
        gross = profits_of(absolute, np.abs(matrix)).max(axis=1, keepdims=True)
        weight = [sum(measure.weights) / measure.divisor for measure in measures]
        assert np.all(np.abs(got.value - exact.value) <= 1e-6 * gross * weight)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scenarios", [1, 5, 8])
def test_every_entry_gives_the_same(precision: str, scenarios: int) -> None:
    """Rows that leave most of a lane's slots empty are still right."""
    rng = np.random.default_rng(3)
    rows, matrix = rows_of(rng, SIZES, 12), matrix_of(rng, 12, scenarios, ties=True)
    measures = measures_of(scenarios)
    expected = expected_tail(reference(rows, matrix, precision), measures)
    names = [*launch.entries("tail.cu"), *launch.entries("tail_small.cu")]
    for entry in (name for name in names if f"_{precision}_" in name):
        same(TailCall(rows, matrix, measures, precision).by(entry), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("scenarios", "width"),
    [(2, 1), (70, 31), (70, 32), (100, 33), (300, 64), (300, 299), (900, 400)],
)
def test_tiles_of_any_width_give_the_same(precision: str, scenarios: int, width: int) -> None:
    rng = np.random.default_rng(width)
    rows = rows_of(rng, SIZES, 12)
    # Depths above and below a tile's width: what is kept fills up over several tiles.
    for depth in sorted({1, min(7, scenarios), width, min(width + 1, scenarios), scenarios}):
        for ties in (False, True):
            matrix = matrix_of(rng, 12, scenarios, ties)
            measures = measures_of(depth)
            got = TailCall(rows, matrix, measures, precision).tiled(tiles_of(scenarios, width))
            same(got, expected_tail(reference(rows, matrix, precision), measures))


def test_depth_may_exceed_what_a_tile_holds() -> None:
    rng = np.random.default_rng(4)
    rows, matrix = rows_of(rng, [5, 2], 6), matrix_of(rng, 6, 2500, ties=True)
    measures = [TailMeasure((1.0,) * 1500, 1500.0), TailMeasure((1.0,))]
    tiles = launch.scenario_tiles(2500, 6, "f64", cache_bytes=1 << 30)
    assert [tile.width for tile in tiles] == [1024, 1024, 452]
    got = TailCall(rows, matrix, measures).tiled(tiles)
    same(got, expected_tail(profits_of(rows, matrix), measures))


# Rows of one or two positions, in units of which one column may matter more than others.
LIMITS = {
    "all equal": np.full((2, 40), 3.25),
    "zeros": np.zeros((2, 40)),
    "negative zeros": np.where(np.arange(40) % 3, -0.0, 0.0) * np.ones((2, 1)),
    "zeros among others": np.where(np.arange(40) % 7, -0.0, np.arange(40.0) - 20) * np.ones((2, 1)),
    "tiny": (np.arange(40.0) - 20)[::-1] * 5e-324 * np.ones((2, 1)),
    "huge": (np.arange(40.0) - 20) * 4e305 * np.ones((2, 1)),
    "huge and tiny": np.where(np.arange(40) % 2, 1e300, 1e-300) * np.array([[1.0], [-1.0]]),
    "two values": np.where(np.arange(40) % 5, -1.0, 1.0) * np.ones((2, 1)),
    "neighbours": 1.0 + (np.arange(40) * 7 % 40) * 2.0**-52 * np.ones((2, 1)),
}


def limit_rows(scale: float = 1.0) -> Rows:
    """Long, short, both, nothing, a quantity of -0.0."""
    column = np.array([0, 0, 0, 1, 1])
    value = np.array([1.0, -1.0, 2.0, -1.0, -0.0]) * scale
    return Rows(np.array([0, 1, 2, 4, 4, 5]), column, value)


def each_way(rows: Rows, matrix: Floats, measures: list[TailMeasure], precision: str) -> list[Tail]:
    """In one pass, with half the scenarios in a tile, with one scenario in a tile."""
    scenarios = matrix.shape[1]
    call = [TailCall(rows, matrix, measures, precision) for _ in range(3)]
    return [
        call[0].in_one_pass(),
        call[1].tiled(tiles_of(scenarios, max(1, scenarios // 2))),
        call[2].tiled(tiles_of(scenarios, 1)),
    ]


@pytest.mark.parametrize("scenarios", [6, 13, 32, 40])
@pytest.mark.parametrize("name", LIMITS)
def test_tail_at_the_limits(name: str, scenarios: int) -> None:
    matrix = np.ascontiguousarray(LIMITS[name][:, :scenarios])
    rows = limit_rows()
    for depth in sorted({1, 5, scenarios // 2, scenarios}):
        measures = measures_of(depth)
        expected = expected_tail(profits_of(rows, matrix), measures)
        theirs = NUMPY.tail(rows, matrix, measures)
        same(Tail(theirs.value, theirs.worst, None), expected)
        for got in each_way(rows, matrix, measures, "f64"):
            same(got, expected)


@pytest.mark.parametrize("scenarios", [6, 13, 40])
@pytest.mark.parametrize("precision", ["f64", "f32"])
def test_sums_that_overflow_are_as_numpys(scenarios: int, precision: str) -> None:
    """inf and no number (inf - inf): sorted behind, but the first one is the worst."""
    big = float(np.finfo(SUMMED[precision]).max)
    rng = np.random.default_rng(6)
    matrix = rng.choice([big, -big, 1.0, -1.0, 0.5], size=(3, scenarios))
    matrix[:, 2], matrix[:, 4] = [big, -big, 1.0], [1.0, 2.0, 3.0]
    rows = Rows(np.array([0, 1, 3, 6]), np.array([0, 0, 1, 0, 1, 2]), np.full(6, 3.0))
    profits = reference(rows, matrix, precision)
    assert np.isnan(profits).any() and np.isinf(profits).any() and np.isfinite(profits).any()
    for depth in (1, 3, scenarios):
        measures = measures_of(depth)[2:]
        for got in each_way(rows, matrix, measures, precision):
            same(got, expected_tail(profits, measures))


@pytest.mark.parametrize("tiled", [False, True], ids=["pass", "tiles"])
@pytest.mark.parametrize("scenarios", [7, 16, 32, 100])
def test_neither_the_grid_nor_the_order_of_lanes_matters(scenarios: int, tiled: bool) -> None:
    rng = np.random.default_rng(7)
    rows = rows_of(rng, rng.integers(0, 12, 45).tolist(), 12)
    matrix = matrix_of(rng, 12, scenarios, ties=True)
    measures = measures_of(6)
    expected = expected_tail(profits_of(rows, matrix), measures)
    for blocks in (1, 2, 7, 64):
        for backwards in (False, True):
            call = TailCall(rows, matrix, measures)
            if tiled:
                same(call.tiled(tiles_of(scenarios, 40), blocks, backwards), expected)
            else:
                same(call.in_one_pass(blocks, backwards), expected)


def test_many_measures_at_once() -> None:
    """More than there are lanes of a warp, and of a small row."""
    rng = np.random.default_rng(8)
    rows = rows_of(rng, [4, 0, 11], 12)
    for scenarios in (6, 12, 50):
        measures = [TailMeasure((1.0 / (k + 1),) * (k % 6 + 1), k + 0.5) for k in range(70)]
        matrix = matrix_of(rng, 12, scenarios, ties=False)
        for got in each_way(rows, matrix, measures, "f64"):
            same(got, expected_tail(profits_of(rows, matrix), measures))


@pytest.mark.parametrize("scenarios", [7, 16, 32])
def test_without_rows_nothing_is_written_and_without_a_pointer_no_index(scenarios: int) -> None:
    rng = np.random.default_rng(9)
    matrix = matrix_of(rng, 12, scenarios, ties=False)
    nothing = rows_of(rng, [], 12)
    assert TailCall(nothing, matrix, measures_of(3)).in_one_pass().value.shape == (0, 5)
    assert TailCall(nothing, matrix, measures_of(3)).tiled(tiles_of(scenarios, 9)).worst.size == 0
    rows = rows_of(rng, [3, 4], 12)
    expected = expected_tail(profits_of(rows, matrix), measures_of(3))
    same(TailCall(rows, matrix, measures_of(3), with_index=False).in_one_pass(), expected)
    tiles = tiles_of(scenarios, 9)
    same(TailCall(rows, matrix, measures_of(3), with_index=False).tiled(tiles), expected)


# ---------------------------------------------------------------- the other operations


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scenarios", [1, 31, 32, 33, 127, 128, 129, 300])
def test_weighted_sum(precision: str, scenarios: int) -> None:
    rng = np.random.default_rng(scenarios)
    rows, matrix = rows_of(rng, [*SIZES, 2, 5], 12), matrix_of(rng, 12, scenarios, ties=False)
    expected = reference(rows, matrix, precision)
    if precision == "f64":
        assert np.array_equal(expected, NUMPY.weighted_sum(rows, matrix))
    plan = launch.weighted_sum(precision)
    for blocks in (1, 5, 40):
        result = Output(expected.shape, SUMMED[precision])
        stored = matrix.astype(STORED[precision])
        arrays = (rows.offsets, rows.column, rows.value, stored)
        run(plan, blocks, *arrays, len(rows), scenarios, result.array, backwards=blocks == 5)
        assert result.checked().tobytes() == expected.tobytes()


def loop_quadratic(rows: Rows, matrix: NDArray[Any], summed: Any) -> NDArray[Any]:
    result = np.zeros(len(rows), dtype=summed)
    for row in range(len(rows)):
        own = slice(rows.offsets[row], rows.offsets[row + 1])
        value = rows.value[own].astype(summed)
        chosen = matrix[np.ix_(rows.column[own], rows.column[own])].astype(summed)
        slope = np.zeros(len(value), dtype=summed)
        for j in range(len(value)):
            slope = slope + chosen[:, j] * value[j]
        for i in range(len(value)):
            result[row] = result[row] + value[i] * slope[i]
    return result


@pytest.mark.parametrize("precision", PRECISIONS)
def test_quadratic_form(precision: str) -> None:
    rng = np.random.default_rng(11)
    rows = rows_of(rng, [0, 1, 2, 31, 32, 33, 70, 0, 5], 12)
    matrix = rng.normal(size=(12, 12))  # not symmetric, so that i and j are told apart
    stored = matrix.astype(STORED[precision])
    expected = loop_quadratic(rows, stored, SUMMED[precision])
    if precision == "f64":
        assert np.array_equal(expected, NUMPY.quadratic_form(rows, matrix))
    for blocks in (1, 2, 9):
        result = Output((len(rows),), SUMMED[precision])
        arrays = (rows.offsets, rows.column, rows.value, stored)
        run(launch.quadratic_form(precision), blocks, *arrays, len(rows), 12, result.array)
        assert result.checked().tobytes() == expected.tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_segment_sum(precision: str) -> None:
    rng = np.random.default_rng(12)
    offsets = np.concatenate([[5], 5 + np.cumsum([0, 1, 7, 0, 3000, *[2] * 300])])
    values = (rng.normal(size=offsets[-1]) * 10.0 ** rng.integers(-8, 8, offsets[-1])).astype(
        STORED[precision]
    )
    expected = np.zeros(len(offsets) - 1, dtype=SUMMED[precision])
    for segment in range(len(expected)):
        for entry in range(offsets[segment], offsets[segment + 1]):
            expected[segment] = expected[segment] + SUMMED[precision](values[entry])
    if precision == "f64":
        assert np.array_equal(expected, NUMPY.segment_sum(values, offsets))
    for blocks in (1, 3, 8):
        result = Output(expected.shape, SUMMED[precision])
        run(launch.segment_sum(precision), blocks, values, offsets, len(expected), result.array)
        assert result.checked().tobytes() == expected.tobytes()


def test_nothing_to_sum_writes_nothing() -> None:
    rows, matrix = rows_of(np.random.default_rng(0), [], 3), np.ones((3, 4))
    result = Output((0,), np.float64)
    arrays = (rows.offsets, rows.column, rows.value, matrix)
    run(launch.weighted_sum("f64"), 1, *arrays, 0, 4, result.array)
    run(launch.quadratic_form("f64"), 1, *arrays, 0, 3, result.array)
    run(launch.segment_sum("f64"), 1, rows.value, rows.offsets, 0, result.array)
    result.checked()


def strides_of(terms: Sequence[NDArray[Any]], shape: tuple[int, int]) -> Ints:
    """Elements from one instrument, and one scenario, to the next."""
    steps = [
        [
            0 if length == 1 else stride // term.itemsize
            for length, stride in zip(term.shape, term.strides, strict=True)
        ]
        for term in terms
    ]
    assert np.broadcast_shapes(*(term.shape for term in terms)) == shape
    return np.array(steps, dtype=np.int64)


def test_black76() -> None:
    """At its limits, and with arguments that are the same for an instrument or a scenario."""
    rng = np.random.default_rng(13)
    forward = np.concatenate([[0.0, 50.0, 100.0, 3000.0, 1e-9], rng.uniform(20, 300, 45)])[None, :]
    strike = rng.choice([90.0, 100.0, 3000.0], size=(60, 1))
    volatility = rng.choice([0.0, 1e-200, 1e-6, 0.2, 3.0], size=(60, 50))
    time = rng.choice([0.0, 1 / 365, 2.0], size=(60, 1))
    rate = np.array([[-0.02]])
    call = rng.choice([True, False], size=(60, 1))
    terms = (forward, strike, volatility, time, rate, call)
    result = Output((60, 50), np.float64)
    plan = launch.black76()
    run(plan, plan.blocks(3000), *terms, strides_of(terms, (60, 50)), 60, 50, result.array)
    expected = NUMPY.black76(*terms)
    assert np.all(np.abs(result.checked() - expected) <= 1e-13 * np.maximum(forward, strike))
    assert np.any(expected > 0)


def test_a_deviation_is_none_at_the_same_limit() -> None:
    (limit,) = re.findall(r"NO_DEVIATION = (\S+);", launch.source("black76.cu"))
    assert float(limit) == array_ops.NO_DEVIATION


# ---------------------------------------------------------------- launch.py


def test_the_variant_is_the_smallest_that_holds_the_row() -> None:
    chosen = {s: launch.tail(s, 1, "f64").entry for s in (1, 8, 9, 16, 17, 32, 33, 250, 513, 1024)}
    assert chosen == {
        1: "tail_small_f64_8",
        8: "tail_small_f64_8",
        9: "tail_small_f64_16",
        16: "tail_small_f64_16",
        17: "tail_warp_f64_1",
        32: "tail_warp_f64_1",
        33: "tail_warp_f64_2",
        250: "tail_warp_f64_8",
        513: "tail_warp_f64_32",
        1024: "tail_warp_f64_32",
    }


def test_shared_memory_and_blocks_fit() -> None:
    plan = launch.tail(1000, 25, "f64")
    assert (plan.block, plan.per_block, plan.shared) == (128, 4, 4 * 32 * 12)
    assert launch.tail(1024, 1024, "f64").shared == 48 << 10
    deep = launch.tail_tile(1024, 5000, "f64")
    assert (deep.block, deep.per_block, deep.shared) == (64, 2, 32 << 10)
    assert launch.tail(16, 3, "f32").per_block == 8
    assert launch.tail(8, 3, "f32").per_block == 16
    assert [plan.blocks(rows) for rows in (0, 1, 4, 5, 10**12)] == [1, 1, 1, 2, 2**31 - 1]
    assert launch.workspace_bytes(10, 7, "mixed") == (560, 280)
    assert launch.workspace_bytes(10, 7, "f32") == (280, 280)


def test_no_block_has_more_threads_than_the_kernels_are_compiled_for() -> None:
    (most,) = re.findall(r"constexpr int BLOCK = (\d+);", launch.source("tail.cu"))
    plans = [launch.tail(s, 1, "f64") for s in (1, 16, 33, 1024)]
    assert {plan.block for plan in [*plans, launch.tail_tile(1024, 1, "f64")]} == {int(most)}


def test_tiles_of_scenarios_fit_the_cache() -> None:
    tiles = launch.scenario_tiles(1000, 20_000, "f64", cache_bytes=40 * 10**6)
    assert [(tile.first, tile.width) for tile in tiles] == [
        *((start, 224) for start in (0, 224, 448, 672)),
        (896, 104),
    ]
    assert 20_000 * 8 * 224 <= 40 * 10**6 < 20_000 * 8 * 256
    assert launch.scenario_tiles(70, 10**9, "f64", 1)[0].width == 32
    assert launch.scenario_tiles(5000, 3, "f32", 1 << 20)[0].width == 1024
    assert launch.scenario_tiles(0, 10, "f32", 1) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda: launch.tail(1025, 3, "f64"),
        lambda: launch.tail(10, 11, "f64"),
        lambda: launch.tail(10, 0, "f64"),
        lambda: launch.tail_tile(0, 3, "f64"),
        lambda: launch.precision_of("float64", "float32"),
    ],
)
def test_what_no_kernel_can_do_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"1 to|choose one of"):
        call()


def test_precisions_by_dtype() -> None:
    for name in PRECISIONS:
        assert launch.precision_of(STORED[name].__name__, SUMMED[name].__name__) == name


def test_sources_keep_the_names_and_lines_of_their_files() -> None:
    assert launch.sources() == sorted(launch._ENTRIES)
    for name in launch.sources():
        folder = Path(launch.__file__).parent
        found: dict[tuple[str, int], str] = {}
        file, number = "", 0
        for line in launch.source(name).splitlines():
            if directive := re.fullmatch(r'#line (\d+) "(.*)"', line):
                file, number = directive[2], int(directive[1])
                continue
            found[file, number] = line
            number += 1
        assert {file for file, _ in found} >= {name, "common.cuh"}
        for (file, number), line in found.items():
            own = (folder / file).read_text().splitlines()[number - 1]
            assert own == line or own.startswith("#include")


# ---------------------------------------------------------------- the shim itself

FAULTY = """
extern "C" __global__ void apart(long long* out) {
    if (threadIdx.x % 2) out[0] = __ballot_sync(0xffffffffu, true);
    else out[0] = __shfl_sync(0xffffffffu, 1, 0);
}
extern "C" __global__ void early(long long* out) {
    if (threadIdx.x == 5) return;
    __syncwarp();
    out[0] = 1;
}
extern "C" __global__ void half(long long* out) {
    if (threadIdx.x < 32) __syncthreads();
}
extern "C" __global__ void beyond(long long* out) {
    DYNAMIC_SHARED(shared);
    shared[64] = 1;
}
extern "C" __global__ void some(long long* out) { __syncwarp(0xffffu); }
extern "C" __global__ void meet(long long* out) {
    __shared__ long long board[64];
    board[threadIdx.x] = threadIdx.x;
    __syncthreads();
    const long long other = board[63 - threadIdx.x];
    out[threadIdx.x] = other * 1000 + __shfl_up_sync(0xffffffffu, (int)other, 1)
        + 100000ll * __shfl_down_sync(0xffffffffu, (int)threadIdx.x, 2, 16)
        + 10000000ll * __reduce_max_sync(0xffffffffu, threadIdx.x)
        + 1000000000ll * (__any_sync(0xffffffffu, threadIdx.x == 40) ? 1 : 2);
}
"""


def test_the_shim_tells_what_a_device_would_not(tmp_path: Path) -> None:
    names = ["apart", "early", "half", "beyond", "some", "meet"]
    library = cuda_on_cpu.compiled(FAULTY, names, tmp_path, "faulty")
    out = np.zeros(64, dtype=np.int64)
    messages = {
        "apart": "different collectives",
        "early": "elsewhere or done",
        "half": "elsewhere or done",
        "beyond": "beyond the dynamic shared memory",
        "some": "does not name all lanes",
    }
    for name, message in messages.items():
        with pytest.raises(LaunchError, match=message):
            cuda_on_cpu.run_in(library, Launch("", name, 64, 1, 64), 1, out)
    with pytest.raises(LaunchError, match="odd block size"):
        cuda_on_cpu.run_in(library, Launch("", "meet", 33, 1), 1, out)
    cuda_on_cpu.run_in(library, Launch("", "meet", 64, 1), 1, out)
    thread = np.arange(64)
    up = np.where(thread % 32 == 0, 63 - thread, 64 - thread)
    down = np.where(thread % 16 < 14, thread + 2, thread)
    ceiling, any40 = np.where(thread < 32, 31, 63), np.where(thread < 32, 2, 1)
    expected = (63 - thread) * 1000 + up + 100000 * down + 10**7 * ceiling + 10**9 * any40
    assert np.array_equal(out, expected)
