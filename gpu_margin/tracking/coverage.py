"""What netting sets require and their collateral is worth, as a run would have it, bit for bit.

Requirements are known per netting set; of what is asked again after fills, only the sets that they
touched are measured. What depends on an account as a whole (limits of collateral), or on its owner
(netting between venues), is made anew for the accounts that it concerns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from gpu_margin import models, owners
from gpu_margin.backend import Backend
from gpu_margin.collateral import Standing, eligible_value, haircut_value, standing, together
from gpu_margin.collateral_market import with_assets
from gpu_margin.config import Model
from gpu_margin.covers import moving
from gpu_margin.engine import prepare
from gpu_margin.holdings import Holdings
from gpu_margin.loading import Loaded
from gpu_margin.models import Prepared
from gpu_margin.portfolio import (
    Portfolio,
    Rows,
    add_up,
    entry_rows,
    row_offsets,
    side_by_side,
)
from gpu_margin.tracking.state import State

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Entries of rows that are measured at a time, when all accounts are.
_TILE = 1 << 20


class Coverage:
    """One model's requirement of every netting set, and how accounts stand.

    Per set, NaN where it is not known: `own` requirement of its positions, `initial` the final one
    (after netting between venues, with collateral in the scenarios), `value` of its collateral.
    `status` [account] codes of `collateral.STATUSES`, the last that was known, -1 before.
    """

    def __init__(self, state: State, model: Model, backend: Backend) -> None:
        self._state, self.model, self._backend = state, model, backend
        self.own, self.initial, self.value = (np.zeros(0) for _ in range(3))
        self.status = np.zeros(0, dtype=np.int64)
        self._in_scenarios = state.loaded.config.collateral.mode == "in_scenarios"
        self._agreements = _agreements(state)
        self._agreement = np.zeros(0, dtype=np.int64)
        self._parties: dict[int, Ints] = {}
        self._wide: Prepared | None = None
        self._moved = False
        self.price(state.loaded)

    def price(self, loaded: Loaded) -> None:
        """Prepare the model in another market; nothing is measured yet."""
        rulebook = models.load(self.model.kind)
        rulebook.check(self.model.parameters, loaded.market)
        prepared, wide = prepare(loaded, self.model, self._backend), None
        if self._wide is not None:
            wide = self._prepare_wide(loaded)
        self._prepared, self._wide = prepared, wide

    def measure_all(self) -> Ints:
        """Measure every netting set; the accounts, all of them."""
        every = np.arange(len(self._state.members), dtype=np.int64)
        self._moved = self._moved or self._moving(every)
        accounts = np.arange(len(self._state.members.accounts), dtype=np.int64)
        self._measure(every)
        self._stand(accounts)
        return accounts

    def measure(self, sets: Ints) -> Ints:
        """Measure these sets, whose positions or collateral have changed.

        Returns the accounts whose standing may have: theirs, and those that they net with.
        """
        if not self._moved and self._moving(sets):
            return self.measure_all()
        self._measure(sets)
        accounts = np.unique(self._state.members.account[sets])
        if self._agreements:
            agreements = np.unique(self._agreement[accounts])
            parties = [self._parties[one] for one in agreements.tolist() if one >= 0]
            accounts = np.unique(np.concatenate([accounts, *parties]))
        self._stand(accounts)
        return accounts

    def standing(self, accounts: Ints) -> tuple[Ints, Ints, Standing, Standing]:
        """How accounts stand: place of the account and code of each of their sets, sets, accounts.

        Accounts are in the order given, their sets in order of their names.
        """
        owner, sets = self._state.members.sets_of(accounts)
        initial, share = self.initial[sets], self.model.options.maintenance
        parameters = self._state.loaded.config.collateral
        of_sets = standing(initial, self.value[sets], share * initial, parameters)
        return owner, sets, of_sets, together(of_sets, owner, len(accounts))

    def known(self, sets: Ints) -> Bools:
        """[set] whether it has figures: no position row at all, or a good one and no overflow."""
        state = self._state
        usable = state.good[sets] & np.isfinite(self.own[sets])
        return usable | ~state.listed[sets]

    def unit_pnl(self) -> Floats | None:
        """[instrument, scenario] on the host, None where the model has no scenario vectors."""
        vectors = self._prepared.vectors
        return None if vectors is None else self._backend.to_host(vectors.matrix)

    # ------------------------------------------------------------ requirements

    def _measure(self, sets: Ints) -> None:
        """`own` of the sets."""
        self._grow()
        for part in self._tiles(sets):
            rows = self._state.positions.rows(part)
            self.own[part] = self._prepared.require(rows).amount

    def _stand(self, accounts: Ints) -> None:
        """`initial` and `value` of the accounts' sets."""
        members = self._state.members
        if not self._state.with_collateral:
            return
        if self._agreements:
            # Netting between venues adds up in byte order of the accounts.
            accounts = members.sorted_by_name(accounts)
        owner, sets = members.sets_of(accounts)
        known, own = self.known(sets), self.own[sets]
        rows = self._state.holdings.rows(sets, keep_zeros=True)
        names = pl.Series(owner)
        holdings = Holdings(names, names, rows, np.zeros(len(sets), dtype=np.int64))
        covered = None
        if self._moved and self._in_scenarios:
            covered = self._with_collateral(sets, holdings)
        initial = own if covered is None else covered
        if self._agreements:
            borne = self._borne(accounts, owner, sets)
            initial = borne if covered is None else owners.scaled(covered, own, borne)
        self.initial[sets] = np.where(known, initial, np.nan)
        self.value[sets] = self._worth(sets, holdings)

    def _borne(self, accounts: Ints, owner: Ints, sets: Ints) -> Floats:
        """[set] what netting between venues leaves of what it requires."""
        state, ownership = self._state, self._state.loaded.ownership
        listed = np.flatnonzero(state.listed[sets])
        mine = sets[listed]
        count = np.zeros(len(mine), dtype=np.int64)
        portfolio = Portfolio(
            accounts=pl.Series([state.members.accounts[code] for code in accounts.tolist()]),
            sets=pl.Series([state.members.names[code] for code in mine.tolist()], dtype=pl.String),
            set_account=owner[listed],
            rows=state.positions.rows(mine),
            good=count,
            bad=count,
        )
        borne = self.own[sets].copy()
        if ownership is None or not len(mine):
            return borne
        books = owners.merged_books(portfolio, ownership)
        usable = state.good[mine] & np.isfinite(self.own[mine])
        own = np.where(usable, self.own[mine], 0.0)
        joint = self._prepared.require(books.portfolio.netted).amount
        netted = owners.net(books, own, joint, ownership.agreements)
        borne[listed] = owners.shares(books, own, netted)
        return borne

    # ------------------------------------------------------------ collateral

    def _worth(self, sets: Ints, holdings: Holdings) -> Floats:
        """[set] what its collateral is worth."""
        assets = self._state.assets
        if self._in_scenarios:
            value = eligible_value(assets, holdings)
        else:
            value = haircut_value(assets, holdings, self._losses(sets, holdings))
        return add_up(entry_rows(holdings.rows), value, len(sets))

    def _losses(self, sets: Ints, holdings: Holdings) -> Floats:
        """[holding] mean loss per unit of value, where it can raise the haircut."""
        rows, assets = holdings.rows, self._state.assets
        losses = np.zeros(len(rows.column))
        if not self._moved:
            return losses
        entry, held = self._beside(sets, holdings, np.ones(len(rows.column)))
        found = np.zeros(len(entry))
        for part, place in self._tiles_with_places(sets):
            own = slice(held.offsets[place.start], held.offsets[place.stop])
            offsets = held.offsets[place.start : place.stop + 1] - held.offsets[place.start]
            probes = Rows(offsets, held.column[own], held.value[own])
            if len(probes.column):
                positions = self._state.positions.rows(part)
                found[own] = self._in_wide().loss_rates(positions, probes, "instrument")
        unit = assets.unit_value[rows.column[entry]]
        losses[entry] = found / np.where(unit > 0.0, unit, 1.0)
        return losses

    def _with_collateral(self, sets: Ints, holdings: Holdings) -> Floats:
        """[set] what its positions require together with the collateral that moves."""
        eligible = eligible_value(self._state.assets, holdings)
        value = self._state.assets.unit_value[holdings.rows.column]
        units = np.where(value > 0.0, eligible / np.where(value > 0.0, value, 1.0), 0.0)
        _, held = self._beside(sets, holdings, units)
        found = np.zeros(len(sets))
        for part, place in self._tiles_with_places(sets):
            own = slice(held.offsets[place.start], held.offsets[place.stop])
            offsets = held.offsets[place.start : place.stop + 1] - held.offsets[place.start]
            more = Rows(offsets, held.column[own], held.value[own])
            both = side_by_side(self._state.positions.rows(part), more)
            found[place] = self._in_wide().require(both).amount
        return found

    def _beside(self, sets: Ints, holdings: Holdings, units: Floats) -> tuple[Ints, Rows]:
        """Collateral that moves, of sets that have had positions, as instruments of the market.

        [entry] where it stands among the holdings, and the rows [set].
        """
        owner = entry_rows(holdings.rows)
        chosen = moving(self._state.assets, holdings, only_wrong_way=not self._in_scenarios)
        entry = np.flatnonzero(chosen & self._state.listed[sets[owner]])
        first = len(self._state.loaded.market.instruments)
        column = holdings.rows.column[entry] + first
        return entry, Rows(row_offsets(owner[entry], len(sets)), column, units[entry])

    def _moving(self, sets: Ints) -> bool:
        """Whether any of them has had positions and holds what moves: then a run asks the model."""
        state = self._state
        if not (state.assets.factor >= 0).any():
            return False
        listed = sets[state.listed[sets]]
        rows = state.holdings.rows(listed, keep_zeros=True)
        names = pl.Series([], dtype=pl.String)
        held = Holdings(names, names, rows, np.zeros(len(listed), dtype=np.int64))
        return bool(moving(state.assets, held, only_wrong_way=not self._in_scenarios).any())

    def _in_wide(self) -> Prepared:
        """The model in the market with assets, prepared when it is first asked for."""
        if self._wide is None:
            self._wide = self._prepare_wide(self._state.loaded)
        return self._wide

    def _prepare_wide(self, loaded: Loaded) -> Prepared:
        wider = replace(loaded, market=with_assets(loaded.market, self._state.assets))
        return prepare(wider, self.model, self._backend)

    # ------------------------------------------------------------ bookkeeping

    def _grow(self) -> None:
        """Room for sets and accounts that have been opened; their requirement is 0."""
        more = len(self._state.members) - len(self.own)
        if more:
            none = np.zeros(more)
            self.own, self.initial = np.append(self.own, none), np.append(self.initial, none)
            self.value = np.append(self.value, none)
        new = self._state.members.accounts[len(self.status) :]
        if new:
            self.status = np.append(self.status, np.full(len(new), -1, dtype=np.int64))
            self._join(new)

    def _join(self, accounts: list[str]) -> None:
        """Accounts that have been opened, with those that they net with."""
        agreement = np.array([self._agreements.get(one, -1) for one in accounts], dtype=np.int64)
        first = len(self._agreement)
        self._agreement = np.append(self._agreement, agreement)
        for one in np.unique(agreement[agreement >= 0]).tolist():
            mine = first + np.flatnonzero(agreement == one)
            self._parties[one] = np.append(self._parties.get(one, mine[:0]), mine)

    def _tiles(self, sets: Ints) -> Iterator[Ints]:
        """The sets, so many at a time that their positions are not too many."""
        for part, _ in self._tiles_with_places(sets):
            yield part

    def _tiles_with_places(self, sets: Ints) -> Iterator[tuple[Ints, slice]]:
        size = np.cumsum(self._state.positions.counts(sets))
        start = 0
        while start < len(sets):
            before = size[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(size, before + _TILE, side="right")))
            yield sets[start:stop], slice(start, stop)
            start = stop


def _agreements(state: State) -> dict[str, int]:
    """The agreement of each account that has one; they may not all be there yet."""
    ownership = state.loaded.ownership
    if ownership is None:
        return {}
    pairs = zip(ownership.accounts.to_list(), ownership.agreement.tolist(), strict=True)
    return {account: agreement for account, agreement in pairs if agreement >= 0}
