"""What an Arrow IPC stream says of itself, before anything is made of it.

A few kilobytes may stand for more rows than there is memory: compressed, of one value, or of none.
So the messages' own headers are read first. They are flatbuffers: tables whose fields are found
through a list of offsets (https://arrow.apache.org/docs/format/Columnar.html).
"""

from __future__ import annotations

import struct

_CONTINUES = 0xFFFFFFFF
_DICTIONARY, _BATCH = 2, 3


class Malformed(ValueError):
    """It is no stream of Arrow messages, or one that is not read here."""


def count_rows(body: bytes) -> int:
    """The rows of all batches and dictionaries; `Malformed` also for compressed ones."""
    try:
        return _count(memoryview(body))
    except (struct.error, IndexError, OverflowError) as error:
        raise Malformed("it ends too early or points beyond its end") from error


def _count(body: memoryview) -> int:
    place = rows = 0
    while place < len(body):
        first, size = struct.unpack_from("<II", body, place)
        if first != _CONTINUES:
            raise Malformed("it does not begin as a message does")
        place += 8
        if size == 0:
            break
        message = body[place : place + size]
        length, batch_rows = _message(message)
        rows += batch_rows
        place += size + length
    return rows


def _message(message: memoryview) -> tuple[int, int]:
    """Bytes of a message's body, and rows in it."""
    root = _offset(message, 0)
    kind = _scalar(message, root, 1, "<B")
    length = _scalar(message, root, 3, "<q")
    if length < 0:
        raise Malformed("a body has a negative length")
    if kind not in (_DICTIONARY, _BATCH):
        return length, 0
    batch = _table(message, root, 2)
    if kind == _DICTIONARY:
        batch = _table(message, batch, 1)
    rows = _scalar(message, batch, 0, "<q")
    if rows < 0:
        raise Malformed("a batch has a negative number of rows")
    if _field(message, batch, 3):
        raise Malformed("it is compressed: send it as it is")
    return length, rows


def _field(message: memoryview, table: int, number: int) -> int:
    """Where a field of a table is; 0: it has none."""
    fields = table - int(struct.unpack_from("<i", message, table)[0])
    if fields < 0:
        raise Malformed("it points before its beginning")
    size = int(struct.unpack_from("<H", message, fields)[0])
    at = 4 + 2 * number
    found = int(struct.unpack_from("<H", message, fields + at)[0]) if at < size else 0
    return table + found if found else 0


def _scalar(message: memoryview, table: int, number: int, form: str) -> int:
    place = _field(message, table, number)
    return int(struct.unpack_from(form, message, place)[0]) if place else 0


def _table(message: memoryview, table: int, number: int) -> int:
    place = _field(message, table, number)
    if not place:
        raise Malformed("a message has no header")
    return _offset(message, place)


def _offset(message: memoryview, place: int) -> int:
    return place + int(struct.unpack_from("<I", message, place)[0])
