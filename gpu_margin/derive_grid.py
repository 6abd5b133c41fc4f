"""What Derive's portfolio margins share: sets of one underlying under a grid of scenarios.

A set's options are summed expiry by expiry in all cells at once, each expiry's sum is discounted by
its sign, and the expiries are added up. Everything else of a set is linear in its positions. The
market is priced on the host when a grid is made; sums of sets run on the device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Array, Backend
from gpu_margin.crypto_book import OPTION, CryptoMarket
from gpu_margin.crypto_sets import keyed
from gpu_margin.crypto_shocks import YEAR, option_value
from gpu_margin.pieces import full_pieces
from gpu_margin.portfolio import Rows, entry_rows, row_offsets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Parts = tuple[NDArray[Any], ...]

BASIS = "basis"
# Sets and entries that are worked on at a time: on the host, what they need stays in the cache. A
# device wants so many times as much to do at once.
_SETS, _ENTRIES = 1 << 11, 1 << 15
_DEVICE = 16


@dataclass(frozen=True)
class Options:
    """Options of one underlying, [column] in order of expiry, strike and right.

    `instrument` and `expiry` are codes of the market; `strike_group` numbers distinct pairs of
    expiry and strike. `moving` and `fixed` are the parts of the forward; `discount` is what a unit
    at expiry is worth now.
    """

    instrument: Ints
    expiry: Ints
    strike_group: Ints
    strike: Floats
    volatility: Floats
    call: Bools
    years: Floats
    moving: Floats
    fixed: Floats
    discount: Floats

    def values(self, spot: Floats, volatility: Floats) -> Floats:
        """[column, cell] values with the spot times `spot` [cell] at `volatility` [column, cell].

        Only what still moves of a forward goes with the spot.
        """
        forward = self.moving[:, None] * spot + self.fixed[:, None]
        terms = (self.strike, volatility, self.years, self.call, self.discount)
        own = (term if term.ndim > 1 else term[:, None] for term in terms)
        return option_value(forward, *own)


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The names; those that come again have a number."""
    found: list[str] = []
    for name in names:
        again = sum(one.split(" #")[0] == name for one in found)
        found.append(f"{name} #{again + 1}" if again else name)
    return tuple(found)


def options_of(market: CryptoMarket, chosen: Bools, discount: Floats) -> Options:
    """The options that are `chosen` [instrument], at `discount` [expiry]."""
    held, expiries = market.instruments, market.expiries
    code = np.flatnonzero(chosen & (held.kind == OPTION))
    code = code[np.lexsort((held.call[code], held.strike[code], held.expiry[code]))]
    expiry, strike = held.expiry[code], held.strike[code]
    first = np.ones(len(code), dtype=np.bool_)
    first[1:] = (expiry[1:] != expiry[:-1]) | (strike[1:] != strike[:-1])
    return Options(
        instrument=code,
        expiry=expiry,
        strike_group=np.cumsum(first) - 1,
        strike=strike,
        volatility=held.volatility[code],
        call=held.call[code],
        years=expiries.seconds[expiry] / YEAR,
        moving=expiries.forward[expiry],
        fixed=expiries.fixed[expiry],
        discount=discount[expiry],
    )


@dataclass(frozen=True)
class Shocks:
    """Scenarios of a rulebook for the options of one underlying; skews come last.

    [scenario]: `names`, factors on the `spot` and `dampening` of what they make; `volatility`
    [column, scenario]. `skews` are how many take each expiry's absolute change as a loss. [expiry]:
    factors `positive` and `negative` on shocked values of that sign, and the `basis` contingency's
    share of a loss where forwards move by the factors of `basis_moves`.
    """

    names: tuple[str, ...]
    spot: Floats
    dampening: Floats
    volatility: Floats
    skews: int
    positive: Floats
    negative: Floats
    basis: Floats
    basis_moves: tuple[float, float]


