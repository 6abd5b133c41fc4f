"""What marks do: which contracts they settle, and the market that they make.

Futures and perpetuals are settled at their marks: a fill settles quantity x multiplier x (mark -
price), and a new mark quantity x multiplier x (new - old) for whoever holds the instrument, so that
a position is worth nothing beyond its cash, and a round trip earns what it was sold for less what
it was bought for. Other instruments were paid for, and their marks move no cash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpu_margin.io.rules import LARGEST, SMALLEST
from gpu_margin.market import Market
from gpu_margin.tracking.ledger import Ledger
from gpu_margin.tracking.marks import Step
from gpu_margin.tracking.state import State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# [set] places of cash by asset, -1 where none is paid.
Accounts = dict[int, Ints]
# Netting sets and places of positions, part by part.
Held = list[tuple[Ints, Ints]]


@dataclass(frozen=True)
class Remarked:
    """A market at other marks; `moved` [instrument] what they are of, or is valued by them.

    `forward` [instrument] are options with a forward of their own, as in `State`.
    """

    market: Market
    moved: Bools
    forward: Bools


def segments(state: State, steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps, cut behind any that may make an instrument valid: then everything is other."""
    part: list[Step] = []
    for step in steps:
        part.append(step)
        if _is_new(state, step):
            yield part
            part = []
    if part:
        yield part


def remarked(state: State, steps: Sequence[Step]) -> Remarked | None:
    """The state's market after the steps: that of its tables at the marks, to the bit.

    None where an instrument may have become valid: the tables must be asked.
    """
    if any(_is_new(state, step) for step in steps):
        return None
    market = state.loaded.market
    own = market.instruments
    level, volatility, forward = own.level.copy(), own.volatility.copy(), state.forward.copy()
    moved, lasts = np.zeros(len(own), dtype=np.bool_), {}
    for (instrument, factor, field), (value, _) in ((step.key, step.mark) for step in steps):
        if instrument is None:
            lasts[state.factors.get(factor or "", -1)] = value
            continue
        code = state.contracts.codes[instrument]
        moved[code] = True
        forward[code] |= field == "forward"
        (volatility if field == "implied_vol" else level)[code] = value
    lasts.pop(-1, None)
    if lasts:
        last = np.full(len(state.factors), np.nan)
        last[list(lasts)] = list(lasts.values())
        follows = own.option & ~forward & ~np.isnan(last[own.factor])
        level = np.where(follows, last[own.factor], level)
        moved |= follows
    instruments = replace(own, level=level, volatility=volatility)
    return Remarked(replace(market, instruments=instruments), moved, forward)


def settle(state: State, cash: Ledger, steps: Sequence[Step]) -> list[Step]:
    """Pay what the steps settle into `cash`, a copy of the state's holdings; those refused.

    A step that leads out of range is refused. Amounts are added in sequence.
    """
    codes = [code for code in (_settled(state, step) for step in steps) if code >= 0]
    if not codes:
        return []
    marked = np.zeros(len(state.loaded.market.instruments), dtype=np.bool_)
    marked[codes] = True
    held = list(state.positions.entries_in(marked))
    accounts = _accounts(state, cash, held)
    once = int(marked.sum()) == len(codes)
    if once and _in_one_go(state, cash, accounts, held, steps):
        return []
    holders = _Holders(state, accounts, held)
    return [] if _in_sequence(cash, holders, steps) else _one_by_one(cash, holders, steps)


def _in_one_go(
    state: State, cash: Ledger, accounts: Accounts, held: Held, steps: Sequence[Step]
) -> bool:
    """Pay for moves of different instruments; False, and nothing paid, if one may be refused."""
    own, contracts = state.loaded.market.instruments, state.contracts
    rank, by = np.full(len(own), -1, dtype=np.int64), np.zeros(len(own))
    for number, step in enumerate(steps):
        code = _settled(state, step)
        if code >= 0:
            rank[code], by[code] = number, step.mark[0] - own.level[code]
    in_order = bool((np.diff(rank[rank >= 0]) > 0).all())
    before = cash.value.copy()
    for sets, place in held:
        column = state.positions.column[place]
        if not in_order:
            order = np.lexsort((rank[column], sets))
            sets, place, column = sets[order], place[order], column[order]
        amount = state.positions.value[place] * contracts.unit[column] * by[column]
        account = _paid(accounts, sets, contracts.asset[column])
        most = np.abs(cash.value[account]).max(initial=0.0) + np.abs(amount).sum()
        if not most <= LARGEST:
            cash.value[:] = before
            return False
        np.add.at(cash.value, account, amount)
        _tidy(cash, account)
    return True


