"""Which rows are margined together: one calculation per portfolio, side and regulation.

A portfolio whose rows name no regulation on either side is one calculation, for both. Elsewhere
there is one for each regulation that a side's rows name: a row counts under each of its own, and
not at all where it names none. A side that names none while the other does has no calculation, and
a margin of 0. Where a side has SEC rows its CFTC rows count under SEC, too, and under CFTC as ever.
Two sides with the same rows under a regulation share one calculation.

A side's margin is the largest of its calculations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.crif import Bools, Codes, Crif, Floats, Small
from gpu_margin.models.simm.kinds import SIDES

# Bits of a mask of sides, in order of `SIDES`.
CALL, POST, BOTH = 1, 2, 3

SEC, CFTC = "SEC", "CFTC"
# A regulation of its own, and the one whose margin need not be segregated; in any capitals.
UNSEGREGATED = "SEC-UNSEG"

NONE = -1

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Calculations:
    """The calculations, in order of portfolio, regulation (none first) and side, and their rows.

    [calculation] `portfolio`; `sides`, the sum of `CALL` and `POST`; `regulation`, a place in
    `names` (in byte order), or `NONE`. Every portfolio is in at least one.

    [entry] `row` and `calculation`: a row of the CRIF counts in a calculation; in order of row,
    then of calculation. `row` is None where every row counts once, in order: then there is one
    calculation per portfolio, of the same code, and `calculation` is the CRIF's own array.
    """

    names: tuple[str, ...]
    portfolio: Codes
    sides: Small
    regulation: Codes
    row: Codes | None
    calculation: Codes

    def __len__(self) -> int:
        return len(self.portfolio)

    def rows(self) -> Codes:
        """[entry] rows of the CRIF."""
        return np.arange(len(self.calculation), dtype=np.int32) if self.row is None else self.row


@dataclass(frozen=True)
class Winners:
    """[portfolio, side] codes of calculations: the one with the largest total, and for SEC apart.

    `unsegregated` is that of `UNSEGREGATED`, `segregated` the largest of the others; -1 where there
    is none, as on a side that names no regulation while the other does. Sides in order of `SIDES`.
    """

    total: Codes
    segregated: Codes
    unsegregated: Codes


def calculations(crif: Crif) -> Calculations:
    """The calculations of all portfolios."""
    if not (crif.collect.any() or crif.post.any()):
        return _one_each(crif)
    names = tuple(sorted({name for named in crif.regulations for name in named}))
    count = len(crif.portfolios)
    first = _effective(crif, crif.collect, count, names)
    second = _effective(crif, crif.post, count, names)
    row, regulation, sides = _expanded(crif, names, first, second)
    # [portfolio, regulation] as one number; regulation 0 is none.
    key = crif.portfolio[row].astype(np.int64) * (len(names) + 1) + regulation
    return _split(crif, names, row, key, sides)


def winners(calculations: Calculations, totals: Floats) -> Winners:
    """The winning calculations; `totals` [calculation, side] are finite.

    Of equal totals the regulation that is first in byte order wins, and the calculation of no
    regulation is the only one of its portfolio.
    """
    # The last is that of no regulation, which -1 takes.
    unsegregated = [name.upper() == UNSEGREGATED for name in (*calculations.names, "")]
    alone = np.array(unsegregated)[calculations.regulation]
    return Winners(
        total=_largest(calculations, totals, np.ones(len(calculations), dtype=np.bool_)),
        segregated=_largest(calculations, totals, ~alone),
        unsegregated=_largest(calculations, totals, alone),
    )


def figures(totals: Floats, winning: Codes) -> Floats:
    """[portfolio, side] of `totals` [calculation, side]; 0 where no calculation is winning."""
    padded = np.concatenate([totals, np.zeros((1, len(SIDES)))])
    return np.stack([padded[winning[:, side], side] for side in range(len(SIDES))], axis=1)


def named_by_itself(crif: Crif, calculations: Calculations, entries: Ints) -> Bools:
    """[of entries] whether the row names the calculation's regulation, or the latter has none.

    False where a row counts under SEC by its CFTC alone.
    """
    row, calculation = calculations.rows()[entries], calculations.calculation[entries]
    # The last column is that of no regulation, which -1 takes.
    member = np.ones((len(crif.regulations), len(calculations.names) + 1), dtype=np.bool_)
    for place, name in enumerate(calculations.names):
        member[:, place] = [name in named for named in crif.regulations]
    regulation, sides = calculations.regulation[calculation], calculations.sides[calculation]
    called = ((sides & CALL) > 0) & member[crif.collect[row], regulation]
    posted = ((sides & POST) > 0) & member[crif.post[row], regulation]
    return called | posted


def _one_each(crif: Crif) -> Calculations:
    count = len(crif.portfolios)
    return Calculations(
        names=(),
        portfolio=np.arange(count, dtype=np.int32),
        sides=np.full(count, BOTH, dtype=np.int8),
        regulation=np.full(count, NONE, dtype=np.int32),
        row=None,
        calculation=crif.portfolio,
    )


def _effective(crif: Crif, named: Codes, count: int, names: tuple[str, ...]) -> Ints:
    """[row] place in `_memberships`: the set named, plain or with SEC for CFTC.

    That of no regulation, the last, where neither side of the portfolio names any.
    """
    sets = len(crif.regulations)
    any_named = np.zeros(count, dtype=np.bool_)
    any_named[crif.portfolio[(crif.collect > 0) | (crif.post > 0)]] = True
    joins = np.zeros(count, dtype=np.bool_)
    if SEC in names:
        has = np.array([SEC in one for one in crif.regulations])
        joins[crif.portfolio[has[named]]] = True
    place = named + np.where(joins, sets, 0)[crif.portfolio]
    return np.where(any_named[crif.portfolio], place, 2 * sets)


def _memberships(crif: Crif, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    """1 + places in `names` of each set, of each with SEC for CFTC, and 0 for no regulation."""
    place = {name: code + 1 for code, name in enumerate(names)}
    plain = [tuple(place[name] for name in named) for named in crif.regulations]
    joined = [
        (*codes, place[SEC]) if CFTC in named and SEC in place else codes
        for codes, named in zip(plain, crif.regulations, strict=True)
    ]
    return [*plain, *joined, (0,)]


def _expanded(
    crif: Crif, names: tuple[str, ...], first: Ints, second: Ints
) -> tuple[Ints, Ints, Small]:
    """[entry] row, regulation (0 none) and sides under it, in order of row, then regulation."""
    members = _memberships(crif, names)
    pairs, pair = np.unique(first * len(members) + second, return_inverse=True)
    offsets, regulations, sides = [0], list[int](), list[int]()
    for one in pairs.tolist():
        called, posted = (set(members[side]) for side in divmod(one, len(members)))
        either = sorted(called | posted)
        regulations += either
        sides += [CALL * (name in called) + POST * (name in posted) for name in either]
        offsets.append(len(regulations))
    start, length = np.array(offsets[:-1], dtype=np.int64)[pair], np.diff(offsets)[pair]
    row = np.repeat(np.arange(len(pair)), length)
    place = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    entry = np.repeat(start, length) + place
    regulation = np.array(regulations, dtype=np.int64)[entry]
    return row, regulation, np.array(sides, dtype=np.int8)[entry]


def _split(crif: Crif, names: tuple[str, ...], row: Ints, key: Ints, sides: Small) -> Calculations:
    """Calculations of [portfolio, regulation]: one for both sides where their rows are the same."""
    width = len(names) + 1
    called, posted, unlike = (np.zeros(len(crif.portfolios) * width, bool) for _ in range(3))
    called[key[(sides & CALL) > 0]] = True
    posted[key[(sides & POST) > 0]] = True
    unlike[key[sides != BOTH]] = True
    # A portfolio may have lost all its rows: it is a calculation of nothing.
    empty = np.bincount(crif.portfolio, minlength=len(crif.portfolios)) == 0
    called[::width] |= empty
    posted[::width] |= empty
    shared = called & posted & ~unlike
    # [key, place]: what is for both sides, or for Call, comes first.
    found = np.stack([called, posted & ~shared], axis=1)
    code = (np.cumsum(found.ravel()) - 1).reshape(found.shape)
    where, slot = np.nonzero(found)
    wanted = np.stack([(sides & CALL) > 0, ((sides & POST) > 0) & ~shared[key]], axis=1)
    entry, side = np.nonzero(wanted)
    return Calculations(
        names=names,
        portfolio=(where // width).astype(np.int32),
        sides=np.where(shared[where], BOTH, slot + 1).astype(np.int8),
        regulation=(where % width - 1).astype(np.int32),
        row=row[entry].astype(np.int32),
        calculation=code[key[entry], side].astype(np.int32),
    )


def _largest(calculations: Calculations, totals: Floats, among: Bools) -> Codes:
    """[portfolio, side] the first of the calculations `among` with the largest total, or -1."""
    count = int(calculations.portfolio[-1]) + 1 if len(calculations) else 0
    winning = np.full((count, len(SIDES)), -1, dtype=np.int32)
    for side, bit in enumerate((CALL, POST)):
        chosen = np.flatnonzero(among & ((calculations.sides & bit) > 0))
        if len(chosen):
            portfolio, total = calculations.portfolio[chosen], totals[chosen, side]
            fresh = np.append(True, portfolio[1:] != portfolio[:-1])
            best = np.maximum.reduceat(total, np.flatnonzero(fresh))[np.cumsum(fresh) - 1]
            hits = np.flatnonzero(total == best)
            # Backwards, so that the first of equals is written last.
            winning[portfolio[hits][::-1], side] = chosen[hits][::-1]
    return winning