@dataclass(frozen=True)
class Sums:
    """What sets come to, [set] on the host.

    `worst` P&L, never above 0, of the scenario with code `code`; `basis` contingency, never above
    0; `option_value` as marked; `short_options` in units, net per expiry and strike; `exposure` to
    the spot in USD; `sizes` [set, figure] sums of absolute quantities. `pnl` [set, scenario] with
    the basis last.
    """

    worst: Floats
    code: Ints
    basis: Floats
    option_value: Floats
    short_options: Floats
    exposure: Floats
    sizes: Floats
    pnl: Floats | None


@dataclass(frozen=True)
class Grid:
    """A market in one underlying under a rulebook's scenarios, ready for any sets.

    `exposure` [instrument, 1] is that of a unit to the spot, `sizes` [instrument, figure] what a
    unit adds whatever its sign; both finite, and 0 where an instrument is not in this market.
    `values` [column, scenario + 3] are the options': shocked, as marked, and with the basis moved
    up and down.
    """

    options: Options
    shocks: Shocks
    backend: Backend
    place: Ints
    exposure: Array
    sizes: Array
    values: Array
    move: Array
    dampening: Array

    @property
    def names(self) -> tuple[str, ...]:
        """Of the scenarios, that of the basis last."""
        return (*self.shocks.names, BASIS)

    def sums(self, rows: Rows, pnl: bool = False) -> Sums:
        """Of net positions, a row per set, in slices that share the host's processors."""
        host = self.backend.xp is np
        slices = list(_slices(rows, 1 if host else _DEVICE))
        # A device has its own ways of being busy; array libraries of the host let go of the lock.
        workers = (os.cpu_count() or 1) if host else 1
        parts = _in_threads(lambda one: self._slice(one, pnl), slices, min(workers, len(slices)))
        worst, code, basis, value, short, exposure, sizes, *matrix = (
            np.concatenate(several) for several in zip(*parts, strict=True)
        )
        own = matrix[0] if pnl else None
        return Sums(worst, code, basis, value, short, exposure, sizes, own)

    def _slice(self, rows: Rows, pnl: bool) -> Parts:
        backend, xp = self.backend, self.backend.xp
        exposure = backend.weighted_sum(_on(backend, rows), self.exposure)
        size = Rows(rows.offsets, rows.column, np.abs(rows.value))
        sizes = backend.weighted_sum(_on(backend, size), self.sizes)
        total, value, basis, short = self._options(rows)
        profit = (exposure * self.move + total) * self.dampening
        worst, code = xp.min(profit, axis=1), xp.argmin(profit, axis=1)
        lost = worst < basis  # of equals it is the basis
        found = xp.where(lost, worst, basis)
        code = xp.where(lost, code, xp.full_like(code, profit.shape[1]))
        parts = [found, code, basis, value, short, exposure[:, 0], sizes]
        if pnl:
            parts.append(xp.concat([profit, basis[:, None]], axis=1))
        return tuple(backend.to_host(part) for part in parts)

    def _options(self, rows: Rows) -> tuple[Array, Array, Array, Array]:
        """Of options: change [set, scenario]; value, basis contingency, shorts in units [set]."""
        backend, xp, count = self.backend, self.backend.xp, len(rows)
        options = _columns(rows, self.place)
        if not len(options.column):
            scenarios = len(self.shocks.names)
            nothing = backend.to_device(np.zeros(count))
            return backend.to_device(np.zeros((count, scenarios))), nothing, nothing, nothing
        by_expiry, owner, expiry = keyed(options, self.options.expiry, len(self.shocks.basis))
        members = np.arange(len(owner), dtype=np.int64)
        by_set = Rows(row_offsets(owner, count), members, np.ones(len(owner)))
        on_set = _on(backend, by_set)
        change, base, basis = self._changes(_on(backend, by_expiry), expiry)
        total = backend.weighted_sum(on_set, change)
        if self.shocks.skews:
            plain = change.shape[1] - self.shocks.skews
            skewed = backend.weighted_sum(on_set, -xp.abs(change[:, plain:]))
            total = xp.concat([total[:, :plain], skewed], axis=1)
        both = backend.weighted_sum(on_set, xp.stack([base, basis], axis=1))
        return total, both[:, 0], both[:, 1], self._shorts(options)

    def _changes(self, by_expiry: Rows, expiry: Ints) -> tuple[Array, Array, Array]:
        """Of rows of one expiry each: change [row, scenario]; value and contingency [row]."""
        backend, xp, shocks = self.backend, self.backend.xp, self.shocks
        positive, negative, weight = (
            backend.to_device(one[expiry][:, None])
            for one in (shocks.positive, shocks.negative, shocks.basis)
        )
        values = backend.weighted_sum(by_expiry, self.values)
        cells = len(shocks.names)
        shocked, base = values[:, :cells], values[:, cells : cells + 1]
        change = shocked * xp.where(shocked >= 0.0, positive, negative) - base
        up, down = values[:, cells + 1 : cells + 2] - base, values[:, cells + 2 :] - base
        least = xp.where(up < down, up, down)
        basis = xp.where(least < 0.0, least, xp.zeros_like(least)) * weight
        return change, base[:, 0], basis[:, 0]

    def _shorts(self, options: Rows) -> Array:
        """[set] units short: per expiry and strike what calls and puts come to, where negative."""
        backend, groups = self.backend, self.options.strike_group
        by_strike, owner, _ = keyed(options, groups, int(groups[-1]) + 1)
        net = backend.segment_sum(
            backend.to_device(by_strike.value), backend.to_device(by_strike.offsets)
        )
        short = backend.xp.where(net < 0.0, -net, backend.xp.zeros_like(net))
        return backend.segment_sum(short, backend.to_device(row_offsets(owner, len(options))))


