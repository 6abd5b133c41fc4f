"""The format of the audit log: JSON lines, each with a hash over itself and the line before.

    {"seq":2,"time":"...","kind":"login","actor":"desk","details":{...},"hash":"9f.."}

The hash is SHA-256 over the hash of the line before (64 zeros before the first), as text, and the
raw bytes of the line up to the comma before `"hash"`. So any byte that is changed, and any line
that is removed, inserted or moved, breaks the chain there. Two things it cannot show by itself:
lines cut off at the end, and a chain that was computed anew from some line on. Both are found by
whoever kept a later hash elsewhere (`expect`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from gpu_margin.failures import InputError

START = "0" * 64
MEMBERS = ("seq", "time", "kind", "actor", "details", "hash")
# A line's details are cut there: who is refused must not be able to fill the disk.
MOST_BYTES = 16_384

_HASH = re.compile(rb',"hash":"([0-9a-f]{64})"}\n')
_HASH_BYTES = 76
_encode = json.JSONEncoder(
    separators=(",", ":"), sort_keys=True, allow_nan=False, default=str
).encode


@dataclass(frozen=True)
class Link:
    """A line that is as it was written."""

    seq: int
    time: str
    kind: str
    hash: str


@dataclass(frozen=True)
class Break:
    """The first line that is not: its number from 1, and what is wrong with it."""

    line: int
    what: str


@dataclass(frozen=True)
class Verified:
    """What is to be said of a file: `lines` that are right, first and last, and the break if any.

    `expected_at` is the line that has the expected hash; None if no line has, or none was expected.
    """

    lines: int
    first: Link | None
    last: Link | None
    broken: Break | None
    expected_at: int | None = None


def make_line(
    seq: int, nanoseconds: int, kind: str, actor: str, details: dict[str, Any], before: str
) -> tuple[bytes, str]:
    """A line and its hash. `nanoseconds` since 1970; details that JSON does not know become text.

    What cannot be written at all, or is too long, is replaced by its beginning and says so.
    """
    head = _encode({"seq": seq})[:-1] + f',"time":"{_iso(nanoseconds)}"'
    head += f',"kind":{_encode(str(kind)[:100])},"actor":{_encode(str(actor)[:300])}'
    body = f'{head},"details":{_details(details)}'.encode()
    own = sha256(before.encode() + body).hexdigest()
    return body + f',"hash":"{own}"}}\n'.encode(), own


def _details(details: dict[str, Any]) -> str:
    try:
        text = _encode(details)
    except Exception:  # not finite, circular, keys of several types, or a __str__ that fails
        text = _encode({"unprintable": ascii(sorted(map(str, details)))[:1000]})
    if len(text) <= MOST_BYTES:
        return text
    return _encode({"beginning": text[:1000], "bytes": len(text)})


def _iso(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds // 1000, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:06d}Z"


def check_line(raw: bytes, seq: int, before: str) -> Link | str:
    """The line as a link, or what is wrong with it. `raw` ends with its newline."""
    if not raw.endswith(b"\n"):
        return f"does not end: {len(raw)} bytes of a line that was cut"
    own = _hash_of(raw)
    if own is None:
        return "is not a line of an audit log: it does not end with its hash"
    if sha256(before.encode() + raw[:-_HASH_BYTES]).hexdigest() != own:
        return "its hash is wrong: it was changed, or a line before it was removed, added or moved"
    return _link(raw, seq, own)


def _hash_of(raw: bytes) -> str | None:
    match = _HASH.fullmatch(raw[-_HASH_BYTES:])
    return None if match is None else match[1].decode()


def _link(raw: bytes, seq: int, own: str) -> Link | str:
    """A line whose hash is right may still be one that this program did not write."""
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(record, dict) or tuple(record) != MEMBERS:
        return f"its members are not {', '.join(MEMBERS)}"
    if record["seq"] != seq or isinstance(record["seq"], bool):
        return f"has the number {record['seq']!r} in place of {seq}"
    return Link(seq, str(record["time"]), str(record["kind"]), own)


def verify(path: Path, expect: str | None = None) -> Verified:
    """Check every byte of a file. `InputError` where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return verify_lines(_lines(stream), expect)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def verify_lines(lines: Iterable[bytes], expect: str | None = None) -> Verified:
    """Check lines from the first on, up to the first that is wrong."""
    first = last = None
    found = 0 if expect == START else None
    count = 0
    for count, raw in enumerate(lines, 1):
        checked = check_line(raw, count, START if last is None else last.hash)
        if isinstance(checked, str):
            return Verified(count - 1, first, last, Break(count, checked), found)
        first, last = first or checked, checked
        if checked.hash == expect:
            found = count
    return Verified(count, first, last, None, found)


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines with their newlines; one longer than any that is written comes in pieces."""
    longest = 4 * MOST_BYTES
    return iter(lambda: stream.readline(longest), b"")


def read_tail(content: bytes, whole: bool) -> Link | str | None:
    """The last line of the end of a file, or of the `whole` file, if its lines hang together.

    A text says that they do not, None that there is no line.
    """
    lines = BytesIO(content).readlines()
    if whole:
        found = verify_lines(lines)
        return found.last if found.broken is None else found.broken.what
    # The first is cut, or may be; the second is what the rest hangs on.
    checked: Link | str = "its end is no audit log"
    before = _hash_of(lines[1]) if len(lines) > 2 else None
    seq = _seq(lines[1]) if before is not None else 0
    for n, raw in enumerate(lines[2:], 1):
        checked = check_line(raw, seq + n, before or START)
        if isinstance(checked, str):
            break
        before = checked.hash
    return checked


def _seq(raw: bytes) -> int:
    try:
        return int(json.loads(raw)["seq"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return -1  # which the next line does not follow
