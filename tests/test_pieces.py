"""Pieces of work: all of it, in order, and no piece fuller than full but for one item too large."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_margin.pieces import full_pieces


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ([], [(0, 0)]),
        ([0.5], [(0, 1)]),
        ([7.0], [(0, 1)]),
        ([0.5, 0.5, 0.5], [(0, 2), (2, 3)]),
        ([0.25, 3.0, 0.25, 0.75, 0.5], [(0, 1), (1, 2), (2, 4), (4, 5)]),
        ([0.0, 0.0, 0.0], [(0, 3)]),
    ],
)
def test_pieces(sizes: list[float], wanted: list[tuple[int, int]]) -> None:
    assert list(full_pieces(np.cumsum(sizes))) == wanted
