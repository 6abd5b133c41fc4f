"""A tracker in a file: its tables and numbers in a ZIP archive, written whole or not at all."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin.failures import InputError
from gpu_margin.io.outputs import write_atomically

_FORMAT = 2
_META = "tracker.json"
_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Snapshot:
    """`tables` by name, and `meta`: what JSON can say."""

    tables: Mapping[str, pl.DataFrame]
    meta: Mapping[str, Any]


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write the file under a temporary name and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: _write(snapshot, temporary))


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file; `InputError` where it has none, or one of another format."""
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read(_META))
            names = [name for name in archive.namelist() if name.endswith(_SUFFIX)]
            if meta["format"] != _FORMAT:
                raise InputError(
                    f"{path}: a snapshot of format {meta['format']}, not {_FORMAT}: it was written "
                    "by another version"
                )
            tables = {name.removesuffix(_SUFFIX): _table(archive.read(name)) for name in names}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not the snapshot of a tracker ({error})") from error
    return Snapshot(tables, meta)


def _write(snapshot: Snapshot, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in snapshot.tables.items():
            stream = io.BytesIO()
            table.write_parquet(stream, compression="lz4", statistics=False)
            archive.writestr(name + _SUFFIX, stream.getvalue())
        # Last: an archive that has it is whole.
        archive.writestr(_META, json.dumps({**snapshot.meta, "format": _FORMAT}, indent=2))


def _table(content: bytes) -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(content))
