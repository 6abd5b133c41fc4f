"""Deribit's portfolio margin: risk matrix with an extended table, roll shock and delta shock.

A netting set is what one settlement currency margins (segregated, S:PM), or all of an account's
currencies together (cross-collateral, X:PM, market CROSS). A set in several underlyings needs a
correlation contingency whose rule is not public: it is refused unless the figures give one.

Requirements are in USD, at the index of the settlement currency; figures that begin with
`settlement_` are in that currency. Source: see `gpu_margin.deribit_vectors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from gpu_margin import crypto_files
from gpu_margin.backend import Array, Backend
from gpu_margin.crypto_book import (
    COIN,
    INITIAL,
    MAINTENANCE,
    CryptoBook,
    CryptoMargin,
    CryptoMarket,
    Level,
)
from gpu_margin.crypto_sets import NONE, Refusals, gathered, keyed, netted
from gpu_margin.deribit_sets import CASH, CHARGES, Held, haircuts, settle, settlements
from gpu_margin.deribit_vectors import (
    Currency,
    Figures,
    General,
    Pair,
    of_currencies,
    of_pairs,
    roll_moves,
    unit_vectors,
)
from gpu_margin.failures import ConfigError
from gpu_margin.io.deribit import read_params
from gpu_margin.io.tables import file_hash
from gpu_margin.portfolio import Rows, entry_rows, rows_at
from gpu_margin.result import FileMargin

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

FILES = crypto_files.FILES
CURRENCY = crypto_files.CURRENCY
Inputs = crypto_files.Inputs
load, check = crypto_files.load, crypto_files.check

# Sets that are worked on at a time: bounds sets x underlyings x scenarios.
_SETS = 1 << 14


class Parameters(crypto_files.CryptoFiles):
    """Settings of a Deribit portfolio margin model."""

    table: str = Field(default="recorded", description="version of the figures")
    model_params: Path | None = Field(
        default=None,
        description="answer of pme/get_params or pme/simulate, whose figures replace those of the "
        "table; a relative path counts from the working directory",
    )
    figures: dict[str, Any] = Field(
        default={}, description="single figures that replace those of the table"
    )


def figures(parameters: Parameters) -> Figures:
    """The table, then what the venue's answer says, then single figures.

    Raises `ConfigError` for an unknown table, an unreadable answer or a figure out of range.
    """
    found = crypto_files.versioned("deribit", "pm", parameters.table)
    if parameters.model_params is not None:
        told = {
            name: _known(name, one) for name, one in read_params(parameters.model_params).items()
        }
        found = crypto_files.with_overrides(found, told)
    found = crypto_files.with_overrides(found, parameters.figures)
    try:
        return Figures.model_validate(found)
    except ValidationError as error:
        faults = (f"figures.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError("; ".join(faults)) from error


def _known(name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of the venue's answer without what this rulebook knows no use for."""
    if name == "general":
        return {key: value for key, value in table.items() if key in General.model_fields}
    fields = (Currency if name == "currency" else Pair).model_fields
    return {
        key: {field: value for field, value in entry.items() if field in fields}
        for key, entry in table.items()
        if isinstance(entry, Mapping)
    }


def margin(parameters: Parameters, inputs: Inputs, rate: float, backend: Backend) -> FileMargin:
    """Margin of all accounts, at `rate` for one USD."""
    table = figures(parameters)
    found = prepare(table, inputs.market, backend).margin(inputs.book)
    facts = {"table": parameters.table, "date": table.date, "source": table.source}
    if parameters.model_params is not None:
        facts["model_params"] = file_hash(parameters.model_params)
    return crypto_files.file_margin(inputs, found, rate, facts)


def prepare(figures: Figures, market: CryptoMarket, backend: Backend) -> Prepared:
    """What depends on the market only: options are priced on the host, and all is uploaded."""
    return Prepared(figures, market, backend)


