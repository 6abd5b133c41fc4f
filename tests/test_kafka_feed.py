"""The feed from Kafka, on librdkafka's own mock of a cluster."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from kafka_case import Mock, Writer, fill, needed
from pydantic import ValidationError

from gpu_margin.failures import Failure, InputError
from gpu_margin.server import kafka_feed
from gpu_margin.server.kafka_feed import KafkaFeed, KafkaSettings
from gpu_margin.server.log import Entry, LogError, Offsets, Reused
from gpu_margin.server.problems import Problem, busy
from gpu_margin.server.sqlite_log import SqliteLog

BOOK = "the book"


@pytest.fixture
def mock() -> Mock:
    return Mock()


def mark(value: float) -> dict[str, Any]:
    return {"factor": "X", "field": "last", "value": value, "time": "2024-01-02T03:04:05Z"}


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    found = Writer(SqliteLog(tmp_path / "log", BOOK))
    yield found
    found.close()
    found.log.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_feed, "_PAUSES", (0.02, 0.1))


def settings(mock: Mock, **more: Any) -> KafkaSettings:
    wanted = {"brokers": mock.brokers, "fills_topic": "fills", "marks_topic": "marks", **more}
    return KafkaSettings.model_validate(wanted)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def ids(log: SqliteLog) -> list[str]:
    return [one for record in log.records(0) for one in record.rows.get("fill_id", [])]


# ---------------------------------------------------------------- what comes in


def test_fills_and_marks_come_in_order(mock: Mock, writer: Writer) -> None:
    mock.send("fills", fill(1), [fill(2), fill(3, fee=1.5, netting_set="s")], partition=0)
    mock.send("fills", fill(4), partition=1)
    mock.send("marks", mark(7.0), [mark(8.0)])
    feed = KafkaFeed(settings(mock), writer.submit, writer.log)
    feed.start()
    until(lambda: writer.log.last() == 5)
    feed.stop()
    assert writer.log.offsets() == {("fills", 0): 2, ("fills", 1): 1, ("marks", 0): 2}
    records = list(writer.log.records(0))
    assert sorted(ids(writer.log)) == ["f1", "f2", "f3", "f4"]
    (two,) = [one for one in records if one.count == 2]
    assert two.rows["fee"] == [0.0, 1.5] and two.rows["netting_set"] == [None, "s"]
    marks = [one.rows["value"] for one in records if one.kind == "marks"]
    assert marks == [[7.0], [8.0]]
    assert feed.status.accepted == 5 and not feed.status.bad


def test_it_goes_on_while_messages_come(mock: Mock, writer: Writer) -> None:
    mock.send("fills", fill(0))
    feed = KafkaFeed(settings(mock, marks_topic=None, max_batch=3), writer.submit, writer.log)
    feed.start()
    for number in range(1, 8):
        mock.send("fills", fill(number))
        until(lambda wanted=number + 1: writer.log.last() == wanted)  # type: ignore[misc]
    mock.send("fills", *(fill(number) for number in range(8, 40)))
    until(lambda: writer.log.last() == 40)
    until(lambda: feed.status.behind == 0 and feed.status.accepted == 40)
    assert feed.status.connected
    feed.stop()
    assert ids(writer.log) == [f"f{number}" for number in range(40)]


BAD = {
    "empty": (b"", None),
    "nothing": (None, None),
    "no JSON": (b"{", None),
    "no UTF-8": (b'{"fill_id": "\xff"}', None),
    "a number": (b"17", None),
    "no rows": (b"[]", None),
    "a missing field": (b'{"fill_id": "f"}', None),
    "an unknown field": (json.dumps(fill(1, qty=1)).encode(), None),
    "a wrong type": (json.dumps(fill(1, quantity="1")).encode(), "quantity"),
    "not a number": (json.dumps(fill(1, price=float("nan"))).encode(), None),
    "too large": (json.dumps(fill(1, price=1e31)).encode(), "price"),
    "an empty id": (json.dumps([fill(1, account_id="")]).encode(), "[0].account_id"),
    "very deep": (b"[" * 100_000, "[0]"),
}


def test_bad_messages_are_reported_and_passed_over(mock: Mock, writer: Writer) -> None:
    mock.send("fills", fill(1), *(raw for raw, _ in BAD.values()), fill(2))
    reported: list[Failure] = []
    feed = KafkaFeed(settings(mock, marks_topic=None), writer.submit, writer.log, reported.append)
    feed.start()
    until(lambda: writer.log.last() == 2)
    feed.stop()
    assert ids(writer.log) == ["f1", "f2"]
    assert feed.status.bad == len(BAD) and list(feed.failures) == reported
    places = range(1, len(BAD) + 1)
    assert [one.row for one in reported] == list(places)
    assert {one.source for one in reported} == {"kafka:fills:0"}
    found = {name: one.field for name, one in zip(BAD, reported, strict=True)}
    assert found == {name: named for name, (_, named) in BAD.items()}
    assert writer.log.offsets() == {("fills", 0): len(BAD) + 2}


def test_marks_of_the_future_are_passed_over(mock: Mock, writer: Writer) -> None:
    now = time.time()
    late = {**mark(2.0), "time": 1e3 * now}
    mock.send("marks", mark(1.0), late, [mark(3.0), late], {**mark(4.0), "time": now + 50.0})
    mock.send("marks", {**mark(5.0), "time": "x"})
    feed = KafkaFeed(settings(mock, fills_topic=None), writer.submit, writer.log)
    feed.start()
    until(lambda: writer.log.last() == 3 and feed.status.accepted == 3)
    feed.stop()
    # What is no time is for the book to refuse.
    values = [one.rows["value"] for one in writer.log.records(0)]
    assert values == [[1.0], [4.0], [5.0]] and writer.log.offsets() == {("marks", 0): 5}
    assert [(one.row, one.field) for one in feed.failures] == [(1, "time"), (2, "[1].time")]
    assert feed.status.bad == 2 and all("milliseconds" in one.reason for one in feed.failures)


def test_bad_messages_alone_are_not_read_again(mock: Mock, writer: Writer) -> None:
    mock.send("fills", b"{", b"{")
    feed = KafkaFeed(settings(mock, marks_topic=None), writer.submit, writer.log)
    feed.start()
    until(lambda: writer.log.offsets() == {("fills", 0): 2})
    feed.stop()
    mock.send("fills", fill(1))
    feed = KafkaFeed(settings(mock, marks_topic=None), writer.submit, writer.log)
    feed.start()
    until(lambda: writer.log.last() == 1)
    feed.stop()
    assert feed.status.bad == 0


# ---------------------------------------------------------------- exactly once


@pytest.mark.parametrize("when", ["before", "after"])
def test_restarted_in_the_middle_each_message_counts_once(
    when: str, mock: Mock, writer: Writer
) -> None:
    """The writer never answers, before or after the log has it; then everything starts anew."""
    for partition in range(3):
        numbers = range(partition, 300, 3)
        mock.send("fills", *(fill(number) for number in numbers), partition=partition)

    def hang(call: int, now: str) -> None:
        if call == 4 and now == when:
            raise LogError("the server dies here")

    writer.fault = hang
    first = KafkaFeed(settings(mock, marks_topic=None, max_batch=40), _once(writer), writer.log)
    first.start()
    until(lambda: writer.calls >= 4)
    first.stop()
    assert 0 < writer.log.last() < 300
    again = KafkaFeed(settings(mock, marks_topic=None, max_batch=40), writer.submit, writer.log)
    again.start()
    until(lambda: writer.log.last() >= 300)
    until(lambda: again.status.behind == 0)
    again.stop()
    found = ids(writer.log)
    assert len(found) == 300 and set(found) == {f"f{number}" for number in range(300)}
    for partition in range(3):
        own = [name for name in found if int(name[1:]) % 3 == partition]
        assert own == [f"f{number}" for number in range(partition, 300, 3)]
    assert again.status.repeated == 0  # the offsets were in the same transaction


def _once(writer: Writer) -> kafka_feed.Submit:
    """Submits until something goes wrong; from then on nothing is ever answered."""
    dead: list[bool] = []

    def submit(entries: Sequence[Entry], offsets: Offsets | None) -> Future[Any]:
        future: Future[Any] = Future()
        if not dead:
            try:
                future.set_result(writer.submit(entries, offsets).result())
            except LogError:
                dead.append(True)
        return future

    return submit


@pytest.mark.parametrize("fault", ["raises", "fails", "is busy", "fails after the log"])
def test_what_the_writer_cannot_take_is_tried_again(fault: str, mock: Mock, writer: Writer) -> None:
    mock.send("fills", *(fill(number) for number in range(10)))
    calls: list[int] = []

    def submit(entries: Sequence[Entry], offsets: Offsets | None) -> Future[Any]:
        calls.append(len(entries))
        future: Future[Any] = Future()
        if len(calls) % 3 == 0:
            return writer.submit(entries, offsets)
        if fault == "raises":
            raise busy("too many")
        if fault == "fails after the log":
            writer.submit(entries, offsets).result()
        if fault == "is busy":
            future.set_result([busy("not now")] * len(entries))
        else:
            future.set_exception(LogError("no disk"))
        return future

    feed = KafkaFeed(settings(mock, marks_topic=None, max_batch=4), submit, writer.log)
    feed.start()
    until(lambda: feed.status.accepted + feed.status.repeated == 10)
    feed.stop()
    assert ids(writer.log) == [f"f{number}" for number in range(10)]
    assert feed.status.fault is None and len(calls) >= 6


def test_what_is_refused_for_good_is_reported(mock: Mock, writer: Writer) -> None:
    mock.send("fills", fill(1), fill(2), fill(3))
    refused = [Problem(422, "invalid", "no such book"), Reused(1), {"state_seq": 3}]
    answers = iter(refused)

    def submit(entries: Sequence[Entry], offsets: Offsets | None) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result([next(answers) for _ in entries])
        return future

    feed = KafkaFeed(settings(mock, marks_topic=None), submit, writer.log)
    feed.start()
    until(lambda: feed.status.bad + feed.status.accepted == 3)
    feed.stop()
    reasons = [one.reason for one in feed.failures]
    assert reasons == ["no such book", "another content before"]


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
from kafka_case import SqliteLog, Writer
from gpu_margin.server.kafka_feed import KafkaFeed, KafkaSettings
log = SqliteLog({path!r}, "the book")
settings = KafkaSettings(brokers={brokers!r}, fills_topic="fills", max_batch=7)
feed = KafkaFeed(settings, Writer(log).submit, log)
feed.start()
while True:
    print(log.last(), flush=True)
    time.sleep(0.001)
"""


