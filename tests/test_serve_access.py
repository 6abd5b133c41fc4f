"""Who may ask the running server what: every route, with every kind of wrong credential."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest
from access_case import hmac_token, public_pem, raw_token, signed, token
from running_case import (
    ACCESS,
    AUDIENCE,
    FUTURE,
    ISSUER,
    MINE,
    OTHER,
    SCOPES,
    Keys,
    Running,
    demo_book,
    keys_in,
    problem,
    running,
)
from starlette.routing import BaseRoute

from gpu_margin.server.openapi_routes import ROUTES

ARROW = "application/vnd.apache.arrow.stream"
PUBLIC = {"/", "/health", "/ready", "/static/{path:path}"}
FILL = {"fill_id": "f-1", "instrument_id": FUTURE, "quantity": 1.0, "price": 45.0}
LEG = {"instrument_id": FUTURE, "quantity": 1.0}


def bodies(account: str) -> dict[str, dict[str, Any]]:
    """A good body of every route that takes one, about an account."""
    one = {"account_id": account, "positions": {FUTURE: 1.0}}
    mark = {"factor": "WTI", "field": "last", "value": 45.0, "time": "2018-12-31T12:00:00"}
    return {
        "/v1/whatif": one,
        "/v1/whatif/batch": {"whatifs": [one]},
        "/v1/orders/check": {"account_id": account, **LEG},
        "/v1/fills": {"fills": [{"account_id": account, **FILL}]},
        "/v1/marks": {"marks": [mark]},
    }


# What every route needs: scope, and whether a tenant's key may ask it at all. A route that is
# added fails `test_every_route_is_here` until it has a line.
WANTED: dict[tuple[str, str], tuple[str, bool]] = {
    ("GET", "/v1/accounts"): ("read", True),
    ("GET", "/v1/accounts/{account_id}"): ("read", True),
    ("GET", "/v1/accounts/{account_id}/explain"): ("read", True),
    ("POST", "/v1/whatif"): ("whatif", True),
    ("POST", "/v1/whatif/batch"): ("whatif", True),
    ("POST", "/v1/orders/check"): ("trade", True),
    ("POST", "/v1/fills"): ("trade", True),
    ("POST", "/v1/marks"): ("trade", False),
    ("GET", "/v1/summary"): ("read", False),
    ("GET", "/v1/events"): ("read", True),
    ("POST", "/v1/admin/snapshot"): ("admin", True),
    ("GET", "/metrics"): ("read", False),
    ("GET", "/docs"): ("", True),
    ("GET", "/openapi.json"): ("", True),
}
ABOUT_AN_ACCOUNT = [path for _, path in WANTED if path in bodies("") or "{" in path]
ABOUT_AN_ACCOUNT.remove("/v1/marks")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys_in(tmp_path_factory.mktemp("access"))


@pytest.fixture(scope="module")
def server(keys: Keys) -> Iterator[Running]:
    expired = "2020-01-01T00:00:00Z"
    keys.add("expired", expires=expired)
    with running(demo_book(keys.folder, extra_toml=ACCESS)) as found:
        yield found


def send(
    server: Running, method: str, path: str, headers: Any = (), account: str = MINE, **more: Any
) -> httpx.Response:
    """A good request to a route, but for who sends it."""
    given = dict(headers)
    if path in ("/v1/fills", "/v1/marks"):
        # Fills are every client's first change, marks its second; a repetition is answered too.
        given |= {"Client-Sequence": "1" if path == "/v1/fills" else "2"}
        given |= {"Idempotency-Key": f"{path}-{account!r}".replace(" ", "-")}
    body = bodies(account).get(path)
    with server.client() as client:
        url = path.format(account_id=account)
        if path == "/v1/events" and "content" not in more:
            # It has no end: only its beginning is read.
            with client.stream(method, url, headers=given) as answer:
                if answer.status_code != 200:
                    answer.read()
                return answer
        return client.request(method, url, headers=given, **(more or {"json": body}))


# ---------------------------------------------------------------- the routes


def declared(server: Running) -> set[tuple[str, str]]:
    """The routes that the application has in fact, those of its own and the pages'."""
    app = server.app
    own = {
        (method, prefix + tail)
        for kept, tail in ((app._exact, ""), (app._by_id, "{account_id}"))
        for prefix, methods in kept.items()
        for method in methods
    }
    pages: list[BaseRoute] = []
    todo = list(app._pages.routes)
    while todo:
        route = todo.pop()
        inner = getattr(route, "original_router", None) or getattr(route, "app", None)
        if getattr(route, "methods", None):
            pages.append(route)
        else:
            todo += getattr(inner, "routes", [])
    return own | {
        (method, route.path.replace("{account_id:id}", "{account_id}"))  # type: ignore[attr-defined]
        for route in pages
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }


