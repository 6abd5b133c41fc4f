"""Fills into a state: what each does to cash, and which netting sets they open."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import Failure, failure_table
from gpu_margin.io.rules import LARGEST
from gpu_margin.tracking.batches import NO_FAILURES, Fills, joined
from gpu_margin.tracking.booking import Bookings, book
from gpu_margin.tracking.state import State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_REASON = f"position or cash would be out of range: more than {LARGEST:g}"


def book_fills(state: State, fills: Fills) -> tuple[Bools, Ints, pl.DataFrame]:
    """Book fills: whether each was, their netting sets, and the failures of those that were not."""
    change = cash_change(state, fills)
    fine = np.abs(change) <= LARGEST
    if not fine.all():
        kept = np.flatnonzero(fine)
        booked = np.zeros(len(fine), dtype=np.bool_)
        booked[kept], sets, failures = book_fills(state, fills.chosen(kept))
        return booked, sets, joined(failures, _refused(fills, ~fine))
    sets = state.members.find(fills.accounts, fills.names)
    if (sets < 0).any():
        state.open(fills.accounts, fills.names or fills.accounts)
        sets = state.members.find(fills.accounts, fills.names)
    bookings = Bookings(
        owner=sets,
        position=state.positions.places(sets, fills.instrument),
        quantity=fills.quantity,
        cash=state.holdings.places(sets, state.contracts.asset[fills.instrument]),
        change=change,
    )
    booked = book(state.positions, state.holdings, bookings)
    state.listed[sets[booked]] = state.good[sets[booked]] = True
    return booked, sets, NO_FAILURES if booked.all() else _refused(fills, ~booked)


def cash_change(state: State, fills: Fills) -> Floats:
    """[fill] what it does to cash, in units of the instrument's cash asset.

    -fee, and for futures and perpetuals quantity x multiplier x (mark - price), for what is paid
    for -quantity x multiplier x price.
    """
    contracts, code = state.contracts, fills.instrument
    size = fills.quantity * contracts.unit[code]
    mark = state.loaded.market.instruments.level[code]
    settled = size * (mark - fills.price)
    paid = -(size * fills.price)
    fee = fills.fee * contracts.rate[code]
    return np.where(contracts.settled[code], settled, paid) - fee


def out_of_range(
    source: str, rows: Iterable[int], field: str, values: Iterable[float]
) -> pl.DataFrame:
    """Failures of rows that would lead out of range."""
    return failure_table(
        Failure(_REASON, source, row, field, str(value))
        for row, value in zip(rows, values, strict=True)
    )


def _refused(fills: Fills, which: Bools) -> pl.DataFrame:
    quantity = fills.quantity[which].tolist()
    return out_of_range("fills", fills.row[which].tolist(), "quantity", quantity)
