"""A call as steps, so that waiting and asyncio clients are driven by the same description.

A call is a generator: it yields what is to be done next, `Send` or `Sleep`, and is told what became
of it: an answer, how it failed, or None after a sleep. What it returns is the call's result.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx

from gpu_margin.client.problems import ProblemError, Unanswered

# The server did nothing and says so.
_SHED = (429, 503)
# Something on the way gave up: the server may have done it.
_LOST = (502, 504)
# The request did not leave.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
# Seconds that a try has at least, however near the deadline is.
_LEAST_LIMIT = 0.05


@dataclass(frozen=True)
class Send:
    """A request; `again` says whether it may be sent twice, `key` how it is known if it was.

    `limit` is how many seconds there are to answer, if fewer than the client gives to a try.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    again: bool = True
    key: str | None = None
    limit: float = math.inf

    @property
    def request(self) -> dict[str, Any]:
        """Arguments of an httpx request."""
        names = ("headers", "content", "params")
        given = {name: getattr(self, name) for name in names if getattr(self, name)}
        return {"method": self.method, "url": self.path, **given}


@dataclass(frozen=True)
class Sleep:
    """A pause in seconds."""

    seconds: float


Step = Send | Sleep
Reply = httpx.Response | httpx.TransportError | None
T = TypeVar("T")
Steps = Generator[Step, Reply, T]


class Patience:
    """How long a call goes on: pauses grow from try to try, by chance within half of themselves."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._tries = 0

    @property
    def left(self) -> float:
        """Seconds until the deadline, below zero after it."""
        return self._end - time.monotonic()

    def pause(self, at_least: float | None = None) -> Sleep | None:
        """The pause before the next try; None where it would outlast the deadline."""
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**self._tries) * random.uniform(0.5, 1.0)
        self._tries += 1
        wait = max(wait, at_least or 0.0)
        return Sleep(wait) if wait < self.left else None


def answer(send: Send, patience: Patience) -> Steps[httpx.Response]:
    """A success: `ProblemError` where the server says no, `Unanswered` where it says nothing."""
    while True:
        reply = yield replace(send, limit=max(_LEAST_LIMIT, patience.left))
        if isinstance(reply, httpx.Response) and reply.is_success:
            return reply
        pause = _pause(send, reply, patience)
        if pause is None:
            raise _failure(send, reply)
        yield pause


def _pause(send: Send, reply: Reply, patience: Patience) -> Sleep | None:
    """How long to wait before it is sent again; None where it must not be, or time is up."""
    if not isinstance(reply, httpx.Response):
        safe = send.again or isinstance(reply, _UNSENT)
        return patience.pause() if safe else None
    if reply.status_code in _SHED:
        return patience.pause(ProblemError(reply).retry_after)
    return patience.pause() if reply.status_code in _LOST and send.again else None


def _failure(send: Send, reply: Reply) -> Exception:
    if isinstance(reply, httpx.Response):
        return ProblemError(reply)
    error = Unanswered(f"{send.method} {send.path}: {type(reply).__name__}: {reply}", send.key)
    error.__cause__ = reply
    return error
