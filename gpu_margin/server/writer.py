"""Changes to the book: into the durable log first, then into the book, then acknowledged.

What was queued while the log was written goes into its next transaction, as one group. A change
whose key is known gets its first answer again; nothing that was acknowledged can be lost, and
nothing is booked twice.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from threading import Condition, Thread, get_native_id
from typing import Any

import msgspec

from gpu_margin.records import Outcome, Record
from gpu_margin.server.log import Accepted, Entry, Gap, Log, LogError, Repeated, Result
from gpu_margin.server.problems import Problem, busy

_log = logging.getLogger("gpu_margin.server")
# Of the 19 steps that a thread may stand back.
_NICE = 10

Offsets = Mapping[tuple[str, int], int]
Answer = dict[str, Any] | Problem


class _NotLogged(Exception):
    """The log took nothing of a group."""


@dataclass(slots=True)
class _Change:
    """Entries of one request, which are logged together."""

    entries: Sequence[Entry]
    offsets: Offsets | None
    future: Future[list[Answer]]
    rows: int


@dataclass(slots=True)
class _Call:
    """Work between changes, which resolves the future."""

    run: Callable[[], None]
    future: Future[Any]


class Writer:
    """The one thread that changes the book.

    `apply` books records and says what became of each; `done` (entries, rows, seconds of the log,
    seconds of the book) is told of every group, `changed` that the book is another one now. At most
    `depth` requests may wait, and about `most` rows are taken at a time.
    """

    def __init__(
        self,
        log: Log,
        apply: Callable[[list[Record]], list[Outcome]],
        depth: int,
        most: int = 20_000,
        done: Callable[[int, int, float, float], None] | None = None,
        changed: Callable[[], None] | None = None,
    ) -> None:
        self._log, self._apply, self._depth, self._most = log, apply, depth, most
        self._done, self._changed = done, changed
        self._queue: deque[_Change | _Call] = deque()
        self._some = Condition()
        self._stopping = False
        self.broken: str | None = None
        self._thread = Thread(target=self._work, name="writer", daemon=True)

    @property
    def waiting(self) -> int:
        """How many changes are in the queue."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to take changes."""
        self._thread.start()

    def stop(self) -> None:
        """Take what is queued, then end."""
        with self._some:
            self._stopping = True
            self._some.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(
        self, entries: Sequence[Entry], offsets: Offsets | None = None
    ) -> Future[list[Answer]]:
        """What became of the entries, some time: for each its answer, or the problem with it.

        Raises `Problem` 503 where too many wait. For any thread.
        """
        future: Future[list[Answer]] = Future()
        rows = sum(len(next(iter(one.rows.values()), [])) for one in entries)
        with self._some:
            self._check_open()
            if len(self._queue) >= self._depth:
                raise busy(f"{self._depth} changes wait already")
            self._queue.append(_Change(entries, offsets, future, rows))
            self._some.notify()
        return future

    def call(self, work: Callable[[], Any]) -> Future[Any]:
        """What `work` returns when it is run between changes: for what needs the book at rest."""
        future: Future[Any] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        with self._some:
            self._check_open()
            self._queue.append(_Call(run, future))
            self._some.notify()
        return future

    def _check_open(self) -> None:
        """Raise `Problem` 503 where nothing is taken any more."""
        if self._stopping or self.broken:
            raise busy(self.broken or "the server is stopping", 5.0)

    def _work(self) -> None:
        _behind_others()
        while not self.broken:
            with self._some:
                self._some.wait_for(lambda: bool(self._queue) or self._stopping)
                if not self._queue:
                    return
                group = self._group()
            if isinstance(group, _Call):
                group.run()
            else:
                self._take(group)

    def _group(self) -> list[_Change] | _Call:
        """The changes that go together: those up to the next call."""
        first = self._queue[0]
        if isinstance(first, _Call):
            self._queue.popleft()
            return first
        group: list[_Change] = []
        rows = 0
        while self._queue and rows < self._most:
            change = self._queue[0]
            if isinstance(change, _Call):
                break
            self._queue.popleft()
            # Whoever asked may have gone; once it is logged, there is no way back.
            if change.future.set_running_or_notify_cancel():
                group.append(change)
                rows += change.rows
        return group

    def _take(self, group: list[_Change]) -> None:
        """One transaction, then the book, then the answers."""
        if not group:
            return
        try:
            answers = self._booked(group, *self._logged(group))
        except _NotLogged as error:
            refused = busy(f"the log could not be written: {error.__cause__}", 5.0)
            answers = [[refused] * len(one.entries) for one in group]
        except BaseException as error:  # a panic of polars is no Exception
            self._break(error, group)
            return
        for one, answer in zip(group, answers, strict=True):
            one.future.set_result(answer)

    def _break(self, error: BaseException, group: list[_Change]) -> None:
        """Refuse everything from now on, and what waits.

        The log has what the book may not have: only a restart brings them together again.
        """
        _log.critical("no more changes are taken", exc_info=error)
        with self._some:
            self.broken = f"the book could not be changed: {type(error).__name__}: {error}"
            waiting = list(self._queue)
            self._queue.clear()
        refused = busy(self.broken, 5.0)
        for one in group:
            one.future.set_exception(refused)
        for left in waiting:
            if left.future.set_running_or_notify_cancel():
                left.future.set_exception(refused)

    def _logged(self, group: list[_Change]) -> tuple[list[Entry], list[Result], float]:
        """The entries of a group, what the log says to them, and the seconds that it took."""
        entries = [entry for one in group for entry in one.entries]
        offsets = {place: next_ for one in group for place, next_ in (one.offsets or {}).items()}
        begun = time.perf_counter()
        try:
            results = self._log.append(entries, offsets or None)
        except LogError as error:
            raise _NotLogged from error
        return entries, results, time.perf_counter() - begun

    def _booked(
        self, group: list[_Change], entries: list[Entry], results: list[Result], logging_: float
    ) -> list[list[Answer]]:
        """Book what is in the log; the answers to each change."""
        begun = time.perf_counter()
        records = [
            Record(result.seq, entry.kind, entry.rows)
            for entry, result in zip(entries, results, strict=True)
            if isinstance(result, Accepted)
        ]
        found_now = self._apply(records) if records else []
        self._log.answer([(one.state_seq, packed(one)) for one in found_now])
        outcomes = {one.state_seq: asdict(one) for one in found_now}
        if self._done is not None:
            rows = sum(one.count for one in records)
            self._done(len(entries), rows, logging_, time.perf_counter() - begun)
        if records and self._changed is not None:
            self._changed()
        found = iter([_answer(result, outcomes) for result in results])
        return [[next(found) for _ in one.entries] for one in group]


def _behind_others() -> None:
    """Let the system prefer those who answer: they take microseconds, a mark of a book a second."""
    # Elsewhere a thread has no priority of its own, and its number may be that of a process.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, get_native_id(), _NICE)


def packed(outcome: Outcome) -> bytes:
    """An outcome as the log keeps it."""
    return msgspec.msgpack.encode(asdict(outcome))


def _answer(result: Result, outcomes: Mapping[int, dict[str, Any]]) -> Answer:
    if isinstance(result, Accepted):
        return outcomes[result.seq]
    if isinstance(result, Repeated):
        if result.seq in outcomes:
            return outcomes[result.seq]
        if result.answer is None:
            return busy("the first request of this key is not answered yet")
        answer: dict[str, Any] = msgspec.msgpack.decode(result.answer)
        return answer
    if isinstance(result, Gap):
        return Problem(
            409,
            "sequence-gap",
            f"the next Client-Sequence of this client is {result.expected}",
            field="Client-Sequence",
            way_out="send what is missing first, or go on with the expected number",
            extra={"expected": result.expected},
        )
    return Problem(
        422,
        "key-reused",
        "this Idempotency-Key was used for another body",
        field="Idempotency-Key",
        way_out="use a new key for a new request",
    )
