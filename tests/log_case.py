"""A log by plain loops, entries to try on a log, and what is common to logs of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gpu_margin.records import Kind, Record
from gpu_margin.server.log import (
    Accepted,
    Entry,
    Gap,
    Log,
    LogError,
    Repeated,
    Result,
    Reused,
    digest,
)

CLIENTS = ("desk", "kafka:fills:0", "Ünï ćlient")


def entry(
    key: str,
    client_seq: int | None = None,
    client: str = "desk",
    quantity: float = 1.0,
    kind: Kind = "fills",
) -> Entry:
    rows: dict[str, list[Any]] = {"fill_id": [key], "quantity": [quantity], "netting_set": [None]}
    return Entry(client, client_seq, key, digest(kind, rows), kind, rows)


@dataclass
class Model:
    """What a log should be: what was accepted, and the answers that are kept or may be lost."""

    entries: list[Entry] = field(default_factory=list)
    kept: dict[int, bytes] = field(default_factory=dict)
    pending: dict[int, bytes] = field(default_factory=dict)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    pruned: int = 0

    def append(self, entries: Sequence[Entry], offsets: dict[tuple[str, int], int]) -> list[Result]:
        before = len(self.entries)
        results = [self.take(one) for one in entries]
        self.offsets.update(offsets)
        if len(self.entries) > before or offsets:
            self.flush()
        return results

    def take(self, new: Entry) -> Result:
        for place, old in enumerate(self.entries):
            if (old.client, old.key) == (new.client, new.key):
                if old.digest != new.digest:
                    return Reused(place + 1)
                return Repeated(place + 1, {**self.pending, **self.kept}.get(place + 1))
        if new.client_seq not in (None, self.expected(new.client)):
            return Gap(self.expected(new.client))
        self.entries.append(new)
        return Accepted(len(self.entries))

    def expected(self, client: str) -> int:
        own = (one for one in self.entries if one.client == client)
        return 1 + sum(one.client_seq is not None for one in own)

    def flush(self) -> None:
        self.kept = {**self.pending, **self.kept}
        self.pending = {}

    def records(self) -> list[Record]:
        return [Record(seq, one.kind, one.rows) for seq, one in enumerate(self.entries, 1)]

    def prune(self, before: int) -> int:
        already, self.pruned = self.pruned, max(self.pruned, min(before - 1, len(self.entries)))
        return self.pruned - already

    def unanswered(self, after: int) -> set[int]:
        answered = self.pending.keys() | self.kept.keys()
        return set(range(after + 1, len(self.entries) + 1)) - answered


def crash(log: Any) -> None:
    """Leave a log as a process does that is killed: nothing more is written."""
    if hasattr(log, "_sessions"):
        log._sessions.close()
    else:
        log._writer.close()
        log._lock.close()


GROUPS = st.lists(
    st.tuples(
        st.sampled_from(CLIENTS),
        st.sampled_from("abcdefgh"),
        st.sampled_from([None, -1, 0, 0, 0, 1]),  # from the expected number; None: without one
        st.sampled_from([1.0, 1.0, 1.0, 2.0]),
    ),
    max_size=5,
)
OFFSETS = st.dictionaries(
    st.tuples(st.sampled_from(["fills", "marks"]), st.integers(0, 1)), st.integers(0, 99)
)


class LogMachine(RuleBasedStateMachine):
    """Whatever is done to a log, it is what the model says; `fresh` gives a way to open one."""

    fresh: Callable[[], Callable[[], Log]]

    @initialize()
    def begin(self) -> None:
        self.open = type(self).fresh()
        self.log = self.open()
        self.model = Model()

    @rule(group=GROUPS, offsets=OFFSETS | st.just({}))
    def append(
        self, group: list[tuple[str, str, int | None, float]], offsets: dict[tuple[str, int], int]
    ) -> None:
        ahead = dict.fromkeys(CLIENTS, 0)
        entries = []
        for client, key, off, quantity in group:
            expected = self.model.expected(client) + ahead[client]
            entries.append(entry(key, None if off is None else expected + off, client, quantity))
            ahead[client] += off == 0
        wanted = self.model.append(entries, offsets)
        assert self.log.append(entries, offsets or None) == wanted

    @rule(number=st.integers(1, 20), answer=st.binary(max_size=9))
    def answer(self, number: int, answer: bytes) -> None:
        if self.model.entries:
            seq = 1 + number % len(self.model.entries)
            self.log.answer([(seq, answer)])
            self.model.pending.setdefault(seq, answer)

    @rule()
    def flush(self) -> None:
        self.log.flush()
        self.model.flush()

    @rule()
    def close(self) -> None:
        self.log.close()
        self.model.flush()
        self.log = self.open()

    @rule()
    def crash(self) -> None:
        crash(self.log)
        self.model.pending = {}
        self.log = self.open()

    @rule(after=st.integers(0, 20))
    def read(self, after: int) -> None:
        if after < self.model.pruned:
            with pytest.raises(LogError, match=f"record {after + 1} was pruned"):
                list(self.log.records(after))
        else:
            assert list(self.log.records(after)) == self.model.records()[after:]
        assert self.log.unanswered(after) == self.model.unanswered(after)

    @rule(before=st.integers(0, 12))
    def prune(self, before: int) -> None:
        assert self.log.prune(before) == self.model.prune(before)

    @invariant()
    def as_the_model(self) -> None:
        if not hasattr(self, "log"):
            return
        assert self.log.last() == len(self.model.entries)
        assert self.log.pruned() == self.model.pruned
        assert self.log.offsets() == self.model.offsets
        for client in CLIENTS:
            assert self.log.expected(client) == self.model.expected(client)

    def teardown(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
