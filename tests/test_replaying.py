"""Files of JSON lines: what is taken, what is a failure, and that nothing is taken twice."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_margin.failures import Failure, InputError
from gpu_margin.server import replaying
from gpu_margin.server.feeding import MOST_ROWS, BadMessage, rows_from, rows_of
from gpu_margin.server.log import Entry, Gap, LogError, Offsets, Repeated, digest
from gpu_margin.server.problems import Problem, busy
from gpu_margin.server.replaying import Group, Replayed, read_replay, replay_file
from gpu_margin.server.sqlite_log import SqliteLog


def fill(number: int, **more: Any) -> dict[str, Any]:
    row = {"fill_id": f"f{number}", "account_id": "A", "instrument_id": "X"}
    return {**row, "quantity": 1, "price": 2.5, **more}


MARK = {"instrument_id": "X", "field": "price", "value": 3, "time": 1_700_000_000}


def written(path: Path, *lines: Any) -> Path:
    path.write_text(
        "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    )
    return path


def groups(path: Path, *lines: Any, size: int = 1_000) -> list[Group]:
    return list(read_replay(written(path, *lines), size))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fills.jsonl"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    found = SqliteLog(tmp_path / "log", "the book")
    yield found
    found.close()


def into(log: SqliteLog) -> replaying.Submit:
    def submit(entries: Sequence[Entry], offsets: Offsets | None) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(log.append(entries, offsets))
        return future

    return submit


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("text", ["", "\n\n", "  \n"])
def test_a_file_without_lines(text: str, file: Path) -> None:
    file.write_text(text)
    assert list(read_replay(file)) == []


def test_the_shapes_of_a_line(file: Path) -> None:
    both = {name: [fill(1)[name], fill(2)[name]] for name in fill(1)}
    (group,) = groups(
        file,
        {"kind": "fills", **fill(1)},
        {"kind": "fills", "rows": [fill(1), fill(2, fee=1)]},
        {"kind": "fills", "rows": both},
        {"kind": "marks", **MARK},
        {"kind": "marks", "rows": [MARK]},
        {"kind": "marks", "rows": {name: [value] for name, value in MARK.items()}},
        {"kind": "fills", "client": "desk", "client_seq": 1, "key": "k", **fill(1)},
    )
    assert group.failures == [] and group.lines == [1, 2, 3, 4, 5, 6, 7]
    one, listed, columns, mark, *marks, named = group.entries
    assert one.rows == {
        "fill_id": ["f1"],
        "account_id": ["A"],
        "instrument_id": ["X"],
        "quantity": [1.0],
        "price": [2.5],
        "netting_set": [None],
        "fee": [0.0],
    }
    assert listed.rows["fee"] == [0.0, 1.0] and columns.rows["fill_id"] == ["f1", "f2"]
    assert mark.rows == marks[0].rows == marks[1].rows
    assert mark.rows["time"] == [1.7e9] and mark.kind == "marks"
    assert one.digest == digest("fills", one.rows)
    assert one.client.startswith("replay:") and (one.key, one.client_seq) == ("line-1", None)
    assert (named.client, named.client_seq, named.key) == ("desk", 1, "k")


BAD = {
    "{": None,
    "[]": None,
    "17": None,
    "null": None,
    '"text"': None,
    "{}": "kind",
    '{"kind": "trades"}': "kind",
    '{"kind": ["fills"]}': "kind",
    '{"kind": "fills"}': None,
    '{"kind": "fills", "rows": []}': None,
    '{"kind": "fills", "rows": {}}': "rows",
    '{"kind": "fills", "rows": 5}': "[0]",
    '{"kind": "fills", "rows": null}': "[0]",
    '{"kind": "fills", "rows": {"fill_id": "f"}}': "rows",
    '{"kind": "fills", "rows": {"fill_id": ["f"], "fee": []}}': "rows",
    json.dumps({"kind": "fills", "rows": [fill(1)], "fee": 1}): "fee",
    json.dumps({"kind": "fills", **fill(1, quantity="2")}): "quantity",
    json.dumps({"kind": "fills", **fill(1, quantity=10**400)}): "quantity",
    json.dumps({"kind": "fills", **fill(1, quantity=True)}): "quantity",
    json.dumps({"kind": "fills", **fill(1, qty=2)}): None,
    json.dumps({"kind": "marks", **fill(1)}): None,
    json.dumps({"kind": "fills", "rows": [fill(1), fill(2, price=None)]}): "[1].price",
    json.dumps({"kind": "fills", "client": "", **fill(1)}): "client",
    json.dumps({"kind": "fills", "client": 5, **fill(1)}): "client",
    json.dumps({"kind": "fills", "client": "x" * 257, **fill(1)}): "client",
    json.dumps({"kind": "fills", "key": "a\x00", **fill(1)}): "key",
    json.dumps({"kind": "fills", "key": "\ud800", **fill(1)}): None,
    json.dumps({"kind": "fills", "client_seq": 0, **fill(1)}): "client_seq",
    json.dumps({"kind": "fills", "client_seq": 1.0, **fill(1)}): "client_seq",
    json.dumps({"kind": "fills", "client_seq": True, **fill(1)}): "client_seq",
    json.dumps({"kind": "fills", "client_seq": 2**70, **fill(1)}): "client_seq",
    "[" * 50_000: None,
}


def test_bad_lines_are_failures_and_the_others_go_on(file: Path) -> None:
    (group,) = groups(file, {"kind": "fills", **fill(1)}, "", *BAD, {"kind": "fills", **fill(2)})
    assert [one.key for one in group.entries] == ["line-1", f"line-{len(BAD) + 3}"]
    found = {line: one.field for line, one in zip(BAD, group.failures, strict=True)}
    assert found == BAD
    assert [one.row for one in group.failures] == list(range(3, len(BAD) + 3))
    assert {one.source for one in group.failures} == {"fills.jsonl"}
    assert all(one.reason for one in group.failures)


def test_marks_of_the_future_are_bad_lines(file: Path) -> None:
    now = time.time()
    late = {**MARK, "time": 1e3 * now}
    soon = {"kind": "marks", **MARK, "time": now + 500.0}
    lines = [{"kind": "marks", **MARK}, {"kind": "marks", **late}, soon]
    lines.append({"kind": "marks", "rows": [MARK, late]})
    lines.append({"kind": "marks", **MARK, "time": "x"})
    (group,) = groups(file, *lines)
    # What is no time is for the book to refuse.
    assert group.lines == [1, 5]
    found = [(one.row, one.field) for one in group.failures]
    assert found == [(2, "time"), (3, "time"), (4, "[1].time")]
    assert all("milliseconds" in one.reason for one in group.failures)
    (group,) = read_replay(file, ahead_seconds=1_000.0)
    assert group.lines == [1, 3, 5]


def test_bytes_that_are_no_text(file: Path) -> None:
    file.write_bytes(b'{"kind": "fills", "key": "\xff"}\n\xff\n')
    (group,) = read_replay(file)
    assert len(group.failures) == 2 and group.entries == []


def test_a_line_that_is_too_long(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "_LONGEST", 400)
    wanted = {"kind": "fills", **fill(1)}
    long = {"kind": "fills", "rows": [fill(1), fill(2)] * 20}
    (group,) = groups(file, wanted, long, wanted)
    assert group.lines == [1, 3] and [one.row for one in group.failures] == [2]


def test_groups_are_of_the_size_asked_for(file: Path) -> None:
    lines = [{"kind": "fills", **fill(number)} if number % 3 else "{" for number in range(10)]
    found = groups(file, *lines, size=4)
    assert [len(one.lines) + len(one.failures) for one in found] == [4, 4, 2]
    assert [line for one in found for line in one.lines] == [2, 3, 5, 6, 8, 9]


@pytest.mark.parametrize("what", ["nothing", "a folder"])
def test_a_file_that_cannot_be_read(what: str, file: Path) -> None:
    if what == "a folder":
        file.mkdir()
    with pytest.raises(InputError, match="--replay"):
        list(read_replay(file))


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([*fill(1), *MARK, "kind", "rows", "client", "key", "client_seq", "z"]),
        inner | st.sampled_from(["fills", "marks"]),
        max_size=8,
    ),
))  # fmt: skip
def test_whatever_stands_in_a_line_is_an_entry_or_a_failure(thing: Any) -> None:
    line = json.dumps(thing).encode()
    with contextlib.suppress(BadMessage):
        entry = replaying._entry(line, 1, "replay:x", 60.0)
        assert len({len(column) for column in entry.rows.values()}) == 1
    with contextlib.suppress(BadMessage):
        assert rows_of("fills", line)["fill_id"]
    with contextlib.suppress(BadMessage):
        assert rows_from("fills", thing)["fill_id"]


def test_a_message_has_not_too_many_rows() -> None:
    assert len(rows_from("fills", [fill(1)] * MOST_ROWS)["fee"]) == MOST_ROWS
    with pytest.raises(BadMessage, match=f"at most {MOST_ROWS}"):
        rows_of("fills", json.dumps([fill(1)] * (MOST_ROWS + 1)).encode())


# ---------------------------------------------------------------- what becomes of them


def test_the_same_file_again_changes_nothing(file: Path, log: SqliteLog, tmp_path: Path) -> None:
    lines = [{"kind": "fills", **fill(number)} for number in range(25)]
    written(file, *lines)
    for _ in range(2):
        assert replay_file(file, into(log), size=10) == Replayed(25, 0)
        assert log.last() == 25
    copy = written(tmp_path / "copy", *lines)
    assert replay_file(copy, into(log)) == Replayed(25, 0) and log.last() == 25
    # Another file's lines are other requests.
    more = written(tmp_path / "more", *lines, {"kind": "fills", **fill(99)})
    assert replay_file(more, into(log)) == Replayed(26, 0) and log.last() == 51


def test_two_files_of_one_client(file: Path, log: SqliteLog, tmp_path: Path) -> None:
    written(file, {"kind": "fills", "client": "desk", **fill(1)})
    other = written(tmp_path / "other", {"kind": "fills", "client": "desk", **fill(2)})
    for path in (file, other, file):
        assert replay_file(path, into(log)) == Replayed(1, 0)
    assert log.last() == 2


def test_gaps_and_keys_used_again_are_failures(file: Path, log: SqliteLog) -> None:
    base = {"kind": "fills", "client": "desk"}
    written(
        file,
        {**base, "client_seq": 1, "key": "a", **fill(1)},
        "no line",
        {**base, "client_seq": 3, "key": "b", **fill(2)},
        {**base, "client_seq": 2, "key": "a", **fill(3)},
        {**base, "client_seq": 1, "key": "a", **fill(1)},
    )
    told: list[Failure] = []
    assert replay_file(file, into(log), told.append) == Replayed(2, 3)
    assert [one.row for one in told] == [2, 3, 4]
    assert told[1].reason == "the next client_seq of this client is 2"
    assert told[2].reason == "this key was used with another content"


def answering(*answers: Any) -> tuple[replaying.Submit, list[int]]:
    """A writer that gives these answers, one to each call; exceptions are raised."""
    calls: list[int] = []

    def submit(entries: Sequence[Entry], offsets: Offsets | None) -> Future[Any]:
        answer = answers[len(calls)]
        calls.append(len(entries))
        if isinstance(answer, Exception):
            raise answer
        future: Future[Any] = Future()
        future.set_result([answer] * len(entries))
        return future

    return submit, calls


def test_failed_rows_are_told_by_their_line(file: Path) -> None:
    bad = {"row": 1, "field": "price", "value": "-1", "reason": "negative price"}
    outcome = {"state_seq": 1, "applied": 0, "skipped": [], "failures": [bad]}
    submit, _ = answering(outcome)
    told: list[Failure] = []
    done = replay_file(written(file, "", {"kind": "fills", **fill(1)}), submit, told.append)
    assert done == Replayed(1, 1)
    assert told == [Failure("negative price", "fills.jsonl", 2, "price", "-1")]


def test_what_the_writer_is_too_busy_for_is_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "_PAUSE", 0.001)
    written(file, {"kind": "fills", **fill(1)})
    submit, calls = answering(busy("a"), [busy("b")][0], LogError("no disk"), Repeated(1, None))
    assert replay_file(file, submit) == Replayed(1, 0) and len(calls) == 4
    submit, calls = answering(Problem(422, "invalid", "no good"))
    with pytest.raises(Problem, match="no good"):
        replay_file(file, submit)


def test_it_stops_when_told(file: Path) -> None:
    written(file, {"kind": "fills", **fill(1)})
    stop = Event()
    stop.set()
    submit, calls = answering(Gap(1))
    assert replay_file(file, submit, stop=stop) == Replayed(0, 0) and calls == []
