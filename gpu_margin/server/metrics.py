"""What the server measures, in Prometheus' text form.

What every request passes is counted in plain lists, a few tenths of a microsecond each, and becomes
Prometheus' only when somebody asks. A tally or meter is therefore written by one thread only;
any thread may read it. What others know already (queue depths, ages) is asked when it is wanted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = tuple(
    base * ten for ten in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0) for base in (1.0, 2.5, 5.0)
)
_SIZES = tuple(float(4**power) for power in range(9))
_CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")


class Tally:
    """A histogram; `observe` costs some 0.2 microseconds and belongs to one thread."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """`count` observations of the same value: a whole batch at once."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self._counts)

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Prometheus' cumulative buckets, and the sum of all values."""
        counts, total, found = list(self._counts), 0, []
        for bound, count in zip((*self._bounds, float("inf")), counts, strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else f"{bound:.12g}", float(total)))
        return found, self._sum


class Meter:
    """One route: seconds of whole requests, answers by class of status. Of the loop's thread."""

    __slots__ = ("_classes", "seconds")

    def __init__(self) -> None:
        self.seconds = Tally()
        self._classes = [0] * len(_CLASSES)

    def seen(self, status: int, seconds: float) -> None:
        """Count one answer of an HTTP status."""
        self._classes[status // 100] += 1
        self.seconds.observe(seconds)

    def classes(self) -> Iterator[tuple[str, int]]:
        """Answers by class of status, of those that there were."""
        for name, count in zip(_CLASSES, self._classes, strict=True):
            if count:
                yield name, count


class Metrics:
    """Everything that is measured.

    `seen` is for the loop's thread, `reader_batch` for the reader's, `writer_group` for the
    writer's; a `stage` for whoever asked for it. `backend` and `device` are what computes now.
    """

    def __init__(self) -> None:
        self.log_group, self.log_rows = Tally(_SIZES), Tally(_SIZES)
        self.fsync_seconds, self.apply_seconds = Tally(), Tally()
        self.backend, self.device = "none", ""
        self.backend_replacements = 0
        self.row_failures = {"fills": 0, "marks": 0}
        self.errors = self.dropped_streams = self.streams = 0
        self._meters: dict[str, Meter] = {}
        self._stages: dict[tuple[str, str], Tally] = {}
        self._batches: dict[str, Tally] = {}
        self._queues: dict[str, Callable[[], int]] = {}
        self._watched: dict[str, tuple[str, Callable[[], float | None]]] = {}
        self._counted: dict[str, tuple[str, Callable[[], Mapping[str, int]]]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Everything(self))
        ProcessCollector(registry=self._registry)

    def seen(self, route: str, status: int, seconds: float) -> None:
        """An answer of a route, named by its path as in the OpenAPI document."""
        meter = self._meters.get(route)
        if meter is None:
            meter = self._meters[route] = Meter()
        meter.seen(status, seconds)

    def reader_batch(self, kind: str, size: int, waited: float, took: float) -> None:
        """`size` questions of a kind were answered together; seconds, waited by the first."""
        batch = self._batches.get(kind)
        if batch is None:
            batch = self._batches[kind] = Tally(_SIZES)
        batch.observe(size)
        self.stage(kind, "queue").observe(waited, size)
        self.stage(kind, "device").observe(took, size)

    def writer_group(self, requests: int, rows: int, fsync: float, apply: float) -> None:
        """Requests were logged in one commit, then applied; seconds."""
        self.log_group.observe(requests)
        self.log_rows.observe(rows)
        self.fsync_seconds.observe(fsync)
        self.apply_seconds.observe(apply)

    def stage(self, kind: str, stage: str) -> Tally:
        """Seconds of a kind of request in a stage: parse, queue, device or answer."""
        found = self._stages.get((kind, stage))
        if found is None:
            found = self._stages[kind, stage] = Tally()
        return found

    def queue(self, name: str, depth: Callable[[], int]) -> None:
        """Ask `depth` how many requests wait in a queue, whenever metrics are read."""
        self._queues[name] = depth

    def watch(self, name: str, said: str, value: Callable[[], float | None]) -> None:
        """A gauge `gpu_margin_<name>` that is asked when metrics are read; None: no sample."""
        self._watched[name] = (said, value)

    def counted(self, name: str, said: str, value: Callable[[], Mapping[str, int]]) -> None:
        """A counter `gpu_margin_<name>_total` by outcome, asked when metrics are read."""
        self._counted[name] = (said, value)

    def replaced(self, backend: str, device: str = "") -> None:
        """A backend failed and this one goes on."""
        self.backend, self.device = backend, device
        self.backend_replacements += 1

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """All of it, as Prometheus' client has it."""
        yield from self._by_route()
        # The threads may meet a kind or a stage for the first time meanwhile: copies.
        yield _histogram("stage_seconds", "Latency", ("kind", "stage"), list(self._stages.items()))
        batches = [((kind,), tally) for kind, tally in list(self._batches.items())]
        yield _histogram("batch_size", "Questions answered together", ("kind",), batches)
        for name, said, tally in (
            ("log_group_size", "Requests in one commit of the log", self.log_group),
            ("log_group_rows", "Fills and marks in one commit of the log", self.log_rows),
            ("log_fsync_seconds", "Time until a commit is safe", self.fsync_seconds),
            ("apply_seconds", "Time to apply what was committed", self.apply_seconds),
        ):
            yield _histogram(name, said, (), [((), tally)])
        depths = [((name,), float(depth())) for name, depth in self._queues.items()]
        yield _gauge("queue_depth", "Requests that wait", ("queue",), depths)
        yield from self._asked()
        yield from self._state()

    def _by_route(self) -> Iterator[Metric]:
        meters = dict(self._meters)
        seconds = [((route,), meter.seconds) for route, meter in meters.items()]
        yield _histogram("request_seconds", "Latency of whole requests", ("route",), seconds)
        answers = CounterMetricFamily(
            "gpu_margin_requests", "Answers by class of status", labels=("route", "status")
        )
        for route, meter in meters.items():
            for status, count in meter.classes():
                answers.add_metric((route, status), count)
        yield answers

    def _asked(self) -> Iterator[Metric]:
        for name, (said, value) in self._watched.items():
            found = value()
            family = GaugeMetricFamily(f"gpu_margin_{name}", said)
            if found is not None:
                family.add_metric((), found)
            yield family
        for name, (said, counts) in self._counted.items():
            counter = CounterMetricFamily(f"gpu_margin_{name}", said, labels=("outcome",))
            for outcome, count in counts().items():
                counter.add_metric((outcome,), count)
            yield counter

    def _state(self) -> Iterator[Metric]:
        running = [((self.backend, self.device), 1.0)]
        yield _gauge("backend_info", "What computes", ("backend", "device"), running)
        counts = {
            "backend_replacements": ("Backends that failed", self.backend_replacements),
            "errors": ("Requests that failed unexpectedly", self.errors),
            "event_streams_dropped": ("Streams of slow clients", self.dropped_streams),
        }
        for name, (said, count) in counts.items():
            yield CounterMetricFamily(f"gpu_margin_{name}", said, value=count)
        yield _gauge("event_streams", "Clients of /v1/events", (), [((), float(self.streams))])
        failed = CounterMetricFamily(
            "gpu_margin_row_failures", "Rows that changed nothing", labels=("kind",)
        )
        for kind, count in self.row_failures.items():
            failed.add_metric((kind,), count)
        yield failed


class _Everything(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.families()


def _histogram(
    name: str, said: str, labels: tuple[str, ...], tallies: Iterable[tuple[tuple[str, ...], Tally]]
) -> Metric:
    family = HistogramMetricFamily(f"gpu_margin_{name}", said, labels=labels)
    for values, tally in tallies:
        family.add_metric(values, *tally.buckets())
    return family


def _gauge(
    name: str, said: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]
) -> Metric:
    family = GaugeMetricFamily(f"gpu_margin_{name}", said, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
