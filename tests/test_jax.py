"""What only the JAX backend has: gradients, lowering for CUDA, arrays of other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_backends import random_rows

from gpu_margin import backend as backends
from gpu_margin.backend import Rows, TailMeasure

JAX: Any = backends.load("jax")
NUMPY = backends.load("numpy")
MEASURES = [
    TailMeasure((1.0,)),
    TailMeasure((0.0, 0.0, 1.0)),
    TailMeasure((1.0,) * 5, 5.0),
    TailMeasure((0.0, 0.3, 0.7)),
]


def book() -> tuple[Rows, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(12)
    rows = random_rows(rng, [0, 1, 3, 17, 40, 2], 25)
    return rows, rng.normal(size=(25, 60))


def by_differences(
    figure: Callable[[Rows], np.ndarray[Any, Any]], rows: Rows, step: float = 1e-5
) -> np.ndarray[Any, Any]:
    """[entry] central difference of the row's figure in the entry's value."""
    slopes = np.zeros(len(rows.value))
    for row in range(len(rows)):
        for entry in range(rows.offsets[row], rows.offsets[row + 1]):
            up, down = rows.value.copy(), rows.value.copy()
            up[entry] += step
            down[entry] -= step
            high = figure(Rows(rows.offsets, rows.column, up))[row]
            low = figure(Rows(rows.offsets, rows.column, down))[row]
            slopes[entry] = (high - low) / (2 * step)
    return slopes


@pytest.mark.parametrize("measure", MEASURES, ids=str)
def test_the_slope_of_a_tail_is_that_of_finite_differences(measure: TailMeasure) -> None:
    rows, matrix = book()
    expected = by_differences(lambda r: NUMPY.tail(r, matrix, [measure]).value[:, 0], rows)
    got = np.asarray(JAX.tail_gradient(rows, jnp.asarray(matrix), measure))
    assert got == pytest.approx(expected, abs=1e-7)


def test_the_slope_of_a_deviation_is_that_of_finite_differences() -> None:
    rows, matrix = book()
    square = matrix @ matrix.T
    expected = by_differences(lambda r: np.sqrt(NUMPY.quadratic_form(r, square)), rows)
    got = np.asarray(JAX.deviation_gradient(rows, jnp.asarray(square)))
    assert got == pytest.approx(expected, abs=1e-6)


def test_marginal_margins_add_up_to_the_margin() -> None:
    """Euler: both figures are homogeneous in the quantities."""
    rows, matrix = book()
    square = matrix @ matrix.T
    for slope, figure in (
        (JAX.tail_gradient(rows, matrix, MEASURES[2]), JAX.tail(rows, matrix, MEASURES[2:3]).value),
        (JAX.deviation_gradient(rows, square), np.sqrt(JAX.quadratic_form(rows, square))[:, None]),
    ):
        total = NUMPY.segment_sum(rows.value * np.asarray(slope), rows.offsets)
        assert total == pytest.approx(np.asarray(figure)[:, 0], rel=1e-10, abs=1e-9)


def test_a_book_without_risk_has_no_slope() -> None:
    rows = Rows(np.array([0, 2]), np.array([0, 1]), np.array([0.0, 0.0]))
    assert not np.any(JAX.deviation_gradient(rows, jnp.eye(2)))


def _shape(*sizes: int, kind: Any = float) -> Any:
    return jax.ShapeDtypeStruct(sizes, jnp.dtype(kind))


@pytest.mark.parametrize(
    "name", ["_sum", "_tail", "_tail with scenarios", "_quadratic", "_black76", "_tail_slope"]
)
def test_every_program_can_be_lowered_for_cuda(name: str) -> None:
    from gpu_margin.kernels import jax_backend

    tile = (_shape(64, 8, kind=int), _shape(64, 8))
    arguments: dict[str, tuple[Any, ...]] = {
        "_sum": (*tile, _shape(30, 250)),
        "_tail": (*tile, _shape(30, 250), tuple(MEASURES), 0),
        "_tail with scenarios": (*tile, _shape(30, 250, kind="float32"), tuple(MEASURES), 5),
        "_tail_slope": (*tile, _shape(30, 250), MEASURES[2]),
        "_quadratic": (*tile, _shape(30, 30)),
        "_black76": (*(_shape(30, 250),) * 5, _shape(30, 250, kind=bool)),
    }
    program = getattr(jax_backend, name.split()[0])
    exported = jax.export.export(program, platforms=["cuda"])(*arguments[name])
    assert exported.platforms == ("cuda",)


class Foreign:
    """An array of another library, which shares its memory by DLPack (as CuPy's do)."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def test_arrays_of_other_libraries_come_by_dlpack() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert np.array_equal(np.asarray(JAX.to_device(Foreign(array))), array)
    assert np.array_equal(np.from_dlpack(JAX.to_device(array)), array)


def test_memory_is_not_taken_in_advance() -> None:
    import os

    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
