"""Taking turns at a book: those who ask come first, those who change it hold it for short slices.

A plain lock is not enough: a thread that gives it back and takes it again at once, slice after
slice, would never let another one in. Several may ask at a time, for one of them may take long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

# Turns of those who ask that one who changes may have to wait for.
_MOST = 4


class Turns:
    """One who changes or several who ask; `asking` goes first, but for a few turns only."""

    def __init__(self) -> None:
        self._free = Condition(Lock())
        self._held = False
        # Who waits, who asks now, and how many have gone before one who waits to change.
        self._asking = self._changing = self._inside = self._passed = 0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The turn of one who asks."""
        with self._free:
            self._asking += 1
            try:
                self._free.wait_for(lambda: not self._held and not self._overdue)
            finally:
                self._asking -= 1
            self._inside += 1
            self._passed += self._changing > 0
        try:
            yield
        finally:
            with self._free:
                self._inside -= 1
                if not self._inside:
                    self._free.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The turn of one who changes, once nobody waits to ask or enough of them have asked."""
        with self._free:
            self._changing += 1
            try:
                self._free.wait_for(self._may_change)
            finally:
                self._changing -= 1
                self._passed = 0
            self._held = True
        try:
            yield
        finally:
            with self._free:
                self._held = False
                self._free.notify_all()

    def _may_change(self) -> bool:
        in_use = self._held or self._inside > 0
        return not in_use and (not self._asking or self._overdue)

    @property
    def _overdue(self) -> bool:
        """Whether one who changes has let enough of the others go first."""
        return self._changing > 0 and self._passed >= _MOST
