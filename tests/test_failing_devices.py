"""A device that fails mid-run is given up, and the run finishes elsewhere with the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from polars.testing import assert_frame_equal
from random_tables import random_case, write_case

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import engine
from gpu_margin.backend import Backend, Rows, TailMeasure, TailResult


class Faulty:
    """The NumPy backend, but `tail` raises an error from the given call on."""

    name = "faulty"

    def __init__(self, error: Exception, calls: int, recovers: bool = False) -> None:
        self._sound: Any = backends.load("numpy")
        self._error, self._calls, self._recovers = error, calls, recovers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)

    def tail(self, rows: Rows, matrix: Any, measures: Sequence[TailMeasure]) -> TailResult:
        self._calls -= 1
        if self._calls == 0 or (self._calls < 0 and not self._recovers):
            raise self._error
        result: TailResult = self._sound.tail(rows, matrix, measures)
        return result


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_TILE_ACCOUNTS", 2)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_case(random_case(41, max_instruments=6, max_accounts=9), tmp_path, "parquet")


def same_tables(ours: gpu_margin.Run, theirs: gpu_margin.Run) -> None:
    for name in ("margins", "components", "sets", "groups", "failures", "group_totals"):
        assert_frame_equal(getattr(ours, name), getattr(theirs, name), check_exact=True)


# The first two calls of tail are in prepare.
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 7, 20])
def test_the_run_finishes_elsewhere(config: Path, calls: int) -> None:
    device: Backend = Faulty(RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS"), calls)  # type: ignore[assignment]
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    (lost,) = run.manifest["lost_backends"]
    assert lost["name"] == "faulty"
    assert "ILLEGAL_ADDRESS" in lost["error"]
    assert run.manifest["backend"]["name"] == lost["next"]


def test_too_little_memory_halves_the_tile_and_goes_on(config: Path) -> None:
    device: Backend = Faulty(MemoryError("out of memory"), 3, recovers=True)  # type: ignore[assignment]
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert run.manifest["lost_backends"] == []
    assert run.manifest["backend"]["name"] == "faulty"


def test_too_little_memory_for_one_account_gives_the_device_up(config: Path) -> None:
    device: Backend = Faulty(MemoryError("out of memory"), 3)  # type: ignore[assignment]
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert run.manifest["lost_backends"][0]["error"] == "MemoryError: out of memory"


def test_an_error_of_the_last_refuge_is_raised(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device: Any = Faulty(RuntimeError("a bug"), 3)
    monkeypatch.setattr(device, "name", "numpy", raising=False)
    with pytest.raises(RuntimeError, match="a bug"):
        gpu_margin.run(config, backend=device)


def test_a_lost_device_is_told_on_the_page(config: Path) -> None:
    from gpu_margin.report import render

    device: Backend = Faulty(RuntimeError("<b>gone</b>"), 3)  # type: ignore[assignment]
    page = render(gpu_margin.run(config, backend=device))
    assert "&lt;b&gt;gone&lt;/b&gt;" in page