def test_killed_at_any_moment_each_message_counts_once(mock: Mock, tmp_path: Path) -> None:
    chance, path = random.Random(5), tmp_path / "log"
    count = 3_000
    mock.send("fills", *(fill(number) for number in range(count)))
    tests = str(Path(__file__).parent)
    code = KILLED.format(tests=tests, path=str(path), brokers=mock.brokers)
    last = 0
    while last < count:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        goal = min(last + chance.randrange(1, 1_500), count)
        while int(process.stdout.readline()) < goal:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        log = SqliteLog(path, BOOK)
        assert log.last() >= goal and ids(log) == [f"f{number}" for number in range(log.last())]
        assert log.offsets() == {("fills", 0): log.last()}
        last = log.last()
        log.close()


# ---------------------------------------------------------------- what can go wrong


def test_a_broker_that_is_not_there_is_tried_again(
    writer: Writer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed()
    monkeypatch.setattr(kafka_feed, "_METADATA_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    nowhere = KafkaSettings(brokers=f"127.0.0.1:{port}", fills_topic="fills")
    feed = KafkaFeed(nowhere, writer.submit, writer.log)
    feed.start()
    until(lambda: feed.status.fault is not None)
    time.sleep(1.0)
    assert not feed.status.connected and feed._thread.is_alive()
    feed.stop(10.0)
    assert not feed._thread.is_alive()
    # It is said, and not said again and again.
    said = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert 0 < len(said) < 40


def test_a_broker_that_goes_away_is_noticed(
    mock: Mock, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_feed, "_METADATA_SECONDS", 0.3)
    mock.send("fills", fill(1))
    feed = KafkaFeed(settings(mock, marks_topic=None), writer.submit, writer.log)
    feed.start()
    until(lambda: feed.status.accepted == 1 and feed.status.connected)
    mock.end()
    until(lambda: not feed.status.connected and feed.status.fault is not None)
    feed.stop(15.0)
    assert not feed._thread.is_alive()


def test_a_topic_that_comes_later_is_found(mock: Mock, writer: Writer) -> None:
    feed = KafkaFeed(settings(mock), writer.submit, writer.log)
    feed.start()
    mock.send("marks", mark(1.0))
    mock.send("fills", fill(1))
    until(lambda: writer.log.last() == 2)
    feed.stop()


def test_messages_that_were_thrown_away_are_no_silence(mock: Mock, writer: Writer) -> None:
    """The log is further than the topic goes: as after the topic was made anew."""
    mock.send("fills", fill(1))
    writer.log.append([], {("fills", 0): 1_000})
    feed = KafkaFeed(settings(mock, marks_topic=None), writer.submit, writer.log)
    feed.start()
    until(lambda: feed.status.fault is not None and "ffset" in feed.status.fault)
    feed.stop()
    assert writer.log.last() == 0 and writer.log.offsets() == {("fills", 0): 1_000}


def test_it_stops_while_the_writer_hangs(mock: Mock, writer: Writer) -> None:
    mock.send("fills", fill(1))
    asked: list[bool] = []

    def submit(entries: Sequence[Entry], offsets: Offsets | None) -> Future[Any]:
        asked.append(True)
        return Future()

    feed = KafkaFeed(settings(mock, marks_topic=None), submit, writer.log)
    feed.start()
    until(lambda: bool(asked))
    feed.stop()
    assert not feed._thread.is_alive() and len(asked) == 1
    assert writer.log.offsets() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"brokers": ""},
        {"brokers": "b:1"},
        {"brokers": "b:1", "fills_topic": "t", "marks_topic": "t"},
        {"brokers": "b:1", "fills_topic": "t", "max_batch": 0},
        {"brokers": "b:1", "fills_topic": "t", "topic": "t"},
    ],
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KafkaSettings.model_validate(wrong)


def test_a_missing_package_is_named(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    wanted = KafkaSettings(brokers="b:1", fills_topic="t")
    with pytest.raises(
        InputError, match=r"confluent-kafka is missing; install gpu-margin\[kafka\]"
    ):
        KafkaFeed(wanted, writer.submit, writer.log)
