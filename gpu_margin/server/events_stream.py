"""Server-sent events: calls, cures and liquidations as they happen.

An event's id is `<sequence>.<n>`, the n-th event of that state: a client that comes back with it
misses nothing and gets nothing twice. A client that does not read is dropped, and may come back.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gpu_margin.server.metrics import Metrics
from gpu_margin.server.problems import Problem

MEDIA_TYPE = "text/event-stream"
_POSITION = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?")
_CHUNK = 64 << 10


class _TooSlow(Exception):
    """A client does not read what it asked for."""


@dataclass(frozen=True)
class Position:
    """Events up to the `count`-th of state `sequence` have been seen; no count: all of them."""

    sequence: int
    count: int | None = None

    @property
    def after(self) -> int:
        """The state after which events are asked for: those partly seen come again."""
        return self.sequence if self.count is None else self.sequence - 1

    def seen(self, sequence: int, count: int) -> bool:
        """Whether the client has had this event."""
        return self.count is not None and sequence == self.sequence and count <= self.count


def position(text: str, field: str) -> Position:
    """`12` or `12.3` as a position; raises `Problem` 422 naming the field."""
    found = _POSITION.fullmatch(text)
    if found is None:
        raise Problem(
            422,
            "validation",
            f"{field} must be a sequence number or the id of an event, such as 12 or 12.3",
            field=field,
            way_out="leave it away for new events only, or take the id of the last one seen",
        )
    sequence, count = found.groups()
    return Position(int(sequence), None if count is None else int(count))


@dataclass(frozen=True)
class StreamLimits:
    """Seconds: between heartbeats, until a client that does not read is dropped, of a stream.

    `backlog` events at most wait for one client. The longest stream ends so that a key that has
    been withdrawn does not listen for ever; clients come back after `retry` seconds.
    """

    heartbeat: float = 15.0
    patience: float = 10.0
    longest: float = 3600.0
    retry: float = 2.0
    backlog: int = 1_000


class EventStream(Response):
    """The answer that goes on: `events` from the service, less what the client has had."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        events: AsyncIterator[dict[str, Any]],
        start: Position | None,
        metrics: Metrics,
        limits: StreamLimits,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        # It has no length: it ends when it ends.
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._events, self._start = events, start
        self._metrics, self._limits = metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the client leaves, the events end, or the client is too slow."""
        self._metrics.streams += 1
        queue: asyncio.Queue[bytes] = asyncio.Queue(self._limits.backlog)
        filling = asyncio.create_task(self._fill(queue))
        writing = asyncio.create_task(self._write(queue, filling, send))
        leaving = asyncio.create_task(_left(receive))
        tasks = (filling, writing, leaving)
        try:
            await asyncio.wait(
                (writing, leaving), return_when="FIRST_COMPLETED", timeout=self._limits.longest
            )
            over = leaving.done()
            if writing.done():
                writing.result()
        except _TooSlow:
            # To one who does not read not even an end can be sent: the connection is closed.
            self._metrics.dropped_streams += 1
            over = True
        finally:
            self._metrics.streams -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not over:
            with suppress(_TooSlow):
                await self._send(send, b"", more=False)

    async def _fill(self, queue: asyncio.Queue[bytes]) -> None:
        sequence, count = -1, 0
        async for event in self._events:
            count = count + 1 if event["sequence"] == sequence else 1
            sequence = event["sequence"]
            if self._start is None or not self._start.seen(sequence, count):
                await queue.put(_framed(event, count))

    async def _write(
        self, queue: asyncio.Queue[bytes], filling: asyncio.Task[None], send: Send
    ) -> None:
        """Send what there is, many at once; a comment where there is nothing for a while."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        chunk = f"retry: {round(self._limits.retry * 1000)}\n\n: listening\n\n".encode()
        while True:
            await self._send(send, chunk)
            if filling.done() and queue.empty():
                return filling.result()
            chunk = await self._next(queue, filling)

    async def _send(self, send: Send, body: bytes, *, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": body, "more_body": more}
        try:
            await asyncio.wait_for(send(message), self._limits.patience)
        except TimeoutError:
            raise _TooSlow from None

    async def _next(self, queue: asyncio.Queue[bytes], filling: asyncio.Task[None]) -> bytes:
        if queue.empty():
            first = asyncio.create_task(queue.get())
            try:
                await asyncio.wait(
                    (first, filling),
                    return_when="FIRST_COMPLETED",
                    timeout=self._limits.heartbeat,
                )
                if not first.done():
                    return b"" if filling.done() else b": still here\n\n"
                found = [first.result()]
            finally:
                first.cancel()
        else:
            found = [queue.get_nowait()]
        size = len(found[0])
        while size < _CHUNK and not queue.empty():
            found.append(queue.get_nowait())
            size += len(found[-1])
        return b"".join(found)


def _framed(event: dict[str, Any], count: int) -> bytes:
    """One event; JSON has no line ends, so that nothing in it can end the event."""
    data = msgspec.json.encode(event).decode()
    return f"id: {event['sequence']}.{count}\nevent: {event['kind']}\ndata: {data}\n\n".encode()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
