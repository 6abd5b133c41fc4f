"""What a run of the load benchmark leaves: a JSON record and an aligned table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import figures
from figures import Figure

from gpu_margin.bench import machine
from serve import storage
from serve.scenarios import Bench

_PACKAGES = ("uvicorn", "uvloop", "httptools", "msgspec", "fastapi", "httpx", "psycopg")


def record(bench: Bench, command: str) -> dict[str, Any]:
    """Machine, storage, versions, command, figures with their targets, and all that was counted."""
    return {
        "schema": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "size": str(bench.book.size),
        "machine": machine.describe(),
        "storage": storage.describe(bench.book.folder),
        "versions": figures.versions(_PACKAGES),
        "figures": [figure.to_dict() for figure in bench.figures],
        "counts": bench.counts,
    }


def write(found: dict[str, Any], folder: Path) -> Path:
    """serve-<date>-<processor>.json in the folder, which is made; returns its path."""
    return figures.write(found, folder, "serve")


def table(of: Sequence[Figure]) -> str:
    """The figures in aligned columns; the last says whether they are as wanted."""
    return figures.table(of)
