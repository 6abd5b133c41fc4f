"""How a book comes back: what is kept of it, and how it gets from there to where its log is."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from gpu_margin.failures import InputError
from gpu_margin.loading import Loaded
from gpu_margin.records import Outcome, Record
from gpu_margin.server.answering import Answering
from gpu_margin.server.log import Log
from gpu_margin.server.writer import packed

# Beside a snapshot: its board of marks.
BOARD = ".marks"
_SNAPSHOT = "book-{:015d}.snapshot"
# Records that are applied together where their answers are wanted.
_AGAIN = 1000


def identity(loaded: Loaded) -> str:
    """Which book a log belongs to: a hash over what the inputs hold, not over models."""
    digests = {name: described["sha256"] for name, described in loaded.inputs.items()}
    facts = [str(loaded.config.valuation_date), loaded.config.currency, digests]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------ snapshots


def snapshot_path(state: Path, sequence: int) -> Path:
    """The file of the book as it is after a record."""
    return state / _SNAPSHOT.format(sequence)


def sequence_of(snapshot: Path) -> int:
    """The last record that a snapshot has, by its name."""
    return int(snapshot.stem.removeprefix("book-"))


def snapshots(state: Path) -> list[Path]:
    """Those in the folder, the newest first."""
    return sorted(state.glob("book-*.snapshot"), reverse=True)


def tidy(state: Path, last: int) -> None:
    """See that the snapshots belong to the log, and take away what a crash left behind.

    `last` is the log's last record: none is further than it, for the log is written first. Raises
    `InputError` where one is.
    """
    for newest in snapshots(state)[:1]:
        sequence = sequence_of(newest)
        if sequence > last:
            raise InputError(
                f"{newest}: the snapshot of record {sequence}, but the log ends with record {last}:"
                " it is not the log of this state; put the right one back, or move the snapshots "
                "away to go on without what only they know"
            )
    for left in state.glob(".book-*.tmp"):
        left.unlink(missing_ok=True)
    for board in state.glob(f"book-*{BOARD}"):
        if not board.with_suffix(".snapshot").exists():
            board.unlink(missing_ok=True)


# ------------------------------------------------------------ the log behind them


def check_whole(log: Log, state: Path) -> None:
    """See that a book can begin with the inputs alone; `InputError` where the log was pruned."""
    if log.pruned():
        raise InputError(
            f"{state}: no snapshot there can be used (warnings say why), and the log was pruned "
            f"up to record {log.pruned()}: put a good snapshot back, or begin a new state; "
            "with [server.log] prune = false a log keeps all rows"
        )


def replay(answering: Answering, log: Log) -> tuple[dict[int, Outcome], int]:
    """Bring the book to where its log is: how many rows that took.

    Answers that were not kept in time are made again: outcomes by sequence number.
    """
    book, found, rows = answering.book, dict[int, Outcome](), 0
    missing = log.unanswered(book.sequence)
    first = min(missing, default=log.last() + 1)
    marks: list[Record] = []

    def told() -> None:
        """The board is told of marks once the book has them: they may change its codes."""
        answering.took(marks)
        marks.clear()

    def seen() -> Iterator[Record]:
        nonlocal rows
        before = itertools.takewhile(lambda one: one.seq < first, log.records(book.sequence))
        for one in before:
            rows += one.count
            yield one
            # Records of one kind go together: those before this one are in the book by now.
            if marks and one.kind != "marks":
                told()
            if one.kind == "marks":
                marks.append(one)

    book.replay(seen())
    told()
    for group in _groups(log.records(first - 1), _AGAIN):
        outcomes = book.apply(group)
        answering.took(group)
        mine = [one for one in outcomes if one.state_seq in missing]
        log.answer([(one.state_seq, packed(one)) for one in mine])
        found.update({one.state_seq: one for one in mine})
        rows += sum(one.count for one in group)
    log.flush()
    return found, rows


def _groups(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    while group := list(itertools.islice(records, size)):
        yield group
