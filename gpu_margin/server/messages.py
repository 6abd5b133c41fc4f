"""What clients send and get, in JSON or msgpack; unknown members and wrong types are refused."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Number = Annotated[float, Meta(ge=-1e30, le=1e30)]
Status = Literal["ok", "call", "liquidation"]
_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`\Z", re.DOTALL)


class WhatIf(Struct, forbid_unknown_fields=True):
    """Trades of one account, to be tried.

    `positions` maps instruments to contracts: added to the account's own or, with `add_positions`
    false, instead of all that it has. `netting_set` is the account's own (cross) set by default;
    with `allow_new` an account or set that is not there starts empty.
    """

    account_id: Id
    positions: dict[Id, Number]
    add_positions: bool = True
    netting_set: Id | None = None
    allow_new: bool = False


class NamedWhatIf(WhatIf, forbid_unknown_fields=True):
    """A what-if of a batch; `whatif_id` comes back with its answer."""

    whatif_id: str | None = None


class WhatIfBatch(Struct, forbid_unknown_fields=True):
    """What-ifs that are answered together, each on its own."""

    whatifs: list[NamedWhatIf]


class Change(Struct):
    """What a what-if does under one model: initial margin in margin currency.

    `status_after` is null where it does not follow from the account's own requirement.
    """

    before: float
    after: float
    change: float
    status_after: Status | None


class WhatIfAnswer(Struct, omit_defaults=True):
    """`state_seq` is the last change that the book had taken.

    `stale_marks`: an underlying of the account or of the trades has no fresh mark; `complete`: no
    input row of the account failed.
    """

    account_id: str
    state_seq: int
    stale_marks: bool
    complete: bool
    models: dict[str, Change]
    whatif_id: str | None = None


class Fault(Struct, omit_defaults=True):
    """Why a what-if of a batch has no answer."""

    status: int
    detail: str
    field: str | None = None
    way_out: str | None = None


class FailedWhatIf(Struct, omit_defaults=True):
    """A what-if of a batch without an answer."""

    account_id: str
    problem: Fault
    whatif_id: str | None = None


class WhatIfAnswers(Struct):
    """Answers in the order asked, all of one state of the book."""

    state_seq: int
    answers: list[WhatIfAnswer | FailedWhatIf]


class OpenOrder(Struct, forbid_unknown_fields=True):
    """`quantity` contracts that are not yet filled, negative to sell."""

    instrument_id: Id
    quantity: Number


class OrderCheck(Struct, forbid_unknown_fields=True):
    """An order before it enters the market, and the account's open orders beside it."""

    account_id: Id
    instrument_id: Id
    quantity: Number
    netting_set: Id | None = None
    open_orders: list[OpenOrder] = field(default_factory=list)


class OrderDecision(Struct):
    """What becomes of the order; see `gate.Decision`."""

    action: Literal["accept", "shrink", "slow", "refuse"]
    quantity: float
    rule: str
    message: str
    limit: float | None
    bound: float | None
    worst_fill_before: float | None
    worst_fill_after: float | None
    wait_seconds: float
    state_seq: int
    stale_marks: bool


class Fill(Struct, forbid_unknown_fields=True):
    """An executed trade: `quantity` contracts (negative: sold) at `price`.

    `fee` is in the instrument's currency; a `fill_id` is booked once.
    """

    fill_id: Id
    account_id: Id
    instrument_id: Id
    quantity: Number
    price: Number
    netting_set: Id | None = None
    fee: Number = 0.0


class Fills(Struct, forbid_unknown_fields=True):
    """Fills in their order."""

    fills: list[Fill]


class Mark(Struct, forbid_unknown_fields=True):
    """A value of an instrument (price, implied_vol, forward) or of a factor (last).

    `time` is ISO text (without zone: UTC) or seconds since 1970 UTC.
    """

    field: Literal["price", "implied_vol", "forward", "last"]
    value: Number
    time: str | float
    instrument_id: Id | None = None
    factor: Id | None = None


class Marks(Struct, forbid_unknown_fields=True):
    """Marks in their order."""

    marks: list[Mark]


class RowFailure(Struct):
    """A row that changed nothing, and why."""

    row: int | None
    field: str | None
    value: str | None
    reason: str


class Taken(Struct):
    """What became of fills or marks: `skipped` rows had been booked or are too old."""

    state_seq: int
    applied: int
    skipped: list[int]
    failures: list[RowFailure]


class Levels(Struct):
    """What is required at each level."""

    initial: float | None
    maintenance: float | None


class NettingSet(Struct):
    """A netting set under a model; null where it is not known."""

    netting_set: str
    requirement: float | None
    collateral_value: float | None


class ModelFigures(Struct):
    """An account under one model; amounts in margin currency, null where not known.

    `components` add up to `requirement`, which is that of its positions; `levels` are what counts,
    after netting between venues.
    """

    levels: Levels
    components: dict[str, float]
    requirement: float | None
    collateral_value: float | None
    call: float | None
    excess: float | None
    utilisation: float | None
    status: Status | None
    netting_sets: list[NettingSet]


class AccountFigures(Struct):
    """How an account stands: `status` is its worst one, under whichever model."""

    account_id: str
    complete: bool
    status: Status | None
    collateral_value: float | None
    models: dict[str, ModelFigures]
    state_seq: int
    stale_marks: bool


def told(error: str) -> tuple[str, str | None]:
    """What msgspec says: what is wrong, and with which member, None for the whole."""
    found = _PLACE.search(error)
    return (error[: found.start()], found[1] or None) if found else (error, None)
