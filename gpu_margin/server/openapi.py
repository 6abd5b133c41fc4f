"""The OpenAPI document of all routes, the raw ones included.

It is written down here, not collected from a framework: the raw routes have none. Its schemas are
those of the messages that the server decodes and encodes, so that they cannot part.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import msgspec

from gpu_margin.server import answers, messages
from gpu_margin.server.openapi_routes import ROUTES, Body, Operation, Parameter
from gpu_margin.server.problems import MEDIA_TYPE as PROBLEM

if TYPE_CHECKING:
    from gpu_margin.server.settings import Limits

Json = dict[str, Any]
_JSON, _MSGPACK = "application/json", "application/msgpack"
_ARROW = "application/vnd.apache.arrow.stream"
_PLACE = "#/components/schemas/{name}"

_KINDS: tuple[type[msgspec.Struct], ...] = (
    messages.WhatIf,
    messages.NamedWhatIf,
    messages.WhatIfBatch,
    messages.WhatIfAnswer,
    messages.FailedWhatIf,
    messages.OrderCheck,
    messages.OrderDecision,
    messages.Fills,
    messages.Marks,
    messages.Taken,
    messages.AccountFigures,
    answers.Health,
    answers.Readiness,
    answers.Found,
    answers.Summary,
    answers.Explained,
    answers.Event,
    answers.Snapshot,
    answers.ProblemDetails,
)

_SECURITY: Json = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a JWT of an issuer that the server knows.",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "The API key as the password; any name. For browsers.",
    },
}

_ABOUT = """\
What-ifs, order checks, fills and marks against a book of margin accounts that stays on the device.

Answers carry `state_seq`, the last change that the book had taken. Amounts are in margin currency.
Errors are problem details (RFC 9457): `field` names what is to blame, `way_out` what to do about
it, `request_id` finds the request in the log.

Fills and marks are numbered per client from 1 (`Client-Sequence`) and named
(`Idempotency-Key`): what was acknowledged is kept, and a request that is sent again is answered
as it was the first time.
"""


def document(version: str, limits: Limits) -> Json:
    """The document as JSON-able data, with a server's limits in its schemas."""
    paths: Json = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method] = _operation(route, limits)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gpu-margin risk server",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in ("questions", "changes", "server")],
        "paths": paths,
        "components": {
            "schemas": schemas(limits),
            "securitySchemes": _SECURITY,
            "responses": _PROBLEMS,
            "headers": _HEADERS,
        },
    }


def schemas(limits: Limits) -> Json:
    """Schemas of all messages by name."""
    _, found = msgspec.json.schema_components(_KINDS, ref_template=_PLACE)
    known: Json = {name: dict(schema) for name, schema in found.items()}
    for schema in known.values():
        schema["description"] = cleandoc(schema.get("description", ""))
    for name in ("WhatIf", "NamedWhatIf"):
        known[name]["properties"]["positions"]["maxProperties"] = limits.max_legs
    known["OrderCheck"]["properties"]["open_orders"]["maxItems"] = limits.max_legs
    for name, rows in (("WhatIfBatch", "whatifs"), ("Fills", "fills"), ("Marks", "marks")):
        known[name]["properties"][rows]["maxItems"] = limits.max_batch
    for name, rows in (("Fills", "fills"), ("Marks", "marks")):
        known[name]["properties"][rows]["minItems"] = 1
    known["Mark"]["properties"]["time"]["description"] = (
        f"At most {limits.mark_ahead_seconds:g} s ahead of the server's clock."
    )
    # A union that says by its members which of the two it is.
    either = [_reference("WhatIfAnswer"), _reference("FailedWhatIf")]
    known["WhatIfAnswers"] = {
        "title": "WhatIfAnswers",
        "description": cleandoc(messages.WhatIfAnswers.__doc__ or ""),
        "type": "object",
        "properties": {
            "state_seq": {"type": "integer"},
            "answers": {"type": "array", "items": {"anyOf": either}},
        },
        "required": ["state_seq", "answers"],
    }
    return known


def _operation(route: Operation, limits: Limits) -> Json:
    found: Json = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.summary,
        "responses": _responses(route),
        # Scopes stand here as the specification has it for schemes other than OAuth's.
        "security": [{name: [route.scope] if route.scope else []} for name in _SECURITY]
        if route.authenticated
        else [],
    }
    if route.description:
        found["description"] = route.description
    if route.parameters:
        found["parameters"] = [_parameter(one) for one in route.parameters]
    if route.body is not None:
        found["requestBody"] = {"required": True, "content": _content(route.body)}
        found["x-max-body-bytes"] = limits.max_body_bytes
    return found


def _parameter(one: Parameter) -> Json:
    return {
        "name": one.name,
        "in": one.place,
        "required": one.required,
        "description": one.description,
        "schema": dict(one.schema),
        **({} if one.example is None else {"example": one.example}),
    }


def _content(body: Body, examples: bool = True) -> Json:
    """A message in every form that it has."""
    schema = _reference(body.schema)
    shown = {"examples": dict(body.examples)} if examples and body.examples else {}
    content: Json = {_JSON: {"schema": schema, **shown}}
    if body.msgpack:
        content[_MSGPACK] = {"schema": schema}
    if body.arrow:
        content[_ARROW] = {
            "schema": {
                "type": "string",
                "contentMediaType": _ARROW,
                "description": f"An Arrow IPC stream with the columns {body.arrow}.",
            }
        }
    return content


def _responses(route: Operation) -> Json:
    success: Json = {"description": route.answered, "headers": _headers("X-Request-Id")}
    if route.media:
        kind = "object" if route.media == _JSON else "string"
        success["content"] = {route.media: {"schema": {"type": kind}}}
    elif route.answer is not None:
        success["content"] = _content(route.answer, examples=False)
        if route.answer.arrow:
            success["headers"] |= _headers("X-State-Seq")
    found = {"200": success}
    if route.path == "/ready":
        waiting = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
        found["503"] = {**success, "description": "Not yet", "headers": waiting}
    for status in route.problems:
        found[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return found


def _headers(*names: str) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _reference(name: str) -> Json:
    return {"$ref": _PLACE.format(name=name)}


_HEADERS: Json = {
    "X-Request-Id": {
        "description": "The request's id: the client's own, if it sent one, else a new one.",
        "schema": {"type": "string"},
    },
    "X-State-Seq": {
        "description": "`state_seq` of an Arrow table.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Retry-After": {
        "description": "Seconds to wait.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to authenticate.",
        "schema": {"type": "string"},
    },
}

_SAID: Mapping[int, str] = {
    400: "The body cannot be read",
    401: "No key or token, or one that is not valid",
    403: "The scope is missing, the account is not the tenant's (or not there), or a web page of "
    "another origin asks a server without authentication",
    404: "There is no such account, model or route",
    405: "The route has no such method",
    409: "A gap in the client's sequence numbers: `expected` is the next one",
    413: "The body is too large",
    415: "The body's content type is not known here",
    422: "A member is missing, wrong or not known: `field` names it",
    429: "More requests than the key may send",
    500: "The server failed; its log has the request id",
    503: "The book is loading, or too many requests wait",
}


def _problem(status: int, said: str) -> Json:
    headers = ["X-Request-Id"]
    if status in (429, 503):
        headers.append("Retry-After")
    if status == 401:
        headers.append("WWW-Authenticate")
    return {
        "description": said,
        "headers": _headers(*headers),
        "content": {PROBLEM: {"schema": _reference("ProblemDetails")}},
    }


_PROBLEMS: Json = {str(status): _problem(status, said) for status, said in _SAID.items()}
