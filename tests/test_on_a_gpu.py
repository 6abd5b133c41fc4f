"""On a CUDA device: the bits of NumPy, whole runs, lanes. `pytest -m gpu` runs these."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_tables import random_case, write_case
from test_determinism import answers, book, same
from test_failing_devices import same_tables

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import tiling
from gpu_margin.backend import Backend, BackendUnavailable, Rows, TailMeasure

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device() -> Backend:
    try:
        return backends.load("cupy")
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("ties", [False, True], ids=["plain", "ties"])
def test_the_bits_of_numpy(device: Backend, ties: bool) -> None:
    case = book(ties)
    same(answers(device, *case), answers(backends.load("numpy"), *case))


@pytest.mark.parametrize("scenarios", [7, 16, 33, 250, 1000, 1030, 5000])
@pytest.mark.parametrize("precision", ["float64", "mixed", "float32"])
def test_tails_of_any_length_and_precision(device: Backend, scenarios: int, precision: str) -> None:
    rng = np.random.default_rng(scenarios)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 80, 3000))])
    column = np.concatenate(
        [np.sort(rng.integers(0, 400, size)) for size in np.diff(offsets).tolist()]
    ).astype(np.int64)
    summed = np.float32 if precision == "float32" else np.float64
    stored = np.float64 if precision == "float64" else np.float32
    value = rng.integers(-9, 10, len(column)).astype(summed)
    matrix = rng.normal(size=(400, scenarios)).round(2).astype(stored)
    rows = Rows(offsets.astype(np.int64), column, value)
    depth = max(1, scenarios // 20)
    measures = [TailMeasure((1.0,) * depth, float(depth)), TailMeasure((1.0,))]
    found: list[Any] = []
    for backend in (device, backends.load("numpy")):
        there = Rows(*(backend.to_device(a) for a in (rows.offsets, rows.column, rows.value)))
        tail = backend.tail(there, backend.to_device(matrix), measures, scenarios=True)
        found.append([backend.to_host(a) for a in (tail.value, tail.worst, tail.scenarios)])
    for ours, theirs in zip(*found, strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("size", [8, 1 << 20], ids=["many tiles", "one tile"])
@pytest.mark.parametrize("seed", [1, 41, 77])
def test_whole_runs(
    device: Backend, seed: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "_TILE_SIZE", size)
    case = random_case(seed, max_instruments=8, max_accounts=40)
    config = write_case(case, tmp_path, "parquet")
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert run.manifest["lost_backends"] == []


def test_too_little_memory_is_a_memory_error(device: Backend) -> None:
    with pytest.raises(MemoryError):
        device.xp.empty((1 << 50,), dtype=device.xp.float64)


def test_arrays_pass_to_and_from_jax(device: Backend) -> None:
    jax = pytest.importorskip("jax")
    there = device.to_device(np.arange(5.0))
    if jax.default_backend() != "gpu":
        pytest.skip("this JAX has no GPU")
    assert device.to_host(device.to_device(jax.dlpack.from_dlpack(there))).tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]
