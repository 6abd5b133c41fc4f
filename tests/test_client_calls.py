"""Calls of the client as steps, driven by hand: what is sent again, when, and what never is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_server import ToyServer

from gpu_margin.client import ProblemError, Unanswered
from gpu_margin.client.calls import Calls
from gpu_margin.client.events import Listening
from gpu_margin.client.steps import Patience, Send, Sleep, answer

FILL = {"fill_id": "f", "account_id": "A", "instrument_id": "I", "quantity": 1, "price": 2.0}


def response(status: int, retry_after: str | None = None, **members: Any) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, headers=headers, json={"detail": "no", **members})


class Driven:
    """Steps of a call, answered by hand."""

    def __init__(self, steps: Any) -> None:
        self.steps = steps
        self.step = next(steps)

    def told(self, reply: Any) -> Any:
        self.step = self.steps.send(reply)
        return self.step


@pytest.mark.parametrize("status", [429, 503])
def test_what_was_shed_is_sent_again_after_the_time_asked_for(status: int) -> None:
    call = Driven(answer(Send("POST", "/x", again=False), Patience(60.0)))
    pause = call.told(response(status, "1.5"))
    assert isinstance(pause, Sleep) and pause.seconds == 1.5
    assert call.told(None).path == "/x"
    with pytest.raises(StopIteration) as done:
        call.told(response(200))
    assert done.value.value.status_code == 200


def test_pauses_grow_but_not_for_ever() -> None:
    call = Driven(answer(Send("GET", "/x"), Patience(1e6)))
    pauses = []
    for _ in range(12):
        pauses.append(call.told(response(503)).seconds)
        call.told(None)
    assert 0.025 <= pauses[0] <= 0.05
    assert all(1.0 <= seconds <= 2.0 for seconds in pauses[6:])


def test_no_longer_than_the_deadline() -> None:
    call = Driven(answer(Send("GET", "/x"), Patience(60.0)))
    with pytest.raises(ProblemError) as error:
        call.told(response(503, "61"))
    assert error.value.retry_after == 61.0
    call = Driven(answer(Send("GET", "/x"), Patience(0.0)))
    with pytest.raises(Unanswered, match="GET /x: ReadTimeout"):
        call.told(httpx.ReadTimeout("nobody"))


def test_a_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    error = ProblemError(response(503, later))
    assert error.retry_after is not None and 27 < error.retry_after <= 30
    assert ProblemError(response(503, "soon")).retry_after is None


@pytest.mark.parametrize("lost", [httpx.ReadError("x"), httpx.ReadTimeout("x"), response(504)])
def test_what_may_have_been_done_is_not_sent_again_unless_it_is_safe(lost: Any) -> None:
    once = Driven(answer(Send("POST", "/x", again=False), Patience(60.0)))
    with pytest.raises((Unanswered, ProblemError)):
        once.told(lost)
    safe = Driven(answer(Send("POST", "/x"), Patience(60.0)))
    assert isinstance(safe.told(lost), Sleep)


def test_what_never_left_is_sent_again() -> None:
    call = Driven(answer(Send("POST", "/x", again=False), Patience(60.0)))
    assert isinstance(call.told(httpx.ConnectError("refused")), Sleep)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 413, 422, 500])
def test_other_answers_are_final(status: int) -> None:
    call = Driven(answer(Send("GET", "/x"), Patience(60.0)))
    with pytest.raises(ProblemError) as error:
        call.told(response(status))
    assert error.value.status == status


def test_problems_say_what_the_server_said() -> None:
    members = {
        "type": "urn:gpu-margin:problem:too-many",
        "detail": "more than 5",
        "field": "positions",
        "way_out": "send fewer",
        "request_id": "r-7",
        "expected": 3,
    }
    error = ProblemError(httpx.Response(422, json=members))
    assert (error.status, error.kind, error.field) == (422, "too-many", "positions")
    assert (error.way_out, error.request_id, error.extra) == ("send fewer", "r-7", {"expected": 3})
    assert str(error) == "422 too-many: positions: more than 5; send fewer"


@pytest.mark.parametrize("body", [b"<html>Bad Gateway", b"[1]", b"\xff"])
def test_what_is_no_problem_document_is_told_all_the_same(body: bytes) -> None:
    error = ProblemError(httpx.Response(502, content=body, headers={"X-Request-Id": "r"}))
    assert (error.status, error.kind, error.request_id) == (502, "http", "r")


def test_the_server_tells_the_number() -> None:
    calls = Calls(60.0)
    call = Driven(calls.change("fills", [FILL], None))
    first = call.step
    assert first.headers["Client-Sequence"] == "1"
    assert call.told(response(409, expected=7)) == Sleep(0.0)
    again = call.told(None)
    assert again.headers["Client-Sequence"] == "7" and again.content == first.content
    assert again.headers["Idempotency-Key"] == first.headers["Idempotency-Key"]
    with pytest.raises(StopIteration):
        call.told(response(200))
    following = Driven(calls.change("fills", [FILL], None)).step
    assert following.headers["Client-Sequence"] == "8"
    assert following.headers["Idempotency-Key"] != first.headers["Idempotency-Key"]


def test_a_conflict_without_a_new_number_is_final() -> None:
    for members in ({}, {"expected": 1}, {"expected": "2"}):
        call = Driven(Calls(60.0).change("fills", [FILL], None))
        with pytest.raises(ProblemError):
            call.told(response(409, **members))


def test_an_unanswered_change_says_its_key() -> None:
    call = Driven(Calls(0.0).change("marks", [], "my-key"))
    with pytest.raises(Unanswered) as error:
        call.told(httpx.ReadError("gone"))
    assert error.value.key == "my-key"


@given(
    st.lists(st.sampled_from(["ok", "before", "after", "503", "gap"]), max_size=12),
    st.integers(1, 5),
)
def test_whatever_happens_every_fill_is_booked_once_and_in_order(
    fates: list[str], start: int
) -> None:
    server, coming = ToyServer(), iter(fates)
    server.first = start
    calls = Calls(1e6)
    for number in range(4):
        call = Driven(calls.change("fills", [{**FILL, "fill_id": str(number)}], None))
        with contextlib.suppress(StopIteration):
            while True:
                call.told(
                    None if isinstance(call.step, Sleep) else tried(server, call.step, coming)
                )
    assert server.booked == ["0", "1", "2", "3"]


def tried(server: ToyServer, send: Send, coming: Iterator[str]) -> Any:
    """What becomes of a request under the next fate."""
    fate = next(coming, "ok")
    if fate == "before":
        return httpx.ConnectError("refused")
    if fate == "503":
        return response(503, "0")
    if fate == "gap":  # another process of the same client was served before
        server.numbers[""] = server.numbers.get("", server.first) + 1
    headers = {name.lower(): value for name, value in send.headers.items()}
    status, body, _ = server.answer(send.path, headers, send.content or b"")
    lost = fate == "after"
    return httpx.ReadError("lost") if lost else httpx.Response(status, content=body)


def test_events_in_pieces_and_after_the_end() -> None:
    text = "".join(
        f'id: {n}.1\r\nevent: call\r\ndata: {{"sequence":\r\ndata: {n}}}\r\n\r\n' for n in (1, 2)
    )
    listening = Listening(0, 60.0)
    found = [one for byte in text.encode()[:-4] for one in listening.feed(bytes([byte]))]
    assert [one.sequence for one in found] == [1]
    assert listening.broken(None) < 1.0
    # The half of the second event is forgotten, and asked for again.
    assert listening.send.headers["Last-Event-ID"] == "1.1"
    assert [one.id for one in listening.feed(text.encode())] == ["1.1", "2.1"]
    with pytest.raises(ProblemError, match="403"):
        listening.broken(response(403))
    with pytest.raises(ProblemError, match="503"):
        listening.broken(response(503, "61"))
    with pytest.raises(Unanswered):
        Listening(0, 0.0).broken(httpx.ReadError("gone"))
