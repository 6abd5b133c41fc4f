"""What a run of the load benchmark leaves: a JSON record and an aligned table."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_margin.bench import machine
from gpu_margin.io.outputs import write_atomically
from serve import storage
from serve.scenarios import Bench, Figure

_PACKAGES = ("uvicorn", "uvloop", "httptools", "msgspec", "fastapi", "httpx", "psycopg")


def versions() -> dict[str, str]:
    """Of what takes part and is installed."""
    found = machine.versions()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def record(bench: Bench, command: str) -> dict[str, Any]:
    """Machine, storage, versions, command, figures with their targets, and all that was counted."""
    return {
        "schema": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "size": str(bench.book.size),
        "machine": machine.describe(),
        "storage": storage.describe(bench.book.folder),
        "versions": versions(),
        "figures": [{**asdict(figure), "met": figure.met} for figure in bench.figures],
        "counts": bench.counts,
    }


def write(found: dict[str, Any], folder: Path) -> Path:
    """serve-<date>-<processor>.json in the folder, which is made; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = datetime.fromisoformat(found["created"]).strftime("%Y-%m-%dT%H%M%S")
    slug = re.sub(r"[^a-z0-9]+", "-", found["machine"]["processor"].lower()).strip("-")
    path = folder / f"serve-{moment}-{slug}.json"
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))
    return path


def table(figures: Sequence[Figure]) -> str:
    """The figures in aligned columns; the last says whether they are as wanted."""
    heads = ("scenario", "figure", "value", "unit", "to reach", "")
    rows = [heads, *(_row(figure) for figure in figures)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place in (2, 4) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(figure: Figure) -> tuple[str, ...]:
    sign = ">=" if figure.sense == "least" else "<="
    target = "" if figure.target is None else f"{sign} {_number(figure.target)}"
    verdict = {None: "", True: "yes", False: "NO"}[figure.met]
    return (figure.scenario, figure.name, _number(figure.value), figure.unit, target, verdict)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
