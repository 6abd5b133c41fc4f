"""Simulation margin of a whole book: VaR 99 and ES 97.5 in one pass.

Workload (a) of `gpu-margin bench` at a laptop's size; compare ratios within one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from gpu_margin import bench
from gpu_margin.bench.cases import Case

(WORKLOAD,) = bench.WORKLOADS["a"]


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    with closing(WORKLOAD.build(bench.sizes("laptop")[0])) as built:
        yield built


@pytest.mark.parametrize("name", bench.contender_names(WORKLOAD))
def test_simulation_margin(benchmark: Any, case: Case, name: str) -> None:
    try:
        chosen = bench.contender(case, name)
    except bench.Skipped as reason:
        pytest.skip(str(reason))
    answer = benchmark.pedantic(chosen.run, rounds=5, warmup_rounds=1)
    assert bench.complaint(case, chosen, answer) == ""
