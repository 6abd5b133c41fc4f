"""The slow routes themselves: each says its scope and asks the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.convertors import PathConvertor, register_url_convertor

from gpu_margin.server.assets import DOCS, DOCS_POLICY, PAGE_POLICY, Assets
from gpu_margin.server.events_stream import EventStream, StreamLimits, position
from gpu_margin.server.metrics import MEDIA_TYPE as METRICS_TYPE
from gpu_margin.server.problems import Problem, busy
from gpu_margin.server.service import Caller, Scope, Service

# Ids in the tables are text of any kind, but no longer than this.
_ID: Final = 256
_FOUND: Final = 100
_STREAMS: Final = 1_000


class _Ids(PathConvertor):
    """An id in a path may have anything in it: slashes, as in a path, and line ends, too."""

    regex = r"[\s\S]*"


register_url_convertor("id", _Ids())

AccountId = Annotated[str, Path(min_length=1, max_length=_ID)]
Prefix = Annotated[str, Query(max_length=_ID)]
Limit = Annotated[int, Query(ge=1, le=_FOUND)]
Model = Annotated[str | None, Query(min_length=1, max_length=_ID)]
After = Annotated[str | None, Query(max_length=40)]
LastEvent = Annotated[str | None, Header(alias="Last-Event-ID", max_length=40)]


def needs(scope: Scope, *, whole_book: bool = False) -> Callable[[Request], Awaitable[None]]:
    """A dependency: the caller has the scope and, for `whole_book`, no tenant; else 403."""

    async def check(request: Request) -> None:
        who = caller(request)
        if scope not in who.scopes:
            has = ", ".join(sorted(who.scopes)) or "none"
            raise Problem(
                403,
                "scope",
                f"this route needs the scope {scope}; {who.name} has {has}",
                way_out=f"use a key or token that has the scope {scope}",
            )
        if whole_book and who.tenant is not None:
            raise Problem(
                403,
                "tenant",
                f"this route is about the whole book; {who.name} is of one tenant",
                way_out="use a key or token without a tenant",
            )

    return check


def caller(request: Request) -> Caller:
    """Who asks; 401 where nobody has been authenticated."""
    found: Caller | None = request.scope.get("state", {}).get("principal")
    if found is None:
        raise Problem(
            401,
            "unauthenticated",
            "this route needs a key or token",
            way_out="send it as Authorization: Bearer",
            headers={"WWW-Authenticate": "Bearer"},
        )
    return found


def answers(service: Service) -> APIRouter:
    """Questions with one answer each."""
    router = APIRouter()

    @router.get("/health")
    async def health() -> Response:
        return _json({"status": "ok"})

    @router.get("/ready")
    async def ready() -> Response:
        found, progress = await service.ready()
        headers = {} if found else {"Retry-After": "1"}
        return _json({"ready": found, "progress": progress}, 200 if found else 503, headers)

    @router.get("/v1/summary", dependencies=[Depends(needs("read"))])
    async def summary(request: Request) -> Response:
        return _json(await service.summary(caller(request)))

    @router.get("/v1/accounts", dependencies=[Depends(needs("read"))])
    async def accounts(request: Request, prefix: Prefix = "", limit: Limit = 20) -> Response:
        return _json({"accounts": await service.accounts(caller(request), prefix, limit)})

    @router.get("/v1/accounts/{account_id:id}/explain", dependencies=[Depends(needs("read"))])
    async def explain(request: Request, account_id: AccountId, model: Model = None) -> Response:
        return _json(await service.explain(caller(request), account_id, model))

    @router.post("/v1/admin/snapshot", dependencies=[Depends(needs("admin"))])
    async def snapshot(request: Request) -> Response:
        return _json(await service.snapshot(caller(request)))

    @router.get("/metrics", dependencies=[Depends(needs("read", whole_book=True))])
    async def metrics() -> Response:
        headers = {"Cache-Control": "no-store", "Content-Type": METRICS_TYPE}
        return Response(service.metrics.text(), headers=headers)

    return router


def streams(service: Service, limits: StreamLimits) -> APIRouter:
    """The events, as they come."""
    router = APIRouter()

    @router.get("/v1/events", dependencies=[Depends(needs("read"))])
    async def events(
        request: Request, after: After = None, last_event_id: LastEvent = None
    ) -> Response:
        # A client that comes back asks by its old address; what it saw last is in the header.
        start = None if after is None else position(after, "after")
        if last_event_id is not None:
            start = position(last_event_id, "Last-Event-ID")
        if service.metrics.streams >= _STREAMS:
            raise busy(f"{_STREAMS} clients listen already", 10.0)
        found = service.events(caller(request), None if start is None else start.after)
        return EventStream(found, start, service.metrics, limits)

    return router


def pages(document: dict[str, Any]) -> APIRouter:
    """The page, its assets, and what describes the routes."""
    router, assets = APIRouter(), Assets()
    described = msgspec.json.encode(document)

    @router.get("/")
    async def page(request: Request) -> Response:
        return assets.answer(request, "index.html", PAGE_POLICY)

    @router.get("/static/{path:path}")
    async def static(request: Request, path: str) -> Response:
        return assets.answer(request, path)

    @router.get("/docs")
    async def docs(request: Request) -> Response:
        caller(request)
        headers = {"Content-Security-Policy": DOCS_POLICY, "Cache-Control": "no-cache"}
        return Response(DOCS, headers=headers, media_type="text/html")

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        caller(request)
        return Response(described, media_type="application/json")

    return router


def _json(found: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    safe = {"Cache-Control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(found), status, safe, "application/json")
