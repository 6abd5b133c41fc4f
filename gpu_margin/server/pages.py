"""The routes that need not be fast, as a FastAPI application behind the raw one.

The raw application has authenticated whoever comes here (`scope["state"]`: `principal` and
`request_id`), but for public routes. Whatever goes wrong is answered as problem details.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpu_margin.server import slow_routes
from gpu_margin.server.events_stream import StreamLimits
from gpu_margin.server.logs import request_id as logged_request
from gpu_margin.server.problems import MEDIA_TYPE, Problem, problem_body
from gpu_margin.server.service import Service

_LOG = logging.getLogger("gpu_margin.server.pages")
_SAFETY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def create_pages(
    service: Service, document: dict[str, Any], streams: StreamLimits | None = None
) -> FastAPI:
    """The application; `document` is what /openapi.json says."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(slow_routes.answers(service))
    app.include_router(slow_routes.streams(service, streams or StreamLimits()))
    app.include_router(slow_routes.pages(document))
    for kind, explain in _EXPLAINED.items():
        app.add_exception_handler(kind, _handler(explain))
    app.add_middleware(Guard, service=service)
    return app


class Guard:
    """Around all slow routes: counts, safe headers, and no error without problem details."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; an unexpected exception becomes a 500 and a line in the log."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        named, status, begun = _request_id(scope), 0, time.perf_counter()
        token = logged_request.set(named)

        async def mark(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SAFETY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, mark)
        except Exception as error:
            self._service.metrics.errors += 1
            _LOG.exception("unexpected error", extra={"path": scope["path"]})
            if status:
                raise
            await _unexpected(error, named)(scope, receive, mark)
        finally:
            logged_request.reset(token)
            seconds = time.perf_counter() - begun
            self._service.metrics.seen(_route(scope), status or 500, seconds)


def _route(scope: Scope) -> str:
    """The route's path as it is declared: paths as they come would be labels without end."""
    return re.sub(r":\w+}", "}", str(getattr(scope.get("route"), "path", "other")))


def _request_id(scope: Scope) -> str:
    return str(scope.get("state", {}).get("request_id", ""))


def _unexpected(error: Exception, named: str) -> Response:
    problem = Problem(
        500,
        "unexpected",
        "the server failed; its log has the reason",
        way_out=f"tell whoever runs it the request id {named}",
    )
    return _response(problem, named)


def _response(problem: Problem, named: str) -> Response:
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(problem_body(problem, named), problem.status, headers, MEDIA_TYPE)


def _handler(
    explain: Callable[[Any], Problem],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(request: Request, error: Exception) -> Response:
        return _response(explain(error), _request_id(request.scope))

    return handle


def _itself(problem: Problem) -> Problem:
    return problem


def _invalid(error: RequestValidationError) -> Problem:
    """The first value that is wrong, by its name."""
    first = error.errors()[0]
    field = str(first["loc"][-1]) if first["loc"] else "body"
    said = re.sub(r"\s+", " ", str(first["msg"]))
    return Problem(
        422,
        "validation",
        f"{field}: {said[:1].lower()}{said[1:]}",
        field=field,
        way_out=f"correct {field}; /docs has what every route takes",
    )


def _http(error: HTTPException) -> Problem:
    headers = dict(error.headers or {})
    if error.status_code == 405:
        way_out = f"use {headers.get('Allow', 'another')}"
        detail = "this route has no such method"
        return Problem(405, "method", detail, way_out=way_out, headers=headers)
    if error.status_code == 404:
        return Problem(404, "not_found", "there is no such route", way_out="/docs lists the routes")
    return Problem(error.status_code, "http", str(error.detail), headers=headers)


_EXPLAINED: dict[type[Exception], Callable[[Any], Problem]] = {
    Problem: _itself,
    RequestValidationError: _invalid,
    HTTPException: _http,
}
