"""What tests of the audit log read of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_margin.server.chain import verify


def records(path: Path) -> list[dict[str, Any]]:
    """Of a file that must be right."""
    found = verify(path)
    assert found.broken is None
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def kinds(path: Path) -> list[str]:
    return [record["kind"] for record in records(path)]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
