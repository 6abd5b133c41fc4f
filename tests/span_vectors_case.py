"""Published numbers of SPAN and sample lines of its files, by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from vectors_case import folder, vectors

# Named so that nobody thinks them forgotten: what they were computed from is not public.
WITHOUT_FILE = ("asx_2011_parameters", "kdpw_20141031_portfolios", "nse_marginism_20260529")


def vector(name: str) -> Any:
    """What a vector says; the folder's absence is a skip that says so, in CI an error."""
    return json.loads((folder("span") / f"{name}.json").read_text())


def data(name: str) -> Path:
    """A file of sample lines, which lies beside the vectors."""
    found = vectors().parent / "data" / "span" / name
    if not found.is_file():
        reason = f"no {name} in {found.parent}: set GPU_MARGIN_VECTORS"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    return found
