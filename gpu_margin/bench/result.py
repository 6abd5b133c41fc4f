"""What a benchmark gives: a row per contender, and the workloads that there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from gpu_margin.bench.cases import Workload
from gpu_margin.bench.end_to_end import EndToEnd
from gpu_margin.bench.margins import CovarianceMargin, SimulationMargin
from gpu_margin.bench.repricing import Repricing
from gpu_margin.failures import ConfigError

WORKLOADS: dict[str, tuple[Workload, ...]] = {
    "a": (SimulationMargin(),),
    "b": (CovarianceMargin(),),
    "c": (Repricing(grid=False), Repricing(grid=True)),
    "d": (EndToEnd(),),
}

Status = Literal["ok", "wrong", "skipped", "failed"]


@dataclass(frozen=True)
class Row:
    """One contender on one workload and size; figures are None unless `status` is "ok".

    `seconds` wall time of the best round, `cpu_seconds` of all threads in it; `ratio` time per unit
    over the baseline's; `gb_s` bytes gathered per second, `copy_share` that over the copy ceiling;
    `floor` seconds at the measured ceilings for the `units` handled of `case_units` (a small case
    that stays in the caches may beat it); `error` largest as a share of gross.

    Variants of a device: "upload" starts and ends on the host, "resident" has the portfolio there,
    "kernel" leaves the results there as well.
    """

    workload: str
    title: str
    size: str
    accounts: int
    positions: int
    scenarios: int
    contender: str
    kind: Literal["practitioner", "backend"]
    status: Status
    reason: str = ""
    variant: str = ""
    unit: str = ""
    units: int = 0
    case_units: int = 0
    rounds: tuple[float, ...] = ()
    seconds: float | None = None
    cpu_seconds: float | None = None
    ratio: float | None = None
    units_per_second: float | None = None
    units_per_cpu_second: float | None = None
    gb_s: float | None = None
    copy_share: float | None = None
    floor: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class BenchResult:
    """All rows of a run and what is needed to judge them.

    `ceilings` by "host" and device name; `memory` as `machine.memory`; `backends` says what
    each name is, or why it cannot run; `machine`, `versions`, `command` and `created` (UTC).
    """

    rows: tuple[Row, ...]
    ceilings: dict[str, dict[str, float]]
    memory: list[dict[str, Any]]
    backends: dict[str, str]
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    created: str
    dtype: str
    rounds: int

    @property
    def wrong(self) -> int:
        """How many contenders gave wrong answers."""
        return sum(row.status == "wrong" for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As plain lists and dicts, for JSON."""
        return {"schema": 1, **asdict(self)}


def workloads(text: str) -> tuple[str, ...]:
    """Keys from a comma-separated list, or "all"; `ConfigError` where one is unknown."""
    keys = list(WORKLOADS) if text == "all" else [key.strip() for key in text.split(",")]
    for key in keys:
        if key not in WORKLOADS:
            known = ", ".join(WORKLOADS)
            raise ConfigError(f"--workload {key!r}: choose all, or some of {known}")
    return tuple(dict.fromkeys(keys))
