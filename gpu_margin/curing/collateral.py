"""The collateral beside an account's positions: what moves with them, what it is worth then."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gpu_margin.backend import Backend
from gpu_margin.collateral import haircut_value
from gpu_margin.collateral_market import with_assets
from gpu_margin.config import Model
from gpu_margin.engine import prepare
from gpu_margin.holdings import Holdings
from gpu_margin.loading import Loaded
from gpu_margin.models import Prepared
from gpu_margin.portfolio import Rows, add_up, entry_rows, rows_at
from gpu_margin.solvency import Covered, covered

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def one_account(loaded: Loaded, code: int) -> Loaded:
    """The loaded inputs with the positions and the collateral of one account only."""
    portfolio = loaded.portfolio.tile(code, code + 1)
    holdings = loaded.holdings
    if holdings is not None:
        own = np.flatnonzero((holdings.accounts == portfolio.accounts[0]).to_numpy())
        holdings = Holdings(
            holdings.accounts.gather(own),
            holdings.sets.gather(own),
            rows_at(holdings.rows, own),
            holdings.bad[own],
        )
    return replace(loaded, portfolio=portfolio, holdings=holdings)


class Beside:
    """The collateral of one account under a model.

    `prepared` is the model that says what positions require: in the market with assets where they
    move in its scenarios. `loaded` has one account only.
    """

    def __init__(self, loaded: Loaded, model: Model, backend: Backend) -> None:
        self._loaded, self._model, self._backend = loaded, model, backend
        self._found = covered(loaded)
        beside = None if self._found is None else self._found.beside
        self._units = np.zeros(0) if beside is None else beside.units
        self._inside = beside is not None and beside.in_scenarios
        self._wide = None if beside is None else self._in_market_with_assets(model)
        own = self._wide if self._inside else None
        self.prepared = own or prepare(loaded, model, backend)

    def in_float64(self) -> Prepared:
        """The model as `prepared`, but in float64."""
        parameters = self._model.parameters.model_copy(update={"precision": "float64"})
        model = replace(self._model, parameters=parameters)
        if self._inside:
            return self._in_market_with_assets(model)
        return prepare(self._loaded, model, self._backend)

    def inside(self, number: int) -> tuple[Ints, Floats]:
        """Codes and units of the assets that stand in the scenarios of set `number`."""
        if not self._inside or self._found is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        own = self._own(self._found, number)
        return self._found.held.rows.column[own], self._units[own]

    def haircuts_move(self, number: int) -> bool:
        """Whether the value of the set's collateral depends on its positions (wrong-way risk)."""
        if self._inside or self._found is None:
            return False
        own = self._own(self._found, number)
        return bool(own.stop > own.start)

    def value(self, number: int, rows: Rows) -> float:
        """What the collateral of set `number` is worth beside one row of net positions."""
        found = self._found
        if found is None or self._wide is None:
            raise ValueError("nothing that moves: the value is that of the run")
        own = self._own(found, number)
        held = found.held.rows
        count = np.array([0, own.stop - own.start], dtype=np.int64)
        probes = Rows(count, held.column[own], held.value[own])
        rates = self._wide.loss_rates(rows, probes, "instrument")
        holding = found.holdings.rows
        entry = found.held.entry[own]
        unit = found.assets.unit_value[holding.column[entry]]
        losses = np.zeros(len(holding.column))
        losses[entry] = rates / np.where(unit > 0.0, unit, 1.0)
        values = haircut_value(found.assets, found.holdings, losses)
        total = add_up(entry_rows(holding), values, len(found.holdings))
        code = found.cover.holding[found.cover.position == number]
        return float(total[code[0]])

    def _own(self, found: Covered, number: int) -> slice:
        offsets = found.held.rows.offsets
        return slice(int(offsets[number]), int(offsets[number + 1]))

    def _in_market_with_assets(self, model: Model) -> Prepared:
        assets = self._loaded.assets
        if assets is None:
            raise ValueError("a market with assets needs assets")
        wider = replace(self._loaded, market=with_assets(self._loaded.market, assets))
        return prepare(wider, model, self._backend)
