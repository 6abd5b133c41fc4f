"""A cluster of Kafka within the tests, and a writer before a log."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from gpu_margin.server.log import Entry, Offsets
from gpu_margin.server.sqlite_log import SqliteLog


def needed() -> Any:
    """The package; without it a skip, by name, and in CI an error."""
    try:
        import confluent_kafka
    except ImportError:
        assert not os.environ.get("CI"), "no confluent_kafka: install gpu-margin[kafka]"
        pytest.skip("no confluent_kafka: install gpu-margin[kafka]")
    return confluent_kafka


class Mock:
    """A cluster in this process, of one broker."""

    def __init__(self) -> None:
        self._producer = needed().Producer({"test.mock.num.brokers": 1})
        (broker,) = self._producer.list_topics(timeout=10).brokers.values()
        self.brokers = f"{broker.host}:{broker.port}"

    def send(self, topic: str, *values: Any, partition: int = 0) -> None:
        for value in values:
            raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
            self._producer.produce(topic, raw, partition=partition)
        assert self._producer.flush(20) == 0

    def end(self) -> None:
        del self._producer


def fill(number: int, **more: Any) -> dict[str, Any]:
    row = {"fill_id": f"f{number}", "account_id": "A", "instrument_id": "X"}
    return {**row, "quantity": 1, "price": 2.5, **more}


class Writer:
    """A queue before a log, as the server's; `fault` may spoil a call before or after the log."""

    def __init__(self, log: SqliteLog) -> None:
        self.log, self.calls = log, 0
        self.fault: Callable[[int, str], None] = lambda call, when: None
        self._pool = ThreadPoolExecutor(1)

    def submit(self, entries: Sequence[Entry], offsets: Offsets | None) -> Future[Any]:
        return self._pool.submit(self._work, entries, offsets)

    def _work(self, entries: Sequence[Entry], offsets: Offsets | None) -> Any:
        self.calls += 1
        self.fault(self.calls, "before")
        results = self.log.append(entries, offsets)
        self.fault(self.calls, "after")
        return results

    def close(self) -> None:
        self._pool.shutdown()
