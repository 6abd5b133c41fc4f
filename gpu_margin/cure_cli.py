"""The command `gpu-margin cure`: an account in, the cheapest way out of its deficit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpu_margin import commands, console
from gpu_margin.curing.finished import Cures, cure_account
from gpu_margin.curing.neutral import Neutral
from gpu_margin.curing.planning import Cure, CureParameters
from gpu_margin.failures import InputError

_SAID = {
    "fine": "nothing to do",
    "cured": "cured",
    "infeasible": "no cure",
    "unfinished": "no plan found",
}
_DIGITS = {"quantity": "g", "trade": "+g", "after": "g"}


def cure(
    folder: commands.Results,
    account: commands.AccountId,
    target: Annotated[
        float, typer.Option(min=1e-9, help="Most initial margin / collateral afterwards.")
    ] = 1.0,
    cost: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Parquet or CSV: instrument_id, cost per contract; optional lot, tradable, limit. "
            "What is listed and not held may be bought and sold as a hedge.",
        ),
    ] = None,
    hedges: Annotated[
        bool,
        typer.Option("--hedges", help="Trade any spot, future or perpetual on the same factors."),
    ] = False,
    model: commands.OneModel = None,
    gap: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="Most above the least cost, relative.")
    ] = 1e-6,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time for each plan.")] = 30.0,
    as_json: commands.AsJson = False,
) -> None:
    """Show the cheapest trades that bring an account's margin under its collateral.

    By default positions are reduced only, at the mark, and a contract costs its value. Each netting
    set is cured by its own collateral, the worst first, and every plan is recomputed. The inputs
    are read again and must not have changed since the run. Exits with 1 where a set has no cure.
    """
    parameters = CureParameters(target=target, hedges=hedges, gap=gap, seconds=seconds)
    with commands.errors():
        found = cure_account(folder, account, parameters, cost, model)
        if not found.plans:
            raise InputError(f"account {account!r} has no requirement that is known: see explain")
    if as_json:
        commands.print_json(cures_dict(found))
    else:
        show(found)
    if any(plan.plan.status in ("infeasible", "unfinished") for plan in found.plans):
        raise typer.Exit(commands.Exit.FAILED_ROWS)


def cures_dict(found: Cures) -> dict[str, Any]:
    """Plans as plain lists and dicts."""
    unknown = [{"netting_set": name, "model": model} for name, model in found.unknown]
    return {
        "plans": [cure_dict(plan) for plan in found.plans],
        "unknown": unknown,
        "failures": found.failures.to_dicts(),
    }


def cure_dict(cure: Cure) -> dict[str, Any]:
    """A cure as plain lists and dicts."""
    plan = {
        name: getattr(cure.plan, name)
        for name in (
            *("status", "reason", "cost", "gap", "verified", "requirement_before"),
            *("requirement_after", "value_before", "value_after", "utilisation_after"),
        )
    }
    left = cure.neutral
    residual = None if left is None else {**asdict(left), **_tables(left)}
    return {
        "account": cure.account,
        "netting_set": cure.netting_set,
        "model": cure.model,
        "currency": cure.currency,
        "target": cure.target,
        **plan,
        "trades": cure.trades.to_dicts(),
        "delta_neutral": residual,
        "notes": list(cure.notes),
    }


def _tables(left: Neutral) -> dict[str, Any]:
    return {"greeks": left.greeks.to_dicts(), "basis": left.basis.to_dicts()}


def show(found: Cures) -> None:
    """All plans, then what is not known and what failed."""
    for plan in found.plans:
        show_plan(plan)
    for name, model in found.unknown:
        console.say(f"\nNetting set {name}, model {model}: its requirement is not known")
    console.show_failures(found.failures)


def show_plan(cure: Cure) -> None:
    """A plan, and what is left of a book without a direction."""
    plan = cure.plan
    console.say(f"\nAccount {cure.account}, netting set {cure.netting_set}, model {cure.model}")
    console.say(f"  {_SAID[plan.status]}{': ' if plan.reason else ''}{plan.reason}")
    _figure("initial margin", plan.requirement_before, plan.requirement_after, cure.currency)
    _figure("collateral", plan.value_before, plan.value_after, cure.currency)
    if plan.status == "cured":
        used = plan.utilisation_after or 0.0
        console.say(f"  utilisation {used:.6f}, target {cure.target:g}, recomputed")
        console.say(
            f"  cost {plan.cost:,.2f} {cure.currency}, at most {plan.gap or 0.0:.1e} of it "
            "above the least"
        )
        _print("Trades", cure.trades)
    if cure.neutral is not None:
        _show_neutral(cure.neutral, cure.currency)
    for note in cure.notes:
        console.say(f"  note: {note}")


def _figure(name: str, before: float, after: float, currency: str) -> None:
    later = "" if after == before else f" -> {after:,.2f}"
    console.say(f"  {name:<16}{before:>20,.2f}{later} {currency}")


def _show_neutral(left: Neutral, currency: str) -> None:
    console.say("  delta-neutral: what is left is not direction")
    _print(f"Residual greeks, {currency} (gamma per +1%, vega per point)", left.greeks)
    _print(f"Basis: what offsets what, {currency}", left.basis)
    difference = left.requirement - left.uncorrelated
    console.say(
        f"  correlation: factors without it would require {left.uncorrelated:,.2f} "
        f"{currency}; it adds {difference:+,.2f}"
    )


def _print(title: str, frame: pl.DataFrame) -> None:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name, kind in frame.schema.items():
        right = kind.is_numeric()
        table.add_column(
            name.replace("_", " "), justify="right" if right else "left", no_wrap=right
        )
    for row in frame.iter_rows(named=True):
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    Console(width=max(Console().width, 110)).print(table)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:{_DIGITS.get(name, ',.2f')}}"
    return escape(str(value))
