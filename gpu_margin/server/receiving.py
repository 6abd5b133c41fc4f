"""The body of a request, and no more of it than the limit; clients that hang up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gpu_margin.server.problems import Problem

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Gone(Exception):
    """The client hung up."""


def is_gone(error: RuntimeError) -> bool:
    """Whether it says that the connection was closed: uvloop has no other word for that."""
    return "the handler is closed" in str(error)


def too_large(limit: int) -> Problem:
    """413."""
    return Problem(
        413,
        "body-too-large",
        f"the body is larger than {limit} bytes",
        way_out="send it in smaller parts",
        headers={"Connection": "close"},
    )


def _check_length(headers: dict[bytes, bytes], limit: int) -> None:
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > limit:
        raise too_large(limit)


async def whole_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body; `Problem` 413 as soon as it is known to be too large."""
    _check_length(headers, limit)
    message = await receive()
    if message["type"] != "http.request":
        raise Gone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > limit:
            raise too_large(limit)
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        if message["type"] != "http.request":
            raise Gone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
    return b"".join(parts)


def limited(receive: Receive, headers: dict[bytes, bytes], limit: int) -> Receive:
    """What the pages receive: no more than the limit."""
    _check_length(headers, limit)
    size = 0

    async def given() -> MutableMapping[str, Any]:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large(limit)
        return message

    return given
