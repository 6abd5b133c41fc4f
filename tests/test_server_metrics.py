"""What is measured, against hand-made figures and Prometheus' own histogram; logs as JSON."""

from __future__ import annotations

import io
import json
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import kafka_case
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka_case import Mock
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from running_case import running
from serve_process import small_book

from gpu_margin.server import logs
from gpu_margin.server.metrics import Metrics, Tally


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """Samples by name and labels' values, read back by Prometheus' own parser."""
    return {
        (sample.name.removeprefix("gpu_margin_"), tuple(sorted(sample.labels.values()))): (
            sample.value
        )
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_a_new_server_has_measured_nothing() -> None:
    found = samples(Metrics())
    assert found["errors_total", ()] == 0 and found["event_streams", ()] == 0
    assert found["log_fsync_seconds_count", ()] == 0
    assert not any(name == "requests_total" for name, _ in found)


def test_requests_are_counted_by_route_and_class() -> None:
    metrics = Metrics()
    for status in (200, 200, 201, 422, 499, 503):
        metrics.seen("/v1/whatif", status, 0.003)
    metrics.seen("/v1/fills", 200, 0.2)
    found = samples(metrics)
    assert found["requests_total", ("/v1/whatif", "2xx")] == 3
    assert found["requests_total", ("/v1/whatif", "4xx")] == 2
    assert found["requests_total", ("/v1/whatif", "5xx")] == 1
    assert found["request_seconds_count", ("/v1/whatif",)] == 6
    assert found["request_seconds_sum", ("/v1/whatif",)] == pytest.approx(0.018)
    assert found["request_seconds_bucket", ("/v1/whatif", "0.0025")] == 0
    assert found["request_seconds_bucket", ("/v1/whatif", "0.005")] == 6
    assert found["request_seconds_bucket", ("+Inf", "/v1/fills")] == 1


def test_batches_are_measured_by_stage() -> None:
    metrics = Metrics()
    metrics.reader_batch("whatif", 12, 0.004, 0.001)
    metrics.reader_batch("whatif", 1, 0.0, 0.001)
    metrics.writer_group(3, 500, 0.002, 0.01)
    found = samples(metrics)
    assert found["batch_size_sum", ("whatif",)] == 13
    assert found["batch_size_count", ("whatif",)] == 2
    assert found["stage_seconds_count", ("queue", "whatif")] == 13
    assert found["stage_seconds_sum", ("device", "whatif")] == pytest.approx(0.013)
    assert found["log_group_size_sum", ()] == 3 and found["log_group_rows_sum", ()] == 500
    assert found["log_fsync_seconds_sum", ()] == 0.002 and found["apply_seconds_sum", ()] == 0.01


def test_what_others_know_is_asked_when_it_is_wanted() -> None:
    metrics, depth = Metrics(), [3]
    metrics.queue("reader", lambda: depth[0])
    metrics.watch("state_seq", "The last change taken", lambda: float(depth[0]))
    metrics.watch("mark_age_seconds", "Of the oldest mark", lambda: None)
    assert samples(metrics)["queue_depth", ("reader",)] == 3
    depth[0] = 7
    found = samples(metrics)
    assert found["queue_depth", ("reader",)] == found["state_seq", ()] == 7
    assert ("mark_age_seconds", ()) not in found


def test_a_feed_from_kafka_is_measured(tmp_path: Path) -> None:
    mock = Mock()
    kafka = f'[server.kafka]\nbrokers = "{mock.brokers}"\nfills_topic = "fills"\n'
    good = kafka_case.fill(1, instrument_id="FUTX")
    mock.send("fills", good, b"{", kafka_case.fill(2, instrument_id="FUTX"), b"[]", b"1")
    with running(small_book(tmp_path, kafka)) as server, server.client() as client:
        ends = time.monotonic() + 60

        def until(wanted: dict[str, float]) -> None:
            while any(_sample(client, name) != value for name, value in wanted.items()):
                assert time.monotonic() < ends, client.get("/metrics").text
                time.sleep(0.02)

        messages = "kafka_messages_total{outcome="
        counts = {"accepted": 2.0, "repeated": 0.0, "bad": 3.0}
        known = {f'{messages}"{name}"}}': count for name, count in counts.items()}
        until({**known, "kafka_connected": 1.0, "kafka_behind": 0.0})
        assert server.house.answering.book.sequence == 2
        mock.end()
        until({"kafka_connected": 0.0})


def test_without_a_feed_nothing_is_said_of_one(tmp_path: Path) -> None:
    with running(small_book(tmp_path)) as server, server.client() as client:
        assert "kafka" not in client.get("/metrics").text


def _sample(client: httpx.Client, name: str) -> float | None:
    """The value in the text of /metrics; None where there is none."""
    start = f"gpu_margin_{name} "
    lines = client.get("/metrics").text.splitlines()
    found = [float(line.removeprefix(start)) for line in lines if line.startswith(start)]
    return found[0] if found else None


def test_a_replaced_backend_is_seen() -> None:
    metrics = Metrics()
    metrics.backend, metrics.device = "cupy", "0"
    metrics.replaced("numpy")
    found = samples(metrics)
    assert found["backend_info", ("", "numpy")] == 1
    assert found["backend_replacements_total", ()] == 1
    assert not any(labels == ("0", "cupy") for _, labels in found)


def test_labels_may_be_any_text() -> None:
    metrics = Metrics()
    metrics.seen('a"\\\nb', 200, 0.1)
    assert samples(metrics)["requests_total", ("2xx", 'a"\\\nb')] == 1


@given(st.lists(st.floats(0, 100), max_size=40))
def test_a_tally_is_prometheus_histogram(values: list[float]) -> None:
    bounds = [0.01, 0.5, 1.0, 64.0]
    tally, registry = Tally(bounds), CollectorRegistry()
    slow = Histogram("slow", "slow", buckets=bounds, registry=registry)
    for value in values:
        tally.observe(value)
        slow.observe(value)
    buckets, total = tally.buckets()
    for (bound, count), edge in zip(buckets, [*bounds, math.inf], strict=True):
        label = {"le": "+Inf" if edge == math.inf else str(edge)}
        assert float(bound) == edge and registry.get_sample_value("slow_bucket", label) == count
    assert total == registry.get_sample_value("slow_sum") and tally.count == len(values)


# ---------------------------------------------------------------- logs


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the server's loggers write; they are as before afterwards."""
    names = ("gpu_margin", "uvicorn", "uvicorn.error", "uvicorn.access")
    loggers = [logging.getLogger(name) for name in names]
    before = [(one.handlers, one.level, one.propagate) for one in loggers]
    stream = io.StringIO()
    logs.configure(stream=stream)
    yield stream
    for one, (handlers, level, propagate) in zip(loggers, before, strict=True):
        one.handlers, one.level, one.propagate = handlers, level, propagate


def test_a_line_is_json_with_the_request(written: io.StringIO) -> None:
    token = logs.request_id.set("r-1")
    logging.getLogger("gpu_margin.server").info("taken", extra={"rows": 3, "time": "never"})
    logs.request_id.reset(token)
    line = json.loads(written.getvalue())
    assert (line["message"], line["request_id"], line["rows"]) == ("taken", "r-1", 3)
    assert line["level"] == "info" and line["time"].endswith("+00:00")


def test_no_message_forges_a_line(written: io.StringIO) -> None:
    logging.getLogger("gpu_margin").warning("a\n%s", '{"level": "info"}\u2028\r')
    assert len(written.getvalue().splitlines()) == 1


def test_a_trace_is_in_the_line(written: io.StringIO) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("gpu_margin").exception("failed")
    line = json.loads(written.getvalue())
    assert "ValueError: why" in line["trace"] and "request_id" not in line


def test_uvicorns_lines_are_json_too_and_its_access_log_is_off(written: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("started")
    logging.getLogger("uvicorn.access").info("GET /")
    (line,) = written.getvalue().splitlines()
    assert json.loads(line)["logger"] == "uvicorn.error"
