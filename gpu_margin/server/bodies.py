"""Bodies of requests and answers: JSON and msgpack; `arrow_tables` has those of many rows."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from gpu_margin.server.app import Answer, Request
from gpu_margin.server.messages import told
from gpu_margin.server.problems import Problem

JSON, MSGPACK = b"application/json", b"application/msgpack"
ARROW = b"application/vnd.apache.arrow.stream"

Body = TypeVar("Body")
_to_json = msgspec.json.Encoder()
_to_msgpack = msgspec.msgpack.Encoder()


class Codec:
    """Decodes one kind of body."""

    def __init__(self, kind: Any) -> None:
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)

    def decode(self, request: Request) -> Any:
        """The body; `Problem` 400 where it cannot be read, 415 or 422 where it is another."""
        media = request.content_type()
        if media == JSON:
            decoder: Any = self._json
        elif media == MSGPACK:
            decoder = self._msgpack
        else:
            raise not_supported(media, JSON, MSGPACK)
        try:
            return decoder.decode(request.body)
        except msgspec.ValidationError as error:
            raise _invalid(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(
                400,
                "malformed-body",
                f"the body cannot be read: {error}",
                way_out=f"send {media.decode()}, or say by Content-Type what it is",
            ) from error


def encoded(request: Request, value: Any) -> Answer:
    """The answer as the client likes it: JSON unless it asks for msgpack."""
    if MSGPACK in request.headers.get(b"accept", b""):
        return Answer(_to_msgpack.encode(value), MSGPACK)
    return Answer(_to_json.encode(value))


def not_supported(media: bytes, *known: bytes) -> Problem:
    """415."""
    names = ", ".join(one.decode() for one in known)
    return Problem(
        415,
        "media-type",
        f"a body of {media.decode('latin-1')!r} is not known here",
        field="Content-Type",
        way_out=f"send one of {names}",
    )


def _invalid(message: str) -> Problem:
    """422 of what the decoder says: which member, and what is wrong with it."""
    reason, field = told(message)
    return Problem(
        422,
        "invalid",
        reason,
        field=field,
        way_out="see /docs for what this route takes",
    )
