"""The durable log: what was accepted, in which order, and what clients were told of it.

An entry is one request that changes the book. It is accepted once: its client's key finds it again,
and the client's own sequence numbers leave no gap. `decide` says what becomes of entries; a log
(`sqlite_log`, `postgres_log`) keeps them, and nothing is returned before it would survive a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
from pydantic import Field

from gpu_margin.failures import ConfigError, GpuMarginError, InputError
from gpu_margin.records import Kind, Record
from gpu_margin.settings import Settings

# Where feeds are: the next offset to be read, by topic and partition.
Offsets = Mapping[tuple[str, int], int]

FORMAT = "1"
# Records that are fetched at once: long enough to be fast, too short to hold anything up.
PAGE = 10_000
# What is forgotten at once: changes wait meanwhile. Long rows cost by their bytes, short ones each.
SLICE, SLICE_BYTES = 500, 1 << 20

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql+psycopg://", "postgresql://")
_FILE = "log.sqlite"

_canonical = msgspec.msgpack.Encoder(order="sorted")


class LogError(GpuMarginError):
    """The log could not be read or written; of what was to be appended, nothing was accepted."""


class LogSettings(Settings):
    """`[server.log]`: where the durable log is."""

    url: str | None = Field(
        default=None,
        description="postgresql+psycopg://user@host/database or sqlite:///FILE (a relative one "
        "counts from the folder of the state); by default a SQLite file in that folder",
    )
    prune: bool | None = Field(
        default=None,
        strict=True,
        description="forget rows that all kept snapshots have, once there are two; by default only "
        "without a url: a log of another place is to outlive the snapshots",
    )

    @property
    def prunes(self) -> bool:
        """Whether rows are to be forgotten."""
        return self.url is None if self.prune is None else self.prune


@dataclass(frozen=True, slots=True)
class Entry:
    """One request to change the book: `rows` are columns by name, values that JSON can say.

    `key` is unique for the `client`, `digest` (32 bytes, from `digest`) is that of its content.
    `client_seq` is the client's own number: 1, 2, ...; None where the client has no such.
    """

    client: str
    client_seq: int | None
    key: str
    digest: bytes
    kind: Kind
    rows: dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The entry is the log's `seq`-th: 1, 2, ..."""

    seq: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """The entry was accepted before; `answer` is what its client was told, None if not known."""

    seq: int
    answer: bytes | None


@dataclass(frozen=True, slots=True)
class Gap:
    """The client's sequence number is not the `expected` one; nothing was accepted."""

    expected: int


@dataclass(frozen=True, slots=True)
class Reused:
    """The key is that of another entry, `seq`, with other content; nothing was accepted."""

    seq: int


Result = Accepted | Repeated | Gap | Reused


class Log(Protocol):
    """A book's durable log. One process has it, and one thread appends; any thread may read."""

    def append(self, entries: Sequence[Entry], offsets: Offsets | None = None) -> list[Result]:
        """What becomes of each entry, in order; all of it durable when it returns.

        One call is one transaction: later entries see earlier ones, and `offsets` are kept
        with them. Raises `LogError` where it cannot be done: then nothing of it was.
        """

    def answer(self, answers: Sequence[tuple[int, bytes]]) -> None:
        """Remember what was answered to entries (seq, answer); the first answer of each counts.

        Durable with the next `append` that writes, `flush` or `close`.
        """

    def flush(self) -> None:
        """Make the answers durable; raises `LogError`."""

    def unanswered(self, after: int) -> set[int]:
        """Entries after `after` of which no answer is known, as after a crash."""

    def records(self, after: int) -> Iterator[Record]:
        """Entries after `after` in their order, a few at a time.

        Raises `LogError` where some of them were pruned or are missing.
        """

    def prune(self, before: int) -> int:
        """Forget the rows of entries before `before`, which snapshots have; how many they were.

        The oldest first and only so many that it takes no time; 0 where nothing is left to forget.
        Keys and answers stay: what is repeated gets its answer for ever. The room is used again
        for new entries, a file or table need not become smaller. For the thread that appends.
        """

    def pruned(self) -> int:
        """The last entry whose rows were forgotten, 0 where all are there."""

    def last(self) -> int:
        """The sequence number of the last entry, 0 where there is none."""

    def expected(self, client: str) -> int:
        """The next sequence number of a client."""

    def offsets(self) -> dict[tuple[str, int], int]:
        """Where feeds are."""

    def close(self) -> None:
        """Flush, and let another process have the log."""


