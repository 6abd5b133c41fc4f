"""OKX's portfolio margin, as far as public sources carry it.

All contracts on a coin are one risk unit, with the coin itself where it hedges them. Maintenance
margin of a unit is max(MR1 + MR2 + MR3 + MR4 + MR5, MR6, MR7): the worst of 21 moves of price and
volatility, a day's decay, volatilities that move apart by tenor, forwards that move apart from the
index, interest, half the loss of an extreme move, and a minimum charge. MR9 (stable coins that lose
their peg) and MR8 (borrowing) come on top.

How MR3, MR5 and MR9 are computed is not public enough: they are charges of the book (`mr3`, `mr5`,
`mr9`, in USD), and a set that needs one and has none fails by name, unless `waived` says that it is
nothing. So do options until `volatility` is given, units whose tier lacks a figure, coins without a
`collateral` share, and borrowings beyond those whose rates are known, unless the charges `mr8` and
`mr8_initial` say what they require.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from gpu_margin import crypto_files, crypto_rows, crypto_sets, okx_charges, okx_units
from gpu_margin.backend import Array, Backend
from gpu_margin.crypto_book import (
    COIN,
    INITIAL,
    MAINTENANCE,
    OPTION,
    PERPETUAL,
    Bools,
    CryptoBook,
    CryptoMargin,
    CryptoMarket,
    Floats,
    Ints,
    Level,
)
from gpu_margin.okx_charges import Units
from gpu_margin.okx_figures import Figures, Tier
from gpu_margin.okx_units import CELLS
from gpu_margin.portfolio import Rows
from gpu_margin.result import FileMargin

FILES = crypto_files.FILES
CURRENCY = crypto_files.CURRENCY
Inputs = crypto_files.Inputs
load = crypto_files.load
check = crypto_files.check

_NAME = "OKX portfolio margin"


class Parameters(crypto_files.CryptoFiles):
    """Settings of a model."""

    table: str = Field(default="2025-01", description="version of the figures")
    figures: dict[str, Any] = Field(default={}, description="figures that replace the table's")

    @model_validator(mode="after")
    def _possible(self) -> Parameters:
        figures(self)
        return self


def figures(parameters: Parameters) -> Figures:
    """The table's figures with what the parameters replace of them."""
    table = crypto_files.versioned("okx", "pm", parameters.table)["figures"]
    return Figures(**crypto_files.with_overrides(table, parameters.figures))


def margin(parameters: Parameters, inputs: Inputs, rate: float, backend: Backend) -> FileMargin:
    """Margin of all accounts, at `rate` for one USD."""
    found = prepare(figures(parameters), inputs.market, backend).margin(inputs.book)
    facts = parameters.model_dump(include={"table", "figures"})
    return crypto_files.file_margin(inputs, found, rate, {"rulebook": _NAME, **facts})


def prepare(figures: Figures, market: CryptoMarket, backend: Backend) -> Prepared:
    """All that depends on the market only; options are priced here, on the host."""
    tiers = [figures.tier(name) for name in market.underlyings]
    steps = [okx_units.Steps(tier.moves, tier.extreme) for tier in tiers]
    shocks = [okx_units.Shock(one.days, one.points, one.share) for one in figures.volatility or ()]
    gains = okx_units.unit_gains(market, steps, shocks)
    delta, money = okx_charges.dollars(market, gains), _money(figures, market)
    refused = _refused(figures, market, tiers)
    every = np.concatenate([gains, delta, money], axis=1)
    known = ~np.any(list(refused.values()), axis=0)
    refused[_UNPRICED] = known & ~np.isfinite(every).all(axis=1)
    bad = np.any(list(refused.values()), axis=0)[:, None]
    charges = okx_charges.Charges(
        market=market,
        rates=_rates(figures, tiers),
        key=okx_charges.units_of(market, figures.spot_offset),
        gains=backend.to_device(np.where(bad, 0.0, gains)),
        spot=backend.to_device(okx_units.spot_gains(market, steps)),
        delta=backend.to_device(np.where(bad, 0.0, delta)),
        size=backend.to_device(np.where(bad, 0.0, np.abs(delta))),
        backend=backend,
    )
    named = zip(market.underlyings, steps, strict=True)
    scenarios = tuple(name for unit, one in named for name in one.names(unit))
    money = backend.to_device(np.where(bad, 0.0, money))
    return Prepared(figures, market, charges, scenarios, refused, money, backend)


