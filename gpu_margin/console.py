"""What a person reads in a terminal: progress bars and tables that line up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gpu_margin.collateral import STATUSES
from gpu_margin.explain import Explanation
from gpu_margin.report_solvency import standings
from gpu_margin.result import Run
from gpu_margin.tiling import Progress as Report

_SHOWN = 50
_KINDS = 10


def say(text: str) -> None:
    """A line of plain text, never wrapped inside a path."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def say_written(written: Sequence[Path]) -> None:
    """Which files there are now."""
    for path in written:
        say(f"written: {path}")


@contextmanager
def progress_bars(silent: bool) -> Iterator[Report]:
    """Bars on standard error, one per stage, for `engine.run`."""
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=silent) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(escape(stage), total=total)
            bars.update(tasks[stage], completed=done)

        yield report


def show_totals(run: Run) -> None:
    """Totals by model, incomplete accounts apart; with collateral, how accounts stand."""
    currency = run.manifest["config"]["currency"]
    columns = ("accounts", "requirement", "standalone", "offset", "offset %")
    table = _table(
        f"Initial margin, {currency}, as of {run.manifest['config']['valuation_date']}",
        [("model", "l"), ("level", "l"), *((column, "r") for column in columns)],
    )
    for row in run.manifest["totals"]:
        name = row["model"] if row["complete"] else f"{row['model']} (incomplete accounts)"
        figures = [_amount(row[key]) for key in ("requirement", "standalone", "offset")]
        table.add_row(
            escape(name), row["level"], f"{row['accounts']:,}", *figures, _offset_percent(row)
        )
    _print(table)
    if run.accounts is not None:
        _show_standings(run, run.accounts)


def _offset_percent(row: Mapping[str, Any]) -> str:
    """Nothing where a model knows no offset."""
    if row["offset"] is None:
        return ""
    return f"{100 * row['offset'] / row['standalone']:.1f}" if row["standalone"] else "0.0"


def _show_standings(run: Run, accounts: pl.DataFrame) -> None:
    """How many accounts have which status, and what they lack."""
    amounts = ("total_call", "total_deficit", "total_excess")
    columns = ("accounts", *STATUSES, "unknown")
    table = _table(
        f"Collateral, {run.manifest['config']['currency']}",
        [("model", "l"), *((name.replace("_", " "), "r") for name in (*columns, *amounts))],
    )
    for row in standings(accounts, list(run.manifest["config"]["models"])).iter_rows(named=True):
        name = row["model"] if row["complete"] else f"{row['model']} (incomplete accounts)"
        counts = [f"{row[column]:,}" for column in columns]
        table.add_row(escape(name), *counts, *(_amount(row[amount]) for amount in amounts))
    _print(table)


def show_lost_backends(run: Run) -> None:
    """Backends that failed on the way."""
    for lost in run.manifest["lost_backends"]:
        say(
            f"warning: backend {lost['name']} failed in {lost['stage']} ({lost['error']}); "
            f"the run went on with {lost['next']}"
        )


def show_counts(counts: Mapping[str, int]) -> None:
    """How much there is of everything."""
    table = _table("Inputs", [("what", "l"), ("count", "r")])
    for name, count in counts.items():
        table.add_row(name.replace("_", " "), f"{count:,}")
    _print(table)


def show_failures(failures: pl.DataFrame) -> None:
    """Failed rows by reason, each with its first example."""
    if failures.is_empty():
        return
    grouped = failures.group_by("source", "reason", maintain_order=True).agg(
        pl.len(), pl.col("row", "field", "value").first()
    )
    say(f"Failed rows: {len(failures):,}")
    for row in grouped.sort("len", descending=True, maintain_order=True).iter_rows(named=True):
        place = "" if row["row"] is None else f"row {row['row']}, "
        example = f"{place}{row['field'] or 'line'} = {row['value']!r}"
        say(f"  {row['len']:>9,}  {row['source']}: {row['reason']} (first: {example})")


