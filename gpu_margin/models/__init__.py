"""Rulebooks: one margin methodology per module, registered by its file's name.

A rulebook module has `Parameters` (the settings of `[models.<name>]` less `kind`), `Inputs` (what
`prepare` takes), `check(parameters, inputs)` and `prepare(parameters, inputs, backend)`, which does
what depends on the market only and returns a `Prepared`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol

from gpu_margin.backend import Backend
from gpu_margin.failures import ConfigError
from gpu_margin.offsets import Offsets
from gpu_margin.portfolio import Portfolio, Rows
from gpu_margin.result import Margin, PositionFigures
from gpu_margin.settings import Settings
from gpu_margin.unit_risk import Floats, Of, Requirement, ScenarioVectors


class Prepared(Protocol):
    """A rulebook ready to margin any number of portfolios in one market."""

    @property
    def vectors(self) -> ScenarioVectors | None:
        """Scenario vectors, where a requirement is one measure of their sum; None elsewhere."""
        ...

    @property
    def offsets(self) -> Offsets | None:
        """How far product groups may offset each other; None for freely."""
        ...

    def margin(self, portfolio: Portfolio) -> list[Margin]:
        """Margin of every netting set, one entry per level."""
        ...

    def positions(self, portfolio: Portfolio) -> PositionFigures:
        """Figures of every net position, in the order of `portfolio.netted`."""
        ...

    def require(self, rows: Rows) -> Requirement:
        """What rows of net positions (on the host) require; the same bits as in `margin`."""
        ...

    def loss_rates(self, rows: Rows, probes: Rows, of: Of, smooth: bool = True) -> Floats:
        """[probe entry] mean loss of one unit of each column in the tail of its row of `rows`.

        The Euler rate of what a row requires without floor and cap. A unit is one contract of an
        instrument or, for factors, an exposure of 1.
        """
        ...


class Rulebook(Protocol):
    """What a module in this package provides."""

    Parameters: type[Settings]
    Inputs: type

    def check(self, parameters: Any, inputs: Any) -> None:
        """Raise `ConfigError` where the inputs cannot serve the parameters; computes nothing."""
        ...

    def prepare(self, parameters: Any, inputs: Any, backend: Backend) -> Prepared:
        """The rulebook in one market, on one device."""
        ...


def kinds() -> list[str]:
    """Names of all rulebooks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(kind: str) -> Rulebook:
    """The rulebook of that name; `ConfigError` where there is none."""
    if kind not in kinds():
        raise ConfigError(f"unknown kind {kind!r}; known kinds: {', '.join(kinds())}")
    module: Any = importlib.import_module(f"{__name__}.{kind}")
    rulebook: Rulebook = module
    return rulebook