def test_every_route_is_here(server: Running) -> None:
    there = declared(server)
    public = {("GET", path) for path in PUBLIC}
    assert there == set(WANTED) | public
    documented = {(route.method.upper(), route.path) for route in ROUTES}
    assert documented == there - {("GET", "/static/{path:path}")}
    scopes = {(route.method.upper(), route.path): route.scope for route in ROUTES}
    assert {route: scopes[route] for route in WANTED} == {k: v for k, (v, _) in WANTED.items()}
    assert {r.path for r in ROUTES if not r.authenticated} == PUBLIC - {"/static/{path:path}"}


def test_public_routes_ask_for_nothing(server: Running) -> None:
    with server.client() as client:
        for path in ("/", "/health", "/ready", "/static/page.js", "/static/page.css"):
            assert client.get(path).status_code == 200, path
        # And no way leads from an asset's path to somewhere else.
        for path in ("/static/../openapi.json", "/static/%2e%2e/docs", "/static/..%2f..%2fdocs"):
            assert client.get(path).status_code in (401, 404), path
        for path in ("/health/", "/ready/x", "/x//health", "/HEALTH", "/static", "/nothing", "/v1"):
            problem(client.get(path), 401)
        for path in ("/health", "/ready", "/", "/static/page.js"):
            problem(client.post(path), 405)


@pytest.mark.parametrize(("method", "path"), WANTED)
def test_the_right_key_is_enough(server: Running, keys: Keys, method: str, path: str) -> None:
    scope = WANTED[method, path][0] or "whatif"
    answer = send(server, method, path, keys[scope])
    assert answer.status_code == 200, answer.text


# ---------------------------------------------------------------- wrong credentials


def base(kind: bytes, content: bytes) -> dict[str, str]:
    return {"Authorization": f"{kind.decode()} {content.decode()}"}


def wrong_credentials(keys: Keys) -> dict[str, Any]:
    now = int(time.time())
    good = {"sub": "eve", "exp": now + 600, "iss": ISSUER, "aud": AUDIENCE, "tenant": None}
    good |= {"scope": " ".join(SCOPES), "tenant": "desk"}

    def changed(**changes: Any) -> dict[str, str]:
        return base(b"Bearer", raw_token({**good, **changes}, "one", "RS256", "one"))

    unsigned = signed({"alg": "none", "typ": "JWT", "kid": "one"}, good, lambda _: b"")
    forged = token("one", tenant="desk", scope=good["scope"])
    head, body, signature = forged.split(b".")
    payload = json.dumps({**good, "tenant": "other"}).encode()
    swapped = base64.urlsafe_b64encode(payload).rstrip(b"=")
    own = keys.by_name["all"]
    return {
        "nothing": {},
        "empty": {"Authorization": ""},
        "no key": {"Authorization": "Bearer"},
        "unknown key": {"X-API-Key": f"gm_{'0' * 12}_{'0' * 64}"},
        "changed secret": {"X-API-Key": own[:-1] + ("0" if own[-1] != "0" else "1")},
        "changed id": {"X-API-Key": own[:3] + ("0" if own[3] != "0" else "1") + own[4:]},
        "key without secret": {"X-API-Key": own[:16]},
        "expired key": keys["expired"],
        "two keys": [("X-API-Key", own), ("X-API-Key", own)],
        "key and token": [("X-API-Key", own), ("Authorization", f"Bearer {own}")],
        "in the query": {"Cookie": f"key={own}"},
        "not Basic": base(b"Basic", b"!!!"),
        "Digest": base(b"Digest", own.encode()),
        "wrong Basic": base(b"Basic", base64.b64encode(b"admin:admin")),
        "not a token": base(b"Bearer", b"a.b.c"),
        "expired token": changed(exp=now - 1),
        "not yet valid": changed(nbf=now + 600),
        "issued in the future": changed(iat=now + 600),
        "no end": changed(exp=None),
        "other issuer": changed(iss="https://evil.example"),
        "other audience": changed(aud="other"),
        "no tenant": changed(tenant=None, scope="read whatif trade"),
        "mis-signed": base(b"Bearer", raw_token(good, "two", "RS256", "one")),
        "unknown signer": base(b"Bearer", raw_token(good, "two", "RS256", "two")),
        "alg none": base(b"Bearer", unsigned),
        "alg HS256": base(b"Bearer", hmac_token(good, public_pem("one"), "one")),
        "other algorithm": base(b"Bearer", raw_token(good, "ed", "EdDSA", "one")),
        "other claims": base(b"Bearer", b".".join([head, swapped, signature])),
        "no signature": base(b"Bearer", b".".join([head, body, b""])),
        "long": {"X-API-Key": "gm_" + "0" * 20_000},
    }


