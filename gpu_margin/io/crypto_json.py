"""JSON documents as records that know where they stand, and records as numbered rows.

A failure in a JSON document has no row: its field is a JSON pointer (RFC 6901) to the value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin.failures import ConfigError, Failure, failure_table
from gpu_margin.io.tables import NO_TEXT, ROW, Table, file_hash

# How `rules` names what a person wrote in a column of numbers.
_RAW = "raw:"


@dataclass(frozen=True)
class Record:
    """An object of a document: `values` by our names, and where it stands.

    `names` has the path below `pointer` of values that the document calls otherwise than we do, or
    a pointer of their own, which begins with a slash.
    `fault` says why it is no good as a whole, and `values` then has only whose it is.
    """

    source: str
    pointer: str
    values: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    fault: Failure | None = None

    def at(self, name: str | None) -> str:
        """Pointer to a value, or to the object itself."""
        if name is None:
            return self.pointer
        place = self.names.get(name, name)
        return place if place.startswith("/") else f"{self.pointer}/{place}"


@dataclass(frozen=True)
class Document:
    """A JSON file as it was parsed; where it could not be, `failures` says why."""

    source: str
    value: Any
    failures: pl.DataFrame
    path: Path | None = None

    @property
    def readable(self) -> bool:
        """Whether it is JSON."""
        return self.failures.is_empty()

    @property
    def description(self) -> dict[str, Any]:
        """What a manifest says of the file, less the input that it is."""
        if self.path is None:
            return {"path": None, "sha256": None}
        return {"path": str(self.path.resolve()), "sha256": file_hash(self.path)}


def is_json(path: Path) -> bool:
    """Whether it is a folder, or a file that is JSON by its name or its first character."""
    if path.is_dir() or path.suffix.lower() == ".json":
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")
    except OSError:
        return False


def read_documents(path: Path, name: str) -> list[Document]:
    """The file, or all JSON files in and below the folder in byte order of their paths.

    Raises `ConfigError` where there is none; `name` says which input it is.
    """
    folder = path.is_dir()
    try:
        paths = sorted(path.rglob("*.json"), key=str) if folder else [path]
        documents = [
            _document(str(one.relative_to(path)) if folder else one.name, one) for one in paths
        ]
    except OSError as error:
        raise ConfigError(f"{name}: no such file: {path} ({error.strerror})") from error
    if not documents:
        raise ConfigError(f"{name}: no JSON file in the folder {path}: put the answers into it")
    return documents


def _document(source: str, path: Path) -> Document:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_without_repeats)
        if "\\ud" in text.lower():
            # Half of a pair of surrogates can be escaped in JSON, and is text nowhere else.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = f"unreadable file: not JSON: {error}"
        return Document(source, None, failure_table([Failure(reason, source)]), path)
    return Document(source, value, failure_table(), path)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} stands twice in an object: keep one")
    return found


def escaped(key: object) -> str:
    """A key as a part of a pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")


def objects(
    source: str, pointer: str, value: Any, failures: list[Failure]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Pointer and object of each item of a list; what is none of the two is a failure."""
    if value is None:
        return
    if not isinstance(value, list):
        failures.append(Failure("not a list: write [ ... ]", source, None, pointer, shown(value)))
        return
    for number, item in enumerate(value):
        if isinstance(item, Mapping):
            yield f"{pointer}/{number}", item
        else:
            where = f"{pointer}/{number}"
            failures.append(Failure("not an object", source, None, where, shown(item)))


def shown(value: Any) -> str:
    """A value for people, not too long."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:97]}..."


def record_frame(
    records: Sequence[Record],
    texts: Sequence[str] = (),
    numbers: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> pl.DataFrame:
    """The records as numbered rows for `rules`; numbers (and times) may be given as text."""
    columns: list[pl.Series] = [
        pl.Series(ROW, range(1, len(records) + 1), dtype=pl.Int64),
        *(_texts(name, records) for name in texts),
        *(_numbers(name, records) for name in numbers),
    ]
    for name in flags:
        given = [record.values.get(name) for record in records]
        known = [value if isinstance(value, bool) else None for value in given]
        columns.append(pl.Series(name, known, dtype=pl.Boolean))
        columns.append(pl.Series(_RAW + name, [_text(value) for value in given], dtype=pl.String))
    return pl.DataFrame(columns)


def record_table(source: str, records: Sequence[Record], columns: Sequence[str]) -> Table:
    """The records as a table; `located` says afterwards where its failures stand."""
    texts = [name for name in columns if name not in ("quantity", "amount")]
    numbers = [name for name in columns if name in ("quantity", "amount")]
    faults = failure_table(
        Failure(record.fault.reason, record.source, row, None, record.fault.value)
        for row, record in enumerate(records, 1)
        if record.fault is not None
    )
    return Table(source, record_frame(records, texts, numbers), faults)


def located(failures: pl.DataFrame, records: Sequence[Record]) -> pl.DataFrame:
    """Failures of rows of `record_frame`, with the file and the pointer of each in their place."""
    return failure_table(
        Failure(reason, source, None, name, value)
        if row is None
        else Failure(reason, records[row - 1].source, None, records[row - 1].at(name), value)
        for reason, source, row, name, value in failures.iter_rows()
    )


def _texts(name: str, records: Sequence[Record]) -> pl.Series:
    """Texts and whole numbers as text; what is neither is marked as none."""
    given = (record.values.get(name) for record in records)
    kept = [
        value if isinstance(value, str) or value is None else _not_text(value) for value in given
    ]
    return pl.Series(name, kept, dtype=pl.String)


def _not_text(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole else f"{NO_TEXT}{shown(value)}"


def _numbers(name: str, records: Sequence[Record]) -> pl.Series:
    given = [record.values.get(name) for record in records]
    if all(value is None or type(value) in (int, float) for value in given):
        try:
            numbers = [None if value is None else float(value) for value in given]
            return pl.Series(name, numbers, dtype=pl.Float64)
        except OverflowError:  # a whole number beyond all floats
            pass
    return pl.Series(name, [_text(value) for value in given], dtype=pl.String)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return repr(value) if type(value) in (int, float) else shown(value)
