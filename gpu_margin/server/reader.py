"""Questions in micro-batches: what was queued while the book was busy goes next, as one batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

from gpu_margin.server.problems import busy

Kind = str
Answers = Sequence[Any]


@dataclass(slots=True)
class _Question:
    kind: Kind
    asked: Any
    future: asyncio.Future[Any]
    since: float = field(default_factory=time.perf_counter)


class Reader:
    """Answers questions by kind: a thread, or for short ones the event loop itself.

    `answers` maps a kind to a function of all its questions in the queue: as many answers, in their
    order, of which an exception is raised to the one who asked. No more than `depth` may wait, of
    which at most `most` of one kind are answered at a time; `seen` (kind, size, waited, took) is
    told of every batch. `start` and `ask` are for the thread of the event loop.

    Questions of the kinds `short` are answered by the event loop: all that came in one of its
    rounds, as one batch in its next. Handing each to a thread and back would cost more than the
    answer, for the interpreter has one lock. What comes meanwhile waits in its sockets.
    """

    def __init__(
        self,
        answers: dict[Kind, Callable[[list[Any]], Answers]],
        depth: int,
        most: int = 256,
        seen: Callable[[Kind, int, float, float], None] | None = None,
        short: frozenset[Kind] = frozenset(),
    ) -> None:
        self._short = short
        self._round: dict[Kind, list[_Question]] = {}
        self._answers, self._depth, self._most, self._seen = answers, depth, most, seen
        self._queue: deque[_Question] = deque()
        self._some = Condition()
        self._idle = False
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = Thread(target=self._work, name="reader", daemon=True)

    @property
    def waiting(self) -> int:
        """How many questions are in the queue."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to answer."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Answer what is queued, then end."""
        with self._some:
            self._stopping = True
            self._some.notify()
        if self._thread.is_alive():
            self._thread.join()

    def ask(self, kind: Kind, asked: Any) -> asyncio.Future[Any]:
        """The answer, some time; raises `Problem` 503 where too many wait."""
        if self._loop is None or self._stopping:
            raise busy("the server is not answering: it starts or stops")
        if len(self._queue) >= self._depth:
            raise busy(f"{self._depth} requests wait already")
        future = self._loop.create_future()
        if kind in self._short:
            if not self._round:
                self._loop.call_soon(self._answer_round)
            self._round.setdefault(kind, []).append(_Question(kind, asked, future))
            return future
        # Appending is atomic; the lock is only for one who sleeps.
        self._queue.append(_Question(kind, asked, future))
        if self._idle:
            with self._some:
                self._some.notify()
        return future

    def _answer_round(self) -> None:
        """All short questions of this round of the loop."""
        asked, self._round = self._round, {}
        for kind, every in asked.items():
            for start in range(0, len(every), self._most):
                batch = every[start : start + self._most]
                _resolve(batch, self._answered(kind, batch))

    def _work(self) -> None:
        while True:
            if not self._queue and not self._wait():
                return
            self._batch()

    def _wait(self) -> bool:
        """Sleep until there is a question; False where none will come."""
        with self._some:
            self._idle = True
            while not self._queue and not self._stopping:
                # Bounded: a question may be appended between the check and the sleep.
                self._some.wait(0.05)
            self._idle = False
            return bool(self._queue)

    def _batch(self) -> None:
        """The questions of the kind that has waited longest, as one batch."""
        kind = self._queue[0].kind
        batch: list[_Question] = []
        rest: list[_Question] = []
        while self._queue and len(batch) < self._most:
            question = self._queue.popleft()
            (batch if question.kind == kind else rest).append(question)
        self._queue.extendleft(reversed(rest))
        found = self._answered(kind, batch)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_resolve, batch, found)

    def _answered(self, kind: Kind, batch: list[_Question]) -> Answers:
        """Answers of a batch, or for each why there is none."""
        begun = time.perf_counter()
        try:
            found = self._answers[kind]([one.asked for one in batch])
            if len(found) != len(batch):
                raise RuntimeError(f"{len(batch)} questions got {len(found)} answers")
        except Exception as error:
            found = [error] * len(batch)
        except BaseException as error:
            # A panic of a library, which is not to end the thread.
            found = [RuntimeError(f"{type(error).__name__}: {error}")] * len(batch)
        if self._seen is not None:
            ended = time.perf_counter()
            self._seen(kind, len(batch), begun - batch[0].since, ended - begun)
        return found


def _resolve(batch: list[_Question], answers: Answers) -> None:
    for question, answer in zip(batch, answers, strict=True):
        if question.future.done():  # whoever asked has gone
            continue
        if isinstance(answer, Exception):
            question.future.set_exception(answer)
        else:
            question.future.set_result(answer)
