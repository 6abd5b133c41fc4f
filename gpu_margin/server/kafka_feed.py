"""Fills and marks from Kafka, each message once.

The offsets are kept in the log, in the transaction of the entries that they belong to, and reading
begins there: what Kafka believes to be committed counts for nothing. One batch is under way at a
time; the next is handed over when the writer has answered. A message that is no fill or mark is
reported and passed over. A broker that cannot be reached is tried again for ever.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from typing import Any

from pydantic import Field, model_validator

from gpu_margin.failures import Failure, InputError
from gpu_margin.records import Kind
from gpu_margin.server.feeding import BadMessage, rows_of
from gpu_margin.server.log import Entry, Log, Offsets, Repeated, Reused, digest
from gpu_margin.server.mark_times import AHEAD_SECONDS, check_marks
from gpu_margin.server.metrics import Metrics
from gpu_margin.server.problems import Problem
from gpu_margin.settings import Settings

Submit = Callable[[Sequence[Entry], Offsets | None], "Future[Any]"]

_log = logging.getLogger("gpu_margin.server.kafka")
_POLL_SECONDS = 0.2
# Between tries after something went wrong, doubled each time up to the second.
_PAUSES = (0.25, 15.0)
# Between looks at which partitions there are.
_LOOK_SECONDS = 30.0
_METADATA_SECONDS = 5.0
_SHOWN = 200


class KafkaSettings(Settings):
    """`[server.kafka]`: topics to be consumed; messages are a JSON object or a list of them."""

    brokers: str = Field(min_length=1, description="host:port, several with commas")
    fills_topic: str | None = None
    marks_topic: str | None = None
    group: str = Field(default="gpu-margin", description="the name that brokers know us by")
    max_batch: int = Field(default=1_000, ge=1, le=100_000, strict=True, description="messages")
    options: dict[str, str] = Field(
        default={}, description="further settings of librdkafka, as security.protocol"
    )

    @model_validator(mode="after")
    def _some_topic(self) -> KafkaSettings:
        topics = [topic for topic in (self.fills_topic, self.marks_topic) if topic]
        if len(set(topics)) != len(topics) or not topics:
            raise ValueError("name a fills_topic or a marks_topic, and not the same for both")
        return self

    @property
    def kinds(self) -> dict[str, Kind]:
        """What is in each topic."""
        named: tuple[tuple[str | None, Kind], ...] = (
            (self.fills_topic, "fills"),
            (self.marks_topic, "marks"),
        )
        return {topic: kind for topic, kind in named if topic}


@dataclass(frozen=True)
class FeedStatus:
    """How a feed is getting on: messages since the start, and what is wrong now, if anything.

    `behind` is how many messages are known to wait in Kafka.
    """

    connected: bool = False
    accepted: int = 0
    repeated: int = 0
    bad: int = 0
    behind: int = 0
    fault: str | None = None


@dataclass
class _Batch:
    entries: list[Entry] = field(default_factory=list)
    offsets: dict[tuple[str, int], int] = field(default_factory=dict)


class _Stopping(Exception):
    """The feed was told to stop."""


class KafkaFeed:
    """A thread that hands messages to `submit`, from where `log` says that it was.

    `submit` (entries, offsets) gives a future of what became of each entry; one that fails, raises,
    or answers 503 is tried again. `report` is told of messages that were passed over, whose `row`
    is the offset; so are marks of more than `ahead_seconds` after now. Raises `InputError` without
    the package confluent-kafka.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        submit: Submit,
        log: Log,
        report: Callable[[Failure], None] | None = None,
        ahead_seconds: float = AHEAD_SECONDS,
    ) -> None:
        try:
            import confluent_kafka
        except ModuleNotFoundError as error:
            raise InputError(
                "server.kafka: the package confluent-kafka is missing; install gpu-margin[kafka]"
            ) from error
        self._kafka: Any = confluent_kafka
        self._settings, self._submit, self._book, self._report = settings, submit, log, report
        self._ahead_seconds = ahead_seconds
        self.status = FeedStatus()
        # The last of them, for people to look at.
        self.failures: deque[Failure] = deque(maxlen=1_000)
        self._stop = Event()
        self._looked = 0.0
        self._thread = Thread(target=self._run, name="kafka", daemon=True)

    def start(self) -> None:
        """Begin to consume."""
        self._thread.start()

    def stop(self, seconds: float = 30.0) -> None:
        """Let the batch that is under way be answered, then end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def measure(self, metrics: Metrics) -> None:
        """Have the status among the metrics."""

        def outcomes() -> dict[str, int]:
            now = self.status
            return {"accepted": now.accepted, "repeated": now.repeated, "bad": now.bad}

        watch = metrics.watch
        watch("kafka_connected", "1 while Kafka can be read", lambda: float(self.status.connected))
        watch("kafka_behind", "Messages that wait in Kafka", lambda: self.status.behind)
        metrics.counted("kafka_messages", "Messages from Kafka by what became of them", outcomes)

    # ------------------------------------------------------------ consuming

    def _run(self) -> None:
        pause = _PAUSES[0]
        while not self._stop.is_set():
            before = self.status.accepted + self.status.bad
            try:
                self._consume()
            except _Stopping:
                return
            except Exception as error:  # whatever it is, the server goes on without a feed
                self._wrong(str(error) or type(error).__name__)
            if self.status.accepted + self.status.bad > before:
                pause = _PAUSES[0]
            self._stop.wait(pause)
            pause = min(2 * pause, _PAUSES[1])

    def _consume(self) -> None:
        """Consume until the feed stops or the partitions change; raises what is wrong."""
        consumer = self._kafka.Consumer(self._options(), logger=_log)
        try:
            partitions = self._partitions(consumer)
            consumer.assign(self._places(partitions))
            self._well()
            while not self._stop.is_set():
                messages = consumer.consume(self._settings.max_batch, _POLL_SECONDS)
                if messages:
                    self._hand_over(self._batch(messages))
                    self._well(behind=self._behind(consumer, partitions))
                # While something is wrong it is looked whether it still is.
                rest = 1.0 if self.status.fault else _LOOK_SECONDS
                if time.monotonic() > self._looked + rest:
                    if self._partitions(consumer) != partitions:
                        return
                    self._well()
        finally:
            consumer.close()

    def _options(self) -> dict[str, Any]:
        return {
            "queued.max.messages.kbytes": 16_384,
            **self._settings.options,
            "bootstrap.servers": self._settings.brokers,
            "group.id": self._settings.group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            # What Kafka has thrown away before it was read is missing: that must be seen.
            "auto.offset.reset": "error",
            "error_cb": lambda error: self._wrong(error.str()),
        }

    def _partitions(self, consumer: Any) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for topic in self._settings.kinds:
            described = consumer.list_topics(topic, timeout=_METADATA_SECONDS).topics[topic]
            if described.error is not None:
                raise self._kafka.KafkaException(described.error)
            found += [(topic, number) for number in sorted(described.partitions)]
        self._looked = time.monotonic()
        return found

    def _places(self, partitions: Sequence[tuple[str, int]]) -> list[Any]:
        """Where to begin: after what is in the log, else at the beginning."""
        kept, first = self._book.offsets(), self._kafka.OFFSET_BEGINNING
        return [self._kafka.TopicPartition(*place, kept.get(place, first)) for place in partitions]

    def _behind(self, consumer: Any, partitions: Sequence[tuple[str, int]]) -> int:
        done, waiting = self._book.offsets(), 0
        for place in partitions:
            marks = consumer.get_watermark_offsets(self._kafka.TopicPartition(*place), cached=True)
            if marks is not None and place in done:
                waiting += max(marks[1] - done[place], 0)
        return waiting

    def _batch(self, messages: Sequence[Any]) -> _Batch:
        """The messages as entries. An error between them ends the batch before anything is done."""
        batch = _Batch()
        for error in filter(None, (message.error() for message in messages)):
            raise self._kafka.KafkaException(error)
        for message in messages:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            kind, client = self._settings.kinds[topic], f"kafka:{topic}:{partition}"
            batch.offsets[topic, partition] = offset + 1
            try:
                rows = rows_of(kind, message.value() or b"")
                if kind == "marks":
                    check_marks(rows, self._ahead_seconds)
            except BadMessage as error:
                shown = (message.value() or b"")[:_SHOWN].decode(errors="replace")
                self._bad(Failure(error.reason, client, offset, error.field, shown))
                continue
            batch.entries.append(Entry(client, None, str(offset), digest(kind, rows), kind, rows))
        return batch

    # ------------------------------------------------------------ handing over

    def _hand_over(self, batch: _Batch) -> None:
        """Until the writer has taken it: what was logged already is found by its key."""
        pause = _PAUSES[0]
        while (answers := self._answers(batch)) is None:
            if self._stop.wait(pause):
                raise _Stopping
            pause = min(2 * pause, _PAUSES[1])
        repeated = sum(isinstance(answer, Repeated) for answer in answers)
        refused = 0
        for entry, answer in zip(batch.entries, answers, strict=True):
            if isinstance(answer, (Problem, Reused)):
                refused += 1
                reason = answer.detail if isinstance(answer, Problem) else "another content before"
                self._bad(Failure(reason, entry.client, int(entry.key)))
        self._count(accepted=len(answers) - repeated - refused, repeated=repeated)

    def _answers(self, batch: _Batch) -> list[Any] | None:
        """What became of the entries; None where the writer could not take them."""
        try:
            future = self._submit(batch.entries, batch.offsets)
            while not wait([future], _POLL_SECONDS).done:
                if self._stop.is_set() and not wait([future], 10 * _POLL_SECONDS).done:
                    raise _Stopping
            answers = list(future.result())
        except _Stopping:
            raise
        except Exception as error:
            self._wrong(str(error))
            return None
        busy = [one for one in answers if isinstance(one, Problem) and one.status == 503]
        if busy:
            self._wrong(busy[0].detail)
            return None
        return answers

    # ------------------------------------------------------------ telling

    def _wrong(self, fault: str) -> None:
        """Said once, however often it is tried."""
        if self.status.fault != fault:
            _log.warning("kafka: %s", fault)
        self.status = replace(self.status, connected=False, fault=fault)

    def _well(self, **known: int) -> None:
        if self.status.fault or not self.status.connected:
            _log.info("kafka: consuming %s", ", ".join(self._settings.kinds))
        self.status = replace(self.status, connected=True, fault=None, **known)

    def _bad(self, failure: Failure) -> None:
        _log.warning(
            "kafka: a message is passed over: %s",
            failure.reason,
            extra={"source": failure.source, "offset": failure.row, "field": failure.field},
        )
        self._count(bad=1)
        self.failures.append(failure)
        if self._report is not None:
            self._report(failure)

    def _count(self, **more: int) -> None:
        counts: Mapping[str, int] = vars(self.status)
        added = {name: counts[name] + count for name, count in more.items()}
        self.status = replace(self.status, **added)  # type: ignore[arg-type]
