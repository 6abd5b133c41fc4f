"""What is measured: each scenario of issue 5 gives figures beside what they are to reach."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import Figure

from gpu_margin.client import Client
from serve import wire
from serve.book import CLIENTS, Book
from serve.driving import Counts, Generator, errors, offered, shed
from serve.process import Server, expected_number, watching

# A what-if's answer in a batch takes as long as its share: batches of this many, on few lines.
BATCH, BATCH_CONNECTIONS = 5_000, 4
FILLS, FILL_CONNECTIONS = 1_000, 8
WARMUP = 2.0
# Fills a second that there are requests for: who takes more has taken them all, and is done early.
_MOST_SINGLE, _MOST_FILLS = 10_000, 200_000
_TRICKLE, _MARKERS = 50.0, 16
# More than may wait for the book (`queue_depth` in the book's configuration).
_CROWD = 1024
# Of overload, each beside the peak: on a shared machine they differ by a fifth and more.
_ROUNDS = 15


@dataclass
class Bench:
    """A server under load, its book, and what was measured so far.

    `duration` seconds of each scenario, `soak` of the steady one; `most` (fills) is how many the
    restart replays; `restarted` makes the server of the restart from a configuration.
    """

    server: Server
    book: Book
    generator: Generator
    duration: float
    soak: float
    most: int
    restarted: Callable[[], Server]
    figures: list[Figure] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    peak: float = 0.0

    def client(self, name: str) -> Client:
        return Client(self.server.url, key=self.book.keys[name], timeout=60.0, deadline=120.0)

    def file(self, name: str, requests: wire.Lanes) -> Path:
        return wire.write(self.book.folder / f"{name}.requests", requests)

    def load(self, scenario: str, requests: Path, **options: Any) -> Counts:
        """Load the server and keep what was counted, and what the server spent on it."""
        options = {"seconds": self.duration + WARMUP, "warmup": WARMUP, **options}
        with watching(self.server) as watch:
            found = self.generator.run(requests, **options)
        if options.get("ordered"):
            requests.unlink()  # it can be sent once only
        self.counts[scenario] = found = {**found, **watch.facts(), "drift": watch.drift()}
        return found

    def add(self, scenario: str, name: str, value: float, *rest: Any) -> None:
        self.figures.append(Figure(scenario, name, value, *rest))

    def failed(self, scenario: str, error: Exception) -> None:
        """Keep why a scenario came to no end, without paths of this machine."""
        said = f"{type(error).__name__}: {error}".replace(str(self.book.folder), "")
        self.counts[f"{scenario}-failed"] = {"error": said[:500]}
        self.add(scenario, "failed", 1, "", 0, "most")

    def add_errors(self, scenario: str, counts: Counts, allowed: Sequence[str] = ()) -> None:
        self.add(scenario, "errors", sum(errors(counts, allowed).values()), "", 0, "most")


def whatif(bench: Bench) -> None:
    """Single what-ifs of five legs by 64 connections, each asking when it is answered."""
    found = bench.load("whatif", _whatifs(bench))
    bench.peak = found["rate"]
    bench.add("whatif", "what-ifs", found["rate"], "/s", 10_000)
    bench.add("whatif", "p50", found["latency_ms"]["p50"], "ms")
    bench.add("whatif", "p99", found["latency_ms"]["p99"], "ms", 10, "most")
    bench.add_errors("whatif", found)


def whatif_marks(bench: Bench) -> None:
    """The same while the whole book is marked once a second."""
    requests = _whatifs(bench)
    with marking(bench) as taken:
        found = bench.load("whatif-marks", requests)
    bench.add("whatif-marks", "what-ifs", found["rate"], "/s")
    bench.add("whatif-marks", "p50", found["latency_ms"]["p50"], "ms")
    bench.add("whatif-marks", "p99", found["latency_ms"]["p99"], "ms", 30, "most")
    bench.add("whatif-marks", "marks taken", len(taken))
    bench.add("whatif-marks", "longest mark", max(taken, default=0.0), "s")
    bench.add_errors("whatif-marks", found)


def whatif_batch(bench: Bench) -> None:
    """Batches of what-ifs in Arrow, both ways."""
    asked = wire.leg_table(bench.book, BATCH, 5)
    with bench.client("reader") as client:
        answered = client.whatif_batch(asked)
    bench.counts["batch-sample"] = {"rows": len(answered), "columns": answered.columns}
    requests = bench.file("batches", wire.batches(bench.book, 32, BATCH, 6))
    found = bench.load("whatif-batch", requests, connections=BATCH_CONNECTIONS, timeout=60)
    bench.add("whatif-batch", "what-ifs", BATCH * found["rate"], "/s", 150_000)
    bench.add("whatif-batch", "p99", found["latency_ms"]["p99"], "ms")
    bench.add("whatif-batch", "unanswered what-ifs", _without_answer(answered), "", 0, "most")
    bench.add_errors("whatif-batch", found)


def _without_answer(answered: Any) -> int:
    """What-ifs of the sample that are missing, or have no requirement after the trades."""
    missing = BATCH - answered["whatif_id"].n_unique()
    return int(missing + sum(answered[name].null_count() for name in ("before", "after")))


def order(bench: Bench) -> None:
    """Order checks, of which those of a sample are counted by what became of them."""
    with bench.client("marker") as client:
        client.marks(bench.book.marks(9))  # an order on what has no mark is refused at once
    with bench.client("client-00") as client:
        sample = list(wire.orders(bench.book, 200, 7))
        actions = Counter(client.check_order(**one)["action"] for one in sample)
    bodies = wire.orders(bench.book, 50_000, 8)
    found = bench.load(
        "order", bench.file("orders", wire.posts(bench.book, "/v1/orders/check", bodies))
    )
    bench.counts["order"]["actions"] = dict(actions)
    bench.add("order", "order checks", found["rate"], "/s", 10_000)
    bench.add("order", "p50", found["latency_ms"]["p50"], "ms")
    bench.add("order", "p99", found["latency_ms"]["p99"], "ms", 10, "most")
    bench.add("order", "accepted of a sample", actions["accept"] / len(sample))
    bench.add_errors("order", found)


def account(bench: Bench) -> None:
    """Reading how accounts stand."""
    found = bench.load("account", bench.file("accounts", wire.accounts(bench.book, 50_000, 10)))
    bench.add("account", "accounts", found["rate"], "/s", 15_000)
    bench.add("account", "p99", found["latency_ms"]["p99"], "ms")
    bench.add_errors("account", found)


def fills(bench: Bench) -> None:
    """Single fills of 64 clients, each acknowledged before the next."""
    numbers = _numbers(bench, range(CLIENTS))
    each = int(_MOST_SINGLE * (bench.duration + WARMUP) / CLIENTS) + 1
    requests = bench.file("fills", wire.fills(bench.book, numbers, each, 1, _tag("single")))
    found = bench.load("fills", requests, ordered=True)
    bench.add("fills", "fills", found["rate"], "/s", 3_000)
    bench.add("fills", "p99", found["latency_ms"]["p99"], "ms")
    bench.add_errors("fills", found)


def fills_batch(bench: Bench) -> None:
    """Fills in batches of 1,000, in Arrow."""
    seconds = min(bench.duration, 10.0)
    numbers = _numbers(bench, range(FILL_CONNECTIONS))
    each = int(_MOST_FILLS / FILLS * seconds / FILL_CONNECTIONS) + 1
    requests = bench.file("batches", wire.fills(bench.book, numbers, each, FILLS, _tag("batch")))
    options = {"connections": FILL_CONNECTIONS, "ordered": True, "timeout": 60}
    found = bench.load("fills-batch", requests, seconds=seconds, warmup=0.0, **options)
    bench.add("fills-batch", "fills", FILLS * found["rate"], "/s", 50_000)
    bench.add("fills-batch", "p99", found["latency_ms"]["p99"], "ms")
    bench.add_errors("fills-batch", found)


def soak(bench: Bench) -> None:
    """Half of the peak at a steady rate beside a trickle of fills: no error, no more memory."""
    seconds, rate = bench.soak, 0.5 * _peak(bench)
    numbers = _numbers(bench, range(FILL_CONNECTIONS))
    each = int(_TRICKLE * seconds / FILL_CONNECTIONS) + 2
    trickle = bench.file("trickle", wire.fills(bench.book, numbers, each, 1, _tag("trickle")))
    options = {"connections": FILL_CONNECTIONS, "ordered": True, "rate": _TRICKLE}
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(partial(bench.generator.run, trickle, seconds=seconds, **options))
        found = bench.load("soak", _whatifs(bench), seconds=seconds, rate=rate, warmup=0.0)
        fills_found = bench.counts["soak-fills"] = beside.result()
    bench.add("soak", "offered", rate, "/s")
    bench.add("soak", "what-ifs", found["rate"], "/s")
    bench.add("soak", "p99", found["latency_ms"]["p99"], "ms")
    bench.add("soak", "drift of memory", found["drift"], "", 0.05, "most")
    bench.add_errors("soak", found)
    bench.add_errors("soak-fills", fills_found)


def overload(bench: Bench) -> None:
    """Twice the peak from a generator that does not wait: what is not answered is shed.

    The peak is measured before each round and after the last: on a machine that others use it
    moves as much as what is to be compared with it. The median round counts.
    """
    seconds = min(5.0, bench.duration)
    peaks = [_peak_now(bench, seconds)]
    rounds: list[Counts] = []
    for _ in range(_ROUNDS):
        options = {"rate": 2.0 * peaks[-1], "connections": _CROWD, "patience": 0.1, "within": 1000}
        rounds.append(bench.load("overload", _whatifs(bench), **options))
        peaks.append(_peak_now(bench, seconds))
    shares = [
        2.0 * found["rate"] / max(1.0, before + after)
        for found, (before, after) in zip(rounds, pairwise(peaks), strict=True)
    ]
    bench.counts["overload-rounds"] = {
        "peaks": peaks,
        "goodput": [found["rate"] for found in rounds],
        "goodput over peak": shares,
    }
    everything = max(1, sum(offered(found) for found in rounds))

    def median(of: Callable[[Counts], float]) -> float:
        return statistics.median(map(of, rounds))

    bench.add("overload", "rounds", _ROUNDS)
    bench.add("overload", "peak", statistics.median(peaks), "/s")
    bench.add("overload", "goodput", median(lambda found: found["rate"]), "/s")
    bench.add("overload", "goodput over peak", statistics.median(shares), "", 0.9)
    bench.add("overload", "the least of it", min(shares))
    bench.add("overload", "the most of it", max(shares))
    bench.add("overload", "goodput within 1 s", median(lambda found: found["in_time_rate"]), "/s")
    bench.add("overload", "p99", median(lambda found: found["latency_ms"]["p99"]), "ms")
    bench.add("overload", "share shed (503, 429)", sum(map(shed, rounds)) / everything)
    unsent = sum(found["unsent"] for found in rounds)
    bench.add("overload", "share that got no connection", unsent / everything)
    wrong = sum(sum(errors(found, ("429", "503")).values()) for found in rounds)
    bench.add("overload", "errors", wrong, "", 0, "most")


def restart(bench: Bench) -> None:
    """Killed with a snapshot and so many fills logged after it: seconds until it is ready again."""
    bench.server.stop()
    bench.server = server = bench.restarted()
    first = server.start(600.0)
    with bench.client("admin") as client:
        client.snapshot()
    numbers = _numbers(bench, range(FILL_CONNECTIONS))
    each = -(-bench.most // (FILLS * FILL_CONNECTIONS))
    requests = bench.file("logged", wire.fills(bench.book, numbers, each, FILLS, _tag("logged")))
    options = {"connections": FILL_CONNECTIONS, "ordered": True, "timeout": 60}
    found = bench.load("restart", requests, seconds=300.0, warmup=0.0, **options)
    with bench.client("reader") as client:
        before = client.summary()["state_seq"]
    server.kill()
    again = server.start(600.0)
    with bench.client("reader") as client:
        after = client.summary()["state_seq"]
    bench.add("restart", "logged after the snapshot", FILLS * sum(found["acknowledged"]), "fills")
    bench.add("restart", "ready after a stop", first, "s")
    bench.add("restart", "ready after a kill", again, "s", 10, "most")
    bench.add("restart", "changes lost", before - after, "", 0, "most")
    bench.add_errors("restart", found)


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "whatif": whatif,
    "whatif-marks": whatif_marks,
    "whatif-batch": whatif_batch,
    "order": order,
    "account": account,
    "fills": fills,
    "fills-batch": fills_batch,
    "soak": soak,
    "overload": overload,
    "restart": restart,
}


@contextmanager
def marking(bench: Bench) -> Iterator[list[float]]:
    """Mark the whole book once a second while the block runs; seconds that each mark took.

    A mark is due whatever became of the one before: several clients send them in turn.
    """
    taken: list[float] = []
    over = threading.Event()

    def mark(client: Client, number: int) -> None:
        table, begun = bench.book.marks(number), time.monotonic()
        client.marks(table)
        taken.append(time.monotonic() - begun)

    def work(pool: ThreadPoolExecutor, clients: Sequence[Client]) -> list[Future[None]]:
        sent: list[Future[None]] = []
        begun = time.monotonic()
        while not over.wait(max(0.0, begun + len(sent) - time.monotonic())):
            sent.append(pool.submit(mark, clients[len(sent) % len(clients)], len(sent)))
        return sent

    with ExitStack() as stack:
        clients = [stack.enter_context(bench.client(f"client-{n:02d}")) for n in range(_MARKERS)]
        pool = stack.enter_context(ThreadPoolExecutor(_MARKERS + 1))
        working = pool.submit(work, pool, clients)
        try:
            yield taken
        finally:
            over.set()
        for sent in working.result():
            sent.result()


def _whatifs(bench: Bench) -> Path:
    """The single what-ifs, as a file that is made once."""
    path = bench.book.folder / "whatifs.requests"
    if not path.exists():
        bodies = wire.whatifs(bench.book, 100_000, 3)
        wire.write(path, wire.posts(bench.book, "/v1/whatif", bodies))
    return path


def _peak(bench: Bench) -> float:
    """What-ifs per second that it can do at most: as measured before, or for some seconds now."""
    if not bench.peak:
        bench.peak = _peak_now(bench, min(5.0, bench.duration))
    return bench.peak


def _peak_now(bench: Bench, seconds: float) -> float:
    found = bench.load("peak", _whatifs(bench), seconds=seconds + WARMUP)
    return max(1.0, float(found["rate"]))


def _numbers(bench: Bench, clients: Sequence[int]) -> dict[int, int]:
    """The next sequence number of each of these clients."""
    fill = wire.fill_table(bench.book, 1, "never", 0).to_dicts()[0]
    url, book = bench.server.url, bench.book
    return {client: expected_number(url, book.trader(client), fill) for client in clients}


def _tag(scenario: str) -> str:
    """Fill ids and keys of this run of a scenario begin with it."""
    return f"{scenario}-{time.time_ns():x}"
