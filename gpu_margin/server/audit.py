"""The audit log: who came, who was refused, what was changed; appended, chained by hashes.

Callers only queue a record. A thread of its own writes what has queued, a few times a second, and
syncs it to the disk every second and where somebody waits for it (`flush`, `close`). Fills and
marks that were acknowledged are in the log of records; this one says who sent them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from gpu_margin.server.audit_file import AuditFile
from gpu_margin.server.tallies import Tallies

_log = logging.getLogger("gpu_margin.server.audit")

# Records that may wait for a disk that does not take them; more are lost, and counted.
_MOST_WAITING = 100_000
# What comes within so many seconds is written at once: waking a thread costs the loop time.
_GATHER = 0.02
_SYNC_EVERY = 1.0
_RETRY_EVERY = 1.0
_MOST_AT_ONCE = 5_000

_Record = tuple[int, str, str, dict[str, Any]]


class Audit:
    """Appends to the file at `path`, which is made where there is none.

    `ConfigError` where the file is broken, in use by another process, or cannot be opened.
    `changed` is told, in the writing thread, of a write that failed, and (None) that writing works
    again. `window` is the seconds for which refusals and what-ifs are counted, `most` how many
    refusals of one reason are written in it one by one.
    """

    def __init__(
        self,
        path: Path,
        *,
        changed: Callable[[str | None], None] | None = None,
        window: float = 60.0,
        most: int = 30,
    ) -> None:
        self._changed = changed
        self._file = AuditFile(path)
        self._tallies = Tallies(window, most)
        self._queue: SimpleQueue[_Record | Event] = SimpleQueue()
        self._waiting: list[_Record] = []
        self._barriers: list[Event] = []
        self._urgent, self._stop = Event(), Event()
        self._lost, self._failed_at = 0, 0.0
        self.failed: str | None = None
        self._synced = time.monotonic()
        self._thread = Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def lines(self) -> int:
        """Lines in the file."""
        return self._file.lines

    @property
    def last_hash(self) -> str:
        """The hash of the last line: kept elsewhere, it shows whether lines were cut off."""
        return self._file.last_hash

    def note(self, kind: str, actor: str, /, **what: Any) -> None:
        """Queue a record; any thread. `what` is JSON, and is not changed afterwards.

        Refusals are counted by `what["reason"]`: of many, only the first are written.
        """
        if kind == "refusal" and not self._tallies.is_to_be_written(
            str(what.get("reason")), time.monotonic()
        ):
            return
        if self._queue.qsize() >= _MOST_WAITING:
            self._lost += 1
            return
        self._queue.put((time.time_ns(), kind, actor, what))

    def count_whatif(self, actor: str, n: int) -> None:
        """Count what-ifs; any thread. A line per actor is written every window."""
        self._tallies.count_whatif(actor, n, time.monotonic())

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until what was noted before is on the disk; whether it is."""
        done = Event()
        self._queue.put(done)
        self._urgent.set()
        return done.wait(timeout) and self.failed is None

    def close(self) -> None:
        """Write what is left, with what was counted, and let the file go."""
        if not self._thread.is_alive():
            return
        self._stop.set()
        self._urgent.set()
        self._queue.put(Event())  # wakes the thread
        self._thread.join()
        self._file.close()

    # ------------------------------------------------------------ the writing thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self._gather()
            self._told(everything=False)
            self._write()
        self._drain()
        self._told(everything=True)
        self._write()
        if self._waiting and self.failed is None:
            self._write()  # that it failed before
        if self._waiting:
            _log.error("%d records of the audit log are lost: %s", len(self._waiting), self.failed)

    def _gather(self) -> None:
        """Wait for something to write, then a little for more, unless somebody is waiting."""
        if self.failed is not None:
            self._urgent.wait(_RETRY_EVERY)
        else:
            try:
                self._take(self._queue.get(timeout=_SYNC_EVERY))
                self._urgent.wait(_GATHER)
            except Empty:
                pass
        self._urgent.clear()
        self._drain()

    def _drain(self) -> None:
        while len(self._waiting) < _MOST_AT_ONCE or self._stop.is_set():
            try:
                self._take(self._queue.get_nowait())
            except Empty:
                return

    def _take(self, found: _Record | Event) -> None:
        if isinstance(found, Event):
            self._barriers.append(found)
        else:
            self._waiting.append(found)

    def _told(self, everything: bool) -> None:
        for kind, actor, details in self._tallies.due(time.monotonic(), everything):
            self._waiting.append((time.time_ns(), kind, actor, details))
        if self._lost and self.failed is None:
            lost, self._lost = self._lost, 0
            self._waiting.append((time.time_ns(), "fault", "audit", {"records_lost": lost}))

    def _write(self) -> None:
        """Write all that waits, sync where it is time or asked for, and say how it went."""
        now = time.monotonic()
        sync = bool(self._barriers) or self._stop.is_set() or now - self._synced >= _SYNC_EVERY
        try:
            self._file.append(self._waiting)
            self._waiting = []
            if sync:
                self._file.sync()
                self._synced = now
        except OSError as error:
            self._fail(error.strerror or str(error))
        else:
            self._recover()
        for barrier in self._barriers:
            barrier.set()
        self._barriers = []

    def _fail(self, reason: str) -> None:
        if self.failed is None:
            self._failed_at = time.monotonic()
            _log.error("the audit log cannot be written: %s", reason)
            self.failed = reason
            if self._changed is not None:
                self._changed(reason)

    def _recover(self) -> None:
        if self.failed is None:
            return
        seconds = round(time.monotonic() - self._failed_at, 3)
        details = {"reason": self.failed, "seconds": seconds, "part": "audit log"}
        self._waiting.append((time.time_ns(), "fault", "audit", details))
        _log.warning("the audit log can be written again, after %s s", seconds)
        self.failed = None
        if self._changed is not None:
            self._changed(None)
