"""Changes: the log first, then the book, then the answers; what waits together goes together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from log_case import entry

from gpu_margin.records import Outcome, Record
from gpu_margin.server.log import Entry, Log, LogError
from gpu_margin.server.problems import Problem
from gpu_margin.server.sqlite_log import SqliteLog
from gpu_margin.server.writer import Writer


class Watched:
    """A real log that says in `told` what is done, and fails or waits as it is asked to."""

    def __init__(self, log: Log, told: list[Any]) -> None:
        self._log, self.told = log, told
        self.error: Exception | None = None
        self.go, self.busy = threading.Event(), threading.Event()
        self.go.set()

    def append(self, entries: Sequence[Entry], offsets: Any = None) -> Any:
        self.busy.set()
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        found = self._log.append(entries, offsets)
        self.told.append(("logged", [one.key for one in entries], offsets))
        return found

    def answer(self, answers: Any) -> None:
        self.told.append(("answered", [seq for seq, _ in answers]))
        self._log.answer(answers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


class Case:
    """A writer on a log in a file, and a book that only counts."""

    def __init__(self, folder: Path, depth: int = 100, most: int = 20_000) -> None:
        self.told: list[Any] = []
        self.log = Watched(SqliteLog(folder / "log.sqlite", "book"), self.told)
        self.booked: list[Record] = []
        self.error: BaseException | None = None
        log: Any = self.log
        self.writer = Writer(log, self._apply, depth, most, done=self._done, changed=self._changed)

    def _apply(self, records: list[Record]) -> list[Outcome]:
        self.told.append(("booked", [one.seq for one in records]))
        if self.error is not None:
            raise self.error
        self.booked += records
        return [Outcome(one.seq, one.count) for one in records]

    def _done(self, entries: int, rows: int, logging: float, applying: float) -> None:
        assert logging >= 0 and applying >= 0
        self.told.append(("done", entries, rows))

    def _changed(self) -> None:
        self.told.append("changed")

    @contextmanager
    def held(self) -> Iterator[None]:
        """The writer is in the middle of a commit, of a first entry, in this block."""
        self.log.busy.clear()
        self.log.go.clear()
        self.first = self.submit("held")
        assert self.log.busy.wait(30)
        yield
        self.log.go.set()

    def submit(self, *keys: str, **more: Any) -> Future[Any]:
        return self.writer.submit([entry(key, **more) for key in keys])


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    found = Case(tmp_path)
    found.writer.start()
    yield found
    found.log.go.set()
    found.writer.stop()
    found.log.close()


def answer(seq: int) -> dict[str, Any]:
    return {"state_seq": seq, "applied": 1, "skipped": [], "failures": []}


def refused(future: Future[Any], status: int) -> Problem:
    found = future.result(30)[0]
    assert isinstance(found, Problem) and found.status == status
    return found


def test_the_log_comes_before_the_book_and_the_book_before_the_answer(case: Case) -> None:
    assert case.submit("a").result(30) == [answer(1)]
    case.writer.stop()
    expected = [("logged", ["a"], None), ("booked", [1]), ("answered", [1]), ("done", 1, 1)]
    assert case.told == [*expected, "changed"]


def test_what_queued_during_a_commit_goes_together_in_its_order(case: Case) -> None:
    with case.held():
        futures = [case.submit(*keys) for keys in ("a", "bc", "d")]
        assert case.writer.waiting == 3
    assert [one.result(30) for one in futures] == [
        [answer(2)],
        [answer(3), answer(4)],
        [answer(5)],
    ]
    assert [one[1] for one in case.told if one[0] == "logged"] == [["held"], list("abcd")]
    assert [one[1] for one in case.told if one[0] == "booked"] == [[1], [2, 3, 4, 5]]


def test_a_group_has_about_as_many_rows_as_it_may(tmp_path: Path) -> None:
    case = Case(tmp_path, most=2)
    case.writer.start()
    with case.held():
        futures = [case.submit(key) for key in "abcde"]
    assert [one.result(30)[0]["state_seq"] for one in futures] == [2, 3, 4, 5, 6]
    groups = [one[1] for one in case.told if one[0] == "logged"]
    assert groups == [["held"], ["a", "b"], ["c", "d"], ["e"]]
    case.writer.stop()
    case.log.close()


def test_offsets_of_all_changes_go_with_the_group(case: Case) -> None:
    with case.held():
        case.writer.submit([entry("a")], {("t", 0): 5})
        last = case.writer.submit([entry("b")], {("t", 0): 6, ("t", 1): 2})
    last.result(30)
    assert case.log.offsets() == {("t", 0): 6, ("t", 1): 2}


def test_a_repeated_key_gets_the_first_answer_also_within_a_group(case: Case) -> None:
    with case.held():
        one, again, other = case.submit("a"), case.submit("a"), case.submit("a", quantity=2.0)
    assert one.result(30) == again.result(30) == [answer(2)]
    assert refused(other, 422).field == "Idempotency-Key"
    assert case.submit("a").result(30) == [answer(2)]
    assert len(case.booked) == 2


def test_a_gap_says_what_is_expected(case: Case) -> None:
    found = refused(case.submit("a", client_seq=2), 409)
    assert found.extra == {"expected": 1} and found.field == "Client-Sequence"
    assert not case.booked
    assert case.submit("a", client_seq=1).result(30) == [answer(1)]


def test_where_the_log_fails_nothing_is_booked_and_one_may_try_again(case: Case) -> None:
    case.log.error = LogError("the disk is full")
    found = refused(case.submit("a"), 503)
    assert "the disk is full" in found.detail and "Retry-After" in found.headers
    assert not case.booked and case.log.last() == 0
    case.log.error = None
    assert case.submit("a").result(30) == [answer(1)]


def test_too_many_are_refused_at_once_and_the_others_answered(tmp_path: Path) -> None:
    case = Case(tmp_path, depth=2)
    case.writer.start()
    with case.held():
        futures = [case.submit("a"), case.submit("b")]
        with pytest.raises(Problem) as found:
            case.submit("c")
        assert found.value.status == 503 and "Retry-After" in found.value.headers
    assert [one.result(30) for one in futures] == [[answer(2)], [answer(3)]]
    assert case.submit("c").result(30) == [answer(4)]
    case.writer.stop()
    case.log.close()


def test_stop_takes_and_answers_what_is_queued_and_nothing_more(case: Case) -> None:
    with case.held():
        futures = [case.submit(key) for key in "abc"]
        called = case.writer.call(lambda: len(case.booked))
        stopping = threading.Thread(target=case.writer.stop)
        stopping.start()
        while not case.writer._stopping:
            pass
        for ask in (lambda: case.submit("d"), lambda: case.writer.call(int)):
            with pytest.raises(Problem, match="stopping"):
                ask()
    stopping.join(30)
    assert [one.result(0)[0]["state_seq"] for one in futures] == [2, 3, 4]
    assert called.result(0) == 4


def test_a_call_runs_between_the_changes_before_and_behind_it(case: Case) -> None:
    with case.held():
        before = case.submit("a")
        seen = case.writer.call(lambda: [one.seq for one in case.booked])
        behind = case.submit("b")
    assert seen.result(30) == [1, 2]
    assert before.result(30) == [answer(2)] and behind.result(30) == [answer(3)]


def test_what_a_call_raises_is_its_callers(case: Case) -> None:
    with pytest.raises(KeyError):
        case.writer.call(lambda: {}["no"]).result(30)
    assert case.submit("a").result(30) == [answer(1)]


def test_who_has_gone_before_the_commit_changes_nothing_and_hurts_nobody(case: Case) -> None:
    with case.held():
        gone, other = case.submit("gone"), case.submit("a")
        called = case.writer.call(lambda: 1)
        assert gone.cancel() and called.cancel()
    assert other.result(30) == [answer(2)]
    assert case.submit("b").result(30) == [answer(3)]
    assert [one[1] for one in case.told if one[0] == "logged"] == [["held"], ["a"], ["b"]]


class Panic(BaseException):
    """As a panic of polars: no `Exception`."""


@pytest.mark.parametrize("error", [ValueError("oh no"), LogError("no longer there"), Panic("oh")])
def test_where_the_book_fails_after_the_log_nobody_waits_for_ever(
    case: Case, error: BaseException
) -> None:
    """Also where it is the log that fails then: the log has what the book has not."""
    with case.held():
        case.error = error
        waiting: list[Future[Any]] = [case.submit("a")]
        waiting.append(case.writer.call(lambda: 1))
        waiting.append(case.submit("b"))
    for one in [case.first, *waiting]:
        with pytest.raises(Problem, match="the book could not be changed") as found:
            one.result(30)
        assert found.value.status == 503
    assert case.writer.broken
    more: list[Callable[[], Any]] = [lambda: case.submit("c"), lambda: case.writer.call(int)]
    for ask in more:
        with pytest.raises(Problem, match="the book could not be changed"):
            ask()
    case.writer.stop()
    assert not case.booked and case.log.last() == 1


def test_many_threads_get_their_own_answers(case: Case) -> None:
    found: dict[str, Any] = {}

    def one(name: str) -> None:
        for number in range(50):
            key = f"{name}{number}"
            found[key] = case.submit(key, client_seq=number + 1, client=name).result(30)[0]

    threads = [threading.Thread(target=one, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    order = sorted(found, key=lambda key: found[key]["state_seq"])
    assert [record.rows["fill_id"] for record in case.booked] == [[key] for key in order]
    assert sorted(one["state_seq"] for one in found.values()) == list(range(1, 201))
