"""Fills and marks that come by other ways than HTTP: the same shapes, the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gpu_margin.records import Kind
from gpu_margin.server.messages import Fill, Mark, told

# Rows of one message: it is booked as one, and other work waits for it.
MOST_ROWS = 20_000

_ONE: dict[Kind, Any] = {"fills": Fill, "marks": Mark}
_MANY: dict[Kind, Any] = {"fills": list[Fill], "marks": list[Mark]}
_DECODERS: dict[Kind, msgspec.json.Decoder[Any]] = {
    "fills": msgspec.json.Decoder(Fill | list[Fill]),
    "marks": msgspec.json.Decoder(Mark | list[Mark]),
}


class BadMessage(Exception):
    """What came has not the right shape: why, and in which `field`, None for all of it."""

    def __init__(self, reason: str, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.field = reason, field


def rows_of(kind: Kind, body: bytes) -> dict[str, list[Any]]:
    """The columns of one fill or mark, or a list of them, in JSON; raises `BadMessage`."""
    try:
        return _columns(kind, _DECODERS[kind].decode(body))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadMessage(*told(str(error))) from error


def rows_from(kind: Kind, objects: Any) -> dict[str, list[Any]]:
    """The columns of what was decoded already: one object or a list; raises `BadMessage`."""
    wanted = (_MANY if isinstance(objects, list) else _ONE)[kind]
    try:
        return _columns(kind, msgspec.convert(objects, wanted))
    except msgspec.ValidationError as error:
        raise BadMessage(*told(str(error))) from error


def _columns(kind: Kind, found: Any) -> dict[str, list[Any]]:
    rows: Sequence[Any] = found if isinstance(found, list) else [found]
    if not 0 < len(rows) <= MOST_ROWS:
        raise BadMessage(f"{len(rows)} rows: a message has at least 1 and at most {MOST_ROWS}")
    return columns_of(kind, rows)


def columns_of(kind: Kind, rows: Sequence[Any]) -> dict[str, list[Any]]:
    """Fills or marks (`messages.Fill`, `Mark`) as columns by name."""
    names = _ONE[kind].__struct_fields__
    return {name: [getattr(row, name) for row in rows] for name in names}
