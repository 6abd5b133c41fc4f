"""What netting sets require and their collateral is worth, as a run would have it, bit for bit.

Requirements are known per netting set; of what is asked again after fills, only the sets that they
touched are measured. What depends on an account as a whole (limits of collateral), or on its owner
(netting between venues), is made anew for the accounts that it concerns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from typing import Any

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
    Rows,
    add_up,
    entry_rows,
    row_offsets,
    side_by_side,
)
from gpu_margin.resident import Vectors
from gpu_margin.tracking.columns import Columns
from gpu_margin.tracking.parties import Parties, borne
from gpu_margin.tracking.state import State
from gpu_margin.unit_risk import ScenarioVectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Entries of rows that are measured at a time, when all accounts are.
_TILE = 1 << 20
# Sets whose vectors are written into the resident matrix while nobody asks; of more of them the
# whole matrix is made anew beside it.
_FEW_SETS = 2048
_NO_POSITIONS = Rows(np.zeros(2, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
_STANDING = ("value", "initial", "maintenance", "excess", "utilisation", "status", "call")


class Coverage:
    """One model's requirement of every netting set, and how accounts stand.

    `sets` [set], NaN where it is not known: `own` requirement of its positions and, of a model that
    bounds offsets, `cap` what of it is that; and the figures of `collateral.Standing`, with
    `initial` the final one (after netting between venues, with collateral in the scenarios).
    `accounts` [account] has the latter too. `status` [account] codes of `collateral.STATUSES`, the
    last that was known, -1 before. With `resident`, scenario vectors stay on the device, and
    requirements are measured from them: the same bits.
    """

    def __init__(self, state: State, model: Model, backend: Backend, resident: bool) -> None:
        self.state, self.model, self.backend = state, model, backend
        self.sets, self.accounts = Columns(("own", "cap", *_STANDING)), Columns(_STANDING)
        self.status = np.zeros(0, dtype=np.int64)
        self._in_scenarios = state.loaded.config.collateral.mode == "in_scenarios"
        self._parties = Parties(state)
        self._wide: Prepared | None = None
        self._moved = False  # whether any collateral that a model has a say in is held
        self._resident = resident
        self.vectors: Vectors | None = None
        self._pending: Callable[[], None] | None = None
        self._price(state.loaded)

    @property
    def own(self) -> Floats:
        """[set] requirement of its own positions."""
        return self.sets["own"]

    @property
    def prepared(self) -> Prepared:
        """The model in the state's market."""
        return self._prepared

    def at(self, state: State, moved: Bools, spare: Vectors | None) -> tuple[Coverage, Ints]:
        """The coverage of a state with other marks, and the accounts whose figures are other.

        `moved` [instrument] are those that may be worth something else; `spare` vectors are of no
        use to anyone. This one stays as it is until the other takes its place, and `settle` must
        be called then.
        """
        other = copy(self)
        other.state, other.status = state, self.status.copy()
        other.sets, other.accounts = self.sets.copied(), self.accounts.copied()
        other._price(state.loaded)
        sets = state.positions.rows_in(moved)
        unit = other._prepared.vectors
        if unit is None or self.vectors is None:
            other._measure(sets)
        elif len(sets) <= _FEW_SETS:
            codes, rows = np.flatnonzero(moved), state.positions.rows(sets)
            found = self.vectors.moved(unit, codes, sets, rows)
            other.vectors, other._pending = found.vectors, found.write
            other._known_from(sets, found.required)
        else:
            other.vectors = other._laid(unit, None if spare is None else spare.matrix)
            other._known_from(sets, other.vectors.required(sets))
        return other, other._stood(sets)

    def settle(self) -> None:
        """Write what could not be written while another coverage was in use."""
        if self._pending is not None:
            self._pending()
            self._pending = None

    def measure_all(self) -> Ints:
        """Measure every netting set; the accounts, all of them."""
        every = np.arange(len(self.state.members), dtype=np.int64)
        unit = self._prepared.vectors
        self.vectors = self._laid(unit, None) if self._resident and unit is not None else None
        self._grow()
        if self.vectors is None:
            self._measure(every)
        else:
            self._known_from(every, self.vectors.required(every))
        return self._stood(every)

    def measure(self, sets: Ints) -> Ints:
        """Measure these sets, whose positions or collateral have changed.

        Returns the accounts whose standing may have: theirs, and those that they net with.
        """
        self._grow()
        if self.vectors is None:
            self._measure(sets)
        else:
            self.vectors.put(sets, self.state.positions.rows(sets))
            self._known_from(sets, self.vectors.required(sets))
        return self._stood(sets)

    def reserve(self, count: int) -> Vectors | None:
        """Vectors with room for `count` sets, where these have none; they may take their place."""
        if self.vectors is None or self.vectors.room >= count:
            return None
        return self.vectors.grown(count)

    def standing(self, accounts: Ints) -> tuple[Ints, Ints, Standing, Standing]:
        """How accounts stand: place of the account and code of each of their sets, sets, accounts.

        Accounts are in the order given, their sets in order of their names.
        """
        owner, sets = self.state.members.sets_of(accounts)
        initial, share = self.sets["initial"][sets], self.model.options.maintenance
        parameters = self.state.loaded.config.collateral
        of_sets = standing(initial, self.sets["value"][sets], share * initial, parameters)
        return owner, sets, of_sets, together(of_sets, owner, len(accounts))

    def statuses(self, accounts: Ints) -> Ints:
        """Codes of their statuses, -1 where that is not known."""
        if not self.state.with_collateral:
            return np.full(len(accounts), -1, dtype=np.int64)
        return self.accounts["status"][accounts].astype(np.int64)

    def known(self, sets: Ints) -> Bools:
        """[set] whether it has figures: no position row at all, or a good one and no overflow."""
        state = self.state
        usable = state.good[sets] & np.isfinite(self.own[sets])
        return usable | ~state.listed[sets]

    def unit_pnl(self) -> Floats | None:
        """[instrument, scenario] on the host, None where the model has no scenario vectors."""
        vectors = self._prepared.vectors
        return None if vectors is None else self.backend.to_host(vectors.matrix)

    # ------------------------------------------------------------ preparation

    def _price(self, loaded: Loaded) -> None:
        """Prepare the model in another market; nothing is measured yet."""
        rulebook = models.load(self.model.kind)
        rulebook.check(self.model.parameters, loaded.market)
        prepared, wide = prepare(loaded, self.model, self.backend), None
        if self._wide is not None:
            wide = self._prepare_wide(loaded)
        self._prepared, self._wide = prepared, wide
        # What the model calls its measure, where it has one only.
        parts = prepared.require(_NO_POSITIONS).components
        names = [name for name in parts if name != "offset_cap"]
        self.component = names[0] if len(names) == 1 else "requirement"

    def _laid(self, unit: ScenarioVectors, spare: Any) -> Vectors:
        """The vectors of all sets."""
        count, rows = len(self.state.members), self.state.positions.rows
        room = None if self.vectors is None else max(self.vectors.room, count)

        def between(first: int, last: int) -> Rows:
            return rows(np.arange(first, last, dtype=np.int64))

        return Vectors(unit, self.backend, between, count, room, spare)

    # ------------------------------------------------------------ requirements

    def _measure(self, sets: Ints) -> None:
        """`own` of the sets from their positions."""
        for part in self._tiles(sets):
            found = self._prepared.require(self.state.positions.rows(part))
            self.own[part] = found.amount
            self.sets["cap"][part] = found.components.get("offset_cap", 0.0)

    def _known_from(self, sets: Ints, required: Floats) -> None:
        """`own` of the sets as their vectors say; from the positions where these are not finite."""
        self.own[sets] = required
        unknown = sets[np.isnan(required)]
        if len(unknown):
            self._measure(unknown)

    def _stood(self, sets: Ints) -> Ints:
        """The accounts that these sets may have changed, as they stand now."""
        members = self.state.members
        first = not self._moved and self._moving(sets)
        self._moved = self._moved or first
        if first or len(sets) == len(members):
            # Where collateral begins to move, a run asks the model in the market with assets.
            accounts = np.arange(len(members.accounts), dtype=np.int64)
        else:
            flags = np.zeros(len(members.accounts), dtype=np.bool_)
            flags[members.account[sets]] = True
            accounts = self._parties.with_partners(np.flatnonzero(flags))
        self._stand(accounts)
        return accounts

    def _stand(self, accounts: Ints) -> None:
        """`initial` and `value` of the accounts' sets."""
        members = self.state.members
        if not self.state.with_collateral:
            return
        noted = accounts
        if self._parties.some:
            # Netting between venues adds up in byte order of the accounts.
            accounts = members.sorted_by_name(accounts)
        owner, sets = members.sets_of(accounts)
        known, own = self.known(sets), self.own[sets]
        rows = self.state.holdings.rows(sets, keep_zeros=True)
        names = pl.Series(owner)
        holdings = Holdings(names, names, rows, np.zeros(len(sets), dtype=np.int64))
        covered = None
        if self._moved and self._in_scenarios:
            covered = self._with_collateral(sets, holdings)
        initial = own if covered is None else covered
        if self._parties.some:
            left = borne(self.state, self._prepared, self.own, accounts, owner, sets)
            initial = left if covered is None else owners.scaled(covered, own, left)
        self.sets["initial"][sets] = np.where(known, initial, np.nan)
        self.sets["value"][sets] = self._worth(sets, holdings)
        self._note(noted)

    def _note(self, accounts: Ints) -> None:
        """Keep how accounts and their sets stand, so that it can be read at once."""
        _, sets, of_sets, of_accounts = self.standing(accounts)
        for name in _STANDING:
            self.sets[name][sets] = getattr(of_sets, name)
            self.accounts[name][accounts] = getattr(of_accounts, name)

    # ------------------------------------------------------------ collateral

    def _worth(self, sets: Ints, holdings: Holdings) -> Floats:
        """[set] what its collateral is worth."""
        assets = self.state.assets
        if self._in_scenarios:
            value = eligible_value(assets, holdings)
        else:
            value = haircut_value(assets, holdings, self._losses(sets, holdings))
        return add_up(entry_rows(holdings.rows), value, len(sets))

    def _losses(self, sets: Ints, holdings: Holdings) -> Floats:
        """[holding] mean loss per unit of value, where it can raise the haircut."""
        rows, assets = holdings.rows, self.state.assets
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
                positions = self.state.positions.rows(part)
                found[own] = self._in_wide().loss_rates(positions, probes, "instrument")
        unit = assets.unit_value[rows.column[entry]]
        losses[entry] = found / np.where(unit > 0.0, unit, 1.0)
        return losses

    def _with_collateral(self, sets: Ints, holdings: Holdings) -> Floats:
        """[set] what its positions require together with the collateral that moves."""
        eligible = eligible_value(self.state.assets, holdings)
        value = self.state.assets.unit_value[holdings.rows.column]
        units = np.where(value > 0.0, eligible / np.where(value > 0.0, value, 1.0), 0.0)
        _, held = self._beside(sets, holdings, units)
        found = np.zeros(len(sets))
        for part, place in self._tiles_with_places(sets):
            own = slice(held.offsets[place.start], held.offsets[place.stop])
            offsets = held.offsets[place.start : place.stop + 1] - held.offsets[place.start]
            more = Rows(offsets, held.column[own], held.value[own])
            both = side_by_side(self.state.positions.rows(part), more)
            found[place] = self._in_wide().require(both).amount
        return found

    def _beside(self, sets: Ints, holdings: Holdings, units: Floats) -> tuple[Ints, Rows]:
        """Collateral that moves, of sets that have had positions, as instruments of the market.

        [entry] where it stands among the holdings, and the rows [set].
        """
        owner = entry_rows(holdings.rows)
        chosen = moving(self.state.assets, holdings, only_wrong_way=not self._in_scenarios)
        entry = np.flatnonzero(chosen & self.state.listed[sets[owner]])
        first = len(self.state.loaded.market.instruments)
        column = holdings.rows.column[entry] + first
        return entry, Rows(row_offsets(owner[entry], len(sets)), column, units[entry])

    def _moving(self, sets: Ints) -> bool:
        """Whether any of them has had positions and holds what moves: then a run asks the model."""
        state = self.state
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
            self._wide = self._prepare_wide(self.state.loaded)
        return self._wide

    def _prepare_wide(self, loaded: Loaded) -> Prepared:
        wider = replace(loaded, market=with_assets(loaded.market, self.state.assets))
        return prepare(wider, self.model, self.backend)

    # ------------------------------------------------------------ bookkeeping

    def _grow(self) -> None:
        """Room for sets and accounts that have been opened; their requirement is 0."""
        count = len(self.state.members)
        self.sets.grow(count)
        if self.vectors is not None and count > self.vectors.count:
            self.vectors = self.vectors.grown(count)
            self.vectors.add(count - self.vectors.count)
        self.accounts.grow(len(self.state.members.accounts))
        new = self.state.members.accounts[len(self.status) :]
        if new:
            self.status = np.append(self.status, np.full(len(new), -1, dtype=np.int64))
            self._parties.join(new)

    def _tiles(self, sets: Ints) -> Iterator[Ints]:
        """The sets, so many at a time that their positions are not too many."""
        for part, _ in self._tiles_with_places(sets):
            yield part

    def _tiles_with_places(self, sets: Ints) -> Iterator[tuple[Ints, slice]]:
        size = np.cumsum(self.state.positions.counts(sets))
        start = 0
        while start < len(sets):
            before = size[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(size, before + _TILE, side="right")))
            yield sets[start:stop], slice(start, stop)
            start = stop
