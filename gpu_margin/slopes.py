"""Slopes of a requirement: what one more contract of a position would add to it.

A requirement is made of pieces in which positions offset freely: the row itself or its clusters, M,
and, where a cap on offsets binds, its product groups, G: (1 - c) sum G + c M. The slope of a piece
is the mean loss of a contract in the piece's tail. A piece that is floored at 0 has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models import Prepared
from gpu_margin.offsets import Offsets, taken
from gpu_margin.portfolio import Rows, add_up, entry_rows, regroup

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Where contributions miss the requirement by less, as a share of what they are added up from, they
# miss it by rounding: the same figures added up in another order.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Slopes:
    """`rate` [entry] per contract; `smoothing` [row] what smoothed rates leave unexplained."""

    rate: Floats
    smoothing: Floats


def slopes(prepared: Prepared, rows: Rows, requirement: Floats, smooth: bool) -> Slopes:
    """Slopes of the `requirement` [row] of rows of net positions on the host.

    With `smooth`, the slope of a value-at-risk follows the losses around its rank
    (`tails.euler_measure`). Where such slopes do not add up to the requirement, those of its one
    scenario are asked too: which pieces are in force is for the measure itself to say, and
    "smoothing" is what its slopes add up to less what the smoothed ones do.
    """
    pieces = _pieces(rows, prepared.offsets)
    rates = _rates(prepared, pieces, smooth)
    rate = _combined(pieces, rates, rates, requirement)
    unclear = _misses(pieces, rates, rate, requirement)
    if not smooth or not unclear.any():
        return Slopes(rate, np.zeros(len(rows)))
    exact = _rates(prepared, pieces, False)
    followed = _combined(pieces, rates, exact, requirement)
    plain = _combined(pieces, exact, exact, requirement)
    left_out = pieces.by_row(rows.value * plain) - pieces.by_row(rows.value * followed)
    chosen = unclear[pieces.owner]
    return Slopes(np.where(chosen, followed, rate), np.where(unclear, left_out, 0.0))


@dataclass(frozen=True)
class _Cut:
    """Rows cut into parts: `parts` has a row per part, with the entries `order` of the rows.

    `number` [entry of the rows] is the part that an entry is in.
    """

    parts: Rows
    order: Ints | None
    number: Ints

    def add_up(self, amount: Floats) -> Floats:
        """[part] sums of amounts [entry of the rows]."""
        return add_up(self.number, amount, len(self.parts))


@dataclass(frozen=True)
class _Pieces:
    """Rows cut into what offsets freely, and into groups where a cap may bind.

    Group i is in piece `piece[i]`; of what it may save its piece, the share `share` counts.
    """

    rows: Rows
    owner: Ints
    together: _Cut
    groups: _Cut | None
    piece: Ints
    share: float

    def by_row(self, amount: Floats) -> Floats:
        """[row] sums of amounts [entry]."""
        return add_up(self.owner, amount, len(self.rows))


# [entry] slopes of an entry's piece and, where there are groups, of its group.
_Rates = tuple[Floats, Floats | None]


def _pieces(rows: Rows, offsets: Offsets | None) -> _Pieces:
    owner = entry_rows(rows)
    if offsets is None or offsets.cluster is None:
        together = _Cut(rows, None, owner)
    else:
        together = _cut(rows, offsets.cluster)
    if offsets is None or offsets.share == 1.0:
        return _Pieces(rows, owner, together, None, np.zeros(0, dtype=np.int64), 1.0)
    groups = _cut(rows, offsets.group)
    # Of the first entry of each group; a group lies in one cluster.
    piece = np.zeros(len(groups.parts), dtype=np.int64)
    piece[groups.number] = together.number
    return _Pieces(rows, owner, together, groups, piece, offsets.share)


def _cut(rows: Rows, key: Ints) -> _Cut:
    """Rows cut by the key [instrument] of their positions."""
    parts = regroup(rows, key[rows.column])
    number = np.empty(len(rows.column), dtype=np.int64)
    number[parts.order] = np.repeat(np.arange(len(parts.owner)), np.diff(parts.offsets))
    return _Cut(taken(rows, parts), parts.order, number)


def _rates(prepared: Prepared, pieces: _Pieces, smooth: bool) -> _Rates:
    of_groups = None if pieces.groups is None else _rates_of(prepared, pieces.groups, smooth)
    return _rates_of(prepared, pieces.together, smooth), of_groups


def _rates_of(prepared: Prepared, cut: _Cut, smooth: bool) -> Floats:
    """[entry of the rows] slopes in the tail of the entry's part."""
    found = prepared.loss_rates(cut.parts, cut.parts, "instrument", smooth)
    if cut.order is None:
        return found
    rate = np.empty_like(found)
    rate[cut.order] = found
    return rate


def _combined(pieces: _Pieces, rates: _Rates, exact: _Rates, requirement: Floats) -> Floats:
    """[entry] slopes of the requirement; the pieces' `exact` slopes say which are in force."""
    value = pieces.rows.value
    base = np.maximum(pieces.together.add_up(value * exact[0]), 0.0)
    counts = (base > 0.0).astype(np.float64)
    if pieces.groups is None or rates[1] is None or exact[1] is None:
        rate = counts[pieces.together.number] * rates[0]
    else:
        of_group = np.maximum(pieces.groups.add_up(value * exact[1]), 0.0)
        binds = _binds(pieces, base, of_group)
        counts = np.where(binds, pieces.share, 1.0) * counts
        counts_alone = np.where(binds[pieces.piece] & (of_group > 0.0), 1.0 - pieces.share, 0.0)
        rate = (
            counts[pieces.together.number] * rates[0]
            + counts_alone[pieces.groups.number] * rates[1]
        )
    return np.where((requirement > 0.0)[pieces.owner], rate, 0.0)


def _binds(pieces: _Pieces, base: Floats, of_group: Floats) -> NDArray[np.bool_]:
    """[piece] whether the cap makes it require more than its positions together."""
    total = add_up(pieces.piece, of_group, len(base))
    several = np.bincount(pieces.piece, minlength=len(base)) > 1
    capped = (1.0 - pieces.share) * total + pieces.share * base
    return several & (capped > base)


def _misses(pieces: _Pieces, rates: _Rates, rate: Floats, requirement: Floats) -> NDArray[np.bool_]:
    """[row] whether contributions miss the requirement by more than rounding."""
    value = pieces.rows.value
    missing = np.abs(requirement - pieces.by_row(value * rate))
    size = sum(pieces.by_row(np.abs(value * each)) for each in rates if each is not None)
    return missing > _ROUNDING * size
