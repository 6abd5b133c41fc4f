"""Which positions a requirement comes from: allocations that add up to it.

Euler contributions are quantity times the slope of the requirement: for a requirement that doubles
when all positions double they add up to it. Of a measure of a tail the slope is the mean loss of
one unit in the tail's scenarios, of z sqrt(x'Cx) it is z (Cx) / sqrt(x'Cx). Where a cap on offsets
binds, (1 - c) sum G + c M, it is that sum of the slopes of the group alone and of all together; a
requirement that is floored at 0 has none. What parts do not account for stands in residuals.
Source: D. Tasche, Capital allocation to business units and sub-portfolios: the Euler principle
(2008), arXiv:0708.2542.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.models import Prepared
from gpu_margin.portfolio import Portfolio, Rows, add_up, entry_rows
from gpu_margin.slopes import slopes
from gpu_margin.subsets import parts_of, require_subsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Allocation:
    """What parts of rows (netting sets, accounts) account for of the rows' requirements.

    `amount` [share] is that of part `part` of row `owner`, ordered by row and part; `residuals`
    name what no part accounts for, [row] each: "smoothing" of a value-at-risk, "interaction" of
    incremental amounts, and always "rounding". A row's amounts, added up in their order, and then
    its residuals in theirs are its `requirement` [row]. `error` [share] is the standard error of
    an amount that was sampled, None where none was.
    """

    method: str
    requirement: Floats
    owner: Ints
    part: Ints
    amount: Floats
    residuals: Mapping[str, Floats]
    error: Floats | None = None


def allocated(
    method: str,
    requirement: Floats,
    owner: Ints,
    part: Ints,
    amount: Floats,
    residuals: Mapping[str, Floats] | None = None,
    error: Floats | None = None,
) -> Allocation:
    """An allocation, with "rounding" what is still missing to the requirement."""
    known = dict(residuals or {})
    total = add_up(owner, amount, len(requirement))
    for residual in known.values():
        total = total + residual
    known["rounding"] = requirement - total
    return Allocation(method, requirement, owner, part, amount, known, error)


def contributions(
    prepared: Prepared,
    portfolio: Portfolio,
    requirement: Floats | None = None,
    smooth: bool = True,
) -> Allocation:
    """Euler contributions of all net positions: `euler` of the netting sets, in their order.

    `requirement` [set] as in `euler`. The amounts stand in the order of `portfolio.netted`.
    """
    return euler(prepared, portfolio.netted, requirement, smooth)


def euler(
    prepared: Prepared, rows: Rows, requirement: Floats | None = None, smooth: bool = True
) -> Allocation:
    """Euler contributions of net positions [entry] to what their rows require, in margin currency.

    `rows` are on the host; parts are instruments. `requirement` [row] is what `prepared.require`
    says of them, which is asked for where it is not given. With `smooth`, the contributions to a
    value-at-risk follow the losses around its rank (`tails.euler_measure`), and "smoothing" is what
    the requirement has more than they add up to; without, they follow its one scenario.
    """
    if requirement is None:
        requirement = prepared.require(rows).amount
    found = slopes(prepared, rows, requirement, smooth)
    return allocated(
        "euler",
        requirement,
        entry_rows(rows),
        rows.column,
        rows.value * found.rate,
        {"smoothing": found.smoothing},
    )


def marginal(prepared: Prepared, rows: Rows, smooth: bool = True) -> Floats:
    """[entry] what one more contract of each position would add to its row's requirement.

    The slope: exact for a small change. `rows` are net positions on the host.
    """
    return slopes(prepared, rows, prepared.require(rows).amount, smooth).rate


def incremental(prepared: Prepared, rows: Rows, part: Ints) -> Allocation:
    """What each part of each row adds to the others: the requirement less that without the part.

    `rows` are net positions on the host, `part` [entry] codes of their parts. Such amounts do not
    add up by themselves: "interaction" is what the requirement has more.
    """
    parts = parts_of(rows, part)
    owner = np.repeat(np.arange(len(rows)), parts.count)
    left_out = np.arange(len(owner)) - parts.offsets[owner]
    without = require_subsets(
        prepared, parts, owner, lambda subset, local: left_out[subset] != local
    )
    requirement = prepared.require(rows).amount
    amount = requirement[owner] - without
    interaction = requirement - add_up(owner, amount, len(rows))
    return allocated(
        "incremental", requirement, owner, parts.code, amount, {"interaction": interaction}
    )


def rolled_up(
    allocation: Allocation, key: Ints, owner: Ints, owners: int, among: Bools | None = None
) -> Allocation:
    """Amounts added up by coarser parts `key` [share] of coarser rows `owner` [row].

    Contributions to netting sets become those to accounts, of instruments those of groups or of
    sub-accounts. Rows that are not `among` [row] are left out. Standard errors are added too: an
    upper bound, for samples of several rows are drawn together.
    """
    rows = np.ones(len(owner), dtype=np.bool_) if among is None else among
    chosen = np.flatnonzero(rows[allocation.owner])
    place, own, part = _pairs(owner[allocation.owner[chosen]], key[chosen])

    def by_owner(amounts: Floats) -> Floats:
        return add_up(owner[rows], amounts[rows], owners)

    residuals = {
        reason: by_owner(amounts)
        for reason, amounts in allocation.residuals.items()
        if reason != "rounding"
    }
    error = allocation.error
    return allocated(
        allocation.method,
        by_owner(allocation.requirement),
        own,
        part,
        add_up(place, allocation.amount[chosen], len(own)),
        residuals,
        None if error is None else add_up(place, error[chosen], len(own)),
    )


def _pairs(owner: Ints, key: Ints) -> tuple[Ints, Ints, Ints]:
    """[share] place among the pairs (owner, key) in ascending order; [pair] their two numbers."""
    width = int(key.max(initial=0)) + 1
    both = owner * width + key
    if np.all(both[1:] > both[:-1]):  # as they stand already
        return np.arange(len(both)), owner, key
    pair, place = np.unique(both, return_inverse=True)
    return place, pair // width, pair % width
