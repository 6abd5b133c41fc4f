"""A device that fails mid-run is given up, and the run finishes elsewhere with the same bits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cupy_on_cpu
import pytest
from polars.testing import assert_frame_equal
from random_tables import random_case, write_case

import gpu_margin
from gpu_margin import backend as backends
from gpu_margin import engine, loading, tiling
from gpu_margin.backend import Backend, Rows, TailMeasure, TailResult
from gpu_margin.config import load_config, load_models


class Faulty:
    """The NumPy backend, but `tail` raises an error from the given call on."""

    name = "faulty"

    def __init__(self, error: Exception, calls: int, recovers: bool = False) -> None:
        self._sound: Any = backends.load("numpy")
        self._error, self._calls, self._recovers = error, calls, recovers

    def shards(self) -> Sequence[Any]:
        return [self]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)

    def tail(
        self, rows: Rows, matrix: Any, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        self._calls -= 1
        if self._calls == 0 or (self._calls < 0 and not self._recovers):
            raise self._error
        result: TailResult = self._sound.tail(rows, matrix, measures, scenarios)
        return result


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "_TILE_SIZE", 8)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_case(random_case(41, max_instruments=6, max_accounts=9), tmp_path, "parquet")


def same_tables(ours: gpu_margin.Run, theirs: gpu_margin.Run) -> None:
    for name in ("margins", "components", "sets", "groups", "failures", "group_totals"):
        assert_frame_equal(getattr(ours, name), getattr(theirs, name), check_exact=True)


def simulations(config: Path) -> list[str]:
    """Models whose prepare calls `tail` twice."""
    return [model.name for model in load_models(load_config(config)) if model.kind == "simulation"]


# The first calls of tail are in prepare.
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 7, 20])
def test_the_run_finishes_elsewhere(config: Path, calls: int) -> None:
    device: Backend = Faulty(RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS"), calls)  # type: ignore[assignment]
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    (lost,) = run.manifest["lost_backends"]
    assert lost["name"] == "faulty"
    assert "ILLEGAL_ADDRESS" in lost["error"]
    assert run.manifest["backend"]["name"] == lost["next"]


def test_too_little_memory_halves_the_tile_and_goes_on(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling, "_TILE_SIZE", 1000)
    after_prepare = 2 * len(simulations(config)) + 1
    device: Backend = Faulty(MemoryError("out of memory"), after_prepare, recovers=True)  # type: ignore[assignment]
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert run.manifest["lost_backends"] == []
    assert run.manifest["backend"]["name"] == "faulty"


def test_too_little_memory_for_one_account_gives_the_device_up(config: Path) -> None:
    after_prepare = 2 * len(simulations(config)) + 1
    device: Backend = Faulty(MemoryError("out of memory"), after_prepare)  # type: ignore[assignment]
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


class Several:
    """A backend of several devices, each with two lanes; device i is what `made` has there."""

    name = "several"

    def __init__(self, *made: Any) -> None:
        self._sound: Any = backends.load("numpy")
        self._devices = [_TwoLanes(device) for device in made]

    def shards(self) -> Sequence[Any]:
        return self._devices

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)


class _TwoLanes:
    """A device that two threads work on, each within a lane; counts the calls of `tail`."""

    lanes = 2

    def __init__(self, device: Any) -> None:
        self._device, self._thread, self.calls = device, threading.local(), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    @contextmanager
    def lane(self) -> Iterator[None]:
        before, self._thread.inside = getattr(self._thread, "inside", False), True
        yield
        self._thread.inside = before

    def tail(self, *arguments: Any, **options: Any) -> TailResult:
        assert self._thread.inside, "outside of a lane"
        self.calls += 1
        result: TailResult = self._device.tail(*arguments, **options)
        return result


def test_devices_share_the_accounts_and_change_no_bit(config: Path) -> None:
    numpy = backends.load("numpy")
    device: Any = Several(numpy, numpy, numpy)
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert run.manifest["lost_backends"] == []
    assert run.manifest["backend"]["device"].count(";") == 2


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_what_a_lost_device_leaves_is_done_by_the_others(config: Path, calls: int) -> None:
    broken = Faulty(RuntimeError("fell off the bus"), calls)
    device: Any = Several(backends.load("numpy"), broken)
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    for lost in run.manifest["lost_backends"]:  # empty where the other was quick to finish
        assert "fell off" in lost["error"]
        assert lost["name"] == "faulty"
    assert run.manifest["backend"]["device"].count(";") == 1 - len(run.manifest["lost_backends"])


def test_when_all_devices_are_lost_the_run_finishes_elsewhere(config: Path) -> None:
    broken = [Faulty(RuntimeError(f"device {number} is gone"), 3) for number in range(2)]
    device: Any = Several(*broken)
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert len(run.manifest["lost_backends"]) == 2
    assert run.manifest["lost_backends"][-1]["next"] == run.manifest["backend"]["name"]


def test_a_lane_that_cannot_be_entered_or_left_is_a_failure(config: Path) -> None:
    class Dead(Faulty):
        def lane(self) -> Any:
            raise RuntimeError("no stream")

    device: Any = Dead(RuntimeError("never"), 10**9)
    run = gpu_margin.run(config, backend=device)
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert "no stream" in run.manifest["lost_backends"][0]["error"]


def test_the_cupy_backend_of_two_devices_runs_a_whole_exchange(config: Path) -> None:
    run = gpu_margin.run(config, backend=cupy_on_cpu.load())
    same_tables(run, gpu_margin.run(config, backend="numpy"))
    assert run.manifest["backend"] == {
        "name": "cupy",
        "device": "; ".join(["shim, 1 GiB, cupy on the CPU"] * cupy_on_cpu.DEVICES),
    }
    assert run.manifest["lost_backends"] == []


def test_positions_go_to_the_device_once_for_all_models(config: Path) -> None:
    uploads: list[Any] = []

    class Watched(Faulty):
        def to_device(self, array: Any) -> Any:
            uploads.append(array)
            return self._sound.to_device(array)

    loaded = loading.load(config)
    device: Any = Watched(RuntimeError("never"), 10**9)
    for model in loaded.models:
        engine.prepare(loaded, model, device).margin(loaded.portfolio)
    assert len(loaded.models) > 1
    quantities = loaded.portfolio.netted.value
    assert sum(array is quantities for array in uploads) == 1


def test_tiles_fit_the_memory_and_cover_all_accounts(config: Path) -> None:
    portfolio = loading.load(config).portfolio

    class Small(Faulty):
        def free_bytes(self) -> int:
            return 4 * 160 * 4

    device: Any = Small(RuntimeError("never"), 1)
    tiles = tiling.plan(portfolio, [device])
    assert len(tiles) > 1
    assert [tile.start for tile in tiles[1:]] == [tile.stop for tile in tiles[:-1]]
    assert (tiles[0].start, tiles[-1].stop) == (0, len(portfolio.accounts))
    for tile in tiles:
        size = len(portfolio.tile(tile.start, tile.stop).rows.value) + tile.stop - tile.start
        assert size <= 4 or tile.stop - tile.start == 1
