"""What accounts may come to hold through spreads by scanning, before anything is formed."""

from __future__ import annotations

import numpy as np

from gpu_margin.models.span.inter_candidates import enough, legs_of
from gpu_margin.models.span.ranges import spread_out
from gpu_margin.models.span.state import Bools, Ints
from gpu_margin.span_file import SpanFile
from gpu_margin.span_tables import BY_SCANNING


def month_codes(file: SpanFile) -> Ints:
    """[slot] a number of its month: equal months have equal ones, and they ascend as months do."""
    return file.slots.month.rank("dense").to_numpy().astype(np.int64) - 1


def room(file: SpanFile, account: Ints, slot: Ints) -> tuple[Ints, Ints] | None:
    """(account, slot) that spreads by scanning may move months into; None where there are none.

    `account` and `slot` are the months that accounts hold, also repeatedly and in any order. What
    one spread makes may be a leg of the next. More may be said than comes to be: which spreads are
    formed depends on those before them.
    """
    inter, slots = file.inter, max(len(file.slots.month), 1)
    spreads = np.flatnonzero(inter.method == BY_SCANNING)
    usable = np.zeros(len(file.commodities.codes), dtype=np.bool_)
    usable[inter.leg_commodity[legs_of(inter, spreads)[1]]] = True
    mine = usable[file.slots.commodity[slot]]
    held = _distinct(account[mine] * slots + slot[mine])
    months = month_codes(file)
    known, changed = held, held
    while len(changed):
        moved = _moved(file, months, changed, spreads)
        more = moved[~_among(known, moved)]
        known = np.sort(np.concatenate([known, more]))
        # Only accounts that may have more than before may form more than before.
        again = np.zeros(int(known.max(initial=0)) // slots + 1, dtype=np.bool_)
        again[more // slots] = True
        changed = known[again[known // slots]]
    found = known[~_among(held, known)]
    return (found // slots, found % slots) if len(found) else None


def _moved(file: SpanFile, months: Ints, known: Ints, spreads: Ints) -> Ints:
    """Keys (account x slots + slot) that months of legs may be moved to, ascending.

    `known` are the keys of what accounts may have, ascending; `months` the `month_codes`.
    """
    inter, slots, count = file.inter, len(file.slots.month), len(file.commodities.codes)
    account = known // slots
    pairs = account * count + file.slots.commodity[known - account * slots]
    pairs = pairs[_changes(pairs)]
    holder = pairs // count
    account, spread = enough(inter, holder, pairs - holder * count, spreads)
    offsets, leg = legs_of(inter, spread)
    aim = inter.leg_commodity[inter.leg_offsets[spread] + inter.target[spread]]
    owner, commodity = np.repeat(np.arange(len(spread)), np.diff(offsets)), inter.leg_commodity[leg]
    # What the target has already need not be moved.
    other = np.flatnonzero(commodity != aim[owner])
    owner, commodity = owner[other], commodity[other]
    begin = account[owner] * slots
    low, high = (
        np.searchsorted(known, begin + file.commodities.slots[commodity + end]) for end in (0, 1)
    )
    which, within = spread_out(high - low)
    slot = known[low[which] + within] % slots
    to = same_month(file, months, slot, aim[owner[which]])
    return _distinct((begin[which] + to)[to >= 0])


def _changes(keys: Ints) -> Bools:
    """Where sorted keys differ from those before them."""
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    return first


def _distinct(keys: Ints) -> Ints:
    """Each key once, ascending: sorting is faster than what NumPy looks for them with."""
    ordered = np.sort(keys)
    return ordered[_changes(ordered)]


def same_month(file: SpanFile, months: Ints, slot: Ints, commodity: Ints) -> Ints:
    """Slots of commodities for the months of other slots, -1 where they have none.

    `months` are the `month_codes` of the file.
    """
    size = int(months.max(initial=0)) + 1
    keys = file.slots.commodity * size + months
    wanted = commodity * size + months[slot]
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[found] == wanted, found, -1)


def _among(sorted_keys: Ints, keys: Ints) -> Bools:
    """[key] whether it is one of some ascending keys."""
    place = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    found: Bools = sorted_keys[place] == keys
    return found
