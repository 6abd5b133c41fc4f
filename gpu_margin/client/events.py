"""Server-sent events: what comes in as lines becomes events, and a broken stream goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from gpu_margin.client.problems import ProblemError, Unanswered
from gpu_margin.client.steps import Patience, Send

_SHED = (429, 502, 503, 504)
# The server sends a comment every 15 seconds: who is silent for longer is gone.
SILENCE = 45.0
_LONGEST_RETRY = 10.0


@dataclass(frozen=True)
class Event:
    """An account's status changed under a model, in the state `sequence`.

    `kind` is call, cured or liquidation; `before` is None where the status was not known. `id` is
    what `events(after=...)` goes on from.
    """

    id: str
    kind: str
    sequence: int
    account_id: str
    model: str
    before: str | None
    after: str


class Listening:
    """A stream of events that may break: where it is, and whether to go on."""

    def __init__(self, after: str | int, deadline: float) -> None:
        self._after = self._id = str(after)
        self._deadline = deadline
        self._patience = Patience(deadline)
        self._rest, self._kind, self._data = b"", "", list[str]()
        self._retry = 0.0

    @property
    def send(self) -> Send:
        """What to ask for now."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": self._after}
        return Send("GET", "/v1/events", headers)

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take what came in; the events that are complete with it."""
        self._patience = Patience(self._deadline)  # it lives: the time to come back starts anew
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r").decode())
            if event is not None:
                yield event

    def _line(self, line: str) -> Event | None:
        if line:
            self._member(line)
            return None
        kind, data = self._kind, "\n".join(self._data)
        self._kind, self._data = "", []
        if not data:
            return None
        self._after = self._id
        found = json.loads(data)
        facts = {name: found.get(name) for name in ("account_id", "model", "before", "after")}
        return Event(id=self._id, kind=kind, sequence=int(found["sequence"]), **facts)

    def _member(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            self._id = value
        elif name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif name == "retry" and value.isdigit():
            self._retry = min(int(value) / 1000, _LONGEST_RETRY)

    def broken(self, reply: httpx.Response | httpx.TransportError | None) -> float:
        """Seconds until it is asked for again; raises what `reply` was where that is no use."""
        self._rest, self._kind, self._data = b"", "", []
        self._id = self._after
        problem = ProblemError(reply) if isinstance(reply, httpx.Response) else None
        if problem is not None and problem.status not in _SHED:
            raise problem
        asked = 0.0 if problem is None else problem.retry_after or 0.0
        pause = self._patience.pause(max(self._retry, asked))
        if pause is not None:
            return pause.seconds
        if problem is not None:
            raise problem
        cause = reply if isinstance(reply, httpx.TransportError) else None
        raise Unanswered(f"events: the stream broke: {cause!r}") from cause
