"""Bodies, headers, ids and numbers that nobody should send to the running server."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest
from limits_case import (
    ARROW,
    JSON,
    MARK,
    MSGPACK,
    POSTS,
    WHATIF,
    arrow,
    careful_client,
    change,
    fill,
    leg,
    limited_server,
    raw,
)
from running_case import FUTURE, MINE, OTHER, Running, problem


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with limited_server(tmp_path_factory.mktemp("limits")) as found:
        yield found


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with careful_client(server) as found:
        yield found


# ---------------------------------------------------------------- methods, paths, types


def test_methods_and_paths_that_are_not_there(client: httpx.Client) -> None:
    for path in POSTS:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            answer = client.request(method, path)
            assert answer.headers["allow"] == "POST"
            problem(answer, 405)
    for path in (f"/v1/accounts/{MINE}", "/v1/summary", "/v1/events", "/metrics", "/docs", "/"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            answer = client.request(method, path)
            assert answer.headers["allow"] == "GET", path
            problem(answer, 405)
    for path in ("/v2/whatif", "/v1/", "/v1", "/v1/whatif/", "/v1/accounts/", "/static/none.js"):
        problem(client.get(path), 404)


@pytest.mark.parametrize("path", POSTS)
def test_content_types_that_are_not_known(client: httpx.Client, path: str) -> None:
    kinds = ["text/plain", "application/xml", "multipart/form-data; boundary=x", "json", "*/*"]
    kinds += ["application/json+x", "application/x-www-form-urlencoded", "", "\x80"]
    for kind in kinds:
        headers = {**change(), "Content-Type": kind.encode("latin-1")}
        found = problem(client.post(path, content=b"{}", headers=headers), 415)
        assert found["field"] == "Content-Type"
    if path not in ("/v1/whatif/batch", "/v1/fills", "/v1/marks"):
        problem(client.post(path, content=b"", headers={**change(), **ARROW}), 415)
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON"):
        headers = {**change(), "Content-Type": kind}
        problem(client.post(path, content=b"{}", headers=headers), 422)


def test_headers_that_come_twice_are_not_guessed_at(client: httpx.Client) -> None:
    twice = [*JSON.items(), *MSGPACK.items()]
    body = json.dumps(WHATIF).encode()
    found = problem(client.post("/v1/whatif", content=body, headers=twice), 400)
    assert found["field"] == "Content-Type"
    for name in ("Client-Sequence", "Idempotency-Key"):
        headers = [*JSON.items(), *change().items(), (name, "2")]
        found = problem(client.post("/v1/fills", content=b"{}", headers=headers), 400)
        assert found["field"] == name
    given = [("X-Request-Id", "a"), ("X-Request-Id", "b"), ("Accept", "a/b"), ("Accept", "c/d")]
    assert client.post("/v1/whatif", json=WHATIF, headers=given).status_code == 200


@pytest.mark.parametrize(
    "given", ["5f0c2b8e-1111-4222-8333-444455556666", "a", "x" * 64, "a.b:c_d"]
)
def test_a_request_has_the_clients_id(client: httpx.Client, given: str) -> None:
    for path in ("/health", "/nothing", f"/v1/accounts/{MINE}", "/v1/accounts/none", "/v1/whatif"):
        answer = client.get(path, headers={"X-Request-Id": given})
        assert answer.headers.get_list("x-request-id") == [given]
        if answer.is_error:
            assert answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "<script>", "é", "a\tb", '"', "a,b"])
def test_an_id_that_is_unfit_is_replaced(client: httpx.Client, given: str) -> None:
    answer = client.get("/health", headers={"X-Request-Id": given.encode()})
    found = answer.headers["x-request-id"]
    assert found != given and found.isalnum()


# ---------------------------------------------------------------- bodies


MALFORMED: dict[str, tuple[dict[str, str], bytes]] = {
    "nothing": (JSON, b""),
    "half": (JSON, b'{"account_id":'),
    "two": (JSON, b"{}{}"),
    "not UTF-8": (JSON, b'{"account_id":"\xff\xfe","positions":{}}'),
    "UTF-16": (JSON, '{"account_id":"a","positions":{}}'.encode("utf-16")),
    "surrogate": (JSON, b'{"account_id":"\\ud800","positions":{}}'),
    "control": (JSON, b'{"account_id":"\x00","positions":{}}'),
    "NaN": (JSON, b'{"account_id":"a","positions":{"b":NaN}}'),
    "Infinity": (JSON, b'{"account_id":"a","positions":{"b":-Infinity}}'),
    "comment": (JSON, b'/* */{"account_id":"a","positions":{}}'),
    "no map": (JSON, b"[]"),
    "null": (JSON, b"null"),
    "deep": (JSON, b"[" * 8_000 + b"]" * 8_000),
    "deeper": (JSON, b'{"account_id":' + b"[" * 8_000),
    "deep in an unknown member": (JSON, b'{"x":' + b'{"x":' * 2_000 + b"}" * 2_001),
    "large number": (JSON, b'{"account_id":"a","positions":{"b":1e400}}'),
    "long number": (JSON, b'{"account_id":"a","positions":{"b":' + b"9" * 5_000 + b"}}"),
    "over the bound": (JSON, b'{"account_id":"a","positions":{"b":1.1e30}}'),
    "text for a number": (JSON, b'{"account_id":"a","positions":{"b":"1"}}'),
    "true for a number": (JSON, b'{"account_id":"a","positions":{"b":true}}'),
    "empty id": (JSON, b'{"account_id":"","positions":{"b":1}}'),
    "empty leg": (JSON, b'{"account_id":"a","positions":{"":1}}'),
    "long id": (JSON, b'{"account_id":"' + b"a" * 257 + b'","positions":{"b":1}}'),
    "msgpack nothing": (MSGPACK, b""),
    "msgpack half": (MSGPACK, b"\x82\xaaaccount_id\xa1a"),
    "msgpack not UTF-8": (MSGPACK, b"\x81\xaaaccount_id\xa1\xff"),
    "msgpack huge map": (MSGPACK, b"\x82\xaaaccount_id\xa1a\xa9positions\xdf\xff\xff\xff\xff"),
    "msgpack huge text": (MSGPACK, b"\x81\xaaaccount_id\xdb\xff\xff\xff\xff"),
    "msgpack deep": (MSGPACK, b"\x91" * 10_000),
    "msgpack unused byte": (MSGPACK, b"\xc1"),
    "msgpack timestamp": (MSGPACK, b"\x81\xaaaccount_id\xd6\xff\x00\x00\x00\x00"),
    **{
        f"msgpack {number}": (
            MSGPACK,
            msgspec.msgpack.encode({"account_id": "a", "positions": {"b": number}}),
        )
        for number in (float("nan"), float("inf"), -float("inf"), 1e31, 1 << 63)
        if number != 1 << 63
    },
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_body_that_is_none(client: httpx.Client, name: str) -> None:
    headers, body = MALFORMED[name]
    for path in POSTS:
        answer = client.post(path, content=body, headers={**headers, **change()})
        assert answer.status_code in (400, 422), (path, answer.text)
        found = problem(answer, answer.status_code)
        assert found["way_out"]


def test_the_wrong_member_is_named(client: httpx.Client) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/whatif", {**WHATIF, "positions": {FUTURE: "1"}}, "positions[...]"),
        ("/v1/whatif", {**WHATIF, "account_id": 1}, "account_id"),
        (
            "/v1/whatif/batch",
            {"whatifs": [WHATIF, {**WHATIF, "allow_new": 1}]},
            "whatifs[1].allow_new",
        ),
        ("/v1/fills", {"fills": [fill(1), fill(2, price=None)]}, "fills[1].price"),
        ("/v1/marks", {"marks": [{**MARK, "field": "colour"}]}, "marks[0].field"),
    ]
    for path, body, field in cases:
        found = problem(client.post(path, json=body, headers=change()), 422)
        assert found["field"] == field, found
    found = problem(client.post("/v1/whatif", json={**WHATIF, "acount": 1}), 422)
    assert "acount" in found["detail"]


def wrong_tables() -> dict[str, pl.DataFrame]:
    good = pl.DataFrame([leg(0), leg(1)])
    number = pl.col("quantity")
    return {
        "no column": good.drop("account_id"),
        "unknown column": good.with_columns(x=1),
        "no columns": pl.DataFrame(),
        "null account": good.with_columns(account_id=pl.lit(None, pl.String)),
        "null quantity": good.with_columns(quantity=pl.lit(None, pl.Float64)),
        "NaN": good.with_columns(quantity=float("nan")),
        "inf": good.with_columns(quantity=float("inf")),
        "huge": good.with_columns(quantity=1e31),
        "large decimal": good.with_columns(number.cast(pl.Decimal(38, 0)) * 10**35),
        "text for numbers": good.with_columns(number.cast(pl.String)),
        "true for numbers": good.with_columns(quantity=True),
        "times for numbers": good.with_columns(number.cast(pl.Datetime("us"))),
        "lists": good.with_columns(pl.concat_list("quantity").alias("quantity")),
        "structs": good.with_columns(account_id=pl.struct("account_id")),
        "numbers for text": good.with_columns(account_id=1),
        "bytes for text": good.with_columns(pl.col("account_id").cast(pl.Binary)),
        "empty id": good.with_columns(account_id=pl.lit("")),
        "long id": good.with_columns(instrument_id=pl.lit("x" * 257)),
        "long category": good.with_columns(instrument_id=pl.lit("x" * 257).cast(pl.Categorical)),
        "nulls of no kind": good.with_columns(whatif_id=None),
    }


@pytest.mark.parametrize("name", wrong_tables())
def test_a_table_that_is_wrong(client: httpx.Client, name: str) -> None:
    body = arrow(wrong_tables()[name])
    answer = client.post("/v1/whatif/batch", content=body, headers=ARROW)
    assert answer.status_code in (400, 422) and problem(answer, answer.status_code)["way_out"]


def test_tables_that_are_another_kind_of_right(client: httpx.Client) -> None:
    plain = pl.DataFrame([leg(0), leg(1)])
    right = client.post("/v1/whatif/batch", content=arrow(plain), headers=ARROW)
    assert right.status_code == 200, right.text
    names = ["whatif_id", "account_id", "instrument_id"]
    for table in (
        plain.with_columns(pl.col(names).cast(pl.Categorical)),
        plain.with_columns(pl.col("quantity").cast(pl.Int8)),
        plain.with_columns(pl.col("quantity").cast(pl.Decimal(10, 2))),
        plain.with_columns(netting_set=None),
        plain.select(reversed(plain.columns)),
    ):
        answer = client.post("/v1/whatif/batch", content=arrow(table), headers=ARROW)
        assert answer.status_code == 200, answer.text
        found, wanted = (pl.read_ipc_stream(io.BytesIO(one.content)) for one in (answer, right))
        assert found.select(wanted.columns).cast(dict(wanted.schema)).equals(wanted)
    assert (
        client.post("/v1/whatif/batch", content=arrow(plain.clear()), headers=ARROW).status_code
        == 200
    )


def test_a_table_larger_than_it_looks_is_not_unpacked(client: httpx.Client) -> None:
    """A few hundred bytes that would be gigabytes: compressed, or rows without any bytes."""
    table = pl.DataFrame([leg(0)])
    for kind in ("zstd", "lz4"):
        body = arrow(table, compression=kind)
        found = problem(client.post("/v1/whatif/batch", content=body, headers=ARROW), 400)
        assert "compressed" in found["detail"]
    nothing = pl.DataFrame({name: pl.Series([None] * 10_000) for name in table.columns})
    found = problem(client.post("/v1/whatif/batch", content=arrow(nothing), headers=ARROW), 422)
    assert found["field"] == "rows"


def test_broken_tables_break_nothing(client: httpx.Client) -> None:
    """Any byte may be another one, or missing."""
    dice, good = random.Random(11), arrow([leg(0), leg(1), leg(2)])
    seen = set()
    for _ in range(400):
        body = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 5, 20))):
            body[dice.randrange(len(body))] = dice.randrange(256)
        if dice.random() < 0.2:
            del body[dice.randrange(len(body)) :]
        answer = client.post("/v1/whatif/batch", content=bytes(body), headers=ARROW)
        seen.add(answer.status_code)
        if answer.status_code != 200:
            problem(answer, answer.status_code)
    assert seen <= {200, 400, 422} and {200, 400} <= seen


# ---------------------------------------------------------------- ids


ODD = [
    "a/b",
    "a%2Fb",
    "%",
    "%00",
    "a b",
    "a?b",
    "a#b",
    "..",
    "../../etc/passwd",
    "ü",
    "日本",
    "a\nb",
]
ODD += ["<img src=x onerror=alert(1)>", '"', "'", "\\", "\x7f", "\u202e", "x" * 256, "x" * 8000]
ODD += [
    "explain",
    "a/explain",
    "\U0001f600",
    "null",
    "+",
    ";",
    "//",
    "a//b",
    "{account_id}",
    "a\n",
    "\n",
    "\r\n/%0A\n",
    "é",
]


@pytest.mark.parametrize("account", ODD)
def test_odd_ids_are_just_not_there(client: httpx.Client, account: str) -> None:
    path = "".join(f"%{byte:02X}" for byte in account.encode())
    found = problem(client.get(f"/v1/accounts/{path}"), 404)
    if len(account) <= 256:
        assert repr(account) in found["detail"]
        found = problem(client.get(f"/v1/accounts/{path}/explain"), 404)
        assert repr(account) in found["detail"]
        found = problem(client.post("/v1/whatif", json={**WHATIF, "account_id": account}), 404)
        order = {"account_id": account, "instrument_id": FUTURE, "quantity": 1}
        problem(client.post("/v1/orders/check", json=order), 404)
        legs = {**WHATIF, "positions": {account: 1}}
        problem(client.post("/v1/whatif", json=legs), 422)
    else:
        problem(client.get(f"/v1/accounts/{path}/explain"), 422)


def test_odd_ids_are_booked_and_found_as_they_are(client: httpx.Client) -> None:
    for account in (one for one in ODD if len(one) <= 256):
        sent = {"fills": [fill(0, account_id=account, fill_id=f"odd-{account}"[:256])]}
        start = client.post("/v1/fills", json=sent, headers=change(999_999))
        expected = problem(start, 409)["expected"]
        answer = client.post("/v1/fills", json=sent, headers=change(expected))
        assert answer.status_code == 200 and answer.json()["failures"] == [], answer.text
        path = "".join(f"%{byte:02X}" for byte in account.encode())
        found = client.get(f"/v1/accounts/{path}")
        assert found.status_code == 200 and found.json()["account_id"] == account
        found = client.get(f"/v1/accounts/{path}/explain")
        assert found.status_code == 200 and found.json()["account_id"] == account
        listed = client.get("/v1/accounts", params={"prefix": account, "limit": 100}).json()
        assert account in listed["accounts"]


@pytest.mark.parametrize("account", [b"\xff", b"%ff", b"%zz", b"%c3%28", b"%ff/explain"])
def test_paths_that_are_no_text(server: Running, account: bytes) -> None:
    answer = raw(server, b"GET /v1/accounts/" + account + b" HTTP/1.1", b"Host: localhost")
    assert answer[9:12] in (b"400", b"404"), answer


# ---------------------------------------------------------------- numbers and keys


def test_changes_are_numbered_and_named(client: httpx.Client) -> None:
    body = {"fills": [fill(0, fill_id="numbered")]}
    for number in ("", "0", "-1", "1.0", "1e3", "x", "+1", "1 1", "9" * 19, "\xb2", "0x1"):
        headers = {**change(), "Client-Sequence": number.encode("latin-1")}
        found = problem(client.post("/v1/fills", json=body, headers=headers), 422)
        assert found["field"] == "Client-Sequence"
    for key in ("", "x" * 129, "a b", "\xe9", "a\tb"):
        headers = {**change(), "Idempotency-Key": key.encode("latin-1")}
        found = problem(client.post("/v1/fills", json=body, headers=headers), 422)
        assert found["field"] == "Idempotency-Key"
    found = problem(client.post("/v1/fills", json=body), 422)
    expected = problem(client.post("/v1/fills", json=body, headers=change(10**18 - 1)), 409)[
        "expected"
    ]
    for number in (expected + 1, expected + 1000):
        found = problem(client.post("/v1/fills", json=body, headers=change(number)), 409)
        assert found["expected"] == expected and str(expected) in found["detail"]
    first = client.post("/v1/fills", json=body, headers=change(expected, "mine"))
    assert first.status_code == 200 and first.json()["applied"] == 1
    # Again, in every form: the same answer, and booked once.
    again = client.post("/v1/fills", json=body, headers=change(expected, "mine"))
    assert again.json() == first.json()
    packed = {**change(expected, "mine"), **MSGPACK, "Accept": "application/msgpack"}
    again = client.post("/v1/fills", content=msgspec.msgpack.encode(body), headers=packed)
    assert msgspec.msgpack.decode(again.content) == first.json()
    table = {**change(expected, "mine"), **ARROW}
    given = [{**fill(0, fill_id="numbered"), "fee": 0.0}]
    again = client.post("/v1/fills", content=arrow(given), headers=table)
    assert again.json() == first.json(), again.text
    other = {"fills": [fill(0, fill_id="numbered", price=46.0)]}
    found = problem(client.post("/v1/fills", json=other, headers=change(expected, "mine")), 422)
    assert found["field"] == "Idempotency-Key"
    # A number that was used, under a new name: what is expected is said.
    found = problem(client.post("/v1/fills", json=other, headers=change(expected, "yours")), 409)
    assert found["expected"] == expected + 1


def test_rows_that_change_nothing_are_told(client: httpx.Client) -> None:
    rows = [
        fill(0, fill_id="told", account_id=OTHER, instrument_id="NONE"),
        fill(0, fill_id="told"),
    ]
    start = problem(client.post("/v1/fills", json={"fills": rows}, headers=change(10**9)), 409)
    found = client.post("/v1/fills", json={"fills": rows}, headers=change(start["expected"])).json()
    assert found["applied"] == 1 and [one["row"] for one in found["failures"]] == [1]
    assert found["failures"][0]["field"] == "instrument_id"
    times = ["", "yesterday", "2018-13-01", "1e3", -1e300, -1e18, -float(1 << 62), 0.0]
    marks = [{**MARK, "time": one} for one in times]
    answer = client.post("/v1/marks", json={"marks": marks}, headers=change(start["expected"] + 1))
    assert answer.status_code == 200, answer.text
    for value in (float("nan"), float("inf"), -float("inf")):
        body = msgspec.msgpack.encode({"marks": [{**MARK, "time": value}]})
        headers = {
            **MSGPACK,
            **change(
                problem(client.post("/v1/fills", json={"fills": rows}, headers=change(10**9)), 409)[
                    "expected"
                ]
            ),
        }
        answer = client.post("/v1/marks", content=body, headers=headers)
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 200:
            assert len(answer.json()["failures"]) == 1
