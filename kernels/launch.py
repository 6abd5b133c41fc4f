"""How to launch each CUDA kernel: its source, its entry, its block and its shared memory.

Pure Python and no CuPy, so that what a device will be told is tested where there is none. The
sources come with their headers put in, and `#line` directives that keep the names and lines of the
files, so that a compiler's error names the line of the `.cu` file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# NVRTC's; the kernels also say by intrinsics that nothing may be fused.
OPTIONS = ("--std=c++17", "--fmad=false")

_FOLDER = Path(__file__).parent
_INCLUDE = re.compile(r'#include "([a-z_]+\.cuh)"')

_WARP = 32
_WARPS = 4
# What a block may ask for without telling the driver first.
_SHARED_BYTES = 48 << 10
# The device's limit on the blocks of a grid; kernels stride over what is left.
_MOST_BLOCKS = 2**31 - 1

# Scenarios per lane that a row in registers may have, and what one entry knows at most.
SLOTS = (1, 2, 4, 8, 16, 32)
MOST_IN_REGISTERS = _WARP * SLOTS[-1]
# Scenarios of a row that a warp of weighted_sum.cu takes.
SCENARIOS_OF_A_WARP = 128
# Scenarios of rows of which several share a warp.
_SMALL = (8, 16)


@dataclass(frozen=True)
class Precision:
    """Bytes of a number of the matrix, and of a sum."""

    stored: int
    summed: int


PRECISIONS = {"f64": Precision(8, 8), "mixed": Precision(4, 8), "f32": Precision(4, 4)}


@dataclass(frozen=True)
class Launch:
    """What a launch needs; `per_block` is the rows (or other work) that a block has at a time."""

    source: str
    entry: str
    block: int
    per_block: int
    shared: int = 0

    def blocks(self, work: int) -> int:
        """Blocks of the grid for that many rows; any number gives the same results."""
        return max(1, min(-(-work // self.per_block), _MOST_BLOCKS))


@dataclass(frozen=True)
class ScenarioTile:
    """Scenarios that one launch of the tiled tail takes."""

    first: int
    width: int


def sources() -> list[str]:
    """Names of all kernel sources."""
    return sorted(path.name for path in _FOLDER.glob("*.cu"))


def source(name: str) -> str:
    """The text of a source with its headers put in, each once."""
    return _expanded(name, set())


def entries(name: str) -> list[str]:
    """Names of the kernels that a source has."""
    return _ENTRIES[name]


def precision_of(stored: str, summed: str) -> str:
    """The precision's name for dtypes of the matrix and of the sums."""
    names = {
        ("float64", "float64"): "f64",
        ("float32", "float64"): "mixed",
        ("float32", "float32"): "f32",
    }
    if (stored, summed) not in names:
        raise ValueError(f"no kernel stores {stored} and sums {summed}; choose one of {[*names]}")
    return names[stored, summed]


def tail(scenarios: int, depth: int, precision: str) -> Launch:
    """A row's tail in one pass: `scenarios` at most `MOST_IN_REGISTERS`."""
    _check_depth(scenarios, depth)
    if scenarios <= _SMALL[-1]:
        width = next(width for width in _SMALL if scenarios <= width)
        rows = _WARPS * _WARP // width
        return Launch("tail_small.cu", f"tail_small_{precision}_{width}", _WARPS * _WARP, rows)
    slots = _slots(scenarios)
    kept = _padded(depth) * (PRECISIONS[precision].summed + 4)
    return _by_warps("tail.cu", f"tail_warp_{precision}_{slots}", kept)


def tail_tile(width: int, depth: int, precision: str) -> Launch:
    """One tile of `width` scenarios, of as many as there are; `depth` is that of all."""
    slots = _slots(width)
    taken = _padded(min(depth, width)) * (PRECISIONS[precision].summed + 8)
    return _by_warps("tail_tiled.cu", f"tail_tile_{precision}_{slots}", taken)