def show_failure_kinds(failures: pl.DataFrame) -> None:
    """The most frequent kinds of failure wherever they are, each with its first example."""
    if failures.is_empty():
        return
    say(f"Failed rows: {len(failures):,}")
    example = pl.col("source", "row", "field", "value").first()
    kinds = failures.group_by("reason", maintain_order=True).agg(pl.len(), example)
    kinds = kinds.sort("len", descending=True, maintain_order=True)
    for row in kinds.head(_KINDS).iter_rows(named=True):
        place = row["source"] if row["row"] is None else f"{row['source']}, row {row['row']}"
        what = f"{row['field'] or 'line'} = {row['value']!r}"
        say(f"  {row['len']:>9,}  {row['reason']} (first: {place}, {what})")
    if len(kinds) > _KINDS:
        say(f"{len(kinds) - _KINDS:,} more kinds of failure; --out or --json has all")


def show_frame(
    title: str,
    frame: pl.DataFrame,
    heading: Callable[[str], str],
    cell: Callable[[str, Any], str],
) -> None:
    """A table under its title; `heading` of a column, `cell` of a column and a value."""
    say(title)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, kind in frame.schema.items():
        right = kind.is_numeric()
        table.add_column(heading(name), justify="right" if right else "left", no_wrap=True)
    for row in frame.iter_rows(named=True):
        table.add_row(*(cell(name, value) for name, value in row.items()))
    _print(table)


def show_devices(found: Sequence[Mapping[str, Any]]) -> None:
    """What each backend says about this machine."""
    table = _table("Backends", [("name", "l"), ("runs", "l"), ("device, or what is missing", "l")])
    for row in found:
        table.add_row(row["name"], "yes" if row["available"] else "no", escape(row["device"]))
    _print(table)


def show_explanation(explanation: Explanation) -> None:
    """An account's figures, positions and groups under one model."""
    figures = explanation.figures
    say(f"\nAccount {explanation.account}, model {explanation.model}")
    for name in ("requirement", "standalone", "offset", "net_exposure", "gross_exposure"):
        say(f"  {name.replace('_', ' '):<16}{_amount(figures[name]):>24} {figures['currency']}")
    if figures["worst_scenario"] is not None:
        loss = -float(explanation.positions["worst_pnl"].sum())
        say(f"  worst scenario  {figures['worst_scenario']:>24} loss {_amount(loss)}")
    if not figures["complete"]:
        say("  incomplete: some of its position rows failed")
    _print(_frame_table("Positions", explanation.positions.head(_SHOWN)))
    if len(explanation.positions) > _SHOWN:
        say(f"  {_SHOWN} of {len(explanation.positions)} positions; --json has all")
    _print(_frame_table("Product groups", explanation.groups))
    show_failures(explanation.failures)


def explanation_dict(explanation: Explanation) -> dict[str, Any]:
    """An explanation as plain lists and dicts."""
    parts = {
        name: getattr(explanation, name).to_dicts() for name in ("positions", "groups", "failures")
    }
    return {
        "account": explanation.account,
        "model": explanation.model,
        "figures": explanation.figures,
        **parts,
    }


def _print(table: Table) -> None:
    """Print a table as wide as it needs to be: a cut number is worse than a long line."""
    console = Console()
    wide = console.measure(table, options=console.options.update(max_width=1000)).maximum
    Console(width=max(console.width, wide)).print(table)


def _frame_table(title: str, frame: pl.DataFrame) -> Table:
    shown = [column for column in frame.columns if not frame[column].is_null().all()]
    numeric = {column for column in shown if frame.schema[column].is_numeric()}
    names = [(column.replace("_", " "), "r" if column in numeric else "l") for column in shown]
    table = _table(title, names)
    for row in frame.select(shown).iter_rows():
        table.add_row(*(_amount(v) if isinstance(v, float) else _text(v) for v in row))
    return table


def _table(title: str, columns: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name, side in columns:
        right = side == "r"
        table.add_column(name, justify="right" if right else "left", no_wrap=right)
    return table


def _amount(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _text(value: Any) -> str:
    return "" if value is None else escape(str(value))