@pytest.mark.parametrize(("method", "path"), WANTED)
def test_wrong_credentials_are_refused(server: Running, keys: Keys, method: str, path: str) -> None:
    before = server.house.answering.book.sequence
    for name, headers in wrong_credentials(keys).items():
        listed = list(headers.items()) if isinstance(headers, dict) else headers
        given = [*listed, ("Client-Sequence", "9"), ("Idempotency-Key", "b")]
        with server.client() as client:
            url = path.format(account_id=MINE)
            answer = client.request(method, url, headers=given, json=bodies(MINE).get(path))
        found = problem(answer, 401)
        assert "www-authenticate" in answer.headers, name
        assert keys.by_name["all"] not in answer.text, name
        assert found["way_out"]
    assert server.house.answering.book.sequence == before


@pytest.mark.parametrize(("method", "path"), [one for one, (scope, _) in WANTED.items() if scope])
def test_a_scope_is_no_other(server: Running, keys: Keys, method: str, path: str) -> None:
    for scope in SCOPES:
        if scope != WANTED[method, path][0]:
            problem(send(server, method, path, keys[scope]), 403)
    # The same of a token, and of one that has no scope at all.
    for scopes in ("", " ".join(one for one in SCOPES if one != WANTED[method, path][0])):
        headers = base(b"Bearer", token("one", tenant="desk", scope=scopes))
        problem(send(server, method, path, headers), 403)


def test_a_good_token_is_taken_as_a_key_is(server: Running) -> None:
    headers = base(b"Bearer", token("one", tenant="desk", scope="read whatif"))
    assert send(server, "GET", "/v1/accounts/{account_id}", headers).status_code == 200
    assert send(server, "POST", "/v1/whatif", headers).status_code == 200


# ---------------------------------------------------------------- tenants


