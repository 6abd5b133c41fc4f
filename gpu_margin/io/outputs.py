"""A finished run as files: written under a temporary name and renamed, the manifest last."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from gpu_margin.failures import ConfigError, InputError
from gpu_margin.result import Run

TABLES = ("margins", "components", "sets", "groups", "failures")
# Written where the run has them.
MORE_TABLES = ("accounts", "contributions", "owners", "simm", "crypto", "span")
MANIFEST = "manifest.json"
REPORT = "report.html"


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that has something in it, unless it may be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file, not a folder")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"--out {folder}: is not empty; choose another or say --overwrite")


def write_tables(run: Run, folder: Path) -> None:
    """Write the run's tables; an old manifest goes first, for it does not describe them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name in (*TABLES, *MORE_TABLES):
        table: pl.DataFrame | None = getattr(run, name)
        path = folder / f"{name}.parquet"
        if table is None:
            path.unlink(missing_ok=True)  # an earlier run's, which had it
        else:
            write_atomically(path, table.write_parquet)


def write_report(page: str, folder: Path) -> None:
    """Write the report."""
    write_atomically(folder / REPORT, lambda path: path.write_text(page, encoding="utf-8"))


def write_manifest(manifest: dict[str, Any], folder: Path) -> None:
    """Write the manifest: the last thing to be written, a folder that has it is whole."""
    text = json.dumps(manifest, indent=2) + "\n"
    write_atomically(folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished run; `InputError` where there is none."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the manifest of a finished run ({error})") from error
    return manifest


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write` with a temporary name beside `path`, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