def grid_of(
    options: Options, shocks: Shocks, exposure: Floats, sizes: Floats, backend: Backend
) -> Grid:
    """The market under the scenarios: options priced in every cell, numbers on the device."""
    marked = np.repeat(options.volatility[:, None], 3, axis=1)
    values = options.values(
        np.concatenate([shocks.spot, [1.0], shocks.basis_moves]),
        np.concatenate([shocks.volatility, marked], axis=1),
    )
    place = np.full(len(exposure), -1, dtype=np.int64)
    place[options.instrument] = np.arange(len(options.instrument))
    device = backend.to_device
    return Grid(
        options=options,
        shocks=shocks,
        backend=backend,
        place=place,
        exposure=device(np.ascontiguousarray(exposure[:, None])),
        sizes=device(np.ascontiguousarray(sizes)),
        values=device(np.ascontiguousarray(values)),
        move=device((shocks.spot - 1.0)[None, :]),
        dampening=device(shocks.dampening[None, :]),
    )


def _columns(rows: Rows, place: Ints) -> Rows:
    """The entries that have a place, in their order: it becomes their column."""
    column = place[rows.column]
    inside = np.flatnonzero(column >= 0)
    owner = entry_rows(rows)[inside]
    return Rows(row_offsets(owner, len(rows)), column[inside], rows.value[inside])


def _slices(rows: Rows, times: int) -> Iterator[Rows]:
    """The rows in slices of bounded size, at least one."""
    count = len(rows)
    filled = rows.offsets[1:] / (_ENTRIES * times) + np.arange(1, count + 1) / (_SETS * times)
    for start, stop in full_pieces(filled):
        first, last = rows.offsets[start], rows.offsets[stop]
        offsets = rows.offsets[start : stop + 1] - first
        yield Rows(offsets, rows.column[first:last], rows.value[first:last])


def _on(backend: Backend, rows: Rows) -> Rows:
    device = backend.to_device
    return Rows(device(rows.offsets), device(rows.column), device(rows.value))


def _in_threads(work: Callable[[Rows], Parts], slices: Sequence[Rows], workers: int) -> list[Parts]:
    """The results of `work`, in order."""
    if workers <= 1:
        return [work(one) for one in slices]
    with ThreadPoolExecutor(workers) as pool:
        # Each in a copy of the context: how floating-point errors are treated is part of it.
        tasks = [pool.submit(copy_context().run, work, one) for one in slices]
        return [task.result() for task in tasks]