def arrow(rows: list[dict[str, Any]]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame(rows).write_ipc_stream(stream)
    return stream.getvalue()


@pytest.mark.parametrize("path", ABOUT_AN_ACCOUNT)
def test_accounts_of_others_are_refused(server: Running, keys: Keys, path: str) -> None:
    method = "POST" if path in bodies("") else "GET"
    assert send(server, method, path, keys["desk"]).status_code == 200
    there = problem(send(server, method, path, keys["desk"], account=OTHER), 403)
    # Nor can it be found out which accounts there are, or whether letters matter.
    nowhere = problem(send(server, method, path, keys["desk"], account="none-1"), 403)
    assert there["detail"].replace(OTHER, "") == nowhere["detail"].replace("none-1", "")
    for near in (f" {MINE}", MINE.upper(), f"x{MINE}", f"{OTHER}\n{MINE}", "%", "*"):
        if "\n" not in near or method == "POST":
            answer = send(server, method, path, keys["desk"], account=near)
            assert answer.status_code in (403, 404), near


def test_one_foreign_account_spoils_the_request(server: Running, keys: Keys) -> None:
    before = server.house.answering.book.sequence
    whatifs = [bodies(one)["/v1/whatif"] for one in (MINE, OTHER)]
    fills = [{"account_id": one, **FILL} for one in (MINE, OTHER)]
    legs = [{"whatif_id": one, "account_id": one, **LEG} for one in (MINE, OTHER)]
    change = {"Client-Sequence": "2", "Idempotency-Key": "c"}
    packed = {"Content-Type": "application/msgpack"}
    tables = {"Content-Type": ARROW}
    sent: list[tuple[str, dict[str, str], bytes]] = [
        ("/v1/whatif/batch", {}, json.dumps({"whatifs": whatifs}).encode()),
        ("/v1/whatif/batch", packed, msgspec.msgpack.encode({"whatifs": whatifs})),
        ("/v1/whatif/batch", tables, arrow(legs)),
        ("/v1/fills", change, json.dumps({"fills": fills}).encode()),
        ("/v1/fills", {**change, **packed}, msgspec.msgpack.encode({"fills": fills})),
        ("/v1/fills", {**change, **tables}, arrow(fills)),
    ]
    with server.client(keys["desk"]) as client:
        for path, headers, body in sent:
            found = problem(client.post(path, headers=headers, content=body), 403)
            assert OTHER in found["detail"] and found["field"] == "account_id"
        whole = [{**one, "account_id": None} for one in legs]
        frame = pl.DataFrame(whole, schema_overrides={"account_id": pl.String})
        stream = io.BytesIO()
        frame.write_ipc_stream(stream)
        answer = client.post("/v1/whatif/batch", headers=tables, content=stream.getvalue())
        assert answer.status_code in (403, 422), answer.text
    assert server.house.answering.book.sequence == before


def test_what_is_of_all_is_no_tenants(server: Running, keys: Keys) -> None:
    for (method, path), (_, may) in WANTED.items():
        answer = send(server, method, path, keys["desk"])
        if may:
            assert answer.status_code in (200, 409), (path, answer.text)
        else:
            problem(answer, 403)


def test_a_search_finds_ones_own(server: Running, keys: Keys) -> None:
    with server.client(keys["desk"]) as client:
        found = client.get("/v1/accounts", params={"limit": 100}).json()["accounts"]
        assert found and all(one.startswith("collar-") for one in found)
        assert client.get("/v1/accounts", params={"prefix": "out"}).json() == {"accounts": []}
    with server.client(keys["all"]) as client:
        assert len(client.get("/v1/accounts", params={"limit": 100}).json()["accounts"]) == 60


def test_a_tenants_netting_sets_are_its_own(server: Running, keys: Keys) -> None:
    """A set of another account under one's own account is not a way to it."""
    with server.client(keys["desk"]) as client:
        body = {**bodies(MINE)["/v1/whatif"], "netting_set": OTHER}
        answer = client.post("/v1/whatif", json=body)
        assert answer.status_code == 422, answer.text
        body |= {"allow_new": True}
        answer = client.post("/v1/whatif", json=body)
        if answer.status_code == 200:  # a new set of one's own, of that name
            alone = client.post("/v1/whatif", json={**body, "netting_set": "new"}).json()
            assert answer.json()["models"] == alone["models"]


def test_events_of_others_are_not_heard(server: Running, keys: Keys) -> None:
    """Huge fills call two accounts; each listener hears of its own."""
    fills = [
        {"account_id": one, **FILL, "fill_id": f"big-{one}", "quantity": 1e6}
        for one in (MINE, OTHER)
    ]
    change = {"Client-Sequence": "1", "Idempotency-Key": "events"}
    with server.client(keys["all"]) as client:
        before = client.get("/v1/summary").json()["state_seq"]
        answer = client.post("/v1/fills", headers=change, json={"fills": fills})
        assert answer.status_code == 200 and answer.json()["applied"] == 2, answer.text
    heard = {name: listened(server, keys[name], before) for name in ("all", "desk")}
    assert {MINE, OTHER} <= heard["all"]
    assert heard["desk"] == {MINE}


def listened(server: Running, headers: dict[str, str], after: int) -> set[str]:
    """Accounts of which a listener hears in half a second."""
    found = set()
    with server.client(headers) as client:
        client.timeout = httpx.Timeout(0.5)
        try:
            with client.stream("GET", "/v1/events", params={"after": after}) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data:"):
                        found.add(json.loads(line[5:])["account_id"])
        except httpx.ReadTimeout:
            pass
    return found


# ---------------------------------------------------------------- the audit log


def test_refusals_are_in_the_audit_log(tmp_path: Path) -> None:
    keys = keys_in(tmp_path)
    keys.add("expired", expires="2020-01-01T00:00:00Z")
    with running(demo_book(tmp_path, extra_toml=ACCESS)) as server, server.client() as client:
        client.get("/v1/summary", headers=keys["expired"])
        client.post("/v1/whatif", headers=keys["read"], json=bodies(MINE)["/v1/whatif"])
        # Of a tenant, by a raw route and by a slow one.
        client.get(f"/v1/accounts/{OTHER}", headers=keys["desk"])
        client.get(f"/v1/accounts/{OTHER}/explain", headers=keys["desk"])
        client.get("/metrics", headers=keys["desk"])
        client.get("/v1/summary", headers=keys["whatif"])
        assert server.house.audit.flush()
        text = (server.house.settings.state / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    refused = [
        (one["actor"], one["details"]["status"], one["details"]["path"])
        for one in lines
        if one["kind"] == "refusal"
    ]
    assert refused == [
        ("127.0.0.1", 401, "/v1/summary"),
        ("127.0.0.1", 403, "/v1/whatif"),
        ("desk", 403, f"/v1/accounts/{OTHER}"),
        ("desk", 403, f"/v1/accounts/{OTHER}/explain"),
        ("desk", 403, "/metrics"),
        ("whatif", 403, "/v1/summary"),
    ]
    assert {"login", "started"} <= {one["kind"] for one in lines}
    for key in keys.by_name.values():
        assert key not in text and key[16:] not in text
