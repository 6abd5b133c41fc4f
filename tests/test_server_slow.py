"""The slow routes: scopes, problems, files, and events as they come."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from page_case import (
    COLLAR,
    EVERYTHING,
    EVIL,
    LIMITS,
    FakeService,
    Who,
    account,
    ask,
    event,
    pages,
    problem,
)

import gpu_margin
from gpu_margin import demo, explain
from gpu_margin.server import answers
from gpu_margin.server.assets import Assets
from gpu_margin.server.messages import AccountFigures
from gpu_margin.server.openapi import document
from gpu_margin.server.problems import Problem

RAW = {
    "/v1/accounts/{account_id}",
    "/v1/whatif",
    "/v1/whatif/batch",
    "/v1/orders/check",
    "/v1/fills",
    "/v1/marks",
}
GUARDED = [
    ("GET", "/v1/summary", "read"),
    ("GET", "/v1/accounts", "read"),
    ("GET", "/v1/accounts/a/explain", "read"),
    ("GET", "/v1/events", "read"),
    ("GET", "/metrics", "read"),
    ("POST", "/v1/admin/snapshot", "admin"),
]


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/static/page.js", "/static/page.css"])
def test_public_routes_answer_anyone(path: str) -> None:
    answer = ask(FakeService(), "GET", path, None)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_descriptions_are_for_anyone_who_is_known(path: str) -> None:
    assert ask(FakeService(), "GET", path, Who(scopes=frozenset())).status_code == 200
    problem(ask(FakeService(), "GET", path, None), 401)


@pytest.mark.parametrize(("method", "path", "scope"), GUARDED)
def test_each_route_wants_its_scope(method: str, path: str, scope: str) -> None:
    service = FakeService(ends=True)
    without = ask(service, method, path, Who(scopes=EVERYTHING - {scope}))
    assert scope in problem(without, 403)["detail"]
    problem(ask(service, method, path, None), 401)
    assert ask(service, method, path, Who(scopes=frozenset({scope}))).status_code == 200


def test_metrics_are_not_for_tenants() -> None:
    problem(ask(FakeService(), "GET", "/metrics", Who(tenant="acme")), 403)
    assert b"gpu_margin_backend_info" in ask(FakeService(), "GET", "/metrics").content


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    described = set(document("0", LIMITS)["paths"])
    app = pages(FakeService())
    served = {path.replace(":path}", "}").replace(":id}", "}") for path in paths(app.router.routes)}
    assert served == (described - RAW) | {"/static/{path}"}


def paths(routes: Any) -> set[str]:
    """Paths of routes, those of included routers too."""
    found = set()
    for route in routes:
        inner = getattr(route, "original_router", None)
        found |= paths(inner.routes) if inner is not None else {route.path}
    return found


# ---------------------------------------------------------------- answers and problems


def test_ready_says_how_far_loading_is() -> None:
    answer = ask(FakeService(is_ready=False), "GET", "/ready", None)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    progress = {"stage": "inputs", "done": 2, "total": 5}
    assert answer.json() == {"ready": False, "progress": progress}
    assert ask(FakeService(), "GET", "/ready", None).json()["ready"] is True


def test_accounts_are_searched_by_prefix() -> None:
    answer = ask(FakeService(), "GET", "/v1/accounts", params={"prefix": "coll", "limit": 1})
    assert answer.json() == {"accounts": [COLLAR]}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "nan"}, "limit"),
        ({"prefix": "x" * 257}, "prefix"),
    ],
)
def test_a_wrong_value_is_named(query: dict[str, str], field: str) -> None:
    found = problem(ask(FakeService(), "GET", "/v1/accounts", params=query), 422)
    assert found["field"] == field and field in found["detail"]


def test_an_id_with_a_slash_is_explained() -> None:
    service = FakeService()
    url = f"/v1/accounts/{httpx.QueryParams({'x': EVIL})!s}".replace("x=", "").replace("+", "%20")
    found = ask(service, "GET", f"{url}/explain", params={"model": "historical"}).json()
    assert service.asked == [(EVIL, "historical")] and list(found["models"]) == ["historical"]


def test_the_services_problems_pass() -> None:
    query = {"model": "none such"}
    found = problem(ask(FakeService(), "GET", "/v1/accounts/a/explain", params=query), 404)
    assert found["field"] == "model" and found["way_out"] == "historical"
    busy = Problem(503, "busy", "loading", way_out="wait", headers={"Retry-After": "2"})
    answer = ask(FakeService(fails=busy), "GET", "/v1/summary")
    assert problem(answer, 503)["detail"] == "loading" and answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/summary/", "/static/", "/v1/accounts//"])
def test_what_is_not_there_is_a_problem(path: str) -> None:
    problem(ask(FakeService(), "GET", path), 404)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT", "PATCH"])
def test_a_wrong_method_says_the_right_one(method: str) -> None:
    answer = ask(FakeService(), method, "/v1/summary")
    assert "GET" in problem(answer, 405)["way_out"] and answer.headers["allow"] == "GET"


def test_an_unexpected_error_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService(fails=RuntimeError("the secret place"))
    with caplog.at_level(logging.ERROR):
        answer = ask(service, "GET", "/v1/summary")
    assert "request-1" in problem(answer, 500)["way_out"]
    assert "secret" not in answer.text and "secret" in caplog.text
    assert service.metrics.errors == 1


def test_routes_are_counted_by_their_declared_path() -> None:
    service = FakeService()
    ask(service, "GET", "/v1/accounts/a/explain")
    ask(service, "GET", "/nothing/at/all")
    text = service.metrics.text().decode()
    route = '{route="/v1/accounts/{account_id}/explain",status="2xx"} 1.0'
    assert f"gpu_margin_requests_total{route}" in text
    assert 'gpu_margin_requests_total{route="other",status="4xx"} 1.0' in text


# ---------------------------------------------------------------- files


def test_the_page_may_ask_nobody_else() -> None:
    policy = ask(FakeService(), "GET", "/", None).headers["content-security-policy"]
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";") if " " in part.strip())
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in policy and "http" not in policy


@pytest.mark.parametrize(
    "path", ["../pages.py", "%2e%2e/pages.py", "..%2fpages.py", "/etc/passwd", "swagger", "none.js"]
)
def test_no_path_leads_out_of_the_files(path: str) -> None:
    problem(ask(FakeService(), "GET", f"/static/{path}", None), 404)


def test_a_file_that_the_browser_has_is_not_sent_again() -> None:
    first = ask(FakeService(), "GET", "/static/page.js", None)
    headers = {"If-None-Match": first.headers["etag"]}
    again = ask(FakeService(), "GET", "/static/page.js", None, headers=headers)
    assert again.status_code == 304 and not again.content and first.content


def test_everything_a_page_names_is_served() -> None:
    served = {f"/static/{path}" for path in Assets().paths()}
    for path in ("/", "/docs"):
        text = ask(FakeService(), "GET", path).text
        named = {part.split('"')[0] for part in text.split('"')[1::2] if part.startswith("/static")}
        assert named and named <= served


# ---------------------------------------------------------------- shapes


def test_canned_answers_have_the_documented_shapes() -> None:
    """What the page is tested with is what the server answers."""
    service = FakeService()
    for url, kind in (("/v1/summary", answers.Summary), ("/v1/accounts", answers.Found)):
        msgspec.convert(ask(service, "GET", url).json(), kind)
    found = ask(service, "GET", f"/v1/accounts/{COLLAR}/explain").json()
    msgspec.convert(found, answers.Explained)
    msgspec.convert(account(COLLAR), AccountFigures)
    msgspec.convert(event(9, "liquidation", COLLAR), answers.Event)


def test_a_real_explanation_has_the_documented_shape(tmp_path: Path) -> None:
    run = gpu_margin.run(demo.write(demo.build(6), tmp_path))
    gpu_margin.save(run, tmp_path / "results")
    found = explain.explain(tmp_path / "results", COLLAR)
    told = msgspec.json.decode(msgspec.json.encode(answers.explained(COLLAR, 0, found)))
    typed = msgspec.convert(told, answers.Explained)
    assert list(typed.models) == ["covariance", "historical"]
    for one in typed.models.values():
        total = sum(position.contribution for position in one.positions)
        assert one.requirement == pytest.approx(total) and len(one.positions) == 3
        assert one.standalone - one.offset == pytest.approx(one.requirement)
    assert typed.models["historical"].worst_scenario == "2016-02-02"
