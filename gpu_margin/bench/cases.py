"""What `gpu-margin bench` times: the nouns of workloads, and books to run them on.

A workload says what a size costs (`Work`) and builds a case; a case hands out contenders, each a
function to be timed, and checks their answers against a reference of its own. A contender may work
on the first units only, where it would take hours on all; figures are then compared per unit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from gpu_margin.backend import Backend, Rows
from gpu_margin.bench.precision import FLOAT64, Precision
from gpu_margin.failures import ConfigError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

INSTRUMENTS = 20_000
# Bytes of host memory that a backend may use beside its arguments and results: tiles, threads.
SLACK = 256 << 20
# What a reference holds at most, so that making it takes seconds at any size.
REFERENCE_CELLS = 1 << 25
DRAWN_ACCOUNTS = 10_000


@dataclass(frozen=True)
class Size:
    """How many accounts, positions per account and scenarios."""

    accounts: int
    positions: int
    scenarios: int

    def __str__(self) -> str:
        return f"{short(self.accounts)} x {self.positions} x {short(self.scenarios)}"


SIZES = {
    "laptop": (Size(10_000, 50, 250),),
    "desk": (Size(100_000, 50, 250), Size(100_000, 50, 1_000)),
    "exchange": (Size(1_000_000, 50, 1_000), Size(1_000_000, 50, 10_000)),
}


def sizes(text: str) -> tuple[Size, ...]:
    """Sizes from a comma-separated list of names and ACCOUNTSxPOSITIONSxSCENARIOS.

    Raises `ConfigError` where a part is neither.
    """
    found: list[Size] = []
    for part in text.split(","):
        numbers = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)", part.strip())
        if numbers:
            found.append(Size(*(int(number) for number in numbers.groups())))
        elif part.strip() in SIZES:
            found.extend(SIZES[part.strip()])
        else:
            known = ", ".join(SIZES)
            raise ConfigError(
                f"--size {part!r}: choose {known}, or ACCOUNTSxPOSITIONSxSCENARIOS as 10000x50x250"
            )
    return tuple(dict.fromkeys(found))


def short(count: int) -> str:
    """A count with M or k, where that loses nothing."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


@dataclass(frozen=True)
class Work:
    """What a case costs: `units` of `unit`, bytes and floating-point operations.

    `gathered_bytes` count every operand as often as it is used, `compulsory_bytes` what must come
    from memory at least once. `input_bytes` are held on the host for the case; a backend needs
    `backend_bytes` beside its arguments, the baseline `baseline_bytes`. `steps` are what the time
    of a contender grows with, alike for all sizes of a workload. A practitioner's code may work on
    a part of the units, `together` at a time; on all or none where that is 0.
    """

    label: str
    unit: str
    units: int
    gathered_bytes: float
    compulsory_bytes: float
    flops: float
    input_bytes: float
    backend_bytes: float
    baseline_bytes: float
    steps: float
    together: int = 1


@dataclass(frozen=True)
class Answer:
    """`value` [unit, measure] and `worst` [unit] scenario codes, or None where there are none."""

    value: Floats
    worst: Ints | None = None


@dataclass(frozen=True)
class Contender:
    """`run` is timed; `answer` turns what it returns into an `Answer` for the first `units`."""

    name: str
    units: int
    run: Callable[[], Any]
    answer: Callable[[Any], Answer]
    variant: str = ""
    gives_worst: bool = True


@dataclass(frozen=True)
class Reference:
    """The right answer for the units `sample` (ascending), and the gross [unit] of errors."""

    sample: Ints
    answer: Answer
    gross: Floats

    def complaint(self, got: Answer, units: int, rtol: float, worst: bool) -> tuple[float, str]:
        """The largest error as a share of gross, and what is wrong ("" for nothing)."""
        chosen = self.sample < units
        mine, want = self.sample[chosen], self.answer.value[chosen]
        if got.value.shape != (units, want.shape[1]):
            return math.inf, f"shape {got.value.shape}, not {(units, want.shape[1])}"
        scale = np.maximum(self.gross[chosen], np.finfo(np.float64).tiny)[:, None]
        error = float((np.abs(got.value[mine] - want) / scale).max())
        if not error <= rtol:
            return error, f"off by {error:.1e} of gross, more than {rtol:.0e}"
        if worst and self.answer.worst is not None:
            if got.worst is None:
                return error, "no worst scenario"
            wrong = int((got.worst[mine] != self.answer.worst[chosen]).sum())
            if wrong:
                return error, f"another worst scenario in {wrong} of {len(mine)} rows"
        return error, ""


class Case(Protocol):
    """A workload at one size, its data made."""

    @property
    def work(self) -> Work:
        """What it costs."""
        ...

    @property
    def reference(self) -> Reference:
        """What its answers are checked against."""
        ...

    def practitioner(self, name: str, units: int | None = None) -> Contender:
        """The contender of that name; raises `Skipped` where it cannot run.

        It works on the first `units`, by default all; one of `Workload.partial` knows how many.
        """
        ...

    def backend(self, device: Backend, precision: Precision = FLOAT64) -> list[Contender]:
        """The backend's contenders in one of the workload's precisions, one per variant."""
        ...

    def close(self) -> None:
        """Give back what the case holds on disk."""
        ...


