"""Where work is cut that does not fit into memory at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def full_pieces(filled: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Start and stop of pieces, one at least: as much as fits, or one item that does not.

    `filled` [item] is what there is up to and with each item, in units of a full piece.
    """
    start, count = 0, len(filled)
    while start < count or start == 0:
        before = filled[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(filled, before + 1.0, "right")))
        yield start, min(stop, count)
        start = stop
