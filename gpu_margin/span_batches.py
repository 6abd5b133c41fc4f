"""SPAN margin of any number of accounts: in tiles, on a device that may fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import polars as pl

from gpu_margin import backend as backends
from gpu_margin.backend import Backend
from gpu_margin.devices import Device
from gpu_margin.failures import join_failures
from gpu_margin.models.span.calculation import prepare
from gpu_margin.span_book import SpanBook, SpanMargin, Terms
from gpu_margin.span_file import SpanFile
from gpu_margin.span_files import tiles
from gpu_margin.tiling import Clock, Progress

# Columns of `SpanMargin` that have codes of accounts.
_OWNERS = ("account", "total_account")


@dataclass(frozen=True)
class Work:
    """What margins are computed on, who is told how far it is, and how long it took.

    `prepared` has the file on each device that it was used on, by its backend's identity.
    """

    device: Device
    report: Progress
    clock: Clock
    prepared: dict[tuple[int, int], Any] = field(default_factory=dict)

    def margin(
        self, file: SpanFile, book: SpanBook, terms: Terms, stage: str, formed: bool = False
    ) -> SpanMargin:
        """Margin of every account, tile by tile; the bits do not depend on the tiles."""
        portfolio, parts, starts = book.portfolio, [], []
        count = len(portfolio.accounts)
        self.report(stage, 0, count)
        for start, stop in tiles(portfolio.rows.offsets):
            parts.append(self._on_device(file, book.tile(start, stop), terms, stage, formed))
            starts.append(start)
            self.report(stage, stop, count)
        return joined(parts, starts)

    def _on_device(
        self, file: SpanFile, book: SpanBook, terms: Terms, stage: str, formed: bool
    ) -> SpanMargin:
        def asked(shard: Backend) -> SpanMargin:
            key = (id(file), id(shard))
            if key not in self.prepared:
                self.prepared[key] = prepare(file, shard)
            found: SpanMargin = self.prepared[key].margin(book, terms, formed=formed)
            return found

        # What is beyond all numbers is a failure of its account.
        with self.clock.timed(stage), np.errstate(over="ignore", invalid="ignore"):
            return self.device.done(stage, asked)


def work_on(backend: str | Backend, progress: Progress | None) -> Work:
    """On a backend, by its name or itself; raises `BackendUnavailable` where it cannot run."""
    device = Device(backends.load(backend) if isinstance(backend, str) else backend)
    return Work(device, progress or (lambda stage, done, total: None), Clock())


def joined(parts: Sequence[SpanMargin], starts: Sequence[int]) -> SpanMargin:
    """Margins of several tiles of accounts one after another; `starts` are their first accounts."""
    if len(parts) == 1:
        return parts[0]
    columns: dict[str, Any] = {}
    for one in fields(SpanMargin):
        if one.name in ("failures", "formed"):
            continue
        own = [getattr(part, one.name) for part in parts]
        if one.name in _OWNERS:
            own = [codes + start for codes, start in zip(own, starts, strict=True)]
        columns[one.name] = np.concatenate(own)
    formed = [
        part.formed.with_columns(pl.col("account") + start)
        for part, start in zip(parts, starts, strict=True)
        if part.formed is not None
    ]
    failures = join_failures([part.failures for part in parts])
    return replace(
        parts[0], **columns, failures=failures, formed=pl.concat(formed) if formed else None
    )
