"""The durable log in a SQLite file: write-ahead log, synchronous=FULL, one transaction a group.

A commit returns once the operating system says that the write-ahead log is on the disk. One process
writes, held apart from others by a lock on the file beside it; readers have connections of their
own and see what is committed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Lock
from typing import IO, Any

import msgspec

from gpu_margin.failures import InputError
from gpu_margin.records import Record
from gpu_margin.server.log import (
    FORMAT,
    PAGE,
    SLICE,
    SLICE_BYTES,
    Decided,
    Entry,
    LogError,
    Offsets,
    Result,
    check_meta,
    decide,
    in_sequence,
    was_pruned,
)

# "GPUM": says of a file that it is a log of ours.
_APPLICATION = 0x4750554D
# Pages of 4 KiB. Copying them to the database takes about as long as a few commits.
_CHECKPOINT_PAGES = 1_000
_CACHE_KIB = 65_536
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE clients (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last INTEGER NOT NULL);
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, client INTEGER NOT NULL, client_seq INTEGER,
    key TEXT NOT NULL, digest BLOB NOT NULL, rows BLOB
);
CREATE UNIQUE INDEX keys ON entries (client, key);
CREATE TABLE answers (seq INTEGER PRIMARY KEY, answer BLOB NOT NULL);
CREATE TABLE offsets (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
"""
# The last entry of a slice: as many as fit, but one at least.
_FIT = """
SELECT coalesce(max(seq), ?1) FROM (
    SELECT seq, sum(length(rows)) OVER (ORDER BY seq) AS bytes FROM entries
    WHERE seq BETWEEN ?1 AND ?2
) WHERE bytes <= ?3
"""
_NAMES = """
SELECT seq, kind, client, client_seq, key, digest FROM entries WHERE seq BETWEEN ? AND ?
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, list[Any]]).decode


class SqliteLog:
    """A `Log` in a file, which is made where there is none.

    `identity` says which book it is of. Raises `InputError` where the file is no log or that of
    another book, and `LogError` where another process has it or it cannot be opened.
    """

    def __init__(self, path: str | Path, identity: str) -> None:
        self.path = Path(path)
        self._guard = Lock()
        self._answers: dict[int, bytes] = {}
        self._clients: dict[str, tuple[int, int]] = {}  # code, last sequence number
        self._offsets: dict[tuple[str, int], int] = {}
        self._last = self._pruned = 0
        self._lock = _locked(self.path)
        with ExitStack() as undo:
            undo.enter_context(self._lock)
            try:
                self._writer = undo.enter_context(closing(_connected(self.path)))
                _check(self._writer, self.path, identity)
                self._recall()
            except (sqlite3.Error, OSError) as error:
                raise _told(error, self.path) from error
            undo.pop_all()

    # ------------------------------------------------------------ writing

    def append(self, entries: Sequence[Entry], offsets: Offsets | None = None) -> list[Result]:
        """See `Log.append`."""
        with self._writing():
            decided = decide(entries, self._last, self.last_of, self._known, self._answer)
            if decided.accepted or offsets:
                self._commit(decided, offsets or {})
            return decided.results

    def answer(self, answers: Sequence[tuple[int, bytes]]) -> None:
        """See `Log.answer`."""
        for seq, answer in answers:
            self._answers.setdefault(seq, answer)

    def flush(self) -> None:
        """See `Log.flush`."""
        with self._writing():
            if self._answers:
                self._commit(Decided(), {})

    def prune(self, before: int) -> int:
        """See `Log.prune`; the pages that become free are used again, the file stays as long."""
        first, end = self._pruned + 1, min(before - 1, self._last, self._pruned + SLICE)
        if first > end:
            return 0
        with self._writing():
            write = self._writer.execute
            write("BEGIN IMMEDIATE")
            (to,) = write(_FIT, (first, end, SLICE_BYTES)).fetchone()
            # Anew: rows that are made shorter in place leave holes that nothing would ever fill.
            names = write(_NAMES, (first, to)).fetchall()
            write("DELETE FROM entries WHERE seq BETWEEN ? AND ?", (first, to))
            self._writer.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, NULL)", names)
            write("INSERT OR REPLACE INTO meta VALUES ('pruned', ?)", (str(to),))
            write("COMMIT")
        self._pruned = to
        return int(to - first + 1)

    def close(self) -> None:
        """See `Log.close`."""
        if self._lock.closed:
            return
        try:
            self.flush()
        finally:
            self._writer.close()
            self._lock.close()

    # ------------------------------------------------------------ reading

    def records(self, after: int) -> Iterator[Record]:
        """See `Log.records`."""
        return in_sequence(self._records(after), after)

    def unanswered(self, after: int) -> set[int]:
        """See `Log.unanswered`."""
        query = (
            "SELECT seq FROM entries LEFT JOIN answers USING (seq) WHERE seq > ? AND answer IS NULL"
        )
        with self._reading() as reader:
            found = {seq for (seq,) in reader.execute(query, (after,))}
        return found.difference(list(self._answers))

    def pruned(self) -> int:
        """See `Log.pruned`."""
        return self._pruned

    def last(self) -> int:
        """See `Log.last`."""
        return self._last

    def last_of(self, client: str) -> int:
        """The last sequence number of a client, 0 without."""
        return self._clients.get(client, (0, 0))[1]

    def expected(self, client: str) -> int:
        """See `Log.expected`."""
        return self.last_of(client) + 1

    def offsets(self) -> dict[tuple[str, int], int]:
        """See `Log.offsets`."""
        return dict(self._offsets)

    # ------------------------------------------------------------ within

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A turn of the writer; what goes wrong is taken back."""
        with self._guard:
            try:
                yield
            except BaseException as error:
                with suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                if isinstance(error, (sqlite3.Error, UnicodeError)):
                    raise _told(error, self.path) from error
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            place = self.path.absolute().as_uri() + "?mode=ro"
            with closing(sqlite3.connect(place, uri=True, isolation_level=None)) as reader:
                yield reader
        except sqlite3.Error as error:
            raise _told(error, self.path) from error

    def _recall(self) -> None:
        """What every append needs is kept in memory."""
        rows = self._writer.execute("SELECT name, id, last FROM clients")
        self._clients = {name: (code, last) for name, code, last in rows}
        (self._last,) = self._writer.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()
        rows = self._writer.execute("SELECT topic, partition, next FROM offsets")
        self._offsets = {(topic, partition): next_ for topic, partition, next_ in rows}
        pruned = self._writer.execute("SELECT value FROM meta WHERE name = 'pruned'").fetchone()
        self._pruned = 0 if pruned is None else int(pruned[0])

    def _commit(self, decided: Decided, offsets: Offsets) -> None:
        """Write what was decided, and the answers so far; then remember it."""
        clients = self._clients_after(decided)
        answers = dict(self._answers)
        packed_rows = [_encode(one.rows) for _, one in decided.accepted]
        rows = [
            (seq, one.kind, clients[one.client][0], one.client_seq, one.key, one.digest, packed)
            for (seq, one), packed in zip(decided.accepted, packed_rows, strict=True)
        ]
        write = self._writer.executemany
        self._writer.execute("BEGIN IMMEDIATE")
        write("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        changed = [(code, name, last) for name, (code, last) in clients.items()]
        write("INSERT OR REPLACE INTO clients VALUES (?, ?, ?)", changed)
        write("INSERT OR IGNORE INTO answers VALUES (?, ?)", answers.items())
        write(
            "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
            [(*place, next_) for place, next_ in offsets.items()],
        )
        self._writer.execute("COMMIT")
        self._last += len(rows)
        self._clients.update(clients)
        self._offsets = {**self._offsets, **offsets}
        for seq in answers:
            del self._answers[seq]

    def _clients_after(self, decided: Decided) -> dict[str, tuple[int, int]]:
        """(code, last sequence number) of the clients of new entries."""
        fresh = count(len(self._clients) + 1)
        clients: dict[str, tuple[int, int]] = {}
        for name in dict.fromkeys(entry.client for _, entry in decided.accepted):
            code, last = self._clients.get(name) or (next(fresh), 0)
            clients[name] = code, decided.clients.get(name, last)
        return clients

    def _known(self, client: str, key: str) -> tuple[int, bytes] | None:
        if client not in self._clients:
            return None
        found: tuple[int, bytes] | None = self._writer.execute(
            "SELECT seq, digest FROM entries WHERE client = ? AND key = ?",
            (self._clients[client][0], key),
        ).fetchone()
        return found

    def _answer(self, seq: int) -> bytes | None:
        if seq in self._answers:
            return self._answers[seq]
        query = "SELECT answer FROM answers WHERE seq = ?"
        row = self._writer.execute(query, (seq,)).fetchone()
        return None if row is None else row[0]

    def _records(self, after: int) -> Iterator[Record]:
        query = "SELECT seq, kind, rows FROM entries WHERE seq > ? ORDER BY seq LIMIT ?"
        with self._reading() as reader:
            # Page by page: a reader that stays holds up the emptying of the write-ahead log.
            while page := reader.execute(query, (after, PAGE)).fetchall():
                for seq, kind, rows in page:
                    if rows is None:
                        raise LogError(f"{self.path}: {was_pruned(seq)}")
                    yield Record(seq, kind, _decode(rows))
                after = page[-1][0]


def _locked(path: Path) -> IO[bytes]:
    """The lock of the only writer, held as long as the file is open."""
    place = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("ab")
    except OSError as error:
        raise LogError(f"{place}: cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise LogError(
            f"{path}: another server writes to this log; stop it, or name another file in "
            "[server.log]"
        ) from error
    return file


def _connected(path: Path) -> sqlite3.Connection:
    # Its thread may be another than the one that opens it; `_guard` keeps threads apart.
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        writer.execute("PRAGMA busy_timeout = 1000")
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA synchronous = FULL")
        writer.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        writer.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    except BaseException:
        writer.close()
        raise
    return writer


def _check(writer: sqlite3.Connection, path: Path, identity: str) -> None:
    """Make the tables of a new file; of another, see that it is the log of this book."""
    (application,) = writer.execute("PRAGMA application_id").fetchone()
    (tables,) = writer.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        writer.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA.split(";"):
            writer.execute(statement)
        about = [("format", FORMAT), ("identity", identity)]
        writer.executemany("INSERT INTO meta VALUES (?, ?)", about)
        writer.execute(f"PRAGMA application_id = {_APPLICATION}")
        writer.execute("COMMIT")
        _sync_folder(path.parent)
    elif application != _APPLICATION:
        raise InputError(f"{path}: a database that is no log; name another file in [server.log]")
    check_meta(dict(writer.execute("SELECT name, value FROM meta")), str(path), identity)


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file durable, too."""
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _told(error: Exception, path: Path) -> LogError:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return LogError(f"{path}: {error} ({name})")
