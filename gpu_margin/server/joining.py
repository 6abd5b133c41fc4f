"""Heads and bodies of answers in one write: a system call less for every request.

uvicorn writes the head of an answer when it starts and the body when it comes. A system call lets
go of the interpreter's lock, which then has to be had back from the other threads.
"""

from __future__ import annotations

from asyncio import Transport
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ANSWER, _INTERIM = b"HTTP/1.1 ", b"HTTP/1.1 1"


class _Joined:
    """A transport that keeps the head of an answer until more of it is written."""

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport, self._head = transport, b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_ANSWER) and data.endswith(b"\r\n\r\n") and data[:10] != _INTERIM:
            self._head = data
            return
        self._transport.write(data)

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class JoinedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on such a transport."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]
