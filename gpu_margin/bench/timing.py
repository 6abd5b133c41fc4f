"""One contender's rounds: warmed up, checked, timed, checked again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gpu_margin.backend import Backend
from gpu_margin.bench.cases import Case, Contender, Work, floor
from gpu_margin.bench.pace import Expected, Pace
from gpu_margin.bench.precision import FLOAT64, PRECISIONS, Precision
from gpu_margin.bench.result import Row


@dataclass(frozen=True)
class Plan:
    """What a run of the harness carries along; see `run_bench`.

    `missing` says why backends cannot run, by name; `pace` is what it learns on its way.
    """

    devices: tuple[Backend, ...]
    missing: dict[str, str]
    ceilings: dict[str, dict[str, float]]
    rounds: int
    precisions: tuple[str, ...]
    patience: float
    limit: float
    pace: Pace = field(default_factory=Pace)

    def too_slow(self, row: Row, work: Work) -> Expected | None:
        """What a call of the row's contender takes, where that is known to be over the limit."""
        expected = self.pace.expect(row, work)
        return expected if expected and expected.seconds > self.limit else None


def timed(case: Case, one: Contender, row: Row, work: Work, plan: Plan) -> Row:
    """The row with the contender's times, and all that follows from them; or that it is wrong.

    `work` is what the case costs in the row's precision.
    """
    precision = PRECISIONS[row.precision]
    result = one.run()
    error, wrong = check(case, one, result, precision)
    times: list[tuple[float, float]] = []
    while not wrong and _another(times, plan):
        result = None  # let go of the memory before the next round
        cpu, start = time.process_time(), time.perf_counter()
        result = one.run()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    if not wrong:
        last, wrong = check(case, one, result, precision)
        error = max(error, last)
    if wrong:
        # JSON has no infinity.
        finite = error if np.isfinite(error) else None
        return replace(row, status="wrong", reason=wrong, error=finite)
    done = _figures(replace(row, status="ok", error=error), work, times, plan)
    plan.pace.learn(done, work)
    return done


def check(
    case: Case, one: Contender, result: Any, precision: Precision = FLOAT64
) -> tuple[float, str]:
    """The largest error as a share of gross, and what is wrong.

    The worst scenario is asked for in float64 only: what is near it may pass it by rounding.
    """
    asked = one.gives_worst and precision == FLOAT64
    return case.reference.complaint(one.answer(result), one.units, precision.rtol, asked)


def _another(times: list[tuple[float, float]], plan: Plan) -> bool:
    """Whether there is to be another round: one at least, as many as asked, if patience allows."""
    if not times:
        return True
    walls = [wall for wall, _ in times]
    return len(times) < plan.rounds and sum(walls) + min(walls) <= plan.patience


def _figures(row: Row, work: Work, times: list[tuple[float, float]], plan: Plan) -> Row:
    """The row with all that follows from its times."""
    seconds, cpu_seconds = min(times)
    share = row.units / work.units
    ceiling = plan.ceilings.get(row.contender, plan.ceilings["host"])
    gb_s = share * work.gathered_bytes / seconds / 1e9
    return replace(
        row,
        rounds=tuple(wall for wall, _ in times),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        units_per_second=row.units / seconds,
        units_per_cpu_second=row.units / cpu_seconds if cpu_seconds > 0 else None,
        gb_s=gb_s,
        copy_share=gb_s / ceiling["copy_gb_s"],
        floor=share * floor(work, ceiling, PRECISIONS[row.precision]),
    )