def open_log(settings: LogSettings, folder: Path, identity: str) -> Log:
    """The log of the book `identity`: at the URL of the settings, else a SQLite file in `folder`.

    Raises `ConfigError` for a URL of another kind, `InputError` where a package is missing or the
    log is that of another book, and `LogError` where it cannot be had.
    """
    from gpu_margin.server.sqlite_log import SqliteLog

    url = settings.url or _SQLITE + _FILE
    if url.startswith(_SQLITE) and url != _SQLITE:
        return SqliteLog(folder / url.removeprefix(_SQLITE), identity)
    if not url.startswith(_POSTGRES):
        raise ConfigError(
            f"server.log.url: {url.partition(':')[0]!r} is no kind of log; it must begin with "
            f"{_POSTGRES[0]} or {_SQLITE}"
        )
    try:
        from gpu_margin.server.postgres_log import PostgresLog

        return PostgresLog(_POSTGRES[0] + url.partition("://")[2], identity)
    except ModuleNotFoundError as error:
        raise InputError(
            f"server.log.url: the package {error.name} is missing; "
            "install gpu-margin[postgres], or leave the URL out for a SQLite file"
        ) from error


def digest(kind: Kind, rows: Mapping[str, Sequence[Any]]) -> bytes:
    """SHA-256 of what the rows say: whatever the order of columns, and without empty ones."""
    count = len(next(iter(rows.values()), ()))
    said = {name: column for name, column in rows.items() if any(map(_is_there, column))}
    return hashlib.sha256(_canonical.encode((kind, count, said))).digest()


def _is_there(value: object) -> bool:
    return value is not None


@dataclass(frozen=True)
class Decided:
    """What becomes of entries: `results` of all, the `accepted` ones as (seq, entry).

    `clients` has the last sequence numbers of the clients that have a new one.
    """

    results: list[Result] = field(default_factory=list)
    accepted: list[tuple[int, Entry]] = field(default_factory=list)
    clients: dict[str, int] = field(default_factory=dict)


def decide(
    entries: Sequence[Entry],
    last: int,
    last_of: Callable[[str], int],
    known: Callable[[str, str], tuple[int, bytes] | None],
    answer: Callable[[int], bytes | None],
) -> Decided:
    """What becomes of entries after a log whose last entry is `last`.

    `last_of` a client is its last sequence number, 0 without; `known` (client, key) is the
    sequence number and digest of an entry of the log; `answer` that to one of its entries.
    """
    decided = Decided()
    new: dict[tuple[str, str], tuple[int, bytes]] = {}
    for entry in entries:
        name = entry.client, entry.key
        before = new.get(name) or known(*name)
        if before is not None:
            same = before[1] == entry.digest
            decided.results.append(
                Repeated(before[0], answer(before[0])) if same else Reused(before[0])
            )
            continue
        if entry.client_seq is not None:
            so_far = decided.clients.get(entry.client)
            expected = (last_of(entry.client) if so_far is None else so_far) + 1
            if entry.client_seq != expected:
                decided.results.append(Gap(expected))
                continue
            decided.clients[entry.client] = expected
        last += 1
        new[name] = last, entry.digest
        decided.accepted.append((last, entry))
        decided.results.append(Accepted(last))
    return decided


def in_sequence(records: Iterator[Record], after: int) -> Iterator[Record]:
    """The records as they are; raises `LogError` where one is missing."""
    seq = after
    for record in records:
        seq += 1
        if record.seq != seq:
            raise LogError(f"the log is damaged: record {seq} is missing; restore a copy of it")
        yield record


def was_pruned(seq: int) -> str:
    """What to say of a record that somebody needs though it is no longer there."""
    return f"record {seq} was pruned; restore a snapshot"


def check_meta(meta: Mapping[str, str], place: str, identity: str) -> None:
    """Raise `InputError` where a log is of another format or book."""
    if meta.get("format") != FORMAT:
        raise InputError(f"{place}: a log of format {meta.get('format')}, not {FORMAT}")
    if meta.get("identity") != identity:
        raise InputError(
            f"{place}: the log of another book ({meta.get('identity')}, not {identity}); "
            "name another log in [server.log], or put the inputs back as they were"
        )
