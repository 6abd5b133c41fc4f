"""Margin of a book under one of Derive's portfolio margins: market by market, and put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import polars as pl
from pydantic import Field

from gpu_margin import crypto_files
from gpu_margin.crypto_book import Bools, CryptoBook, CryptoMargin, CryptoMarket, Floats, Ints
from gpu_margin.crypto_rows import refuse_charges
from gpu_margin.crypto_sets import Part, Refusals, combined, netted
from gpu_margin.derive_grid import Grid, Sums
from gpu_margin.derive_sets import place_sets
from gpu_margin.portfolio import Rows, rows_at
from gpu_margin.result import FileMargin

_FIGURES = (
    *("worst_pnl", "basis_contingency", "option_value"),
    *("collateral_value", "perpetual_unrealised"),
)
# Of an underlying's code and what its sets come to: components by level, value of coins [set].
Requirement = Callable[[int, Sums], tuple[Mapping[str, Mapping[str, Floats]], Floats]]


MarketFigures = TypeVar("MarketFigures")


class MarketFiles(crypto_files.CryptoFiles):
    """Settings of a portfolio margin whose figures go by market."""

    table: str = Field(default="mainnet", description="version of the figures")
    figures: dict[str, dict[str, Any]] = Field(
        default={}, description="figures of single markets that replace those of the table"
    )


def by_market(
    name: str, parameters: MarketFiles, figures: type[MarketFigures]
) -> dict[str, MarketFigures]:
    """The figures of the table `name` with what the parameters replace of them, by market."""
    table = crypto_files.versioned("derive", name, parameters.table)["markets"]
    merged = crypto_files.with_overrides(table, parameters.figures)
    return {market: figures(**own) for market, own in merged.items()}


@dataclass(frozen=True)
class Prepared:
    """A portfolio margin in one market, on one device.

    `faults` [instrument] by reason: what it does not take, or cannot price. By code of the
    underlying: `accepted` says which coins [instrument] are collateral, `cancelling` which of them
    move with it, and `grids` are the scenarios. `components` are their names by level.
    """

    market: CryptoMarket
    faults: Mapping[str, Bools]
    accepted: Mapping[int, Bools]
    cancelling: Mapping[int, Bools]
    grids: Mapping[int, Grid]
    components: Mapping[str, Sequence[str]]
    requirement: Requirement

    def margin(self, book: CryptoBook, *, pnl: bool = False) -> CryptoMargin:
        """Margin of every set; the P&L of every scenario where it is asked for."""
        rows, refusals = netted(book), Refusals(book)
        with np.errstate(over="ignore", invalid="ignore"):  # who has too much is refused
            found = self._placed(refusals, rows)
            parts = []
            for code, grid in self.grids.items():
                sets = np.flatnonzero(found == code)
                own = rows if len(sets) == len(rows) else rows_at(rows, sets)
                parts.append(self._part(code, sets, grid.sums(own, pnl), book.unrealised[sets]))
            names = [name for part in parts for name in part.scenarios]
            return combined(refusals, parts, self.components, _FIGURES, names, pnl)

    def of_files(
        self, parameters: MarketFiles, inputs: crypto_files.Inputs, rate: float, rulebook: str
    ) -> FileMargin:
        """Margin of all accounts, at `rate` for one USD; `rulebook` is its name for people."""
        facts = {"rulebook": rulebook, **parameters.model_dump(include={"table", "figures"})}
        found, markets = self.margin(inputs.book), self.markets(inputs.book)
        return crypto_files.file_margin(inputs, found, rate, facts, markets)

    def markets(self, book: CryptoBook) -> pl.Series:
        """[set] name of the underlying that it is margined in, "" where there is none."""
        code = self._placed(Refusals(book), netted(book))
        names = pl.Series([*self.market.underlyings, ""], dtype=pl.String)
        return names.gather(np.where(code < 0, len(names) - 1, code))

    def _placed(self, refusals: Refusals, rows: Rows) -> Ints:
        refuse_charges(refusals, ())
        coins = (self.accepted, self.cancelling)
        return place_sets(refusals, rows, self.market, self.faults, *coins)

    def _part(self, code: int, sets: Ints, sums: Sums, unrealised: Floats) -> Part:
        """What sets of one market require."""
        levels, collateral = self.requirement(code, sums)
        return Part(
            sets=sets,
            levels=levels,
            mark_to_market=unrealised + sums.option_value + collateral,
            figures={
                "worst_pnl": sums.worst,
                "basis_contingency": sums.basis,
                "option_value": sums.option_value,
                "collateral_value": collateral,
                "perpetual_unrealised": unrealised,
            },
            worst=np.where(sums.worst < 0.0, sums.code, -1),
            scenarios=self.grids[code].names,
            pnl=sums.pnl,
        )
