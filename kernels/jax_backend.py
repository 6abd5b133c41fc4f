"""Any accelerator that JAX knows, and the host: compiled per shape class, 64 bit.

Its compiler may fuse multiplication and addition, so it is held to 1e-12 of a row's gross loss
and not to the reference's bits; sums in float32 to 2^-23 of it per entry of the row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from gpu_margin import array_ops
from gpu_margin.array_ops import Tile
from gpu_margin.backend import (
    Backend,
    BackendUnavailable,
    Rows,
    TailMeasure,
    TailResult,
    sum_dtype,
)

# JAX otherwise takes three quarters of a GPU's memory at once; it must be told before import.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
try:
    import jax
    import jax.numpy as jnp
    from jax.scipy.special import erfc
except ImportError as error:
    raise BackendUnavailable(
        f'jax: not installed ({error}); pip install "gpu-margin[jax]"'
    ) from error
jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]

Array = Any


class JaxBackend:
    """See `gpu_margin.backend.Backend`."""

    name = "jax"
    xp: Any = jnp
    exact = False
    lanes = 1
    dtypes: tuple[str, ...] = ("float64", "float32")

    def describe(self) -> str:
        """Devices and library version."""
        devices = ", ".join(sorted({device.device_kind for device in jax.devices()}))
        return f"{jax.default_backend()}: {devices}, jax {jax.__version__}"

    def free_bytes(self) -> int:
        """Memory of the first device that is free now; a guess where it does not say."""
        stats = jax.devices()[0].memory_stats() or {}
        limit = stats.get("bytes_limit", 4 << 30)
        return int(limit) - int(stats.get("bytes_in_use", 0))

    def shards(self) -> Sequence[Backend]:
        """The default device: JAX has ways of its own to use several."""
        return [self]

    def lane(self) -> AbstractContextManager[None]:
        """Nothing to enter: JAX queues what it is asked for."""
        return nullcontext()

    def to_device(self, array: Any) -> Array:
        """A copy on the default device; what another library holds on a device stays there."""
        if hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray):
            return jnp.from_dlpack(array)
        return jnp.asarray(array)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """A copy on the host."""
        return np.asarray(array)

    def weighted_sum(self, rows: Rows, matrix: Array) -> Array:
        """[row, scenario] sum of value x matrix[column, scenario]."""
        summed = sum_dtype(jnp, rows, matrix)
        sums = _map(rows, matrix.shape[1], lambda tile: _sum(tile.column, tile.value, matrix))
        return sums.astype(summed)

    def tail(
        self, rows: Rows, matrix: Array, measures: Sequence[TailMeasure], scenarios: bool = False
    ) -> TailResult:
        """[row, measure], the first scenario of the largest loss, those of the tail."""
        sum_dtype(jnp, rows, matrix)
        chosen, count = tuple(measures), len(measures)
        depth = max(len(measure.weights) for measure in measures) if scenarios else 0

        def packed(tile: Tile) -> Array:
            return _tail(tile.column, tile.value, matrix, chosen, depth)

        both = _map(rows, matrix.shape[1], packed, count + 1 + depth)
        codes = both[:, count:].astype(jnp.int64)
        return TailResult(both[:, :count], codes[:, 0], codes[:, 1:] if scenarios else None)

    def quadratic_form(self, rows: Rows, matrix: Array) -> Array:
        """[row] x' matrix x."""
        longest = int(np.diff(np.asarray(rows.offsets)).max(initial=1))
        rows = Rows(rows.offsets, rows.column, jnp.asarray(rows.value, dtype=jnp.float64))
        return _map(
            rows, longest, lambda tile: _quadratic(tile.column, tile.value, matrix)[:, None], 1
        )[:, 0]

    def segment_sum(self, values: Array, offsets: Array) -> Array:
        """[segment] sums."""
        zeros = jnp.zeros(values.shape[0], dtype=jnp.int64)
        values = jnp.asarray(values, dtype=jnp.float64)
        return self.weighted_sum(Rows(offsets, zeros, values), jnp.ones((1, 1)))[:, 0]

    def black76(
        self,
        forward: Array,
        strike: Array,
        volatility: Array,
        time: Array,
        rate: Array,
        call: Array,
    ) -> Array:
        """Black-76 values."""
        return _black76(forward, strike, volatility, time, rate, call)

    def tail_gradient(self, rows: Rows, matrix: Array, measure: TailMeasure) -> Array:
        """[entry] slope of the row's measure in the entry's value: its marginal margin.

        For expected shortfall the mean loss of one unit over the tail scenarios. Where two
        losses are equal at the edge of the tail the measure has a kink and this is one of its
        slopes.
        """

        def slope(tile: Tile) -> Array:
            return _tail_slope(tile.column, tile.value, matrix, measure)

        return _by_entry(rows, matrix.shape[1], slope)

    def deviation_gradient(self, rows: Rows, matrix: Array) -> Array:
        """[entry] slope of sqrt(x' matrix x) in the entry's value, 0 where that is 0."""
        longest = int(np.diff(np.asarray(rows.offsets)).max(initial=1))
        return _by_entry(
            rows, longest, lambda tile: _deviation_slope(tile.column, tile.value, matrix)
        )


