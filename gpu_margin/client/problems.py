"""What a call of the client may raise."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

_KIND = "urn:gpu-margin:problem:"
_MEMBERS = ("type", "title", "status", "detail", "field", "way_out", "request_id")


class ProblemError(Exception):
    """The server's answer was no success (RFC 9457).

    `kind` is a short name for programs, `field` what is to blame and `way_out` what to do about it
    (None where the server does not say), `retry_after` seconds to wait, `extra` all other members.
    """

    def __init__(self, response: httpx.Response) -> None:
        members = _members(response)
        self.status = response.status_code
        self.kind = str(members.get("type", "")).removeprefix(_KIND) or "http"
        self.detail = str(members.get("detail") or members.get("title") or response.text[:500])
        self.field: str | None = members.get("field")
        self.way_out: str | None = members.get("way_out")
        given = members.get("request_id") or response.headers.get("X-Request-Id")
        self.request_id: str | None = given
        self.retry_after = _seconds(response.headers.get("Retry-After"))
        self.extra = {name: value for name, value in members.items() if name not in _MEMBERS}
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        where = f"{self.field}: " if self.field else ""
        out = f"; {self.way_out}" if self.way_out else ""
        return f"{self.status} {self.kind}: {where}{self.detail}{out}"


class Unanswered(Exception):
    """There was no answer before the deadline: whether the server did it is not known.

    Of fills and marks `key` is the Idempotency-Key: call again with it, and they are booked once.
    """

    def __init__(self, what: str, key: str | None = None) -> None:
        super().__init__(what)
        self.key = key


def _members(response: httpx.Response) -> dict[str, Any]:
    """The problem's members, none where the answer comes from something else on the way."""
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(given: str | None) -> float | None:
    """A Retry-After in seconds, from now where it is a date; None where it is neither."""
    if given is None:
        return None
    try:
        return max(0.0, float(given))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
