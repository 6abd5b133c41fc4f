"""Server-sent events: framing, coming back, slow clients, ends."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from page_case import EVIL, FakeService, Who, as_who, ask, event, pages, problem

from gpu_margin.server.events_stream import StreamLimits


class Listener:
    """A client of /v1/events at the level of ASGI, which can be slow or leave."""

    def __init__(self, service: FakeService, limits: StreamLimits, **headers: str) -> None:
        self._app = as_who(pages(service, limits), Who())
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.messages: list[dict[str, Any]] = []
        self.reading, self.left = asyncio.Event(), asyncio.Event()
        self.reading.set()

    @property
    def text(self) -> str:
        bodies = [one["body"] for one in self.messages if one["type"] == "http.response.body"]
        return b"".join(bodies).decode()

    @property
    def ended(self) -> bool:
        return self.messages[-1].get("more_body") is False

    async def listen(self, query: str = "") -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/events",
            "raw_path": b"/v1/events",
            "query_string": query.encode(),
            "headers": self._headers,
        }
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reading.wait()
        self.messages.append(dict(message))


def events_of(text: str) -> list[tuple[str, str, dict[str, Any]]]:
    """id, event and data of a stream, read as the standard has it."""
    found = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if not line.startswith(":")]
        members = {name: value for name, _, value in lines if name}
        if "data" in members:
            members["data"] = msgspec.json.decode(members["data"])
            found.append((members["id"], members["event"], members["data"]))  # type: ignore[arg-type]
    return found


HISTORY = [
    event(9, "call", "a"),
    event(9, "liquidation", "b"),
    event(9, "call", "c\ndata: {}\n\nevent: cured"),
    event(12, "cured", EVIL),
]


def heard(query: str, **headers: str) -> list[tuple[str, str, dict[str, Any]]]:
    async def listened() -> Listener:
        service = FakeService(history=list(HISTORY), ends=True)
        listener = Listener(service, StreamLimits(), **headers)
        await asyncio.wait_for(listener.listen(query), 10)
        assert listener.ended and service.metrics.streams == 0
        return listener

    listener = asyncio.run(listened())
    assert listener.text.startswith("retry: 2000\n\n")
    return events_of(listener.text)


def test_events_are_framed_so_that_no_id_breaks_out() -> None:
    found = heard("after=0")
    assert [one[0] for one in found] == ["9.1", "9.2", "9.3", "12.1"]
    assert [one[1] for one in found] == ["call", "liquidation", "call", "cured"]
    assert [one[2] for one in found] == HISTORY


@pytest.mark.parametrize(
    ("seen", "left"),
    [("0", 4), ("8.7", 4), ("9.1", 3), ("9.2", 2), ("9.3", 1), ("9", 1), ("12.1", 0), ("99", 0)],
)
def test_a_client_that_comes_back_misses_nothing_and_gets_nothing_twice(
    seen: str, left: int
) -> None:
    expected = HISTORY[len(HISTORY) - left :]
    assert [one[2] for one in heard("after=0", **{"last-event-id": seen})] == expected
    assert [one[2] for one in heard(f"after={seen}")] == expected


def test_without_a_position_only_new_events_come() -> None:
    assert heard("") == []


@pytest.mark.parametrize("wrong", ["", "x", "-1", "1.", "1.2.3", "9" * 19, "٣"])
def test_a_position_that_is_none_is_named(wrong: str) -> None:
    found = problem(ask(FakeService(), "GET", "/v1/events", params={"after": wrong}), 422)
    assert found["field"] == "after"
    headers = {"Last-Event-ID": wrong.encode()}
    found = problem(ask(FakeService(), "GET", "/v1/events", headers=headers), 422)
    assert found["field"] == "Last-Event-ID"


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


def test_a_new_event_arrives_and_silence_is_filled_with_heartbeats() -> None:
    async def listened() -> None:
        service = FakeService()
        listener = Listener(service, StreamLimits(heartbeat=0.02))
        task = asyncio.create_task(listener.listen())
        await until(lambda: listener.text.count(": still here") >= 2)
        service.history.append(event(1, "call", "a"))
        await until(lambda: events_of(listener.text))
        assert service.metrics.streams == 1
        listener.left.set()
        await asyncio.wait_for(task, 5)
        assert service.metrics.streams == 0 and not listener.ended
        assert service.metrics.dropped_streams == 0

    asyncio.run(listened())


def test_a_client_that_does_not_read_is_dropped_and_not_buffered() -> None:
    async def listened() -> None:
        service = FakeService()
        taken = []
        service.events = lambda *_: endless(taken)  # type: ignore[method-assign, assignment]
        listener = Listener(service, StreamLimits(patience=0.2, backlog=50))
        task = asyncio.create_task(listener.listen())
        await until(lambda: listener.messages)
        listener.reading.clear()
        await asyncio.sleep(0.02)
        before = len(taken)
        await asyncio.wait_for(task, 5)
        assert len(taken) - before <= 51 and not listener.ended
        assert (service.metrics.streams, service.metrics.dropped_streams) == (0, 1)

    asyncio.run(listened())


async def endless(taken: list[int]) -> Any:
    while True:
        taken.append(1)
        yield event(len(taken), "call", "a")
        await asyncio.sleep(0)


def test_the_longest_stream_ends() -> None:
    async def listened() -> None:
        listener = Listener(FakeService(), StreamLimits(longest=0.05))
        await asyncio.wait_for(listener.listen(), 5)
        assert listener.ended

    asyncio.run(listened())


def test_too_many_listeners_are_told_when_to_come_again() -> None:
    service = FakeService()
    service.metrics.streams = 1_000
    answer = ask(service, "GET", "/v1/events")
    problem(answer, 503)
    assert answer.headers["retry-after"] == "10"
