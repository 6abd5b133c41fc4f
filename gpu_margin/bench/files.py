"""A benchmark's results as files: figures as JSON, a page to look at, both replaced as a whole."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

from gpu_margin.bench import machine
from gpu_margin.bench.page import page
from gpu_margin.bench.result import BenchResult
from gpu_margin.io.outputs import write_atomically


def paths(folder: Path, created: str, processor: str = "") -> tuple[Path, Path]:
    """bench-<date>-<processor>.json and .html in the folder, for a run `created` then.

    `created` in ISO format; `processor` is by default this machine's.
    """
    moment = datetime.fromisoformat(created).strftime("%Y-%m-%dT%H%M%S")
    slug = re.sub(r"[^a-z0-9]+", "-", (processor or machine.processor()).lower()).strip("-")
    stem = f"bench-{moment}-{slug}"
    return folder / f"{stem}.json", folder / f"{stem}.html"


def write(result: BenchResult, folder: Path) -> tuple[Path, Path]:
    """Write the figures and the page into the folder, which is made; returns their paths."""
    figures, picture = _places(result, folder)
    write_figures(result, folder)
    _write_text(picture, page(result))
    return figures, picture


def write_figures(result: BenchResult, folder: Path) -> Path:
    """Write the figures alone, which takes no time worth mentioning; returns their path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = _places(result, folder)[0]
    _write_text(figures, json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    return figures


def read(figures: Path) -> BenchResult:
    """The result that was written there."""
    return BenchResult.from_dict(json.loads(figures.read_text(encoding="utf-8")))


def _places(result: BenchResult, folder: Path) -> tuple[Path, Path]:
    return paths(folder, result.created, result.machine["processor"])


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))
