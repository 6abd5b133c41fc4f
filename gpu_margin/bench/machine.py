"""The machine that a benchmark runs on: what it is, what it can at most, what memory it has.

Ceilings are measured, never looked up: copying an array (bytes read and written) and a matrix
product in fp64 and fp32. Memory of a process is measured in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from gpu_margin import backend as backends
from gpu_margin.backend import Backend, Rows
from gpu_margin.bench.cases import Size, on_host, sparse
from gpu_margin.bench.joins import Skipped
from gpu_margin.bench.margins import SimulationCase, SimulationMargin

PACKAGES = (
    *("gpu-margin", "numpy", "scipy", "polars", "numba", "llvmlite", "jax", "jaxlib", "pyarrow"),
    *("cupy-cuda13x", "cupy-cuda12x", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime"),
    *("duckdb", "QuantLib", "plotly"),
)
# Share of the free memory that a case may plan with.
USABLE = 0.8

_COPIED = 256 << 20
_ORDER_HOST, _ORDER_DEVICE = 2048, 4096
BASELINE = SimulationMargin.practitioners[0]
# Memory is measured at no more than this: a share of the positions needs no larger book.
_MOST_ACCOUNTS, _MOST_SCENARIOS = 100_000, 1_000


def describe() -> dict[str, Any]:
    """Processor, cores that this process may use, memory and the NVIDIA devices."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "free_bytes": free_bytes(),
        "gpus": _gpus(),
        "threads": {
            name: os.environ[name]
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
            if name in os.environ
        },
    }


