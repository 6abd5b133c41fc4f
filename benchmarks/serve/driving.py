"""The generator of load: compiled when it is needed, run as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("load.c")
Counts = dict[str, Any]
# What is no answer at all, or one that nobody can read.
_FAULTS = ("unanswered", "dropped", "resent", "timeouts", "refused", "nonsense")
_SHED = ("429", "503")


@dataclass(frozen=True)
class Generator:
    """The compiled program and the port of the server that it loads."""

    program: Path
    port: int

    def command(self, requests: Path, *, seconds: float, **options: object) -> list[str]:
        """The program with its options; one that is True has no value."""
        words = [str(self.program), str(requests), f"--port={self.port}", f"--seconds={seconds}"]
        given = {name: value for name, value in options.items() if value not in (None, False)}
        return words + [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()
        ]

    def run(
        self, requests: Path, *, seconds: float, grace: float = 10.0, **options: object
    ) -> Counts:
        """Load the server; what the program counted. Options as in load.c."""
        words = self.command(requests, seconds=seconds, grace=grace, **options)
        limit = seconds + grace + 30.0
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, check=False)
        if done.returncode:
            raise RuntimeError(f"load: {done.stderr.strip()}")
        counts: Counts = json.loads(done.stdout)
        return counts


def compile_generator(folder: Path) -> Path:
    """Compile load.c with the C compiler (CC, else cc); `RuntimeError` where that fails."""
    program = folder / "load"
    words = [os.environ.get("CC", "cc"), "-O2", "-std=gnu11", "-o", str(program), str(SOURCE)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{words[0]}: {error.strerror}: a C compiler is needed") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return program


def errors(counts: Counts, allowed: Sequence[str] = ()) -> dict[str, int]:
    """What went wrong, by kind: answers of no 2xx, unless their status is allowed, and faults."""
    found = {
        status: int(count)
        for status, count in counts["statuses"].items()
        if not status.startswith("2") and status not in allowed
    }
    return found | {name: counts[name] for name in _FAULTS if counts[name]}


def shed(counts: Counts) -> int:
    """How many requests were turned away: 429 or 503."""
    return sum(counts["statuses"].get(status, 0) for status in _SHED)


def offered(counts: Counts) -> int:
    """How many requests there were in all, answered or not."""
    faults = sum(counts[name] for name in ("unanswered", "dropped", "timeouts", "nonsense"))
    return int(sum(counts["statuses"].values()) + counts["unsent"] + faults)
