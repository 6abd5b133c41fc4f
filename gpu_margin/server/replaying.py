"""Fills and marks from a file of JSON lines: `gpu-margin serve --replay FILE`.

A line is one request: `kind` (fills or marks) and either `rows`, a list of fills or marks or their
columns by name, or the members of one fill or mark beside it. `client`, `client_seq` and `key` may
be given as HTTP's headers give them; without, a line's key is its number in a file of this content,
so that a file that is replayed again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import msgspec

from gpu_margin.failures import Failure, InputError
from gpu_margin.io.tables import file_hash
from gpu_margin.records import Kind
from gpu_margin.server.feeding import BadMessage, rows_from
from gpu_margin.server.log import Entry, Gap, LogError, Offsets, Reused, digest
from gpu_margin.server.mark_times import AHEAD_SECONDS, check_marks
from gpu_margin.server.problems import Problem

Submit = Callable[[Sequence[Entry], Offsets | None], "Future[Any]"]

_LONGEST = 64 << 20
_LONGEST_NAME = 256
_KINDS: dict[str, Kind] = {"fills": "fills", "marks": "marks"}
_SHOWN = 200
_PAUSE = 0.2

_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass
class Group:
    """Lines that go together: entries, their numbers from 1, and the lines that are none."""

    entries: list[Entry] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Replayed:
    """How many lines were `taken` (now or before), and how many failures were reported."""

    taken: int
    failures: int


def read_replay(
    path: Path, size: int = 1_000, ahead_seconds: float = AHEAD_SECONDS
) -> Iterator[Group]:
    """The lines of a file, `size` at a time; empty ones are passed over.

    A line is bad, too, where one of its marks has a time of more than `ahead_seconds` after now.
    Raises `InputError` where the file cannot be read.
    """
    try:
        name = f"replay:{file_hash(path)[:16]}"
        with path.open("rb") as stream:
            group = Group()
            for number, line in enumerate(_lines(stream), 1):
                if not line.strip():
                    continue
                try:
                    group.entries.append(_entry(line, number, name, ahead_seconds))
                    group.lines.append(number)
                except BadMessage as error:
                    shown = line[:_SHOWN].decode(errors="replace").strip()
                    group.failures.append(
                        Failure(error.reason, path.name, number, error.field, shown)
                    )
                if len(group.lines) + len(group.failures) >= size:
                    yield group
                    group = Group()
            if group.lines or group.failures:
                yield group
    except OSError as error:
        raise InputError(f"--replay {path}: cannot be read: {error.strerror}") from error


def replay_file(
    path: Path,
    submit: Submit,
    report: Callable[[Failure], None] | None = None,
    size: int = 1_000,
    stop: Event | None = None,
    ahead_seconds: float = AHEAD_SECONDS,
) -> Replayed:
    """Hand the lines of a file to `submit`, group after group, as soon as each is answered.

    `submit` is the writer's; what it is too busy for (503, `LogError`) is tried again until `stop`
    is set. `report` is told of bad lines and of bad rows, by the number of the line. Raises
    `InputError` where the file cannot be read, and what else a future of `submit` raises.
    """
    taken = failed = 0
    stop = stop or Event()
    for group in read_replay(path, size, ahead_seconds):
        failures = list(group.failures)
        answers = _answers(submit, group.entries, stop) if group.entries else []
        if answers is None:
            break
        for line, answer in zip(group.lines, answers, strict=True):
            refused = _refusal(answer)
            if refused is not None:
                failures.append(Failure(refused, path.name, line))
                continue
            taken += 1
            failures += _row_failures(answer, path.name, line)
        failed += len(failures)
        for failure in sorted(failures, key=lambda one: one.row or 0):
            if report is not None:
                report(failure)
    return Replayed(taken, failed)


# ------------------------------------------------------------ lines


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines; of one that is too long a beginning, which cannot be decoded."""
    while line := stream.readline(_LONGEST):
        yield line
        while len(line) == _LONGEST and not line.endswith(b"\n"):
            line = stream.readline(_LONGEST)


def _entry(line: bytes, number: int, file: str, ahead_seconds: float) -> Entry:
    """A line as an entry; raises `BadMessage`."""
    try:
        given = _decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadMessage(f"no JSON object: {error}") from error
    kind = _KINDS.get(str(given.pop("kind", None)))
    if kind is None:
        raise BadMessage("missing or unknown kind: it is fills or marks", "kind")
    client = _name(given, "client", file)
    # Lines of two files that speak for one client are not the same for having the same number.
    key = _name(given, "key", f"line-{number}" if client == file else f"{file}:line-{number}")
    client_seq = given.pop("client_seq", None)
    if client_seq is not None and not (type(client_seq) is int and 0 < client_seq < 2**63):
        raise BadMessage("no sequence number: it is 1, 2, ...", "client_seq")
    if "rows" in given and len(given) > 1:
        other = next(name for name in given if name != "rows")
        raise BadMessage("beside rows: put it into them", other)
    rows = rows_from(kind, _objects(given["rows"]) if "rows" in given else given)
    if kind == "marks":
        check_marks(rows, ahead_seconds)
    return Entry(client, client_seq, key, digest(kind, rows), kind, rows)


def _name(given: dict[str, Any], field_: str, default: str) -> str:
    name = given.pop(field_, None)
    if name is None:
        return default
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise BadMessage(f"no name: a printable text of at most {_LONGEST_NAME}", field_)
    return name


def _objects(rows: Any) -> Any:
    """Rows as a list of objects; columns by name are turned."""
    if not isinstance(rows, dict):
        return rows if isinstance(rows, list) else [rows]
    columns = list(rows.values())
    if not columns or not all(isinstance(column, list) for column in columns):
        raise BadMessage("neither a list of rows nor columns by name", "rows")
    if len({len(column) for column in columns}) > 1:
        raise BadMessage("columns of different lengths", "rows")
    return [dict(zip(rows, values, strict=True)) for values in zip(*columns, strict=True)]


# ------------------------------------------------------------ answers


def _answers(submit: Submit, entries: Sequence[Entry], stop: Event) -> list[Any] | None:
    """What became of entries, however often it takes; what was logged is found by its key.

    None where it was stopped before anything was said.
    """
    while not stop.is_set():
        try:
            answers: list[Any] = list(submit(entries, None).result())
            if not any(map(_is_busy, answers)):
                return answers
        except (Problem, LogError) as error:
            if isinstance(error, Problem) and not _is_busy(error):
                raise
        stop.wait(_PAUSE)
    return None


def _is_busy(answer: object) -> bool:
    return isinstance(answer, Problem) and answer.status == 503


def _refusal(answer: object) -> str | None:
    """Why a line was not taken, None where it was."""
    if isinstance(answer, Problem):
        return answer.detail
    if isinstance(answer, Gap):
        return f"the next client_seq of this client is {answer.expected}"
    if isinstance(answer, Reused):
        return "this key was used with another content"
    return None


def _row_failures(answer: object, source: str, line: int) -> list[Failure]:
    """Rows of a line that changed nothing, where the answer says so."""
    found = answer.get("failures", []) if isinstance(answer, dict) else []
    return [
        Failure(one["reason"], source, line, one.get("field"), one.get("value")) for one in found
    ]
