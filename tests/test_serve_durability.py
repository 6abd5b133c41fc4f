"""Nothing that was acknowledged is lost, nothing is booked twice: whenever the server is killed.

GPU_MARGIN_KILLS says at how many points it is killed: by default 50 in CI, else 12.
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import live_case
import pytest
from serve_process import (
    Caller,
    Lost,
    ServerProcess,
    Spares,
    keys_in,
    server_process,
    small_book,
)
from tracker_case import Oracle, fill

from gpu_margin.live import LiveBook
from gpu_margin.records import Record

KILLS = int(os.environ.get("GPU_MARGIN_KILLS", "50" if "CI" in os.environ else "12"))
CLIENTS = ("desk-1", "desk-2", "feed")
# Snapshots are so many rows apart that one is often being written.
SERVER = '[server]\nsnapshot_rows = 40\n[server.access]\nkeys = "keys.toml"\n'
PRICED = {"FUTX": 100.0, "FUTY": 50.0, "PERPY": 50.0, "FUTE": 51.0, "CALLX": 9.0}


@dataclass
class Request:
    """What a client sent: its number, key and fills; and, once it is known, the answer."""

    number: int
    fills: list[dict[str, Any]]
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"key-{self.number}"


class Desk:
    """A client that sends fills one after another, and goes on where it does not know."""

    def __init__(self, name: str, key: str, seed: int) -> None:
        self.name, self._headers = name, {"Authorization": f"Bearer {key}"}
        self._random = random.Random(f"{seed} {name}")
        self.acknowledged: list[Request] = []
        self.pending: Request | None = None
        self.resolved = Counter[str]()
        self.error: Exception | None = None

    def send_until_lost(self, port: int, most: int = 10_000) -> None:
        """Send up to `most` requests, as a thread: what is wrong is kept in `error`."""
        try:
            with Caller(port, self._headers) as caller:
                for _ in range(most):
                    self.send(caller)
        except Lost:
            pass
        except Exception as error:
            self.error = error

    def send(self, caller: Caller) -> None:
        """The next request, or the one again of which no answer came."""
        request = self.pending or self._next()
        again, self.pending = self.pending is not None, request
        status, answer = caller.change(
            "/v1/fills", request.number, request.key, {"fills": request.fills}
        )
        if status == 503:  # it stops or starts; the request stays what it is
            time.sleep(0.005)
            return
        assert status == 200, (self.name, request, answer)
        request.answer, self.pending = answer, None
        self.acknowledged.append(request)
        self.resolved["again" if again else "new"] += 1

    def check(self, caller: Caller, some: int) -> None:
        """Requests of old get their first answers; the next number is the one expected."""
        for request in self._random.sample(self.acknowledged, min(some, len(self.acknowledged))):
            found = caller.change("/v1/fills", request.number, request.key, self._body(request))
            assert found == (200, request.answer), (self.name, request)
        following = len(self.acknowledged) + 1
        beyond = following + 1 + (self.pending is not None)
        status, answer = caller.change("/v1/fills", beyond, "beyond", self._body(self._next()))
        known = {following, following + (self.pending is not None)}
        assert status == 409 and answer["expected"] in known, (self.name, answer, following)
        if self.acknowledged:
            other = self._body(self._next())
            used = self.acknowledged[-1]
            status, _ = caller.change("/v1/fills", used.number, used.key, other)
            assert status == 422

    def headers(self) -> dict[str, str]:
        return self._headers

    @staticmethod
    def _body(request: Request) -> dict[str, Any]:
        return {"fills": request.fills}

    def _next(self) -> Request:
        number, draw = len(self.acknowledged) + 1, self._random
        rows = [self._fill(f"{self.name}:{number}:{row}") for row in range(draw.choice([1, 1, 7]))]
        if number > 1 and draw.random() < 0.1:  # a fill that was booked before
            rows.append(draw.choice(self.acknowledged).fills[0])
        if draw.random() < 0.1:
            rows.append(fill(f"{self.name}:{number}:bad", "A", "NOSUCH", 1.0, 1.0))
        return Request(number, rows)

    def _fill(self, fill_id: str) -> dict[str, Any]:
        draw = self._random
        name = draw.choice(list(PRICED))
        account, netting_set = draw.choice([("A", None), ("B", "s1"), ("C", None), ("new", None)])
        quantity = float(draw.choice([-3, -2, -1, 1, 2, 3]))
        price = PRICED[name] + draw.randrange(-40, 40) / 8
        return fill(fill_id, account, name, quantity, price, netting_set=netting_set)


def stream(desks: list[Desk], port: int) -> list[Thread]:
    threads = [Thread(target=one.send_until_lost, args=(port,)) for one in desks]
    for one in threads:
        one.start()
    return threads


def one_life(server: ServerProcess, desks: list[Desk], draw: random.Random) -> str:
    """Start it, be its clients, kill it at some moment: how far it was."""
    server.start(wait=False)
    if draw.random() < 0.3:
        time.sleep(draw.uniform(0.0, 0.6))
        server.kill()
        return "starting"
    server.wait_ready()
    for one in desks:
        with Caller(server.port, one.headers()) as caller:
            one.check(caller, 2)
    threads = stream(desks, server.port)
    # It is a snapshot that is hit most often by one who waits for its file to be begun.
    at_snapshot, ends = draw.random() < 0.4, time.monotonic() + draw.uniform(0.02, 0.6)
    state = server.config.parent / "server-state"
    hit = False
    while time.monotonic() < ends + at_snapshot and not hit:
        time.sleep(0.0005)
        hit = at_snapshot and any(state.glob(".book-*.tmp"))
    server.kill()
    for thread in threads:
        thread.join()
    for one in desks:
        if one.error is not None:
            raise one.error
    return "snapshot" if hit else "stream"


def records_of(desks: list[Desk]) -> list[Record]:
    """What was acknowledged, in the order of the server; every number once."""
    every = sorted(
        (request.answer["state_seq"], request.fills)
        for one in desks
        for request in one.acknowledged
    )
    assert [seq for seq, _ in every] == list(range(1, len(every) + 1))
    names = list(every[0][1][0])
    return [
        Record(seq, "fills", {name: [row[name] for row in rows] for name in names})
        for seq, rows in every
    ]


def same_as_told(config: Path, desks: list[Desk]) -> None:
    """The book that the server leaves is that of what it acknowledged, by loops and by its own."""
    records = records_of(desks)
    answers = {one.answer["state_seq"]: one.answer for desk in desks for one in desk.acknowledged}
    newest = max((config.parent / "server-state").glob("book-*.snapshot"))
    left, told = LiveBook.restore(newest, "numpy"), live_case.book()
    for outcome in told.apply(records):
        assert answers[outcome.state_seq] == {
            "state_seq": outcome.state_seq,
            "applied": outcome.applied,
            "skipped": outcome.skipped,
            "failures": outcome.failures,
        }
    live_case.same(left, told)
    oracle = Oracle()
    for record in records:
        rows = [
            dict(zip(record.rows, row, strict=True))
            for row in zip(*record.rows.values(), strict=True)
        ]
        oracle.take("fill", [row for row in rows if row["instrument_id"] in PRICED])
    held = {row[:3]: row[3] for row in live_case.tracker(left).positions().iter_rows()}
    assert held == oracle.positions


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_nothing_acknowledged_is_lost_or_booked_twice(
    seed: int, tmp_path: Path
) -> None:
    config = small_book(tmp_path, SERVER)
    keys = keys_in(tmp_path, *CLIENTS)
    desks = [Desk(name, keys[name], seed) for name in CLIENTS]
    draw, moments = random.Random(seed), Counter[str]()
    with Spares(2) as spares:
        server = ServerProcess(config, spares=spares)
        for _ in range(KILLS // 2):
            moments[one_life(server, desks, draw)] += 1
        with server_process(config, spares=spares) as server:
            for one in desks:
                with Caller(server.port, one.headers()) as caller:
                    one.check(caller, 10)
                    while one.pending is not None:
                        one.send(caller)
                    one.send(caller)
                    one.check(caller, 1_000_000)
            assert server.stop() == 0
    told = sum(len(one.acknowledged) for one in desks)
    again = sum(one.resolved["again"] for one in desks)
    print(f"killed at {dict(moments)}; {told} requests, of which {again} were sent again")
    same_as_told(config, desks)
    with contextlib.closing(sqlite3.connect(tmp_path / "server-state" / "log.sqlite")) as log:
        # Not of a log that is whole, either.
        assert log.execute("SELECT count(*) FROM entries WHERE rows IS NULL").fetchone()[0] > 0
