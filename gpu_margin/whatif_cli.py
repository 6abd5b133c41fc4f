"""The command `gpu-margin whatif`: trades in, what they would change out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from gpu_margin import commands, console
from gpu_margin.io.tables import Table, read_table
from gpu_margin.io.trade_tables import TRADE_COLUMNS, TRADE_OPTIONAL
from gpu_margin.whatif import Answers, WhatIf, read_run

_SHOWN = 20
_AMOUNTS = ("before", "after", "change")


def whatif(
    folder: commands.Results,
    trades: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Parquet or CSV: account_id, whatif_id, instrument_id, quantity; optional "
            "netting_set.",
        ),
    ],
    model: commands.OneModel = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the answers: .parquet or .csv.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of answers.")
    ] = False,
    allow_new: Annotated[
        bool, typer.Option("--allow-new", help="Accounts that the run does not have start empty.")
    ] = False,
    backend: commands.BackendName = "auto",
    strict: commands.Strict = False,
    as_json: commands.AsJson = False,
) -> None:
    """Show what trades would change: requirement before and after, status after.

    Trades of one whatif_id and account are tried together, at the mark, on the account as it is in
    the run; nothing is booked. The inputs are read again and must not have changed since the run.
    """
    with commands.errors():
        if out is not None:
            commands.check_file(out, overwrite)
        table = read_table(trades, "trades", TRADE_COLUMNS, TRADE_OPTIONAL)
        answers = _answers(folder, table, model, allow_new, backend)
        if out is not None:
            commands.write_file(answers.table, out)
    if as_json:
        both = {"answers": answers.table.to_dicts(), "failures": answers.failures.to_dicts()}
        commands.print_json(both)
    else:
        show(answers)
    raise typer.Exit(_exit_code(answers, strict))


def show(answers: Answers) -> None:
    """The largest changes first, then what failed."""
    table = answers.table.sort(
        pl.col("change").abs(), descending=True, nulls_last=True, maintain_order=True
    )
    grid = Grid(title="What-if", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in table.columns:
        right = name in _AMOUNTS
        grid.add_column(name.replace("_", " "), justify="right" if right else "left", no_wrap=right)
    for row in table.head(_SHOWN).iter_rows(named=True):
        grid.add_row(*(_cell(name, value) for name, value in row.items()))
    Console().print(grid)
    if len(table) > _SHOWN:
        more = len(table) - _SHOWN
        console.say(f"{more:,} more with smaller changes or none; --out or --json has all")
    console.show_failures(answers.failures)


def _answers(
    folder: Path, table: Table, model: str | None, allow_new: bool, backend: str
) -> Answers:
    """Only the accounts that are asked about are made resident."""
    loaded, accounts = read_run(folder)
    among = table.frame["account_id"].cast(pl.String)
    asked = WhatIf(loaded, backend, model=model, accounts=accounts, among=among)
    return asked.ask(table, allow_new=allow_new)


def _exit_code(answers: Answers, strict: bool) -> commands.Exit:
    if answers.table["before"].is_null().all():
        commands.complain("nothing computed: no what-if could be answered; see the failures")
        return commands.Exit.NOTHING_COMPUTED
    failed = strict and len(answers.failures)
    return commands.Exit.FAILED_ROWS if failed else commands.Exit.DONE


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in _AMOUNTS:
        return f"{value:,.2f}"
    return escape(("yes" if value else "no") if isinstance(value, bool) else str(value))
