"""Spreads between combined commodities, formed one after another in every account.

`form` goes through them as the file orders them. Loops run over steps, legs and places in rows, at
each of which all accounts are worked on at once; no account's figures depend on another's.
"""

from __future__ import annotations

from gpu_margin.models.span.inter_candidates import batches, candidates
from gpu_margin.models.span.inter_deltas import by_deltas, by_tiers
from gpu_margin.models.span.inter_room import room
from gpu_margin.models.span.inter_scanning import by_scanning
from gpu_margin.models.span.inter_work import work_on
from gpu_margin.models.span.state import State
from gpu_margin.span_book import Terms
from gpu_margin.span_tables import BY_SCANNING, BY_TIERS

__all__ = ["form", "room"]

_FORMED_BY = {BY_TIERS: by_tiers, BY_SCANNING: by_scanning}


def form(state: State, above: bool, terms: Terms) -> None:
    """Forms the spreads that come before those within commodities (`above`), or all others.

    Credits add up in `state.inter`, deltas are consumed in `state.left`; spreads by scanning make
    one row of several. The state must have been opened with what `room` says, and its short option
    minimum must be there: it moves with the rest. `ConfigError` where money is moved between
    currencies that the file has no rate of.
    """
    every = candidates(state, above)
    work = work_on(state, every, terms.spread_places)
    for batch in batches(every):
        _FORMED_BY.get(batch.method, by_deltas)(work, batch)
    work.finish()
