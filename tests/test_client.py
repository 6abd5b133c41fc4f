"""Both clients against a small real server; their keys, tokens and certificates."""

from __future__ import annotations

import asyncio
import itertools
import re
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from toy_server import EVENTS, ToyServer, serving

import gpu_margin.client
from gpu_margin.client import AsyncClient, Client, ProblemError, Unanswered

URL = "http://127.0.0.1"
FILL = {"fill_id": "f", "account_id": "A", "instrument_id": "I", "quantity": 1, "price": 2.0}


# ---------------------------------------------------------------- both clients, a small server

Call = Callable[[Callable[[Any], Any]], Any]


@pytest.fixture(scope="module")
def toy() -> Iterator[tuple[ToyServer, str]]:
    server = ToyServer()
    with serving(server) as port:
        yield server, f"{URL}:{port}"


@pytest.fixture(params=["waiting", "asyncio"])
def call(request: pytest.FixtureRequest, toy: tuple[ToyServer, str]) -> Call:
    """Makes a call of either client: the same lambda for both."""
    toy[0].__init__()  # type: ignore[misc]

    async def soon(work: Callable[[Any], Any]) -> Any:
        async with AsyncClient(toy[1], key="k", deadline=5.0) as client:
            return await work(client)

    def now(work: Callable[[Any], Any]) -> Any:
        if request.param == "asyncio":
            return asyncio.run(soon(work))
        with Client(toy[1], key="k", deadline=5.0) as client:
            return work(client)

    return now


@pytest.fixture
def server(toy: tuple[ToyServer, str]) -> ToyServer:
    return toy[0]


def test_accounts(call: Call, server: ToyServer) -> None:
    assert call(lambda c: c.account("a/b ü"))["path"] == "/v1/accounts/a%2Fb%20%C3%BC"
    found = call(lambda c: c.explain("A", model="e s"))
    assert found["path"] == "/v1/accounts/A/explain"
    assert server.seen[0][2]["x-api-key"] == "k"
    with pytest.raises(ProblemError, match="403 forbidden: account_id: it is forbidden; ask"):
        call(lambda c: c.account("missing"))


def test_questions(call: Call) -> None:
    body = {"account_id": "A", "positions": {"I": -2.5}, "add_positions": True}
    assert call(lambda c: c.whatif("A", {"I": -2.5}))["given"] == body
    found = call(lambda c: c.whatif("A", {}, add_positions=False, netting_set="n", allow_new=True))
    options = {"add_positions": False, "netting_set": "n", "allow_new": True}
    assert found["given"] == {"account_id": "A", "positions": {}, **options}
    assert call(lambda c: c.whatif_batch([body]))["given"] == {"whatifs": [body]}
    order = {"account_id": "A", "instrument_id": "I", "quantity": 1.0}
    others = [{"instrument_id": "J", "quantity": 2}]
    found = call(lambda c: c.check_order("A", "I", 1.0, open_orders=others))
    assert found["given"] == {**order, "open_orders": others}
    assert call(lambda c: c.summary())["path"] == "/v1/summary"
    assert call(lambda c: c.snapshot())["path"] == "/v1/admin/snapshot"


def test_batches_as_frames(call: Call, server: ToyServer) -> None:
    legs = pl.DataFrame({"whatif_id": ["a", "a", "b"], "quantity": [1.0, -2.0, 4.0]})
    found = call(lambda c: c.whatif_batch(legs))
    expected = {"whatif_id": ["a", "b"], "after": [3.0, 4.0], "before": 0.0, "state_seq": [7, 7]}
    assert_frame_equal(found, pl.DataFrame(expected))
    assert server.seen[0][2]["accept"] == "application/vnd.apache.arrow.stream"


def test_numbers_that_are_none_are_not_sent(call: Call, server: ToyServer) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        call(lambda c: c.whatif("A", {"I": float("nan")}))
    assert not server.seen


def test_times_and_numbers_of_numpy_are_sent(call: Call, server: ToyServer) -> None:
    value = pl.Series([1.5]).to_numpy()[0]
    mark = {
        "factor": "F",
        "field": "last",
        "value": value,
        "time": datetime(2024, 3, 1, tzinfo=UTC),
    }
    assert call(lambda c: c.marks([mark]))["applied"] == 1
    assert b'"value": 1.5, "time": "2024-03-01T00:00:00+00:00"' in server.seen[0][3]
    with pytest.raises(TypeError, match="cannot be sent"):
        call(lambda c: c.marks([{"value": object()}]))


@pytest.mark.parametrize("fate", ["before", "after", 503, 429])
def test_fills_are_booked_once(call: Call, server: ToyServer, fate: int | str) -> None:
    server.first = 4
    server.plan.extend([fate, fate])
    found = call(lambda c: c.fills([FILL]))
    assert (found["state_seq"], server.booked, server.numbers) == (4, ["f"], {"k": 5})
    numbers = [headers["client-sequence"] for _, _, headers, _ in server.seen]
    assert numbers[0] == "1" and numbers[-1] == "4"


