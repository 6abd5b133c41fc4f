"""Values by code, where a code may be of nothing."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_margin.portfolio import values_at

VALUES = np.array([3, 5, 7])


@pytest.mark.parametrize(
    ("codes", "wanted"),
    [([], []), ([2, 0, 2], [7, 3, 7]), ([-1, 1, 3], [9, 5, 9]), ([-1, -5, 100], [9, 9, 9])],
)
def test_what_has_no_value_gets_the_other_one(codes: list[int], wanted: list[int]) -> None:
    found = values_at(VALUES, np.array(codes, dtype=np.int64), 9)
    assert found.tolist() == wanted and found.dtype == VALUES.dtype


def test_there_may_be_no_values_at_all() -> None:
    assert values_at(np.zeros(0), np.array([0, -1]), 2.5).tolist() == [2.5, 2.5]


def test_the_values_stay_as_they_are() -> None:
    found = values_at(VALUES, np.array([0, 1, 2]), -1)
    found[:] = 0
    assert VALUES.tolist() == [3, 5, 7]
