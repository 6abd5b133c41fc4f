"""Estimators of covariance against plain formulas and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from gpu_margin import covariance


@pytest.fixture(params=[(1, 1), (2, 1), (5, 3), (250, 12), (30, 40)], ids=str)
def returns(request: pytest.FixtureRequest) -> np.ndarray:
    rng = np.random.default_rng(3)
    common = rng.normal(size=(request.param[0], 1))
    return 0.01 * (common + rng.normal(size=request.param))


def test_sample(returns: np.ndarray) -> None:
    expected = returns.T @ returns / len(returns)
    assert covariance.sample(returns) == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_ewma_is_the_recursion_with_weights_that_sum_to_one(returns: np.ndarray) -> None:
    total = np.zeros((returns.shape[1],) * 2)
    weight = 0.0
    for row in returns:
        total = 0.94 * total + np.outer(row, row)
        weight = 0.94 * weight + 1.0
    assert covariance.ewma(returns, 0.94) == pytest.approx(total / weight, rel=1e-12, abs=1e-18)


def test_ledoit_wolf_is_that_of_scikit_learn(returns: np.ndarray) -> None:
    expected = LedoitWolf(assume_centered=True).fit(returns).covariance_
    got = covariance.ledoit_wolf(returns)
    assert got == pytest.approx(expected, rel=1e-11, abs=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("estimate", [covariance.sample, covariance.ledoit_wolf])
def test_factors_that_do_not_move(estimate: object) -> None:
    still = np.zeros((10, 3))
    assert not np.any(estimate(still))  # type: ignore[operator]


def test_the_order_of_factors_changes_no_bit() -> None:
    rng = np.random.default_rng(8)
    returns, order = rng.normal(size=(60, 9)), rng.permutation(9)
    for estimate in (covariance.sample, covariance.ledoit_wolf):
        assert np.array_equal(estimate(returns[:, order]), estimate(returns)[order][:, order])


def test_correlation_of_a_still_factor() -> None:
    matrix = np.array([[4.0, 3.0, 0.0], [3.0, 9.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert covariance.correlation(matrix) == pytest.approx(np.array(expected))
