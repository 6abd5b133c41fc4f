"""A server with small limits, and what is sent to it, for tests of what it refuses."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import polars as pl
from running_case import FUTURE, MINE, Running, demo_book, running

JSON = {"Content-Type": "application/json"}
MSGPACK = {"Content-Type": "application/msgpack"}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
MOST_BYTES, MOST_LEGS, MOST_ROWS, DEPTH = 16_384, 5, 8, 3
LIMITS = f"""
[server.limits]
max_body_bytes = {MOST_BYTES}
max_legs = {MOST_LEGS}
max_batch = {MOST_ROWS}
queue_depth = {DEPTH}
"""
WHATIF = {"account_id": MINE, "positions": {FUTURE: 1}}
MARK = {"factor": "WTI", "field": "last", "value": 45.0, "time": "2018-12-31T12:00:00"}
POSTS = ("/v1/whatif", "/v1/whatif/batch", "/v1/orders/check", "/v1/fills", "/v1/marks")


def fill(n: int, **changes: Any) -> dict[str, Any]:
    given = {"fill_id": f"f-{n}", "account_id": MINE, "instrument_id": FUTURE}
    return {**given, "quantity": 1.0, "price": 45.0, **changes}


@contextmanager
def limited_server(folder: Path) -> Iterator[Running]:
    """A server on a demo book, with small limits."""
    with running(demo_book(folder, extra_toml=LIMITS)) as found:
        yield found


@contextmanager
def careful_client(server: Running) -> Iterator[httpx.Client]:
    """A client; whatever it has sent, the server is well afterwards."""
    with server.client() as found:
        yield found
    with server.client() as found:
        assert found.post("/v1/whatif", json=WHATIF).status_code == 200
    assert server.house.faults == [] and server.house.metrics.errors == 0


NEXT = iter(range(1, 1_000_000))


def change(n: int | None = None, key: str | None = None) -> dict[str, str]:
    """Headers of a change; those of one that is refused do not use their number up."""
    named = key or f"key-{next(NEXT)}"
    return {"Client-Sequence": str(n or 1), "Idempotency-Key": named}


def raw(server: Running, *lines: bytes, body: bytes = b"") -> bytes:
    """The beginning of the answer to these very bytes."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        return connection.recv(1 << 16)


def arrow(rows: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    table = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(rows)
    table.write_ipc_stream(stream, **options)
    return stream.getvalue()


def leg(n: int) -> dict[str, Any]:
    return {"whatif_id": f"w-{n}", "account_id": MINE, "instrument_id": FUTURE, "quantity": 1.0}