@dataclass(frozen=True)
class Prepared:
    """The rulebook in one market, on one device.

    `scenarios` are the cells of each underlying's unit, one unit after another. `refused`
    [instrument] by reason. `money` [instrument, column of _MONEY] on the device.
    """

    figures: Figures
    market: CryptoMarket
    charges: okx_charges.Charges
    scenarios: tuple[str, ...]
    refused: Mapping[str, Bools]
    money: Array
    backend: Backend

    def margin(self, book: CryptoBook, *, pnl: bool = False) -> CryptoMargin:
        """Margin of every set, with its units' gains in their cells if asked for."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._margin(book, pnl)

    def _margin(self, book: CryptoBook, pnl: bool) -> CryptoMargin:
        rows = crypto_sets.netted(book)
        units = self.charges.of(rows, pnl)
        given = {name: book.charges.get(name, np.zeros(len(rows))) for name in _GIVEN}
        refusals = self._refusals(book, rows, units, given)
        decided, parts = self._parts(units, given, len(rows))
        money = dict(
            zip(_MONEY, crypto_rows.weighted(self.backend, rows, self.money).T, strict=True)
        )
        money["discount"] = self._discount(rows)
        cash = book.cash * self.market.stable
        borrowed = np.maximum(0.0 - (cash + book.unrealised), 0.0)
        self._refuse_borrowing(refusals, rows, borrowed, given)
        levels = self._levels(parts, given, borrowed, money["discount"])
        to_market = money["option_value"] + money["collateral_value"] + book.unrealised
        beyond = ~np.isfinite(to_market + cash + levels[INITIAL].requirement)
        refusals.add(beyond, _BEYOND, "quantity")
        found = CryptoMargin(
            levels=levels,
            mark_to_market=to_market,
            cash=cash,
            worst=_worst(units, decided, len(rows)),
            scenarios=self.scenarios,
            figures={
                **self._totals(units, given, levels, len(rows)),
                "borrowed": borrowed,
                "option_value": money["option_value"],
                "collateral_value": money["collateral_value"],
                "perpetual_unrealised": book.unrealised,
            },
            failures=refusals.table,
            pnl=None if units.cells is None else self._pnl(units, units.cells, len(rows)),
        )
        return crypto_rows.without(found, refusals.failed)

    def _parts(
        self, units: Units, given: Mapping[str, Floats], count: int
    ) -> tuple[Decided, dict[str, Floats]]:
        """What decides each unit's margin, and [set] the charges that count, by name.

        What is given for a set with one unit is that unit's; of several units nothing says whose it
        is, and it is charged on top of them all: that is never less.
        """
        several = np.bincount(units.owner[units.contracts], minlength=count) != 1
        lone = units.contracts & ~several[units.owner]
        own = {name: np.where(lone, given[name][units.owner], 0.0) for name in ("mr3", "mr5")}
        summed = (units.stress, units.decay, own["mr3"], units.basis, own["mr5"])
        total = np.zeros(len(units.owner))
        for charge in summed:
            total = total + charge
        by_sum = (total >= units.extreme_charge) & (total >= units.minimum)
        by_extreme = ~by_sum & (units.extreme_charge >= units.minimum)
        columns = [np.where(by_sum, charge, 0.0) for charge in summed]
        columns.append(np.where(by_extreme, units.extreme_charge, 0.0))
        columns.append(np.where(by_sum | by_extreme, 0.0, units.minimum))
        sums = crypto_rows.added(self.backend, np.stack(columns, axis=1), units.owner, count)
        parts = dict(zip(_UNIT_PARTS, sums.T, strict=True))
        for name in ("mr3", "mr5"):
            parts[name] = parts[name] + np.where(several, given[name], 0.0)
        required = np.maximum(np.maximum(total, units.extreme_charge), units.minimum)
        return Decided(by_extreme, required), parts

    def _levels(
        self,
        parts: Mapping[str, Floats],
        given: Mapping[str, Floats],
        borrowed: Floats,
        discount: Floats,
    ) -> dict[str, Level]:
        rates, taken = self.figures.borrowing, given["mr8"] > 0
        derivatives = {**parts, "mr9": given["mr9"]}
        factor = self.figures.initial_factor
        initial = {name: amount * factor for name, amount in derivatives.items()}
        initial["mr8"] = np.where(taken, given["mr8_initial"], borrowed * rates.initial)
        kept = np.where(taken, given["mr8"], borrowed * rates.maintenance)
        return {
            INITIAL: _level({**initial, "collateral_discount": discount}),
            MAINTENANCE: _level({**derivatives, "mr8": kept, "collateral_discount": discount}),
        }

    def _totals(
        self, units: Units, given: Mapping[str, Floats], levels: Mapping[str, Level], count: int
    ) -> dict[str, Floats]:
        """[set] every charge over all units, whether or not it decides."""
        columns = (units.stress, units.decay, units.basis, units.extreme_charge, units.minimum)
        sums = crypto_rows.added(self.backend, np.stack(columns, axis=1), units.owner, count)
        totals = dict(zip(("mr1", "mr2", "mr4", "mr6", "mr7"), sums.T, strict=True))
        totals |= {name: given[name] for name in ("mr3", "mr5", "mr9")}
        totals["mr8"] = levels[MAINTENANCE].components["mr8"]
        return {name: totals[name] for name in sorted(totals)}

    def _discount(self, rows: Rows) -> Floats:
        """[set] what coins that are held do not count for as equity."""
        i = self.market.instruments
        rates = np.array([1.0 - self.figures.collateral.get(name, 1.0) for name in i.ids])
        unit = np.where(i.kind == COIN, i.price * rates, 0.0)[:, None]
        unit = np.where(np.isfinite(unit), unit, 0.0)
        long = crypto_rows.only(rows, rows.value > 0)
        return crypto_rows.weighted(self.backend, long, self.backend.to_device(unit))[:, 0]

    def _pnl(self, units: Units, cells: Floats, count: int) -> Floats:
        pnl = np.zeros((count, len(self.market.underlyings), CELLS))
        pnl[units.owner, units.unit] = cells
        return pnl.reshape(count, -1)

    def _refusals(
        self, book: CryptoBook, rows: Rows, units: Units, given: Mapping[str, Floats]
    ) -> crypto_sets.Refusals:
        refusals, i, count = crypto_sets.Refusals(book), self.market.instruments, len(rows)
        for reason, bad in self.refused.items():
            refusals.entries(rows, bad, reason, i.ids)
        unlisted = np.array([name not in self.figures.collateral for name in i.ids], dtype=np.bool_)
        long = crypto_rows.only(rows, rows.value > 0)
        refusals.entries(long, unlisted & (i.kind == COIN), _UNLISTED, i.ids)
        crypto_rows.refuse_charges(refusals, _GIVEN)
        for name, amount in given.items():
            refusals.add(~(amount >= 0), _CHARGE, name)
        for name, needed in (("mr3", units.apart), ("mr5", units.optional), ("mr9", units.pegged)):
            if name not in self.figures.waived:
                sets = np.bincount(units.owner[needed], minlength=count) > 0
                refusals.add(sets & (given[name] == 0), _NEEDED[name], name)
        large = np.bincount(units.owner[np.isnan(units.minimum)], minlength=count) > 0
        refusals.add(large, _LARGE, "minimum_steps")
        return refusals

    def _refuse_borrowing(
        self,
        refusals: crypto_sets.Refusals,
        rows: Rows,
        borrowed: Floats,
        given: Mapping[str, Floats],
    ) -> None:
        taken = given["mr8"] > 0
        refusals.add(taken & ~(given["mr8_initial"] >= given["mr8"]), _BORROWED, "mr8_initial")
        refusals.add(~taken & (borrowed > self.figures.borrowing.most), _BORROWING, "mr8")
        coin = self.market.instruments.kind[rows.column] == COIN
        short = np.diff(crypto_rows.only(rows, coin & (rows.value < 0)).offsets) > 0
        refusals.add(~taken & short, _BORROWING, "mr8")


@dataclass(frozen=True)
class Decided:
    """[unit] whether MR6 decides its margin, and what it requires."""

    by_extreme: Bools
    required: Floats


def _worst(units: Units, decided: Decided, count: int) -> Ints:
    """[set] the cell that decides its largest unit, as a code of all scenarios; -1 without loss."""
    cell = np.where(decided.by_extreme, units.extreme, units.worst)
    lost = np.where(decided.by_extreme, units.extreme_charge, units.stress) > 0
    order = np.lexsort((units.unit, -decided.required, units.owner))
    owner, first = np.unique(units.owner[order], return_index=True)
    chosen = order[first]
    worst = np.full(count, -1, dtype=np.int64)
    worst[owner] = np.where(lost[chosen], units.unit[chosen] * CELLS + cell[chosen], -1)
    return worst


def _level(parts: Mapping[str, Floats]) -> Level:
    ordered = {name: parts[name] for name in _PARTS}
    total = np.zeros(len(ordered["mr1"]))
    for amount in ordered.values():
        total = total + amount
    return Level(total, ordered)


# ---------------------------------------------------------------- what depends on the market only

_UNIT_PARTS = ("mr1", "mr2", "mr3", "mr4", "mr5", "mr6", "mr7")
_PARTS = (*_UNIT_PARTS, "mr8", "mr9", "collateral_discount")
# Charges that a book may have.
_GIVEN = ("mr3", "mr5", "mr8", "mr8_initial", "mr9")
_MONEY = ("option_value", "collateral_value")

_UNPRICED = "the feeds have no finite price or volatility for the instrument"
_NO_SHOCKS = "the table has no volatility shocks for options; give figures.volatility"
_NO_BASIS = "the tier of the coin has no perpetual_basis; give it in figures.tiers"
_NO_MINIMUM = "the tier of the coin has no minimum_charge; give it in figures.tiers"
_UNLISTED = "the coin has no share that it counts for; give it in figures.collateral"
_CHARGE = "a charge must be 0 or more"
_NEEDED = {
    "mr3": "options of several expiries need the charge mr3, or figures.waived to say that it is "
    "nothing",
    "mr5": "options need the charge mr5, or figures.waived to say it is nothing",
    "mr9": "contracts of several settlement currencies against each other need the charge mr9, or "
    "figures.waived to say it is nothing",
}
_LARGE = (
    "the minimum charge is beyond the steps that are known; give minimum_steps in figures.tiers"
)
_BORROWED = "the charge mr8_initial must be as large as mr8"
_BORROWING = "nothing says what such a borrowing requires; give the charges mr8 and mr8_initial"
_BEYOND = "the margin is beyond all numbers"


def _refused(figures: Figures, market: CryptoMarket, tiers: list[Tier]) -> dict[str, Bools]:
    """[instrument] by reason, those that no set may hold."""
    i = market.instruments
    basis = np.array([tier.perpetual_basis is None for tier in tiers] + [False], dtype=np.bool_)
    minimum = np.array([tier.minimum_charge is None for tier in tiers] + [False], dtype=np.bool_)
    option, contract = i.kind == OPTION, i.kind != COIN
    return {
        _NO_SHOCKS: option if not figures.volatility else np.zeros(len(i), dtype=np.bool_),
        _NO_BASIS: (i.kind == PERPETUAL) & basis[i.underlying],
        _NO_MINIMUM: contract & minimum[i.underlying],
    }


def _money(figures: Figures, market: CryptoMarket) -> Floats:
    """[instrument, column of _MONEY] of one unit."""
    kind, price = market.instruments.kind, okx_units.marks(market)
    return np.stack([np.where(kind == own, price, 0.0) for own in (OPTION, COIN)], axis=1)


def _rates(figures: Figures, tiers: list[Tier]) -> okx_charges.Rates:
    every = list(figures.tiers.values())

    def column(values: list[float | None]) -> Floats:
        return np.array([np.nan if one is None else one for one in values], dtype=np.float64)

    return okx_charges.Rates(
        extreme_share=figures.extreme_share,
        basis=column([tier.annualised_basis for tier in tiers]),
        perpetual_basis=column([tier.perpetual_basis for tier in tiers]),
        minimum=column([tier.minimum_charge for tier in tiers]),
        tier=np.array([every.index(tier) for tier in tiers], dtype=np.int64),
        steps=[sorted(tier.minimum_steps) for tier in every],
    )