def _by_entry(rows: Rows, cells: int, function: Callable[[Tile], Array]) -> Array:
    """[entry] what `function` says of tiles of padded entries [row, place]."""
    offsets = np.asarray(rows.offsets)
    result = np.zeros(int(offsets[-1]))
    for chosen, tile in array_ops.tiles(jnp, rows, offsets, cells):
        place = np.arange(tile.value.shape[1])[None, :]
        inside = place < (offsets[chosen + 1] - offsets[chosen])[:, None]
        entry = (offsets[chosen][:, None] + place)[inside]
        result[entry] = np.asarray(function(tile))[: len(chosen)][inside]
    return jnp.asarray(result)


def _map(
    rows: Rows, cells: int, function: Callable[[Tile], Array], width: int | None = None
) -> Array:
    return array_ops.map_rows(jnp, rows, np.asarray(rows.offsets), cells, function, width)


@jax.jit
def _sum(column: Array, value: Array, matrix: Array) -> Array:
    """[row, scenario]: `array_ops.tile_sum` as a loop that compiles once for any length."""

    def add(place: int, total: Array) -> Array:
        return total + value[:, place][:, None] * jnp.take(matrix, column[:, place], axis=0)

    start = jnp.zeros((value.shape[0], matrix.shape[1]), dtype=value.dtype)
    return jax.lax.fori_loop(0, value.shape[1], add, start)


@partial(jax.jit, static_argnums=(3, 4))
def _tail(
    column: Array, value: Array, matrix: Array, measures: tuple[TailMeasure, ...], depth: int
) -> Array:
    """[row, measure + 1 + depth]: measures, worst scenario and the tail's; codes as numbers."""
    profits = _sum(column, value, matrix)
    ascending = jnp.sort(-profits, axis=1).astype(jnp.float64)
    columns = [
        ascending[:, ascending.shape[1] - len(measure.weights) :]
        @ jnp.asarray(measure.weights[::-1])
        / measure.divisor
        for measure in measures
    ]
    value = jnp.stack([*columns, jnp.argmin(profits, axis=1).astype(jnp.float64)], axis=1)
    if not depth:
        return value
    order = jnp.argsort(profits, axis=1, stable=True)[:, :depth]
    return jnp.concat([value, order.astype(jnp.float64)], axis=1)


@jax.jit
def _quadratic(column: Array, value: Array, matrix: Array) -> Array:
    """[row]: `array_ops.tile_quadratic` as a loop that compiles once for any length."""

    def add(place: int, slope: Array) -> Array:
        return slope + matrix[column, column[:, place][:, None]] * value[:, place][:, None]

    slope = jax.lax.fori_loop(0, value.shape[1], add, jnp.zeros_like(value))
    return jnp.sum(value * slope, axis=1)


@partial(jax.jit, static_argnums=3)
def _tail_slope(column: Array, value: Array, matrix: Array, measure: TailMeasure) -> Array:
    """[row, place]: rows do not touch each other, so the slope of their sum is each one's own."""

    def total(value: Array) -> Array:
        terms = value[:, :, None] * jnp.take(matrix, column, axis=0)
        ascending = jnp.sort(-jnp.sum(terms, axis=1), axis=1)
        kept = ascending[:, ascending.shape[1] - len(measure.weights) :]
        return jnp.sum(kept @ jnp.asarray(measure.weights[::-1])) / measure.divisor

    return jax.grad(total)(value)


@jax.jit
def _deviation_slope(column: Array, value: Array, matrix: Array) -> Array:
    """[row, place]: slope of the root of the quadratic form."""

    def total(value: Array) -> Array:
        variance = _quadratic(column, value, matrix)
        positive = variance > 0
        return jnp.sum(jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0))

    return jax.grad(total)(value)


@jax.jit
def _black76(
    forward: Array, strike: Array, volatility: Array, time: Array, rate: Array, call: Array
) -> Array:
    return array_ops.black76(jnp, _ndtr, forward, strike, volatility, time, rate, call)


def _ndtr(x: Array) -> Array:
    """Normal distribution function by erfc, which XLA compiles to better code than its ndtr."""
    return 0.5 * erfc(-x * 0.7071067811865476)


BACKEND = JaxBackend()
