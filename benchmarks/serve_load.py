"""Load on the risk server, on this machine: what issue 5 wants, measured.

    python benchmarks/serve_load.py --book 100000x50x250 --duration 20

makes a book of that size (accounts x positions x scenarios), starts `gpu-margin serve` on it with
authentication and the audit log on, loads it scenario by scenario with the generator `serve/load.c`
(which needs a C compiler), prints the figures beside what they are to reach, and with --out writes
them with machine and versions to serve-<date>-<processor>.json. Only 127.0.0.1 is loaded.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from serve import book, driving, record
from serve.process import Server, free_port, serve_command
from serve.scenarios import SCENARIOS, Bench


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for; ends the program where it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--book", type=book.Size.parse, default="100000x50x250", help="its size")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of each scenario")
    parser.add_argument("--soak", type=float, default=60.0, help="seconds of the steady half load")
    parser.add_argument(
        "--fills", type=int, default=1_000_000, help="to be replayed by the restart"
    )
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--only", type=_names, default=list(SCENARIOS), metavar=",".join(SCENARIOS))
    parser.add_argument("--out", type=Path, help="folder of the record")
    return parser.parse_args(words)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no scenario {unknown[0]!r}")
    return [name for name in SCENARIOS if name in names]


def command_line(asked: argparse.Namespace) -> str:
    """The command that gives such a record, without paths of this machine."""
    words = [f"--book {asked.book}", f"--duration {asked.duration:g}", f"--soak {asked.soak:g}"]
    words += [f"--fills {asked.fills}", f"--backend {asked.backend}"]
    if asked.only != list(SCENARIOS):
        words.append(f"--only {','.join(asked.only)}")
    return " ".join(["python benchmarks/serve_load.py", *words, "--out benchmarks/results"])


def prepare(asked: argparse.Namespace, folder: Path) -> Bench:
    """The book, the generator, and the server, which does not run yet."""
    begun = time.monotonic()
    made = book.make(asked.book, folder)
    say(f"book {asked.book} made in {time.monotonic() - begun:.1f} s")
    port, output = free_port(), folder / "server.log"
    server = Server(serve_command(made.config, port, asked.backend), port, output)
    other = replace(server, command=serve_command(made.restart_config, port, asked.backend))
    generator = driving.Generator(driving.compile_generator(folder), port)
    lengths = (asked.duration, asked.soak, asked.fills)
    return Bench(server, made, generator, *lengths, restarted=lambda: replace(other))


def measure(bench: Bench, names: Sequence[str]) -> int:
    """All scenarios that were asked for, one after the other; how many of them failed.

    The server is stopped at the end, and started again where it did not survive a scenario.
    """
    failed = 0
    try:
        seconds = bench.server.start(600.0)
        bench.add("start", "ready", seconds, "s")
        bench.add("start", "memory", bench.server.resident_bytes / 1e6, "MB")
        for name in names:
            if not bench.server.running:
                bench.server.start(600.0)
            say(f"{name}: {(SCENARIOS[name].__doc__ or '').partition(chr(10))[0]}")
            before = len(bench.figures)
            try:
                SCENARIOS[name](bench)
            except Exception as error:
                failed += 1
                bench.failed(name, error)
                say(f"{error!r}\n{bench.server.last_words()}")
            say(record.table(bench.figures[before:]))
    finally:
        bench.server.stop()
    return failed


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, record: 0, 1 where a scenario failed, 130 after Ctrl-C."""
    asked = arguments(words)
    # Thousands of connections on both sides: the server inherits the limit.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory(prefix="gpu-margin-serve-") as folder:
        bench = prepare(asked, Path(folder))
        try:
            failed = measure(bench, asked.only)
        except KeyboardInterrupt:
            return 130
        print(record.table(bench.figures))
        if asked.out is not None:
            say(f"written: {record.write(record.record(bench, command_line(asked)), asked.out)}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
