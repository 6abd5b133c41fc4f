"""Rulebooks of crypto venues on any number of sets: in tiles, on a device that may fail."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from gpu_margin import backend as backends
from gpu_margin import crypto_files, models
from gpu_margin.backend import Backend
from gpu_margin.crypto_book import CryptoBook, CryptoMargin, CryptoMarket, Level
from gpu_margin.crypto_files import CryptoFiles, Inputs, read_crypto
from gpu_margin.devices import Device
from gpu_margin.failures import ConfigError, failure_table, join_failures
from gpu_margin.tiling import Clock, Progress

# Stands for a source that is no file.
_GIVEN = Path("given")


class Prepared(Protocol):
    """A rulebook in one market, on one device."""

    def margin(self, book: CryptoBook, *, pnl: bool = False) -> CryptoMargin:
        """Margin of every set of a book; with the P&L of every scenario if asked for."""
        ...


class Rulebook(Protocol):
    """What a rulebook of a crypto venue has beside what every rulebook on files has."""

    Parameters: type[CryptoFiles]

    def figures(self, parameters: Any) -> Any:
        """The numbers of the parameters' table, with what the parameters say otherwise."""
        ...

    def prepare(self, figures: Any, market: CryptoMarket, backend: Backend) -> Prepared:
        """All that depends on the market only."""
        ...


def kinds() -> list[str]:
    """Names of the rulebooks of crypto venues."""
    return [kind for kind in models.kinds() if models.files(kind) == crypto_files.FILES]


def rulebook(kind: str) -> Rulebook:
    """The rulebook of that name; `ConfigError` where there is none."""
    known = kinds()
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown rulebook {kind!r}{hint} (known: {', '.join(known)})")
    found: Any = models.on_files(kind)
    return found  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Work:
    """A rulebook with its figures, what it runs on, who is told how far it is, and how long."""

    rulebook: Rulebook
    figures: Any
    device: Device
    report: Progress
    clock: Clock

    def quoted(self, market: CryptoMarket) -> Quoted:
        """The rulebook in a market."""
        return Quoted(self, market, {})


@dataclass(frozen=True)
class Quoted:
    """A rulebook in a market; `prepared` once on each device, by its backend's identity."""

    work: Work
    market: CryptoMarket
    prepared: dict[int, Prepared]

    def margin(self, book: CryptoBook, stage: str, *, pnl: bool = False) -> CryptoMargin:
        """Margin of every set, tile by tile, and how far it is."""
        count, done, parts = len(book.portfolio.accounts), 0, []
        self.work.report(stage, 0, count)
        for part in self.parts(book, stage, pnl=pnl):
            parts.append(part)
            done += part.accounts
            self.work.report(stage, done, count)
        return joined([part.margin for part in parts])

    def parts(self, book: CryptoBook, stage: str, *, pnl: bool = False) -> Iterator[Part]:
        """The margins of the tiles one after another."""
        for piece in Inputs(self.market, book, [], failure_table()).pieces():
            found = self._on_device(stage, partial(_margined, piece.book, pnl))
            yield Part(len(piece.accounts), piece.book, found)

    def quietly(self, book: CryptoBook, stage: str) -> CryptoMargin:
        """Margin of every set; nobody is told how far it is."""
        return joined([part.margin for part in self.parts(book, stage)])

    def _on_device(self, stage: str, ask: Callable[[Prepared], CryptoMargin]) -> CryptoMargin:
        def asked(shard: Backend) -> CryptoMargin:
            key = id(shard)
            if key not in self.prepared:
                self.prepared[key] = self.work.rulebook.prepare(
                    self.work.figures, self.market, shard
                )
            return ask(self.prepared[key])

        # What is beyond all numbers is a failure of its set.
        with np.errstate(over="ignore", invalid="ignore"):
            return self.work.device.done(stage, asked)


@dataclass(frozen=True)
class Part:
    """A tile of accounts: how many, their book, its margin."""

    accounts: int
    book: CryptoBook
    margin: CryptoMargin


def _margined(book: CryptoBook, pnl: bool, prepared: Prepared) -> CryptoMargin:
    return prepared.margin(book, pnl=pnl)


def joined(parts: Sequence[CryptoMargin]) -> CryptoMargin:
    """Margins of several tiles, one after another; P&L where all have it."""
    first = parts[0]
    if len(parts) == 1:
        return first
    pnl = [part.pnl for part in parts if part.pnl is not None]
    return replace(
        first,
        levels={
            name: Level(
                np.concatenate([part.levels[name].requirement for part in parts]),
                _columns([part.levels[name].components for part in parts]),
            )
            for name in first.levels
        },
        mark_to_market=np.concatenate([part.mark_to_market for part in parts]),
        cash=np.concatenate([part.cash for part in parts]),
        worst=np.concatenate([part.worst for part in parts]),
        figures=_columns([part.figures for part in parts]),
        failures=join_failures([part.failures for part in parts]),
        pnl=np.concatenate(pnl) if len(pnl) == len(parts) else None,
    )


def _columns(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Opened:
    """A question's rulebook on a device, its settings, and what was read."""

    kind: str
    parameters: CryptoFiles
    work: Work
    inputs: Inputs


def opened(
    kind: str,
    feeds: Any,
    positions: Any,
    balances: Any,
    settings: Mapping[str, Any],
    backend: str | Backend,
    progress: Progress | None,
) -> Opened:
    """Settings checked, files read, a device found: before anything is computed.

    Sources are paths, or what else `read_crypto` takes; `feeds` may be `Inputs`, which are taken as
    they are. A setting that is None was not given.
    Raises `ConfigError` for a wrong setting or an absent file.
    """
    own = rulebook(kind)
    sources = {"feeds": feeds, "positions": positions, "balances": balances}
    if isinstance(feeds, Inputs):
        sources = {"feeds": _GIVEN, "positions": _GIVEN, "balances": None}
    elif positions is None:
        raise ConfigError("positions: missing: name the file that has the positions")
    named = {
        name: source if source is None or isinstance(source, (str, Path)) else _GIVEN
        for name, source in sources.items()
    }
    given = {name: value for name, value in settings.items() if value is not None}
    parameters = _parameters(kind, own, {**named, **given})
    device = Device(backends.load(backend) if isinstance(backend, str) else backend)
    report = progress or (lambda stage, done, total: None)
    work = Work(own, own.figures(parameters), device, report, Clock())
    if isinstance(feeds, Inputs):
        return Opened(kind, parameters, work, feeds)
    with work.clock.timed("read"):
        report("read", 0, 1)
        inputs = read_crypto(**sources)
        report("read", 1, 1)
    return Opened(kind, parameters, work, inputs)


def _parameters(kind: str, own: Rulebook, given: Mapping[str, Any]) -> CryptoFiles:
    try:
        return own.Parameters.model_validate(dict(given))
    except ValidationError as error:
        lines = []
        for fault in error.errors(include_url=False):
            place = ".".join(str(part) for part in fault["loc"]) or kind
            shown = "" if isinstance(fault["input"], dict) else f" (given: {fault['input']!r})"
            lines.append(f"{place}: {fault['msg'].removeprefix('Value error, ')}{shown}")
        raise ConfigError("\n".join(lines)) from error


def tables(kind: str) -> list[dict[str, str]]:
    """Versions of a rulebook's numbers: `table`, `date` and `source` of each."""
    venue, _, name = kind.partition("_")
    return [
        {"table": version, **{key: str(found.get(key, "")) for key in ("date", "source")}}
        for version in crypto_files.versions(venue, name)
        for found in [crypto_files.versioned(venue, name, version)]
    ]
