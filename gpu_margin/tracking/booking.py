"""Fills into ledgers: one after another per netting set, all sets at once.

What is done to a netting set depends on nothing but the order of its own fills, so that it does not
matter how fills are cut into batches, to no bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpu_margin.io.rules import LARGEST, SMALLEST
from gpu_margin.tracking.ledger import Ledger

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# What is left of fills is zero where it is no more than rounding, as in `Portfolio.netted`.
_ROUNDING = 4 * float(np.finfo(np.float64).eps)
# Fills of one netting set that are booked together with those of others; the rest one by one.
_TURNS = 6


@dataclass(frozen=True)
class Bookings:
    """What fills do, [fill]: a position changes by `quantity`, an amount of cash by `change`.

    `owner` is the netting set; `position` and `cash` are places in the two ledgers.
    """

    owner: Ints
    position: Ints
    quantity: Floats
    cash: Ints
    change: Floats


def book(positions: Ledger, cash: Ledger, fills: Bookings) -> Bools:
    """Book fills, [fill] whether each was; one that would lead out of range changes nothing.

    A position that is no more than the rounding of what it was added up from is closed: exactly 0.
    The ledger's `size` is what was added up since it was last closed.
    """
    booked = np.ones(len(fills.owner), dtype=np.bool_)
    turn = turns(fills.owner)
    for number in range(min(int(turn.max(initial=-1)) + 1, _TURNS)):
        chosen = np.flatnonzero(turn == number)
        booked[chosen] = _book_together(positions, cash, fills, chosen)
    for one in np.flatnonzero(turn >= _TURNS).tolist():
        booked[one] = _book_one(positions, cash, fills, one)
    return booked


def put(ledger: Ledger, place: Ints, amount: Floats) -> Bools:
    """Add amounts at places, in sequence; [amount] whether it was, out of range it is not."""
    added = np.ones(len(place), dtype=np.bool_)
    for one, (where, more) in enumerate(zip(place.tolist(), amount.tolist(), strict=True)):
        total = float(ledger.value[where]) + more
        added[one] = abs(total) <= LARGEST
        if added[one]:
            ledger.value[where] = 0.0 if abs(total) < SMALLEST else total
    return added


def turns(owner: Ints) -> Ints:
    """[entry] how many entries of the same owner stand before it."""
    order = np.argsort(owner, kind="stable")
    ordered = owner[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    place = np.arange(len(order))
    found = np.empty(len(order), dtype=np.int64)
    found[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    return found


def _book_together(positions: Ledger, cash: Ledger, fills: Bookings, chosen: Ints) -> Bools:
    """Fills of different netting sets."""
    place, account = fills.position[chosen], fills.cash[chosen]
    change = fills.quantity[chosen]
    quantity = positions.value[place] + change
    size = positions.size[place] + np.abs(change)
    left = np.abs(quantity)
    closed = (left <= _ROUNDING * size) | (left < SMALLEST)
    amount = cash.value[account] + fills.change[chosen]
    fine = (left <= LARGEST) & (np.abs(amount) <= LARGEST)
    place, account = place[fine], account[fine]
    positions.value[place] = np.where(closed, 0.0, quantity)[fine]
    positions.size[place] = np.where(closed, 0.0, size)[fine]
    cash.value[account] = np.where(np.abs(amount) < SMALLEST, 0.0, amount)[fine]
    return fine


def _book_one(positions: Ledger, cash: Ledger, fills: Bookings, one: int) -> bool:
    """One fill, as `_book_together` does it."""
    place, account = fills.position[one], fills.cash[one]
    change = float(fills.quantity[one])
    quantity = float(positions.value[place]) + change
    size = float(positions.size[place]) + abs(change)
    amount = float(cash.value[account]) + float(fills.change[one])
    if abs(quantity) > LARGEST or abs(amount) > LARGEST:
        return False
    closed = abs(quantity) <= _ROUNDING * size or abs(quantity) < SMALLEST
    positions.value[place] = 0.0 if closed else quantity
    positions.size[place] = 0.0 if closed else size
    cash.value[account] = 0.0 if abs(amount) < SMALLEST else amount
    return True
