"""A small server with canned answers, for the tests of the slow routes and the page."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import uvicorn

from gpu_margin.server.events_stream import StreamLimits
from gpu_margin.server.metrics import Metrics
from gpu_margin.server.openapi import document
from gpu_margin.server.pages import create_pages
from gpu_margin.server.problems import MEDIA_TYPE, Problem, problem_body

LIMITS: Any = SimpleNamespace(
    max_body_bytes=1 << 20, max_legs=1000, max_batch=20_000, mark_ahead_seconds=90.0
)
KEY = "key-of-a-risk-manager"
COLLAR, CALLED, TWO_SETS = "collar-000005", "outright-000199", "delta-neutral-000006"
EVIL = "<img src=x onerror=\"document.title='owned'\">\"'&/evil"
ACCOUNTS = sorted([COLLAR, "collar-000011", CALLED, TWO_SETS, EVIL], key=str.encode)
PUBLIC = ("/", "/health", "/ready")
EVERYTHING = frozenset({"read", "whatif", "trade", "admin"})


@dataclass(frozen=True)
class Who:
    name: str = "ann"
    scopes: Any = EVERYTHING
    tenant: str | None = None


def standing(initial: float, held: float, component: str, sets: Any = ()) -> dict[str, Any]:
    excess = held - initial
    status = "ok" if excess >= 0 else "call" if held >= 0.8 * initial else "liquidation"
    return {
        "levels": {"initial": initial, "maintenance": 0.8 * initial},
        "components": {component: initial, "offset_cap": 0.0},
        "requirement": initial,
        "collateral_value": held,
        "excess": excess,
        "call": float(-(excess // 1)) if excess < -100 else 0.0,
        "utilisation": initial / held,
        "status": status,
        "netting_sets": list(sets),
    }


def sets_of(account: str, initial: float, held: float) -> list[dict[str, Any]]:
    if account != TWO_SETS:
        return [{"netting_set": account, "requirement": initial, "collateral_value": held}]
    return [
        {"netting_set": f"{account}-a", "requirement": 0.6 * initial, "collateral_value": held},
        {"netting_set": f"{account}-b", "requirement": 0.4 * initial, "collateral_value": 0.0},
    ]


FIGURES = {
    COLLAR: ((20_002.675303, 22_884.54), (17_769.795976, 22_884.54)),
    CALLED: ((44_947.222534, 27_732.534769), (52_119.504988, 27_732.534769)),
    TWO_SETS: ((80_211.0, 86_144.48), (108_930.144359, 86_144.48)),
}


def account(account_id: str, state_seq: int = 12, stale: bool = False) -> dict[str, Any]:
    pairs = FIGURES.get(account_id, ((12.5, 100.0), (11.25, 100.0)))
    names = (("covariance", "value_at_risk"), ("historical", "expected_shortfall"))
    models = {
        name: standing(initial, held, component, sets_of(account_id, initial, held))
        for (name, component), (initial, held) in zip(names, pairs, strict=True)
    }
    if account_id == TWO_SETS:
        models["covariance"]["components"]["value_at_risk"] += 10_000.0
    return {
        "account_id": account_id,
        "state_seq": state_seq,
        "stale_marks": stale,
        "complete": account_id != EVIL,
        "status": models["covariance"]["status"],
        "collateral_value": pairs[0][1],
        "models": models,
    }


def explained(account_id: str, model: str) -> dict[str, Any]:
    requirement = account(account_id)["models"][model]["levels"]["initial"]
    rows = (
        ("WTI-F-2019-03", 25.0, 1_137_250.0, 90_887.23, 90_887.23, -127_036.84),
        ("WTI-C-2019-03-47", -25.0, -525_488.16, 70_171.98, -33_977.64, 43_475.97),
        ("WTI-P-2019-03-43", 25.0, -391_307.35, 29_840.85, -39_139.79, 59_054.22),
    )
    names = ("quantity", "exposure", "standalone", "contribution", "worst_pnl")
    return {
        "requirement": requirement,
        "standalone": 190_900.067668,
        "offset": 190_900.067668 - requirement,
        "worst_scenario": "2016-02-02",
        "positions": [
            {
                "netting_set": account_id,
                "instrument_id": EVIL if account_id == EVIL else row[0],
                "product_group": "crude oil",
                **dict(zip(names, row[1:], strict=True)),
            }
            for row in rows
        ],
        "groups": [
            {"product_group": "crude oil", "requirement": requirement * 1.2, "positions": 3},
            {"product_group": "equity index", "requirement": requirement * 0.3, "positions": 2},
        ],
    }


SUMMARY = {
    "state_seq": 12,
    "started": "2026-01-05T08:00:00Z",
    "version": "0.2.0",
    "currency": "USD",
    "accounts": 10_000,
    "positions": 81_234,
    "backend": "numba",
    "device": "host processor, 2 threads",
    "queues": {"reader": 3, "writer": 0},
    "stale_marks": False,
    "mark_age_seconds": 4.2,
    "snapshot": {"state_seq": 10, "time": "2026-01-05T08:10:00Z"},
    "faults": [],
    "models": {
        "covariance": {
            "requirement": 820_000_000.0,
            "initial": 812_345_678.9,
            "collateral_value": 1_049_876_543.1,
            "call": 4_567_890.0,
            "statuses": {"ok": 9_120, "call": 611, "liquidation": 269},
        },
        "historical": {
            "requirement": 800_000_000.0,
            "initial": 798_111_222.3,
            "collateral_value": 1_049_876_543.1,
            "call": 4_112_233.0,
            "statuses": {"ok": 9_203, "call": 560, "liquidation": 231, "unknown": 6},
        },
    },
}


def event(sequence: int, kind: str, account_id: str, model: str = "historical") -> dict[str, Any]:
    after = {"cured": "ok"}.get(kind, kind)
    before = "call" if kind != "call" else "ok"
    found = {"sequence": sequence, "kind": kind, "account_id": account_id}
    return {**found, "model": model, "before": before, "after": after}


@dataclass
class FakeService:
    """Answers as the real one does, from what the test gives it."""

    metrics: Metrics = field(default_factory=Metrics)
    is_ready: bool = True
    summary_is: dict[str, Any] = field(default_factory=lambda: dict(SUMMARY))
    history: list[dict[str, Any]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)
    fails: Exception | None = None
    ends: bool = False

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        return self.is_ready, {"stage": "inputs", "done": 2, "total": 5}

    async def summary(self, principal: Any) -> dict[str, Any]:
        if self.fails is not None:
            raise self.fails
        return self.summary_is

    async def explain(self, principal: Any, account_id: str, model: str | None) -> dict[str, Any]:
        self.asked.append((account_id, model))
        names = ("covariance", "historical") if model is None else (model,)
        if not set(names) <= {"covariance", "historical"}:
            raise Problem(404, "not_found", "no such model", field="model", way_out="historical")
        models = {name: explained(account_id, name) for name in names}
        return {"account_id": account_id, "state_seq": 12, "models": models}

    async def events(self, principal: Any, after: int | None) -> AsyncIterator[dict[str, Any]]:
        place = len(self.history) if after is None else 0
        while not (self.ends and place >= len(self.history)):
            while place < len(self.history):
                found = self.history[place]
                place += 1
                if after is None or found["sequence"] > after:
                    yield found
            await asyncio.sleep(0.01)

    async def snapshot(self, principal: Any) -> dict[str, Any]:
        return {"state_seq": 12, "path": "state/book-12.snapshot"}

    async def accounts(self, principal: Any, prefix: str, limit: int) -> list[str]:
        self.asked.append((prefix, limit))
        return [one for one in ACCOUNTS if one.startswith(prefix)][:limit]


def pages(service: FakeService, streams: StreamLimits | None = None) -> Any:
    return create_pages(service, document("0.0.0", LIMITS), streams)


ANN = Who()


def as_who(app: Any, who: Who | None) -> Any:
    """The application as the raw one calls it, for someone who has been authenticated."""

    async def called(scope: Any, receive: Any, send: Any) -> None:
        scope["state"] = {"principal": who, "request_id": "request-1"}
        await app(scope, receive, send)

    return called


def ask(
    service: FakeService, method: str, url: str, who: Who | None = ANN, **more: Any
) -> httpx.Response:
    """One answer of the application, as someone who has been authenticated (None: nobody)."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(as_who(pages(service), who))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.request(method, url, **more)

    return asyncio.run(asyncio.wait_for(asked(), 20))


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The answer is a problem of this status, and a complete one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status and found["type"].startswith("urn:gpu-margin:problem:")
    assert found["request_id"] == "request-1" and found["detail"] and found["way_out"]
    return found


