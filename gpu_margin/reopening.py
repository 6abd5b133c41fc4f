"""Finished runs opened again: their inputs, if they are still what the run was computed from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_margin.config import Config
from gpu_margin.failures import InputError
from gpu_margin.io.outputs import read_manifest
from gpu_margin.io.tables import file_hash
from gpu_margin.loading import Loaded, load_book


def reopen(folder: str | Path) -> Loaded:
    """The inputs of a finished run, as its manifest names them, read again.

    Raises `InputError` where the folder has no finished run or its inputs are no longer what they
    were.
    """
    manifest = read_manifest(Path(folder))
    check_inputs(manifest["inputs"])
    return load_book(Config.model_validate(manifest["config"]))


def check_inputs(inputs: dict[str, dict[str, Any]]) -> None:
    """Refuse to speak of a run by inputs that it was not computed from."""
    for name, described in inputs.items():
        path, expected = described["path"], described["sha256"]
        if path is None:
            raise InputError(
                f"{name} was a table in memory: this needs a run whose inputs are files"
            )
        if not Path(path).is_file():
            raise InputError(f"{name}: {path} is no longer there; restore it or run again")
        if expected is None:
            raise InputError(f"{name}: {path} could not be read at the run; mend it and run again")
        if file_hash(Path(path)) != expected:
            raise InputError(
                f"{name}: {path} has changed since the run (its SHA-256 is no longer "
                f"{expected[:12]}...); restore it or run again"
            )
