"""The running server at its limits: sizes, counts, rates, queues, and before it is ready."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from limits_case import (
    ARROW,
    DEPTH,
    JSON,
    MARK,
    MOST_BYTES,
    MOST_LEGS,
    MOST_ROWS,
    MSGPACK,
    POSTS,
    WHATIF,
    arrow,
    careful_client,
    change,
    fill,
    leg,
    limited_server,
    raw,
)
from running_case import ACCESS, FUTURE, MINE, Running, demo_book, keys_in, problem, running

from gpu_margin.server import house as houses


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with limited_server(tmp_path_factory.mktemp("limits")) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with careful_client(server) as found:
        yield found


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("path", POSTS)
def test_a_body_is_no_larger_than_allowed(client: httpx.Client, path: str) -> None:
    fits, large = b" " * MOST_BYTES, b" " * (MOST_BYTES + 1)
    problem(client.post(path, content=fits, headers={**JSON, **change()}), 400)
    found = problem(client.post(path, content=large, headers={**JSON, **change()}), 413)
    assert str(MOST_BYTES) in found["detail"]

    def chunks(size: int) -> Iterator[bytes]:
        for start in range(0, size, 1000):
            yield b" " * min(1000, size - start)

    problem(client.post(path, content=chunks(MOST_BYTES), headers={**JSON, **change()}), 400)
    problem(client.post(path, content=chunks(MOST_BYTES + 1), headers={**JSON, **change()}), 413)


def test_a_body_without_end_is_cut_off(server: Running) -> None:
    """Chunk after chunk: the answer comes as soon as it is too much, not at the end."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(
            b"POST /v1/whatif HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        sent = 0
        while not select.select([connection], [], [], 0.01)[0]:
            connection.sendall(b"1000\r\n" + b" " * 0x1000 + b"\r\n")
            sent += 0x1000
        assert MOST_BYTES <= sent < 4 * MOST_BYTES
        answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 413 ") and b"problem+json" in answer
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1 << 16) == b""  # and no more is taken


def test_a_length_that_is_a_lie_or_none(server: Running) -> None:
    for length in (b"-1", b"1e3", b"99999999999999999999999", b"0x10", b""):
        said = b"Content-Length: " + length
        answer = raw(server, b"POST /v1/whatif HTTP/1.1", b"Host: localhost", said)
        assert answer[9:12] in (b"400", b"413"), (length, answer)


def test_legs_are_counted(client: httpx.Client) -> None:
    legs = {f"X-{n}": 1.0 for n in range(MOST_LEGS + 1)}
    found = problem(client.post("/v1/whatif", json={**WHATIF, "positions": legs}), 422)
    assert found["field"] == "positions" and str(MOST_LEGS) in found["detail"]
    many = {"whatifs": [WHATIF, {**WHATIF, "positions": legs}]}
    found = problem(client.post("/v1/whatif/batch", json=many), 422)
    assert found["field"] == "whatifs[1].positions"
    orders = [{"instrument_id": FUTURE, "quantity": 1}] * (MOST_LEGS + 1)
    order = {"account_id": MINE, "instrument_id": FUTURE, "quantity": 1, "open_orders": orders}
    found = problem(client.post("/v1/orders/check", json=order), 422)
    assert found["field"] == "open_orders"


def test_rows_of_a_batch_are_counted(client: httpx.Client) -> None:
    many = MOST_ROWS + 1
    bodies: list[tuple[str, str, Any]] = [
        ("/v1/whatif/batch", "whatifs", [WHATIF] * many),
        ("/v1/fills", "fills", [fill(n) for n in range(many)]),
        ("/v1/marks", "marks", [MARK] * many),
    ]
    for path, name, rows in bodies:
        problem(client.post(path, json={name: rows}, headers=change()), 422)
        packed = msgspec.msgpack.encode({name: rows})
        problem(client.post(path, content=packed, headers={**MSGPACK, **change()}), 422)
    tables = {**ARROW, **change()}
    problem(client.post("/v1/fills", content=arrow(bodies[1][2]), headers=tables), 422)
    legs = [leg(n) for n in range(many)]
    problem(client.post("/v1/whatif/batch", content=arrow(legs), headers=tables), 422)
    legs = [leg(0)] * (MOST_ROWS * MOST_LEGS + 1)
    problem(client.post("/v1/whatif/batch", content=arrow(legs), headers=tables), 422)
    for path, name in (("/v1/fills", "fills"), ("/v1/marks", "marks")):
        problem(client.post(path, json={name: []}, headers=change()), 422)
    assert client.post("/v1/whatif/batch", json={"whatifs": []}).json()["answers"] == []


