"""The running server keeps to its own OpenAPI document, whatever is sent to it (schemathesis).

`GPU_MARGIN_FUZZ_CASES=10000` sends more. A case that fails is shown with the command that sends it
again.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import polars as pl
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from running_case import (
    ACCESS,
    CALL,
    FUTURE,
    MINE,
    OTHER,
    Running,
    demo_book,
    keys_in,
    running,
)
from schemathesis.config import (
    GenerationConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
)
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gpu_margin.server.openapi import document
from gpu_margin.server.openapi_routes import ROUTES, Operation
from gpu_margin.server.settings import Limits

CASES = int(os.environ.get("GPU_MARGIN_FUZZ_CASES", "2000"))
# Small limits, so that they are met.
LIMITS = Limits(max_body_bytes=20_000, max_legs=20, max_batch=20)
LIMITS_TOML = "[server.limits]\nmax_body_bytes = 20_000\nmax_legs = 20\nmax_batch = 20\n"
STREAM = "text/event-stream"
ARROW = "application/vnd.apache.arrow.stream"
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
seen: Counter[tuple[str, int]] = Counter()


# ---------------------------------------------------------------- bodies that are not JSON

ids = st.sampled_from([MINE, OTHER, FUTURE, CALL, "WTI", "", "x"]) | st.text(max_size=4)
COLUMNS = {
    **dict.fromkeys(("whatif_id", "account_id", "instrument_id", "fill_id", "netting_set"), ids),
    **dict.fromkeys(("quantity", "price", "value", "fee"), st.floats() | st.integers(-9, 9)),
    "field": st.sampled_from(["price", "last", "implied_vol", "x"]),
    "factor": ids,
    "time": st.sampled_from(["2018-12-31T12:00:00", "", "x"]),
}
SHAPES = [
    ["whatif_id", "account_id", "instrument_id", "quantity"],
    ["fill_id", "account_id", "instrument_id", "quantity", "price"],
    ["instrument_id", "field", "value", "time"],
    ["factor", "field", "value", "time"],
]


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """An Arrow stream with columns of one of the routes, more or fewer, and odd values."""
    names = set(draw(st.sampled_from(SHAPES)))
    names ^= draw(st.sets(st.sampled_from(sorted(COLUMNS)), max_size=1))
    rows = draw(st.integers(0, 4))
    values = {
        name: draw(st.lists(COLUMNS[name] | st.none(), min_size=rows, max_size=rows))
        for name in sorted(names)
    }
    stream = io.BytesIO()
    pl.DataFrame(values, strict=False).write_ipc_stream(stream)
    return stream.getvalue()


schemathesis.openapi.media_type(ARROW, tables() | st.binary(max_size=64))


@schemathesis.serializer("application/msgpack")
def packed(context: Any, value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, TypeError, UnicodeEncodeError):
        return b"\xc1"  # no msgpack: a number of many digits, half a letter


# ---------------------------------------------------------------- the routes

# Who may ask is another test: here every request has a good key.
GENERATION = GenerationConfig(with_security_parameters=False, deterministic=True, no_shrink=True)
CONFIG = SchemathesisConfig(
    projects=ProjectsConfig(default=ProjectConfig(generation=GENERATION)), seed=5
)
SCHEMA = schemathesis.openapi.from_dict(document("0.0.0", LIMITS), config=CONFIG)


def cases(route: Operation) -> int:
    """How many of a mode: bodies are worth more than a path without any."""
    weight = 14 if route.body else 4 if route.parameters else 1
    return max(2, CASES * weight // 160)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    keys = keys_in(tmp_path_factory.mktemp("fuzz"))
    with running(demo_book(keys.folder, extra_toml=ACCESS + LIMITS_TOML)) as found:
        found.keys = keys
        yield found


@pytest.fixture(scope="module")
def session(server: Running) -> Iterator[requests.Session]:
    with requests.Session() as found:
        found.trust_env = False
        found.headers.update(server.keys["all"])
        yield found


def known(value: Any, account: str) -> Any:
    """The same body about an account and instruments that are there."""
    if isinstance(value, list):
        return [known(one, account) for one in value]
    if not isinstance(value, dict):
        return value
    names = {"account_id": account, "instrument_id": FUTURE}
    found = {name: names.get(name) or known(one, account) for name, one in value.items()}
    if isinstance(value.get("positions"), dict):
        legs = zip((FUTURE, CALL), value["positions"].values(), strict=False)
        found["positions"] = dict(legs)
    return found


def send(server: Running, session: requests.Session, case: Any) -> Response:
    """The answer; of events, which have no end, only its head."""
    if case.path != "/v1/events":
        return case.call(base_url=server.url, session=session, timeout=20)
    given = case.as_transport_kwargs(base_url=server.url)
    headers = {**given["headers"], **server.keys["all"]}
    with (
        server.client() as client,
        client.stream(case.method, given["url"], params=given["params"], headers=headers) as answer,
    ):
        if answer.status_code == 200:
            answer._content = b""
        answer.read()
    return Response.from_httpx(answer, verify=False)


# Where there is nothing to send, there is nothing to send wrongly.
ALL = [
    (route, mode)
    for route in ROUTES
    for mode in schemathesis.GenerationMode
    if mode.is_positive or route.parameters or route.body
]


@pytest.mark.parametrize(
    ("route", "mode"), ALL, ids=[f"{route.name}-{mode.value}" for route, mode in ALL]
)
def test_the_server_keeps_to_its_document(
    server: Running, session: requests.Session, route: Operation, mode: Any
) -> None:
    operation = SCHEMA[route.path][route.method.upper()]

    @settings(
        max_examples=cases(route),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy(generation_mode=mode),
        there=st.sampled_from([None, MINE, OTHER]),
        numbered=st.booleans(),
    )
    def hold(case: Any, there: str | None, numbered: bool) -> None:
        if there is not None:
            case.body = known(case.body, there)
            if isinstance(case.path_parameters, dict) and "account_id" in case.path_parameters:
                case.path_parameters["account_id"] = there
        if numbered and route.path in ("/v1/fills", "/v1/marks"):
            case.headers["Client-Sequence"] = str(server.house.log.expected("all"))
        answer = send(server, session, case)
        seen[route.path, answer.status_code] += 1
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        if answer.status_code >= 400:
            assert answer.json()["request_id"] == answer.headers["x-request-id"][0]
        case.validate_response(answer, checks=CHECKS)

    hold()


def test_there_were_enough_cases(server: Running) -> None:
    """And they got everywhere: to answers, and to every refusal that a body can meet."""
    if len({path for path, _ in seen}) < len(ROUTES):
        pytest.skip("only some of the routes were asked")
    print(sum(seen.values()), sorted(seen.items()))
    assert sum(seen.values()) >= CASES
    for route in ROUTES:
        assert seen[route.path, 200], route.path
    assert {400, 404, 409, 422} <= {status for _, status in seen}
    assert server.house.answering.book.sequence > 10
    assert server.house.faults == [] and server.house.metrics.errors == 0
