"""Which way the worst loss of each underlying points, and how that adds to the rest of a row.

A loss that comes without a price move, or as much from one direction as from the other, has no
direction of its own. It is given the one that adds to what the others make of it, so that it never
offsets anything.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Padded entries of rows that are held at a time.
_ENTRIES = 1 << 16


def directions(still: Floats, falling: Floats, rising: Floats, two_sided: float) -> Floats:
    """[entry] -1, 1, or 0 for none, from the worst loss of cells of each direction.

    A loss has the direction of the price that causes it. It has none where it is as large without
    a move of the price, or where the other direction loses `two_sided` of it or more.
    """
    worst = np.maximum(still, np.maximum(falling, rising))
    other = np.minimum(falling, rising)
    clear = (worst > still) & (other < two_sided * worst)
    return np.where(clear, np.where(falling > rising, -1.0, 1.0), 0.0)


def resolved(sign: Floats, loss: Floats, offsets: Ints, column: Ints, base: Floats) -> Floats:
    """[entry] the signs, -1 or 1: those that are 0 chosen so that they add to their row.

    Entries are those of rows of underlyings: `offsets` [row + 1], `column` [entry], `loss` [entry]
    at least 0. In order of underlying, one without direction gets the sign of sum over the others
    with one of base[u, v] m_v, 1 where that is 0.
    """
    found = np.where(sign == 0.0, 1.0, sign)
    size = np.diff(offsets)
    owner = np.repeat(np.arange(len(size)), size)
    rows = np.unique(owner[(sign == 0.0) & (loss > 0.0)])
    rows = rows[size[rows] > 1]
    # Rows of one length together: what shares a block changes no bit.
    for length in np.unique(size[rows]).tolist():
        alike = rows[size[rows] == length]
        step = max(1, _ENTRIES // length)
        for start in range(0, len(alike), step):
            entry = offsets[alike[start : start + step], None] + np.arange(length)
            found[entry] = _resolved(sign[entry], loss[entry], column[entry], base)
    return found


def _resolved(sign: Floats, loss: Floats, column: Ints, base: Floats) -> Floats:
    """[row, place] the signs of rows of one length."""
    signed, found = sign * loss, sign.copy()
    for place in range(sign.shape[1]):
        open_ones = sign[:, place] == 0.0
        if not open_ones.any():
            continue
        total = np.zeros(len(sign))
        for other in range(sign.shape[1]):
            total = total + base[column[:, place], column[:, other]] * signed[:, other]
        # What it is itself is 0 so far, and so are the others without direction that come later.
        chosen = np.where(total < 0.0, -1.0, 1.0)
        found[:, place] = np.where(open_ones, chosen, found[:, place])
        signed[:, place] = np.where(open_ones, chosen * loss[:, place], signed[:, place])
    return found
