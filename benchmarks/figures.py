"""What benchmarks that are scripts leave: figures beside their targets, as a table and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from gpu_margin.bench import machine
from gpu_margin.io.outputs import write_atomically


@dataclass(frozen=True)
class Figure:
    """A measured `value`; `target` is what is wanted of it, None where nothing is."""

    scenario: str
    name: str
    value: float
    unit: str = ""
    target: float | None = None
    sense: Literal["least", "most"] = "least"

    @property
    def met(self) -> bool | None:
        """Whether it is what was wanted; None where nothing was."""
        if self.target is None:
            return None
        return self.value >= self.target if self.sense == "least" else self.value <= self.target

    def to_dict(self) -> dict[str, Any]:
        """As the record has it."""
        return {**asdict(self), "met": self.met}


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of what takes part in any benchmark, and of these packages, where they are installed."""
    found = machine.versions()
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write(found: dict[str, Any], folder: Path, kind: str) -> Path:
    """<kind>-<date>-<processor>.json in the folder, which is made; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = datetime.fromisoformat(found["created"]).strftime("%Y-%m-%dT%H%M%S")
    slug = re.sub(r"[^a-z0-9]+", "-", found["machine"]["processor"].lower()).strip("-")
    path = folder / f"{kind}-{moment}-{slug}.json"
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
