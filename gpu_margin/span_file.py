"""A SPAN risk parameter file as codes and arrays: what margin is computed from.

Combined commodities are numbered in byte order. A *slot* is a month of a combined commodity;
slots are numbered by commodity and month, so that a tier is a range of slots. Deltas are held in
units of 1 / `DELTA_UNITS`: those of files are whole numbers of them, and sums of these are exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin.failures import ConfigError
from gpu_margin.span_tables import Grid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DELTA_UNITS = 1e8
# What a contract's `right` is.
NO_RIGHT, CALL, PUT = 0, 1, 2


@dataclass(frozen=True)
class Contracts:
    """All contracts, their ids in byte order; `terms` are those of `span_tables.CONTRACTS`.

    [contract]: `slot`; `delta` (composite, scaled, in delta units); `scaling`; `right`; `premium`;
    `value` of one option paid up front, in money of its combined commodity, 0 for all else;
    `refused` why it cannot be margined, "" where it can. `array` [contract, point] is the loss of
    one bought, to be divided by 10^decimals of its combined commodity.

    A position in a contract counts as `part_quantity` times as much of `part_contract`, with the
    delta `part_delta` for each one held, for its parts part_offsets[i] to part_offsets[i + 1]: most
    contracts are their own only part; combinations have their legs. A part whose quantity is 0
    brings nothing but a delta.
    """

    ids: pl.Series
    terms: pl.DataFrame
    slot: Ints
    array: Floats
    delta: Floats
    scaling: Floats
    right: Ints
    premium: Bools
    value: Floats
    refused: pl.Series
    part_offsets: Ints
    part_contract: Ints
    part_quantity: Floats
    part_delta: Floats

    @cached_property
    def rank(self) -> Ints:
        """[contract] its place in the order of slots, and of contracts within them."""
        found = np.empty(len(self.slot), dtype=np.int64)
        found[np.argsort(self.slot, kind="stable")] = np.arange(len(self.slot))
        return found

    @cached_property
    def peak(self) -> Floats:
        """[contract] the largest figure of its array, without its sign."""
        found: Floats = np.maximum(self.array.max(axis=1), -self.array.min(axis=1))
        return found


@dataclass(frozen=True)
class Tiers:
    """Ranges of slots: tier i of a combined commodity has first[i] <= slot < last[i].

    [tier], ordered by combined commodity and then as in the file; `start` [commodity + 1] are their
    offsets; `rate` is money of a short option's minimum, 0 for tiers of any other kind.
    """

    start: Ints
    number: Ints
    first: Ints
    last: Ints
    rate: Floats


@dataclass(frozen=True)
class Commodities:
    """All combined commodities.

    [commodity]: `currency` a code; `decimals` of arrays; `grid` a code; `limit` whether its option
    value counts up to its risk only; `wfpr` a method of `span_tables`; `scan_tiers` whether months
    are scanned apart, by the scan code of their slots; `minimum_greater` whether the short option
    minimum is that of the greater of calls and puts. `factor` and `ratio` [commodity, account type]
    make maintenance and initial margin of risk. Its slots are slots[i] to slots[i + 1].
    `minimum` are its tiers of the short option minimum: one of all months where it has no others.
    `refused` says why it cannot be margined.
    """

    codes: pl.Series
    currency: Ints
    decimals: Ints
    grid: Ints
    limit: Bools
    wfpr: Ints
    scan_tiers: Bools
    minimum_greater: Bools
    minimum: Tiers
    factor: Floats
    ratio: Floats
    slots: Ints
    refused: pl.Series


@dataclass(frozen=True)
class Slots:
    """Months of combined commodities.

    [slot]: `commodity`; `month` as text; `scan` the number, within the commodity, of the months
    that it is scanned with; delivery charges `consumed` and `outright` per delta; price scan range
    per delta for a net short (`up`) and a net long (`down`) delta, NaN where there is none.
    """

    commodity: Ints
    month: pl.Series
    scan: Ints
    consumed: Floats
    outright: Floats
    up: Floats
    down: Floats


@dataclass(frozen=True)
class Intra:
    """Spreads within combined commodities, ordered by commodity and by the order of forming.

    Those of commodity i are start[i] to start[i + 1]. `rate` is money per spread or, where
    `weighted`, a share of price risk that is credited. Legs are leg_offsets[i] to
    leg_offsets[i + 1]: a range of slots, a ratio, and a side (1 A, -1 B).
    """

    start: Ints
    rate: Floats
    weighted: Bools
    name: pl.Series
    leg_offsets: Ints
    leg_first: Ints
    leg_last: Ints
    leg_ratio: Floats
    leg_side: Ints


@dataclass(frozen=True)
class Inter:
    """Spreads between combined commodities in the order of forming, those `above` first.

    `method` is one of `span_tables`; `flat` rates are money, shared by the legs, others shares of
    price risk; `least` is how many commodities a spread by scanning needs. A leg is a combined
    commodity, the range of slots whose deltas count (all of them, or a tier's), a ratio and a side;
    `leg_whole` says that it is all of them and no tier, which may have all of them, too, but is
    scanned as one.
    `target` [spread] is the leg that the others become in a spread by scanning, -1 elsewhere.
    `tiers` has, for a spread by tiers, the ranges [tier, leg] of slots, tier by tier.
    """

    method: Ints
    flat: Bools
    above: Bools
    least: Ints
    target: Ints
    name: pl.Series
    leg_offsets: Ints
    leg_commodity: Ints
    leg_ratio: Floats
    leg_side: Ints
    leg_rate: Floats
    leg_required: Bools
    leg_first: Ints
    leg_last: Ints
    leg_whole: Bools
    tiers: Mapping[int, tuple[Ints, Ints]]

    def __len__(self) -> int:
        return len(self.method)

    def legs(self, spread: int) -> slice:
        """The places of a spread's legs."""
        return slice(int(self.leg_offsets[spread]), int(self.leg_offsets[spread + 1]))


@dataclass(frozen=True)
class SpanFile:
    """Everything that margin by a file needs; `failures` are of its lines.

    `currencies` by code; `rates` by (from, to); `limit`: option value of the whole account counts
    up to its risk only. `pair` [grid, point] and `still` [grid, point] as `span_tables.Grid`;
    points beyond a grid's own repeat its first.
    """

    contracts: Contracts
    commodities: Commodities
    slots: Slots
    intra: Intra
    inter: Inter
    currencies: tuple[str, ...]
    rates: Mapping[tuple[str, str], float]
    limit: bool
    pair: Ints
    still: Bools
    facts: Mapping[str, str]
    failures: pl.DataFrame

    @property
    def points(self) -> int:
        """Scenarios of a risk array."""
        return int(self.contracts.array.shape[1])

    def rate(self, source: str, target: str) -> float:
        """What one unit of a currency is in another; `ConfigError` where the file does not say."""
        found = known_rate(self.rates, source, target)
        if found is None:
            known = ", ".join(sorted({name for pair in self.rates for name in pair})) or "none"
            raise ConfigError(
                f"the file has no rate from {source} to {target} (currencies with rates: {known}); "
                "name another currency, or give the rate"
            )
        return found


def known_rate(rates: Mapping[tuple[str, str], float], source: str, target: str) -> float | None:
    """A rate, or one over that of the other way; None without either."""
    if source == target:
        return 1.0
    if (source, target) in rates:
        return rates[source, target]
    back = rates.get((target, source))
    return None if not back else 1.0 / back


def padded_grids(grids: tuple[Grid, ...]) -> tuple[Ints, Bools]:
    """`pair` and `still` [grid, point] of grids of different sizes."""
    points = max(len(grid) for grid in grids)
    pair = np.tile(np.arange(points, dtype=np.int64), (len(grids), 1))
    still = np.zeros((len(grids), points), dtype=np.bool_)
    for place, grid in enumerate(grids):
        pair[place, : len(grid)] = grid.pair
        still[place, : len(grid)] = grid.still
    return pair, still
