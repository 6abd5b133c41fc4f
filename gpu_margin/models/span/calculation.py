"""Margin of accounts by a SPAN file: which step comes after which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gpu_margin.backend import Array, Backend
from gpu_margin.models.span import inter, within
from gpu_margin.models.span.figures import (
    Figures,
    both_sides,
    figures_of,
    only,
    together,
    totals,
)
from gpu_margin.models.span.minimum import charge_minimum, charged_tiers
from gpu_margin.models.span.ranges import Covers
from gpu_margin.models.span.refusals import (
    blocked_contracts,
    failures_of,
    refused_commodities,
    refused_positions,
    without,
)
from gpu_margin.models.span.state import Bools, Floats, Ints, Room, State, opened
from gpu_margin.portfolio import Rows, entry_rows, netted_rows, row_offsets, rows_at
from gpu_margin.span_book import FORMED, SpanBook, SpanMargin, Terms
from gpu_margin.span_file import SpanFile
from gpu_margin.span_tables import BY_SCANNING

# Figures of rows that the result has as they are.
_SHOWN = (
    "account",
    "commodity",
    "scan_risk",
    "active",
    "intra_spread_charge",
    "delivery_charge",
    "inter_spread_credit",
    "short_option_minimum",
    "long_option_value",
    "short_option_value",
)


def prepare(file: SpanFile, backend: Backend) -> Prepared:
    """What all accounts share, with the file's arrays on the device."""
    return Prepared(
        file=file,
        backend=backend,
        matrix=backend.to_device(np.ascontiguousarray(file.contracts.array)),
        reached=within.reach(file),
        charged=charged_tiers(file),
        blocked=blocked_contracts(file),
    )


@dataclass(frozen=True)
class Prepared:
    """A file ready for accounts; `matrix` are its arrays on the device of `backend`.

    `reached` are its spreads by month, `charged` its tiers of short option minima by month;
    `blocked` [contract] are contracts that cannot be margined.
    """

    file: SpanFile
    backend: Backend
    matrix: Array
    reached: within.Reach
    charged: Covers
    blocked: Bools

    @np.errstate(over="ignore", invalid="ignore")
    def margin(
        self, book: SpanBook, terms: Terms | None = None, formed: bool = False
    ) -> SpanMargin:
        """Margin of all accounts of a book; the same bits whatever accounts it has beside them.

        Figures beyond all numbers are infinite or NaN.
        """
        terms = terms or Terms()
        gross, accounts = book.gross, book.portfolio.accounts
        net = without(book.portfolio.netted, gross)
        sides, owner = _sides(book.portfolio.rows, gross)
        reasons = [
            refused_positions(self.file, net, self.blocked),
            _owned(refused_positions(self.file, sides, self.blocked), owner),
        ]
        failed = np.zeros(len(accounts), dtype=np.bool_)
        for each in reasons:
            failed[each["account"].to_numpy()] = True
        state = self._worked(without(net, failed), terms, formed)
        found = figures_of(state, np.arange(len(accounts)))
        apart = self._opened(without(sides, failed[owner]), Terms(), False)
        found = together(found, both_sides(apart, owner))
        # Spreads by scanning may have made a commodity of others that is refused itself.
        refused = (self.file.commodities.refused != "").to_numpy()[found.commodity]
        if refused.any():
            rows = found.account[refused], found.commodity[refused]
            reasons.append(refused_commodities(self.file, *rows))
            failed[rows[0]] = True
            found = only(found, ~failed[found.account])
        risk = found.risk() * _factors(self.file, book, terms, found)
        total = totals(self.file, found, risk)
        return SpanMargin(
            **{name: getattr(found, name) for name in _SHOWN},
            risk=risk,
            total_account=total.account,
            total_currency=total.currency,
            total=total.required,
            total_risk=total.risk,
            failed=failed,
            failures=failures_of(pl.concat(reasons), accounts),
            formed=_formed(state, failed),
        )

    def _opened(self, rows: Rows, terms: Terms, formed: bool, room: Room | None = None) -> State:
        """The state of accounts before any spread, their short option minima charged."""
        places = terms.delta_places
        state = opened(self.file, rows, self.matrix, self.backend, room, formed, places)
        charge_minimum(state, self.charged)
        return state

    def _worked(self, rows: Rows, terms: Terms, formed: bool) -> State:
        """The state of accounts with all spreads formed and all deliveries charged."""
        scanning = bool((self.file.inter.method == BY_SCANNING).any())
        state = self._opened(rows, terms, formed, inter.room if scanning else None)
        inter.form(state, True, terms)
        within.form(state, terms, self.reached)
        within.charge_delivery(state)
        inter.form(state, False, terms)
        return state


def _sides(rows: Rows, gross: Bools) -> tuple[Rows, Ints]:
    """Long positions of gross accounts, and short ones: two rows each. And whose rows these are."""
    accounts = np.flatnonzero(gross)
    own = rows_at(rows, accounts)
    side = 2 * entry_rows(own) + (own.value < 0.0)
    order = np.argsort(side, kind="stable")
    offsets = row_offsets(side[order], 2 * len(accounts))
    sides = netted_rows(Rows(offsets, own.column[order], own.value[order]))
    return sides, np.repeat(accounts, 2)


def _owned(reasons: pl.DataFrame, owner: Ints) -> pl.DataFrame:
    """Reasons of rows as those of their accounts."""
    account = pl.Series("account", owner[reasons["account"].to_numpy()], dtype=pl.Int64)
    return reasons.with_columns(account)


def _factors(file: SpanFile, book: SpanBook, terms: Terms, found: Figures) -> Floats:
    """[row] what makes maintenance or initial margin of risk for the row's kind of account."""
    table = file.commodities.ratio if terms.initial else file.commodities.factor
    return table[found.commodity, book.account_type[found.account]]


def _formed(state: State, failed: Bools) -> pl.DataFrame | None:
    """The spreads formed, in the order of forming by account; None where nobody asked."""
    if state.formed is None:
        return None
    table = pl.concat([pl.DataFrame(schema=FORMED), *(pl.DataFrame(one) for one in state.formed)])
    table = table.filter(~pl.Series(failed[table["account"].to_numpy()]))
    return table.sort("account", maintain_order=True)
