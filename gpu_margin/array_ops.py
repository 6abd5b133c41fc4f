"""The contract's operations, written once for any array library.

A device that has no kernel of its own for an operation can use these; they need nothing beyond the
Python array API standard (no in-place writes, no data-dependent shapes, no library sum), so that
the same lines run on any library that keeps to it. They are also the order of operations that a
kernel must reproduce: multiply, then add, in stored order, starting from zero.

Rows are padded with entries of value 0 in column 0, which change no sum of finite numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu_margin.backend import Rows, TailMeasure, TailResult, sum_dtype

Array = Any

# Below it an option's value is its intrinsic value to the last bit, and d1 could overflow.
NO_DEVIATION = 1e-100

# Elements that a tile of padded rows may hold at a time (2^22 float64 are 32 MiB).
_TILE = 1 << 22


@dataclass(frozen=True)
class Tile:
    """Rows of similar length, padded: `column` and `value` [row, place] on the device."""

    column: Array
    value: Array


def weighted_sum(xp: Any, rows: Rows, matrix: Array, offsets: np.ndarray[Any, Any]) -> Array:
    """[row, scenario] sum of value x matrix[column, scenario]; `offsets` on the host."""
    summed = sum_dtype(xp, rows, matrix)
    sums = map_rows(xp, rows, offsets, matrix.shape[1], lambda tile: tile_sum(xp, tile, matrix))
    return xp.astype(sums, summed)


def tail(
    xp: Any,
    rows: Rows,
    matrix: Array,
    measures: Sequence[TailMeasure],
    offsets: np.ndarray[Any, Any],
    scenarios: bool = False,
) -> TailResult:
    """Tail measures and worst scenario of each row, as `Backend.tail`."""
    sum_dtype(xp, rows, matrix)
    count = len(measures)
    depth = max(len(measure.weights) for measure in measures) if scenarios else 0

    def packed(tile: Tile) -> Array:
        value, codes = tile_tail(xp, tile, matrix, measures, depth)
        return xp.concat([value, xp.astype(codes, xp.float64)], axis=1)

    both = map_rows(xp, rows, offsets, matrix.shape[1], packed, count + 1 + depth)
    codes = xp.astype(both[:, count:], xp.int64)
    return TailResult(both[:, :count], codes[:, 0], codes[:, 1:] if scenarios else None)


def quadratic_form(xp: Any, rows: Rows, matrix: Array, offsets: np.ndarray[Any, Any]) -> Array:
    """[row] x' matrix x, as `Backend.quadratic_form`."""
    rows = Rows(rows.offsets, rows.column, xp.astype(rows.value, xp.float64))

    def form(tile: Tile) -> Array:
        return tile_quadratic(xp, tile, matrix)[:, None]

    longest = int(np.diff(offsets).max(initial=1))
    return map_rows(xp, rows, offsets, longest, form, 1)[:, 0]


def segment_sum(xp: Any, values: Array, offsets: np.ndarray[Any, Any]) -> Array:
    """[segment] sums of `values`, in stored order."""
    ones, values = xp.ones((1, 1), dtype=xp.float64), xp.astype(values, xp.float64)
    rows = Rows(offsets, xp.zeros(values.shape[0], dtype=xp.int64), values)
    return weighted_sum(xp, rows, ones, offsets)[:, 0]


def tile_sum(xp: Any, tile: Tile, matrix: Array) -> Array:
    """[row, scenario] of a tile, entry after entry."""
    total = xp.zeros((tile.value.shape[0], matrix.shape[1]), dtype=tile.value.dtype)
    for place in range(tile.value.shape[1]):
        terms = tile.value[:, place][:, None] * xp.take(matrix, tile.column[:, place], axis=0)
        total = total + terms
    return total


def tile_tail(
    xp: Any, tile: Tile, matrix: Array, measures: Sequence[TailMeasure], depth: int
) -> tuple[Array, Array]:
    """[row, measure] of a tile, and [row, 1 + depth] the worst scenario and those of the tail."""
    profits = tile_sum(xp, tile, matrix)
    # Widened before they are measured: a weight alone would be made float32.
    ascending = xp.astype(xp.sort(-profits, axis=1), xp.float64)
    values = [_weighted_tail(xp, ascending, measure) for measure in measures]
    codes = [xp.argmin(profits, axis=1)[:, None]]
    if depth:
        codes.append(xp.argsort(profits, axis=1, stable=True)[:, :depth])
    return xp.stack(values, axis=1), xp.concat(codes, axis=1)


def tile_quadratic(xp: Any, tile: Tile, matrix: Array) -> Array:
    """[row] of a tile: first the slopes matrix x, then x times them."""
    flat = xp.reshape(matrix, (-1,))
    slope = xp.zeros_like(tile.value)
    for place in range(tile.value.shape[1]):
        pair = tile.column * matrix.shape[1] + tile.column[:, place][:, None]
        terms = xp.reshape(xp.take(flat, xp.reshape(pair, (-1,)), axis=0), pair.shape)
        slope = slope + terms * tile.value[:, place][:, None]
    total = xp.zeros_like(tile.value[:, 0])
    for place in range(tile.value.shape[1]):
        total = total + tile.value[:, place] * slope[:, place]
    return total


