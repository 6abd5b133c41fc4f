"""The durable log in PostgreSQL, for a book that is to outlive its machine.

A session lock keeps other servers out. What became of a commit that was under way when the
connection was lost is looked up in the next session, which has the lock only once the old one has
ended: nothing is accepted twice, and nothing that was acknowledged is lost. A pooler that hands out
sessions by transaction cannot hold that lock: connect to the server itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import msgspec
import sqlalchemy as sa

from gpu_margin.records import Record
from gpu_margin.server import postgres_tables as tables
from gpu_margin.server.log import (
    FORMAT,
    PAGE,
    SLICE,
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
from gpu_margin.server.postgres_session import Sessions

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, list[Any]]).decode


class PostgresLog:
    """A `Log` in the schema that `url` connects to; its tables are made where there are none.

    `identity` says which book it is of. A lost connection is tried again for `patience` seconds.
    Raises `InputError` where it is the log of another book or the server does not sync its writes,
    `LogError` where another server writes to it or it cannot be reached.
    """

    def __init__(self, url: str, identity: str, patience: float = 10.0) -> None:
        self._sessions = Sessions(url, patience, self._settle)
        self._identity = identity
        self._guard = Lock()
        self._answers: dict[int, bytes] = {}
        # What a commit was to bring, from the moment it is sent until it is known to be done.
        self._doubt: tuple[Decided, Offsets] | None = None
        self._last, self._pruned = -1, 0
        self._clients: dict[str, int] = {}
        self._offsets: dict[tuple[str, int], int] = {}
        self._closed = False
        try:
            self._sessions.tried(self._recall)
        except BaseException:
            self._sessions.close()
            raise

    # ------------------------------------------------------------ writing

    def append(self, entries: Sequence[Entry], offsets: Offsets | None = None) -> list[Result]:
        """See `Log.append`."""
        with self._guard:
            self._take_back()
            return self._sessions.tried(lambda one: self._append(one, entries, offsets or {}))

    def answer(self, answers: Sequence[tuple[int, bytes]]) -> None:
        """See `Log.answer`."""
        for seq, answer in answers:
            self._answers.setdefault(seq, answer)

    def flush(self) -> None:
        """See `Log.flush`."""
        with self._guard:
            self._take_back()
            if self._answers:
                self._sessions.tried(lambda one: self._commit(one, Decided(), {}))

    def prune(self, before: int) -> int:
        """See `Log.prune`; autovacuum makes room of what was there."""
        with self._guard:
            self._take_back()
            first, end = self._pruned + 1, min(before - 1, self._last, self._pruned + SLICE)
            if first > end:
                return 0
            # Where the commit's outcome is not known, the same is done once more.
            self._pruned = self._sessions.tried(lambda one: tables.forget(one, first, end))
            return self._pruned - first + 1

    def close(self) -> None:
        """See `Log.close`."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._sessions.close()

    # ------------------------------------------------------------ reading

    def records(self, after: int) -> Iterator[Record]:
        """See `Log.records`."""
        return in_sequence(self._records(after), after)

    def unanswered(self, after: int) -> set[int]:
        """See `Log.unanswered`."""
        entries, answers = tables.entries.c, tables.answers.c
        query = (
            sa.select(entries.seq)
            .outerjoin(tables.answers, answers.seq == entries.seq)
            .where(entries.seq > after, answers.seq.is_(None))
        )
        with self._sessions.reading() as reader:
            found = set(reader.scalars(query))
        return found.difference(list(self._answers))

    def pruned(self) -> int:
        """See `Log.pruned`."""
        return self._pruned

    def last(self) -> int:
        """See `Log.last`."""
        return self._last

    def expected(self, client: str) -> int:
        """See `Log.expected`."""
        return self._clients.get(client, 0) + 1

    def offsets(self) -> dict[tuple[str, int], int]:
        """See `Log.offsets`."""
        return dict(self._offsets)

    # ------------------------------------------------------------ appending

    def _append(
        self, session: sa.Connection, entries: Sequence[Entry], offsets: Offsets
    ) -> list[Result]:
        if self._doubt is not None:
            # This is the second try: the first one's commit was carried out, as `_settle` saw.
            decided = self._doubt[0]
            self._remember(*self._doubt)
            return decided.results
        known = tables.known(session, [(one.client, one.key) for one in entries])
        kept = tables.answers_of(session, [seq for seq, _ in known.values()])
        decided = decide(
            entries,
            self._last,
            lambda client: self._clients.get(client, 0),
            lambda client, key: known.get((client, key)),
            lambda seq: self._answers.get(seq, kept.get(seq)),
        )
        if decided.accepted or offsets:
            self._commit(session, decided, offsets)
        else:
            session.rollback()
        return decided.results

    def _commit(self, session: sa.Connection, decided: Decided, offsets: Offsets) -> None:
        answers = dict(self._answers)
        tables.write(session, _rows(decided), decided.clients, answers, offsets)
        self._doubt = decided, offsets
        session.commit()
        self._remember(decided, offsets)
        for seq in answers:
            del self._answers[seq]

    def _remember(self, decided: Decided, offsets: Offsets) -> None:
        self._doubt = None
        self._last += len(decided.accepted)
        self._clients.update(decided.clients)
        self._offsets = {**self._offsets, **offsets}

    # ------------------------------------------------------------ sessions

    def _recall(self, session: sa.Connection) -> None:
        """Make the tables, see whose they are, and keep in memory what every append needs."""
        tables.make(session, {"format": FORMAT, "identity": self._identity})
        about = {row[0]: row[1] for row in session.execute(sa.select(tables.meta))}
        check_meta(about, self._sessions.place, self._identity)
        self._clients = {row[0]: row[1] for row in session.execute(sa.select(tables.clients))}
        rows = session.execute(sa.select(tables.offsets))
        self._offsets = {(topic, partition): next_ for topic, partition, next_ in rows}
        self._last, self._pruned = tables.last(session), int(about.get(tables.PRUNED, 0))
        session.rollback()

    def _settle(self, session: sa.Connection) -> None:
        """In a new session: whether the commit in doubt was carried out, and nothing else."""
        if self._last < 0:
            return
        doubted, self._doubt = self._doubt, None
        last = tables.last(session)
        if doubted is not None and last > self._last:
            wanted = [(one.client, one.key, one.digest) for _, one in doubted[0].accepted]
            if tables.names_after(session, self._last) == wanted:
                self._doubt = doubted
                return
        if last != self._last:
            raise LogError(
                f"{self._sessions.place}: another server wrote to this log; stop it and start anew"
            )

    def _take_back(self) -> None:
        """Undo a commit that may have been carried out though its caller was told that it was not.

        The caller's book has not taken it, and its client was told to come again.
        """
        if self._doubt is not None:
            self._sessions.tried(self._undo)

    def _undo(self, session: sa.Connection) -> None:
        if self._doubt is None:
            return
        decided, offsets = self._doubt
        before = {name: self._clients.get(name, 0) for name in decided.clients}
        tables.undo(session, self._last, before, self._offsets, list(offsets))
        session.commit()
        self._doubt = None

    def _records(self, after: int) -> Iterator[Record]:
        rows = tables.entries.c
        query = sa.select(rows.seq, rows.kind, rows.rows).order_by(rows.seq).limit(PAGE)
        with self._sessions.reading() as reader:
            while page := reader.execute(query.where(rows.seq > after)).all():
                # Not held open while the records are worked on.
                reader.rollback()
                for seq, kind, packed in page:
                    if packed is None:
                        raise LogError(f"{self._sessions.place}: {was_pruned(seq)}")
                    yield Record(seq, kind, _decode(packed))
                after = page[-1][0]


def _rows(decided: Decided) -> list[dict[str, Any]]:
    """New entries as rows of the table."""
    return [
        {
            "seq": seq,
            "kind": one.kind,
            "client": one.client,
            "client_seq": one.client_seq,
            "key": one.key,
            "digest": one.digest,
            "rows": _encode(one.rows),
        }
        for seq, one in decided.accepted
    ]