def scenario_tiles(
    scenarios: int, columns: int, precision: str, cache_bytes: int
) -> list[ScenarioTile]:
    """Tiles of whole warps whose part of the matrix stays within the device's cache."""
    line = columns * PRECISIONS[precision].stored * _WARP
    widest = _WARP * max(1, min(SLOTS[-1], cache_bytes // max(line, 1)))
    starts = range(0, scenarios, widest)
    return [ScenarioTile(start, min(widest, scenarios - start)) for start in starts]


def workspace_bytes(rows: int, depth: int, precision: str) -> tuple[int, int]:
    """Bytes of the tiled tail's keys and of its scenarios [row, depth]."""
    return rows * depth * PRECISIONS[precision].summed, rows * depth * 4


def weighted_sum(precision: str) -> Launch:
    """P&L [row, scenario]; a warp takes 128 scenarios of a row."""
    return _by_warps("weighted_sum.cu", f"weighted_sum_{precision}")


def quadratic_form(precision: str) -> Launch:
    """x' C x per row; a warp takes a row."""
    return _by_warps("quadratic_form.cu", f"quadratic_form_{precision}")


def segment_sum(precision: str) -> Launch:
    """Sums of segments; a thread takes a segment."""
    block = _WARPS * _WARP
    return Launch("segment_sum.cu", f"segment_sum_{precision}", block, block)


def black76() -> Launch:
    """Option values; a thread takes one."""
    block = 2 * _WARPS * _WARP
    return Launch("black76.cu", "black76_f64", block, block)


def _by_warps(name: str, entry: str, shared_of_warp: int = 0) -> Launch:
    """A warp per row, and fewer warps to a block where their shared memory would not fit."""
    warps = _WARPS
    while warps * shared_of_warp > _SHARED_BYTES:
        warps //= 2
    return Launch(name, entry, warps * _WARP, warps, warps * shared_of_warp)


def _slots(scenarios: int) -> int:
    if not 1 <= scenarios <= MOST_IN_REGISTERS:
        raise ValueError(
            f"{scenarios} scenarios: a pass takes 1 to {MOST_IN_REGISTERS}; use scenario_tiles"
        )
    return next(slots for slots in SLOTS if scenarios <= _WARP * slots)


def _check_depth(scenarios: int, depth: int) -> None:
    if not 1 <= depth <= scenarios:
        raise ValueError(f"depth {depth}: measures take 1 to {scenarios} of the scenarios")


def _padded(count: int) -> int:
    """The smallest power of two that is not below `count`, as tail.cuh has it."""
    return 1 << (count - 1).bit_length()


def _expanded(name: str, seen: set[str]) -> str:
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((_FOLDER / name).read_text().splitlines(), start=1):
        found = _INCLUDE.fullmatch(line)
        if not found:
            lines.append(line)
        elif found[1] not in seen:
            seen.add(found[1])
            lines += [_expanded(found[1], seen).rstrip("\n"), f'#line {number + 1} "{name}"']
        else:
            lines.append("")
    return "\n".join(lines) + "\n"


def _numbered(stem: str, numbers: tuple[int, ...]) -> list[str]:
    return [f"{stem}_{precision}_{number}" for precision in PRECISIONS for number in numbers]


def _plain(stem: str) -> list[str]:
    return [f"{stem}_{precision}" for precision in PRECISIONS]


_ENTRIES: dict[str, list[str]] = {
    "black76.cu": ["black76_f64"],
    "quadratic_form.cu": _plain("quadratic_form"),
    "segment_sum.cu": _plain("segment_sum"),
    "tail.cu": _numbered("tail_warp", SLOTS),
    "tail_small.cu": _numbered("tail_small", _SMALL),
    "tail_tiled.cu": _numbered("tail_tile", SLOTS),
    "weighted_sum.cu": _plain("weighted_sum"),
}
