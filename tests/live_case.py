"""A live book on the small venue, and records that change it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import tracker_case as case
from tracker_case import TABLES, Row, columns

import gpu_margin
from gpu_margin.live import LiveBook
from gpu_margin.records import Outcome, Record
from gpu_margin.tracker import Tracker

Coming = list[tuple[str, Row]]


def book(
    backend: Any = "numpy", mode: str = "haircut", tables: Any = None, **more: Any
) -> LiveBook:
    frames = TABLES if tables is None else tables
    loaded = case._loaded(mode) if tables is None else case.loaded(tables, mode)
    return LiveBook(loaded, backend, **more, **frames)


def tracker(live: LiveBook) -> Tracker:
    """The book's tables."""
    found = Tracker.__new__(Tracker)
    found.core = live.core
    return found


def records(coming: Coming, sizes: Sequence[int], first: int = 1) -> list[Record]:
    """Records of one kind each, of at most these sizes in turn."""
    found: list[tuple[str, list[Row]]] = []
    for kind, row in coming:
        most = sizes[len(found) % len(sizes)]
        if found and found[-1][0] == kind and len(found[-1][1]) < most:
            found[-1][1].append(row)
        else:
            found.append((kind, [row]))
    return [
        Record(number, "fills" if kind == "fill" else "marks", columns(rows))
        for number, (kind, rows) in enumerate(found, first)
    ]


def grouped(coming: Sequence[Record], sizes: Sequence[int]) -> Iterator[list[Record]]:
    """The records, so many at a time in turn."""
    start, turn = 0, 0
    while start < len(coming):
        stop = start + sizes[turn % len(sizes)]
        yield list(coming[start:stop])
        start, turn = stop, turn + 1


def applied(live: LiveBook, groups: Iterator[list[Record]]) -> list[Outcome]:
    return [outcome for group in groups for outcome in live.apply(group)]


def figures(live: LiveBook) -> dict[str, pl.DataFrame]:
    """Everything that is known, as tables."""
    tracked = tracker(live)
    found = {"positions": tracked.positions(), "collateral": tracked.collateral()}
    for model in live.models:
        found[f"requirements {model}"] = tracked.requirements(model)
        if tracked.with_collateral:
            found[f"accounts {model}"] = tracked.accounts(model)
    return found


def same(one: LiveBook, other: LiveBook) -> None:
    """The same state, to the bit, but for amounts of 0 that are written or not."""
    first, second = figures(one), figures(other)
    for found in (first, second):
        found["collateral"] = found["collateral"].filter(pl.col("amount") != 0.0)
    for name, table in first.items():
        assert table.equals(second[name]), name
    assert one.sequence == other.sequence


def same_as_run(live: LiveBook, folder: Path, backend: str = "numpy") -> None:
    """Every figure under every model is that of a run on the state as it is exported."""
    finished = gpu_margin.run(live.export(folder), backend=backend)
    tracked = tracker(live)
    keys = ["account_id", "netting_set", "requirement", "complete"]
    for model in live.models:
        chosen = pl.col("model") == model
        assert tracked.requirements(model).equals(finished.sets.filter(chosen).select(keys)), model
        if tracked.with_collateral:
            assert finished.accounts is not None
            assert tracked.accounts(model).equals(finished.accounts.filter(chosen)), model