def _in_sequence(cash: Ledger, holders: _Holders, steps: Sequence[Step]) -> bool:
    """Pay for one step after another; False, and nothing paid, if one may be refused."""
    moves = [holders.moved(step) for step in steps]
    moves = [move for move in moves if move[0] >= 0]
    account, amount = holders.payments([code for code, _ in moves], [by for _, by in moves])
    most = np.abs(cash.value)
    np.add.at(most, account, np.abs(amount))
    if (most[account] > LARGEST).any():
        holders.level = {}
        return False
    np.add.at(cash.value, account, amount)
    _tidy(cash, account)
    return True


def _one_by_one(cash: Ledger, holders: _Holders, steps: Sequence[Step]) -> list[Step]:
    """As `settle`, where not all of the steps are known to stay within range."""
    refused = []
    for step in steps:
        before = dict(holders.level)
        code, by = holders.moved(step)
        account, amount = holders.payments([code] if code >= 0 else [], [by])
        after = cash.value[account] + amount
        if (np.abs(after) > LARGEST).any():
            refused.append(step)
            holders.level = before
        else:
            cash.value[account] = np.where(np.abs(after) < SMALLEST, 0.0, after)
    return refused


def _tidy(cash: Ledger, account: Ints) -> None:
    """What is next to nothing is nothing."""
    touched = cash.value[account]
    cash.value[account] = np.where(np.abs(touched) < SMALLEST, 0.0, touched)


def _accounts(state: State, cash: Ledger, held: Held) -> Accounts:
    """Where the cash of all stands who hold what is marked; entries of 0 where there was none."""
    needed: dict[int, Bools] = {}
    for sets, place in held:
        asset = state.contracts.asset[state.positions.column[place]]
        for one in np.flatnonzero(np.bincount(asset)).tolist():
            flags = needed.setdefault(one, np.zeros(len(cash), dtype=np.bool_))
            flags[sets[asset == one]] = True
    asked = [(one, np.flatnonzero(flags)) for one, flags in needed.items()]
    for one, own in asked:
        cash.places(own, np.full(len(own), one, dtype=np.int64))
    found = {}
    for one, own in asked:  # only now does no place move any more
        found[one] = np.full(len(cash), -1, dtype=np.int64)
        found[one][own] = cash.places(own, np.full(len(own), one, dtype=np.int64))
    return found


def _paid(accounts: Accounts, sets: Ints, asset: Ints) -> Ints:
    """[payment] places of the cash of sets in assets."""
    found = np.empty(len(sets), dtype=np.int64)
    for one in np.flatnonzero(np.bincount(asset)).tolist():
        mine = asset == one
        found[mine] = accounts[one][sets[mine]]
    return found


class _Holders:
    """Who holds the instruments that are marked; `level` are their marks as steps go by."""

    def __init__(self, state: State, accounts: Accounts, parts: Held) -> None:
        self._state, self.level = state, dict[int, float]()
        none = np.zeros(0, dtype=np.int64)
        sets, place = (np.concatenate([none, *(part[n] for part in parts)]) for n in (0, 1))
        column = state.positions.column[place]
        order = np.argsort(column, kind="stable")
        sets, self._column, self._quantity = (
            sets[order],
            column[order],
            state.positions.value[place[order]],
        )
        self._account = _paid(accounts, sets, state.contracts.asset[self._column])

    def moved(self, step: Step) -> tuple[int, float]:
        """The instrument of a step that settles, -1 of another, and by how much it moves."""
        code = _settled(self._state, step)
        if code < 0:
            return code, 0.0
        before = self.level.get(code, float(self._state.loaded.market.instruments.level[code]))
        self.level[code] = step.mark[0]
        return code, step.mark[0] - before

    def payments(self, codes: list[int], moves: list[float]) -> tuple[Ints, Floats]:
        """[payment] places of cash and amounts, one instrument that moved after another."""
        code, by = np.array(codes, dtype=np.int64), np.array(moves[: len(codes)])
        first, last = (np.searchsorted(self._column, code, side) for side in ("left", "right"))
        size = last - first
        entry = np.arange(size.sum()) + np.repeat(first - np.cumsum(size) + size, size)
        worth = self._quantity[entry] * self._state.contracts.unit[self._column[entry]]
        return self._account[entry], worth * np.repeat(by, size)


def _settled(state: State, step: Step) -> int:
    """The instrument of a mark that moves cash, else -1."""
    code = state.contracts.codes.get(step.key[0] or "", -1)
    return code if code >= 0 and state.contracts.settled[code] else -1


def _is_new(state: State, step: Step) -> bool:
    """Whether the mark is of an instrument that was not valid."""
    return step.key[0] is not None and step.key[0] not in state.contracts.codes
