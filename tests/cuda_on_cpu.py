"""The CUDA sources compiled for this CPU (cuda_shim/shim.hpp), and their kernels as functions."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.kernels import launch
from gpu_margin.kernels.launch import Launch

SHIM = Path(__file__).parent / "cuda_shim" / "shim.hpp"
COMPILER = shutil.which("g++")
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared")

Argument = NDArray[Any] | int | None


class LaunchError(Exception):
    """What the shim found wrong with a launch."""


def compiled(text: str, entries: Sequence[str], folder: Path, stem: str) -> ctypes.CDLL:
    """The library of a source (headers put in) and its entries."""
    program = folder / f"{stem}.cpp"
    registered = "".join(f"SHIM_ENTRY({entry})\n" for entry in entries)
    program.write_text(f'{text}\n#line 1 "entries"\n{registered}')
    library = folder / f"{stem}.so"
    command = [COMPILER or "g++", *FLAGS, "-include", SHIM, program, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{stem}: g++ failed\n{done.stderr}")
    return ctypes.CDLL(str(library))


@cache
def libraries() -> dict[str, ctypes.CDLL]:
    """All sources, compiled side by side once per session."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(os.cpu_count()) as pool:
        folder, names = Path(name), launch.sources()
        built = pool.map(
            lambda file: compiled(
                launch.source(file), launch.entries(file), folder, file.removesuffix(".cu")
            ),
            names,
        )
        return dict(zip(names, built, strict=True))


def run(plan: Launch, blocks: int, *arguments: Argument, backwards: bool = False) -> None:
    """Launch a kernel; arrays are passed by address, None as null, integers as int64."""
    run_in(libraries()[plan.source], plan, blocks, *arguments, backwards=backwards)


def run_in(
    library: ctypes.CDLL,
    plan: Launch,
    blocks: int,
    *arguments: Argument,
    backwards: bool = False,
) -> None:
    """`run` with a library of one's own."""
    words = [ctypes.c_uint64(_word(argument)) for argument in arguments]
    given = (ctypes.c_void_p * len(words))(*(ctypes.addressof(word) for word in words))
    entry = library[f"shim_{plan.entry}"]
    entry.restype = ctypes.c_char_p
    entry.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_size_t,
        ctypes.c_int,
    ]
    message = entry(given, blocks, plan.block, plan.shared, backwards)
    if message:
        raise LaunchError(f"{plan.entry}: {message.decode()}")


def _word(argument: Argument) -> int:
    """What the kernel gets: 64 bits."""
    if argument is None:
        return 0
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return argument.ctypes.data
    return argument % 2**64
