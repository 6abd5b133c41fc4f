"""The durable log, of whatever kind: what is accepted, and what is there afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgres_case
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from log_case import LogMachine, crash, entry

from gpu_margin.failures import ConfigError, InputError
from gpu_margin.records import Record
from gpu_margin.server.log import (
    PAGE,
    SLICE,
    SLICE_BYTES,
    Accepted,
    Entry,
    Gap,
    Log,
    LogError,
    LogSettings,
    Repeated,
    Reused,
    digest,
    open_log,
)
from gpu_margin.server.sqlite_log import SqliteLog

Open = Callable[..., Log]
BOOK = "the book"


def fresh_postgres() -> Open:
    """A way to open a log in a new schema, again and again."""
    from gpu_margin.server.postgres_log import PostgresLog

    url = postgres_case.cluster().url()
    return lambda identity=BOOK: PostgresLog(url, identity)


@pytest.fixture(params=["sqlite", "postgres"])
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Open]:
    if request.param == "postgres":
        postgres_case.needed()
        return fresh_postgres
    numbers = iter(range(10_000))

    def fresh_sqlite() -> Open:
        path = tmp_path / f"{next(numbers)}.sqlite"
        return lambda identity=BOOK: SqliteLog(path, identity)

    return fresh_sqlite


@pytest.fixture
def open_(fresh: Callable[[], Open]) -> Iterator[Open]:
    """A way to open a log; what is left open is closed."""
    inner = fresh()
    logs = []

    def opened(identity: str = BOOK) -> Log:
        logs.append(inner(identity))
        return logs[-1]

    yield opened
    for log in logs:
        log.close()


# ---------------------------------------------------------------- what is accepted


def test_an_empty_log(open_: Open) -> None:
    log = open_()
    assert (log.last(), log.expected("desk"), log.offsets()) == (0, 1, {})
    assert log.append([]) == []
    assert list(log.records(0)) == [] and log.unanswered(0) == set()
    log.answer([])
    log.flush()
    assert log.prune(5) == 0


def test_what_becomes_of_entries(open_: Open) -> None:
    log = open_()
    assert log.append([entry("a", 1), entry("b", 2), entry("a", 1, "other")]) == [
        Accepted(1),
        Accepted(2),
        Accepted(3),
    ]
    log.answer([(1, b"one"), (1, b"not the first answer")])
    assert log.append([entry("a", 7)]) == [Repeated(1, b"one")]
    assert log.append([entry("b", 2)]) == [Repeated(2, None)]
    assert log.append([entry("b", 3, quantity=2.0)]) == [Reused(2)]
    assert log.append([entry("c", 4)]) == [Gap(3)]
    assert log.append([entry("c", 2)]) == [Gap(3)]
    assert log.append([entry("b", 3, kind="marks")]) == [Reused(2)]
    assert (log.last(), log.expected("desk"), log.expected("other")) == (3, 3, 2)


def test_within_one_call_later_entries_see_earlier_ones(open_: Open) -> None:
    log = open_()
    group = [
        entry("a", 1),
        entry("a", 1),
        entry("a", 2, quantity=9.0),
        entry("b", 3),
        entry("b", 2),
        entry("c", None),
        entry("d", 3),
    ]
    expected = [
        Accepted(1),
        Repeated(1, None),
        Reused(1),
        Gap(2),
        Accepted(2),
        Accepted(3),
        Accepted(4),
    ]
    assert log.append(group) == expected
    assert [one.rows["fill_id"] for one in log.records(0)] == [["a"], ["b"], ["c"], ["d"]]
    assert list(log.records(3)) == [Record(4, "fills", entry("d").rows)]


def test_it_is_all_there_after_a_restart(open_: Open) -> None:
    log = open_()
    log.append([entry("a", 1), entry("b", 2)], {("fills", 0): 17, ("marks", 1): 2})
    log.answer([(1, b"\x00one")])
    log.append([entry("x", None, "feed")], {("fills", 0): 18})
    log.answer([(2, b"two")])
    log.close()
    log.close()
    log = open_()
    assert (log.last(), log.expected("desk"), log.expected("feed")) == (3, 3, 1)
    assert log.offsets() == {("fills", 0): 18, ("marks", 1): 2}
    assert log.append([entry("a", 1), entry("b", 1), entry("x", 5, "feed"), entry("c", 3)]) == [
        Repeated(1, b"\x00one"),
        Repeated(2, b"two"),
        Repeated(3, None),
        Accepted(4),
    ]
    assert log.unanswered(0) == {3, 4} and log.unanswered(3) == {4}


def test_offsets_alone_are_kept(open_: Open) -> None:
    log = open_()
    assert log.append([], {("fills", 3): 5}) == []
    crash(log)
    assert open_().offsets() == {("fills", 3): 5}


def test_values_come_back_as_they_were(open_: Open) -> None:
    log = open_()
    rows: dict[str, list[Any]] = {
        "text": ["", "ü€😀", "\x00", None],
        "number": [0.1, -0.0, 5e-324, 1.7976931348623157e308],
        "whole": [1, -(2**63), 2**64 - 1, True],
    }
    one = entry("a")
    one = type(one)("desk", None, "k" * 256, digest("marks", rows), "marks", rows)
    assert log.append([one]) == [Accepted(1)]
    (back,) = log.records(0)
    assert repr(back.rows) == repr(rows) and back.kind == "marks"


@pytest.mark.parametrize("key", ["\ud800", "a\ud800"])
def test_a_key_that_is_no_text_refuses_the_call_and_nothing_else(open_: Open, key: str) -> None:
    log = open_()
    bad = entry("b")
    bad = type(bad)("desk", None, key, bad.digest, "fills", bad.rows)
    with pytest.raises(LogError):
        log.append([entry("a"), bad])
    assert log.last() == 0
    assert log.append([entry("a")]) == [Accepted(1)]


def test_answers_that_are_kept_take_no_more_memory(open_: Open) -> None:
    log: Any = open_()
    log.append([entry("a")])
    log.answer([(1, b"one")])
    log.append([entry("a")])
    assert log._answers == {1: b"one"}  # nothing was written
    log.append([entry("b")])
    assert log._answers == {}
    log.answer([(2, b"two")])
    log.flush()
    assert log._answers == {}


def test_many_pages_of_records(open_: Open) -> None:
    log = open_()
    count = 2 * PAGE + 7
    keys = [str(number) for number in range(count)]
    log.append([entry(key) for key in keys])
    assert [one.rows["fill_id"][0] for one in log.records(0)] == keys
    seqs = [one.seq for one in log.records(PAGE - 1)]
    assert seqs == list(range(PAGE, count + 1))
    assert pruned(log, PAGE + 3) == PAGE + 2 == log.pruned()
    assert log.prune(PAGE + 3) == 0
    assert sum(1 for _ in log.records(PAGE + 2)) == count - PAGE - 2
    with pytest.raises(LogError, match=f"record {PAGE + 2} was pruned; restore a snapshot"):
        list(log.records(PAGE + 1))
    with pytest.raises(LogError, match="record 1 was pruned; restore a snapshot"):
        list(log.records(0))
    # Keys stay.
    assert log.append([entry("0"), entry("1", quantity=5.0)]) == [Repeated(1, None), Reused(2)]
    assert pruned(log, 10**9) == count - PAGE - 2
    log.close()
    assert open_().last() == count


def pruned(log: Log, before: int) -> int:
    """How many entries are forgotten, a slice at a time."""
    return sum(iter(lambda: log.prune(before), 0))


def test_what_is_forgotten_at_once_is_little(open_: Open) -> None:
    log = open_()
    log.append([entry(str(number)) for number in range(SLICE + 5)])
    log.append([long("x", 0.4), long("y", 0.4), long("z", 1.1), entry("small")])
    assert log.prune(10**9) == SLICE
    assert log.pruned() == SLICE
    assert log.prune(10**9) == 7  # the small ones, x and y
    assert log.prune(10**9) == 1  # z alone, though it is longer than a slice
    assert log.prune(SLICE + 8) == 0
    assert [one.rows["fill_id"] for one in log.records(SLICE + 8)] == [["small"]]


def long(key: str, slices: float) -> Entry:
    """An entry whose rows are so many slices long."""
    one = entry(key)
    one.rows["fill_id"] = ["x" * int(slices * SLICE_BYTES)]
    return one


def test_what_was_forgotten_is_known_after_a_crash(open_: Open) -> None:
    log = open_()
    log.append([entry(key, number) for number, key in enumerate("abcd", 1)], {("t", 0): 4})
    log.answer([(1, b"one"), (4, b"four")])
    log.flush()
    assert log.prune(3) == 2
    crash(log)
    log = open_()
    assert (log.pruned(), log.last(), log.expected("desk")) == (2, 4, 5)
    assert log.offsets() == {("t", 0): 4}
    assert [one.seq for one in log.records(2)] == [3, 4]
    again = [entry("a", 1), entry("b", 2, quantity=5.0), entry("d", 4)]
    assert log.append(again) == [Repeated(1, b"one"), Reused(2), Repeated(4, b"four")]
    assert log.unanswered(0) == {2, 3}
    assert log.prune(10**9) == 2


def test_reading_goes_on_while_others_write(open_: Open) -> None:
    log = open_()
    log.append([entry("a")])
    records = log.records(0)
    assert next(records).seq == 1
    log.append([entry("b")])
    assert [one.seq for one in records] == [2]


def test_another_book_is_refused(open_: Open) -> None:
    open_("a").close()
    with pytest.raises(InputError, match="the log of another book"):
        open_("b")
    open_("a")


def test_a_second_server_is_refused(
    open_: Open, monkeypatch: pytest.MonkeyPatch, fresh: Callable[[], Open]
) -> None:
    if "postgres" in repr(fresh):
        from gpu_margin.server import postgres_session

        monkeypatch.setattr(postgres_session, "_LOCK_PATIENCE", 0.2)
    log = open_()
    with pytest.raises(LogError, match="another server writes to this log; stop it"):
        open_()
    assert log.append([entry("a")]) == [Accepted(1)]
    log.close()
    assert open_().last() == 1


def test_any_sequence_of_calls_is_as_the_model(fresh: Callable[[], Open]) -> None:
    machine = type("Machine", (LogMachine,), {"fresh": staticmethod(fresh)})
    few = "postgres" in repr(fresh)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25 if few else 100,
            stateful_step_count=12 if few else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# ---------------------------------------------------------------- digests


def test_a_digest_is_that_of_the_content() -> None:
    rows: dict[str, list[Any]] = {"a": [1.0, 2.0], "b": ["x", None]}
    same = {"b": ["x", None], "a": [1.0, 2.0], "c": [None, None]}
    assert digest("fills", rows) == digest("fills", same)
    assert len(digest("fills", {})) == 32


@given(
    st.dictionaries(
        st.sampled_from("ab"),
        st.lists(st.none() | st.floats(allow_nan=False) | st.text()),
        max_size=2,
    ),
    st.dictionaries(
        st.sampled_from("ab"),
        st.lists(st.none() | st.floats(allow_nan=False) | st.text()),
        max_size=2,
    ),
)
def test_digests_differ_where_content_does(
    one: dict[str, list[Any]], other: dict[str, list[Any]]
) -> None:
    def said(rows: dict[str, list[Any]]) -> str:
        count = len(next(iter(rows.values()), []))
        some = {name: column for name, column in sorted(rows.items()) if set(column) - {None}}
        return repr((count, some))

    assert (digest("fills", one) == digest("fills", other)) == (said(one) == said(other))
    assert digest("fills", one) != digest("marks", one)


# ---------------------------------------------------------------- which log


def test_a_url_says_which_log(tmp_path: Path) -> None:
    for url, place in ((None, "log.sqlite"), ("sqlite:///sub/x.db", "sub/x.db")):
        open_log(LogSettings(url=url), tmp_path, BOOK).close()
        assert (tmp_path / place).exists()
    absolute = tmp_path / "elsewhere.db"
    open_log(LogSettings(url=f"sqlite:///{absolute}"), Path("/nowhere"), BOOK).close()
    assert absolute.exists()
    for url in ("mysql://x", "sqlite:///"):
        with pytest.raises(ConfigError, match="is no kind of log"):
            open_log(LogSettings(url=url), tmp_path, BOOK)


@pytest.mark.parametrize("package", ["sqlalchemy", "psycopg"])
def test_a_missing_package_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("gpu_margin.server.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    if package == "psycopg":
        pytest.importorskip("sqlalchemy")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"package {package}.* is missing; install"):
        open_log(LogSettings(url="postgresql://u:secret@h/d"), tmp_path, BOOK)
