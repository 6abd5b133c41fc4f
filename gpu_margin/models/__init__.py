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
from gpu_margin.portfolio import Portfolio
from gpu_margin.result import Margin, PositionFigures
from gpu_margin.settings import Settings


class Prepared(Protocol):
    """A rulebook ready to margin any number of portfolios in one market."""

    def margin(self, portfolio: Portfolio) -> list[Margin]:
        """Margin of every netting set, one entry per level."""
        ...

    def positions(self, portfolio: Portfolio) -> PositionFigures:
        """Figures of every net position, in the order of `portfolio.netted`."""
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