class Workload(Protocol):
    """A kind of work, at any size."""

    @property
    def key(self) -> str:
        """The letter that chooses it."""
        ...

    @property
    def title(self) -> str:
        """Its name in tables."""
        ...

    @property
    def practitioners(self) -> tuple[str, ...]:
        """Names of what a practitioner would write; the first is the baseline."""
        ...

    @property
    def partial(self) -> tuple[str, ...]:
        """Those of them that only work on the first units, whatever the size."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """Names of the precisions that it knows; practitioners and the reference are float64."""
        ...

    def work(self, size: Size, precision: Precision = FLOAT64) -> Work:
        """What that size costs."""
        ...

    def build(self, size: Size) -> Case:
        """The case, its data drawn."""
        ...


def zipf_rows(accounts: int, positions: int, columns: int, rng: np.random.Generator) -> Rows:
    """Rows of whole quantities in columns drawn by popularity 1 / rank, in ascending order."""
    popularity = np.cumsum(1.0 / np.arange(1, columns + 1))
    column = np.empty((accounts, positions), dtype=np.int64)
    for start in range(0, accounts, DRAWN_ACCOUNTS):
        some = column[start : start + DRAWN_ACCOUNTS]
        drawn = rng.random(some.shape) * popularity[-1]
        drawn.sort(axis=1)  # before the search, which is then faster
        some[:] = np.searchsorted(popularity, drawn, "right")
    value = rng.integers(1, 100, accounts * positions).astype(np.float64)
    np.negative(value, out=value, where=rng.random(len(value)) < 0.5)
    offsets = np.arange(accounts + 1, dtype=np.int64) * positions
    return Rows(offsets, column.ravel(), value)


def sampled(units: int, cells: int) -> Ints:
    """Units to check, evenly spread: all, or as many as fit the reference at `cells` each."""
    count = min(units, max(1, REFERENCE_CELLS // cells))
    return np.arange(count, dtype=np.int64) * units // count


def sparse(rows: Rows, columns: int) -> csr_array:
    """The rows as scipy's matrix, in arrays of its own."""
    parts = (rows.value.copy(), rows.column.copy(), rows.offsets.copy())
    return csr_array(parts, shape=(len(rows), columns))


def first(rows: Rows, count: int) -> Rows:
    """The first `count` rows."""
    last = rows.offsets[count]
    return Rows(rows.offsets[: count + 1], rows.column[:last], rows.value[:last])


def chosen(rows: Rows, sample: Ints) -> Rows:
    """The rows of that sample (ascending)."""
    sizes = np.diff(rows.offsets)[sample]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    entry = np.arange(offsets[-1]) + np.repeat(rows.offsets[sample] - offsets[:-1], sizes)
    return Rows(offsets, rows.column[entry], rows.value[entry])


def on_host(device: Backend) -> bool:
    """Whether its arrays lie in the host's memory (DLPack's device type 1)."""
    return bool(device.to_device(np.zeros(1)).__dlpack_device__()[0] == 1)


def variants(
    device: Backend,
    units: int,
    arrays: tuple[NDArray[Any], ...],
    call: Callable[..., tuple[Any, ...]],
    resident: int,
) -> list[Contender]:
    """Contenders that run `call` on `arrays`; the first `resident` of them are a portfolio.

    On the host there is one, its arrays made the library's own beforehand. A device has three: the
    portfolio uploaded and the results fetched, everything resident and the results fetched, and
    everything resident and the results left there: kernel time, up to the moment when the device
    says that it is done. Other arrays, the market's, are always resident.
    """

    def fetched(results: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(device.to_host(result) for result in results)

    def answer(results: tuple[Any, ...]) -> Answer:
        value, *worst = fetched(results)
        return Answer(value.reshape(units, -1), worst[0] if worst else None)

    there = tuple(device.to_device(array) for array in arrays)
    if on_host(device):
        return [Contender(device.name, units, lambda: fetched(call(*there)), answer)]

    def uploaded() -> tuple[Any, ...]:
        moved = tuple(device.to_device(array) for array in arrays[:resident])
        return fetched(call(*moved, *there[resident:]))

    def left() -> tuple[Any, ...]:
        results = call(*there)
        # Waits for the device: its work is done in order, so all is computed when the last is here.
        device.to_host(results[-1][:1])
        return results

    runs = {"upload": uploaded, "resident": lambda: fetched(call(*there)), "kernel": left}
    return [Contender(device.name, units, run, answer, name) for name, run in runs.items()]


def column(values: Any) -> Answer:
    """One measure [unit] as an answer."""
    return Answer(np.asarray(values).reshape(-1, 1))


def floor(work: Work, ceiling: dict[str, float], precision: Precision = FLOAT64) -> float:
    """Seconds at the ceilings: each array moved once, or all operations at GEMM's speed.

    Only the former where that speed is not known.
    """
    moved = work.compulsory_bytes / (1e9 * ceiling["copy_gb_s"])
    return max(moved, work.flops / (1e9 * ceiling.get(precision.gemm, math.inf)))
