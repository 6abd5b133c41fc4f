"""Tails as weights of ranks: what contributions to a measure follow."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_margin.backend import TailMeasure
from gpu_margin.tails import euler_measure, is_smoothed


def quantile(k: int) -> TailMeasure:
    return TailMeasure((0.0,) * (k - 1) + (1.0,))


@pytest.mark.parametrize(
    "measure",
    [
        TailMeasure((1.0,)),
        TailMeasure((1.0,) * 7, 7.0),
        TailMeasure((1.0, 1.0, 0.5), 2.5),
    ],
)
def test_a_shortfall_is_its_own(measure: TailMeasure) -> None:
    assert euler_measure(measure, 10) is measure
    assert not is_smoothed(measure)


@pytest.mark.parametrize(
    ("k", "scenarios", "weights"),
    [
        (1, 100, (1.0,)),  # h = 0: the worst loss has nothing worse beside it
        (2, 2, (0.0, 1.0)),  # h = 0: nor has the least loss anything less
        (2, 100, (1.0, 2.0, 1.0)),
        (3, 100, (0.0, 1.0, 2.0, 1.0)),
        (4, 100, (0.0, 1.0, 2.0, 3.0, 2.0, 1.0)),
        (10, 1000, (0.0,) * 4 + (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)),
        (9, 10, (0.0,) * 7 + (1.0, 2.0, 1.0)),
    ],
)
def test_a_quantile_is_spread_over_its_neighbours(
    k: int, scenarios: int, weights: tuple[float, ...]
) -> None:
    found = euler_measure(quantile(k), scenarios)
    assert found.weights == weights
    assert found.divisor == math.fsum(weights)


def test_two_ranks_are_spread_each() -> None:
    # Rank 2 in a triangle over 1 to 3, rank 3 over 2 to 4.
    found = euler_measure(TailMeasure((0.0, 0.25, 0.75)), 100)
    expected = (0.25 / 4, 0.5 / 4 + 0.75 / 4, 0.25 / 4 + 1.5 / 4, 0.75 / 4)
    assert found.weights == pytest.approx(expected, rel=1e-15)
    assert found.divisor == 1.0


def test_two_ranks_of_falling_weight_are_spread_where_a_better_one_has_none() -> None:
    assert is_smoothed(TailMeasure((0.0, 0.75, 0.25)))


def test_more_ranks_than_scenarios_are_refused() -> None:
    with pytest.raises(ValueError, match="3 weights for 2 scenarios"):
        euler_measure(quantile(3), 2)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_ranks_and_sum_of_the_triangle(case: tuple[int, int]) -> None:
    scenarios, k = case
    found = euler_measure(quantile(k), scenarios)
    h = min(k - 1, scenarios - k, k // 2)
    ranks = [rank for rank, weight in enumerate(found.weights, 1) if weight]
    assert ranks == list(range(k - h, k + h + 1))
    assert math.fsum(found.weights) == found.divisor
    assert math.fsum(rank * w for rank, w in enumerate(found.weights, 1)) == k * found.divisor
