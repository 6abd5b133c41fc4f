"""The contract with a device, and how one is found.

A backend is a module `<name>_backend.py` in `gpu_margin.kernels` or `gpu_margin.cpu_fallback`
with an object `BACKEND`; its file name is its registration. Everything a rulebook does on a
device is one of the operations below, or elementwise array code on `xp` (+ - x / sqrt minimum
maximum compare take convert). Nothing here imports a backend before it is asked for by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpu_margin.failures import BackendUnavailable, ConfigError
from gpu_margin.portfolio import Rows

__all__ = [
    "Array",
    "Backend",
    "BackendUnavailable",
    "Rows",
    "TailMeasure",
    "TailResult",
    "backend_names",
    "load",
    "sum_dtype",
]

Array = Any

# `auto` takes the first of these that can run.
PREFERENCE = ("cupy", "numba", "numpy")
_PACKAGES = ("gpu_margin.kernels", "gpu_margin.cpu_fallback")


@dataclass(frozen=True)
class TailMeasure:
    """A weighted sum of the worst losses of a row, worst first.

    The measure is sum(weights[i] x (i + 1)-th worst loss) / divisor: value-at-risk, expected
    shortfall and worst loss differ only in their weights. The sum runs from the smallest of
    these losses to the worst, one after another.
    """

    weights: tuple[float, ...]
    divisor: float = 1.0


@dataclass(frozen=True)
class TailResult:
    """`value` [row, measure] float64; `worst` [row] int64, first scenario of the largest loss.

    `scenarios` [row, depth] int64 codes of the scenarios of the largest losses, worst first, where
    they were asked for: depth is the longest measure's number of weights. Of equal losses the
    earlier scenario counts as the worse, so that the first column is `worst`.
    """

    value: Array
    worst: Array
    scenarios: Array | None = None


def sum_dtype(xp: Any, rows: Rows, matrix: Array) -> Any:
    """The dtype in which value x matrix is summed: that of the values (arrays of `xp`).

    float64 values may meet a matrix of float64 or of float32, which is widened exactly on the way;
    float32 values one of float32. Raises `ValueError` for anything else.
    """
    stored, summed = matrix.dtype, rows.value.dtype
    known = ((xp.float64, xp.float64), (xp.float32, xp.float64), (xp.float32, xp.float32))
    if (stored, summed) not in known:
        raise ValueError(
            f"values of {summed} with a matrix of {stored}: sums run in the dtype of the values, "
            "which is float64 with a matrix of float64 or float32, or float32 with one of float32"
        )
    return summed


class Backend(Protocol):
    """What a device must provide. Arrays are float64 unless said; sums run in stored order.

    The operations give the same bits on every backend that says `exact`, for any number of
    rows in a call. Inputs are never written to, and matrices must be finite: implementations
    may multiply unused entries by zero.

    Values and matrices may be stored in any of `dtypes`. `weighted_sum` and `tail` sum in that of
    the values (`sum_dtype`); the other operations widen what they are given and compute in float64.

    `lanes` is how many threads may work on the device at once, each inside `lane()`: where copies
    and kernels can overlap there are several.
    """

    name: str
    xp: Any
    exact: bool
    lanes: int
    dtypes: tuple[str, ...]

    def describe(self) -> str:
        """The device in words, for `gpu-margin devices`."""
        ...

    def free_bytes(self) -> int:
        """Memory that a run may plan with."""
        ...

    def shards(self) -> Sequence[Backend]:
        """The devices that it has, each as a backend of its own: accounts are dealt out to them."""
        ...

    def lane(self) -> AbstractContextManager[None]:
        """Where a thread works on the device; on leaving, all that it began there is done."""
        ...

    def to_device(self, array: np.ndarray[Any, Any]) -> Array:
        """The array on the device, same dtype."""
        ...

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """The array as NumPy."""
        ...

    def weighted_sum(self, rows: Rows, matrix: Array) -> Array:
        """[row, scenario] sum of value x matrix[column, scenario] over the row's entries.

        In the dtype of the values. Raises `ValueError` where `sum_dtype` does.
        """
        ...

    def tail(
        self, rows: Rows, matrix: Array, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        """Measures of the losses -weighted_sum(rows, matrix), rows x scenarios never held.

        `measures` have at most as many weights as there are scenarios; they are float64, measured
        in float64 of the exactly widened losses. `scenarios` asks for the tail's own. Raises
        `ValueError` where `sum_dtype` does.
        """
        ...

    def quadratic_form(self, rows: Rows, matrix: Array) -> Array:
        """[row] x' matrix x, x the row's values at its columns; `matrix` is square."""
        ...

    def segment_sum(self, values: Array, offsets: Array) -> Array:
        """[segment] sum of values[offsets[i] : offsets[i + 1]]."""
        ...

    def black76(
        self,
        forward: Array,
        strike: Array,
        volatility: Array,
        time: Array,
        rate: Array,
        call: Array,
    ) -> Array:
        """Black-76 values as `array_ops.black76`, within 1e-13 max(forward, strike)."""
        ...


def backend_names() -> list[str]:
    """Names of all backends that the installation has, able to run or not."""
    return sorted(_modules())


def load(name: str) -> Backend:
    """The backend of that name, or for "auto" the first of `PREFERENCE` that can run.

    Raises `ConfigError` for an unknown name and `BackendUnavailable` where it cannot run here.
    """
    if name == "auto":
        return _first_available()
    modules = _modules()
    if name not in modules:
        known = ", ".join(["auto", *modules])
        raise ConfigError(f"unknown backend {name!r}; choose one of {known}")
    backend: Backend = importlib.import_module(modules[name]).BACKEND
    return backend


def _first_available() -> Backend:
    for name in PREFERENCE:
        if name in _modules():
            try:
                return load(name)
            except BackendUnavailable:
                continue
    raise BackendUnavailable("no backend can run on this machine; see `gpu-margin devices`")


def _modules() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        paths = importlib.import_module(package).__path__
        for module in pkgutil.iter_modules(paths):
            if module.name.endswith("_backend"):
                found[module.name.removesuffix("_backend")] = f"{package}.{module.name}"
    return found
