"""Everything behind the application: the book, its log and snapshots, and the threads on them."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import polars as pl

from gpu_margin import backend as backends
from gpu_margin import loading
from gpu_margin.backend import Backend
from gpu_margin.config import Config
from gpu_margin.devices import Device
from gpu_margin.failures import GpuMarginError, InputError
from gpu_margin.io.outputs import write_atomically
from gpu_margin.live import LiveBook
from gpu_margin.loading import Loaded
from gpu_margin.records import Outcome, Record
from gpu_margin.server.answering import Answering
from gpu_margin.server.audit import Audit
from gpu_margin.server.hot_routes import Threads
from gpu_margin.server.log import Log, LogError, open_log
from gpu_margin.server.metrics import Metrics
from gpu_margin.server.problems import Problem
from gpu_margin.server.pruning import Pruning
from gpu_margin.server.reader import Reader
from gpu_margin.server.recovery import (
    BOARD,
    check_whole,
    identity,
    replay,
    snapshot_path,
    snapshots,
    tidy,
)
from gpu_margin.server.settings import ServerSettings
from gpu_margin.server.writer import Writer
from gpu_margin.turns import Turns

_log = logging.getLogger("gpu_margin.server")
# Failed rows of the inputs that are told of one by one.
_SHOWN = 5
# Questions that take microseconds each.
_SHORT = frozenset({"whatif", "order", "account"})
# Full collections of garbage cost tens of milliseconds, and what lives long is frozen.
_COLLECT = (50_000, 100, 1_000)


class House:
    """Opens the book in the background, keeps it, and closes it in order.

    `threads` are filled when the book is ready; until then `progress` says what is being done, and
    `error` why it will never be: `failure` is what was raised. `faults` are the devices that
    failed.
    """

    def __init__(
        self, config: Config, settings: ServerSettings, backend: str, audit: Audit, metrics: Metrics
    ) -> None:
        self.config, self.settings, self.audit, self.metrics = config, settings, audit, metrics
        self.threads = Threads()
        self.progress: dict[str, Any] = {"stage": "starting"}
        self.error: str | None = None
        self.failure: Exception | None = None
        self.started = time.time()
        self.leaving = asyncio.Event()
        self.faults: list[dict[str, str]] = []
        self.saved: dict[str, Any] | None = None
        self._backend = backend
        self._device: Device | None = None
        self._answering: Answering | None = None
        self._log: Log | None = None
        self._pruning: Pruning | None = None
        self._identity = ""
        self._unsaved = 0
        self._saving: Thread | None = None
        self._writing = Lock()
        self._mending = False
        self._opening: asyncio.Task[None] | None = None
        self._listeners: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def answering(self) -> Answering:
        """Who answers; only once the threads are there."""
        assert self._answering is not None
        return self._answering

    @property
    def log(self) -> Log:
        """The log; only once the threads are there."""
        assert self._log is not None
        return self._log

    # ------------------------------------------------------------ opening

    async def start(self) -> None:
        """Begin to open the book; requests are answered with 503 meanwhile."""
        self._loop = asyncio.get_running_loop()
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        begun = time.perf_counter()
        try:
            self._answering = await asyncio.to_thread(self._opened)
            self._begin()
        except GpuMarginError as error:
            self.error, self.failure = str(error), error
            _log.error("the book could not be opened", extra={"reason": self.error})
            return
        except Exception as error:
            self.error, self.failure = f"{type(error).__name__}: {error}", error
            _log.exception("the book could not be opened")
            return
        seconds = round(time.perf_counter() - begun, 3)
        _log.info("ready", extra={"state_seq": self.answering.book.sequence, "seconds": seconds})

    def _opened(self) -> Answering:
        """The book as it was when the server stopped, or as the inputs have it."""
        self._report("inputs", 0, 1)
        self._device = Device(backends.load(self._backend))
        loaded = loading.load_book(self.config)
        if others := set(self.config.models) - {one.name for one in loaded.models}:
            _log.warning("models on files are left out", extra={"models": sorted(others)})
        if len(loaded.failures):
            # What is wrong with a whole file is behind the failures of rows that refer to it.
            first = loaded.failures.sort("row", nulls_last=False, maintain_order=True).head(_SHOWN)
            counts = {"rows": len(loaded.failures), "first": first.to_dicts()}
            _log.warning("rows of the inputs failed", extra=counts)
        if self._log is None:
            self.settings.state.mkdir(parents=True, exist_ok=True)
            self._identity = identity(loaded)
            self._log = open_log(self.settings.log, self.settings.state, self._identity)
            if self.settings.log.prunes:
                self._pruning = Pruning(self.settings.state, self._log)
            tidy(self.settings.state, self.log.last())
        return self._at_log(loaded)[0]

    def _at_log(self, loaded: Loaded) -> tuple[Answering, dict[int, Outcome]]:
        """The book where its log is, and what became of the records that nobody was told of."""
        log = self.log
        book, board = self._book(loaded, self._in_use)
        answering = Answering(book, self.config, self.settings.stale_seconds, self.failed)
        if board is not None:
            answering.board = answering.new_board(None).restored(board)
        self._report("log", book.sequence, log.last())
        outcomes, rows = replay(answering, log)
        self._unsaved += rows
        return answering, outcomes

    def _book(self, loaded: Loaded, device: Backend) -> tuple[LiveBook, pl.DataFrame | None]:
        """From the newest snapshot that can be read, else anew; under the rules of now."""
        turns = Turns()
        for path in snapshots(self.settings.state):
            try:
                book = LiveBook.restore(
                    path, device, turns=turns, rules=self.config, measured=False
                )
                board = pl.read_parquet(path.with_suffix(BOARD))
            except (InputError, OSError, pl.exceptions.PolarsError) as error:
                _log.warning("a snapshot is left out", extra={"reason": str(error)})
                continue
            if self._pruning is not None:
                self._pruning.good(path)
            return book, board
        check_whole(self.log, self.settings.state)
        return LiveBook(loaded, device, turns=turns, report=self._report), None

    def _begin(self) -> None:
        """From now on requests are answered."""
        answering, limits, metrics = self.answering, self.settings.limits, self.metrics
        reader = Reader(self._kinds(), limits.queue_depth, seen=metrics.reader_batch, short=_SHORT)
        writer = Writer(
            self.log, self._apply, limits.queue_depth, done=self._done, changed=self._changed
        )
        reader.start()
        writer.start()
        self.threads.writer, self.threads.reader = writer, reader
        backend = answering.book.backend
        metrics.backend, metrics.device = backend.name, backend.describe()
        metrics.queue("questions", lambda: reader.waiting)
        metrics.queue("changes", lambda: writer.waiting)
        metrics.watch("state_seq", "Changes in the book", lambda: self.answering.book.sequence)
        metrics.watch("mark_age_seconds", "Oldest mark", lambda: self.answering.mark_age)
        self.audit.note("started", "server", state_seq=answering.book.sequence)
        # What has been loaded stays: the collector need not go through it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)

    def _kinds(self) -> dict[str, Any]:
        """What the reader asks: whoever answers at that time."""
        names = self.answering.kinds()
        return {
            kind: lambda asked, kind=kind: self.answering.kinds()[kind](asked) for kind in names
        }

    def _report(self, stage: str, done: int, total: int) -> None:
        self.progress = {"stage": stage, "done": done, "total": total}

    # ------------------------------------------------------------ changes

    def _apply(self, records: list[Record]) -> list[Outcome]:
        """Book records that the log has; where the device fails, anew from the log on another."""
        answering = self.answering
        try:
            outcomes = answering.book.apply(records)
        except Exception as error:
            again = self._anew(error)
            return [again[one.seq] for one in records]
        answering.took(records)
        for one, record in zip(outcomes, records, strict=True):
            self.metrics.row_failures[record.kind] += len(one.failures)
        return outcomes

    def _anew(self, error: Exception) -> dict[int, Outcome]:
        """The book from its log on the next device; raises `error` where there is none."""
        self._give_up(error)
        loaded = loading.load_book(self.config)
        if identity(loaded) != self._identity:
            raise InputError("the inputs are no longer those of the log: put them back") from error
        answering, outcomes = self._at_log(loaded)
        self._answering = answering
        return outcomes

    @property
    def _in_use(self) -> Backend:
        """The device that the book is on: the first that is left of the backend's."""
        assert self._device is not None
        return self._device.shards[0]

    def failed(self, error: Exception, device: Backend) -> None:
        """A device failed a question: the writer changes to another one. For those who ask."""
        _log.error("a question failed", exc_info=error)
        writer = self.threads.writer
        if writer is None or self._mending:
            return
        self._mending = True
        try:
            writer.call(lambda: self._mend(error, device))
        except Problem:
            self._mending = False

    def _mend(self, error: Exception, device: Backend) -> None:
        try:
            # A change may have failed on it meanwhile, and have had it replaced.
            if device is self._in_use:
                self._give_up(error)
                self.answering.book.replace_backend(self._in_use)
        except Exception:
            # The last device failed this question: it is the question that is at fault, or we are.
            _log.exception("no other device")
        finally:
            self._mending = False

    def _give_up(self, error: Exception) -> None:
        assert self._device is not None
        failed = self._in_use
        self._device.give_up(failed, "serve", error)
        now = self._in_use
        self.faults.append(
            {
                "time": datetime.now(UTC).isoformat(),
                "backend": failed.name,
                "error": f"{type(error).__name__}: {error}",
                "next": now.name,
            }
        )
        self.metrics.replaced(now.name, now.describe())
        self.audit.note("fault", "server", **self.faults[-1])
        _log.error("a device was given up", extra=self.faults[-1])

    def _done(self, entries: int, rows: int, logging_: float, applying: float) -> None:
        self.metrics.writer_group(entries, rows, logging_, applying)
        self._unsaved += rows
        saving = self._saving is not None and self._saving.is_alive()
        if self._unsaved < self.settings.snapshot_rows or saving:
            return
        try:
            write = self.begin_save()
        except Exception:
            # What was asked for is in the log and in the book: only the next start takes longer.
            _log.exception("no snapshot could be made")
            return
        self._saving = Thread(target=_said, args=(write,), name="snapshot")
        self._saving.start()

    # ------------------------------------------------------------ snapshots

    def begin_save(self) -> Callable[[], dict[str, Any]]:
        """What writes the book as it is now, by any thread; for the writer's own."""
        answering, self._unsaved = self.answering, 0
        self.log.flush()
        kept, board = answering.book.kept(), answering.board.table()
        sequence = answering.book.sequence

        def write() -> dict[str, Any]:
            path = snapshot_path(self.settings.state, sequence)
            with self._writing:
                write_atomically(path.with_suffix(BOARD), board.write_parquet)
                kept.write(path)
                for old in snapshots(self.settings.state)[self.settings.keep_snapshots :]:
                    old.unlink(missing_ok=True)
                    old.with_suffix(BOARD).unlink(missing_ok=True)
                self._prune(path)
            time_ = datetime.now(UTC).isoformat()
            self.saved = {"state_seq": sequence, "time": time_, "path": path.name}
            return self.saved

        return write

    def _prune(self, written: Path) -> None:
        """The log may forget what the snapshots have."""
        if self._pruning is not None and self.threads.writer is not None:
            self._pruning.good(written)
            self._pruning.begin(self.threads.writer.call)

    # ------------------------------------------------------------ those who listen

    def _changed(self) -> None:
        if self._loop is not None and not self._loop.is_closed() and self._listeners:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for one in self._listeners:
            one.set()

    def listen(self) -> asyncio.Event:
        """An event that is set whenever the book has changed, or the server leaves."""
        found = asyncio.Event()
        self._listeners.add(found)
        return found

    def unlisten(self, listener: asyncio.Event) -> None:
        """No longer."""
        self._listeners.discard(listener)

    # ------------------------------------------------------------ closing

    def leave(self) -> None:
        """The server is about to stop: those who only listen are let go."""
        self.leaving.set()
        self._wake()

    async def stop(self) -> None:
        """Take and answer what is queued, keep a snapshot, close the log."""
        self.leave()
        if self._opening is not None and not self._opening.done():
            await asyncio.wait([self._opening])
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        writer, reader = self.threads.writer, self.threads.reader
        if writer is not None:
            writer.stop()
        if reader is not None:
            reader.stop()
        if self._saving is not None:
            self._saving.join()
        if writer is not None and self._unsaved and not writer.broken:
            _said(lambda: self.begin_save()())
        if self._pruning is not None:
            self._pruning.finish()
        if self._log is not None:
            try:
                self._log.close()
            except LogError as error:
                _log.error("the log was not closed in order", extra={"reason": str(error)})
        self.audit.note("stopped", "server")
        self.audit.close()
        _log.info("stopped", extra={"audit_hash": self.audit.last_hash})


def _said(write: Callable[[], Any]) -> None:
    """Write a snapshot, or say why it could not be."""
    try:
        write()
    except Exception:
        _log.exception("a snapshot could not be written")
