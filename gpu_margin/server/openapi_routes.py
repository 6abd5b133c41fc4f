"""What the OpenAPI document says of each route: its scope, messages, errors, examples.

The examples are of accounts and instruments that every demo book has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Examples = Mapping[str, Mapping[str, Any]]

_ACCOUNT, _FUTURE, _CALL = "collar-000005", "WTI-F-2019-03", "WTI-C-2019-03-47"


@dataclass(frozen=True)
class Parameter:
    """A parameter in the path, the query or a header."""

    name: str
    place: Literal["path", "query", "header"]
    description: str
    schema: Mapping[str, Any]
    required: bool = False
    example: Any = None


@dataclass(frozen=True)
class Body:
    """A message: its schema's name, and the forms it has beside JSON; `arrow` names columns."""

    schema: str
    msgpack: bool = False
    arrow: str = ""
    examples: Examples = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """A route. `media` is the type of an answer that is text, `problems` its error statuses."""

    method: Literal["get", "post"]
    path: str
    name: str
    tag: str
    summary: str
    scope: Literal["", "read", "whatif", "trade", "admin"] = ""
    authenticated: bool = True
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    answer: Body | None = None
    answered: str = "The answer"
    media: str = ""
    problems: tuple[int, ...] = ()


_ID = {"type": "string", "minLength": 1, "maxLength": 256}
_PATH_ID = Parameter("account_id", "path", "The account.", _ID, True, _ACCOUNT)
_SEQUENCE = Parameter(
    "Client-Sequence",
    "header",
    "1, 2, ... of the requests of this client that change the book.",
    {"type": "integer", "minimum": 1, "maximum": 10**18 - 1},
    True,
    1,
)
_KEY = Parameter(
    "Idempotency-Key",
    "header",
    "Names the request: sent again with the same key, it is answered as it was.",
    {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]{1,128}$"},
    True,
    "5f0c2b8e-fills-1",
)
_POSITION = {"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{1,18})?$"}

_GUARDED = (401, 403, 405, 429, 500, 503)
_PUBLIC = (403, 405, 500)
_DECODED = (400, 401, 403, 405, 413, 415, 422, 429, 500, 503)
_CHANGED = (400, 401, 403, 405, 409, 413, 415, 422, 429, 500, 503)
_LEGS = "whatif_id, account_id, instrument_id, quantity and optionally netting_set"

_TRADES: Examples = {
    "half the future": {
        "value": {"account_id": _ACCOUNT, "positions": {_FUTURE: -12}},
    },
    "no short call": {
        "value": {"account_id": _ACCOUNT, "positions": {_CALL: 25}},
    },
    "only the future": {
        "value": {"account_id": _ACCOUNT, "positions": {_FUTURE: 25}, "add_positions": False},
    },
}
_BATCH: Examples = {
    "two": {
        "value": {
            "whatifs": [
                {"whatif_id": "a", "account_id": _ACCOUNT, "positions": {_FUTURE: -12}},
                {"whatif_id": "b", "account_id": _ACCOUNT, "positions": {_FUTURE: 12}},
            ]
        }
    }
}
_ORDER: Examples = {
    "buy ten": {
        "value": {
            "account_id": _ACCOUNT,
            "instrument_id": _FUTURE,
            "quantity": 10,
            "open_orders": [{"instrument_id": _CALL, "quantity": -5}],
        }
    }
}
_FILLS: Examples = {
    "one": {
        "value": {
            "fills": [
                {
                    "fill_id": "f-1",
                    "account_id": _ACCOUNT,
                    "instrument_id": _FUTURE,
                    "quantity": -1,
                    "price": 45.49,
                }
            ]
        }
    }
}
_MARKS: Examples = {
    "a price and a factor": {
        "value": {
            "marks": [
                {
                    "instrument_id": _FUTURE,
                    "field": "price",
                    "value": 45.6,
                    "time": "2018-12-31T12:00:00",
                },
                {"factor": "WTI", "field": "last", "value": 45.3, "time": "2018-12-31T12:00:00"},
            ]
        }
    }
}