def test_an_order_goes_once(call: Call, server: ToyServer) -> None:
    server.plan.append("after")
    with pytest.raises(Unanswered):
        call(lambda c: c.check_order("A", "I", 1.0))
    assert len(server.seen) == 1


def test_ready(call: Call, server: ToyServer) -> None:
    assert call(lambda c: c.ready()) is True
    server.is_ready = False
    assert call(lambda c: c.ready()) is False
    with pytest.raises(Unanswered, match=r"not ready within 0\.1 s"):
        call(lambda c: c.wait_until_ready(0.1))
    server.plan.append("before")
    server.is_ready = True
    call(lambda c: c.wait_until_ready(5.0))
    with Client(f"{URL}:1") as nobody:
        assert nobody.ready() is False


@pytest.mark.parametrize("kind", ["tasks", "threads"])
def test_they_take_turns_at_their_numbers(toy: tuple[ToyServer, str], kind: str) -> None:
    server, url = toy
    server.__init__()  # type: ignore[misc]
    batches = [[{**FILL, "fill_id": str(n)}] for n in range(20)]

    async def many() -> None:
        async with AsyncClient(url) as client:
            await asyncio.gather(*map(client.fills, batches))

    if kind == "tasks":
        asyncio.run(many())
    else:
        with Client(url) as client, ThreadPoolExecutor(8) as pool:
            list(pool.map(client.fills, batches))
    assert sorted(server.booked, key=int) == [str(n) for n in range(20)]
    assert len(server.seen) == 20  # none was out of turn


@pytest.mark.parametrize("after", [None, 3, "4.1"])
def test_events_go_on_where_they_broke(toy: tuple[ToyServer, str], after: Any) -> None:
    server, url = toy
    server.__init__()  # type: ignore[misc]
    server.plan.extend(["before", 503])
    server.answers = {str(n): (b"", b"") for n in range(2)}  # two changes were taken
    expected = [one["sequence"] for one in EVENTS if one["sequence"] > float(after or 2)]
    with Client(url) as client:
        found = list(itertools.islice(client.events(after), len(expected)))
    assert [event.sequence for event in found] == expected
    assert found[-1].account_id == "A\u20285" and found[-1].kind == "call"
    assert (found[-1].id, found[-1].before, found[-1].after) == ("5.1", "ok", "call")

    async def soon() -> list[Any]:
        found = []
        async with AsyncClient(url) as client:
            stream = client.events(after)
            async for event in stream:
                found.append(event)
                if len(found) == len(expected):
                    await stream.aclose()  # type: ignore[attr-defined]
        return found

    assert asyncio.run(soon()) == found


# ---------------------------------------------------------------- the way there


def test_a_key_or_a_token() -> None:
    with pytest.raises(ValueError, match="not both"):
        Client(URL, key="k", token="t")
    heard: list[httpx.Request] = []

    def hear(request: httpx.Request) -> httpx.Response:
        heard.append(request)
        return httpx.Response(200, json={"state_seq": 0})

    with Client(URL, token="t", transport=httpx.MockTransport(hear)) as client:
        client.summary()
    assert heard[0].headers["Authorization"] == "Bearer t"
    assert "X-API-Key" not in heard[0].headers


def test_a_redirect_is_no_answer() -> None:
    away = httpx.MockTransport(lambda _: httpx.Response(302, headers={"Location": "http://other/"}))
    with Client(URL, transport=away) as client, pytest.raises(ProblemError, match="302"):
        client.summary()


def test_certificates_of_both_sides(tmp_path: Path) -> None:
    made = [tmp_path / name for name in ("key.pem", "cert.pem")]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    files = ["-keyout", str(made[0]), "-out", str(made[1])]
    asked = ["openssl", "req", "-x509", *kind, *subject, *files]
    subprocess.run(asked, check=True, capture_output=True)
    key, certificate = made
    options = {"ssl_keyfile": key, "ssl_certfile": certificate, "ssl_ca_certs": str(certificate)}
    with serving(ToyServer(), ssl_cert_reqs=ssl.CERT_REQUIRED, **options) as port:
        url = f"https://127.0.0.1:{port}"
        with Client(url, ca=certificate, certificate=(certificate, key)) as client:
            assert client.ready()
        with Client(url, ca=certificate) as client:
            assert not client.ready()  # the server wants a certificate
        with Client(url, certificate=(certificate, key)) as client:
            assert not client.ready()  # nobody vouches for the server's


def test_the_example(toy: tuple[ToyServer, str], capsys: pytest.CaptureFixture[str]) -> None:
    server, url = toy
    server.__init__()  # type: ignore[misc]
    (example,) = re.findall(r"\n\n((?:    .*\n|\n)+)", gpu_margin.client.__doc__ or "")
    lines = [line for line in example.splitlines() if line.strip()]
    assert len(lines) <= 12
    exec(textwrap.dedent(example).replace("http://127.0.0.1:8080", url))
    assert capsys.readouterr().out == "{}\n"
    assert server.booked == ["t-1"]


def test_it_needs_nothing_of_the_server() -> None:
    code = "import sys, gpu_margin.client; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"uvicorn", "fastapi", "msgspec", "numba"} & loaded
    assert not any(name.startswith("gpu_margin.server") for name in loaded)
