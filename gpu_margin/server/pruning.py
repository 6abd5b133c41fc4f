"""What the log may forget: the rows of entries that every kept snapshot has.

Snapshots are read again where newer ones are damaged, so that the log keeps what came after the
oldest of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from threading import Event, Thread

from gpu_margin.server.log import Log, LogError
from gpu_margin.server.problems import Problem
from gpu_margin.server.recovery import sequence_of, snapshots

_log = logging.getLogger("gpu_margin.server")
# Between slices of a few milliseconds each: changes have the writer for most of the time.
_PAUSE = 0.02
# A server that stops does not take longer for it; the next one goes on.
_LAST_SECONDS = 2.0
_GOOD = 2


class Pruning:
    """Has `log` forget, in slices, what all snapshots in the folder `state` have.

    Only while two of them are known to be good, as this server read or wrote them: a book can then
    be opened though one is damaged.
    """

    def __init__(self, state: Path, log: Log) -> None:
        self._state, self._log = state, log
        self._good: set[Path] = set()
        self._stop = Event()
        self._thread: Thread | None = None

    def good(self, snapshot: Path) -> None:
        """This one was read, or written."""
        self._good.add(snapshot)

    def begin(self, call: Callable[[Callable[[], int]], Future[int]]) -> None:
        """Go on in a thread of its own; `call` has the writer do a slice between changes."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = Thread(target=self._run, args=(call,), name="pruning", daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Forget what can be forgotten in a short time; for when nobody appends any more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        end = time.monotonic() + _LAST_SECONDS
        try:
            while time.monotonic() < end and self._slice():
                pass
        except LogError as error:
            _failed(error)

    def _run(self, call: Callable[[Callable[[], int]], Future[int]]) -> None:
        try:
            while call(self._slice).result() and not self._stop.wait(_PAUSE):
                pass
        except (Problem, CancelledError):
            return  # the writer takes nothing any more
        except LogError as error:
            _failed(error)

    def _slice(self) -> int:
        kept = snapshots(self._state)
        if len(self._good.intersection(kept)) < _GOOD:
            return 0
        return self._log.prune(sequence_of(kept[-1]) + 1)


def _failed(error: LogError) -> None:
    # Nothing is lost by it: the next snapshot tries again.
    _log.warning("the log was not pruned", extra={"reason": str(error)})
