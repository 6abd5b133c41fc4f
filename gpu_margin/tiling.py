"""The accounts of a run, dealt out in tiles to the lanes of its devices.

A tile is worked on under all models before the next, so that its positions are netted and brought
to the device once. Which lane takes which tile changes no bit: an account's figures depend on
nothing but the account.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from gpu_margin.backend import Backend
from gpu_margin.devices import Device
from gpu_margin.failures import GpuMarginError
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio

# (stage, done, total): called as work goes on, for progress bars.
Progress = Callable[[str, int, int], None]
Prepare = Mapping[str, Callable[[Backend], Prepared]]
Answer = TypeVar("Answer")
# What is done with a tile: the models prepared on the device, and the tile, also as a portfolio.
Work = Callable[[Mapping[str, Prepared], "Tile", Portfolio], Answer]

# Positions and accounts that a tile has at most: enough to fill a device, and small enough that a
# progress bar moves.
_TILE_SIZE = 1 << 20
# Bytes of the device that one of them takes: rows by set and by group, and what is made of them.
_BYTES = 160
# Of the free memory, what the tiles of all lanes may take together.
_SHARE = 4


@dataclass
class Clock:
    """Seconds of each stage, added up over all lanes."""

    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add to the seconds of a stage, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] = round(self.seconds.get(stage, 0.0) + taken, 6)


@dataclass(frozen=True)
class Tile:
    """The accounts with codes start <= code < stop."""

    start: int
    stop: int

    def halves(self) -> tuple[Tile, Tile]:
        """Two tiles that are this one."""
        middle = (self.start + self.stop) // 2
        return Tile(self.start, middle), Tile(middle, self.stop)


class Interrupted(Exception):
    """A stage of the work on a device failed, with `error`."""

    def __init__(self, stage: str, error: Exception) -> None:
        super().__init__(stage)
        self.stage, self.error = stage, error


class _Shard:
    """A device that takes part: the models are prepared on it once, by the first lane."""

    def __init__(self, backend: Backend, prepare: Prepare, clock: Clock) -> None:
        self.backend, self.lanes = backend, backend.lanes
        self._prepare, self._clock = prepare, clock
        self._prepared: dict[str, Prepared] = {}
        self._lock = threading.Lock()

    def prepared(self) -> dict[str, Prepared]:
        """The models on this device."""
        with self._lock:
            for name, prepare in self._prepare.items():
                if name not in self._prepared:
                    # In a lane of its own: when it is left, the other lanes may use the model.
                    with stage_of(f"prepare {name}", self._clock), self.backend.lane():
                        self._prepared[name] = prepare(self.backend)
            return self._prepared


class _Tiles:
    """Tiles that are yet to be done; any lane takes the next."""

    def __init__(self, tiles: list[Tile]) -> None:
        self._tiles = deque(tiles)
        self._most = max((tile.stop - tile.start for tile in tiles), default=1)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tiles)

    def take(self) -> Tile | None:
        """The next tile, or None where none is left."""
        with self._lock:
            if not self._tiles:
                return None
            tile = self._tiles.popleft()
            while tile.stop - tile.start > self._most:
                tile, rest = tile.halves()
                self._tiles.appendleft(rest)
            return tile

    def give_back(self, tile: Tile) -> None:
        """Whoever is next takes it."""
        with self._lock:
            self._tiles.appendleft(tile)

    def halve(self, tile: Tile) -> None:
        """Give back a tile that was too large; none of its size is handed out again."""
        with self._lock:
            self._most = min(self._most, (tile.stop - tile.start + 1) // 2)
            self._tiles.appendleft(tile)

    def drop(self) -> None:
        """Nothing more is to be done."""
        with self._lock:
            self._tiles.clear()


class Lanes:
    """Where tiles are worked on: the lanes of all devices of a run, its models prepared on each.

    `prepare` has per model what prepares it on a device.
    """

    def __init__(self, device: Device, prepare: Prepare, clock: Clock) -> None:
        self._device, self._prepare, self._clock = device, prepare, clock
        self._shards: list[_Shard] = []

    def run(
        self, portfolio: Portfolio, work: Work[Answer], stage: str, report: Progress
    ) -> list[Answer]:
        """What `work` says of one tile of accounts after another, in their order.

        Any lane takes the next tile, until none is left. Where a device has too little memory the
        tile is halved; where it fails otherwise it is given up, and what it did not finish is done
        by the others, or by the next backend.
        """
        job = _Job(portfolio, plan(portfolio, self._device.shards), work, stage, report)
        report(stage, 0, len(portfolio.accounts))
        while len(job.tiles):
            self._renew()
            try:
                _run_lanes(job, [shard for shard in self._shards for _ in range(shard.lanes)])
            except BaseException:
                job.tiles.drop()
                raise
            for shard, (failed, error) in job.failed.items():
                self._device.give_up(shard.backend, failed, error)
            job.failed.clear()
        return [job.done[start] for start in sorted(job.done)]

    def _renew(self) -> None:
        """A shard for each device in use; models that are prepared stay so."""
        known = {id(shard.backend): shard for shard in self._shards}
        self._shards = [
            known.get(id(backend)) or _Shard(backend, self._prepare, self._clock)
            for backend in self._device.shards
        ]


class _Job(Generic[Answer]):
    """What the lanes share: the tiles to do, the answers, the devices that failed."""

    def __init__(
        self,
        portfolio: Portfolio,
        tiles: list[Tile],
        work: Work[Answer],
        stage: str,
        report: Progress,
    ) -> None:
        self.tiles = _Tiles(tiles)
        self.done: dict[int, Answer] = {}
        self.failed: dict[_Shard, tuple[str, Exception]] = {}
        self._portfolio, self._work = portfolio, work
        self._stage, self._report = stage, report
        self._accounts = 0
        self._lock = threading.Lock()

    def lane(self, shard: _Shard) -> None:
        """Take one tile after another, until none is left or the device fails."""
        try:
            with shard.backend.lane():
                while (tile := self.tiles.take()) is not None:
                    self._take(shard, tile)
        except GpuMarginError:
            raise
        except Interrupted as broken:
            self.failed.setdefault(shard, (broken.stage, broken.error))
        except Exception as error:  # the device would not even start, or end
            self.failed.setdefault(shard, (self._stage, error))

    def _take(self, shard: _Shard, tile: Tile) -> None:
        """Work on a tile, or give it back; with too little memory, halved."""
        try:
            prepared = shard.prepared()
        except Interrupted:
            self.tiles.give_back(tile)
            raise
        try:
            portfolio = self._portfolio.tile(tile.start, tile.stop)
            answer = self._work(prepared, tile, portfolio)
        except Interrupted as broken:
            if isinstance(broken.error, MemoryError) and tile.stop - tile.start > 1:
                self.tiles.halve(tile)
                return
            self.tiles.give_back(tile)
            raise
        with self._lock:
            self.done[tile.start] = answer
            self._accounts += tile.stop - tile.start
            self._report(self._stage, self._accounts, len(self._portfolio.accounts))


def plan(portfolio: Portfolio, shards: list[Backend]) -> list[Tile]:
    """Tiles of all accounts, as large as the memory of every device allows."""
    free = min(shard.free_bytes() // shard.lanes for shard in shards)
    most = max(1, min(_TILE_SIZE, free // _SHARE // _BYTES))
    accounts = len(portfolio.accounts)
    first_set = np.searchsorted(portfolio.set_account, np.arange(accounts + 1))
    size = portfolio.rows.offsets[first_set] + np.arange(accounts + 1)
    tiles, start = [], 0
    while start < accounts:
        stop = int(np.searchsorted(size, size[start] + most, side="right")) - 1
        tiles.append(Tile(start, max(start + 1, stop)))
        start = tiles[-1].stop
    return tiles


def _run_lanes(job: _Job[Any], lanes: list[_Shard]) -> None:
    """All lanes at once, each in a thread of its own where there are several."""
    if len(lanes) == 1:
        job.lane(lanes[0])
        return
    with ThreadPoolExecutor(len(lanes)) as pool:
        # In copies of the context, for how floating-point errors are treated is part of it.
        tasks = [pool.submit(copy_context().run, job.lane, shard) for shard in lanes]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            job.tiles.drop()  # or the pool would wait for all of them
            raise


@contextmanager
def stage_of(name: str, clock: Clock) -> Iterator[None]:
    """Time a stage of work on a device, and say which one it was that failed."""
    try:
        with clock.timed(name):
            yield
    except GpuMarginError:
        raise
    except Exception as error:
        raise Interrupted(name, error) from error
