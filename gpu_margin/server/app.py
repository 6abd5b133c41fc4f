"""The server as one ASGI application: who asks, may they, and who answers.

The routes that must be fast are answered here, without a framework; the others by the pages
(FastAPI), to which a request comes with its principal and its id.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from gpu_margin.server.access import Access, Principal, Refused
from gpu_margin.server.audit import Audit
from gpu_margin.server.local import check_sender
from gpu_margin.server.principal import BASIC
from gpu_margin.server.problems import MEDIA_TYPE, Problem, busy, problem_body
from gpu_margin.server.receiving import Gone, Receive, is_gone, limited, whole_body

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_log = logging.getLogger("gpu_margin.server")
_PUBLIC = frozenset({"/", "/health", "/ready", "/favicon.ico"})
# The ASGI extension by which a connection is left unread for some seconds after its answer.
HOLD = "gpu_margin.hold"
_HOLD_SECONDS = 2.0
_FOR_BROWSERS = frozenset({"/docs", "/openapi.json", "/metrics"})
_REQUEST_ID = b"x-request-id"
_LONGEST_PATH = 512
_FIT_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
# Of two of these, one reader would take the first, another the last.
_ONCE = (b"host", b"content-type", b"content-length", b"client-sequence", b"idempotency-key")
_PROCESS, _COUNT = secrets.token_hex(4), itertools.count(1)


@dataclass(slots=True)
class Request:
    """A request whose sender is known."""

    principal: Principal
    headers: dict[bytes, bytes]
    body: bytes
    path_id: str
    id: str

    def content_type(self) -> bytes:
        """Media type of the body, without its parameters; JSON by default."""
        given = self.headers.get(b"content-type", b"application/json")
        return given.partition(b";")[0].strip().lower()


@dataclass(slots=True)
class Answer:
    """A success."""

    body: bytes
    content_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Route:
    """A route that is answered without a framework."""

    method: str
    path: str
    scope: str
    answer: Callable[[Request], Awaitable[Answer]]


class Lifespan(Protocol):
    """What is behind the application, and lives as long."""

    async def start(self) -> None:
        """When the server starts; it listens once this returns."""

    async def stop(self) -> None:
        """When the last request has been answered."""


class App:
    """Authenticates every request but the public ones, and dispatches it.

    `routes` are answered here, all else by `pages`, which count their own. `seen` is told of every
    request (route, status, seconds); `lifespan` starts and stops what is behind. No more than
    `most` requests are worked at; what is beyond gets 503, and is not heard again for a while.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        pages: Callable[[Scope, Receive, Send], Awaitable[None]],
        access: Access,
        audit: Audit,
        max_body: int,
        seen: Callable[[str, int, float], None] | None = None,
        lifespan: Lifespan | None = None,
        most: int = 1_024,
    ) -> None:
        self._lifespan = lifespan
        self._most, self._asking = most, 0
        self._pages, self._access, self._audit = pages, access, audit
        self._max_body, self._seen = max_body, seen
        self._exact: dict[str, dict[str, Route]] = {}
        self._by_id: dict[str, dict[str, Route]] = {}
        for route in routes:
            kept = self._by_id if route.path.endswith("/{account_id}") else self._exact
            kept.setdefault(route.path.removesuffix("{account_id}"), {})[route.method] = route
        self._prefixes = tuple(self._by_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection's scope, as ASGI has it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send, self._lifespan)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        request_id = _id_of(scope["headers"])
        found, path_id = self._route(scope)
        name = found[scope["method"]].path if found and scope["method"] in found else "other"
        try:
            status = await self._answered(scope, receive, send, request_id, found, path_id)
        except Gone:
            status = 499
        if self._seen is not None and status:
            self._seen(name, status, time.perf_counter() - begun)

    async def _answered(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request_id: str,
        found: dict[str, Route] | None,
        path_id: str,
    ) -> int:
        """Answer in some way: the status, or 0 where the pages have counted it."""
        principal = None
        try:
            headers = self._checked(scope)
            if found is None:
                await self._to_pages(scope, receive, send, headers, request_id)
                return 0
            if self._asking >= self._most:
                _hold(scope)
                raise busy(f"{self._most} requests are worked at already", _HOLD_SECONDS)
            route = found.get(scope["method"])
            principal = self._admitted(route.scope if route else None, scope)
            if route is None:
                raise _not_allowed(scope["path"], ", ".join(sorted(found)))
            self._asking += 1
            try:
                body = await whole_body(receive, headers, self._max_body)
                answer = await route.answer(Request(principal, headers, body, path_id, request_id))
            finally:
                self._asking -= 1
        except Problem as problem:
            if problem.status == 403 and principal is not None:
                self._refused(scope, principal.name, 403, problem.kind)
            await _send_problem(send, problem, request_id)
            return problem.status
        except Gone:
            raise
        except Exception:
            _log.exception("request failed", extra={"request_id": request_id})
            await _send_problem(send, internal_error(), request_id)
            return 500
        await _send(send, 200, answer, request_id)
        return 200

    def _checked(self, scope: Scope) -> dict[bytes, bytes]:
        """The headers by name; `Problem` for what is refused, whoever asks."""
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]):
            _check_once(scope["headers"])
        if not self._access.authenticated:
            try:
                check_sender(scope["method"], scope["headers"], scope.get("server"))
            except Problem as problem:
                self._refused(scope, _client(scope), problem.status, problem.detail)
                raise
        return headers

    def _refused(self, scope: Scope, who: str, status: int, reason: str) -> None:
        """Into the audit log. Reasons are counted, so that nothing of a client's may be in them."""
        path = scope["path"][:_LONGEST_PATH]
        self._audit.note("refusal", who, status=status, reason=reason, path=path)

    def _route(self, scope: Scope) -> tuple[dict[str, Route] | None, str]:
        """The routes of the path by method, and the id in it; None where the pages have it."""
        exact = self._exact.get(scope["path"])
        if exact is not None:
            return exact, ""
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        for prefix in self._prefixes:
            start = prefix.encode()
            if raw.startswith(start) and b"/" not in raw[len(start) :] and len(raw) > len(start):
                try:
                    # An id may have a slash in it, which only the raw path tells from others.
                    return self._by_id[prefix], unquote_to_bytes(raw[len(start) :]).decode()
                except UnicodeDecodeError:
                    return None, ""
        return None, ""

    def _admitted(self, scope_needed: str | None, scope: Scope) -> Principal:
        """Who asks, if they may; raises `Problem` 401, 403 or 429."""
        try:
            # All headers: one that comes twice is refused.
            principal = self._access.principal(scope["headers"])
            if scope_needed is not None:
                self._access.require(principal, scope_needed)
        except Refused as refused:
            self._refused(scope, _client(scope), refused.status, refused.reason)
            raise _refusal(refused, scope["path"]) from refused
        wait = self._access.admit(principal)
        if wait > 0.0:
            raise too_many(wait)
        return principal

    async def _to_pages(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: dict[bytes, bytes],
        request_id: str,
    ) -> None:
        """To the pages, with what they need to know."""
        path = scope["path"]
        principal = None
        if path not in _PUBLIC and not path.startswith("/static/"):
            principal = self._admitted(None, scope)
        state = scope.setdefault("state", {})
        state["principal"], state["request_id"] = principal, request_id
        given = limited(receive, headers, self._max_body)
        begun = False

        async def with_id(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if message["status"] == 403 and principal is not None:
                    self._refused(scope, principal.name, 403, "forbidden")
                message["headers"] = [
                    *message.get("headers", []),
                    (_REQUEST_ID, request_id.encode()),
                ]
            try:
                await send(message)
            except RuntimeError as error:
                # As an ASGI server has it: what is sent to one who has gone is sent to nobody.
                if not is_gone(error):
                    raise

        try:
            await self._pages(scope, given, with_id)
        except Exception as error:
            if not begun:
                raise
            # There is no other answer any more: to hang up says that this one is not whole.
            raise Gone from error


def internal_error() -> Problem:
    """500: it is our fault, and the request's id finds it in the log."""
    return Problem(
        500,
        "internal-error",
        "the server failed to answer; the change, if any, may or may not be booked",
        way_out="report the request_id; a change can be sent again with the same Idempotency-Key",
    )


def _not_allowed(path: str, allowed: str) -> Problem:
    return Problem(
        405,
        "method-not-allowed",
        f"{path} takes {allowed}",
        way_out=f"use {allowed}",
        headers={"Allow": allowed},
    )


def too_many(wait: float) -> Problem:
    """429: the rate of a key is used up."""
    after = str(max(1, int(wait + 0.999)))
    return Problem(
        429,
        "rate",
        "this key asks more often than it may",
        way_out=f"try again in {after} s",
        headers={"Retry-After": after},
    )


def _refusal(refused: Refused, path: str) -> Problem:
    if refused.status == 429:
        return too_many(refused.retry_after)
    if refused.status == 401:
        # Only where a person may come by a browser, which is to ask for a key: not over the page.
        challenge = BASIC if path in _FOR_BROWSERS else refused.challenge
        return Problem(
            401,
            "unauthenticated",
            refused.reason,
            way_out="send Authorization: Bearer with an API key or a token that is valid",
            headers={"WWW-Authenticate": challenge},
        )
    return Problem(
        refused.status,
        "forbidden",
        refused.reason,
        way_out="ask who runs the server for a key with this scope",
        headers={"WWW-Authenticate": refused.challenge} if refused.challenge else None,
    )


def _hold(scope: Scope) -> None:
    """Who is told to come again later is not heard before, where the server can do that."""
    hold = scope.get("extensions", {}).get(HOLD)
    if hold is not None:
        hold(_HOLD_SECONDS)


def _client(scope: Scope) -> str:
    return str((scope.get("client") or ("unknown",))[0])


def _id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's own id of the request, if it is fit for a header and a log; else a new one."""
    given = next((value for name, value in headers if name == _REQUEST_ID), b"")
    if _FIT_ID.fullmatch(given):
        return given.decode()
    # Not secret, only unique: random bytes from the system would cost more than the rest of this.
    return f"{_PROCESS}{next(_COUNT):08x}"


def _check_once(headers: Iterable[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in headers]
    for name in _ONCE:
        if names.count(name) > 1:
            raise Problem(
                400,
                "header-twice",
                "the header was sent more than once",
                field=name.decode().title(),
                way_out="send it once",
            )


async def _send(send: Send, status: int, answer: Answer, request_id: str) -> None:
    headers: Headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.body)).encode()),
        (b"cache-control", b"no-store"),
        (_REQUEST_ID, request_id.encode()),
        *answer.headers,
    ]
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
    except RuntimeError as error:
        if is_gone(error):
            raise Gone from error
        raise


async def _send_problem(send: Send, problem: Problem, request_id: str) -> None:
    headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
    body = problem_body(problem, request_id)
    await _send(send, problem.status, Answer(body, MEDIA_TYPE.encode(), headers), request_id)


async def _lifespan(receive: Receive, send: Send, behind: Lifespan | None) -> None:
    """Start and stop what is behind the application."""
    while True:
        message = await receive()
        if behind is not None:
            await (behind.start() if message["type"] == "lifespan.startup" else behind.stop())
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
