"""Rulebooks: one margin methodology per module or package, registered by its name.

A rulebook has `Parameters`, the settings of `[models.<name>]` less `kind`. One on positions has
`Inputs` (what `prepare` takes), `check(parameters, inputs)` and `prepare(parameters, inputs,
backend)`, which does what depends on the market only and returns a `Prepared`. One on files brings
accounts of its own, from files that its parameters name: see `FileRulebook`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import polars as pl

from gpu_margin.backend import Backend
from gpu_margin.failures import ConfigError
from gpu_margin.offsets import Offsets
from gpu_margin.portfolio import Portfolio, Rows
from gpu_margin.result import FileMargin, Margin, PositionFigures
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
    """What a rulebook on positions provides."""

    Parameters: type[Settings]
    Inputs: type

    def check(self, parameters: Any, inputs: Any) -> None:
        """Raise `ConfigError` where the inputs cannot serve the parameters; computes nothing."""
        ...

    def prepare(self, parameters: Any, inputs: Any, backend: Backend) -> Prepared:
        """The rulebook in one market, on one device."""
        ...


class FileInputs(Protocol):
    """What a rulebook on files has read."""

    @property
    def accounts(self) -> pl.Series:
        """Ids of the accounts, in byte order."""
        ...

    @property
    def computable(self) -> bool:
        """Whether any account has a good row."""
        ...

    @property
    def failures(self) -> pl.DataFrame:
        """Rows that could not be used."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """How much there is of what."""
        ...

    @property
    def files(self) -> list[dict[str, Any]]:
        """What was read: of each file its input, path, SHA-256 and number of rows."""
        ...

    def pieces(self) -> Iterator[FileInputs]:
        """The accounts in pieces that fit into memory, in their order and one at least.

        Their failures are none: those are of the whole.
        """
        ...


class FileRulebook(Protocol):
    """What a rulebook provides whose accounts come from files of its own.

    `FILES` are the parameters that name files (one, several, or None); `CURRENCY` is what its
    amounts are in, unless its parameters have a `currency` of their own. It may have `READ`: other
    parameters that change what is read.
    """

    Parameters: type[Settings]
    FILES: tuple[str, ...]
    CURRENCY: str

    def load(self, parameters: Any) -> FileInputs:
        """Read the files, whatever parameters beside `FILES` and `READ` say.

        Raises `ConfigError` where there is no such file; a bad row is a failure.
        """
        ...

    def check(self, parameters: Any, inputs: Any) -> pl.DataFrame:
        """Failures of what the other parameters do not allow; computes nothing."""
        ...

    def margin(self, parameters: Any, inputs: Any, rate: float, backend: Backend) -> FileMargin:
        """Margin of all accounts in another currency, `rate` of it for one unit of the own."""
        ...


def kinds() -> list[str]:
    """Names of all rulebooks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def parameters(kind: str) -> type[Settings]:
    """The parameters of the rulebook of that name; `ConfigError` where there is none."""
    found: type[Settings] = _module(kind).Parameters
    return found


def files(kind: str) -> tuple[str, ...]:
    """The parameters that name files, for a rulebook on files; none for one on positions."""
    return getattr(_module(kind), "FILES", ())


def read_by(kind: str) -> tuple[str, ...]:
    """The parameters that say what a rulebook on files reads."""
    return (*files(kind), *getattr(_module(kind), "READ", ()))


def currency(kind: str, parameters: Any) -> str:
    """What the amounts of a rulebook on files are in."""
    own: str = getattr(parameters, "currency", None) or on_files(kind).CURRENCY
    return own


def unverified(kind: str, parameters: Any) -> list[str]:
    """Figures in use that the rulebook of that name says no public text confirms."""
    said = getattr(_module(kind), "unverified", None)
    found: list[str] = [] if said is None else said(parameters)
    return found


def load(kind: str) -> Rulebook:
    """The rulebook of that name, which is on positions; `ConfigError` where there is none."""
    if files(kind):
        raise ConfigError(f"kind {kind!r} has files of its own and does not margin positions")
    rulebook: Rulebook = _module(kind)
    return rulebook


def on_files(kind: str) -> FileRulebook:
    """The rulebook of that name, which is on files; `ConfigError` where there is none."""
    if not files(kind):
        raise ConfigError(f"kind {kind!r} margins positions and has no files of its own")
    rulebook: FileRulebook = _module(kind)
    return rulebook


def _module(kind: str) -> Any:
    if kind not in kinds():
        raise ConfigError(f"unknown kind {kind!r}; known kinds: {', '.join(kinds())}")
    return importlib.import_module(f"{__name__}.{kind}")
