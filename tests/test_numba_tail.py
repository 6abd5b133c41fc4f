"""How the Numba backend finds the smallest profits of a row, beside a sort of the whole row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_margin import backend as backends
from gpu_margin.backend import Rows, TailMeasure
from gpu_margin.cpu_fallback import numba_backend

Floats = np.ndarray[Any, Any]
DEPTHS = (1, 2, 7, 25, 64, 65, 251, 300)


def tails(profits: Floats, depth: int) -> tuple[Floats, Floats, Floats]:
    """[row, place] the worst losses one by one, the worst scenario, those of the tail."""
    offsets = np.arange(len(profits) + 1)
    rows = Rows(offsets, np.arange(len(profits)), np.ones(len(profits), profits.dtype))
    single = [TailMeasure((0.0,) * place + (1.0,)) for place in range(depth)]
    found = backends.load("numba").tail(rows, profits, single, True)
    assert found.scenarios is not None
    return found.value, found.worst, found.scenarios


def check(profits: Floats, depth: int) -> None:
    value, worst, scenarios = tails(profits, depth)
    order = profits.argsort(axis=1, kind="stable")[:, :depth]
    # Summed with zeros, so that -0.0 is 0.0 in both.
    expected = 0.0 - np.take_along_axis(profits, order, axis=1).astype(np.float64)
    assert np.array_equal(value, expected + 0.0)
    assert np.array_equal(worst, order[:, 0])
    assert np.array_equal(scenarios, order)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("scenarios", [1, 16, 47, 48, 49, 130, 250, 513, 1200])
def test_any_depth_and_count(depth: int, scenarios: int) -> None:
    depth = min(depth, scenarios)
    rng = np.random.default_rng(depth * 10_000 + scenarios)
    plain = rng.normal(size=(20, scenarios))
    for profits in (plain, np.round(plain), np.zeros_like(plain), np.sort(plain), -np.sort(plain)):
        check(profits, depth)
        check(profits.astype(np.float32), depth)


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.floats(0.0, 1.0), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_any_share_of_equal_profits(seed: int, scenarios: int, equal: float, deep: float) -> None:
    rng = np.random.default_rng(seed)
    profits = rng.normal(size=(5, scenarios))
    profits[rng.random(profits.shape) < equal] = rng.choice([0.0, -1.0, 1.0])
    check(profits, max(1, int(deep * scenarios)))


@pytest.mark.parametrize("count", [0, 1, 30, 49])
def test_infinite_losses_are_the_worst(count: int) -> None:
    profits = np.random.default_rng(4).normal(size=(3, 50))
    profits[:, 50 - count :] = -np.inf
    for depth in (1, 3, 24):
        kept = np.empty(depth + 1)
        for row in profits:
            lanes, near, code = np.empty(24), np.empty(51), np.empty(51, dtype=np.int64)
            first = numba_backend._smallest(row, kept[:depth], kept, lanes, near, code)
            assert np.array_equal(kept[:depth], np.sort(row)[:depth])
            assert first == row.argmin()


@pytest.mark.parametrize("scenarios", [3, 60, 600])
def test_no_number_is_left_out(scenarios: int) -> None:
    """Sums that are not finite are marked by the caller: they must end, and harm no other row."""
    profits = np.random.default_rng(5).normal(size=(4, scenarios))
    profits[1] = np.nan
    profits[2, ::2] = np.nan
    value, _, _ = tails(profits, 3)
    clean = [0, 3]
    assert np.array_equal(value[clean], -np.sort(profits[clean], axis=1)[:, :3])
