"""What a client is told when it does not get what it asked for: problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

MEDIA_TYPE = "application/problem+json"
_KIND = "urn:gpu-margin:problem:"


class Problem(Exception):
    """An answer that is no success.

    `kind` is a short name for programs, `detail` a sentence for people, `field` what is to blame,
    `way_out` what to do about it; `extra` are members of its own (`expected` of a sequence gap).
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        field: str | None = None,
        way_out: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, int | str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail = status, kind, detail
        self.field, self.way_out = field, way_out
        self.headers: dict[str, str] = dict(headers or {})
        self.extra: dict[str, int | str] = dict(extra or {})

    def members(self) -> dict[str, int | str]:
        """The problem as a JSON object."""
        found: dict[str, int | str] = {
            "type": _KIND + self.kind,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field is not None:
            found["field"] = self.field
        if self.way_out is not None:
            found["way_out"] = self.way_out
        return {**found, **self.extra}


def problem_body(problem: Problem, request_id: str) -> bytes:
    """The problem in JSON, with the request that it answers."""
    return msgspec.json.encode({**problem.members(), "request_id": request_id})


def busy(detail: str, seconds: float = 1.0) -> Problem:
    """503: come again later."""
    after = str(max(1, round(seconds)))
    return Problem(
        503,
        "busy",
        detail,
        way_out=f"try again in {after} s",
        headers={"Retry-After": after},
    )
