"""The devices that a run works on, and what becomes of the run when one fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.failures import BackendUnavailable, GpuMarginError

Answer = TypeVar("Answer")

# Where a run goes on when its last device fails, in this order.
_REFUGES = ("numba", "numpy")


@dataclass
class Device:
    """The backend in use, its devices, and what was given up, each with the stage and the error."""

    backend: Backend
    shards: list[Backend] = field(init=False)
    lost: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shards = list(self.backend.shards())

    def done(self, stage: str, work: Callable[[Backend], Answer]) -> Answer:
        """What `work` says on the first device; one that fails is given up for the next.

        Errors of our own are no fault of a device and are raised.
        """
        while True:
            shard = self.shards[0]
            try:
                with shard.lane():
                    return work(shard)
            except GpuMarginError:
                raise
            except Exception as error:
                self.give_up(shard, stage, error)

    def give_up(self, shard: Backend, stage: str, error: Exception) -> None:
        """Go on without a device: on the others, or where it was the last on the next backend.

        Raises `error` itself where there is none left.
        """
        left = [one for one in self.shards if one is not shard]
        if not left:
            found = _next_refuge(self.backend.name)
            if found is None:
                raise error
            self.backend, left = found, list(found.shards())
        what = f"{type(error).__name__}: {error}"
        place = {"name": shard.name, "device": shard.describe()}
        self.lost.append({**place, "stage": stage, "error": what, "next": self.backend.name})
        self.shards = left


def _next_refuge(failed: str) -> Backend | None:
    """The first backend after the failed one that can run."""
    after = _REFUGES.index(failed) + 1 if failed in _REFUGES else 0
    for name in _REFUGES[after:]:
        if name in backends.backend_names():
            try:
                return backends.load(name)
            except BackendUnavailable:
                continue
    return None
