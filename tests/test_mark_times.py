"""Marks of the future: which ones are found, and that none gets in by any way."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest
from kafka_case import Mock
from running_case import Running, problem, running
from serve_process import small_book
from tracker_case import Row, mark

from gpu_margin.records import Record
from gpu_margin.server import mark_times
from gpu_margin.server.board import mark_rows
from gpu_margin.server.feeding import BadMessage
from gpu_margin.server.mark_times import WAY_OUT, check_marks, first_ahead, seconds_of

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mark_times.time, "time", lambda: NOW)


# ---------------------------------------------------------------- which are found

TIMES: list[tuple[Any, float]] = [
    (NOW, NOW),
    (1, 1.0),
    ("2023-11-14T22:13:20Z", NOW),
    (" 2023-11-14T22:13:20 ", NOW),
    ("2023-11-15T00:13:20+02:00", NOW),
    ("1700000000000", 1e3 * NOW),
    ("2023-11-14", NOW - 80_000.0),
    *((one, math.nan) for one in ("", "x", "inf", "nan", "1e999", None, math.inf, math.nan)),
]


@pytest.mark.parametrize("given", [TIMES, [*TIMES[:5]], TIMES[:2], TIMES[-2:], [], *zip(TIMES)])
def test_times_are_read_as_the_book_reads_them(given: list[tuple[Any, float]]) -> None:
    found = seconds_of([one for one, _ in given]).tolist()
    assert found == pytest.approx([seconds for _, seconds in given], nan_ok=True, rel=1e-15)


@pytest.mark.parametrize(
    ("times", "row"),
    [
        ([], None),
        ([NOW + 60.0], None),
        ([NOW, NOW + 60.001, 1e300], 1),
        ([math.nan, math.inf, -math.inf, 1e3 * NOW], 3),
        ([math.nan, math.inf], None),
        (["2023-11-14T22:14:20Z", "x", None, "inf"], None),
        (["x", NOW, "2023-11-14T22:14:21Z", 1e30], 2),
        (["2023-11-14T22:14:21-00:01"], 0),
        (["2023-11-14T22:14:21+00:01"], None),
        (["1700000000000"], 0),
        (["9999-12-31T23:59:59Z"], 0),
    ],
)
@pytest.mark.usefixtures("clock")
def test_the_first_time_that_is_too_far_ahead(times: list[Any], row: int | None) -> None:
    found = first_ahead(times, 60.0)
    assert (None if found is None else found.row) == row
    if found is not None:
        assert str(times[found.row]) in found.detail and "60 s" in found.detail
        assert "2023-11-14T22:13:20+00:00" in found.detail


@pytest.mark.usefixtures("clock")
def test_how_far_is_a_setting() -> None:
    assert first_ahead([NOW + 0.5], 0.0) and not first_ahead([NOW], 0.0)
    assert not first_ahead([NOW + 59_999.0], 6e4) and not first_ahead([1e308], 1e308)
    found = first_ahead(["0" * 500 + "1e12"], 60.0)
    assert found is not None and len(found.detail) < 200


@pytest.mark.usefixtures("clock")
def test_a_message_is_told_the_place_and_the_way_out() -> None:
    for times, place in (([1e3 * NOW], "time"), ([NOW, 1e3 * NOW], "[1].time")):
        with pytest.raises(BadMessage, match="1700000000000") as caught:
            check_marks({"time": times}, 60.0)
        assert caught.value.field == place and caught.value.reason.endswith(WAY_OUT)
    check_marks({"time": [NOW]}, 60.0)


def test_many_rows_take_no_time() -> None:
    now = time.time()
    numbers = [now - place for place in range(20_000)]
    text = datetime.fromtimestamp(now, UTC).isoformat()
    for times, most in ((numbers, 0.02), ([text] * 20_000, 0.05)):
        taken = []
        for _ in range(5):
            begun = time.perf_counter()
            assert first_ahead(times, 60.0) is None
            taken.append(time.perf_counter() - begun)
        assert min(taken) < most


def test_the_board_takes_no_time_that_the_book_refuses() -> None:
    """Infinity would never grow stale."""
    times = ["inf", "nan", "x", math.inf, math.nan, None, "7", 8.0]
    rows = {"field": ["price"] * 8, "value": [1.0] * 8, "time": times, "factor": [None] * 8}
    rows["instrument_id"] = [f"{place}" for place in range(8)]
    assert [row[4] for row in mark_rows(Record(1, "marks", rows))] == [7.0, 8.0]


# ---------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(small_book(tmp_path_factory.mktemp("marks"))) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as found:
        yield found


def in_json(rows: list[Row]) -> dict[str, Any]:
    return {"json": {"marks": rows}}


def in_msgpack(rows: list[Row]) -> dict[str, Any]:
    headers = {"Content-Type": "application/msgpack"}
    return {"content": msgspec.msgpack.encode({"marks": rows}), "headers": headers}


def in_arrow(rows: list[Row]) -> dict[str, Any]:
    stream = io.BytesIO()
    pl.DataFrame(rows, schema_overrides={"factor": pl.String}).write_ipc_stream(stream)
    headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
    return {"content": stream.getvalue(), "headers": headers}


def sent(client: httpx.Client, seq: int, body: dict[str, Any], key: str = "") -> httpx.Response:
    named = {"Client-Sequence": str(seq), "Idempotency-Key": key or f"{time.time_ns()}"}
    return client.post("/v1/marks", **{**body, "headers": {**body.get("headers", {}), **named}})


def prices(*times: Any) -> list[Row]:
    return [mark("FUTX", "price", 100.0 + place, one) for place, one in enumerate(times)]


@pytest.mark.parametrize("form", [in_json, in_msgpack, in_arrow])
def test_milliseconds_are_refused_and_nothing_is_logged(
    form: Callable[[list[Row]], dict[str, Any]], server: Running, client: httpx.Client
) -> None:
    log, now = server.house.log, time.time()
    left, seq = log.last(), log.expected("local")
    late = datetime.fromtimestamp(now + 3600, UTC)
    numbers = (now, now - 1.0, now, 1e3 * now, 1e6 * now)
    texts = ["2024-01-01", "x", "2024-01-01", late.isoformat(), "y"]
    for times in (numbers, texts):
        found = problem(sent(client, seq, form(prices(*times))), 422)
        assert found["field"] == "marks[3].time" and found["way_out"] == WAY_OUT
        assert str(times[3]) in found["detail"]
    assert log.last() == left and log.expected("local") == seq
    # The same number serves for what is right, and what is only unreadable is told row by row.
    taken = sent(client, seq, form(prices(now, now + 1.0)))
    assert taken.status_code == 200 and taken.json()["failures"] == [], taken.text
    taken = sent(client, seq + 1, form(prices("x", "2030", f"{now:.6f}"))).json()
    assert [one["row"] for one in taken["failures"]] == [1] and log.last() == left + 2


def test_a_time_of_an_arrow_table_may_be_a_timestamp(server: Running, client: httpx.Client) -> None:
    seq = server.house.log.expected("local")
    late = datetime.fromtimestamp(time.time() + 3600, UTC)
    found = problem(
        sent(client, seq, in_arrow(prices(datetime(2024, 1, 1, tzinfo=UTC), late))), 422
    )
    assert found["field"] == "marks[1].time"


def test_what_was_taken_is_answered_again(server: Running, client: httpx.Client) -> None:
    seq, body = server.house.log.expected("local"), in_json(prices(time.time() + 50.0))
    first = sent(client, seq, body, "again")
    assert first.status_code == 200, first.text
    again = sent(client, seq, body, "again")
    assert again.json() == first.json()


def test_the_gate_stays_closed_after_milliseconds(tmp_path: Path) -> None:
    """All that an account needs is marked, an hour ago: old is old, and new is not to be had."""
    gate = '\n[gate]\nmodel = "es"\nstale_seconds = 60.0\n'
    order = {"account_id": "A", "instrument_id": "FUTX", "quantity": 1.0}
    with running(small_book(tmp_path, gate=gate)) as server, server.client() as client:
        assert client.post("/v1/orders/check", json=order).json()["stale_marks"]
        factors = [mark(None, "last", 1.0, 1e3 * time.time(), factor=one) for one in ("X", "Y")]
        problem(sent(client, 1, in_json([*prices(1e3 * time.time()), *factors])), 422)
        found = client.post("/v1/orders/check", json=order).json()
        assert found["stale_marks"] and found["action"] == "refuse"


# ---------------------------------------------------------------- by the setting


def test_the_setting_is_that_of_the_feeds_too(tmp_path: Path) -> None:
    """Kafka and HTTP here, a file that is replayed in `test_serve_command`."""
    mock, now = Mock(), time.time()
    toml = f"""
[server.limits]
mark_ahead_seconds = 1000.0
[server.kafka]
brokers = "{mock.brokers}"
marks_topic = "marks"
"""
    sent_marks = [mark("FUTX", "price", 100.0, one) for one in (1e3 * now, now + 500.0, now + 2e3)]
    mock.send("marks", *sent_marks)
    with running(small_book(tmp_path, toml)) as server, server.client() as client:
        log, ends = server.house.log, time.monotonic() + 60
        while log.offsets() != {("marks", 0): 3}:
            assert time.monotonic() < ends
            time.sleep(0.02)
        (record,) = log.records(0)
        assert record.rows["time"] == [now + 500.0]
        problem(sent(client, 1, in_json(prices(now + 2e3))), 422)
        assert sent(client, 1, in_json(prices(now + 600.0))).json()["applied"] == 1
        schema = client.get("/openapi.json").json()["components"]["schemas"]["Mark"]
        assert "1000 s ahead" in json.dumps(schema)
