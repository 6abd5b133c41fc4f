"""Covariance matrices of factor returns; the mean is not removed.

Matrices are summed date by date and not by BLAS, whose order of summation, and with it the last
bits of a margin, depends on the machine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sample(returns: Floats) -> Floats:
    """[factor, factor] R'R / n of returns R [date, factor]."""
    return _weighted(returns, np.ones(len(returns))) / len(returns)


def ewma(returns: Floats, decay: float) -> Floats:
    """[factor, factor] exponentially weighted: weights decay^age, made to sum to 1.

    `returns` [date, factor] oldest first; the latest has age 0.
    """
    weights = decay ** np.arange(len(returns) - 1, -1, -1, dtype=np.float64)
    return _weighted(returns, weights / _total(weights))


def ledoit_wolf(returns: Floats) -> Floats:
    """[factor, factor] sample covariance shrunk towards the mean variance times identity.

    The intensity is that of O. Ledoit and M. Wolf, J. Multivariate Analysis 88 (2004) 365,
    section 3, for centred data, as scikit-learn's LedoitWolf(assume_centered=True).
    """
    dates, factors = returns.shape
    covariance = sample(returns)
    target = np.eye(factors) * (_total(np.diag(covariance)) / factors)
    distance = _total((covariance - target) ** 2) / factors
    squared = returns**2
    fourth = _weighted(squared, np.ones(dates)) / dates - covariance**2
    noise = _total(fourth) / (dates * factors)
    intensity = min(noise, distance) / distance if distance > 0 else 0.0
    shrunk: Floats = (1.0 - intensity) * covariance + intensity * target
    return shrunk


def correlation(covariance: Floats) -> Floats:
    """[factor, factor] correlations; 0 with a factor that does not move, 1 on the diagonal."""
    deviation = np.sqrt(np.diag(covariance))
    scale = np.where(deviation > 0, deviation, 1.0)
    result: Floats = covariance / scale[:, None] / scale[None, :]
    np.fill_diagonal(result, 1.0)
    return result


def _weighted(returns: Floats, weights: Floats) -> Floats:
    """Sum over dates of weight x r r', oldest first."""
    total = np.zeros((returns.shape[1], returns.shape[1]))
    for weight, row in zip(weights, returns, strict=True):
        total += weight * row[:, None] * row[None, :]
    return total


def _total(values: Floats) -> float:
    """The exactly rounded sum, which no order of summation changes."""
    return math.fsum(values.ravel().tolist())