def map_rows(
    xp: Any,
    rows: Rows,
    offsets: np.ndarray[Any, Any],
    cells: int,
    function: Callable[[Tile], Array],
    width: int | None = None,
) -> Array:
    """[row, width] results of `function` on tiles of rows, back in the order of the rows.

    `cells` is what a padded entry or result of a row occupies at most; `width` defaults to it.
    """
    done, results = [], [xp.zeros((0, cells if width is None else width), dtype=xp.float64)]
    for chosen, tile in tiles(xp, rows, offsets, cells):
        done.append(chosen)
        results.append(function(tile)[: len(chosen), :])
    order = np.concatenate([np.empty(0, dtype=np.int64), *done])
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return xp.take(xp.concat(results, axis=0), xp.asarray(back), axis=0)


def tiles(
    xp: Any, rows: Rows, offsets: np.ndarray[Any, Any], cells: int
) -> Iterator[tuple[np.ndarray[Any, Any], Tile]]:
    """Row numbers and padded rows, one shape after another.

    Lengths are padded to a power of two, and so are the rows of a tile: few shapes occur, so
    that a compiling library compiles few programs.
    """
    if rows.column.shape[0] == 0:
        rows = Rows(offsets, xp.zeros(1, dtype=xp.int64), xp.zeros(1, dtype=rows.value.dtype))
    sizes = np.diff(offsets)
    padded = 1 << np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
    for length in np.unique(padded).tolist():
        members = np.flatnonzero(padded == length)
        most = max(1, 1 << int(np.log2(max(_TILE // max(cells, length), 1))))
        for start in range(0, len(members), most):
            chosen = members[start : start + most]
            count = 1 << int(np.ceil(np.log2(len(chosen))))
            yield chosen, _padded(xp, rows, offsets, chosen, count, length)


def _padded(
    xp: Any,
    rows: Rows,
    offsets: np.ndarray[Any, Any],
    chosen: np.ndarray[Any, Any],
    count: int,
    length: int,
) -> Tile:
    """The chosen rows as `count` rows of `length` entries."""
    first = np.zeros(count, dtype=np.int64)
    size = np.zeros(count, dtype=np.int64)
    first[: len(chosen)] = offsets[chosen]
    size[: len(chosen)] = offsets[chosen + 1] - offsets[chosen]
    place = np.arange(length)[None, :]
    inside = place < size[:, None]
    entry = xp.asarray(np.where(inside, first[:, None] + place, 0).ravel())
    mask = xp.asarray(inside)
    column = xp.reshape(xp.take(rows.column, entry, axis=0), (count, length))
    value = xp.reshape(xp.take(rows.value, entry, axis=0), (count, length))
    return Tile(
        xp.where(mask, column, xp.zeros_like(column)), xp.where(mask, value, xp.zeros_like(value))
    )


def _weighted_tail(xp: Any, ascending: Array, measure: TailMeasure) -> Array:
    """[row] the measure of losses [row, scenario] in ascending order."""
    total = xp.zeros_like(ascending[:, 0])
    first = ascending.shape[1] - len(measure.weights)
    for place, weight in enumerate(reversed(measure.weights)):
        total = total + weight * ascending[:, first + place]
    return total / measure.divisor


def black76(
    xp: Any,
    ndtr: Any,
    forward: Array,
    strike: Array,
    volatility: Array,
    time: Array,
    rate: Array,
    call: Array,
) -> Array:
    """Black-76 value of options on a forward, per unit.

    All arguments broadcast: `forward` >= 0, `strike` > 0, `volatility` >= 0 per year as a
    decimal, `time` >= 0 in years, `rate` per year, `call` True for calls. Where volatility,
    time or forward is 0 the value is the discounted intrinsic value. `ndtr` is the library's
    normal distribution function. Computes in float64, to which float32 is widened. Source: F.
    Black, J. Financial Economics 3 (1976) 167.
    """
    numbers = (forward, strike, volatility, time, rate)
    forward, strike, volatility, time, rate = (xp.asarray(n, dtype=xp.float64) for n in numbers)
    sign = xp.where(call, xp.asarray(1.0), xp.asarray(-1.0))
    d1, d2, live = _d1_d2(xp, forward, strike, volatility, time)
    value = sign * (forward * ndtr(sign * d1) - strike * ndtr(sign * d2))
    exercised = sign * (forward - strike)
    intrinsic = xp.where(exercised > 0, exercised, xp.zeros_like(exercised))
    return xp.exp(-rate * time) * xp.where(live, value, intrinsic)


def black76_delta(
    xp: Any,
    ndtr: Any,
    forward: Array,
    strike: Array,
    volatility: Array,
    time: Array,
    rate: Array,
    call: Array,
) -> Array:
    """Derivative of `black76` with respect to the forward; same arguments.

    Without volatility or time it is the discounted 0 or +-1 of the exercise decision, and half
    of that where forward and strike are equal.
    """
    sign = xp.where(call, xp.asarray(1.0), xp.asarray(-1.0))
    d1, _, live = _d1_d2(xp, forward, strike, volatility, time)
    step = (xp.sign(sign * (forward - strike)) + 1.0) / 2.0
    return xp.exp(-rate * time) * sign * xp.where(live, ndtr(sign * d1), step)


def _d1_d2(
    xp: Any, forward: Array, strike: Array, volatility: Array, time: Array
) -> tuple[Array, Array, Array]:
    """d1, d2 and where they mean anything; elsewhere they are finite placeholders."""
    deviation = volatility * xp.sqrt(time)
    live = (deviation > NO_DEVIATION) & (forward > 0)
    safe_deviation = xp.where(live, deviation, xp.ones_like(deviation))
    moneyness = xp.where(live, forward / strike, xp.ones_like(forward / strike))
    d1 = xp.log(moneyness) / safe_deviation + safe_deviation / 2.0
    return d1, d1 - safe_deviation, live
