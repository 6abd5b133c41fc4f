"""A server that runs (`running_case`), and the modules of the load benchmark, for tests."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from running_case import demo_book, running

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import serve_load  # noqa: E402
from serve import book, driving, process, record, scenarios, storage, wire  # noqa: E402

__all__ = [
    "book",
    "demo_book",
    "driving",
    "process",
    "record",
    "running",
    "scenarios",
    "serve_load",
    "storage",
    "wire",
]


def needs_compiler() -> None:
    """Skip the test without a C compiler, but in CI, which has to have one."""
    if shutil.which("cc") is None and "CI" not in os.environ:
        pytest.skip("no C compiler, which the generator of load needs")
