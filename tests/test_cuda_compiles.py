"""Every CUDA source compiles for the devices it is meant for, by NVRTC from a wheel, without a GPU.

    python tests/test_cuda_compiles.py     writes benchmarks/results/cuda_resources.json

Registers, spills and shared memory are what the compiler reports; nothing is run and nothing is
timed.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from gpu_margin.kernels import launch

WHEEL = "nvidia-cuda-nvrtc"
ARCHITECTURES = ("sm_80", "sm_90")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "cuda_resources.json"

# Bytes of spill stores that a float64 kernel may have, and why: (entry, architecture) -> bytes.
SPILLS_KNOWN: dict[tuple[str, str], int] = {}

Resources = dict[str, Any]
_ENTRY = re.compile(
    r"Compiling entry function '(?P<entry>\w+)' for '(?P<arch>\w+)'"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores,"
    r" (?P<loads>\d+) bytes spill loads"
    r".*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def wheel_library() -> Path | None:
    """NVRTC of the wheel, if it is installed."""
    try:
        files = metadata.files(WHEEL) or []
    except metadata.PackageNotFoundError:
        return None
    names = [file for file in files if re.fullmatch(r"libnvrtc\.so\.\d+", file.name)]
    return Path(str(names[0].locate())) if names else None


if wheel_library() is None and not os.environ.get("CI"):
    pytest.skip(f"compiling the CUDA sources needs {WHEEL}", allow_module_level=True)


@cache
def nvrtc() -> ctypes.CDLL:
    path = wheel_library()
    assert path is not None, f"pip install {WHEEL}"
    return ctypes.CDLL(str(path))


def version() -> str:
    numbers = ctypes.c_int(), ctypes.c_int()
    nvrtc().nvrtcVersion(ctypes.byref(numbers[0]), ctypes.byref(numbers[1]))
    return f"{numbers[0].value}.{numbers[1].value}"


def _text(program: ctypes.c_void_p, what: str) -> bytes:
    """The log, the PTX or the cubin of a program."""
    size = ctypes.c_size_t()
    getattr(nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc(), f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


class CompileError(Exception):
    """What NVRTC says of a source that does not compile."""


def compiled(text: str, name: str, what: str, *options: str) -> tuple[bytes, str]:
    """The PTX or CUBIN of a source, and the compiler's log."""
    program = ctypes.c_void_p()
    arguments = (text.encode(), name.encode(), 0, None, None)
    assert nvrtc().nvrtcCreateProgram(ctypes.byref(program), *arguments) == 0
    try:
        words = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = nvrtc().nvrtcCompileProgram(program, len(options), words)
        log = _text(program, "ProgramLog").rstrip(b"\0").decode()
        if status:
            raise CompileError(log)
        return _text(program, what), log
    finally:
        nvrtc().nvrtcDestroyProgram(ctypes.byref(program))


def resources_of(log: str) -> dict[str, Resources]:
    """Per entry, what ptxas says that it takes."""
    found = {}
    for match in _ENTRY.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[match["entry"]] = {
            "registers": int(match["registers"]),
            "spill_store_bytes": int(match["stores"]),
            "spill_load_bytes": int(match["loads"]),
            "stack_bytes": int(match["stack"]),
            "static_shared_bytes": int(shared[1]) if shared else 0,
        }
    return found


def _resources(task: tuple[str, str]) -> dict[str, Resources]:
    name, architecture = task
    options = (*launch.OPTIONS, f"--gpu-architecture={architecture}", "--ptxas-options=-v")
    cubin, log = compiled(launch.source(name), name, "CUBIN", *options)
    assert cubin[:4] == b"\x7fELF"
    return resources_of(log)


@cache
def all_resources() -> dict[tuple[str, str], dict[str, Resources]]:
    """Of every source on every architecture; the slowest first, side by side."""
    tasks = [(name, arch) for name in launch.sources() for arch in ARCHITECTURES]
    tasks.sort(key=lambda task: -len(launch.entries(task[0])))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(tasks, pool.map(_resources, tasks), strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", launch.sources())
def test_every_kernel_compiles_and_none_of_float64_spills(name: str, architecture: str) -> None:
    found = all_resources()[name, architecture]
    assert sorted(found) == sorted(launch.entries(name))
    for entry, resources in found.items():
        assert resources["static_shared_bytes"] == 0, entry  # all of it is launch.py's to count
        if "_f64" in entry:
            known = SPILLS_KNOWN.get((entry, architecture), 0)
            assert resources["spill_store_bytes"] <= known, entry


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_of_the_launch_table_fit_the_registers(architecture: str) -> None:
    plans = [launch.tail(s, 1, "f64") for s in (8, 16, 32, 64, 128, 256, 512, 1024)]
    plans += [launch.tail_tile(s, 1, "f64") for s in (32, 64, 128, 256, 512, 1024)]
    plans += [launch.weighted_sum("f64"), launch.quadratic_form("f64"), launch.black76()]
    for plan in plans:
        registers = all_resources()[plan.source, architecture][plan.entry]["registers"]
        assert registers * plan.block <= 65536


@pytest.mark.parametrize("name", [name for name in launch.sources() if name != "black76.cu"])
def test_no_multiplication_and_addition_is_fused(name: str) -> None:
    """Not even where the compiler may; black76, held to a tolerance, is free to."""
    options = ("--std=c++17", "--fmad=true", "--gpu-architecture=compute_80")
    ptx, _ = compiled(launch.source(name), name, "PTX", *options)
    assert b"add.rn.f" in ptx
    assert not re.findall(rb"\bfma\.\S+", ptx)


def test_errors_name_the_line_of_the_file() -> None:
    text = launch.source("tail.cu").replace("first = worst_of(key)", "first = wurst_of(key)")
    lines = (Path(launch.__file__).parent / "tail.cu").read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, start=1) if "first = worst_of(key)" in line)
    with pytest.raises(CompileError, match=rf'tail\.cu\({number}\): error: identifier "wurst_of"'):
        compiled(text, "tail.cu", "PTX", *launch.OPTIONS, "--gpu-architecture=compute_80")


def table() -> list[Resources]:
    """One line per entry and architecture."""
    return [
        {"source": name, "entry": entry, "architecture": architecture, **found[entry]}
        for (name, architecture), found in sorted(all_resources().items())
        for entry in launch.entries(name)
    ]


def main() -> None:
    lines = table()
    for line in lines:
        numbers = [line[key] for key in ("registers", "spill_store_bytes", "spill_load_bytes")]
        print(f"{line['entry']:24} {line['architecture']:6}", *(f"{n:5}" for n in numbers))
    document = {
        "what": "resources as ptxas reports them; compiled without a GPU, nothing run or timed",
        "command": "python tests/test_cuda_compiles.py",
        "versions": {WHEEL: metadata.version(WHEEL), "nvrtc": version()},
        "options": list(launch.OPTIONS),
        "kernels": lines,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
