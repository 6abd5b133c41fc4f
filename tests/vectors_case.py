"""Where the test vectors lie: beside the checkout, or in GPU_MARGIN_VECTORS."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def vectors() -> Path:
    """The folder of all vectors, whether it is there or not."""
    told = os.environ.get("GPU_MARGIN_VECTORS")
    return Path(told) if told else REPOSITORY.parent / "shared" / "vectors"


def folder(name: str) -> Path:
    """The folder of one kind; an error in CI where there is none, elsewhere a skip that says so."""
    found = vectors() / name
    if not found.is_dir():
        reason = _absent(name)
        assert not os.environ.get("CI"), reason
        pytest.skip(reason, allow_module_level=True)
    return found


def cases(name: str, found: Iterable[Any]) -> list[Any]:
    """What a test is run for: all that were found in a folder, or one skip that names it.

    None is an error in CI.
    """
    listed = list(found)
    if listed:
        return listed
    reason = _absent(name)
    assert not os.environ.get("CI"), reason
    return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=reason))]


def _absent(name: str) -> str:
    return f"no {name} vectors in {vectors()}: set GPU_MARGIN_VECTORS"
