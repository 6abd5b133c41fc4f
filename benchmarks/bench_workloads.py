"""The workloads of `gpu-margin bench` at a laptop's size, for pytest-benchmark.

Run with `make bench`; compare ratios within one run. Each contender's answer is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from gpu_margin import bench
from gpu_margin.bench.cases import Case, Workload

CONTENDERS = [
    pytest.param(workload, name, id=f"{key}{number}-{name}")
    for key, workloads in bench.WORKLOADS.items()
    for number, workload in enumerate(workloads)
    for name in bench.contender_names(workload)
]


@pytest.fixture
def case(workload: Workload) -> Iterator[Case]:
    with closing(workload.build(bench.sizes("laptop")[0])) as built:
        yield built


@pytest.mark.parametrize(("workload", "name"), CONTENDERS)
def test_contender(benchmark: Any, case: Case, workload: Workload, name: str) -> None:
    benchmark.group = workload.title
    try:
        chosen = bench.contender(case, name)
    except bench.Skipped as reason:
        pytest.skip(str(reason))
    answer = benchmark.pedantic(chosen.run, rounds=5, warmup_rounds=1)
    assert bench.complaint(case, chosen, answer) == ""