class Prepared:
    """Deribit's portfolio margin in one market, on one device."""

    def __init__(self, figures: Figures, market: CryptoMarket, backend: Backend) -> None:
        self._figures, self.market, self._backend = figures, market, backend
        self._currencies = currencies = settlements(market)
        self.vectors = units = unit_vectors(figures, market, currencies.by_name)
        self.scenarios = units.scenarios
        # A column of an instrument serves segregated sets, the same further on cross sets.
        both = np.concatenate([units.amounts, units.dollars])
        delta = np.tile(units.delta, 2)[:, None]
        self._matrix = self._up(np.concatenate([both, delta], axis=1))
        self._delta, self._value = self._up(delta), self._up(units.value[:, None])
        self._held = Held(figures, market, currencies, units, haircuts(figures, market))
        self._haircut = self._up(self._held.haircut[:, None])
        self._worth = backend.to_device(currencies.worth(units.clamped))
        self._key = _keys(market, units.dollars)
        roll, moves, underlying = roll_moves(figures, market)
        self._roll = np.tile(roll, 2)
        self._roll_shock = self._up(moves * currencies.ratio[:, underlying])
        self._dampener = self._up(_dampeners(figures, market, units.moves))

    def _up(self, array: Floats) -> Array:
        """On the device; what cannot be valued as 0, for its sets are refused."""
        # Sums want a row to look at, even those of nothing.
        rows = array if len(array) else np.zeros((1, *array.shape[1:]))
        return self._backend.to_device(np.where(np.isfinite(rows), rows, 0.0))

    @cached_property
    def _of_underlying(self) -> dict[str, Array]:
        """[underlying] figures on the device."""
        figures, market = self._figures, self.market
        found = {name: of_pairs(figures, market, name) for name in ("m_inc", "max_delta_shock")}
        for name in ("pnl_offset", "max_offsetable_pnl"):
            found[name] = of_currencies(figures, market, name)
        free = of_pairs(figures, market, "delta_total_liq_shock_threshold")
        found["free_delta"] = free / market.spot
        return {name: self._up(values) for name, values in found.items()}

    def margin(self, book: CryptoBook, *, pnl: bool = False) -> CryptoMargin:
        """Margin of every set of a book; with its aggregated risk vector in USD if asked for."""
        rows, refusals = netted(book), Refusals(book)
        settled = settle(refusals, rows, self._held)
        parts = [
            self._block(rows_at(rows, sets), settled[sets], pnl)
            for sets in np.split(
                np.arange(len(rows), dtype=np.int64), np.arange(_SETS, len(rows), _SETS)
            )
        ]
        sums = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        price = self._currencies.price[settled]
        levels, coins = self._levels(book, sums, price)
        failed = refusals.failed

        def known(amount: Floats) -> Floats:
            mask = failed if amount.ndim == 1 else failed[:, None]
            return np.where(mask, np.nan, amount)

        return CryptoMargin(
            levels={
                name: Level(
                    known(level.requirement),
                    {part: known(amount) for part, amount in level.components.items()},
                )
                for name, level in levels.items()
            },
            mark_to_market=known(sums["value"] + book.unrealised),
            cash=known(book.cash * self.market.stable),
            worst=np.where(failed, -1, sums["worst"]).astype(np.int64),
            scenarios=self.scenarios,
            figures={name: known(amount) for name, amount in coins.items()},
            failures=refusals.table,
            pnl=known(sums["vector"] * price[:, None]) if pnl else None,
        )

    def _levels(
        self, book: CryptoBook, sums: Mapping[str, Floats], price: Floats
    ) -> tuple[dict[str, Level], dict[str, Floats]]:
        """Levels in USD, and figures in the settlement currency."""
        matrix = {name: sums[name] for name in _MATRIX}
        charges = {name: np.asarray(book.charges.get(name, 0.0 * price)) for name in CHARGES}
        cash = np.maximum(book.cash, 0.0) * self.market.stable
        haircut = sums["haircut"] + cash * self._figures.collateral_haircut(CASH)
        coins = {**matrix, **charges, "collateral_haircut": haircut / price}
        factor = self._figures.general.mm_factor
        dollars = {name: amount * price for name, amount in {**matrix, **charges}.items()}
        dollars["collateral_haircut"] = haircut
        kept = {name: matrix[name] * price * factor for name in matrix}
        total = _total(matrix)
        shown = {f"settlement_{name}": amount for name, amount in coins.items()}
        return (
            {
                INITIAL: Level(_total(dollars), dollars),
                MAINTENANCE: Level(_total(kept), kept),
            },
            {
                "settlement_index": price,
                **shown,
                "settlement_risk_matrix_margin": total,
                "settlement_initial_margin": _total(coins),
                "settlement_maintenance_margin": total * factor,
                "settlement_delta_total": sums["delta"],
            },
        )

    # ------------------------------------------------------------ sums on the device

    def _block(self, rows: Rows, settled: Ints, pnl: bool) -> dict[str, Floats]:
        """Sums of some sets, [set] each, in their settlement currency; values in USD."""
        backend, count = self._backend, len(rows)
        positive = Rows(rows.offsets, rows.column, np.maximum(rows.value, 0.0))
        haircut = backend.weighted_sum(self._rows(positive), self._haircut)
        value = backend.weighted_sum(self._rows(rows), self._value)
        shift = np.where(settled == self._currencies.cross, len(self.market.instruments), 0)
        column = rows.column + shift[entry_rows(rows)]
        rows = Rows(rows.offsets, column, rows.value)
        vectors = self._vectors(rows, settled)
        scenarios = len(self.scenarios)
        vector = vectors[:, :scenarios]
        worst = backend.to_host(backend.xp.argmin(vector, axis=1)).astype(np.int64)
        # Without positions there is no scenario, and nothing to lose.
        some = np.bincount(entry_rows(rows)[self._key[column] >= 0], minlength=count) > 0
        loss = 0.0 - backend.to_host(backend.xp.min(vector, axis=1))
        found = {
            "worst_case": loss,
            "roll_shock": self._rolled(rows, settled),
            "delta_shock": backend.to_host(vectors[:, scenarios]),
            "correlation_contingency": self._contingency(vectors, worst),
            "worst": np.where(some, worst, -1),
            "delta": backend.to_host(vectors[:, scenarios + 1]),
            "value": backend.to_host(value)[:, 0],
            "haircut": backend.to_host(haircut)[:, 0],
        }
        return {**found, "vector": backend.to_host(vector)} if pnl else found

    def _vectors(self, rows: Rows, settled: Ints) -> Array:
        """[set] aggregated risk vector, delta shock, delta, and with a contingency the gains."""
        backend, xp = self._backend, self._backend.xp
        grouped, owner, part = keyed(rows, self._key, len(self.market.underlyings))
        sums = backend.weighted_sum(self._rows(grouped), self._matrix)
        own, of = self._of_underlying, backend.to_device(part)
        profit, delta = sums[:, :-1], sums[:, -1]
        worth = xp.take(self._worth, backend.to_device(settled[owner]), axis=0)
        cap = xp.take(own["max_offsetable_pnl"], of, axis=0)[:, None] / worth
        share = xp.take(own["pnl_offset"], of, axis=0)[:, None]
        nothing = xp.zeros_like(profit)
        dampener = xp.take(self._dampener, of, axis=0) / worth
        gain = xp.minimum(xp.maximum(profit, nothing) * share, cap)
        gain = xp.maximum(gain - dampener, nothing)
        loss = xp.minimum(xp.minimum(profit, nothing) + dampener, nothing)
        size = xp.abs(delta)
        excess = size - xp.take(own["free_delta"], of, axis=0)
        excess = xp.maximum(excess, xp.zeros_like(excess))
        move = xp.minimum(
            xp.take(own["m_inc"], of, axis=0) * excess, xp.take(own["max_delta_shock"], of, axis=0)
        )
        ratio = backend.to_device(self._ratio(settled[owner], part))
        parts = [gain + loss, (move * size * ratio)[:, None], (delta * ratio)[:, None]]
        if self._figures.correlation_contingency is not None:
            parts.append(gain)
        return self._added(xp.concat(parts, axis=1), gathered(owner, len(rows)))

    def _ratio(self, settled: Ints, underlying: Ints) -> Floats:
        found = self._currencies.ratio[settled, underlying]
        return np.where(np.isfinite(found), found, 0.0)

    def _contingency(self, vectors: Array, worst: Ints) -> Floats:
        """[set] the share of the gains that offset losses in the worst scenario."""
        share, scenarios = self._figures.correlation_contingency, len(self.scenarios)
        if share is None:
            return np.zeros(len(worst))
        gains = self._backend.to_host(vectors[:, scenarios + 2 :])
        return np.asarray(share * gains[np.arange(len(worst)), worst])

    def _rolled(self, rows: Rows, settled: Ints) -> Floats:
        """[set] roll shock: every group of expiries by the size of its net delta."""
        backend, xp, groups = self._backend, self._backend.xp, self._roll_shock.shape[1]
        grouped, owner, part = keyed(rows, self._roll, max(groups, 1))
        delta = backend.weighted_sum(self._rows(grouped), self._delta)[:, 0]
        flat = xp.reshape(self._roll_shock, (-1,))
        shock = xp.take(flat, backend.to_device(settled[owner] * groups + part), axis=0)
        offsets = backend.to_device(gathered(owner, len(rows)))
        return backend.to_host(backend.segment_sum(xp.abs(delta) * shock, offsets))

    def _added(self, amounts: Array, offsets: Ints) -> Array:
        """[set, column] sums of rows of a matrix, one after another."""
        count = int(offsets[-1])
        if not count:
            amounts = self._backend.xp.zeros((1, amounts.shape[1]), dtype=amounts.dtype)
        rows = Rows(offsets, np.arange(count, dtype=np.int64), np.ones(count))
        return self._backend.weighted_sum(self._rows(rows), amounts)

    def _rows(self, rows: Rows) -> Rows:
        up = self._backend.to_device
        return Rows(up(rows.offsets), up(rows.column), up(rows.value))


_MATRIX = ("worst_case", "roll_shock", "delta_shock", "correlation_contingency")


def _total(amounts: Mapping[str, Floats]) -> Floats:
    """[set] the sum of amounts by name, one after another."""
    return np.asarray(sum(amounts.values()))


def _dampeners(figures: Figures, market: CryptoMarket, moves: Floats) -> Floats:
    """[underlying, scenario] USD that the extended table forgives; none in the standard table."""
    widest = of_pairs(figures, market, "price_range")[:, None]
    beyond = np.maximum(np.abs(moves) / widest - 1.0, 0.0)
    beyond[:, : moves.shape[1] - len(figures.extended_moves)] = 0.0
    return beyond * of_currencies(figures, market, "extended_dampener")[:, None]


def _keys(market: CryptoMarket, dollars: Floats) -> Ints:
    """[instrument, twice] the underlying whose vector it is in: of segregated, then cross sets.

    Coins are in the vectors of cross sets only, where their equity moves.
    """
    i = market.instruments
    coin = i.kind == COIN
    moves = np.nan_to_num(dollars).any(axis=1)
    cross = np.where(coin & ~moves, NONE, i.underlying)
    return np.concatenate([np.where(coin, NONE, i.underlying), cross])
