"""What risk units of OKX's portfolio margin are charged, for any number of accounts at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpu_margin import crypto_rows, crypto_sets, okx_units
from gpu_margin.backend import Array, Backend
from gpu_margin.crypto_book import COIN, OPTION, PERPETUAL, Bools, CryptoMarket, Floats, Ints
from gpu_margin.crypto_shocks import YEAR
from gpu_margin.okx_units import CELLS, DELTA, SPOT, STRESS, THETA
from gpu_margin.portfolio import Rows

# Risk units that are stressed at a time.
_UNITS = 1 << 17


@dataclass(frozen=True)
class Rates:
    """Figures of each underlying's unit, NaN where they are not known.

    `extreme_share` of a loss; `basis` and `perpetual_basis` of MR4; `minimum` of MR7, whose size
    counts by the `steps` (up to, factor) of a tier: `tier` is the underlying's.
    """

    extreme_share: float
    basis: Floats
    perpetual_basis: Floats
    minimum: Floats
    tier: Ints
    steps: Sequence[Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Units:
    """Risk units of sets, [unit] ordered by their set `owner` and underlying `unit`.

    The charges are >= 0; `minimum` is NaN where its size is beyond the steps that are known.
    `worst` and `extreme` are the cells of MR1 and MR6; `cells` [unit, cell] where they were asked
    for. `contracts` are units with any contracts, `apart` with options of several expiries,
    `optional` with any options, and `pegged` with contracts that are long in one currency of
    settlement and short in another.
    """

    owner: Ints
    unit: Ints
    stress: Floats
    worst: Ints
    decay: Floats
    basis: Floats
    extreme_charge: Floats
    extreme: Ints
    minimum: Floats
    contracts: Bools
    apart: Bools
    optional: Bools
    pegged: Bools
    cells: Floats | None


@dataclass(frozen=True)
class Charges:
    """The stress tests in one market, on one device.

    `key` [instrument] the unit, negative for what is in none. On the device: `gains` [instrument,
    column of `okx_units.unit_gains`], `spot` [underlying, cell] and in USD `delta` and its
    `size` [instrument, 1].
    """

    market: CryptoMarket
    rates: Rates
    key: Ints
    gains: Array
    spot: Array
    delta: Array
    size: Array
    backend: Backend

    def of(self, rows: Rows, keep: bool) -> Units:
        """Units of all sets; `keep` their cells."""
        held, owner, unit = crypto_sets.keyed(rows, self.key, len(self.market.underlyings))
        place = owner * len(self.market.underlyings) + unit
        stress, worst, extreme, decay, cells = self._stressed(held, unit, keep)
        sizes = Rows(held.offsets, held.column, np.abs(held.value))
        size = crypto_rows.weighted(self.backend, sizes, self.size)
        contracts, expiries, options = self._counted(rows, place)
        return Units(
            owner=owner,
            unit=unit,
            stress=np.maximum(0.0 - stress[:, 0], 0.0),
            worst=worst,
            decay=np.maximum(0.0 - decay, 0.0),
            basis=self._basis(rows, place),
            extreme_charge=np.maximum(0.0 - stress[:, 1], 0.0) * self.rates.extreme_share,
            extreme=extreme,
            minimum=self._minimum(size[:, 0], unit),
            contracts=contracts > 0,
            apart=expiries > 1,
            optional=options > 0,
            pegged=self._pegged(rows, place),
            cells=cells,
        )

    def _stressed(
        self, held: Rows, unit: Ints, keep: bool
    ) -> tuple[Floats, Ints, Ints, Floats, Floats | None]:
        """[unit, 2] worst gain in the stress test and at extremes, their cells, a day's gain."""
        parts = [
            self._block(block, unit[start : start + len(block)], keep)
            for start, block in crypto_rows.blocks(held, _UNITS)
        ]
        none = np.zeros(0, dtype=np.int64)
        nothing = (np.zeros((0, 2)), none, none, np.zeros(0), np.zeros((0, CELLS)))
        stress, worst, extreme, decay, cells = zip(nothing, *parts, strict=True)
        return (
            np.concatenate(stress),
            np.concatenate(worst),
            np.concatenate(extreme),
            np.concatenate(decay),
            np.concatenate(cells) if keep else None,
        )

    def _block(
        self, held: Rows, unit: Ints, keep: bool
    ) -> tuple[Floats, Ints, Ints, Floats, Floats]:
        backend, xp = self.backend, self.backend.xp
        sums = backend.weighted_sum(crypto_rows.on_device(backend, held), self.gains)
        # A coin counts as far as it hedges the unit's contracts.
        spot, none = sums[:, SPOT], xp.zeros_like(sums[:, SPOT])
        used = xp.minimum(-sums[:, DELTA], xp.maximum(spot, none))
        used = xp.maximum(used, xp.minimum(spot, none))
        moves = xp.take(self.spot, backend.to_device(unit), axis=0)
        cells = sums[:, :CELLS] + used[:, None] * moves
        stress, extreme = cells[:, :STRESS], cells[:, STRESS:]
        worst = xp.stack([xp.min(stress, axis=1), xp.min(extreme, axis=1)], axis=1)
        there = worst, xp.argmin(stress, axis=1), xp.argmin(extreme, axis=1), sums[:, THETA]
        here = [backend.to_host(one) for one in there]
        kept = backend.to_host(cells) if keep else np.zeros((len(unit), CELLS))
        return here[0], here[1], here[2] + STRESS, here[3], kept

    def _minimum(self, size: Floats, unit: Ints) -> Floats:
        """[unit] MR7: of the deltas in USD of all positions."""
        raw = np.where(size == 0.0, 0.0, size * self.rates.minimum[unit])
        charge, tier = np.where(raw == 0.0, 0.0, np.nan), self.rates.tier[unit]
        for code, steps in enumerate(self.rates.steps):
            own = np.flatnonzero((tier == code) & (raw > 0.0))
            up_to = np.array([limit for limit, _ in steps], dtype=np.float64)
            factor = np.array([factor for _, factor in steps] + [np.nan])
            charge[own] = raw[own] * factor[np.searchsorted(up_to, raw[own])]
        return charge

    def _basis(self, rows: Rows, place: Ints) -> Floats:
        """[unit] MR4: forwards and perpetuals move apart from the index, all against the set."""
        i, expiries = self.market.instruments, self.market.expiries
        count = len(self.market.underlyings)
        # Slots of a unit stand together: its perpetuals, then its expiries.
        of_expiry = np.arange(len(expiries)) + expiries.underlying + 1
        of_perpetual = np.searchsorted(expiries.underlying, np.arange(count)) + np.arange(count)
        share = np.zeros(len(expiries) + count)
        share[of_expiry] = self.rates.basis[expiries.underlying] * (expiries.seconds / YEAR)
        share[of_perpetual] = self.rates.perpetual_basis
        unit = np.zeros(len(share), dtype=np.int64)
        unit[of_expiry], unit[of_perpetual] = expiries.underlying, np.arange(count)
        dated = np.append(of_expiry, -1)[i.expiry]
        slots = np.where(i.kind == PERPETUAL, np.append(of_perpetual, -1)[i.underlying], dated)
        held, owner, slot = crypto_sets.keyed(rows, slots, len(share))
        delta = crypto_rows.weighted(self.backend, held, self.delta)
        charge = np.abs(delta) * share[slot][:, None]
        own = np.searchsorted(place, owner * count + unit[slot])
        return crypto_rows.added(self.backend, charge, own, len(place))[:, 0]

    def _counted(self, rows: Rows, place: Ints) -> tuple[Ints, Ints, Ints]:
        """[unit] how many contracts it has, expiries of options, and options."""
        i, count = self.market.instruments, len(self.market.underlyings)
        held, owner, unit = crypto_sets.keyed(
            rows, np.where(i.kind == COIN, -1, i.underlying), count
        )
        contracts = np.zeros(len(place), dtype=np.int64)
        contracts[np.searchsorted(place, owner * count + unit)] = np.diff(held.offsets)
        key = np.where(i.kind == OPTION, i.expiry, -1)
        held, owner, expiry = crypto_sets.keyed(rows, key, len(self.market.expiries))
        unit = self.market.expiries.underlying[expiry]
        own = np.searchsorted(place, owner * count + unit)
        options = np.bincount(own, weights=np.diff(held.offsets), minlength=len(place))
        return contracts, np.bincount(own, minlength=len(place)), options.astype(np.int64)

    def _pegged(self, rows: Rows, place: Ints) -> Bools:
        """[unit] whether it is long in one currency of settlement and short in another."""
        i, count = self.market.instruments, len(self.market.underlyings)
        names, currency = np.unique(i.settlement.to_numpy().astype(str), return_inverse=True)
        key = np.where(i.kind == COIN, -1, i.underlying * len(names) + currency.reshape(-1))
        held, owner, both = crypto_sets.keyed(rows, key, count * max(len(names), 1))
        delta = crypto_rows.weighted(self.backend, held, self.delta)[:, 0]
        own = np.searchsorted(place, owner * count + both // max(len(names), 1))
        sides = [np.bincount(own[one], minlength=len(place)) > 0 for one in (delta > 0, delta < 0)]
        return np.asarray(sides[0] & sides[1])


def units_of(market: CryptoMarket, offset: bool) -> Ints:
    """[instrument] the underlying whose unit it is in, -1 for none; coins only with `offset`."""
    i = market.instruments
    return np.where((i.kind == COIN) & (not offset), -1, i.underlying).astype(np.int64)


def dollars(market: CryptoMarket, gains: Floats) -> Floats:
    """[instrument, 1] delta of one contract in USD."""
    return np.asarray((gains[:, DELTA] * okx_units.dollars(market))[:, None])
