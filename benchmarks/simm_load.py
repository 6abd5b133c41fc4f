"""SIMM of whole books, on this machine: what issue 6 wants, measured, beside ORE.

    python benchmarks/simm_load.py --out benchmarks/results

makes random books of 200 rows per portfolio, computes both sides with every level, in memory and
from a CRIF file, in this process; ORE does the same for a few of these portfolios, where it is
installed (`pip install open-source-risk-engine`), and has to come to the same figures. Prints what
was measured beside what it is to reach; --out writes it with machine and versions to
simm-<date>-<processor>.json. Rates are per CPU second, that of all threads, the best of --rounds.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import figures
import polars as pl
import simm_book
import simm_ore
from figures import MEGABYTE, Bench, say

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.crif import Crif
from gpu_margin.crif_parts import pieces
from gpu_margin.io.crif import read_crif
from gpu_margin.models.simm import tables
from gpu_margin.models.simm.calculation import Parameters, calculate
from gpu_margin.simm_batches import ROWS

TO_REACH, TO_REACH_FROM_FILE, TIMES_ORE, MOST_MEMORY = 11_000, 4_000, 50, 1_000
# How much more a portfolio may cost in a book of ten times as many.
GROWTH = 1.25


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; ends the program where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--portfolios", type=int, default=10_000, help="of the book")
    parser.add_argument(
        "--growth", type=_numbers, default=[1_000, 10_000, 100_000], help="books of other sizes"
    )
    parser.add_argument("--ore", type=int, default=300, help="portfolios that ORE computes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, help="folder of the record")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def command_line(asked: argparse.Namespace) -> str:
    """The command that gives such a record, without paths of this machine."""
    growth = ",".join(map(str, asked.growth))
    words = [f"--portfolios {asked.portfolios}", f"--growth {growth}", f"--ore {asked.ore}"]
    words += [f"--rounds {asked.rounds}", f"--backend {asked.backend}"]
    return " ".join(["python benchmarks/simm_load.py", *words, "--out benchmarks/results"])


def margins(crif: Crif, device: Backend, version: str = tables.LATEST) -> pl.DataFrame:
    """Both sides of all portfolios, with every level; in pieces, as a run works."""
    parameters = Parameters(version=version)
    return pl.concat(calculate(piece, parameters, device).table() for piece in pieces(crif, ROWS))


def crif_file(crif: Crif, folder: Path) -> Path:
    """The book as a CRIF file."""
    path = folder / f"crif-{len(crif.portfolios)}.csv"
    simm_ore.write_text(simm_book.frame(crif), path)
    return path


def ours(bench: Bench, portfolios: int) -> tuple[float, float]:
    """Rates per CPU second in memory, and from a file to a file."""
    crif = simm_book.book(portfolios)
    path = crif_file(crif, bench.folder)
    size = f"{portfolios} portfolios"
    memory = bench.rates(
        f"in memory, {size}", portfolios, lambda: margins(crif, bench.device), TO_REACH
    )
    bench.rates(
        f"from a file, {size}",
        portfolios,
        lambda: margins(read_crif(path), bench.device),
        TO_REACH_FROM_FILE,
    )
    seconds = bench.best(lambda: read_crif(path)).cpu
    bench.add(f"from a file, {size}", "of it reading", seconds, "CPU s")
    report = bench.folder / "report.csv"
    work = lambda: margins(read_crif(path), bench.device).write_csv(report)  # noqa: E731
    return memory, bench.rates(f"from a file to a file, {size}", portfolios, work)


def beside_ore(bench: Bench, portfolios: int, memory: float, file: float) -> None:
    """ORE in memory and as an application, whose figures have to be the same."""
    crif = simm_book.book(portfolios)
    table = simm_book.frame(crif)
    newest = tables.load(tables.LATEST).version
    calculator = simm_ore.Calculator(table, newest)
    name = f"ORE in memory, {portfolios} portfolios"
    rate = bench.rates(name, portfolios, calculator.calculate)
    bench.add(name, "ours to it", memory / rate, "", TIMES_ORE)
    theirs = calculator.figures(calculator.calculate())
    bench.add(name, "levels compared", sum(map(len, theirs.values())))
    apart = differing(margins(crif, bench.device, newest), theirs)
    bench.add(name, "levels that differ", apart, "", 0, "most")

    version = simm_ore.BY_APPLICATION[-1]
    place = bench.folder / "ore"
    place.mkdir()
    application = simm_ore.Application(place, version)
    simm_ore.write_text(table, application.crif)
    name = f"ORE from a file to a file ({version}), {portfolios} portfolios"
    rate = bench.rates(name, portfolios, application.run)
    bench.add(name, "ours to it", file / rate)
    apart = differing(margins(crif, bench.device, version), application.figures())
    bench.add(name, "levels that differ", apart, "", 0, "most")


def differing(table: pl.DataFrame, theirs: simm_ore.Figures) -> int:
    """Levels that are not the same to 1e-9, or to 1e-6 USD."""
    found: simm_ore.Figures = {}
    for portfolio, side, _, product, risk, kind, _, margin in table.iter_rows():
        found.setdefault((portfolio, side), {})[product, risk, kind] = margin
    return sum(
        not math.isclose(
            found.get(place, {}).get(level, 0.0),
            theirs.get(place, {}).get(level, 0.0),
            rel_tol=1e-9,
            abs_tol=1e-6,
        )
        for place in found.keys() | theirs.keys()
        for level in found.get(place, {}).keys() | theirs.get(place, {}).keys()
    )


def growing(bench: Bench, sizes: Sequence[int]) -> None:
    """CPU time per portfolio in books of these sizes, the smallest first.

    System time is told apart, and only the rest is held to `GROWTH`: a table of all levels is a
    gigabyte of new memory for 100,000 portfolios, which is where that time was seen to go.
    """
    before: tuple[float, float] = (math.inf, math.inf)
    for portfolios in sorted(sizes):
        crif = simm_book.book(portfolios)
        best = bench.best(partial(margins, crif, bench.device))
        total, own = best.cpu / portfolios, (best.cpu - best.kernel) / portfolios
        name = f"{portfolios} portfolios"
        bench.add("growth", name, 1e6 * total, "CPU us each")
        bench.add("growth", f"{name}, without the kernel", 1e6 * own, "CPU us each")
        if math.isfinite(before[0]):
            bench.add("growth", f"{name}, to the size before", total / before[0])
            to_before = f"{name}, to the size before, without the kernel"
            bench.add("growth", to_before, own / before[1], "", GROWTH, "most")
        before = total, own


def memory(bench: Bench, sizes: Sequence[int]) -> None:
    """Peak memory of a process of its own, above what it has after a first tiny book."""
    for portfolios in sizes:
        path = crif_file(simm_book.book(portfolios), bench.folder)
        for kind, source in (("from arrays", str(portfolios)), ("from a file", str(path))):
            peak = _peak_apart(source, bench.device.name)
            name = f"memory {kind}, {portfolios} portfolios"
            most = MOST_MEMORY if portfolios == sizes[0] else None
            bench.add(name, "above the baseline", peak["above"] / MEGABYTE, "MB", most, "most")
            bench.add(name, "of the process", peak["peak"] / MEGABYTE, "MB")
        path.unlink()


def _peak_apart(source: str, device: str) -> dict[str, int]:
    asked = [sys.executable, __file__, "--peak", source, device]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, int] = json.loads(done.stdout)
    return found


def report_peak(source: str, name: str) -> None:
    """Print the memory that a book takes: of so many portfolios, or of a CRIF file.

    The arrays of a book in memory count, what making it takes does not.
    """
    device = backends.load(name)
    with tempfile.TemporaryDirectory() as folder:
        margins(read_crif(crif_file(simm_book.book(5), Path(folder))), device)
    gc.collect()
    before = _status("VmRSS")
    crif = simm_book.book(int(source)) if source.isdigit() else None
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    margins(crif or read_crif(source), device)
    peak = _status("VmHWM")
    print(json.dumps({"above": peak - before, "peak": peak}))


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{key}:")[1].split()[0]) << 10


def facts() -> dict[str, Any]:
    """Version of the rulebook, machine, and versions."""
    return {
        "simm": tables.load(tables.LATEST).version,
        **figures.about([simm_ore.PACKAGE]),
    }


def measure(bench: Bench, asked: argparse.Namespace) -> None:
    """All of it."""
    rates = ours(bench, asked.portfolios)
    if asked.ore:
        try:
            beside_ore(bench, asked.ore, *rates)
        except ImportError:
            say("no ORE: pip install open-source-risk-engine")
    growing(bench, asked.growth)
    memory(bench, list(dict.fromkeys((asked.portfolios, max(asked.growth)))))


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, record: 0, or 130 after Ctrl-C."""
    asked = arguments(words)
    if asked.peak:
        report_peak(*asked.peak)
        return 0
    return figures.run("simm", asked, command_line(asked), measure, facts)


if __name__ == "__main__":
    sys.exit(main())