def test_rates_are_per_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    keys = keys_in(tmp_path_factory.mktemp("rates"))
    keys.add("slow", rate=0.5, burst=2)
    with running(demo_book(keys.folder, extra_toml=ACCESS)) as server:
        with server.client(keys["slow"]) as client:
            assert [client.get(f"/v1/accounts/{MINE}").status_code for _ in range(2)] == [200] * 2
            for path in (f"/v1/accounts/{MINE}", "/v1/summary", "/metrics", "/docs"):
                answer = client.get(path)
                assert problem(answer, 429)["way_out"]
                assert 1 <= int(answer.headers["retry-after"]) <= 2
            assert client.get("/health").status_code == 200
        with server.client(keys["all"]) as client:
            assert client.get("/v1/summary").status_code == 200


# ---------------------------------------------------------------- queues


@contextmanager
def held(server: Running, *, writer: bool = False) -> Iterator[None]:
    """While the reader (or writer) is at work on something slow."""
    begun, over = threading.Event(), threading.Event()

    def slow(asked: Any = ()) -> list[None]:
        begun.set()
        assert over.wait(30)
        return [None for _ in asked]

    threads = server.house.threads
    assert threads.reader is not None and threads.writer is not None
    if writer:
        threads.writer.call(slow)
    else:
        threads.reader._answers["slow"] = slow
        assert server.house._loop is not None
        server.house._loop.call_soon_threadsafe(threads.reader.ask, "slow", None)
    assert begun.wait(10)
    try:
        yield
    finally:
        over.set()


def test_too_many_questions_are_told_to_come_again(server: Running) -> None:
    def ask(_: int) -> httpx.Response:
        body = {"whatifs": [WHATIF]}
        with server.client() as client:
            return client.post("/v1/whatif/batch", json=body)

    with ThreadPoolExecutor(16) as pool:
        with held(server):
            waiting = [pool.submit(ask, n) for n in range(12)]
            while sum(one.done() for one in waiting) < 12 - DEPTH:
                time.sleep(0.01)
            with server.client() as client:
                # What needs no turn is answered all the same.
                assert client.get("/health").status_code == 200
                assert client.get("/ready").status_code == 200
                assert "queue" in client.get("/metrics").text
                problem(client.get("/v1/summary"), 503)
                problem(client.get(f"/v1/accounts/{MINE}"), 503)
                problem(client.get(f"/v1/accounts/{MINE}/explain"), 503)
        answers = [one.result(30) for one in waiting]
    assert sorted(one.status_code for one in answers) == [200] * DEPTH + [503] * (12 - DEPTH)
    for one in answers:
        if one.status_code == 503:
            assert f"{DEPTH} requests" in problem(one, 503)["detail"]


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def sent_twice(server: Running) -> socket.socket:
    """A connection that was refused and has asked again, though it was told to wait."""
    connection = socket.create_connection(("127.0.0.1", server.port), 30)
    connection.sendall(get(f"/v1/accounts/{MINE}"))
    refused = connection.recv(1 << 16)
    assert refused.startswith(b"HTTP/1.1 503") and b"retry-after: 2\r\n" in refused.lower()
    connection.sendall(get(f"/v1/accounts/{MINE}"))
    return connection


@contextmanager
def full(server: Running) -> Iterator[None]:
    """A server that has as many questions as it takes."""

    def ask(_: int) -> int:
        with server.client() as client:
            return client.post("/v1/whatif/batch", json={"whatifs": [WHATIF]}).status_code

    with ThreadPoolExecutor(DEPTH) as pool, held(server):
        waiting = [pool.submit(ask, n) for n in range(DEPTH)]
        while server.app._asking < DEPTH:
            time.sleep(0.01)
        yield
    assert [one.result(30) for one in waiting] == [200] * DEPTH


def test_who_is_refused_is_not_heard_again_for_a_while(server: Running) -> None:
    """Told at once, then left unread; others are not."""
    with full(server):
        connection = sent_twice(server)
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with server.client() as client:
            assert client.get("/health").status_code == 200
    connection.settimeout(30)
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    connection.close()


def test_a_long_body_is_heard_to_its_end_first(tmp_path: Path) -> None:
    """Though it is refused already: who sends all of it before it reads would learn it later."""
    with (
        running(demo_book(tmp_path, extra_toml=f"[server.limits]\nqueue_depth = {DEPTH}\n")) as one,
        full(one),
        one.client() as client,
    ):
        begun = time.monotonic()
        problem(client.post("/v1/whatif/batch", content=b" " * (20 << 20), headers=JSON), 503)
        assert time.monotonic() - begun < 1.5
        assert client.get("/health").status_code == 200
        assert time.monotonic() - begun > 2.0


