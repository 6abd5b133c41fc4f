"""The OpenAPI document: valid, complete, and true of the messages that are decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from page_case import LIMITS

from gpu_margin import demo
from gpu_margin.server import messages
from gpu_margin.server.openapi import document
from gpu_margin.server.openapi_routes import ROUTES

DOCUMENT = document("1.2.3", LIMITS)
PUBLIC = {"/", "/health", "/ready"}
BODIES = {
    "/v1/whatif": messages.WhatIf,
    "/v1/whatif/batch": messages.WhatIfBatch,
    "/v1/orders/check": messages.OrderCheck,
    "/v1/fills": messages.Fills,
    "/v1/marks": messages.Marks,
}


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_the_document_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT


def test_operations_have_names_of_their_own() -> None:
    names = [route.name for route in ROUTES]
    assert len(set(names)) == len(names) == sum(1 for _ in operations())


def test_everything_but_public_routes_wants_authentication() -> None:
    for path, operation in operations():
        schemes = {name for one in operation["security"] for name in one}
        assert schemes == (set() if path in PUBLIC else {"bearer", "apiKey", "basic"}), path
        assert ("401" in operation["responses"]) == (path not in PUBLIC)


def test_scopes_are_documented() -> None:
    scopes = {
        path: next(iter(operation["security"][0].values()))
        for path, operation in operations()
        if operation["security"]
    }
    assert scopes["/v1/whatif"] == ["whatif"] and scopes["/v1/fills"] == ["trade"]
    assert scopes["/v1/admin/snapshot"] == ["admin"] and scopes["/v1/summary"] == ["read"]


@pytest.mark.parametrize("path", BODIES)
def test_the_examples_are_decoded(path: str) -> None:
    body = DOCUMENT["paths"][path]["post"]["requestBody"]
    examples = body["content"]["application/json"]["examples"]
    for example in examples.values():
        found = msgspec.convert(example["value"], BODIES[path])
        assert msgspec.to_builtins(found)


@pytest.mark.parametrize("path", ["/v1/fills", "/v1/marks"])
def test_changes_want_a_number_and_a_key(path: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    required = {one["name"] for one in operation["parameters"] if one["required"]}
    assert required == {"Client-Sequence", "Idempotency-Key"}
    assert {"409", "422", "413", "415"} <= set(operation["responses"])


def test_the_servers_limits_are_in_the_schemas() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["WhatIf"]["properties"]["positions"]["maxProperties"] == LIMITS.max_legs
    assert schemas["Fills"]["properties"]["fills"]["maxItems"] == LIMITS.max_batch
    assert schemas["Fills"]["properties"]["fills"]["minItems"] == 1
    assert schemas["Fill"]["additionalProperties"] is False
    assert "90 s ahead" in schemas["Mark"]["properties"]["time"]["description"]


def test_every_problem_is_the_same_kind_of_body() -> None:
    for answer in DOCUMENT["components"]["responses"].values():
        assert list(answer["content"]) == ["application/problem+json"]
    assert "Retry-After" in DOCUMENT["components"]["responses"]["503"]["headers"]
    assert "Retry-After" in DOCUMENT["components"]["responses"]["429"]["headers"]


def test_the_examples_are_of_the_demo_book() -> None:
    tables = demo.build(6)
    text = json.dumps(DOCUMENT)
    assert "collar-000005" in text and "collar-000005" in tables.positions["account_id"]
    for name in ("WTI-F-2019-03", "WTI-C-2019-03-47"):
        assert name in text and name in tables.instruments["instrument_id"]
    body = DOCUMENT["paths"]["/v1/marks"]["post"]["requestBody"]["content"]["application/json"]
    (example,) = body["examples"].values()
    factors = {one["factor"] for one in example["value"]["marks"] if "factor" in one}
    assert factors and factors <= set(tables.history["factor"])
