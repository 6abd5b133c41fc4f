"""The command `gpu-margin export-state`: fills and marks in, the tables of a later run out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import typer
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from gpu_margin import commands, console, loading
from gpu_margin.collateral import STATUSES
from gpu_margin.failures import ConfigError, join_failures
from gpu_margin.io import rules
from gpu_margin.io.fill_tables import FILL_COLUMNS, FILL_OPTIONAL
from gpu_margin.io.mark_tables import MARK_COLUMNS, MARK_OPTIONAL
from gpu_margin.io.outputs import check_folder
from gpu_margin.io.tables import Table, read_table
from gpu_margin.loading import Loaded
from gpu_margin.tracker import BatchResult, Tracker

# Fills of a file that are booked before accounts are margined again.
_BATCH = 1000
_SHOWN = 20


def export_state(
    config: commands.ConfigFile,
    out: Annotated[Path, typer.Option(help="Folder for the state.", metavar="DIR")],
    fills: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Parquet or CSV: fill_id, account_id, instrument_id, quantity, price; optional "
            "netting_set, fee, time.",
        ),
    ] = None,
    marks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Parquet or CSV: instrument_id or factor, field (price, implied_vol, forward, "
            "last), value, time.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model that events are of; default: the first.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a state in DIR.")] = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    as_json: commands.AsJson = False,
) -> None:
    """Apply fills and marks to the inputs of a run and write the inputs of the next.

    DIR gets tables and a config.toml that [bold]gpu-margin run[/] takes. Rows are taken in the
    order of their file. Where fills have a time, a mark comes before the fills of its time and
    later; without, marks come first. Futures and perpetuals are settled at every mark.
    """
    with commands.errors():
        check_folder(out, overwrite)
        loaded = loading.load_book(config)
        _keep_inputs(loaded, out)
        tracker = Tracker(loaded, model or loaded.models[0].name, backend)
        taken = _taken(tracker, fills, marks)
        written = tracker.export(out)
    summary = _summary(tracker, taken, written)
    failures = join_failures([tracker.failures, *(part.failures for _, part in taken)])
    if as_json:
        events = tracker.events.to_dicts()
        commands.print_json({**summary, "events": events, "failures": failures.to_dicts()})
    else:
        _show(summary, tracker.events)
        console.show_failures(failures)
    raise typer.Exit(commands.Exit.FAILED_ROWS if strict and len(failures) else commands.Exit.DONE)


Part = tuple[Literal["fills", "marks"], Table]
Parts = list[tuple[str, BatchResult]]


def _keep_inputs(loaded: Loaded, out: Path) -> None:
    """Refuse to write over what was read."""
    folder = out.resolve()
    for name, described in loaded.inputs.items():
        if Path(described["path"]).parent == folder:
            raise ConfigError(f"--out {out}: has inputs.{name} of the run in it; choose another")


def _taken(tracker: Tracker, fills: Path | None, marks: Path | None) -> Parts:
    """What became of the batches of both files."""
    found: Parts = []
    for name, part in in_sequence(_fill_table(fills), _mark_table(marks)):
        took = tracker.fill(part) if name == "fills" else tracker.mark(part)
        found.append((name, took))
    return found


def _fill_table(path: Path | None) -> Table | None:
    optional = (*FILL_OPTIONAL, "time")
    return None if path is None else _whole(read_table(path, "fills", FILL_COLUMNS, optional))


def _mark_table(path: Path | None) -> Table | None:
    if path is None:
        return None
    return _whole(read_table(path, "marks", MARK_COLUMNS, MARK_OPTIONAL))


def _whole(table: Table) -> Table:
    """Only rows that could be read: so a table can be cut."""
    return replace(table, frame=table.good)


def in_sequence(fills: Table | None, marks: Table | None) -> Iterator[Part]:
    """Batches of fills and marks in the order in which they are to be taken.

    Marks of one time are one batch, and come before the fills of that time; fills stay in the order
    of their file, one without a time (or whose time cannot be read) where it stands. What cannot be
    read at all is in the first batch of its file.
    """
    clock = np.zeros(0) if fills is None else _clock(fills)
    at = 0
    for time, part in [] if marks is None else _by_time(marks):
        until = int(np.searchsorted(clock, time, side="left")) if len(clock) else 0
        if fills is not None and until > at:
            yield from _batches(fills, at, until)
            at = until
        yield "marks", part
    if fills is not None:
        yield from _batches(fills, at, len(fills.frame))


def _clock(fills: Table) -> NDArray[np.float64]:
    """[fill] the latest time up to it; nothing where no fill has a time."""
    if "time" not in fills.frame.columns:
        return np.zeros(0)
    time = rules.time_columns(fills.frame, ["time"])["time"].fill_nan(None)
    if time.is_null().all():
        return np.zeros(0)
    return time.forward_fill().fill_null(-np.inf).cum_max().to_numpy()


def _by_time(marks: Table) -> Iterator[tuple[float, Table]]:
    """The marks of one time after another; those without one first."""
    time = rules.time_columns(marks.frame, ["time"])["time"].fill_nan(None).fill_null(-np.inf)
    order, cut = marks.frame.with_columns(time.alias("at")), marks
    for (at,), part in order.sort("at", maintain_order=True).group_by("at", maintain_order=True):
        yield float(at), replace(cut, frame=part.drop("at"))
        cut = replace(marks, failures=marks.failures.clear())
    if marks.frame.is_empty():
        yield -math.inf, marks


def _batches(fills: Table, start: int, stop: int) -> Iterator[Part]:
    """Fills start to stop, some at a time; what is wrong with the table comes with the first."""
    bounds = [*range(start, stop, _BATCH), stop]
    for first, last in pairwise(bounds):
        failures = fills.failures if first == 0 else fills.failures.clear()
        yield "fills", replace(fills, frame=fills.frame[first:last], failures=failures)
    if stop == start == 0:
        yield "fills", fills


def _summary(tracker: Tracker, taken: Parts, written: Path) -> dict[str, Any]:
    """Totals, and how accounts stand where that is known."""
    table = tracker.requirements()
    found: dict[str, Any] = {"config": str(written), "model": tracker.model.name}
    for name in ("fills", "marks"):
        own = [part for kind, part in taken if kind == name]
        found[name] = {
            "applied": sum(part.applied for part in own),
            "skipped": sum(len(part.skipped) for part in own),
            "failed": sum(len(part.failures) for part in own),
        }
    found["accounts"] = table["account_id"].n_unique()
    found["positions"] = len(tracker.positions())
    found["requirement"] = math.fsum(table["requirement"].drop_nulls())
    kinds = tracker.events["kind"].to_list()
    found["event_counts"] = {kind: kinds.count(kind) for kind in ("call", "cured", "liquidation")}
    if tracker.with_collateral:
        status = tracker.accounts().filter(pl.col("netting_set").is_null())["status"]
        found["statuses"] = {one: int((status == one).sum()) for one in STATUSES}
        found["statuses"]["unknown"] = status.null_count()
    return found


def _show(summary: dict[str, Any], events: pl.DataFrame) -> None:
    """Totals, and the last events."""
    for name in ("fills", "marks"):
        counts = ", ".join(f"{count:,} {what}" for what, count in summary[name].items())
        console.say(f"{name}: {counts}")
    console.say(
        f"{summary['accounts']:,} accounts with {summary['positions']:,} positions require "
        f"{summary['requirement']:,.2f} under {summary['model']}"
    )
    if "statuses" in summary:
        statuses = (f"{count:,} {status}" for status, count in summary["statuses"].items())
        console.say(f"statuses: {', '.join(statuses)}")
    _show_events(events)
    console.say(f"State in {summary['config']}")


def _show_events(events: pl.DataFrame) -> None:
    if events.is_empty():
        return
    grid = Grid(title="Events", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in events.columns:
        grid.add_column(name.replace("_", " "), justify="right" if name == "sequence" else "left")
    for row in events.tail(_SHOWN).iter_rows():
        grid.add_row(*("" if value is None else escape(str(value)) for value in row))
    Console().print(grid)
    if len(events) > _SHOWN:
        console.say(f"{len(events) - _SHOWN:,} more before them; --json has all")
