"""What a benchmark gives: a row per contender, and the workloads that there are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from gpu_margin.bench.cases import Workload
from gpu_margin.bench.end_to_end import EndToEnd
from gpu_margin.bench.margins import CovarianceMargin, SimulationMargin
from gpu_margin.bench.precision import FLOAT64
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
    that stays in the caches may beat it); `error` largest as a share of gross, of the float64
    reference in every `precision`; `note` says why there are fewer `units` than `case_units`.

    Variants of a device: "upload" starts and ends on the host, "resident" has the portfolio there,
    "kernel" leaves the results there as well and ends when the device says that it is done.
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
    precision: str = FLOAT64.name
    note: str = ""


@dataclass(frozen=True)
class BenchResult:
    """All rows of a run so far and what is needed to judge them.

    `ceilings` by "host" and device name; `memory` as `machine.memory`; `backends` says what
    each name is, or why it cannot run; `machine`, `versions`, `command` and `created` (UTC);
    `patience` and `limit` in seconds. `done` of `cases` (a workload at a size) are whole;
    `finished` once there is no more to come, `stopped` says why there will not be, if so.
    """

    rows: tuple[Row, ...]
    ceilings: dict[str, dict[str, float]]
    memory: list[dict[str, Any]]
    backends: dict[str, str]
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    created: str
    rounds: int
    precisions: tuple[str, ...] = (FLOAT64.name,)
    patience: float | None = None
    limit: float | None = None
    cases: int = 0
    done: int = 0
    finished: bool = False
    stopped: str = ""

    @property
    def wrong(self) -> int:
        """How many contenders gave wrong answers."""
        return sum(row.status == "wrong" for row in self.rows)

    @property
    def state(self) -> str:
        """Whether there is more to come, in words."""
        if self.finished:
            return "finished"
        cases = f"{self.done} of {self.cases} cases done"
        return f"stopped {self.stopped}, {cases}" if self.stopped else f"not finished, {cases}"

    def to_dict(self) -> dict[str, Any]:
        """As plain lists and dicts, for JSON."""
        return {"schema": 2, **asdict(self)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> BenchResult:
        """What `to_dict` gave, also after JSON; of schema 1, which had one dtype, as well."""
        rows = tuple(Row(**{**row, "rounds": tuple(row["rounds"])}) for row in plain["rows"])
        if plain["schema"] == 1:
            cases = len({(row.title, row.size) for row in rows})
            also = {"cases": cases, "done": cases, "finished": True}
            plain = {**plain, **also, "precisions": [plain["dtype"]]}
        known = {field.name: plain[field.name] for field in fields(cls) if field.name in plain}
        return cls(**{**known, "rows": rows, "precisions": tuple(plain["precisions"])})


def workloads(text: str) -> tuple[str, ...]:
    """Keys from a comma-separated list, or "all"; `ConfigError` where one is unknown."""
    keys = list(WORKLOADS) if text == "all" else [key.strip() for key in text.split(",")]
    for key in keys:
        if key not in WORKLOADS:
            known = ", ".join(WORKLOADS)
            raise ConfigError(f"--workload {key!r}: choose all, or some of {known}")
    return tuple(dict.fromkeys(keys))
