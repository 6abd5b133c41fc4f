"""A small server that keeps the rules of the real one, on a port of this machine, in a thread.

It can be told to misbehave: `plan` has what becomes of the next requests instead of an answer: a
status (503, with Retry-After 0), "before" (the connection breaks before anything is done), "after"
(once it is done), "ok" (nothing), or seconds as text, for which the whole server stands still.
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import uvicorn

Send = Callable[[dict[str, Any]], Awaitable[None]]
ARROW = b"application/vnd.apache.arrow.stream"
EVENTS = [
    {"sequence": n, "kind": "call", "account_id": f"A\u2028{n}", "model": "es", "before": "ok"}
    for n in (3, 4, 5)
]


class ToyServer:
    """An ASGI application; `seen` has (method, path, headers, body) of the last requests.

    `numbers` are those that it expects of each client, `first` where it does not know one.
    """

    def __init__(self, kept: int = 100_000) -> None:
        self.plan: deque[int | str] = deque()
        self.seen: deque[tuple[str, str, dict[str, str], bytes]] = deque(maxlen=kept)
        self.first = 1
        self.numbers: dict[str, int] = {}
        self.answers: dict[str, tuple[bytes, bytes]] = {}
        self.booked: list[str] = []
        self.is_ready = True

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Send) -> None:
        body = await read_body(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["raw_path"].decode()
        self.seen.append((scope["method"], path, headers, body))
        todo = self.plan.popleft() if self.plan else None
        if isinstance(todo, int):
            await reply(send, todo, problem(todo, "busy"), {"retry-after": "0"})
        elif todo == "before":
            await break_off(send)
        else:
            if isinstance(todo, str) and todo not in ("after", "ok"):
                time.sleep(float(todo))  # all connections wait, as they should
            status, found, more = self.answer(path, headers, body)
            await (break_off(send) if todo == "after" else reply(send, status, found, more))

    def answer(
        self, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        if path == "/ready":
            return (200 if self.is_ready else 503), b'{"ready": true, "progress": {}}', {}
        if path in ("/v1/fills", "/v1/marks"):
            return self.change(path[4:], headers, body)
        if path == "/v1/whatif/batch" and headers["content-type"] == ARROW.decode():
            return table_answer(body)
        if path == "/v1/events":
            after = int(headers["last-event-id"].partition(".")[0])
            return 200, b"".join(frame(one) for one in EVENTS if one["sequence"] > after), {}
        if path.startswith("/v1/accounts/missing"):
            return 403, problem(403, "forbidden", field="account_id", way_out="ask another"), {}
        given = json.loads(body or b"null")
        echo = {"path": path, "given": given, "models": {}, "action": "accept"}
        return 200, json.dumps({**echo, "state_seq": len(self.answers)}).encode(), {}

    def change(
        self, kind: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        key, number = headers["idempotency-key"], int(headers["client-sequence"])
        if key in self.answers:
            same = self.answers[key][0] == body
            return (200, self.answers[key][1], {}) if same else (422, problem(422, "reused"), {})
        client = headers.get("x-api-key") or headers.get("authorization", "")
        expected = self.numbers.get(client, self.first)
        if number != expected:
            return 409, problem(409, "sequence-gap", expected=expected), {}
        self.numbers[client] = number + 1
        rows = rows_of(kind, headers, body)
        self.booked += [row.get("fill_id", "") for row in rows]
        found = {"state_seq": number, "applied": len(rows), "skipped": [], "failures": []}
        self.answers[key] = (body, json.dumps(found).encode())
        return 200, self.answers[key][1], {}


def rows_of(kind: str, headers: dict[str, str], body: bytes) -> list[dict[str, Any]]:
    if headers["content-type"] == ARROW.decode():
        return pl.read_ipc_stream(io.BytesIO(body)).to_dicts()
    rows: list[dict[str, Any]] = json.loads(body)[kind]
    return rows


def table_answer(body: bytes) -> tuple[int, bytes, dict[str, str]]:
    """The gross of each what-if."""
    legs = pl.read_ipc_stream(io.BytesIO(body))
    gross = pl.col("quantity").abs().sum().alias("after")
    stream = io.BytesIO()
    found = legs.group_by("whatif_id", maintain_order=True).agg(gross)
    found.with_columns(before=pl.lit(0.0)).write_ipc_stream(stream)
    return 200, stream.getvalue(), {"x-state-seq": "7", "content-type": ARROW.decode()}


def frame(event: dict[str, Any]) -> bytes:
    data = json.dumps({**event, "after": "call"}, ensure_ascii=False)
    head = f": hello\nretry: 1\n\nid: {event['sequence']}.1\nevent: {event['kind']}\n"
    return f"{head}data: {data}\n\n".encode()


def problem(status: int, kind: str, **more: Any) -> bytes:
    members = {"type": f"urn:gpu-margin:problem:{kind}", "title": "?", "status": status}
    return json.dumps({**members, "detail": f"it is {kind}", "request_id": "r-1", **more}).encode()


async def read_body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def reply(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    all_headers = {"content-length": str(len(body)), **headers}
    pairs = [(name.encode(), value.encode()) for name, value in all_headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


async def break_off(send: Send) -> None:
    """Promise a body and do not send it: uvicorn closes the connection."""
    headers = [(b"content-length", b"9")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


@contextmanager
def serving(app: Any, **options: Any) -> Iterator[int]:
    """Serve an application while the block runs; gives the port."""
    config = uvicorn.Config(
        app, port=0, log_level="critical", lifespan="off", ws="none", loop="asyncio", **options
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ends = time.monotonic() + 10
    while not server.started and time.monotonic() < ends:
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=10)


if __name__ == "__main__":
    uvicorn.run(ToyServer(kept=1), port=int(sys.argv[1]), log_level="critical", lifespan="off")
