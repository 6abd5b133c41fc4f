"""What reading a SPAN file takes in a process that has done nothing else.

    python benchmarks/span_reading.py exchange.pa2

prints JSON: seconds of CPU and of the clock to read it, those of coding it, and the peak memory of
the process after reading, in bytes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gpu_margin.io.span_pa2 import read_pa2
from gpu_margin.io.span_xml import read_spn
from gpu_margin.span_build import build


def peak() -> int:
    """Most memory that this process has had; getrusage would count that of who started it."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def main(words: Sequence[str]) -> int:
    """Read, code, print."""
    path = Path(words[0])
    before, clock = time.process_time(), time.perf_counter()
    tables = read_pa2(path) if path.suffix == ".pa2" else read_spn(path)
    found = {"cpu": time.process_time() - before, "wall": time.perf_counter() - clock}
    found["memory"] = peak()
    before = time.process_time()
    build(tables)
    found["build"] = time.process_time() - before
    print(json.dumps({**found, "contracts": len(tables.contracts), "bad": len(tables.failures)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
