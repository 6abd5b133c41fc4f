"""Repricing by Black-76: independent options, and instruments under scenarios.

Workload (c) of `gpu-margin bench` at a laptop's size; compare ratios within one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from gpu_margin import bench
from gpu_margin.bench.cases import Case

WORKLOADS = bench.WORKLOADS["c"]


@pytest.fixture(scope="module", params=WORKLOADS, ids=lambda workload: workload.title)
def case(request: Any) -> Iterator[Case]:
    with closing(request.param.build(bench.sizes("laptop")[0])) as built:
        yield built


@pytest.mark.parametrize("name", bench.contender_names(WORKLOADS[0]))
def test_repricing(benchmark: Any, case: Case, name: str) -> None:
    try:
        chosen = bench.contender(case, name)
    except bench.Skipped as reason:
        pytest.skip(str(reason))
    answer = benchmark.pedantic(chosen.run, rounds=5, warmup_rounds=1)
    assert bench.complaint(case, chosen, answer) == ""
