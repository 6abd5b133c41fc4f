"""How often a client may ask: a bucket of tokens each, that fills at the client's rate."""

from __future__ import annotations

import time
from collections.abc import Callable

# Shorter waits are rounding.
_NO_WAIT = 1e-6


class Rates:
    """Token buckets by name. A bucket is kept as the time at which it will be full again.

    A full bucket admits any cost, also one above its size: the debt is waited for afterwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, keep: int = 10_000) -> None:
        self._clock, self._keep = clock, keep
        self._purge_at = keep
        self._full_at: dict[str, float] = {}

    def wait(self, name: str, rate: float, burst: float, cost: float = 1.0) -> float:
        """Seconds until `cost` tokens can be taken; 0.0: they were taken.

        `rate` is tokens per second (> 0), `burst` the size of the bucket (>= 1).
        """
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now)
        after = full_at + cost / rate
        wait = after - now - max(burst, cost) / rate
        if wait > _NO_WAIT:
            return wait
        self._full_at[name] = after
        if len(self._full_at) > self._purge_at:
            self._purge(now)
        return 0.0

    def _purge(self, now: float) -> None:
        """Forget full buckets: a new one is full too."""
        self._full_at = {name: at for name, at in self._full_at.items() if at > now}
        self._purge_at = max(self._keep, 2 * len(self._full_at))