class Raw:
    """The raw application in small: who asks, and canned answers of the hot routes."""

    def __init__(self, service: FakeService, needs_key: bool) -> None:
        self.service, self._needs_key = service, needs_key
        self.whatifs: list[dict[str, Any]] = []
        self._pages = pages(service)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        raw = scope["raw_path"].decode()
        if not self._admits(path, dict(scope["headers"])):
            refused = Problem(401, "unauthenticated", "no key", way_out="send a key")
            await refuse(send, refused, "r-401")
        elif path == "/v1/whatif":
            await self._whatif(send, json.loads((await receive())["body"]))
        elif raw.startswith("/v1/accounts/") and not raw.endswith("/explain"):
            await self._account(send, unquote(raw.removeprefix("/v1/accounts/")))
        else:
            await as_who(self._pages, Who())(scope, receive, send)

    def _admits(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if not self._needs_key or path in PUBLIC or path.startswith("/static/"):
            return True
        return headers.get(b"authorization", b"").decode() == f"Bearer {KEY}"

    async def _account(self, send: Any, account_id: str) -> None:
        if account_id in ACCOUNTS:
            found = account(account_id, self.service.summary_is["state_seq"])
            await answer(send, 200, json.dumps(found).encode(), "application/json")
        else:
            detail, way_out = f"no account {account_id!r}", "search for it"
            await refuse(send, Problem(404, "not_found", detail, way_out=way_out), "r-404")

    async def _whatif(self, send: Any, asked: dict[str, Any]) -> None:
        self.whatifs.append(asked)
        if "NONE" in asked["positions"]:
            unknown = Problem(
                422,
                "invalid",
                "there is no instrument 'NONE'",
                field="positions.NONE",
                way_out="name an instrument of the book",
            )
            await refuse(send, unknown, "r-422")
            return
        models = {}
        for name, one in account(asked["account_id"])["models"].items():
            before = one["levels"]["initial"]
            after = before * 0.45
            change = {"before": before, "after": after, "change": after - before}
            models[name] = {**change, "status_after": "ok"}
        found = {"account_id": asked["account_id"], "state_seq": 12, "stale_marks": False}
        body = json.dumps({**found, "complete": True, "models": models}).encode()
        await answer(send, 200, body, "application/json")


async def refuse(send: Any, problem: Problem, request_id: str) -> None:
    await answer(send, problem.status, problem_body(problem, request_id), MEDIA_TYPE)


async def answer(send: Any, status: int, body: bytes, media: str) -> None:
    headers = [(b"content-type", media.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The application on a port of this host, as a URL; it ends with the block."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, lifespan="off", log_level="critical", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
