"""When orders were last accepted: what the rule about their pace looks back at."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Entries that are kept by default: some 200 bytes each.
_MOST = 1_000_000


class OrderTimes:
    """The time of the last accepted order by account and underlying, in bounded memory.

    `horizon` in seconds is the longest pace that any rule asks for (`throttle.longest_interval`):
    what is older than that, seen from the latest time that was noted, is forgotten. Where more than
    `most` would have to be kept, the oldest are forgotten too, and whoever is not known then counts
    as having ordered when the last of them did: an order may wait longer, never less. `since` is
    the same for times before: a server that starts anew, and has forgotten, gives the time of its
    start. For one thread.
    """

    def __init__(self, horizon: float, most: int = _MOST, since: float = -math.inf) -> None:
        self._horizon, self._most = horizon, most
        self._floor, self._latest = since, -math.inf
        # In the order in which they were noted, so that the first are the ones to forget.
        self._times: dict[tuple[Hashable, int], float] = {}

    def __len__(self) -> int:
        return len(self._times)

    def note(self, account: Hashable, underlying: int, time: float) -> None:
        """An order was accepted; a time before the last one of its kind changes nothing."""
        if self._horizon <= 0.0:
            return
        key = account, underlying
        known = self._times.pop(key, -math.inf)
        self._times[key] = max(known, time)
        self._latest = max(self._latest, time)
        self._forget()

    def last(self, account: Hashable, underlying: int) -> float:
        """Time of the last order, -inf for none."""
        return max(self._times.get((account, underlying), -math.inf), self._floor)

    def lasts(self, accounts: Sequence[Hashable], underlyings: Sequence[int]) -> Floats:
        """[order] as `last`."""
        if self._horizon <= 0.0:
            return np.full(len(accounts), -math.inf)
        pairs = zip(accounts, underlyings, strict=True)
        return np.array([self.last(*pair) for pair in pairs], dtype=np.float64)

    def _forget(self) -> None:
        """Leave out what no rule can need, at a cost that does not grow with what is kept."""
        while self._times:
            key = next(iter(self._times))
            time = self._times[key]
            if time > self._latest - self._horizon:
                if len(self._times) <= self._most:
                    return
                self._floor = max(self._floor, time)
            del self._times[key]
