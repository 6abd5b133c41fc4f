"""What the audit log counts in place of writing it down every time."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

# A record that is to be written: kind, actor, details.
Told = tuple[str, str, dict[str, Any]]

_MOST_REASONS = 100


@dataclass
class _Window:
    begun: float
    written: int = 0
    more: int = 0


@dataclass
class Tallies:
    """Refusals beyond `most` per reason and window, and what-ifs by actor. For several threads.

    `window` is in seconds, as is every `now`, of a clock that never jumps.
    """

    window: float = 60.0
    most: int = 30
    _lock: Lock = field(default_factory=Lock)
    _refusals: dict[str, _Window] = field(default_factory=dict)
    _whatifs: dict[str, int] = field(default_factory=dict)
    _since: float | None = None

    def is_to_be_written(self, reason: str, now: float) -> bool:
        """Whether a refusal is written as it is; if not, it is counted."""
        with self._lock:
            if reason not in self._refusals and len(self._refusals) >= _MOST_REASONS:
                reason = "other"
            window = self._refusals.setdefault(reason, _Window(now))
            if window.written < self.most:
                window.written += 1
                return True
            window.more += 1
            return False

    def count_whatif(self, actor: str, n: int, now: float) -> None:
        """Count what-ifs of an actor."""
        with self._lock:
            if self._since is None:
                self._since = now
            self._whatifs[actor] = self._whatifs.get(actor, 0) + n

    def due(self, now: float, everything: bool = False) -> list[Told]:
        """What windows that are over have counted; with `everything`, the others too."""
        with self._lock:
            return [*self._refused(now, everything), *self._asked(now, everything)]

    def _refused(self, now: float, everything: bool) -> list[Told]:
        over = {
            reason: window
            for reason, window in self._refusals.items()
            if everything or now - window.begun >= self.window
        }
        for reason in over:
            del self._refusals[reason]
        return [
            ("refusal", "several", {"reason": reason, "more": window.more, "seconds": self.window})
            for reason, window in over.items()
            if window.more
        ]

    def _asked(self, now: float, everything: bool) -> list[Told]:
        if self._since is None or not (everything or now - self._since >= self.window):
            return []
        told: list[Told] = [("whatifs", actor, {"count": n}) for actor, n in self._whatifs.items()]
        self._whatifs, self._since = {}, None
        return told
