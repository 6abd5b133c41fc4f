"""Benchmarks: every backend beside what a practitioner would write and what the machine can do.

A time counts only with a right answer: each contender is checked against the workload's reference
before and after its rounds. What does not fit the memory, takes too long or cannot run here is
named with the reason. Compare ratios within one run; seconds of different machines say little.
"""

from __future__ import annotations

from typing import Any

from gpu_margin import backend as backends
from gpu_margin.bench.apart import Ended, run_apart
from gpu_margin.bench.cases import Case, Contender, Workload, sizes
from gpu_margin.bench.files import read, write
from gpu_margin.bench.harness import run_bench
from gpu_margin.bench.joins import Skipped
from gpu_margin.bench.page import show
from gpu_margin.bench.precision import PRECISIONS, precisions
from gpu_margin.bench.request import Request, backend_choice
from gpu_margin.bench.result import WORKLOADS, BenchResult, Row, workloads
from gpu_margin.bench.timing import check
from gpu_margin.failures import BackendUnavailable

__all__ = [
    "PRECISIONS",
    "WORKLOADS",
    "BenchResult",
    "Ended",
    "Request",
    "Row",
    "Skipped",
    "backend_choice",
    "complaint",
    "contender",
    "contender_names",
    "precisions",
    "read",
    "run_apart",
    "run_bench",
    "show",
    "sizes",
    "workloads",
    "write",
]


def contender(case: Case, name: str) -> Contender:
    """The case's contender of that name, for `benchmarks/`; raises `Skipped` if it cannot run."""
    if name not in backends.backend_names():
        return case.practitioner(name)
    try:
        variants = case.backend(backends.load(name))
    except BackendUnavailable as error:
        raise Skipped(str(error)) from error
    return next((one for one in variants if one.variant == "resident"), variants[0])


def complaint(case: Case, one: Contender, result: Any) -> str:
    """What is wrong with what `one.run` returned, or nothing."""
    return check(case, one, result)[1]


def contender_names(workload: Workload) -> list[str]:
    """Practitioners and backends, able to run or not."""
    return [*workload.practitioners, *backends.backend_names()]