def test_what_comes_behind_a_refused_request_waits_too(server: Running) -> None:
    """Two more requests in the same packet: answered after a while, in their order."""
    with full(server):
        connection = socket.create_connection(("127.0.0.1", server.port), 30)
        connection.sendall(get(f"/v1/accounts/{MINE}") + get("/health") + get("/ready"))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 503")
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(30)
        found = b""
        while found.count(b"HTTP/1.1 200") < 2 or not found.endswith(b"}"):
            found += connection.recv(1 << 16)
        assert found.index(b'"ok"') < found.index(b'"ready"')
        connection.close()


def no_warnings(caplog: pytest.LogCaptureFixture) -> bool:
    return not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_who_is_not_heard_may_go(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with full(server):
        connection = sent_twice(server)
        # Not in order, but reset.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        time.sleep(2.5)
        with server.client() as client:
            assert client.get("/health").status_code == 200
    assert no_warnings(caplog)


def test_a_server_stops_though_it_does_not_hear_someone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with limited_server(tmp_path) as server:
        with full(server):
            connection = sent_twice(server)
        server.stop()
    with connection:
        connection.settimeout(30)
        # What it had not read is gone with the connection.
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    assert no_warnings(caplog)


def test_too_many_changes_are_told_to_come_again(server: Running) -> None:
    """What was refused was not taken: the same numbers are taken afterwards."""

    def send(n: int) -> httpx.Response:
        body = {"fills": [fill(n, fill_id=f"queue-{n}")]}
        headers = {"Client-Sequence": str(start + n), "Idempotency-Key": f"queue-{n}"}
        return httpx.post(
            f"{server.url}/v1/fills", json=body, headers=headers, timeout=30, verify=False
        )

    start = server.house.log.expected("local")
    with ThreadPoolExecutor(16) as pool:
        with held(server, writer=True):
            waiting = [pool.submit(send, n) for n in range(8)]
            while sum(one.done() for one in waiting) < 8 - DEPTH:
                time.sleep(0.01)
        answers = [one.result(30) for one in waiting]
    refused = [one for one in answers if one.status_code == 503]
    assert len(refused) == 8 - DEPTH
    assert all(problem(one, 503)["way_out"] for one in refused)
    assert all(one.status_code in (200, 409) for one in answers if one not in refused)
    again = [send(n).json() for n in range(8)]
    assert [one["applied"] for one in again] == [1] * 8
    assert len({one["state_seq"] for one in again}) == 8


# ---------------------------------------------------------------- while it loads


def test_before_there_is_a_book(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    load = houses.loading.load

    def slow(config: Any) -> Any:
        assert go.wait(30)
        return load(config)

    monkeypatch.setattr(houses.loading, "load", slow)
    folder = tmp_path_factory.mktemp("loading")
    with running(demo_book(folder), wait=False) as server, server.client() as client:
        try:
            answer = client.get("/ready")
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) >= 1
            assert answer.json()["ready"] is False and answer.json()["progress"]["stage"]
            assert client.get("/health").status_code == 200
            for path in ("/", "/docs", "/openapi.json", "/metrics"):
                assert client.get(path).status_code == 200, path
            account = f"/v1/accounts/{MINE}"
            for path in (
                account,
                f"{account}/explain",
                "/v1/summary",
                "/v1/accounts",
                "/v1/events",
            ):
                problem(client.get(path), 503)
            problem(client.post("/v1/admin/snapshot"), 503)
            order = {"account_id": MINE, "instrument_id": FUTURE, "quantity": 1}
            bodies = (WHATIF, {"whatifs": [WHATIF]}, order, {"fills": [fill(1)]}, {"marks": [MARK]})
            for path, body in zip(POSTS, bodies, strict=True):
                problem(client.post(path, json=body, headers=change()), 503)
            body = arrow([leg(0)])
            problem(client.post("/v1/whatif/batch", content=body, headers=ARROW), 503)
            # What is wrong is said at once.
            problem(client.post("/v1/whatif", content=b"", headers=JSON), 400)
        finally:
            go.set()
        server.ready()
        assert client.get("/ready").json()["ready"] is True
        assert (
            client.post("/v1/fills", json={"fills": [fill(1)]}, headers=change()).json()["applied"]
            == 1
        )
