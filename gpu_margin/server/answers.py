"""What the slow routes answer; null is a figure that is not known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from gpu_margin import explain
from gpu_margin.server.messages import Status


class Health(Struct):
    """The process is alive."""

    status: Literal["ok"]


class Readiness(Struct):
    """Whether questions are answered; `progress` says how far loading has come."""

    ready: bool
    progress: dict[str, Any]


class Found(Struct):
    """Ids of accounts, in order of their bytes."""

    accounts: list[str]


class ModelSummary(Struct, omit_defaults=True):
    """All accounts under one model; amounts in margin currency.

    `requirement` is of positions alone, `initial` what counts after netting between venues.
    `statuses` are counts of accounts by status, "unknown" where it is not known. Without
    collateral in the inputs there is only `requirement`.
    """

    requirement: float
    initial: float | None = None
    collateral_value: float | None = None
    call: float | None = None
    statuses: dict[str, int] | None = None


class SavedState(Struct, omit_defaults=True):
    """The last snapshot; `time` is ISO text in UTC."""

    state_seq: int
    time: str | None = None
    path: str | None = None


class BackendFault(Struct, omit_defaults=True):
    """A backend that failed and what replaced it; `time` is ISO text in UTC."""

    time: str
    backend: str
    error: str
    next: str | None = None


class Summary(Struct, omit_defaults=True):
    """The book and the server at a glance.

    `backend` is what computes, `device` on what, in words. `stale_marks`: some mark in use is
    older than allowed; `mark_age_seconds` is the oldest one's; `queues` are requests that wait, by
    queue; `started` is ISO text in UTC. The counts are of what the book holds.
    """

    state_seq: int
    started: str
    backend: str
    models: dict[str, ModelSummary]
    queues: dict[str, int]
    device: str = ""
    stale_marks: bool = False
    mark_age_seconds: float | None = None
    currency: str | None = None
    valuation_date: str | None = None
    accounts: int | None = None
    netting_sets: int | None = None
    positions: int | None = None
    instruments: int | None = None
    marks: int | None = None
    events: int | None = None
    version: str | None = None
    snapshot: SavedState | None = None
    faults: list[BackendFault] = []


class Position(Struct):
    """A net position and its part in the requirement; contributions add up to it.

    `worst_pnl` is its profit or loss in the account's worst scenario, where there are scenarios.
    """

    netting_set: str
    instrument_id: str
    product_group: str
    quantity: float
    exposure: float
    standalone: float
    contribution: float
    worst_pnl: float | None = None


class Group(Struct):
    """A product group of an account, margined alone."""

    product_group: str
    requirement: float
    positions: int


class Explanation(Struct, omit_defaults=True):
    """An account under one model: `standalone` less `offset` is the requirement."""

    requirement: float | None
    standalone: float | None
    offset: float | None
    positions: list[Position]
    groups: list[Group]
    worst_scenario: str | None = None


class Explained(Struct):
    """Why an account requires what it does, by model."""

    account_id: str
    state_seq: int
    models: dict[str, Explanation]


class Event(Struct):
    """An account's status changed under a model; `sequence` is the state in which it had.

    `before` is null where it was not known.
    """

    sequence: int
    kind: Literal["call", "cured", "liquidation"]
    account_id: str
    model: str
    before: Status | None
    after: Status


class Snapshot(Struct):
    """A state that was saved: the last change in it, and the file."""

    state_seq: int
    path: str


class ProblemDetails(Struct, omit_defaults=True):
    """Why there is no other answer (RFC 9457): `field` is to blame, `way_out` what to do."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    field: str | None = None
    way_out: str | None = None
    expected: int | None = None


def explained(
    account_id: str, state_seq: int, found: Sequence[explain.Explanation]
) -> dict[str, Any]:
    """What explains an account under several models, in the shape of `Explained`."""
    names = ("requirement", "standalone", "offset", "worst_scenario")
    return {
        "account_id": account_id,
        "state_seq": state_seq,
        "models": {
            one.model: {
                **{name: one.figures.get(name) for name in names},
                "positions": one.positions.to_dicts(),
                "groups": one.groups.to_dicts(),
            }
            for one in found
        },
    }