def versions() -> dict[str, str]:
    """Of Python and of every package that takes part and is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def processor() -> str:
    """The processor's name, where Linux knows it with its family and model."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        if "model name" in facts:
            return facts["model name"]
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many cores this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_bytes() -> int:
    """Host memory that a benchmark may plan with: what Linux calls available, or is free."""
    with suppress(OSError, IndexError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        available = int(text.split("MemAvailable:")[1].split()[0]) << 10
        return min(available, _group_limit())
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_limit() -> int:
    """What is left of the memory of this process's control group (container), in bytes."""
    with suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        return limit - int((folder / "memory.current").read_text(encoding="ascii"))
    return sys.maxsize


def _gpus() -> list[str]:
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout.strip().splitlines()[1:]
    return []


def best(work: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest of so many rounds, after one that does not count."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def host_ceilings(rounds: int) -> dict[str, float]:
    """GB/s of a copy by one core and by all (read and written), GFLOP/s of matrix products."""
    source = np.ones(_COPIED // 8)
    target = np.zeros_like(source)
    moved = 2.0 * source.nbytes / 1e9
    one = moved / best(lambda: np.copyto(target, source), rounds)
    parts = zip(np.array_split(target, cores()), np.array_split(source, cores()), strict=True)
    pairs = list(parts)
    with ThreadPoolExecutor(cores()) as pool:
        several = moved / best(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)), rounds)
    square = np.random.default_rng(0).random((_ORDER_HOST, _ORDER_HOST))
    single = square.astype(np.float32)
    return {
        "copy_gb_s": max(one, several),
        "copy_one_core_gb_s": one,
        "gemm_gflop_s": 2e-9 * _ORDER_HOST**3 / best(lambda: square @ square, rounds),
        "gemm_fp32_gflop_s": 2e-9 * _ORDER_HOST**3 / best(lambda: single @ single, rounds),
    }


def device_ceilings(device: Backend, rounds: int) -> dict[str, float]:
    """The same of a device's own memory and processors; without products where it has none.

    A CUDA device multiplies matrices by a library (cuBLAS) that nothing else here needs.
    """
    xp, wait = device.xp, device.to_host
    source = device.to_device(np.ones(_COPIED // 8))
    copied = best(lambda: wait(xp.array(source, copy=True)[:1]), rounds)
    random = np.random.default_rng(0).random((_ORDER_DEVICE, _ORDER_DEVICE))

    def product(dtype: str) -> float:
        square = device.to_device(random.astype(dtype))
        return 2e-9 * _ORDER_DEVICE**3 / best(lambda: wait((square @ square)[:1, :1]), rounds)

    found = {"copy_gb_s": 2e-9 * _COPIED / copied}
    with suppress(Exception):
        found["gemm_gflop_s"] = product("float64")
        found["gemm_fp32_gflop_s"] = product("float32")
    return found


def memory(
    sizes: Sequence[Size],
    devices: Sequence[Backend],
    slow: Callable[[str, Size], str] = lambda name, size: "",
) -> Iterator[dict[str, Any]]:
    """Peak memory of workload (a) in processes of their own: the baseline and host backends.

    It is taken at the largest size, cut to 100k accounts and 1k scenarios, that leaves room for the
    baseline. Bytes: resident after import and a first tiny call (`imported`), at the peak
    (`peak`), of the positions as an uncompressed Arrow table of two codes and a quantity (`arrow`),
    of the matrix; `share` is (peak - imported - matrix) / arrow; `reason` says why there are no
    figures. `slow` says why a contender takes too long at a size, or nothing.
    """
    if not Path("/proc/self/status").exists():
        yield {"contender": "(all)", "size": "", "reason": "this system has no /proc"}
        return
    size = _memory_size(sizes)
    if size is None:
        yield {"contender": "(all)", "size": "", "reason": "the baseline fits at no size"}
        return
    installed = backends.backend_names()
    # Another process can load only what is installed under that name.
    known = (device for device in devices if device.name in installed and on_host(device))
    names = [device.name for device in known if backends.load(device.name) is device]
    reasons = {name: slow(name, size) for name in (BASELINE, *names)}
    yield from _memory_at(size, reasons)


def _memory_size(sizes: Sequence[Size]) -> Size | None:
    """The largest of them, cut, at which the baseline fits."""
    fitting = []
    for one in sizes:
        accounts, scenarios = min(one.accounts, _MOST_ACCOUNTS), min(one.scenarios, _MOST_SCENARIOS)
        size = Size(accounts, one.positions, scenarios)
        work = SimulationMargin().work(size)
        if work.input_bytes + work.baseline_bytes <= USABLE * free_bytes():
            fitting.append(size)
    return max(fitting, key=lambda size: size.accounts * size.positions, default=None)


def _memory_at(size: Size, reasons: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Figures of those without a reason not to measure them."""
    with tempfile.TemporaryDirectory(prefix="gpu-margin-bench-") as folder:
        case = SimulationMargin().build(size)
        arrays = (case.rows.offsets, case.rows.column, case.rows.value, case.matrix)
        for name, array in zip(("offsets", "column", "value", "matrix"), arrays, strict=True):
            np.save(Path(folder) / name, array)
        arrow, matrix = 24 * len(case.rows.value), case.matrix.nbytes
        del case, arrays
        for name, reason in reasons.items():
            label = {"contender": name, "size": str(size), "reason": reason}
            if reason:
                yield label
                continue
            try:
                figures = _measure_apart(name, folder, size)
            except Skipped as error:
                yield label | {"reason": str(error)}
                continue
            share = (figures["peak"] - figures["imported"] - matrix) / arrow
            yield label | figures | {"arrow": arrow, "matrix": matrix, "share": share}


def _measure_apart(name: str, folder: str, size: Size) -> dict[str, int]:
    code = "import sys; from gpu_margin.bench import machine as m; m.report_memory(*sys.argv[1:])"
    asked = [sys.executable, "-c", code, name, folder, str(size.scenarios)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped("".join(done.stderr.strip().splitlines()[-1:]) or "its process was killed")
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


def report_memory(name: str, folder: str, scenarios: str) -> None:
    """Run workload (a) from the arrays in `folder` and print what memory it took, as JSON."""
    tiny = SimulationMargin().build(Size(2, 2, int(scenarios)))
    _run_simulation(name, tiny)
    del tiny.matrix, tiny.reference
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    imported = _status("VmRSS")
    arrays = (np.load(Path(folder) / f"{part}.npy") for part in ("offsets", "column", "value"))
    tiny.rows = Rows(*arrays)
    tiny.matrix = np.load(Path(folder) / "matrix.npy")
    _run_simulation(name, tiny)
    print(json.dumps({"imported": imported, "peak": _status("VmHWM")}))


def _run_simulation(name: str, case: SimulationCase) -> None:
    if name == BASELINE:
        case.one_shot(sparse(case.rows, len(case.matrix)))
    else:
        device = backends.load(name)
        arrays = (case.rows.offsets, case.rows.column, case.rows.value, case.matrix)
        *rows, matrix = (device.to_device(array) for array in arrays)
        result = device.tail(Rows(*rows), matrix, case.measures)
        device.to_host(result.value)


def _status(key: str) -> int:
    """A figure of /proc/self/status in bytes; VmHWM is this process's peak, not its parent's."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{key}:")[1].split()[0]) << 10