_QUESTIONS = (
    Operation(
        "get",
        "/v1/accounts",
        "findAccounts",
        "questions",
        "Accounts by the first letters of their ids",
        "read",
        parameters=(
            Parameter("prefix", "query", "First letters.", {"type": "string", "maxLength": 256}),
            Parameter(
                "limit",
                "query",
                "How many at most.",
                {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            ),
        ),
        answer=Body("Found"),
        problems=(*_GUARDED, 422),
    ),
    Operation(
        "get",
        "/v1/accounts/{account_id}",
        "getAccount",
        "questions",
        "How an account stands: requirement, collateral, status, by model",
        "read",
        parameters=(_PATH_ID,),
        answer=Body("AccountFigures", msgpack=True),
        problems=(*_GUARDED, 404),
    ),
    Operation(
        "get",
        "/v1/accounts/{account_id}/explain",
        "explainAccount",
        "questions",
        "Why an account requires what it does: positions, groups, worst scenario",
        "read",
        parameters=(
            _PATH_ID,
            Parameter("model", "query", "One model; default all.", _ID, False, "historical"),
        ),
        answer=Body("Explained"),
        problems=(*_GUARDED, 404, 422),
    ),
    Operation(
        "post",
        "/v1/whatif",
        "whatIf",
        "questions",
        "What trades would do to an account",
        "whatif",
        body=Body("WhatIf", msgpack=True, examples=_TRADES),
        answer=Body("WhatIfAnswer", msgpack=True),
        problems=(*_DECODED, 404),
    ),
    Operation(
        "post",
        "/v1/whatif/batch",
        "whatIfBatch",
        "questions",
        "Many what-ifs, each on its own, of one state of the book",
        "whatif",
        body=Body("WhatIfBatch", msgpack=True, arrow=_LEGS, examples=_BATCH),
        answer=Body(
            "WhatIfAnswers",
            msgpack=True,
            arrow="whatif_id, account_id, model, before, after, change, status_after, complete",
        ),
        problems=_DECODED,
    ),
    Operation(
        "post",
        "/v1/orders/check",
        "checkOrder",
        "questions",
        "Whether an order may enter the market, how much of it, and when",
        "trade",
        body=Body("OrderCheck", msgpack=True, examples=_ORDER),
        answer=Body("OrderDecision", msgpack=True),
        problems=(*_DECODED, 404),
    ),
    Operation(
        "get",
        "/v1/summary",
        "summary",
        "questions",
        "The book and the server at a glance",
        "read",
        answer=Body("Summary"),
        problems=_GUARDED,
    ),
    Operation(
        "get",
        "/v1/events",
        "events",
        "questions",
        "Calls, cures and liquidations as they happen (server-sent events)",
        "read",
        description=(
            "Each event has an `id`, its kind as `event`, and the schema Event as `data`. A client "
            "that reads too slowly is dropped; with `Last-Event-ID` it misses nothing."
        ),
        parameters=(
            Parameter(
                "after",
                "query",
                "Events after this state or event; default: new ones only.",
                _POSITION,
                False,
                "0",
            ),
            Parameter("Last-Event-ID", "header", "The last event that was seen.", _POSITION),
        ),
        media="text/event-stream",
        answered="Events without end, and a comment every 15 s",
        problems=(*_GUARDED, 422),
    ),
)

_CHANGES = (
    Operation(
        "post",
        "/v1/fills",
        "sendFills",
        "changes",
        "Book executed trades",
        "trade",
        parameters=(_SEQUENCE, _KEY),
        body=Body(
            "Fills",
            msgpack=True,
            arrow="fill_id, account_id, instrument_id, quantity, price; maybe netting_set, fee",
            examples=_FILLS,
        ),
        answer=Body("Taken", msgpack=True),
        problems=_CHANGED,
    ),
    Operation(
        "post",
        "/v1/marks",
        "sendMarks",
        "changes",
        "Mark the market: prices, volatilities, factors",
        "trade",
        description="Prices are everybody's: a key of a tenant may not send them.",
        parameters=(_SEQUENCE, _KEY),
        body=Body(
            "Marks",
            msgpack=True,
            arrow="instrument_id or factor, field, value, time",
            examples=_MARKS,
        ),
        answer=Body("Taken", msgpack=True),
        problems=_CHANGED,
    ),
)


def _server(path: str, name: str, summary: str, **more: Any) -> Operation:
    return Operation("get", path, name, "server", summary, **more)


_SERVER = (
    _server(
        "/health",
        "health",
        "Whether the process is alive",
        authenticated=False,
        answer=Body("Health"),
        problems=_PUBLIC,
    ),
    _server(
        "/ready",
        "ready",
        "Whether questions are answered",
        authenticated=False,
        answer=Body("Readiness"),
        problems=_PUBLIC,
    ),
    Operation(
        "post",
        "/v1/admin/snapshot",
        "saveSnapshot",
        "server",
        "Save the state now",
        "admin",
        answer=Body("Snapshot"),
        problems=_GUARDED,
    ),
    _server(
        "/metrics",
        "metrics",
        "Metrics for Prometheus; not for tenants",
        scope="read",
        media="text/plain",
        problems=(401, 403, 405, 429, 500),
    ),
    _server(
        "/docs",
        "docs",
        "This document, to read and to try",
        media="text/html",
        problems=(401, 403, 405, 429, 500),
    ),
    _server(
        "/openapi.json",
        "openapi",
        "This document, as JSON",
        media="application/json",
        problems=(401, 403, 405, 429, 500),
    ),
    _server(
        "/",
        "page",
        "A page for people",
        authenticated=False,
        media="text/html",
        problems=_PUBLIC,
    ),
)

ROUTES: tuple[Operation, ...] = (*_QUESTIONS, *_CHANGES, *_SERVER)
