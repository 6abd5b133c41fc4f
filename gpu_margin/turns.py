"""Taking turns at a book: those who ask come first, those who change it hold it for short slices.

A plain lock is not enough: a thread that gives it back and takes it again at once, slice after
slice, would never let another one in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock


class Turns:
    """One holder at a time; `asking` goes before `changing`, whoever waited longer."""

    def __init__(self) -> None:
        self._free = Condition(Lock())
        self._held = False
        self._asking = 0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The turn of one who asks."""
        with self._free:
            self._asking += 1
            try:
                self._free.wait_for(lambda: not self._held)
            finally:
                self._asking -= 1
            self._held = True
        try:
            yield
        finally:
            self._release()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """The turn of one who changes, once nobody waits to ask."""
        with self._free:
            self._free.wait_for(lambda: not self._held and not self._asking)
            self._held = True
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        with self._free:
            self._held = False
            self._free.notify_all()
