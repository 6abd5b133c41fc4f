"""The device that a run works on, and what becomes of the run when it fails."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.failures import BackendUnavailable

# Where a run goes on when its device fails, in this order.
_REFUGES = ("numba", "numpy")


@dataclass
class Device:
    """The backend in use and those that were given up, each with the stage and the error."""

    backend: Backend
    lost: list[dict[str, str]] = field(default_factory=list)

    def give_up(self, stage: str, error: Exception) -> None:
        """Go on with the next backend; raises `error` itself where there is none left."""
        failed = self.backend.name
        found = _next_refuge(failed)
        if found is None:
            raise error
        what = f"{type(error).__name__}: {error}"
        self.lost.append({"name": failed, "stage": stage, "error": what, "next": found.name})
        self.backend = found


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
