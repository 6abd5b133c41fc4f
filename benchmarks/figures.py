"""How benchmarks that are scripts measure, and what they leave.

Figures stand beside their targets, as a table and as JSON. Measured is the best of some rounds, by
the clock and by the CPU time of all threads.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.bench import machine
from gpu_margin.io.outputs import write_atomically

MEGABYTE = 1e6


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


@dataclass(frozen=True)
class Seconds:
    """Of one call: CPU time of all threads, the kernel's share of it, and time on the clock."""

    cpu: float
    kernel: float
    wall: float


def clocks() -> tuple[float, float, float]:
    """The clocks of `Seconds`, as they stand."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_stime, time.perf_counter()


@dataclass
class Bench:
    """What is measured with, and what was."""

    device: Backend
    rounds: int
    folder: Path
    found: list[Figure]

    def best(self, work: Callable[[], Any]) -> Seconds:
        """The best of some rounds, by each clock, after one that does not count."""
        work()
        seconds = []
        for _ in range(self.rounds):
            gc.collect()
            before = clocks()
            done = work()
            seconds.append(
                tuple(late - early for early, late in zip(before, clocks(), strict=True))
            )
            del done
        return Seconds(*(min(clock) for clock in zip(*seconds, strict=True)))

    def rates(
        self, scenario: str, portfolios: int, work: Callable[[], Any], target: float | None = None
    ) -> float:
        """Measure and note how many portfolios a second; that of CPU time is returned."""
        seconds = self.best(work)
        rate = portfolios / seconds.cpu
        self.add(scenario, "per CPU second", rate, "/s", target)
        self.add(scenario, "per second", portfolios / seconds.wall, "/s")
        return rate

    def add(self, scenario: str, name: str, value: float, *rest: Any) -> None:
        self.found.append(Figure(scenario, name, value, *rest))
        say(f"{scenario}: {name} {value:,.6g}")


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Of what takes part in any benchmark, and of these packages, where they are installed."""
    found = machine.versions()
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def about(packages: Sequence[str]) -> dict[str, Any]:
    """The machine, and versions with those of these packages."""
    return {"machine": machine.describe(), "versions": versions(packages)}


def run(
    kind: str,
    asked: argparse.Namespace,
    command: str,
    measure: Callable[[Bench, argparse.Namespace], None],
    facts: Callable[[], Mapping[str, Any]],
) -> int:
    """Measure, print, and record where `asked.out` says: 0, or 130 after Ctrl-C.

    `asked` has the backend and the rounds, too. The record has the command, what `facts` says once
    all is measured (`about` at least), and the figures.
    """
    device = backends.load(asked.backend)
    with tempfile.TemporaryDirectory(prefix=f"gpu-margin-{kind}-") as folder:
        bench = Bench(device, asked.rounds, Path(folder), [])
        try:
            say(f"{device.name}, best of {asked.rounds}")
            measure(bench, asked)
        except KeyboardInterrupt:
            return 130
        finally:
            print(table(bench.found))
    if asked.out is not None:
        found = {
            "schema": 1,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": command,
            **facts(),
            "figures": [figure.to_dict() for figure in bench.found],
        }
        say(f"written: {write(found, asked.out, kind)}")
    return 0


def write(found: dict[str, Any], folder: Path, kind: str) -> Path:
    """<kind>-<date>-<processor>.json in the folder, which is made; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = datetime.fromisoformat(found["created"]).strftime("%Y-%m-%dT%H%M%S")
    slug = re.sub(r"[^a-z0-9]+", "-", found["machine"]["processor"].lower()).strip("-")
    path = folder / f"{kind}-{moment}-{slug}.json"
    text = json.dumps(found, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))
    return path


def say(text: str) -> None:
    """A line of progress, beside what is printed."""
    print(text, file=sys.stderr, flush=True)


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
