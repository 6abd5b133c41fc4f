"""Connections that are left unread for a while.

Who is refused because the server is full, and asks again in no time, would take the time of the
others: a refusal costs about as much as an answer. So it is told at once, and heard again later.
"""

from __future__ import annotations

from typing import Any

from gpu_margin.server.app import HOLD
from gpu_margin.server.joining import JoinedProtocol


class HoldingProtocol(JoinedProtocol):
    """HTTP/1.1 with the ASGI extension `HOLD`: a function of seconds.

    For so long after the answer, once the whole request is there, nothing of the connection is
    read; what comes meanwhile waits in its socket, and what came with the end of the request waits
    as pipelined requests do. It is to be less than uvicorn waits for the next request (5 s).
    """

    _seconds = 0.0
    _held = False

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {HOLD: self._hold}  # type: ignore[dict-item]

    def on_message_complete(self) -> None:
        """A request is there."""
        super().on_message_complete()
        if self._seconds and self.cycle.response_complete:
            self._pause()

    def on_response_complete(self) -> None:
        """An answer was sent, maybe before the whole request was there."""
        begins = self._seconds and not (self.cycle.response_complete and self.cycle.more_body)
        self._held = self._held or bool(begins)
        super().on_response_complete()
        if begins:
            self._pause()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """The next request, unless it is to wait: those after it then wait behind it."""
        if self._held:
            self.pipeline.append((cycle, app))
        else:
            super()._start_asgi_task(cycle, app)

    def _hold(self, seconds: float) -> None:
        self._seconds = seconds

    def _pause(self) -> None:
        seconds, self._seconds = self._seconds, 0.0
        if not self.transport.is_closing():
            self._held = True
            self.flow.pause_reading()
            self.loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._held = False
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
